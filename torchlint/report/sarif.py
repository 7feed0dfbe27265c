"""Findings as SARIF 2.1.0 (OASIS), the format of code scanning services."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torchlint import __version__
from torchlint.catalogue import load
from torchlint.diagnostic import Diagnostic, Fix, Severity
from torchlint.fingerprint import fingerprints, in_file
from torchlint.report import ReportContext
from torchlint.report.checkout import from_top, top
from torchlint.report.lines import Lines, Texts, place
from torchlint.rule import Rule

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVEL = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_ROOT = "SRCROOT"
_LONG = 1024  # characters that GitHub reads of a description


def render(diagnostics: Sequence[Diagnostic], context: ReportContext) -> str:
    known = {rule.code: rule for rule in load()}
    found = {d.code: d for d in reversed(diagnostics)}
    codes = sorted(found)
    texts = Texts(context.source)
    results = []
    root = context.root
    for d, fingerprint in zip(diagnostics, fingerprints(diagnostics, texts)):
        lines = texts.lines(d.path, d.cell)
        results.append(_result(d, lines, codes.index(d.code), root, in_file(from_top(d.path, root), fingerprint)))
    driver = {
        "name": "torchlint",
        "version": __version__,
        "semanticVersion": __version__,
        "rules": [_rule(found[code], known.get(code)) for code in codes],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {_ROOT: {"uri": _folder(top(root))}},
        "results": results,
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _rule(d: Diagnostic, rule: Rule | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": d.code, "name": d.name}
    if rule is not None:
        page = rule.doc.strip()
        entry["shortDescription"] = {"text": rule.summary}
        entry["fullDescription"] = {"text": _what_it_does(page) or rule.summary}
        entry["help"] = {"text": page, "markdown": page}
        entry["defaultConfiguration"] = {"level": _LEVEL[rule.severity], "enabled": rule.default}
        entry["properties"] = {"tags": [rule.category.value]}
    if d.url:
        entry["helpUri"] = d.url
    return entry


def _what_it_does(page: str) -> str:
    """That section of a rule's page, on one line; GitHub shows it above an alert."""
    section = page.partition("## What it does\n")[2].partition("\n## ")[0]
    text = " ".join(section.split())
    return text if len(text) <= _LONG else text[: _LONG - 1].rpartition(" ")[0] + "…"


def _result(d: Diagnostic, lines: Lines, rule_index: int, root: str, fingerprint: str) -> dict[str, Any]:
    # Places in a notebook's cells are none in its JSON: the cell is told, and the file's first line is marked.
    region = _region((d.row, d.column), (d.end_row, d.end_column)) if d.cell is None else _region((1, 1), (1, 1))
    message = d.message if d.cell is None else f"{place(d)}: {d.message}"
    result: dict[str, Any] = {
        "ruleId": d.code,
        "ruleIndex": rule_index,
        "level": _LEVEL[d.severity],
        "message": {"text": message},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": _artifact(d.path, root),
                    "region": region,
                }
            }
        ],
        "partialFingerprints": {"torchlint/v2": fingerprint},
    }
    if d.fix and d.cell is None:
        result["fixes"] = [_fix(d.fix, lines, _artifact(d.path, root))]
    return result


def _artifact(path: str, root: str) -> dict[str, str]:
    """A file under the root by its relative URI, one outside of it by its absolute URI."""
    absolute = os.path.normpath(os.path.join(root, path))
    relative = from_top(path, root)
    if relative.startswith(os.pardir):
        return {"uri": Path(absolute).as_uri()}
    return {"uri": quote(relative, errors="surrogateescape"), "uriBaseId": _ROOT}


def _folder(path: str) -> str:
    uri = Path(path).absolute().as_uri()
    return uri if uri.endswith("/") else uri + "/"


def _region(start: tuple[int, int], end: tuple[int, int]) -> dict[str, int]:
    return {"startLine": start[0], "startColumn": start[1], "endLine": end[0], "endColumn": end[1]}


def _fix(fix: Fix, lines: Lines, artifact: dict[str, str]) -> dict[str, Any]:
    replacements = [
        {
            "deletedRegion": _region(lines.locate(edit.start), lines.locate(edit.end)),
            "insertedContent": {"text": edit.text},
        }
        for edit in fix.edits
    ]
    return {
        "description": {"text": f"{fix.message} ({fix.applicability.value})"},
        "artifactChanges": [{"artifactLocation": artifact, "replacements": replacements}],
    }
