"""What becomes of a loader's batches in other files: who calls its maker, who is given it, and what is done there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.nodes import dotted, find, walk
from torchlint.semantics import knowledge
from torchlint.semantics.batches import Followed, given, given_to, stranger
from torchlint.semantics.consumers import finder
from torchlint.semantics.derived_loaders import hands_on
from torchlint.semantics.made import Scope, Tracer
from torchlint.semantics.names import OWN, Class, Function
from torchlint.semantics.syncs import uses_gpu_by_text
from torchlint.semantics.transfers import may_be_cuda

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics
    from torchlint.semantics.project import Definition, Project

# `autocast("cuda")` says nothing of where batches go, like `torch.cuda.amp.autocast()`, which a fix turns into it, nor
# does `pin_memory=device.type == "cuda"`.
_CUDA = re.compile(
    r"\.cuda\(|(?<!\.type == )(?<!autocast\()(?<!GradScaler\()(?<!device_type=)[\"']cuda"
    r"|\.to\(\s*(self\.|args\.|opt\.|cfg\.|config\.)?(device|dev|gpu)|non_blocking|local_rank|\.to\(rank"
)
_NAMES = (cst.Name, cst.Attribute)
_MOST = 20  # names that are looked for: a base of more is a library's


def no_cuda_use(project: Project, path: str, subject: str) -> bool:
    """Whether nobody who calls one of the functions, or makes the class or one derived from it, works with CUDA (no
    caller found counts as nobody)."""
    return all(_no_cuda_use(project, path, name.removeprefix(OWN)) for name in subject.split())


def _no_cuda_use(project: Project, path: str, own: str) -> bool:
    last = own.rpartition(".")[2]
    if last == "__init__":
        last = own.split(".")[-2]
    makers = _derived(project, path, last) if last[:1].isupper() else {last: None}
    for name, other in _naming(project, path, makers):
        where = makers[name]
        if where is not None and not _may_import(project, other, name, where):
            continue
        if _CUDA.search(project.text(other)) or _handed_to_mover(project, other, name):
            return False
    return True


def no_gpu_around(project: Project, path: str, subject: str) -> bool:
    """Whether no file that uses the function, or the class of the method, says that tensors go to a GPU."""
    own = subject.removeprefix(OWN).split(".")
    name = next((part for part in own if part[:1].isupper()), own[-1])
    makers = _derived(project, path, name) if name[:1].isupper() else {name: path}
    return not any(
        uses_gpu_by_text(project.text(other)) and _may_import(project, other, maker, makers[maker])
        for maker, other in _naming(project, path, makers)
    )


def _naming(project: Project, path: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each of the names with each other file that says it."""
    for name in names:
        pattern = re.compile(rf"\b{re.escape(name)}\b")
        for other in project.neighbours(path):
            if other != path and pattern.search(project.text(other)):
                yield name, other


def _derived(project: Project, path: str, name: str) -> dict[str, str]:
    """The class and those of the project that derive from it, by name, each with its file."""
    names, queue = {name: path}, [name]
    while queue and len(names) < _MOST:
        base = queue.pop()
        pattern = re.compile(rf"^class\s+(\w+)\s*\([^)]*\b{re.escape(base)}\b", re.MULTILINE)
        for other in project.neighbours(path):
            found = pattern.findall(project.text(other)) if base in project.text(other) else ()
            if found and (other == names[base] or _may_import(project, other, base, names[base])):
                queue += [n for n in found if n not in names]
                names |= {n: other for n in found if n not in names}
    return names


def _may_import(project: Project, path: str, name: str, module: str) -> bool:
    """Whether the file may use what the module defines by this name, and nothing else that is called so."""
    folder, base = os.path.split(module)
    stem, package = re.escape(os.path.splitext(base)[0]), re.escape(os.path.basename(folder))
    text = project.text(path)
    whole = re.search(rf"^\s*(?:from|import)\b.*\b{stem}\b", text, re.MULTILINE) is not None
    member = re.search(rf"\b\w+\.{re.escape(name)}\b", text) is not None and re.search(
        rf"^\s*(?:from|import)\b.*\b{package}\b", text, re.MULTILINE
    )
    sem = project.semantics(path) if name in text else None
    if sem is None or name in sem.names.classes or name in sem.names.functions:
        return False
    imported = sem.names.imports.get(name)
    if imported is None:
        return whole or bool(member)
    found = project.find(path, imported)
    return found is not None and found.path == module


