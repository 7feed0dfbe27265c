"""A training run that goes on from a checkpoint without its optimizer.

## What it does

Finds code that resumes training (it loads the model's state and the epoch or step to go on from) and restores neither
the optimizer that the file makes, nor, where it does that, the learning rate scheduler.

## Why is this bad

Momentum and Adam's averages start from zero, so the first steps behind a restart are other, often larger ones, and the
loss jumps. A scheduler that is not restored begins with warm-up or the first learning rate again while the epoch count
goes on, so the schedule never reaches its end.

## Example

```python
checkpoint = torch.load("last.pt")
model.load_state_dict(checkpoint["model"])
start_epoch = checkpoint["epoch"]
```

Use instead:

```python
checkpoint = torch.load("last.pt")
model.load_state_dict(checkpoint["model"])
optimizer.load_state_dict(checkpoint["optimizer"])
scheduler.load_state_dict(checkpoint["scheduler"])
start_epoch = checkpoint["epoch"]
```

Silent for fine-tuning (the epoch is not restored), for plain SGD, which has no state, where the checkpoint is handed to
something else that may do the rest, where the scheduler is told the epoch (`last_epoch=`, `scheduler.step(epoch)`), and
where training frameworks keep the checkpoints.

## Fix safety

No fix: the state must also be saved, and older checkpoints do not have it.

## Verified by

Nothing is rewritten, so nothing is run.

## References

- <https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html#saving-loading-a-general-checkpoint>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import argument, dotted, find, literal, walk_scope
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Effect, Event, Function, Kind

RULE = Rule(
    "TL907",
    Category.REPRODUCIBILITY,
    Severity.WARNING,
    triggers=(
        r"\[[\"'](epoch|step|iter|global_step|iteration)",
        r"\.load_state_dict\(",
        r"\boptim\b|[oO]ptimizer\b|[sS]cheduler",
    ),
    requires=(
        r"\.load_state_dict\(",
        r"\.backward\(",
        r"\.step\(",
        r"[\[(][\"'](epoch|step|iter|global_step|iteration)s?[\"'][\])]",
    ),
    since="0.2",
)

_COUNTER = re.compile(r"(epoch|step|iter)", re.I)
_FRAMEWORK = re.compile(r"\b(lightning|accelerate|deepspeed|ignite|fastai|composer|mmcv|mmengine|catalyst)\b")


@RULE.on
def check(resumed: cst.Assign, ctx: Context) -> Iterator[Finding]:
    checkpoint = _counter_of(resumed)
    if checkpoint is None or ctx.file.mentions(_FRAMEWORK):
        return
    function = ctx.sem.function(resumed)
    inside = list(walk_scope(function.body))
    if not any(isinstance(n, cst.Assign) and _loads(n, checkpoint, ctx) for n in inside):
        return
    calls = [n for n in inside if isinstance(n, cst.Call)]
    restored = [c for c in calls if isinstance(c.func, cst.Attribute) and c.func.attr.value == "load_state_dict"]
    if not any(_takes(c, checkpoint) for c in restored) or _handed_on(calls, restored, checkpoint):
        return
    made = {k: _made(k, function, ctx) for k in (Kind.OPTIMIZER, Kind.SCHEDULER)}
    if "optim" in _strings(inside) or any(_is(c, Kind.OPTIMIZER, ctx) for c in restored):
        missing = "scheduler" if made[Kind.SCHEDULER] and _forgets_schedule(restored, inside, ctx) else ""
    else:
        missing = "optimizer" if any(map(_has_state, made[Kind.OPTIMIZER])) else ""
    if missing:
        yield Finding(
            resumed,
            f"training is resumed at `{ctx.file.code(resumed.value)}` without the state of the {missing}",
            "its averages start from zero, and the loss jumps"
            if missing == "optimizer"
            else "the schedule begins anew while the epochs go on",
            f"save the {missing}'s `state_dict()`, too, and load it here",
        )


def _counter_of(node: cst.Assign) -> str | None:
    """The checkpoint's name in `start_epoch = checkpoint["epoch"] + 1`."""
    target = dotted(node.targets[0].target) or ""
    value = node.value.left if isinstance(node.value, cst.BinaryOperation) else node.value
    if not _COUNTER.search(target.rpartition(".")[2]) or not isinstance(value, cst.Subscript) or len(value.slice) != 1:
        return None
    index = value.slice[0].slice
    key = literal(index.value) if isinstance(index, cst.Index) else ...
    if not isinstance(key, str) or not _COUNTER.search(key) or "best" in target + key:
        return None
    return dotted(value.value)


