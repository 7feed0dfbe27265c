"""A fix as a short diff: only the lines that it touches, however long the file."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher

from torchlint.diagnostic import Edit, Fix
from torchlint.report.lines import Lines, apply, split_lines

# Changed stretches with at most this many untouched lines between them are shown as one.
_JOIN = 1


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a diff: `sign` is "-", "+" or " ", `row` its 1-based number (new text for "+", else old text)."""

    sign: str
    row: int
    text: str


def _stretches(fix: Fix, lines: Lines) -> list[tuple[int, int, list[Edit]]]:
    """The edits grouped by the rows that they touch: (first row, row behind the last, edits)."""
    groups: list[tuple[int, int, list[Edit]]] = []
    for edit in sorted(set(fix.edits)):
        first, column = lines.locate(edit.start)
        last, end_column = lines.locate(edit.end)
        whole = column == 1 and end_column == 1 and (edit.text == "" or edit.text.endswith(("\n", "\r")))
        stop = last if whole else last + 1
        if groups and first <= groups[-1][1] + _JOIN:
            before = groups[-1]
            groups[-1] = (before[0], max(before[1], stop), [*before[2], edit])
        else:
            groups.append((first, stop, [edit]))
    return groups


def hunks(fix: Fix, lines: Lines) -> list[list[Change]]:
    """The fix's changes, a list of lines for each stretch of the file that it touches."""
    result: list[list[Change]] = []
    shift = 0
    for first, stop, edits in _stretches(fix, lines):
        start, end = lines.start(first), lines.start(stop)
        old = split_lines(lines.text[start:end])
        new = split_lines(apply(lines.text, edits, start, end))
        changes: list[Change] = []
        for tag, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
            if tag == "equal":
                changes += [Change(" ", first + i, old[i]) for i in range(a, b)]
            else:
                changes += [Change("-", first + i, old[i]) for i in range(a, b)]
                changes += [Change("+", first + shift + i, new[i]) for i in range(c, d)]
        while changes and changes[0].sign == " ":
            del changes[0]
        while changes and changes[-1].sign == " ":
            del changes[-1]
        if changes:
            result.append(changes)
        shift += len(new) - len(old)
    return result
