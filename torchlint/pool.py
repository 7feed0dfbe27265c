"""Files dealt to worker processes, largest first; a worker that dies costs one retry of one file, never a result."""

from __future__ import annotations

import contextlib
import marshal
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

FEW = 50  # below this many files, starting processes costs more than it saves
STACK = 512 * 1024 * 1024  # address space, not memory: libcst's parser recurses on the C stack
RECURSION = 10_000
LARGE = 300_000  # bytes; such a file (one in 500) may take long or end its process, so it gets one of its own
SECONDS_PER_FILE = 300.0
_BATCH_BYTES = 48_000
_KEPT_BYTES = 1_000_000  # of source, whose trees may wait to be collected
CRASHED = "crashed the parser"

Make = Callable[..., Callable[[str], Any]]
Progress = Callable[[int, int, float], None]  # files done, of how many, and the share of their bytes


class Lost(Exception):
    """No result for a file: its worker was killed twice on it, or took too long. The message says which."""


def cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def each(
    files: Sequence[tuple[int, str]], make: Make, arguments: tuple[Any, ...], jobs: int
) -> Iterator[tuple[str, Any | Lost]]:
    """`make(*arguments)(path)` for every (size, path), as they complete. Results are data that marshal takes."""
    jobs = min(jobs or cores(), max(1, len(files) // 8))
    if len(files) >= FEW and jobs > 1:
        yield from _Crew(files, make, arguments, jobs)
        return
    large = [f for f in files if f[0] >= LARGE]
    if large:
        yield from _Crew(large, make, arguments, 1)
    ordered = [path for size, path in sorted(files, key=lambda f: (-f[0], f[1])) if size < LARGE]
    if ordered:
        yield from _here(ordered, make, arguments)


def followed(
    files: Sequence[tuple[int, str]], make: Make, arguments: tuple[Any, ...], jobs: int, progress: Progress | None
) -> Iterator[tuple[str, Any | Lost]]:
    """As `each`, told to `progress`: large files come first, so the number of those that are done says little."""
    sizes = {path: size + 1 for size, path in files}
    whole, so_far = sum(sizes.values()), 0
    for done, (path, got) in enumerate(each(files, make, arguments, jobs), 1):
        so_far += sizes[path]
        if progress is not None:
            progress(done, len(files), so_far / whole)
        yield path, got


def with_deep_stack(function: Callable[[], None]) -> None:
    """Run in a thread whose stack takes the recursion that long expressions need; raise what it raised."""
    import threading

    failure: list[BaseException] = []

    def body() -> None:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, RECURSION))
        try:
            function()
        except BaseException as error:
            failure.append(error)
        finally:
            sys.setrecursionlimit(limit)

    before = threading.stack_size()
    for size in (STACK, STACK // 8, 0):
        try:
            threading.stack_size(size)
            thread = threading.Thread(target=body, daemon=True)
            thread.start()
            break
        except (RuntimeError, ValueError):  # a limit on address space
            if not size:
                raise
        finally:
            threading.stack_size(before)
    while thread.is_alive():
        thread.join(3600)  # an endless join would not be interrupted on every platform
    if failure:
        raise failure[0]


class _Tidying:
    """Collects what is known of the files that are done: it refers to itself, and would stay.

    By their size, because that is what it costs to keep them and to look through them.
    """

    def __init__(self) -> None:
        self._waiting = 0
        self._frozen = False

    def after(self, path: str) -> None:
        import gc

        with contextlib.suppress(OSError):
            self._waiting += os.path.getsize(path)
        if self._waiting > _KEPT_BYTES:
            self._waiting = 0
            gc.collect()
            if not self._frozen:
                self._frozen = True
                gc.freeze()  # the modules: no later collection need look at them


def _here(paths: Sequence[str], make: Make, arguments: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    import gc

    results: list[tuple[str, Any]] = []

    def work() -> None:
        one, tidying = make(*arguments), _Tidying()
        for path in paths:
            results.append((path, one(path)))
            tidying.after(path)

    collecting = gc.isenabled()
    gc.disable()
    try:
        with_deep_stack(work)
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
    yield from results


def _worker(connection: Connection, make: Make, arguments: tuple[Any, ...]) -> None:
    import gc
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; it ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # see `_held_back`
    # A parent that was killed cannot; its pipe does not end while later workers hold a copy of it, so we look.
    parent = os.getppid()

    def work() -> None:
        one, tidying = make(*arguments), _Tidying()
        while True:
            try:
                while not connection.poll(2.0):
                    if os.getppid() != parent:
                        return
                paths = marshal.loads(connection.recv_bytes())
            except (EOFError, OSError):
                return
            for path in paths:
                if os.getppid() != parent:
                    return
                gc.disable()  # trees are dropped one by one and hold no cycles
                result = one(path)
                gc.enable()
                tidying.after(path)
                try:
                    connection.send_bytes(marshal.dumps((path, result)))
                except (BrokenPipeError, ConnectionError):
                    return

    with_deep_stack(work)


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Signals wait until a new worker has its own answers to them: it must not take them as its parent does."""
    import signal

    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Member:
    __slots__ = ("connection", "pending", "process", "since")

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self.process = process
        self.connection = connection
        self.pending: list[str] = []
        self.since = time.monotonic()


class _Crew:
    """The workers and what each still owes."""

    def __init__(self, files: Sequence[tuple[int, str]], make: Make, arguments: tuple[Any, ...], jobs: int) -> None:
        import multiprocessing

        self._context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        if sys.platform != "linux":  # spawned workers would look for modules in the current folder first
            os.environ.setdefault("PYTHONSAFEPATH", "1")
        self._make, self._arguments, self._jobs = make, arguments, jobs
        self._batches: list[list[str]] = []
        size = _BATCH_BYTES
        for nbytes, path in sorted(files, key=lambda f: (-f[0], f[1])):
            if size + nbytes > _BATCH_BYTES:
                self._batches.append([])
                size = 0
            self._batches[-1].append(path)
            size += nbytes
        self._batches.reverse()  # taken from the end
        self._deaths: dict[str, int] = {}
        self._members: list[_Member] = []

    def _hire(self) -> None:
        """One worker more, unless the system gives no process: then the others do the work, or we ourselves."""
        try:
            here, there = self._context.Pipe()
        except OSError:  # no more open files
            return
        process = self._context.Process(target=_worker, args=(there, self._make, self._arguments), daemon=True)  # type: ignore[attr-defined]
        try:
            with _held_back():
                process.start()
        except OSError:
            here.close()
            return
        finally:
            there.close()
        self._members.append(_Member(process, here))

    def _alone(self) -> Iterator[tuple[str, Any | Lost]]:
        """The work that is left when there is no worker."""
        left = [path for batch in reversed(self._batches) for path in batch]
        self._batches.clear()
        # What has ended a worker would end us.
        yield from (
            (path, Lost("ended a worker process, and no other could be had")) for path in left if path in self._deaths
        )
        yield from _here([path for path in left if path not in self._deaths], self._make, self._arguments)

    def _feed(self, member: _Member) -> None:
        if member.pending or not self._batches:
            return
        member.pending = self._batches.pop()
        member.since = time.monotonic()
        with contextlib.suppress(OSError):  # it died; the wait below sees that
            member.connection.send_bytes(marshal.dumps(member.pending))

    def __iter__(self) -> Iterator[tuple[str, Any | Lost]]:
        from multiprocessing.connection import wait

        try:
            for _ in range(self._jobs):
                self._hire()
            while True:
                if not self._members:
                    yield from self._alone()
                for member in self._members:
                    self._feed(member)
                busy = {m.connection: m for m in self._members if m.pending}
                if not busy:
                    return
                for ready in wait(list(busy), timeout=1.0):
                    member = busy[ready]  # type: ignore[index]
                    try:
                        path, result = marshal.loads(member.connection.recv_bytes())
                    except (EOFError, OSError):
                        yield from self._bury(member, CRASHED)
                        continue
                    member.pending.remove(path)
                    member.since = time.monotonic()
                    yield path, result
                for member in list(self._members):
                    if member.pending and time.monotonic() - member.since > SECONDS_PER_FILE:
                        self._deaths[member.pending[0]] = 2
                        member.process.kill()
                        yield from self._bury(member, f"took longer than {SECONDS_PER_FILE:.0f} s")
        finally:
            for member in self._members:
                member.connection.close()
            for member in self._members:
                member.process.terminate()
            for member in self._members:
                member.process.join(5)
                if member.process.is_alive():
                    member.process.kill()

    def _bury(self, member: _Member, how: str) -> Iterator[tuple[str, Lost]]:
        """Replace a dead worker; the file it died on is tried once more alone, the rest of its batch is dealt again."""
        self._members.remove(member)
        member.connection.close()
        member.process.join(5)
        culprit, *rest = member.pending
        if rest:
            self._batches.append(rest)
        deaths = self._deaths[culprit] = self._deaths.get(culprit, 0) + 1
        if deaths < 2:
            self._batches.append([culprit])
        else:
            code = member.process.exitcode
            if code == -9 and how == CRASHED:
                how = "got the process that read it killed, twice (signal 9: out of memory?)"
            elif code and code < 0 and how == CRASHED:
                how += f" (signal {-code})"
            yield culprit, Lost(how)
        self._hire()
