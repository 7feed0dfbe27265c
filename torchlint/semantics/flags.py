"""One function for training and evaluation, told apart by a flag: `if train: loss.backward()`.

The pass that evaluates records like the one that trains, unless the flag also decides about recording
(`set_grad_enabled(train)`). The flag is a parameter that some call of the file sets so that nothing is differentiated,
or the target of a loop over phases (`for phase in ("train", "val")`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import libcst as cst

from torchlint.nodes import literal
from torchlint.semantics.calls import bind_arguments
from torchlint.semantics.effects import Effect, Event, Guard
from torchlint.semantics.evaluation import DIFFERENTIATES, may_evaluate, on_made_up_data, runs_its_parts
from torchlint.semantics.kinds import Kind
from torchlint.semantics.modes import call_sites, last_mode, same_module, subject_at
from torchlint.semantics.names import Function, parameters
from torchlint.spelling import spelled

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics


def shared_passes(sem: Semantics) -> Iterator[tuple[Function, Event]]:
    """The first forward pass of each function that also evaluates, with recording on, under some value of its flag."""
    if "set_grad_enabled" in sem.file.text:
        return
    for function in sem.functions:
        events = sem.events(function)
        hot = [e for e in events if e.effect in DIFFERENTIATES]
        if not hot or not all(h.guards for h in hot) or not may_evaluate(sem, function):
            continue
        for forward in events:
            if forward.effect is not Effect.FORWARD or forward.value.kind is not Kind.MODULE or forward.grad.off:
                continue
            if forward.via is not None or runs_its_parts(sem, function, forward) or on_made_up_data(sem, [forward]):
                continue
            if any(
                e.effect is Effect.FORWARD and e.grad.off and same_module(e.subject, forward.subject) for e in events
            ):
                break  # the evaluating turn has a pass of its own
            if any(h.loops == forward.loops for h in hot) and _evaluates(sem, function, forward, events, hot):
                yield function, forward
                break


def _evaluates(sem: Semantics, function: Function, forward: Event, events: list[Event], hot: list[Event]) -> bool:
    branches = [e for e in events if e.effect is Effect.EVAL and e.via is None and _is_other_branch(e, forward, hot)]
    if branches:
        return any(_recorded(sem, function, forward, mode) for mode in branches)
    for name, value, site in _settings(sem, function, forward):
        if site is not None and site.grad.off:
            continue
        if any(_happens(h, name, value) is not False for h in hot) or _happens(forward, name, value) is False:
            continue
        if _in_eval_mode(events, forward, name, value):
            return True
        if site is not None:
            there = subject_at(function, site, forward.subject)
            if there and last_mode(sem.events(site.function), site.but(subject=there)) == "eval":
                return True
    return False


def _is_other_branch(mode: Event, forward: Event, hot: list[Event]) -> bool:
    """Whether the model is put into eval mode under the very test which, the other way, differentiates:
    `if optimizer: model.train()`, `else: model.eval()`, and `if optimizer is not None: loss.backward()` further on."""
    if not mode.guards or mode.order > forward.order or not same_module(mode.subject, forward.subject):
        return False
    tested = [_tested(g) for g in mode.guards]
    if any(_excludes(t, _tested(g)) for t in tested for g in forward.guards):
        return False
    return all(any(_excludes(t, _tested(g)) for t in tested for g in h.guards) for h in hot)


def _recorded(sem: Semantics, function: Function, forward: Event, mode: Event) -> bool:
    """Whether the branch that evaluates may be taken while recording is on: where some call turns it off, that is the
    one that evaluates, unless another one surely does."""
    sites = call_sites(sem, function)
    if not any(site.grad.off for site in sites):
        return True
    return any(
        site is not None and not site.grad.off and _happens(mode, name, value)
        for name, value, site in _settings(sem, function, forward)
    )


def _tested(guard: Guard) -> tuple[str, object, bool]:
    """What a guard asks of: the expression's text, the constant that it equals (None: that it is true), and whether it
    does. That a thing is not None counts as true."""
    test, holds = guard.test, guard.taken
    while isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
        test, holds = test.expression, not holds
    if isinstance(test, cst.Comparison) and len(test.comparisons) == 1:
        operator, constant = test.comparisons[0].operator, literal(test.comparisons[0].comparator)
        if constant is None and isinstance(operator, (cst.Is, cst.IsNot, cst.Equal, cst.NotEqual)):
            return spelled(test.left), None, holds is isinstance(operator, (cst.IsNot, cst.NotEqual))
        if constant is not ... and isinstance(operator, (cst.Equal, cst.NotEqual)):
            return spelled(test.left), constant, holds is isinstance(operator, cst.Equal)
    return spelled(test), None, holds


def _excludes(one: tuple[str, object, bool], other: tuple[str, object, bool]) -> bool:
    """Whether the two cannot hold together."""
    if one[0] != other[0]:
        return False
    if one[1] == other[1]:
        return one[2] is not other[2]
    return one[1] is not None and other[1] is not None and one[2] and other[2]


def _settings(sem: Semantics, function: Function, forward: Event) -> Iterator[tuple[str, Any, Event | None]]:
    """Every (name, constant, call) that is known of a parameter, or of the target of a loop around the forward."""
    for loop in forward.loops:
        if isinstance(loop, cst.For) and isinstance(loop.target, cst.Name):
            if isinstance(loop.iter, (cst.List, cst.Tuple)):
                for element in loop.iter.elements:
                    if (value := literal(element.value)) is not ...:
                        yield loop.target.value, value, None
    if not isinstance(function.node, cst.FunctionDef):
        return
    defaults = {p.name.value: literal(p.default) for p in parameters(function.node) if p.default is not None}
    for site in call_sites(sem, function):
        if not isinstance(site.node, cst.Call) or any(a.star for a in site.node.args):
            continue
        given = bind_arguments(function, site.node, function.is_method and isinstance(site.node.func, cst.Attribute))
        for name in function.params:
            value = literal(given[name].value) if name in given else defaults.get(name, ...)
            if value is not ...:
                yield name, value, site


def _happens(event: Event, name: str, value: Any) -> bool | None:
    """Whether the event happens when the name has the value: None where that does not decide it."""
    decided: bool | None = None
    for guard in event.guards:
        truth = _truth(guard.test, name, value)
        if truth is not None and truth is not guard.taken:
            return False
        if truth is not None:
            decided = True
    return decided


def _truth(test: cst.BaseExpression, name: str, value: Any) -> bool | None:
    """What a test of the name alone gives."""
    if isinstance(test, cst.Name):
        return bool(value) if test.value == name else None
    if isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
        inner = _truth(test.expression, name, value)
        return None if inner is None else not inner
    if isinstance(test, cst.BooleanOperation):
        decisive = isinstance(test.operator, cst.Or)  # the side that decides alone
        sides = [_truth(side, name, value) for side in (test.left, test.right)]
        return decisive if decisive in sides else None if None in sides else not decisive
    if not isinstance(test, cst.Comparison) or len(test.comparisons) != 1:
        return None
    if not isinstance(test.left, cst.Name) or test.left.value != name:
        return None
    other = literal(test.comparisons[0].comparator)
    if other is ...:
        return None
    operator = test.comparisons[0].operator
    if isinstance(operator, (cst.Equal, cst.Is)):
        return bool(value == other)
    return bool(value != other) if isinstance(operator, (cst.NotEqual, cst.IsNot)) else None


def _in_eval_mode(events: list[Event], forward: Event, name: str, value: Any) -> bool:
    """Whether the function itself puts the model into eval mode when the name has the value, ahead of the pass."""
    return any(
        e.effect is Effect.EVAL
        and e.order < forward.order
        and same_module(e.subject, forward.subject)
        and (_happens(e, name, value) is True or (e.detail == "conditional" and not e.guards))
        for e in events
    )
