"""Whether other files hand a function or an object a model: the answers that the questions of `likely` wait for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.nodes import dotted, find
from torchlint.semantics import knowledge
from torchlint.semantics.calls import bind_arguments
from torchlint.semantics.consumers import calls_by_import, finder, imported
from torchlint.semantics.effects import Effect
from torchlint.semantics.kinds import Kind, Value
from torchlint.semantics.made import Made, Scope, Tracer
from torchlint.semantics.modules import minds_mode
from torchlint.semantics.names import OWN, Class, Function
from torchlint.semantics.origins import used_as

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics
    from torchlint.semantics.project import Project

_DEPTH = 3
_MOST_FILES = 20  # a name that so many files hold is a word of the project
_Given = tuple[cst.BaseExpression, Scope]


def handed_no_module(project: Project, path: str, subject: str) -> bool:
    """Whether no caller is known to pass a Module for the last of the named parameters, or one does for an earlier."""
    own, *names = subject.split()
    with project.comparing():
        given = [_arguments(project, path, own, n) for n in names]
        *earlier, last = [any(_is_module(project, e, scope, 0) for e, scope in each) for each in given]
        return not last or any(earlier)


def holds_no_module(project: Project, path: str, subject: str) -> bool:
    """The same of attributes of a class: `~.Tester self.encoder self.head`."""
    own, *names = subject.split()
    with project.comparing():
        sem = project.semantics(path)
        cls = sem.names.classes.get(own.removeprefix(OWN)) if sem is not None else None
        if sem is None or cls is None or _is_module_class(project, sem, cls, 0):
            return True  # a part of a model: its callers decide about recording
        *earlier, last = [_holds_module(project, sem, cls, n.partition(".")[2]) for n in names]
        return not last or any(earlier)


def _holds_module(project: Project, sem: Semantics, cls: Class, attribute: str) -> bool:
    if used_as(_uses(project, sem, cls, attribute, 0)).kind is Kind.MODULE:
        return True
    return any(_is_module(project, e, scope, 0) for e, scope in _held(project, sem, cls, attribute))


def _uses(project: Project, sem: Semantics, cls: Class, attribute: str, depth: int) -> set[str]:
    """What a class and its bases anywhere in the project do with an attribute of their objects."""
    result: set[str] = set()
    for owner in sem.names.mro(cls):
        result |= sem.evaluator.class_uses.get(owner.qualname, {}).get(attribute, set())
        result |= {"()"} if any(_calls(m, attribute) for m in owner.methods.values()) else set()
    for root in sem.names.roots(cls) if depth < _DEPTH else ():
        found = project.find(os.path.abspath(sem.file.path), root)
        if found is not None and found.cls is not None:
            result |= _uses(project, found.sem, found.cls, attribute, depth + 1)
    return result


def _calls(method: Function, attribute: str) -> bool:
    if not method.is_method:
        return False
    return any(dotted(c.func) == f"{method.params[0]}.{attribute}" for c in find(method.node, cst.Call))


def runs_no_model(project: Project, path: str, subject: str) -> bool:
    """Whether no Module of the project has a method of that name that runs it while autograd records, or a part of that
    name."""
    method = subject.split()[0]
    pattern = re.compile(rf"\bdef {re.escape(method)}\s*\(\s*self|\bself\.{re.escape(method)}\s*=[^=]")
    naming = [p for p in project.neighbours(path) if pattern.search(project.text(p))]
    runs = False
    for other in naming if len(naming) <= _MOST_FILES else ():
        sem = project.semantics(other)
        for cls in sem.names.classes.values() if sem is not None else ():
            if sem is None or not _is_module_class(project, sem, cls, 0):
                continue
            own = cls.methods.get(method)
            if own is not None:
                forwards = sem.events(own, Effect.FORWARD, Effect.GRAD)
                if sem.summary(own).grad.off or any(e.effect is Effect.GRAD or e.grad.off for e in forwards):
                    return True
                runs = runs or bool(forwards)
            elif any(_assigns(m, method) for m in cls.methods.values()):
                runs = True
    return not runs


def not_in_train_mode(project: Project, path: str, subject: str) -> bool:
    """Whether nothing says that the model which is handed over (`~.test net`, `~.Tester self.net`) is in train mode.

    Said is it where the file that hands it over trains, itself or in what it imports, none of these files sets an eval
    mode, and the model is made of layers that mind.
    """
    own, *names = subject.split()
    with project.comparing():
        sem = project.semantics(path)
        cls = sem.names.classes.get(own.removeprefix(OWN)) if sem is not None else None
        if sem is not None and cls is not None:
            given = _held(project, sem, cls, names[-1].partition(".")[2])
        else:
            given = _arguments(project, path, own, names[-1])
        every = list(given)
        if not every or _SETS_EVAL.search(project.text(path)):
            return True
        return not all(_just_trained(project, scope) and _minds(project, e, scope) for e, scope in every)


_SETS_EVAL = re.compile(r"\.eval\(|\.train\(\s*(?!\)|True)|\.evaluate\(|from_pretrained|\bTrainer\b|\.fit\(")


def _just_trained(project: Project, scope: Scope) -> bool:
    path = os.path.abspath(scope.sem.file.path)
    texts = [project.text(p) for p in (path, *imported(project, path))]
    return any(".backward(" in text for text in texts) and not any(_SETS_EVAL.search(text) for text in texts)


def _minds(project: Project, node: cst.BaseExpression, scope: Scope) -> bool:
    """Whether what is handed over surely has layers that mind the mode."""
    made = made_of(project, node, scope)
    return bool(made) and all(
        m.name.startswith("torchvision.models.")
        or (
            m.cls is not None
            and _is_module_class(project, m.sem, m.cls, 0)
            and minds_mode(m.sem, Value(Kind.MODULE, m.cls.own))
            and m.sem.file.mentions(_LAYERS)
        )
        for m in made
    )


_LAYERS = re.compile(r"Dropout|BatchNorm|DropPath")


# -- what is handed over --------------------------------------------------------------------------------------------


def _arguments(project: Project, path: str, own: str, param: str) -> Iterator[_Given]:
    """What the project's calls of a function pass for a parameter."""
    sem = project.semantics(path)
    function = sem.names.functions.get(own.removeprefix(OWN)) if sem is not None else None
    for there, site in project.callers(path, own) if function is not None else ():
        if function is not None and isinstance(site.node, cst.Call):
            by_object = function.is_method and isinstance(site.node.func, cst.Attribute)
            arg = bind_arguments(function, site.node, by_object).get(param)
            if arg is not None:
                yield arg.value, Scope(there, site.function)


