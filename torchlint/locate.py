"""Where settings lie: found upwards from a run's paths, as bytes; `config` gives them their meaning.

Apart from `config` because a run over unchanged files needs these bytes, as the cache's key, and nothing else of it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing itself takes longer to import than a warm run may
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

OWN, PROJECT = "torchlint.toml", "pyproject.toml"
MARKS = frozenset((OWN, PROJECT))  # a folder that holds one may have settings of its own
# What tells a project's torch version, in the order in which it is asked; see `pins`.
DECLARATIONS = (PROJECT, "setup.cfg", "setup.py", "requirements.txt", "environment.yml", "environment.yaml")
LOCKS = ("uv.lock", "poetry.lock")
_EXTENDS_AT_MOST = 10


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the file, the key and the nearest known one."""


class Located:
    """The nearest file with settings, what it extends, and what tells the torch version of the project.

    `root` is the project's folder. `marked` says that something (settings, pyproject.toml, .git) makes it a project.
    `start` is the folder that the search began in. `bases` are the extended files, the nearest first.
    """

    __slots__ = ("bases", "data", "explicit", "hints", "marked", "path", "project", "project_data", "root", "start")

    def __init__(self, start: str) -> None:
        self.start = start
        self.path = ""
        self.data = b""
        self.explicit = False
        self.bases: list[tuple[str, bytes]] = []
        self.project = ""
        self.project_data = b""
        self.hints: list[tuple[str, bytes]] = []
        self.root = ""
        self.marked = True

    @property
    def key(self) -> tuple[Any, ...]:
        """Differs whenever the settings may; made of what marshal takes."""
        return (self.root, self.path, self.data, tuple(self.bases), tuple(self.hints))


def _read(path: str) -> bytes | None:
    try:
        # Not to wait for a named pipe, nor to read a device without end: a checkout may hold links to either.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            mode = os.fstat(handle).st_mode
            return file.read() if mode & 0o170000 == 0o100000 else None  # `stat.S_ISREG`, without the import
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
    from torchlint.config import section
    from torchlint.toml import BrokenToml

    try:
        return section(path, data) is not None
    except BrokenToml:
        return False  # said when it is loaded as the project's own pyproject.toml


def locate(paths: Iterable[str], explicit: str = "") -> Located:
    """Search upwards from the folder that all paths share. Raises ConfigError for a file that cannot be read."""
    start = current = _start(paths)
    found = Located(start)
    if explicit:
        data = _read(explicit)
        if data is None:
            raise ConfigError(f"{explicit}: no such config file{_near(explicit)}")
        found.path, found.data, found.explicit = explicit, data, True
    while True:
        here = _look(found, current) or os.path.exists(os.path.join(current, ".git"))
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
    found.bases = _bases(found.path, found.data)
    found.hints = _all_hints(found)
    return found


def below(folder: str, top: Located) -> Located:
    """The settings that hold for a folder inside `top.start`: its own or nearest, `top`'s where there are none between.

    A pyproject.toml without settings stays in the enclosing project and tells only the torch version.
    Raises ConfigError.
    """
    found = Located(folder)
    current = folder
    while current != top.start and not (found.path and found.project):
        _look(found, current)
        parent = os.path.dirname(current)
        if parent == current:
            break
        current = parent
    hints = _hints(os.path.dirname(found.project)) if found.project else []
    if not found.path and not hints:
        return top
    if found.path:
        found.root = os.path.dirname(found.path)
        found.bases = _bases(found.path, found.data)
    else:
        found.path, found.data, found.bases = top.path, top.data, top.bases
        found.root, found.marked = top.root, top.marked
    if not found.project:
        found.project, found.project_data = top.project, top.project_data
    found.hints = _all_hints(found)
    return found


def _all_hints(found: Located) -> list[tuple[str, bytes]]:
    """What tells the torch version: beside the nearest pyproject.toml and in the project's folder, the inner first."""
    folders = {found.root, os.path.dirname(found.project)} if found.project else {found.root}
    return [hint for folder in sorted(folders, key=len, reverse=True) for hint in _hints(folder)]


