"""Who is which rank in a script, and the two distributed rules whose fix is only suggested, run for real."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import libcst as cst
import pytest

from torchlint.catalogue import load
from torchlint.config import Config
from torchlint.diagnostic import splice
from torchlint.semantics import Semantics, rank_guards
from torchlint.semantics.processes import DDP, Processes
from torchlint.semantics.rank_guards import one_process, only_some
from torchlint.source import File

SCRIPT = """
import os
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

def is_first():
    return dist.get_rank() == 0

def log(model, text):
    print(text)

def work(index, count, settings):
    join(index, count)
    model = DistributedDataParallel(torch.nn.Linear(1, 1))
    step(model)
    if index == 0:
        log(model, "one")
    if is_first():
        log(model, "two")
    if not index:
        log(model, "three")
    if settings:
        log(model, "four")
    if index > 0:
        return
    log(model, "five")

def join(number, size):
    dist.init_process_group("gloo", rank=number, world_size=size)

def step(net):
    net(torch.ones(1))

if __name__ == "__main__":
    mp.spawn(work, args=(2, None), nprocs=2)
"""


@pytest.fixture
def processes() -> Processes:
    return Processes.of(Semantics(File.parse("train.py", SCRIPT)))


def _call(processes: Processes, text: str) -> tuple[cst.Call, object]:
    return next((c, f) for c, f, _ in processes.calls if processes.file.code(c) == text)


def test_ranks_and_sizes_follow_the_calls(processes: Processes) -> None:
    assert {f"{f.name}.{name}" for f, name in processes.ranks} == {"work.index", "join.number"}
    assert {f"{f.name}.{name}" for f, name in processes.worlds} == {"work.count", "join.size"}


def test_a_replica_is_known_where_it_is_handed_to(processes: Processes) -> None:
    [(wrap, _)] = processes.named(DDP)
    call, function = _call(processes, "net(torch.ones(1))")
    replica = processes.replica(call.func, function)
    assert replica is not None
    assert replica.call is wrap
    assert not replica.conditional


@pytest.mark.parametrize(
    ("text", "one", "some"),
    [("one", True, True), ("two", True, True), ("three", True, True), ("four", False, False), ("five", True, True)],
)
def test_tests_of_the_rank(processes: Processes, text: str, one: bool, some: bool) -> None:
    call, function = _call(processes, f'log(model, "{text}")')
    assert (
        any(one_process(processes, test, taken, function) for test, taken in rank_guards.tests_around(processes, call))
        is one
    )
    assert only_some(processes, call, function) is some


# -- the suggestions ------------------------------------------------------------------------------------------------

SAMPLE = """
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel as DDP


def main(rank, world_size):
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    ddp_model = DDP(torch.nn.Linear(10, 5))
    batch_size = 6 * world_size
    inputs = torch.randn(batch_size, 10)
    ddp_model(inputs).sum().backward()
    taken = torch.tensor(len(inputs))
    dist.all_reduce(taken)
    if rank == 0:
        print("samples per step:", taken.item())
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(main, args=(2,), nprocs=2)
"""


def _suggested(text: str, code: str) -> str:
    """The text with the suggestion of one rule taken up."""
    from torchlint.check import check_text

    [finding] = [d for d in check_text("train.py", text, load(), Config()) if d.code == code]
    assert finding.fix is not None
    return splice(text, finding.fix.edits)


def _run(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "train.py"
    script.write_text(text)
    hidden = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
    environment = {k: v for k, v in os.environ.items() if k not in hidden} | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120, cwd=folder
    )


def test_spawned_processes_meet_only_with_an_address(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    alone = _run(SAMPLE, tmp_path)
    assert alone.returncode
    assert re.search("MASTER_ADDR expected, but not set", alone.stderr)
    assert "samples per step" in _run(_on_a_free_port(_suggested(SAMPLE, "TL811")), tmp_path).stdout


def test_a_global_batch_is_taken_by_each_process(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    meeting = _on_a_free_port(_suggested(SAMPLE, "TL811"))
    assert "samples per step: 24" in _run(meeting, tmp_path).stdout
    assert "samples per step: 12" in _run(_suggested(meeting, "TL810"), tmp_path).stdout


def _on_a_free_port(text: str) -> str:
    import socket

    with socket.socket() as found:
        found.bind(("localhost", 0))
        return text.replace("29500", str(found.getsockname()[1]))


ALONE = """
import os
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
loss = torch.ones(1)
if dist.get_rank() == 0:
    dist.all_reduce(loss)
    print(loss)
print("done")
"""


def test_a_collective_of_one_process_never_ends(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from torchlint.check import check_text
    from torchlint.verify.ranks import RanksFailed, launch

    assert [d.row for d in check_text("train.py", ALONE, load(), Config()) if d.code == "TL808"] == [9]
    with pytest.raises(RanksFailed, match="rank 0"):
        launch(ALONE, tmp_path / "before", 2, seconds=10)
    launch(
        ALONE.replace("    dist.all_reduce", "    pass\ndist.all_reduce").replace("    print", "print"),
        tmp_path / "after",
        2,
    )
