"""Which stretches of code evaluate: forward passes whose results nobody differentiates.

A region is the outermost loop (or the whole function) that runs a model and holds no backward. That alone is not enough:
rollouts, feature caches and inner loops of training look the same. There must be evidence: the model was put into eval
mode, recording is off, or the function goes over data and only reports numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.semantics import knowledge
from torchlint.semantics.calls import bind_arguments
from torchlint.semantics.effects import Effect, Event, GradMode
from torchlint.semantics.kinds import Graph, Kind
from torchlint.semantics.loops import EvalRegion, Loop
from torchlint.semantics.names import OWN, Function
from torchlint.source import dotted, find, literal, walk_scope

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

DIFFERENTIATES = (Effect.BACKWARD, Effect.GRAD, Effect.STEP)
_WORDS = (
    "eval|evaluate|evaluation|evaluator|test|tests|testing|val|vali|valid|validate|validation|infer|inference|predict"
    "|prediction|predictions|benchmark|accuracy|metrics"
)
_EVALUATES = re.compile(rf"(^|_)({_WORDS})(_|\d|$)")
# The headers of functions whose names say that they evaluate, as a trigger for rules.
EVALUATION_NAMES = rf"def (?i:\w+_)?(?i:{_WORDS})(_\w*|\d\w*)?\("
_TRAINS = re.compile(r"(^|_)(train|training|fit|finetune|optimize|attack|search|adapt)(_|\d|$)")
_GRADIENT_WORDS = re.compile(
    r"attack|adversar|pgd|fgsm|explain|attribut|saliency|perturb|grad|refine|invert|guidance|jacobian", re.IGNORECASE
)
_NEVER = frozenset(("forward", "__call__", "training_step", "compute_loss", "loss", "__init__", "closure"))


def eval_regions(sem: Semantics) -> Iterator[EvalRegion]:
    if _grad_off_globally(sem):
        return
    for function in sem.functions:
        if not _may_evaluate(sem, function):
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
        if event.via is not None and _is_region_itself(sem, event):
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


def _is_region_itself(sem: Semantics, event: Event) -> bool:
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
    first = forwards[0]
    in_loop = not isinstance(node, cst.FunctionDef)
    inside = tuple(e for e in events if e.within(node)) if in_loop else tuple(events)
    if _uses_gradients(sem, node, inside):
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
        if _EVALUATES.search(name.lower()):
            evidence = "name"
        elif isinstance(node, cst.For) and _over_data(sem, node) and _reports(sem, node):
            evidence = "loader"
        elif _loaded(sem, first.subject) and ".backward(" not in sem.file.text:
            evidence = "loaded"
    elif (
        not hot
        and not in_loop
        and not escapes
        and _EVALUATES.search(name.lower())
        and _reports(sem, node)
        and owner(function) is None
    ):
        evidence = "name"
    if not evidence or (evidence != "no_grad" and _on_made_up_data(sem, forwards)):
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
        if _last_mode(events, first) != "eval" or escaping(sem, function, node, doubtful=True):
            return None
    return EvalRegion(node, function, tuple(forwards), evidence, inside, mode, tuple(escapes), unless)


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


# -- mode -----------------------------------------------------------------------------------------------------------


def same_module(a: str, b: str) -> bool:
    """Whether two subjects may be the same module: equal, one inside the other, or one of them not known."""
    if not a or not b:
        return True
    a, b = a.removesuffix(".module"), b.removesuffix(".module")
    return a == b or a.startswith(b + ".") or b.startswith(a + ".")


def mode_at(sem: Semantics, function: Function, event: Event) -> tuple[str, tuple[Question, ...]]:
    """ "eval", "train" or "unknown": the mode of the event's module when it runs, by the file's own evidence.

    Looked for in the function above the event, then at all places in the file that call the function.
    """
    found = _last_mode(sem.events(function), event)
    if found:
        return found, ()
    return _mode_from_callers(sem, function, event.subject, set()), ()


def _last_mode(events: list[Event], event: Event) -> str:
    result = ""
    for e in events:
        if e.order >= event.order:
            break
        if e.effect in (Effect.EVAL, Effect.TRAIN) and same_module(e.subject, event.subject):
            if e.detail == "conditional":
                result = "eval"  # model.train(phase == "train"): the user manages the mode
            else:
                result = "eval" if e.effect is Effect.EVAL else "train"
    return result


def _mode_from_callers(sem: Semantics, function: Function, subject: str, seen: set[str]) -> str:
    if function.qualname in seen or len(seen) > 8:
        return "unknown"
    seen = seen | {function.qualname}
    modes = set()
    for site in call_sites(sem, function):
        there = _subject_at(function, site, subject)
        if there is None:
            return "unknown"
        mode = _last_mode(sem.events(site.function), site.but(subject=there))
        modes.add(mode or _mode_from_callers(sem, site.function, there, seen))
    if not modes:
        return "unknown"
    return modes.pop() if len(modes) == 1 else "unknown" if "train" not in modes else "mixed"


def _subject_at(function: Function, site: Event, subject: str) -> str | None:
    """What a function's subject is called at a call site: the argument, the same attribute or global; None for locals."""
    root, dot, rest = subject.partition(".")
    if function.params and root == function.params[0] and function.is_method:
        return subject
    if root in function.params and isinstance(site.node, cst.Call):
        method = function.is_method and isinstance(site.node.func, cst.Attribute)
        arg = bind_arguments(function, site.node, method).get(root)
        text = dotted(arg.value) if arg is not None else None
        return text + dot + rest if text else ""
    return None if root in function.local else subject


