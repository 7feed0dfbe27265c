"""The optimizer is made anew in every turn of the loop that steps it.

## What it does
Reports an optimizer that is made, from parameters that live outside the loop, in the same loop turn that runs its only
`backward()` and `step()`.

## Why is this bad
An optimizer remembers: momentum, Adam's two averages, the step count of its bias correction. A new one remembers
nothing, so momentum never builds up and each step of Adam is its first one (the sign of the gradient times the learning
rate, whatever the gradient's size). Schedulers and checkpoints that hold the old one go on without effect.

## Example
```python
for x, y in loader:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    optimizer.step()
```
Use instead:
```python
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    optimizer.step()
```
Meta-learning, one optimizer per task, fold or latent vector (the parameters or the learning rate belong to the turn, or
the steps have a loop of their own), models that are reset in the turn, and plain SGD, which remembers nothing, are not
reported.

## Fix safety
Unsafe: every step after the first one changes. The line moves above the loop, and above the epoch loop around it where
the model outlives that too.

## Verified by
The number of steps that the optimizer's state has seen when the loop ends: all of them, where it was one.

## References
- https://pytorch.org/docs/stable/optim.html#constructing-it
- https://arxiv.org/abs/1412.6980
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Severity
from torchlint.edits import move_before
from torchlint.nodes import argument, dotted, find, walk
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, Event, TrainingLoop, flow

RULE = Rule(
    "TL114",
    Category.TRAINING,
    Severity.ERROR,
    triggers=(r"(?:optim|Optim|OPTIM)\w{0,80}\.\w{1,80}\(|\b(Adam|SGD|RMSprop|Ada|LBFGS)\w*\(",),
    requires=(r"\bbackward\(", r"\bstep\("),
    since="0.2",
    fixes=(Applicability.UNSAFE,),
)

# What gives the parameters a new start in the turn.
_RESETTING = re.compile(
    r"load_state_dict|reset(?!_?(hidden|state|meter|metric))|restore|init_?(weight|param|model|net)|weights?_init|xavier|kaiming|normal_$"
    r"|uniform_$|copy_$|set_param|vector_to_parameters|^apply$",
    re.I,
)


@RULE.on
def check(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    if isinstance(loop.node, cst.FunctionDef):
        return
    for made in loop.of(Effect.MAKE):
        if not made.loops or made.loops[-1] is not loop.node or made.inner_loop or loop.guards(made):
            continue
        if _remembers_nothing(made) or not _is_stepped_here(made, loop):
            continue
        needed = _names(made)
        if needed & flow.assigned_in(loop.node) or _is_reset(loop):
            continue
        yield Finding(
            made.node,
            "the optimizer is made anew in every turn of the loop",
            "momentum, averages and step counts start from zero before each step",
            "make it once, before the loop",
            fix=_fix(made, loop, needed, context),
        )


def _remembers_nothing(made: Event) -> bool:
    call = made.value.node
    return made.value.origin == "torch.optim.SGD" and (
        not isinstance(call, cst.Call) or (argument(call, "momentum", 2) is None and not any(a.star for a in call.args))
    )


def _is_stepped_here(made: Event, loop: TrainingLoop) -> bool:
    """Whether the turn itself, and no loop inside of it, runs a backward and steps this optimizer behind it."""
    at = loop.events.index(made)
    steps = [e for e in loop.events[at:] if e.effect is Effect.STEP and e.value.node in (made.value.node, made.node)]
    inner = [e for e in loop.of(Effect.STEP, Effect.BACKWARD) if e.inner_loop or e.loops[-1] is not loop.node]
    return bool(steps) and not inner and any(e.effect is Effect.BACKWARD for e in loop.events[at:])


def _names(made: Event) -> set[str]:
    """What the optimizer is made from, as dotted text and each of its beginnings."""
    found: set[str] = set()
    for node in walk(made.node):
        name = dotted(node) if isinstance(node, (cst.Name, cst.Attribute)) else None
        while name:
            found.add(name)
            name = name.rpartition(".")[0]
    return found


def _is_reset(loop: TrainingLoop) -> bool:
    """Whether the turn gives the parameters a new start: then each optimizer belongs to its turn."""
    return any(
        _RESETTING.search(call.func.attr.value if isinstance(call.func, cst.Attribute) else dotted(call.func) or "")
        for call in find(loop.node.body, cst.Call)
    )


def _fix(made: Event, loop: TrainingLoop, needed: set[str], context: Context) -> Fix | None:
    line = flow.line_of(context.sem, made.node)
    if made.via is not None or line is None or len(line.body) != 1 or context.file.parent(line) is not loop.node.body:
        return None
    small = line.body[0]
    if not isinstance(small, cst.Assign) or small.value is not made.node or len(small.targets) != 1:
        return None
    target: cst.For | cst.While = loop.node  # type: ignore[assignment]
    for outer in loop.outer:
        if needed & flow.assigned_in(outer):
            break
        target = outer
    return unsafe("Make the optimizer once", *move_before(context.file, line, target))
