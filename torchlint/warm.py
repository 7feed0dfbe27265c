"""A check in which nothing has changed since the last: the files' times and sizes are looked up, and nothing is loaded.

Imports neither rules nor libcst, and for a clean tree not even what a finding is made of.
"""

from __future__ import annotations

import marshal
import os

from torchlint import cache
from torchlint.discover import discover
from torchlint.locate import Located, locate

TYPE_CHECKING = False  # typing itself takes longer to import than a warm run may
if TYPE_CHECKING:
    from typing import Any

    from torchlint.diagnostic import Diagnostic
    from torchlint.options import Arguments

# `prefilter.concerns`, as bytes, and what a suppression comment holds.
WORDS = (b"torch", b"lightning", b"noqa", b"NOQA")
FEW = 20  # with more unknown files than this the rules may as well be loaded

SELECTING = ("--select", "--ignore", "--extend-select", "--exclude")


def find(arguments: Arguments) -> Located:
    """The settings of a command line's paths. Raises ConfigError."""
    return locate([p for p in arguments.paths if os.path.exists(p)], arguments.text("--config"))


def open_store(arguments: Arguments, located: Located) -> cache.Cache | None:
    """The cache for these settings and options, or None where it is switched off."""
    if arguments.flag("--no-cache") or arguments.paths == ["-"]:
        return None
    folder = os.path.join(located.root, cache.FOLDER)
    if b"cache-dir" in located.data:
        from torchlint.config import load

        chosen = load(located).cache_dir
        folder = os.path.join(located.root, chosen) if chosen else folder
    options = [arguments.many(name) for name in SELECTING]
    settings = (located.root, located.path, located.data, located.project_data, options)
    return cache.Cache(folder, marshal.dumps((cache.sources_stamp(), settings)))


def project_files(files: list[str], setup: dict[str, Any]) -> list[str]:
    """The files that questions are asked of: those checked, and the rest of the project that they belong to."""
    root: str = setup["root"]
    if not setup["marked"]:
        return files
    others, _ = discover([root], setup["excluded"], root)
    return sorted({os.path.abspath(path) for path in [*files, *others]})


class Warm:
    """A check whose every outcome was in the cache."""

    def __init__(
        self, files: list[str], problems: list[str], outcomes: dict[str, cache.Outcome], store: cache.Cache
    ) -> None:
        self.files = files
        self.problems = problems
        self._outcomes = {path: found for path, found in outcomes.items() if found[0] or found[2]}
        self._store = store

    def check(self) -> list[Diagnostic]:
        """The findings, in path order."""
        if not self._outcomes:
            return []
        from torchlint.outcome import Answers, Selection, settle

        assert self._store.setup is not None
        answers = Answers.unpack(self._store.answers[1]) if self._store.answers is not None else Answers()
        return settle(self._outcomes, answers, Selection.unpack(self._store.setup["selection"]))


def _irrelevant(path: str) -> bytes | None:
    """The digest of a file that is plain Python without a word that any rule or suppression could be about, else None.

    Saves a new file that has nothing to do with PyTorch from loading the rules.
    """
    if path.endswith(".ipynb"):
        return None
    with open(path, "rb") as handle:
        data = handle.read()
    if any(word in data for word in WORDS):
        return None
    from torchlint.encoding import Undecodable, decode
    from torchlint.syntax import examine

    try:
        return cache.digest(data) if examine(decode(data).text) is None else None
    except Undecodable:
        return None


def reuse(arguments: Arguments) -> Warm | None:
    """The check, if the cache knows all of it. Raises ConfigError."""
    store = open_store(arguments, find(arguments))
    if store is None or store.setup is None:
        return None
    setup = store.setup
    files, problems = discover(arguments.paths, setup["excluded"], setup["root"])
    outcomes: dict[str, cache.Outcome] = {}
    conditional = False
    unknown: list[tuple[str, os.stat_result]] = []
    for path in files:
        try:
            info = os.stat(path)
        except OSError:
            return None
        outcome = store.lookup(path, info.st_mtime_ns, info.st_size)
        if outcome is None:
            unknown.append((path, info))
            if len(unknown) > FEW:
                return None
            continue
        outcomes[path] = outcome
        conditional = conditional or outcome[2]
    for path, info in unknown:
        try:
            content = _irrelevant(path)
        except OSError:
            return None
        if content is None:
            return None
        outcomes[path] = ((), (), False)
        store.put(path, info.st_mtime_ns, info.st_size, content, outcomes[path])
    if conditional:
        # Other checks of the project may have asked other questions last: then these are not answered here.
        if store.answers is None or store.answers[0] != cache.fingerprint(project_files(files, setup)):
            return None
        asked = {path for path, *_ in store.answers[1]}
        if any(found[2] and os.path.abspath(path) not in asked for path, found in outcomes.items()):
            return None
    store.save()
    return Warm(files, problems, outcomes, store)
