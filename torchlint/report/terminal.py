"""What may be sent to a terminal: harmless characters, their width in columns, and colours."""

from __future__ import annotations

import os
import re
import textwrap
import unicodedata

TAB = 4

# C0 and C1 controls, line separators, the marks that reorder text on screen (CVE-2021-42574), invisible tags.
_HARMFUL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]"
)


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


def escaped(text: str) -> str:
    """What would act on a terminal written as an escape that TOML, JSON and Python all read."""
    return _HARMFUL.sub(lambda m: f"\\u{ord(m[0]):04X}" if ord(m[0]) < 0x10000 else "\ufffd", text)


def clean(text: str) -> str:
    """The text on one line, with a picture in place of each character that would act on the terminal."""
    return text if text.isascii() and text.isprintable() else _HARMFUL.sub(_visible, text)


def char_width(char: str) -> int:
    """Columns that a printable character takes: 0 for combining marks, 2 for wide ones."""
    if char < "\u0300":
        return 1
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def width(text: str) -> int:
    return len(text) if text.isascii() else sum(map(char_width, text))


def expand(line: str) -> tuple[str, list[int]]:
    """A source line as it is shown, and for each of its characters (and the end) the column where it starts."""
    out: list[str] = []
    columns: list[int] = []
    column = 0
    for char in line:
        columns.append(column)
        shown = " " * (TAB - column % TAB) if char == "\t" else clean(char)
        out.append(shown)
        column += width(shown)
    columns.append(column)
    return "".join(out), columns


def wrap(text: str, columns: int, first: str, rest: str) -> list[str]:
    """The text behind the indent `first`, broken at blanks to fit `columns`, further lines behind `rest`.

    Where a narrow terminal would leave the text no room, `first` stands alone and further lines are indented less.
    """
    if columns <= 0:
        return [first + text]
    rest = rest[: max(0, columns - 30)]
    room = max(columns, 20)
    if first.strip() and width(first) + width(text.split(" ", 1)[0]) > room:  # not even a word has room behind it
        return [first.rstrip(), *textwrap.wrap(text, room, initial_indent=rest, subsequent_indent=rest)]
    return textwrap.wrap(
        text, room, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    ) or [first.rstrip()]


def shown_path(path: str) -> str:
    """A path as it is printed, relative to where the user stands, with nothing in it that acts on the terminal."""
    return clean(path.removeprefix("." + os.sep))


class Paint:
    """Colours, or none of them."""

    def __init__(self, on: bool) -> None:
        self._on = on

    def __call__(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._on and text else text


BOLD = "1"
DIM = "2"
RED = "31"
GREEN = "32"
CYAN = "36"
BOLD_RED = "1;31"
BOLD_GREEN = "1;32"
BOLD_YELLOW = "1;33"
BOLD_BLUE = "1;34"
BOLD_CYAN = "1;36"
