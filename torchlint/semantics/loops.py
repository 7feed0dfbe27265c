"""The loops that train, the regions that evaluate, the calls that load: recognised once, with their parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.nodes import dotted
from torchlint.semantics.effects import Effect, Event, Guard
from torchlint.semantics.kinds import UNKNOWN, Kind, Value
from torchlint.semantics.names import Function

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

Loop = cst.For | cst.While


@dataclass(frozen=True, eq=False)
class TrainingLoop:
    """The innermost loop in which gradients are computed and applied.

    `events`: everything that happens in one turn, in order. `outer`: the loops around it in the same function,
    innermost first. A step function that a framework calls per iteration has `node` = its FunctionDef.
    """

    node: Loop | cst.FunctionDef = field(repr=False)
    function: Function
    events: tuple[Event, ...] = field(repr=False)
    outer: tuple[Loop, ...] = field(default=(), repr=False)
    before: tuple[Event, ...] = field(default=(), repr=False)  # the function's events ahead of the loop
    after: tuple[Event, ...] = field(default=(), repr=False)  # … and behind it

    def of(self, *effects: Effect) -> list[Event]:
        return [e for e in self.events if e.effect in effects]

    def guards(self, event: Event) -> tuple[Guard, ...]:
        """The ifs between the loop and the event."""
        return event.guards_in(self.node)


@dataclass(frozen=True, eq=False)
class EvalRegion:
    """A stretch of code that runs a model forward and never backward.

    `node`: the loop or the function whose body it is. `forwards`: the model calls in it. `evidence`: why it is taken
    for evaluation: "eval" (the model was put into eval mode), "no_grad" (recording is off), "loader" (it goes over
    data and keeps only numbers), "name" (the function's name says so, and it keeps only numbers), "loaded" (the
    weights come from a file, nothing in the source trains, and only numbers are kept).
    """

    node: Loop | cst.FunctionDef = field(repr=False)
    function: Function
    forwards: tuple[Event, ...] = field(repr=False)
    evidence: str
    events: tuple[Event, ...] = field(default=(), repr=False)
    mode: str = "unknown"  # of the model when it runs: "eval", "train", "mixed" (callers differ), "unknown"
    escapes: tuple[cst.CSTNode, ...] = field(default=(), repr=False)  # where a value with a graph leaves the region
    unless: tuple[Question, ...] = ()


@dataclass(frozen=True, eq=False)
class LoaderCall:
    """A call that makes a DataLoader. `given`: the keywords it surely passes, `**dict` resolved where the dict is
    known; `open`: it may pass more than is known."""

    node: cst.Call = field(repr=False)
    function: Function
    value: Value
    given: dict[str, cst.BaseExpression | None] = field(repr=False)
    open: bool
    targets: tuple[str, ...] = ()  # the names it is bound to


def recognise(sem: Semantics, kind: type) -> list[object]:
    """All objects of one semantic class. Raises KeyError for a class that is none."""
    from torchlint.semantics.datasets import DatasetClass, dataset_classes
    from torchlint.semantics.evaluation import eval_regions
    from torchlint.semantics.lossflow import LossInput, ModuleOutput, loss_inputs, module_outputs

    recognisers = {
        TrainingLoop: training_loops,
        EvalRegion: eval_regions,
        LoaderCall: loader_calls,
        DatasetClass: dataset_classes,
        LossInput: loss_inputs,
        ModuleOutput: module_outputs,
    }
    return list(recognisers[kind](sem))


# -- training ---------------------------------------------------------------------------------------------------------


def training_loops(sem: Semantics) -> Iterator[TrainingLoop]:
    for function in sem.functions:
        events = sem.events(function)
        seen: list[Loop] = []
        for step in events:
            if step.effect is not Effect.STEP or step.inner_loop:
                continue
            for loop in reversed(step.loops):
                inside = [e for e in events if e.within(loop)]
                if any(e.effect is Effect.BACKWARD for e in inside):
                    if not any(loop is s for s in seen):
                        seen.append(loop)
                        yield _training_loop(function, loop, events, step.loops)
                    break
    for function in sem.functions:
        if isinstance(function.node, cst.FunctionDef) and _is_framework_step(sem, function):
            events = sem.events(function)
            if any(e.effect is Effect.BACKWARD for e in events) and any(e.effect is Effect.STEP for e in events):
                yield TrainingLoop(function.node, function, tuple(events))


def _training_loop(function: Function, loop: Loop, events: list[Event], loops: tuple[Loop, ...]) -> TrainingLoop:
    inside = [i for i, e in enumerate(events) if e.within(loop)]
    depth = next(i for i, item in enumerate(loops) if item is loop)
    return TrainingLoop(
        loop,
        function,
        tuple(events[i] for i in inside),
        tuple(reversed(loops[:depth])),
        tuple(e for i, e in enumerate(events) if i < inside[0] and not e.within(loop)),
        tuple(e for i, e in enumerate(events) if i > inside[-1] and not e.within(loop)),
    )


def _is_framework_step(sem: Semantics, function: Function) -> bool:
    """Whether the function is handed to an engine that calls it once per batch (Ignite's `Engine(update)`)."""
    return any(
        name.endswith(".Engine") and ".ignite.engine." in f".{name}"
        for name, _ in sem.evaluator.callbacks.get(function, ())
    )


# -- guards -----------------------------------------------------------------------------------------------------------


def accumulation_steps(guard: Guard) -> cst.BaseExpression | None:
    """The N of `if (i + 1) % N == 0:` (or `if i % N == N - 1`, `if not i % N`, `or last`), else None.

    Only a guard that lets every N-th turn through counts: `% N != 0` with the event in its body does not.
    """
    modulus = accumulation_modulus(guard)
    return None if modulus is None else modulus.right


def accumulation_modulus(guard: Guard) -> cst.BinaryOperation | None:
    """The `(i + 1) % N` of such a guard, else None."""
    return modulus_in(guard.test, guard.taken)


def modulus_in(test: cst.BaseExpression, taken: bool) -> cst.BinaryOperation | None:
    if isinstance(test, cst.BooleanOperation):
        for side in (test.left, test.right):
            found = modulus_in(side, taken)
            if found is not None:
                return found
        return None
    if isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
        return modulus_in(test.expression, not taken)
    if isinstance(test, cst.Comparison) and len(test.comparisons) == 1:
        operator = test.comparisons[0].operator
        equal = isinstance(operator, cst.Equal)
        if isinstance(operator, (cst.Equal, cst.NotEqual)):
            if equal is not taken:
                return None
            for side in (test.left, test.comparisons[0].comparator):
                if isinstance(side, cst.BinaryOperation) and isinstance(side.operator, cst.Modulo):
                    return side
        return None
    if isinstance(test, cst.BinaryOperation) and isinstance(test.operator, cst.Modulo) and not taken:
        return test
    return None


# -- loaders ----------------------------------------------------------------------------------------------------------


def loader_calls(sem: Semantics) -> Iterator[LoaderCall]:
    for call in sem.evaluator.function_at:  # every call that was evaluated
        value = sem.value(call)
        if value.kind is not Kind.LOADER or value.node is not call or not value.origin:
            continue
        yield loader_call(sem, call, value)


def loader_call(sem: Semantics, call: cst.Call, value: Value) -> LoaderCall:
    """What a call passes that makes a loader, or a thing derived from one."""
    given: dict[str, cst.BaseExpression | None] = {}
    is_open = False
    for arg in call.args:
        if arg.star == "**":
            passed = sem.value(arg.value)
            inner = passed.keys
            if inner is None:
                is_open = True
            for key in inner or ():
                given[str(key)] = None
            if _grown_later(sem, arg.value):
                is_open = True
        elif arg.star == "*":
            is_open = True
        elif arg.keyword is not None:
            given[arg.keyword.value] = arg.value
    targets = []
    parent = sem.file.parent(call)
    if isinstance(parent, cst.Assign):
        targets = [t for target in parent.targets if (t := dotted(target.target)) is not None]
    return LoaderCall(call, sem.function(call), value, given, is_open, tuple(targets))


def _grown_later(sem: Semantics, node: cst.BaseExpression) -> bool:
    """Whether a dict gets more keys by `d[k] = …` or `d.update(…)` somewhere in the function or module."""
    name = dotted(node)
    if name is None:
        return False
    for n in sem.file.nodes:
        if isinstance(n, cst.AssignTarget) and isinstance(n.target, cst.Subscript) and dotted(n.target.value) == name:
            return True
        if (
            isinstance(n, cst.Call)
            and isinstance(n.func, cst.Attribute)
            and n.func.attr.value in ("update", "setdefault")
            and dotted(n.func.value) == name
        ):
            return True
    return False


__all__ = ["UNKNOWN", "EvalRegion", "LoaderCall", "Loop", "TrainingLoop", "accumulation_steps", "recognise"]
