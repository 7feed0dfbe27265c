"""What is asked of libcst nodes wherever they stand: children, walks, dotted names, arguments, literals."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, TypeVar, cast

import libcst as cst

N = TypeVar("N", bound=cst.CSTNode)

# Fields that hold only whitespace and punctuation: the walker never enters them.
_TRIVIA_PREFIXES = (
    "whitespace", "lpar", "rpar", "lbracket", "rbracket", "lbrace", "rbrace", "comma", "dot", "semicolon", "equal",
    "leading_", "trailing_", "header", "footer", "newline", "lines_after", "colon", "first_line", "first_colon",
    "second_colon", "last_line", "empty_lines", "indent", "separator", "asterisk", "operator",
)  # fmt: skip
_KEEP = {"star_arg", "star_kwarg", "star_etc"}
_NO_NODE = (str, bool, type(None), cst.MaybeSentinel)


class _Plain(ABCMeta):
    """The class of node classes, with the checks of ordinary classes: nobody registers foreign nodes."""

    __instancecheck__ = type.__instancecheck__
    __subclasscheck__ = type.__subclasscheck__


# Nodes are equal by identity, and so they hash; libcst says so in Python, which every dict of nodes would pay for. It
# also makes every `isinstance` and `issubclass` a search through a registry.
for _kind in (cst.CSTNode, *vars(cst).values()):
    if isinstance(_kind, type) and issubclass(_kind, cst.CSTNode):
        for _base in _kind.__mro__:
            if issubclass(_base, cst.CSTNode) and type(_base) is ABCMeta:
                _base.__class__ = _Plain  # type: ignore[method-assign, assignment]
        if "__hash__" in vars(_kind):
            _kind.__hash__ = object.__hash__  # type: ignore[method-assign]


class _Children(dict[type, "Callable[[Any], list[cst.CSTNode]]"]):
    """Class → the function that lists the children of its nodes, written on first use.

    The walk over trees is the hottest code there is, and most fields are known to hold one node or a sequence of them.
    """

    def __missing__(self, cls: type) -> Callable[[Any], list[cst.CSTNode]]:
        body = ["result = []"]
        for f in fields(cls):
            if f.name.startswith(_TRIVIA_PREFIXES) and f.name not in _KEEP:
                continue
            if isinstance(f.type, type):
                if issubclass(f.type, cst.CSTNode):
                    body.append(f"result.append(node.{f.name})")
            elif str(f.type).startswith("typing.Sequence["):
                body.append(f"result += node.{f.name}")
            elif "libcst" in str(f.type) or "ForwardRef" in str(f.type):
                body.append(f"value = node.{f.name}")
                body.append("if value.__class__ in many: result += value")
                body.append("elif value.__class__ not in no_node: result.append(value)")
        names: dict[str, Any] = {"no_node": frozenset(_NO_NODE), "many": frozenset((tuple, list))}
        source = "def listed(node):\n    " + "\n    ".join(body) + "\n    return result"
        exec(source, names)
        listed: Callable[[Any], list[cst.CSTNode]] = names["listed"]
        self[cls] = listed
        return listed


children_of = _Children()


def children(node: cst.CSTNode) -> list[cst.CSTNode]:
    """The node's children in source order, whitespace and punctuation left out."""
    return children_of[node.__class__](node)


def walk(node: cst.CSTNode, *, into: Callable[[cst.CSTNode], bool] | None = None) -> Iterator[cst.CSTNode]:
    """`node` and everything under it in source order; `into(n)` false keeps the walk out of `n`'s children."""
    stack = [node]
    pop, listed = stack.pop, children_of
    while stack:
        current = pop()
        yield current
        if into is None or current is node or into(current):
            below = listed[current.__class__](current)
            if below:
                below.reverse()
                stack += below


_DEFINITIONS = frozenset((cst.FunctionDef, cst.ClassDef))
_SCOPES = _DEFINITIONS | {cst.Lambda}


def walk_scope(node: cst.CSTNode, *, lambdas: bool = False) -> Iterator[cst.CSTNode]:
    """`node` and everything under it, nested functions and classes themselves yielded but not entered.

    Nor are lambdas, unless asked for.
    """
    stack = [node]
    pop, listed = stack.pop, children_of
    closed: frozenset[type] = _DEFINITIONS if lambdas else _SCOPES
    while stack:
        current = pop()
        yield current
        cls = current.__class__
        if cls not in closed or current is node:
            below = listed[cls](current)
            if below:
                below.reverse()
                stack += below


def find(node: cst.CSTNode, kind: type[N]) -> Iterator[N]:
    """Every node of class `kind` at or under `node`, in source order."""
    table: dict[type, bool] = {}
    for n in walk(node):
        cls = n.__class__
        if (hit := table.get(cls)) is None:
            hit = table[cls] = issubclass(cls, kind)
        if hit:
            yield cast(N, n)


def dotted(node: cst.CSTNode | None) -> str | None:
    """`a.b.c` for a chain of names and attributes, else None."""
    if node.__class__ is cst.Name:
        return node.value
    parts: list[str] = []
    while node.__class__ is cst.Attribute:
        attribute = node
        parts.append(attribute.attr.value)
        node = attribute.value
    if not parts or node.__class__ is not cst.Name:
        return None
    parts.append(node.value)
    return ".".join(reversed(parts))


def argument(call: cst.Call, name: str, position: int | None = None) -> cst.Arg | None:
    """The argument given by that keyword, or at that 0-based position if no `*args` comes before it."""
    for i, arg in enumerate(call.args):
        if arg.star == "*":
            position = None
        elif arg.keyword is not None:
            if arg.keyword.value == name:
                return arg
        elif not arg.star and position == i:
            return arg
    return None


def is_whole(index: cst.BaseSlice) -> bool:
    """Whether an index is `:`, which takes all of an axis."""
    return isinstance(index, cst.Slice) and index.lower is None and index.upper is None and index.step is None


def has_star(call: cst.Call, star: str = "") -> bool:
    """Whether the call passes `*args` or `**kwargs` (or only the given one)."""
    return any(a.star == star if star else a.star for a in call.args)


def literal(node: cst.CSTNode | None) -> Any:
    """The value of a constant expression: numbers, strings, True/False/None, tuples of them; else `...`."""
    if isinstance(node, cst.SimpleString):
        text = node.value
        if text[0] in "'\"" and "\\" not in text:  # no prefix and no escapes: what stands between the quotes
            quotes = 3 if text[:3] in ('"""', "'''") else 1
            return text[quotes:-quotes]
        return node.evaluated_value
    if isinstance(node, cst.Integer):
        return int(node.value, 0)
    if isinstance(node, cst.Float):
        return float(node.value)
    if isinstance(node, cst.Name):
        return {"True": True, "False": False, "None": None}.get(node.value, ...)
    if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Minus):
        value = literal(node.expression)
        return -value if isinstance(value, (int, float)) and not isinstance(value, bool) else ...
    if isinstance(node, cst.Tuple):
        values = [literal(e.value) for e in node.elements]
        return ... if ... in values else tuple(values)
    return ...
