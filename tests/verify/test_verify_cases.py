"""Tier 1 and its confinement: cases are proven or refused, and what runs cannot reach out of its box."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
jsonschema = pytest.importorskip("jsonschema")

from torchlint.verify import page, table  # noqa: E402
from torchlint.verify.case import Case  # noqa: E402
from torchlint.verify.cases import verify_rule  # noqa: E402
from torchlint.verify.sandbox import Isolation, landlock_version, run_forked  # noqa: E402
from torchlint.verify.verdict import Behaviour, CaseVerdict  # noqa: E402

BEFORE = """
import torch

def rows(x):
    out = []
    for i in range(x.shape[0]):
        out.append(torch.softmax(x[i], dim=0))
    return torch.stack(out)

def other(x):
    return x
"""
AFTER = BEFORE.replace(
    """    out = []
    for i in range(x.shape[0]):
        out.append(torch.softmax(x[i], dim=0))
    return torch.stack(out)""",
    "    return torch.softmax(x, dim=1)",
)


def inputs(seed: int, device: str, size: int) -> dict[str, Any]:
    return {"x": torch.randn(size, 6, device=device)}


def wrong(source: str) -> str:
    return source.replace("torch.stack(out)", "torch.softmax(x, dim=0)")


def case(**changes: Any) -> Case:
    settings: dict[str, Any] = {"name": "rows", "entry": "rows", "make_inputs": inputs, "wrong_fix": wrong}
    return Case(**{**settings, **changes})


def one(after: str = AFTER, before: str = BEFORE, **changes: Any) -> CaseVerdict:
    return verify_rule(before, after, [case(**changes)])[0]


def test_a_good_fix_is_proven_and_reported() -> None:
    verdict = one(cost="time")
    assert verdict.holds, verdict.failures
    assert str(verdict.behaviour) == "equivalent-except(n=0 where the original raises)"
    assert verdict.wrong_fix is not None
    assert verdict.wrong_fix.kind is Behaviour.DIFFERENT
    assert verdict.evidence.executed_lines
    assert verdict.cost.ratio is not None
    assert verdict.cost.ratio > 2
    results = {"TL999 rows": [verdict]}
    facts = table.machine_facts("cpu")
    schema = json.loads(Path(table.__file__).with_name("schema.json").read_text())
    jsonschema.validate(json.loads(json.dumps(table.document(results, facts))), schema)
    assert "1 of 1 cases hold" in table.render(results)
    html = page.render_page({"<b>": [verdict]}, facts)
    assert html.count("<svg") == 2
    assert '<h2 id="r0">&lt;b&gt;</h2>' in html


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"after": BEFORE}, "the fix changes nothing"),
        ({"entry": "other"}, "edited line never executed"),
        ({"after": AFTER.replace("dim=1", "dim=0")}, "different"),
        ({"after": AFTER.replace("softmax(x", "softmax(y")}, "NameError"),
        ({"after": AFTER + "\nraise KeyError('x')\n"}, "does not load"),
        ({"before": BEFORE.replace("out = []", "out = [][0]"), "after": AFTER}, "crash in the original"),
        ({"before": BEFORE.replace("stack(out)", "stack(out) + __import__('time').time() % 10")}, "nondeterministic"),
        ({"before": BEFORE.replace("out = []", "while True: pass"), "timeout": 2.0}, "timeout after 2 s"),
        ({"before": BEFORE.replace("out = []", "import os; os._exit(3)")}, "ended itself with code 3"),
        ({"before": BEFORE.replace("out = []", "import sys; sys.exit(3)")}, "crash in the original: SystemExit"),
        ({"before": BEFORE.replace("out = []", "import os; os.kill(os.getpid(), 11)")}, "SIGSEGV"),
        ({"before": BEFORE.replace("out = []", "input()")}, "EOFError"),
        ({"before": BEFORE.replace("out = []", "torch.empty(10**14)")}, "crash in the original"),
        ({"wrong_fix": lambda s: s}, "the wrong fix changes nothing"),
        ({"wrong_fix": lambda s: s + "\n# no change"}, "the wrong fix passes"),
    ],
)
def test_what_is_not_proven_says_why(changes: dict[str, Any], text: str) -> None:
    started = time.monotonic()
    verdict = one(**{"boundary": False, **changes})
    assert not verdict.holds
    assert text in " ".join([*verdict.failures, str(verdict.behaviour)])
    assert time.monotonic() - started < 30


def test_a_gpu_claim_is_counted_without_a_gpu() -> None:
    before = "import torch\ndef f(x, on):\n    y = torch.zeros(x.shape).to(on)\n    return x + y\n"
    after = before.replace("torch.zeros(x.shape).to(on)", "torch.zeros(x.shape, device=on)")

    def make(seed: int, device: str, size: int) -> dict[str, Any]:
        return {"x": torch.randn(size, device=device), "on": device}

    verdict = one(
        after, before, entry="f", make_inputs=make, cost="gpu", wrong_fix=lambda s: s.replace("zeros", "ones")
    )
    assert verdict.holds, verdict.failures
    assert verdict.counters["host→device copies"] == (1, 0)
    assert verdict.cost.kind.value == "gpu-only"


# -- confinement ----------------------------------------------------------------------------------------------------


def test_nothing_is_written_outside_the_scratch_directory(tmp_path: Path) -> None:
    if not landlock_version():
        pytest.skip("no Landlock on this kernel")
    (tmp_path / "mine.txt").write_text("mine")

    def work(isolation: Isolation) -> list[str]:
        def attempt(action: Any) -> str:
            try:
                action()
            except (OSError, RuntimeError, subprocess.CalledProcessError):
                return "refused"
            return "done"

        return [
            attempt(lambda: torch.save({"a": torch.ones(2)}, tmp_path / "checkpoint.pt")),
            attempt(lambda: (tmp_path / "mine.txt").write_text("theirs")),
            attempt(lambda: (tmp_path / "mine.txt").unlink()),
            attempt(lambda: subprocess.run(["touch", f"{tmp_path}/touched"], check=True) and None),
            attempt(lambda: torch.save({"a": torch.ones(2)}, "checkpoint.pt")),
        ]

    outcome = run_forked(work, seconds=20)
    assert outcome.value == ["refused"] * 4 + ["done"]
    assert os.listdir(tmp_path) == ["mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "mine"


def runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().split()[2] != "Z"  # a zombie, where init is slow to reap


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("own_session", [True, False])
def test_what_the_child_started_dies_with_it(tmp_path: Path, ends: bool, own_session: bool) -> None:
    """Also what has made a session of its own, as daemons do, and where the child itself does not end in time."""
    started, told = os.pipe()
    runs_now, begun = os.pipe()

    def work(isolation: Isolation) -> None:
        pid = os.fork()
        if pid == 0:
            if own_session:
                os.setsid()
            os.write(told, str(os.getpid()).encode())
            os.write(begun, b"1")
            time.sleep(600)
            os._exit(0)
        os.read(runs_now, 1)  # on a busy machine it may take a while to begin
        while not ends:
            time.sleep(1)

    outcome = run_forked(work, seconds=60 if ends else 5)
    os.set_blocking(started, False)
    pid = int(os.read(started, 20))
    assert outcome.reason == (None if ends else "timeout after 5 s")
    time.sleep(0.2)
    assert not runs(pid)


def test_the_network_is_away_where_the_system_allows() -> None:
    def work(isolation: Isolation) -> tuple[bool, str]:
        with socket.socket() as s:
            s.settimeout(2)
            return "no network" in isolation.active, "reached" if s.connect_ex(
                ("192.0.2.1", 80)
            ) == 0 else "unreachable"

    promised, reached = run_forked(work, seconds=20).value
    assert reached == "unreachable" or not promised


def test_cases_are_read_without_torch() -> None:
    code = "import sys, torchlint.verify.case; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
