"""`--baseline FILE`: findings that a team has accepted for now, so that only new ones are shown and count.

The file is data, and may come from a checkout that nobody trusts: it is read with limits, and nothing in it is opened
or run. One entry per line in a stable order, without line numbers, so that a changed file means a changed finding.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torchlint.diagnostic import Diagnostic
from torchlint.fingerprint import fingerprints, line_text
from torchlint.report.lines import Texts
from torchlint.report.terminal import clean

VERSION = 1
_KEY = "torchlint-baseline"
_LIMIT = 64 * 1024 * 1024  # bytes; some hundred thousand findings
_LONG = 120  # characters of a line of code, which stands there for people only
_ALIKE = 100  # files that are gone and had the same finding; more of them are told apart by nothing
# Never accepted: what lies behind a syntax error or a crash is not known.
_TROUBLE = ("TL001", "TL002")


class BaselineError(ValueError):
    """A baseline that cannot be used; the message names the file and what to do."""


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """An accepted finding. `path` is relative to the baseline's folder, with slashes; `line` and `message` are for
    people."""

    path: str
    code: str
    line: str
    fingerprint: str
    message: str

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.path, self.code, self.fingerprint)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a run could have found: an entry outside of it is neither met nor fixed."""

    files: Sequence[str]
    active: Callable[[str], frozenset[str]]  # file → codes of the rules that were run on it


@dataclass(frozen=True, slots=True)
class Comparison:
    """`new` are the findings that no entry accepts, `fixed` the entries that nothing was found for any more, and
    `renamed` the files that entries were followed to: (old, new) path."""

    new: list[Diagnostic]
    hidden: int
    fixed: list[Entry]
    renamed: list[tuple[str, str]]


