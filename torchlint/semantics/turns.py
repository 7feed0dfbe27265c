"""What a loop makes anew in each turn: whether the graph of a value begins there or reaches back to an earlier turn."""

from __future__ import annotations

import re

import libcst as cst

from torchlint.nodes import children, dotted, find, walk
from torchlint.semantics.kinds import Graph, Kind, Value
from torchlint.semantics.model import Semantics
from torchlint.semantics.names import Class, Function
from torchlint.semantics.reaching import Definition

# Kinds whose values carry no graph of their own; parameters and modules are where a graph begins.
_INERT = frozenset((
    Kind.MODULE, Kind.LOSS_FN, Kind.OPTIMIZER, Kind.PARAMETER, Kind.LOADER, Kind.DATASET, Kind.SAMPLER, Kind.DEVICE,
    Kind.NDARRAY, Kind.NUMBER, Kind.STRING, Kind.NONE, Kind.RANGE, Kind.FUNCTION, Kind.CLASS, Kind.BATCH, Kind.SCALER,
))  # fmt: skip
# `pin_memory=` and `torch.cuda.memory_stats(` speak of another memory.
_RECURRENT = re.compile(
    r"hidden|\b\w*(?:LSTM|GRU|RNN)\w*|recurren|carry|\bmemor(?:y|ies)\s*[=,)\]]",
    re.IGNORECASE,
)
_BUILTINS = frozenset("len sum max min abs float int range list tuple zip enumerate".split())
# What is given to these is a size or a dim.
_SHAPING = frozenset(
    """view reshape permute transpose flatten unflatten squeeze unsqueeze expand repeat chunk split size sum mean
    narrow""".split()
)
_CONSTANT = (cst.Integer, cst.Float, cst.BaseString, cst.Comparison)


