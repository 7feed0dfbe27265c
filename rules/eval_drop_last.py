"""A loader that leaves the last samples out of the evaluation.

## What it does

Finds `DataLoader(..., drop_last=True)` whose loader is evaluated on: this file goes over it where a model runs without
training, or makes its dataset with `train=False` or `split="test"`, and nowhere trains on it.

## Why is this bad

The last batch is thrown away unless the batch size divides the number of samples. For training it comes back, shuffled,
in the next epoch; an evaluation never sees those samples, and its result depends on the batch size. Published
forecasting results have changed ranks because of it.

## Example

```python
test_loader = DataLoader(test_set, batch_size=64, drop_last=True)
model.eval()
with torch.no_grad():
    for x, y in test_loader:
        ...
```

Use instead:

```python
test_loader = DataLoader(test_set, batch_size=64)
```

Silent where the same call makes the training loader, where `drop_last` is not the constant True, where the evaluation
stops after some batches (it times or samples), where a batch is one sample, where the file's only loops over the loader
run no evaluation, and where the model carries states of the batch size from one batch to the next.

## Fix safety

Unsafe: the result changes (that is the point), and code that relies on full batches, or takes the mean of the batches'
means, meets a smaller last one.

## Verified by

`fixtures/eval_drop_last/run.py`: every sample is evaluated once.

## References

- <https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.DataLoader>
- <https://arxiv.org/abs/2403.20150> (TFB: the "drop last" trick in forecasting)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.nodes import literal, walk
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, EvalRegion, LoaderCall
from torchlint.semantics.loading import LoaderLoop, is_held_out, is_unit_test, loader_loops, setting

RULE = Rule(
    "TL307",
    Category.DATA,
    Severity.WARNING,
    triggers=(r"\bdrop_last\b", r"[lL]oader\b.*:\s*(#.*)?$", r"\.backward\(|\.eval\("),
    requires=(r"DataLoader\b", r"\bdrop_last\"?'?\s*[=:]\s*True"),
    since="0.2",
    fixes=(Applicability.UNSAFE,),
)

_STATES = re.compile(r"init_hidden|repackage|detach_hidden|hidden_state|\bmemor(y|ies)\b|\bmems\b|queue")

_HELD_OUT = ("test", "val", "valid", "validation", "dev", "eval")


@RULE.on
def check(loader: LoaderCall, ctx: Context) -> Iterator[Finding]:
    dropped = setting(ctx.sem, loader, "drop_last")
    if dropped.value is not True or dropped.node is None or is_unit_test(ctx.sem, loader):
        return
    mine = [loop for loop in loader_loops(ctx.sem) if loop.loader is loader.node]
    if any(_trains(loop, ctx) or _needs_full_batches(loop, ctx) for loop in mine):
        return
    if not any(_evaluates(loop, ctx) for loop in mine) and (mine or not is_held_out(ctx.sem, loader, _HELD_OUT)):
        return  # what runs through it is only looked at, or nobody knows what for
    if _is_never_ragged(loader, ctx):
        return
    written_here = any(a.value is dropped.node for a in loader.node.args)
    yield Finding(
        dropped.node if written_here else loader.node,
        "`drop_last=True` on a loader that is evaluated on",
        "the samples of the last batch are never evaluated, and the result depends on the batch size",
        "leave it out",
        _fix(dropped.node, ctx) if written_here else None,
    )


def _is_never_ragged(loader: LoaderCall, ctx: Context) -> bool:
    """Whether each batch is one sample, so that none is incomplete."""
    size = setting(ctx.sem, loader, "batch_size")
    return size.value == 1 or (size.absent and setting(ctx.sem, loader, "batch_sampler").absent)


def _trains(loop: LoaderLoop, ctx: Context) -> bool:
    """Whether gradients are computed or applied in the loop."""
    return any(e.within(loop.node) for e in ctx.sem.events(loop.function, Effect.BACKWARD, Effect.STEP, Effect.GRAD))


def _evaluates(loop: LoaderLoop, ctx: Context) -> bool:
    """Whether a model runs in the loop to be judged."""
    for region in ctx.sem.objects(EvalRegion):
        if region.function is loop.function and any(f.within(loop.node) for f in region.forwards):
            return True
    return False


def _needs_full_batches(loop: LoaderLoop, ctx: Context) -> bool:
    """Whether the loop stops early, or hands states of the batch's size on."""
    if any(isinstance(n, cst.Break) for n in walk(loop.node.body)):
        return True
    body = loop.function.node if isinstance(loop.function.node, cst.FunctionDef) else loop.node
    return _STATES.search(ctx.file.code(body)) is not None


def _fix(node: cst.BaseExpression, ctx: Context) -> Fix | None:
    if literal(node) is not True:
        return None
    return unsafe("Evaluate the last batch, too", Edit(*ctx.file.span(node), "False"))
