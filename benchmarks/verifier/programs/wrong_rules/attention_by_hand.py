"""Replaces attention by the fused kernel and forgets the causal mask.

A wrong rule, made for the verifier's trial by `programs.py`: its fix must be refused. Never shipped.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.rule import Category, Context, Finding, Rule, safe

RULE = Rule(
    "BAD004",
    Category.PRECISION,
    Severity.WARNING,
    triggers=(r"F\.softmax\(att\b",),
    since="0.1",
    fixes=(Applicability.SAFE,),
)


@RULE.on
def check(product: cst.BinaryOperation, context: Context) -> Iterator[Finding]:
    if context.file.code(product) == "F.softmax(att, dim=-1) @ v":
        fix = safe("Use it", context.file.replace(product, "F.scaled_dot_product_attention(q, k, v)"))
        yield Finding(product, "attention by hand", "it keeps all weights in memory", "use the fused kernel", fix)
