"""What the losses of a file are given: each loss call with the activation that was applied last to its input.

A loss may hide in a dict, an attribute, a function or a Module of the project's own; what is passed in there is
followed to the call that passes it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import argument, literal
from torchlint.semantics.kinds import Kind
from torchlint.semantics.made import DEPTH, Find, Made, Scope, Sites
from torchlint.semantics.names import Class, Function
from torchlint.semantics.origins import is_module
from torchlint.semantics.outputs import End, Outputs, same_activation
from torchlint.semantics.reaching import Path, Reaching

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

# Loss → what its input must be. The rest of the losses do not mind.
LOSSES = {
    "torch.nn.CrossEntropyLoss": "cross_entropy",
    "torch.nn.functional.cross_entropy": "cross_entropy",
    "torch.nn.NLLLoss": "nll",
    "torch.nn.NLLLoss2d": "nll",
    "torch.nn.functional.nll_loss": "nll",
    "torch.nn.functional.nll_loss2d": "nll",
    "torch.nn.BCEWithLogitsLoss": "bce_with_logits",
    "torch.nn.functional.binary_cross_entropy_with_logits": "bce_with_logits",
    "torch.nn.BCELoss": "bce",
    "torch.nn.functional.binary_cross_entropy": "bce",
}
_HOLDS_LOSS = re.compile(r"Loss|Criterion|loss|criterion|^functools.partial$")


@dataclass(frozen=True, eq=False)
class LossInput:
    """The input of a loss, at the call in this file that gives it: of the loss itself, or of a function that passes it
    on to `loss_call`. `made`: the call that makes the loss, where this file has it."""

    call: cst.Call = field(repr=False)
    loss: str
    argument: cst.BaseExpression = field(repr=False)
    ends: tuple[End, ...] = field(repr=False)
    activation: str | None
    function: Function = field(repr=False)
    loss_call: cst.Call = field(repr=False)
    made: tuple[Made, ...] = field(default=(), repr=False)

    @property
    def direct(self) -> bool:
        return self.call is self.loss_call


@dataclass(frozen=True, eq=False)
class ModuleOutput:
    """A Module of this file one of whose outputs always ends in an activation; `end` is in the Module's own code."""

    cls: Class
    activation: str
    end: End = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Given:
    """An expression that a call passes into a loss, or (`parameter`) what a function passes on."""

    loss: str
    loss_call: cst.Call
    made: tuple[Made, ...]
    expression: cst.BaseExpression | None = None
    scope: Scope | None = None
    parameter: str = ""
    path: Path = ()


def _calls_by_function(sem: Semantics) -> dict[Function, list[cst.Call]]:
    table: dict[Function, list[cst.Call]] = {}
    for call, function in sem.evaluator.function_at.items():
        table.setdefault(function, []).append(call)
    return table


