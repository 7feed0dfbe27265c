"""A command starts Python in its own way: by a shell script, by torchrun, as a module, several times."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torchlint.verify import launching  # noqa: E402
from torchlint.verify.differential import differential  # noqa: E402
from torchlint.verify.launching import UNWATCHED, prepared, surroundings  # noqa: E402
from torchlint.verify.shadow import Limits  # noqa: E402
from torchlint.verify.userrun import UserRun, verify_run  # noqa: E402
from torchlint.verify.verdict import Behaviour  # noqa: E402

TRAIN = """\
import sys
import torch
from torch import nn
import torch.nn.functional as F

def loss_of(model, x, y):
    return F.nll_loss(torch.log(torch.softmax(model(x), dim=1)), y)

def main():
    torch.manual_seed(0)
    model = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(4):
        loss = loss_of(model, torch.randn(9, 8), torch.randint(0, 3, (9,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

if __name__ == "__main__":
    assert sys.argv[1:] == ["--lr", "a b"], sys.argv
    main()
"""
STABLE = ("torch.log(torch.softmax(model(x), dim=1))", "torch.log_softmax(model(x), dim=1)")
WRONG = ("dim=1", "dim=0")
SCRIPT = """\
#!/bin/sh
set -e
export PYTHONPATH=.
python -c "import torch"
{line}
python3 -c "print('done')"
"""
RUN = 'python train.py --lr "a b"'
TORCHRUN = 'torchrun --nproc_per_node=1 train.py --lr "a b"'


def project(tmp_path: Path, line: str) -> Path:
    path = tmp_path / "train.py"
    path.write_text(TRAIN)
    (tmp_path / "train.sh").write_text(SCRIPT.format(line=line))
    return path


@pytest.fixture(autouse=True)
def _own_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))


def by_calls(tmp_path: Path, line: str, edit: tuple[str, str]) -> UserRun:
    path = project(tmp_path, line)
    files = {str(path): (TRAIN, TRAIN.replace(*edit))}
    return verify_run(files, ["sh", "train.sh"], limits=Limits(2, 30, 0.1), timeout=200, cwd=str(tmp_path))


@pytest.mark.parametrize("line", [RUN, 'python -m train --lr "a b"', TORCHRUN], ids=["script", "module", "torchrun"])
def test_the_calls_of_a_script_that_others_start_are_compared(tmp_path: Path, line: str) -> None:
    result = by_calls(tmp_path, line, STABLE)
    (verdict,) = result.functions
    assert (result.ended, verdict.verdict.equivalent, verdict.verified) == ("", True, 2), verdict


def test_and_what_is_wrong_is_refused(tmp_path: Path) -> None:
    (verdict,) = by_calls(tmp_path, RUN, WRONG).functions
    assert verdict.verdict.kind is Behaviour.DIFFERENT


def test_a_whole_run_is_that_of_the_process_that_trains(tmp_path: Path) -> None:
    path = project(tmp_path, RUN)
    result = differential(
        {str(path): (TRAIN, TRAIN.replace(*STABLE))}, ["sh", "train.sh"], steps=3, timeout=200, cwd=str(tmp_path)
    )
    assert (result.verdict.equivalent, result.steps) == (True, 4), result


def test_what_cannot_be_watched_is_said(tmp_path: Path) -> None:
    line = f'"{sys.executable}" -I train.py --lr "a b"'
    project(tmp_path, line)
    path, alone = tmp_path / "train.py", ["sh", "-c", line]
    files = {str(path): (TRAIN, TRAIN.replace(*STABLE))}
    (verdict,) = verify_run(files, alone, limits=Limits(2, 30, 0.1), timeout=200, cwd=str(tmp_path)).functions
    assert UNWATCHED in str(verdict.verdict)
    result = differential({str(path): (TRAIN, TRAIN.replace(*STABLE))}, alone, timeout=200, cwd=str(tmp_path))
    assert UNWATCHED in str(result.verdict)


RANKS = """\
import os
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP

def train():
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DDP(nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total = 0
    for step in range(5):
        optimizer.zero_grad()
        loss = model(torch.randn(6, 4) + dist.get_rank()).pow(2).mean()
        loss.backward()
        optimizer.step()
        total += loss
        print("rank", dist.get_rank(), "step", step, flush=True)
    del model, loss  # with a model left, gloo's threads abort the process at its end once in ten runs
    dist.barrier()
    dist.destroy_process_group()
    return total.detach()

if __name__ == "__main__":
    train()
"""


def test_two_ranks_are_compared_by_what_the_first_of_them_does(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(RANKS)
    command = ["torchrun", "--nproc_per_node=2", "--master_port=0", "--rdzv-backend=c10d", "train.py"]
    for new, equal in (("total += loss.detach()", True), ("lr=0.2", False)):
        old = "lr=0.1" if "lr" in new else "total += loss"
        result = differential({str(path): (RANKS, RANKS.replace(old, new))}, command, timeout=200, cwd=str(tmp_path))
        assert (result.verdict.equivalent, result.steps) == (equal, 5), result


@pytest.mark.parametrize(
    ("command", "at"),
    [
        (["python", "a.py", "--x"], 1),
        (["/usr/bin/python3.11", "-u", "-W", "ignore", "a.py"], 4),
        (["python", "-m", "a"], None),
        (["pytest", "tests"], None),
    ],
)
def test_scripts_start_through_the_launcher(command: list[str], at: int | None) -> None:
    new = prepared(command)
    if at is None:
        assert new == command
    else:
        assert new[at].endswith("launch.py")
        assert new[:at] + new[at + 1 :] == command


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["/venv/bin/python", "/venv/bin/torchrun", "train.py"], True),
        (["python", "-m", "torch.distributed.run", "train.py"], True),
        (["python", "-u", "-m", "torch.distributed.launch", "train.py"], True),
        (["python", "train.py"], False),
        (["python", "-m", "train"], False),
        (["python", "-m"], False),
    ],
)
def test_launchers_train_nothing_themselves(
    monkeypatch: pytest.MonkeyPatch, command: list[str], expected: bool
) -> None:
    monkeypatch.setattr(sys, "orig_argv", command)
    assert launching.only_launches() is expected


def test_a_shell_that_sets_its_own_path_still_wakes_us(tmp_path: Path) -> None:
    """Words with blanks and quotes arrive as they are, and `sys.executable` stays that of the environment."""
    environment = surroundings({**os.environ, "PYTHONPATH": "/elsewhere"}, str(tmp_path / "it's bin"))
    line = """PYTHONPATH=/mine python -c 'import sys; print(sys.path, sys.executable, sys.argv)' "a b" "it's" """
    out = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, check=True).stdout
    assert str(launching.INJECT) in out
    assert "'/mine'" in out
    assert "/elsewhere" not in out
    assert os.path.join(sys.prefix, "bin") in out
    assert """['-c', 'a b', "it's"]""" in out
