"""Which expressions are tensors without dimensions: losses, what is computed from them, what they are sums of."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.nodes import argument, dotted, literal
from torchlint.semantics.kinds import Kind
from torchlint.semantics.knowledge import is_loss_function
from torchlint.semantics.model import Semantics
from torchlint.semantics.names import Function

_REDUCING = frozenset(("sum", "mean", "max", "min", "norm", "prod", "std", "var"))
_SAME_SHAPE = frozenset(("detach", "cpu", "cuda", "clone", "to", "float", "double", "half", "abs", "sqrt"))
_CRITERION = re.compile(r"loss|criterion|criteria", re.I)
_ARITHMETIC = (cst.Add, cst.Subtract, cst.Multiply, cst.Divide)


class Scalars:
    """The tensors of one function that certainly have no dimension."""

    def __init__(self, sem: Semantics, function: Function) -> None:
        self.sem, self.function = sem, function
        self.assigned: dict[str, list[cst.BaseExpression | None]] = {}
        for node in sem.file.within(function.body, cst.Assign):
            for target in node.targets:
                self._bind(target.target, node.value)
        for change in sem.file.within(function.body, cst.AugAssign):
            self._bind(change.target, change.value if isinstance(change.operator, _ARITHMETIC_ASSIGN) else None)
        for loop in sem.file.within(function.body, cst.For):
            self._bind(loop.target, None)
        self.differentiated = set(self._differentiated())

    def _bind(self, target: cst.CSTNode, value: cst.BaseExpression | None) -> None:
        if isinstance(target, (cst.Tuple, cst.List)):
            for element in target.elements:
                self._bind(element.value, None)
        elif (name := dotted(target)) is not None:
            self.assigned.setdefault(name, []).append(value)

    def _differentiated(self) -> Iterator[str]:
        """Names on which `backward()` is called without a gradient, which only works for one element, and the terms of
        the sums that they are."""
        queue = [
            name
            for call in self.sem.file.within(self.function.body, cst.Call)
            if isinstance(call.func, cst.Attribute)
            and call.func.attr.value == "backward"
            and all(a.keyword is not None and a.keyword.value != "gradient" for a in call.args)
            and (name := dotted(call.func.value)) is not None
        ]
        seen: set[str] = set()
        while queue:
            name = queue.pop()
            if name not in seen:
                seen.add(name)
                yield name
                queue += [t for value in self.assigned.get(name, ()) if value is not None for t in _terms(value)]

    def certain(self, node: cst.BaseExpression, depth: int = 0) -> bool:
        """Whether the expression is a tensor without dimensions."""
        if depth > 8:
            return False
        if isinstance(node, cst.Attribute) and node.attr.value == "data":
            return self.certain(node.value, depth + 1)
        if isinstance(node, cst.Call):
            return self._call(node, depth)
        if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, _ARITHMETIC):
            sides = (node.left, node.right)
            one = any(self.certain(s, depth + 1) for s in sides)
            return one and all(self._number(s) or self.certain(s, depth + 1) for s in sides)
        name = dotted(node)
        if name is None or name in self.function.params:
            return name in self.differentiated if name else False
        if name in self.differentiated:
            return True
        values = self.assigned.get(name, ())
        known = [v for v in values if v is not None and not self._number(v)]
        return bool(known) and None not in values and all(self.certain(v, depth + 1) for v in known)

    def likely(self, node: cst.BaseExpression) -> bool:
        """Whether a name that says loss stands for what something that says loss or criterion returned."""
        name = dotted(node)
        if name is None or not _CRITERION.search(name):
            return False
        values = [v for v in self.assigned.get(name, ()) if v is not None]
        return bool(values) and all(
            isinstance(v, cst.Call) and _CRITERION.search((dotted(v.func) or "").rpartition(".")[2]) for v in values
        )

    def _number(self, node: cst.BaseExpression) -> bool:
        if isinstance(literal(node), (int, float)) or self.sem.value(node).kind is Kind.NUMBER:
            return True
        if isinstance(node, cst.Call):
            return dotted(node.func) in ("len", "float", "int") or (
                isinstance(node.func, cst.Attribute) and node.func.attr.value in ("size", "item")
            )
        return False

    def _call(self, call: cst.Call, depth: int) -> bool:
        if isinstance(call.func, cst.Attribute) and self.sem.qualified(call.func) is None:
            method = call.func.attr.value
            if method in _REDUCING and not call.args:
                return self.sem.value(call.func.value).kind in (Kind.TENSOR, Kind.PARAMETER)
            if method in _SAME_SHAPE:
                return self.certain(call.func.value, depth + 1)
        made = self.sem.value(call.func)
        if made.kind is Kind.LOSS_FN and isinstance(made.node, cst.Call):
            return _reduces(made.node)
        return is_loss_function(self.sem.qualified(call.func) or "") and _reduces(call)


_ARITHMETIC_ASSIGN = (cst.AddAssign, cst.SubtractAssign, cst.MultiplyAssign, cst.DivideAssign)


def _terms(node: cst.BaseExpression) -> Iterator[str]:
    """The names that a sum adds up: where the sum has no dimension they have none."""
    if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, (cst.Add, cst.Subtract, cst.Multiply)):
        yield from _terms(node.left)
        yield from _terms(node.right)
    elif (name := dotted(node)) is not None:
        yield name


def _reduces(call: cst.Call) -> bool:
    """Whether a loss, made or called with these arguments, gives one number."""
    reduction = argument(call, "reduction")
    reduce = argument(call, "reduce")
    if reduce is not None and literal(reduce.value) is not True:
        return False
    return reduction is None or literal(reduction.value) in ("mean", "sum", "batchmean", "elementwise_mean")
