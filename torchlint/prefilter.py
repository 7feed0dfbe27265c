"""Which parts of a file libcst must see: everything else is blanked before parsing, and most files are not parsed at all.

Rules declare triggers, regular expressions for the text that a finding cannot do without. A function in which no trigger
of a selected rule matches is emptied, unless a kept one may reach it or be reached from it: names are compared, so this
keeps too much rather than too little. Line numbers and columns stay as they are. May never change a result: a test
compares the diagnostics with and without it on real packages.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import libcst as cst

from torchlint.rule import Rule
from torchlint.source import File

_USE = re.compile(r"(self\.|cls\.|\)\.|\.)?\b([A-Za-z_]\w*)")
# Methods that everything has: a call of one says nothing about the file's own.
_COMMON = frozenset(
    (*dir(list), *dir(dict), *dir(str), *dir(set), *dir(object))
    + tuple("forward step to cuda cpu eval train item size view mean sum max min numpy detach shape data device dtype apply float long half".split())
)


@dataclass(slots=True)
class _Unit:
    """A function whose body can be emptied: rows are 1-based, `first` is the row of its first body statement."""

    name: str
    cls: str  # the class around it, "" for a function
    row: int
    first: int
    last: int
    text: str
    kept: bool = False


def triggers(rules: Iterable[Rule]) -> re.Pattern[str]:
    """One expression that matches wherever any of the rules may find something."""
    parts = sorted({t for r in rules if r.checks for t in r.triggers})
    return re.compile("|".join(f"(?:{p})" for p in parts) if parts else r"(?!)", re.MULTILINE)


def concerns(text: str) -> bool:
    """Whether the text can be about PyTorch at all."""
    return "torch" in text or "lightning" in text


def load(path: str, text: str, rules: Sequence[Rule], pattern: re.Pattern[str] | None = None) -> File | None:
    """The file as the rules need it, or None where none of them can find anything. Raises libcst.ParserSyntaxError."""
    if not concerns(text):
        return None
    pattern = pattern or triggers(rules)
    if not pattern.search(text):
        return None
    sparse = thin(text, pattern)
    if sparse is None:
        return File.parse(path, text)
    try:
        return File(path, text, cst.parse_module(sparse), sparse)
    except cst.ParserSyntaxError:
        return File.parse(path, text)


def thin(text: str, pattern: re.Pattern[str]) -> str | None:
    """The text with the bodies of irrelevant functions blanked; None where Python itself cannot parse it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    lines = re.split(r"(?<=\n)", text) if "\r" not in text.replace("\r\n", "") and "\f" not in text else None
    if lines is None:
        return None
    units = list(_units(tree.body, "", lines))
    seeds = [u for u in units if pattern.search(u.text)]
    if len(seeds) == len(units):
        return text
    outside = _outside(units, lines)
    if not seeds and not pattern.search(outside):
        seeds = []
    _close(units, seeds, outside)
    return _blank(units, lines)


