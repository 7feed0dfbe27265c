"""Python in documents and docstrings: its blocks joined to programs, and what is found in these put back in place.

A program has the form of a notebook's, a cell for each block, so that it is checked, fixed and silenced as one is. What
stands in a document's own rows and columns again can be shown, compared and written like that of any other file.
Blocks that are no Python, of which prose is full, are left out without a word.
"""

from __future__ import annotations

import ast
import bisect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from functools import cached_property

from torchlint import notebook, suppress, syntax
from torchlint.diagnostic import Diagnostic, Edit, Fix
from torchlint.discover import DOCUMENTS
from torchlint.magics import foreign, neutral
from torchlint.notebook import MARK
from torchlint.prose import Block, Line, blocks
from torchlint.unified import edits_between

_NEWLINE = re.compile(r"\r\n|\n|\r")
_IMPORT = re.compile(r"^(?:import|from)[ \t][^\r\n#]*\w", re.MULTILINE)
_LEFT_OUT = re.compile(r"#[ \t]*(?:\.\.\.|…|\[(?:\.\.\.|…)\])[ \t]*$", re.MULTILINE)
_MAY_HOLD = (">>>", "::", "```", "~~~")
_LITERAL = re.compile(r"""(?P<kind>[rRuU]?)(?P<quotes>\"{3}|'{3}|"|')(?P<inside>.*)(?P=quotes)""", re.DOTALL)
_PRELUDE = 0  # the number of the cell that stands for what is imported around a docstring


def is_document(path: str) -> bool:
    """Whether a file is prose that may hold Python, and not Python that may hold prose."""
    return path.endswith(DOCUMENTS)


