"""Where a value loses its autograd graph on the way to `backward()`: `.item()`, `.detach()`, `torch.tensor(t)`, numpy.

Parts of a value that lose their graph are everyday (a detached target, a reported number): what counts is that nothing
with a graph is left. So every way to the value is followed, and one that is not understood ends the question.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import libcst as cst

from torchlint.nodes import argument, dotted, literal
from torchlint.semantics.kinds import Graph, Kind
from torchlint.semantics.knowledge import is_loss_function
from torchlint.semantics.made import Scope, Tracer
from torchlint.semantics.reaching import Definition, Path

# Calls that make a new tensor from values alone, whatever graph the argument had.
_COPYING = frozenset(
    f"torch.{n}" for n in "tensor Tensor FloatTensor DoubleTensor HalfTensor from_numpy autograd.Variable".split()
) | {"numpy.array", "numpy.asarray", "numpy.mean", "numpy.sum", "float", "int"}
_CUTTING = frozenset("item tolist numpy detach detach_ argmax".split())
_CONSTANT = (cst.Integer, cst.Float, cst.SimpleString, cst.Comparison)


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """`alive`: carries a graph; `cut`: carried one up to `node`; `none`: never had one; `unknown`."""

    kind: Literal["alive", "cut", "none", "unknown"]
    node: cst.BaseExpression | None = field(default=None, repr=False)


_ALIVE, _NONE, _UNKNOWN = State("alive"), State("none"), State("unknown")


class Graphs(Tracer):
    """A tracer that knows whether a graph is left."""

    def state(self, node: cst.BaseExpression | None, scope: Scope, path: Path = (), depth: int = 0) -> State:
        """Whether the value (the item at `path`) carries a graph, and where it lost it if it does not."""
        if node is None or not self.may_go_on(depth):
            return _UNKNOWN
        if isinstance(node, _CONSTANT) or (isinstance(node, cst.Name) and literal(node) is not ...):
            return _NONE
        if isinstance(node, cst.Call):
            return self._call(node, scope, path, depth)
        if isinstance(node, cst.BinaryOperation):
            return combined(self.state(n, scope, (), depth + 1) for n in (node.left, node.right))
        if isinstance(node, cst.UnaryOperation):
            return self.state(node.expression, scope, path, depth + 1)
        if isinstance(node, cst.IfExp):
            return combined(self.state(n, scope, path, depth + 1) for n in (node.body, node.orelse))
        if isinstance(node, (cst.List, cst.Tuple)):
            return self._display(node, scope, path, depth)
        if isinstance(node, (cst.ListComp, cst.GeneratorExp)):
            return self.state(node.elt, scope, (), depth + 1)
        definitions = self.definitions(node, scope)
        if definitions:
            return combined(self._defined(d, there, path, depth) for d, there in definitions)
        if isinstance(node, cst.Attribute) and node.attr.value == "data":
            return _cut(self.state(node.value, scope, path, depth + 1), node)
        if isinstance(node, cst.Subscript):
            return self.state(node.value, scope, path, depth + 1)
        return self._by_kind(node, scope)

    def _display(self, node: cst.List | cst.Tuple, scope: Scope, path: Path, depth: int) -> State:
        if path and isinstance(path[0], int) and path[0] < len(node.elements):
            return self.state(node.elements[path[0]].value, scope, path[1:], depth + 1)
        return combined(self.state(e.value, scope, (), depth + 1) for e in node.elements)

    def _defined(self, definition: Definition, scope: Scope, path: Path, depth: int) -> State:
        if definition.kind == "value":
            return self.state(definition.node, scope, (*definition.path, *path), depth + 1)
        if definition.kind in ("changed", "grown"):
            before = [self._defined(d, scope, path, depth + 1) for d in definition.before]
            return combined([*before, self.state(definition.node, scope, (), depth + 1)])
        if definition.kind == "loop":
            return self.state(definition.node, scope, (), depth + 1)
        if definition.kind == "parameter" and scope.bound is not None and definition.name in scope.bound:
            given, there = scope.bound[definition.name]
            return self.state(given, there, path, depth + 1)
        return _UNKNOWN

    def _by_kind(self, node: cst.BaseExpression, scope: Scope) -> State:
        value = scope.sem.value(node)
        if value.kind in (Kind.TENSOR, Kind.PARAMETER, Kind.BATCH) and value.graph is not Graph.UNKNOWN:
            return _ALIVE if value.graph is Graph.ATTACHED else _NONE
        return _NONE if value.kind in (Kind.NUMBER, Kind.NDARRAY, Kind.LOADER) else _UNKNOWN

    def _call(self, node: cst.Call, scope: Scope, path: Path, depth: int) -> State:
        sem, func = scope.sem, node.func
        name = sem.names.qualify(func, scope.function) or (func.value if isinstance(func, cst.Name) else "")
        args = [a.value for a in node.args if a.keyword is None]
        if name in _COPYING and args:
            inner = self.state(args[0], scope, (), depth + 1)
            asked = argument(node, "requires_grad")
            if inner.kind == "none" and asked is not None and literal(asked.value) is not False:
                return _ALIVE  # a leaf that is to be differentiated
            return _cut(inner, node)
        if isinstance(func, cst.Attribute) and not name:
            attr = func.attr.value
            if attr in ("eval", "train", "parameters"):
                return _UNKNOWN
            if self.made(func, scope):
                return self._by_kind(node, scope)  # a module or loss kept as an attribute
            kind = sem.value(func.value).kind
            if attr in _CUTTING and kind not in (Kind.MODULE, Kind.OBJECT):
                return _cut(self.state(func.value, scope, path, depth + 1), node)
            if attr == "requires_grad_":
                inner = self.state(func.value, scope, path, depth + 1)
                return _ALIVE if inner.kind == "none" or _is_new_leaf(func.value) else inner
            if kind in (Kind.TENSOR, Kind.BATCH, Kind.NUMBER, Kind.NDARRAY):
                values = [func.value, *(a.value for a in node.args)]
                return combined(self.state(v, scope, (), depth + 1) for v in values)
        if is_loss_function(name) or sem.value(func).kind is Kind.LOSS_FN:
            return combined(self._loss_argument(a.value, i, scope, depth) for i, a in enumerate(node.args))
        if name.startswith(("torch.", "numpy.")) or name in ("sum", "max", "min", "abs"):
            asked = argument(node, "requires_grad")
            if asked is not None and literal(asked.value) is not False:
                return _ALIVE
            return combined(self.state(a.value, scope, (), depth + 1) for a in node.args)
        callee = sem.value(func)
        if callee.kind is Kind.MODULE:
            return self._by_kind(node, scope)
        own = sem.callee(node)
        if own is not None and not own.is_method:
            inside = Scope(sem, own, None, self.bind(own, node, scope, bound_method=False))
            returned = [r for r in sem.reaching(own).returned if r is not None]
            return combined(self.state(r, inside, path, depth + 1) for r in returned) if returned else _UNKNOWN
        value = sem.value(node)
        return _ALIVE if value.graph is Graph.ATTACHED else _UNKNOWN

    def _loss_argument(self, node: cst.BaseExpression, position: int, scope: Scope, depth: int) -> State:
        """A loss's argument; a target that comes from outside as it is (a parameter, a loop's item) is data."""
        state = self.state(node, scope, (), depth + 1)
        if position and state.kind == "unknown" and isinstance(node, cst.Name):
            if all(d.kind in ("loop", "parameter") for d, _ in self.definitions(node, scope)):
                return _NONE
        return state


def combined(states: Iterable[State]) -> State:
    """What is made from values in these states: a graph if any has one; the first cut if none has and one had."""
    result = _NONE
    unknown = False
    for state in states:
        if state.kind == "alive":
            return _ALIVE
        unknown = unknown or state.kind == "unknown"
        if state.kind == "cut" and result.kind == "none":
            result = state
    return _UNKNOWN if unknown else result


def _cut(inner: State, node: cst.BaseExpression) -> State:
    """The state behind a call that leaves no graph, whatever went in."""
    if inner.kind == "alive":
        return State("cut", node)
    return _NONE if inner.kind == "unknown" else inner


def severed(graphs: Graphs, root: cst.BaseExpression, scope: Scope) -> cst.BaseExpression | None:
    """The place at which what `root.backward()` differentiates lost its graph, None where it has one or may have."""
    state = graphs.state(root, scope)
    return state.node if state.kind == "cut" else None


def _is_new_leaf(node: cst.BaseExpression) -> bool:
    """Whether `.requires_grad_()` follows on a `.detach()`: `x.detach().clone().requires_grad_()` starts anew."""
    while isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        if node.func.attr.value in ("detach", "detach_"):
            return True
        node = node.func.value
    return False


def name_of(node: cst.BaseExpression) -> str:
    """The dotted text of what a graph was cut off: `out` of `out.detach()`, `loss` of `Variable(loss.data)`."""
    inner: cst.BaseExpression = node
    while isinstance(inner, (cst.Call, cst.Attribute)):
        if isinstance(inner, cst.Attribute):
            inner = inner.value
        elif isinstance(inner.func, cst.Attribute) and inner.func.attr.value in _CUTTING:
            inner = inner.func.value
        elif inner.args:
            inner = inner.args[0].value
        else:
            break
    return dotted(inner) or ""
