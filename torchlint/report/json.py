"""Findings as JSON, shaped like ruff's so that tools which read one read the other."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from torchlint.diagnostic import Diagnostic, Fix
from torchlint.report import ReportContext
from torchlint.report.lines import Texts


def render(diagnostics: Sequence[Diagnostic], context: ReportContext) -> str:
    texts = Texts(context.source)
    return json.dumps([_finding(d, texts, context.root) for d in diagnostics], indent=2) + "\n"


def _finding(d: Diagnostic, texts: Texts, root: str) -> dict[str, Any]:
    return {
        "cell": d.cell,
        "code": d.code,
        "end_location": {"row": d.end_row, "column": d.end_column},
        "filename": os.path.normpath(os.path.join(root, d.path)),
        "fix": _fix(d, d.fix, texts) if d.fix else None,
        "location": {"row": d.row, "column": d.column},
        "message": d.message,
        "name": d.name,
        "severity": d.severity.value,
        "url": d.url,
    }


def _fix(d: Diagnostic, fix: Fix, texts: Texts) -> dict[str, Any]:
    edits = []
    for cell, part in texts.parts(d):
        lines = texts.lines(d.path, cell)
        for edit in part.edits:
            row, column = lines.locate(edit.start)
            end_row, end_column = lines.locate(edit.end)
            written: dict[str, Any] = {
                "content": edit.text,
                "location": {"row": row, "column": column},
                "end_location": {"row": end_row, "column": end_column},
            }
            edits.append(written if cell is None else {"cell": cell, **written})
    return {"applicability": fix.applicability.value, "message": fix.message, "edits": edits}
