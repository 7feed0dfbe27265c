"""What was probably meant by a word of the command line that means nothing: the next step for an error message."""

from __future__ import annotations

import os
from collections.abc import Iterable

from torchlint.discover import CODE, DOCUMENTS
from torchlint.options import VERBS, near

# What people who know other tools type, and what it is called here.
_VERBS = {
    "lint": "check",
    "run": "check",
    "analyze": "check",
    "watch": "check --watch",
    "format": "fix",
    "explain": "rule",
    "rules": "rule --all",
    "list": "rule --all",
    "settings": "config",
    "init": "config",
    "info": "doctor",
    "env": "doctor",
    "html": "report",
    "prove": "verify",
    "test": "verify",
    "version": "--version",
    "-v": "--version",
}
_QUIET = "there is no such option: every finding is explained, and `torchlint doctor` shows the rest"
_OPTIONS = {
    "--fix": "did you mean `torchlint fix PATH`, with --apply to write?",
    "--write": "did you mean `torchlint fix PATH --apply`?",
    "--in-place": "did you mean `torchlint fix PATH --apply`?",
    "--verbose": _QUIET,
    "-v": _QUIET,
    "--severity": "levels are set in [tool.torchlint.severity] of pyproject.toml",
    "--disable": "did you mean --ignore?",
    "--enable": "did you mean --extend-select?",
    "--add-noqa": "did you mean `torchlint check PATH --add-ignore`?",
    "--html": "did you mean `torchlint report PATH --html FILE`?",
}


def verb(first: str, argv: list[str]) -> str:
    """The end of the message about a first word that is no verb."""
    known = next((word for word in argv[1:] if word in VERBS), "")
    if first.startswith("-") and known:
        return f"; options come behind the verb: torchlint {known} {first} ..."
    if first in _VERBS:
        return f"; did you mean `torchlint {_VERBS[first]}`?"
    if not first.startswith("-") and ("/" in first or first.endswith((*CODE, *DOCUMENTS)) or os.path.exists(first)):
        return f"; did you mean `torchlint check {first}`?"
    return near(first, VERBS) or f"; the verbs are {', '.join(VERBS)}"


def option(verb: str, name: str, known: Iterable[str]) -> str:
    """The end of the message about an option that the verb does not have."""
    if name in _OPTIONS:
        return f"; {_OPTIONS[name]}"
    return near(name, [*known, "--help", "--version"]) or f"; `torchlint {verb} --help` lists them"
