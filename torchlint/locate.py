"""Where a run's settings lie: found upwards from its paths, as bytes; `config` gives them their meaning.

Apart from `config` because a run over unchanged files needs these bytes, as the cache's key, and nothing else of it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing itself takes longer to import than a warm run may
if TYPE_CHECKING:
    from collections.abc import Iterable


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the file, the key and the nearest known one."""


class Located:
    """The files that settings come from: the nearest with settings, and the nearest pyproject.toml.

    `root` is the project's folder. `marked` says that something (settings, pyproject.toml, .git) makes it a project.
    """

    __slots__ = ("data", "marked", "path", "project", "project_data", "root")

    def __init__(self) -> None:
        self.path = ""
        self.data = b""
        self.project = ""
        self.project_data = b""
        self.root = ""
        self.marked = True


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _start(paths: Iterable[str]) -> str:
    tops = [os.path.abspath(p) for p in paths] or [os.getcwd()]
    try:
        start = os.path.commonpath(tops)
    except ValueError:  # different drives
        start = tops[0]
    return start if os.path.isdir(start) else os.path.dirname(start)


def _holds_settings(path: str, data: bytes) -> bool:
    if b"torchlint" not in data:
        return False
    if b"[tool.torchlint" in data:
        return True
    from torchlint.config import BrokenToml, section

    try:
        return section(path, data) is not None
    except BrokenToml:
        return False  # said when it is loaded as the project's own pyproject.toml


def locate(paths: Iterable[str], explicit: str = "") -> Located:
    """Search upwards from the folder that all paths share. Raises ConfigError for a file that cannot be read."""
    found = Located()
    if explicit:
        data = _read(explicit)
        if data is None:
            raise ConfigError(f"{explicit}: no such config file")
        found.path, found.data = explicit, data
    start = current = _start(paths)
    while True:
        own = _read(os.path.join(current, "torchlint.toml")) if not found.path else None
        path = os.path.join(current, "pyproject.toml")
        project = _read(path) if not found.path or not found.project else None
        if own is not None:
            found.path, found.data = os.path.join(current, "torchlint.toml"), own
        if project is not None:
            if not found.project:
                found.project, found.project_data = path, project
            if not found.path and _holds_settings(path, project):
                found.path, found.data = path, project
        here = own is not None or project is not None or os.path.exists(os.path.join(current, ".git"))
        if not found.root and here:
            found.root = current
        parent = os.path.dirname(current)
        if parent == current or (found.path and found.project and found.root):
            break
        current = parent
    if found.path and not explicit:
        found.root = os.path.dirname(found.path)
    if not found.root:
        found.root, found.marked = start, False
    return found
