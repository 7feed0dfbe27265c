"""A check in which nothing has changed since the last: the files' times and sizes are looked up, and nothing is loaded.

Imports neither rules nor libcst, and for a clean tree not even what a finding is made of.
"""

from __future__ import annotations

import os

from torchlint import cache
from torchlint.discover import DOCUMENTS, discover
from torchlint.locate import ConfigError, Located, between, locate

TYPE_CHECKING = False  # typing itself takes longer to import than a warm run may
if TYPE_CHECKING:
    from typing import Any

    from torchlint.diagnostic import Diagnostic
    from torchlint.options import Arguments

# `prefilter.concerns`, as bytes, and what a suppression comment holds.
WORDS = (b"torch", b"lightning", b"noqa", b"NOQA")
FEW = 20  # with more unknown files than this the rules may as well be loaded

SELECTING = ("--select", "--ignore", "--extend-select", "--exclude")
DOCS = ("--docs", "--docstrings")


def find(arguments: Arguments) -> Located:
    """The settings of a command line's paths. Raises ConfigError."""
    return locate([p for p in arguments.paths if os.path.exists(p)], arguments.text("--config"))


def open_store(arguments: Arguments, located: Located, stamp: bytes = b"") -> cache.Cache | None:
    """The cache for these settings and options, or None where it is switched off. `stamp` saves looking it up again."""
    if arguments.flag("--no-cache") or arguments.paths == ["-"]:
        return None
    folder = os.path.join(located.root, cache.FOLDER)
    if b"cache-dir" in located.data or any(b"cache-dir" in data for _, data in located.bases):
        from torchlint.config import load

        chosen = load(located).cache_dir
        folder = os.path.join(located.root, chosen) if chosen else folder
        inside = os.path.realpath(folder).startswith(os.path.realpath(located.root).rstrip(os.sep) + os.sep)
        if not inside and not located.explicit:
            # A checkout must not choose where on this machine we write.
            raise ConfigError(
                f"{located.path}: cache-dir leads out of the project's folder, to {folder}; "
                "only a file that is named by --config may do that"
            )
    options: list[object] = [arguments.many(name) for name in SELECTING]
    options += [arguments.flag(name) for name in DOCS]
    # Not by marshal: what it writes of an object depends on how many others hold it.
    return cache.Cache(folder, repr((stamp or cache.sources_stamp(), located.key, options)).encode())


def project_files(files: list[str], setups: list[dict[str, Any]]) -> list[str]:
    """The files that questions are asked of: those checked, and the rest of the projects that they belong to."""
    roots: dict[str, dict[str, Any]] = {setup["root"]: setup for setup in setups if setup["marked"]}
    if not roots:
        return files
    others: list[str] = []
    for root, setup in roots.items():
        if not any(root != outer and root.startswith(outer.rstrip(os.sep) + os.sep) for outer in roots):
            others += discover([root], setup["excluded"], root)[0]
    return sorted({os.path.abspath(path) for path in [*files, *others]})


class Part:
    """Files under the same settings, and the cache that knows them."""

    __slots__ = ("files", "outcomes", "setup", "store")

    def __init__(self, files: list[str], store: cache.Cache, setup: dict[str, Any]) -> None:
        self.files = files
        self.store = store
        self.setup = setup
        self.outcomes: dict[str, cache.Outcome] = {}


class Warm:
    """A check whose every outcome was in the cache."""

    def __init__(self, files: list[str], problems: list[str], parts: list[Part]) -> None:
        self.files = files
        self.problems = problems
        self._parts = parts

    def active(self, path: str) -> frozenset[str]:
        """The codes of the rules that a file was checked by."""
        from torchlint.outcome import Selection

        part = next((part for part in self._parts if path in part.outcomes), self._parts[0])
        return Selection.unpack(part.setup["selection"]).codes

    def printed(self, view: tuple[object, ...]) -> tuple[str, int] | None:
        """What an earlier run over the same outcomes printed in the same form, and its exit code."""
        return self._parts[0].store.report(self._shown(view)) if self._is_small() else None

    def remember(self, view: tuple[object, ...], text: str, code: int) -> None:
        """Keep what was printed for a run to come, which then need not even load what a finding is made of."""
        if self._is_small():
            store = self._parts[0].store
            store.keep_report(self._shown(view), text, code)
            store.save()

    def _is_small(self) -> bool:
        """Whether it is of few files under one settings file, as hooks and editors call for again and again."""
        return len(self._parts) == 1 and len(self.files) <= FEW

    def _shown(self, view: tuple[object, ...]) -> bytes:
        """A digest of all that a report is made of. Not by marshal, for what `open_store` says."""
        part = self._parts[0]
        outcomes = [
            (path, part.store.content(path), found)
            for path, found in sorted(part.outcomes.items())
            if found[0] or found[2]
        ]
        answers = part.store.answers and part.store.answers[1]
        return cache.digest(repr((view, len(self.files), outcomes, answers)).encode("utf-8", "surrogatepass"))

    def check(self) -> list[Diagnostic]:
        """The findings, in path order."""
        result: list[Diagnostic] = []
        for part in self._parts:
            outcomes = {path: found for path, found in part.outcomes.items() if found[0] or found[2]}
            if not outcomes:
                continue
            from torchlint.outcome import Answers, Selection, settle

            answers = Answers.unpack(part.store.answers[1]) if part.store.answers is not None else Answers()
            result += settle(outcomes, answers, Selection.unpack(part.setup["selection"]))
        return sorted(result, key=lambda d: d.path) if len(self._parts) > 1 else result


