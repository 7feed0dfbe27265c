"""Which losses the output of a Module meets anywhere in the project: the answer that one file alone cannot give.

Only files that name the class, or something of the project that makes one, are read; what they pass into losses is
followed through imports, back to the class.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.semantics.lossflow import Losses, LossInput
from torchlint.semantics.made import Found, Scope
from torchlint.semantics.model import Semantics
from torchlint.semantics.names import OWN, Function

if TYPE_CHECKING:
    from torchlint.semantics.project import Project

_USES_LOSS = re.compile(r"[Ll]oss|criterion|cross_entropy")
_HEADER = re.compile(r"(?:async )?(class|def) (\w+)")
_HOPS = 2
_MOST_FILES = 40  # a class whose name so many files hold is a word of the project, not one model


def fed_into(project: Project, path: str, subject: str) -> set[str]:
    """The losses ("cross_entropy", "bce_with_logits", …) that are given what the activation in that row makes.

    `subject` is a class of the file with the row of the activation, as `~.Net@41`.
    """
    name, _, row = subject.partition("@")
    losses: set[str] = set()
    for other in _users(project, path, name.removeprefix(OWN)):
        for given in _inputs(project, other):
            for end in given.ends:
                if end.node is None or end.scope is None or given.activation is None:
                    continue
                file = end.scope.sem.file
                if os.path.abspath(file.path) == path and file.row(end.node) == int(row):
                    losses.add(given.loss)
    return losses


def _inputs(project: Project, path: str) -> list[LossInput]:
    """What the file gives to losses, wherever those are."""
    sem = project.semantics(path)
    if sem is None:
        return []
    if path not in project.loss_inputs:
        project.loss_inputs[path] = []

        def find(there: Semantics, name: str) -> Found | None:
            found = project.find(os.path.abspath(there.file.path), name)
            return Found(found.sem, found.function, found.cls) if found is not None else None

        def sites(there: Semantics, function: Function) -> Iterator[tuple[cst.Call, Scope]]:
            yield from _sites(project, os.path.abspath(there.file.path), function)

        project.loss_inputs[path] = list(Losses(find, sites).inputs(sem))
    return project.loss_inputs[path]


def _sites(project: Project, path: str, function: Function) -> Iterator[tuple[cst.Call, Scope]]:
    """The calls of a function in other files that import it, and of a class for its `__init__`."""
    own = function.qualname.removesuffix(".__init__")
    if "." in own or not own:
        return
    pattern = re.compile(rf"\b{re.escape(own)}\s*\(")
    naming = [p for p in project.neighbours(path) if p != path and pattern.search(project.text(p))]
    for other in naming if len(naming) <= _MOST_FILES else ():
        sem = project.semantics(other)
        if sem is None:
            continue
        for call, caller in sem.evaluator.function_at.items():
            name = sem.names.qualify(call.func, caller)
            if name is None or name.rpartition(".")[2] != own:
                continue
            where = project.find(other, name)
            if where is not None and where.path == path and (where.function is function or where.cls is not None):
                yield call, Scope(sem, caller)


def _users(project: Project, path: str, name: str) -> list[str]:
    """The files that name the class, or a class or function that makes one, and have to do with losses."""
    known = {name.rpartition(".")[2]}
    users: dict[str, None] = {path: None}
    for _ in range(_HOPS):
        pattern = re.compile(r"\b(" + "|".join(sorted(map(re.escape, known))) + r")\b")
        naming = [p for p in project.neighbours(path) if pattern.search(project.text(p))]
        if len(naming) > _MOST_FILES:
            break
        before = len(known)
        for other in naming:
            if _USES_LOSS.search(project.text(other)):
                users[other] = None
            if other != path:
                users.update(dict.fromkeys(_called(project, other)))
            known |= _makers(project, other, pattern)
        if len(known) == before:
            break
    return list(users)


def _called(project: Project, path: str) -> Iterator[str]:
    """The files that a file imports from and that have to do with losses: it may hand them its model."""
    sem = project.semantics(path)
    for name in sorted(set(sem.names.imports.values())) if sem is not None else ():
        where = project.module_path(path, name)
        if where is not None and where[0] != path and _USES_LOSS.search(project.text(where[0])):
            yield where[0]


def _makers(project: Project, path: str, pattern: re.Pattern[str]) -> set[str]:
    """The file's top-level classes, and functions that return something, whose code names one of the known."""
    result = set()
    name, is_class, names, returns = "", False, False, False
    for line in [*project.text(path).split("\n"), "end"]:
        if line[:1].strip() and line[0] not in ")]}#@":
            if names and (is_class or returns):
                result.add(name)
            header = _HEADER.match(line)
            name, is_class = (header[2], header[1] == "class") if header else ("", False)
            names = returns = False
        if name:
            names = names or (
                pattern.search(line) is not None and not line.startswith(("class " + name, "def " + name))
            )
            returns = returns or line.lstrip().startswith("return ")
    return result
