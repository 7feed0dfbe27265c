"""Which stretches of code evaluate: forward passes whose results nobody differentiates.

A region is the outermost loop (or the whole function) that runs a model and holds no backward. That alone is not
enough: rollouts, feature caches and inner loops of training look the same. There must be evidence: the model was put
into eval mode, recording is off, or the function goes over data and only reports numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.nodes import dotted, find, literal, walk_scope
from torchlint.semantics import knowledge
from torchlint.semantics.effects import Effect, Event
from torchlint.semantics.escapes import escaping
from torchlint.semantics.kinds import Kind
from torchlint.semantics.loops import EvalRegion, Loop
from torchlint.semantics.measuring import loops_in, may_evaluate_name, over_data, over_held_out, reports
from torchlint.semantics.modes import call_sites, last_mode, loads_weights, mode_after, mode_at, subject_at
from torchlint.semantics.names import Class, Function
from torchlint.semantics.origins import is_module
from torchlint.semantics.unit_tests import holds_unit_tests

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

DIFFERENTIATES = (Effect.BACKWARD, Effect.GRAD, Effect.STEP)
_TRAINS = re.compile(r"(^|_)(train|training|fit|finetune|optimize|attack|search|adapt)(_|\d|$)")
_GRADIENT_WORDS = re.compile(
    r"attack|adversar|pgd|fgsm|explain|attribut|saliency|perturb|grad|refine|invert|guidance|jacobian", re.IGNORECASE
)
_OPTIMIZER = re.compile(r"(^|[._])(\w*optim(izers?)?|opt)$", re.IGNORECASE)
_NEVER = frozenset(("forward", "__call__", "training_step", "compute_loss", "loss", "__init__", "closure"))


def eval_regions(sem: Semantics) -> Iterator[EvalRegion]:
    if off_for_all(sem):
        return
    for function in sem.functions:
        if not may_evaluate(sem, function):
            continue
        yield from _regions_of(sem, function)


def _regions_of(sem: Semantics, function: Function) -> Iterator[EvalRegion]:
    events = sem.events(function)
    hot = [e for e in events if e.effect in DIFFERENTIATES]
    taken: dict[int, list[Event]] = {}
    nodes: dict[int, Loop | cst.FunctionDef] = {}
    for event in events:
        if event.effect is not Effect.FORWARD or event.value.kind is not Kind.MODULE:
            continue
        if event.via is not None and is_region_itself(sem, event):
            continue
        node: Loop | cst.FunctionDef | None = next(
            (loop for loop in event.loops if not any(h.within(loop) for h in hot)), None
        )
        if node is None:
            if hot or event.loops or not isinstance(function.node, cst.FunctionDef):
                continue
            node = function.node
        nodes[id(node)] = node
        taken.setdefault(id(node), []).append(event)
    for key, forwards in taken.items():
        region = judge(sem, function, nodes[key], forwards, events, hot)
        if region is not None:
            yield region


def is_region_itself(sem: Semantics, event: Event) -> bool:
    """Whether the callee that runs the model is judged on its own: it loops over data or sets the mode itself."""
    callee = event.via
    return (
        event.inner_loop or callee is None or any(e.effect in (Effect.EVAL, Effect.TRAIN) for e in sem.events(callee))
    )


def judge(
    sem: Semantics,
    function: Function,
    node: Loop | cst.FunctionDef,
    forwards: list[Event],
    events: list[Event],
    hot: list[Event],
) -> EvalRegion | None:
    """The region of these passes, if something says that it evaluates. `hot`: what the function differentiates."""
    forwards = [f for f in forwards if f.grad.off or not _only_in_training(f)]
    if not forwards:
        return None
    # `model.forward(x)` of an own class is the model's pass, and not only that of its first layer.
    whole = next((f for f in forwards if f.via is None and f.node is forwards[0].node), forwards[0])
    forwards = [whole, *(f for f in forwards if f is not whole)]
    first = forwards[0]
    in_loop = not isinstance(node, cst.FunctionDef)
    inside = tuple(e for e in events if e.within(node)) if in_loop else tuple(events)
    if uses_gradients(sem, node, inside) or _clears_for_training(inside, forwards):
        return None
    mode, unless = mode_at(sem, function, first)
    escapes = escaping(sem, function, node)
    name = function.name
    evidence = ""
    if mode == "eval":
        evidence = "eval"
    elif all(f.grad.off for f in forwards):
        evidence = "no_grad"
    elif not hot and in_loop and not escapes and not _TRAINS.search(name.lower()):
        # Results are only reported; the loop goes over a loader, or the function says that it evaluates.
        if may_evaluate_name(name) and not runs_its_parts(sem, function, first):
            evidence = "name"
        elif any(over_data(sem, loop) for loop in loops_in(node, first)) and reports(sem, node):
            evidence = "loader"
        elif _is_loaded(sem, first) and ".backward(" not in sem.file.text:
            evidence = "loaded"
    elif (
        hot
        and in_loop
        and not escapes
        and any(over_held_out(sem, loop, first) for loop in loops_in(node, first))
        and reports(sem, node)
    ):
        evidence = "loader"  # a pass over held-out data between the turns of training
    elif (
        not hot
        and not in_loop
        and not escapes
        and may_evaluate_name(name)
        and reports(sem, node)
        and owner(function) is None
    ):
        evidence = "name"
    if not evidence or (evidence != "no_grad" and on_made_up_data(sem, forwards)):
        return None
    if evidence == "eval" and escapes and hot and not in_loop:
        return None
    if (
        evidence == "eval"
        and escapes
        and any(h.order > first.order for h in hot)
        and mode_after(events, first) != "train"
    ):
        # Attached results leave the region and something is differentiated later with the mode unchanged.
        return None
    if evidence == "eval" and not in_loop:
        # A single pass: only a function that sets the mode itself and gives away nothing that could be differentiated.
        if last_mode(events, first) != "eval" or escaping(sem, function, node, doubtful=True):
            return None
    return EvalRegion(node, function, tuple(forwards), evidence, inside, mode, tuple(escapes), unless)


def _is_loaded(sem: Semantics, forward: Event) -> bool:
    return forward.value.origin == "torch.load" or loads_weights(sem, forward.subject)


def _clears_for_training(inside: tuple[Event, ...], forwards: list[Event]) -> bool:
    """Whether gradients are cleared around passes that record, or an optimizer is handed on: something of another file
    differentiates them, as `scaler(loss, optimizer)` does."""
    if all(f.grad.off for f in forwards):
        return False
    return any(e.effect is Effect.ZERO_GRAD or (e.effect is Effect.CALL and _takes_optimizer(e)) for e in inside)


def _takes_optimizer(event: Event) -> bool:
    call = event.origin or event.node
    if not isinstance(call, cst.Call) or event.target.startswith("torch."):
        return False
    return any(_OPTIMIZER.search(dotted(a.value) or "") for a in call.args)


def runs_its_parts(sem: Semantics, function: Function, forward: Event) -> bool:
    """Whether a model runs a layer of its own: `predict` and `infer` are parts of a forward too, under its callers."""
    cls = owner(function)
    if cls is None or not function.params:
        return False
    me = function.params[0]
    if forward.subject in function.params[1:] and _is_model(sem, cls):  # `self.encode(x, self.dropout)`
        given = [subject_at(function, site, forward.subject) or "" for site in call_sites(sem, function)]
        return bool(given) and all(text.startswith(f"{me}.") for text in given)
    if is_module(sem.names, cls):
        return forward.subject.startswith(f"{me}.") or (forward.subject == me and forward.detail == "forward")
    return "forward" in cls.methods and (forward.subject == me or forward.subject.startswith(f"{me}."))


def _is_model(sem: Semantics, cls: Class) -> bool:
    """Whether the class is a Module, or what is derived from it in this file has a forward."""
    derived = (c for c in sem.names.classes.values() if "forward" in c.methods)
    return is_module(sem.names, cls) or any(cls in sem.names.mro(c) for c in derived)


_IF_TRAINING = re.compile(r"\b(is_)?train(ing)?\b")


def _only_in_training(event: Event) -> bool:
    """Whether the forward stands under `if self.training:` (or `if train:`): evaluation takes the other branch."""
    for guard in event.guards + event.inner_guards:
        test, taken = guard.test, guard.taken
        while isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
            test, taken = test.expression, not taken
        name = dotted(test) or ""
        if taken and _IF_TRAINING.search(name.rpartition(".")[2]):
            return True
    return False


def may_evaluate(sem: Semantics, function: Function) -> bool:
    if function.name in _NEVER and not (function.name == "__call__" and _is_plain(sem, owner(function))):
        return False
    node = function.node
    if isinstance(node, cst.FunctionDef):
        if is_unit_test(sem, function):
            return False
        cls = owner(function)
        if cls is not None:
            roots = sem.names.roots(cls)
            if any(knowledge.FRAMEWORK_BASES.search(r) for r in roots):
                return False
            if function.name in knowledge.LIGHTNING_EVAL_HOOKS or function.name in (
                "training_step",
                "configure_optimizers",
            ):
                return False
    return True


def _is_plain(sem: Semantics, cls: Class | None) -> bool:
    """Whether the class is derived from nothing and no model: its call may be a predictor's."""
    return cls is not None and "forward" not in cls.methods and not [r for r in sem.names.roots(cls) if r != "object"]


