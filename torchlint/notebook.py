"""Notebooks as programs: the code cells of an .ipynb joined to one text in cell order, and that text put back.

The joined text says of itself where each cell begins (`MARK` and the cell's number, on a line of its own), so that it
can be checked and fixed like any file; only the `source` values of the cells that changed are written anew.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torchlint.diagnostic import Diagnostic, Edit, Fix
from torchlint.encoding import BOM, Source, Undecodable
from torchlint.magics import Neutral, foreign, neutral
from torchlint.syntax import Trouble, examine

# U+FDD0 is a noncharacter, kept by Unicode for a program's own use: no source text holds it.
MARK = "#\ufdd0"
_HEADER = re.compile(rf"^{MARK}(\d+)\r?\n", re.MULTILINE)
_NEWLINE = re.compile(r"\r\n|\n|\r")
_BLANK = re.compile(r"[ \t\r\n]*")
_ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\\u(?!00[0-7])[0-9a-fA-F]{4}")
_OTHER_KERNELS = re.compile(
    r"(ir|julia.*|xcpp.*|bash|scala|almond|apache_toree.*|javascript|deno|gophernotes|ruby)$", re.I
)
_CONFLICT = re.compile(r"^<{7} ", re.MULTILINE)


# -- the program ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """A code cell in a program. `number` counts all cells of the notebook from 1; its lines are `text[start:end]`."""

    number: int
    header: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Program:
    """A program as plain Python of the same length: magics are comments, cells that do not parse are blank.

    `frozen` are the stretches that no edit may touch (magics, the marks between cells); `magics` is what they hide.
    """

    text: str
    cells: tuple[Cell, ...]
    troubles: tuple[tuple[Cell, Trouble], ...]
    frozen: tuple[tuple[int, int], ...]
    magics: tuple[str, ...]


def is_program(text: str) -> bool:
    """Whether a text is the joined cells of a notebook."""
    return text.startswith(MARK)


def cells(text: str) -> list[Cell]:
    """The cells of a program, in order."""
    found = list(_HEADER.finditer(text))
    ends = [*(m.start() for m in found[1:]), len(text)]
    return [Cell(int(m[1]), m.start(), m.end(), end) for m, end in zip(found, ends)]


def python(text: str) -> Program:
    """A program as Python that can be parsed."""
    parts: list[str] = []
    troubles: list[tuple[Cell, Trouble]] = []
    frozen: list[tuple[int, int]] = []
    magics: list[str] = []
    found = cells(text)
    for cell in found:
        source = text[cell.start : cell.end]
        plain = neutral(source)
        trouble = examine(plain.text)
        if trouble is not None:
            troubles.append((cell, trouble))
            plain = Neutral(re.sub(r"[^\r\n]", " ", source), ((0, len(source)),))
        parts += (text[cell.header : cell.start], plain.text)
        # A cell magic must stay the first line of its cell: nothing goes between the mark and it.
        first = [end for start, end in plain.frozen if start == 0 and source.lstrip().startswith("%%")]
        frozen.append((cell.header, cell.start + max(first, default=0)))
        frozen += [(cell.start + start, cell.start + end) for start, end in plain.frozen]
        magics += [source[start:end] for start, end in plain.frozen]
    return Program("".join(parts), tuple(found), tuple(troubles), tuple(frozen), tuple(magics))


def intact(before: str, after: str) -> bool:
    """Whether a program that was edited still has all its cells and magics, and each cell is as good as it was."""
    old, new = python(before), python(after)
    return (
        is_program(after)
        and [c.number for c in old.cells] == [c.number for c in new.cells]
        and old.magics == new.magics
        and [c.number for c, _ in old.troubles] == [c.number for c, _ in new.troubles]
    )


class Places:
    """The rows of a program as places in its cells."""

    def __init__(self, text: str) -> None:
        self.cells = cells(text)
        self._starts = [0, *(m.end() for m in _NEWLINE.finditer(text))]
        self._headers = [bisect.bisect_right(self._starts, c.header) for c in self.cells]  # their 1-based rows

    def __call__(self, row: int) -> tuple[int, int]:
        """A 1-based row of the program as (number of the cell, 1-based row in it)."""
        at = max(bisect.bisect_right(self._headers, row) - 1, 0)
        return self.cells[at].number, max(row - self._headers[at], 1)

    def cell(self, offset: int) -> Cell:
        """The cell that an offset lies in."""
        at = bisect.bisect_right([c.header for c in self.cells], offset) - 1
        # What is added right before a mark ends the cell above it.
        return self.cells[at - 1 if at > 0 and self.cells[at].header == offset else max(at, 0)]


def place(program: Program, places: Places, diagnostics: Iterable[Diagnostic]) -> Iterator[Diagnostic]:
    """Findings of a program with the cell and the row in it; fixes that would touch a magic are left out."""
    for d in diagnostics:
        number, row = places(d.row)
        end_number, end_row = places(d.end_row)
        end_column = d.end_column
        if end_number != number:  # about the whole program
            end_row, end_column = row, d.column
        yield replace(
            d, cell=number, row=row, end_row=end_row, end_column=end_column, fix=d.fix and _allowed(d.fix, program)
        )


def parts(fix: Fix, text: str) -> list[tuple[int, Fix]]:
    """A fix of a program cell by cell, with offsets into the lines of each cell."""
    places = Places(text)
    edits: dict[int, list[Edit]] = {}
    for edit in sorted(set(fix.edits)):
        cell = places.cell(edit.start)
        edits.setdefault(cell.number, []).append(Edit(edit.start - cell.start, edit.end - cell.start, edit.text))
    return [(number, Fix(tuple(found), fix.applicability, fix.message)) for number, found in edits.items()]


def sections(text: str) -> dict[int, str]:
    """The lines of each cell of a program by its number, with the newline that joins it to the next."""
    return {c.number: text[c.start : c.end] for c in cells(text)}


def _allowed(fix: Fix, program: Program) -> Fix | None:
    first = program.cells[0].start
    # The start of the program is the start of its first cell.
    edits = tuple(Edit(first, first, e.text) if e.start == e.end == 0 else e for e in fix.edits)
    if any(e.start < end and e.end > start for e in edits for start, end in program.frozen):
        return None
    return Fix(edits, fix.applicability, fix.message)


# -- the file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Value:
    """A `source` as it stands in the document."""

    value: Any
    start: int
    end: int

    @property
    def text(self) -> str:
        value = [self.value] if isinstance(self.value, str) else self.value
        if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
            raise TypeError
        return "".join(value)


class Notebook(Source):
    """A notebook file: `text` is its program, "" where none of it is Python."""

    __slots__ = ("_document", "_sources")

    def __init__(self, data: bytes, document: str, sources: dict[int, _Value], bom: bool) -> None:
        self._document = document
        self._sources = sources
        texts = {number: value.text for number, value in sources.items()}
        crlf, all_lines = (sum(source.count(end) for source in texts.values()) for end in ("\r\n", "\n"))
        newline = "\r\n" if 2 * crlf > all_lines else "\n"
        joined = newline.join(f"{MARK}{number}{newline}{source}" for number, source in texts.items())
        super().__init__(data, joined, "utf-8", bom)

    def encode(self, text: str) -> bytes:
        """The file with the cells of `text`. Raises ValueError where `text` is not of the same cells."""
        found = cells(text)
        if [c.number for c in found] != list(self._sources):
            raise ValueError("the cells of the notebook are not those that were read")
        out: list[str] = []
        position = 0
        for cell in found:
            source = text[cell.start : cell.end]
            if cell is not found[-1]:  # its last newline is the one that joins the cells
                source = source[: -2 if source.endswith("\r\n") else -1]
            old = self._sources[cell.number]
            if source != old.text:
                out += (self._document[position : old.start], self._rewritten(old, source))
                position = old.end
        out.append(self._document[position:])
        return (BOM if self.bom else b"") + "".join(out).encode("utf-8")

    def _rewritten(self, old: _Value, source: str) -> str:
        """A `source` in the style of the one that stands there: lines that stay keep their very characters."""
        raw = self._document[old.start : old.end]
        if isinstance(old.value, str):
            return self._quoted(source)
        from difflib import SequenceMatcher

        spans = _items(raw)
        # nbformat ends lines where str.splitlines does, JupyterLab only at \n: what was read says whose file it is.
        everywhere = old.text.splitlines(keepends=True) == old.value
        new = source.splitlines(keepends=True) if everywhere else re.findall(r"[^\n]*\n|[^\n]+", source)
        if not spans or not new:
            return f"[{', '.join(self._quoted(line) for line in new)}]"
        between = raw[spans[0][1] : spans[1][0]] if len(spans) > 1 else "," + (raw[1 : spans[0][0]] or " ")
        out: list[str] = []
        position = 0
        for tag, a, b, c, d in SequenceMatcher(None, old.value, new, autojunk=False).get_opcodes():
            if tag == "equal":
                continue
            added = between.join(self._quoted(line) for line in new[c:d])
            if tag == "replace":
                start, end = spans[a][0], spans[b - 1][1]
            elif tag == "delete":
                start, end = (spans[a - 1][1], spans[b - 1][1]) if a else (spans[0][0], spans[b][0])
            elif a < len(spans):
                start = end = spans[a][0]
                added += between
            else:
                start = end = spans[-1][1]
                added = between + added
            out += (raw[position:start], added)
            position = end
        return "".join(out) + raw[position:]

    def _quoted(self, text: str) -> str:
        import json

        ascii_only = self._document.isascii() and _ESCAPED.search(self._document) is not None
        return json.dumps(text, ensure_ascii=ascii_only)


def _items(raw: str) -> list[tuple[int, int]]:
    """Where the items of a JSON array of strings stand in it."""
    import json

    decoder = json.JSONDecoder()
    spans: list[tuple[int, int]] = []
    at = raw.find('"')
    while at >= 0:
        _, end = decoder.raw_decode(raw, at)
        spans.append((at, end))
        at = raw.find('"', end)
    return spans


def decode(data: bytes) -> Notebook:
    """Read a notebook. Raises Undecodable for what is none, or one of a format before 4."""
    bom = data.startswith(BOM)
    try:
        document = (data[3:] if bom else data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Undecodable(f"this notebook is not UTF-8: byte 0x{data[error.start]:02x}") from error
    if not document.strip():
        return Notebook(data, document, {}, bom)  # how editors create one
    from json import JSONDecodeError

    try:
        content = _Reader(document).notebook()
    except JSONDecodeError as error:
        conflict = _CONFLICT.search(document)
        if conflict:
            row = document.count("\n", 0, conflict.start()) + 1
            raise Undecodable("merge conflict marker '<<<<<<<': resolve the conflict first", row) from error
        raise Undecodable(f"this notebook is not valid JSON: {error.msg}", error.lineno, error.colno) from error
    except RecursionError as error:
        raise Undecodable("this notebook is nested too deeply to be read") from error
    if not isinstance(content, dict) or not isinstance(content.get("nbformat"), int):
        raise Undecodable("this is JSON, but not a notebook: it has no `nbformat`")
    if content["nbformat"] < 4:
        version = content["nbformat"]
        raise Undecodable(
            f"notebook format {version} is not read: `jupyter nbconvert --to notebook --inplace` makes it 4"
        )
    if not isinstance(content.get("cells"), list):
        raise Undecodable("this is JSON, but not a notebook: it has no `cells`")
    sources: dict[int, _Value] = {}
    if _is_python(content.get("metadata")):
        for number, cell in enumerate(content["cells"], 1):
            if isinstance(cell, dict) and cell.get("cell_type") == "code" and _speaks_python(cell.get("metadata")):
                try:
                    source = cell["source"].text
                except (KeyError, TypeError) as error:
                    raise Undecodable(f"cell {number} of this notebook has no source text") from error
                if "\ufdd0" in source:
                    raise Undecodable(f"cell {number} of this notebook holds U+FDD0, which is no character")
                if source.strip() and not foreign(source):
                    sources[number] = cell["source"]
    return Notebook(data, document, sources, bom)


def _is_python(metadata: Any) -> bool:
    """Whether a notebook's kernel runs Python; one that names none is taken for Python."""
    for table, key in (("language_info", "name"), ("kernelspec", "language")):
        entry = metadata.get(table) if isinstance(metadata, dict) else None
        name = entry.get(key) if isinstance(entry, dict) else None
        if isinstance(name, str) and name:
            return name.lower().startswith(("python", "ipython"))
    spec = metadata.get("kernelspec") if isinstance(metadata, dict) else None
    name = spec.get("name") if isinstance(spec, dict) else None
    return not (isinstance(name, str) and _OTHER_KERNELS.match(name))


