"""Gradients are clipped after the step that used them, or before a gradient scaler has unscaled them.

## What it does
Reports `clip_grad_norm_` and `clip_grad_value_` that stand behind the `step()` of the same parameters with the next
backward or clear following, and those that stand between `scaler.scale(loss).backward()` and `scaler.step(optimizer)`
without `scaler.unscale_(optimizer)` ahead of them.

## Why is this bad
Behind the step there is nothing left to clip: training runs unclipped although the code says otherwise. Before
`unscale_`, gradients are multiplied by the loss scale (65536 at first): a norm of 1.0 then cuts every gradient to
1/65536 of it, whatever its size, and the limit moves with each change of the scale.

## Example
```python
loss.backward()
optimizer.step()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
```
Use instead:
```python
loss.backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
```
With a scaler:
```python
scaler.scale(loss).backward()
scaler.unscale_(optimizer)
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
scaler.step(optimizer)
scaler.update()
```
A clip whose result is kept (a norm that is logged), one with an infinite limit, and the clipping methods of frameworks,
which unscale by themselves, are not reported.

## Fix safety
Unsafe: clipping starts to work, so the steps change. The clip moves in front of the step; `scaler.unscale_(optimizer)`
is put, or moved, in front of the clip; where only every N-th turn takes the step, the clip moves to the step as well.

## Verified by
The norm of the gradients that each step is given: above the limit before, at most the limit after, and not cut down
where it is below it.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
- https://pytorch.org/docs/stable/notes/amp_examples.html#gradient-clipping
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Severity
from torchlint.edits import move_before
from torchlint.nodes import argument, dotted, literal
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, Event, Kind, TrainingLoop, flow

RULE = Rule(
    "TL112",
    Category.TRAINING,
    Severity.ERROR,
    triggers=(r"clip",),
    requires=(r"\bclip_grad_(norm|value)", r"backward\(", r"\bstep\("),
    since="0.2",
    fixes=(Applicability.UNSAFE,),
)

_NO_LIMIT = 1e6
_UNSCALING = re.compile(r"unscale|scale_grad|grad_scal", re.I)


@RULE.on
def in_loop(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    repeated = not isinstance(loop.node, cst.FunctionDef)
    yield from _late(loop.node, loop.events, context, repeated)
    yield from _scaled(loop.node, loop.events, context)


@RULE.on
def in_function(node: cst.FunctionDef, context: Context) -> Iterator[Finding]:
    function = context.sem.names.function_of.get(node)
    if function is not None:
        events = [e for e in context.sem.events(function) if not e.loops and not e.inner_loop]
        yield from _late(node, events, context, repeated=False)
        yield from _scaled(node, events, context)


# -- after the step ---------------------------------------------------------------------------------------------------


def _late(body: cst.CSTNode, events: Sequence[Event], context: Context, repeated: bool) -> Iterator[Finding]:
    for at, clip in enumerate(events):
        if clip.effect is not Effect.CLIP or clip.inner_loop or _measures(clip, context):
            continue
        step_at = next((i for i in range(at - 1, -1, -1) if _uses(events[i])), None)
        if step_at is None or events[step_at].effect is not Effect.STEP:
            continue
        step = events[step_at]
        if step.detail == "engine" or not _is_of(clip, step, events):
            continue
        if not flow.always_before(body, step, clip) or not _is_dropped(events, at, step, repeated):
            continue
        backward = next((i for i in range(step_at, -1, -1) if events[i].effect is Effect.BACKWARD), None)
        between = events[backward:step_at] if backward is not None else []
        if not between or any(e.effect is Effect.CLIP and _is_of(e, step, events) for e in between):
            continue
        if flow.handles_grad(events, body):
            continue
        unknown = flow.strangers(context.sem, events[step_at + 1 : at], "runs-backward", flow.parts(events))
        if unknown.opaque:
            continue
        yield Finding(
            flow.call_of(clip),
            f"the gradients are clipped after `{_spelled(step, context)}`",
            "the step has used them by then, so it was taken unclipped",
            "clip between `backward()` and the step",
            fix=_move_up(clip, step, context),
            unless=unknown.questions,
        )


def _uses(event: Event) -> bool:
    return event.effect in (Effect.STEP, Effect.BACKWARD, Effect.GRAD)


def _is_dropped(events: Sequence[Event], at: int, step: Event, repeated: bool) -> bool:
    """Whether what was clipped is cleared (or the next backward's are added) before anything is stepped again."""
    clears = [e for e in events if e.effect is Effect.ZERO_GRAD and flow.may_clear(e, step, ())]
    if not clears:
        return False
    following = [*events[at + 1 :], *(events[:at] if repeated else ())]
    after = next((e for e in following if _uses(e) or e in clears), None)
    return after is None or after.effect is not Effect.STEP


def _measures(clip: Event, context: Context) -> bool:
    """Whether the call only asks for the norm: its result is kept, or its limit is none."""
    return flow.lone_line(context.sem, clip) is None or _unlimited(clip, context)


def _unlimited(clip: Event, context: Context) -> bool:
    call = flow.call_of(clip)
    if not isinstance(call, cst.Call):
        return True
    index = 0 if clip.detail == "method" else 1
    limit = argument(call, "max_norm", index) or argument(call, "clip_value", index)
    if limit is None:
        return False
    value = literal(limit.value)
    return "inf" in context.file.code(limit.value).lower() or (isinstance(value, (int, float)) and value >= _NO_LIMIT)


def _is_of(clip: Event, step: Event, events: Sequence[Event]) -> bool:
    """Whether the clip is of gradients that the step applies; several optimizers ask for evidence, one does not."""
    subjects = {e.subject for e in events if e.effect is Effect.STEP}
    owners = flow.owners(step)
    if clip.subject and clip.subject == step.subject:
        return True
    if clip.subject and owners:
        return any(_related(clip.subject, owner) for owner in owners)
    return len(subjects) == 1 and bool(step.subject)


def _related(a: str, b: str) -> bool:
    return a == b or a.startswith(b + ".") or b.startswith(a + ".")


def _spelled(step: Event, context: Context) -> str:
    call = flow.call_of(step)
    return context.file.code(call) if isinstance(call, cst.Call) and len(call.args) < 2 else f"{step.subject}.step()"


def _move_up(clip: Event, step: Event, context: Context) -> Fix | None:
    old, target = flow.lone_line(context.sem, clip), flow.line_of(context.sem, flow.call_of(step))
    if old is None or target is None or clip.via is not step.via or clip.loops != step.loops:
        return None
    return unsafe("Clip before the step", *move_before(context.file, old, target))


# -- before unscaling -------------------------------------------------------------------------------------------------


def _scaled(body: cst.CSTNode, events: Sequence[Event], context: Context) -> Iterator[Finding]:
    for at, clip in enumerate(events):
        if clip.effect is not Effect.CLIP or clip.detail == "method" or _unlimited(clip, context):
            continue
        step = next((e for e in events[at + 1 :] if e.effect is Effect.STEP), None)
        start = next((i for i in range(at - 1, -1, -1) if _uses(events[i])), None)
        if step is None or start is None or not _is_of(clip, step, events):
            continue
        backward = events[start]
        scaler = _scaler(step, context)
        if scaler is None or backward.effect is not Effect.BACKWARD or f"{scaler}.scale(" not in backward.detail:
            continue
        if not flow.always_before(body, backward, clip) or flow.handles_grad(events[start:at], body):
            continue
        if any(e.effect is Effect.CALL and _UNSCALING.search(e.target) for e in events):
            continue
        late = [e for e in events[at:] if e.effect is Effect.UNSCALE]
        if any(e.effect is Effect.UNSCALE and e not in late for e in events):
            continue
        name = flow.optimizer_text(context.sem, step)
        every_turn = not flow.always_before(body, step, clip)  # the clip also runs where no step follows
        yield Finding(
            flow.call_of(clip),
            f"the gradients are clipped before `{scaler}.unscale_({name})`",
            "they are still multiplied by the loss scale, so the limit is the wrong one",
            f"call `{scaler}.unscale_({name})` between `backward()` and the clip"
            + (", both only where the step is taken" if every_turn else ""),
            fix=_unscale(body, clip, step, late, f"{scaler}.unscale_({name})", context) if name else None,
        )


def _scaler(step: Event, context: Context) -> str | None:
    """How the code names torch's gradient scaler that takes the step; None where it is another thing."""
    call = flow.call_of(step)
    if step.detail != "scaler" or not isinstance(call, cst.Call) or not isinstance(call.func, cst.Attribute):
        return None
    value = context.sem.value(call.func.value)
    if value.kind is not Kind.SCALER and (value.kind is not Kind.UNKNOWN or value.origin):
        return None
    made = value.node
    if isinstance(made, cst.Call):
        enabled = argument(made, "enabled")
        if enabled is not None and literal(enabled.value) is False:
            return None
    return dotted(call.func.value)


def _unscale(
    body: cst.CSTNode, clip: Event, step: Event, late: Sequence[Event], text: str, context: Context
) -> Fix | None:
    """Unscale ahead of the clip, once per step: a second `unscale_` before `update()` raises."""
    target = flow.line_of(context.sem, flow.call_of(clip))
    if target is None or clip.via is not step.via or clip.loops != step.loops or len(late) > 1:
        return None
    if not late:
        if flow.always_before(body, step, clip):
            return unsafe("Unscale before the clip", context.file.insert_before(target, text))
        line, to = flow.lone_line(context.sem, clip), flow.line_of(context.sem, flow.call_of(step))
        if line is None or to is None or not flow.always_before(body, clip, step):
            return None
        taken, put = move_before(context.file, line, to)
        both = replace(put, text=context.file.insert_before(to, text).text + put.text)
        return unsafe("Unscale and clip before the step", taken, both)
    old = flow.lone_line(context.sem, late[0])
    if (
        old is None
        or late[0].via is not clip.via
        or flow.guard_keys(clip.node, late[0]) != flow.guard_keys(clip.node, clip)
    ):
        return None
    return unsafe("Unscale before the clip", *move_before(context.file, old, target))
