"""What of a file's fixes can be judged and written by itself: each function, and all that lies outside of functions."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

MODULE = "<module>"

Definition = ast.FunctionDef | ast.AsyncFunctionDef
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def definitions(tree: ast.Module) -> dict[str, Definition]:
    """The functions and methods by dotted name, nested ones left out; a name that is defined twice is left out too."""
    found: dict[str, Definition] = {}
    twice: set[str] = set()

    def visit(statements: Sequence[ast.stmt], prefix: str) -> None:
        for statement in statements:
            if isinstance(statement, _DEFINITIONS):
                name = prefix + statement.name
                if name in found:
                    twice.add(name)
                found[name] = statement
            elif isinstance(statement, ast.ClassDef):
                visit(statement.body, f"{prefix}{statement.name}.")
            else:
                for block in _blocks(statement):
                    visit(block, prefix)

    visit(tree.body, "")
    return {name: node for name, node in found.items() if name not in twice}


def _blocks(statement: ast.stmt) -> Iterator[Sequence[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(statement, name, None)
        if isinstance(block, list):
            yield block
    for handler in getattr(statement, "handlers", []):
        yield handler.body


def span(node: Definition) -> tuple[int, int]:
    """The first and last line of a function, 1-based, decorators included."""
    return min([node.lineno, *(d.lineno for d in node.decorator_list)]), node.end_lineno or node.lineno


def changed(before: str, after: str) -> set[str]:
    """The names of what a fix changes: functions, and `<module>` for anything else but new imports.

    An import that goes because functions no longer use it is part of their change, and not one of its own.

    Raises SyntaxError where either text does not parse.
    """
    old, new = definitions(ast.parse(before)), definitions(ast.parse(after))
    names = {name for name in old.keys() & new.keys() if ast.dump(old[name]) != ast.dump(new[name])}
    try:
        rest = ast.parse(replaced(after, {name: _lines(before, old[name]) for name in names}))
    except SyntaxError:  # a function has moved to another depth
        return {MODULE}
    added = {id(statement) for statement in added_imports(ast.parse(before), rest)}
    rest.body = [statement for statement in rest.body if id(statement) not in added]
    left = ast.parse(before)
    gone = {id(statement) for statement in removed_imports(left, ast.parse(after))} if names else set()
    left.body = [statement for statement in left.body if id(statement) not in gone]
    return names | ({MODULE} if ast.dump(rest) != ast.dump(left) else set())


def replaced(text: str, functions: Mapping[str, Sequence[str]]) -> str:
    """The text with other lines in place of some of its functions."""
    lines = text.splitlines(keepends=True)
    known = definitions(ast.parse(text))
    for name in sorted(functions, key=lambda name: known[name].lineno, reverse=True):
        start, end = span(known[name])
        new = list(functions[name])
        if end < len(lines) and new and not new[-1].endswith(("\n", "\r")):
            new[-1] += _newline(text)
        lines[start - 1 : end] = new
    return "".join(lines)


def _lines(text: str, node: Definition) -> list[str]:
    start, end = span(node)
    return text.splitlines(keepends=True)[start - 1 : end]


def compose(before: str, parts: Iterable[tuple[Iterable[str], str]]) -> str:
    """`before` with the named parts taken from other texts: (names, text) pairs of functions or `<module>`.

    What lies outside of functions is taken as a whole, so at most one pair may name it. Imports that a text adds come
    along where the parts taken from it use them; imports that it drops go where nothing uses them any more.
    """
    functions: dict[str, Sequence[str]] = {}
    needed: dict[str, None] = {}
    dropped: set[str] = set()
    outside = before
    original = definitions(ast.parse(before))
    for names, text in parts:
        names = set(names)
        tree = ast.parse(text)
        known = definitions(tree)
        if MODULE in names:
            outside = text
        for name in names - {MODULE}:
            functions[name] = _lines(text, known[name])
        if names - {MODULE}:
            dropped.update(ast.dump(statement) for statement in removed_imports(ast.parse(before), tree))
        used = {n.id for name in names - {MODULE} for n in ast.walk(known[name]) if isinstance(n, ast.Name)}
        for statement in added_imports(ast.parse(before), tree):
            if used & set(_bound(statement)):
                needed[ast.unparse(statement)] = None
    # Functions that were not asked for stay as they were, also where the text of the rest changes them.
    there = definitions(ast.parse(outside))
    kept = {name: _lines(before, node) for name, node in original.items() if name in there and name not in functions}
    result = replaced(outside, {**kept, **functions} if outside is not before else functions)
    present = {ast.unparse(s) for s in ast.parse(result).body if isinstance(s, (ast.Import, ast.ImportFrom))}
    missing = [statement for statement in needed if statement not in present]
    if missing:
        lines = result.splitlines(keepends=True)
        at = import_line(ast.parse(result))
        lines[at:at] = [statement + _newline(before) for statement in missing]
        result = "".join(lines)
    return _without(result, dropped) if dropped else result


def _without(text: str, imports: set[str]) -> str:
    """The text without those of the imports (as dumps) that nothing in it uses."""
    tree = ast.parse(text)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    lines = text.splitlines(keepends=True)
    for statement in reversed(tree.body):
        if isinstance(statement, (ast.Import, ast.ImportFrom)) and ast.dump(statement) in imports:
            rows = range(statement.lineno - 1, statement.end_lineno or statement.lineno)
            shared = sum(s.lineno == statement.lineno for s in tree.body) > 1
            if not used & set(_bound(statement)) and not shared:
                del lines[rows.start : rows.stop]
    return "".join(lines)


def _newline(text: str) -> str:
    return "\r\n" if text.count("\r\n") * 2 > text.count("\n") else "\n"


def added_imports(old: ast.Module, new: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    known = {ast.dump(s) for s in old.body}
    return [s for s in new.body if isinstance(s, (ast.Import, ast.ImportFrom)) and ast.dump(s) not in known]


def removed_imports(old: ast.Module, new: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    """The imports that are no longer there, but for those in whose place others bind the same names."""
    bound = {name for statement in added_imports(old, new) for name in _bound(statement)}
    return [statement for statement in added_imports(new, old) if not bound & set(_bound(statement))]


def _bound(statement: ast.Import | ast.ImportFrom) -> list[str]:
    return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]


def import_line(tree: ast.Module) -> int:
    """How many lines come before the place for a new import: behind the first block of imports."""
    line = 0
    for index, statement in enumerate(tree.body):
        if isinstance(statement, (ast.Import, ast.ImportFrom)) or stays_first(statement, index):
            line = statement.end_lineno or statement.lineno
        else:
            break
    return line


def stays_first(statement: ast.stmt, index: int) -> bool:
    docstring = index == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return docstring or (isinstance(statement, ast.ImportFrom) and statement.module == "__future__")


@dataclass(frozen=True, slots=True)
class Splice:
    """One edit of a finding's fix, as offsets into the text and what is put there."""

    start: int
    end: int
    text: str


