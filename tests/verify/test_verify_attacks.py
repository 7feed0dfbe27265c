"""Programs that tamper with their own judge: noticed, not-verifiable, never a false proof; nothing they send is run."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torchlint.verify import channel, tamper, userrun  # noqa: E402
from torchlint.verify.observe import DigestLeaf, Observation, TensorLeaf  # noqa: E402
from torchlint.verify.sandbox import memory_budget, run_forked  # noqa: E402
from torchlint.verify.shadow import Limits  # noqa: E402
from torchlint.verify.userrun import gather, planned, verify_run  # noqa: E402
from torchlint.verify.verdict import Behaviour  # noqa: E402

KEY = "ab" * 32
PROGRAM = """\
import torch
from torch import nn
{attack}
model = nn.Linear(4, 2)


def update(x):
    loss = torch.log(torch.softmax(model(x), dim=1)).neg().mean()
    loss.backward()
    return loss.item()


def main():
    torch.manual_seed(0)
    for step in range(2):
        update(torch.randn(6, 4))


if __name__ == "__main__":
    main()
"""
WRONG = ("torch.log(torch.softmax(model(x), dim=1))", "(torch.log_softmax(model(x), dim=1) * 1.5)")
FORGE = """\
import atexit, glob, json, os
def forge():
    for path in glob.glob(os.path.dirname(os.environ["TORCHLINT_VERIFY"]) + "/*.json"):
        text = open(path).read()
        open(path, "w").write(text.replace("different", "equivalent-bitwise"))
    os._exit(0)
real = os.replace
def replace(source, target):
    real(source, target)
    text = open(target).read()
    open(target, "w").write(text.replace("different", "equivalent-bitwise"))
os.replace = replace
"""
ATTACKS = {
    "nothing": ("", "different"),
    "torch.equal": ("torch.equal = torch.allclose = lambda *a, **k: True\n", "the program replaces torch."),
    "the judge": (
        "import torchlint.verify.compare as c\nc.compare = lambda *a, **k: c.Comparison()\n",
        "the program replaces torchlint.verify.compare.compare",
    ),
    "the files": (FORGE, "was not written by torchlint, or was changed since"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_program_that_replaces_its_judge_proves_nothing(tmp_path: Path, name: str) -> None:
    attack, says = ATTACKS[name]
    program = PROGRAM.format(attack=attack)
    path = tmp_path / "train.py"
    path.write_text(program)
    files = {str(path): (program, program.replace(*WRONG))}
    limits = Limits(1, 10, 0.1)
    run = verify_run(files, [sys.executable, "train.py"], limits=limits, timeout=120, cwd=str(tmp_path), shown=False)
    (found,) = run.functions
    assert not found.verdict.equivalent
    assert says in str(found.verdict)
    assert found.verdict.kind is (Behaviour.DIFFERENT if name == "nothing" else Behaviour.NOT_VERIFIABLE)


FORKS = """\
import os, time
for _ in range(60):
    if os.fork() == 0:
        os.setsid()
        for _ in range(300):
            time.sleep(1)
        os._exit(0)
time.sleep(300)
"""
WAITS = """\
import time
time.sleep(300)
"""


@pytest.mark.parametrize("what", ["processes", "the disk"])
def test_a_program_that_takes_the_machine_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The limits are lowered: neither a fork bomb nor a full disk is let loose on the machine that runs the tests."""
    path = tmp_path / "train.py"
    program = PROGRAM.format(attack=FORKS if what == "processes" else WAITS)
    path.write_text(program)
    if what == "processes":
        monkeypatch.setattr(userrun, "MOST_PROCESSES", 40)
    else:
        looks = iter([100 << 30])
        monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": next(looks, 100 << 20)}))
    started = time.monotonic()
    run = verify_run(
        {str(path): (program, program.replace(*WRONG))}, [sys.executable, "train.py"],
        timeout=120, cwd=str(tmp_path), shown=False,
    )  # fmt: skip
    assert time.monotonic() - started < 60
    (found,) = run.functions
    assert found.verdict.kind is Behaviour.NOT_VERIFIABLE
    said = "more than 40 processes at once" if what == "processes" else "less than 512 MiB were left on the disk"
    assert said in str(found.verdict)
    assert _left(tmp_path) == []


def _left(folder: Path) -> list[str]:
    """What still runs in a folder, a moment later."""
    end = time.monotonic() + 10
    while True:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if Path(os.readlink(process / "cwd")).is_relative_to(folder):
                    found.append(process.name)
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.1)


SECRETS = """\
import socket
def reach():
    with socket.create_connection(("127.0.0.1", {port}), timeout=5) as there:
        there.sendall(b"secret")
"""


