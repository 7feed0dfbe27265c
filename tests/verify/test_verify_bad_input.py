"""Programs that misbehave: tier 2 and tier 3 end with the right reason, in bounded time, with nothing lost or left."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torchlint.verify.differential import differential  # noqa: E402
from torchlint.verify.shadow import Limits  # noqa: E402
from torchlint.verify.userrun import verify_run  # noqa: E402
from torchlint.verify.verdict import Behaviour, BehaviourVerdict  # noqa: E402

PROGRAM = """\
import torch
from torch import nn

torch.manual_seed(1)
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def update(x):
    loss = torch.log(torch.softmax(model(x), dim=1)).neg().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def main():
    torch.manual_seed(0)
    for step in range(4):
        update(torch.randn(6, 4))


if __name__ == "__main__":
    main()
"""
FIX = ("torch.log(torch.softmax(model(x), dim=1))", "torch.log_softmax(model(x), dim=1)")
START, BODY = "    torch.manual_seed(0)\n", "    optimizer.zero_grad()\n"
FORKED = (
    "    import subprocess, sys\n"
    "    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'], start_new_session=True)\n"
)
WORKERS = """\
    from torch.utils.data import DataLoader
    for batch in DataLoader(torch.randn(12, 4), batch_size=6, num_workers=2{more}):
        update(batch)
"""

PROVEN, UNABLE = Behaviour.TOLERANCE, Behaviour.NOT_VERIFIABLE
# name → (what the program does, its verdict in tier 2 and in tier 3, a word of the reason)
BAD = {
    "crashes": ((START, START + "    raise KeyError('gone')\n"), UNABLE, UNABLE, "gone"),
    "crashes in the edited function": ((BODY, "    raise KeyError('gone')\n"), UNABLE, UNABLE, "crash in the original"),
    "never ends": ((START, START + "    while True: pass\n"), UNABLE, UNABLE, "timeout"),
    "never ends in the edited function": ((BODY, "    while True: pass\n"), UNABLE, UNABLE, "timeout"),
    "calls sys.exit": ((START, START + "    import sys; sys.exit(0)\n"), UNABLE, UNABLE, "never"),
    "calls sys.exit later": (("        update(", "        if step == 2: raise SystemExit(3)\n        update("),
                             PROVEN, PROVEN, ""),
    "reads stdin": ((START, START + "    input()\n"), UNABLE, UNABLE, "EOFError"),
    "starts workers": ((START, START + WORKERS.format(more="")), PROVEN, PROVEN, ""),
    "spawns workers": ((START, START + WORKERS.format(more=", multiprocessing_context='spawn'")), PROVEN, PROVEN, ""),
    "is nondeterministic": ((BODY, BODY + "    import os; loss = loss * (1 + os.urandom(1)[0])\n"),
                            UNABLE, UNABLE, "nondeterministic"),
    "runs out of memory": ((BODY, "    torch.empty(2**46)\n"), UNABLE, UNABLE, "memory"),
    "needs a GPU": ((BODY, "    model.cuda()\n"), UNABLE, UNABLE, "CUDA"),
    "changes directory": ((START, START + "    import os; os.chdir('/')\n"), PROVEN, PROVEN, ""),
    "deletes files": ((START, START + "    import os; os.remove('precious.bin')\n"), PROVEN, PROVEN, ""),
    "overwrites itself": ((START, START + "    open(__file__, 'w').write('')\n"), PROVEN, PROVEN, ""),
    "leaves a process behind": ((START, START + FORKED), PROVEN, PROVEN, ""),
    "never runs the edited line": (("        update(", "        len("), UNABLE, UNABLE, "never"),
    "tells the time": ((BODY, BODY + "    import time; print(time.time(), time.perf_counter())\n"), PROVEN, PROVEN, ""),
}  # fmt: skip


def tree(path: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(path.rglob("*")) if p.is_file()}


def left_in(folder: Path) -> list[str]:
    """What still runs in the folder after a moment: a process that was killed takes a while to be gone."""
    end = time.monotonic() + 10
    while (found := _running_in(folder)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def _running_in(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if Path(os.readlink(process / "cwd")).is_relative_to(folder):
                found.append((process / "cmdline").read_text())
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "precious.bin").write_bytes(b"precious")
    return tmp_path


def judge(tier: int, project: Path, program: str, timeout: float) -> tuple[BehaviourVerdict, str, str]:
    """The verdict, how the run ended, and what kept it from changing files."""
    path = project / "train.py"
    path.write_text(program)
    files = {str(path): (program, program.replace(*FIX))}
    command = [sys.executable, "train.py"]
    if tier == 3:
        result = differential(files, command, steps=3, timeout=timeout, cwd=str(project))
        return result.verdict, "", result.sandbox
    run = verify_run(files, command, limits=Limits(2, 30, 0.1), timeout=timeout, cwd=str(project), shown=False)
    (found,) = run.functions
    return found.verdict, run.ended, run.sandbox


# Those where tier 3 does something else than tier 2; it takes three runs of the program.
WHOLE = (
    "crashes", "never ends", "calls sys.exit", "calls sys.exit later", "reads stdin", "starts workers",
    "is nondeterministic", "deletes files", "leaves a process behind", "never runs the edited line", "tells the time",
)  # fmt: skip


@pytest.mark.parametrize(("name", "tier"), [*((name, 2) for name in BAD), *((name, 3) for name in WHOLE)])
def test_bad_programs(project: Path, name: str, tier: int) -> None:
    edit, *kinds, word = BAD[name]
    assert edit[0] in PROGRAM
    program = PROGRAM.replace(*edit)
    (project / "train.py").write_text(program)
    before = tree(project)
    started = time.monotonic()
    verdict, ended, sandbox = judge(tier, project, program, timeout=15 if "ends" in name else 60)
    assert time.monotonic() - started < 300  # a bound, with much room for a busy machine
    if tree(project) != before and "not sandboxed" in sandbox:
        pytest.skip("no overlay on this system")
    assert tree(project) == before
    assert verdict.kind is kinds[tier - 2], f"{verdict} {ended}"
    assert word in f"{verdict} {ended}", f"{verdict} {ended}"
    assert left_in(project) == []
