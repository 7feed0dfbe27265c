"""Kills at chosen points: a forked child that runs a function and dies at its n-th call into the system."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def killed_at(number: int, function: Callable[[], Any], *, file_bytes: int | None = None) -> bool:
    """Run `function` in a forked child that is killed at the n-th entry or exit of a function of the system's or a
    file's: before and after each system call that Python makes. Whether it was killed; else it came to its end.

    `file_bytes` lets no file grow beyond that: the write that would is cut short, and the child killed.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _run(number, function, file_bytes)
            code = 0
        finally:
            sys.setprofile(None)
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the child failed by itself"
    return False


def _run(number: int, function: Callable[[], Any], file_bytes: int | None) -> None:
    if file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    left = [number]

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event in ("c_call", "c_return", "c_exception") and _asks_the_system(argument):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)
    function()
    sys.setprofile(None)


def _asks_the_system(function: Any) -> bool:
    return "posix" in (function.__module__ or "") or type(function.__self__).__module__ == "_io" or function is open


def kills(function: Callable[[], Any], after: Callable[[], Any], most: int = 2000) -> int:
    """Kill `function` at every point, one after the other, with `after` called each time; how many points there are."""
    for number in range(most):
        if not killed_at(number, function):
            return number
        after()
    raise AssertionError(f"no end after {most} points")
