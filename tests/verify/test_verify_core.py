"""The core: what is observed, how it is compared, how measurements become verdicts."""

from __future__ import annotations

import logging
import os
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from torchlint.verify import aftermath  # noqa: E402
from torchlint.verify.boundary import variants  # noqa: E402
from torchlint.verify.compare import Comparison, Level, Yardstick, compare  # noqa: E402
from torchlint.verify.judge import (  # noqa: E402
    Run,
    judge_behaviour,
    judge_memory,
    judge_property,
    judge_speed,
    unkept_claim,
)
from torchlint.verify.lines import edited_lines, evidence_lines, traced  # noqa: E402
from torchlint.verify.measure import Runnable, footprint, time_pairs  # noqa: E402
from torchlint.verify.observe import Observation, nudge, observe, to_double  # noqa: E402
from torchlint.verify.remap import remapped  # noqa: E402
from torchlint.verify.stats import Ratio, paired_ratio  # noqa: E402
from torchlint.verify.surroundings import global_flags, seed_all  # noqa: E402
from torchlint.verify.trial import Program, Trial  # noqa: E402
from torchlint.verify.verdict import (  # noqa: E402
    Behaviour,
    CostVerdict,
    Difference,
    MemoryVerdict,
    Speed,
    Trend,
)


def seen(function: Callable[..., Any], **inputs: Any) -> dict[str, Any]:
    return observe(function, inputs).leaves


# -- observe ------------------------------------------------------------------------------------------------------


def test_flags_are_recorded_and_put_back() -> None:
    before = global_flags()
    leaves = seen(lambda: torch.set_grad_enabled(False) and None)
    assert leaves["flag grad mode"] == "False"
    assert global_flags() == before


def test_sharing_memory_with_an_argument_is_recorded() -> None:
    x = torch.zeros(4)
    assert seen(lambda x: x[1:], x=x)["return@shares memory with"] == "arg['x']"
    assert seen(lambda x: x + 1, x=x)["return@shares memory with"] == "nothing"
    assert seen(lambda a: torch.from_numpy(a), a=x.numpy())["return@shares memory with"] == "arg['a']"


def test_everything_reachable_is_walked() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(3, 2)).sum().backward()
    optimizer.step()
    leaves = seen(lambda model, optimizer, box: None, model=model, optimizer=optimizer, box={"n": [torch.ones(1)]})
    for path in (
        "arg['model'].1.running_mean",
        "arg['model'].0.weight.grad",
        "arg['optimizer'].group0.lr",
        "arg['optimizer'].group0.state0.exp_avg",
        "arg['box']['n'][0]",
        "random state of python",
    ):
        assert path in leaves


def test_exceptions_and_exits_are_results() -> None:
    assert seen(lambda: [][0])["exception"] == "IndexError"
    assert seen(exit)["exception"] == "SystemExit"


def test_nudge_moves_by_one_ulp_and_leaves_whole_numbers() -> None:
    x = torch.tensor([0.1, 1.0, 0.0, -3.7])
    y = x.clone()
    nudge({"x": y}, 0)
    assert y[1:3].tolist() == [1.0, 0.0]
    assert all(0 < abs(float(d)) < 1e-6 for d in (x - y)[[0, 3]])
    model = nn.Linear(2, 2)
    to_double({"m": model})
    assert model.weight.dtype == torch.float64


# -- compare ------------------------------------------------------------------------------------------------------


def level(before: Callable[..., Any], after: Callable[..., Any], make: Callable[[], dict[str, Any]]) -> Comparison:
    def run(f: Callable[..., Any], prepare: Callable[[dict[str, Any]], Any] | None = None) -> Any:
        seed_all(0)
        inputs = make()
        if prepare:
            prepare(inputs)
        return observe(f, inputs)

    yardstick = Yardstick(tuple(run(before, lambda i, k=k: nudge(i, k)) for k in range(3)), run(before, to_double))
    return compare(run(before), run(after), yardstick)


def rows() -> dict[str, Any]:
    return {"x": torch.randn(50, 30)}


def test_levels() -> None:
    assert level(lambda x: x * 2, lambda x: x + x, rows).level is Level.BITWISE
    assert level(lambda x: sum(x.unbind()), lambda x: x.sum(0), rows).level is Level.ENVELOPE
    better = level(lambda x: torch.log(1 + x.abs() * 1e-4), lambda x: torch.log1p(x.abs() * 1e-4), rows)
    assert better.level is Level.FP64
    wrong = level(lambda x: x.sum(0), lambda x: x.sum(0) * 1.00001, rows)
    assert wrong.level is Level.DIFFERENT
    assert wrong.differences[0].where == "return"