def mode_after(events: list[Event], event: Event) -> str:
    """The mode set next behind the event, "" if none is."""
    for e in events:
        if e.order > event.order and e.effect in (Effect.EVAL, Effect.TRAIN) and same_module(e.subject, event.subject):
            return "eval" if e.effect is Effect.EVAL else "train"
    return ""


def call_sites(sem: Semantics, function: Function) -> list[Event]:
    """Where the file calls the function; for a method also where a base class calls it by the same name."""
    sites = list(sem.call_sites(function))
    if function.cls is not None:
        for base in list(sem.names.mro(function.cls))[1:]:
            twin = base.methods.get(function.name)
            if twin is not None:
                sites += sem.call_sites(twin)
            else:
                for method in base.methods.values():
                    for e in sem.events(method):
                        if e.effect is Effect.CALL and e.subject == f"self.{function.name}":
                            sites.append(e)
    return sites


def always_off(sem: Semantics, function: Function, seen: frozenset[str] = frozenset()) -> bool:
    """Whether every known call of the function happens with recording off."""
    if sem.summary(function).grad.off:
        return True
    if function.qualname in seen:
        return True
    sites = call_sites(sem, function)
    if not sites:
        return False
    return all(s.grad.off or always_off(sem, s.function, seen | {function.qualname}) for s in sites)


def grad_mode(sem: Semantics, region: EvalRegion) -> GradMode:
    """Recording in the region, judged by what is around it, its function and the function's callers in this file."""
    first = region.forwards[0]
    if first.grad.off or always_off(sem, region.function):
        return GradMode(True)
    return first.grad


# -- exclusions -------------------------------------------------------------------------------------------------------


def _may_evaluate(sem: Semantics, function: Function) -> bool:
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


def owner(function: Function):  # type: ignore[no-untyped-def]
    """The class whose method the function is, or is nested in."""
    scope: Function | None = function
    while scope is not None:
        if scope.cls is not None:
            return scope.cls
        scope = scope.parent
    return None


def is_unit_test(sem: Semantics, function: Function) -> bool:
    """pytest's and unittest's own convention: a `test*` function in a test file or TestCase, or one that asserts."""
    path = sem.file.path.replace("\\", "/")
    base = path.rpartition("/")[2]
    in_test_file = (
        base.startswith("test_") or base.endswith("_test.py") or base == "conftest.py" or "/tests/" in "/" + path
    )
    cls = owner(function)
    if cls is not None and any("TestCase" in b for b in sem.names.roots(cls)):
        return True
    node = function.node
    if in_test_file and (
        function.name.startswith("test") or (cls is not None and cls.node.name.value.startswith("Test"))
    ):
        return True
    if function.name.startswith("test") and isinstance(node, cst.FunctionDef):
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


def _uses_gradients(sem: Semantics, node: cst.CSTNode, inside: tuple[Event, ...]) -> bool:
    """Whether the region asks for gradients: attacks, explanations, guidance, forces."""
    for event in inside:
        if event.effect in (Effect.BACKWARD, Effect.GRAD):
            return True
        if event.effect is Effect.CALL and _GRADIENT_WORDS.search(event.target.rpartition(".")[2]):
            if event.target not in knowledge.GRAD_OFF | knowledge.GRAD_SET and "no_grad" not in event.target:
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


def _over_data(sem: Semantics, loop: cst.For) -> bool:
    from torchlint.semantics.blocks import unwrap_iteration

    return sem.value(unwrap_iteration(loop.iter)).kind in (Kind.LOADER, Kind.DATASET)


def _loaded(sem: Semantics, subject: str) -> bool:
    """Whether the file loads the module's weights: `model.load_state_dict(torch.load(path))`."""
    for call in find(sem.file.tree, cst.Call):
        if isinstance(call.func, cst.Attribute) and call.func.attr.value == "load_state_dict" and call.args:
            if (dotted(call.func.value) or "").removesuffix(".module") == subject.removesuffix(".module"):
                return True
    return False


def _on_made_up_data(sem: Semantics, forwards: list[Event]) -> bool:
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


def _reports(sem: Semantics, loop: cst.For | cst.While | cst.FunctionDef) -> bool:
    """Whether the code turns results into numbers: item, argmax, max, numpy, comparisons."""
    for n in walk_scope(loop.body):
        if isinstance(n, cst.Call) and isinstance(n.func, cst.Attribute):
            if n.func.attr.value in ("item", "argmax", "numpy", "tolist", "topk"):
                return True
    return False


