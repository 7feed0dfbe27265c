"""Which loops of other files call a training step turn by turn and clear no gradients around it: the answer that the
file of the step cannot give."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import dotted
from torchlint.semantics import flow
from torchlint.semantics.calls import bind_arguments
from torchlint.semantics.effects import Effect, Event
from torchlint.semantics.loops import TrainingLoop
from torchlint.semantics.names import OWN, Class, Function
from torchlint.semantics.per_step import calls_of
from torchlint.semantics.syncs import every_turn
from torchlint.semantics.unit_tests import holds_unit_tests

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics
    from torchlint.semantics.project import Project

_DEPTH = 2


def whole_step(sem: Semantics, node: cst.FunctionDef) -> TrainingLoop | None:
    """A function that computes gradients and applies them, once per call, and that no loop of this file reaches: as if
    its calls were the turns of a loop. Its optimizer lives longer than a call."""
    function = sem.names.function_of.get(node)
    if function is None or holds_unit_tests(sem):
        return None
    events = tuple(e for e in sem.events(function) if not e.loops and not e.inner_loop)
    steps = [e for e in events if e.effect is Effect.STEP]
    if not steps or not any(e.effect is Effect.BACKWARD for e in events):
        return None
    here = {flow.call_of(s) for loop in sem.objects(TrainingLoop) for s in loop.of(Effect.STEP)}
    if any(flow.call_of(s) in here for s in steps):
        return None
    return TrainingLoop(node, function, events)


def lasting(function: Function, step: Event) -> bool:
    """Whether the step's optimizer is handed to the function, or kept by its object."""
    root, _, rest = step.subject.partition(".")
    return root in function.params and (bool(rest) or not function.is_method or root != function.params[0])


def cleared_by_class(sem: Semantics, function: Function) -> bool:
    """Whether another method of the function's class clears gradients: a caller may call both."""
    if function.cls is None or not ("zero" in sem.file.text or ".grad" in sem.file.text):
        return False
    whole = sem.whole  # the methods that no rule asks for, too
    cls = whole.names.classes[function.cls.qualname]
    return any(
        whole.events(method, Effect.ZERO_GRAD)
        for each in whole.names.mro(cls)
        for method in each.methods.values()
        if method.qualname != function.qualname
    )


def not_repeated(project: Project, path: str, subject: str) -> bool:
    """Whether no loop of the project is known to call the function (`~.train_step@optimizer`: with an optimizer that
    outlives the turn) again and again, or whether one of them may clear gradients."""
    own, _, params = subject.removeprefix(OWN).partition("@")
    with project.comparing():
        seen = list(_verdicts(project, path, own, frozenset(filter(None, params.split(","))), 0))
    return not seen or not all(seen)


def _verdicts(project: Project, path: str, own: str, given: frozenset[str], depth: int) -> Iterator[bool]:
    """For each loop that calls the function: whether gradients surely add up from turn to turn there."""
    sem = project.semantics(path)
    function = sem.names.functions.get(own) if sem is not None else None
    if sem is None or function is None:
        return
    for there, site in _sites(project, path, sem, function):
        if not isinstance(site.node, cst.Call) or holds_unit_tests(there):
            continue
        if site.loops:
            loop = site.loops[-1]
            inside = [e for e in there.events(site.function) if e.within(loop) and flow.call_of(e) is not site.node]
            yield every_turn(there, loop, site) and _adds_up(project, there, loop, inside, function, site.node, given)
        elif depth < _DEPTH and site.function.qualname:
            around = [e for e in there.events(site.function) if flow.call_of(e) is not site.node]
            if _may_clear(project, there, around, site.function.node):
                yield False
                continue
            above = frozenset(n for n in map(dotted, _handed(function, site.node, given)) if n in site.function.params)
            yield from _verdicts(project, os.path.abspath(there.file.path), site.function.qualname, above, depth + 1)


def _adds_up(
    project: Project,
    sem: Semantics,
    loop: cst.For | cst.While,
    inside: list[Event],
    function: Function,
    call: cst.Call,
    given: frozenset[str],
) -> bool:
    fresh = flow.assigned_in(loop)
    receiver = dotted(call.func.value) if isinstance(call.func, cst.Attribute) else None
    roots = {(dotted(n) or "").partition(".")[0] for n in _handed(function, call, given)}
    if receiver is not None:
        roots.add(receiver.partition(".")[0])
    return not roots & fresh and not _may_clear(project, sem, inside, loop)


def _handed(function: Function, call: cst.Call, given: frozenset[str]) -> list[cst.BaseExpression]:
    bound = bind_arguments(function, call, function.is_method and isinstance(call.func, cst.Attribute))
    return [arg.value for name, arg in bound.items() if name in given]


def _may_clear(project: Project, sem: Semantics, events: list[Event], body: cst.CSTNode) -> bool:
    if any(e.effect is Effect.ZERO_GRAD for e in events) or flow.mentions_clearing(events, body):
        return True
    unknown = flow.strangers(sem, events, "zeroes-gradients", flow.parts(events))
    return unknown.opaque or any(project.answer(sem.file.path, q) for q in unknown.questions)


def _sites(project: Project, path: str, sem: Semantics, function: Function) -> Iterator[tuple[Semantics, Event]]:
    yield from calls_of(project, path, sem, function, True)
    if function.cls is not None:
        yield from _inherited(project, path, function.cls, function.name, 0)


def _inherited(project: Project, path: str, cls: Class, name: str, depth: int) -> Iterator[tuple[Semantics, Event]]:
    """Where a base class of another file calls its method of that name, which this class overrides."""
    sem = project.semantics(path)
    for base in sem.names.roots(cls) if sem is not None and depth < _DEPTH else ():
        found = project.find(path, base)
        if found is None or found.cls is None:
            continue
        for above in found.sem.names.mro(found.cls):
            for method in above.methods.values():
                for event in found.sem.call_sites(method) if method.name == name else ():
                    yield found.sem, event
                for event in found.sem.events(method, Effect.CALL):
                    if event.subject == f"self.{name}" and event.via is None:
                        yield found.sem, event
        yield from _inherited(project, found.path, found.cls, name, depth + 1)
