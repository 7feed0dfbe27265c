"""Findings as JUnit XML, which Jenkins and most other CI systems show: a suite per file, a failed case per finding.

Nothing is written that the schema of Jenkins's xUnit plugin (junit-10.xsd) does not know: it refuses the whole report.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from xml.sax.saxutils import escape, quoteattr

from torchlint.diagnostic import Diagnostic, Severity
from torchlint.report import ReportContext
from torchlint.report.lines import place
from torchlint.report.terminal import clean

_NO_XML = re.compile("[\ufffe\uffff]")  # beside what `clean` replaces


def render(diagnostics: Sequence[Diagnostic], context: ReportContext) -> str:
    suites = [_suite(path, list(found)) for path, found in groupby(diagnostics, key=lambda d: d.path)]
    if not suites:
        # Jenkins takes a report without any case for one that failed.
        case = '    <testcase name="no findings" classname="torchlint"/>'
        suites = [f'<testsuite name="torchlint" tests="1" failures="0" errors="0" skipped="0">\n{case}\n  </testsuite>']
    failures, _ = _counts(diagnostics)
    counts = f'tests="{max(len(diagnostics), 1)}" failures="{failures}" errors="0"'
    body = "".join(f"  {suite}\n" for suite in suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n<testsuites name="torchlint" {counts}>\n{body}</testsuites>\n'


def _counts(diagnostics: Sequence[Diagnostic]) -> tuple[int, int]:
    """Failures, and findings that are none: `info` does not fail a check."""
    skipped = sum(d.severity is Severity.INFO for d in diagnostics)
    return len(diagnostics) - skipped, skipped


def _suite(path: str, found: list[Diagnostic]) -> str:
    failures, skipped = _counts(found)
    counts = f'tests="{len(found)}" failures="{failures}" errors="0" skipped="{skipped}"'
    cases = "".join(map(_case, found))
    return f"<testsuite{_attributes(name=path, file=path)} {counts}>\n{cases}  </testsuite>"


def _case(d: Diagnostic) -> str:
    about = _attributes(name=f"{d.code} {d.name} at {place(d)}", classname=d.path)
    if d.severity is Severity.INFO:
        inner = f"<skipped{_attributes(message=d.message)}/>"
    else:
        text = _text(f"{d.path}:{place(d)}: {d.code} {d.message}")
        inner = f"<failure{_attributes(type=d.severity.value, message=d.message)}>{escape(text)}</failure>"
    return f"    <testcase{about}>\n      {inner}\n    </testcase>\n"


def _attributes(**values: str) -> str:
    return "".join(f" {name}={quoteattr(_text(value))}" for name, value in values.items())


def _text(text: str) -> str:
    return _NO_XML.sub("\ufffd", clean(text))
