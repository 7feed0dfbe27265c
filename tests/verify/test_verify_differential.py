"""Tier 3: whole runs of the user's command, with the divergence located to step and tensor."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torchlint.verify.differential import Differential, Runs, differential  # noqa: E402
from torchlint.verify.userrun import ABORT_AT_EXIT, execute  # noqa: E402
from torchlint.verify.verdict import Behaviour  # noqa: E402

SCRIPT = """\
import torch
from torch import nn
import torch.nn.functional as F

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(6):
    x, y = torch.randn(9, 8), torch.randint(0, 3, (9,))
    loss = F.nll_loss(torch.log(torch.softmax(model(x), dim=1)), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())
    if step > 100:
        print("never")
torch.save(model.state_dict(), "model.pt")
"""
LATE_IN_EVAL = """\
import torch
from torch import nn
import torch.nn.functional as F

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    for step in range(10):
        loss = F.cross_entropy(model(torch.randn(9, 8)), torch.randint(0, 3, (9,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    print(F.cross_entropy(model(torch.randn(9, 8)), torch.randint(0, 3, (9,))).item())
"""
CLEAR = "    optimizer.zero_grad()\n"
STUCK = SCRIPT.replace("for step", "model.eval()\nfor step")
SCHEDULE = "scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)\nfor step"
EARLY = SCRIPT.replace("for step", SCHEDULE).replace("    x, y", "    scheduler.step()\n    x, y")
LATE = SCRIPT.replace("for step", SCHEDULE).replace("    print(step", "    scheduler.step()\n    print(step")
PRINTS = SCRIPT.replace("    if step", "    print(loss)\n    if step")


def run(tmp_path: Path, before: str, after: str, timeout: float = 100) -> Differential:
    path = tmp_path / "train.py"
    path.write_text(before)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    command = [sys.executable, "train.py"]
    result = differential({str(path): (before, after)}, command, steps=4, timeout=timeout, cwd=str(tmp_path))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    if "change no file" in result.sandbox:
        assert [p.name for p in tmp_path.iterdir()] == ["train.py"]
    return result


@pytest.mark.parametrize(
    ("before", "after", "kind", "text"),
    [
        (SCRIPT, SCRIPT.replace("torch.log(torch.softmax(", "(torch.log_softmax("), Behaviour.TOLERANCE, "envelope"),
        (SCRIPT, SCRIPT.replace("    print(step, loss", "    loss = loss.detach()\n    print(step, loss"),
         Behaviour.BITWISE, ""),
        (SCRIPT, SCRIPT.replace(CLEAR, ""), Behaviour.DIFFERENT, "step 2: gradient 0.0"),
        (SCRIPT.replace(CLEAR, ""), SCRIPT, Behaviour.INTENDED, "5 of 6 steps"),
        (STUCK, STUCK.replace("for step", "model.train()\nfor step"), Behaviour.INTENDED, "6 of 6 training steps run"),
        (LATE_IN_EVAL, LATE_IN_EVAL.replace("    for step", "    model.train()\n    for step"), Behaviour.INTENDED,
         "20 of 30 training steps run"),
        (EARLY, LATE, Behaviour.INTENDED, "1 scheduler steps come before"),
        (LATE, EARLY, Behaviour.DIFFERENT, "step 1"),
        (PRINTS, PRINTS.replace("print(loss)", "print(loss.detach())"), Behaviour.BITWISE, ""),
        (SCRIPT, SCRIPT.replace("softmax(model(x), dim=1))", "softmax(model(x), dim=1) + 1e-6)"),
         Behaviour.DIFFERENT, "step 1: loss 1"),
        (SCRIPT, SCRIPT.replace("never", "no"), Behaviour.NOT_VERIFIABLE, "edited line never executed"),
        ("import os\n" + SCRIPT.replace("randn(9, 8)", "randn(9, 8) * os.urandom(1)[0]"),
         "import os\n" + SCRIPT.replace("randn(9, 8)", "randn(9, 8) * (os.urandom(1)[0] + 0)"),
         Behaviour.NOT_VERIFIABLE, "nondeterministic original"),
        ("raise KeyError('x')\n" + SCRIPT, "raise KeyError('x')\n" + SCRIPT.replace(CLEAR, ""),
         Behaviour.NOT_VERIFIABLE, ""),
    ],
)  # fmt: skip
def test_verdicts(tmp_path: Path, before: str, after: str, kind: Behaviour, text: str) -> None:
    result = run(tmp_path, before, after)
    assert result.verdict.kind is kind, str(result.verdict)
    assert text in result.verdict.detail
    if kind in (Behaviour.BITWISE, Behaviour.TOLERANCE, Behaviour.INTENDED):
        assert result.steps == (30 if before is LATE_IN_EVAL else 6), "a short program is run to its end"


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [
        (SCRIPT.replace(CLEAR, ""), SCRIPT, 3),  # far apart and a property restored: no question of rounding
        (SCRIPT, SCRIPT.replace(CLEAR, ""), 6),
        (SCRIPT, SCRIPT.replace("torch.log(torch.softmax(", "(torch.log_softmax("), 6),
    ],
)
def test_nudged_runs_are_made_where_rounding_may_explain_it(
    tmp_path: Path, before: str, after: str, count: int
) -> None:
    path = tmp_path / "train.py"
    path.write_text(before)
    runs = Runs([sys.executable, "train.py"], cwd=str(tmp_path))
    runs.judge({str(path): (before, after)})
    assert runs.count == count


def test_a_long_program_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchlint.verify.differential.SECONDS", 0.0)
    result = run(
        tmp_path, SCRIPT, SCRIPT.replace("    print(step, loss", "    loss = loss.detach()\n    print(step, loss")
    )
    assert (result.verdict.kind, result.steps) == (Behaviour.BITWISE, 4)


def test_files_that_the_command_never_enters(tmp_path: Path) -> None:
    files = {"train.py": "import used\n" + SCRIPT, "used.py": "def f():\n    pass\n", "other.py": "import torch\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    texts = {str(tmp_path / name): text for name, text in files.items()}
    assert Runs([sys.executable, "train.py"], cwd=str(tmp_path)).idle(texts) == {str(tmp_path / "other.py")}
    # What the original does is run once for the edits of all files; the first run above is one of them.
    runs = Runs([sys.executable, "train.py"], steps=3, cwd=str(tmp_path))
    runs.texts = texts
    runs.idle(texts)
    for name, (old, new) in {"used.py": ("pass", "return"), "train.py": ("lr=0.1)", "lr=0.1, foreach=False)")}.items():
        before = files[name]
        judged = runs.judge({str(tmp_path / name): (before, before.replace(old, new))})
        assert judged.verdict.kind is (Behaviour.NOT_VERIFIABLE if name == "used.py" else Behaviour.BITWISE)
    assert runs.count == 1 + 1 + 2  # a traced and a plain one of the original, one of each edit
    # Where the run fails nothing is known.
    assert not Runs([sys.executable, "-c", "import used; raise KeyError"], cwd=str(tmp_path)).idle(texts)


def test_ranks_that_torch_aborts_at_their_end_are_launched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train.py"
    aborts = "import sys, torch\nprint('terminate called without an active exception', file=sys.stderr)\nsys.exit(9)\n"
    path.write_text(aborts)
    changes = {str(path): (aborts, aborts.replace("9", "8"))}
    assert Runs([sys.executable, "train.py"], cwd=str(tmp_path)).judge(changes).verdict.detail.endswith(ABORT_AT_EXIT)
    # The same of several ranks, whose second launch goes well.
    after = SCRIPT.replace("lr=0.1)", "lr=0.1, foreach=False)")
    path.write_text(SCRIPT)
    launches = []

    def unlucky(*args: Any, **kwargs: Any) -> tuple[str, bool]:
        ended, enclosed = execute(*args, **kwargs)
        launches.append(ended)
        return (f"exit code 1: {ABORT_AT_EXIT}" if len(launches) == 1 else ended), enclosed

    monkeypatch.setattr("torchlint.verify.differential.execute", unlucky)
    for world, again in (("1", 0), ("2", 1)):
        monkeypatch.setenv("WORLD_SIZE", world)
        launches.clear()
        runs = Runs([sys.executable, "train.py"], cwd=str(tmp_path))
        kind = runs.judge({str(path): (SCRIPT, after)}).verdict.kind
        assert (kind is Behaviour.BITWISE) == bool(again)
        assert len(launches) == runs.count
        assert not any(launches)
