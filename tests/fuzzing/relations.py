"""Rewrites of a text that change nothing that a rule may care about, and where each line went.

Every relation takes a text and gives the texts after it with a map of rows, or None where it does not apply. The
findings before and after must be the same, modulo place.
"""

from __future__ import annotations

import ast
import symtable
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

Function = ast.FunctionDef | ast.AsyncFunctionDef
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


@dataclass(frozen=True)
class Rewritten:
    """`rows` maps old rows to new ones (1-based); None where code moved into another function or file."""

    text: str
    rows: dict[int, int] | None
    others: dict[str, str] = field(default_factory=dict)  # further files: name -> text


Relation = Callable[[str], Rewritten | None]


def _lines(text: str) -> list[str]:
    return text.split("\n")


def _characters(line: str, column: int) -> int:
    """A column of `ast`, which counts UTF-8 bytes, in characters."""
    return column if line.isascii() else len(line.encode()[:column].decode())


def _first_row(node: ast.stmt) -> int:
    """The row of a statement's first line, decorators included."""
    decorators = getattr(node, "decorator_list", ())
    return min([node.lineno, *(d.lineno for d in decorators)])


def _string_rows(tree: ast.Module) -> set[int]:
    """Rows that begin inside a string: their blanks are data."""
    rows: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))):
            rows.update(range(node.lineno + 1, (node.end_lineno or node.lineno) + 1))
    return rows


def _with_comments(lines: list[str], row: int) -> int:
    """The row of the first of the comments right above a statement: they speak of it, and stay with it."""
    while row > 1 and lines[row - 2].lstrip().startswith("#"):
        row -= 1
    return row


def _inserted(text: str, before: dict[int, list[str]]) -> Rewritten:
    """New lines above some rows."""
    out: list[str] = []
    rows: dict[int, int] = {}
    for row, line in enumerate(_lines(text), 1):
        out += before.get(row, [])
        out.append(line)
        rows[row] = len(out)
    return Rewritten("\n".join(out), rows)


# -- comments and blank lines --------------------------------------------------------------------------------------


def with_comments(text: str) -> Rewritten | None:
    """A blank line and a comment above every statement that begins a line."""
    tree, lines = ast.parse(text), _lines(text)
    above: dict[int, list[str]] = {}
    strings = _string_rows(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            row = _first_row(node)
            line = lines[row - 1]
            indent = line[: len(line) - len(line.lstrip())]
            behind = row > 1 and lines[row - 2].endswith("\\")
            if line.startswith("elif", len(indent)) or row in strings or behind:
                continue
            if row == 1 or not line[: _characters(line, node.col_offset)].strip(" \t@"):
                above[_with_comments(lines, row)] = [f"{indent}# a remark", ""]
    return _inserted(text, above)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


# -- if True -------------------------------------------------------------------------------------------------------


def _under_if(text: str, bodies: Iterable[list[ast.stmt]], tree: ast.Module) -> Rewritten | None:
    """Each body behind its docstring put under `if True:`."""
    lines, strings = _lines(text), _string_rows(tree)
    above: dict[int, list[str]] = {}
    deeper: set[int] = set()
    for body in bodies:
        rest = [s for s in body if not _is_docstring(s)] if body and _is_docstring(body[0]) else list(body)
        if not rest:
            continue
        first, last = _first_row(rest[0]), rest[-1].end_lineno or rest[-1].lineno
        line = lines[first - 1]
        indent = line[: len(line) - len(line.lstrip())]
        first = _with_comments(lines, first)
        own = range(first, last + 1)
        if len(indent) != _characters(line, rest[0].col_offset) and not line.lstrip().startswith("@"):
            continue  # a body on the line of its header
        if deeper & set(own) or any(lines[r - 2].endswith("\\") for r in own if r > 1):
            continue
        above.setdefault(first, []).append(f"{indent}if True:")
        deeper.update(own)
    if not above:
        return None
    for row in deeper:
        if row not in strings and lines[row - 1].strip():
            lines[row - 1] = "    " + lines[row - 1]
    return _inserted("\n".join(lines), above)


def bodies_under_if(text: str) -> Rewritten | None:
    """The body of every outermost function and method under `if True:`."""
    tree = ast.parse(text)
    found: list[list[ast.stmt]] = []

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, Function):
                if not any(isinstance(n, (ast.Nonlocal, ast.Global)) for n in node.body):
                    found.append(node.body)
            elif isinstance(node, ast.ClassDef):
                visit(node.body)

    visit(tree.body)
    return _under_if(text, found, tree)