class Losses(Outputs):
    """A tracer that finds what calls pass into losses."""

    def __init__(self, find: Find | None = None, sites: Sites | None = None) -> None:
        super().__init__(find, sites)
        self._passed_on: dict[Function, list[_Given]] = {}

    def inputs(self, sem: Semantics) -> Iterator[LossInput]:
        """The inputs of all losses that the file's calls feed."""
        for function, calls in sem.once(_calls_by_function).items():
            scope = Scope(sem, function)
            for call in calls:
                for given in self.given(call, scope):
                    if given.expression is None or given.scope is None:
                        continue
                    ends = tuple(self.ends(given.expression, given.scope, given.path))
                    yield LossInput(
                        call,
                        given.loss,
                        given.expression,
                        ends,
                        same_activation(ends),
                        function,
                        given.loss_call,
                        given.made,
                    )

    def given(self, call: cst.Call, scope: Scope, depth: int = 0) -> list[_Given]:
        """What the call passes into losses, by itself or through the function that it calls."""
        if not call.args or depth > DEPTH // 2:
            return []
        sem = scope.sem
        name = sem.names.qualify(call.func, scope.function)
        if name in LOSSES:
            return _direct(call, LOSSES[name], (), scope) if name.startswith("torch.nn.functional.") else []
        if name is not None and name.startswith(("torch.", "numpy.")):
            return []
        own = self._own(call, name, scope)
        if own is not None:
            return self._through(call, own[1], own[0].sem, scope, own[1].is_method, depth)
        if name is None and not self._may_be_loss(call, scope):
            return []
        for called, _ in self.names_of(call.func, scope):
            if called in LOSSES and called.startswith("torch.nn.functional."):
                return _direct(call, LOSSES[called], (), scope)
        taken = [self._taken_by(made, call, scope, depth) for made in self.object_called(call, scope)]
        if any(not given for given in taken) or len({given[0].loss for given in taken}) > 1:
            return []  # which of them it is, and what that one wants, is decided when the program runs
        return taken[0] if taken else []

    def _taken_by(self, made: Made, call: cst.Call, scope: Scope, depth: int) -> list[_Given]:
        """What the call passes into a loss if this is the object that it calls."""
        loss = self._loss_of(made, depth)
        if loss is not None:
            return _direct(call, loss, (made,), scope)
        if made.cls is not None:
            forward = made.sem.names.method(made.cls, "forward") or made.sem.names.method(made.cls, "__call__")
            if forward is not None:
                return self._through(call, forward, made.sem, scope, True, depth)
        return []

    def _may_be_loss(self, call: cst.Call, scope: Scope) -> bool:
        kind = scope.sem.value(call.func).kind
        if kind is Kind.LOSS_FN:
            return True
        return len(call.args) > 1 and kind in (Kind.UNKNOWN, Kind.MODULE, Kind.OBJECT, Kind.FUNCTION)

    def _loss_of(self, made: Made, depth: int = 0) -> str | None:
        """The loss that an object is, or holds: `DPLoss(model, nn.CrossEntropyLoss())` calls what it is given."""
        if made.name in LOSSES:
            return LOSSES[made.name]
        if made.cls is not None:
            names = made.sem.names
            if names.method(made.cls, "forward") is None:
                return next((LOSSES[r] for r in names.roots(made.cls) if r in LOSSES), None)
            return None
        if made.node is None or depth > 3 or not _HOLDS_LOSS.search(made.name):
            return None
        for arg in made.node.args:
            for name, _ in self.names_of(arg.value, made.scope):
                if name in LOSSES:
                    return LOSSES[name]
            for inner in self.made(arg.value, made.scope):
                if inner.node is not made.node and (loss := self._loss_of(inner, depth + 1)) is not None:
                    return loss
        return None

    def _through(
        self, call: cst.Call, callee: Function, there: Semantics, scope: Scope, bound_method: bool, depth: int
    ) -> list[_Given]:
        result = []
        bound = self.bind(callee, call, scope, bound_method=bound_method)
        for given in self.passed_on(callee, there, depth):
            if given.parameter in bound:
                expression, where = bound[given.parameter]
                result.append(_Given(given.loss, given.loss_call, given.made, expression, where, "", given.path))
        return result

    def passed_on(self, function: Function, sem: Semantics, depth: int = 0) -> list[_Given]:
        """The parameters that the function passes into losses as they are."""
        if function not in self._passed_on:
            self._passed_on[function] = []
            scope = Scope(sem, function)
            found = []
            for call in sem.once(_calls_by_function).get(function, ()):
                for given in self.given(call, scope, depth + 1):
                    if given.scope is None or given.scope.function is not function:
                        continue
                    ends = self.ends(given.expression, given.scope, given.path)
                    names = {(e.name, e.path) for e in ends if e.kind == "parameter"}
                    if len(names) == 1 and all(e.kind == "parameter" for e in ends):
                        parameter, path = names.pop()
                        found.append(_Given(given.loss, given.loss_call, given.made, None, None, parameter, path))
            self._passed_on[function] = found
        return self._passed_on[function]


def _direct(call: cst.Call, loss: str, made: tuple[Made, ...], scope: Scope) -> list[_Given]:
    given = argument(call, "input", 0)
    return [_Given(loss, call, made, given.value, scope)] if given is not None and not given.star else []


def loss_inputs(sem: Semantics) -> Iterator[LossInput]:
    """What this file gives to losses, each place once."""
    yield from Losses().inputs(sem)


def is_first(sem: Semantics, given: LossInput, end: End, losses: Collection[str]) -> bool:
    """Whether no earlier input of such a loss ends in the same activation: several calls of a model meet one layer."""
    for other in sem.objects(LossInput):
        if other.loss in losses and any(e.node is end.node for e in other.ends):
            return other is given
    return True


def meets(sem: Semantics, output: ModuleOutput, losses: Collection[str]) -> bool:
    """Whether a loss of the Module's own file is given that output."""
    return any(g.loss in losses and any(e.node is output.end.node for e in g.ends) for g in sem.objects(LossInput))


def module_outputs(sem: Semantics) -> Iterator[ModuleOutput]:
    """The Modules of this file with an output that ends in an activation of their own."""
    tracer = Outputs()
    for cls in sem.classes:
        forward = cls.methods.get("forward")
        if forward is None or not is_module(sem.names, cls):
            continue
        scope = Scope(sem, forward, Made(cls.own, None, Scope(sem, sem.names.module), sem, cls))
        for path in _paths(sem.reaching(forward)):
            ends = tracer.returned_ends(scope, forward, path)
            activation = same_activation(ends)
            if activation is None:
                continue
            for end in ends:
                if end.scope is not None and any(end.scope.function is m for m in cls.methods.values()):
                    yield ModuleOutput(cls, activation, end)


def _paths(forward: Reaching) -> list[Path]:
    """The items of what a forward returns: those of its displays, else the one result."""
    result: dict[Path, None] = {}
    for returned in forward.returned:
        if isinstance(returned, cst.Tuple):
            result.update({(i,): None for i in range(len(returned.elements))})
        elif isinstance(returned, cst.Dict):
            keys = [literal(e.key) for e in returned.elements if isinstance(e, cst.DictElement)]
            result.update({(key,): None for key in keys if isinstance(key, (str, int))})
        elif returned is not None:
            result[()] = None
    return list(result)