def _loads(node: cst.Assign, name: str, ctx: Context) -> bool:
    return (
        any(dotted(t.target) == name for t in node.targets)
        and isinstance(node.value, cst.Call)
        and ctx.sem.qualified(node.value.func) == "torch.load"
    )


def _takes(call: cst.Call, checkpoint: str) -> bool:
    """Whether a part of the checkpoint is given to the call."""
    return any(dotted(n.value) == checkpoint for a in call.args for n in find(a.value, cst.Subscript))


def _handed_on(calls: list[cst.Call], restored: list[cst.Call], checkpoint: str) -> bool:
    """Whether the whole checkpoint goes to something that may restore more, or the rest of it is read in a loop."""
    for call in calls:
        name = (dotted(call.func) or "").rpartition(".")[2]
        if any(call is r for r in restored) or name in ("print", "len", "format", "info"):
            continue
        if any(dotted(a.value) == checkpoint for a in call.args):
            return True
    return False


def _strings(nodes: list[cst.CSTNode]) -> str:
    """All short strings of the function: the keys of what is saved and loaded."""
    return " ".join(n.value for n in nodes if isinstance(n, cst.SimpleString) and len(n.value) < 30)


def _is(call: cst.Call, kind: Kind, ctx: Context) -> bool:
    """Whether the state is loaded into something of that kind, or into something of unknown kind with such a name."""
    receiver = call.func.value if isinstance(call.func, cst.Attribute) else call.func
    value = ctx.sem.value(receiver)
    if value.kind is kind:
        return True
    word = "opt" if kind is Kind.OPTIMIZER else "sched"
    return value.kind is not Kind.MODULE and word in ctx.file.code(receiver).lower()


def _made(kind: Kind, function: Function, ctx: Context) -> list[cst.Call]:
    """The calls that make an optimizer or a scheduler in this function, its class, or at the module's top level."""
    found = []
    for call in ctx.sem.evaluator.function_at:
        value = ctx.sem.value(call)
        if isinstance(call, cst.Call) and value.kind is kind and value.node is call:
            maker = ctx.sem.function(call)
            if maker in (function, ctx.sem.names.module) or (maker.cls is not None and maker.cls is function.cls):
                found.append(call)
    return found


def _has_state(call: cst.Call) -> bool:
    """Whether the optimizer remembers anything: plain SGD does not."""
    if (dotted(call.func) or "").rpartition(".")[2] != "SGD" or any(a.star for a in call.args):
        return True
    momentum = argument(call, "momentum", 2)
    return momentum is not None and literal(momentum.value) != 0


def _forgets_schedule(restored: list[cst.Call], inside: list[cst.CSTNode], ctx: Context) -> bool:
    """Whether a scheduler of the file counts its steps itself, and nobody tells it where it was."""
    if "sched" in _strings(inside) or any(_is(c, Kind.SCHEDULER, ctx) for c in restored):
        return False
    if "last_epoch" in ctx.file.text:
        return False
    steps = [e for f in ctx.sem.functions for e in ctx.sem.events(f, Effect.SCHEDULER_STEP)]
    if not steps or any(isinstance(e.node, cst.Call) and e.node.args for e in steps):
        return False
    # `for _ in range(start_epoch): scheduler.step()` brings it there by hand.
    return all(
        any(e.effect is Effect.STEP for f in ctx.sem.functions for e in ctx.sem.events(f) if _shares_loop(e, step))
        for step in steps
        if step.loops
    )


def _shares_loop(event: Event, step: Event) -> bool:
    return any(event.within(loop) for loop in step.loops)
