"""Programs that tamper with their own judge: noticed, not-verifiable, never a false proof; nothing they send is run."""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import inspect
import json
import math
import os
import pickle
import shutil
import socket
import struct
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torchlint.verify import channel, surroundings, tamper, userrun, walk  # noqa: E402
from torchlint.verify import compare as compare_module  # noqa: E402
from torchlint.verify import observe as observe_module  # noqa: E402
from torchlint.verify.compare import Level, compare  # noqa: E402
from torchlint.verify.observe import DigestLeaf, Observation, TensorLeaf, digested, observe  # noqa: E402
from torchlint.verify.sandbox import memory_budget, run_forked  # noqa: E402
from torchlint.verify.shadow import Limits  # noqa: E402
from torchlint.verify.userrun import gather, planned, verify_run  # noqa: E402
from torchlint.verify.verdict import Behaviour  # noqa: E402

KEY = "ab" * 32
PROGRAM = """\
import torch
from torch import nn
{attack}
torch.manual_seed(1)
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
atexit.register(forge)
"""
ATTACKS = {
    "nothing": ("", "different"),
    "torch.equal": ("torch.equal = torch.allclose = lambda *a, **k: True\n", "the program replaces torch."),
    "the judge": (
        "import torchlint.verify.compare as c\nc.compare = lambda *a, **k: c.Comparison()\n",
        "the program replaces torchlint.verify.compare.compare",
    ),
    "the judge's module": (
        "import sys, types, torchlint.verify.compare as c\nfake = types.ModuleType(c.__name__)\n"
        "vars(fake).update(vars(c), compare=lambda *a, **k: c.Comparison())\nsys.modules[c.__name__] = fake\n",
        "the program replaces sys.modules.torchlint.verify.compare",
    ),
    "what looks for it": (
        "import torchlint.verify.compare as c, torchlint.verify.tamper as t\n"
        "t.replaced = lambda: None\nc.compare = lambda *a, **k: c.Comparison()\n",
        "the program replaces torchlint.verify.",
    ),
    "the files": (FORGE, "was not written by torchlint, or was changed since"),
}


IN_THE_CALL = "    torch.Tensor.copy_ = lambda self, *_: self.zero_()\n"


def test_what_a_call_replaces_in_its_own_process_is_noticed(tmp_path: Path) -> None:
    program = PROGRAM.format(attack="").replace("    loss =", IN_THE_CALL + "    loss =")
    program = program.replace("    loss.backward()\n    return loss.item()", "    return loss.detach()")
    path = tmp_path / "train.py"
    path.write_text(program)
    run = verify_run(
        {str(path): (program, program.replace(*WRONG))}, [sys.executable, "train.py"], limits=Limits(1, 10, 0.1),
        timeout=120, cwd=str(tmp_path), shown=False,
    )  # fmt: skip
    (found,) = run.functions
    assert found.verdict.kind is Behaviour.NOT_VERIFIABLE
    assert "the program replaces torch.Tensor.copy_" in str(found.verdict)


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
    path = tmp_path / "record"
    record = channel.Record(str(path), KEY)  # the program knows the key, since it shares the process
    record.add(Observation({"loss": 1.0}))
    record.add(bomb)
    record.close()
    with pytest.raises(channel.Forged):
        list(channel.items(str(path), KEY))
    assert not sprung.exists()


def test_a_record_with_all_that_a_record_may_hold_is_read(tmp_path: Path) -> None:
    facts = ((2,), "torch.float32", "cpu", False, False, True, "Tensor")
    leaves = {
        "t": TensorLeaf(torch.arange(3.0), *facts), "b": TensorLeaf(torch.ones(2, dtype=torch.bfloat16), *facts),
        "d": DigestLeaf("ab", facts), "f": 1.5, "i": 2**80, "n": None, "s": "x", "c": 1j, "z": torch.Size((1, 2)),
        "y": torch.float16, "v": torch.device("cpu"), "l": slice(1, 2), "r": range(3), "e": torch.empty(0, 3).t(),
    }  # fmt: skip
    path = tmp_path / "record"
    record = channel.Record(str(path), KEY)
    record.add(Observation(leaves))
    record.add({"steps": 1, "lines": ["a:1"]})
    record.close()
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])  # a run that was killed while it wrote
    observation, seen = channel.items(str(path), KEY)
    assert seen == {"steps": 1, "lines": ["a:1"]}
    assert torch.equal(observation.leaves["t"].value, torch.arange(3.0))
    assert {k: v for k, v in observation.leaves.items() if k not in "tbe"} == {
        k: v for k, v in leaves.items() if k not in "tbe"
    }


