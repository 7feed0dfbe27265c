"""Counts per rule in place of the findings (`--statistics`), most frequent first."""

from __future__ import annotations

from collections.abc import Sequence

from torchlint.diagnostic import Applicability, Diagnostic
from torchlint.report import ReportContext
from torchlint.report.summary import fixable, tally
from torchlint.report.terminal import BOLD, BOLD_CYAN, DIM, Paint


def render(diagnostics: Sequence[Diagnostic], context: ReportContext, format_name: str) -> str:
    rows = _rows(diagnostics)
    if format_name in ("json", "sarif"):
        import json

        keys = ("count", "code", "name", "safe_fixes", "unsafe_fixes")
        return json.dumps([dict(zip(keys, row)) for row in rows], indent=2) + "\n"
    paint = Paint(context.color)
    digits = max((len(str(row[0])) for row in rows), default=1)
    lines = []
    for count, code, name, safe, unsafe in rows:
        fixes = [f"{safe} safe"] * bool(safe) + [f"{unsafe} unsafe"] * bool(unsafe)
        note = paint(f"  ({' and '.join(fixes)} {'fix' if safe + unsafe == 1 else 'fixes'})", DIM) if fixes else ""
        lines.append(f"{paint(f'{count:>{digits}}', BOLD)}  {paint(code, BOLD_CYAN)}  {name}{note}")
    closing = [] if context.quiet else [tally(diagnostics, context.checked)]
    return "".join(text + "\n" for text in [*lines, *closing])


def _rows(diagnostics: Sequence[Diagnostic]) -> list[tuple[int, str, str, int, int]]:
    groups: dict[tuple[str, str], list[Diagnostic]] = {}
    for d in diagnostics:
        groups.setdefault((d.code, d.name), []).append(d)
    rows = [
        (len(group), code, name, fixable(group, Applicability.SAFE), fixable(group, Applicability.UNSAFE))
        for (code, name), group in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row[0], row[1]))