def is_frozen(sem: Semantics, subject: str) -> bool:
    """Whether the file turns `requires_grad` off for the module's parameters."""
    last = subject.rpartition(".")[2]
    for n in find(sem.file.tree, cst.Call):
        if (
            isinstance(n.func, cst.Attribute)
            and n.func.attr.value == "requires_grad_"
            and n.args
            and literal(n.args[0].value) is False
        ):
            base = dotted(n.func.value) or ""
            if not base or base.rpartition(".")[2] == last or base in ("p", "param", "parameter"):
                return True
    for loop in find(sem.file.tree, cst.For):
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


# -- what leaves ------------------------------------------------------------------------------------------------------


def carries(sem: Semantics, node: cst.CSTNode) -> bool:
    """Whether the expression's value surely carries an autograd graph."""
    value = sem.value(node)
    if value.kind in (
        Kind.NUMBER,
        Kind.STRING,
        Kind.NONE,
        Kind.NDARRAY,
        Kind.MODULE,
        Kind.LOADER,
        Kind.FUNCTION,
        Kind.OPTIMIZER,
    ):
        return False
    if value.kind in (Kind.LIST, Kind.TUPLE, Kind.DICT) and value.graph is not Graph.ATTACHED:
        if value.items is not None:
            return any(v.graph is Graph.ATTACHED for v in value.items)
        return value.element is not None and value.element.graph is Graph.ATTACHED
    return value.graph is Graph.ATTACHED


def escaping(
    sem: Semantics, function: Function, node: Loop | cst.FunctionDef, *, doubtful: bool = False
) -> list[cst.CSTNode]:
    """The places where a value with a graph leaves the region: returned, yielded, kept in a list, attribute or sum.

    For a loop: what it returns, appends or adds to counts only if that is returned or kept as it is; a sum that only
    ends in `.item()` or a division for a report stays inside. `doubtful` counts values of unknown kind as well.
    """
    result: list[cst.CSTNode] = []
    body = node.body

    def _carries(sem: Semantics, value: cst.CSTNode) -> bool:
        return carries(sem, value) or (
            doubtful
            and sem.value(value).kind in (Kind.UNKNOWN, Kind.TENSOR, Kind.BATCH)
            and sem.value(value).graph is Graph.UNKNOWN
        )

    for n in walk_scope(body):
        if isinstance(n, cst.Return) and n.value is not None and _carries(sem, n.value):
            result.append(n)
        elif isinstance(n, cst.Yield) and n.value is not None and _carries(sem, n.value):
            result.append(n)
        elif (
            isinstance(n, cst.Call)
            and isinstance(n.func, cst.Attribute)
            and n.func.attr.value in ("append", "extend", "add")
        ):
            if n.args and _carries(sem, n.args[0].value):
                result.append(n)
        elif isinstance(n, cst.AugAssign) and not isinstance(node, cst.FunctionDef) and _carries(sem, n.value):
            result.append(n)
        elif isinstance(n, cst.Assign) and _carries(sem, n.value):
            for target in n.targets:
                if isinstance(target.target, cst.Attribute) and (dotted(target.target) or "").startswith("self."):
                    result.append(n)
                elif isinstance(target.target, cst.Subscript):
                    result.append(n)
    return result


def may_evaluate_name(name: str) -> bool:
    return bool(_EVALUATES.search(name.lower()))


def own_function(sem: Semantics, name: str) -> Function | None:
    return sem.names.functions.get(name.removeprefix(OWN))


def framework_questions(sem: Semantics, function: Function) -> tuple[Question, ...]:
    """For a method of a class whose bases lie in other files: may a framework own the loop that calls it?"""
    cls = owner(function)
    if cls is None:
        return ()
    roots = [r for r in sem.names.roots(cls) if r and not r.startswith(("torch.", "object", "abc."))]
    return tuple(Question("framework-class", r) for r in roots)


def trained_here(sem: Semantics, function: Function, event: Event) -> bool:
    """Whether the file trains the event's module and never puts it (by that name) into eval mode."""
    last = event.subject.rpartition(".")[2]
    trained = False
    for other in sem.functions:
        events = sem.events(other)
        for e in events:
            if e.effect is Effect.EVAL and (not e.subject or e.subject.rpartition(".")[2] == last or e.via is not None):
                return False
        if any(e.effect is Effect.BACKWARD for e in events) and any(
            e.effect is Effect.FORWARD and e.subject.rpartition(".")[2] == last and not e.grad.off for e in events
        ):
            trained = True
    return trained


def handed_to(event: Event, subject: str) -> bool:
    """Whether the event calls something outside the file that gets hold of the module, as an argument or as `self`."""
    if event.effect is not Effect.CALL or event.target.startswith(("?", "torch.", "numpy.")):
        return False
    if event.target.startswith(OWN):
        return True
    root = subject.partition(".")[0]
    call = event.origin or event.node
    if not isinstance(call, cst.Call):
        return False
    return any((dotted(a.value) or "").partition(".")[0] == root for a in call.args)


def goes_over_data(sem: Semantics, region: EvalRegion) -> bool:
    """Whether the region's loop runs over a loader or data set, or its function is named for evaluation."""
    if may_evaluate_name(region.function.name):
        return True
    return isinstance(region.node, cst.For) and _over_data(sem, region.node)