def loops_under_if(text: str) -> Rewritten | None:
    """The body of every innermost `for` and `while` loop under `if True:`."""
    tree = ast.parse(text)
    loops = [n for n in ast.walk(tree) if isinstance(n, (ast.For, ast.While))]
    inner = [n.body for n in loops if not any(m in ast.walk(n) for m in loops if m is not n)]
    return _under_if(text, inner, tree)


def module_under_if(text: str) -> Rewritten | None:
    """Everything behind the imports from `__future__` under `if True:`."""
    tree = ast.parse(text)
    body = [s for s in tree.body if not (isinstance(s, ast.ImportFrom) and s.module == "__future__")]
    return _under_if(text, [body], tree)


# -- functions around it -------------------------------------------------------------------------------------------

_STRANGER = '\n\ndef stranger(first, second):\n    """Has nothing to do with anything here."""\n    return second\n'


def with_stranger(text: str) -> Rewritten | None:
    """An unrelated function at the end."""
    rows = {row: row for row in range(1, len(_lines(text)) + 1)}
    return Rewritten(text.rstrip("\n") + "\n" + _STRANGER, rows)


def reordered(text: str) -> Rewritten | None:
    """Neighbouring functions of the top level in the opposite order, their comments with them."""
    tree, lines = ast.parse(text), _lines(text)
    names = [n.name for n in tree.body if isinstance(n, Function)]
    order = list(range(1, len(lines) + 1))
    run: list[ast.stmt] = []
    ends = {id(s): s.end_lineno or s.lineno for s in tree.body}
    starts: dict[int, int] = {}
    for before, node in zip([None, *tree.body], tree.body):
        starts[id(node)] = ends[id(before)] + 1 if before is not None else 1
    moved = False
    for node in [*tree.body, None]:
        if isinstance(node, Function) and names.count(node.name) == 1 and not _evaluates(node, set(names)):
            run.append(node)
            continue
        if len(run) > 1:
            moved = True
            first, last = starts[id(run[0])], ends[id(run[-1])]
            order[first - 1 : last] = [r for n in reversed(run) for r in range(starts[id(n)], ends[id(n)] + 1)]
        run = []
    if not moved:
        return None
    return Rewritten("\n".join(lines[r - 1] for r in order), {old: new for new, old in enumerate(order, 1)})


def _evaluates(function: Function, names: set[str]) -> bool:
    """Whether defining the function reads one of the names."""
    now = [*function.decorator_list, *function.args.defaults, *(d for d in function.args.kw_defaults if d)]
    return any(isinstance(n, ast.Name) and n.id in names for part in now for n in ast.walk(part))


# -- renaming ------------------------------------------------------------------------------------------------------


def renamed(text: str) -> Rewritten | None:
    """Local variables of functions under new names that say nothing; parameters keep theirs, callers may name them."""
    tree = ast.parse(text)
    table = symtable.symtable(text, "<file>", "exec")
    edits: list[tuple[int, int, int, str]] = []
    scopes = [t for t in _tables(table) if t.get_type() == "function"]
    outside = {s.get_name() for t in _tables(table) for s in t.get_symbols() if t.get_type() != "function"}
    functions = [n for n in ast.walk(tree) if isinstance(n, Function)]
    inner = {m for f in functions for m in ast.walk(f) if m is not f and isinstance(m, Function)}
    number = 0
    for function in functions:
        if function in inner:
            continue
        inside = [
            n
            for t in scopes
            if t.get_name() == function.name and t.get_lineno() in (function.lineno, _first_row(function))
            for n in _tables(t)
        ]
        names = _private(function, inside) - outside
        if any(isinstance(n, ast.Name) and n.id in ("locals", "vars", "eval", "exec") for n in ast.walk(function)):
            continue
        new = {}
        for name in sorted(names):
            number += 1
            new[name] = f"v{number}"
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and node.id in new:
                edits.append((node.lineno, node.col_offset, len(node.id), new[node.id]))
    if not edits:
        return None
    lines = _lines(text)
    for row, column, length, word in sorted(set(edits), reverse=True):
        line = lines[row - 1]
        at = _characters(line, column)
        lines[row - 1] = line[:at] + word + line[at + length :]
    return Rewritten("\n".join(lines), {row: row for row in range(1, len(lines) + 1)})


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _private(function: Function, tables: list[symtable.SymbolTable]) -> set[str]:
    """Names that only this function and those inside it bind, all by plain assignment."""
    bound: set[str] = set()
    kept: set[str] = set()
    for table in tables:
        for symbol in table.get_symbols():
            name = symbol.get_name()
            elsewhere = symbol.is_parameter() or symbol.is_imported() or symbol.is_namespace() or symbol.is_global()
            if elsewhere or table.get_type() != "function":
                kept.add(name)
            elif symbol.is_local():
                bound.add(name)
    for node in ast.walk(function):
        if isinstance(node, ast.JoinedStr):  # positions inside are not told before Python 3.12
            kept.update(n.id for n in ast.walk(node) if isinstance(n, ast.Name))
        elif isinstance(node, (ast.Nonlocal, ast.Global)):
            kept.update(node.names)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            kept.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            kept.add(node.rest)
    return bound - kept


