"""Nothing is half-written: kills at every system call, full disks, missing permissions, odd file systems, signals."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults import killed_at, kills
from torchlint import write as writing
from torchlint.cache import Cache, digest
from torchlint.cli import main
from torchlint.output import put as put_output
from torchlint.write import write

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="faults are made in forked processes")

Output = pytest.CaptureFixture[str]
OLD, NEW = b"old = 1\n" * 400, "new = 'x'\n" * 500
BAD = "import torch\n\nx = torch.zeros(3).to('cuda')\n"  # TL401


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_swept", set())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "tree" / "a.py"
    path.parent.mkdir()
    path.write_bytes(OLD)
    return path


def put(target: Path) -> str | None:
    return write(str(target), digest(OLD), NEW, [str(target.parent)])


def is_whole(target: Path) -> bool:
    return target.read_bytes() in (OLD, NEW.encode())


def strays(target: Path) -> list[str]:
    return [p.name for p in target.parent.iterdir() if p != target]


# -- a write that ends too early --------------------------------------------------------------------------------------


def test_killed_at_every_system_call_a_file_is_old_or_new(target: Path, capsys: Output) -> None:
    outcomes: set[bytes] = set()
    left: set[str] = set()

    def judge() -> None:
        assert is_whole(target)
        outcomes.add(target.read_bytes())
        target.write_bytes(OLD)
        for name in strays(target)[1:]:
            left.add(name)
            (target.parent / name).unlink()

    points = kills(lambda: put(target), judge)
    assert points > 25, "the child was not watched"
    assert outcomes == {OLD, NEW.encode()}, "no kill on one of the two sides of the rename"
    assert left
    # What was left is no source for anybody, and the next write takes it away.
    assert main(["check", "--no-cache", "--show-files", str(target.parent)]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    for name in strays(target):
        os.utime(target.parent / name, (time.time() - 3600,) * 2)
    target.write_bytes(OLD)
    assert put(target) is None
    assert strays(target) == []


@pytest.mark.parametrize("size", [0, 1, 512, 4095, 4999])
def test_killed_in_the_middle_of_a_write_the_file_is_old(target: Path, size: int) -> None:
    assert killed_at(10**6, lambda: put(target), file_bytes=size)
    assert target.read_bytes() == OLD


def test_killed_at_every_system_call_the_cache_is_old_or_new(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    seen: set[bool] = set()

    def save() -> None:
        store = Cache(str(folder), b"key")
        store.put("/a.py", 2, 2, b"c", ((), (), False))
        store.save()

    def judge() -> None:
        store = Cache(str(folder), b"key")
        assert store.lookup("/old.py", 1, 1) is not None
        seen.add(store.lookup("/a.py", 2, 2) is not None)
        before.save()

    before = Cache(str(folder), b"key")
    before.put("/old.py", 1, 1, b"c", ((), (), False))
    before.save()
    before._changed = True
    assert kills(save, judge) > 15
    assert seen == {False, True}


# -- systems that refuse ----------------------------------------------------------------------------------------------

CALLS = ("open", "stat", "access", "fsync", "chmod", "replace", "unlink", "listxattr", "scandir", "chown")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ENOTSUP, errno.EPERM, errno.EXDEV)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("number", ERRORS, ids=lambda n: errno.errorcode[n])
def test_a_call_that_fails_costs_a_line_and_no_byte(
    target: Path, name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = getattr(os, name)
    for nth in range(6):
        calls = 0

        def failing(*arguments: Any, last: int = nth + 1, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == last:
                raise OSError(number, os.strerror(number))
            return genuine(*arguments, **named)

        writing._swept.clear()
        target.write_bytes(OLD)
        with monkeypatch.context() as patched:
            patched.setattr(os, name, failing)
            problem = put(target)
        if calls <= nth:
            assert problem is None
            break
        if problem is None:
            assert target.read_bytes() == NEW.encode()
        else:
            assert target.read_bytes() == OLD
            assert problem.startswith(f"{target}: not written: ")
            assert "\n" not in problem
        assert strays(target) == []


@pytest.mark.parametrize("write_it", [put, lambda target: put_output(str(target), NEW)], ids=["source", "report"])
def test_a_signal_right_behind_the_making_leaves_no_file(
    target: Path, monkeypatch: pytest.MonkeyPatch, write_it: Callable[[Path], object]
) -> None:
    real = os.open

    def signalled(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        handle = real(path, flags, *args, **kwargs)
        if flags & os.O_EXCL:
            os.close(handle)
            raise KeyboardInterrupt
        return handle

    monkeypatch.setattr(os, "open", signalled)
    with pytest.raises(KeyboardInterrupt):
        write_it(target)
    assert target.read_bytes() == OLD
    assert strays(target) == []


def test_a_file_system_without_fsync_is_written(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(handle: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", without)
    assert put(target) is None
    assert target.read_bytes() == NEW.encode()


def test_a_full_disk(target: Path) -> None:
    """As the kernel says it: a file that may not grow."""

    def body() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        problem = put(target)
        os._exit(7 if problem is not None and "not written" in problem else 8)

    child = os.fork()
    if child == 0:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        body()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert target.read_bytes() == OLD
    assert strays(target) == []


def test_a_full_file_system_costs_lines_and_no_finding(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        (disk / "pyproject.toml").write_text("[tool.torchlint]\nselect = ['TL401']\n")
        for name in ("a.py", "b.py"):
            (disk / name).write_text(BAD)
        with open(disk / "filler", "wb", buffering=0) as filler:
            while shutil.disk_usage(disk).free:
                filler.write(b"\0" * 4096)
        before = {p.name: p.read_bytes() for p in disk.iterdir()}
        code, out, err = torchlint(disk, "check", ".", "--output-format", "concise")
        assert (code, out.count("TL401"), err) == (0, 2, "")
        code, out, err = torchlint(disk, "fix", "--apply", "--unsafe", ".")
        assert code == 2
        assert err.count("not written: No space left on device") == 2
        assert {p.name: p.read_bytes() for p in disk.iterdir() if p.is_file()} == before
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_file_stays_as_it_is(target: Path) -> None:
    target.chmod(0o444)
    assert put(target) == f"{target}: not written: it is read-only; make it writable first"
    assert target.read_bytes() == OLD


def test_a_read_only_file_system(tmp_path: Path, target: Path) -> None:
    folder = str(target.parent)
    bound = subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False)
    if bound.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        assert put(target) == f"{target}: not written: it is read-only; make it writable first"
        store = Cache(str(target.parent / "c"), b"key")
        store.put("/a.py", 1, 1, b"c", ((), (), False))
        store.save()
        assert target.read_bytes() == OLD
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_and_the_attributes_stay(target: Path) -> None:
    os.chown(target, 12345, 23456)
    target.chmod(0o664)
    tagged = True
    try:
        os.setxattr(target, "user.note", b"kept")
    except OSError:
        tagged = False
    assert put(target) is None
    info = target.stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (12345, 23456, 0o664)
    assert not tagged or os.getxattr(target, "user.note") == b"kept"


# -- changes meanwhile ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["stat", "access", "open", "fsync", "chmod"])
@pytest.mark.parametrize("how", ["rewritten", "replaced", "removed", "linked"])
def test_what_changes_while_it_is_written_is_left_alone(
    target: Path, tmp_path: Path, call: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = getattr(os, call)
    done = False
    (tmp_path / "other").write_bytes(OLD)

    def meanwhile(*arguments: Any, **named: Any) -> Any:
        nonlocal done
        result = genuine(*arguments, **named)
        if not done:
            done = True
            if how == "rewritten":
                target.write_bytes(b"mine\n")
            else:
                os.rename(target, tmp_path / "moved")
            if how == "replaced":
                target.write_bytes(OLD.replace(b"1", b"2"))
            elif how == "linked":
                target.symlink_to(tmp_path / "other")
        return result

    monkeypatch.setattr(os, call, meanwhile)
    problem = put(target)
    monkeypatch.undo()
    assert done
    assert problem is not None
    assert "not written" in problem
    expected = {"rewritten": b"mine\n", "replaced": OLD.replace(b"1", b"2"), "removed": None, "linked": OLD}[how]
    assert (target.read_bytes() if target.exists() else None) == expected
    assert (tmp_path / "other").read_bytes() == OLD
    assert [name for name in strays(target) if name.endswith(".tmp")] == []


def test_a_link_that_a_glob_named_is_not_written_through(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out.py"
    inside.mkdir()
    outside.write_bytes(OLD)
    (inside / "far.py").symlink_to(outside)
    problem = write(str(inside / "far.py"), digest(OLD), NEW, [str(inside / "far.py")])
    assert problem is not None
    assert "outside the given paths" in problem
    assert outside.read_bytes() == OLD


# -- processes --------------------------------------------------------------------------------------------------------


def torchlint(folder: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "torchlint", *arguments], cwd=folder, env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


BODY = "".join(f"def f{i}(model, loader):\n    return torch.zeros({i + 1}).to('cuda')\n\n" for i in range(4))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("[tool.torchlint]\nselect = ['TL401']\n")
    for number in range(120):
        (folder / f"m{number:03}.py").write_text("import torch\n\n" + BODY)
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "torchlint", *arguments], cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def workers(pid: int, count: int = 2) -> list[int]:
    """The processes that a process has started, once there are as many as asked for."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            found = [int(word) for word in file.read().split()]
        if len(found) >= count:
            return found
        time.sleep(0.01)
    raise AssertionError("no workers")


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def soon(condition: Any) -> bool:
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def count(out: str) -> int:
    return sum(d["code"] == "TL401" for d in json.loads(out))


