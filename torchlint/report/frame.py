"""Which lines of code a finding is shown with, and which columns of its line it is about."""

from __future__ import annotations

import re

from torchlint.diagnostic import Diagnostic
from torchlint.report.lines import Lines
from torchlint.report.terminal import expand

CONTEXT_LINES = 2

# A line's code up to its comment; quotes are stepped over, so that a # in a string ends nothing.
_CODE = re.compile(r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^#])*""")


def rows(d: Diagnostic, lines: Lines) -> range:
    """The rows around the finding, without blank ones at either end; none where the text has no such row."""
    if not lines.text or d.row > len(lines):
        return range(0)
    first, last = max(1, d.row - CONTEXT_LINES), min(len(lines), d.row + CONTEXT_LINES)
    while first < d.row and not lines.line(first).strip():
        first += 1
    while last > d.row and not lines.line(last).strip():
        last -= 1
    return range(first, last + 1)


def caret_columns(d: Diagnostic, lines: Lines) -> tuple[int, int]:
    """The display columns that the finding is about: those of its first line, without a comment behind it."""
    line = lines.line(d.row)
    _, columns = expand(line)
    match = _CODE.match(line)
    code_end = len(line[: match.end()].rstrip()) if match else len(line)
    start = min(d.column - 1, len(line))
    end = min(d.end_column - 1, len(line)) if d.end_row == d.row else max(code_end, start)
    return columns[start], max(columns[end], columns[start] + 1)