class Turn:
    """One turn of a loop, for questions about where the graphs of its values begin."""

    def __init__(self, loop: cst.For | cst.While, function: Function, sem: Semantics) -> None:
        self.loop, self.sem = loop, sem
        self._inside = set(walk(loop))
        self._reaching = sem.reaching(function)
        self._visited: set[cst.CSTNode] = set()
        self.forward = False  # whether a module of known ways is among what the values were made with

    def begins(self, node: cst.CSTNode | None) -> bool:
        """Whether every graph that the value may carry surely begins in this turn; False where that is not known."""
        if node is None or node in self._visited or isinstance(node, _CONSTANT):
            return True
        self._visited.add(node)
        if isinstance(node, cst.Call):
            return self._call(node)
        if isinstance(node, (cst.Name, cst.Attribute, cst.Subscript)):
            return self._read(node)
        if isinstance(node, (cst.Lambda, cst.Await, cst.Yield)):
            return False
        if isinstance(node, cst.CompFor):
            return self.begins(node.iter) and all(self.begins(n) for n in (*node.ifs, node.inner_for_in))
        return all(self.begins(child) for child in children(node))

    def _call(self, node: cst.Call) -> bool:
        if self.sem.value(node).kind is Kind.NUMBER or self._shapes(node):
            return not isinstance(node.func, cst.Attribute) or self.begins(node.func.value)
        called = self.sem.value(node.func)
        if not all(self.begins(arg.value) for arg in node.args):
            return False
        if called.kind is Kind.MODULE:
            self.forward = True
            return not keeps_state(called, self.sem)
        if called.kind in (Kind.LOSS_FN, Kind.FUNCTION, Kind.CLASS):
            return called.kind is not Kind.FUNCTION or self._is_plain(node)
        name = self.sem.qualified(node.func)
        if name is not None:
            return self._is_plain(node)
        if isinstance(
            node.func, cst.Attribute
        ):  # a method of a value: `out.mean()`; of `self`: who knows what it keeps
            return dotted(node.func.value) != "self" and self.begins(node.func.value)
        if not isinstance(node.func, cst.Name) or not node.args:
            return False
        return self._is_parameter(node.func) or node.func.value in _BUILTINS

    def _shapes(self, node: cst.Call) -> bool:
        """Whether it is a tensor's method that is given sizes or dims: `out.view(-1, num_classes)`."""
        if not isinstance(node.func, cst.Attribute) or node.func.attr.value not in _SHAPING:
            return False
        value = self.sem.value(node.func.value)
        return value.is_tensor or value.kind is Kind.BATCH

    def _is_plain(self, node: cst.Call) -> bool:
        """Whether the callee is a function that remembers nothing: no method, no closure of the training function."""
        callee = self.sem.callee(node)
        return callee is None or (callee.cls is None and callee.parent is self.sem.names.module)

    def _is_parameter(self, node: cst.Name) -> bool:
        definitions = self._reaching.uses.get(node, ())
        return bool(definitions) and all(d.kind == "parameter" for d in definitions)

    def _read(self, node: cst.Name | cst.Attribute | cst.Subscript) -> bool:
        value = self.sem.value(node)
        if _is_inert(value) and value.kind is not Kind.TENSOR:
            return True
        definitions = self._reaching.uses.get(node)
        if definitions is not None:
            return all(self._defined(d, node) for d in definitions)
        if value.graph is Graph.DETACHED:
            return True
        if isinstance(node, cst.Name):
            return self.sem.qualified(node) is not None or self._is_setting(node)
        return dotted(node.value) != "self" and self.begins(node.value)

    def _is_setting(self, node: cst.Name) -> bool:
        """Whether it is a name of the module's top level that holds a number or the arguments of a command line."""
        known = self.sem.reaching(self.sem.names.module).every.get(node.value, ())
        return bool(known) and all(
            d.kind == "value" and (_is_inert(self.sem.value(d.node)) or _is_parsed(d.node))
            for d in known
            if d.node is not None
        )

    def _defined(self, definition: Definition, use: cst.CSTNode) -> bool:
        made = definition.statement
        if definition.kind == "loop" and made is self.loop:
            return True
        if definition.kind == "parameter" and isinstance(
            self.sem.file.parent(use), (cst.Attribute, cst.BinaryOperation)
        ):
            return True  # settings: `args.weight * penalty`, `weight * penalty`
        if made is not None and made not in self._inside and definition.node is not None and not definition.path:
            return _is_inert(self.sem.value(definition.node))
        if made is None or made not in self._inside or definition.kind in ("parameter", "unknown"):
            return False
        start = self.sem.file.caret
        if start(made)[0] >= start(self.sem.file.statement(use))[0] and not isinstance(made, cst.CompFor):
            return self._is_own_update(definition, use)
        return self.begins(definition.node) and all(self._defined(d, use) for d in definition.before)

    def _is_own_update(self, definition: Definition, use: cst.CSTNode) -> bool:
        """`loss = loss + term`: the place that is read makes the value from one of this turn, if that is there, too."""
        others = [d for d in self._reaching.uses.get(use, ()) if d is not definition]
        return (
            definition.statement is self.sem.file.statement(use)
            and bool(others)
            and all(d.statement in self._inside for d in others)
        )


def _is_parsed(node: cst.BaseExpression) -> bool:
    return isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "parse_args"


def keeps_state(module: Value, sem: Semantics) -> bool:
    """Whether the module may hold on to something between two calls, as recurrent ones do with their state."""
    own = sem.class_of(module.origin)
    if own is None:
        return not module.origin.startswith("torch.") and sem.file.mentions(_RECURRENT)
    return any(_writes_itself(cls) for cls in sem.names.mro(own))


def _is_inert(value: Value) -> bool:
    if value.kind in _INERT:
        return value.kind is not Kind.BATCH or value.graph is not Graph.ATTACHED  # a module's output may be a "batch"
    return value.kind is Kind.TENSOR and value.graph is Graph.DETACHED


def _writes_itself(cls: Class) -> bool:
    for method in find(cls.node, cst.FunctionDef):
        if method.name.value == "__init__":
            continue
        for target in find(method.body, cst.AssignTarget):
            if (dotted(target.target) or "").startswith("self."):
                return True
    return False