class Program:
    """Blocks as one program: `text` is in the form of `notebook`, a cell for each block.

    `prelude` is code that holds before the first block and stands nowhere in the document.
    """

    def __init__(self, document: str, found: Sequence[Block], prelude: str = "") -> None:
        self._document = document
        self._blocks = found
        newline = "\r\n" if 2 * document.count("\r\n") > document.count("\n") else "\n"
        self._newline = newline
        self.is_example = bool(prelude)
        parts: list[str] = []
        self._starts: list[int] = []  # of the program's lines that stand in the document
        self._lines: list[Line] = []
        position = 0
        if prelude:
            parts.append(f"{MARK}{_PRELUDE}{newline}{prelude}")
            position = len(parts[0])
        for number, block in enumerate(found, 1):
            header = f"{MARK}{number}{newline}"
            parts.append(header)
            position += len(header)
            for line in block.lines:
                code = document[line.code : line.end]
                if not code.endswith(("\n", "\r")):
                    code += newline
                self._starts.append(position)
                self._lines.append(line)
                parts.append(code)
                position += len(code)
        self.text = "".join(parts)
        self._rows = [0, *(m.end() for m in _NEWLINE.finditer(document))]

    # -- places -------------------------------------------------------------------------------------------------------

    def _at(self, offset: int) -> int | None:
        """An offset of the program in the document; of a mark it is the code below it, of the prelude it is none."""
        at = bisect.bisect_right(self._starts, offset) - 1
        if at < 0:
            return None if self.is_example else self._lines[0].code
        line, into = self._lines[at], offset - self._starts[at]
        if line.code + into > line.end and at + 1 < len(self._lines):
            return self._lines[at + 1].code
        return min(line.code + into, line.end)

    def _end(self, offset: int) -> int | None:
        """The same for the end of a stretch: it may lie behind a line's last character."""
        at = bisect.bisect_left(self._starts, offset) - 1
        return min(self._lines[at].code + offset - self._starts[at], self._lines[at].end) if at >= 0 else None

    def _row(self, offset: int) -> tuple[int, int]:
        row = bisect.bisect_right(self._rows, offset)
        return row, offset - self._rows[row - 1] + 1

    def placed(self, found: Iterable[Diagnostic]) -> Iterator[Diagnostic]:
        """Findings of the program where they are in the document.

        Those of the prelude are others' findings. What hangs on code that the document leaves out, or on who else uses
        an example, is not known.
        """
        for d in found:
            start = self._at(d.start)
            if start is None or (self.is_example and d.unless) or any(a <= d.start < b for a, b in self._elided):
                continue
            end = max(self._end(d.end) or start, start)
            (row, column), (end_row, end_column) = self._row(start), self._row(end)
            yield replace(
                d, row=row, column=column, end_row=end_row, end_column=end_column, start=start, end=end, cell=None,
                fix=d.fix and self._fix(d.fix),
            )  # fmt: skip

    @cached_property
    def _elided(self) -> list[tuple[int, int]]:
        """The statements of the program in which `...` stands for code, as offsets."""
        text = notebook.python(self.text).text
        tree = syntax.parsed(text)
        if not isinstance(tree, ast.Module):
            return []
        rows = [0, *(m.end() for m in _NEWLINE.finditer(text)), len(text)]
        spans = ((rows[_first_row(s) - 1], rows[s.end_lineno or s.lineno], s) for s in tree.body)
        return [(a, b) for a, b, s in spans if _has_ellipsis(s) or _LEFT_OUT.search(text, a, b)]

    def suppressions(self) -> Iterator[suppress.Suppression]:
        """The directives in the program, placed in the document."""
        for s in suppress.scan(self.text):
            if s.cell == _PRELUDE or s.cell is None or (self.is_example and s.kind == "ignore-file"):
                continue  # an example does not speak for the module around it
            block = self._blocks[s.cell - 1].lines
            start, end = self._at(s.start), self._end(s.end)
            spans = [(self._at(a), self._end(b) if b > a else self._at(b)) for a, b in (s.cut, s.codes)]
            if start is None or end is None or any(None in span for span in spans):
                continue
            row, column = self._row(start)
            first, last = (self._row(block[min(r, len(block)) - 1].code)[0] for r in (s.first, s.last))
            cut, codes = ((a or 0, b or 0) for a, b in spans)
            yield replace(
                s, row=row, column=column, start=start, end=end, first=first, last=last, cut=cut, codes=codes, cell=None
            )

    # -- fixes --------------------------------------------------------------------------------------------------------

    def _fix(self, fix: Fix) -> Fix | None:
        """A fix of the program as one of the document, None where it cannot be made there."""
        edits: list[Edit] = []
        sections = notebook.sections(self.text)
        for number, part in notebook.parts(fix, self.text):
            if number == _PRELUDE:
                return None
            text = sections[number]
            for edit in sorted(part.edits, reverse=True):
                text = text[: edit.start] + edit.text + text[edit.end :]
            own = self._rewritten(number, text)
            if own is None:
                return None
            edits += own
        return Fix(tuple(edits), fix.applicability, fix.message) if edits else None

    def with_ignores(self, found: Iterable[Diagnostic]) -> list[Edit]:
        """What writes an ignore comment behind findings that lie in this program, placed in the document."""
        mine = [replace(d, start=at) for d in found if (at := self._inside(d.start)) is not None]
        before, after = notebook.sections(self.text), notebook.sections(suppress.add_ignores(self.text, mine))
        changed = [self._rewritten(n, text) for n, text in after.items() if n != _PRELUDE and text != before[n]]
        return [edit for edits in changed for edit in edits or ()]

    def _inside(self, offset: int) -> int | None:
        """An offset of the document in the program, None where it is in none of its lines."""
        at = bisect.bisect_right(self._lines, offset, key=lambda line: line.start) - 1
        if at < 0 or not self._lines[at].code <= offset < self._lines[at].end:
            return None
        return self._starts[at] + offset - self._lines[at].code

    def holds(self, diagnostic: Diagnostic) -> bool:
        """Whether a finding of the document lies in this program."""
        return self._inside(diagnostic.start) is not None

    def _rewritten(self, number: int, code: str) -> list[Edit] | None:
        """What makes `code` the code of a block, with its indentation, quote marks or prompts; None if that fails."""
        block = self._blocks[number - 1]
        first, last = block.lines[0].start, block.lines[-1].end
        before = self._document[first:last]
        old = [self._document[line.code : line.end] for line in block.lines]
        if self.is_example and "\\" not in "".join(old) and ("\\" in code or '"""' in code or "'''" in code):
            return None  # in a string they would mean something else
        new = [m[0] for m in re.finditer(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+", code)]
        leads = self._prompts(block, old, new) if block.prompts else self._indents(block, old, new)
        if leads is None:
            return None
        after = "".join(lead + line for lead, line in zip(leads, new))
        if not before.endswith(("\n", "\r")):
            after = after.removesuffix(self._newline)
        return [Edit(e.start + first, e.end + first, e.text) for e in edits_between(before, after)]

    def _kept(self, block: Block, old: list[str], new: list[str]) -> dict[int, str]:
        """What stands before the new lines that are old ones."""
        kept: dict[int, str] = {}
        for a, b, size in SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks():
            for line, row in zip(block.lines[a : a + size], range(b, b + size)):
                kept[row] = self._document[line.start : line.code]
        return kept

    def _indents(self, block: Block, old: list[str], new: list[str]) -> list[str]:
        kept = self._kept(block, old, new)
        usual = next(self._document[n.start : n.code] for n, line in zip(block.lines, old) if line.strip())
        return [kept.get(i, usual if line.strip() else usual.rstrip()) for i, line in enumerate(new)]

    def _prompts(self, block: Block, old: list[str], new: list[str]) -> list[str] | None:
        """The prompts of a session: `>>>` begins each statement and, where the old ones do so, each line."""
        try:
            tree = ast.parse("".join(new))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        inner = {row for s in tree.body for row in range(_first_row(s) + 1, (s.end_lineno or s.lineno) + 1)}
        kept = self._kept(block, old, new)
        before = [self._document[line.start : line.code] for line in block.lines]
        lead = before[0][: before[0].index(">>>")]
        everywhere = len(before) > 1 and not any("..." in one for one in before)
        result = []
        for i, line in enumerate(new):
            mark = "..." if i + 1 in inner and not everywhere else ">>>"
            if i in kept and (mark in kept[i] or (everywhere and ">>>" in kept[i])):
                result.append(kept[i])
            else:
                result.append(f"{lead}{mark} " if line.strip() else f"{lead}{mark}")
        return result


def _first_row(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(d.lineno for d in decorators)])


def _has_ellipsis(statement: ast.stmt) -> bool:
    """Whether `...` is in a statement in place of code; in `x[..., 0]` and `tuple[int, ...]` it means something."""
    stack: list[ast.AST] = [statement]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Constant) and node.value is ...:
            return True
        stack += [node.value] if isinstance(node, ast.Subscript) else ast.iter_child_nodes(node)
    return False


