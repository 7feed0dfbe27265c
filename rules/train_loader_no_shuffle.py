"""A training loader that gives the same order in every epoch.

## What it does

Finds `DataLoader(...)` without `shuffle`, sampler or batch sampler over whose batches this file trains, epoch after
epoch, where the dataset is known to be one of independent items: torchvision's, `TensorDataset`, an own map-style
dataset.

## Why is this bad

Every epoch sees the same batches. Neighbours in a file often belong together (one class, one day, one patient), so each
step follows a biased gradient, and BatchNorm learns the statistics of such batches.

## Example

```python
loader = DataLoader(CIFAR10("data", train=True, transform=transform), batch_size=128)
for epoch in range(90):
    for x, y in loader:
        ...
```

Use instead:

```python
loader = DataLoader(CIFAR10("data", train=True, transform=transform), batch_size=128, shuffle=True)
```

Silent where `shuffle` is given in any form (a written False is a decision), where the file shuffles indices or samples
by itself, where items are drawn at random, where a state goes from one batch to the next (recurrent models over a long
text), and in tests.

Off by default: orders are wanted now and then, and the file need not say so.

## Fix safety

No fix: another order is another training run.

## Verified by

Nothing is rewritten, so nothing is run.

## References

- <https://docs.pytorch.org/docs/stable/data.html#data-loading-order-and-sampler>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Effect, LoaderCall
from torchlint.semantics.datasets import dataset_class
from torchlint.semantics.loading import LoaderLoop, dataset_value, is_unit_test, loader_loops, repeats, setting

RULE = Rule(
    "TL305",
    Category.DATA,
    Severity.WARNING,
    triggers=(r"DataLoader\b", r"[lL]oader\b.*:\s*(#.*)?$", r"\.backward\("),
    requires=(r"\bDataLoader\s*\(|\bDataLoader\s+as\b", r"\.backward\("),
    since="0.2",
    default=False,
)

_INDEPENDENT = re.compile(r"^torchvision\.datasets\.[A-Z]\w+$|^torch\.utils\.data\.(dataset\.)?TensorDataset$")
# The file sees to the order itself. `shuffle=False` of another loader and a permutation within a batch do not.
_ORDERED = re.compile(
    r"shuffl(?!e\s*=\s*(?:True|False)\b)|randperm\((?!\s*(?:batch_size|\w+\.(?:size\(0\)|shape\[0\])))|permutation|\bsample\(|random_split|train_test_split|bptt|init_hidden|repackage|detach_hidden"
    r"|stateful|overfit|\.permute_"
)
_DRAWS = re.compile(r"\brandom\b|\brand(int|om|perm)?\(|choice\(")


@RULE.on
def check(loader: LoaderCall, ctx: Context) -> Iterator[Finding]:
    sem = ctx.sem
    if loader.value.origin != "torch.utils.data.DataLoader" or is_unit_test(sem, loader):
        return
    if not all(setting(sem, loader, name).absent for name in ("shuffle", "sampler", "batch_sampler")):
        return
    if ctx.file.mentions(_ORDERED) or not _is_independent(loader, ctx):
        return
    if any(loop.loader is loader.node and _trains_again(loop, ctx) for loop in loader_loops(sem)):
        yield Finding(
            loader.node,
            "the training loader gives the same order in every epoch",
            "every epoch takes the same batches, and items that lie together are learned together",
            "pass `shuffle=True`",
        )


def _trains_again(loop: LoaderLoop, ctx: Context) -> bool:
    """Whether the loop takes optimizer steps, and is itself repeated."""
    steps = ctx.sem.events(loop.function, Effect.STEP)
    return any(step.within(loop.node) for step in steps) and any(True for _ in repeats(ctx.sem, loop))


def _is_independent(loader: LoaderCall, ctx: Context) -> bool:
    """Whether the dataset is known, and holds items that any order may be asked of."""
    value = dataset_value(ctx.sem, loader)
    if _INDEPENDENT.match(value.origin):
        return True
    own = ctx.sem.class_of(value.origin)
    dataset = dataset_class(ctx.sem, own) if own is not None else None
    if dataset is None or any(item.name == "__iter__" for item in dataset.items):
        return False
    return isinstance(dataset.cls.node, cst.ClassDef) and not _DRAWS.search(ctx.file.code(dataset.cls.node))
