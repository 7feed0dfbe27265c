"""A training loop steps again and again on gradients that nobody clears.

## What it does
Reports an optimizer that takes steps in a loop with `backward()`, where nothing in a turn of that loop clears the
gradients of its parameters. Clears count in every form: `optimizer.zero_grad()`, `model.zero_grad()`, `p.grad = None`,
`p.grad.zero_()`, a helper or method of this or another checked file, a closure given to `step`. With several optimizers
each needs its own clear. A step may be a function that a loop of another file calls, or descent by hand:
`w -= lr * w.grad`.

## Why is this bad
`backward()` adds to `.grad`. Without a clear, each step applies the sum of the gradients of all turns so far. Gradients
computed at parameters that no longer exist dominate the update: training slows or diverges, without an error.

## Example
```python
for x, y in loader:
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
```
Use instead:
```python
for x, y in loader:
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
```

## Fix safety
Unsafe: training takes another course, which is the point. The clear is written behind the step, or at the top of the
closure that the step calls. Where several optimizers take turns, as in a GAN, it is written ahead of the backward: what
the others' losses left in these gradients goes, too.

## Verified by
A gradient ledger: at every step, `.grad` must equal the gradient of the losses since the step before. Broken before the
fix, kept after it.

## References
- https://pytorch.org/tutorials/recipes/recipes/zeroing_out_gradients.html
- https://pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Question, Severity
from torchlint.nodes import dotted, walk
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, Event, Kind, Semantics, TrainingLoop, flow
from torchlint.semantics.blocks import leaves
from torchlint.semantics.by_hand import descents
from torchlint.semantics.repeated import cleared_by_class, lasting, whole_step
from torchlint.semantics.unit_tests import holds_unit_tests

RULE = Rule(
    "TL101",
    Category.TRAINING,
    Severity.ERROR,
    triggers=(r"\.step\(", r"\.backward\(", r"\bEngine\("),
    requires=(r"backward\(", r"\bstep\(|\.grad\b"),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)


@RULE.on
def check(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    sem = context.sem
    steps = loop.of(Effect.STEP)
    if flow.writes_grad(loop.events, loop.node) or flow.distributed_autograd(sem, loop.events):
        return
    if _smoke_test(loop, sem):
        return
    reported: set[str] = set()
    for step in steps:
        if (
            step.subject in reported
            or not _plain(step, context)
            or _one_turn(loop, step)
            or _fresh(loop, step, context)
        ):
            continue
        if any(flow.may_clear(z, step, steps) for z in loop.of(Effect.ZERO_GRAD)):
            continue
        if any(flow.surely_clears(z, step) for z in _enclosing_clears(loop)):
            continue  # cleared once per outer turn: TL103
        if flow.mentions_clearing(loop.events, loop.node):
            continue
        unknown = flow.strangers(sem, loop.events, "zeroes-gradients", flow.parts(loop.events))
        if unknown.opaque:
            continue
        name = flow.optimizer_text(sem, step)
        if name is None:
            continue
        reported.add(step.subject)
        first = _first_of_own(loop, step, context)
        closure = _closure(flow.call_of(step), context)
        where = "in the closure" if closure else "ahead of this backward" if first else "after the step"
        yield Finding(
            flow.call_of(first or _feeding(loop, step)),
            f"gradients are added up from turn to turn, nothing clears those that `{name}` applies",
            "each step applies the sum of the gradients of all turns so far",
            f"call `{name}.zero_grad()` {where}",
            fix=_fix(step, closure, first, name, context),
            unless=unknown.questions + _of_optimizer(step),
        )


def _smoke_test(loop: TrainingLoop, sem: Semantics) -> bool:
    """Whether a unit test repeats a step a few times to see that it runs: nothing is learnt there."""
    source = loop.node.iter if isinstance(loop.node, cst.For) else None
    return isinstance(source, cst.Call) and dotted(source.func) == "range" and holds_unit_tests(sem)


@RULE.on
def in_function(node: cst.FunctionDef, context: Context) -> Iterator[Finding]:
    """A step of training that loops of other files repeat."""
    whole = whole_step(context.sem, node)
    if whole is None or cleared_by_class(context.sem, whole.function):
        return
    steps = whole.of(Effect.STEP)
    if not all(lasting(whole.function, s) for s in steps):
        return
    given = ",".join(sorted({s.subject.partition(".")[0] for s in steps}))
    asked = Question("not-repeated", f"{whole.function.own}@{given}")
    for finding in check(whole, context):
        yield replace(finding, unless=(*finding.unless, asked))


@RULE.on
def by_hand(loop: cst.For | cst.While, context: Context) -> Iterator[Finding]:
    """Gradient descent without an optimizer."""
    sem = context.sem
    backwards, updates = descents(sem, loop)
    if not updates:
        return
    events = [e for e in sem.events(sem.function(loop)) if e.within(loop)]
    if any(e.effect in (Effect.ZERO_GRAD, Effect.GRAD) for e in events) or flow.writes_grad(events, loop):
        return
    unknown = flow.strangers(sem, events, "zeroes-gradients", flow.parts(events))
    if unknown.opaque or flow.mentions_clearing(events, loop):
        return
    names = list(dict.fromkeys(u.name for u in updates))
    lines = [(flow.line_of(sem, u.at), u.name) for u in updates]
    edits = [context.file.insert_after(line, f"{name}.grad = None") for line, name in lines if line is not None]
    yield Finding(
        flow.call_of(backwards[-1]),
        f"gradients are added up from turn to turn, nothing clears `{names[0]}.grad`",
        "each update applies the sum of the gradients of all turns so far",
        f"set `{names[0]}.grad = None` after the update",
        fix=unsafe("Clear the gradients after the update", *edits) if len(edits) == len(names) else None,
        unless=unknown.questions,
    )


def _plain(step: Event, context: Context) -> bool:
    """Whether the step is that of an optimizer as torch has them: no engine that clears by itself, no own protocol."""
    call = flow.call_of(step)
    if step.detail == "engine" or not step.subject or not isinstance(call, cst.Call):
        return False
    if step.detail == "scaler":
        return True
    return all(context.sem.value(arg.value).origin.startswith("~.") for arg in call.args)


def _feeding(loop: TrainingLoop, step: Event) -> Event:
    """The backward whose gradients the step applies: the last one ahead of it, else the last of the turn before."""
    backwards = loop.of(Effect.BACKWARD)
    return next((b for b in reversed(backwards) if b.order < step.order), backwards[-1])


def _first_of_own(loop: TrainingLoop, step: Event, context: Context) -> Event | None:
    """The first backward for this step, where several optimizers take turns, each after backwards of its own.

    What the others' backwards left in these gradients must go, too: they are cleared ahead of it, not after the step.
    """
    events = loop.of(Effect.BACKWARD, Effect.STEP)
    end = events.index(step)
    start = next((i + 1 for i in range(end - 1, -1, -1) if _is_step_of_another(events[i], step)), 0)
    own = [e for e in events[start:end] if e.effect is Effect.BACKWARD]
    turn = events[:start] + events[end + 1 :]
    if not own or not {Effect.BACKWARD, Effect.STEP} <= {e.effect for e in turn if e.subject != step.subject}:
        return None
    first = own[0]
    alike = flow.guard_keys(loop.node, first) == flow.guard_keys(loop.node, step)
    if not alike or first.via is not step.via or first.loops != step.loops:
        return None
    return first if flow.line_of(context.sem, flow.call_of(first)) is not None else None


def _is_step_of_another(event: Event, step: Event) -> bool:
    return event.effect is Effect.STEP and event.subject != step.subject


def _one_turn(loop: TrainingLoop, step: Event) -> bool:
    """Whether the loop certainly ends in the turn in which the step is taken."""
    if isinstance(loop.node, cst.FunctionDef):
        return False
    return leaves(loop.node.body) or any(g.taken and leaves(g.node.body) for g in loop.guards(step) if g in step.guards)


def _fresh(loop: TrainingLoop, step: Event, context: Context) -> bool:
    """Whether the optimizer or what it optimizes is made anew in each turn: then there is nothing to clear."""
    if isinstance(loop.node, cst.FunctionDef):
        made = step.value.node
        return made is not None and any(n is made for n in walk(loop.node))
    if step.via is not None and step.origin is not None and step.value.node is not None:
        # Stepped in what the loop calls: an optimizer that is made and stepped by one call is another in every turn.
        maker = context.sem.function(step.value.node)
        inner = context.sem.events(maker, Effect.STEP) if maker.parent is not None else ()
        if maker is not loop.function and any(flow.call_of(e) is step.origin for e in inner):
            return True
    names = {step.subject, *(owner.partition(".")[0] for owner in flow.owners(step))}
    for node in walk(loop.node.body):
        if isinstance(node, cst.Assign) and isinstance(node.value, cst.Call):
            bound = {n for t in node.targets for n in (dotted(t.target), *flow.bound_names(t.target)) if n}
            of_itself = (dotted(node.value.func) or "").partition(".")[0] in bound  # net = net.train()
            if bound & names and not of_itself:
                return True
    return False


def _enclosing_clears(loop: TrainingLoop) -> list[Event]:
    """Clears in a loop around this one, outside of it."""
    around = [e for e in (*loop.before, *loop.after) if e.effect is Effect.ZERO_GRAD]
    return [e for e in around if any(e.within(outer) for outer in loop.outer)]


def _of_optimizer(step: Event) -> tuple[Question, ...]:
    """A class of another file may clear in its own `step`."""
    origin = step.value.origin
    if step.detail == "scaler" or not origin or origin.startswith(("~.", "torch.")):
        return ()
    return (Question("zeroes-gradients", f"{origin}.step"),)


def _fix(step: Event, closure: cst.FunctionDef | None, first: Event | None, name: str, context: Context) -> Fix | None:
    if closure is not None:
        body = closure.body
        if not isinstance(body, cst.IndentedBlock):
            return None
        return unsafe(
            f"Clear the gradients at the top of `{closure.name.value}`",
            context.file.insert_first(body, f"{name}.zero_grad()"),
        )
    ahead = flow.line_of(context.sem, flow.call_of(first)) if first is not None else None
    if ahead is not None:
        return unsafe("Clear the gradients ahead of backward", context.file.insert_before(ahead, f"{name}.zero_grad()"))
    line = flow.line_of(context.sem, flow.call_of(step))
    if line is None or step.value.kind is Kind.MODULE:
        return None
    return unsafe("Clear the gradients after the step", context.file.insert_after(line, f"{name}.zero_grad()"))


def _closure(call: cst.CSTNode, context: Context) -> cst.FunctionDef | None:
    """The function of this file that `step` is given and calls."""
    if isinstance(call, cst.Call) and isinstance(call.func, cst.Attribute):
        for arg in call.args:
            function = context.sem.names.functions.get(context.sem.value(arg.value).origin.removeprefix("~."))
            if function is not None and isinstance(function.node, cst.FunctionDef):
                return function.node
    return None
