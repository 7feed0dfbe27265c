"""A DataLoader whose arguments exclude each other: making it raises.

## What it does

Finds `DataLoader(...)` calls that torch refuses when they run: `shuffle=True` together with a sampler, an argument that
a `batch_sampler` already decides, an order asked of an own `IterableDataset`, and `prefetch_factor` or
`persistent_workers=True` without workers.

## Why is this bad

The constructor raises `ValueError`. In a branch that only some configurations reach (the distributed one, the debugging
one with `num_workers=0`) that is found out late.

## Example

```python
sampler = DistributedSampler(dataset)
loader = DataLoader(dataset, batch_size=64, sampler=sampler, shuffle=True)
debug = DataLoader(dataset, batch_size=64, persistent_workers=True)
```

Use instead:

```python
sampler = DistributedSampler(dataset, shuffle=True)
loader = DataLoader(dataset, batch_size=64, sampler=sampler)
debug = DataLoader(dataset, batch_size=64)
```

Only constants and samplers that are surely made count: `shuffle=sampler is None` and a sampler that may be None are
fine, and so is a call inside `try` or `pytest.raises`, which wants to see the error.

## Fix safety

No fix: which of the two was meant only the author knows.

## Verified by

Nothing is rewritten, so nothing is run. Each combination was tried with torch 2.13, and raised.

## References

- <https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.DataLoader>
- <https://github.com/pytorch/pytorch/blob/v2.13.0/torch/utils/data/dataloader.py>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import dotted, walk_scope
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Kind, LoaderCall
from torchlint.semantics.loading import Setting, dataset_value, setting, works_in_processes

RULE = Rule(
    "TL306",
    Category.DATA,
    Severity.ERROR,
    triggers=(r"DataLoader\b", r"[sS]ampler\w*\s*="),
    requires=(
        r"\bDataLoader\s*\(|\bDataLoader\s+as\b",
        r"sampler\s*=|\bsampler\"|IterableDataset|prefetch_factor|persistent_workers",
    ),
    since="0.2",
)

_ITERABLE = re.compile(r"^torch\.utils\.data\.(dataset\.)?IterableDataset$")
_SAMPLER = re.compile(r"^torch\.utils\.data\.(sampler\.|distributed\.)?\w*Sampler$")


@RULE.on
def check(loader: LoaderCall, ctx: Context) -> Iterator[Finding]:
    if loader.value.origin != "torch.utils.data.DataLoader" or _error_is_wanted(loader, ctx):
        return
    found = _of_iterable(loader, ctx) or _excluded(loader, ctx) or _without_workers(loader, ctx)
    if found is not None:
        what, do = found
        yield Finding(loader.node, what, "making the loader raises ValueError", do)


def _of_iterable(loader: LoaderCall, ctx: Context) -> tuple[str, str] | None:
    """An order that is asked of an own IterableDataset, which has none but its own: (what, do)."""
    cls = ctx.sem.class_of(dataset_value(ctx.sem, loader).origin)
    if cls is None or not any(_ITERABLE.match(root) for root in ctx.sem.names.roots(cls)):
        return None
    shuffles = setting(ctx.sem, loader, "shuffle").value is True
    if not shuffles and not _is_made(setting(ctx.sem, loader, "sampler"), ctx):
        return None
    given = "shuffle=True" if shuffles else "sampler"
    return f"`{given}` with the IterableDataset `{cls.node.name.value}`", "shuffle where the dataset iterates"


def _excluded(loader: LoaderCall, ctx: Context) -> tuple[str, str] | None:
    """Settings that a sampler or batch sampler rules out: (what, do)."""
    sem = ctx.sem
    batches = _is_made(setting(sem, loader, "batch_sampler"), ctx)
    sampler = _is_made(setting(sem, loader, "sampler"), ctx)
    shuffles = setting(sem, loader, "shuffle").value is True
    if batches:
        size = setting(sem, loader, "batch_size").value
        others = {
            "batch_size": isinstance(size, int) and size != 1,
            "shuffle": shuffles,
            "sampler": sampler,
            "drop_last": setting(sem, loader, "drop_last").value is True,
        }
        clash = [f"`{name}`" for name, given in others.items() if given]
        if clash:
            return f"`batch_sampler` together with {' and '.join(clash)}", "give them to the batch sampler instead"
    if sampler and shuffles:
        return "`shuffle=True` together with a `sampler`", "leave out `shuffle`, and let the sampler shuffle"
    return None


def _is_made(given: Setting, ctx: Context) -> bool:
    """Whether a sampler is surely passed: one that is made here, and that no other branch makes None."""
    if given.node is None:
        return False
    return _is_sampler(given.node, ctx) if isinstance(given.node, cst.Call) else _never_none(given.node, ctx)


def _is_sampler(node: cst.BaseExpression, ctx: Context) -> bool:
    value = ctx.sem.value(node)
    if value.kind is Kind.SAMPLER:
        return True
    cls = ctx.sem.class_of(value.origin) if value.kind is Kind.OBJECT else None
    return cls is not None and any(_SAMPLER.match(root) for root in ctx.sem.names.roots(cls))


def _never_none(node: cst.BaseExpression, ctx: Context) -> bool:
    """Whether no assignment to the name in its function gives it anything but a sampler."""
    name = ctx.file.code(node)
    function = ctx.sem.function(node)
    given = [
        a.value
        for a in walk_scope(function.body)
        if isinstance(a, cst.Assign) and any(dotted(t.target) == name for t in a.targets)
    ]
    return bool(given) and all(_is_sampler(v, ctx) for v in given)


def _without_workers(loader: LoaderCall, ctx: Context) -> tuple[str, str] | None:
    """Settings of worker processes where there surely are none: (what, do)."""
    if works_in_processes(ctx.sem, loader) is not False:
        return None
    prefetch = setting(ctx.sem, loader, "prefetch_factor")
    old = ctx.torch_version is not None and ctx.torch_version < (2, 0)
    if isinstance(prefetch.value, int) and not (old and prefetch.value == 2):
        return "`prefetch_factor` without workers", "pass `num_workers` above 0, or leave it out"
    if setting(ctx.sem, loader, "persistent_workers").value is True:
        return "`persistent_workers=True` without workers", "pass `num_workers` above 0, or leave it out"
    return None


def _error_is_wanted(loader: LoaderCall, ctx: Context) -> bool:
    for ancestor in ctx.file.ancestors(loader.node):
        if isinstance(ancestor, cst.Try):
            return True
        if isinstance(ancestor, cst.With) and "aises" in ctx.file.code(ancestor.items[0].item):
            return True
    return False
