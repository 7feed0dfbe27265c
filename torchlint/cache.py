"""Results as plain data, and the file that keeps them between runs.

One marshal file per project and settings, never a pickle: reading it runs nothing. A file that is damaged, foreign or
from another version counts as empty. This module imports nothing heavy, since a run over unchanged files is mostly it.
"""

from __future__ import annotations

import marshal
import os
import sys

TYPE_CHECKING = False  # typing itself takes longer to import than a warm run may
if TYPE_CHECKING:
    from typing import Any

    from torchlint.diagnostic import Diagnostic
    from torchlint.suppress import Suppression

    # A file's outcome: (findings, suppressions or () where they are applied, whether questions are open).
    Outcome = tuple[tuple[Any, ...], tuple[Any, ...], bool]

FORMAT = 2
FOLDER = ".torchlint_cache"
_NO_RESULTS = {"__pycache__", "report", "verify", "server", "fixtures"}  # folders of ours that change no finding


def pack(d: Diagnostic) -> tuple[Any, ...]:
    """A finding as tuples of strings and numbers, its path left out."""
    fix = d.fix and (tuple((e.start, e.end, e.text) for e in d.fix.edits), d.fix.applicability.value, d.fix.message)
    unless = tuple((q.ask, q.subject) for q in d.unless)
    place = (d.row, d.column, d.end_row, d.end_column, d.start, d.end)
    return (d.code, d.name, d.severity.value, d.message, *place, fix, unless, d.cell)


def unpack(path: str, packed: tuple[Any, ...]) -> Diagnostic:
    from torchlint.diagnostic import Applicability, Diagnostic, Edit, Fix, Question, Severity

    code, name, severity, message, row, column, end_row, end_column, start, end, fix, unless, cell = packed
    return Diagnostic(
        code, name, Severity(severity), message, path, row, column, end_row, end_column, start, end,
        fix and Fix(tuple(Edit(*e) for e in fix[0]), Applicability(fix[1]), fix[2]),
        tuple(Question(*q) for q in unless), cell,
    )  # fmt: skip


def pack_suppression(s: Suppression) -> tuple[Any, ...]:
    return (s.kind, s.selectors, s.row, s.column, s.start, s.end, s.first, s.last, s.alone, s.cut, s.codes, s.cell)


def unpack_suppression(packed: tuple[Any, ...]) -> Suppression:
    from torchlint.suppress import Suppression

    return Suppression(*packed)


def digest(data: bytes) -> bytes:
    from _blake2 import blake2b

    return bytes(blake2b(data, digest_size=16).digest())


def fingerprint(files: list[str]) -> bytes:
    """Changes whenever one of the files does."""
    seen = []
    for path in files:
        try:
            info = os.stat(path)
        except OSError:
            continue
        seen.append((path, info.st_mtime_ns, info.st_size))
    return digest(marshal.dumps(seen))


def sources_stamp() -> bytes:
    """What changes when torchlint or a rule does: name, size and time of each of its source files."""
    import torchlint

    here = os.path.dirname(os.path.abspath(torchlint.__file__))
    seen: list[tuple[str, int, int]] = []
    folders = [here, os.path.join(os.path.dirname(here), "rules")]
    for folder in folders:
        if os.path.isdir(folder):
            with os.scandir(folder) as scan:
                for entry in scan:
                    if entry.name.endswith(".py"):
                        info = entry.stat()
                        seen.append((entry.name, info.st_mtime_ns, info.st_size))
                    elif entry.is_dir() and entry.name not in _NO_RESULTS:
                        folders.append(entry.path)
    return marshal.dumps((torchlint.__version__, sorted(seen)))


def sound(data: bytes) -> bool:
    """Whether a cache file is as it was written: marshal itself does not survive every wrong byte."""
    return digest(data[16:]) == data[:16]


class Cache:
    """The outcomes of earlier runs under the same settings. `setup` is what the run wants back."""

    def __init__(self, folder: str, key: bytes) -> None:
        name = digest(marshal.dumps((FORMAT, sys.version_info[:3], sys.platform, key))).hex()
        self.folder = folder
        self.path = os.path.join(folder, name)
        self.setup: dict[str, Any] | None = None
        self.answers: tuple[bytes, tuple[Any, ...]] | None = None  # fingerprint of the project, `Answers`
        self._files: dict[str, tuple[int, int, bytes, Outcome]] = {}
        self._loaded: tuple[Any, Any] = (None, None)
        self._changed = False
        self._here = os.getcwd().rstrip("/") + "/"
        self._load()

    def _load(self) -> None:
        try:
            with open(self.path, "rb") as handle:
                data = handle.read()
            if not sound(data):
                return  # cut short or altered
            setup, answers, files = marshal.loads(data[16:])
        except (OSError, ValueError, EOFError, TypeError):
            return
        self.setup, self.answers, self._files = setup, answers, files
        self._loaded = (setup, answers)

    def lookup(self, path: str, mtime: int, size: int) -> Outcome | None:
        """The outcome of a file of the same time and size, or else (as in a fresh checkout) of the same bytes."""
        path = self._key(path)
        entry = self._files.get(path)
        if entry is None or entry[1] != size:
            return None
        if entry[0] != mtime:
            try:
                with open(path, "rb") as handle:
                    content = digest(handle.read())
            except OSError:
                return None
            if content != entry[2]:
                return None
            self.put(path, mtime, size, content, entry[3])
        return entry[3]

    def put(self, path: str, mtime: int, size: int, content: bytes, outcome: Outcome) -> None:
        self._files[self._key(path)] = (mtime, size, content, outcome)
        self._changed = True

    def _key(self, path: str) -> str:
        if path[:1] == "/":
            return path
        return os.path.abspath(path) if path[:1] == "." or os.sep != "/" else self._here + path

    def save(self) -> None:
        """Write what is new, atomically; a folder that cannot be written is no reason to fail a run."""
        if not self._changed and self._loaded == (self.setup, self.answers):
            return
        try:
            data = marshal.dumps((self.setup, self.answers, self._files))
            os.makedirs(self.folder, exist_ok=True)
            ignore = os.path.join(self.folder, ".gitignore")
            if not os.path.exists(ignore):
                with open(ignore, "w", encoding="ascii") as handle:
                    handle.write("*\n")
            temporary = f"{self.path}.{os.getpid()}.tmp"
            with open(temporary, "wb") as handle:
                handle.write(digest(data))
                handle.write(data)
            os.replace(temporary, self.path)
        except (OSError, ValueError):
            return
        self._changed, self._loaded = False, (self.setup, self.answers)
        self._forget_old()

    def _forget_old(self, keep: int = 40) -> None:
        """Old settings and versions leave files behind: the least recently written go."""
        try:
            with os.scandir(self.folder) as scan:
                files = [(e.stat().st_mtime_ns, e.path) for e in scan if e.is_file() and e.name != ".gitignore"]
            for _, path in sorted(files)[:-keep]:
                os.unlink(path)
        except OSError:
            return
