"""Results as plain data, and the file that keeps them between runs.

One marshal file per project and settings. marshal does not survive bytes that somebody made up, and a cache may come
with a checkout: so each file carries a keyed digest, and nothing is read before that is right. The key is the user's
own and lies outside of every checkout (`secret`). A file that is damaged, foreign or from another version counts as
empty. This module imports nothing heavy, since a run over unchanged files is mostly it.
"""

from __future__ import annotations

import marshal
import os
import sys
import time

TYPE_CHECKING = False  # typing itself takes longer to import than a warm run may
if TYPE_CHECKING:
    from typing import Any

    from torchlint.diagnostic import Diagnostic
    from torchlint.suppress import Suppression

    # A file's outcome: (findings, suppressions or () where they are applied, whether questions are open).
    Outcome = tuple[tuple[Any, ...], tuple[Any, ...], bool]

FORMAT = 4
MAGIC = b"torchlint cache\n"
_MAC = 16  # bytes of the keyed digest, behind the magic
_GRANULE = 2_000_000_000  # ns: two changes closer than this may leave one and the same time (FAT; ext4 takes 4 ms)
_REPORTS, _LONG = 4, 200_000  # how many printed reports are kept, and up to how many characters
FOLDER = ".torchlint_cache"
_NO_RESULTS = {"__pycache__", "verify", "server", "fixtures"}  # folders of ours that change nothing that is kept


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


def digest(data: bytes, key: bytes = b"") -> bytes:
    from _blake2 import blake2b

    return bytes(blake2b(data, digest_size=16, key=key).digest())


def changed_at(info: os.stat_result) -> int:
    """When a file was last changed, in a way that nobody can set back: `touch -r` leaves a new ctime."""
    return info.st_ctime_ns if os.name == "posix" else info.st_mtime_ns


def horizon() -> int:
    """Files changed after this may change once more without a new time; to be asked for before they are read."""
    return time.time_ns() - _GRANULE


def stamp(info: os.stat_result, since: int) -> int:
    """What a file's time must be for its outcome to hold without a look inside; 0 where it has changed since then."""
    changed = changed_at(info)
    return changed if changed < since else 0


def fingerprint(files: list[str]) -> bytes:
    """Changes whenever one of the files does, save for changes that follow one another at once (`recent`)."""
    seen = []
    for path in files:
        try:
            info = os.stat(path)
        except OSError:
            continue
        seen.append((path, changed_at(info), info.st_size))
    return digest(marshal.dumps(seen))


def recent(files: list[str]) -> tuple[tuple[str, bytes], ...]:
    """The files whose time may not tell their next change, with the digests of what is in them."""
    since = horizon()
    found = []
    for path in files:
        try:
            if stamp(os.stat(path), since):
                continue
            with open(path, "rb") as handle:
                found.append((path, digest(handle.read())))
        except OSError:
            continue
    return tuple(found)


def holds(state: tuple[bytes, tuple[tuple[str, bytes], ...]], files: list[str]) -> bool:
    """Whether files are still what they were when (`fingerprint`, `recent`) was taken of them."""
    if fingerprint(files) != state[0]:
        return False
    try:
        for path, content in state[1]:
            with open(path, "rb") as handle:
                if digest(handle.read()) != content:
                    return False
    except OSError:
        return False
    return True


def secret_path() -> str:
    """Where this user's key lies, "" where there is no place for it."""
    base = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else "")
    base = base or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "torchlint", "key") if os.path.isabs(base) else ""


def secret() -> bytes:
    """This user's key, made when it is first asked for; b"" where it cannot be kept from others."""
    path = secret_path()
    if path and path not in _secrets:
        _secrets[path] = _read_secret(path) or _make_secret(path)
    return _secrets.get(path, b"")


_secrets: dict[str, bytes] = {}


def _read_secret(path: str) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return b""
    try:
        info = os.fstat(handle)
        if os.name == "posix" and (info.st_uid != os.geteuid() or info.st_mode & 0o077):
            return b""  # whoever can read the key can write what we would load
        key = os.read(handle, 33)
    except OSError:
        return b""
    finally:
        os.close(handle)
    return key if len(key) == 32 else b""


def _make_secret(path: str) -> bytes:
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        if os.name == "posix" and os.stat(folder).st_uid != os.geteuid():
            return b""  # as root with another user's home: the key would be theirs to replace
        temporary = f"{path}.{os.urandom(8).hex()}.tmp"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(handle, "wb") as out:
                out.write(os.urandom(32))
            os.replace(temporary, path)
        except BaseException:
            _unlink(temporary)
            raise
    except OSError:
        return b""
    return _read_secret(path)  # of two runs that make one at the same time, the later one's stays


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return


def sources_stamp() -> bytes:
    """What changes when torchlint or a rule does: name, size and time of each of its source files, and of plugins'."""
    import torchlint
    from torchlint import plugins

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
    return marshal.dumps((torchlint.__version__, sorted(seen), repr(plugins.stamp())))


def sound(data: bytes, name: str, key: bytes) -> bool:
    """Whether a cache file is as a run of this user wrote it, under this name."""
    start = len(MAGIC) + _MAC
    return data.startswith(MAGIC) and digest(data[start:], key + name.encode()) == data[len(MAGIC) : start]


