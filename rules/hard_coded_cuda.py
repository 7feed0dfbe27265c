"""A tensor or a model is sent to CUDA without asking whether there is any.

## What it does

Reports the first `.cuda()`, `.to("cuda")`, `device="cuda"` or `torch.device("cuda")` of a file that never asks
`torch.cuda.is_available()`, and says how many more there are.

## Why is this bad

The code cannot run on a laptop, in continuous integration, or on an accelerator of another make, and a test of it needs
a GPU. One device that is chosen once and passed on costs nothing.

## Example

```python
model = Net().cuda()
x = x.to("cuda:0")
```

Use instead:

```python
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = Net().to(device)
x = x.to(device)
```

Off by default, since code for one machine may well be written for it. Nothing is said under a test that mentions CUDA,
GPUs or the device, of a parameter's default, in files that choose a CUDA device per process (`torch.cuda.set_device`,
NCCL, `LOCAL_RANK`) and in files with CUDA or Triton kernels.

## Fix safety

There is no fix: where the device is chosen and how it is passed on is the author's choice.

## Verified by

`fixtures/hard_coded_cuda/`: bad.py is reported, its near-misses in ok.py are not.

## References

- <https://docs.pytorch.org/docs/stable/notes/cuda.html#device-agnostic-code>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import argument, dotted, find, literal
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Kind

RULE = Rule(
    "TL407",
    Category.DEVICE,
    Severity.INFO,
    triggers=(r"\.cuda\(", r"[\"']cuda(?::\d+)?[\"']"),
    requires=(r"\btorch\b",),
    since="0.1",
    default=False,
)

_ASKS = re.compile(
    r"is_available\(|cuda\.set_device|nccl|local_rank|\btriton\b|load_inline|cpp_extension|skipif|requires_gpu|use_cuda",
    re.I,
)
_TESTED = re.compile(r"cuda|gpu|device", re.I)
# Calls whose "cuda" names a backend and not a place.
_BACKENDS = re.compile(r"autocast|GradScaler|Stream$|Event$|^torch\.(backends|cuda|compile|set_)")


@RULE.on
def check(module: cst.Module, context: Context) -> Iterator[Finding]:
    if context.file.mentions(_ASKS):
        return
    found = [(call, place) for call in find(module, cst.Call) if (place := _hard_coded(call, context)) is not None]
    found = [(call, place) for call, place in found if not _is_excused(call, context)]
    if not found:
        return
    call, place = found[0]
    others = f" (and {len(found) - 1} more in this file)" if len(found) > 1 else ""
    yield Finding(
        call,
        f"{place} needs a CUDA device{others}",
        "the code runs on no other machine, and nothing asks whether there is one",
        'choose it once: `device = torch.device("cuda" if torch.cuda.is_available() else "cpu")`',
    )


def _hard_coded(call: cst.Call, context: Context) -> str | None:
    """How the call names a CUDA device, if it does by itself."""
    func = call.func
    name = context.sem.qualified(func) or ""
    if _BACKENDS.search(name):
        return None
    if isinstance(func, cst.Attribute) and func.attr.value == "cuda":
        if call.args and not isinstance(literal(call.args[0].value), int):
            return None
        return "`.cuda()`" if context.sem.value(func.value).kind is not Kind.OBJECT and not name else None
    if isinstance(func, cst.Attribute) and func.attr.value == "to" and call.args and _is_cuda(call.args[0].value):
        return '`.to("cuda")`'
    if name == "torch.device" and call.args and _is_cuda(call.args[0].value):
        if not isinstance(context.file.parent(call), (cst.Assign, cst.AnnAssign)):
            return None  # a device alone needs no GPU, nor does comparing with one
        return '`torch.device("cuda")`'
    device = argument(call, "device")
    if device is not None and _is_cuda(device.value) and name.startswith("torch."):
        return f'`{dotted(func) or name}(device="cuda")`'
    return None


def _is_cuda(node: cst.BaseExpression) -> bool:
    text = literal(node)
    return isinstance(text, str) and re.fullmatch(r"cuda(:\d+)?", text) is not None


def _is_excused(call: cst.Call, context: Context) -> bool:
    """Whether a condition around the call has to do with the device, or the call is a default."""
    below: cst.CSTNode = call
    for ancestor in context.file.ancestors(call):
        if isinstance(ancestor, (cst.If, cst.IfExp, cst.While)) and _TESTED.search(context.file.code(ancestor.test)):
            return True
        if isinstance(ancestor, (cst.Param, cst.Comparison, cst.Assert)):
            return True
        if isinstance(ancestor, cst.FunctionDef) and below is not ancestor.body:
            return True
        below = ancestor
    return False
