"""What a call leaves behind besides its result and its arguments: log lines, threads, files, environment variables.

No torch here: the sandbox says where files of a confined process go, before anything heavy is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

THREAD_SECONDS = 0.2  # how long a thread that a call has started may take to end
_MOST_FILES = 10_000
_DIGITS = re.compile(r"\d+")
# Names that are drawn at random, and caches of compilers: they say nothing of the program.
_PASSING = re.compile(r"(^|/)(tmp[a-z0-9_]{8}|__pycache__|torchinductor_|\.triton|torch_compile_debug|work/work)")
_MONITORS = ("TMonitor",)  # of progress bars: one for the whole process, started by the first bar

_scratch: str | None = None


def files_go_to(scratch: str) -> None:
    """From now on files that appear beneath `scratch` are what calls of this process have written."""
    global _scratch
    _scratch = scratch


@dataclass
class Aftermath:
    """What was left, once the call is over."""

    leaves: dict[str, Any] = field(default_factory=dict)
    threads: frozenset[threading.Thread] = frozenset()  # that were there before

    def threads_left(self) -> int:
        """How many threads go on. To be asked last: it waits, and what they do meanwhile must not count as done."""
        end = time.monotonic() + THREAD_SECONDS
        new = [t for t in threading.enumerate() if t not in self.threads and type(t).__name__ not in _MONITORS]
        for thread in new:
            thread.join(max(0.0, end - time.monotonic()))
        return sum(thread.is_alive() for thread in new)


@contextlib.contextmanager
def watching() -> Iterator[Aftermath]:
    """Watch the block. The environment is put back when it ends."""
    result = Aftermath(threads=frozenset(threading.enumerate()))
    lines: list[str] = []
    emit = logging.Logger.callHandlers

    def noted(self: logging.Logger, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):  # a message that does not go with its arguments
            lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")
        emit(self, record)

    environment, files = dict(os.environ), _files()
    try:
        with mock.patch.object(logging.Logger, "callHandlers", noted):
            yield result
    finally:
        result.leaves["log"] = "\n".join(lines)
        now = dict(os.environ)
        names = sorted(n for n in {**environment, **now} if environment.get(n) != now.get(n))
        result.leaves["environment"] = ", ".join(f"{n} {_digest(now.get(n))}" for n in names)
        if names:
            os.environ.clear()
            os.environ.update(environment)
        found = _files()
        written = {_DIGITS.sub("#", name) for name, facts in found.items() if files.get(name) != facts}
        result.leaves["files written"] = ", ".join(sorted(written))


def _files() -> dict[str, tuple[int, int]]:
    """Name → time and size of each file that the calls of this process have written so far."""
    if _scratch is None:
        return {}
    found: dict[str, tuple[int, int]] = {}
    for folder, _, names in os.walk(_scratch):
        for name in names:
            path = os.path.join(folder, name)
            short = os.path.relpath(path, _scratch).removeprefix("changed/")
            if _PASSING.search(short) or len(found) >= _MOST_FILES:
                continue
            with contextlib.suppress(OSError):
                facts = os.lstat(path)
                found[short] = facts.st_mtime_ns, facts.st_size
    return found


def _digest(value: str | None) -> str:
    return "unset" if value is None else hashlib.blake2b(value.encode("utf-8", "replace"), digest_size=4).hexdigest()
