"""`torchlint report PATH... --html FILE`: a check, written as one self-contained page."""

from __future__ import annotations

import os
from pathlib import Path

from torchlint.options import Arguments
from torchlint.telling import harmless, tell

TROUBLE = 2


def main(arguments: Arguments) -> int:
    """Exit code 0 once the page is written, whatever it says; 2 on trouble."""
    from torchlint import __version__, evidence
    from torchlint.report import ReportContext
    from torchlint.report.gains import Gains
    from torchlint.report.page import render
    from torchlint.report.summary import plural, remedy, tally
    from torchlint.session import Session, SetupError

    if not arguments.paths:
        return _trouble("report needs paths, such as `torchlint report . --html report.html`")
    if not arguments.text("--html"):
        return _trouble("report needs --html FILE, the page to write")
    if "-" in arguments.paths:
        return _trouble("report reads files, not standard input")
    try:
        session = Session(arguments)
    except SetupError as error:
        return _trouble(str(error))
    found = session.check()
    paths = ", ".join(arguments.paths)
    described = f"{paths}: {plural(len(session.files), 'file')} checked by torchlint {__version__}"
    context = ReportContext(os.getcwd(), session.source, False, 0, False, len(session.files))
    page = render(found, context, Gains(evidence.load(), evidence.sources()), described)
    target = Path(arguments.text("--html"))
    try:
        target.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        return _trouble(f"{target}: cannot be written: {error.strerror or error}")
    if not arguments.flag("--quiet"):
        fixes = remedy(found)
        print(
            f"Wrote {harmless(str(target))}: {tally(found, len(session.files))}", *([fixes] if fixes else []), sep="\n"
        )
    return session.finish(0)


def _trouble(line: str) -> int:
    tell(line)
    return TROUBLE
