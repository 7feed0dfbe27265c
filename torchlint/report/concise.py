"""One line per finding, for editors, grep and logs: `path:row:column: CODE [*] message`."""

from __future__ import annotations

from collections.abc import Sequence

from torchlint.diagnostic import Applicability, Diagnostic
from torchlint.report import ReportContext
from torchlint.report.lines import place
from torchlint.report.summary import remedy, tally
from torchlint.report.terminal import BOLD, BOLD_RED, CYAN, Paint, clean, shown_path

_MARKS = {Applicability.SAFE: "[*] ", Applicability.UNSAFE: "[!] "}


def line(d: Diagnostic, paint: Paint) -> str:
    """The finding on one line. `[*]` marks a safe fix, `[!]` one that needs --unsafe."""
    mark = _MARKS.get(d.fix.applicability, "") if d.fix else ""
    where = paint(":", CYAN).join([paint(shown_path(d.path), BOLD), *place(d).rsplit(":", 1), ""])
    return f"{where} {paint(d.code, BOLD_RED)} {paint(mark.rstrip(), CYAN)}{' ' if mark else ''}{clean(d.message)}"


def render(diagnostics: Sequence[Diagnostic], context: ReportContext) -> str:
    paint = Paint(context.color)
    lines = [line(d, paint) for d in diagnostics]
    if not context.quiet:
        lines.append(tally(diagnostics, context.checked))
        fixes = remedy(diagnostics)
        if fixes:
            lines.append(fixes)
    return "".join(text + "\n" for text in lines)
