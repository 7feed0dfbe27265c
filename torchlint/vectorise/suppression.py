"""Non-maximum suppression that is done class by class, where `batched_nms` keeps the classes apart by itself."""

from __future__ import annotations

import re

import libcst as cst

from torchlint.nodes import dotted, find, walk
from torchlint.semantics.display import few
from torchlint.semantics.model import Semantics

_NMS = re.compile(r"^torchvision\.ops\.(boxes\.)?nms$")


def suppressed_by_class(loop: cst.For, sem: Semantics) -> cst.Call | None:
    """The call of `torchvision.ops.nms` that each class gets: the counter picks a class's scores, or is compared with
    the class of every box."""
    counter = loop.target
    if not isinstance(counter, cst.Name) or few(loop.iter):
        return None
    calls = (c for c in find(loop.body, cst.Call) if (dotted(c.func) or "").rpartition(".")[2] == "nms")
    call = next((c for c in calls if _NMS.match(sem.qualified(c.func) or "")), None)
    if call is None or sem.file.enclosing(call, (cst.For, cst.While, cst.FunctionDef)) is not loop:
        return None
    if any(isinstance(n, (cst.Break, cst.Return, cst.Yield)) for n in walk(loop.body)):
        return None
    return call if any(_is_of_class(n, counter.value) for n in walk(loop.body)) else None


def _is_of_class(node: cst.CSTNode, counter: str) -> bool:
    """`scores[:, c]`, `scores[..., c]`, `labels == c`."""
    if isinstance(node, cst.Subscript) and len(node.slice) > 1:
        last = node.slice[-1].slice
        return isinstance(last, cst.Index) and dotted(last.value) == counter
    if isinstance(node, cst.Comparison) and len(node.comparisons) == 1:
        sides = (node.left, node.comparisons[0].comparator)
        return isinstance(node.comparisons[0].operator, cst.Equal) and any(dotted(s) == counter for s in sides)
    return False
