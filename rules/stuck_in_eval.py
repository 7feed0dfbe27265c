"""Training that goes on in eval mode after an evaluation.

## What it does
Finds `model.eval()` inside a loop that also trains the same model, where nothing in the loop calls `model.train()`
again: from the first evaluation on, training runs with Dropout off and BatchNorm frozen.

Also a loop that calls functions of other files, one of which trains a model and another leaves it in eval mode.

Silent where `train()` follows anywhere in the loop, also in a helper of the project; where the module in eval mode is
only a part of the trained one (frozen backbones); and where no evaluation follows (training in eval mode on purpose).

## Why is this bad
Everything after the first evaluation trains another model than the one configured: no regularisation by Dropout,
running statistics that never move again. Loss looks better, generalisation gets worse, and nothing warns.

## Example
```python
model.train()
for epoch in range(epochs):
    for x, y in train_loader:
        step(model, x, y)
    model.eval()
    validate(model, val_loader)
```
Use instead:
```python
for epoch in range(epochs):
    model.train()
    for x, y in train_loader:
        step(model, x, y)
    model.eval()
    validate(model, val_loader)
```

## Fix safety
Unsafe: training changes from the second turn of the loop on, which is the point.

## Verified by
The model is in train mode at every training forward after the fix and was not before (`fixtures/stuck_in_eval/run.py`).

## References
- https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.eval
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Question, Severity
from torchlint.nodes import dotted
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, Event, Function, Kind
from torchlint.semantics.loops import Loop
from torchlint.semantics.measuring import may_evaluate_name
from torchlint.semantics.modes import classes_elsewhere, handed_to
from torchlint.semantics.modules import minds_mode
from torchlint.semantics.names import OWN

RULE = Rule(
    "TL204",
    Category.EVALUATION,
    Severity.ERROR,
    triggers=(
        r"\.eval\(",
        r"\.train\(\s*(mode\s*=\s*)?False",
        r"(?<!def )\b(?:eval|evaluate|valid|validate|val|test)(?:_\w*)?\(",
    ),
    requires=(r"\.backward\(|\boptim",),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)


@RULE.on
def check(module: cst.Module, ctx: Context) -> Iterator[Finding]:
    for function in ctx.sem.functions:
        events = ctx.sem.events(function)
        seen: set[tuple[int, str]] = set()
        for event in events:
            if event.effect is Effect.EVAL and event.loops and event.subject:
                found = _stuck(events, event)
                if found is not None and (id(found), event.subject) not in seen:
                    seen.add((id(found), event.subject))
                    yield from _report(function, event, found, events, ctx)


@RULE.on
def in_another_file(module: cst.Module, ctx: Context) -> Iterator[Finding]:
    """A model that functions of other files train and evaluate in turn: `train(net, …)`, `validate(net, …)`."""
    for function in ctx.sem.functions:
        calls = [e for e in ctx.sem.events(function, Effect.CALL) if e.loops and e.via is None and _is_elsewhere(e)]
        for event in calls:
            if may_evaluate_name(event.target.rpartition(".")[2]):
                yield from _left_in_eval(event, calls, ctx.sem.events(function), ctx)


def _left_in_eval(event: Event, calls: list[Event], events: list[Event], ctx: Context) -> Iterator[Finding]:
    loop = event.loops[-1]
    inside = [e for e in events if e.within(loop)]
    for place, name in _handed_names(event):
        if any(e.effect is Effect.TRAIN and (not e.subject or _shares(e.subject, name)) for e in inside):
            continue
        others = [e for e in calls if e is not event and e.within(loop) and handed_to(e, name)]
        here = any(
            e.effect is Effect.FORWARD and e.subject == name and not e.grad.off and _trains(inside, e) for e in inside
        )
        trainers = [e for e in others if _takes_optimizer(e)]
        if not here and len(trainers) != 1:
            continue
        questions = [Question("leaves-mode", f"{event.target} {place}")]
        questions += [] if here else [Question("differentiates-nothing", trainers[0].target)]
        questions += [Question("sets-train-mode", e.target) for e in others]
        if made := classes_elsewhere(ctx.sem, name, event.function):
            questions.append(Question("ignores-mode", " ".join(made)))
        elif not any(e.effect is Effect.FORWARD and e.subject == name and e.value.origin for e in events):
            continue  # nothing is known of its layers
        yield Finding(
            event.node,
            f"training of `{name}` goes on in eval mode",
            f"`{event.target.rpartition('.')[2]}` leaves it there, and nothing in the loop calls `train()`",
            f"call `{name}.train()` at the start of each turn",
            _fix(loop, name, event, ctx),
            tuple(dict.fromkeys(questions)),
        )


def _is_elsewhere(event: Event) -> bool:
    return isinstance(event.node, cst.Call) and not event.target.startswith((OWN, "?", "torch.", "numpy."))


def _handed_names(event: Event) -> Iterator[tuple[str, str]]:
    """The names that a call hands over, each with the parameter's position or name."""
    assert isinstance(event.node, cst.Call)
    for position, arg in enumerate(event.node.args):
        if arg.star:
            return
        name = dotted(arg.value)
        if name is not None:
            yield (arg.keyword.value if arg.keyword is not None else str(position)), name


