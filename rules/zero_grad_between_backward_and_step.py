"""Gradients are cleared after `backward()` and before the step that should apply them.

## What it does
Reports `zero_grad()` between a `backward()` and the `step()` of the same parameters, with no other backward in between.

## Why is this bad
The step finds no gradients. With plain SGD nothing is learned at all; with momentum or weight decay the
parameters still move, which hides the mistake.

## Example
```python
loss.backward()
optimizer.zero_grad()
optimizer.step()
```
Use instead:
```python
loss.backward()
optimizer.step()
optimizer.zero_grad()
```

## Fix safety
Unsafe: training starts to happen. The clear moves behind the step.

## Verified by
A gradient ledger: at every step, `.grad` must equal the gradient of the losses since the step before.

## References
- https://pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Severity
from torchlint.edits import move_after
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, Event, TrainingLoop, flow

RULE = Rule(
    "TL104",
    Category.TRAINING,
    Severity.ERROR,
    triggers=(r"\.zero_grad\(",),
    requires=(r"backward\(", r"\bstep\("),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)


@RULE.on
def in_loop(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    yield from _check(loop.node, loop.events, context)


@RULE.on
def in_function(node: cst.FunctionDef, context: Context) -> Iterator[Finding]:
    function = context.sem.names.function_of.get(node)
    if function is not None:
        events = context.sem.events(function)
        yield from _check(node, [e for e in events if not e.loops and not e.inner_loop], context)


def _check(body: cst.CSTNode, events: Sequence[Event], context: Context) -> Iterator[Finding]:
    for at, step in enumerate(events):
        if step.effect is not Effect.STEP or step.detail == "engine" or step.inner_loop:
            continue
        clear_at = next((i for i in range(at - 1, -1, -1) if _clears(events[i], step)), None)
        if clear_at is None:
            continue
        clear = events[clear_at]
        start = next((i for i in range(clear_at - 1, -1, -1) if _restarts(events[i], step)), -1)
        backward = [e for e in events[start + 1 : clear_at] if e.effect is Effect.BACKWARD]
        between = events[clear_at + 1 : at]
        if not backward or any(e.effect in (Effect.BACKWARD, Effect.GRAD) for e in between):
            continue
        if not flow.always_before(body, clear, step) or not any(_comes_along(body, b, step) for b in backward):
            continue
        if flow.call_of(clear) is flow.call_of(step) or flow.handles_grad(events, body) or flow.has_closure(step):
            continue
        unknown = flow.strangers(context.sem, between, "runs-backward", flow.parts(events))
        if unknown.opaque:
            continue
        yield Finding(
            flow.call_of(clear),
            f"`{clear.subject}.zero_grad()` stands between `backward()` and `{step.subject}.step()`",
            "the gradients are dropped before they are applied, so the step learns nothing",
            "clear after the step, or before the backward",
            fix=_fix(clear, step, context),
            unless=unknown.questions,
        )


def _clears(event: Event, step: Event) -> bool:
    return event.effect is Effect.ZERO_GRAD and flow.surely_clears(event, step)


def _restarts(event: Event, step: Event) -> bool:
    """Whether gradients before this event have nothing to do with the step: applied or cleared by then."""
    return _clears(event, step) or (event.effect is Effect.STEP and event.subject == step.subject)


def _comes_along(body: cst.CSTNode, backward: Event, step: Event) -> bool:
    """Whether the backward runs in the turns in which the step is taken (not in another branch)."""
    mine = dict(flow.guard_keys(body, step))
    return all(mine.get(node, taken) == taken for node, taken in flow.guard_keys(body, backward))


def _fix(clear: Event, step: Event, context: Context) -> Fix | None:
    old = flow.lone_line(context.sem, clear)
    target = flow.line_of(context.sem, flow.call_of(step))
    same = clear.via is step.via and clear.loops == step.loops
    if old is None or target is None or not same or flow.call_of(clear) is flow.call_of(step):
        return None
    return unsafe("Move the clear behind the step", *move_after(context.file, old, target))
