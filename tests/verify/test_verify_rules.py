"""No rule may call a fix safe without a case that proves it."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("torch")

from torchlint.catalogue import load
from torchlint.diagnostic import Applicability
from torchlint.rule import Rule
from torchlint.verify.cases import load_cases
from torchlint.verify.command import fixtures_folder, verify

# Rules without checks are the engine's own (unused suppressions): they edit comments, and are tested there.
SAFE = [rule for rule in load() if Applicability.SAFE in rule.fixes and rule.checks]


# What raised before its fix has no results that the fixed code could equal: that it runs is the property.
NEVER_RAN = {"missing-super-init"}


@pytest.mark.parametrize("rule", SAFE, ids=lambda rule: rule.name)
def test_every_safe_fix_has_a_case(rule: Rule) -> None:
    cases = load_cases(fixtures_folder() / rule.name.replace("-", "_"))
    expected = [case for case in cases if (case.property is None) != (rule.name in NEVER_RAN)]
    assert expected, "a safe fix needs a case of equivalence"


@pytest.mark.skipif("TORCHLINT_VERIFY_RULES" not in os.environ, reason="minutes; set TORCHLINT_VERIFY_RULES=1")
@pytest.mark.parametrize("rule", [rule for rule in load() if rule.fixes], ids=lambda rule: rule.name)
def test_every_case_is_proven(rule: Rule) -> None:
    for verdict in verify(rule, "cpu"):
        assert verdict.behaviour.proven, f"{verdict.name}: {verdict.behaviour}"
        assert verdict.wrong_fix is not None, verdict.failures
        assert not verdict.wrong_fix.proven, f"{verdict.name}: the wrong fix passes"
