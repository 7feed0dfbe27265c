"""Passes that only other files can confirm: of a parameter or attribute that they fill with a model, and by a method of
a model that they define.

`def test(net, loader)` which only calls `net(x)` says nothing of what `net` is. Such passes are judged like known ones;
each carries the question that has to be answered at link time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.nodes import dotted
from torchlint.semantics.effects import Effect, Event
from torchlint.semantics.evaluation import DIFFERENTIATES, judge, may_evaluate
from torchlint.semantics.kinds import Kind, Value
from torchlint.semantics.loops import EvalRegion
from torchlint.semantics.names import Function

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

_MODEL = Value(Kind.MODULE, evidence="handed")


def likely_regions(sem: Semantics) -> Iterator[EvalRegion]:
    """Regions whose model is not known to be one; `unless` asks for it."""
    for function in sem.functions:
        events = sem.events(function)
        if not may_evaluate(sem, function) or any(e.effect in DIFFERENTIATES for e in events):
            continue
        known = {e.loops[0] for e in events if e.effect is Effect.FORWARD and e.value.kind is Kind.MODULE and e.loops}
        before: list[str] = []
        for forward, asked in _passes(sem, function, events):
            if not forward.loops or forward.loops[0] in known or forward.subject in before:
                continue  # a single pass of something unknown says too little
            before.append(forward.subject)
            region = judge(sem, function, forward.loops[0], [forward], events, [])
            if region is not None:
                question = Question(asked.ask, f"{asked.subject} {' '.join(before)}") if asked.subject else asked
                yield replace(region, unless=(question, *region.unless))


def _passes(sem: Semantics, function: Function, events: list[Event]) -> Iterator[tuple[Event, Question]]:
    """Calls that may run a model, each with what is to be asked."""
    evaluated = {e.subject for e in events if e.effect is Effect.EVAL and e.via is None and e.subject}
    for event in events:
        call = event.node
        if event.effect is not Effect.CALL or event.via is not None or not isinstance(call, cst.Call) or not call.args:
            continue
        if isinstance(sem.file.parent(call), cst.Expr):
            continue
        receiver, _, method = event.subject.rpartition(".")
        if event.detail == "module method" or receiver in evaluated:
            if _is_given_tensors(sem, call) and not event.value.origin:
                yield _forward(event, receiver, _MODEL), Question("runs-no-model", method)
        elif isinstance(call.func, cst.Name) and call.func.value in _given(function):
            yield _forward(event, call.func.value, _MODEL), Question("handed-no-module", function.own)
        elif (attribute := _attribute(function, call)) and sem.value(call.func).kind is Kind.UNKNOWN:
            assert function.cls is not None
            yield _forward(event, attribute, _MODEL), Question("holds-no-module", function.cls.own)


def _forward(event: Event, subject: str, value: Value) -> Event:
    return event.but(effect=Effect.FORWARD, subject=subject, value=value)


def _given(function: Function) -> list[str]:
    return list(function.params[1:] if function.is_method else function.params)


def _attribute(function: Function, call: cst.Call) -> str:
    """`self.net` where a method calls an attribute of its object that is no method of its class."""
    name = dotted(call.func) or ""
    if not function.is_method or function.cls is None or name.count(".") != 1:
        return ""
    root, _, attribute = name.partition(".")
    return name if root == function.params[0] and attribute not in function.cls.methods else ""


def _is_given_tensors(sem: Semantics, call: cst.Call) -> bool:
    return any(sem.value(a.value).kind in (Kind.TENSOR, Kind.BATCH) for a in call.args)