class Cache:
    """The outcomes of earlier runs under the same settings. `setup` is what the run wants back.

    Without a key of the user's, or where the folder is a link, nothing is read or written: `path` is empty.
    """

    def __init__(self, folder: str, key: bytes) -> None:
        self._secret = b"" if os.path.islink(folder) else secret()
        name = digest(marshal.dumps((FORMAT, sys.version_info[:3], sys.platform, key)), self._secret).hex()
        self.folder = folder
        self.path = os.path.join(folder, name) if self._secret else ""
        self.setup: dict[str, Any] | None = None
        # `fingerprint` and `recent` of the project, `Answers`
        self.answers: tuple[tuple[bytes, tuple[tuple[str, bytes], ...]], tuple[Any, ...]] | None = None
        self._files: dict[str, tuple[int, int, bytes, Outcome]] = {}
        self._reports: dict[bytes, tuple[str, int]] = {}
        self._loaded: tuple[Any, Any] = (None, None)
        self._changed = False
        self._here = os.getcwd().rstrip("/") + "/"
        if self.path:
            self._load()

    def _load(self) -> None:
        try:
            with open(self.path, "rb") as handle:
                data = handle.read()
            if not sound(data, os.path.basename(self.path), self._secret):
                return  # cut short, altered, or not ours
            setup, answers, files, reports = marshal.loads(data[len(MAGIC) + _MAC :])
        except (OSError, ValueError, EOFError, TypeError):
            return
        self.setup, self.answers, self._files, self._reports = setup, answers, files, reports
        self._loaded = (setup, answers)

    def lookup(self, path: str, stamp: int, size: int) -> Outcome | None:
        """The outcome of a file of the same stamp and size, or else (as in a fresh checkout) of the same bytes."""
        path = self._key(path)
        entry = self._files.get(path)
        if entry is None or entry[1] != size:
            return None
        if entry[0] != stamp or not stamp:
            try:
                with open(path, "rb") as handle:
                    content = digest(handle.read())
            except OSError:
                return None
            if content != entry[2]:
                return None
            if entry[0] != stamp:
                self.put(path, stamp, size, content, entry[3])
        return entry[3]

    def put(self, path: str, stamp: int, size: int, content: bytes, outcome: Outcome) -> None:
        self._files[self._key(path)] = (stamp, size, content, outcome)
        self._changed = True

    def content(self, path: str) -> bytes:
        """The digest of what was in a file that `lookup` knows."""
        return self._files[self._key(path)][2]

    def report(self, key: bytes) -> tuple[str, int] | None:
        """What a run printed, and its exit code, that had the same files with the same outcomes to show."""
        return self._reports.get(key)

    def keep_report(self, key: bytes, text: str, code: int) -> None:
        """Of the last few runs only, and nothing that takes longer to read back than to write anew."""
        if len(text) <= _LONG:
            self._reports = {**dict(list(self._reports.items())[1 - _REPORTS :]), key: (text, code)}
            self._changed = True

    def _key(self, path: str) -> str:
        if path[:1] == "/":
            return path
        return os.path.abspath(path) if path[:1] == "." or os.sep != "/" else self._here + path

    def save(self) -> None:
        """Write what is new, atomically; a folder that cannot be written is no reason to fail a run."""
        if not self.path or (not self._changed and self._loaded == (self.setup, self.answers)):
            return
        try:
            data = marshal.dumps((self.setup, self.answers, self._files, self._reports))
            os.makedirs(self.folder, exist_ok=True)
            self._mark()
            temporary = f"{self.path}.{os.urandom(4).hex()}.tmp"
            try:
                with open(temporary, "xb") as out:
                    name = os.path.basename(self.path).encode()
                    out.write(MAGIC + digest(data, self._secret + name))
                    out.write(data)
                os.replace(temporary, self.path)
            except BaseException:
                _unlink(temporary)
                raise
        except (OSError, ValueError):
            return
        self._changed, self._loaded = False, (self.setup, self.answers)
        self._forget_old()

    def _mark(self) -> None:
        """Keep git out of a folder that is ours alone; one that holds anything else is not to be hidden."""
        ignore = os.path.join(self.folder, ".gitignore")
        if not os.path.lexists(ignore) and all(map(_is_ours, os.listdir(self.folder))):
            with open(ignore, "x", encoding="ascii") as handle:
                handle.write("*\n")

    def _forget_old(self, keep: int = 40) -> None:
        """Old settings and versions leave files behind: the least recently written go, and what killed runs left."""
        try:
            with os.scandir(self.folder) as scan:
                files = [(e.stat().st_mtime_ns, e.path) for e in scan if _is_ours(e.name) and e.is_file()]
        except OSError:
            return
        abandoned = time.time_ns() - _ABANDONED
        whole = sorted(f for f in files if not f[1].endswith(".tmp"))
        for _, path in whole[:-keep]:
            _forget(path)
        for changed, path in files:
            if path.endswith(".tmp") and changed < abandoned:
                _forget(path)


_ABANDONED = 600_000_000_000  # ns: no run takes that long to write its cache


def _is_ours(name: str) -> bool:
    """Whether a file is named like ours: 32 hexadecimal digits, and behind them what marks a file in the making."""
    return not name[:32].strip("0123456789abcdef") and len(name) >= 32 and (len(name) == 32 or name.endswith(".tmp"))


def _forget(path: str) -> None:
    """Delete one of our files, whatever else may lie in the folder that settings have named."""
    try:
        with open(path, "rb") as handle:
            if not MAGIC.startswith(handle.read(len(MAGIC))):  # one that a killed run left may be short
                return
        os.unlink(path)
    except OSError:
        return
