"""A sum or list of losses that keeps the autograd graph of every batch.

## What it does

Finds `total += loss`, `total = total + loss`, `losses.append(loss)`, `sums[key] += loss`, `self.total += loss` and
`meter.update(loss)` of a meter that keeps what it is given, in a loop, where the value carries a graph that nobody
differentiates through the sum: `backward` runs on the loss itself, here or in the step that gives it back, or, in an
evaluation that records, on nothing at all.

## Why is this bad

A loss is the end of a graph that holds what its backward pass needs. Adding it to a running total links the graphs of
all batches into one chain that lives as long as the total: memory grows with every step, and an epoch that fits at its
beginning may not fit at its end.

## Example

```python
total = 0.0
for images, labels in loader:
    loss = criterion(model(images), labels)
    loss.backward()
    optimizer.step()
    total += loss
print(f"{total / len(loader):.4f}")
```

Use instead:

```python
    total += loss.detach()   # no synchronisation; .item() where a Python number is wanted
```

Silent where the sum is differentiated or handed to code that may do so, for numbers and detached tensors, and where
nothing is recorded: under `no_grad`, in a function that all callers run without recording.

## Fix safety

`.detach()` is safe where the total is only turned into numbers, compared, or formatted with a format specification: the
values are the same. `.item()` (for totals that are printed, plotted or logged as they are) and everything whose readers
cannot all be seen is unsafe, because the total then has another type or prints differently.

## Verified by

`fixtures/loss_retains_graph/run.py`: bitwise equal totals and parameters, fewer bytes alive.

## References

- <https://docs.pytorch.org/docs/stable/notes/faq.html#my-model-reports-cuda-runtime-error-2-out-of-memory>
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Question, Severity
from torchlint.nodes import dotted, literal, walk, walk_scope
from torchlint.rule import Category, Context, Finding, Rule, safe, unsafe
from torchlint.semantics import Effect, EvalRegion, Event, Graph, Kind
from torchlint.semantics.accumulation import (
    Growth,
    Loop,
    base_name,
    bound_names,
    carriers,
    derived,
    differentiated,
    escapes,
    growth_at,
    is_differentiated,
    is_last_item,
    may_carry,
    rebound_between,
    recording_off,
    retains_graph,
    starts_anew,
)
from torchlint.semantics.batches import loader_value
from torchlint.semantics.knowledge import is_loss_function
from torchlint.semantics.meters import metered

RULE = Rule(
    "TL601",
    Category.MEMORY,
    Severity.WARNING,
    triggers=(r"\+", r"\.(?:append|update|add)\s*\("),
    requires=(r"backward|Loss|_loss|cross_entropy|kl_div|\.eval\(",),
    shapes=("growth",),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)

_NUMBERS = frozenset(("item", "tolist"))
_SHOWS = re.compile(
    r"(^|\.)(print|str|format|write|info|log\w*|add_scalars?|dump|dumps|plot|set_postfix)$|^(numpy|pandas|statistics|math)\."
)


@RULE.on
def check(node: cst.AugAssign | cst.Assign | cst.Call, ctx: Context) -> Iterator[Finding]:
    growth = growth_at(node, ctx.sem)
    asked: tuple[Question, ...] = ()
    if growth is None and isinstance(node, cst.Call) and (meter := metered(node, ctx.sem)) is not None:
        growth, asked = meter
    if growth is None or not may_carry(growth.added, ctx.sem):
        return
    if not growth.is_list and recording_off(growth.at, ctx.sem):
        return
    trained = _differentiated_alone(growth, ctx)
    if trained is None and asked:
        return  # a meter of another file is asked for where there is no doubt about the rest
    if trained is None:
        questions = _kept_in_evaluation(growth, ctx)
        if questions is None:
            return
    else:
        questions = asked
    yield _finding(growth, trained, questions, ctx)


def _finding(growth: Growth, trained: Event | None, questions: tuple[Question, ...], ctx: Context) -> Finding:
    added = ctx.file.code(growth.added)
    verb = f"`{growth.name}` collects" if growth.is_list else f"`{growth.name}` sums up"
    fix = _fix(growth, trained, ctx)
    way = "`.item()`" if fix is not None and ".item()" in fix.message else "`.detach()`"
    return Finding(
        growth.at,
        f"{verb} `{added if len(added) < 40 else 'a loss'}` with its autograd graph",
        "the graphs of all batches stay alive, so memory grows with every step",
        f"add {way} to what is kept",
        fix,
        questions,
    )


# -- the training case: backward on the loss itself ---------------------------------------------------------------


def _differentiated_alone(growth: Growth, ctx: Context) -> Event | None:
    """The backward that runs on the added value in every turn and so uses its graph up, if there is one.

    What is summed up afterwards cannot be differentiated again, unless backward retains the graph.
    """
    backwards = list(ctx.sem.events(growth.function, Effect.BACKWARD))
    if not backwards or is_differentiated(growth, ctx.sem):
        return None
    bases = {base_name(c) or "": c for c in carriers(growth.added, ctx.sem)}
    scope = _accumulating_loop(growth, backwards, ctx)
    if scope is None:
        return None
    for event in backwards:
        if not (isinstance(scope, cst.FunctionDef) or event.within(scope)):
            continue
        roots = differentiated(event)
        if event.subject and event.via is not None:
            roots = {event.subject}
        for base, carrier in bases.items():
            returned = event.via is not None and _returns_differentiated(growth, carrier, event, ctx)
            if not returned and _is_anothers(base, event, ctx) and ctx.sem.value(carrier).graph is not Graph.ATTACHED:
                continue
            same = base and base in roots and not rebound_between(base, event.node, growth.at, scope, ctx.sem)
            part = _is_part(carrier, scope, ctx) and derived({base}, scope, growth) & roots
            last = growth.is_list and is_last_item(event, growth.name)
            if (same or part or last or returned) and not (retains_graph(event) and escapes(growth, ctx.sem)):
                return event
        if growth.is_list and is_last_item(event, growth.name) and not escapes(growth, ctx.sem):
            return event
    return None


def _returns_differentiated(growth: Growth, carrier: cst.BaseExpression, event: Event, ctx: Context) -> bool:
    """Whether what is added comes back from the very call that ran backward on it: `loss = step(x, y)`."""
    callee = ctx.sem.callee(event.node) if isinstance(event.node, cst.Call) else None
    key = None
    if isinstance(carrier, cst.Subscript) and isinstance(carrier.slice[0].slice, cst.Index):
        key, carrier = literal(carrier.slice[0].slice.value), carrier.value
    if carrier is not event.node:  # it has a name in between
        loop = growth.loops[0] if growth.loops else growth.function.node
        given = [n for n in ctx.file.within(loop, cst.Assign) if n.value is event.node]
        name = base_name(carrier)
        if name is None or not any(dotted(t.target) == name for n in given for t in n.targets):
            return False
        if rebound_between(name, event.node, growth.at, loop, ctx.sem):
            return False
    if callee is None or callee is not event.via or ctx.sem.summary(callee).grad.off:
        return False
    roots = {r for e in ctx.sem.events(callee, Effect.BACKWARD) if e.via is None for r in differentiated(e)}
    returned = ctx.sem.reaching(callee).returned
    return bool(returned) and all(node is not None and _gives(node, key, roots, ctx) for node in returned)


def _gives(node: cst.BaseExpression, key: object, roots: set[str], ctx: Context) -> bool:
    """Whether a returned expression is what was differentiated, or has it under the key."""
    if isinstance(node, cst.Dict):
        pairs = [e for e in node.elements if isinstance(e, cst.DictElement)]
        return any(literal(e.key) == key and _gives(e.value, None, roots, ctx) for e in pairs if key is not None)
    return key is None and base_name(node) in roots and ctx.sem.value(node).graph is not Graph.DETACHED


def _is_anothers(name: str, event: Event, ctx: Context) -> bool:
    """Whether what is differentiated is a local of the called function, which happens to have this name."""
    root = name.partition(".")[0]
    called = ctx.sem.callee(event.node) if event.via is not None and isinstance(event.node, cst.Call) else None
    return called is not None and root in called.local and root not in called.params


def _is_part(node: cst.BaseExpression, scope: cst.CSTNode, ctx: Context) -> bool:
    """Whether a term of the differentiated loss carries a graph itself: it surely does, or it is a loss, too.

    Of what a model returns beside its output (`logits, index, lam = model(x)`), only what is added up into a loss is
    known to: the rest may be numbers.
    """
    value = ctx.sem.value(node)
    if isinstance(node, cst.Name) and value.graph is Graph.UNKNOWN and _is_compared(node.value, scope, ctx):
        return True
    is_loss = value.kind is Kind.TENSOR and (is_loss_function(value.origin) or value.origin.endswith("Loss"))
    if value.graph is Graph.ATTACHED and isinstance(node, cst.Name) and _returned_beside(node.value, scope):
        return any(_is_operand(node.value, n.value) for n in walk_scope(scope) if isinstance(n, cst.Assign))
    return value.graph is Graph.ATTACHED or is_loss


def _is_compared(name: str, scope: cst.CSTNode, ctx: Context) -> bool:
    """Whether a loss of torch is given the name first, as what was predicted: `F.cross_entropy(out, y)`. Where that is
    differentiated, only this can have brought the graph."""
    for call in ctx.file.within(scope, cst.Call):
        if len(call.args) > 1 and dotted(call.args[0].value) == name:
            called = ctx.sem.value(call.func)
            if is_loss_function(ctx.sem.qualified(call.func) or "") or called.kind is Kind.LOSS_FN:
                return True
    return False


def _returned_beside(name: str, scope: cst.CSTNode) -> bool:
    """Whether the name is given a later item of what a call returns."""
    given = [n for n in walk_scope(scope) if isinstance(n, cst.Assign) and isinstance(n.value, cst.Call)]
    targets = (target.target for n in given for target in n.targets)
    return any(dotted(e.value) == name for t in targets if isinstance(t, cst.Tuple) for e in t.elements[1:])


def _is_operand(name: str, expr: cst.BaseExpression) -> bool:
    """Whether the value is an operand of the expression's arithmetic, itself or by a method of its own."""
    if isinstance(expr, cst.BinaryOperation):
        return any(dotted(_receiver(side)) == name or _is_operand(name, side) for side in (expr.left, expr.right))
    return False


