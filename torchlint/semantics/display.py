"""What is gone through for people to look at: a handful of elements, printed, drawn or saved one after the other."""

from __future__ import annotations

import libcst as cst

from torchlint.nodes import argument, dotted, find, literal
from torchlint.semantics.blocks import unwrap_iteration
from torchlint.source import File

_FEW = 16
_TEXT = frozenset(("str", "repr", "print", "format", "join", "pprint"))
_DRAWS = frozenset(
    """imshow set_title set_xlabel set_ylabel title suptitle xlabel ylabel subplot add_subplot savefig imwrite imsave
    save_image fromarray plot scatter bar annotate text rectangle putText add_image add_text add_figure""".split()
)


def few(iterated: cst.BaseExpression) -> bool:
    """Whether the iteration has a handful of turns: `range(8)`, `range(min(n, 5))`, `labels[:4]`, `x.topk(5)[1]`."""
    node = unwrap_iteration(iterated)
    if isinstance(node, cst.Call) and dotted(node.func) == "range":
        return len(node.args) == 1 and _small(node.args[0].value)
    while isinstance(node, (cst.Subscript, cst.Attribute, cst.Call)):
        if isinstance(node, cst.Subscript):
            part = node.slice[0].slice
            if isinstance(part, cst.Slice) and part.upper is not None and part.step is None:
                first = 0 if part.lower is None else literal(part.lower)
                last = literal(part.upper)
                if isinstance(first, int) and isinstance(last, int):
                    return 0 <= last - first <= _FEW
            node = node.value
        elif isinstance(node, cst.Call):
            if isinstance(node.func, cst.Attribute) and node.func.attr.value == "topk":
                count = argument(node, "k", 0)
                return count is not None and _small(count.value)
            node = node.func
        else:
            node = node.value
    return False


def _small(node: cst.BaseExpression) -> bool:
    if isinstance(node, cst.Call) and dotted(node.func) == "min":
        return any(_small(arg.value) for arg in node.args)
    value = literal(node)
    return isinstance(value, int) and value <= _FEW


def in_text(node: cst.CSTNode, file: File) -> bool:
    """Whether the value goes into a text: an argument of `str` or `print`, a part of an f-string, a plot's label."""
    for ancestor in file.ancestors(node):
        if isinstance(ancestor, cst.BaseFormattedStringContent):
            return True
        if isinstance(ancestor, cst.Call):
            last = ancestor.func.attr.value if isinstance(ancestor.func, cst.Attribute) else dotted(ancestor.func)
            if last in _TEXT or last in _DRAWS:
                return True
        if isinstance(ancestor, (cst.BaseStatement, cst.BaseSmallStatement)):
            return False
    return False


def draws(loop: cst.CSTNode) -> bool:
    """Whether the turns of a loop draw or save pictures, which is work of the host for each of them."""
    return isinstance(loop, cst.For) and any(
        isinstance(c.func, cst.Attribute) and c.func.attr.value in _DRAWS for c in find(loop.body, cst.Call)
    )
