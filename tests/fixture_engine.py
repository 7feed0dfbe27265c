"""The engine as the fixture tests drive it: the files of one case in, findings and fixed texts out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from fixture_case import Case

from torchlint import config, suppress
from torchlint.check import check_text
from torchlint.config import Config
from torchlint.diagnostic import Applicability, Diagnostic, Severity
from torchlint.encoding import decode
from torchlint.rule import Rule, load
from torchlint.source import splice

SAFE = frozenset({Applicability.SAFE})
ALL_FIXES = frozenset({Applicability.SAFE, Applicability.UNSAFE})
_ROUNDS = 10


@cache
def rules() -> dict[str, Rule]:
    """All rules, by name."""
    return {rule.name: rule for rule in load()}


@cache
def _settings(case: Case) -> Config:
    path = case.settings
    root = str(case.path.parent if case.path.is_file() else case.path)
    if path is None:
        return Config(root=root)
    return replace(config.from_table(config.parse_toml(str(path), path.read_bytes()), str(path), root))


@cache
def _check(case: Case, files: tuple[tuple[str, bytes], ...], rule: Rule) -> tuple[Diagnostic, ...]:
    found: list[Diagnostic] = []
    for name, data in files:
        text = decode(data).text
        per_file = check_text(name, text, [rule], _settings(case))
        unused = Severity.WARNING if rule.code == "TL003" else None
        found += suppress.apply(name, per_file, suppress.scan(text), {rule.code: rule.name}, unused)
    return tuple(found)


def check(case: Case, files: Mapping[str, bytes], rule: Rule) -> list[Diagnostic]:
    """The findings of one rule in the case's files, checked together."""
    return list(_check(case, tuple(files.items()), rule))


def fix(case: Case, files: Mapping[str, bytes], rule: Rule, wanted: frozenset[Applicability]) -> dict[str, bytes]:
    """The files after every fix of the wanted classes, repeated until nothing changes."""
    current = dict(files)
    for _ in range(_ROUNDS):
        before = dict(current)
        for name, data in before.items():
            source = decode(data)
            accepted: list[tuple[int, int, str]] = []
            edits = set()
            for d in check(case, current, rule):
                if d.path != name or d.fix is None or d.fix.applicability not in wanted:
                    continue
                spans = [(e.start, e.end, e.text) for e in d.fix.edits]
                if all(s == a or s[1] < a[0] or a[1] < s[0] for s in spans for a in accepted):
                    accepted += spans
                    edits.update(d.fix.edits)
            current[name] = source.encode(splice(source.text, edits))
        if current == before:
            return current
    raise AssertionError(f"fixes of {rule.code} do not come to rest in {_ROUNDS} rounds")
