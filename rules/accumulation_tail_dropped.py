"""The last, smaller group of micro-batches of an epoch never reaches a step.

## What it does
Reports gradient accumulation over the batches of a loader (`if (i + 1) % N == 0:` with `i` from
`enumerate(loader)`) that takes no step for what is left when the number of batches is no multiple of N.

## Why is this bad
Up to N − 1 batches of every epoch are computed for nothing. Where gradients are only cleared after a step, they are not
even dropped: they leak into the first group of the next epoch, which is then too large and partly out of date.

## Example
```python
for i, (x, y) in enumerate(loader):
    (criterion(model(x), y) / n).backward()
    if (i + 1) % n == 0:
        optimizer.step()
        optimizer.zero_grad()
```
Use instead:
```python
for i, (x, y) in enumerate(loader):
    (criterion(model(x), y) / n).backward()
    if (i + 1) % n == 0 or i + 1 == len(loader):
        optimizer.step()
        optimizer.zero_grad()
```
A loader with `drop_last=True`, a step behind the loop and a counter that runs on over the epochs are not reported.

## Fix safety
Unsafe: one more step per epoch. Written only where `len(loader)` is known to work.

## Verified by
A gradient ledger: every micro-batch of the epoch must have reached a step.

## References
- https://huggingface.co/docs/accelerate/usage_guides/gradient_accumulation
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Severity
from torchlint.nodes import argument, dotted, find, has_star, literal, walk
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, Kind, TrainingLoop, flow, microbatches
from torchlint.semantics.blocks import always, unwrap_iteration

RULE = Rule(
    "TL107",
    Category.TRAINING,
    Severity.WARNING,
    triggers=(r"%",),
    requires=(r"backward\(", r"\bstep\("),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)


@RULE.on
def check(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    if not isinstance(loop.node, cst.For):
        return
    counted = _enumerated(loop.node) or _counted_by_hand(loop.node, context)
    if counted is None:
        return
    index, start, source = counted
    loader = dotted(source)
    if loader is None or not _ends(source, loader, loop, context):
        return
    for step in loop.of(Effect.STEP):
        group = microbatches.accumulation(loop, step)
        if group is None or not _exact(group, index) or _handled_elsewhere(loop, group):
            continue
        n = context.file.code(group.steps)
        yield Finding(
            group.test,
            f"the end of `{loader}` never reaches `{step.subject}.step()` unless its length is a multiple of `{n}`",
            "its batches are computed for nothing, or leak into the first group of the next epoch",
            f"also step when `{loader}` ends",
            fix=_fix(group, index, start, loader, context)
            if start is not None and _has_length(source, loader, context)
            else None,
        )
        return


def _enumerated(loop: cst.For) -> tuple[str, int, cst.BaseExpression] | None:
    """The index name, its start and the thing that is counted, of `for i, … in enumerate(thing)`."""
    call = loop.iter
    while (
        isinstance(call, cst.Call) and call.args and (dotted(call.func) or "").rpartition(".")[2] in ("tqdm", "track")
    ):
        call = call.args[0].value
    if not isinstance(call, cst.Call) or dotted(call.func) != "enumerate" or not call.args or has_star(call):
        return None
    given = argument(call, "start", 1)
    start = literal(given.value) if given is not None else 0
    target = loop.target
    if not isinstance(start, int) or not isinstance(target, cst.Tuple) or len(target.elements) != 2:
        return None
    index = target.elements[0].value
    return (index.value, start, unwrap_iteration(call.args[0].value)) if isinstance(index, cst.Name) else None


def _counted_by_hand(loop: cst.For, context: Context) -> tuple[str, None, cst.BaseExpression] | None:
    """The counter of `i = 0; for … in thing: …; i += 1`, which starts anew with each pass over the thing."""
    grown = {
        n.target.value
        for n in walk(loop.body, into=lambda n: not isinstance(n, cst.BaseCompoundStatement) or _always(n))
        if isinstance(n, cst.AugAssign) and isinstance(n.operator, cst.AddAssign) and isinstance(n.target, cst.Name)
        if literal(n.value) == 1
    }
    for line in _ahead(loop, context):
        for small in line.body if isinstance(line, cst.SimpleStatementLine) else ():
            if isinstance(small, cst.Assign) and isinstance(literal(small.value), int):
                name = dotted(small.targets[0].target)
                if name in grown:
                    return name, None, unwrap_iteration(loop.iter)
    return None


def _always(node: cst.BaseCompoundStatement) -> bool:
    return isinstance(node, cst.With) or (isinstance(node, cst.If) and always(node))


def _ahead(loop: cst.For, context: Context) -> Iterator[cst.CSTNode]:
    """The statements ahead of the loop, the nearest first, up to the start of what repeats it."""
    inner: cst.CSTNode = loop
    for block in context.file.ancestors(loop):
        if isinstance(block, (cst.For, cst.While, cst.FunctionDef)):
            return
        if isinstance(block, (cst.IndentedBlock, cst.Module)):
            yield from reversed(block.body[: next(i for i, line in enumerate(block.body) if line is inner)])
        if isinstance(block, cst.BaseStatement):
            inner = block


def _ends(source: cst.BaseExpression, name: str, loop: TrainingLoop, context: Context) -> bool:
    """Whether the loader comes to an end: it has a length, or is one that is gone over again and again."""
    if _has_length(source, name, context):
        return True
    value = context.sem.value(source)
    again = loop.outer or any(site.loops for site in context.sem.call_sites(loop.function))
    return value.kind is Kind.LOADER and not value.origin and bool(again)


def _has_length(source: cst.BaseExpression, name: str, context: Context) -> bool:
    """Whether `len(loader)` works: a map-style loader made here (without `drop_last`), or one whose length is used."""
    value = context.sem.value(source)
    if value.kind is not Kind.LOADER:
        return False
    made = value.node
    if value.origin and isinstance(made, cst.Call):
        if has_star(made, "**"):
            return False
        drop = argument(made, "drop_last", 8)
        dataset = argument(made, "dataset", 0)
        given = context.sem.value(dataset.value) if dataset is not None else None
        return (drop is None or literal(drop.value) is False) and not _endless(given.origin if given else "", context)
    return any(
        dotted(call.func) == "len" and call.args and dotted(call.args[0].value) == name
        for call in context.file.all(cst.Call)
    )


def _endless(origin: str, context: Context) -> bool:
    """Whether a dataset of this making may have no length."""
    cls = context.sem.class_of(origin)
    if cls is not None:
        return context.sem.names.method(cls, "__len__") is None
    return not origin or "Iterable" in origin


def _exact(group: microbatches.Accumulation, index: str) -> bool:
    """Whether the guard is nothing but a modulus of the loop's own index."""
    test = group.test
    return (
        isinstance(test, (cst.Comparison, cst.UnaryOperation))
        and group.modulus is not None
        and flow.bound_names(group.modulus.left) == {index}
    )


def _handled_elsewhere(loop: TrainingLoop, group: microbatches.Accumulation) -> bool:
    """Whether what is left is applied behind the loop, or may be by a call there; or the loop is left early."""
    if isinstance(loop.node, cst.For) and (
        loop.node.orelse is not None or any(True for _ in find(loop.node.body, cst.Break))
    ):
        return True
    if any(e.effect in (Effect.STEP, Effect.BACKWARD) for e in loop.after):
        return True
    return any(s.subject == group.step.subject and not group.guards(s) for s in loop.of(Effect.STEP))


def _fix(group: microbatches.Accumulation, index: str, start: int, loader: str, context: Context) -> Fix | None:
    test = group.test
    if test is group.guard.test and not group.guard.taken:
        return None
    done = f"{index} + 1" if start == 0 else index if start == 1 else f"{index} + 1 - {start}"
    text = f"{context.file.code(test)} or {done} == len({loader})"
    if test.lpar:
        text = f"({context.file.code(test)[1:-1].strip()} or {done} == len({loader}))"
    return unsafe(f"Step for the last group of `{loader}` too", context.file.replace(test, text))