def touched(text: str, fixes: Iterable[Sequence[Splice]]) -> list[set[str]]:
    """For each fix the parts of the text that its edits lie in; an edit that only adds imports lies nowhere."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    ranges = {}
    for name, node in definitions(ast.parse(text)).items():
        first, last = span(node)
        ranges[name] = (starts[first - 1], starts[min(last, len(starts) - 1)])
    result = []
    for edits in fixes:
        places = set()
        for edit in edits:
            if not _imports_only(edit):
                inside = (n for n, (a, b) in ranges.items() if a <= edit.start and edit.end <= b and edit.start < b)
                places.add(next(inside, MODULE))
        result.append(places)
    return result


def _imports_only(edit: Splice) -> bool:
    lines = [line.strip() for line in edit.text.splitlines() if line.strip()]
    return edit.start == edit.end and bool(lines) and all(line.startswith(("import ", "from ")) for line in lines)


def groups(names: Iterable[str], links: Iterable[set[str]]) -> list[tuple[str, ...]]:
    """The names in groups that must be judged together: those that one fix edits at the same time."""
    names = set(names)
    found: list[set[str]] = [{name} for name in names]
    for link in links:
        joined = set().union(*(group for group in found if group & link), set())
        if joined:
            found = [group for group in found if not group & link] + [joined]
    return sorted(tuple(sorted(group)) for group in found)


def starting_line(text: str, names: Iterable[str]) -> int:
    """The line where the first of the named functions starts; 1 for what lies outside of functions."""
    known = definitions(ast.parse(text))
    return min((span(known[name])[0] for name in names if name in known), default=1)
