"""Every process of a DistributedDataParallel script goes over the whole dataset.

## What it does
Reports a shuffling DataLoader that a script trains a DistributedDataParallel model on, where nothing divides the data
among the processes: no sampler, no batch sampler, no dataset made with the rank, no IterableDataset, no framework that
prepares the loader. Evaluation loaders are not reported: each process may evaluate everything.

## Why is this bad
DDP divides nothing: it only averages gradients. N processes that each draw from the whole dataset do N times the work
of an epoch, and with equal seeds all of them compute the very same batches, so that more GPUs bring nothing.

## Example
```python
model = DistributedDataParallel(model, device_ids=[rank])
loader = DataLoader(train_set, batch_size=64, shuffle=True)
```
Use instead:
```python
model = DistributedDataParallel(model, device_ids=[rank])
loader = DataLoader(train_set, batch_size=64, sampler=DistributedSampler(train_set, shuffle=True))
for epoch in range(epochs):
    loader.sampler.set_epoch(epoch)
```

## Fix safety
Unsafe: an epoch gets shorter by the number of processes and the order of samples changes, which is the point. The fix
needs the process group to exist where the loader is made; where that is not certain it is only a suggestion.

## Verified by
Making the loader as two processes would: before, both see every sample; after, their shares are disjoint and cover
the dataset.

## References
- https://pytorch.org/docs/stable/data.html#torch.utils.data.distributed.DistributedSampler
- https://pytorch.org/tutorials/intermediate/ddp_tutorial.html
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Question, Severity
from torchlint.edits import torch_name
from torchlint.migrate import NotUnderstood, Script, sharding
from torchlint.migrate.epochs import set_epoch
from torchlint.migrate.script import LOADER
from torchlint.nodes import argument, dotted, literal
from torchlint.rule import Category, Context, Finding, Rule, suggestion, unsafe
from torchlint.semantics import Semantics

RULE = Rule(
    "TL802",
    Category.DISTRIBUTED,
    Severity.WARNING,
    triggers=(r"\bDistributedDataParallel\b", r"\bDataLoader\("),
    requires=(r"\bDistributedDataParallel\b",),
    since="0.1",
    fixes=(Applicability.UNSAFE, Applicability.SUGGESTION),
)


@RULE.on
def check(module: cst.Module, ctx: Context) -> Iterator[Finding]:
    if "DistributedDataParallel" not in ctx.file.text:
        return
    script = Script.whole(ctx.sem)
    wraps = script.made_by("torch.nn.parallel.DistributedDataParallel")
    shuffled = {call for call in script.made_by(LOADER) if shuffles_everything(script, call)} if wraps else set()
    reported: set[cst.CSTNode] = set()
    for trained in sharding.trained_loaders(script) if shuffled else ():
        for loader in sharding.loaders(script, trained):
            if loader in reported or sharding.prepared(script, loader) or sharding.undivided_branch(script, loader):
                continue
            at = script.file.twin(loader, ctx.file)
            if at is not None and loader in shuffled:
                reported.add(loader)
                yield Finding(
                    at,
                    "the loader shuffles the whole dataset in every process",
                    "DistributedDataParallel averages gradients and divides no data, so processes repeat each other",
                    "give it a DistributedSampler and call its `set_epoch`",
                    divide(script, trained, loader),
                    (Question("not-trained", trained.elsewhere),) if trained.elsewhere else (),
                )


def shuffles_everything(script: Script, loader: cst.Call) -> bool:
    if sharding.may_sample(script, loader):
        return False
    shuffle = argument(loader, "shuffle", 2)
    return shuffle is not None and literal(shuffle.value) is True and not sharding.sharded_by_hand(script, loader)


def divide(script: Script, trained: sharding.Trained, loader: cst.Call) -> Fix | None:
    """`shuffle=True` becomes a DistributedSampler, and every epoch is announced to it."""
    shuffle, data = argument(loader, "shuffle"), argument(loader, "dataset", 0)
    if shuffle is None or shuffle.keyword is None or data is None or dotted(data.value) is None:
        return None
    file = script.file
    made, imports = torch_name(file, Semantics(file), "torch.utils.data.DistributedSampler", loader)
    start, end = file.caret(shuffle.keyword)[0], file.span(shuffle.value)[1]
    edits = [*imports, Edit(start, end, f"sampler={made}({file.code(data.value)}, shuffle=True)")]
    try:
        for loop, via in sharding.several_epochs(trained):
            edits += set_epoch(script, loop, via, trained.loader)
    except NotUnderstood:
        return None
    build = unsafe if sharding.group_exists(script, loader) else suggestion
    return build("Divide the data with a DistributedSampler", *dict.fromkeys(edits))
