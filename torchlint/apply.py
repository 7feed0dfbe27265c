"""Rules applied to a tree: first to one without whitespace, and where that shows anything, to libcst's own.

Each rule looks at what it subscribed to; one that raises becomes a TL002 finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import libcst as cst

from torchlint import syntax
from torchlint.config import Config
from torchlint.diagnostic import Diagnostic
from torchlint.prefilter import Plan
from torchlint.rule import Context, Finding, Rule, severity_of
from torchlint.semantics import Semantics
from torchlint.skeleton import NeedsText
from torchlint.source import File
from torchlint.trouble import crash

_Call = tuple[Rule, Callable[[Any, Context], Iterable[Finding]], Context]


def findings(
    path: str, text: str, given: File | Plan | None, rules: Sequence[Rule], settings: Config
) -> list[Diagnostic] | syntax.Trouble:
    """What the rules find in a file, or why libcst cannot read it.

    `given` is the file's tree, a plan of what of it is needed, or None for syntax that only libcst reads.
    """
    try:
        if isinstance(given, Plan):
            loud = _loud(given, rules, settings)
            if not loud:
                return []
            if len(loud) < len(rules):
                rules, given = loud, given.narrowed(loud)
        file = given.file() if isinstance(given, Plan) else given or File.parse(path, text)
        return list(dict.fromkeys(_apply(file, rules, settings)))
    except cst.ParserSyntaxError as error:
        # Valid for this Python, not for the parser that rules need.
        return syntax.Trouble(f"cannot be parsed: {syntax.first_line(error.message)}", error.raw_line, error.raw_column)
    except RecursionError:
        return syntax.TOO_DEEP


def everything(file: File, rules: Sequence[Rule], settings: Config) -> list[Diagnostic]:
    """The findings in a parsed file when no trigger is believed: what `check_text` must find with less work."""
    return sorted(dict.fromkeys(_apply(file, rules, settings)), key=lambda d: d.sort_key)


def _loud(plan: Plan, rules: Sequence[Rule], settings: Config) -> Sequence[Rule]:
    """The rules that may have something to say, judged on a tree without whitespace."""
    loud: set[str] = set()
    try:
        found = {d.code for d in _apply(plan.skeleton(), rules, settings, loud)}
    except (NeedsText, RecursionError):
        return rules
    if not found <= loud:
        return rules
    return [rule for rule in rules if rule.code in loud]


def _apply(file: File, rules: Sequence[Rule], settings: Config, loud: set[str] | None = None) -> Iterable[Diagnostic]:
    """With `loud` the file is a skeleton: rules that find something or need more than it has are noted and let be."""
    sem = Semantics(file, settings.grad_disabling, settings.loader_names)
    try:
        yield from _judged(sem, rules, settings, loud)
    finally:
        sem.forget()


def _judged(sem: Semantics, rules: Sequence[Rule], settings: Config, loud: set[str] | None) -> Iterable[Diagnostic]:
    file = sem.file
    by_node: list[tuple[type, _Call]] = []
    by_object: dict[type, list[_Call]] = {}
    crashed: dict[str, Diagnostic] = {}
    for rule in rules:
        if not rule.looks:
            continue
        own = {**settings.rules.get(rule.code, {}), **settings.rules.get(rule.name, {})}
        options = {**rule.options, **own}
        context = Context(file, sem, options, settings.target_device, settings.torch_version)
        for kind, check in rule.checks:
            if issubclass(kind, cst.CSTNode):
                by_node.append((kind, (rule, check, context)))
            else:
                by_object.setdefault(kind, []).append((rule, check, context))

    def call(entry: _Call, subject: Any) -> list[Diagnostic]:
        rule, check, context = entry
        if rule.code in crashed or (loud is not None and rule.code in loud):
            return []
        results: list[Diagnostic] = []
        try:
            for finding in check(subject, context):
                if loud is not None:
                    loud.add(rule.code)
                    break
                results.append(_diagnostic(file, rule, finding, settings))
        except RecursionError:
            raise
        except NeedsText:
            assert loud is not None
            loud.add(rule.code)
        except Exception as error:
            crashed[rule.code] = crash(file.path, f"{rule.name} ({rule.code})", rule, error)
        return results

    table: dict[type, list[_Call]] = {}
    if by_node:
        for node in file.nodes:
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
        except NeedsText:
            assert loud is not None
            loud.update(rule.code for rule, _, _ in entries)
            continue
        except Exception as error:
            yield crash(file.path, f"torchlint's recognition of {kind.__name__}", None, error)
            continue
        for subject in subjects:
            for entry in entries:
                yield from call(entry, subject)
    yield from crashed.values()


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
