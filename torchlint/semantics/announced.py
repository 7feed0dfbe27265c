"""Whether other files train over several epochs with what a file gives them: what a missing `set_epoch` depends on."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import find, literal
from torchlint.semantics.calls import bind_arguments
from torchlint.semantics.effects import Effect
from torchlint.semantics.loops import TrainingLoop
from torchlint.semantics.measuring import is_held_out_name
from torchlint.semantics.names import OWN

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics
    from torchlint.semantics.project import Project

_ANNOUNCE_EPOCHS = re.compile(r"\bset_epoch\b|\.prepare\(|setup_dataloaders?\(|make_private")


def feeds_no_epochs(project: Project, path: str, subject: str) -> bool:
    """Whether no caller of the function is known to train over several epochs, or something announces them."""
    if _announced(project, path):
        return True
    return not any(_trains_in_epochs(project, sem) for sem, _ in project.callers(path, subject))


def samples_no_epochs(project: Project, path: str, subject: str) -> bool:
    """The same of a function that makes a sampler (`~.data_sampler shuffle`), where only calls count that pass True for
    the parameter and make no sampler of held-out data."""
    own, _, param = subject.partition(" ")
    sem = project.semantics(path)
    function = sem.names.functions.get(own.removeprefix(OWN)) if sem is not None else None
    if function is None or _announced(project, path):
        return True
    for there, site in project.callers(path, own):
        call = site.node
        if not isinstance(call, cst.Call) or _for_held_out(there, call) or not _trains_in_epochs(project, there):
            continue
        given = bind_arguments(function, call, False).get(param) if param else None
        if not param or (given is not None and literal(given.value) is True):
            return False
    return True


def takes_no_epochs(project: Project, path: str, subject: str) -> bool:
    """Whether the class or function that is given a loader is not known to train with it over several epochs, or
    something announces them."""
    found = project.find(path, subject)
    return found is None or _announced(project, path) or not _trains_in_epochs(project, found.sem)


def _announced(project: Project, path: str) -> bool:
    return any(_ANNOUNCE_EPOCHS.search(project.text(p)) for p in project.neighbours(path))


def _for_held_out(sem: Semantics, call: cst.Call) -> bool:
    line = sem.file.statement(call)
    return isinstance(line, cst.SimpleStatementLine) and any(is_held_out_name(n.value) for n in find(line, cst.Name))


def _trains_in_epochs(project: Project, sem: Semantics) -> bool:
    """Whether a training loop of the file stands in another loop, or in a function that is called in one; also whether
    the file calls one of another file in a loop."""
    loops = list(sem.objects(TrainingLoop))
    if any(t.outer or any(site.loops for site in sem.call_sites(t.function)) for t in loops):
        return True
    called = {e.target for f in sem.functions for e in sem.events(f, Effect.CALL) if e.loops and e.via is None}
    for target in sorted(t for t in called if t and not t.startswith(("?", OWN, "torch."))):
        found = project.find(os.path.abspath(sem.file.path), target)
        if found is not None and any(t.function is found.function for t in found.sem.objects(TrainingLoop)):
            return True
    return False
