"""Which stretches of code evaluate: forward passes whose results nobody differentiates.

A region is the outermost loop (or the whole function) that runs a model and holds no backward. That alone is not
enough: rollouts, feature caches and inner loops of training look the same. There must be evidence: the model was put
into eval mode, recording is off, or the function goes over data and only reports numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.nodes import dotted, find, literal, walk, walk_scope
from torchlint.semantics import knowledge
from torchlint.semantics.effects import Effect, Event
from torchlint.semantics.escapes import escaping
from torchlint.semantics.kinds import Kind
from torchlint.semantics.loops import EvalRegion, Loop
from torchlint.semantics.modes import last_mode, loads_weights, mode_after, mode_at
from torchlint.semantics.names import Class, Function
from torchlint.semantics.origins import is_module
from torchlint.semantics.unit_tests import holds_unit_tests

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

DIFFERENTIATES = (Effect.BACKWARD, Effect.GRAD, Effect.STEP)
_WORDS = (
    "eval|evaluate|evaluation|evaluator|test|tests|testing|val|vali|valid|validate|validation|infer|inference|predict"
    "|prediction|predictions|benchmark|accuracy|metrics"
)
_EVALUATES = re.compile(rf"(^|_)({_WORDS})(_|\d|$)")
# The headers of functions whose names say that they evaluate, as a trigger for rules.
EVALUATION_NAMES = rf"def (?i:\w*_)?(?i:{_WORDS})(_\w*|\d\w*)?\("
# Loaders and data sets that are named for evaluation, and their names as a trigger.
_HELD_OUT = re.compile(r"(^|_)(val|valid|validation|test|testing|eval|dev|held_?out)(_|\d|$|load|data|iter|set|dl)")
_SETS = "load|iter|set|data|dl"
HELD_OUT_NAMES = (
    rf"(?i:(?:val|test|eval|dev|held_?out)\w{{0,12}}(?:{_SETS})|(?:{_SETS})\w{{0,6}}_(?:val|test|eval|dev))"
)
_TRAINS = re.compile(r"(^|_)(train|training|fit|finetune|optimize|attack|search|adapt)(_|\d|$)")
_GRADIENT_WORDS = re.compile(
    r"attack|adversar|pgd|fgsm|explain|attribut|saliency|perturb|grad|refine|invert|guidance|jacobian", re.IGNORECASE
)
_OPTIMIZER = re.compile(r"(^|[._])(\w*optim(izers?)?|opt)$", re.IGNORECASE)
_NEVER = frozenset(("forward", "__call__", "training_step", "compute_loss", "loss", "__init__", "closure"))


def eval_regions(sem: Semantics) -> Iterator[EvalRegion]:
    if _grad_off_globally(sem):
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
        region = _judge(sem, function, nodes[key], forwards, events, hot)
        if region is not None:
            yield region


def is_region_itself(sem: Semantics, event: Event) -> bool:
    """Whether the callee that runs the model is judged on its own: it loops over data or sets the mode itself."""
    callee = event.via
    return (
        event.inner_loop or callee is None or any(e.effect in (Effect.EVAL, Effect.TRAIN) for e in sem.events(callee))
    )


def _judge(
    sem: Semantics,
    function: Function,
    node: Loop | cst.FunctionDef,
    forwards: list[Event],
    events: list[Event],
    hot: list[Event],
) -> EvalRegion | None:
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
        if _EVALUATES.search(name.lower()) and not runs_its_parts(sem, function, first):
            evidence = "name"
        elif any(_over_data(sem, loop) for loop in _loops_in(node, first)) and _reports(sem, node):
            evidence = "loader"
        elif loads_weights(sem, first.subject) and ".backward(" not in sem.file.text:
            evidence = "loaded"
    elif (
        hot
        and in_loop
        and not escapes
        and any(_over_held_out(sem, loop) for loop in _loops_in(node, first))
        and _reports(sem, node)
    ):
        evidence = "loader"  # a pass over held-out data between the turns of training
    elif (
        not hot
        and not in_loop
        and not escapes
        and _EVALUATES.search(name.lower())
        and _reports(sem, node)
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
    if is_module(sem.names, cls):
        return forward.subject.startswith(f"{me}.") or (forward.subject == me and forward.detail == "forward")
    return "forward" in cls.methods and (forward.subject == me or forward.subject.startswith(f"{me}."))


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
    if function.name in _NEVER:
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


def _grad_off_globally(sem: Semantics) -> bool:
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


def _over_data(sem: Semantics, loop: cst.For) -> bool:
    from torchlint.semantics.blocks import unwrap_iteration

    return sem.value(unwrap_iteration(loop.iter)).kind in (Kind.LOADER, Kind.DATASET)


def _loops_in(node: cst.CSTNode, event: Event) -> tuple[cst.For, ...]:
    """The `for` loops around an event, from a region's own on."""
    at = next((i for i, loop in enumerate(event.loops) if loop is node), None)
    return () if at is None else tuple(loop for loop in event.loops[at:] if isinstance(loop, cst.For))


