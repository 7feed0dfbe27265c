"""What rules ask of other files: the questions by name, each with how the project answers it.

An answer is yes only where the project's code says so, or where a name that cannot be followed is telling enough; what
lies outside of the checked files is answered by each question's own default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.nodes import find
from torchlint.semantics import knowledge
from torchlint.semantics.announced import feeds_no_epochs, samples_no_epochs, takes_no_epochs
from torchlint.semantics.consumers import fed_into
from torchlint.semantics.datasets import may_move_items, reads_items
from torchlint.semantics.effects import Effect
from torchlint.semantics.fed import is_no_plain_loader, moves_no_batches, moves_nothing, no_cuda_use, no_gpu_around
from torchlint.semantics.grad import body_disables
from torchlint.semantics.handed_models import MODEL_ANSWERS
from torchlint.semantics.kinds import Graph, Kind, Value
from torchlint.semantics.meters import keeps_no_graph
from torchlint.semantics.modes import always_off, mode_at
from torchlint.semantics.modules import minds_mode
from torchlint.semantics.names import OWN
from torchlint.semantics.per_step import not_waited_for, waited_for_alone, waited_for_besides
from torchlint.semantics.repeated import not_repeated

if TYPE_CHECKING:
    from torchlint.semantics.project import Project

_DEPTH = 4
_OFF_WORDS = re.compile(r"no_?grad|inference|eval_mode|smart_inference|without_grad|disable_grad", re.IGNORECASE)
_GRADIENT_WORDS = re.compile(
    r"zero_?grad|backward|train_step|training_step|optimi[sz]e|step_and|update_param", re.IGNORECASE
)
_RENDEZVOUS = re.compile(r"MASTER_(ADDR|PORT)|init_method[\"']?\s*[=:]\s*(?![\"']env://)")
_FRAMEWORKS = re.compile(
    r"^(pytorch_lightning|lightning|lightning_fabric|ignite|fastai|composer|skorch|catalyst|transformers|trl)\."
)


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
    @cache  # of the thousands of ways up through a project many lead to the same caller
    def off(path: str, subject: str, depth: int) -> bool:
        called = False
        for sem, site in project.callers(path, subject):
            called = True
            if site.grad.off or always_off(sem, site.function):
                continue
            if any(project.answer(sem.file.path, q) for q in site.grad.unless):
                continue
            above = os.path.abspath(sem.file.path)
            if site.function.qualname and depth < _DEPTH and off(above, site.function.own, depth + 1):
                continue
            return False
        return called

    return off(path, subject, 0)


def _a_caller_disables_grad(project: Project, path: str, subject: str) -> bool:
    """Whether recording is off where another file calls the function."""
    here = os.path.abspath(path)
    callers = ((sem, site) for sem, site in project.callers(path, subject) if os.path.abspath(sem.file.path) != here)
    return any(site.grad.off or always_off(sem, site.function) for sem, site in callers)


def _callers_set_eval(project: Project, path: str, subject: str) -> bool:
    """Whether any caller, or a caller's caller, puts a module into eval mode before the call. The nearest are asked
    first: each step up may lead through the whole project."""
    level, seen = [(path, subject)], {(path, subject)}
    for _ in range(_DEPTH + 1):
        above: list[tuple[str, str]] = []
        for where in level:
            for sem, site in project.callers(*where):
                mode, _ = mode_at(sem, site.function, site.but(subject=""))
                if mode in ("eval", "mixed"):
                    return True
                caller = os.path.abspath(sem.file.path), site.function.own
                if site.function.qualname and caller not in seen:
                    seen.add(caller)
                    above.append(caller)
        level = above
    return False


def _differentiates_nothing(project: Project, path: str, subject: str) -> bool:
    return not _has_effect(project, path, subject, Effect.BACKWARD, 0)


def _leaves_mode(project: Project, path: str, subject: str) -> bool:
    """Whether a function does not put what it is given there (`engine.validate 0`) into eval mode, or restores it."""
    name, _, place = subject.partition(" ")
    found = project.find(path, name)
    if found is None or found.function is None or found.function.cls is not None:
        return True
    params = found.function.params
    param = params[int(place)] if place.isdigit() and int(place) < len(params) else place
    modes = [e for e in found.sem.events(found.function, Effect.EVAL, Effect.TRAIN) if e.subject in (param, "")]
    if not modes or modes[-1].effect is not Effect.EVAL or any(e.detail == "conditional" for e in modes):
        return True
    runs = found.sem.events(found.function, Effect.FORWARD, Effect.CALL)
    return not any(e.subject == param and e.order > modes[-1].order for e in runs)


def _framework_class(project: Project, path: str, subject: str) -> bool:
    found = project.find(path, subject)
    if found is None or found.cls is None:
        return bool(knowledge.FRAMEWORK_BASES.search(subject) or _FRAMEWORKS.match(subject))
    return any(
        project.answer(found.path, Question("framework-class", r)) for r in found.sem.names.roots(found.cls) if r
    )


def _is_no_module(unknown: bool) -> Callable[[Project, str, str], bool]:
    """Is the name that of something else than a Module with a plain forward? `unknown`: the answer for what lies
    elsewhere."""

    def answer(project: Project, path: str, subject: str) -> bool:
        found = project.find(path, subject)
        if found is None or found.cls is None:
            return unknown
        names = found.sem.names
        forward = names.method(found.cls, "forward")
        if names.method(found.cls, "__call__") is not None or (forward is not None and _yields(forward.node)):
            return True
        roots = [r for r in names.roots(found.cls) if r not in ("object", "abc.ABC")]
        return not any(knowledge.MODULE_BASES.match(r) for r in roots) and all(
            answer(project, found.path, r) for r in roots
        )

    return answer


def _yields(node: cst.CSTNode) -> bool:
    return any(True for _ in find(node, cst.Yield))


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


def _makes_no_torch_scheduler(project: Project, path: str, subject: str) -> bool:
    """Whether the callable is not known to give one of PyTorch's schedulers. Unknown callables: yes."""
    found = project.find(path, subject)
    if found is None or found.function is None:
        return True
    value = found.sem.summary(found.function).returns
    return value.kind is not Kind.SCHEDULER or value.origin.startswith(OWN)