@pytest.mark.parametrize(("ulps", "same"), [(0, True), (4, True), (7, False)])
def test_a_number_that_no_nudge_moves_may_still_be_rounded_otherwise(ulps: int, same: bool) -> None:
    def loss(steps: int) -> Observation:
        return Observation({"return": 0.75 + steps * torch.finfo(torch.float32).eps / 2})

    result = compare(loss(0), loss(ulps), Yardstick((loss(0), loss(0), loss(0))))
    assert (result.level is not Level.DIFFERENT) == same


def test_the_first_difference_is_what_a_caller_meets_first() -> None:
    def after(x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        print("done")
        return (x * 2).double()

    kinds = [d.kind for d in level(lambda x: x * 2, after, rows).differences]
    assert kinds[0] == "dtype"
    assert kinds.index("value") < kinds.index("stdout")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [("loss 0.50001", "loss 0.50002", True), ("loss 0.5", "loss 0.7", False), ("5 items", "6 items", False)],
)
def test_printed_numbers(a: str, b: str, same: bool) -> None:
    result = level(lambda x: print(a), lambda x: print(b), rows)
    assert (result.level is not Level.DIFFERENT) is same


# -- judge --------------------------------------------------------------------------------------------------------

EQUAL = Comparison()
CLOSE = Comparison(Level.ENVELOPE)
OTHER = Comparison(Level.DIFFERENT, [Difference("return", "value", "1", "2")])
OVERFLOW = Comparison(Level.DIFFERENT, [Difference("return", "overflow", "inf", "2")])


@pytest.mark.parametrize(
    ("arguments", "kind", "proven"),
    [
        ({"runs": []}, Behaviour.NOT_VERIFIABLE, False),
        ({"runs": [Run("a", EQUAL)]}, Behaviour.BITWISE, True),
        ({"runs": [Run("a", EQUAL), Run("b", CLOSE)]}, Behaviour.TOLERANCE, True),
        ({"runs": [Run("a", EQUAL), Run("b", OTHER)]}, Behaviour.DIFFERENT, False),
        ({"runs": [Run("a", EQUAL)], "executed": False}, Behaviour.NOT_VERIFIABLE, False),
        ({"runs": [Run("a", EQUAL)], "self_check": OTHER}, Behaviour.NOT_VERIFIABLE, False),
        ({"runs": [Run("a", EQUAL, "boom")]}, Behaviour.NOT_VERIFIABLE, False),
        ({"runs": [Run("a", EQUAL)], "unable": "timeout"}, Behaviour.NOT_VERIFIABLE, False),
        ({"runs": [Run("a", EQUAL)], "variants": [Run("n=0", OTHER)]}, Behaviour.EXCEPT, False),
        ({"runs": [Run("a", EQUAL)], "variants": [Run("n=0", OTHER, "boom")]}, Behaviour.EXCEPT, True),
        (
            {"runs": [Run("a", EQUAL)], "variants": [Run("NaN", OTHER, "mine", deliberate=True)]},
            Behaviour.EXCEPT,
            False,
        ),
        ({"runs": [Run("a", EQUAL)], "variants": [Run("×1e4", OVERFLOW)]}, Behaviour.EXCEPT, True),
        ({"runs": [Run("a", EQUAL)], "variants": [Run("inf", OVERFLOW, finite=False)]}, Behaviour.EXCEPT, False),
    ],
)
def test_behaviour(arguments: dict[str, Any], kind: Behaviour, proven: bool) -> None:
    verdict = judge_behaviour(**arguments)
    assert (verdict.kind, verdict.proven) == (kind, proven)


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (["broken"], [None], Behaviour.INTENDED),
        ([None], [None], Behaviour.NOT_VERIFIABLE),
        (["broken"], ["broken"], Behaviour.DIFFERENT),
        ([], [], Behaviour.NOT_VERIFIABLE),
    ],
)
def test_intended_changes(before: list[str | None], after: list[str | None], kind: Behaviour) -> None:
    assert judge_property(before, after, executed=True).kind is kind


QUIET = Ratio(1.0, 0.99, 1.01, 15)


@pytest.mark.parametrize(
    ("ratio", "control", "kind"),
    [
        (Ratio(1.3, 1.2, 1.4, 15), QUIET, Speed.FASTER),
        (Ratio(0.7, 0.6, 0.8, 15), QUIET, Speed.SLOWER),
        (Ratio(1.0, 0.98, 1.02, 15), QUIET, Speed.SAME),
        (Ratio(1.1, 1.0, 1.2, 15), QUIET, Speed.INCONCLUSIVE),
        (Ratio(1.3, 1.2, 1.4, 15), Ratio(1.2, 1.1, 1.3, 15), Speed.INCONCLUSIVE),
        (Ratio(9.0, 8.0, 9.9, 15), Ratio(1.2, 1.1, 1.3, 15), Speed.FASTER),
        (None, None, Speed.INCONCLUSIVE),
    ],
)
def test_speed(ratio: Ratio | None, control: Ratio | None, kind: Speed) -> None:
    assert judge_speed(ratio, control).kind is kind