def test_compared_calls_reach_no_listener_outside(tmp_path: Path) -> None:
    """The command itself may talk to a machine; what is compared sees a loopback of its own, so nothing arrives."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        attack = SECRETS.format(port=server.getsockname()[1])
        outcome = run_forked(lambda _: exec(attack + "reach()\n", {}), seconds=20)
        isolation = run_forked(str, seconds=20).value
        if "no network" not in isolation.partition("; not available")[0]:
            pytest.skip("no network namespace is to be had here, and the report says so")
        assert "OSError" in str(outcome.reason) or "ConnectionRefused" in str(outcome.reason)
        with pytest.raises(TimeoutError):
            server.accept()


def test_what_a_compared_call_may_fill_is_bounded() -> None:
    def memory(_: object) -> int:
        return len(bytearray(1 << 45))

    def disk(_: object) -> None:
        with open("big.bin", "wb") as file:
            file.seek(5 << 30)
            file.write(b"x")

    assert run_forked(memory, seconds=20, memory=memory_budget()).reason == "out of memory"
    assert run_forked(disk, seconds=20).reason in ("killed by SIGXFSZ", "OSError: [Errno 27] File too large")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"body": "{}", "mac": ""}',
        '{"body": "{}", "mac": 3}',
        "[" * 100_000,
        channel.sign({}, "cd" * 32),
    ],
)
def test_is_believed_only_with_its_signature(text: str, tmp_path: Path) -> None:
    assert channel.verified(channel.sign({"a": [1, None]}, KEY), KEY) == {"a": [1, None]}
    with pytest.raises(channel.Forged):
        channel.verified(text, KEY)
    before, after = PROGRAM.format(attack=""), PROGRAM.format(attack="").replace(*WRONG)
    run, _ = planned({str(tmp_path / "a.py"): (before, after)}, None)
    (tmp_path / "1-update.json").write_text(text)
    gather(run, str(tmp_path))
    assert [f.verdict.kind for f in run.functions] == [Behaviour.NOT_VERIFIABLE]


class _Bomb:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("what", ["os.system", "eval", "torch.load", "getattr", "builtins.exec"])
def test_a_record_runs_nothing(tmp_path: Path, what: str) -> None:
    """The record of a whole run is read outside of the sandbox."""
    sprung = tmp_path / "sprung"
    call = f"open({str(sprung)!r}, 'w')"
    bomb = {
        "os.system": _Bomb(os.system, f"touch {sprung}"),
        "eval": _Bomb(eval, call),
        "torch.load": _Bomb(torch.load, str(sprung)),
        "getattr": _Bomb(getattr, tmp_path, "unlink"),
        "builtins.exec": _Bomb(exec, call),
    }[what]
    path = tmp_path / "record.pickle"
    path.write_bytes(pickle.dumps(Observation({"loss": 1.0})) + pickle.dumps(bomb))
    with pytest.raises(channel.Forged):
        list(channel.items(str(path)))
    assert not sprung.exists()


def test_a_record_with_all_that_a_record_may_hold_is_read(tmp_path: Path) -> None:
    facts = ((2,), "torch.float32", "cpu", False, False, True, "Tensor")
    leaves = {
        "t": TensorLeaf(torch.arange(3.0), *facts), "b": TensorLeaf(torch.ones(2, dtype=torch.bfloat16), *facts),
        "d": DigestLeaf("ab", facts), "f": 1.5, "i": 2**80, "n": None, "s": "x", "c": 1j, "z": torch.Size((1, 2)),
        "y": torch.float16, "v": torch.device("cpu"), "l": slice(1, 2), "r": range(3), "e": torch.empty(0, 3).t(),
    }  # fmt: skip
    path = tmp_path / "record.pickle"
    path.write_bytes(pickle.dumps(Observation(leaves)) + pickle.dumps({"steps": 1, "lines": ["a:1"]}) + b"\x80")
    observation, seen = channel.items(str(path))
    assert seen == {"steps": 1, "lines": ["a:1"]}
    assert torch.equal(observation.leaves["t"].value, torch.arange(3.0))
    assert {k: v for k, v in observation.leaves.items() if k not in "tbe"} == {
        k: v for k, v in leaves.items() if k not in "tbe"
    }


def test_what_is_replaced_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tamper, "_kept", {})
    tamper.remember_torch()
    assert tamper.replaced() is None
    for owner, name in (
        (torch, "allclose"), (torch.Tensor, "__eq__"), (torch.Tensor, "numpy"), (pickle, "dumps"), (json, "dumps"),
        (channel, "sign"),
    ):  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, lambda *_: True)
            told = tamper.replaced()
        assert told is not None
        assert name in told
    assert tamper.replaced() is None
    from torchlint.verify import judge

    code = judge.judge_behaviour.__code__
    try:
        judge.judge_behaviour.__code__ = (lambda *a, **k: None).__code__
        assert "judge_behaviour" in str(tamper.replaced())
    finally:
        judge.judge_behaviour.__code__ = code
