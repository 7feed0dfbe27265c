"""Walking Python's own syntax tree, and reading the names in it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_LISTS = frozenset(
    """body orelse finalbody handlers decorator_list targets values elts keys args keywords generators ifs comparators
    items cases patterns kwd_patterns bases posonlyargs kwonlyargs defaults kw_defaults type_params""".split()
)
_NODES = frozenset(  # a node, or None
    """value target func test left right operand slice annotation returns iter elt key args vararg kwarg body orelse
    lower upper step exc cause msg subject guard pattern context_expr optional_vars format_spec""".split()
)
_PLAIN = frozenset("ctx names op ops id attr name asname level module kind n s".split())


class _Below(dict[type, "Callable[[Any], list[ast.AST | None]]"]):
    """Class → what lists the nodes right below one of its, written on first use: every node of a file passes here."""

    def __missing__(self, cls: type[ast.AST]) -> Callable[[Any], list[ast.AST | None]]:
        parts = []
        for name in () if cls in (ast.Constant, ast.MatchSingleton) else cls._fields:
            if name in _PLAIN:
                continue
            one = (name in ("body", "orelse") and cls in (ast.Lambda, ast.IfExp)) or (
                name == "args" and cls in (ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef)
            )
            if name in _LISTS and not one:
                parts.append(f"*node.{name}")
            elif name in _NODES:
                parts.append(f"node.{name}")
            else:
                parts.append(f"*(() if not isinstance(node.{name}, AST) else (node.{name},))")
        made: Callable[[Any], list[ast.AST | None]]
        made = eval(f"lambda node: [{', '.join(parts)}]", {"AST": ast.AST})
        self[cls] = made
        return made


_below = _Below()


def below(node: ast.AST) -> list[ast.AST]:
    """The nodes right below a node, operators and contexts left out."""
    return [n for n in _below[node.__class__](node) if n is not None]


def descend(roots: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes at and below these, in no order."""
    stack: list[ast.AST | None] = [*roots]
    pop, listed = stack.pop, _below
    while stack:
        node = pop()
        if node is None:  # what is left out: a default, the key of `{**d}`
            continue
        yield node
        stack += listed[node.__class__](node)


def statements(body: list[ast.stmt]) -> list[ast.stmt]:
    """A block's statements, with those under an `if True:` among them."""
    if not any(isinstance(s, ast.If) and isinstance(s.test, ast.Constant) for s in body):
        return body
    found: list[ast.stmt] = []
    for s in body:
        found += statements(s.body) if isinstance(s, ast.If) and isinstance(s.test, ast.Constant) else [s]
    return found


def last(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def mentions(node: ast.AST, names: set[str]) -> bool:
    return any(isinstance(n, ast.Name) and n.id in names for n in descend([node]))


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def root(node: ast.AST) -> str:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


Bindings = dict[str, list["ast.AST | None"]]


def bindings(nodes: Iterable[ast.AST]) -> Bindings:
    """Name → what these nodes bind it to: an expression, an `ast.arg` with its annotation, None for anything else."""
    found: Bindings = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                _bind(found, target, node.value)
        elif isinstance(node, (ast.AugAssign, ast.NamedExpr)) or (
            isinstance(node, ast.AnnAssign) and node.value is not None
        ):
            _bind(found, node.target, node.value)
        elif isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
            _bind_items(found, node.target, node.iter)
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            _bind(found, node.optional_vars, None)
        elif isinstance(node, ast.arg):
            found.setdefault(node.arg, []).append(node)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            for name in node.names:
                found.setdefault(name, []).append(None)
    return found


def _bind(found: Bindings, target: ast.AST, value: ast.AST | None) -> None:
    if isinstance(target, ast.Name):
        found.setdefault(target.id, []).append(value)
    elif isinstance(target, (ast.Tuple, ast.List)):
        parts = value.elts if isinstance(value, (ast.Tuple, ast.List)) else None
        same = parts is not None and len(parts) == len(target.elts)
        for i, part in enumerate(target.elts):
            _bind(found, part, parts[i] if same and parts is not None else None)
    elif isinstance(target, ast.Starred):
        _bind(found, target.value, None)


def _bind_items(found: Bindings, target: ast.expr, source: ast.expr) -> None:
    """A loop's target: the counters of `range` and `enumerate` are numbers, all else cannot be told."""
    name = source.func.id if isinstance(source, ast.Call) and isinstance(source.func, ast.Name) else ""
    if name in ("range", "trange"):
        _bind(found, target, ast.Constant(0))
    elif name == "enumerate" and isinstance(target, ast.Tuple) and len(target.elts) == 2:
        _bind(found, target.elts[0], ast.Constant(0))
        _bind(found, target.elts[1], None)
    else:
        _bind(found, target, None)
