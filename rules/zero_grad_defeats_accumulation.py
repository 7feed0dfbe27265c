"""Gradient accumulation that accumulates nothing, because every micro-batch clears the gradients.

## What it does
Reports a loop that calls `backward()` in every turn and takes the optimizer's step in every N-th one
(`if (i + 1) % N == 0:`, a flag set by such a test, a counter that starts anew after the step), but clears the gradients
in every turn. A step function that decides so by itself and a loop over the micro-batches of one step count, too.

## Why is this bad
Only the last micro-batch of each group reaches the step. The other N − 1 forward and backward passes are computed and
thrown away: N times the cost, none of the larger batch.

## Example
```python
for i, (x, y) in enumerate(loader):
    optimizer.zero_grad()
    loss = criterion(model(x), y) / n
    loss.backward()
    if (i + 1) % n == 0:
        optimizer.step()
```
Use instead:
```python
for i, (x, y) in enumerate(loader):
    loss = criterion(model(x), y) / n
    loss.backward()
    if (i + 1) % n == 0:
        optimizer.step()
        optimizer.zero_grad()
```

## Fix safety
Unsafe: training takes another course. The clear moves behind the guarded step, or is taken out where one stands there
already.

## Verified by
A gradient ledger: at every step, `.grad` must equal the sum over all micro-batches since the step before.

## References
- https://huggingface.co/docs/accelerate/usage_guides/gradient_accumulation
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Severity
from torchlint.edits import move_after
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, Event, TrainingLoop, flow, microbatches

RULE = Rule(
    "TL102",
    Category.TRAINING,
    Severity.ERROR,
    triggers=(r"\.zero_grad\(",),
    requires=(r"backward\(", r"\bstep\("),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)


@RULE.on
def in_loop(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    yield from _check(loop, context)


@RULE.on
def in_function(node: cst.FunctionDef, context: Context) -> Iterator[Finding]:
    whole = microbatches.step_function(context.sem, node)
    if whole is not None:
        yield from _check(whole, context)


def _check(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    if flow.handles_grad(loop.events, loop.node):
        return
    for step in loop.of(Effect.STEP):
        inner = microbatches.inner_accumulation(loop, step)
        if inner is not None:
            yield from _in_micro_batches(inner, context)
            continue
        group = microbatches.accumulation(loop, step)
        if group is None:
            continue
        clears = [z for z in loop.of(Effect.ZERO_GRAD) if flow.surely_clears(z, step)]
        early = [z for z in clears if _every_turn(group, z)]
        late = [z for z in clears if not early and _just_before(group, z, context)]
        if not early and not late:
            continue
        n = context.file.code(group.steps)
        when = "in every turn" if early else "ahead of the last backward of a group"
        early = early or late
        yield Finding(
            flow.call_of(early[0]),
            f"gradients are cleared {when}, but `{step.subject}` steps only in every `{n}`-th",
            "accumulation does nothing: all micro-batches of a group but one are computed and dropped",
            "clear only after the step, under the same `if`",
            fix=_fix(group, early, clears, step, context),
        )
        return


def _in_micro_batches(group: microbatches.InnerAccumulation, context: Context) -> Iterator[Finding]:
    """Clears in the loop over the micro-batches of one step, ahead of their backward."""
    clears = [z for z in group.loop.of(Effect.ZERO_GRAD) if flow.surely_clears(z, group.step)]
    early = [
        z
        for z in clears
        if z.within(group.inner) and all(flow.always_before(group.inner, z, b) for b in group.backwards)
    ]
    if early:
        n = context.file.code(group.steps)
        lines = [flow.lone_line(context.sem, z) for z in early]
        others = len(clears) > len(early)
        edits = [context.file.delete(line) for line in lines if line is not None]
        yield Finding(
            flow.call_of(early[0]),
            f"gradients are cleared in each of the `{n}` turns ahead of `{group.step.subject}.step()`",
            "accumulation does nothing: all micro-batches of a group but one are computed and dropped",
            "clear once ahead of the inner loop",
            fix=unsafe("Take out the clear that runs for each micro-batch", *edits)
            if others and len(edits) == len(early) and all(z.via is None for z in early)
            else None,
        )


def _every_turn(group: microbatches.Accumulation, clear: Event) -> bool:
    """Whether the clear runs in each turn in which a backward runs."""
    loop = group.loop.node
    return not group.guards(clear) and all(flow.always_before(loop, clear, b) for b in group.backwards)


def _just_before(group: microbatches.Accumulation, clear: Event, context: Context) -> bool:
    """Whether the clear runs in the very turn that steps, ahead of its backward, under an `if` of the same test."""
    own = group.loop.guards(clear)
    if len(own) != 1 or not own[0].taken or not group.guard.taken or own[0].node is group.guard.node:
        return False
    same = context.file.code(own[0].test) == context.file.code(group.guard.test)
    return same and all(clear.order < b.order for b in group.backwards)


def _fix(
    group: microbatches.Accumulation, early: list[Event], clears: list[Event], step: Event, context: Context
) -> Fix | None:
    lines = [flow.lone_line(context.sem, z) for z in early]
    if step.via is not None or any(z.via is not None or line is None for z, line in zip(early, lines)):
        return None
    if any(loop is not group.loop.node for z in early for loop in z.loops[-1:]):
        return None
    target = flow.line_of(context.sem, flow.call_of(step))
    first = lines[0]
    if any(group.guards(z) for z in clears):
        edits = [context.file.delete(_with_its_if(line, context)) for line in lines if line is not None]
        return unsafe("Take out the clear that runs in every turn", *edits)
    if target is None or first is None:
        return None
    if _with_its_if(first, context) is first:
        edits = [*move_after(context.file, first, target)]
    else:
        around = context.file.delete(_with_its_if(first, context))
        edits = [around, context.file.insert_after(target, context.file.code(flow.call_of(early[0])))]
    edits += [context.file.delete(_with_its_if(line, context)) for line in lines[1:] if line is not None]
    return unsafe("Move the clear behind the guarded step", *edits)


def _with_its_if(line: cst.SimpleStatementLine, context: Context) -> cst.CSTNode:
    """The line, or the `if` that holds nothing else (and no comment to lose)."""
    around = context.file.enclosing(line, cst.If)
    if around is not None and around.orelse is None and len(around.body.body) == 1 and around.body.body[0] is line:
        start, end = context.file.line_start(around), context.file.line_end(around)
        if "#" not in context.file.text[start:end]:
            return around
    return line