def test_memory_and_claims() -> None:
    assert judge_memory((100, 50), (0, 0)).kind is Trend.SAVES
    assert judge_memory((100, 200), (0, 0)).kind is Trend.COSTS
    assert judge_memory((100, 101), (50, 0)).kind is Trend.SAVES
    none = MemoryVerdict(Trend.SAME, (1, 1), (1, 1))
    assert unkept_claim("time", CostVerdict(Speed.SAME), none, {}) is not None
    assert unkept_claim("time", CostVerdict(Speed.FASTER), none, {}) is None
    assert unkept_claim("gpu", CostVerdict(Speed.SAME), none, {"syncs": (5, 1)}) is None
    assert unkept_claim("gpu", CostVerdict(Speed.SAME), none, {"syncs": (5, 5)}) is not None


def test_paired_ratio() -> None:
    ratio = paired_ratio([2.0, 2.1, 1.9, 2.2] * 5, [1.0] * 20)
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.claims
    with pytest.raises(ValueError, match="no pairs"):
        paired_ratio([], [])


# -- measure, lines, boundary, remap ----------------------------------------------------------------------------


def test_footprint_and_time() -> None:
    x = torch.randn(64, 64, requires_grad=True)

    def loop(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.sigmoid(row) for row in x])

    slow, fast = (Runnable(f, lambda: {"x": x}, False) for f in (loop, lambda x: torch.sigmoid(x)))
    a, b = footprint(slow), footprint(fast)
    assert a.ops > 64 > b.ops
    assert a.peak > b.peak >= 64 * 64 * 4
    assert b.saved == 64 * 64 * 4
    timing = time_pairs(slow, fast, slow)
    assert timing is not None
    assert judge_speed(timing.ratio, QUIET).kind is Speed.FASTER
    assert time_pairs(slow, fast, slow, budget=0) is None


def test_edited_lines_count_when_their_statement_runs() -> None:
    before = textwrap.dedent("""
        import torch
        def f(x):
            if x:
                return g(
                    1,
                )
            return 0
        def g(a):
            return a
    """)
    after = before.replace("1,", "2,").replace("def g", "@staticmethod\ndef g")
    old, new = edited_lines(before, after)
    assert [sorted(s) for s in evidence_lines(before, old)] == [[5, 6, 7]]
    assert len(evidence_lines(after, new)) == 2  # the statement and the decorated body
    space: dict[str, Any] = {}
    exec(compile(before, "<before m>", "exec"), space)
    with traced("<before m>") as lines:
        space["f"](0)
    assert not evidence_lines(before, old)[0] & lines


def test_variants_apply_only_where_there_is_something_to_change() -> None:
    def make(n: int) -> dict[str, Any]:
        if n == 0:
            raise ValueError
        return {"x": torch.randn(n, 3), "model": nn.Linear(3, 1)}

    made = {name: make_one() for name, make_one in variants(make, 5)}
    assert made["n=0"] is None
    assert made["n=1"]["x"].shape == (1, 3)  # type: ignore[index]
    assert made["NaN"]["x"].isnan().sum() == 1  # type: ignore[index]
    assert not any(p.isnan().any() for p in made["NaN"]["model"].parameters())  # type: ignore[index]
    assert not made["not contiguous"]["x"].is_contiguous()  # type: ignore[index]


def test_cuda_code_runs_on_the_cpu_and_is_counted() -> None:
    def loop(on: str) -> float:
        model = nn.Linear(4, 2).to(on)
        total = 0.0
        for _ in range(3):
            x = torch.randn(5, 4).to(on, non_blocking=True)
            total += model(x).sum().item()
        assert x.is_cuda
        assert x.device.type == "cuda"
        return total

    with remapped() as mode:
        assert torch.cuda.is_available()
        loop("cuda")
        with pytest.raises(RuntimeError, match="same device"):
            nn.Linear(4, 2).cuda()(torch.randn(5, 4))
        with pytest.raises(TypeError, match="numpy"):
            torch.zeros(3, device="cuda").numpy()
    assert mode.counters["syncs"] == 3
    assert mode.counters["host→device copies"] == 3 + 2 + 2
    assert mode.counters["blocking copies"] == 4


