"""`torchlint check --watch`: the check again whenever a file that matters to it changes. Needs watchfiles."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from torchlint import cache
from torchlint.discover import CODE, DEFAULT_EXCLUDE, DOCUMENTS, discover
from torchlint.locate import DECLARATIONS, LOCKS, MARKS, ConfigError, locate
from torchlint.options import Arguments
from torchlint.telling import harmless, tell

if TYPE_CHECKING:
    from watchfiles import Change

TROUBLE, INTERRUPTED = 2, 130
CLEAR = "\x1b[H\x1b[2J\x1b[3J"
# These make no sense for a check that never ends.
ONCE = ("--add-ignore", "--show-files", "--diff", "--output-file", "--write-baseline")
_BY_NAME = {*MARKS, *DECLARATIONS, *LOCKS, ".gitignore"}
_SKIPPED = frozenset(DEFAULT_EXCLUDE)


def watch(arguments: Arguments, check: Callable[[Arguments], int]) -> int:
    """Call `check` now and after every change, until Ctrl-C; the exit code says what could not be started."""
    for option in ONCE:
        if arguments.flag(option):
            return _trouble(f"--watch cannot be used with {option}")
    if not arguments.paths or "-" in arguments.paths:
        return _trouble("--watch needs paths, such as `torchlint check --watch .`")
    if importlib.util.find_spec("watchfiles") is None:
        return _trouble("--watch needs watchfiles: pip install 'torchlint[watch]'")
    once = arguments.without("--watch")
    if not any(os.path.exists(path) for path in once.paths):
        return check(once)  # says so
    try:
        return _repeat(once, check)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except (OSError, RuntimeError) as error:  # what watchfiles raises where the system gives it no more watches
        folders = ", ".join(_folders(once))
        return _trouble(f"{folders} cannot be watched: {error}; on Linux, raise fs.inotify.max_user_watches")


def _trouble(line: str) -> int:
    tell(line)
    return TROUBLE


def _repeat(arguments: Arguments, check: Callable[[Arguments], int]) -> int:
    from watchfiles import watch as changes_of

    state = _state(arguments)
    _once(arguments, check)
    folders = _folders(arguments)
    # A second without a change yields an empty set: the first of them shows what happened before the watching began.
    for changes in changes_of(
        *folders, watch_filter=concerns, debounce=400, step=30, rust_timeout=1000, yield_on_timeout=True
    ):
        if changes or (state and _state(arguments) != state):
            _once(arguments, check)
        state = b""
    return INTERRUPTED  # the iteration ends only by an interrupt


def concerns(change: Change, path: str) -> bool:
    """Whether a changed file may change findings."""
    folder, name = os.path.split(path)
    if not name.endswith((*CODE, *DOCUMENTS, ".toml")) and name not in _BY_NAME:
        if not (name.startswith("requirements") and name.endswith(".txt")):
            return False
    return _SKIPPED.isdisjoint(folder.split(os.sep))


def _once(arguments: Arguments, check: Callable[[Arguments], int]) -> None:
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        sys.stdout.write(CLEAR)
    check(arguments)
    sys.stdout.flush()
    if not arguments.flag("--quiet"):
        clock = time.strftime("%H:%M:%S")
        print(
            f"[{clock}] Watching {harmless(', '.join(arguments.paths))} for changes. Ctrl-C ends.",
            file=sys.stderr,
            flush=True,
        )


def _folders(arguments: Arguments) -> list[str]:
    """What to watch: the project, since callers elsewhere in it decide too, and what was named outside of it.

    Folders, never files: an editor that saves by renaming would take a watched file away.
    """
    paths = [os.path.abspath(path) for path in arguments.paths if os.path.exists(path)]
    tops = {path if os.path.isdir(path) else os.path.dirname(path) for path in paths}
    try:
        located = locate(paths, arguments.text("--config"))
        if located.marked:
            tops.add(os.path.abspath(located.root))
        tops |= {os.path.dirname(os.path.abspath(path)) for path, _ in located.bases}
    except ConfigError:
        pass  # said by the check
    return sorted(top for top in tops if not any(top != o and top.startswith(o.rstrip(os.sep) + os.sep) for o in tops))


def _state(arguments: Arguments) -> bytes:
    return cache.fingerprint(discover(arguments.paths)[0])
