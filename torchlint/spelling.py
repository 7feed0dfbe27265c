"""What an expression reads as when layout is left aside: a text to name it by, and whether two say the same.

Both look at the fields that carry meaning only, so they hold for a tree with whitespace and for a skeleton of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import libcst as cst

from torchlint.nodes import children

_LITERALS = (cst.Name, cst.Integer, cst.Float, cst.Imaginary, cst.SimpleString)


def spelled(node: cst.CSTNode) -> str:
    """The expression in one line: `opts["g"]`, `model(x, training=True)`. Rare forms are named by their class."""
    if isinstance(node, _LITERALS):
        return node.value
    if isinstance(node, cst.Attribute):
        return f"{spelled(node.value)}.{node.attr.value}"
    if isinstance(node, cst.Call):
        return f"{spelled(node.func)}({', '.join(map(_argument, node.args))})"
    if isinstance(node, cst.Subscript):
        return f"{spelled(node.value)}[{', '.join(_index(part.slice) for part in node.slice)}]"
    if isinstance(node, (cst.BinaryOperation, cst.BooleanOperation)):
        return f"({spelled(node.left)} {symbol(node.operator)} {spelled(node.right)})"
    if isinstance(node, cst.UnaryOperation):
        return f"{symbol(node.operator)}{spelled(node.expression)}"
    if isinstance(node, cst.Comparison):
        rest = (f" {symbol(part.operator)} {spelled(part.comparator)}" for part in node.comparisons)
        return f"({spelled(node.left)}{''.join(rest)})"
    if isinstance(node, (cst.Tuple, cst.List)):
        inside = ", ".join(spelled(element.value) for element in node.elements)
        return f"[{inside}]" if isinstance(node, cst.List) else f"({inside})"
    return f"<{node.__class__.__name__} {' '.join(map(spelled, children(node)))}>"


def symbol(operator: cst.CSTNode) -> str:
    """`+`, `==`, `not in`: an operator without the blanks around it."""
    found = _SYMBOLS.get(operator.__class__)
    return found if found is not None else operator._get_token()  # type: ignore[attr-defined]


_SYMBOLS: dict[type, str] = {
    cst.Not: "not ",
    cst.NotEqual: "!=",
    cst.NotIn: "not in",
    cst.IsNot: "is not",
}


def _argument(arg: cst.Arg) -> str:
    text = arg.star + spelled(arg.value)
    return f"{arg.keyword.value}={text}" if arg.keyword is not None else text


def _index(part: cst.BaseSlice) -> str:
    if isinstance(part, cst.Index):
        return (part.star or "") + spelled(part.value)
    assert isinstance(part, cst.Slice)
    bounds = [part.lower, part.upper, *([part.step] if part.step is not None else [])]
    return ":".join(spelled(bound) if bound is not None else "" for bound in bounds)


def same(one: cst.CSTNode, other: cst.CSTNode) -> bool:
    """Whether two expressions say the same, blanks, comments, parentheses and the quotes of strings aside."""
    stack = [(one, other)]
    while stack:
        a, b = stack.pop()
        if a.__class__ is not b.__class__:
            return False
        if isinstance(a, cst.SimpleString) and isinstance(b, cst.SimpleString):
            if a.evaluated_value != b.evaluated_value:
                return False
            continue
        if any(_said(getattr(a, name)) != _said(getattr(b, name)) for name in _scalars(a.__class__)):
            return False
        below, beside = children(a), children(b)
        if len(below) != len(beside):
            return False
        stack += zip(below, beside, strict=True)
    return True


def _said(value: object) -> object:
    """What a field says: a text, or which operator it holds."""
    return value.__class__ if isinstance(value, (cst.CSTNode, cst.MaybeSentinel)) else value


_MEANINGFUL = frozenset(("value", "star", "operator", "conversion"))
_known: dict[type, Sequence[str]] = {}


def _scalars(cls: type) -> Sequence[str]:
    """The fields of a class whose text or operator tells its nodes apart."""
    found = _known.get(cls)
    if found is None:
        found = _known[cls] = [f.name for f in fields(cls) if f.name in _MEANINGFUL]
    return found
