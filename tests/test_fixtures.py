"""Every rule against its fixture folder; `torchlint.testing.case` says what such a folder holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import FIXTURES

from torchlint.diagnostic import Applicability
from torchlint.testing import checks, engine
from torchlint.testing.case import Case, all_cases, rule_folders

CASES = [pytest.param(case, id=case.id) for case in all_cases(FIXTURES)]
BAD = [pytest.param(case, id=case.id) for case in all_cases(FIXTURES) if case.bad]
FOLDERS = [pytest.param(folder, id=folder.name) for folder in rule_folders(FIXTURES)]


@pytest.mark.parametrize("case", CASES)
def test_findings_are_where_the_markers_say(case: Case) -> None:
    checks.findings_are_where_the_markers_say(case)


@pytest.mark.parametrize("case", CASES)
def test_markers_name_other_rules_truly(case: Case) -> None:
    checks.markers_name_other_rules_truly(case)


@pytest.mark.parametrize("case", BAD)
def test_output_is_as_blessed(case: Case, bless: bool) -> None:
    checks.output_is_as_blessed(case, bless)


@pytest.mark.parametrize("case", BAD)
def test_fixed_text_is_as_blessed(case: Case, bless: bool) -> None:
    checks.fixed_text_is_as_blessed(case, bless)


@pytest.mark.parametrize("case", BAD)
def test_fixed_text_compiles(case: Case) -> None:
    checks.fixed_text_compiles(case)


@pytest.mark.parametrize("case", BAD)
def test_a_second_fix_changes_nothing(case: Case) -> None:
    checks.a_second_fix_changes_nothing(case)


@pytest.mark.parametrize("case", BAD)
def test_fixes_keep_every_comment(case: Case) -> None:
    checks.fixes_keep_every_comment(case)


@pytest.mark.parametrize("folder", FOLDERS)
def test_declared_fixes_are_the_observed_ones(folder: Path) -> None:
    checks.declared_fixes_are_the_observed_ones(folder)


@pytest.mark.parametrize("case", BAD)
def test_ignore_comments_silence_each_finding(case: Case) -> None:
    checks.ignore_comments_silence_each_finding(case)


@pytest.mark.parametrize("variant", [checks.crlf, checks.bom])
@pytest.mark.parametrize("case", BAD)
def test_newlines_and_byte_order_mark_change_nothing(case: Case, variant: Callable[[bytes], bytes]) -> None:
    checks.newlines_and_byte_order_mark_change_nothing(case, variant)


@pytest.mark.parametrize("case", CASES)
def test_prefilter_changes_nothing(case: Case) -> None:
    checks.prefilter_changes_nothing(case)


def test_applicability_values_are_all_known() -> None:
    """The tests above speak of safe and unsafe fixes; a new class of fix must be thought about here."""
    assert engine.ALL_FIXES | {Applicability.SUGGESTION} == set(Applicability)
