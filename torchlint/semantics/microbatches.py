"""Gradient accumulation: one step for the gradients of several micro-batches, however the code counts them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import libcst as cst

from torchlint.nodes import dotted, find, literal, walk
from torchlint.semantics.effects import Effect, Event, Guard
from torchlint.semantics.flow import assigned_in, guard_keys
from torchlint.semantics.loops import TrainingLoop, modulus_in
from torchlint.semantics.model import Semantics

_DRAWS = re.compile(r"^(next|(get|next|fetch|load|sample|draw)_?(micro_?)?batch)$", re.IGNORECASE)


@dataclass(frozen=True)
class Accumulation:
    """A step that is taken in every `steps`-th turn of a loop (or call of a function) whose turns all add gradients.

    `test`: what decides about it: the guard's own, or the one that the guard's flag was set by. `modulus`: the
    `(i + 1) % N` in it; None where a counter starts anew after each step.
    """

    loop: TrainingLoop
    step: Event
    guard: Guard
    steps: cst.BaseExpression
    test: cst.BaseExpression
    modulus: cst.BinaryOperation | None
    backwards: tuple[Event, ...]

    def guards(self, event: Event) -> bool:
        """Whether the event, too, happens only in the turns in which the step is taken."""
        return (id(self.guard.node), self.guard.taken) in guard_keys(self.loop.node, event)


@dataclass(frozen=True)
class InnerAccumulation:
    """A step behind a loop over `steps` micro-batches, each of which adds gradients."""

    loop: TrainingLoop
    step: Event
    inner: cst.For
    steps: cst.BaseExpression
    backwards: tuple[Event, ...]


def accumulation(loop: TrainingLoop, step: Event) -> Accumulation | None:
    """Gradient accumulation around a step, or None.

    GAN alternation is not accumulation: there the backward stands under the guard too, or another optimizer takes its
    steps in the other turns. Neither is a framework's own (`with accelerator.accumulate(model):`).
    """
    backwards = tuple(loop.of(Effect.BACKWARD))
    if step.inner_loop or not backwards:
        return None
    inside = step.inner_guards or isinstance(loop.node, cst.FunctionDef)
    if inside and any(b.via is not step.via for b in backwards):
        return None  # a helper that decides by itself when to step
    for guard in loop.guards(step):
        counted = _counted(guard, loop, step if inside else None)
        if counted is None:
            continue
        steps, test, modulus = counted
        found = Accumulation(loop, step, guard, steps, test, modulus, backwards)
        if any(found.guards(b) or b.inner_loop for b in backwards):
            return None
        if any(s.subject != step.subject and not found.guards(s) for s in loop.of(Effect.STEP)):
            return None
        if any(_accumulates(scope) for b in backwards for scope in b.scopes):
            return None
        return None if _steps_by_itself(loop.node, step.subject) else found
    return None


def _counted(
    guard: Guard, loop: TrainingLoop, inside: Event | None
) -> tuple[cst.BaseExpression, cst.BaseExpression, cst.BinaryOperation | None] | None:
    """N, the test and its modulus, where a guard lets every N-th turn through."""
    test: cst.BaseExpression | None = guard.test
    modulus = modulus_in(guard.test, guard.taken)
    if modulus is None and isinstance(guard.test, cst.Name) and guard.taken:
        test = _set_by(guard.test.value, loop.node)
        modulus = modulus_in(test, True) if test is not None else None
    if modulus is not None and test is not None:
        if literal(modulus.right) in (0, 1) or not _advances(modulus.left, loop, inside):
            return None
        return modulus.right, test, modulus
    steps = _counter_limit(guard)
    return (steps, guard.test, None) if steps is not None and literal(steps) not in (0, 1) else None


def _set_by(name: str, body: cst.CSTNode) -> cst.BaseExpression | None:
    """The expression that a flag is set to, where that is done once in the turn."""
    targets = [
        n
        for n in walk(body)
        if isinstance(n, (cst.AssignTarget, cst.AugAssign, cst.AnnAssign, cst.NamedExpr)) and dotted(n.target) == name
    ]
    if len(targets) != 1:
        return None
    return next(
        (a.value for a in find(body, cst.Assign) if any(t is targets[0] for t in a.targets) and len(a.targets) == 1),
        None,
    )


def _advances(left: cst.BaseExpression, loop: TrainingLoop, inside: Event | None) -> bool:
    """Whether what is counted changes from turn to turn: bound in the loop, or handed to the function that decides."""
    parts = [n for n in walk(left) if isinstance(n, (cst.Name, cst.Attribute))]
    if inside is None:
        advanced = assigned_in(loop.node) if not isinstance(loop.node, cst.FunctionDef) else set()
        return any(dotted(n) in advanced for n in parts)
    function = inside.via or loop.function
    return any(isinstance(n, cst.Attribute) or n.value in function.params for n in parts)


def _counter_limit(guard: Guard) -> cst.BaseExpression | None:
    """The N of `count += 1; if count == N: …; count = 0`."""
    test = guard.test
    if not isinstance(test, cst.Comparison) or len(test.comparisons) != 1 or not guard.taken:
        return None
    name = dotted(test.left)
    if name is None or not isinstance(test.comparisons[0].operator, (cst.Equal, cst.GreaterThanEqual)):
        return None
    for assign in find(guard.node.body, cst.Assign):
        if literal(assign.value) == 0 and any(dotted(t.target) == name for t in assign.targets):
            return test.comparisons[0].comparator
    return None


def _steps_by_itself(loop: cst.CSTNode, optimizer: str) -> bool:
    """Whether the optimizer is told of the other turns: `optimizer.virtual_step()` keeps their gradients elsewhere."""
    return any(
        isinstance(call, cst.Call)
        and isinstance(call.func, cst.Attribute)
        and call.func.attr.value.endswith(("_step", "accumulate"))
        and dotted(call.func.value) == optimizer
        for call in walk(loop)
    )


def _accumulates(scope: cst.With) -> bool:
    return any(
        isinstance(item.item, cst.Call)
        and isinstance(item.item.func, cst.Attribute)
        and item.item.func.attr.value == "accumulate"
        for item in scope.items
    )


def inner_accumulation(loop: TrainingLoop, step: Event) -> InnerAccumulation | None:
    """A step behind `for _ in range(N):` in which every turn draws a batch of its own and adds its gradients."""
    backwards = tuple(loop.of(Effect.BACKWARD))
    if isinstance(loop.node, cst.FunctionDef) or step.inner_loop or step.loops[-1] is not loop.node or not backwards:
        return None
    inner = backwards[0].loops[-1]
    if not isinstance(inner, cst.For) or inner is loop.node or any(b.loops[-1] is not inner for b in backwards):
        return None
    call = inner.iter
    if not isinstance(call, cst.Call) or dotted(call.func) != "range" or len(call.args) != 1 or call.args[0].star:
        return None
    if len({s.subject for s in loop.of(Effect.STEP)}) > 1 or any(s.within(inner) for s in loop.of(Effect.STEP)):
        return None
    if backwards[0].inner_loop or any(_accumulates(scope) for b in backwards for scope in b.scopes):
        return None
    if literal(call.args[0].value) in (0, 1) or not any(_draws(a) for a in find(inner.body, cst.Assign)):
        return None
    return InnerAccumulation(loop, step, inner, call.args[0].value, backwards)


def _draws(assign: cst.Assign) -> bool:
    """`x, y = next(batches)`, `x, y = get_batch("train")`."""
    value = assign.value
    return isinstance(value, cst.Call) and bool(_DRAWS.match((dotted(value.func) or "").rpartition(".")[2]))


def step_function(sem: Semantics, node: cst.FunctionDef) -> TrainingLoop | None:
    """A function of which each call computes gradients and some take the step, as if its calls were a loop's turns."""
    function = sem.names.function_of.get(node)
    if function is None:
        return None
    events = tuple(e for e in sem.events(function) if not e.loops and not e.inner_loop)
    steps = [e for e in events if e.effect is Effect.STEP and e.guarded]
    if not steps or not any(e.effect is Effect.BACKWARD for e in events):
        return None
    return TrainingLoop(node, function, events)
