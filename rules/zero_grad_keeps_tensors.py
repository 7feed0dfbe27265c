"""`zero_grad(set_to_none=False)`, which keeps every gradient tensor to fill it with zeros.

## What it does

Finds `optimizer.zero_grad(set_to_none=False)` and `model.zero_grad(False)` with the literal.

Silent where the file reads `.grad` itself (it may count on a tensor being there), where CUDA graphs replay fixed
addresses, and where the value is a variable.

## Why is this bad

All gradients stay allocated during the forward pass, which is when activations need the memory; each is written with
zeros and read again to be added to. With `None`, the default since PyTorch 2.0, the memory is free until backward, and
the first gradient is stored instead of added.

## Example

```python
optimizer.zero_grad(set_to_none=False)
```

Use instead:

```python
optimizer.zero_grad()
```

## Fix safety

Unsafe: a parameter that gets no gradient in a step is skipped by the optimizer, where with zeros it would still be
moved by momentum and weight decay; code elsewhere that reads `.grad` must expect `None`.

## Verified by

`fixtures/zero_grad_keeps_tensors/run.py`: bitwise equal parameters, fewer bytes alive at the peak.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Severity
from torchlint.edits import remove_argument
from torchlint.nodes import argument, literal
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Kind

RULE = Rule(
    "TL604",
    Category.MEMORY,
    Severity.WARNING,
    triggers=(r"\.zero_grad\(\s*(set_to_none\s*=\s*)?False",),
    requires=(r"\.backward\(",),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

_NEEDS_TENSORS = re.compile(r"(?<!autograd)\.grad\b|CUDAGraph|cuda\.graph\b|make_graphed_callables")


@RULE.on
def check(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    if not isinstance(call.func, cst.Attribute) or call.func.attr.value != "zero_grad":
        return
    given = argument(call, "set_to_none", 0)
    if given is None or literal(given.value) is not False:
        return
    owner = ctx.sem.value(call.func.value)
    if owner.kind not in (Kind.OPTIMIZER, Kind.MODULE) or ctx.sem.callee(call) is not None:
        return
    if ctx.file.mentions(_NEEDS_TENSORS):
        return
    if ctx.torch_version is not None and ctx.torch_version < (2, 0):
        do, edit = "pass `set_to_none=True`", Edit(*ctx.file.span(given), "set_to_none=True")
    else:
        do, edit = "leave `set_to_none=False` out", remove_argument(ctx.file, call, given)
    yield Finding(
        call,
        f"`{ctx.file.code(call.func)}` fills the gradients with zeros",
        "they occupy memory during the forward pass, and the first gradient is added instead of stored",
        do,
        unsafe("let go of the gradients", edit),
    )