def _handed_to_mover(project: Project, path: str, maker: str) -> bool:
    """Whether the file hands what the maker gave it, or the batches that it goes over, to something that moves them:
    `Solver(get_loader(…))`, `model.set_input(batch)`."""
    sem = project.semantics(path)
    if sem is None:
        return False
    made: set[str | None] = set()
    for assign in sem.file.all(cst.Assign):
        if _calls(assign.value, maker):
            made |= {dotted(n) for t in assign.targets for n in walk(t.target) if isinstance(n, _NAMES)}
    takers = {
        taker
        for call in sem.file.all(cst.Call)
        if any(_calls(a.value, maker) or (isinstance(a.value, _NAMES) and dotted(a.value) in made) for a in call.args)
        and (taker := stranger(sem, call)) is not None
    }
    if any(not moves_no_batches(project, path, taker) for taker in sorted(takers)):
        return True
    return bool(made) and _goes_to_cuda(project, path, given(sem, [sem.file.tree]), sem)


def _calls(node: cst.BaseExpression, maker: str) -> bool:
    return isinstance(node, cst.Call) and (dotted(node.func) or "").rpartition(".")[2] == maker


def moves_no_batches(project: Project, path: str, subject: str) -> bool:
    """Whether the function or class is not known to move what a loader gives it to CUDA. Unknown ones: yes."""
    maker, by_method, _ = subject.partition("().")
    found = project.find(path, maker)
    if found is None:
        return True
    if by_method:
        return not any(
            _goes_to_cuda(
                project, os.path.abspath(sem.file.path), given(sem, [c.node for c in sem.names.mro(cls)]), sem
            )
            for sem, cls in _made_by(project, found)
        )
    roots: Sequence[str] = ()
    wheres: list[cst.CSTNode] = []
    if found.function is not None:
        wheres = [f.node for f in _with_callees(found.sem, found.function)]
    if found.cls is not None:
        names = found.sem.names
        wheres, roots = [c.node for c in names.mro(found.cls)], names.roots(found.cls)
    if _goes_to_cuda(project, found.path, given(found.sem, wheres), found.sem):
        return False
    return all(project.answer(found.path, Question("moves-no-batches", root)) for root in roots)


def _with_callees(sem: Semantics, function: Function) -> Iterator[Function]:
    """The function and those of its file that it calls with something: `fit(loader)` calls `self.epoch(loader)`."""
    queue, seen = [function], {function}
    while queue:
        current = queue.pop()
        yield current
        for call in find(current.node, cst.Call):
            callee = sem.callee(call) if call.args else None
            if callee is not None and callee not in seen:
                seen.add(callee)
                queue.append(callee)


def moves_nothing(project: Project, path: str, subject: str) -> bool:
    """Whether none of these functions is known to move what it is called with to CUDA. Unknown ones: yes."""
    for name in subject.split():
        for sem, function in _reached(project, path, name):
            if _goes_to_cuda(project, os.path.abspath(sem.file.path), given_to(sem, function), sem):
                return False
    return True


def _reached(project: Project, path: str, name: str) -> Iterator[tuple[Semantics, Function]]:
    """The functions that a name stands for; `models.create().step` is a method of what the function makes."""
    maker, made, method = name.partition("().")
    found = project.find(path, maker)
    if found is None or found.function is None:
        return
    if not made:
        yield found.sem, found.function
        return
    for sem, cls in _made_by(project, found):
        if (own := sem.names.method(cls, method)) is not None:
            yield sem, own


def _made_by(project: Project, found: Definition) -> Iterator[tuple[Semantics, Class]]:
    """The classes of the project whose objects a function makes."""
    if found.function is not None:
        for made in Tracer(finder(project)).returned(Scope(found.sem, found.function)):
            if made.cls is not None:
                yield made.sem, made.cls


def _goes_to_cuda(project: Project, path: str, trail: Followed, sem: Semantics) -> bool:
    if any(may_be_cuda(sem, move.device) for move in trail.moves.values()):
        return True
    names = sorted({name for name, _ in trail.strangers})
    return any(not project.answer(path, Question("moves-nothing", name)) for name in names)


def is_no_plain_loader(project: Project, path: str, subject: str) -> bool:
    """Whether the class is not known to derive from torch's DataLoader and to leave pinning to who makes one."""
    found = project.find(path, subject)
    if found is None or found.cls is None:
        return knowledge.LOADERS.match(subject) is None
    names = found.sem.names
    roots = [r for r in names.roots(found.cls) if "Loader" in r]
    return not (
        roots
        and all(hands_on(c) for c in names.mro(found.cls))
        and all(not project.answer(found.path, Question("is-no-plain-loader", r)) for r in roots)
    )