def _units(body: Iterable[ast.stmt], cls: str, lines: list[str]) -> Iterator[_Unit]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _units(node.body, node.name, lines)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            start = first.lineno
            if isinstance(first, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and first.decorator_list:
                start = first.decorator_list[0].lineno
            end = node.end_lineno or start
            top = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if start > _header_end(node) and not lines[start - 1][: first.col_offset].strip():
                yield _Unit(node.name, cls, top, start, end, "".join(lines[top - 1 : end]))


def _header_end(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The last row that the header is known to reach."""
    rows = [node.lineno]
    for part in (*ast.walk(node.args), *([node.returns] if node.returns is not None else [])):
        end = getattr(part, "end_lineno", None)
        if end:
            rows.append(end)
    return max(rows)


def _outside(units: list[_Unit], lines: list[str]) -> str:
    """What lies outside all units: it is always kept."""
    parts = []
    row = 0
    for unit in units:
        parts.append("".join(lines[row : unit.row - 1]))
        row = unit.last
    parts.append("".join(lines[row:]))
    return "".join(parts)


class _Names:
    """The names that a stretch of code uses: bare ones, methods of its own object, methods of others."""

    __slots__ = ("bare", "mine", "other")

    def __init__(self, text: str) -> None:
        self.bare: set[str] = set()
        self.mine: set[str] = set()
        self.other: set[str] = set()
        for match in _USE.finditer(text):
            before, name = match.groups()
            if not before:
                self.bare.add(name)
            elif before in ("self.", "cls.", ")."):
                self.mine.add(name)
                if before == ").":
                    self.other.add(name)
            else:
                self.other.add(name)
        self.other -= _COMMON


def _close(units: list[_Unit], seeds: list[_Unit], outside: str) -> None:
    """Keep the seeds, what they may call, whatever may call them, and what sets the attributes that they read.

    A method of another class counts as called only where its class is named in kept code or at the top level: a value
    gets a class of this file from its constructor, an annotation or a base class.
    """
    names = [_Names(u.text) for u in units]
    functions: dict[str, list[int]] = {}
    methods: dict[str, list[int]] = {}
    of_class: dict[str, list[int]] = {}
    for i, unit in enumerate(units):
        (methods if unit.cls else functions).setdefault(unit.name, []).append(i)
        if unit.cls:
            of_class.setdefault(unit.cls, []).append(i)
    top = _Names(outside)
    known = of_class.keys() & _Names(_class_free(outside)).bare  # classes that the top level itself names
    ids = {id(s) for s in seeds}
    chosen = [i for i, u in enumerate(units) if id(u) in ids]
    above = _callers(units, names, chosen, known)
    queue = chosen + above + [i for n in functions.keys() & top.bare for i in functions[n]]
    while queue:
        i = queue.pop()
        unit, used = units[i], names[i]
        if unit.kept:
            continue
        unit.kept = True
        for name in functions.keys() & used.bare:
            queue += functions[name]
        for cls in of_class.keys() & used.bare:
            queue += [j for j in of_class[cls] if units[j].name in ("__init__", "__call__", "__enter__", "__exit__")]
            if cls not in known:
                known = known | {cls}
        for name in methods.keys() & used.mine:
            queue += methods[name]
        for name in methods.keys() & used.other:
            queue += [j for j in methods[name] if units[j].cls in known or units[j].cls == unit.cls]
        if unit.cls:
            queue += [
                j
                for j in of_class[unit.cls]
                if not units[j].kept and (units[j].name == "__init__" or _assigns(units[j].text, used.mine))
            ]


def _callers(units: list[_Unit], names: list[_Names], chosen: list[int], known: set[str]) -> list[int]:
    """The units that may call one of the chosen, directly or through others."""
    seen = set(chosen)
    result: list[int] = []
    queue = list(chosen)
    while queue:
        unit = units[queue.pop()]
        for j, other in enumerate(names):
            if j in seen:
                continue
            if not unit.cls:
                calls = unit.name in other.bare
            elif unit.name == "__init__":
                calls = unit.cls in other.bare
            else:
                calls = (unit.name in other.mine and bool(units[j].cls)) or (
                    unit.name in other.other and (unit.cls in other.bare or unit.cls in known)
                )
            if calls:
                seen.add(j)
                queue.append(j)
                result.append(j)
    return result


def _class_free(outside: str) -> str:
    """The text without `class X` headers, whose own names are no use of the class."""
    return re.sub(r"^[ \t]*class\s+\w+", "", outside, flags=re.MULTILINE)


def _assigns(text: str, attributes: set[str]) -> bool:
    return any(m[1] in attributes for m in re.finditer(r"\bself\.(\w+)(?:\s*:[^=\n]+)?\s*=(?!=)", text))


def _blank(units: list[_Unit], lines: list[str]) -> str:
    out = list(lines)
    for unit in units:
        if unit.kept:
            continue
        for row in range(unit.first - 1, unit.last):
            line = lines[row]
            out[row] = line[len(line.rstrip("\r\n")) :]
        head = lines[unit.first - 1]
        indent = head[: len(head) - len(head.lstrip(" \t"))]
        out[unit.first - 1] = indent + "..." + out[unit.first - 1]
    return "".join(out)
