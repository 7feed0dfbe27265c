"""One process against two: what the verifier says of scripts and rewrites that it really starts."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torchlint.verify.rank_agent import BATCH_NORM, Step, Trace  # noqa: E402
from torchlint.verify.ranks import RAGGED, RanksFailed, _ragged, compare, distance, launch  # noqa: E402
from torchlint.verify.sandbox import landlock_version  # noqa: E402
from torchlint.verify.verdict import Behaviour  # noqa: E402

ALONE = """
import torch
torch.manual_seed(0)
data = torch.randn({samples}, 4)
model = torch.nn.Sequential(torch.nn.Linear(4, 3), {layer}, torch.nn.Linear(3, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for batch in data.split(8):
    optimizer.zero_grad()
    model(batch).square().mean().backward()
    optimizer.step()
"""
RANKS = """
import os
import torch
import torch.distributed as dist
torch.manual_seed(0)
data = torch.randn({samples}, 4)
model = torch.nn.Sequential(torch.nn.Linear(4, 3), {layer}, torch.nn.Linear(3, 1))
rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
if "RANK" in os.environ:
    dist.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for batch in data.split(8):
    share = {share}
    optimizer.zero_grad()
    model(share).square().mean().backward()
    optimizer.step()
if "RANK" in os.environ:
    dist.barrier()
    dist.destroy_process_group()
"""
SHARE = "batch[rank::world]"


def _scripts(samples: int = 16, layer: str = "torch.nn.Tanh()", share: str = SHARE) -> tuple[str, str]:
    return ALONE.format(samples=samples, layer=layer), RANKS.format(samples=samples, layer=layer, share=share)


def test_shares_of_a_batch_are_the_batch() -> None:
    result = compare(*_scripts())
    assert result.behaviour.kind is Behaviour.TOLERANCE, str(result.behaviour)
    assert result.steps == 2
    assert result.launches == 4  # the original, alone, a group of one, a group of two


def test_batch_norm_is_found_and_named() -> None:
    result = compare(*_scripts(layer="torch.nn.BatchNorm1d(3)"))
    assert result.behaviour.kind is Behaviour.INTENDED, str(result.behaviour)
    assert [cause.name for cause in result.causes] == [BATCH_NORM]


@pytest.mark.parametrize("share", ["batch", "batch[:4]", "batch.flip(0)[:6]"])
def test_wrong_shares_are_not_excused(share: str) -> None:
    text = f"({share} if world > 1 else batch)"
    assert compare(*_scripts(share=text)).behaviour.kind is Behaviour.DIFFERENT
    # … nor by a layer that would be a cause of its own
    result = compare(*_scripts(share=text, layer="torch.nn.BatchNorm1d(3)"))
    assert result.behaviour.kind is Behaviour.DIFFERENT, str(result.behaviour)


def test_a_rewrite_that_changes_a_single_process_is_different() -> None:
    before, after = _scripts()
    assert "alone: step 0" in str(compare(before, after.replace("lr=0.1", "lr=0.2")).behaviour)


def test_a_script_without_steps_proves_nothing() -> None:
    assert compare("x = 1\n", "x = 1\n").behaviour.kind is Behaviour.NOT_VERIFIABLE


def test_an_error_in_a_rank_is_said(tmp_path: Path) -> None:
    with pytest.raises(RanksFailed, match="2 processes: rank 1 ends with ValueError: no"):
        launch('import os\nif os.environ.get("RANK") == "1":\n    raise ValueError("no")\n', tmp_path / "runs", 2)


@pytest.mark.parametrize("end", ["os.abort()", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_rank_that_is_gone_before_its_end_is_no_pass(tmp_path: Path, end: str) -> None:
    """Nothing is tried again: a launch of which a rank has left no trace has failed."""
    with pytest.raises(RanksFailed, match="rank 1 did not end in time, or crashed"):
        launch(f'import os\nif os.environ.get("RANK") == "1":\n    {end}\n', tmp_path / "runs", 2)


def test_an_original_that_fails_proves_nothing() -> None:
    _, after = _scripts()
    behaviour = compare("raise KeyError('gone')\n", after).behaviour
    assert behaviour.kind is Behaviour.NOT_VERIFIABLE
    assert "crash in the original: one process: rank 0 ends with KeyError" in behaviour.detail


def test_ranks_are_shut_in_and_meet_on_a_loopback_of_their_own(tmp_path: Path) -> None:
    result = compare(*_scripts())
    assert result.behaviour.proven
    if "no network" not in result.sandbox.partition("; not available")[0] or not landlock_version():
        pytest.skip(f"this system has no such walls: {result.sandbox}")
    outside = tmp_path / "outside"
    inside = f"open({str(outside)!r}, 'w')"
    behaviour = compare(ALONE.format(samples=16, layer="torch.nn.Tanh()"), f"{inside}\n").behaviour
    assert "PermissionError" in behaviour.detail or "Read-only" in behaviour.detail
    assert not outside.exists()
    reach = "import socket\nsocket.create_connection(('192.0.2.1', 80), 5)\n"
    assert "OSError: [Errno 101]" in compare(ALONE.format(samples=16, layer="torch.nn.Tanh()"), reach).behaviour.detail


def test_nothing_that_a_rank_starts_is_left(tmp_path: Path) -> None:
    daemon = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', '{}'], start_new_session=True)\n"
    mark = f"import time; time.sleep(300)  # {tmp_path.name}"
    launch(daemon.format(mark), tmp_path / "runs", 2)
    commands = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
    assert not [c for c in commands if mark.encode() in c]


def _steps(*samples: int) -> list[Step]:
    return [Step(n, torch.ones(2), torch.full((2,), float(i))) for i, n in enumerate(samples)]


def test_distance_says_where_parameters_part() -> None:
    one, other = _steps(4, 4, 4), _steps(4, 4, 4)
    assert distance(one, other) == (0.0, 3)
    other[2].parameters = other[2].parameters + 1
    assert distance(one, other) == (0.5, 2)
    assert distance(one, other[:1])[0] == float("inf")


@pytest.mark.parametrize(
    ("alone", "shares", "step"),
    [
        ((8, 8), ((4, 4), (4, 4)), None),
        ((8, 3), ((4, 2), (4, 2)), 1),
        ((8, 4), ((4, 2), (4, 2)), None),
    ],
)
def test_padding_of_the_last_batch(
    alone: tuple[int, ...], shares: tuple[tuple[int, ...], ...], step: int | None
) -> None:
    found = _ragged(Trace(_steps(*alone)), [Trace(_steps(*share)) for share in shares])
    assert (found.step if found else None) == step
    assert found is None or found.padding


@pytest.mark.parametrize("shares", [((8, 8), (8, 8)), ((4, 3), (4, 3)), ((4, 1), (4, 1))])
def test_no_padding(shares: tuple[tuple[int, ...], ...]) -> None:
    found = _ragged(Trace(_steps(8, 3)), [Trace(_steps(*share)) for share in shares])
    assert found is not None
    assert not found.padding


def test_a_padded_batch_is_found_and_named() -> None:
    # Three samples for two ranks: each takes two, one of them counts twice.
    share = "torch.cat([batch, batch[:len(batch) % world]])[rank::world]"
    result = compare(*_scripts(samples=11, share=share))
    assert [cause.name for cause in result.causes] == [RAGGED], str(result.behaviour)
