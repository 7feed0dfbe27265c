"""Which training loops of the project call a function in every step, with tensors on a GPU: the answer that the file
of the function cannot give.

Looked for in the files that train and in those that they import from; calls are followed up through functions that make
them whenever they are called, and modules through those that they are part of.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import dotted, walk
from torchlint.semantics.calls import bind_arguments
from torchlint.semantics.consumers import finder, imported
from torchlint.semantics.effects import Effect, Event
from torchlint.semantics.elements import sources
from torchlint.semantics.handed import is_step
from torchlint.semantics.kinds import Kind
from torchlint.semantics.loops import TrainingLoop
from torchlint.semantics.made import Made, Scope, Tracer
from torchlint.semantics.modes import calls_by_name
from torchlint.semantics.names import OWN, Class, Function
from torchlint.semantics.syncs import (
    HOST,
    asks_world,
    differentiated_or_computed,
    every_turn,
    is_host_batch,
    measures,
    over_batches,
    root_of,
    step_syncs,
    uses_gpu,
)
from torchlint.semantics.transfers import device_may_be_cuda
from torchlint.semantics.unit_tests import holds_unit_tests

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics
    from torchlint.semantics.project import Definition, Project

_DEPTH = 3
_MOST_FILES = 40  # a project with more files that train is a library, of which nobody uses all at once


def not_waited_for(project: Project, path: str, subject: str) -> bool:
    """Whether no training loop of another file is known to call the function in every step (`~.accuracy@out,y`: with
    something on a GPU for one of these)."""
    return not _steps(project, path, subject)


def waited_for_alone(project: Project, path: str, subject: str) -> bool:
    """Whether the loops that call it wait for nothing else."""
    return all(lone for _, lone in _steps(project, path, subject))


def waited_for_besides(project: Project, path: str, subject: str) -> bool:
    return not waited_for_alone(project, path, subject)


def _steps(project: Project, path: str, subject: str) -> list[tuple[str, bool]]:
    """The files of the loops that call the function in each step, with whether nothing else there waits."""
    if (path, subject) not in project.steps:
        project.steps[path, subject] = []
        own, _, params = subject.removeprefix(OWN).partition("@")
        if params and path not in _reachable(project, path):
            return []
        found: dict[int, tuple[str, bool]] = {}
        with project.comparing():
            for sem, loop in _loops(project, path, own, frozenset(filter(None, params.split(","))), 0):
                found[id(loop.node)] = (sem.file.path, not step_syncs(sem, loop))
        project.steps[path, subject] = list(found.values())
    return project.steps[path, subject]


def _loops(
    project: Project, path: str, own: str, given: frozenset[str], depth: int
) -> Iterator[tuple[Semantics, TrainingLoop]]:
    sem = project.semantics(path)
    function = sem.names.functions.get(own) if sem is not None else None
    if sem is None or function is None:
        return
    by_itself = not given and is_step(sem, function)
    for there, site in calls_of(project, path, sem, function, by_itself):
        if site.grad.off or not isinstance(site.node, cst.Call):
            continue
        args = _handed(function, site.node)
        loop = _step_around(there, site, by_itself)
        if loop is not None:
            if os.path.abspath(there.file.path) == path and depth == 0:
                continue
            gpu = uses_gpu(there) or (by_itself and uses_gpu(sem))
            if gpu and (by_itself or _on_gpu(there, loop, site, function, args, given)):
                yield there, loop
        elif depth < _DEPTH and site.function.qualname and every_turn(there, site.function.node, site):
            above = frozenset() if by_itself else _passed_on(site.function, args, given, function.name == "forward")
            if above or (by_itself and not is_step(there, site.function)):
                yield from _loops(project, os.path.abspath(there.file.path), site.function.qualname, above, depth + 1)


def _handed(function: Function, call: cst.Call) -> dict[str, cst.BaseExpression]:
    bound = function.is_method and (isinstance(call.func, cst.Attribute) or function.name in ("forward", "__call__"))
    return {name: arg.value for name, arg in bind_arguments(function, call, bound).items()}


def _passed_on(
    caller: Function, args: dict[str, cst.BaseExpression], given: frozenset[str], whole: bool
) -> frozenset[str]:
    """The caller's parameters that end up in the given ones; all of them where a module computes with what it gets."""
    own = caller.params[1:] if caller.is_method else caller.params
    if whole or caller.name == "forward":
        return frozenset(own)
    bound = sources(caller)
    wanted = [n.value for p in given if p in args for n in _names(args[p])]
    seen = set(wanted)
    while wanted:
        for source in bound.get(wanted.pop(), ()):
            for n in _names(source):
                if n.value not in seen:
                    seen.add(n.value)
                    wanted.append(n.value)
    return frozenset(own) & seen


