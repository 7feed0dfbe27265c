"""No rule may call a fix safe without a case that proves it."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

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


def _evidence() -> dict[str, list[dict[str, Any]]]:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "verifier" / "rules_cpu.json"
    return {entry["rule"]: entry["cases"] for entry in json.loads(path.read_text("utf-8"))["rules"]}


EVIDENCE = _evidence()
# A suggestion is never applied, so there is nothing to run.
WRITTEN = [rule for rule in load() if rule.checks and {Applicability.SAFE, Applicability.UNSAFE} & set(rule.fixes)]
PROVEN = {
    "equivalent-bitwise", "equivalent-within-tolerance", "intended-change-confirmed",
    "equivalent-except",  # for inputs on which the original raises
}  # fmt: skip


@pytest.mark.parametrize("rule", WRITTEN, ids=lambda rule: rule.name)
def test_the_committed_evidence_holds(rule: Rule) -> None:
    """What `torchlint verify --json` found is in the repository, for the cases of today, and shows what they claim."""
    cases = {case.name: case for case in load_cases(fixtures_folder() / rule.name.replace("-", "_"))}
    found = {case["name"]: case for case in EVIDENCE[f"{rule.code} {rule.name}"]}
    assert found.keys() >= cases.keys(), "run `torchlint verify --json benchmarks/verifier/rules_cpu.json` again"
    assert all(case["holds"] for case in found.values())
    for name, case in cases.items():
        if case.cost == "time":
            assert found[name]["summary"]["cost"].startswith("faster")
        if case.cost == "memory":
            assert found[name]["memory"]["kind"] == "saves"
        if case.cost == "gpu":
            counters = found[name]["counters"]
            assert any(after < before for before, after in counters.values()), counters
    if rule in SAFE:
        kinds = {case["behaviour"]["kind"] for case in found.values()}
        assert kinds <= PROVEN


@pytest.mark.parametrize("rule", WRITTEN, ids=lambda rule: rule.name)
def test_what_a_case_runs_imports_nothing_that_tests_do_without(rule: Rule) -> None:
    """A fixture that imports torchvision at its head cannot be run; a case may put a stand-in for it into place."""
    folder = fixtures_folder() / rule.name.replace("-", "_")
    cases = (folder / "run.py").read_text("utf-8")
    imported = set()
    for node in ast.parse((folder / "bad.py").read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    imported = {name for name in imported if f'"{name}' not in cases}
    missing = [name for name in sorted(imported) if importlib.util.find_spec(name) is None]
    assert not missing, f"move what needs {missing} into another bad_*.py"


@pytest.mark.skipif("TORCHLINT_VERIFY_RULES" not in os.environ, reason="minutes; set TORCHLINT_VERIFY_RULES=1")
@pytest.mark.parametrize("rule", WRITTEN, ids=lambda rule: rule.name)
def test_every_case_is_proven(rule: Rule) -> None:
    for verdict in verify(rule, "cpu"):
        assert verdict.behaviour.proven, f"{verdict.name}: {verdict.behaviour}"
        assert verdict.wrong_fix is not None, verdict.failures
        assert not verdict.wrong_fix.proven, f"{verdict.name}: the wrong fix passes"
