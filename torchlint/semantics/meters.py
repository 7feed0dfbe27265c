"""Meters that keep what they are given: `losses.update(loss)` of a class whose `update` adds it to a sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.nodes import dotted, find
from torchlint.semantics.accumulation import Growth, enclosing_loops, kept_names
from torchlint.semantics.kinds import Kind
from torchlint.semantics.names import OWN, Function

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics
    from torchlint.semantics.project import Project

_METHODS = frozenset(("update", "add"))


def metered(call: cst.Call, sem: Semantics) -> tuple[Growth, tuple[Question, ...]] | None:
    """The growth of a meter, with what is to be asked where its class stands in another file."""
    func = call.func
    if not isinstance(func, cst.Attribute) or func.attr.value not in _METHODS or not 0 < len(call.args) < 4:
        return None
    name, first = dotted(func.value), call.args[0]
    value = sem.value(func.value)
    if name is None or first.star or first.keyword is not None or not value.origin:
        return None
    loops = enclosing_loops(call, sem)
    growth = Growth(call, name, func.value, first.value, sem.function(call), loops, is_list=True)
    if not loops:
        return None
    if value.origin.startswith(OWN):
        cls = sem.class_of(value.origin)
        method = sem.names.method(cls, func.attr.value) if cls is not None else None
        return (growth, ()) if method is not None and _keeps(method) else None
    if value.kind is not Kind.UNKNOWN or not isinstance(value.node, cst.Call) or value.origin.startswith("torch"):
        return None
    return growth, (Question("keeps-no-graph", f"{value.origin}.{func.attr.value}"),)


def keeps_no_graph(project: Project, path: str, subject: str) -> bool:
    """Whether it is no method of the project that keeps its first argument as it is."""
    found = project.find(path, subject)
    return found is None or found.function is None or not _keeps(found.function)


def _keeps(method: Function) -> bool:
    """Whether the first argument is added to an attribute, or appended to one, as it came."""
    if not method.is_method or len(method.params) < 2 or not isinstance(method.node, cst.FunctionDef):
        return False
    me, given = method.params[:2]
    body = method.node.body
    if any(dotted(t.target) == given for n in find(body, cst.Assign) for t in n.targets):
        return False  # `value = value.item()`
    for node in find(body, cst.AugAssign):
        if (dotted(node.target) or "").startswith(f"{me}.") and given in kept_names(node.value):
            return True
    return any(
        isinstance(c.func, cst.Attribute)
        and c.func.attr.value == "append"
        and (dotted(c.func.value) or "").startswith(f"{me}.")
        and len(c.args) == 1
        and dotted(c.args[0].value) == given
        for c in find(body, cst.Call)
    )
