"""Text to text: fixes applied in rounds until nothing is left to fix, each round proven to parse and compile.

Pure: no file is read or written here.
"""

from __future__ import annotations

import bisect
import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import libcst as cst

from torchlint import notebook
from torchlint.check import check_text
from torchlint.config import Config
from torchlint.diagnostic import Applicability, Diagnostic, Edit, splice
from torchlint.discover import DOCUMENTS
from torchlint.rule import Rule

MAX_ROUNDS = 10
_TOP_LEVEL_AWAIT = 0x2000  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, without the import
_LONE_CR = re.compile(r"\r(?!\n)")

Resolve = Callable[[str, list[Diagnostic]], list[Diagnostic]]


@dataclass
class FixResult:
    """`applied` are the findings that were fixed, with the positions of their round. `undone` are those whose fix broke
    the file and was taken back. `notes` are lines for the user."""

    text: str
    applied: list[Diagnostic] = field(default_factory=list)
    undone: list[Diagnostic] = field(default_factory=list)
    rounds: int = 0
    notes: list[str] = field(default_factory=list)


def _as_found(text: str, diagnostics: list[Diagnostic]) -> list[Diagnostic]:
    return diagnostics


def fixable(text: str) -> str | None:
    """None, or why a text must not be rewritten: libcst does not give it back as it was."""
    if _LONE_CR.search(text):
        return "it has lines that end in a lone carriage return"
    if text.startswith("\f"):
        return "it starts with a form feed"
    return None


def fix_text(
    path: str,
    text: str,
    rules: Sequence[Rule],
    settings: Config,
    *,
    unsafe: bool,
    resolve: Resolve = _as_found,
) -> FixResult:
    """Apply the safe fixes (and, if asked, the unsafe ones) until none is left, in at most 10 rounds.

    `resolve` turns the raw findings of a text into those that are shown: linked, and without the suppressed ones.
    """
    result = FixResult(text)
    allowed = {Applicability.SAFE, Applicability.UNSAFE} if unsafe else {Applicability.SAFE}
    refused = fixable(text)
    if refused is not None:
        result.notes.append(f"{path}: not fixed: {refused}")
        return result
    compiles = _compiles(path, text)
    banned: set[tuple[str, str, str]] = set()
    seen = {text}
    while result.rounds < MAX_ROUNDS:
        found = resolve(result.text, check_text(path, result.text, rules, settings))
        wanted = [d for d in found if d.fix and d.fix.applicability in allowed and _key(d, result.text) not in banned]
        chosen = accept(wanted)
        if not chosen:
            break
        result.rounds += 1
        new, guilty = _apply(path, result.text, chosen, compiles, settings.docstrings)
        for diagnostic in guilty:
            banned.add(_key(diagnostic, result.text))
            result.undone.append(diagnostic)
            result.notes.append(
                f"{path}:{_row(diagnostic)}: the fix of {diagnostic.name} ({diagnostic.code}) would break the file "
                "and was not made; please report this"
            )
        fixed = [d for d in chosen if d not in guilty]
        if not fixed:
            continue
        if new in seen:
            rules_named = ", ".join(sorted({f"{d.name} ({d.code})" for d in fixed}))
            result.notes.append(f"{path}: {rules_named} undo each other's fixes; stopped there, please report this")
            break
        seen.add(new)
        result.text = new
        result.applied += fixed
    else:
        result.notes.append(f"{path}: still not settled after {MAX_ROUNDS} rounds of fixes; run again")
    return result


def _row(diagnostic: Diagnostic) -> str:
    return f"{diagnostic.row}" if diagnostic.cell is None else f"cell {diagnostic.cell}:{diagnostic.row}"


def _key(diagnostic: Diagnostic, text: str) -> tuple[str, str, str]:
    """What stays the same of a finding while lines above it move."""
    start = text.rfind("\n", 0, diagnostic.start) + 1
    end = text.find("\n", diagnostic.start)
    return diagnostic.code, diagnostic.message, text[start : end if end >= 0 else len(text)].strip()


