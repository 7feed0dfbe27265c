"""Each property tells the broken program from the fixed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from torchlint.verify import properties as P  # noqa: E402


def inputs() -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.randn(5, 4), torch.randint(0, 3, (5,))) for _ in range(7)]
    return {"model": model, "optimizer": optimizer, "batches": batches}


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Any,
    *,
    clear: str = "step",
    every: int = 1,
    scale: float | None = None,
    tail: bool = True,
) -> None:
    for i, (x, y) in enumerate(batches):
        if clear == "each":
            optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y) / (scale or every)
        loss.backward()
        if clear == "before":
            optimizer.zero_grad()
        if (i + 1) % every == 0 or (tail and i + 1 == len(batches)):
            optimizer.step()
            if clear == "step":
                optimizer.zero_grad()


def run(check: P.Property, **how: Any) -> str | None:
    return check(lambda **kwargs: train(**kwargs, **how), inputs())


@pytest.mark.parametrize(
    ("how", "broken"),
    [
        ({}, False),
        ({"every": 3}, False),
        ({"every": 3, "clear": "each"}, True),  # clearing each micro-batch defeats accumulation
        ({"clear": "never"}, True),
        ({"clear": "before"}, True),
        ({"every": 3, "scale": 1}, False),  # the ledger alone is blind to a missing /N
    ],
)
def test_ledger(how: dict[str, Any], broken: bool) -> None:
    assert (run(P.gradient_ledger, **how) is not None) is broken


def adversarial(generator: nn.Module, critic: nn.Module, *, clear: str) -> None:
    """A GAN in which each loss also reaches the other's parameters."""
    generates, judges = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (generator, critic))
    for _ in range(3):
        fake = generator(torch.randn(2, 3))
        if clear == "ahead":
            judges.zero_grad()
        critic(fake).mean().backward()
        if clear == "between":
            judges.zero_grad()
        judges.step()
        if clear in ("ahead", "between"):
            generates.zero_grad()
        (-critic(generator(torch.randn(2, 3)))).mean().backward()
        generates.step()
        if clear == "after":
            generates.zero_grad()
            judges.zero_grad()


@pytest.mark.parametrize(("clear", "broken"), [("ahead", False), ("after", False), ("never", True), ("between", True)])
def test_what_anothers_loss_left_may_be_cleared(clear: str, broken: bool) -> None:
    torch.manual_seed(0)
    parts = {"generator": nn.Sequential(nn.Linear(3, 3), nn.Tanh()), "critic": nn.Linear(3, 1)}
    assert (P.gradient_ledger(lambda **kwargs: adversarial(**kwargs, clear=clear), parts) is not None) is broken


@pytest.mark.parametrize(("scale", "broken"), [(None, False), (1, True), (2, True)])
def test_scale(scale: float | None, broken: bool) -> None:
    assert (run(P.accumulation_scaled, every=3, scale=scale) is not None) is broken


def test_a_dropped_tail_is_seen() -> None:
    assert run(P.every_batch_counts, every=3, tail=False) is not None
    assert run(P.every_batch_counts, every=3, tail=True) is None


def evaluate(model: nn.Module, batches: Any, *, no_grad: bool, mode: str, **_: Any) -> float:
    was = model.training
    if mode != "train":
        model.eval()
    with torch.set_grad_enabled(not no_grad):
        total = sum(float(model(x).sum()) for x, _ in batches)
    if mode == "restored":
        model.train(was)
    return total


def call(check: P.Property, function: Callable[..., Any], **how: Any) -> str | None:
    return check(lambda **kwargs: function(**kwargs, **how), inputs())


def test_modes() -> None:
    assert call(P.grad_mode_off, evaluate, no_grad=False, mode="eval") == "7 of 7 forwards record a graph"
    assert call(P.grad_mode_off, evaluate, no_grad=True, mode="eval") is None
    assert "training mode" in (call(P.eval_mode_in_region, evaluate, no_grad=True, mode="train") or "")
    assert "left changed" in (call(P.eval_mode_in_region, evaluate, no_grad=True, mode="eval") or "")
    assert call(P.eval_mode_in_region, evaluate, no_grad=True, mode="restored") is None


@pytest.mark.parametrize(("back", "broken"), [(False, True), (True, False)])
def test_stuck_in_eval(back: bool, broken: bool) -> None:
    def epochs(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any) -> None:
        for _ in range(2):
            train(model, optimizer, batches)
            model.eval()
            with torch.no_grad():
                model(batches[0][0])
            if back:
                model.train()

    assert (P.train_mode_restored(epochs, inputs()) is not None) is broken


def test_shards() -> None:
    data = list(range(10))
    assert P.shards_disjoint([data[::2], data[1::2]], data) is None
    assert P.shards_disjoint([[*data[:9:3], 9], data[1::3], [2, 5, 8]], data) is not None  # unequal lengths
    assert "neighbours" in (P.shards_disjoint([data, data], data) or "")
    assert "no rank" in (P.shards_disjoint([data[:4], data[4:8]], data) or "")
    assert P.ranks_equal([{"w": torch.ones(2)}, {"w": torch.ones(2)}]) is None
    assert P.ranks_equal([{"w": torch.ones(2)}, {"w": torch.zeros(2)}]) == "rank 1 differs from rank 0 in w"


@pytest.mark.parametrize(("clear", "broken"), [("step", False), ("never", True)])
def test_clipping_does_not_break_the_ledger(clear: str, broken: bool) -> None:
    """Clipping by norm scales all gradients alike; what is owed is owed up to that factor."""

    def clipped(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any) -> None:
        for x, y in batches:
            F.cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
            if clear == "step":
                optimizer.zero_grad()

    assert (P.gradient_ledger(clipped, inputs()) is not None) is broken


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({}, None),
        ({"clear": "never"}, "ledger"),
        ({"every": 3, "scale": 1}, "scale"),
        ({"every": 3, "tail": False}, "tail"),
    ],
)
def test_a_survey_finds_what_each_property_finds(how: dict[str, Any], name: str | None) -> None:
    found = P.survey(lambda **kwargs: train(**kwargs, **how), inputs())
    broken = [key for key, value in found.items() if value is not None]
    assert broken[:1] == ([name] if name else [])


def test_a_survey_sees_models_made_inside_the_call() -> None:
    def whole(stuck: bool) -> None:
        made = inputs()
        if stuck:
            made["model"].eval()
        train(**made)

    assert P.survey(lambda: whole(False), {}) == {"ledger": None, "scale": None, "tail": None, "train mode": None}
    assert P.survey(lambda: whole(True), {})["train mode"] == "7 of 7 training steps run in eval mode"
