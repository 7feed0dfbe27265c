"""Takes out `model.eval()`, as if switching autograd off did the same: dropout and batch norm say otherwise.

A wrong rule, made for the verifier's trial by `programs.py`: its fix must be refused. Never shipped.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.rule import Category, Context, Finding, Rule, safe

RULE = Rule(
    "BAD001",
    Category.EVALUATION,
    Severity.WARNING,
    triggers=(r"\.eval\(\)",),
    since="0.1",
    fixes=(Applicability.SAFE,),
)


@RULE.on
def check(statement: cst.SimpleStatementLine, context: Context) -> Iterator[Finding]:
    line = context.file.code(statement).strip()
    if line.startswith("model.eval()"):
        fix = safe("Take it out", context.file.delete(statement))
        yield Finding(statement, "`eval()` is redundant here", "autograd is off anyway", "take it out", fix)
