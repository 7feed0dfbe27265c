"""Gradient descent without an optimizer: `w -= lr * w.grad` in the loop that runs backward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import libcst as cst

from torchlint.nodes import dotted, find, walk
from torchlint.semantics.effects import Effect, Event
from torchlint.semantics.flow import assigned_in
from torchlint.semantics.loops import Loop
from torchlint.semantics.model import Semantics

_IN_PLACE = frozenset(("add_", "sub_", "addcmul_", "addcdiv_"))


@dataclass(frozen=True)
class Update:
    """`at` moves `name` by its own gradient; what it stands for outlives the turns of the loop."""

    name: str
    at: cst.CSTNode = field(repr=False)


def descents(sem: Semantics, loop: Loop) -> tuple[list[Event], list[Update]]:
    """What a loop differentiates and what it moves by hand; nothing where an optimizer steps, or not this loop does."""
    function = sem.function(loop)
    events = [e for e in sem.events(function) if e.within(loop)]
    backwards = [e for e in events if e.effect is Effect.BACKWARD]
    if not backwards or any(e.effect is Effect.STEP for e in events) or any(b.loops[-1] is not loop for b in backwards):
        return [], []
    lasting = assigned_in(loop)
    return backwards, [u for u in _updates(loop) if _outlives(sem, u, loop, lasting)]


def _updates(loop: Loop) -> Iterator[Update]:
    for node in walk(loop.body, into=lambda n: not isinstance(n, (cst.FunctionDef, cst.Lambda))):
        if isinstance(node, cst.AugAssign) and isinstance(node.operator, (cst.SubtractAssign, cst.AddAssign)):
            target: cst.BaseExpression = node.target
            given = [node.value]
        elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value in _IN_PLACE:
            target, given = node.func.value, [a.value for a in node.args]
        else:
            continue
        name = (dotted(target) or "").removesuffix(".data")
        reads = (n for g in given for n in find(g, cst.Attribute) if n.attr.value == "grad")
        if name and any(dotted(n.value) == name for n in reads):
            yield Update(name, node)


def _outlives(sem: Semantics, update: Update, loop: Loop, assigned: set[str]) -> bool:
    """Whether the same parameter is moved in every turn: nothing in the loop binds its name to another thing, but a
    loop over parameters that are the same in every turn."""
    bound = [
        n
        for n in walk(loop)
        if isinstance(n, (cst.AssignTarget, cst.For, cst.AnnAssign, cst.NamedExpr))
        and any(isinstance(t, cst.Name) and t.value == update.name.partition(".")[0] for t in walk(n.target))
    ]
    if not bound:
        return True
    if len(bound) != 1 or not isinstance(bound[0], cst.For) or bound[0] is loop:
        return False
    over = bound[0].iter
    if isinstance(over, cst.Call) and isinstance(over.func, cst.Attribute):
        if over.func.attr.value not in ("parameters", "named_parameters"):
            return False
        return dotted(over.func.value) not in assigned
    names = [n.value for n in walk(over) if isinstance(n, cst.Name)]
    return isinstance(over, (cst.Name, cst.List, cst.Tuple)) and not assigned.intersection(names)