class Baseline:
    """The entries of one file."""

    def __init__(self, path: str, entries: Iterable[Entry]) -> None:
        self.path = path
        self.entries = sorted(set(entries))
        self._folder = os.path.realpath(os.path.dirname(path) or ".")

    def relative(self, path: str) -> str:
        """A path of the run as the entries have it."""
        folder, name = os.path.split(path)
        full = os.path.join(os.path.realpath(folder or "."), name)
        try:
            return os.path.relpath(full, self._folder).replace(os.sep, "/")
        except ValueError:  # another drive
            return full.replace(os.sep, "/")

    def _gone(self, path: str) -> bool:
        try:
            return not os.path.lexists(os.path.join(self._folder, path))
        except ValueError:  # a name that no file can have
            return True

    def compare(self, found: Sequence[Diagnostic], source: Callable[[str], str], scope: Scope) -> Comparison:
        """Which findings are new, and which entries are fixed.

        The entries of a file that is gone are followed to a file that had none: the one where most of them are found
        again, if that is at least half of them.
        """
        left = {entry.key: entry for entry in self.entries}
        names = {path: self.relative(path) for path in {*scope.files, *(d.path for d in found)}}
        keys = [(names[d.path], d.code, f) for d, f in zip(found, fingerprints(found, Texts(source)))]
        renamed = self._renamed(keys)
        former = {new: old for old, new in renamed}
        new: list[Diagnostic] = []
        for d, (path, code, fingerprint) in zip(found, keys):
            key = (former.get(path, path), code, fingerprint)
            if d.code in _TROUBLE or left.pop(key, None) is None:
                new.append(d)
        fixed = self._judged(left.values(), names, scope, found, dict(renamed))
        return Comparison(new, len(found) - len(new), fixed, renamed)

    def _renamed(self, keys: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
        mine: dict[str, int] = {}
        by_finding: dict[tuple[str, str], list[str]] = {}
        gone: dict[str, bool] = {}
        for entry in self.entries:
            mine[entry.path] = mine.get(entry.path, 0) + 1
            if entry.path not in gone:
                gone[entry.path] = self._gone(entry.path)
            if gone[entry.path]:
                paths = by_finding.setdefault((entry.code, entry.fingerprint), [])
                if len(paths) < _ALIKE:
                    paths.append(entry.path)
        again: dict[tuple[str, str], int] = {}
        for path, code, fingerprint in keys if by_finding else ():
            if path not in mine:
                for old in by_finding.get((code, fingerprint), ()):
                    again[old, path] = again.get((old, path), 0) + 1
        pairs = [(count, old, new) for (old, new), count in again.items() if 2 * count >= mine[old]]
        used: set[str] = set()
        pairs.sort(key=lambda pair: (-pair[0], _name(pair[1]) != _name(pair[2]), pair[1:]))
        taken: dict[str, str] = {}
        for _, old, new in pairs:
            if old not in taken and new not in used:
                taken[old] = new
                used.add(new)
        return sorted(taken.items())

    def _judged(
        self,
        entries: Iterable[Entry],
        names: dict[str, str],
        scope: Scope,
        found: Sequence[Diagnostic],
        renamed: dict[str, str],
    ) -> list[Entry]:
        """The entries that this run would have met if the finding were still there."""
        broken = {names[d.path] for d in found if d.code in _TROUBLE}
        files = {name: path for path, name in names.items()}
        gone: dict[str, bool] = {}
        result = []
        for entry in entries:
            now = renamed.get(entry.path, entry.path)
            if now in files:
                if now not in broken and entry.code in scope.active(files[now]):
                    result.append(entry)
                continue
            if now not in gone:
                gone[now] = self._gone(now)
            if gone[now]:
                result.append(entry)
        return sorted(result)

    def updated(self, found: Sequence[Diagnostic], source: Callable[[str], str], scope: Scope) -> Baseline:
        """With today's findings, and the entries that this run could not judge as they are."""
        comparison = self.compare(found, source, scope)
        files = {self.relative(path) for path in scope.files}
        dropped = {entry.key for entry in comparison.fixed} | {
            entry.key for entry in self.entries for old, _ in comparison.renamed if entry.path == old
        }
        now = entries(self, found, source)
        again = {entry.key for entry in now}
        kept = [e for e in self.entries if e.key not in dropped and e.key not in again]
        return Baseline(self.path, [*now, *(e for e in kept if e.path not in files or e.code not in _TROUBLE)])

    def text(self) -> str:
        """The file's content."""
        order = ("path", "code", "line", "message", "fingerprint")
        lines = [json.dumps({key: getattr(entry, key) for key in order}) for entry in self.entries]
        body = ",\n".join(lines)
        listed = f"[\n{body}\n]" if lines else "[]"
        return f'{{"{_KEY}": {VERSION}, "findings": {listed}}}\n'


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def entries(baseline: Baseline, found: Sequence[Diagnostic], source: Callable[[str], str]) -> list[Entry]:
    """The findings as entries of a baseline."""
    texts = Texts(source)
    result = []
    for d, fingerprint in zip(found, fingerprints(found, texts)):
        if d.code not in _TROUBLE:
            line = clean(line_text(d, texts))
            line = line if len(line) <= _LONG else line[: _LONG - 1] + "…"
            what = clean(d.message.partition(": ")[0])
            result.append(Entry(baseline.relative(d.path), d.code, line, fingerprint, what))
    return result


def read(path: str) -> Baseline:
    """Raises BaselineError."""
    try:
        # Not to wait for a named pipe, nor to read a device without end: a checkout may hold links to either.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            info = os.fstat(handle)
            if not stat.S_ISREG(info.st_mode):
                raise BaselineError(f"{path}: not a file")
            data = file.read(_LIMIT + 1)
    except FileNotFoundError as error:
        raise BaselineError(f"{path}: no such baseline; `--write-baseline {path}` makes one") from error
    except (OSError, ValueError) as error:
        if isinstance(error, BaselineError):
            raise
        raise BaselineError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > _LIMIT:
        raise BaselineError(f"{path}: larger than {_LIMIT // 1024 // 1024} MiB; that is no baseline of torchlint's")
    return parsed(path, data)


def parsed(path: str, data: bytes) -> Baseline:
    """What a baseline file holds. Raises BaselineError."""
    again = "delete it and make it anew with --write-baseline"
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BaselineError(f"{path}: not a baseline: {_reason(error)}; {again}") from error
    if not isinstance(content, dict) or _KEY not in content:
        raise BaselineError(f'{path}: not a baseline: no "{_KEY}" at its top; `--write-baseline` makes one')
    version = content[_KEY]
    if version != VERSION or type(version) is not int:
        shown = str(version)[:20]
        raise BaselineError(
            f"{path}: a baseline of version {shown}, and this torchlint reads version {VERSION}; {again}"
        )
    listed = content.get("findings")
    if not isinstance(listed, list):
        raise BaselineError(f'{path}: not a baseline: "findings" is no list; {again}')
    return Baseline(path, (_entry(path, number, one) for number, one in enumerate(listed, 1)))


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return f"not JSON ({error})" if isinstance(error, json.JSONDecodeError) else "a number too long to read"


def _entry(path: str, number: int, one: object) -> Entry:
    if isinstance(one, dict):
        values = [one.get(key, "") for key in ("path", "code", "line", "fingerprint", "message")]
        if all(isinstance(value, str) for value in values) and values[0] and values[1] and values[3]:
            return Entry(*values)
    raise BaselineError(
        f"{path}: entry {number} is not one of a baseline's: it needs path, code and fingerprint as texts"
    )