def _receiver(expr: cst.BaseExpression) -> cst.BaseExpression:
    while isinstance(expr, cst.Call) and isinstance(expr.func, cst.Attribute):
        expr = expr.func.value
    return expr


def _accumulating_loop(growth: Growth, backwards: list[Event], ctx: Context) -> Loop | cst.FunctionDef | None:
    """The loop over whose turns the value lives on: it runs backward and does not start the total anew."""
    for loop in growth.loops:
        if starts_anew(growth, loop):
            return None
        if any(e.within(loop) for e in backwards):
            return loop
    node = growth.function.node
    if growth.name.startswith("self.") and isinstance(node, cst.FunctionDef) and not starts_anew(growth, node):
        return node if growth.function.name != "__init__" else None
    return None


# -- the evaluation case: nothing is differentiated ---------------------------------------------------------------


def _kept_in_evaluation(growth: Growth, ctx: Context) -> tuple[Question, ...] | None:
    """The questions under which a loop over data keeps graphs that nothing uses; None where it does not."""
    sem, function = ctx.sem, growth.function
    if sem.value(growth.added).graph is not Graph.ATTACHED or not growth.loops:
        return None
    if any(isinstance(c, cst.Name) and _returned_beside(c.value, function.node) for c in carriers(growth.added, sem)):
        return None  # what a model returns beside its output may be numbers
    loop = growth.loops[0]
    evaluated = any(r.mode == "eval" and r.node in growth.loops for r in sem.objects(EvalRegion))
    if not isinstance(loop, cst.For) or starts_anew(growth, loop):
        return None
    if not evaluated and loader_value(sem, loop.iter) is None:
        return None
    if (
        sem.events(function, Effect.BACKWARD, Effect.GRAD)
        or escapes(growth, ctx.sem, means=evaluated)
        or growth.name.startswith("self.")
    ):
        return None
    inside = [e for e in sem.events(function, Effect.LOSS, Effect.FORWARD) if e.within(loop)]
    if any(e.grad.off for e in inside) or not any(evaluated or e.effect is Effect.LOSS for e in inside):
        return None
    sites = sem.call_sites(function)
    if sites and all(s.grad.off for s in sites):
        return None
    questions = {q: None for e in inside for q in e.grad.unless}
    if isinstance(function.node, cst.FunctionDef):
        questions[Question("callers-disable-grad", function.own)] = None
    return tuple(questions)