@pytest.mark.parametrize("what", ["a flipped bit", "another key", "another order", "one left out"])
def test_a_record_is_believed_only_with_its_signatures(tmp_path: Path, what: str) -> None:
    path = tmp_path / "record"
    record = channel.Record(str(path), "cd" * 32 if what == "another key" else KEY)
    ends = []
    for step in range(3):
        record.add(Observation({"loss": float(step)}))
        ends.append(path.stat().st_size)
    record.close()
    data = path.read_bytes()
    one, two = data[: ends[0]], data[ends[0] : ends[1]]
    path.write_bytes({
        "a flipped bit": data[:-3] + bytes([data[-3] ^ 1]) + data[-2:], "another key": data,
        "another order": two + one, "one left out": one + data[ends[1] :],
    }[what])  # fmt: skip
    with pytest.raises(channel.Forged):
        list(channel.items(str(path), KEY))


FORGED_ANSWER = pickle.dumps(("value", "forged"))


def _descriptors() -> set[tuple[str, str]]:
    """What is open in this process, by number and file."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return found


def _forge(known: set[tuple[str, str]], later: bool) -> str:
    """Write an answer of one's own to what else is open; with `later` by a process that outlives the call."""
    if later and os.fork():
        return "honest"
    if later:
        os.setsid()
        time.sleep(0.5)
    for descriptor, _ in _descriptors() - known:
        with contextlib.suppress(OSError):
            os.pwrite(int(descriptor), FORGED_ANSWER, 0)
            os.ftruncate(int(descriptor), len(FORGED_ANSWER))
    if later:
        os._exit(0)
    return "honest"


def test_an_answer_that_the_call_itself_writes_is_none() -> None:
    known = _descriptors()

    def ends(_: object) -> None:
        _forge(known, later=False)
        os._exit(0)

    assert run_forked(lambda _: _forge(known, later=False), seconds=20).value == "honest"
    assert run_forked(ends, seconds=20).reason == "its answer was not given by torchlint, or was changed since"
    assert run_forked(lambda _: _forge(known, later=True), seconds=20).value in ("honest", None)


def _by_descriptor(victim: Path) -> None:
    with open(victim, "rb") as file, open(f"/proc/self/fd/{file.fileno()}", "wb") as again:
        again.write(b"gone")


def _by_mapping(victim: Path) -> None:
    import mmap

    with open(victim, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[:4] = b"gone"


def _by_folder(victim: Path) -> None:
    folder = os.open(victim.parent, os.O_RDONLY)
    os.write(os.open(victim.name, os.O_WRONLY | os.O_TRUNC, dir_fd=folder), b"gone")


def _by_hard_link(victim: Path) -> None:
    os.link(victim, "linked")
    Path("linked").write_bytes(b"gone")


def _by_link(victim: Path) -> None:
    os.symlink(victim, "link")
    Path("link").write_bytes(b"gone")


def _by_the_roots_of_others(victim: Path) -> None:
    for process in (os.getppid(), 1):
        Path(f"/proc/{process}/root{victim}").write_bytes(b"gone")


def _by_mounting(victim: Path) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(victim.parent), b"tmpfs", 0, None):
        raise OSError(ctypes.get_errno(), "mount")


OUTSIDE = {
    "truncate": lambda v: os.truncate(v, 0), "remove": os.remove, "rename": lambda v: os.rename(v, "mine"),
    "put another in its place": lambda v: os.replace(shutil.copy(v, "mine"), v),
    "make a folder": lambda v: os.mkdir(v.with_name("made")),
    "descriptor": _by_descriptor, "mapping": _by_mapping, "openat": _by_folder, "hard link": _by_hard_link,
    "link": _by_link, "roots of other processes": _by_the_roots_of_others, "mount": _by_mounting,
}  # fmt: skip


def test_a_compared_call_writes_nothing_outside(tmp_path: Path) -> None:
    """Each in one child: what is refused raises, and the file is what it was."""
    project, victim = tmp_path / "project", tmp_path / "victim"
    project.mkdir()
    victim.write_bytes(b"precious")

    def tried(_: object) -> list[str]:
        done = []
        for name, write in OUTSIDE.items():
            with contextlib.suppress(OSError):
                write(victim)
                done.append(name)
        return done

    isolation = str(run_forked(str, seconds=20, project=str(project)).value)
    if "landlock" not in isolation.partition("; not available")[0]:
        pytest.skip("no Landlock here, and the report says so")
    outcome = run_forked(tried, seconds=20, project=str(project))
    assert outcome.value == []
    assert victim.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["project", "victim"]


# What a call may hand out so that it looks the same whatever it holds.
class _Float(float):
    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = float.__hash__

    def __reduce__(self) -> Any:
        return float, (1.0,)


class _SaysFloat:
    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return float

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class _Hides:
    def __init__(self, value: float) -> None:
        self.value = value

    def __getattribute__(self, name: str) -> Any:
        return {} if name == "__dict__" else object.__getattribute__(self, name)


