"""A dataset that puts its items on the GPU one by one.

## What it does

Finds `.cuda()`, `.to("cuda")` and `device="cuda"` in what runs for each item of a dataset class (`__getitem__`,
`__iter__` and the methods that they call), and in the `collate_fn` of a loader with workers.

## Why is this bad

With workers this is an error: the workers are forks of a process that has used CUDA, and CUDA cannot be initialised
again in a fork. Where they are spawned each of them takes a CUDA context of its own (hundreds of MiB). Without workers
every item is a small copy and a few small kernels, where the batch would be one copy; `pin_memory` is ruled out.

## Example

```python
class Images(Dataset):
    def __getitem__(self, i):
        return torch.from_numpy(self.images[i]).cuda()
```

Use instead:

```python
class Images(Dataset):
    def __getitem__(self, i):
        return torch.from_numpy(self.images[i])


for images in loader:
    images = images.cuda(non_blocking=True)
```

Silent where the whole data set is put on the device once (in `__init__`: fine for small data without workers), and for
devices that are not surely CUDA.

## Fix safety

No fix: the move belongs into the loops over the batches, which may lie in other files.

## Verified by

Nothing is rewritten, so nothing is run: the error needs a GPU.

## References

- <https://docs.pytorch.org/docs/stable/notes/multiprocessing.html#cuda-in-multiprocessing>
- <https://docs.pytorch.org/docs/stable/data.html#multi-process-data-loading>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import walk_scope
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Function, LoaderCall
from torchlint.semantics.datasets import DatasetClass, item_functions
from torchlint.semantics.loading import dataset_value, setting, works_in_processes
from torchlint.semantics.names import OWN
from torchlint.semantics.transfers import surely_cuda

RULE = Rule(
    "TL309",
    Category.DATA,
    Severity.WARNING,
    triggers=(r"def __(getitem|getitems|iter|len)__\b", r"collate_fn", r"\.cuda\(|\bcuda\b|\bdevice\b"),
    requires=(r"\bDataset\b|Dataset\)|collate_fn", r"cuda"),
    since="0.2",
)


@RULE.on
def check(dataset: DatasetClass, ctx: Context) -> Iterator[Finding]:
    works = [
        works_in_processes(ctx.sem, loader)
        for loader in ctx.sem.objects(LoaderCall)
        if dataset_value(ctx.sem, loader).origin == dataset.cls.own
    ]
    for function in item_functions(ctx.sem, dataset):
        call = _first_on_cuda(function, ctx)
        if call is not None:
            yield _finding(call, f"`{dataset.name}` puts each item on the GPU", True in works)
            return


@RULE.on
def check_collate(loader: LoaderCall, ctx: Context) -> Iterator[Finding]:
    if not works_in_processes(ctx.sem, loader):
        return
    collate = setting(ctx.sem, loader, "collate_fn").node
    name = ctx.sem.qualified(collate) if collate is not None else None
    function = ctx.sem.names.functions.get(name.removeprefix(OWN)) if name and name.startswith(OWN) else None
    call = _first_on_cuda(function, ctx) if function is not None else None
    if function is not None and call is not None:
        yield _finding(call, f"`{function.name}` puts the batch on the GPU in a worker process", True)


def _finding(call: cst.Call, what: str, in_workers: bool) -> Finding:
    return Finding(
        call,
        what,
        "CUDA cannot be initialised again in a forked worker"
        if in_workers
        else "a copy per item, and an error as soon as workers load the items",
        "return CPU tensors, and move the batch where it is used",
        severity=Severity.ERROR if in_workers else None,
    )


def _first_on_cuda(function: Function, ctx: Context) -> cst.Call | None:
    return next((n for n in walk_scope(function.body) if isinstance(n, cst.Call) and surely_cuda(ctx.sem, n)), None)