def _held(project: Project, sem: Semantics, cls: Class, attribute: str, depth: int = 0) -> Iterator[_Given]:
    """What the objects of a class may keep in an attribute, the arguments of its constructor's calls for parameters."""
    path = os.path.abspath(sem.file.path)
    stored = False
    for owner in sem.names.mro(cls):
        for method in owner.methods.values():
            for value in _assigned(method, attribute):
                stored = True
                param = dotted(value) or ""
                if method.name == "__init__" and param in method.params:
                    yield from _constructed_with(project, path, cls, method, param)
                else:
                    yield value, Scope(sem, method)
    for root in sem.names.roots(cls) if not stored and depth < _DEPTH else ():
        found = project.find(path, root)
        if found is None or found.cls is None:
            continue
        for value, scope in _held(project, found.sem, found.cls, attribute, depth + 1):
            yield value, scope
        init = found.sem.names.method(found.cls, "__init__")
        for value in _assigned(init, attribute) if init is not None else ():
            param = dotted(value) or ""
            if init is not None and param in init.params:
                yield from _passed_up(project, sem, cls, init, param)


def _passed_up(project: Project, sem: Semantics, cls: Class, base: Function, param: str) -> Iterator[_Given]:
    """What a class passes to its base's constructor, whose it has where it has none itself."""
    path = os.path.abspath(sem.file.path)
    own = cls.methods.get("__init__")
    if own is None:
        yield from _constructed_with(project, path, cls, base, param)
        return
    for call in find(own.node, cst.Call):
        if isinstance(call.func, cst.Attribute) and call.func.attr.value == "__init__":
            arg = bind_arguments(base, call, isinstance(call.func.value, cst.Call)).get(param)
            name = dotted(arg.value) if arg is not None else None
            if name in own.params and name is not None:
                yield from _constructed_with(project, path, cls, own, name)


def _constructed_with(project: Project, path: str, cls: Class, init: Function, param: str) -> Iterator[_Given]:
    """The arguments for a parameter in all calls of the class."""
    for call, scope, found in calls_by_import(project, path, cls.node.name.value, list(project.neighbours(path))):
        if found.cls is not None and (arg := bind_arguments(init, call, True).get(param)) is not None:
            yield arg.value, scope


def _assigned(method: Function, attribute: str) -> Iterator[cst.BaseExpression]:
    """What a method assigns to an attribute of its object, moves to a device and wrappers taken off."""
    if not method.is_method or not isinstance(method.node, cst.FunctionDef):
        return
    for assign in find(method.node.body, cst.Assign):
        for target in assign.targets:
            pairs: list[tuple[cst.BaseExpression, cst.BaseExpression]] = [(target.target, assign.value)]
            if isinstance(target.target, cst.Tuple) and isinstance(assign.value, cst.Tuple):
                pairs = [(a.value, b.value) for a, b in zip(target.target.elements, assign.value.elements)]
            for name, value in pairs:
                if dotted(name) == f"{method.params[0]}.{attribute}":
                    yield _moved(value)


