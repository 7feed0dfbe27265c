"""Ends a program when all that was asked of its calls is answered: the rest of a long training shows nothing more."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchlint.verify.shadow import Shadow

_unanswered: list[list[Shadow]] = []  # by function
_process = 0


def expect(shadows: Iterable[Shadow]) -> None:
    """All variants of all functions that are to be compared, those whose modules are not loaded yet too."""
    global _process
    _process = os.getpid()
    functions: dict[tuple[str, str, tuple[int, int]], list[Shadow]] = {}
    for shadow in shadows:
        if not shadow.function.unable:
            functions.setdefault((shadow.path, shadow.function.name, shadow.function.before), []).append(shadow)
    _unanswered.extend(functions.values())


def stop_if_answered() -> None:
    """Raises SystemExit, once, in the main thread of the first process, when no function has a question left."""
    here = os.getpid() == _process and threading.current_thread() is threading.main_thread()
    if not here or not _unanswered:
        return
    _unanswered[:] = [shadows for shadows in _unanswered if any(s.wants() for s in shadows) and not _settled(shadows)]
    if not _unanswered:
        raise SystemExit(0)


def _settled(shadows: Sequence[Shadow]) -> bool:
    """Whether the first variant is equivalent to the end, so that nothing more is asked of the others."""
    return not shadows[0].wants() and shadows[0].complete and shadows[0].verdict().equivalent
