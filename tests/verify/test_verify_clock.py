"""The clock of compared runs: the project's code sees it tick per reading, libraries see the real time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """\
import sys
sys.path.insert(0, {root!r})
from torchlint.verify import clock
clock.install({folder!r})
import reader
real = reader.read()
clock.freeze()
frozen = [reader.read() for _ in range(3)]
clock.freeze()
again = [reader.read() for _ in range(3)]
assert real > 1_700_000_100, real
assert frozen == again, (frozen, again)
assert frozen[0] < frozen[1] < frozen[2] < 1_700_000_001, frozen
import time, queue
began = time.monotonic()  # this file lies elsewhere: the real clock
try:
    queue.Queue().get(timeout=0.05)
except queue.Empty:
    pass
assert 0.04 < time.monotonic() - began < 30
print(time.time.__name__, time.perf_counter_ns.__name__)
"""

OURS = """\
import sys, time
sys.path.insert(0, {root!r})
from torchlint.verify import clock
clock.install({root!r})
clock.freeze()
from torchlint.verify.measure import Runnable, time_pairs
sleep = Runnable(lambda: time.sleep(0.01), dict, False)
timing = time_pairs(sleep, sleep, sleep, budget=20)
assert timing is not None and timing.before > 0.009, timing
"""


def test_only_the_project_sees_it(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "reader.py").write_text("from time import time\ndef read():\n    return time()\n")
    script = tmp_path / "main.py"
    script.write_text(SCRIPT.format(root=str(ROOT), folder=str(project)))
    environment = {"PYTHONPATH": str(project), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "time perf_counter_ns\n"


def test_times_are_real_where_the_project_is_our_own_checkout(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    script = tmp_path / "main.py"
    script.write_text(OURS.format(root=str(ROOT)))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
