"""Ends a program when all that was asked of its calls is answered: the rest of a long training shows nothing more.

Not at once: for half as long again calls of another kind may come, in eval mode or with the last batch of an epoch.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchlint.verify.shadow import Shadow

SHORTEST, LONGEST = 1.0, 5.0  # seconds that a program goes on once all is answered

_unanswered: list[list[Shadow]] = []  # by function
_process = 0
_begun = 0.0
_more = 0.0  # seconds for which it goes on, 0 while a question is left
_end = 0.0  # when the program is to end


def expect(shadows: Iterable[Shadow]) -> None:
    """All variants of all functions that are to be compared, those whose modules are not loaded yet too."""
    global _process, _begun
    _process, _begun = os.getpid(), time.monotonic()
    functions: dict[tuple[str, str, tuple[int, int]], list[Shadow]] = {}
    for shadow in shadows:
        if not shadow.function.unable:
            functions.setdefault((shadow.path, shadow.function.name, shadow.function.before), []).append(shadow)
    _unanswered.extend(functions.values())


def stop_if_answered(*, asked: bool) -> None:
    """Raises SystemExit, once, in the main thread of the first process, some time after the last question's answer.

    `asked` says that a call was just compared: the time that took does not count.
    """
    global _more, _end
    here = os.getpid() == _process and threading.current_thread() is threading.main_thread()
    if not here or not (_unanswered or _more):
        return
    now = time.monotonic()
    if _unanswered:
        _unanswered[:] = [group for group in _unanswered if any(s.wants() for s in group) and not _settled(group)]
        if not _unanswered:
            _more = min(LONGEST, max(SHORTEST, (now - _begun) / 2))
    if not _unanswered and asked:
        _end = now + _more
    elif not _unanswered and now >= _end:
        _more = 0.0
        raise SystemExit(0)


def _settled(shadows: Sequence[Shadow]) -> bool:
    """Whether the first variant is equivalent to the end, so that nothing more is asked of the others."""
    return not shadows[0].wants() and shadows[0].complete and shadows[0].verdict().equivalent
