"""A clock that ticks per reading instead of by itself, for the user's own code while two versions of it are compared.

Training code prints and returns elapsed times; with a real clock no program would ever equal itself. Only calls from
files beneath the project see this clock: timeouts of libraries go by the real one, and so do we where the project is
our own checkout (times that tick per reading would measure nothing).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

TICK = 1_000_000  # nanoseconds per reading
_READINGS = ("time", "perf_counter", "monotonic", "process_time", "thread_time")

_OURS = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "")

_project = ""
_starts: dict[str, int] | None = None  # None: the real clock
_ticks = 0


def install(project: str) -> None:
    """Put the readings of `time` into our hands; until `freeze` they tell the real time."""
    global _project
    _project = os.path.join(os.path.realpath(project), "")
    for name in _READINGS:
        real = getattr(time, f"{name}_ns")
        setattr(time, f"{name}_ns", _reading(name, real, 1))
        setattr(time, name, _reading(name, getattr(time, name), 1e9))


def _reading(name: str, real: Callable[[], Any], per: float) -> Callable[[], Any]:
    def read() -> Any:
        global _ticks
        if _starts is None or not _is_users(sys._getframe(1).f_code.co_filename):
            return real()
        _ticks += 1
        nanoseconds = _starts[name] + _ticks * TICK
        return nanoseconds if per == 1 else nanoseconds / per

    read.__name__ = read.__qualname__ = name if per != 1 else f"{name}_ns"
    return read


def _is_users(filename: str) -> bool:
    path = os.path.realpath(filename)
    return path.startswith(_project) and "site-packages" not in path and not path.startswith(_OURS)


def readings() -> dict[str, int]:
    """What each clock says now, in nanoseconds."""
    return {name: int(getattr(time, f"{name}_ns")()) for name in _READINGS}


def freeze(starts: dict[str, int] | None = None) -> None:
    """From now on the project's code sees time that starts at `starts` (else at a fixed moment) and ticks when read."""
    global _starts, _ticks
    _starts = starts or dict.fromkeys(_READINGS, 1_700_000_000 * 10**9)
    _ticks = 0