proc = pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="looks into /proc")


@proc
def test_a_worker_that_is_killed_costs_no_finding(tree: Path) -> None:
    process = start(tree, "check", ".", "--no-cache", "--jobs", "2", "--output-format", "json")
    first = workers(process.pid)[0]
    time.sleep(0.1)
    os.kill(first, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (1, "")
    assert count(out) == 120 * 4


def test_a_file_that_kills_every_worker_is_named(tree: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchlint import check

    genuine = check.check_text

    def hungry(path: str, *rest: Any, **more: Any) -> Any:
        if path.endswith("m007.py"):
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
        return genuine(path, *rest, **more)

    monkeypatch.setattr(check, "check_text", hungry)
    assert main(["check", "--no-cache", "--jobs", "2", "--output-format", "json", str(tree)]) == 2
    out = capsys.readouterr().out
    assert count(out) == 119 * 4
    (lost,) = (d for d in json.loads(out) if d["code"] != "TL401")
    assert lost["filename"].endswith("m007.py")
    assert "killed, twice (signal 9: out of memory?)" in lost["message"]


@pytest.mark.parametrize("given", [0, 1])
def test_a_system_that_gives_no_process_costs_time_only(
    tree: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, given: int
) -> None:
    from multiprocessing.context import ForkProcess

    genuine, started = ForkProcess.start, 0

    def refused(process: Any) -> None:
        nonlocal started
        started += 1
        if started > given:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        genuine(process)

    monkeypatch.setattr(ForkProcess, "start", refused)
    assert main(["check", "--no-cache", "--jobs", "2", "--output-format", "json", str(tree)]) == 1
    assert count(capsys.readouterr().out) == 120 * 4


@proc
@pytest.mark.parametrize("verb", ["check", "fix"])
@pytest.mark.parametrize(("sign", "says"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "ended from outside")])
def test_a_signal_leaves_no_half_file_and_no_worker(tree: Path, verb: str, sign: signal.Signals, says: str) -> None:
    before = {p.name: p.read_bytes() for p in tree.iterdir()}
    more = ["--apply", "--unsafe"] if verb == "fix" else []
    process = start(tree, verb, ".", "--no-cache", "--jobs", "2", *more)
    theirs = workers(process.pid)
    time.sleep(0.2)
    process.send_signal(sign)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + sign
    assert err == f"torchlint: {says}; no file is half-written\n"
    assert soon(lambda: all(map(gone, theirs)))
    assert {p.name: p.read_bytes() for p in tree.iterdir()} == before


@proc
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_among_the_writes_leaves_whole_files(tree: Path, sign: signal.Signals) -> None:
    before = {p.name: p.read_bytes() for p in tree.glob("*.py")}
    process = start(tree, "fix", ".", "--no-cache", "--apply", "--unsafe")
    assert soon(lambda: any(p.read_bytes() != before[p.name] for p in tree.glob("m00*.py")))
    process.send_signal(sign)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (128 + sign, -sign, 0)  # 0: it had written all of them by then
    assert "Traceback" not in err
    for path in tree.glob("*.py"):
        text = path.read_text()
        assert text.count("\n") == before[path.name].decode().count("\n")
        assert (".to('cuda')" in text) != ("device='cuda'" in text)
    assert len(list(tree.glob("*.py"))) == 120
    if sign is not signal.SIGKILL:
        assert list(tree.glob(".torchlint-*")) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("form", ["json", "text"])
def test_output_that_cannot_be_written_is_trouble(tree: Path, form: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "torchlint", "check", "m000.py", "--output-format", form], cwd=tree,
            env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "torchlint: the output cannot be written: No space left on device\n"
