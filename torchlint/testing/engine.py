"""The engine as the fixture tests drive it: a case's files lie in a folder and go the whole way of a real run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from torchlint import config, run
from torchlint.catalogue import load
from torchlint.check import check_text
from torchlint.config import Config
from torchlint.diagnostic import Applicability, Diagnostic
from torchlint.encoding import decode
from torchlint.plugins import VARIABLE
from torchlint.rule import Rule
from torchlint.source import File
from torchlint.testing.case import Case
from torchlint.toml import parse_toml

SAFE = frozenset({Applicability.SAFE})
ALL_FIXES = frozenset({Applicability.SAFE, Applicability.UNSAFE})

Contents = tuple[tuple[str, bytes], ...]


def rules() -> dict[str, Rule]:
    """All rules, by name."""
    return _rules(os.environ.get(VARIABLE, ""))


@cache
def _rules(folders: str) -> dict[str, Rule]:
    return {rule.name: rule for rule in load()}


def _settings(case: Case, root: str) -> Config:
    path = case.settings
    if path is None:
        return Config(root=root, jobs=1)
    own = config.from_table(parse_toml(str(path), path.read_bytes()), str(path), root)
    return replace(own, jobs=1)


@cache
def _run(case: Case, files: Contents, rule: Rule, unsafe: bool | None) -> tuple[tuple[Diagnostic, ...], Contents]:
    """The findings, and the files after one `fix --apply` (`--unsafe` if so; None fixes nothing)."""
    # An unused suppression is one that no rule of the run has a use for, so TL003 needs the others beside it.
    chosen = [r for r in rules().values() if r.default] if rule.code == "TL003" else [rule]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        for name, data in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        paths = [str(root / name) for name, _ in files]
        settings = _settings(case, str(root))
        selection = run.selection_of(list(rules().values()), chosen, settings)
        result = run.check(paths, settings, selection, lambda: paths)
        assert not result.problems, result.problems
        found = tuple(replace(d, path=Path(d.path).relative_to(root).as_posix()) for d in result.diagnostics)
        current = dict(files)
        if unsafe is not None:
            fixed, problems = run.fix(result, settings, selection, unsafe)
            assert not problems, problems
            for one in fixed:
                assert not one.notes, one.notes
                name = Path(one.path).relative_to(root).as_posix()
                current[name] = decode(current[name]).encode(one.text)
        return found, tuple(current.items())


def check(case: Case, files: Mapping[str, bytes], rule: Rule) -> list[Diagnostic]:
    """The findings of one rule in the case's files, checked together."""
    return list(_run(case, tuple(files.items()), rule, None)[0])


def fix(case: Case, files: Mapping[str, bytes], rule: Rule, wanted: frozenset[Applicability]) -> dict[str, bytes]:
    """The files after `torchlint fix --apply`, with `--unsafe` where unsafe fixes are wanted."""
    return dict(_run(case, tuple(files.items()), rule, Applicability.UNSAFE in wanted)[1])


def check_alone(case: Case, name: str, rule: Rule, *, prefilter: bool) -> list[Diagnostic]:
    """The findings in one file by itself, with or without the prefilter; open questions stay open."""
    text = decode(case.files[name]).text
    tree = None if prefilter else File.parse(name, text)
    return check_text(name, text, [rule], _settings(case, "."), tree=tree)
