"""Findings as a GitLab code quality report: https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from torchlint.diagnostic import Diagnostic, Severity
from torchlint.fingerprint import fingerprints, in_file
from torchlint.report import ReportContext
from torchlint.report.checkout import from_top
from torchlint.report.lines import Texts, place
from torchlint.report.terminal import clean

# As ESLint's and mypy's reports map theirs: "critical" and "blocker" are left to security scanners.
_SEVERITY = {Severity.ERROR: "major", Severity.WARNING: "minor", Severity.INFO: "info"}


def render(diagnostics: Sequence[Diagnostic], context: ReportContext) -> str:
    prints = fingerprints(diagnostics, Texts(context.source))
    return json.dumps([_issue(d, f, context.root) for d, f in zip(diagnostics, prints)], indent=2) + "\n"


def _issue(d: Diagnostic, fingerprint: str, root: str) -> dict[str, Any]:
    path = from_top(d.path, root)
    # Places in a notebook's cells are none in its JSON: the cell is told, and the file's first line is marked.
    where = "" if d.cell is None else f"{place(d)}: "
    return {
        "description": clean(f"{d.code} {where}{d.message}"),
        "check_name": d.name,
        "fingerprint": in_file(path, fingerprint),
        "severity": _SEVERITY[d.severity],
        "location": {
            "path": clean(path),
            "lines": {"begin": d.row, "end": d.end_row} if d.cell is None else {"begin": 1, "end": 1},
        },
    }
