"""Findings as JSON, shaped like ruff's so that tools which read one read the other."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from torchlint.diagnostic import Diagnostic, Fix
from torchlint.report import ReportContext
from torchlint.report.lines import Lines


def render(diagnostics: Sequence[Diagnostic], context: ReportContext) -> str:
    sources: dict[str, Lines] = {}
    findings = []
    for d in diagnostics:
        if d.fix and d.path not in sources:
            sources[d.path] = Lines(context.source(d.path))
        findings.append(_finding(d, sources.get(d.path), context.root))
    return json.dumps(findings, indent=2) + "\n"


def _finding(d: Diagnostic, lines: Lines | None, root: str) -> dict[str, Any]:
    return {
        "cell": d.cell,
        "code": d.code,
        "end_location": {"row": d.end_row, "column": d.end_column},
        "filename": os.path.normpath(os.path.join(root, d.path)),
        "fix": _fix(d.fix, lines) if d.fix and lines else None,
        "location": {"row": d.row, "column": d.column},
        "message": d.message,
        "name": d.name,
        "severity": d.severity.value,
        "url": d.url,
    }


def _fix(fix: Fix, lines: Lines) -> dict[str, Any]:
    edits = []
    for edit in fix.edits:
        row, column = lines.locate(edit.start)
        end_row, end_column = lines.locate(edit.end)
        edits.append(
            {
                "content": edit.text,
                "location": {"row": row, "column": column},
                "end_location": {"row": end_row, "column": end_column},
            }
        )
    return {"applicability": fix.applicability.value, "message": fix.message, "edits": edits}
