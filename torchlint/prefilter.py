"""Which parts of a file libcst must see: all else is blanked before parsing, and most files are not parsed at all.

Rules declare triggers, regular expressions for the text that a finding cannot do without, and shapes, forms of code. A
function in which no selected rule has both is emptied, unless a kept one may reach it or be reached from it: names are
compared, so this keeps too much rather than too little. Line numbers and columns stay as they are. May never change a
result: `benchmarks/prefilter_invariance.py` compares the diagnostics with and without it on real packages.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import libcst as cst

from torchlint.rule import Rule
from torchlint.shapes import Code, descend
from torchlint.source import File

_WORD = re.compile(r"[A-Za-z_]\w*")
# Methods that everything has: a call of one says nothing about the file's own.
_COMMON = frozenset(
    """forward step to cuda cpu eval train item size view mean sum max min numpy detach shape data device dtype apply
    float long half""".split()
).union(dir(list), dir(dict), dir(str), dir(set), dir(object))


@dataclass(slots=True)
class _Unit:
    """A function whose body can be emptied: rows are 1-based, `first` is the row of its first body statement."""

    name: str
    cls: str  # the class around it, "" for a function
    row: int
    first: int
    last: int
    text: str
    node: ast.AST = field(repr=False)
    kept: bool = False


class Seeds:
    """Where any of some rules may find something: a trigger matches, and the code has one of the rule's shapes."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        rules = [r for r in rules if r.checks]
        self.plain = _any_of({t for r in rules if not r.shapes for t in r.triggers})
        shapes: dict[tuple[str, ...], set[str]] = {}
        for rule in rules:
            if rule.shapes:
                shapes.setdefault(rule.shapes, set()).update(rule.triggers)
        self.shaped = [(_any_of(triggers), names) for names, triggers in shapes.items()]

    def may_be_in(self, code: Code) -> bool:
        if self.plain.search(code.text):
            return True
        return any(pattern.search(code.text) and any(map(code.has, names)) for pattern, names in self.shaped)