def owner(function: Function) -> Class | None:
    """The class whose method the function is, or is nested in."""
    scope: Function | None = function
    while scope is not None:
        if scope.cls is not None:
            return scope.cls
        scope = scope.parent
    return None


def is_unit_test(sem: Semantics, function: Function) -> bool:
    """pytest's and unittest's own convention: a `test*` function in a test file or TestCase, or one that asserts and
    that the file itself does not call."""
    cls = owner(function)
    if cls is not None and any("TestCase" in b for b in sem.names.roots(cls)):
        return True
    node = function.node
    named = function.name.startswith("test") or (cls is not None and cls.node.name.value.startswith("Test"))
    if named and holds_unit_tests(sem):
        return True
    if function.name.startswith("test") and isinstance(node, cst.FunctionDef) and not sem.call_sites(function):
        if any(isinstance(n, cst.Assert) for n in walk_scope(node.body)):
            return True
    return False


def off_for_all(sem: Semantics) -> bool:
    """`torch.set_grad_enabled(False)` at the module's top level."""
    for line in sem.file.tree.body:
        if isinstance(line, cst.SimpleStatementLine):
            for small in line.body:
                if isinstance(small, cst.Expr) and isinstance(small.value, cst.Call) and small.value.args:
                    if (
                        sem.qualified(small.value.func) in knowledge.GRAD_SET
                        and literal(small.value.args[0].value) is False
                    ):
                        return True
    return False