# -- fix ----------------------------------------------------------------------------------------------------------


def _fix(growth: Growth, trained: Event | None, ctx: Context) -> Fix | None:
    if trained is not None and growth.is_list and is_last_item(trained, growth.name):
        return None  # the kept item is the one that is differentiated
    parts = [c for c in carriers(growth.added, ctx.sem) if _has_graph(c, growth, trained, ctx)]
    if not parts:
        return None
    way, build = _way(growth, trained, ctx)
    edits = [Edit(ctx.file.span(c)[1], ctx.file.span(c)[1], way) for c in parts]
    return build(f"keep the value without its graph: `{way}`", *edits)


def _has_graph(node: cst.BaseExpression, growth: Growth, trained: Event | None, ctx: Context) -> bool:
    if _is_part(node, growth.function.node, ctx):
        return True
    return trained is not None and base_name(node) in (differentiated(trained) | {trained.subject})


def _way(growth: Growth, trained: Event | None, ctx: Context) -> tuple[str, Callable[..., Fix]]:
    """What to write behind the value, and how sure it is: `.detach()` where tensors are wanted or nothing changes."""
    readers = _readers(growth, ctx)
    if readers is not None and all(_is_exact(r, ctx) for r in readers):
        return ".detach()", safe
    scalar = trained is not None and isinstance(trained.node, cst.Call) and not trained.node.args
    tensor = ctx.sem.value(growth.target).origin.startswith("torch.") or _started_as_tensor(growth, ctx)
    wants_number = readers is not None and any(_wants_number(r, ctx) for r in readers)
    wants_tensor = readers is None or any(_wants_tensor(r, ctx) for r in readers)
    number = scalar and wants_number and not tensor and not wants_tensor
    return (".item()" if number else ".detach()"), unsafe


