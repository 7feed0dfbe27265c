"""Where values that carry an autograd graph leave a region."""

from __future__ import annotations

from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import dotted, walk_scope
from torchlint.semantics.kinds import Graph, Kind
from torchlint.semantics.loops import Loop
from torchlint.semantics.names import Function

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics


def carries(sem: Semantics, node: cst.CSTNode) -> bool:
    """Whether the expression's value surely carries an autograd graph."""
    value = sem.value(node)
    if value.kind in (
        Kind.NUMBER,
        Kind.STRING,
        Kind.NONE,
        Kind.NDARRAY,
        Kind.MODULE,
        Kind.LOADER,
        Kind.FUNCTION,
        Kind.OPTIMIZER,
    ):
        return False
    if value.kind in (Kind.LIST, Kind.TUPLE, Kind.DICT) and value.graph is not Graph.ATTACHED:
        if value.items is not None:
            return any(v.graph is Graph.ATTACHED for v in value.items)
        return value.element is not None and value.element.graph is Graph.ATTACHED
    return value.graph is Graph.ATTACHED


def escaping(
    sem: Semantics, function: Function, node: Loop | cst.FunctionDef, *, doubtful: bool = False
) -> list[cst.CSTNode]:
    """The places where a value with a graph leaves the region: returned, yielded, kept in a list, attribute or sum.

    For a loop: what it returns, appends or adds to counts only if that is returned or kept as it is; a sum that only
    ends in `.item()` or a division for a report stays inside. `doubtful` counts values of unknown kind as well.
    """
    result: list[cst.CSTNode] = []
    body = node.body

    def _carries(sem: Semantics, value: cst.CSTNode) -> bool:
        return carries(sem, value) or (
            doubtful
            and sem.value(value).kind in (Kind.UNKNOWN, Kind.TENSOR, Kind.BATCH)
            and sem.value(value).graph is Graph.UNKNOWN
        )

    for n in walk_scope(body):
        if isinstance(n, (cst.Return, cst.Yield)):
            if n.value is not None and _carries(sem, n.value):
                result.append(n)
        elif (
            isinstance(n, cst.Call)
            and isinstance(n.func, cst.Attribute)
            and n.func.attr.value in ("append", "extend", "add")
        ):
            if n.args and _carries(sem, n.args[0].value):
                result.append(n)
        elif isinstance(n, cst.AugAssign) and not isinstance(node, cst.FunctionDef) and _carries(sem, n.value):
            result.append(n)
        elif isinstance(n, cst.Assign) and _carries(sem, n.value):
            for target in n.targets:
                kept = isinstance(target.target, cst.Attribute) and (dotted(target.target) or "").startswith("self.")
                if kept or isinstance(target.target, cst.Subscript):
                    result.append(n)
    return result