def _any_of(triggers: set[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{t})" for t in sorted(triggers)) if triggers else r"(?!)", re.MULTILINE)


def concerns(text: str) -> bool:
    """Whether the text can be about PyTorch at all."""
    return "torch" in text or "lightning" in text


def load(
    path: str, text: str, rules: Sequence[Rule], tree: ast.Module | None, seeds: Seeds | None = None
) -> File | None:
    """The file as the rules need it, or None where none of them can find anything. Raises libcst.ParserSyntaxError.

    `tree` is the text as Python reads it, None where its syntax is newer than this Python.
    """
    if not rules or not concerns(text):
        return None
    if tree is None:
        return File.parse(path, text)
    sparse = thin(text, tree, seeds or Seeds(rules))
    if sparse is None:
        return None
    try:
        return File(path, text, cst.parse_module(sparse), sparse)
    except cst.ParserSyntaxError:
        return File.parse(path, text)


def thin(text: str, tree: ast.Module, seeds: Seeds) -> str | None:
    """The text with the bodies of irrelevant functions blanked; None where nothing at all can be found in it."""
    whole = "\r" in text.replace("\r\n", "") or "\f" in text
    if whole:
        return text if seeds.may_be_in(Code([tree], text, text)) else None
    parts = text.split("\n")
    lines = [*(part + "\n" for part in parts[:-1]), parts[-1]]
    code_lines = _without_docstrings(tree, lines)
    units = list(_units(tree.body, "", code_lines))
    codes = [Code([u.node], u.text, text) for u in units]
    chosen = [i for i, code in enumerate(codes) if seeds.may_be_in(code)]
    if len(chosen) == len(units) and units:
        return text
    outside = _outside(tree, units, code_lines, text)
    if not chosen and not seeds.may_be_in(outside):
        return None
    _close(units, codes, chosen, outside, _families(tree))
    return _blank(units, lines)


def _definitions(body: Iterable[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """The classes and functions of a file, those inside of others and under `if`, `try` and the like included."""
    stack = list(body)
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
        if node.__class__ in _SIMPLE:
            continue
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            stack += getattr(node, name, ())


_SIMPLE = frozenset((ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Import, ast.ImportFrom))


def _without_docstrings(tree: ast.Module, lines: list[str]) -> list[str]:
    """The lines, with those of docstrings emptied: what they say is no code."""
    result = lines
    for node in _definitions(tree.body):
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            end = first.end_lineno or first.lineno
            indent = lines[first.lineno - 1][: first.col_offset]
            if indent.isspace() and ";" not in lines[end - 1]:
                if result is lines:
                    result = list(lines)
                result[first.lineno - 1] = indent + "\n"
                result[first.lineno : end] = ["\n"] * (end - first.lineno)
    return result


def _families(tree: ast.Module) -> dict[str, int]:
    """Class → a number that classes of this file share where one is, however far, derived from the other."""
    family: dict[str, int] = {}
    for node in _definitions(tree.body):
        if isinstance(node, ast.ClassDef):
            names = [node.name, *(b.attr if isinstance(b, ast.Attribute) else getattr(b, "id", "") for b in node.bases)]
            numbers = {family[n] for n in names if n in family}
            number = min(numbers, default=len(family))
            for name, old in family.items():
                if old in numbers:
                    family[name] = number
            family.update(dict.fromkeys(names, number))
    return family


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
                yield _Unit(node.name, cls, top, start, end, "".join(lines[top - 1 : end]), node)


def _header_end(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The last row that the header is known to reach."""
    rows = [node.lineno]
    for part in (*ast.walk(node.args), *([node.returns] if node.returns is not None else [])):
        end = getattr(part, "end_lineno", None)
        if end:
            rows.append(end)
    return max(rows)


def _outside(tree: ast.Module, units: list[_Unit], lines: list[str], text: str) -> Code:
    """What lies outside all units: it is always kept."""
    parts = []
    row = 0
    for unit in units:
        parts.append("".join(lines[row : unit.row - 1]))
        row = unit.last
    parts.append("".join(lines[row:]))
    inside = {id(u.node) for u in units}
    roots: list[ast.AST] = []
    stack: list[ast.AST] = list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.ClassDef):
            stack += [*node.body, *node.keywords, *node.decorator_list]  # a base class is no use of it
        elif id(node) not in inside:
            roots.append(node)
    return Code(roots, "".join(parts), text)


class _Names:
    """The names that a stretch of code uses: bare ones, methods of its own object, methods of others; what it sets."""

    __slots__ = ("bare", "mine", "other", "reads", "sets")

    def __init__(self, code: Code) -> None:
        self.bare: set[str] = set()
        self.mine: set[str] = set()
        self.other: set[str] = set()
        self.sets: set[str] = set()
        grown: set[int] = set()
        bare, mine, other = self.bare.add, self.mine.add, self.other.add
        for node in code.nodes:
            kind = node.__class__
            if kind is ast.Name:
                bare(node.id)  # type: ignore[attr-defined]
            elif kind is ast.Attribute:
                assert isinstance(node, ast.Attribute)
                owner = node.value
                if owner.__class__ is ast.Name:
                    if owner.id in ("self", "cls"):
                        mine(node.attr)
                        if node.ctx.__class__ is ast.Store and id(node) not in grown:
                            self.sets.add(node.attr)
                    else:
                        other(node.attr)
                elif owner.__class__ is ast.Attribute or owner.__class__ is ast.Subscript:
                    other(node.attr)
                else:
                    mine(node.attr)
                    other(node.attr)
            elif kind is ast.AugAssign:
                grown.add(id(node.target))  # type: ignore[attr-defined]
            elif kind is ast.arg or kind is ast.AnnAssign:
                self._quoted(node.annotation)  # type: ignore[attr-defined]
            elif kind is ast.FunctionDef or kind is ast.AsyncFunctionDef:
                self._quoted(node.returns)  # type: ignore[attr-defined]
        self.reads = frozenset(self.other)
        self.other -= _COMMON

    def _quoted(self, annotation: ast.expr | None) -> None:
        """Names in annotations that are written as strings."""
        for node in descend([annotation]) if annotation is not None else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.bare.update(_WORD.findall(node.value))


def _close(units: list[_Unit], codes: list[Code], chosen: list[int], outside: Code, families: dict[str, int]) -> None:
    """Keep the seeds, what they may call, whatever may call them, and what sets the attributes that they read.

    A method of another class counts as called only where its class, or one derived from it, is named in kept code or at
    the top level: a value gets a class of this file from its constructor or an annotation. `self` has the methods of
    its class's family.
    """
    names = [_Names(code) for code in codes]
    functions: dict[str, list[int]] = {}
    methods: dict[str, list[int]] = {}
    of_class: dict[str, list[int]] = {}
    setters: dict[str, list[int]] = {}  # attribute → methods that set it
    family = [families.get(unit.cls, -1) for unit in units]
    for i, unit in enumerate(units):
        (methods if unit.cls else functions).setdefault(unit.name, []).append(i)
        if unit.cls:
            of_class.setdefault(unit.cls, []).append(i)
        for name in names[i].sets:
            setters.setdefault(name, []).append(i)
    special = {"__call__", "__enter__", "__exit__"}
    if ".backward(" in outside.whole:
        special.add("__init__")  # what a model is made of says whether its mode matters
    top = _Names(outside)
    # The families of which the top level, or else kept code, names a class.
    known = {families[cls] for cls in families.keys() & top.bare}
    above = _callers(units, names, chosen, family, known, families)
    queue = chosen + above + [i for n in functions.keys() & top.bare for i in functions[n]]
    queue += [j for cls in of_class.keys() & top.bare for j in of_class[cls] if units[j].name in special]
    waiting: dict[int, list[int]] = {}  # family → methods that are reached once it is known
    while queue:
        i = queue.pop()
        unit, used = units[i], names[i]
        if unit.kept:
            continue
        unit.kept = True
        for name in functions.keys() & used.bare:
            queue += functions[name]
        for cls in families.keys() & used.bare:
            queue += [j for j in of_class.get(cls, ()) if units[j].name in special]
            known.add(families[cls])
            queue += waiting.pop(families[cls], ())
        for name in methods.keys() & used.mine:
            queue += [j for j in methods[name] if family[j] == family[i]]
        reached = [j for name in methods.keys() & used.other for j in methods[name]]
        reached += [j for name in setters.keys() & used.reads for j in setters[name]]
        for j in reached:
            if family[j] in known or family[j] == family[i]:
                queue.append(j)
            else:
                waiting.setdefault(family[j], []).append(j)
        if unit.cls:
            queue += [
                j
                for j in of_class[unit.cls]
                if not units[j].kept and (units[j].name == "__init__" or names[j].sets & used.mine)
            ]


def _callers(
    units: list[_Unit],
    names: list[_Names],
    chosen: list[int],
    family: list[int],
    known: set[int],
    families: dict[str, int],
) -> list[int]:
    """The units that may call one of the chosen, directly or through others."""
    seen = set(chosen)
    result: list[int] = []
    queue = list(chosen)
    named = [{families[cls] for cls in families.keys() & n.bare} for n in names]
    while queue:
        i = queue.pop()
        unit = units[i]
        for j, other in enumerate(names):
            if j in seen:
                continue
            if not unit.cls:
                calls = unit.name in other.bare
            elif unit.name == "__init__":
                calls = unit.cls in other.bare
            else:
                calls = (unit.name in other.mine and family[i] == family[j]) or (
                    unit.name in other.other and (family[i] in named[j] or family[i] in known)
                )
            if calls:
                seen.add(j)
                queue.append(j)
                result.append(j)
    return result


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