def _irrelevant(path: str) -> bytes | None:
    """The digest of plain Python or of prose without a word that any rule or suppression could be about, else None.

    Saves a new file that has nothing to do with PyTorch from loading the rules.
    """
    if path.endswith(".ipynb"):
        return None
    with open(path, "rb") as handle:
        data = handle.read()
    if any(word in data for word in WORDS):
        return None
    if path.endswith(DOCUMENTS):
        return cache.digest(data)
    from torchlint.encoding import Undecodable, decode
    from torchlint.syntax import examine

    try:
        return cache.digest(data) if examine(decode(data).text) is None else None
    except Undecodable:
        return None


def reuse(arguments: Arguments) -> Warm | None:
    """The check, if the cache knows all of it. Raises ConfigError."""
    located = find(arguments)
    store = open_store(arguments, located)
    if store is None or store.setup is None or b"rule-paths" in located.data:  # for which there may be a line to say
        return None
    marked: set[str] = set()
    setup = store.setup
    files, problems = discover(arguments.paths, setup["excluded"], setup["root"], marked, setup["docs"])
    marked |= between(arguments.paths, located.start)
    parts: list[Part] | None = [Part(files, store, setup)]
    if marked - {located.start} and not located.explicit:
        parts = _parted(arguments, files, marked, located, store)
        if parts is None:
            return None
        files = sorted(path for part in parts for path in part.files)
    assert parts is not None
    unknown = 0
    for part in parts:
        few = _look_up(part, FEW - unknown)
        if few is None:
            return None
        unknown += few
    asking = [part for part in parts if any(found[2] for found in part.outcomes.values())]
    if asking:
        # Other checks of the project may have asked other questions last: then these are not answered here.
        everything = project_files(files, [part.setup for part in parts])
        held: set[Any] = set()
        for part in asking:
            if part.store.answers is None:
                return None
            state = part.store.answers[0]
            if state not in held and not cache.holds(state, everything):
                return None
            held.add(state)
            if state[1]:
                part.store.answers = ((state[0], cache.recent(everything)), part.store.answers[1])
            asked = {path for path, *_ in part.store.answers[1]}
            if any(found[2] and os.path.abspath(path) not in asked for path, found in part.outcomes.items()):
                return None
    for part in parts:
        part.store.save()
    return Warm(files, problems, parts)


def remember(arguments: Arguments, files: list[str], view: tuple[object, ...], text: str, code: int) -> None:
    """Keep what a check of few files printed, whose outcomes are in the cache by now."""
    if len(files) > FEW:
        return
    try:
        known = reuse(arguments)
    except ConfigError:
        return
    if known is not None:
        known.remember(view, text, code)


def _parted(
    arguments: Arguments, files: list[str], marked: set[str], top: Located, store: cache.Cache
) -> list[Part] | None:
    """The files by their settings, None where some of these are new or cannot be used."""
    from torchlint.projects import kept, parted

    result: list[Part] = []
    stamp = cache.sources_stamp()
    for part in parted(files, marked, top):
        if part.error is not None:
            return None
        own = store if part.located is top else open_store(arguments, part.located, stamp)
        if own is None or own.setup is None:
            return None
        if part.located.root != top.root:
            part.files = kept(
                part.files, own.setup["excluded"], own.setup["root"], arguments.paths, result[0].setup["excluded"]
            )
        result.append(Part(part.files, own, own.setup))
    return result


def _look_up(part: Part, at_most: int) -> int | None:
    """Fill in what the cache knows; how many files it did not know but no rule has to see, None if some rule has to."""
    unknown: list[tuple[str, os.stat_result]] = []
    since = cache.horizon()
    for path in part.files:
        try:
            info = os.stat(path)
        except OSError:
            return None
        outcome = part.store.lookup(path, cache.stamp(info, since), info.st_size)
        if outcome is not None:
            part.outcomes[path] = outcome
            continue
        unknown.append((path, info))
        if len(unknown) > at_most:
            return None
    for path, info in unknown:
        try:
            content = _irrelevant(path)
        except OSError:
            return None
        if content is None:
            return None
        part.outcomes[path] = ((), (), False)
        part.store.put(path, cache.stamp(info, since), info.st_size, content, part.outcomes[path])
    return len(unknown)
