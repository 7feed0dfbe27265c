"""Tensors made by the constructors of types: `torch.Tensor(…)`, `torch.FloatTensor(…)`, `torch.cuda.LongTensor(…)`.

## What it does

Reports calls of `torch.Tensor` and of the typed constructors with arguments that tell what is meant: sizes, or data.

Off by default: such calls work, and old code has many of them.

## Why is this bad

One constructor does two things. `torch.Tensor(3)` is a tensor of three elements that nobody has set, and
`torch.Tensor([3])` is one of the value 3.0, an integer turned into a float. The typed constructors of CUDA are
deprecated since torch 2.1, and none of them knows of devices other than its own.

## Example

```python
weight = nn.Parameter(torch.Tensor(out_features, in_features))
labels = torch.LongTensor([0, 1, 1])
mask = torch.cuda.ByteTensor(n, n)
```

Use instead:

```python
weight = nn.Parameter(torch.empty(out_features, in_features))
labels = torch.tensor([0, 1, 1], dtype=torch.int64)
mask = torch.empty(n, n, dtype=torch.uint8, device="cuda")
```

Not reported: a single argument that may be a size as well as data, `isinstance` checks and annotations.

## Fix safety

Unsafe: memory that nobody has set holds other values, and data of odd kinds (storages, mixed lists) may be refused.

## Verified by

`fixtures/legacy_tensor_constructor/run.py`: the same shapes, values and dtypes.

## References

- <https://docs.pytorch.org/docs/stable/tensors.html>
- <https://docs.pytorch.org/docs/stable/generated/torch.tensor.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import torch_name
from torchlint.nodes import dotted, has_star, literal
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics.deprecations.shims import minds_version
from torchlint.semantics.kinds import Kind

RULE = Rule(
    "TL014",
    Category.FILES,
    Severity.INFO,
    triggers=(r"\bt\w*\.(?:cuda\.)?(?:Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)?Tensor\s*\((?!\s*\))",),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
    default=False,
)

_NAME = re.compile(r"^torch\.(cuda\.)?(\w*)Tensor$")
_DTYPES = {
    "": "",
    "Float": "torch.float32",
    "Double": "torch.float64",
    "Half": "torch.float16",
    "BFloat16": "torch.bfloat16",
    "Long": "torch.int64",
    "Int": "torch.int32",
    "Short": "torch.int16",
    "Char": "torch.int8",
    "Byte": "torch.uint8",
    "Bool": "torch.bool",
}


@RULE.on
def check(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    if not isinstance(call.func, cst.Attribute) or not call.func.attr.value.endswith("Tensor"):
        return
    match = _NAME.match(ctx.sem.qualified(call.func) or "")
    if match is None or match[2] not in _DTYPES or not (dotted(call.func) or "").startswith("t"):
        return
    if not call.args or has_star(call, "**") or any(a.keyword is not None for a in call.args):
        return
    sizes = _are_sizes(call, ctx)
    if sizes is None or minds_version(ctx.sem, call):
        return
    short = dotted(call.func)
    new = "torch.empty" if sizes else "torch.tensor"
    yield Finding(
        call,
        f"`{short}` {'with sizes gives memory that nobody has set' if sizes else 'of data'}",
        "the same constructor takes sizes and data, and the one for the other goes unnoticed",
        f"call `{new}`" + (f" with `dtype={_DTYPES[match[2]]}`" if match[2] else ""),
        _fix(call, new, _DTYPES[match[2]], match[1] is not None, ctx),
    )


def _are_sizes(call: cst.Call, ctx: Context) -> bool | None:
    """Whether the arguments are sizes (True) or data (False); None where they may be either."""
    if len(call.args) > 1 or call.args[0].star:
        return True
    only = call.args[0].value
    if type(literal(only)) is int:
        return True
    if isinstance(only, (cst.List, cst.ListComp, cst.Tuple)):
        return False
    value = ctx.sem.value(only)
    if value.kind is Kind.NUMBER and isinstance(only, cst.Call):
        return True if dotted(only.func) in ("len", "int") or _is_size(only) else None
    if isinstance(only, cst.Call) and _is_size(only):
        return True
    return False if value.kind is Kind.NDARRAY else None


def _is_size(node: cst.Call) -> bool:
    return isinstance(node.func, cst.Attribute) and node.func.attr.value in ("size", "numel") and bool(node.args)


def _fix(call: cst.Call, new: str, dtype: str, cuda: bool, ctx: Context) -> Fix | None:
    file = ctx.file
    if isinstance(call.args[0].value, cst.Tuple) and not call.args[0].value.lpar:
        return None
    spelled, imports = torch_name(file, ctx.sem, new, call)
    extra = []
    if dtype or new == "torch.tensor":
        extra.append(f"dtype={torch_name(file, ctx.sem, dtype or 'torch.float32', call)[0]}")
    if cuda:
        extra.append('device="cuda"')
    last = file.span(call.args[-1].value)[1]
    edits = [Edit(*file.span(call.func), spelled), *imports]
    if extra:
        edits.append(Edit(last, last, "".join(f", {text}" for text in extra)))
    return unsafe(f"Call {new}", *edits)
