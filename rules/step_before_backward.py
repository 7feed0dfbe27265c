"""The step is taken before the backward that computes its gradients, and what the backward computes is cleared.

## What it does
Reports `optimizer.step()` ahead of the only `backward()` of a loop turn (or function) where the gradients are cleared
between that backward and the next step.

## Why is this bad
Every step meets cleared gradients and every gradient is thrown away: the model does not learn. Loops that step first on
purpose (`step(); zero_grad(); loss.backward()`, one turn late) keep the gradients until the step and are not reported.

## Example
```python
optimizer.zero_grad()
optimizer.step()
loss.backward()
```
Use instead:
```python
optimizer.zero_grad()
loss.backward()
optimizer.step()
```

## Fix safety
Unsafe: training starts to happen. The step moves behind the backward.

## Verified by
A gradient ledger: at every step, `.grad` must equal the gradient of the losses since the step before.

## References
- https://pytorch.org/tutorials/beginner/introyt/trainingyt.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Severity
from torchlint.edits import move_after
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, Event, TrainingLoop, flow

RULE = Rule(
    "TL105",
    Category.TRAINING,
    Severity.ERROR,
    triggers=(r"\.backward\(",),
    requires=(r"backward\(", r"\bstep\("),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)


@RULE.on
def in_loop(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    yield from _check(loop.node, loop.events, context, repeated=not isinstance(loop.node, cst.FunctionDef))


@RULE.on
def in_function(node: cst.FunctionDef, context: Context) -> Iterator[Finding]:
    function = context.sem.names.function_of.get(node)
    if function is not None:
        events = context.sem.events(function)
        yield from _check(node, [e for e in events if not e.loops and not e.inner_loop], context, repeated=False)


def _check(body: cst.CSTNode, events: Sequence[Event], context: Context, repeated: bool) -> Iterator[Finding]:
    if not any(e.effect is Effect.BACKWARD for e in events) or flow.handles_grad(events, body):
        return
    said: set[cst.CSTNode] = set()
    for at, step in enumerate(events):
        if step.effect is Effect.STEP and flow.call_of(step) not in said:
            found = _meets_nothing(body, events, at, context)
            if found is not None:
                said.add(flow.call_of(step))
                yield found
                continue
        if step.effect is not Effect.STEP or step.detail == "engine" or flow.has_closure(step):
            continue
        own = [e for e in events if _together(body, e, step)]
        backwards = [e for e in own if e.effect is Effect.BACKWARD]
        later = own[own.index(step) + 1 :]
        if not backwards or backwards[0] not in later or any(s.effect is Effect.STEP for s in later):
            continue  # later steps: several optimizers or phases
        first, last = backwards[0], backwards[-1]
        clears = [e for e in own if e.effect is Effect.ZERO_GRAD and flow.surely_clears(e, step)]
        dropping = [z for z in clears if z not in later or (repeated and z in later[later.index(last) :])]
        if not dropping or any(z in later[: later.index(first)] for z in clears):
            continue
        keys = flow.guard_keys(body, step)
        if keys != flow.guard_keys(body, first) or not flow.always_before(body, dropping[0], step):
            continue
        unknown = flow.strangers(context.sem, events[:at], "runs-backward", flow.parts(events))
        if unknown.opaque:
            continue
        yield Finding(
            flow.call_of(step),
            f"`{step.subject}.step()` comes before `backward()`",
            "it meets cleared gradients, and what the backward computes is cleared before the next step",
            "step after the backward",
            fix=_fix(step, first, last, context),
            unless=unknown.questions,
        )


def _together(body: cst.CSTNode, event: Event, step: Event) -> bool:
    """Whether both can happen in one turn: they do not lie in two branches of one `if`."""
    mine = dict(flow.guard_keys(body, step))
    return all(mine.get(node, taken) == taken for node, taken in flow.guard_keys(body, event))


def _meets_nothing(body: cst.CSTNode, events: Sequence[Event], at: int, context: Context) -> Finding | None:
    """One of several steps that comes right behind its own clear, with the backward that it should apply behind it."""
    step = events[at]
    if step.detail == "engine" or flow.has_closure(step) or step.inner_loop:
        return None
    steps = [s for s in events if s.effect is Effect.STEP]
    if len({s.subject for s in steps}) < 2 or sum(s.subject == step.subject for s in steps) != 1:
        return None
    before = [i for i in range(at) if events[i].effect is Effect.ZERO_GRAD and flow.surely_clears(events[i], step)]
    if not before or not flow.always_before(body, events[before[-1]], step):
        return None
    between, after = events[before[-1] + 1 : at], events[at + 1 :]
    if any(e.effect in (Effect.BACKWARD, Effect.GRAD) for e in between):
        return None
    # A turn that has had more backwards than steps has computed what this step is for: the clear throws it away.
    if sum(e.effect is Effect.BACKWARD for e in events[:at]) > sum(e.effect is Effect.STEP for e in events[:at]):
        return None
    keys = flow.guard_keys(body, step)
    follows = next((e for e in after if e.effect in (Effect.BACKWARD, Effect.STEP)), None)
    if follows is None or follows.effect is Effect.STEP or flow.guard_keys(body, follows) != keys:
        return None
    if flow.call_of(step) is flow.call_of(events[before[-1]]) or step.loops != follows.loops:
        return None
    unknown = flow.strangers(context.sem, between, "runs-backward", flow.parts(events))
    if unknown.opaque:
        return None
    return Finding(
        flow.call_of(step),
        f"`{step.subject}.step()` comes before `backward()`",
        "it meets the gradients that were just cleared, and learns nothing",
        "step after the backward",
        fix=_fix(step, follows, follows, context),
        unless=unknown.questions,
    )


def _fix(step: Event, first: Event, last: Event, context: Context) -> Fix | None:
    if first is not last or step.detail == "scaler":
        return None
    old, target = flow.lone_line(context.sem, step), flow.line_of(context.sem, flow.call_of(last))
    if old is None or target is None or step.via is not last.via or step.loops != last.loops:
        return None
    return unsafe("Move the step behind the backward", *move_after(context.file, old, target))