def _calls_set_epoch(project: Project, path: str, subject: str) -> bool:
    return any(".set_epoch(" in project.text(p) for p in project.neighbours(path))


def _sets_precision(project: Project, path: str, subject: str) -> bool:
    """Whether anything in the project chooses a precision: autocast, half, float64, TF32, a framework that does."""
    return any(knowledge.PRECISION_WORDS.search(project.text(p)) for p in project.neighbours(path))


def _mentions(project: Project, path: str, subject: str) -> bool:
    """Whether anything in the project says the word: `cudnn`, `channels_last`, `compile`."""
    return any(subject in project.text(p) for p in project.neighbours(path))


def _sets_rendezvous(project: Project, path: str, subject: str) -> bool:
    """Whether anything in the project says where processes meet."""
    return any(_RENDEZVOUS.search(project.text(p)) for p in project.neighbours(path))


def _ignores_mode(project: Project, path: str, subject: str) -> bool:
    """Whether it is a Module of the project in which no layer minds train and eval mode. Unknown ones: no.

    Several are a Module and those that it was made with: none of them must mind.
    """
    names = subject.split()
    for name in names:
        found = project.find(path, name)
        if found is None or found.cls is None:
            return False
        if minds_mode(found.sem, Value(Kind.MODULE, found.cls.own), beside_given=len(names) > 1):
            return False
    return True


def _takes_gradients(project: Project, path: str, subject: str) -> bool:
    """Whether the forward of any of these classes of the project differentiates: it adapts weights to a task, or gives
    forces. Unknown ones: no."""
    for name in subject.split():
        found = project.find(path, name)
        forward = found.sem.names.method(found.cls, "forward") if found is not None and found.cls is not None else None
        if found is not None and forward is not None:
            if any(e.effect in (Effect.BACKWARD, Effect.GRAD) for e in found.sem.events(forward)):
                return True
    return False


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


def _items_on_device(project: Project, path: str, subject: str) -> bool:
    """Whether a dataset class that is given a device may put its items there. Unknown classes: yes."""
    found = project.find(path, subject)
    if found is None or found.cls is None or may_move_items(found.sem, found.cls):
        return True
    roots = [r for r in found.sem.names.roots(found.cls) if not knowledge.DATASET_BASES.match(r)]
    return any(project.answer(found.path, Question("items-on-device", root)) for root in roots)


ANSWERS: dict[str, Callable[[Project, str, str], bool]] = {
    **MODEL_ANSWERS,
    "zeroes-gradients": _does(Effect.ZERO_GRAD),
    "runs-backward": _does(Effect.BACKWARD),
    "steps-optimizer": _does(Effect.STEP),
    "sets-train-mode": _does(Effect.TRAIN),
    "sets-eval-mode": _does(Effect.EVAL),
    "leaves-mode": _leaves_mode,
    "differentiates-nothing": _differentiates_nothing,
    "disables-grad": _disables_grad,
    "callers-disable-grad": _callers_disable_grad,
    "a-caller-disables-grad": _a_caller_disables_grad,
    "callers-set-eval": _callers_set_eval,
    "framework-class": _framework_class,
    "is-no-module": _is_no_module(unknown=True),
    "is-known-as-no-module": _is_no_module(unknown=False),
    "returns-number": _returns_number,
    "keeps-no-graph": keeps_no_graph,
    "makes-no-torch-scheduler": _makes_no_torch_scheduler,
    "calls-set-epoch": _calls_set_epoch,
    "sets-precision": _sets_precision,
    "mentions": _mentions,
    "sets-rendezvous": _sets_rendezvous,
    "no-cuda-use": no_cuda_use,
    "no-gpu-around": no_gpu_around,
    "ignores-mode": _ignores_mode,
    "takes-gradients": _takes_gradients,
    "moves-no-batches": moves_no_batches,
    "moves-nothing": moves_nothing,
    "is-no-plain-loader": is_no_plain_loader,
    "not-trained": _not_trained,
    "feeds-no-epochs": feeds_no_epochs,
    "samples-no-epochs": samples_no_epochs,
    "takes-no-epochs": takes_no_epochs,
    "items-in-memory": _items_in_memory,
    "items-on-device": _items_on_device,
    "not-waited-for": not_waited_for,
    "not-repeated": not_repeated,
    "waited-for-alone": waited_for_alone,
    "waited-for-besides": waited_for_besides,
    "output-not-in-cross-entropy": _not_fed_into("cross_entropy", "nll"),
    "output-not-in-bce-with-logits": _not_fed_into("bce_with_logits"),
    "output-not-in-bce": _not_fed_into("bce"),
}
