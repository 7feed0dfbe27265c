"""Tests for rules of your own, as torchlint's rules are tested: fixtures with markers, and what every fix is held to.

    import pytest
    from torchlint.testing import Suite

    @pytest.mark.parametrize("check", Suite("tools/lint").checks(), ids=str)
    def test_rules(check):
        check()

`torchlint.testing.case` says what a fixture folder holds. With TORCHLINT_BLESS=1 in the environment the generated
files (`bad.out`, `bad.fixed.py`) are written anew, to be read before they are committed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torchlint.plugins import Asked
from torchlint.testing import checks as _checks
from torchlint.testing.case import Case, all_cases, cases, rule_folders

__all__ = ["Case", "Check", "Suite"]


class Check:
    """One thing that is asked of one fixture. Calling it raises AssertionError if it does not hold."""

    def __init__(self, name: str, folders: list[str], run: Callable[[], None]) -> None:
        self.name = name
        self._folders = folders
        self._run = run

    def __call__(self) -> None:
        with Asked(self._folders):
            self._run()

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Check {self.name}>"


class Suite:
    """The rules of a folder with their fixtures.

    `rules` is the folder that holds the rules, or None for those of an installed plugin; `fixtures` is `rules/fixtures`
    unless told. Raises ValueError for folders that are not there.
    """

    def __init__(self, rules: str | Path | None, fixtures: str | Path | None = None) -> None:
        if fixtures is None:
            if rules is None:
                raise ValueError("Suite(None) needs the folder of the fixtures")
            fixtures = Path(rules) / "fixtures"
        self._folders = [str(Path(rules).resolve())] if rules is not None else []
        self.fixtures = Path(fixtures).resolve()
        for folder in (*self._folders, str(self.fixtures)):
            if not Path(folder).is_dir():
                raise ValueError(f"{folder}: no such folder")

    def checks(self) -> list[Check]:
        """All that is asked of every fixture, in a fixed order."""
        bless = os.environ.get("TORCHLINT_BLESS", "") not in ("", "0")
        found: list[Check] = []
        for case in all_cases(self.fixtures):
            both: list[tuple[str, Callable[[], None]]] = [
                ("findings", partial(_checks.findings_are_where_the_markers_say, case)),
                ("prefilter", partial(_checks.prefilter_changes_nothing, case)),
            ]
            bad: list[tuple[str, Callable[[], None]]] = [
                ("output", partial(_checks.output_is_as_blessed, case, bless)),
                ("fixed", partial(_checks.fixed_text_is_as_blessed, case, bless)),
                ("compiles", partial(_checks.fixed_text_compiles, case)),
                ("converges", partial(_checks.a_second_fix_changes_nothing, case)),
                ("comments", partial(_checks.fixes_keep_every_comment, case)),
                ("ignore", partial(_checks.ignore_comments_silence_each_finding, case)),
                ("crlf", partial(_checks.newlines_and_byte_order_mark_change_nothing, case, _checks.crlf)),
                ("bom", partial(_checks.newlines_and_byte_order_mark_change_nothing, case, _checks.bom)),
            ]
            found += [self._check(case.id, name, run) for name, run in (both + bad if case.bad else both)]
        for folder in rule_folders(self.fixtures):
            if cases(folder):
                run = partial(_checks.declared_fixes_are_the_observed_ones, folder)
                found.append(self._check(folder.name, "declared-fixes", run))
            if (folder / "run.py").is_file():
                found.append(self._check(folder.name, "run", partial(_run_cases_hold, folder)))
        return found

    def _check(self, where: str, name: str, run: Callable[[], None]) -> Check:
        return Check(f"{where}:{name}", self._folders, run)


def _run_cases_hold(folder: Path) -> None:
    """The verifier's cases of a rule. Needs torch; without it nothing is claimed."""
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        return
    from torchlint.testing import engine
    from torchlint.verify.command import verify

    rule = engine.rules()[folder.name.replace("_", "-")]
    failures = [f for verdict in verify(rule, "cpu", folder=folder) for f in verdict.failures]
    assert not failures, f"{folder.name}/run.py: {failures[0]}"
