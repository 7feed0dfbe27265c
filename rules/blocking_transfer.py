"""A copy to the GPU that makes the host wait although the batch lies in pinned memory.

## What it does

Finds `.to(device)` and `.cuda()` of a batch, or of an item of it, without `non_blocking=True`, where the batch comes
from a `DataLoader` with `pin_memory`.

## Why is this bad

Pinned memory is what lets the copy run beside the host's and the GPU's other work. A blocking copy gives that up: the
host waits for every tensor of every batch before it may queue the next kernel.

## Example

```python
loader = DataLoader(dataset, batch_size=64, pin_memory=True)
for images, labels in loader:
    images, labels = images.cuda(), labels.to(device)
```

Use instead:

```python
for images, labels in loader:
    images, labels = images.cuda(non_blocking=True), labels.to(device, non_blocking=True)
```

Silent for modules, for tensors that are computed from the batch first (the result is not pinned), for copies to the
host, for loaders that do not pin, where the code has asked and there is no CUDA, and for loops that take one batch.

## Fix safety

Safe for loaders that collate with PyTorch's own function, whose batches hold tensors: kernels queued later wait for the
copy on the device. Unsafe with a `collate_fn`, because the batch may then be an object whose `.to` takes no
`non_blocking`.

## Verified by

`fixtures/blocking_transfer/run.py`: bitwise equal results; fewer blocking copies counted on remapped CUDA code.

## References

- <https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.edits import add_argument
from torchlint.nodes import argument, dotted, literal
from torchlint.rule import Category, Context, Finding, Rule, safe, unsafe
from torchlint.semantics import LoaderCall, Value
from torchlint.semantics.batches import batch_moves
from torchlint.semantics.transfers import may_be_cuda

RULE = Rule(
    "TL304",
    Category.DATA,
    Severity.WARNING,
    triggers=(r"\bpin_memory\b", r"\.to\s*\(", r"\.cuda\s*\("),
    requires=(r"\bpin_memory\b", r"\bDataLoader\b", r"\.to\s*\(|\.cuda\s*\("),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)


@RULE.on
def check(tree: cst.Module, ctx: Context) -> Iterator[Finding]:
    loaders = list(ctx.sem.objects(LoaderCall))
    if ctx.target_device == "cpu" or not any(_pins(loader) for loader in loaders):
        return
    for move in batch_moves(ctx.sem):
        if not move.direct or move.helper or not may_be_cuda(ctx.sem, move.device):
            continue
        if any(a.star for a in move.call.args) or _said(move.call):
            continue
        if _where_no_gpu(move.call, ctx) or _only_once(move.call, ctx):
            continue
        sources = _sources(move.loader, loaders)
        if not sources or not all(_pins(loader) for loader in sources):
            continue
        build = unsafe if any(_collates(loader) for loader in sources) else safe
        name = dotted(move.call.func.value) if isinstance(move.call.func, cst.Attribute) else None
        yield Finding(
            move.call,
            f"`{name}` is copied from pinned memory while the host waits"
            if name
            else "a pinned batch is copied while the host waits",
            "the copy could run beside the host's work",
            "pass `non_blocking=True`",
            build("pass `non_blocking=True`", add_argument(ctx.file, move.call, "non_blocking=True")),
        )


_OTHER_NAMES = frozenset(("device", "dtype", "other", "memory_format", "copy"))


def _said(call: cst.Call) -> bool:
    """Whether the call gives `non_blocking`: by name (once `async`), second of `.cuda`, or third of `.to`."""
    if any(a.keyword is not None and a.keyword.value not in _OTHER_NAMES for a in call.args):
        return True
    bare = isinstance(call.func, cst.Attribute) and call.func.attr.value == "cuda"
    return argument(call, "non_blocking", 1 if bare else 2) is not None


def _where_no_gpu(call: cst.Call, ctx: Context) -> bool:
    """Whether the move is in the `else` of a question for CUDA."""
    node: cst.CSTNode = call
    for outer in ctx.file.ancestors(call):
        if isinstance(outer, cst.If) and outer.orelse is node and "cuda" in ctx.file.code(outer.test):
            return not isinstance(outer.test, cst.UnaryOperation)
        node = outer
    return False


def _only_once(call: cst.Call, ctx: Context) -> bool:
    """Whether the loop takes one batch and ends: there is no next one to load meanwhile."""
    loop = next((a for a in ctx.file.ancestors(call) if isinstance(a, (cst.For, cst.While))), None)
    last = loop.body.body[-1] if loop is not None and loop.body.body else None
    return isinstance(last, cst.SimpleStatementLine) and isinstance(last.body[-1], cst.Break)


def _sources(value: Value, loaders: list[LoaderCall]) -> list[LoaderCall]:
    """The DataLoader calls that a loop may go over: the one it certainly does, else all of the file."""
    if isinstance(value.node, cst.Call):
        return [loader for loader in loaders if loader.node is value.node]
    return loaders


def _pins(loader: LoaderCall) -> bool:
    """Whether the loader pins where there is a GPU: any value but a constant that says no."""
    if loader.value.origin != "torch.utils.data.DataLoader" or "pin_memory" not in loader.given:
        return False
    given = loader.given["pin_memory"]
    return given is not None and literal(given) not in (False, None)


def _collates(loader: LoaderCall) -> bool:
    return "collate_fn" in loader.given or loader.open or len(loader.node.args) > 6
