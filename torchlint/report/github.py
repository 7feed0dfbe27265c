"""Findings as GitHub Actions workflow commands, which show as annotations on a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from torchlint.diagnostic import Diagnostic, Severity
from torchlint.report import ReportContext
from torchlint.report.checkout import from_top
from torchlint.report.lines import place
from torchlint.report.terminal import clean

_COMMAND = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def _data(text: str) -> str:
    """Escaped as the runner's `unescapeData` undoes it; anything else would start a command of its own."""
    return clean(text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _annotation(d: Diagnostic, root: str) -> str:
    # GitHub counts the lines of a notebook's JSON: the cell is told in the message, the file's first line is marked.
    rows = (d.row, d.end_row) if d.cell is None else (1, 1)
    properties = {
        "title": f"torchlint ({d.code} {d.name})",
        "file": from_top(d.path, root),
        "line": str(rows[0]),
        "endLine": str(rows[1]),
    }
    if d.row == d.end_row and d.cell is None:  # GitHub refuses columns on an annotation of several lines
        properties |= {"col": str(d.column), "endColumn": str(d.end_column)}
    listed = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{_COMMAND[d.severity]} {listed}::{_data(f'{d.path}:{place(d)}: {d.code} {d.message}')}"


def render(diagnostics: Sequence[Diagnostic], context: ReportContext) -> str:
    return "".join(_annotation(d, context.root) + "\n" for d in diagnostics)
