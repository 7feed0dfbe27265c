"""The project around a file: answers the questions that one file alone cannot decide.

Files are read when a question reaches them, never before: a run without questions costs nothing here. Imports are
followed inside the checked files; what lies outside (installed packages) is answered by each question's own default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import libcst as cst

from torchlint.diagnostic import Diagnostic, Question
from torchlint.discover import DOCUMENTS
from torchlint.semantics import knowledge
from torchlint.semantics.consumers import fed_into
from torchlint.semantics.datasets import reads_items
from torchlint.semantics.effects import Effect, Event
from torchlint.semantics.grad import body_disables
from torchlint.semantics.kinds import Graph, Kind
from torchlint.semantics.lossflow import LossInput
from torchlint.semantics.made import Scope
from torchlint.semantics.model import Semantics
from torchlint.semantics.modes import always_off, call_sites, mode_at
from torchlint.semantics.names import OWN, Class, Function

_DEPTH = 4
_OFF_WORDS = re.compile(r"no_?grad|inference|eval_mode|smart_inference|without_grad|disable_grad", re.IGNORECASE)
_GRADIENT_WORDS = re.compile(
    r"zero_?grad|backward|train_step|training_step|optimi[sz]e|step_and|update_param", re.IGNORECASE
)
_CUDA = re.compile(
    r"\.cuda\(|[\"']cuda|\.to\(\s*(self\.|args\.|opt\.|cfg\.|config\.)?(device|dev|gpu)|non_blocking|local_rank|\.to\(rank"
)
_RENDEZVOUS = re.compile(r"MASTER_(ADDR|PORT)|init_method[\"']?\s*[=:]\s*(?![\"']env://)")
_FRAMEWORKS = re.compile(
    r"^(pytorch_lightning|lightning|lightning_fabric|ignite|fastai|composer|skorch|catalyst|transformers|trl)\."
)


@dataclass(frozen=True, slots=True)
class Definition:
    """A function or class in a file of the project."""

    path: str
    sem: Semantics
    function: Function | None = None
    cls: Class | None = None


_HELD_CHARACTERS = 2_000_000


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


def link(diagnostics: Iterable[Diagnostic], project: Project) -> list[Diagnostic]:
    """The diagnostics whose questions were all answered with no."""
    return [d for d in diagnostics if not any(project.answer(d.path, q) for q in d.unless)]


# -- answers
# --------------------------------------------------------------------------------------------------------------


def _does(effect: Effect) -> Callable[[Project, str, str], bool]:
    """Does the callable, or anything of the project that it calls, have that effect? Unknown ones: judged by name."""

    def answer(project: Project, path: str, subject: str) -> bool:
        return _has_effect(project, path, subject, effect, 0)

    return answer


def _has_effect(project: Project, path: str, subject: str, effect: Effect, depth: int) -> bool:
    found = project.find(path, subject)
    if found is None:
        return bool(_GRADIENT_WORDS.search(subject.rpartition(".")[2]))
    functions = [found.function] if found.function is not None else []
    if found.cls is not None:
        functions = [m for n in ("__init__", "__call__", "forward") if (m := found.sem.names.method(found.cls, n))]
    for function in functions:
        for event in found.sem.events(function):
            if event.effect is effect:
                return True
            if event.effect is Effect.CALL and depth < _DEPTH and not event.target.startswith("?"):
                if project.module_path(found.path, event.target) is not None:
                    if _has_effect(project, found.path, event.target, effect, depth + 1):
                        return True
    return False


def _disables_grad(project: Project, path: str, subject: str) -> bool:
    found = project.find(path, subject)
    if found is None:
        return bool(_OFF_WORDS.search(subject.rpartition(".")[2]))
    evaluator = found.sem.evaluator
    functions = [found.function] if found.function is not None else []
    if found.cls is not None:
        functions = [m for n in ("__enter__", "__call__", "__init__") if (m := found.sem.names.method(found.cls, n))]
    return any(f is not None and body_disables(evaluator, f) for f in functions)


def _callers_disable_grad(project: Project, path: str, subject: str) -> bool:
    return _callers_off(project, path, subject, 0)


def _callers_off(project: Project, path: str, subject: str, depth: int) -> bool:
    sites = project.callers(path, subject)
    if not sites:
        return False
    for sem, site in sites:
        if site.grad.off or always_off(sem, site.function):
            continue
        if any(project.answer(sem.file.path, q) for q in site.grad.unless):
            continue
        if (
            site.function.qualname
            and depth < _DEPTH
            and _callers_off(project, os.path.abspath(sem.file.path), site.function.own, depth + 1)
        ):
            continue
        return False
    return True


def _callers_set_eval(project: Project, path: str, subject: str) -> bool:
    """Whether any caller puts a module into eval mode before the call."""
    for sem, site in project.callers(path, subject):
        mode, _ = mode_at(sem, site.function, site.but(subject=""))
        if mode in ("eval", "mixed"):
            return True
    return False


def _framework_class(project: Project, path: str, subject: str) -> bool:
    found = project.find(path, subject)
    if found is None or found.cls is None:
        return bool(knowledge.FRAMEWORK_BASES.search(subject) or _FRAMEWORKS.match(subject))
    return any(
        project.answer(found.path, Question("framework-class", r)) for r in found.sem.names.roots(found.cls) if r
    )


def _returns_number(project: Project, path: str, subject: str) -> bool:
    """Whether the callable gives a Python number or a tensor without graph. Unknown callables: yes."""
    found = project.find(path, subject)
    if found is None or found.function is None:
        return True
    value = found.sem.summary(found.function).returns
    return (
        value.kind in (Kind.NUMBER, Kind.NDARRAY, Kind.STRING, Kind.NONE, Kind.UNKNOWN)
        or value.graph is not Graph.ATTACHED
    )


def _calls_set_epoch(project: Project, path: str, subject: str) -> bool:
    return any(".set_epoch(" in project.text(p) for p in project.neighbours(path))


def _sets_precision(project: Project, path: str, subject: str) -> bool:
    """Whether anything in the project chooses a precision: autocast, half, float64, TF32, a framework that does."""
    return any(knowledge.PRECISION_WORDS.search(project.text(p)) for p in project.neighbours(path))


def _mentions_cudnn(project: Project, path: str, subject: str) -> bool:
    """Whether anything in the project says how cuDNN is to choose."""
    return any("cudnn" in project.text(p) for p in project.neighbours(path))


def _sets_rendezvous(project: Project, path: str, subject: str) -> bool:
    """Whether anything in the project says where processes meet."""
    return any(_RENDEZVOUS.search(project.text(p)) for p in project.neighbours(path))


def _no_cuda_use(project: Project, path: str, subject: str) -> bool:
    """Whether nobody who calls the function works with CUDA (no caller found counts as nobody)."""
    own = subject.removeprefix(OWN)
    last = own.rpartition(".")[2]
    if last == "__init__":
        last = own.split(".")[-2]
    pattern = re.compile(rf"\b{re.escape(last)}\b")
    for other in project.neighbours(path):
        if other != path and pattern.search(project.text(other)) and _CUDA.search(project.text(other)):
            return False
    return True


def _not_trained(project: Project, path: str, subject: str) -> bool:
    """Whether no file that uses the name runs backward."""
    last = subject.removeprefix(OWN).rpartition(".")[2]
    pattern = re.compile(rf"\b{re.escape(last)}\b")
    for other in project.neighbours(path):
        text = project.text(other)
        if pattern.search(text) and ".backward(" in text:
            return False
    return True


def _not_fed_into(*losses: str) -> Callable[[Project, str, str], bool]:
    """Is no such loss of the project given the output of the activation (`~.Net@row`)?"""

    def answer(project: Project, path: str, subject: str) -> bool:
        return not fed_into(project, path, subject, losses)

    return answer


def _items_in_memory(project: Project, path: str, subject: str) -> bool:
    """Whether a dataset class is not known to read or decode a file for each item. Unknown classes: yes."""
    found = project.find(path, subject)
    if found is None or found.cls is None:
        return not subject.startswith("torchvision.datasets.")
    if reads_items(found.sem, found.cls):
        return False
    roots = [r for r in found.sem.names.roots(found.cls) if not knowledge.DATASET_BASES.match(r)]
    return all(project.answer(found.path, Question("items-in-memory", root)) for root in roots)


ANSWERS: dict[str, Callable[[Project, str, str], bool]] = {
    "zeroes-gradients": _does(Effect.ZERO_GRAD),
    "runs-backward": _does(Effect.BACKWARD),
    "steps-optimizer": _does(Effect.STEP),
    "sets-train-mode": _does(Effect.TRAIN),
    "sets-eval-mode": _does(Effect.EVAL),
    "disables-grad": _disables_grad,
    "callers-disable-grad": _callers_disable_grad,
    "callers-set-eval": _callers_set_eval,
    "framework-class": _framework_class,
    "returns-number": _returns_number,
    "calls-set-epoch": _calls_set_epoch,
    "sets-precision": _sets_precision,
    "mentions-cudnn": _mentions_cudnn,
    "sets-rendezvous": _sets_rendezvous,
    "no-cuda-use": _no_cuda_use,
    "not-trained": _not_trained,
    "items-in-memory": _items_in_memory,
    "output-not-in-cross-entropy": _not_fed_into("cross_entropy", "nll"),
    "output-not-in-bce-with-logits": _not_fed_into("bce_with_logits"),
    "output-not-in-bce": _not_fed_into("bce"),
}

__all__ = ["ANSWERS", "Definition", "Project", "link"]