def _takes_optimizer(event: Event) -> bool:
    return any(name.rpartition(".")[2].lower().startswith("opt") for _, name in _handed_names(event))


def _shares(one: str, other: str) -> bool:
    return one == other or _part_of(one, other)


def _part_of(one: str, other: str) -> bool:
    """Whether one of the two modules holds the other: who puts a part into train mode has seen to the rest."""
    return one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _stuck(events: list[Event], event: Event) -> Loop | None:
    """The innermost loop that trains the module, evaluates it and never goes back to train mode; None if there is
    none."""
    for loop in reversed(event.loops):
        inside = [e for e in events if e.within(loop)]
        trained = [
            e
            for e in inside
            if e.effect is Effect.FORWARD and _same(e, event) and not e.grad.off and _trains(inside, e)
        ]
        if not trained:
            continue
        if any(
            e.effect is Effect.TRAIN and (not e.subject or _same(e, event) or _part_of(e.subject, event.subject))
            for e in inside
        ):
            return None
        if any(_meant(forward, inside) for forward in trained):
            return None
        return loop if any(_evaluates(e, event, inside) for e in inside) else None
    return None


def _meant(trained: Event, inside: list[Event]) -> bool:
    """Whether the training pass itself is begun in eval mode: a linear probe keeps the statistics of its backbone."""
    modes = [e for e in inside if e.effect is Effect.EVAL and e.order < trained.order and _same(e, trained)]
    if not modes:
        return False
    last = max(modes, key=lambda e: e.order)
    return not any(e.order < trained.order and _evaluates(e, last, inside) for e in inside)


def _evaluates(e: Event, event: Event, inside: list[Event]) -> bool:
    """Whether the module runs without being trained behind its `eval()`, here or in a function of another file."""
    if e.order <= event.order:
        return False
    if e.effect is Effect.FORWARD:
        return _same(e, event) and (e.grad.off or not _trains(inside, e))
    if e.effect is not Effect.CALL or e.target.startswith(OWN) or not handed_to(e, event.subject):
        return False
    return e.grad.off or may_evaluate_name(e.target.rpartition(".")[2])


def _same(a: Event, b: Event) -> bool:
    return a.subject.removesuffix(".module") == b.subject.removesuffix(".module")


def _trains(inside: list[Event], forward: Event) -> bool:
    """Whether a backward follows in the same turn of the forward's own loop (or in the same callee)."""
    return any(
        e.effect is Effect.BACKWARD
        and e.order > forward.order
        and e.loops == forward.loops
        and (e.node is forward.node or forward.via is None or e.via is None)
        for e in inside
    )


def _report(function: Function, event: Event, loop: Loop, events: list[Event], ctx: Context) -> Iterator[Finding]:
    if event.value.kind is Kind.MODULE and not minds_mode(ctx.sem, event.value):
        return
    calls = [e for e in events if e.effect is Effect.CALL and e.within(loop)]
    if any("train" in e.target.rpartition(".")[2].lower() and e.target.startswith("?") for e in calls):
        return
    questions = dict.fromkeys(Question("sets-train-mode", e.target) for e in calls if handed_to(e, event.subject))
    name = event.subject
    yield Finding(
        event.node,
        f"training of `{name}` goes on in eval mode",
        "after this evaluation nothing in the loop calls `train()`, so Dropout stays off and BatchNorm frozen",
        f"call `{name}.train()` at the start of each turn",
        _fix(loop, name, event, ctx),
        tuple(questions),
    )


def _fix(loop: Loop, name: str, event: Event, ctx: Context) -> Fix | None:
    if not isinstance(loop.body, cst.IndentedBlock) or not name.replace(".", "").isidentifier():
        return None
    return unsafe(
        "go back to train mode at the start of each turn", ctx.file.insert_first(loop.body, f"{name}.train()")
    )
