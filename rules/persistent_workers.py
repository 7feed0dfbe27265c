"""A DataLoader that starts its worker processes anew in every epoch.

## What it does

Finds loaders with workers and without `persistent_workers` that this file goes over again and again: the loop over the
loader stands in a loop over epochs, or in a function that is called in one.

## Why is this bad

Each `for` over the loader starts its workers, and ends them behind the last batch. Every epoch begins with forking (or,
where processes are spawned, with importing everything and pickling the dataset) and with an empty queue, and whatever
the dataset had cached is lost.

## Example

```python
loader = DataLoader(dataset, batch_size=64, shuffle=True, num_workers=4)
for epoch in range(90):
    for images, labels in loader:
        ...
```

Use instead:

```python
loader = DataLoader(dataset, batch_size=64, shuffle=True, num_workers=4, persistent_workers=True)
```

A note and no warning: long epochs hardly feel it, and the workers of a validation loader then hold their memory while
training goes on. Silent where the dataset is changed between epochs (workers that stay keep the old copy), where the
number of workers is 0 or defaults to 0, where `persistent_workers` is given in any form, and before torch 1.7.

## Fix safety

Unsafe: the workers' random states are drawn once and not in every epoch, so the order and the augmentations of the
second epoch and of those behind it are others. Where the number of workers is not a constant, the fix asks for it,
because `persistent_workers=True` without workers is an error.

## Verified by

`fixtures/persistent_workers/run.py`: the process ids that load the batches are the same in every epoch.

## References

- <https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.DataLoader>
- <https://github.com/pytorch/pytorch/pull/35795>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Severity
from torchlint.edits import add_argument
from torchlint.nodes import argument, dotted, has_star, walk
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import LoaderCall
from torchlint.semantics.loading import constant, is_unit_test, loader_loops, repeats, setting, works_in_processes
from torchlint.semantics.loops import Loop

RULE = Rule(
    "TL303",
    Category.DATA,
    Severity.INFO,
    triggers=(r"DataLoader\b", r"[lL]oader\b.*:\s*(#.*)?$", r"^\s*for .*epoch", r"^\s*while "),
    requires=(r"DataLoader\s*\(|\bDataLoader\s+as\b", r"num_workers"),
    since="0.2",
    fixes=(Applicability.UNSAFE,),
)


@RULE.on
def check(loader: LoaderCall, ctx: Context) -> Iterator[Finding]:
    if ctx.torch_version is not None and ctx.torch_version < (1, 7):
        return
    sem = ctx.sem
    workers = setting(sem, loader, "num_workers")
    if not workers.given or works_in_processes(sem, loader) is False or workers.node is None:
        return
    if not setting(sem, loader, "persistent_workers").absent or is_unit_test(sem, loader):
        return
    if works_in_processes(sem, loader) is None and _defaults_to_none(workers.node, ctx):
        return
    mine = [loop for loop in loader_loops(sem) if loop.loader is loader.node]
    again = [outer for loop in mine for outer in repeats(sem, loop) if _several_turns(outer, ctx)]
    if not again or any(_changes_dataset(outer, loader, ctx) for outer in again):
        return
    value = _value(workers.node, loader, ctx)
    yield Finding(
        loader.node,
        "this DataLoader starts its workers anew in every epoch",
        "each epoch begins with forking, an empty queue and a cold dataset",
        f"pass `persistent_workers={value}`" if value else "pass `persistent_workers=True` where there are workers",
        _fix(value, loader, ctx),
    )


def _several_turns(loop: Loop, ctx: Context) -> bool:
    """Whether the loop is not known to run once."""
    if isinstance(loop, cst.While) or not isinstance(loop.iter, cst.Call) or dotted(loop.iter.func) != "range":
        return True
    return not (len(loop.iter.args) == 1 and constant(ctx.sem, loop.iter.args[0].value) in (0, 1))


def _defaults_to_none(node: cst.BaseExpression, ctx: Context) -> bool:
    """Whether a command line option of that name, or a parameter, has the default 0."""
    name = (dotted(node) or "").rpartition(".")[2]
    if not name:
        return False
    option = re.escape(name).replace("_", "[_-]")
    if re.search(rf"--{option}[\"'][^)]*default\s*=\s*0\b|\b{name}\s*(:\s*\w+\s*)?=\s*0\b", ctx.file.text):
        return True
    return re.search(rf"\b{name}[\"']?\s*[\]:=]+\s*0\b", ctx.file.text) is not None


def _changes_dataset(loop: Loop, loader: LoaderCall, ctx: Context) -> bool:
    """Whether a turn of the loop changes the dataset, of which persistent workers would keep their first copy."""
    dataset = argument(loader.node, "dataset", 0)
    name = dotted(dataset.value) if dataset is not None else None
    holders = {f"{t}.dataset" for t in loader.targets} | ({name} if name else set())
    for node in walk(loop.body):
        if isinstance(node, cst.AssignTarget):
            item = node.target.value if isinstance(node.target, cst.Subscript) else node.target
            target = dotted(item) or ""
        elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
            target = dotted(node.func) or ""
        else:
            continue
        if ".dataset." in f"{target}." or any(target == h or target.startswith(f"{h}.") for h in holders):
            return True
    return False


def _value(workers: cst.BaseExpression, loader: LoaderCall, ctx: Context) -> str | None:
    """What to pass: True, or the question whether there are workers; None where it cannot be asked here."""
    if works_in_processes(ctx.sem, loader):
        return "True"
    passed = argument(loader.node, "num_workers")
    if passed is None or passed.value is not workers or dotted(workers) is None:
        return None
    return f"{dotted(workers)} > 0"


def _fix(value: str | None, loader: LoaderCall, ctx: Context) -> Fix | None:
    if value is None or has_star(loader.node, "*"):
        return None
    return unsafe("Keep the workers", add_argument(ctx.file, loader.node, f"persistent_workers={value}"))
