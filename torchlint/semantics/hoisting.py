"""What stays the same through all turns of a loop, so that it can be computed ahead of it."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.nodes import dotted, walk
from torchlint.semantics.flow import assigned_in

Loop = cst.For | cst.While


def is_invariant(node: cst.CSTNode, bound: set[str]) -> bool:
    """Whether an expression of names, attributes and constants has no part that a turn of the loop binds.

    `bound`: the dotted names that the loop binds (`assigned_in`). Calls may give something else each time, except for
    those that name a device.
    """
    for part in walk(node):
        if isinstance(part, cst.Call) and (dotted(part.func) or "").rpartition(".")[2] not in (
            "device",
            "is_available",
        ):
            return False
        if isinstance(part, (cst.Name, cst.Attribute)):
            name = dotted(part)
            if name is not None and any(name == b or name.startswith(b + ".") for b in bound):
                return False
        if isinstance(part, (cst.Lambda, cst.Await, cst.Yield, cst.NamedExpr)):
            return False
    return True


def changed_in(name: str, loop: Loop) -> bool:
    """Whether the loop may change what a name holds: binds it, writes into it, calls its `method_`."""
    if name in assigned_in(loop):
        return True
    for node in walk(loop.body):
        if isinstance(node, (cst.AssignTarget, cst.AugAssign, cst.AnnAssign)):
            if any(dotted(part) == name for part in _written(node.target)):
                return True
        elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and dotted(node.func.value) == name:
            method = node.func.attr.value
            if (method.endswith("_") and not method.endswith("__")) or method in _CHANGING:
                return True
        elif isinstance(node, cst.Arg) and node.keyword is not None and node.keyword.value == "out":
            if dotted(node.value) == name:
                return True
    return False


_CHANGING = frozenset(("append", "extend", "update", "pop", "clear", "resize", "set_"))


def _written(target: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """What an assignment writes into: the `w` of `w[i] = …` and of `w.data[i] = …`."""
    while isinstance(target, (cst.Subscript, cst.Attribute)):
        target = target.value
        yield target
