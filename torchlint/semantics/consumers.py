"""Which losses the output of a Module meets anywhere in the project: the answer that one file alone cannot give.

Only files that name the class, or something of the project that makes one, are read; what they pass into losses is
followed through imports, back to the class.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.semantics.lossflow import LOSSES, Losses, LossInput
from torchlint.semantics.made import Find, Found, Scope
from torchlint.semantics.model import Semantics
from torchlint.semantics.names import OWN, Function

if TYPE_CHECKING:
    from torchlint.semantics.project import Definition, Project

_USES_LOSS = re.compile(r"[Ll]oss|criterion|cross_entropy")
_HEADER = re.compile(r"(?:async )?(class|def) (\w+)")
_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]*)|import[ \t]+([.\w]+))", re.M)
_HOPS = 2
_MOST_FILES = 20  # a class whose name so many files hold is a word of the project, not one model


def fed_into(project: Project, path: str, subject: str, losses: Collection[str]) -> bool:
    """Whether one of the losses ("cross_entropy", "bce_with_logits", …) is given what the activation in that row makes.

    `subject` is a class of the file with the row of the activation, as `~.Net@41`.
    """
    name, _, row = subject.partition("@")
    names = "|".join(sorted({n.rpartition(".")[2] for n, loss in LOSSES.items() if loss in losses}))
    makes_loss = re.compile(rf"\b({names})\b")
    for other in _users(project, path, name.removeprefix(OWN), makes_loss):
        with project.comparing():
            if any(_activation_at(given, path, int(row)) for given in _inputs(project, other) if given.loss in losses):
                return True
    return False


def _activation_at(given: LossInput, path: str, row: int) -> bool:
    """Whether the loss is given what an activation in that row of the file makes."""
    for end in given.ends if given.activation is not None else ():
        file = end.scope.sem.file if end.scope is not None else None
        if end.node is not None and file is not None and os.path.abspath(file.path) == path:
            if file.row(end.node) == row:
                return True
    return False


def _inputs(project: Project, path: str) -> list[LossInput]:
    """What the file gives to losses, wherever those are."""
    sem = project.semantics(path)
    if sem is None:
        return []
    if path not in project.loss_inputs:
        project.loss_inputs[path] = []

        def sites(there: Semantics, function: Function) -> Iterator[tuple[cst.Call, Scope]]:
            if function not in project.sites:
                project.sites[function] = list(_sites(project, os.path.abspath(there.file.path), function))
            yield from project.sites[function]

        project.loss_inputs[path] = list(Losses(finder(project), sites).inputs(sem))
    return project.loss_inputs[path]


def finder(project: Project) -> Find:
    """What a tracer asks for definitions in other files."""

    def find(there: Semantics, name: str) -> Found | None:
        found = project.find(os.path.abspath(there.file.path), name)
        return Found(found.sem, found.function, found.cls) if found is not None else None

    return find


def calls_by_import(
    project: Project, path: str, name: str, files: Sequence[str]
) -> Iterator[tuple[cst.Call, Scope, Definition]]:
    """Where these files call what a file of the project defines by that name, with what is called. None where so many
    files call something so that it is a word of the project."""
    naming = [p for p in files if name in project.called_in(p)]
    for other in naming if len(naming) <= _MOST_FILES else ():
        sem = project.semantics(other)
        if sem is None:
            continue
        for call, caller in sem.evaluator.function_at.items():
            called = sem.names.qualify(call.func, caller)
            if called is None or called.rpartition(".")[2] != name:
                continue
            found = project.find(other, called)
            if found is not None and found.path == path:
                yield call, Scope(sem, caller), found


def _sites(project: Project, path: str, function: Function) -> Iterator[tuple[cst.Call, Scope]]:
    """The calls of a function in other files that import it, and of a class for its `__init__`."""
    own = function.qualname.removesuffix(".__init__")
    if "." in own or not own:
        return
    others = [p for p in project.neighbours(path) if p != path]
    for call, scope, found in calls_by_import(project, path, own, others):
        if found.function is function or found.cls is not None:
            yield call, scope


def _users(project: Project, path: str, name: str, makes_loss: re.Pattern[str]) -> list[str]:
    """The files that may bring the class and such a loss together: they name the class, or something of the project
    that makes one, and they or the files that they import from make the loss."""
    known = {name.rpartition(".")[2]}
    users: dict[str, None] = {}
    for _ in range(_HOPS):
        pattern = re.compile(r"\b(" + "|".join(sorted(map(re.escape, known))) + r")\b")
        naming = [p for p in project.neighbours(path) if pattern.search(project.text(p))]
        if len(naming) > _MOST_FILES:
            break
        before = len(known)
        for other in naming:
            group = [other, *(imported(project, other) if other != path else ())]
            if any(makes_loss.search(project.text(p)) for p in group):
                users.update(dict.fromkeys(p for p in group if _USES_LOSS.search(project.text(p))))
            known |= _makers(project, other, pattern)
        if len(known) == before:
            break
    return list(users)


def imported(project: Project, path: str) -> Iterator[str]:
    """The checked files that a file imports from, as its text says: it may hand them its model."""
    for match in _IMPORT.finditer(project.text(path)):
        if match[1] is None:
            names = [match[3]]
        else:
            base = match[1] if match[1].endswith(".") else match[1] + "."
            names = [base + word for word in re.findall(r"\w+", match[2])] or [match[1]]
        for name in names:
            where = project.module_path(path, name)
            if where is not None and where[0] != path:
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
