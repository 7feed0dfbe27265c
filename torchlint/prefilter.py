"""Which parts of a file libcst must see: all else is blanked before parsing, and most files are not parsed at all.

Rules declare triggers, regular expressions for the text that a finding cannot do without, and shapes, forms of code. A
function in which no selected rule has both is emptied, unless a kept one may reach it or be reached from it: names are
compared, so this keeps too much rather than too little. Line numbers and columns stay as they are. May never change a
result: `benchmarks/prefilter_invariance.py` compares the diagnostics with and without it on real packages.
"""

from __future__ import annotations

import ast
import bisect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from torchlint.shapes import Code, Whole, has
from torchlint.shapes.syntax_tree import descend
from torchlint.triggers import Scan

if TYPE_CHECKING:
    from torchlint.rule import Rule
    from torchlint.skeleton import Skeleton
    from torchlint.source import File

_WORD = re.compile(r"[A-Za-z_]\w*")
# Methods that everything has: a call of one says nothing about the file's own.
_COMMON = frozenset(
    """forward to cuda cpu eval item size view mean sum max min numpy detach shape data device dtype apply
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
    node: ast.AST = field(repr=False)


class Seeds:
    """Where any of some rules may find something: a trigger matches, and the code has one of the rule's shapes."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        groups: dict[tuple[str, ...], set[str]] = {}
        for rule in rules:
            if rule.looks:
                groups.setdefault(rule.shapes, set()).update(rule.triggers)
        self._groups = sorted(groups.items())  # those without shapes first

    def places(self, scan: Scan, stretches: Stretches) -> tuple[set[int], set[tuple[str, ...]]]:
        """The numbers of the stretches in which something may be found, and the shapes that none of them has."""
        found: set[int] = set()
        absent: set[tuple[str, ...]] = set()
        for shapes, triggers in self._groups:
            touched = stretches.at(frozenset().union(*map(scan.rows, triggers)))
            if shapes:
                new = {i for i in touched - found if _has_any(stretches.code(i), shapes)}
                if not new and not any(_has_any(stretches.code(i), shapes) for i in touched & found):
                    absent.add(shapes)
                touched = new
            found |= touched
        return found, absent


def _has_any(code: Code, shapes: Iterable[str]) -> bool:
    return any(has(code, shape) for shape in shapes)


class Stretches:
    """A file cut into its units and, as the last stretch, all that lies outside of them."""

    def __init__(self, text: str, tree: ast.Module, units: list[_Unit], lines: list[str], silent: set[int]) -> None:
        self.units = units
        self.outside = len(units)
        self._whole = Whole(text, lambda: [self.code(i) for i in range(len(self.units) + 1)])
        self._tree = tree
        self._lines = lines
        self._silent = silent  # rows of docstrings: what they say is no code
        self._starts = [u.row for u in units]
        self._codes: dict[int, Code] = {}

    def forget(self) -> None:
        """Let go of what refers to itself in circles."""
        self._codes.clear()
        self._whole.__dict__.clear()

    def at(self, rows: Iterable[int]) -> set[int]:
        """The stretches in which these 0-based rows lie."""
        found: set[int] = set()
        for row in rows:
            if row in self._silent:
                continue
            i = bisect.bisect_right(self._starts, row + 1) - 1
            found.add(i if i >= 0 and row < self.units[i].last else self.outside)
        return found

    def code(self, i: int) -> Code:
        found = self._codes.get(i)
        if found is None:
            if i == self.outside:
                found = _outside(self._tree, self.units, self._lines, self._whole)
            else:
                unit = self.units[i]
                found = Code([unit.node], "".join(self._lines[unit.row - 1 : unit.last]), self._whole)
            self._codes[i] = found
        return found


class Plan:
    """Which functions of a file its rules need: the others' bodies are left out of the trees that are made from it.

    `absent`: the shapes (`Rule.shapes`) that no function of the file has; their rules have nothing to look at.
    """

    def __init__(self, layout: Layout, emptied: list[_Unit], absent: set[tuple[str, ...]]) -> None:
        self.absent = absent
        self.path = layout.path
        self.text = layout.text
        self._layout = layout
        self._tree = layout.tree
        self._emptied = emptied
        self._lines = layout.lines

    def narrowed(self, rules: Iterable[Rule]) -> Plan:
        """What these rules alone need."""
        return self._layout.plan(Seeds(rules)) or self

    def skeleton(self) -> Skeleton:
        """The tree without whitespace, of the kept functions. Raises NeedsText where the file's syntax is too rare."""
        from torchlint.skeleton import Skeleton

        return Skeleton(self.path, self.text, self._tree, [u.node for u in self._emptied])

    def sparse(self) -> str:
        """The text with the bodies of the other functions blanked; line numbers and columns stay."""
        return _blank(self._emptied, self._lines) if self._emptied else self.text

    def file(self) -> File:
        """The libcst tree of the sparse text. Raises libcst.ParserSyntaxError."""
        import libcst as cst

        from torchlint.source import File

        if not self._emptied:
            return File.parse(self.path, self.text)
        sparse = self.sparse()
        try:
            return File(self.path, self.text, cst.parse_module(sparse), sparse)
        except cst.ParserSyntaxError:
            return File.parse(self.path, self.text)


def concerns(text: str) -> bool:
    """Whether the text can be about PyTorch at all."""
    return "torch" in text or "lightning" in text


class Layout:
    """A file's functions and what they name, from which plans are made for one set of rules or another."""

    def __init__(self, path: str, scan: Scan, tree: ast.Module) -> None:
        self.path, self.text, self.tree = path, scan.text, tree
        self._scan = scan
        parts = self.text.split("\n")
        self.lines = [*(part + "\n" for part in parts[:-1]), parts[-1]]
        self._definitions: list[_Definition] = []
        units: list[_Unit] = []
        # Where a line may end in another way than `ast` counts them, nothing is left out.
        if "\r" not in self.text.replace("\r\n", "") and "\f" not in self.text:
            self._definitions = list(_definitions(tree.body))
            units = sorted(_units(tree.body, "", self.lines), key=lambda u: u.row)
        silent = set(_docstring_rows(self._definitions, self.lines))
        self._stretches = Stretches(self.text, tree, units, self.lines, silent)

    def plan(self, seeds: Seeds) -> Plan | None:
        """What of the file the rules need, None where none of them can find anything."""
        chosen, absent = seeds.places(self._scan, self._stretches)
        if not chosen:
            return None
        top = self._stretches.outside in chosen
        chosen.discard(self._stretches.outside)
        units = self._stretches.units
        if len(chosen) == len(units):
            return Plan(self, [], absent)
        kept = _close(self._stretches, self._names, sorted(chosen), self._families, top)
        return Plan(self, [unit for i, unit in enumerate(units) if i not in kept], absent)

    def forget(self) -> None:
        """Let go of all that was worked out, so that it is freed at once. Nothing may be asked afterwards."""
        self._stretches.forget()

    @cached_property
    def _names(self) -> list[_Names]:
        return [_Names(self._stretches.code(i)) for i in range(len(self._stretches.units))]

    @cached_property
    def _families(self) -> dict[str, int]:
        return _families(self._definitions)


_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _definitions(body: Iterable[ast.stmt]) -> Iterator[_Definition]:
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


def _docstring_rows(definitions: Iterable[_Definition], lines: list[str]) -> Iterator[int]:
    """The 0-based rows that hold docstrings and nothing else."""
    for node in definitions:
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            end = first.end_lineno or first.lineno
            if not lines[first.lineno - 1][: first.col_offset].strip() and ";" not in lines[end - 1]:
                yield from range(first.lineno - 1, end)


def _families(definitions: Iterable[ast.AST]) -> dict[str, int]:
    """Class → a number that classes of this file share where one is, however far, derived from the other."""
    family: dict[str, int] = {}
    for node in definitions:
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
                yield _Unit(node.name, cls, top, start, end, node)


def _header_end(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The last row that the header is known to reach."""
    rows = [node.lineno]
    for part in (*ast.walk(node.args), *([node.returns] if node.returns is not None else [])):
        end = getattr(part, "end_lineno", None)
        if end:
            rows.append(end)
    return max(rows)


def _outside(tree: ast.Module, units: list[_Unit], lines: list[str], whole: Whole) -> Code:
    """What lies outside all units: it is always kept."""
    parts: list[str] = []
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
    return Code(roots, "".join(parts), whole)


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


def _close(
    stretches: Stretches, names: list[_Names], chosen: list[int], families: dict[str, int], from_top: bool
) -> set[int]:
    """The seeds, what they may call, whatever may call them, and what sets the attributes that they read.

    `from_top` says that the top level is a seed too: a script that trains there calls methods of its models.

    A method of another class counts as called only where its class, or one derived from it, is named in kept code or at
    the top level: a value gets a class of this file from its constructor or an annotation. `self` has the methods of
    its class's family.
    """
    units, outside = stretches.units, stretches.code(stretches.outside)
    kept: set[int] = set()
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
    if ".backward(" in outside.whole.text or ".load_state_dict(" in outside.whole.text:
        special.add("__init__")  # what a model is made of says whether its mode matters
    top = _Names(outside)
    # The families of which the top level, or else kept code, names a class.
    known = {families[cls] for cls in families.keys() & top.bare}
    above = _callers(units, names, chosen, family, known, families)
    queue = chosen + above + [i for n in functions.keys() & top.bare for i in functions[n]]
    queue += [j for cls in of_class.keys() & top.bare for j in of_class[cls] if units[j].name in special]
    if from_top:
        queue += [j for name in methods.keys() & top.other for j in methods[name] if family[j] in known]
    waiting: dict[int, list[int]] = {}  # family → methods that are reached once it is known
    while queue:
        i = queue.pop()
        unit, used = units[i], names[i]
        if i in kept:
            continue
        kept.add(i)
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
                if j not in kept and (units[j].name == "__init__" or names[j].sets & used.mine)
            ]
    return kept


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
        for row in range(unit.first - 1, unit.last):
            line = lines[row]
            out[row] = line[len(line.rstrip("\r\n")) :]
        head = lines[unit.first - 1]
        indent = head[: len(head) - len(head.lstrip(" \t"))]
        out[unit.first - 1] = indent + "..." + out[unit.first - 1]
    return "".join(out)