def _speaks_python(metadata: Any) -> bool:
    """Whether a cell is in the notebook's own language, where editors let each cell have another."""
    editor = metadata.get("vscode") if isinstance(metadata, dict) else None
    language = editor.get("languageId") if isinstance(editor, dict) else None
    return language in (None, "python")


class _Reader:
    """Reads a notebook's JSON and notes where each cell's `source` stands."""

    def __init__(self, document: str) -> None:
        import json

        self._document = document
        self._decoder = json.JSONDecoder()

    def notebook(self) -> Any:
        at = self._skip(0)
        content, end = self._object(at, {"cells": self._cells})
        if self._skip(end) != len(self._document):
            raise self._error("Extra data", end)
        return content

    def _cells(self, at: int) -> tuple[Any, int]:
        if self._document[at : at + 1] != "[":
            return self._any(at)
        result: list[Any] = []
        at = self._skip(at + 1)
        while self._document[at : at + 1] != "]":
            cell, at = self._object(at, {"source": self._source})
            result.append(cell)
            at = self._next(at, "]")
        return result, at + 1

    def _object(self, at: int, readers: dict[str, Callable[[int], tuple[Any, int]]]) -> tuple[Any, int]:
        """The value at an offset, and where it ends; if it is an object, some members are read in their own way."""
        if self._document[at : at + 1] != "{":
            return self._any(at)
        result: dict[str, Any] = {}
        at = self._skip(at + 1)
        while self._document[at : at + 1] != "}":
            if self._document[at : at + 1] != '"':
                raise self._error("Expecting property name enclosed in double quotes", at)
            key, at = self._any(at)
            at = self._skip(at)
            if self._document[at : at + 1] != ":":
                raise self._error("Expecting ':' delimiter", at)
            result[key], at = readers.get(key, self._any)(self._skip(at + 1))
            at = self._next(at, "}")
        return result, at + 1

    def _source(self, at: int) -> tuple[Any, int]:
        value, end = self._any(at)
        return _Value(value, at, end), end

    def _any(self, at: int) -> tuple[Any, int]:
        return self._decoder.raw_decode(self._document, at)

    def _next(self, at: int, closing: str) -> int:
        """Behind the comma of a list, or at its end."""
        at = self._skip(at)
        found = self._document[at : at + 1]
        if found == ",":
            at = self._skip(at + 1)
            if self._document[at : at + 1] != closing:
                return at
        elif found == closing:
            return at
        raise self._error("Expecting ',' delimiter", at)

    def _skip(self, at: int) -> int:
        match = _BLANK.match(self._document, at)
        return match.end() if match else at

    def _error(self, message: str, at: int) -> ValueError:
        from json import JSONDecodeError

        return JSONDecodeError(message, self._document, at)
