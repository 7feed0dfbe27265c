"""Gradients of N micro-batches are added up and the loss is never divided by N.

## What it does
Reports a loop that calls `backward()` in every turn and steps in every N-th (`if (i + 1) % N == 0:`), where no division
by N reaches the loss or the gradients.

## Why is this bad
The step applies the *sum* of N mean losses: a gradient N times that of the large batch it stands for. With SGD the
learning rate is N times the intended one; gradient clipping and weight decay are off by the same factor, and changing N
changes training.

## Example
```python
loss = criterion(model(x), y)
loss.backward()
if (i + 1) % n == 0:
    optimizer.step()
    optimizer.zero_grad()
```
Use instead:
```python
loss = criterion(model(x), y)
(loss / n).backward()
if (i + 1) % n == 0:
    optimizer.step()
    optimizer.zero_grad()
```
Losses that are sums over the batch (`reduction="sum"`) add up as they should and are not reported.

## Fix safety
Unsafe: the effective learning rate becomes what it says. A rate tuned with the mistake in place must be tuned again.

## Verified by
A gradient ledger: at every step, `.grad` must equal the mean, not the sum, of the micro-batches' gradients.

## References
- https://huggingface.co/docs/accelerate/usage_guides/gradient_accumulation
- https://pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Severity
from torchlint.nodes import argument, dotted, find, literal, walk
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, Event, Kind, Semantics, TrainingLoop, flow, microbatches

RULE = Rule(
    "TL106",
    Category.TRAINING,
    Severity.WARNING,
    triggers=(r"\.backward\(",),
    requires=(r"backward\(", r"\bstep\("),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

_Group = microbatches.Accumulation | microbatches.InnerAccumulation
_SUMMED = ("reduction", "size_average")


@RULE.on
def in_loop(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    yield from _check(loop, context)


@RULE.on
def in_function(node: cst.FunctionDef, context: Context) -> Iterator[Finding]:
    whole = microbatches.step_function(context.sem, node)
    if whole is not None:
        yield from _check(whole, context)


def _check(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    if flow.handles_grad(loop.events, loop.node):
        return
    for step in loop.of(Effect.STEP):
        group = microbatches.inner_accumulation(loop, step) or microbatches.accumulation(loop, step)
        if group is None or _scaled(group, context) or _summed(group, context):
            continue
        if any(b.value.kind is Kind.FRAMEWORK or b.via not in (None, group.step.via) for b in group.backwards):
            return  # the framework may scale
        n = context.file.code(group.steps)
        edits = [_scale(b, group, n, context) for b in group.backwards]
        whole = [e for e in edits if e is not None]
        yield Finding(
            flow.call_of(group.backwards[0]),
            f"the loss is not divided by `{n}`",
            f"the step in every `{n}`-th turn applies the sum of `{n}` gradients, `{n}` times the intended rate",
            f"call `backward()` on the loss divided by `{n}`",
            fix=unsafe(f"Divide the loss by `{n}`", *whole) if len(whole) == len(edits) else None,
        )
        return


def _scaled(group: _Group, context: Context) -> bool:
    """Whether the file divides anything by N that could be the loss or a gradient, or hands N to something unknown."""
    value = literal(group.steps)
    name = (dotted(group.steps) or "").rpartition(".")[2]
    if not name and value is ...:
        return True
    nodes = context.sem.once(_arithmetic) if name else walk(group.loop.function.node)
    for node in nodes:
        if isinstance(node, cst.BinaryOperation):
            if isinstance(node.operator, cst.Divide) and _is(node.right, name, value) and not _counts(node.left):
                return True
            if isinstance(node.operator, cst.Multiply) and (
                _inverse(node.left, name, value) or _inverse(node.right, name, value)
            ):
                return True
        elif isinstance(node, cst.AugAssign):
            if isinstance(node.operator, cst.DivideAssign) and _is(node.value, name, value):
                return True
            if isinstance(node.operator, cst.MultiplyAssign) and _inverse(node.value, name, value):
                return True
        elif isinstance(node, cst.Call) and (_divides(node) or (name and _may_scale(node, group, context))):
            if any(_is(a.value, name, value) for a in node.args):
                return True
    return any(_gives_scaled(e) for e in group.loop.of(Effect.CALL, Effect.LOSS, Effect.FORWARD))


def _arithmetic(sem: Semantics) -> list[cst.CSTNode]:
    """What of the file may divide something or hand it on."""
    return [n for n in sem.file.nodes if isinstance(n, (cst.BinaryOperation, cst.AugAssign, cst.Call))]


def _divides(call: cst.Call) -> bool:
    return isinstance(call.func, cst.Attribute) and call.func.attr.value in ("div", "div_", "true_divide", "divide")


def _may_scale(call: cst.Call, group: _Group, context: Context) -> bool:
    """Whether what the call is given may end up in the loss."""
    return dotted(call.func) not in ("print", "range", "min", "max", "int", "len") and _inside(call, group, context)


def _is(node: cst.CSTNode, name: str, value: object) -> bool:
    """Whether the expression is N: by its last name, or by its literal value; `float(N)` and `max(1, N)` count."""
    for n in walk(node):
        if name and isinstance(n, cst.Name) and n.value == name:
            return True
        if not name and isinstance(n, (cst.Integer, cst.Float)) and literal(n) == value:
            return True
    return False


def _inverse(node: cst.CSTNode, name: str, value: object) -> bool:
    return (
        isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Divide) and _is(node.right, name, value)
    )


def _counts(node: cst.CSTNode) -> bool:
    """Whether the dividend is a count (of batches, steps, samples) and so no loss."""
    return (isinstance(node, (cst.Integer, cst.Float)) and literal(node) != 1) or any(
        isinstance(n, cst.Call) and dotted(n.func) == "len" for n in walk(node)
    )


def _inside(node: cst.CSTNode, group: _Group, context: Context) -> bool:
    return any(a is group.loop.node for a in context.file.ancestors(node))


def _gives_scaled(event: Event) -> bool:
    """Whether a call's name says that it scales what it gets."""
    return event.effect is Effect.CALL and any(
        word in event.target.lower() for word in ("scale_loss", "loss_scal", "normalize")
    )


