"""Calls a score once for the whole batch: the ratio of the sums is not the mean of the ratios.

A wrong rule, made for the verifier's trial by `programs.py`: its fix must be refused. Never shipped.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.rule import Category, Context, Finding, Rule, safe

RULE = Rule(
    "BAD005",
    Category.VECTORISATION,
    Severity.WARNING,
    triggers=(r"\bzip\(preds",),
    since="0.1",
    fixes=(Applicability.SAFE,),
)


@RULE.on
def check(call: cst.Call, context: Context) -> Iterator[Finding]:
    if context.file.code(call) == "torch.stack([dice_coeff(p, t) for p, t in zip(preds, targets)]).mean()":
        fix = safe("Call it once", context.file.replace(call, "dice_coeff(preds, targets)"))
        yield Finding(call, "`dice_coeff` is called per sample", "each call is small", "call it for the batch", fix)