# -- what a file holds ------------------------------------------------------------------------------------------------


def programs(path: str, text: str, docstrings: bool) -> list[Program]:
    """The programs in a document or, if these are wanted, in the docstrings of a Python file."""
    if is_document(path):
        markup = path.endswith(".rst")
        return [
            Program(text, found) for found in _apart(text, _sound(text, blocks(text, fences=not markup, markup=markup)))
        ]
    if docstrings and path.endswith(".py") and any(mark in text for mark in _MAY_HOLD):
        return list(_examples(text))
    return []


def _blocks(path: str, text: str) -> Iterator[Block]:
    markup = path.endswith(".rst")
    return _sound(text, blocks(text, fences=not markup, markup=markup))


def joined(path: str, text: str) -> str:
    """All of a document's Python as one program."""
    found = list(_blocks(path, text))
    return Program(text, found).text if found else ""


def suppressions(path: str, text: str, docstrings: bool) -> list[suppress.Suppression]:
    """Every directive of a file, those in its documents' or docstrings' Python included."""
    found = [] if is_document(path) else suppress.scan(text)
    if suppress.QUICK.search(text):
        for program in programs(path, text, docstrings):
            found += program.suppressions()
    return found


def add_ignores(path: str, text: str, diagnostics: Iterable[Diagnostic], docstrings: bool) -> str:
    """`suppress.add_ignores` for a file of any kind: comments in documents go into the block."""
    rest = list(diagnostics)
    edits: list[Edit] = []
    for program in programs(path, text, docstrings):
        mine = [d for d in rest if program.holds(d)]
        rest = [d for d in rest if d not in mine]
        edits += program.with_ignores(mine) if mine else []
    for edit in sorted(edits, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
        shift = len(edit.text) - (edit.end - edit.start)
        rest = [replace(d, start=d.start + shift) if d.start >= edit.end else d for d in rest]
    return text if is_document(path) else suppress.add_ignores(text, rest)


def _apart(text: str, found: Iterable[Block]) -> Iterator[list[Block]]:
    """The blocks of each program of a document.

    A block goes on with those before it, as a reader takes it, until one imports again what was imported already: that
    is how a new example begins.
    """
    together: list[Block] = []
    imported: set[str] = set()
    for block in found:
        imports = set(_IMPORT.findall("".join(text[line.code : line.end] for line in block.lines)))
        if together and imports & imported:
            yield together
            together, imported = [], set()
        together.append(block)
        imported |= imports
    if together:
        yield together


def _sound(text: str, found: Iterable[Block]) -> Iterator[Block]:
    """The blocks that are Python; of a session that is not as a whole, the statements that are."""
    for block in found:
        if "\ufdd0" in text[block.lines[0].start : block.lines[-1].end]:
            continue
        if _is_python(text, block.lines):
            yield block
        elif block.prompts:
            yield from (one for one in _statements(text, block) if _is_python(text, one.lines))


def _is_python(text: str, lines: Sequence[Line]) -> bool:
    code = "".join(text[line.code : line.end] for line in lines)
    return bool(code.strip()) and not foreign(code) and syntax.examine(neutral(code).text) is None


def _statements(text: str, block: Block) -> Iterator[Block]:
    """A session cut before each `>>>`."""
    lines: list[Line] = []
    for line in block.lines:
        if lines and text.startswith(">>>", line.code - 4 if text[line.code - 1] == " " else line.code - 3):
            yield Block(tuple(lines), True)
            lines = []
        lines.append(line)
    yield Block(tuple(lines), True)


def _examples(text: str) -> Iterator[Program]:
    """The examples in docstrings: each docstring is a program of its own, in which the module's imports hold."""
    tree = syntax.parsed(text)
    if tree is None or isinstance(tree, syntax.Trouble):
        return
    rows = [0, *(m.end() for m in _NEWLINE.finditer(text))]
    prelude = "".join(f"{ast.unparse(s)}\n" for s in tree.body if isinstance(s, (ast.Import, ast.ImportFrom)))
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or not node.body:
            continue
        first = node.body[0]
        if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)):
            continue
        value = first.value
        if not isinstance(value.value, str) or not any(mark in value.value for mark in _MAY_HOLD):
            continue
        begin = _offset(text, rows, value.lineno, value.col_offset)
        literal = _LITERAL.fullmatch(text, begin, _offset(text, rows, value.end_lineno, value.end_col_offset))
        if literal is None or literal["quotes"] in literal["inside"]:  # two literals side by side
            continue
        raw = "r" in literal["kind"].lower()
        found = [
            b
            for b in _sound(text, blocks(text, *literal.span("inside"), fences=True, markup=True))
            if raw or "\\" not in text[b.lines[0].start : b.lines[-1].end]
        ]
        if found:
            yield Program(text, found, prelude or "pass\n")


def _offset(text: str, rows: list[int], row: int | None, column: int | None) -> int:
    """The place that `ast` names by its row and by a column in bytes."""
    start, column = rows[(row or 1) - 1], column or 0
    head = text[start : start + column]
    if head.isascii():
        return start + column
    return start + len(head.encode("utf-8", "surrogatepass")[:column].decode("utf-8", "ignore"))
