"""Writes log_softmax out with an epsilon "for stability", which moves every loss by far more than rounding does.

A wrong rule, made for the verifier's trial by `programs.py`: its fix must be refused. Never shipped.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.nodes import dotted
from torchlint.rule import Category, Context, Finding, Rule, safe

RULE = Rule(
    "BAD002",
    Category.PRECISION,
    Severity.WARNING,
    triggers=(r"\blog_softmax\(",),
    since="0.1",
    fixes=(Applicability.SAFE,),
)


@RULE.on
def check(call: cst.Call, context: Context) -> Iterator[Finding]:
    if dotted(call.func) == "F.log_softmax":
        x, dim = (context.file.code(a.value) for a in call.args[:2])
        edit = context.file.replace(call, f"torch.log(F.softmax({x}, dim={dim}) + 1e-6)")
        fix = safe("Add an epsilon", edit)
        yield Finding(call, "`log_softmax` has no epsilon", "it may overflow", "add one", fix)