def accept(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """The findings whose fixes can be made together, in order of position.

    A fix that touches text of an accepted one waits. The very same edit may be shared: two fixes that add one import.
    """
    accepted: list[Diagnostic] = []
    taken: list[Edit] = []
    for diagnostic in sorted(diagnostics, key=lambda d: (d.start, d.end, d.code, d.message)):
        if diagnostic.fix is None or not diagnostic.fix.edits:
            continue
        edits = set(diagnostic.fix.edits)
        if _overlapping(sorted(edits)):
            continue
        fresh = [e for e in edits if not _shared(e, taken)]
        if any(_touches(e, taken) for e in fresh):
            continue
        for edit in fresh:
            bisect.insort(taken, edit)
        accepted.append(diagnostic)
    return accepted


def _shared(edit: Edit, taken: list[Edit]) -> bool:
    at = bisect.bisect_left(taken, edit)
    return at < len(taken) and taken[at] == edit


def _touches(edit: Edit, taken: list[Edit]) -> bool:
    """Whether an edit overlaps or adjoins an accepted one. `taken` is sorted and free of overlaps."""
    at = bisect.bisect_left(taken, edit)
    return (at > 0 and taken[at - 1].end >= edit.start) or (at < len(taken) and taken[at].start <= edit.end)


def _overlapping(edits: list[Edit]) -> bool:
    return any(a.end > b.start for a, b in itertools.pairwise(edits))


def _edits(diagnostics: Iterable[Diagnostic]) -> set[Edit]:
    return {e for d in diagnostics if d.fix for e in d.fix.edits}


def _apply(
    path: str, text: str, chosen: list[Diagnostic], compiles: bool, docstrings: bool
) -> tuple[str, list[Diagnostic]]:
    """The text with the fixes made, and those that had to be left out because they broke it."""
    new = splice(text, _edits(chosen))
    if _sound(path, text, new, compiles, docstrings):
        return new, []
    kept: list[Diagnostic] = []
    guilty: list[Diagnostic] = []
    for diagnostic in chosen:
        if _sound(path, text, splice(text, _edits([*kept, diagnostic])), compiles, docstrings):
            kept.append(diagnostic)
        else:
            guilty.append(diagnostic)
    return splice(text, _edits(kept)), guilty


def alone(path: str, text: str, diagnostic: Diagnostic, docstrings: bool = False) -> str | None:
    """The text with one finding's fix made, of whatever kind; None where that would break it."""
    if diagnostic.fix is None or not diagnostic.fix.edits or fixable(text) is not None:
        return None
    edits = set(diagnostic.fix.edits)
    if _overlapping(sorted(edits)):
        return None
    new = splice(text, edits)
    return new if _sound(path, text, new, _compiles(path, text), docstrings) else None


def _sound(path: str, before: str, text: str, compiles: bool, docstrings: bool) -> bool:
    """Whether a text is good enough to be written: libcst parses it, and it compiles if the original did.

    Of a document, and of docstrings where these are read, the same holds for each program in it.
    """
    prose = path.endswith(DOCUMENTS)
    if not prose and not _holds(path, before, text, compiles):
        return False
    if not prose and not docstrings:
        return True
    from torchlint.documents import programs

    old, new = ([p.text for p in programs(path, one, docstrings)] for one in (before, text))
    return len(old) == len(new) and all(_holds(path, a, b, a != b and _compiles(path, a)) for a, b in zip(old, new))


def _holds(path: str, before: str, text: str, compiles: bool) -> bool:
    program = notebook.is_program(before)
    if program and not notebook.intact(before, text):
        return False
    try:
        cst.parse_module(notebook.python(text).text if program else text)
    except (cst.ParserSyntaxError, RecursionError):
        return False
    return not compiles or _compiles(path, text)


def _compiles(path: str, text: str) -> bool:
    if path.endswith(DOCUMENTS) and not notebook.is_program(text):
        return False  # prose as a whole is no code
    flags = 0
    if notebook.is_program(text):
        text, flags = notebook.python(text).text, _TOP_LEVEL_AWAIT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, path, "exec", flags, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