def between(paths: Iterable[str], start: str) -> set[str]:
    """The folders below `start`, down to the given paths, that may hold settings: no search of the paths meets them."""
    found: set[str] = set()
    seen = {start}
    for path in paths:
        folder = os.path.abspath(path)
        while folder not in seen and len(folder) > len(start):
            seen.add(folder)
            if any(os.path.exists(os.path.join(folder, name)) for name in MARKS):
                found.add(folder)
            folder = os.path.dirname(folder)
    return found


def _look(found: Located, folder: str) -> bool:
    """Add what one folder holds to what was found below it; whether it holds anything."""
    own = _read(os.path.join(folder, OWN)) if not found.path else None
    path = os.path.join(folder, PROJECT)
    project = _read(path) if not found.path or not found.project else None
    if own is not None:
        found.path, found.data = os.path.join(folder, OWN), own
    if project is not None:
        if not found.project:
            found.project, found.project_data = path, project
        if not found.path and _holds_settings(path, project):
            found.path, found.data = path, project
    return own is not None or project is not None


def extended(path: str, data: bytes) -> str:
    """The file that `extend = "..."`, on a line of its own, names; "" if there is none.

    Read by hand, since the cache's key needs that file's bytes and a parser of TOML takes longer than the whole run.
    """
    if b"extend" not in data:
        return ""
    header = b"[tool.torchlint]"
    inside = os.path.basename(path) != PROJECT
    for line in data.splitlines():
        line = line.strip()
        if line.startswith(b"["):
            inside = line.partition(b"#")[0].replace(b" ", b"") == header
        name, _, value = line.partition(b"=")
        quote = value.strip()[:1]
        if inside and name.strip() == b"extend" and quote in (b'"', b"'"):
            target = os.path.expanduser(value.strip()[1:].partition(quote)[0].decode("utf-8", "replace"))
            return os.path.normpath(os.path.join(os.path.dirname(path), target))
    return ""


def _bases(path: str, data: bytes) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    seen = [os.path.abspath(path)]
    while target := extended(path, data):
        if os.path.abspath(target) in seen or len(seen) > _EXTENDS_AT_MOST:
            raise ConfigError(f"{path}: extend leads in a circle through {target}")
        base = _read(target)
        if base is None:
            hint = _near(target)
            hint = "" if hint.endswith(f"{path}?") else hint  # the file itself is not meant
            raise ConfigError(f"{path}: extend names {target}, which does not exist{hint}")
        seen.append(os.path.abspath(target))
        found.append((target, base))
        path, data = target, base
    return found


def _hints(folder: str) -> list[tuple[str, bytes]]:
    """The files of a folder that may tell the torch version, in the order in which they are asked.

    Those that cannot be read say nothing, and of a lock file only torch's own entry is kept.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    found: list[tuple[int, str, bytes]] = []
    for name in names:
        if name in DECLARATIONS:
            rank = DECLARATIONS.index(name)
        elif name in LOCKS:
            rank = len(DECLARATIONS) + LOCKS.index(name)
        elif name.startswith("requirements") and name.endswith(".txt"):
            rank = DECLARATIONS.index("requirements.txt")
        else:
            continue
        path = os.path.join(folder, name)
        try:
            data = _read(path) or b""
        except ConfigError:
            continue
        if name in LOCKS:
            data = _locked(data)
        if b"torch" in data:
            found.append((rank, path, data))
    # requirements.txt before its variants, which follow by name.
    found.sort(key=lambda hint: (hint[0], not hint[1].endswith(os.sep + "requirements.txt"), hint[1]))
    return [(path, data) for _, path, data in found]


def _locked(data: bytes) -> bytes:
    """The entries of torch in a lock file: their two lines `name = …` and `version = …`."""
    entries: list[bytes] = []
    at = data.find(b'name = "torch"')
    while at >= 0:
        entries += data[at : at + 200].splitlines(keepends=True)[:2]
        at = data.find(b'name = "torch"', at + 1)
    return b"".join(entries)


def _near(path: str) -> str:
    from torchlint.discover import nearest_path

    return nearest_path(path)
