"""Hoists a call with constant arguments out of its loop, also where it draws random numbers.

A wrong rule, made for the verifier's trial by `programs.py`: its fix must be refused. Never shipped.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.rule import Category, Context, Finding, Rule, safe

RULE = Rule(
    "BAD003",
    Category.TRAINING,
    Severity.WARNING,
    triggers=(r"\bz = torch\.randn\(",),
    since="0.1",
    fixes=(Applicability.SAFE,),
)


@RULE.on
def check(assign: cst.Assign, context: Context) -> Iterator[Finding]:
    line = context.file.statement(assign)
    loop = context.file.enclosing(assign, cst.For)
    code = context.file.code(assign)
    if loop is not None and code.startswith("z = torch.randn("):
        fix = safe("Hoist it", context.file.insert_before(loop, code), context.file.delete(line))
        yield Finding(assign, "this call is the same in every turn", "it is made anew each time", "hoist it", fix)