def _names(node: cst.CSTNode) -> list[cst.Name]:
    return [n for n in walk(node) if isinstance(n, cst.Name)]


# -- loops ----------------------------------------------------------------------------------------------------------


def _step_around(sem: Semantics, site: Event, by_itself: bool) -> TrainingLoop | None:
    """The training loop of which every turn makes the call; for a step of its own any loop over batches."""
    if measures(site.function, sem.file.path) or holds_unit_tests(sem):
        return None
    for loop in sem.objects(TrainingLoop):
        if loop.function is site.function and site.within(loop.node) and every_turn(sem, loop.node, site):
            return loop if over_batches(sem, loop) and not asks_world(loop) else None
    if by_itself and site.loops and every_turn(sem, site.loops[-1], site):
        events = tuple(e for e in sem.events(site.function) if e.within(site.loops[-1]))
        made = TrainingLoop(site.loops[-1], site.function, events, tuple(reversed(site.loops[:-1])))
        fed = over_batches(sem, made) or _hands_on(site, site.loops[-1])
        return made if fed and not asks_world(made) else None
    return None


def _hands_on(site: Event, loop: cst.For | cst.While) -> bool:
    """Whether the call is given what the loop goes over, all that each turn of it is about."""
    if not isinstance(loop, cst.For) or not isinstance(site.node, cst.Call):
        return False
    targets = {n.value for n in _names(loop.target)}
    return any(n.value in targets for arg in site.node.args for n in _names(arg.value)) and (
        isinstance(loop.target, cst.Tuple) or not isinstance(loop.iter, cst.Call) or dotted(loop.iter.func) != "range"
    )


def _on_gpu(
    sem: Semantics,
    loop: TrainingLoop,
    site: Event,
    function: Function,
    args: dict[str, cst.BaseExpression],
    given: frozenset[str],
) -> bool:
    """Whether what the call hands over for one of the given parameters lies on a GPU, and nothing of it on the host."""
    verdicts = [_lies_on_gpu(sem, site, args[p]) for p in sorted(given) if p in args]
    if any(v is False for v in verdicts):
        return False
    return any(verdicts) or (site.effect is Effect.FORWARD and bool(args))


def _lies_on_gpu(sem: Semantics, site: Event, node: cst.BaseExpression) -> bool | None:
    """True for a tensor that may, False for what is known to be on the host, None for what is not known."""
    if HOST.search(sem.file.code(node)):
        return False
    value = sem.value(node)
    parts = [v for v in (*(value.items or ()), value.element) if v is not None]
    for part in (value, *parts):
        if part.device not in ("", "?") and not device_may_be_cuda(sem, part.device):
            return False
    if value.kind is Kind.NDARRAY or (value.device in ("", "?") and is_host_batch(sem, root_of(node))):
        return False
    if value.is_tensor or value.kind is Kind.BATCH or any(v.is_tensor or v.kind is Kind.BATCH for v in parts):
        return True
    if value.kind is Kind.UNKNOWN and isinstance(node, cst.Name) and differentiated_or_computed(sem, site, node.value):
        return True
    return None


# -- calls ----------------------------------------------------------------------------------------------------------


def calls_of(
    project: Project, path: str, sem: Semantics, function: Function, anywhere: bool
) -> Iterator[tuple[Semantics, Event]]:
    """The calls of a function in its own file and in those that may train with it."""
    if function.name == "forward" and function.cls is not None:
        yield from _forwards(project, path, function, function.cls)
        return
    for site in sem.call_sites(function):
        yield sem, site
    alone: bool | None = None
    for other in project.neighbours(path) if anywhere else _training_files(project, path):
        if other == path or function.name not in project.called_in(other):
            continue
        there = project.semantics(other)
        if there is None:
            continue
        for event in there.once(calls_by_name).get(function.name, ()):
            found = [f for t in _targets(there, event) if (f := project.find(other, t)) is not None]
            if found or function.cls is None:
                if any(_is(f, path, function) for f in found):
                    yield there, event
            elif "." in event.subject:
                alone = _means_it(project, path, function.name, anywhere) if alone is None else alone
                if alone:
                    yield there, event


