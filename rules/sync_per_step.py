"""A training step that makes the CPU wait for the GPU more than once.

## What it does

Reports places in a training loop at which every step fetches a value from the GPU: `loss.item()`, `.cpu()`, `float(t)`,
`print(t)`, a tensor in an `if` or in an f-string, also in a helper of the same file that the loop calls. A step that
waits twice or more is a warning, and so is one wait per parameter (`p.grad.norm().item()`) and, in Lightning, `.item()`
on what goes to `self.log`. A lone `running += loss.item()` is shown as info, which does not fail a run.

Helpers and modules of other files are looked at where they are: a function that reads values of what it is handed is
reported at that place if a training loop of the project calls it in every step with tensors on a GPU, as is the
`forward` of a Module that goes through NumPy, and the step method that returns `loss.item()`.

## Why is this bad

CUDA runs asynchronously: the CPU queues kernels ahead of the GPU. To fetch a value it has to wait until all of them are
done, and the GPU then idles until the CPU has queued the next ones. The smaller the model, the larger the share.

## Example

```python
for x, y in loader:
    loss = criterion(model(x.to(device)), y.to(device))
    ...
    total_loss += loss.item()
    correct += (output.argmax(1) == y).sum().item()
```

Use instead:

```python
total_loss = torch.zeros((), device=device)
correct = torch.zeros((), device=device)
for x, y in loader:
    ...
    total_loss += loss.detach()
    correct += (output.argmax(1) == y).sum()
print(total_loss.item() / len(loader), correct.item() / len(dataset))
```

or read the values in every N-th step. Nothing is said of code under such a test, of code that never mentions a GPU, of
loops that act in an environment (an action must come to the host), and of benchmarks, which must wait; in a helper also
not of a number that sizes or ways depend on, of lengths to pack by, and of what only brings a tensor to the host.

## Fix safety

There is no fix: where the sums are kept and when they are shown is the author's choice.

## Verified by

`fixtures/sync_per_step/`: bad.py is reported, its near-misses in ok.py are not. On the CPU there is nothing to gain
(tensor sums are even slower there), so no speed-up is claimed without a GPU.

## References

- <https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html#avoid-unnecessary-cpu-gpu-synchronization>
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Question, Severity
from torchlint.nodes import dotted, find
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import TrainingLoop
from torchlint.semantics.blocks import always
from torchlint.semantics.elements import element_syncs
from torchlint.semantics.handed import HandedWait, handed_waits
from torchlint.semantics.syncs import (
    Sync,
    asks_world,
    measures,
    over_batches,
    over_things,
    per_parameter,
    step_syncs,
    synchronizes,
    uses_gpu,
)

RULE = Rule(
    "TL403",
    Category.DEVICE,
    Severity.WARNING,
    triggers=(
        *(r"\.step\(", r"\.backward\(", r"\bEngine\(", r"\bdef training_step\("),
        *(r"\.item\(\)", r"\.tolist\(\)", r"\.numpy\(\)", r"\.cpu\(\)", r"\.to\([\"']cpu"),
    ),
    shapes=("step-or-handed-wait",),
    since="0.1",
)

_WHY = "the GPU runs dry while the CPU waits and then queues the next kernels"
_DO = "sum detached tensors on the GPU, and read them after the loop or every N steps"
_DO_HANDED = "give back detached tensors, and read them after the loop or every N steps"
_LIGHTNING = re.compile(r"(^|\.)(LightningModule|LightningLite)$")
_LONG = 48


@RULE.on
def check(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    sem = context.sem
    if not over_batches(sem, loop) or asks_world(loop) or measures(loop.function, context.file.path):
        return
    elsewhere = not uses_gpu(sem)
    if elsewhere and (isinstance(loop.function.node, cst.Module) or not over_things(loop.node)):
        return  # nobody else has put its tensors on a GPU
    unless = (Question("no-gpu-around", loop.function.own),) if elsewhere else ()
    syncs = step_syncs(sem, loop, elsewhere)
    if all(sync.event.detail == "bool" for sync in syncs):
        return  # a check that was asked for, and nothing else
    count = len(syncs) + synchronizes(sem, loop)
    lone = count == 1 and not syncs[0].repeated
    if lone and syncs[0].event.detail in ("print", "format"):
        return
    elements = {id(e.event.node) for f in {s.event.function for s in syncs} for e in element_syncs(sem, f)}
    said: set[int] = set()
    for sync in syncs:
        at = sync.call if sync.call is not None and not _only_here(sync) else sync.node
        if id(at) not in said and id(sync.node) not in elements:
            said.add(id(at))
            yield _finding(at, sync, count, lone, unless)


def _only_here(sync: Sync) -> bool:
    """Whether the helper is the training step itself, so that the place in it can be named."""
    return sync.event.function.name.startswith(("train", "step", "_train", "_step"))


def _finding(at: cst.CSTNode, sync: Sync, count: int, lone: bool, unless: tuple[Question, ...]) -> Finding:
    code = sync.code if len(sync.code) <= _LONG else sync.code[: _LONG - 1] + "…"
    if per_parameter(sync):
        what = f"`{code}` waits for the GPU once per parameter in every step"
        do = "stack the values on the GPU and read them once (or `torch.nn.utils.get_total_norm`)"
        return Finding(at, what, _WHY, do, unless=unless)
    what = f"`{code}` makes every step wait for the GPU"
    if sync.call is not None and at is sync.call:
        what = f"`{sync.event.function.name}` waits for the GPU in every step (`{code}`)"
    elif sync.repeated:
        what = f"`{code}` waits for the GPU several times in every step"
    elif not lone:
        what = f"`{code}` is one of {count} waits for the GPU in every step"
    do = "compare on the GPU, or check every N steps" if sync.event.detail == "bool" else _DO
    return Finding(at, what, _WHY, do, unless=unless, severity=Severity.INFO if lone else None)


@RULE.on
def check_handed(module: cst.Module, context: Context) -> Iterator[Finding]:
    """Functions and modules that the training loop of another file calls in every step."""
    waits = list(handed_waits(context.sem))
    counts = Counter(wait.function for wait in waits)
    for wait in waits:
        often = counts[wait.function] > 1 or wait.sync.repeated
        subject = f"{wait.function.own}@{','.join(wait.params)}"
        unless = (Question("not-waited-for", subject),)
        yield _handed(wait, (*unless, *(() if often else (Question("waited-for-alone", subject),))), None)
        if not often:
            yield _handed(wait, (*unless, Question("waited-for-besides", subject)), Severity.INFO)


def _handed(wait: HandedWait, unless: tuple[Question, ...], severity: Severity | None) -> Finding:
    code = wait.sync.code if len(wait.sync.code) <= _LONG else wait.sync.code[: _LONG - 1] + "…"
    what = f"`{code}` waits for the GPU in every step of a training loop that calls `{wait.function.qualname}`"
    return Finding(wait.sync.node, what, _WHY, _DO_HANDED, unless=unless, severity=severity)


@RULE.on
def check_lightning(function: cst.FunctionDef, context: Context) -> Iterator[Finding]:
    """`self.log(…, loss.item())`: Lightning takes tensors and fetches them when it writes them."""
    if function.name.value != "training_step":
        return
    own = context.sem.names.function_of.get(function)
    if own is None or own.cls is None or not own.params:
        return
    if not any(_LIGHTNING.search(root) for root in context.sem.names.roots(own.cls)):
        return
    for call in find(function.body, cst.Call):
        if (dotted(call.func) or "") not in (f"{own.params[0]}.log", f"{own.params[0]}.log_dict"):
            continue
        for inner in find(call, cst.Call):
            func = inner.func
            if isinstance(func, cst.Attribute) and func.attr.value == "item" and not _guarded(inner, function, context):
                code = context.file.code(inner)
                yield Finding(
                    inner,
                    f"`{code}` makes every step wait for the GPU",
                    "Lightning's `log` takes tensors and reads them only when it writes them",
                    "pass the tensor itself, without `.item()`",
                )


def _guarded(node: cst.CSTNode, function: cst.FunctionDef, context: Context) -> bool:
    """Whether some condition decides if the node is reached in a step."""
    for ancestor in context.file.ancestors(node):
        if ancestor is function:
            return False
        if isinstance(ancestor, (cst.If, cst.IfExp)) and not always(ancestor):
            return True
    return False