# -- helpers -------------------------------------------------------------------------------------------------------


def _extracted(text: str, methods: frozenset[str]) -> tuple[str, str, list[str], dict[int, int]] | None:
    """Bare calls `a.b.method(names)` inside functions put into helpers that are handed what they use.

    Gives the text, the helpers' text and their names. The helpers are one per call, with names that say nothing.
    """
    tree, lines = ast.parse(text), _lines(text)
    helpers: list[str] = []
    names: list[str] = []
    spans: list[tuple[int, int, int, int, str]] = []
    for function in ast.walk(tree):
        if not isinstance(function, Function):
            continue
        for node in _own(function):
            if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
                continue
            call = node.value
            if not isinstance(call.func, ast.Attribute) or call.func.attr not in methods:
                continue
            if call.lineno != call.end_lineno or any(not isinstance(a, ast.Name) for a in call.args) or call.keywords:
                continue
            parts = [call.func.value, *call.args]
            free = list(dict.fromkeys(n.id for p in parts for n in ast.walk(p) if isinstance(n, ast.Name)))
            if any(isinstance(n, (ast.Call, ast.NamedExpr, ast.Await, ast.Lambda)) for p in parts for n in ast.walk(p)):
                continue
            if "self" in free or not free:
                continue
            name = f"h{len(helpers) + 1}"
            source = lines[call.lineno - 1]
            begin, end = _characters(source, call.col_offset), _characters(source, call.end_col_offset or 0)
            helpers.append(f"def {name}({', '.join(free)}):\n    {source[begin:end]}\n")
            names.append(name)
            spans.append((call.lineno, begin, end, len(free), f"{name}({', '.join(free)})"))
    if not helpers:
        return None
    for row, begin, end, _, new in sorted(set(spans), reverse=True):
        lines[row - 1] = lines[row - 1][:begin] + new + lines[row - 1][end:]
    return "\n".join(lines), "\n\n".join(helpers), names, {r: r for r in range(1, len(lines) + 1)}


def _own(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions and classes in it."""
    stack: list[ast.AST] = list(function.body)
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, _SCOPES):
            stack += ast.iter_child_nodes(node)


def extracting(*methods: str) -> Relation:
    """The calls of these methods put into helpers at the end of the file."""

    def relation(text: str) -> Rewritten | None:
        done = _extracted(text, frozenset(methods))
        if done is None:
            return None
        rest, helpers, _, _ = done
        return Rewritten(rest.rstrip("\n") + "\n\n\n" + helpers, None)

    return relation


def moving(*methods: str) -> Relation:
    """The calls of these methods put into helpers of another file."""

    def relation(text: str) -> Rewritten | None:
        done = _extracted(text, frozenset(methods))
        if done is None:
            return None
        rest, helpers, names, _ = done
        tree = ast.parse(rest)
        row = next((s.lineno for s in tree.body if isinstance(s, (ast.Import, ast.ImportFrom))
                    and getattr(s, "module", "") != "__future__"), 1)  # fmt: skip
        lines = _lines(rest)
        lines.insert(row - 1, f"from helpers import {', '.join(names)}")
        return Rewritten("\n".join(lines), None, {"helpers.py": "import torch\n\n\n" + helpers})

    return relation


SAME_PLACES: dict[str, Relation] = {
    "comments and blank lines": with_comments,
    "functions under if True": bodies_under_if,
    "loops under if True": loops_under_if,
    "module under if True": module_under_if,
    "an unrelated function": with_stranger,
    "functions reordered": reordered,
    "locals renamed": renamed,
}
