"""What the engine itself reports: a text that cannot be read (TL001), a rule that failed (TL002)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torchlint import syntax
from torchlint.diagnostic import Diagnostic, Severity

if TYPE_CHECKING:
    from torchlint.rule import Rule


def syntax_error(path: str, text: str, trouble: syntax.Trouble, rules: Sequence[Rule] = ()) -> Diagnostic:
    """The TL001 finding for a text that is not Python."""
    lines = text.splitlines() or [""]
    row = min(max(trouble.row, 1), len(lines))
    column = min(max(trouble.column, 1), len(lines[row - 1]) + 1)
    start = sum(len(line) for line in text.splitlines(keepends=True)[: row - 1]) + column - 1
    end = min(start + 1, len(text))
    place = (row, column, row, column + end - start, start, end)
    return Diagnostic("TL001", "syntax-error", Severity.ERROR, trouble.message, path, *place)


def crash(path: str, what: str, rule: Rule | None, error: Exception) -> Diagnostic:
    """The TL002 finding for an exception inside a rule, with the innermost line of the rule's own file."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f for f in frames if rule is not None and os.path.basename(f.filename) == rule.name.replace("-", "_") + ".py"
    ]
    place = (own or frames)[-1]
    message = (
        f"{what} failed on this file: {type(error).__name__}: {syntax.first_line(str(error))} "
        f"at {os.path.basename(place.filename)}:{place.lineno}; the other rules ran, please report this"
    )
    return Diagnostic("TL002", "rule-crashed", Severity.ERROR, message, path, 1, 1, 1, 1, 0, 0)