def test_what_a_call_leaves_behind_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log lines, threads, files, the environment, defaults, switches, and what was written and put back."""
    monkeypatch.setattr(aftermath, "_scratch", str(tmp_path))
    ended = threading.Event()

    def keeps(x: torch.Tensor, kept: list[torch.Tensor] = []) -> torch.Tensor:  # noqa: B006 (the point)
        kept.append(x)
        return x * 2

    def leaves(x: torch.Tensor) -> torch.Tensor:
        logging.getLogger("train").warning("loss %.1f", 2.5)
        threading.Thread(target=ended.wait, daemon=True).start()
        (tmp_path / "epoch12.pt").write_bytes(b"weights")
        os.environ["TORCHLINT_TEST"] = "1"
        torch.set_printoptions(precision=2)
        x.mul_(2)
        x.div_(2)
        return x * 2

    try:
        found = {d.where: d for d in level(lambda x: x * 2, leaves, rows).differences}
    finally:
        ended.set()
    assert found["log"].kind == "log"
    assert found["threads left running"].after == "1"
    assert found["files written"].after == "epoch#.pt"
    assert found["environment"].after.startswith("TORCHLINT_TEST ")
    assert "TORCHLINT_TEST" not in os.environ
    assert "flag print options" in found
    assert "arg['x']@written to" in found
    own = observe(keeps, rows(), function=keeps).leaves
    assert own["defaults[0].len"] == 1


def test_what_is_handed_out_is_seen() -> None:
    """The type of a container, values that are drawn later, memory that two results share, what a function keeps."""

    def where(before: Callable[..., Any], after: Callable[..., Any]) -> str:
        return level(before, after, rows).differences[0].where

    def subtract(m: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda y: y - m

    assert where(lambda x: [x + 1], lambda x: (x + 1,)) == "return.type"
    assert where(lambda x: (r.sum() for r in x), lambda x: (r.mean() for r in x)) == "return.items[0]"
    assert where(
        lambda x: [torch.zeros(3) for _ in range(2)], lambda x: list(torch.zeros(1, 3).expand(2, 3).unbind())
    ).startswith("return[1]@is the memory of")
    assert where(lambda x: subtract(x.mean(0)), lambda x: subtract(x.sum(0))) == "return.m"


CHECKED = """\
def f(x):
    if not x.isfinite().all():
        raise FloatingPointError("diverged")
    return x[:, :3]
"""


def module_inputs(seed: int, device: str, size: int) -> dict[str, Any]:
    return {"model": nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.5), nn.Linear(4, 2)), "x": torch.randn(size, 8),
            "i": torch.arange(size), "parts": [1, 2]}  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "label"),
    [
        ("model(x)", "model.forward(x)", "hooks"),
        ("F.dropout(x, 0.5, model.training)", "F.dropout(x, 0.5)", "eval mode"),
        ("model(x)", "(model[0].train(), model(x))[1]", "partly frozen"),
        ("x[i]", "x.index_select(0, i)", "negative integers"),
        ("max(parts, default=0)", "max(parts)", "no items"),
        ("x.round()", "(x + 0.5).floor() + 0.0 * x", "halves"),
        ("parts.append(3) or len(parts)", "parts.append(3) or min(len(parts), 3)", "called before"),
    ],
)
def test_each_variant_shows_what_ordinary_inputs_hide(before: str, after: str, label: str) -> None:
    torch.set_num_threads(1)
    head = "import torch\nimport torch.nn.functional as F\n\n\ndef f(model, x, i, parts):\n    return "
    programs = [Program(head + text + "\n", "f", name="m", path="m.py", side="s") for text in (before, after)]
    trial = Trial(*programs, module_inputs)
    runs = {run.label: run for run in trial.boundary_runs(7, 0)}
    assert runs[label].comparison.level is Level.DIFFERENT
    verdict = judge_behaviour([trial.run("n=7", trial.maker(0, 7), 0)], list(runs.values()))
    assert verdict.kind in (Behaviour.EXCEPT, Behaviour.DIFFERENT)
    assert not verdict.proven


def test_a_check_of_the_code_itself_is_no_excuse() -> None:
    """An input on which torch raises may do anything after the fix; one that the code itself refuses may not."""
    wrong = CHECKED.replace("    if not", "    if 0 and not")
    programs = [Program(text, "f", name="m", path="m.py", side=side) for text, side in ((CHECKED, "a"), (wrong, "b"))]
    runs = list(Trial(*programs, lambda seed, device, size: {"x": torch.randn(size, 8)}).boundary_runs(7, 0))
    assert {run.label for run in runs if run.deliberate} == {"NaN", "inf"}
    assert judge_behaviour([Run("a", EQUAL)], runs).plausible == ("NaN", "inf")
