"""Evaluations behind training in one stretch of code: `loss.backward(); step(); model.eval(); model(x_val)`.

Full-batch training (graph nets, small data) evaluates in the turn that trained, without a loop or function of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import find
from torchlint.semantics.effects import Effect, Event
from torchlint.semantics.escapes import escaping
from torchlint.semantics.evaluation import (
    DIFFERENTIATES,
    is_region_itself,
    may_evaluate,
    on_made_up_data,
    uses_gradients,
)
from torchlint.semantics.kinds import Graph, Kind
from torchlint.semantics.measuring import draws_held_out, reports_numbers
from torchlint.semantics.modes import same_module
from torchlint.semantics.names import Function

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics


def evaluating_tails(sem: Semantics) -> Iterator[tuple[Function, Event]]:
    """The first forward pass of each such evaluation, with its function."""
    for function in sem.functions:
        events = sem.events(function)
        hot = [e for e in events if e.effect in DIFFERENTIATES]
        if not hot or not may_evaluate(sem, function):
            continue
        seen: set[tuple[object, ...]] = set()
        for event in events:
            if event.effect is not Effect.FORWARD or event.value.kind is not Kind.MODULE or event.grad.off:
                continue
            if (event.loops, event.subject) in seen or not _is_tail(sem, function, event, events, hot):
                continue
            seen.add((event.loops, event.subject))
            yield function, event


def _is_tail(sem: Semantics, function: Function, event: Event, events: list[Event], hot: list[Event]) -> bool:
    if event.via is not None and is_region_itself(sem, event):
        return False
    depth = len(event.loops)
    near = [h for h in hot if h.loops[:depth] == event.loops]
    if not near or any(h.order > event.order for h in near):
        return False
    last = max(h.order for h in near)
    begun = next((e for e in reversed(events) if last < e.order < event.order and _sets_mode(e, event)), None)
    if begun is None or begun.effect is not Effect.EVAL or begun.loops != event.loops or _runs_more(sem, begun):
        return False
    around = event.loops[-1] if depth else function.node
    row = sem.file.row(begun.node)

    def behind(node: cst.CSTNode) -> bool:
        return sem.file.row(node) >= row

    body = around if isinstance(around, cst.Module) else around.body
    inside = tuple(e for e in events if e.order > last)
    if uses_gradients(sem, around, inside) or not reports_numbers(body, behind):
        return False
    return isinstance(around, cst.Module) or not any(behind(n) for n in escaping(sem, function, around))


def _runs_more(sem: Semantics, begun: Event) -> bool:
    """Whether the mode is set by a function that runs the model itself, and not only to prepare for it."""
    return begun.via is not None and any(e.effect is Effect.FORWARD for e in sem.events(begun.via))


def evaluating_scripts(sem: Semantics) -> Iterator[tuple[Function, Event]]:
    """The passes that a script makes at its top level, outside of loops, once it has put a model into eval mode."""
    module = sem.names.module
    events = sem.events(module)
    if any(e.effect in DIFFERENTIATES for e in events) or ".backward(" in sem.file.text:
        return
    seen: set[str] = set()
    for event in events:
        if event.effect is not Effect.FORWARD or event.value.kind is not Kind.MODULE or event.grad.off:
            continue
        if event.loops or event.via is not None or event.subject in seen or on_made_up_data(sem, [event]):
            continue
        if isinstance(sem.file.parent(event.node), cst.Expr):
            continue  # warms up
        begun = next((e for e in reversed(events) if e.order < event.order and _sets_mode(e, event)), None)
        if begun is None or begun.effect is not Effect.EVAL or begun.loops or begun.via is not None:
            continue
        if not uses_gradients(sem, sem.file.tree, tuple(events)):
            seen.add(event.subject)
            yield module, event


def _sets_mode(mode: Event, event: Event) -> bool:
    return mode.effect in (Effect.EVAL, Effect.TRAIN) and same_module(mode.subject, event.subject)


def _may_differentiate(sem: Semantics, event: Event) -> bool:
    """Whether a statement hands a value with its graph to a function of another file: `backward_of(loss)`."""
    call = event.node
    if event.effect is not Effect.CALL or not isinstance(call, cst.Call) or not isinstance(call.func, cst.Name):
        return False
    if not isinstance(sem.file.parent(call), cst.Expr) or event.target.startswith("torch."):
        return False
    return any(sem.value(a.value).graph is Graph.ATTACHED for a in call.args)


def held_out_draws(sem: Semantics) -> Iterator[tuple[Function, Event]]:
    """Forward passes behind the step, on a batch drawn from held-out data: `x, y = next(iter(test_loader))`.

    The mode is not set between training and them.
    """
    for function in sem.functions:
        events = sem.events(function)
        hot = [e for e in events if e.effect in DIFFERENTIATES]
        for event in events if hot and may_evaluate(sem, function) else ():
            if event.effect is not Effect.FORWARD or event.value.kind is not Kind.MODULE or not event.loops:
                continue
            near = [h for h in hot if h.loops[: len(event.loops)] == event.loops]
            if not near or event.via is not None or any(h.order > event.order for h in near):
                continue
            if any(_may_differentiate(sem, e) for e in events if e.order > event.order and e.within(event.loops[-1])):
                continue
            last = max(near, key=lambda h: h.order)
            if any(last.order < e.order < event.order and _sets_mode(e, event) for e in events):
                continue
            first, row = sem.file.row(last.node), sem.file.row(event.node)
            draws = [c for c in find(event.loops[-1].body, cst.Call) if first < sem.file.row(c) <= row]
            if any(draws_held_out(c) for c in draws) and reports_numbers(
                event.loops[-1].body,
                lambda n, row=row: sem.file.row(n) >= row,  # type: ignore[misc]
            ):
                yield function, event
                break
