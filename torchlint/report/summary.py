"""The last lines of a report: how much was found, and how much of it can be fixed how."""

from __future__ import annotations

from collections.abc import Sequence

from torchlint.diagnostic import Applicability, Diagnostic, Severity


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def fixable(diagnostics: Sequence[Diagnostic], applicability: Applicability) -> int:
    return sum(d.fix is not None and d.fix.applicability is applicability for d in diagnostics)


def tally(diagnostics: Sequence[Diagnostic], checked: int) -> str:
    """`5 findings (1 error, 3 warnings, 1 info) in 2 of 14 files`."""
    if not diagnostics:
        return f"No findings in {plural(checked, 'file')}."
    by_severity = [(s, sum(d.severity is s for d in diagnostics)) for s in Severity]
    parts = [str(n) + " info" if s is Severity.INFO else plural(n, s.value) for s, n in by_severity if n]
    files = len({d.path for d in diagnostics})
    where = f"{files} of {plural(checked, 'file')}" if checked > files else plural(files, "file")
    return f"{plural(len(diagnostics), 'finding')} ({', '.join(parts)}) in {where}"


def remedy(diagnostics: Sequence[Diagnostic]) -> str:
    """What `torchlint fix` could do about the findings, or ""."""
    safe = fixable(diagnostics, Applicability.SAFE)
    unsafe = fixable(diagnostics, Applicability.UNSAFE)
    if safe and unsafe:
        return f"{safe} fixable with `torchlint fix --apply`, {unsafe} more with `--unsafe`"
    if safe:
        return f"{safe} fixable with `torchlint fix --apply`"
    return f"{unsafe} fixable with `torchlint fix --apply --unsafe`" if unsafe else ""
