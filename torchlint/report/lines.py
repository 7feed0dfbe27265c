"""Offsets of a text as rows and columns, without the parser that `torchlint.source` needs."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Sequence

from torchlint.diagnostic import Diagnostic, Edit, Fix

_NEWLINE = re.compile(r"\r\n|\n|\r")


class Lines:
    """The lines of a text; \\n, \\r\\n and a lone \\r each end one, as they do for Python."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._starts = [0, *(m.end() for m in _NEWLINE.finditer(text))]

    def __len__(self) -> int:
        """The number of lines, the empty one behind a last newline included."""
        return len(self._starts)

    def locate(self, offset: int) -> tuple[int, int]:
        """Offset → (row, column), both 1-based."""
        row = bisect.bisect_right(self._starts, offset)
        return row, offset - self._starts[row - 1] + 1

    def start(self, row: int) -> int:
        """The offset where a 1-based row starts; the end of the text for rows behind it."""
        return self._starts[row - 1] if row <= len(self._starts) else len(self.text)

    def line(self, row: int) -> str:
        """The text of a 1-based row without its newline."""
        return self.text[self.start(row) : self.start(row + 1)].rstrip("\r\n")


class Texts:
    """The lines around findings: of a file, or of a notebook's cell. Each file is read once."""

    def __init__(self, source: Callable[[str], str]) -> None:
        self._source = source
        self._texts: dict[str, str] = {}
        self._lines: dict[tuple[str, int | None], Lines] = {}

    def _text(self, path: str) -> str:
        if path not in self._texts:
            self._texts[path] = self._source(path)
        return self._texts[path]

    def lines(self, path: str, cell: int | None) -> Lines:
        key = (path, cell)
        if key not in self._lines:
            text = self._text(path)
            if cell is not None:
                from torchlint.notebook import sections

                text = sections(text).get(cell, "")
            self._lines[key] = Lines(text)
        return self._lines[key]

    def parts(self, d: Diagnostic) -> list[tuple[int | None, Fix]]:
        """The finding's fix, cell by cell where it is one of a notebook, with offsets into the lines of each."""
        if d.fix is None:
            return []
        if d.cell is None:
            return [(None, d.fix)]
        from torchlint.notebook import parts

        return list(parts(d.fix, self._text(d.path)))


def place(d: Diagnostic) -> str:
    """Where a finding is, behind its path: `12:5`, or `cell 3:12:5` in a notebook."""
    return f"{'' if d.cell is None else f'cell {d.cell}:'}{d.row}:{d.column}"


def split_lines(text: str) -> list[str]:
    """The lines of a text without their newlines; a form feed or another Unicode separator ends none."""
    lines = _NEWLINE.split(text)
    return lines[:-1] if lines[-1] == "" else lines


def apply(text: str, edits: Sequence[Edit], start: int, end: int) -> str:
    """`text[start:end]` after the edits, which all lie inside it and do not overlap."""
    out: list[str] = []
    position = start
    for edit in sorted(set(edits)):
        out.append(text[position : edit.start])
        out.append(edit.text)
        position = edit.end
    out.append(text[position:end])
    return "".join(out)
