"""The learning-rate scheduler takes its step before the optimizer does.

## What it does
Reports `scheduler.step()` that comes, in each turn of an epoch or batch loop, before the first `step()` of the
scheduler's optimizer.

## Why is this bad
Since PyTorch 1.1 a scheduler is stepped after its optimizer. The other way round the first value of the schedule (the
learning rate that the optimizer was made with) is never used and every change comes one turn early; with a schedule per
epoch, the whole first epoch is trained at the second value. PyTorch warns about it once, at run time.

## Example
```python
for epoch in range(epochs):
    scheduler.step()
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
```
Use instead:
```python
for epoch in range(epochs):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    scheduler.step()
```
Only PyTorch's own schedulers are reported. `scheduler.step(epoch)`, `ReduceLROnPlateau`, steps under a condition on the
turn (`if epoch > 0:`), schedulers that resume from `last_epoch=`, and loops behind a first `optimizer.step()` are not.

## Fix safety
Unsafe: learning rates shift by one turn, to what the schedule says. The step moves behind the statement that holds the
optimizer's.

## Verified by
The learning rate of the first optimizer step (it must be the one that the optimizer was made with), the number of
scheduler steps, and PyTorch's own warning.

## References
- https://pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate
- https://github.com/pytorch/pytorch/pull/7889
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Question, Severity
from torchlint.edits import move_after
from torchlint.nodes import argument, dotted, walk
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, Event, Kind, flow, knowledge
from torchlint.semantics.names import OWN

RULE = Rule(
    "TL113",
    Category.TRAINING,
    Severity.WARNING,
    triggers=(r"\.step\(\s*\)",),
    requires=(r"sched", r"\bbackward\("),
    since="0.2",
    fixes=(Applicability.UNSAFE,),
)

_TORCH = "torch.optim.lr_scheduler."


@RULE.on
def check(loop: cst.For | cst.While, context: Context) -> Iterator[Finding]:
    everything = context.sem.events(context.sem.function(loop))
    events = [e for e in everything if e.within(loop)]
    if not any(e.effect is Effect.BACKWARD for e in events):
        return
    for at, event in enumerate(events):
        if event.effect is not Effect.SCHEDULER_STEP or event.loops[-1] is not loop or event.inner_loop:
            continue
        steps = _steps(event, events)
        made = _is_plain(event, loop, context)
        if made is None or not steps or any(events.index(s) < at for s in steps):
            continue
        before = everything[: everything.index(events[0])]
        if any(e.effect is Effect.STEP and e.subject == steps[0].subject for e in before):
            continue
        if _depends_on_turn(event, loop):
            continue
        unknown = flow.strangers(context.sem, events[:at], "steps-optimizer", flow.parts(events))
        if unknown.opaque:
            continue
        yield Finding(
            flow.call_of(event),
            f"`{event.subject}.step()` comes before `{steps[0].subject}.step()`",
            "the first value of the schedule is skipped, and every change comes one turn early",
            "step the scheduler after the optimizer",
            fix=_fix(event, steps, loop, context),
            unless=made + unknown.questions,
        )


def _is_plain(event: Event, loop: cst.For | cst.While, context: Context) -> tuple[Question, ...] | None:
    """Whether this is one of PyTorch's schedulers, made outside of the loop, that starts at its first value: what other
    files must not deny for that, None where it is none."""
    call, made, origin = flow.call_of(event), event.value.node, event.value.origin
    if not isinstance(call, cst.Call) or call.args or not isinstance(made, cst.Call):
        return None
    if argument(made, "last_epoch") is not None or any(a is loop for a in context.file.ancestors(made)):
        return None
    if event.value.kind is Kind.SCHEDULER:
        known = origin.startswith(_TORCH) or knowledge.TORCH_SCHEDULERS.match(origin)
        return () if known and not origin.endswith("ReduceLROnPlateau") else None
    foreign = event.value.kind is Kind.UNKNOWN and origin and not origin.startswith((OWN, "torch."))
    return (Question("makes-no-torch-scheduler", origin),) if foreign else None


def _steps(event: Event, events: Sequence[Event]) -> list[Event]:
    """The steps of the scheduler's optimizer in the loop; none where it is not clear whose they are."""
    steps = [e for e in events if e.effect is Effect.STEP and e.subject]
    if any(e.detail == "engine" for e in steps):
        return []
    if len({e.subject for e in steps}) > 1:
        made = event.value.node
        first = argument(made, "optimizer", 0) if isinstance(made, cst.Call) else None
        name = dotted(first.value) if first is not None else None
        steps = [e for e in steps if e.subject == name]
    return steps


def _depends_on_turn(event: Event, loop: cst.For | cst.While) -> bool:
    """Whether a condition on something that changes from turn to turn decides about the step: `if epoch > 0:`."""
    guards = event.guards_in(loop)
    if not guards:
        return False
    changing = flow.assigned_in(loop)
    return any(
        dotted(n) in changing or isinstance(n, cst.Call)
        for guard in guards
        for n in walk(guard.test)
        if isinstance(n, (cst.Name, cst.Attribute, cst.Call))
    )


def _fix(event: Event, steps: Sequence[Event], loop: cst.For | cst.While, context: Context) -> Fix | None:
    line = flow.lone_line(context.sem, event)
    if line is None or event.via is not None or context.file.parent(line) is not loop.body:
        return None
    if any(isinstance(n, (cst.Continue, cst.Return)) for n in walk(loop.body)):
        return None
    last = steps[-1].node
    around = {last, *context.file.ancestors(last)}
    target = next((s for s in loop.body.body if s in around), None)
    if target is None:
        return None
    return unsafe("Step the scheduler behind the optimizer", *move_after(context.file, line, target))
