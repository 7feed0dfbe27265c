"""What code goes over and what it makes of it: loops over data, data held out for evaluation, numbers that measure.

Names of functions and loaders are read here, too. They are told apart from evidence: a name alone makes no evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import dotted, find, walk, walk_scope
from torchlint.semantics.blocks import unwrap_iteration
from torchlint.semantics.effects import Effect, Event
from torchlint.semantics.kinds import Kind
from torchlint.semantics.loops import EvalRegion

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

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


def may_evaluate_name(name: str) -> bool:
    return bool(_EVALUATES.search(name.lower()))


def over_data(sem: Semantics, loop: cst.For) -> bool:
    return sem.value(unwrap_iteration(loop.iter)).kind in (Kind.LOADER, Kind.DATASET)


def loops_in(node: cst.CSTNode, event: Event) -> tuple[cst.For, ...]:
    """The `for` loops around an event, from a region's own on."""
    at = next((i for i, loop in enumerate(event.loops) if loop is node), None)
    return () if at is None else tuple(loop for loop in event.loops[at:] if isinstance(loop, cst.For))


def over_held_out(sem: Semantics, loop: cst.For, forward: Event) -> bool:
    """Whether the loop goes over a loader or data set that is named for evaluation, or draws from one in each turn."""
    if is_held_out_name(dotted(unwrap_iteration(loop.iter)) or ""):
        if over_data(sem, loop) or _is_fed(sem, loop, forward):
            return True
    return any(draws_held_out(call) for call in find(loop.body, cst.Call))


def _is_fed(sem: Semantics, loop: cst.For, forward: Event) -> bool:
    """Whether the model gets what the loop hands out, of something of which nothing else is known."""
    call = forward.node
    if not isinstance(call, cst.Call) or sem.value(unwrap_iteration(loop.iter)).kind is not Kind.UNKNOWN:
        return False
    bound = {n.value for n in walk(loop.target) if isinstance(n, cst.Name)}
    return any(n.value in bound for a in call.args for n in walk(a.value) if isinstance(n, cst.Name))


def draws_held_out(call: cst.Call) -> bool:
    """`next(iter(test_loader))`, `next(enumerate(test_loader))`, `test_loader.__iter__().next()`."""
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


_MEASURE = re.compile(
    r"(^|_)(acc\w*|correct|hits?|metrics?|scores?|loss\w*|errors?|iou|miou|f1|auc|dice|psnr|ssim|bleu|wer|mse|mae|rmse)(_|\d|$)"
)
_NUMBERS = frozenset(("item", "argmax", "numpy", "tolist", "topk"))


def reports(sem: Semantics, loop: cst.For | cst.While | cst.FunctionDef) -> bool:
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


def measures(sem: Semantics, region: EvalRegion) -> bool:
    """Whether the region computes a metric over data: its function is named so, or a loop over data reports numbers.

    A pass over data that fills a memory bank or keeps features for later does neither.
    """
    if may_evaluate_name(region.function.name):
        return True
    walked = loops_in(region.node, region.forwards[0])
    loop = next((each for each in walked if over_data(sem, each)), None)
    if loop is None:
        return region.evidence == "no_grad" and _scores(sem, region)
    return reports(sem, loop) or any(
        (isinstance(n, cst.ComparisonTarget) and isinstance(n.operator, cst.Equal))
        or (isinstance(n, cst.Name) and _MEASURE.search(n.value.lower()))
        for n in walk(loop.body)
    )


def _scores(sem: Semantics, region: EvalRegion) -> bool:
    """Whether a loop compares what the model gives with what was to come out: a loss, or `(predicted == y).sum()`.

    A rollout, a target or features for later have neither.
    """
    loop = region.node
    if not isinstance(loop, cst.For) or (isinstance(loop.target, cst.Name) and loop.target.value.startswith("_")):
        return False
    if any(e.effect is Effect.LOSS and e.via is None and e.within(loop) for e in region.events):
        return True
    return any(_counted(sem, n) for n in walk_scope(loop.body) if _compares(n))


def _compares(node: cst.CSTNode) -> bool:
    if isinstance(node, cst.Comparison):
        return len(node.comparisons) == 1 and isinstance(node.comparisons[0].operator, cst.Equal)
    return isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "eq"


_BETWEEN = (cst.Attribute, cst.Call, cst.Arg, cst.Subscript, cst.BinaryOperation)


def _counted(sem: Semantics, node: cst.CSTNode) -> bool:
    """Whether a comparison is summed up in the same expression."""
    parent = sem.file.parent(node)
    while isinstance(parent, _BETWEEN):
        if isinstance(parent, cst.Attribute) and parent.attr.value in ("sum", "mean"):
            return True
        if isinstance(parent, cst.Call) and sem.qualified(parent.func) in ("torch.sum", "torch.mean"):
            return True
        parent = sem.file.parent(parent)
    return False
