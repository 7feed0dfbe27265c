"""Runs code in a forked child that can neither write outside its scratch directory, reach the network, nor stay behind.

What the system offers is used (Landlock, a network namespace, rlimits); what was not available is said, never hidden.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchlint.verify.aftermath import files_go_to
from torchlint.verify.channel import Forged, seal, unsealed

# Landlock: the same numbers on every architecture; see landlock(7).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH = 1
_WRITE_FILE, _TRUNCATE, _REFER = 1 << 1, 1 << 14, 1 << 13
_WRITES = _WRITE_FILE | sum(1 << bit for bit in range(4, 13))  # remove_* and make_*
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 1 << 5, 1 << 12, 1 << 14, 1 << 18
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1

GRACE_SECONDS = 2.0
_NEVER = -1  # in place of the status of a child that did not end by itself


@dataclass(frozen=True, slots=True)
class Isolation:
    """What holds the child (`landlock`, `no network`, `rlimits`) and what this system would not give."""

    active: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        text = ", ".join(self.active) or "unsandboxed"
        return f"{text}; not available: {', '.join(self.missing)}" if self.missing else text


@dataclass(frozen=True, slots=True)
class Outcome:
    """The child's value, or the reason why there is none."""

    value: Any = None
    reason: str | None = None


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def landlock_version() -> int:
    """The kernel's Landlock ABI, 0 if it has none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, 0, 1)))


def restrict_writes(allowed: Sequence[str]) -> bool:
    """From now on this process and its children can change files only beneath `allowed`. False if not available."""
    version = landlock_version()
    if version < 1:
        return False
    libc = _libc()
    writes = _WRITES | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    attributes = struct.pack("=Q", writes)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    try:
        for path in allowed:
            if not os.path.exists(path):
                continue
            parent = os.open(path, os.O_PATH)
            try:
                access = writes if os.path.isdir(path) else writes & (_WRITE_FILE | _TRUNCATE)
                rule = struct.pack("=Qi", access, parent)
                if libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0):
                    return False
            finally:
                os.close(parent)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return bool(libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def leave_network() -> bool:
    """Move this process to a network of its own where only the loopback is up. False if not allowed."""
    if not sys.platform.startswith("linux"):
        return False
    libc = _libc()
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWNET | _CLONE_NEWUSER
    if libc.unshare(flags):
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        import fcntl

        request = struct.pack("16sH14x", b"lo", 0)
        current = struct.unpack("16sH14x", fcntl.ioctl(probe, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(probe, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", current | _IFF_UP))
    return True


def overlay(directory: str, scratch: str) -> bool:
    """From now on what this process changes in `directory` goes to scratch instead. False if not allowed."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or any(c in directory + scratch for c in ",:\\"):
        return False
    libc = _libc()
    upper, work = os.path.join(scratch, "changed"), os.path.join(scratch, "work")
    os.makedirs(upper, exist_ok=True)
    os.makedirs(work, exist_ok=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
        return False
    options = f"lowerdir={directory},upperdir={upper},workdir={work}"
    return bool(libc.mount(b"overlay", os.fsencode(directory), b"overlay", 0, os.fsencode(options)) == 0)


def enclose(scratch: str, project: str) -> bool:
    """For a whole command: `project` as an overlay, scratch and /dev writable, everything else read-only.

    Landlock would keep the command's own children from making overlays of theirs, so this is done by mounts. False if
    not allowed; then nothing was changed.
    """
    if not overlay(project, scratch):
        return False
    libc = _libc()
    libc.mount(os.fsencode(scratch), os.fsencode(scratch), None, _MS_BIND, None)
    kept = (os.path.realpath(scratch), os.path.realpath(project), "/dev", "/proc", "/sys")
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [line.split()[4].encode().decode("unicode_escape") for line in file]
    for point in points:
        if not any(point == k or point.startswith(k + "/") for k in kept):
            libc.mount(None, os.fsencode(point), None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY, None)
    os.chdir(project)
    return True


def limit_resources(seconds: float, memory: int | None, file_bytes: int = 4 << 30) -> None:
    """CPU seconds, address space, file size; no core dumps. Never raises a limit that is lower already."""
    for kind, value in (
        (resource.RLIMIT_CPU, int(seconds * (os.cpu_count() or 1)) + 5),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        if value is None:
            continue
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, hard))


