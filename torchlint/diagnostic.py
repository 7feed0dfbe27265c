"""What travels: a finding, its fix, and the questions that other files must answer before it is shown."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field


class Severity(str, enum.Enum):
    """How much a finding matters. `info` findings are shown and do not change the exit code."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Applicability(str, enum.Enum):
    """Whether `fix --apply` may write a fix: always (safe), with --unsafe, or never (suggestion)."""

    SAFE = "safe"
    UNSAFE = "unsafe"
    SUGGESTION = "suggestion"


@dataclass(frozen=True, slots=True, order=True)
class Edit:
    """Replace `text[start:end]` by `text`. Offsets count characters of the decoded file, BOM left out."""

    start: int
    end: int
    text: str


def splice(text: str, edits: Iterable[Edit]) -> str:
    """Apply edits that do not overlap. Equal edits count once. Raises ValueError where two touch the same text."""
    out: list[str] = []
    position = 0
    for edit in sorted(set(edits)):
        if edit.start < position:
            raise ValueError(f"edits overlap at offset {edit.start}")
        out.append(text[position : edit.start])
        out.append(edit.text)
        position = edit.end
    out.append(text[position:])
    return "".join(out)


@dataclass(frozen=True, slots=True)
class Fix:
    """Edits that are applied together or not at all."""

    edits: tuple[Edit, ...]
    applicability: Applicability
    message: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question about the rest of the project. A finding falls if any of its questions is answered with yes.

    `ask` names one of `semantics.answers.ANSWERS`; `subject` is a qualified name as the asking file sees it
    (`utils.reset_grad`, `.engine.train`, `~.Trainer.step` for a definition of the asking file itself).
    """

    ask: str
    subject: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. Rows and columns are 1-based and count characters; `start` and `end` are offsets into the text.

    In a notebook `cell` counts all cells from 1, rows are those of the cell, and offsets go into its joined cells.
    """

    code: str
    name: str
    severity: Severity
    message: str
    path: str
    row: int
    column: int
    end_row: int
    end_column: int
    start: int
    end: int
    fix: Fix | None = None
    unless: tuple[Question, ...] = ()
    cell: int | None = None
    url: str | None = field(default=None, compare=False)

    @property
    def sort_key(self) -> tuple[str, int, int, int, str, str]:
        return (self.path, self.cell or 0, self.row, self.column, self.code, self.message)
