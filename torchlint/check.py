"""One file to diagnostics: parse it, let each rule look at what it subscribed to, and survive whatever goes wrong.

A rule that raises becomes a TL002 finding and the others go on; a text that is not Python becomes one TL001 finding.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import libcst as cst

from torchlint import notebook, prefilter, syntax
from torchlint.config import Config
from torchlint.diagnostic import Diagnostic, Severity
from torchlint.rule import Context, Finding, Rule
from torchlint.semantics import Semantics
from torchlint.skeleton import NeedsText
from torchlint.source import File, walk
from torchlint.triggers import Scan

_Call = tuple[Rule, Callable[[Any, Context], Iterable[Finding]], Context]


def check_text(
    path: str, text: str, rules: Sequence[Rule], settings: Config, *, tree: File | None = None
) -> list[Diagnostic]:
    """Every finding of the rules in a text, in order of position; conditional ones still carry their questions.

    Suppression comments are not looked at here. `tree` saves the parse where the caller already has the file.
    """
    ignored = settings.ignored_for(path)
    if ignored:
        rules = [r for r in rules if not any(_names(selector, r) for selector in ignored)]
    if notebook.is_program(text):
        found = _check_cells(path, text, rules, settings)
    else:
        found = _check_whole(path, text, rules, settings, tree)
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


def _check_whole(path: str, text: str, rules: Sequence[Rule], settings: Config, tree: File | None) -> list[Diagnostic]:
    scan = Scan(text)
    active = [r for r in rules if r.checks and r.may_find(scan)] if prefilter.concerns(text) else []
    try:
        if tree is None:
            parsed = syntax.parsed(text)
            if isinstance(parsed, syntax.Trouble):
                return [syntax_error(path, text, parsed, rules)] if _selected(rules, "TL001") else []
            tree = _tree(path, scan, parsed, active, settings)
            if tree is None:
                return []
        return list(dict.fromkeys(_apply(tree, active, settings)))
    except cst.ParserSyntaxError as error:
        # Valid for this Python, not for the parser that rules need.
        trouble = syntax.Trouble(
            f"cannot be parsed: {syntax.first_line(error.message)}", error.raw_line, error.raw_column
        )
        return [syntax_error(path, text, trouble, rules)]
    except RecursionError:
        return [syntax_error(path, text, syntax.TOO_DEEP, rules)]


def check_all(file: File, rules: Sequence[Rule], settings: Config) -> list[Diagnostic]:
    """The findings in a parsed file when no trigger is believed: what `check_text` must find with less work."""
    return sorted(dict.fromkeys(_apply(file, rules, settings)), key=lambda d: d.sort_key)


def _tree(path: str, scan: Scan, parsed: ast.Module | None, active: Sequence[Rule], settings: Config) -> File | None:
    """The libcst tree that the rules need, None where a look at less shows that they find nothing."""
    if not active:
        return None
    if parsed is None:  # syntax newer than this Python
        return File.parse(path, scan.text)
    plan = prefilter.plan(path, scan, parsed, _seeds(tuple(active)))
    if plan is None or _is_silent(plan, active, settings):
        return None
    return plan.file()


def _is_silent(plan: prefilter.Plan, active: Sequence[Rule], settings: Config) -> bool:
    """Whether the rules certainly say nothing, judged on a tree without whitespace."""
    try:
        return not any(True for _ in _apply(plan.skeleton(), active, settings))
    except (NeedsText, RecursionError):
        return False


@lru_cache(maxsize=512)
def _seeds(rules: tuple[Rule, ...]) -> prefilter.Seeds:
    return prefilter.Seeds(rules)


def _names(selector: str, rule: Rule) -> bool:
    """Whether a selector, known to be valid, names the rule."""
    return selector == "ALL" or rule.name == selector or rule.code.startswith(selector.upper())


def _selected(rules: Sequence[Rule], code: str) -> bool:
    return any(r.code == code for r in rules)


def _apply(file: File, rules: Sequence[Rule], settings: Config) -> Iterable[Diagnostic]:
    by_node: list[tuple[type, _Call]] = []
    by_object: dict[type, list[_Call]] = {}
    sem: Semantics | None = None
    crashed: dict[str, Diagnostic] = {}
    subscribed = [r for r in rules if r.checks]
    if not subscribed:
        return
    try:
        sem = Semantics(file, settings.grad_disabling, settings.loader_names)
    except RecursionError:
        raise
    except Exception as error:
        yield crash(file.path, "torchlint's model of this file", None, error)
        return
    for rule in subscribed:
        options = {**settings.project_names, **rule.options, **settings.rules.get(rule.name, {})}
        context = Context(file, sem, options, settings.target_device, settings.torch_version)
        for kind, check in rule.checks:
            if issubclass(kind, cst.CSTNode):
                by_node.append((kind, (rule, check, context)))
            else:
                by_object.setdefault(kind, []).append((rule, check, context))

    def call(entry: _Call, subject: Any) -> list[Diagnostic]:
        rule, check, context = entry
        if rule.code in crashed:
            return []
        results: list[Diagnostic] = []
        try:
            for finding in check(subject, context):
                results.append(_diagnostic(file, rule, finding, settings))
        except RecursionError:
            raise
        except Exception as error:
            crashed[rule.code] = crash(file.path, f"{rule.name} ({rule.code})", rule, error)
        return results

    table: dict[type, list[_Call]] = {}
    if by_node:
        for node in walk(file.tree):
            cls = node.__class__
            entries = table.get(cls)
            if entries is None:
                entries = table[cls] = [entry for kind, entry in by_node if issubclass(cls, kind)]
            for entry in entries:
                yield from call(entry, node)
    for kind, entries in by_object.items():
        try:
            subjects: list[Any] = list(sem.objects(kind))
        except RecursionError:
            raise
        except Exception as error:
            yield crash(file.path, f"torchlint's recognition of {kind.__name__}", None, error)
            continue
        for subject in subjects:
            for entry in entries:
                yield from call(entry, subject)
    yield from crashed.values()


def severity_of(rule: Rule, settings: Config) -> Severity:
    """The rule's level after the project's `severity` table, where a code or name wins over a prefix."""
    best, level = -1, rule.severity
    for selector, chosen in settings.severity.items():
        if selector == rule.name or selector.upper() == rule.code:
            return Severity(chosen)
        if rule.code.startswith(selector.upper()) and len(selector) > best:
            best, level = len(selector), Severity(chosen)
    return level


def _diagnostic(file: File, rule: Rule, finding: Finding, settings: Config) -> Diagnostic:
    start, end = file.caret(finding.at)
    row, column = file.lines.locate(start)
    end_row, end_column = file.lines.locate(end)
    return Diagnostic(
        rule.code,
        rule.name,
        finding.severity or severity_of(rule, settings),
        finding.message,
        file.path,
        row + 1,
        column + 1,
        end_row + 1,
        end_column + 1,
        start,
        end,
        finding.fix,
        finding.unless,
    )


def syntax_error(path: str, text: str, trouble: syntax.Trouble, rules: Sequence[Rule] = ()) -> Diagnostic:
    """The TL001 finding for a text that is not Python."""
    lines = text.splitlines() or [""]
    row = min(max(trouble.row, 1), len(lines))
    column = min(max(trouble.column, 1), len(lines[row - 1]) + 1)
    start = sum(len(line) for line in text.splitlines(keepends=True)[: row - 1]) + column - 1
    end = min(start + 1, len(text))
    place = (row, column, row, column + end - start, start, end)
    return Diagnostic("TL001", "syntax-error", Severity.ERROR, trouble.message, path, *place)


def crash(path: str, what: str, rule: Rule | None, error: Exception) -> Diagnostic:
    """The TL002 finding for an exception inside a rule, with the innermost line of the rule's own file."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f for f in frames if rule is not None and os.path.basename(f.filename) == rule.name.replace("-", "_") + ".py"
    ]
    place = (own or frames)[-1]
    message = (
        f"{what} failed on this file: {type(error).__name__}: {syntax.first_line(str(error))} "
        f"at {os.path.basename(place.filename)}:{place.lineno}; the other rules ran, please report this"
    )
    return Diagnostic("TL002", "rule-crashed", Severity.ERROR, message, path, 1, 1, 1, 1, 0, 0)
