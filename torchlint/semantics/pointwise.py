"""Pointwise and reducing calls on tensors, written as functions or methods: `torch.exp(x)`, `x.exp()`, `x.sum(1)`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import argument, literal
from torchlint.semantics.kinds import Kind

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

_FUNCTIONS = {f"torch.{n}": n for n in ("log", "exp", "sigmoid", "softmax", "sqrt", "abs", "square")}
_FUNCTIONS |= {f"torch.nn.functional.{n}": n for n in ("sigmoid", "softmax")}
_FUNCTIONS["torch.special.expit"] = "sigmoid"


@dataclass(frozen=True, slots=True)
class Operation:
    """A pointwise call: what it computes and of what."""

    name: str
    operand: cst.BaseExpression = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reduction:
    """A reducing call. `dim`: the text of its dim, `keepdim`: literally True; `text`: dim and keepdim as arguments of
    another reduction, None where there is no dim or something else is passed, too."""

    operand: cst.BaseExpression = field(repr=False)
    dim: str | None = None
    keepdim: bool = False
    text: str | None = None


def operation(node: cst.BaseExpression, sem: Semantics) -> Operation | None:
    """The pointwise operation that a call performs on a tensor, None for anything else (math and numpy included)."""
    if not isinstance(node, cst.Call):
        return None
    name = sem.qualified(node.func)
    if name in _FUNCTIONS:
        operand = argument(node, "input", 0)
        alone = len(node.args) == 1 or _FUNCTIONS[name] == "softmax"
        return Operation(_FUNCTIONS[name], operand.value) if operand is not None and alone else None
    if name is None and isinstance(node.func, cst.Attribute) and not node.args:
        attr = node.func.attr.value
        if f"torch.{attr}" in _FUNCTIONS and is_tensor(node.func.value, sem):
            return Operation(attr, node.func.value)
    return None


def reduced(node: cst.BaseExpression, reduction: str, sem: Semantics) -> Reduction | None:
    """The reduction (`sum`, `mean`, …) that a call performs on a tensor."""
    if not isinstance(node, cst.Call):
        return None
    if sem.qualified(node.func) == f"torch.{reduction}":
        operand = argument(node, "input", 0)
        rest = [a for a in node.args if operand is None or a is not operand]
        return _reduction(operand.value, rest) if operand is not None else None
    if sem.qualified(node.func) is None and isinstance(node.func, cst.Attribute) and node.func.attr.value == reduction:
        return _reduction(node.func.value, list(node.args)) if is_tensor(node.func.value, sem) else None
    return None


def _reduction(operand: cst.BaseExpression, rest: list[cst.Arg]) -> Reduction:
    dim = keepdim = None
    for i, arg in enumerate(rest):
        name = arg.keyword.value if arg.keyword is not None else ("dim", "keepdim")[i] if i < 2 and not arg.star else ""
        name = {"axis": "dim", "keepdims": "keepdim"}.get(name, name)
        if name == "dim":
            dim = _code(arg.value)
        elif name == "keepdim" and literal(arg.value) in (True, False):
            keepdim = literal(arg.value)
        else:
            return Reduction(operand)
    text = f"dim={dim}" + (", keepdim=True" if keepdim else "") if dim is not None else None
    return Reduction(operand, dim, keepdim is True, text)


def is_tensor(node: cst.BaseExpression, sem: Semantics) -> bool:
    """Whether the expression certainly is a tensor."""
    return sem.value(node).kind in (Kind.TENSOR, Kind.PARAMETER)


def constant(node: cst.BaseExpression) -> object:
    """The number that an expression is, `1.` as 1; else `...`."""
    value = literal(node)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else ...


def _code(node: cst.CSTNode) -> str:
    return cst.Module([]).code_for_node(node)
