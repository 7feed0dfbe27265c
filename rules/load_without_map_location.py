"""A checkpoint that is loaded where its tensors lay, in code that also runs without a GPU.

## What it does

Reports `torch.load` without `map_location` whose result goes into `load_state_dict`, in files that ask
`torch.cuda.is_available()` and so mean to run without a GPU as well.

## Why is this bad

Tensors return to the device from which they were saved. A checkpoint of a GPU run cannot be loaded on a machine without
one; on a machine with several all processes fill the GPU of the one that saved, and the copy stays beside the model's
own parameters until it is freed.

## Example

```python
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model.load_state_dict(torch.load(path))
```

Use instead:

```python
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model.load_state_dict(torch.load(path, map_location="cpu"))
```

`load_state_dict` copies to wherever the model's parameters are.

Off by default: whether a GPU is ever missing is not seen in the code.

Not reported: loads of anything but a state_dict, calls with `**kwargs` or under a test of the device, files that the
same module saves, tests, and modules that never ask for a GPU.

## Fix safety

Unsafe: the tensors are on the CPU until they are copied, which others may read before.

## Verified by

`fixtures/load_without_map_location/run.py`: the same parameters in the model, and every tensor of the checkpoint passes
through the CPU.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.load.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.edits import add_argument
from torchlint.nodes import argument, dotted, find, has_star
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics.unit_tests import holds_unit_tests
from torchlint.spelling import spelled

RULE = Rule(
    "TL905",
    Category.REPRODUCIBILITY,
    Severity.INFO,
    triggers=(r"\bt\w*\.load\s*\(",),
    requires=(r"\bload_state_dict\b", r"\bcuda\.is_available\b"),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
    default=False,
)

_DEVICE = re.compile(r"cuda|gpu|device", re.I)


@RULE.on
def check(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    short = dotted(call.func) or ""
    if ctx.sem.qualified(call.func) != "torch.load" or not re.match(r"t\w*\.load$", short):
        return
    if "cuda.is_available" not in ctx.file.text:
        return
    if argument(call, "map_location", 1) is not None or has_star(call) or holds_unit_tests(ctx.sem):
        return
    if not _is_state(call, ctx) or _with_gpu(call, ctx) or _is_own_file(call, ctx):
        return
    yield Finding(
        call,
        f"`{short}` without `map_location`",
        "tensors that were saved on a GPU cannot be loaded where there is none",
        'pass `map_location="cpu"`: `load_state_dict` copies to where the model is',
        unsafe("Load to the CPU", add_argument(ctx.file, call, 'map_location="cpu"')),
    )


def _with_gpu(call: cst.Call, ctx: Context) -> bool:
    """Whether the call stands under a test of the device."""
    tests = (a.test for a in ctx.file.ancestors(call) if isinstance(a, (cst.If, cst.IfExp)))
    return any(_DEVICE.search(spelled(test)) for test in tests)


def _is_own_file(call: cst.Call, ctx: Context) -> bool:
    """Whether this file saves under the same name: then it is often the same run that loads."""
    path = argument(call, "f", 0)
    if path is None:
        return True
    name = re.escape(ctx.file.code(path.value))
    return re.search(rf"\.save\([^\n]*{name}\s*[,)]", ctx.file.text) is not None


def _is_state(call: cst.Call, ctx: Context) -> bool:
    """Whether the loaded thing, or an item of it, is given to `load_state_dict` and to nothing else."""
    node: cst.CSTNode = call
    parent = ctx.file.parent(node)
    while isinstance(parent, cst.Subscript) and parent.value is node:
        node, parent = parent, ctx.file.parent(parent)
    if isinstance(parent, cst.Arg):
        return _loads(ctx.file.parent(parent))
    if not isinstance(parent, cst.Assign) or len(parent.targets) != 1:
        return False
    name = parent.targets[0].target
    if not isinstance(name, cst.Name):
        return False
    uses = [n for n in find(ctx.sem.function(call).body, cst.Name) if n.value == name.value and n is not name]
    loaded = False
    for use in uses:
        node, parent = use, ctx.file.parent(use)
        indexed = isinstance(parent, cst.Subscript) and parent.value is node
        while isinstance(parent, cst.Subscript) and parent.value is node:
            node, parent = parent, ctx.file.parent(parent)
        if isinstance(parent, cst.Arg) and _loads(ctx.file.parent(parent)):
            loaded = True
        elif not indexed:
            return False  # given to others, who may mind where it is
    return loaded


def _loads(call: cst.CSTNode | None) -> bool:
    return (
        isinstance(call, cst.Call)
        and isinstance(call.func, cst.Attribute)
        and call.func.attr.value == "load_state_dict"
    )