def _summed(group: _Group, context: Context) -> bool:
    """Whether the loss is a sum over the batch, so that gradients add up as those of one large batch do."""
    for event in group.loop.events:
        calls = [event.value.node, flow.call_of(event)] if event.effect is Effect.LOSS else []
        for call in calls:
            if isinstance(call, cst.Call):
                for name in _SUMMED:
                    given = argument(call, name)
                    if given is not None and literal(given.value) in ("sum", False, "none"):
                        return True
    for backward in group.backwards:
        for node in _sources(backward, group, context):
            for call in find(node, cst.Call):
                if isinstance(call.func, cst.Attribute) and call.func.attr.value == "sum":
                    return True
                if any(literal(a.value) in ("sum", "none") for a in call.args if a.keyword is not None):
                    return True
    return False


def _sources(backward: Event, group: _Group, context: Context) -> Iterator[cst.CSTNode]:
    """The expressions in this loop that the backward's loss is made of, two assignments deep."""
    call = flow.call_of(backward)
    seen: set[str] = set()
    pending: list[cst.CSTNode] = [call]
    while pending:
        node = pending.pop()
        yield node
        for name in {n.value for n in walk(node) if isinstance(n, cst.Name)} - seen:
            if len(seen) > 12:
                return
            seen.add(name)
            for assign in find(group.loop.node, cst.Assign):
                if any(dotted(t.target) == name for t in assign.targets):
                    pending.append(assign.value)


def _scale(backward: Event, group: _Group, n: str, context: Context) -> Edit | None:
    """The edit that divides the loss of one backward: `(loss / n).backward()`, `scaler.scale(loss / n).backward()`."""
    call = flow.call_of(backward)
    if not isinstance(call, cst.Call) or not isinstance(call.func, cst.Attribute) or not _settled(group):
        return None
    loss = call.func.value
    if isinstance(loss, cst.Call):
        if not (isinstance(loss.func, cst.Attribute) and loss.func.attr.value == "scale" and len(loss.args) == 1):
            return context.file.replace(loss, f"({context.file.code(loss)} / {n})")
        inner = loss.args[0].value
        if not isinstance(inner, (cst.Name, cst.Attribute)):
            inner_text = f"({context.file.code(inner)})"
        else:
            inner_text = context.file.code(inner)
        return context.file.replace(inner, f"{inner_text} / {n}")
    return context.file.replace(loss, f"({context.file.code(loss)} / {n})")


def _settled(group: _Group) -> bool:
    """Whether N is a plain name, attribute or number that the loop does not change."""
    if not isinstance(group.steps, (cst.Name, cst.Attribute, cst.Integer)):
        return False
    node = group.loop.node
    return isinstance(node, cst.FunctionDef) or dotted(group.steps) not in flow.assigned_in(node)
