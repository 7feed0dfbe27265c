"""The project around a file: finds what `answers` needs for the questions that one file alone cannot decide.

Files are read when a question reaches them, never before: a run without questions costs nothing here. Imports are
followed inside the checked files; what lies outside (installed packages) is answered by each question's own default.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.discover import DOCUMENTS
from torchlint.semantics.answers import ANSWERS
from torchlint.semantics.effects import Event
from torchlint.semantics.lossflow import LossInput
from torchlint.semantics.made import Scope
from torchlint.semantics.model import Semantics
from torchlint.semantics.modes import call_sites, calls_by_name
from torchlint.semantics.names import OWN, Class, Function

_HELD_CHARACTERS = 2_000_000  # of the files whose meaning is kept: about 60 bytes of memory each
_TEXT_CHARACTERS = 64_000_000  # of the texts that are kept; what comes after that is read again for each question
_CALLED = re.compile(r"(?<!def )\b(\w+)\s*\(")


@dataclass(frozen=True, slots=True)
class Definition:
    """A function or class in a file of the project."""

    path: str
    sem: Semantics
    function: Function | None = None
    cls: Class | None = None


class Project:
    """The checked files, parsed on demand.

    `load(path)` gives a file's Semantics, or None where it cannot be parsed; `text(path)` its source, "" if unreadable.
    """

    def __init__(
        self, files: Iterable[str], load: Callable[[str], Semantics | None], text: Callable[[str], str]
    ) -> None:
        self.files = sorted({os.path.abspath(f) for f in files})
        self._known = set(self.files)
        # Notebooks lie anywhere: they say nothing of where a project's packages begin.
        self._folders = {os.path.dirname(f) for f in self.files if not f.endswith((".ipynb", *DOCUMENTS))}
        self._load = load
        self._text = text
        self._sems: dict[str, Semantics | None] = {}
        self._held = 0  # characters of source that these were made from
        self._comparing = 0
        self._texts: dict[str, str] = {}
        self._kept = 0  # characters of these
        self._answers: dict[tuple[str, Question], bool] = {}
        self._roots: dict[str, str] = {}
        self._called: dict[str, frozenset[str]] = {}
        # Kept for `per_step`: what it found, and by root the files that may train and what they import.
        self.steps: dict[tuple[str, str], list[tuple[str, bool]]] = {}
        self.training: dict[str, list[str]] = {}
        self.reachable: dict[str, set[str]] = {}
        # Kept for `consumers`, which asks for them often.
        self.loss_inputs: dict[str, list[LossInput]] = {}
        self.sites: dict[Function, list[tuple[cst.Call, Scope]]] = {}

    def semantics(self, path: str) -> Semantics | None:
        """What a file means. The next file that is asked for may make the project forget it, unless within `comparing`:
        compare what two files mean by the names of things, not by the nodes."""
        if path not in self._sems:
            if not self._comparing:
                self._let_go()
            self._sems[path] = self._load(path)
            self._held += len(self.text(path))
        return self._sems[path]

    @contextmanager
    def comparing(self) -> Iterator[None]:
        """Nothing is forgotten in here, so that a file's nodes are the same whenever it is asked for."""
        if not self._comparing:
            self._let_go()
        self._comparing += 1
        try:
            yield
        finally:
            self._comparing -= 1

    def _let_go(self) -> None:
        """Forget what files mean once that is much."""
        if self._held > _HELD_CHARACTERS:
            self._held = 0
            self._sems.clear()
            self.loss_inputs.clear()
            self.sites.clear()

    def text(self, path: str) -> str:
        text = self._texts.get(path)
        if text is None:
            text = self._text(path)
            if self._kept < _TEXT_CHARACTERS:
                self._texts[path] = text
                self._kept += len(text)
        return text

    # -- asking -----------------------------------------------------------------------------------------------------

    def answer(self, path: str, question: Question) -> bool:
        """Whether the answer is yes. Raises KeyError for a question that is not in ANSWERS."""
        key = (os.path.abspath(path), question)
        if key not in self._answers:
            self._answers[key] = False  # a question that comes back to itself is not answered with yes
            self._answers[key] = ANSWERS[question.ask](self, key[0], question.subject)
        return self._answers[key]

    # -- imports ----------------------------------------------------------------------------------------------------

    def module_path(self, path: str, name: str) -> tuple[str, str] | None:
        """The checked file that a qualified name leads into, and what is left of the name."""
        if name.startswith(OWN):
            return path, name.removeprefix(OWN)
        folder = os.path.dirname(path)
        if name.startswith("."):
            dots = len(name) - len(name.lstrip("."))
            for _ in range(dots - 1):
                folder = os.path.dirname(folder)
            return self._descend(folder, name.lstrip(".").split("."))
        parts = name.split(".")
        if parts[0] in ("torch", "numpy", "os", "sys", "math", "time"):
            return None
        while True:
            found = self._descend(folder, parts)
            if found is not None and found[0] != path:
                return found
            parent = os.path.dirname(folder)
            if parent == folder or not self._inside(parent):
                return None
            folder = parent

    def _inside(self, folder: str) -> bool:
        """Whether checked files lie in or below the folder (cheap: some checked file starts with it)."""
        import bisect

        prefix = folder.rstrip(os.sep) + os.sep
        i = bisect.bisect_left(self.files, prefix)
        return i < len(self.files) and self.files[i].startswith(prefix)

    def _descend(self, folder: str, parts: list[str]) -> tuple[str, str] | None:
        best: tuple[str, str] | None = None
        for i, part in enumerate(parts):
            file = os.path.join(folder, part + ".py")
            if file in self._known:
                return file, ".".join(parts[i + 1 :])
            folder = os.path.join(folder, part)
            init = os.path.join(folder, "__init__.py")
            if init in self._known:
                best = init, ".".join(parts[i + 1 :])
            elif not self._inside(folder):
                break
        return best

    def find(self, path: str, name: str, depth: int = 0) -> Definition | None:
        """The definition that a qualified name (as `path` sees it) stands for, re-exports followed."""
        where = self.module_path(path, name)
        if where is None or depth > 6:
            return None
        file, rest = where
        sem = self.semantics(file)
        if sem is None or not rest:
            return None
        if rest in sem.names.functions:
            return Definition(file, sem, function=sem.names.functions[rest])
        if rest in sem.names.classes:
            return Definition(file, sem, cls=sem.names.classes[rest])
        head, _, tail = rest.rpartition(".")
        if head in sem.names.classes:
            return self._method(file, sem, sem.names.classes[head], tail, depth)
        root, dot, more = rest.partition(".")
        if root in sem.names.imports:
            return self.find(file, sem.names.imports[root] + dot + more, depth + 1)
        for star in sem.names.stars:
            found = self.find(file, (star if star.endswith(".") else star + ".") + rest, depth + 1)
            if found is not None:
                return found
        return None

    def _method(self, path: str, sem: Semantics, cls: Class, name: str, depth: int) -> Definition | None:
        method = sem.names.method(cls, name)
        if method is not None:
            return Definition(path, sem, function=method)
        for base in sem.names.roots(cls):
            found = self.find(path, base, depth + 1)
            if found is not None and found.cls is not None:
                deeper = self._method(found.path, found.sem, found.cls, name, depth + 1)
                if deeper is not None:
                    return deeper
        return None

    # -- neighbours ---------------------------------------------------------------------------------------------------

    def root(self, path: str) -> str:
        """The folder of the project that a file belongs to: the outermost one that still holds Python files itself."""
        folder = os.path.dirname(path)
        if folder in self._roots:
            return self._roots[folder]
        best = current = folder
        gaps = 0
        while gaps < 2:
            parent = os.path.dirname(current)
            if parent == current or not self._inside(parent):
                break
            current = parent
            if current in self._folders:
                best, gaps = current, 0
            else:
                gaps += 1
        self._roots[folder] = best
        return best

    def neighbours(self, path: str) -> Iterator[str]:
        import bisect

        prefix = self.root(path).rstrip(os.sep) + os.sep
        i = bisect.bisect_left(self.files, prefix)
        while i < len(self.files) and self.files[i].startswith(prefix):
            yield self.files[i]
            i += 1

    def callers(self, path: str, name: str) -> Iterator[tuple[Semantics, Event]]:
        """Every place in the project that calls an own definition of `path` (`~.f`, `~.Net.evaluate`), itself included.

        A function must be reached through imports; a method is matched by its name on a receiver of unknown class.
        Files are read as the caller goes on: whoever has seen enough stops.
        """
        own = name.removeprefix(OWN)
        sem = self.semantics(path)
        if sem is None or own not in sem.names.functions:
            return
        function = sem.names.functions[own]
        yield from [(sem, s) for s in call_sites(sem, function)]
        last = own.rpartition(".")[2]
        for other in self.neighbours(path):
            if other == path or last not in self.called_in(other):
                continue
            there = self.semantics(other)
            if there is None:
                continue
            for event in there.once(calls_by_name).get(last, ()):
                if self._reaches(other, event, path, own, function):
                    yield there, event
            if function.cls is not None:  # calls that this file resolves to a class of its own: a base class's stub
                for twin in there.functions:
                    if twin.cls is not None and twin.name == last:
                        yield from [(there, site) for site in there.call_sites(twin)]

    def called_in(self, path: str) -> frozenset[str]:
        """The names that a file calls something by, as far as its text shows."""
        found = self._called.get(path)
        if found is None:
            found = self._called[path] = frozenset(map(sys.intern, _CALLED.findall(self.text(path))))
        return found

    def _reaches(self, other: str, event: Event, path: str, own: str, function: Function) -> bool:
        if function.cls is not None:
            return "." in event.subject or event.target.startswith("?")
        where = self.find(other, event.target)
        return (
            where is not None and where.path == path and where.function is not None and where.function.qualname == own
        )
