"""Loops that copy entries of several tensors to the host in every turn, and what is already said of such waits."""

from __future__ import annotations

import libcst as cst

from torchlint.nodes import dotted, walk
from torchlint.semantics.elements import element_syncs
from torchlint.semantics.model import Semantics
from torchlint.semantics.rows import Loop, bound_names
from torchlint.semantics.syncs import uses_gpu


def copied_by_entry(loop: Loop, sem: Semantics) -> cst.BaseExpression | None:
    """The first of the tensors of `f(a[i, j].cpu(), b[i, j].cpu())`, whatever else is done in a turn."""
    if not isinstance(loop, cst.For) or ".cpu(" not in sem.file.text:
        return None
    copies = [
        call.func
        for call in sem.file.within(loop.body, cst.Call)
        if isinstance(call.func, cst.Attribute) and call.func.attr.value == "cpu" and not call.args
    ]
    if len(copies) < 2 or any(isinstance(n, (cst.Break, cst.Return)) for n in walk(loop.body)):
        return None
    counters = {n for f in sem.file.within(loop, cst.For) if _is_range(f.iter) for n in bound_names(f.target)}
    changed = {n for a in sem.file.within(loop, cst.AssignTarget) for n in bound_names(a.target)}
    moved: dict[str, cst.BaseExpression] = {}
    for copy in copies:
        node = copy.value
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "detach":
            node = node.func.value
        if not isinstance(node, cst.Subscript) or not isinstance(node.value, cst.Name):
            continue
        places = {
            e.slice.value.value
            for e in node.slice
            if isinstance(e.slice, cst.Index) and isinstance(e.slice.value, cst.Name)
        }
        if places & counters and node.value.value not in counters | changed and sem.value(node.value).is_tensor:
            moved.setdefault(node.value.value, node.value)
    if len(moved) < 2 or waits_are_said(loop, sem):
        return None
    return next(iter(moved.values()))


def _is_range(node: cst.BaseExpression) -> bool:
    return isinstance(node, cst.Call) and dotted(node.func) == "range"


def waits_are_said(loop: Loop, sem: Semantics) -> bool:
    """Whether TL402 says that every entry is waited for."""
    if not uses_gpu(sem):
        return False
    inside = {id(n) for n in walk(loop)}
    return any(id(s.loop) in inside for s in element_syncs(sem, sem.function(loop)))
