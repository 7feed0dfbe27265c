"""Walking Python's own syntax tree, and reading the names in it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

# Class → (fields with one node, fields with lists of nodes).
_fields: dict[type, tuple[tuple[str, ...], tuple[str, ...]]] = {}
_LISTS = frozenset(
    """body orelse finalbody handlers decorator_list targets values elts keys args keywords generators ifs comparators
    items cases patterns kwd_patterns bases posonlyargs kwonlyargs defaults kw_defaults type_params""".split()
)
_PLAIN = frozenset(("ctx", "names", "op", "ops", "id", "attr", "name", "asname", "level", "module", "kind", "n", "s"))


def _fields_of(cls: type[ast.AST]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    single, several = [], []
    for name in cls._fields:
        if name in _PLAIN or (cls is ast.Constant) or name in ("type_comment", "conversion", "is_async", "simple"):
            continue
        if name in _LISTS and not (cls in (ast.Lambda, ast.IfExp) and name in ("body", "orelse", "args")):
            if not (cls in (ast.FunctionDef, ast.AsyncFunctionDef) and name == "args"):
                several.append(name)
                continue
        single.append(name)
    found = _fields[cls] = (tuple(single), tuple(several))
    return found


def below(node: ast.AST) -> list[ast.AST]:
    """The nodes right below a node, operators and contexts left out."""
    single, several = _fields.get(node.__class__) or _fields_of(node.__class__)
    result = []
    for name in several:
        result += getattr(node, name)
    for name in single:
        value = getattr(node, name)
        if isinstance(value, ast.AST):
            result.append(value)
    return result


def descend(roots: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes at and below these, in no order."""
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node is None:  # the missing key of `{**d}` and the missing default of a keyword
            continue
        yield node
        stack += below(node)


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
