"""What a change costs: a call that raises saves nothing; growth per step; the cost that travels as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torchlint.verify.case import Case  # noqa: E402
from torchlint.verify.cases import verify_rule  # noqa: E402
from torchlint.verify.stats import slope  # noqa: E402
from torchlint.verify.verdict import (  # noqa: E402
    Behaviour,
    Cost,
    CostVerdict,
    MemoryVerdict,
    Speed,
    Trend,
    as_json,
    cost_from_json,
)

BEFORE = """\
import torch

def train(state):
    for _ in range(50):
        state["n"] = state["n"] + torch.ones(3).sum().item()
"""
AFTER = BEFORE.replace("    for", "    state['group'] = state['world']\n    for")


def test_a_call_that_raises_saves_nothing() -> None:
    """The property makes what the fixed call needs (a process group, say); without it that call raises."""

    def grouped(entry: Callable[..., Any], inputs: dict[str, Any]) -> str | None:
        inputs["state"]["world"] = 1
        entry(**inputs)
        return None if "group" in inputs["state"] else "no group was made"

    case = Case(
        name="raises", entry="train", make_inputs=lambda seed, device, size: {"state": {"n": 0.0}},
        wrong_fix=lambda source: source.replace("50", "51"), property=grouped, boundary=False,
    )  # fmt: skip
    (verdict,) = verify_rule(BEFORE, AFTER, [case])
    assert verdict.behaviour.kind is Behaviour.INTENDED, verdict
    assert verdict.memory.kind is Trend.NOT_MEASURED
    assert verdict.counters == {}
    assert "raises KeyError: 'world'" in verdict.notes[0]


@pytest.mark.parametrize(("values", "expected"), [([1, 2, 3, 4], 1.0), ([5, 5, 5, 5, 5], 0.0), ([9, 1], 0.0)])
def test_growth_per_step(values: list[float], expected: float) -> None:
    assert slope(values) == pytest.approx(expected)


def test_a_cost_survives_json() -> None:
    cost = Cost(
        CostVerdict(Speed.FASTER, 2.0, 1.5, 2.5), MemoryVerdict(Trend.SAVES, (100, 50), (10, 0)), {"ops": (5, 3)}
    )  # fmt: skip
    assert cost_from_json(json.loads(json.dumps(as_json(cost)))) == cost
    assert str(cost) == "faster ×2 [1.5, 2.5]; memory saves peak 100 B→50 B, saved 10 B→0 B; ops 5→3"
    assert cost_from_json(None) is None