def _started_as_tensor(growth: Growth, ctx: Context) -> bool:
    return any(
        ctx.sem.value(n.value).is_tensor
        for n in ctx.file.within(growth.function.node, cst.Assign)
        if n is not growth.at and any(growth.name in bound_names(t.target) for t in n.targets)
    )


def _readers(growth: Growth, ctx: Context) -> list[cst.CSTNode] | None:
    """Every place that reads the total, None where not all can be seen (attributes, globals)."""
    if "." in growth.name or any(
        isinstance(n, (cst.Global, cst.Nonlocal)) and any(i.name.value == growth.name for i in n.names)
        for n in walk(growth.function.node)
    ):
        return None
    own = set(walk(growth.at))
    return [
        n
        for n in ctx.file.within(growth.function.node, cst.Name)
        if n.value == growth.name and n not in own and not _is_written(n, ctx)
    ]


def _is_written(node: cst.Name, ctx: Context) -> bool:
    parent = ctx.file.parent(node)
    return isinstance(parent, cst.AssignTarget) or (isinstance(parent, cst.Arg) and parent.keyword is node)


def _is_exact(node: cst.CSTNode, ctx: Context) -> bool:
    """Whether a reader gets the very same value from a tensor without graph: it ends in a number or a comparison."""
    current, parent = node, ctx.file.parent(node)
    while isinstance(parent, (cst.BinaryOperation, cst.Subscript, cst.UnaryOperation, cst.Index, cst.SubscriptElement)):
        current, parent = parent, ctx.file.parent(parent)
    if isinstance(parent, cst.FormattedStringExpression):
        return parent.format_spec is not None and bool(parent.format_spec)
    if isinstance(parent, cst.Comparison):
        return True
    if isinstance(parent, cst.Attribute):
        return parent.attr.value in _NUMBERS or parent.attr.value in ("detach", "data")
    if isinstance(parent, cst.Arg):
        call = ctx.file.parent(parent)
        return isinstance(call, cst.Call) and dotted(call.func) in ("float", "int", "len")
    return isinstance(parent, (cst.AugAssign, cst.AssignTarget)) and current is not getattr(parent, "value", None)


def _wants_number(node: cst.CSTNode, ctx: Context) -> bool:
    """Whether a reader shows the total as it is, makes numbers of it, or hands it to what plots or logs numbers."""
    parent = ctx.file.parent(node)
    if isinstance(parent, cst.CompFor) and parent.iter is node:
        comprehension = ctx.file.parent(parent)
        made = comprehension.elt if isinstance(comprehension, (cst.ListComp, cst.GeneratorExp)) else None
        return isinstance(made, cst.Call) and dotted(made.func) == "float"
    while isinstance(parent, (cst.BinaryOperation, cst.Subscript, cst.DictElement, cst.Dict, cst.Element, cst.List)):
        parent = ctx.file.parent(parent)
    if isinstance(parent, cst.FormattedStringExpression):
        return True
    if isinstance(parent, cst.Arg):
        call = ctx.file.parent(parent)
        name = (ctx.sem.qualified(call.func) or dotted(call.func) or "") if isinstance(call, cst.Call) else ""
        return bool(_SHOWS.search(name))
    return False


def _wants_tensor(node: cst.CSTNode, ctx: Context) -> bool:
    """Whether a reader uses a method or function of tensors on the total or its items."""
    current, parent = node, ctx.file.parent(node)
    while isinstance(parent, (cst.BinaryOperation, cst.Subscript)):
        current, parent = parent, ctx.file.parent(parent)
    if isinstance(parent, cst.Attribute) and parent.value is current:
        return parent.attr.value not in ("append", "clear", "extend", "pop")
    if isinstance(parent, cst.Arg):
        call = ctx.file.parent(parent)
        name = (ctx.sem.qualified(call.func) or "") if isinstance(call, cst.Call) else ""
        return name.startswith("torch.")
    return False