def _over_held_out(sem: Semantics, loop: cst.For) -> bool:
    """Whether the loop goes over a loader or data set that is named for evaluation, or draws from one in each turn."""
    from torchlint.semantics.blocks import unwrap_iteration

    if is_held_out_name(dotted(unwrap_iteration(loop.iter)) or "") and _over_data(sem, loop):
        return True
    return any(draws_held_out(call) for call in find(loop.body, cst.Call))


def draws_held_out(call: cst.Call) -> bool:
    """`next(iter(test_loader))`, `next(enumerate(test_loader))`, `test_loader.__iter__().next()`."""
    from torchlint.semantics.blocks import unwrap_iteration

    if isinstance(call.func, cst.Attribute) and call.func.attr.value == "__iter__":
        return is_held_out_name(dotted(call.func.value) or "")
    if dotted(call.func) == "next" and call.args and isinstance(call.args[0].value, cst.Call):
        call = call.args[0].value
    elif dotted(call.func) != "iter":
        return False
    if dotted(call.func) not in ("iter", "enumerate") or not call.args:
        return False
    return is_held_out_name(dotted(unwrap_iteration(call.args[0].value)) or "")


def is_held_out_name(name: str) -> bool:
    return _HELD_OUT.search(name.rpartition(".")[2].lower()) is not None


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


_NUMBERS = frozenset(("item", "argmax", "numpy", "tolist", "topk"))


def _reports(sem: Semantics, loop: cst.For | cst.While | cst.FunctionDef) -> bool:
    """Whether the code turns results into numbers: item, argmax, max, numpy, comparisons."""
    for n in walk_scope(loop.body):
        if isinstance(n, cst.Call) and isinstance(n.func, cst.Attribute):
            if n.func.attr.value in _NUMBERS or (sem.qualified(n.func) == "torch.max" and len(n.args) == 2):
                return True
    return False


def reports_numbers(node: cst.CSTNode, begun: Callable[[cst.CSTNode], bool]) -> bool:
    """Whether what stands behind the beginning of an evaluation gives numbers, or has names of metrics."""
    for n in walk_scope(node):
        if isinstance(n, cst.Call) and isinstance(n.func, cst.Attribute) and n.func.attr.value in _NUMBERS:
            if begun(n):
                return True
        elif isinstance(n, cst.Name) and _MEASURE.search(n.value.lower()) and begun(n):
            return True
    return False


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


def may_evaluate_name(name: str) -> bool:
    return bool(_EVALUATES.search(name.lower()))


def framework_questions(sem: Semantics, function: Function) -> tuple[Question, ...]:
    """For a method of a class whose bases lie in other files: may a framework own the loop that calls it?"""
    cls = owner(function)
    if cls is None:
        return ()
    roots = [r for r in sem.names.roots(cls) if r and not r.startswith(("torch.", "object", "abc."))]
    return tuple(Question("framework-class", r) for r in roots)


_MEASURE = re.compile(
    r"(^|_)(acc\w*|correct|hits?|metrics?|scores?|loss\w*|errors?|iou|miou|f1|auc|dice|psnr|ssim|bleu|wer|mse|mae|rmse)(_|\d|$)"
)


def measures(sem: Semantics, region: EvalRegion) -> bool:
    """Whether the region computes a metric over data: its function is named so, or a loop over data reports numbers.

    A pass over data that fills a memory bank or keeps features for later does neither.
    """
    if may_evaluate_name(region.function.name):
        return True
    walked = _loops_in(region.node, region.forwards[0])
    loop = next((each for each in walked if _over_data(sem, each)), None)
    if loop is None:
        return False
    return _reports(sem, loop) or any(
        (isinstance(n, cst.ComparisonTarget) and isinstance(n.operator, cst.Equal))
        or (isinstance(n, cst.Name) and _MEASURE.search(n.value.lower()))
        for n in walk(loop.body)
    )
