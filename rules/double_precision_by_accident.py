"""A model in double precision on the GPU.

## What it does

Finds `model.double()`, `model.to(torch.float64)` and `torch.set_default_dtype(torch.float64)` in files that train on a
GPU.

## Why is this bad

It is the quickest way past "expected Float but found Double", which says that NumPy's float64 has reached the model.
Consumer and inference GPUs compute float64 at a 32nd to a 64th of the speed of float32, tensor cores are not used, and
everything takes twice the memory.

## Example

```python
model = Net().cuda().double()
for x, y in loader:
    loss = loss_fn(model(x.double().cuda()), y.cuda())
```

Use instead:

```python
model = Net().cuda()
for x, y in loader:
    loss = loss_fn(model(x.float().cuda()), y.cuda())
```

Better still, make the data float32 where it is made: `array.astype(np.float32)`, or
`torch.as_tensor(array, dtype=torch.float32)`.

Silent where double precision is asked for as an option, in gradient checks and tests, and in files that speak of
numerics which need it (solvers, Gaussian processes, LBFGS). Off by default, because only the author knows whether the
precision is needed.

## Fix safety

No fix: the data must follow.

## Verified by

Nothing is rewritten, so nothing is run.

## References

- <https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#arithmetic-instructions>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import argument
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Kind
from torchlint.semantics.blocks import always

RULE = Rule(
    "TL708",
    Category.PRECISION,
    Severity.WARNING,
    triggers=(r"\.double\(", r"\bfloat64\b", r"\bset_default_dtype\("),
    requires=(r"\.backward\(", r"\.cuda\(|\bcuda\b", r"\.double\(|\bfloat64\b|\btorch\.double\b"),
    since="0.2",
    default=False,
)

_NEEDED = re.compile(
    r"gradcheck|gradgradcheck|LBFGS|odeint|cholesky|gpytorch|eigh?\(|\bsvd\(|\bGP\b|[Gg]aussian ?[Pp]rocess"
    r"|Newton|hessian"
)
_DOUBLE = ("torch.float64", "torch.double")


@RULE.on
def check(call: cst.Call, context: Context) -> Iterator[Finding]:
    if not isinstance(call.func, cst.Attribute) or call.func.attr.value not in ("double", "to", "set_default_dtype"):
        return
    what = _doubled(call, context)
    if what is None or context.file.mentions(_NEEDED) or _is_optional(call, context):
        return
    base = context.file.path.replace("\\", "/").rpartition("/")[2]
    if base.startswith("test_") or base.endswith("_test.py"):
        return
    yield Finding(
        call,
        what,
        "most GPUs compute float64 at a 32nd of the speed of float32 or less, in twice the memory",
        "make the data float32 instead",
    )


def _doubled(call: cst.Call, context: Context) -> str | None:
    """What is put into double precision, if the call does that."""
    assert isinstance(call.func, cst.Attribute)
    sem, method = context.sem, call.func.attr.value
    if method == "set_default_dtype":
        is_torch = sem.qualified(call.func) == "torch.set_default_dtype"
        given = argument(call, "d", 0)
        return "every new tensor is in double precision" if is_torch and _is_double(given, context) else None
    if sem.value(call.func.value).kind is not Kind.MODULE:
        return None
    if method == "double" and not call.args:
        return "the model is put into double precision"
    dtype = argument(call, "dtype") or next((arg for arg in call.args if _is_double(arg, context)), None)
    return "the model is put into double precision" if method == "to" and _is_double(dtype, context) else None


def _is_double(arg: cst.Arg | None, context: Context) -> bool:
    return arg is not None and (context.sem.qualified(arg.value) or "") in _DOUBLE


def _is_optional(call: cst.Call, context: Context) -> bool:
    """Whether a setting asks for it."""
    around = context.file.ancestors(call)
    return any(isinstance(a, cst.IfExp) or (isinstance(a, cst.If) and not always(a)) for a in around)
