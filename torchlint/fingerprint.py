"""What a finding is recognised by in a later run: SARIF, GitLab and the baseline compare these and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torchlint.diagnostic import Diagnostic
from torchlint.report.lines import Texts


def fingerprints(diagnostics: Sequence[Diagnostic], texts: Texts) -> list[str]:
    """One for each finding, in their order; no two of a file are the same, two of different files may be.

    Made of the rule, the text of the finding's first line without blanks around it, and which of the findings with
    that rule and text it is in its file. So it outlives lines that come and go above and below, another indentation,
    cells put in between, and a renamed file; an edit of the line itself makes it another finding.
    """
    seen: dict[tuple[str, str, str], int] = {}
    result = []
    for d in diagnostics:
        text = line_text(d, texts)
        key = (d.path, d.code, text)
        nth = seen[key] = seen.get(key, -1) + 1
        result.append(_digest(d.code, text, str(nth)))
    return result


def line_text(d: Diagnostic, texts: Texts) -> str:
    """The finding's first line without blanks around it, "" where the file cannot be read."""
    lines = texts.lines(d.path, d.cell)
    return lines.line(d.row).strip() if d.row <= len(lines) else ""


def in_file(path: str, fingerprint: str) -> str:
    """The fingerprint of a finding among those of all files."""
    return _digest(path.replace("\\", "/"), fingerprint)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
