"""The CUDA paths of the verifier without a GPU: cases through the remapping, the rest by a fake of torch.cuda."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

torch = pytest.importorskip("torch")

from torchlint.catalogue import load  # noqa: E402
from torchlint.config import Config  # noqa: E402
from torchlint.fix import fix_text  # noqa: E402
from torchlint.verify.case import Case  # noqa: E402
from torchlint.verify.cases import load_cases, resolve_device, verify_rule  # noqa: E402
from torchlint.verify.measure import Runnable, time_pairs  # noqa: E402
from torchlint.verify.observe import observe  # noqa: E402
from torchlint.verify.ranks import launch  # noqa: E402
from torchlint.verify.remap import remapped  # noqa: E402
from torchlint.verify.sandbox import Outcome  # noqa: E402
from torchlint.verify.shadow import CUDA_IS_UP, Limits  # noqa: E402
from torchlint.verify.surroundings import global_flags, rng_state  # noqa: E402
from torchlint.verify.table import machine_facts  # noqa: E402
from torchlint.verify.userrun import verify_run  # noqa: E402
from torchlint.verify.verdict import Behaviour, Speed  # noqa: E402

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.mark.parametrize("code", ["TL304", "TL401", "TL402", "TL404", "TL405"])
def test_cases_run_on_cuda(code: str) -> None:
    """Inputs are made on the device, time is measured there, and the counters are those of a device."""
    rule = next(rule for rule in load() if rule.code == code)
    folder = FIXTURES / rule.name.replace("-", "_")
    before = (folder / "bad.py").read_text(encoding="utf-8")
    after = fix_text(str(folder / "bad.py"), before, [rule], Config(), unsafe=True).text
    with remapped():
        verdicts = verify_rule(before, after, load_cases(folder), device="cuda", sizes=(5,), seeds=(0,))
    assert verdicts
    for verdict in verdicts:
        assert verdict.holds, verdict.failures
        assert verdict.evidence.device == "cuda"
        # Only without a device is a claim left unmeasured.
        assert all(cost.kind is not Speed.GPU_ONLY for cost in verdict.speed.values())
    assert any(verdict.speed for verdict in verdicts)
    assert any("blocking copies" in verdict.counters or "syncs" in verdict.counters for verdict in verdicts)


def test_the_device_is_waited_for_around_each_block_and_the_wall_clock_used() -> None:
    x = torch.randn(8, 8)  # too small for threads, which a busy machine would stall
    work = Runnable(lambda x: x @ x, lambda: {"x": x}, False)
    with (
        mock.patch.object(torch.cuda, "is_available", return_value=True),
        mock.patch.object(torch.cuda, "synchronize") as wait,
    ):
        timing = time_pairs(work, work, work, device="cuda")
    assert timing is not None
    assert timing.clock == "wall"
    assert wait.call_count >= 2 * 3 * 15


def test_random_state_of_every_device_is_compared() -> None:
    states = [torch.zeros(16, dtype=torch.uint8), torch.ones(16, dtype=torch.uint8)]

    def draws(device: int) -> None:
        states[device] = states[device] + 1

    with mock.patch.multiple(
        torch.cuda, is_initialized=lambda: True, device_count=lambda: 2, get_rng_state=lambda i: states[i]
    ):
        before = rng_state()
        leaves = observe(draws, {"device": 1}).leaves
    assert leaves["random state of cuda:0"] == before["cuda:0"]
    assert leaves["random state of cuda:1"] != before["cuda:1"]


def test_auto_is_cuda_where_there_is_one() -> None:
    with mock.patch.object(torch.cuda, "is_available", return_value=True):
        assert resolve_device("auto") == "cuda"
    with mock.patch.object(torch.cuda, "is_available", return_value=False):
        assert resolve_device("auto") == "cpu"


def test_evidence_names_the_device() -> None:
    with (
        mock.patch.object(torch.cuda, "get_device_name", return_value="a device"),
        mock.patch.object(torch.version, "cuda", "13.0"),
    ):
        facts = machine_facts("cuda")
    assert (facts["gpu"], facts["cuda"]) == ("a device", "13.0")
    assert facts["driver"]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_address_space_is_not_limited_on_a_device(device: str) -> None:
    """CUDA maps far more than it uses."""
    given: dict[str, object] = {}

    def forked(*_: object, **settings: object) -> Outcome:
        given.update(settings)
        return Outcome(reason="not run")

    case = Case(name="c", entry="f", make_inputs=lambda seed, device, size: {}, wrong_fix=str)
    with mock.patch("torchlint.verify.cases.run_forked", forked):
        verify_rule("", "", [case], device=device)
    assert (given["memory"] is None) is (device == "cuda")


def set_cudnn(name: str) -> Callable[[bool], None]:
    return lambda on: setattr(torch.backends.cudnn, name, on)


@pytest.mark.parametrize(
    ("flag", "write"),
    [
        ("autocast cuda", lambda on: torch.set_autocast_enabled("cuda", on)),
        ("flash attention", torch.backends.cuda.enable_flash_sdp),
        ("memory-efficient attention", torch.backends.cuda.enable_mem_efficient_sdp),
        ("plain attention", torch.backends.cuda.enable_math_sdp),
        ("cudnn", set_cudnn("enabled")),
        ("cudnn benchmark", set_cudnn("benchmark")),
        ("cudnn deterministic", set_cudnn("deterministic")),
        ("cudnn TF32", set_cudnn("allow_tf32")),
    ],
)
def test_switches_of_a_device_are_compared_and_put_back(flag: str, write: Callable[[bool], None]) -> None:
    before = global_flags()
    leaves = observe(lambda: write(not before[flag]), {}).leaves
    assert leaves[f"flag {flag}"] == repr(not before[flag])
    assert global_flags() == before


def test_ranks_keep_off_the_device(tmp_path: Path) -> None:
    """Two processes meet on the CPU, also where there is a GPU."""
    script = "import torch\nassert not torch.cuda.is_available() and not torch.cuda.device_count()\n"
    with mock.patch.multiple(torch.cuda, is_available=lambda: True, device_count=lambda: 1):
        (trace,) = launch(script, tmp_path / "runs", 0)
    assert not trace.error


def moves(x: torch.Tensor) -> dict[str, int]:
    """Every way to a device and back that the remapping tells apart."""
    made = [x.to(0), x.cuda(), x.to("cuda:0", non_blocking=True), torch.zeros(2, device=0)]
    assert all(t.is_cuda and t.device.type == "cuda" for t in made)
    like = x.to(made[0])
    assert like.is_cuda
    assert not like.cpu().is_cuda
    assert not torch.zeros_like(like, device="cpu").is_cuda
    like.copy_(x)
    parameter = torch.nn.Linear(2, 2).cuda().weight
    assert parameter.is_cuda
    if like.sum() > 0:
        torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return {}


def test_each_way_to_a_device_is_counted() -> None:
    with remapped() as mode:
        moves(torch.ones(2))
    counted = mode.counters
    assert counted["host→device copies"] == 3 + 1 + 1 + 2  # the three, the one like another, copy_, weight and bias
    assert counted["device→host copies"] == 1
    assert counted["blocking copies"] == counted["host→device copies"] - 1 + 1  # all but the non-blocking one; cpu()
    assert counted["syncs"] == 1 + 1 + 1  # cpu(), the condition, synchronize()
    assert counted["caches emptied"] == 1


PROGRAM = """\
import torch
from torch import nn

torch.cuda.is_initialized = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.get_rng_state = lambda i: torch.zeros(4, dtype=torch.uint8)
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def train(batches):
    total = 0
    for x in batches:
        optimizer.zero_grad()
        loss = torch.log(torch.softmax(model(x), dim=1)).neg().mean()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total


torch.manual_seed(0)
print(train([torch.randn(6, 4) for _ in range(4)]))
"""


def test_a_process_that_has_started_cuda_is_not_forked_but_compared_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(PROGRAM)
    after = PROGRAM.replace("torch.log(torch.softmax(", "(torch.log_softmax(")
    command = [sys.executable, "train.py"]
    run = verify_run({str(path): (PROGRAM, after)}, command, limits=Limits(2, 30, 0.1), timeout=100, cwd=str(tmp_path))
    (found,) = run.functions
    assert (found.verdict.kind, found.verdict.detail) == (Behaviour.NOT_VERIFIABLE, CUDA_IS_UP)
    from torchlint.verify.proving import main

    path.write_text(PROGRAM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        words = ["train.py", "--apply", "--unsafe", "--select=TL508", "--verify=run", "--no-cache", "--", *command]
        assert main(words) == 0
    assert "log_softmax" in path.read_text()
