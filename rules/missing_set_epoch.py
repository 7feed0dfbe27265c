"""A shuffling `DistributedSampler` is never told the epoch, so every epoch has the same order.

## What it does
Reports a `DistributedSampler` that shuffles and feeds a training loader over several epochs, in its file, in one that
calls the function which makes the loader or the sampler, or in one that is given the loader, where nothing in the
project calls `set_epoch`. Loaders that Accelerate, Fabric, Ignite or Opacus take over are not reported: they announce
epochs or replace the sampler. Nor are samplers of evaluation loaders, where order does not matter.

## Why is this bad
The sampler draws its permutation from `seed + epoch`, and the epoch stays 0 until `set_epoch` changes it. Each process
then sees the same batches in the same order in every epoch: the shuffling one believes in happens once.

## Example
```python
loader = DataLoader(train_set, batch_size=64, sampler=DistributedSampler(train_set))
for epoch in range(epochs):
    for x, y in loader:
        ...
```
Use instead:
```python
loader = DataLoader(train_set, batch_size=64, sampler=DistributedSampler(train_set))
for epoch in range(epochs):
    loader.sampler.set_epoch(epoch)
    for x, y in loader:
        ...
```

## Fix safety
Unsafe: the order of samples changes from the second epoch on, which is the point. Where the sampler is only made if the
run is distributed, the call is guarded.

## Verified by
Running the loop and comparing the order of the epochs: equal before, different and still covering every sample after.

## References
- https://pytorch.org/docs/stable/data.html#torch.utils.data.distributed.DistributedSampler
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Question, Severity
from torchlint.migrate import NotUnderstood, Script, sharding
from torchlint.migrate.epochs import set_epoch
from torchlint.migrate.script import DISTRIBUTED_SAMPLER
from torchlint.nodes import argument
from torchlint.rule import Category, Context, Finding, Rule, unsafe

RULE = Rule(
    "TL803",
    Category.DISTRIBUTED,
    Severity.WARNING,
    triggers=(r"\bDistributedSampler\b",),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

_SPOKEN_OF = re.compile(r"""\bset_epoch\s*\(|["']set_epoch["']""")  # called, defined, or asked for by name


@RULE.on
def check(module: cst.Module, ctx: Context) -> Iterator[Finding]:
    if "DistributedSampler" not in ctx.file.text or ctx.file.mentions(_SPOKEN_OF):
        return
    script = Script.whole(ctx.sem)
    made = script.made_by(DISTRIBUTED_SAMPLER)
    if not any(sharding.shuffles(s) or sharding.told_to_shuffle(script, s)[1] is not None for s in made):
        return
    reported: set[cst.CSTNode] = set()
    for trained in sharding.trained_loaders(script):
        if not sharding.several_epochs(trained):
            continue
        for loader in sharding.loaders(script, trained):
            if sharding.prepared(script, loader):
                continue
            for sampler in sharding.samplers(script, loader):
                at = script.file.twin(sampler, ctx.file)
                if at is not None and at not in reported and sharding.shuffles_in(script, loader, sampler):
                    reported.add(at)
                    yield finding(script, trained, at)
    for sampler, function in sharding.given_away(script):
        at = script.file.twin(sampler, ctx.file)
        if at is not None and at not in reported and sharding.shuffles(sampler):
            reported.add(at)
            yield _told_nowhere(at, None, (Question("feeds-no-epochs", f"~.{function.name.value}"),))
    for sampler, asked in sharding.samplers_returned(script):
        at = script.file.twin(sampler, ctx.file)
        if at is not None and at not in reported:
            reported.add(at)
            yield _told_nowhere(at, None, (Question("samples-no-epochs", asked),))
    for loader, sampler, taker in sharding.handed_away(script):
        at = script.file.twin(sampler, ctx.file)
        if at is not None and at not in reported and sharding.shuffles_in(script, loader, sampler):
            reported.add(at)
            yield _told_nowhere(at, None, (Question("takes-no-epochs", taker),))


def finding(script: Script, trained: sharding.Trained, sampler: cst.Call) -> Finding:
    asks = [Question("calls-set-epoch", name) for name in sharding.handed_to_strangers(script, trained)]
    if trained.elsewhere:
        asks.append(Question("not-trained", trained.elsewhere))
    return _told_nowhere(sampler, announce(script, trained), tuple(asks))


def _told_nowhere(sampler: cst.Call, fix: Fix | None, unless: tuple[Question, ...]) -> Finding:
    return Finding(
        sampler,
        "`set_epoch` is never called on this DistributedSampler",
        "it draws the same order in every epoch",
        "call `set_epoch(epoch)` at the start of each",
        fix,
        unless,
    )


def announce(script: Script, trained: sharding.Trained) -> Fix | None:
    """`loader.sampler.set_epoch(epoch)` at the top of the epoch loop, if loop and loader are in sight."""
    made = sharding.loaders(script, trained)
    if any(argument(loader, "batch_sampler", 4) for loader in made):
        return None  # the sampler stands in that one, and `loader.sampler` is another
    optional = any(sharding.optional(script, loader) for loader in made)
    try:
        edits = [
            edit
            for loop, via in sharding.several_epochs(trained)
            for edit in set_epoch(script, loop, via, trained.loader, optional)
        ]
    except NotUnderstood:
        return None
    return unsafe("Tell the sampler the epoch", *dict.fromkeys(edits)) if edits else None
