"""Gradients are cleared once per epoch but applied once per batch.

## What it does
Reports an optimizer that takes steps in an inner loop while the only clear of its gradients stands in a loop around it.

## Why is this bad
Within an epoch the gradients of all batches add up: the step of batch *k* applies the sum of the gradients of batches
1 to *k*, most of them computed at parameters that have changed since. The clear is there, one level too far out.

## Example
```python
for epoch in range(epochs):
    optimizer.zero_grad()
    for x, y in loader:
        criterion(model(x), y).backward()
        optimizer.step()
```
Use instead:
```python
for epoch in range(epochs):
    for x, y in loader:
        criterion(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
```

## Fix safety
Unsafe: training takes another course. The clear moves behind the step; one that shares its line stays where it is and a
second one is written.

## Verified by
A gradient ledger: at every step, `.grad` must equal the gradient of the losses since the step before.

## References
- https://pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Severity
from torchlint.edits import move_after
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, Event, TrainingLoop, flow

RULE = Rule(
    "TL103",
    Category.TRAINING,
    Severity.ERROR,
    triggers=(r"\.zero_grad\(",),
    requires=(r"backward\(", r"\bstep\("),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)


@RULE.on
def check(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    sem = context.sem
    if isinstance(loop.node, cst.FunctionDef) or flow.writes_grad(loop.events, loop.node):
        return
    steps = loop.of(Effect.STEP)
    reported: set[str] = set()
    for step in steps:
        if step.detail == "engine" or step.subject in reported:
            continue
        if any(flow.may_clear(z, step, steps) for z in loop.of(Effect.ZERO_GRAD)):
            continue
        outer = [z for z in loop.before if _in_outer(loop, z) and flow.surely_clears(z, step)]
        if not outer or flow.mentions_clearing(loop.events, loop.node):
            continue
        unknown = flow.strangers(sem, loop.events, "zeroes-gradients", flow.parts(loop.events))
        name = flow.optimizer_text(sem, step)
        if unknown.opaque or name is None:
            continue
        reported.add(step.subject)
        clear = outer[-1]
        yield Finding(
            flow.call_of(clear),
            f"`{clear.subject}.zero_grad()` runs once per outer turn, `{name}.step()` in every inner one",
            "each step applies the sum of the gradients of all inner turns so far",
            "clear after the step, inside the inner loop",
            fix=_fix(clear, step, context),
            unless=unknown.questions,
        )


def _in_outer(loop: TrainingLoop, event: Event) -> bool:
    return event.effect is Effect.ZERO_GRAD and any(event.within(outer) for outer in loop.outer)


def _fix(clear: Event, step: Event, context: Context) -> Fix | None:
    line = flow.line_of(context.sem, flow.call_of(step))
    call = flow.call_of(clear)
    if line is None or step.via is not None or clear.via is not None or not isinstance(call, cst.Call):
        return None
    old = flow.lone_line(context.sem, clear)
    if old is None or clear.guarded:
        write = context.file.insert_after(line, context.file.code(call))
        return unsafe("Clear the gradients after the step", write)
    return unsafe("Move the clear behind the step", *move_after(context.file, old, line))
