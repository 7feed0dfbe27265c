"""A DataLoader that reads and decodes its items in the training process.

## What it does

Finds loaders without `num_workers` whose dataset is known to read or decode each item when it is asked for: an own
dataset class that opens files, torchvision's image datasets, a dataset class of another checked file.

## Why is this bad

Without workers the training process itself loads each batch, and the GPU waits for as long as that takes. Workers load
the next batches while the current one trains.

## Example

```python
loader = DataLoader(ImageFolder("train", transform), batch_size=64, shuffle=True)
```

Use instead:

```python
loader = DataLoader(ImageFolder("train", transform), batch_size=64, shuffle=True, num_workers=4)
```

How many: start with four, measure, and double while the step still waits for data. The limit is
`len(os.sched_getaffinity(0))`, which is what the scheduler or the container really grants (`os.cpu_count()` is the
whole machine), divided by the number of processes (ranks) that train on the host.

Off by default, because workers cost memory and start-up time, and for cheap items they are slower than none. Silent for
tensors and lists in memory, where `num_workers` is given in any form (a written 0 is a decision), in notebooks and
where the file minds Windows, where the loader is made while the module is imported (a spawned worker would import it
again: put the code under `if __name__ == "__main__":` first), where a lambda would have to be pickled, in tests, and in
Lightning, which says this by itself.

## Fix safety

Unsafe: random numbers drawn in the dataset come from each worker's own generator, whatever the dataset counts or caches
stays in the worker, and the dataset must be picklable where workers are spawned. Not offered where ranks share the
host, because the number is then theirs to divide.

## Verified by

`fixtures/dataloader_no_workers/run.py`: the same batches in the same order, from as many workers as the fix says.

## References

- <https://docs.pytorch.org/docs/stable/data.html#single-and-multi-process-data-loading>
- <https://docs.python.org/3/library/os.html#os.sched_getaffinity>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Question, Severity
from torchlint.edits import add_argument
from torchlint.nodes import has_star
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Kind, LoaderCall, knowledge
from torchlint.semantics.datasets import ITEM_TRIGGERS, reads_items
from torchlint.semantics.loading import (
    dataset_value,
    gives_one_batch,
    is_unit_test,
    passes_lambda,
    runs_on_import,
    setting,
)
from torchlint.semantics.names import is_class_name

RULE = Rule(
    "TL302",
    Category.DATA,
    Severity.WARNING,
    triggers=(r"DataLoader\b", *ITEM_TRIGGERS),
    requires=(r"\bDataLoader\s*\(|\bDataLoader\s+as\b|(?:=|\belse|\bor|\()\s*(?:\w+\.)*DataLoader\b",),
    since="0.2",
    fixes=(Applicability.UNSAFE,),
    default=False,
)

_WINDOWS = re.compile(
    r"platform\.system\(|sys\.platform|os\.name\s*[!=]=|freeze_support|[Ww]indows\b.*worker|worker.*[Ww]indows"
)
_RANKS = re.compile(r"DistributedSampler|init_process_group|DistributedDataParallel|\bAccelerator\(|torchrun|deepspeed")
_STORED_IMAGES = re.compile(r"^torchvision\.datasets\.(?!FakeData)[A-Z]\w+$")
_MODEL = re.compile(r"\.backward\(|\.eval\(|\.train\(|no_grad|inference_mode|\boptim\.[A-Z]\w*\(")
_LIGHTNING = re.compile(r"(^|\.)Lightning(Data)?Module$")


@RULE.on
def check(loader: LoaderCall, ctx: Context) -> Iterator[Finding]:
    if not setting(ctx.sem, loader, "num_workers").absent or _is_elsewhere(loader, ctx):
        return
    if gives_one_batch(ctx.sem, loader):
        return  # one worker would load it, and the others none
    questions = _reads(loader, ctx)
    if questions is None or passes_lambda(ctx.sem, loader) or runs_on_import(ctx.sem, loader.function, loader.node):
        return
    shared = ctx.file.mentions(_RANKS)
    per = " // ranks per host" if shared else ""
    yield Finding(
        loader.node,
        "this DataLoader reads and decodes its items in the training process",
        "the model waits while each batch is loaded",
        f"pass `num_workers=4`, measure, and raise it to at most `len(os.sched_getaffinity(0)){per}`",
        None if shared else _fix(loader, ctx),
        questions,
    )


def _reads(loader: LoaderCall, ctx: Context) -> tuple[Question, ...] | None:
    """The questions under which the items are read or decoded one by one; None if nothing says so."""
    value = dataset_value(ctx.sem, loader)
    if _STORED_IMAGES.match(value.origin):
        return ()
    own = ctx.sem.class_of(value.origin)
    if own is not None:
        if reads_items(ctx.sem, own):
            return ()
        bases = [r for r in ctx.sem.names.roots(own) if not knowledge.DATASET_BASES.match(r)]
        return (Question("items-in-memory", bases[0]),) if len(bases) == 1 else None
    if value.kind in (Kind.UNKNOWN, Kind.DATASET) and is_class_name(value.origin):
        return (Question("items-in-memory", value.origin),)
    return None


def _is_elsewhere(loader: LoaderCall, ctx: Context) -> bool:
    """Where workers make trouble, or somebody else says it."""
    path, cls = ctx.file.path, loader.function.cls
    if isinstance(loader.function.node, cst.Module) and not ctx.file.mentions(_MODEL):
        return True  # a look at the dataset under `if __name__ == "__main__":`
    if path.endswith(".ipynb") or ctx.file.mentions(_WINDOWS) or is_unit_test(ctx.sem, loader):
        return True
    return cls is not None and any(_LIGHTNING.search(r) for r in ctx.sem.names.roots(cls))


def _fix(loader: LoaderCall, ctx: Context) -> Fix | None:
    if has_star(loader.node, "*"):
        return None
    return unsafe("Load the items in four workers", add_argument(ctx.file, loader.node, "num_workers=4"))
