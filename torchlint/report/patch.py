"""A fix as a short diff: only the lines that it touches, however long the file."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby

from torchlint.diagnostic import Edit, Fix
from torchlint.report.lines import Lines, apply, split_lines

# Changed stretches with at most this many untouched lines between them are shown as one.
_JOIN = 1


# That many lines in a row which only move to another indentation are told in one line, not shown.
_MOVED = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a diff.

    `sign` is "-", "+", " ", "~" (the first of several lines that only change their indentation) or "…" (a remark about
    the others). `row` is its 1-based number, in the new text for "+" and "~".
    """

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
        changes = _compare(old, new, first, first + shift)
        while changes and changes[0].sign == " ":
            del changes[0]
        while changes and changes[-1].sign == " ":
            del changes[-1]
        if changes:
            result.append(changes)
        shift += len(new) - len(old)
    return result


def _compare(old: list[str], new: list[str], old_row: int, new_row: int) -> list[Change]:
    """The lines of one stretch as a diff that looks past indentation."""
    changes: list[Change] = []
    matcher = SequenceMatcher(None, [x.strip() for x in old], [x.strip() for x in new], autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "equal":
            changes += [Change("-", old_row + i, old[i]) for i in range(a, b)]
            changes += [Change("+", new_row + i, new[i]) for i in range(c, d)]
            continue
        for moved, run in groupby(range(b - a), key=lambda i: old[a + i] != new[c + i]):
            changes += _matched(moved, [(old_row + a + i, old[a + i], new_row + c + i, new[c + i]) for i in run])
    return [
        change
        for changed, run in groupby(changes, key=lambda change: change.sign in "-+")
        for change in (sorted(run, key=lambda change: "-+".index(change.sign)) if changed else run)
    ]


def _matched(moved: bool, run: list[tuple[int, str, int, str]]) -> list[Change]:
    """Lines that are the same but for indentation; `moved` says whether that differs."""
    if not moved:
        return [Change(" ", row, text) for row, text, _, _ in run]
    if len(run) < _MOVED:
        return [Change("-", row, text) for row, text, _, _ in run] + [Change("+", row, text) for _, _, row, text in run]
    _, before, row, after = run[0]
    direction = "deeper" if len(after) > len(before) else "less deep"
    return [Change("~", row, after), Change("…", row + 1, f"{len(run) - 1} more lines, indented {direction}")]
