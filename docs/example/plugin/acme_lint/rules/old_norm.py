"""A call of `torch.norm`, which is deprecated.

## What it does
Finds calls of `torch.norm`, whatever name torch was imported by.

## Why is this bad
PyTorch's documentation calls it deprecated and says that it may be removed.

## Example
```python
torch.norm(x)
```
Use instead:
```python
torch.linalg.vector_norm(x)
```

## Fix safety
Unsafe: sparse tensors have no `vector_norm`. Written for calls with one plain argument; others are left to the author.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.nodes import dotted

RULE = Rule(
    "ACME001",
    Category.PRECISION,
    Severity.WARNING,
    triggers=(r"\bnorm\(",),
    since="1.0",
    fixes=(Applicability.UNSAFE,),
)


@RULE.on
def check(call: cst.Call, context: Context) -> Iterator[Finding]:
    if context.sem.qualified(call.func) != "torch.norm":
        return
    fix = None
    plain = len(call.args) == 1 and not call.args[0].star and call.args[0].keyword is None
    if plain and dotted(call.func) == "torch.norm":
        fix = unsafe("write torch.linalg.vector_norm", context.file.replace(call.func, "torch.linalg.vector_norm"))
    yield Finding(
        call,
        "`torch.norm` is called",
        "it is deprecated and may be removed",
        "call `torch.linalg.vector_norm` or `torch.linalg.matrix_norm`",
        fix,
    )