def memory_budget() -> int:
    """Address space for a child on the CPU: what is mapped now plus three quarters of the machine's memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(total * 0.75) + (8 << 30)


def confine(scratch: str, *, seconds: float, memory: int | None, project: str | None = None) -> Isolation:
    """Shut this process in. What it writes must lie beneath `scratch` or /dev, or in `project`, then as an overlay."""
    active: list[str] = []
    missing: list[str] = []
    writable = [scratch, "/dev"]
    if project is not None:
        if overlay(project, scratch):
            active.append("overlay")
            writable.append(project)
        else:
            missing.append("overlay")
        os.chdir(project)
    network, landlock = leave_network(), restrict_writes(writable)
    (active if network else missing).append("no network")
    (active if landlock else missing).append(f"landlock v{landlock_version()}" if landlock else "landlock")
    limit_resources(seconds, memory)
    active.append("rlimits")
    os.environ["TMPDIR"] = os.environ["TORCH_EXTENSIONS_DIR"] = os.environ["TORCHINDUCTOR_CACHE_DIR"] = scratch
    tempfile.tempdir = scratch
    files_go_to(scratch)
    return Isolation(tuple(active), tuple(missing))


@contextlib.contextmanager
def scratch_directory() -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="torchlint-verify-")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def run_forked(
    function: Callable[[Isolation], Any],
    *,
    seconds: float,
    memory: int | None = None,
    confined: bool = True,
    project: str | None = None,
) -> Outcome:
    """Call `function` in a forked, confined child and return what it returns (pickled).

    The child works in a scratch directory, or in `project`, which it sees as it is and cannot really change.

    The child gets no stdin, its output goes nowhere, it dies with this process, and what it started dies with it.
    What `function` itself writes to the file that the answer comes in is not taken for one.
    """
    key = os.urandom(32).hex()
    with scratch_directory() as scratch, tempfile.TemporaryFile() as channel, tempfile.TemporaryFile() as end:
        pid = os.fork()
        if pid == 0:
            _host(
                lambda: _child(function, scratch, channel.fileno(), key, seconds, memory, confined, project),
                end.fileno(), seconds + GRACE_SECONDS,
            )  # fmt: skip
        _wait(pid, seconds + 2 * GRACE_SECONDS)
        end.seek(0)
        ended = end.read()
        status = struct.unpack("i", ended)[0] if ended else _NEVER
        if status == _NEVER:
            return Outcome(reason=f"timeout after {seconds:g} s")
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            return Outcome(reason="CPU time used up" if name == "SIGXCPU" else f"killed by {name}")
        channel.seek(0)
        data = channel.read()
    if not data:
        return Outcome(reason=f"the process ended itself with code {os.waitstatus_to_exitcode(status)}")
    try:
        kind, value = pickle.loads(unsealed(data, key))
    except Forged:
        return Outcome(reason="its answer was not given by torchlint, or was changed since")
    return Outcome(value=value) if kind == "value" else Outcome(reason=value)


def _host(child: Callable[[], None], end: int, seconds: float) -> None:
    """Between the caller and the child: it outlives the child, ends all that is left of it, and tells its status."""
    try:
        os.setsid()
        _die_with_parent()
        adopt_orphans()
        pid = os.fork()
        if pid == 0:
            os.close(end)
            child()
        status = _wait(pid, seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        end_children()
        os.write(end, struct.pack("i", _NEVER if status is None else status))
    finally:
        os._exit(0)


def _die_with_parent() -> None:
    if sys.platform.startswith("linux"):
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """From now on what loses its parent among the descendants of this process becomes a child of it (Linux only)."""
    if sys.platform.startswith("linux"):
        _libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_children() -> None:
    """Kill the children of this process, and then those that they leave to it, until there are none."""
    end = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < end:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for pid in _children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def _children() -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
            parent = int(entry.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[1])
            if parent == os.getpid():
                yield int(entry.parent.name)


def _child(
    function: Callable[[Isolation], Any],
    scratch: str,
    channel: int,
    key: str,
    seconds: float,
    memory: int | None,
    confined: bool,
    project: str | None,
) -> None:
    code = 1
    try:
        os.setsid()
        _die_with_parent()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 (the process is ours)
        os.chdir(scratch)
        isolation = Isolation((), ("confinement was switched off",))
        if confined:
            isolation = confine(scratch, seconds=seconds, memory=memory, project=project)
        try:
            answer = ("value", function(isolation))
        except MemoryError:
            answer = ("reason", "out of memory")
        except BaseException as error:
            answer = ("reason", f"{type(error).__name__}: {error}")
        data = seal(pickle.dumps(answer), key)
        os.ftruncate(channel, 0)
        os.lseek(channel, 0, os.SEEK_SET)
        while data:
            data = data[os.write(channel, data) :]
        code = 0
    finally:
        # Neither atexit handlers nor buffered output of the parent's copy may run here.
        os._exit(code)


def _wait(pid: int, seconds: float) -> int | None:
    """The wait status, or None after a timeout (then the child was killed)."""
    deadline = time.monotonic() + seconds
    if hasattr(os, "pidfd_open"):
        descriptor = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            ended = bool(poll.poll(seconds * 1000))
        finally:
            os.close(descriptor)
        if ended:
            return os.waitpid(pid, 0)[1]
    else:
        while time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return status
            time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None
