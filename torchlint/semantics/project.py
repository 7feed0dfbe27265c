"""The project around a file: finds what `answers` needs for the questions that one file alone cannot decide.

Files are read when a question reaches them, never before: a run without questions costs nothing here. Imports are
followed inside the checked files; what lies outside (installed packages) is answered by each question's own default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.discover import DOCUMENTS
from torchlint.semantics.answers import ANSWERS
from torchlint.semantics.effects import Effect, Event
from torchlint.semantics.lossflow import LossInput
from torchlint.semantics.made import Scope
from torchlint.semantics.model import Semantics
from torchlint.semantics.modes import call_sites
from torchlint.semantics.names import OWN, Class, Function

_HELD_CHARACTERS = 2_000_000


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
        self._asking = 0
        self._texts: dict[str, str] = {}
        self._answers: dict[tuple[str, Question], bool] = {}
        self._roots: dict[str, str] = {}
        # Kept for `consumers`, which asks for them often.
        self.loss_inputs: dict[str, list[LossInput]] = {}
        self.sites: dict[Function, list[tuple[cst.Call, Scope]]] = {}

    def semantics(self, path: str) -> Semantics | None:
        if path not in self._sems:
            self._sems[path] = self._load(path)
            self._held += len(self.text(path))
        return self._sems[path]

    def _let_go(self) -> None:
        """Forget what files mean once that is much: between questions, since within one their nodes are compared."""
        if self._held > _HELD_CHARACTERS:
            self._held = 0
            self._sems.clear()
            self.loss_inputs.clear()
            self.sites.clear()

    def text(self, path: str) -> str:
        if path not in self._texts:
            self._texts[path] = self._text(path)
        return self._texts[path]

    # -- asking -----------------------------------------------------------------------------------------------------

    def answer(self, path: str, question: Question) -> bool:
        """Whether the answer is yes. Raises KeyError for a question that is not in ANSWERS."""
        key = (os.path.abspath(path), question)
        if key not in self._answers:
            self._answers[key] = False  # a question that comes back to itself is not answered with yes
            self._asking += 1
            try:
                self._answers[key] = ANSWERS[question.ask](self, key[0], question.subject)
            finally:
                self._asking -= 1
            if not self._asking:
                self._let_go()
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

    def callers(self, path: str, name: str) -> list[tuple[Semantics, Event]]:
        """Every place in the project that calls an own definition of `path` (`~.f`, `~.Net.evaluate`), itself included.

        A function must be reached through imports; a method is matched by its name on a receiver of unknown class.
        """
        own = name.removeprefix(OWN)
        sem = self.semantics(path)
        if sem is None or own not in sem.names.functions:
            return []
        function = sem.names.functions[own]
        sites = [(sem, s) for s in call_sites(sem, function)]
        last = own.rpartition(".")[2]
        pattern = re.compile(rf"\b{re.escape(last)}\s*\(")
        for other in self.neighbours(path):
            if other == path or not pattern.search(self.text(other)):
                continue
            there = self.semantics(other)
            if there is None:
                continue
            for caller in there.functions:
                for event in there.events(caller, Effect.CALL):
                    if event.via is None and self._reaches(other, event, path, own, last, function):
                        sites.append((there, event))
                if function.cls is not None:
                    sites += [(there, s) for s in self._same_name_calls(there, caller, last)]
        return sites

    def _reaches(self, other: str, event: Event, path: str, own: str, last: str, function: Function) -> bool:
        if event.target.rpartition(".")[2] != last:
            return False
        if function.cls is not None:
            return "." in event.subject or event.target.startswith("?")
        where = self.find(other, event.target)
        return (
            where is not None and where.path == path and where.function is not None and where.function.qualname == own
        )

    @staticmethod
    def _same_name_calls(sem: Semantics, caller: Function, last: str) -> list[Event]:
        """Calls of a method of that name that this file resolves to a class of its own (a base class's stub)."""
        result = []
        for function in sem.functions:
            if function.cls is not None and function.name == last:
                result += [s for s in sem.call_sites(function) if s.function is caller]
        return result