def _assigns(method: Function, attribute: str) -> bool:
    return any(isinstance(value, cst.Call) for value in _assigned(method, attribute))


def _moved(value: cst.BaseExpression) -> cst.BaseExpression:
    while isinstance(value, cst.Call):
        if isinstance(value.func, cst.Attribute) and value.func.attr.value in ("to", "cuda", "eval", "train", "float"):
            value = value.func.value
        elif (dotted(value.func) or "").rpartition(".")[2].endswith("DataParallel") and value.args:
            value = value.args[0].value
        else:
            break
    return value


# -- what is a Module -----------------------------------------------------------------------------------------------


def made_of(project: Project, node: cst.BaseExpression, scope: Scope) -> list[Made]:
    """The calls anywhere in the project that may have made what the expression stands for."""
    return Tracer(finder(project)).made(node, scope)


def _is_module(project: Project, node: cst.BaseExpression, scope: Scope, depth: int) -> bool:
    value = scope.sem.value(node)
    if value.kind is not Kind.UNKNOWN:
        return value.kind is Kind.MODULE
    name, function = dotted(node) or "", scope.function
    path = os.path.abspath(scope.sem.file.path)
    if depth < _DEPTH and name in function.params:
        given = _arguments(project, path, function.own, name)
        return any(_is_module(project, e, there, depth + 1) for e, there in given)
    if depth < _DEPTH and function.is_method and function.cls is not None:
        root, _, attribute = name.partition(".")
        if root == function.params[0] and attribute and "." not in attribute:
            held = _held(project, scope.sem, function.cls, attribute)
            return any(_is_module(project, e, there, depth + 1) for e, there in held if e is not node)
    return any(_makes_module(project, made) for made in made_of(project, node, scope))


def _makes_module(project: Project, made: Made) -> bool:
    if made.cls is not None:
        return _is_module_class(project, made.sem, made.cls, 0)
    known = knowledge.made_by(made.name)
    return known is not None and known.kind is Kind.MODULE


def _is_module_class(project: Project, sem: Semantics, cls: Class, depth: int) -> bool:
    path = os.path.abspath(sem.file.path)
    for root in sem.names.roots(cls):
        if knowledge.MODULE_BASES.match(root):
            return True
        found = project.find(path, root) if depth < _DEPTH else None
        if found is not None and found.cls is not None and _is_module_class(project, found.sem, found.cls, depth + 1):
            return True
    return False


def no_module_there(project: Project, path: str, subject: str) -> bool:
    """Whether what `.forward(…)` is called on in that row (`@41`) is not known to be a Module, or may be something else
    as well."""
    known = set(_called_forward(project, path, subject))
    return True not in known or False in known


def other_than_module_there(project: Project, path: str, subject: str) -> bool:
    """Whether what `.forward(…)` is called on in that row is known to be something else than a Module."""
    return False in _called_forward(project, path, subject)


def _called_forward(project: Project, path: str, subject: str) -> Iterator[bool | None]:
    sem = project.semantics(path)
    row = int(subject.partition("@")[2])
    with project.comparing():
        for call in sem.file.all(cst.Call) if sem is not None else ():
            if sem is None or not isinstance(call.func, cst.Attribute) or call.func.attr.value != "forward":
                continue
            if sem.file.row(call.func) == row:
                yield from _plain_modules(project, call.func.value, Scope(sem, sem.function(call)), 0)


def _plain_modules(project: Project, node: cst.BaseExpression, scope: Scope, depth: int) -> Iterator[bool | None]:
    """For each thing that the expression is known to stand for, whether it is a Module of which calling it is calling
    its `forward`; None for what lies outside of the project."""
    path = os.path.abspath(scope.sem.file.path)
    name, function = dotted(node) or "", scope.function
    given: Iterator[_Given] | None = None
    if depth < _DEPTH and name in function.params:
        given = _arguments(project, path, function.own, name)
        if function.name == "__init__" and function.cls is not None:
            given = _constructed_with(project, path, function.cls, function, name)
    elif depth < _DEPTH and function.is_method and function.cls is not None:
        root, _, attribute = name.partition(".")
        if root == function.params[0] and attribute and "." not in attribute:
            given = _held(project, scope.sem, function.cls, attribute)
    if given is not None:
        for expression, there in given:
            if expression is not node:
                yield from _plain_modules(project, expression, there, depth + 1)
        return
    for made in made_of(project, node, scope):
        where = os.path.abspath(made.sem.file.path)
        if made.cls is not None and project.answer(where, Question("is-known-as-no-module", made.cls.own)):
            yield False
        else:
            yield True if _makes_module(project, made) else None


MODEL_ANSWERS = {
    "handed-no-module": handed_no_module,
    "holds-no-module": holds_no_module,
    "runs-no-model": runs_no_model,
    "no-module-there": no_module_there,
    "other-than-module-there": other_than_module_there,
    "not-in-train-mode": not_in_train_mode,
}
