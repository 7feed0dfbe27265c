"""One file to diagnostics: which rules can find anything in it, and what they find.

A text that is not Python becomes one TL001 finding. This module imports neither libcst nor a rule, because most files
need neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from torchlint import notebook, prefilter, syntax
from torchlint.diagnostic import Diagnostic
from torchlint.discover import DOCUMENTS
from torchlint.triggers import Scan
from torchlint.trouble import syntax_error

if TYPE_CHECKING:
    from torchlint.config import Config
    from torchlint.prefilter import Plan
    from torchlint.rule import Rule
    from torchlint.source import File


def check_text(
    path: str, text: str, rules: Sequence[Rule], settings: Config, *, tree: File | None = None
) -> list[Diagnostic]:
    """Every finding of the rules in a text, in order of position; conditional ones still carry their questions.

    Suppression comments are not looked at here. `tree` saves the parse where the caller already has the file.
    """
    ignored = settings.ignored_for(path)
    if ignored:
        rules = [r for r in rules if not any(_names(selector, r) for selector in ignored)]
    if path.endswith(DOCUMENTS):
        found = _check_prose(path, text, rules, settings)
    elif notebook.is_program(text):
        found = _check_cells(path, text, rules, settings)
    else:
        found = _check_whole(path, text, rules, settings, tree)
        if settings.docstrings:
            found += _check_prose(path, text, rules, settings)
    return sorted(found, key=lambda d: d.sort_key)


def _check_cells(path: str, text: str, rules: Sequence[Rule], settings: Config) -> list[Diagnostic]:
    """The findings of a notebook's joined cells; a cell that does not parse is reported and left out."""
    program = notebook.python(text)
    found: list[Diagnostic] = []
    if _selected(rules, "TL001"):
        for cell, trouble in program.troubles:
            d = syntax_error(path, text[cell.start : cell.end], trouble)
            found.append(replace(d, cell=cell.number, start=d.start + cell.start, end=d.end + cell.start))
    places = notebook.Places(text)
    found += notebook.place(program, places, _check_whole(path, program.text, rules, settings, None))
    return found


def _check_prose(path: str, text: str, rules: Sequence[Rule], settings: Config) -> list[Diagnostic]:
    """The findings in a document's blocks of Python, or in the examples of docstrings."""
    if not prefilter.concerns(text):
        return []
    from torchlint.documents import programs

    rules = [r for r in rules if r.code != "TL001"]
    found: list[Diagnostic] = []
    for program in programs(path, text, settings.docstrings):
        found += program.placed(_check_cells(path, program.text, rules, settings))
    return [d for d in found if d.code != "TL001"]


def _check_whole(path: str, text: str, rules: Sequence[Rule], settings: Config, tree: File | None) -> list[Diagnostic]:
    scan = Scan(text)
    active = [r for r in rules if r.looks and r.may_find(scan)] if prefilter.concerns(text) else []
    if tree is not None:
        return _found(path, text, rules, active, settings, tree)
    parsed = syntax.parsed(text)
    if isinstance(parsed, syntax.Trouble):
        found = [syntax_error(path, text, parsed, rules)] if _selected(rules, "TL001") else []
        return found + _around_async(path, text, rules, settings)
    if not active:
        return []
    if parsed is None:
        return _found(path, text, rules, active, settings, None)
    layout = prefilter.Layout(path, scan, parsed)
    try:
        plan = layout.plan(_seeds(tuple(active)))
        if plan is None:
            return []
        return _found(path, text, rules, [r for r in active if r.shapes not in plan.absent], settings, plan)
    finally:
        layout.forget()


def _around_async(path: str, text: str, rules: Sequence[Rule], settings: Config) -> list[Diagnostic]:
    """The findings in a file that cannot be parsed for the argument `async` alone, which must be renamed first."""
    readable = syntax.without_async(text)
    if readable is None:
        return []
    found = _check_whole(path, readable, rules, settings, None)
    return [replace(d, message=syntax.with_async(d.message), fix=None) for d in found]


def _found(
    path: str, text: str, rules: Sequence[Rule], active: Sequence[Rule], settings: Config, given: File | Plan | None
) -> list[Diagnostic]:
    from torchlint.apply import findings  # libcst and the semantics: most files need neither

    found = findings(path, text, given, active, settings)
    return [syntax_error(path, text, found, rules)] if isinstance(found, syntax.Trouble) else found


@lru_cache(maxsize=512)
def _seeds(rules: tuple[Rule, ...]) -> prefilter.Seeds:
    return prefilter.Seeds(rules)


def _names(selector: str, rule: Rule) -> bool:
    """Whether a selector, known to be valid, names the rule."""
    return selector == "ALL" or rule.name == selector or rule.code.startswith(selector.upper())


def _selected(rules: Sequence[Rule], code: str) -> bool:
    return any(r.code == code for r in rules)