class _Mapping(dict):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(())

    def items(self) -> Any:
        return ()

    def __len__(self) -> int:
        return 0


class _List(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


class _Zero(torch.Tensor):  # type: ignore[misc,name-defined,unused-ignore]
    @classmethod
    def __torch_function__(cls, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **(kwargs or {}))
            return torch.zeros_like(result) if isinstance(result, torch.Tensor) else result


class _Wrapped(torch.Tensor):  # type: ignore[misc,name-defined,unused-ignore]
    @staticmethod
    def __new__(cls, value: Any) -> Any:
        made = torch.Tensor._make_wrapper_subclass(cls, value.shape, dtype=value.dtype)
        made.held = lambda: value
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        return torch.zeros(2)


@pytest.mark.parametrize(
    "make",
    [
        _Float, _SaysFloat, _Hides, lambda v: _Mapping(loss=v), lambda v: _List([v]),
        lambda v: torch.full((2,), v).as_subclass(_Zero), lambda v: _Wrapped(torch.full((2,), v)),
    ],
    ids=["float", "__class__", "__dict__", "mapping", "list", "__torch_function__", "__torch_dispatch__"],
)  # fmt: skip
def test_a_result_that_looks_equal_is_not(make: Any) -> None:
    one, two = (pickle.loads(pickle.dumps(digested(observe(lambda v=v: make(v), {})))) for v in (1.0, 1.5))
    assert compare(one, two).level is Level.DIFFERENT


class _Mode(torch.overrides.TorchFunctionMode):  # type: ignore[misc,name-defined,unused-ignore]
    def __torch_function__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        return result.zero_() if getattr(function, "__name__", "") == "copy_" else result


def test_a_mode_that_a_call_leaves_on_does_not_answer_for_its_tensors() -> None:
    def leaves(value: float) -> Any:
        mode = _Mode()
        mode.__enter__()
        try:
            return observe(lambda: torch.full((2,), value), {})
        finally:
            mode.__exit__(None, None, None)

    assert compare(leaves(1.0), leaves(1.5)).level is Level.DIFFERENT


def test_what_is_replaced_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tamper, "_kept", {})
    tamper.remember()
    assert tamper.replaced() is None
    for owner, name in (
        (torch, "allclose"), (torch.Tensor, "__eq__"), (torch.Tensor, "numpy"), (torch.Tensor, "copy_"),
        (torch.Tensor, "masked_fill"), (torch.Tensor, "double"), (torch, "empty"), (torch.nn.Module, "parameters"),
        (pickle, "dumps"), (json, "dumps"), (channel, "sign"), (channel, "blake2b"), (hashlib, "blake2b"),
        (math, "copysign"), (os, "fork"), (os, "write"), (os, "replace"), (sys, "settrace"), (struct, "pack"),
        (time, "perf_counter"), (inspect, "unwrap"), (builtins, "isinstance"), (builtins, "zip"),
        (builtins, "__import__"), (observe_module, "DigestLeaf"), (DigestLeaf, "__eq__"), (TensorLeaf, "__init__"),
        (compare_module, "ENVELOPE_FACTOR"), (compare_module, "compare"), (walk, "MAX_LEAVES"),
    ):  # fmt: skip
        was = getattr(owner, name)
        setattr(owner, name, lambda *_: True)  # no monkeypatch: that would go by what is replaced here
        told = tamper.replaced()
        setattr(owner, name, was)
        assert told is not None
        assert name in told
    assert tamper.replaced() is None
    with monkeypatch.context() as patched:  # what a program does to run without a GPU, a compiler or a proxy
        for owner, name in ((torch, "compile"), (torch, "load"), (torch.Tensor, "cuda"), (torch.nn.Module, "cuda"),
                            (socket, "socket"), (builtins, "print"), (warnings, "warn")):  # fmt: skip
            patched.setattr(owner, name, lambda *_, **__: None)
        assert tamper.replaced() is None
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "torchlint.verify.compare", types.ModuleType("torchlint.verify.compare"))
        assert "sys.modules.torchlint.verify.compare" in str(tamper.replaced())
    with monkeypatch.context() as patched:
        patched.setitem(surroundings._FLAGS, "grad mode", (lambda: True, lambda _: None))
        assert "_FLAGS" in str(tamper.replaced())
    with monkeypatch.context() as patched:
        patched.setattr(observe_module.digested, "__defaults__", (frozenset("a"),))
        assert "digested" in str(tamper.replaced())
    assert tamper.replaced() is None
    from torchlint.verify import judge

    code = judge.judge_behaviour.__code__
    try:
        judge.judge_behaviour.__code__ = (lambda *a, **k: None).__code__
        assert "judge_behaviour" in str(tamper.replaced())
    finally:
        judge.judge_behaviour.__code__ = code
