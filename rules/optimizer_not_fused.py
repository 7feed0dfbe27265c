"""An Adam or AdamW is made without its fused kernel.

## What it does
Reports `torch.optim.Adam(...)` and `torch.optim.AdamW(...)` without `fused=`, `foreach=`, `capturable=` or
`differentiable=`, where the parameters are a module's. Off by default: how much a step weighs depends on the model.

## Why is this bad
The default implementation updates parameters in groups of operations, each of which reads and writes them all again.
The fused kernel does the whole update in one pass: several times less memory traffic per step, on CUDA and, since
PyTorch 2.4, on the CPU too.

## Example
```python
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
```
Use instead:
```python
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
```
Before PyTorch 2.4, where the fused kernel is for CUDA only, nothing is reported unless `target-device = "cuda"`;
before 2.0 nothing is. Neither are sparse or complex parameters' optimizers (SparseAdam), and files that use MPS or XLA.

## Fix safety
Unsafe: the same update in another order of operations, so weights differ by rounding.

## Verified by
The same weights up to rounding after training, and that the fused kernel runs.

## References
- https://pytorch.org/docs/stable/generated/torch.optim.AdamW.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.edits import add_argument
from torchlint.nodes import argument, find, has_star
from torchlint.rule import Category, Context, Finding, Rule, unsafe

RULE = Rule(
    "TL705",
    Category.PRECISION,
    Severity.INFO,
    triggers=(r"\.parameters\(",),
    requires=(r"\bAdamW?\b",),
    since="0.2",
    fixes=(Applicability.UNSAFE,),
    default=False,
)

_FUSED = frozenset(("torch.optim.Adam", "torch.optim.AdamW"))
_CHOICES = ("fused", "foreach", "capturable", "differentiable")
_ELSEWHERE = re.compile(
    r"\bmps\b|torch_xla|\bxla|sparse=True|SparseAdam|complex64|complex128|deepspeed|\bhigher\b", re.I
)


@RULE.on
def check(call: cst.Call, context: Context) -> Iterator[Finding]:
    if context.sem.qualified(call.func) not in _FUSED or has_star(call):
        return
    version = context.torch_version or (99, 0)
    if version < (2, 0) or (version < (2, 4) and context.target_device != "cuda"):
        return
    if any(argument(call, choice) is not None for choice in _CHOICES) or context.file.mentions(_ELSEWHERE):
        return
    if not call.args or not any(_gives_parameters(n) for n in find(call.args[0].value, cst.Call)):
        return  # a latent vector, a pixel: too small to matter
    name = context.file.code(call.func)
    yield Finding(
        call,
        f"`{name}` steps without its fused kernel",
        "each step reads and writes all parameters several times over",
        "pass `fused=True`",
        fix=unsafe("Pass fused=True", add_argument(context.file, call, "fused=True")),
    )


def _gives_parameters(call: cst.Call) -> bool:
    return isinstance(call.func, cst.Attribute) and call.func.attr.value in ("parameters", "named_parameters")
