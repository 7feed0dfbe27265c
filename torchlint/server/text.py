"""A document's text with positions as the protocol counts them: lines by \\n, \\r\\n and \\r, columns in code units.

pygls breaks lines wherever `str.splitlines` does, so a form feed or U+2028 in a string would shift all below it.
"""

from __future__ import annotations

import bisect
import re

from lsprotocol import types

from torchlint.diagnostic import Edit

_NEWLINE = re.compile(r"\r\n|\n|\r")
_BOM = "\ufeff"
_CODECS = {"utf-8": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
_UNIT = {"utf-8": 1, "utf-16": 2, "utf-32": 4}


class Text:
    """An immutable text. Offsets count its characters; `units` is the encoding that columns are counted in."""

    __slots__ = ("_starts", "source", "units")

    def __init__(self, source: str, units: str = "utf-16") -> None:
        self.source = source
        self.units = units
        self._starts = [0, *(m.end() for m in _NEWLINE.finditer(source))]

    @property
    def mark(self) -> int:
        """The length of a byte order mark that the client left in the text: offsets of findings do not count it."""
        return int(self.source.startswith(_BOM))

    def position(self, offset: int) -> types.Position:
        """Offset → position."""
        row = bisect.bisect_right(self._starts, offset) - 1
        return types.Position(row, self._length(self.source[self._starts[row] : offset]))

    def offset(self, position: types.Position) -> int:
        """Position → offset; beyond the end of a line means its end, beyond the last line the end of the text."""
        if position.line >= len(self._starts):
            return len(self.source)
        start = self._starts[position.line]
        end = self._line_end(position.line)
        line = self.source[start:end]
        if line.isascii() or self.units == "utf-32":
            return min(start + position.character, end)
        size = _UNIT[self.units]
        head = line.encode(_CODECS[self.units], "surrogatepass")[: position.character * size]
        return start + len(head.decode(_CODECS[self.units], "ignore"))

    def place(self, row: int, column: int) -> types.Position:
        """A finding's row and column, 1-based characters without the mark, → position."""
        row = min(max(row, 1), len(self._starts)) - 1
        start = self._starts[row] + (self.mark if row == 0 else 0)
        offset = min(start + max(column, 1) - 1, max(self._line_end(row), start))
        return types.Position(row, self._length(self.source[self._starts[row] : offset]))

    def changed(self, change: types.TextDocumentContentChangeEvent) -> Text:
        """The text after a change by the client."""
        if isinstance(change, types.TextDocumentContentChangeWholeDocument):
            return Text(change.text, self.units)
        start, end = self.offset(change.range.start), self.offset(change.range.end)
        return Text(self.source[:start] + change.text + self.source[max(start, end) :], self.units)

    def edit(self, edit: Edit) -> types.TextEdit:
        """An edit, its offsets without the mark, for the client."""
        start, end = edit.start + self.mark, edit.end + self.mark
        return types.TextEdit(types.Range(self.position(start), self.position(end)), edit.text)

    def _line_end(self, row: int) -> int:
        """The offset behind a line's last character, its newline left out."""
        end = self._starts[row + 1] if row + 1 < len(self._starts) else len(self.source)
        while end > self._starts[row] and self.source[end - 1] in "\r\n":
            end -= 1
        return end

    def _length(self, part: str) -> int:
        if self.units == "utf-32" or part.isascii():
            return len(part)
        return len(part.encode(_CODECS[self.units], "surrogatepass")) // _UNIT[self.units]