def _targets(sem: Semantics, event: Event) -> list[str]:
    """What the call may reach: with several star imports any of them may bring the name."""
    if not event.target.startswith("?.") or "." in event.subject:
        return [event.target]
    return [(star if star.endswith(".") else star + ".") + event.subject for star in sem.names.stars]


def _is(found: Definition | None, path: str, function: Function) -> bool:
    return (
        found is not None
        and found.path == path
        and found.function is not None
        and found.function.qualname == function.qualname
    )


def _means_it(project: Project, path: str, name: str, is_step: bool) -> bool:
    """Whether a call of a method of that name on an unknown object can mean this one: no other of the project has it,
    none of Python's, and for a step of its own all others that have it train, too, or are there to be overridden."""
    if len(name) < 5 or name in _COMMON:
        return False
    pattern = re.compile(rf"\bdef {re.escape(name)}\b")
    others = 0
    for text in map(project.text, project.neighbours(path)):
        for match in pattern.finditer(text) if name in text else ():
            others += 1
            trains = "backward(" in text or f").{name}(" in text  # itself, or by what it is derived from
            if is_step and not (trains or _ABSTRACT.search(text, match.end(), match.end() + 200)):
                return False
    return is_step or others == 1


_ABSTRACT = re.compile(r"\bpass\b|NotImplemented")
_COMMON = frozenset(dir(list)).union(dir(dict), dir(str), dir(set), "train step train_step forward".split())


def _forwards(project: Project, path: str, function: Function, cls: Class) -> Iterator[tuple[Semantics, Event]]:
    """The calls of modules that run this forward, where the class is named: made, or put into a table of classes."""
    pattern = re.compile(rf"\b{re.escape(cls.qualname.rpartition('.')[2])}\b")
    for other in dict.fromkeys((*_training_files(project, path), path)):
        if not pattern.search(project.text(other)):
            continue
        there = project.semantics(other)
        if there is None:
            continue
        tracer = Tracer(finder(project))
        tabled = other != path and _in_table(project, there, other, path, function)
        for caller in there.functions:
            for event in there.events(caller, Effect.FORWARD):
                if event.via is not None or not isinstance(event.node, cst.Call):
                    continue
                made = [m for m in tracer.made(event.node.func, Scope(there, caller)) if m.cls is not None]
                unknown = not made and not event.value.origin.startswith(("torch.", OWN))
                if (tabled and unknown) or any(_runs(project, m, path, function) for m in made):
                    yield there, event


def _runs(project: Project, made: Made | Definition, path: str, function: Function) -> bool:
    """Whether the class's forward is this one, its own or one that it inherits."""
    if made.cls is None:
        return False
    return _is(project.find(os.path.abspath(made.sem.file.path), f"{made.cls.own}.forward"), path, function)


def _in_table(project: Project, sem: Semantics, other: str, path: str, function: Function) -> bool:
    """Whether the file has a table of classes to choose the model from, with this one in it: `{"ram": RAM, …}`."""
    for table in sem.file.all(cst.Dict):
        values = [e.value for e in table.elements if isinstance(e, cst.DictElement)]
        for value in values if len(values) > 1 else ():
            name = sem.qualified(value) if isinstance(value, (cst.Name, cst.Attribute)) else None
            found = project.find(other, name) if name is not None else None
            if found is not None and _runs(project, found, path, function):
                return True
    return False


def _reachable(project: Project, path: str) -> set[str]:
    """The files that those which may train import from, directly or through one more."""
    root = project.root(path)
    if root not in project.reachable:
        group = _training_files(project, path)
        project.reachable[root] = {*group, *(p for each in group for p in imported(project, each))}
    return project.reachable[root]


def _training_files(project: Project, path: str) -> list[str]:
    """The files that may train and those that they import from."""
    root = project.root(path)
    if root not in project.training:
        training = [p for p in project.neighbours(path) if "backward(" in project.text(p)]
        group = dict.fromkeys(training if len(training) <= _MOST_FILES else ())
        for each in list(group):
            group.update(dict.fromkeys(imported(project, each)))
        project.training[root] = list(group)
    return project.training[root]