def uses_gradients(sem: Semantics, node: cst.CSTNode, inside: tuple[Event, ...]) -> bool:
    """Whether the region asks for gradients: attacks, explanations, guidance, forces."""
    for event in inside:
        if event.effect in (Effect.BACKWARD, Effect.GRAD):
            return True
        if event.effect is Effect.CALL and gradient_words(event.target):
            return True
    body = node.body if isinstance(node, (cst.For, cst.While, cst.FunctionDef)) else node
    for n in walk_scope(body):
        if isinstance(n, cst.Attribute) and n.attr.value in ("requires_grad_", "enable_grad", "retain_grad"):
            parent = sem.file.parent(n)
            if isinstance(parent, cst.Call) and parent.args and literal(parent.args[0].value) is False:
                continue
            return True
        if (
            isinstance(n, cst.Arg)
            and n.keyword is not None
            and n.keyword.value == "requires_grad"
            and literal(n.value) is not False
        ):
            return True
        if (
            isinstance(n, cst.AssignTarget)
            and isinstance(n.target, cst.Attribute)
            and n.target.attr.value == "requires_grad"
        ):
            return True
    return False


def gradient_words(target: str) -> bool:
    """Whether a called function is named for what it does with gradients: an attack, an explanation."""
    if target in knowledge.GRAD_OFF | knowledge.GRAD_SET or "no_grad" in target:
        return False
    return _GRADIENT_WORDS.search(target.rpartition(".")[2]) is not None


def on_made_up_data(sem: Semantics, forwards: list[Event]) -> bool:
    """Whether the model only sees tensors made on the spot: a smoke test, a benchmark, an export."""
    for event in forwards:
        call = event.origin or event.node
        if not isinstance(call, cst.Call) or not call.args:
            return False
        for arg in call.args:
            value = sem.value(arg.value)
            if value.kind is Kind.NUMBER:
                continue
            made = sem.value(value.node).origin if value.node is not None else value.origin
            if made.rpartition(".")[2] not in (
                "randn",
                "rand",
                "randint",
                "zeros",
                "ones",
                "empty",
                "full",
                "arange",
                "linspace",
            ):
                return False
    return True


def is_frozen(sem: Semantics, subject: str) -> bool:
    """Whether the file turns `requires_grad` off for the module's parameters."""
    last = subject.rpartition(".")[2]
    for n in sem.file.all(cst.Call):
        if (
            isinstance(n.func, cst.Attribute)
            and n.func.attr.value == "requires_grad_"
            and n.args
            and literal(n.args[0].value) is False
        ):
            base = dotted(n.func.value) or ""
            if not base or base.rpartition(".")[2] == last or base in ("p", "param", "parameter"):
                return True
    for loop in sem.file.all(cst.For):
        if (
            isinstance(loop.iter, cst.Call)
            and isinstance(loop.iter.func, cst.Attribute)
            and loop.iter.func.attr.value in ("parameters", "named_parameters")
        ):
            base = (dotted(loop.iter.func.value) or "").rpartition(".")[2]
            if base == last:
                for assign in find(loop.body, cst.Assign):
                    target = assign.targets[0].target
                    if (
                        isinstance(target, cst.Attribute)
                        and target.attr.value == "requires_grad"
                        and literal(assign.value) is False
                    ):
                        return True
    return False


def framework_questions(sem: Semantics, function: Function) -> tuple[Question, ...]:
    """For a method of a class whose bases lie in other files: may a framework own the loop that calls it?"""
    cls = owner(function)
    if cls is None:
        return ()
    roots = [r for r in sem.names.roots(cls) if r and not r.startswith(("torch.", "object", "abc."))]
    return tuple(Question("framework-class", r) for r in roots)
