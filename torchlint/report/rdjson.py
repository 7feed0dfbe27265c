"""Findings as rdjson, reviewdog's own format: https://github.com/reviewdog/reviewdog/tree/master/proto/rdf."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from torchlint.diagnostic import Applicability, Diagnostic, Fix, Severity
from torchlint.report import ReportContext
from torchlint.report.lines import Lines, Texts, apply, place
from torchlint.report.terminal import clean

_SEVERITY = {Severity.ERROR: "ERROR", Severity.WARNING: "WARNING", Severity.INFO: "INFO"}
# Rows. A suggestion is one stretch of text: edits further apart (an import at the top) would quote too much between.
_TOGETHER = 25


def render(diagnostics: Sequence[Diagnostic], context: ReportContext) -> str:
    texts = Texts(context.source)
    report = {
        "source": {"name": "torchlint"},
        "diagnostics": [_diagnostic(d, texts) for d in diagnostics],
    }
    return json.dumps(report, indent=2) + "\n"


def _diagnostic(d: Diagnostic, texts: Texts) -> dict[str, Any]:
    code = {"value": d.code, "url": d.url} if d.url else {"value": d.code}
    path = clean(d.path.replace("\\", "/"))
    if d.cell is not None:
        # Places in a notebook's cells are none in its JSON: the cell is told, and the file's first line is marked.
        location = {"path": path, "range": {"start": {"line": 1, "column": 1}}}
        return {
            "message": clean(f"{place(d)}: {d.message}"), "location": location, "severity": _SEVERITY[d.severity],
            "code": code,
        }  # fmt: skip
    lines = texts.lines(d.path, None)
    entry: dict[str, Any] = {
        "message": clean(d.message),
        "location": {"path": path, "range": _range(lines, (d.row, d.column), (d.end_row, d.end_column))},
        "severity": _SEVERITY[d.severity],
        "code": code,
    }
    suggestion = _suggestion(d.fix, lines) if d.fix else None
    if suggestion:
        entry["suggestions"] = [suggestion]
    return entry


def _range(lines: Lines, start: tuple[int, int], end: tuple[int, int]) -> dict[str, Any]:
    return {"start": _position(lines, *start), "end": _position(lines, *end)}


def _position(lines: Lines, row: int, column: int) -> dict[str, int]:
    """reviewdog counts columns in bytes of UTF-8."""
    before = lines.line(row)[: column - 1] if row <= len(lines) else ""
    return {"line": row, "column": len(before.encode("utf-8", "surrogatepass")) + 1}


def _suggestion(fix: Fix, lines: Lines) -> dict[str, Any] | None:
    """The whole fix as one replaced stretch; None where it cannot be one. Half a fix would be worse than none."""
    if fix.applicability is Applicability.SUGGESTION or not fix.edits:
        return None
    start, end = min(e.start for e in fix.edits), max(e.end for e in fix.edits)
    first, last = lines.locate(start), lines.locate(end)
    if last[0] - first[0] > _TOGETHER:
        return None
    return {"range": _range(lines, first, last), "text": apply(lines.text, fix.edits, start, end)}
