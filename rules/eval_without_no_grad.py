"""Evaluation that records an autograd graph.

## What it does
Finds loops and functions that run a model for evaluation (the model was put into eval mode, or the loop goes over data
and only reports numbers) while autograd records, with no backward that could use the recording. Found anywhere: a pass
all of whose results lose their graph and go to the host, as numbers or pictures (`net(z).data.cpu()`).

Silent where recording is off: `no_grad`, `inference_mode`, `set_grad_enabled`, as decorator or context manager, also
the project's own ones, in this file or another, in every caller, or by a framework that calls the function. Silent
where gradients are asked for (attacks, explanations, forces, a model of this file or another that adapts its weights in
its forward), in `forward`, and in unit tests.

## Why is this bad
Every forward pass keeps its activations alive for a backward that never comes. Evaluation then needs several times the
memory (measured: tensor peak ÷3.4 to ÷12) and runs slower (×1.1 to ×1.3), and a batch size that fits in training no
longer fits in evaluation.

## Example
```python
def validate(model, loader):
    model.eval()
    for x, y in loader:
        correct += (model(x).argmax(1) == y).sum().item()
```
Use instead:
```python
@torch.no_grad()
def validate(model, loader):
    model.eval()
    for x, y in loader:
        correct += (model(x).argmax(1) == y).sum().item()
```

## Fix safety
Safe where nothing that carries a graph leaves the region: values are bitwise equal, only the recording is gone. Unsafe
where outputs are returned or kept, because a caller could differentiate them later.

## Verified by
Bitwise equality of results, and saved-tensor bytes and peak tensor memory before and after
(`fixtures/eval_without_no_grad/run.py`).

## References
- https://docs.pytorch.org/docs/stable/generated/torch.no_grad.html
- https://docs.pytorch.org/docs/stable/notes/autograd.html#locally-disabling-gradient-computation
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Question, Severity
from torchlint.edits import add_decorator, torch_name, wrap_in_with
from torchlint.nodes import walk_scope
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Effect, EvalRegion, Event, Function
from torchlint.semantics.discarded import DISCARDS, discarded_passes
from torchlint.semantics.escapes import escaping
from torchlint.semantics.evaluation import framework_questions, is_frozen, off_for_all
from torchlint.semantics.flags import shared_passes
from torchlint.semantics.likely import likely_regions
from torchlint.semantics.measuring import EVALUATION_NAMES, HELD_OUT_NAMES
from torchlint.semantics.modes import classes_elsewhere, grad_mode
from torchlint.semantics.names import OWN
from torchlint.semantics.tails import evaluating_scripts, evaluating_tails

RULE = Rule(
    "TL201",
    Category.EVALUATION,
    Severity.WARNING,
    triggers=(
        r"\.eval\(",
        r"\.train\(\s*(mode\s*=\s*)?False",
        r"\.load_state_dict\(",
        EVALUATION_NAMES,
        HELD_OUT_NAMES,
        *DISCARDS,
    ),
    shapes=("forwards",),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)


@RULE.on
def check(region: EvalRegion, ctx: Context) -> Iterator[Finding]:
    mode = grad_mode(ctx.sem, region)
    if mode.off or is_frozen(ctx.sem, region.forwards[0].subject) or _is_called_back(region.function, ctx):
        return
    yield _finding(region.function, region.forwards[0], (*mode.unless, *region.unless), ctx, _fix(region, ctx))


def _is_called_back(function: Function, ctx: Context) -> bool:
    """Whether all calls stand in lambdas that another library is given: it may call them without recording."""
    sites = ctx.sem.call_sites(function)
    return bool(sites) and all(_is_given_away(site.node, ctx) for site in sites)


def _is_given_away(node: cst.CSTNode, ctx: Context) -> bool:
    for ancestor in ctx.file.ancestors(node):
        if isinstance(ancestor, cst.Lambda):
            arg = ctx.file.parent(ancestor)
            call = ctx.file.parent(arg) if isinstance(arg, cst.Arg) else None
            name = ctx.sem.qualified(call.func) if isinstance(call, cst.Call) else None
            return name is not None and not name.startswith((OWN, "torch."))
        if isinstance(ancestor, cst.FunctionDef):
            return False
    return False


@RULE.on
def handed_over(module: cst.Module, ctx: Context) -> Iterator[Finding]:
    """Regions whose model other files hand over."""
    if not off_for_all(ctx.sem):
        for region in likely_regions(ctx.sem):
            yield from check(region, ctx)


@RULE.on
def behind_training(module: cst.Module, ctx: Context) -> Iterator[Finding]:
    for function, forward in chain(evaluating_tails(ctx.sem), evaluating_scripts(ctx.sem)):
        if not is_frozen(ctx.sem, forward.subject):
            yield _finding(function, forward, (), ctx, _fix_tail(function, forward, ctx))


@RULE.on
def thrown_away(module: cst.Module, ctx: Context) -> Iterator[Finding]:
    """Passes of which only numbers or pictures remain, whatever their function is called and trains besides."""
    sem = ctx.sem
    known = {id(f.node) for region in sem.objects(EvalRegion) for f in region.forwards}
    told = {(f, e.subject, e.loops): e.order for f, e in chain(evaluating_tails(sem), evaluating_scripts(sem))}
    for function, forward in discarded_passes(sem):
        if told.get((function, forward.subject, forward.loops), forward.order + 1) <= forward.order:
            continue  # a further pass of an evaluation that was found by its beginning
        if id(forward.node) not in known and not is_frozen(sem, forward.subject):
            yield _finding(function, forward, forward.grad.unless, ctx, _fix_statement(forward, ctx))


@RULE.on
def told_apart_by_a_flag(module: cst.Module, ctx: Context) -> Iterator[Finding]:
    """The evaluating turn of a function that trains under a flag."""
    for function, forward in shared_passes(ctx.sem):
        if not is_frozen(ctx.sem, forward.subject):
            asked = Question("a-caller-disables-grad", function.own)  # that one evaluates
            yield _finding(function, forward, (*forward.grad.unless, asked), ctx)


def _fix_statement(forward: Event, ctx: Context) -> Fix | None:
    """The statement alone: what it binds loses its graph in any case."""
    line = ctx.file.statement(forward.node)
    if not isinstance(line, cst.SimpleStatementLine):
        return None
    name, imports = torch_name(ctx.file, ctx.sem, "torch.no_grad", line)
    text = f"run the pass in `with {name}():`"
    return Fix((*imports, *wrap_in_with(ctx.file, [line], f"{name}()")), Applicability.SAFE, text)


def _finding(
    function: Function, first: Event, unless: tuple[Question, ...], ctx: Context, fix: Fix | None = None
) -> Finding:
    questions = (*unless, *framework_questions(ctx.sem, function))
    if isinstance(function.node, cst.FunctionDef):
        questions += (Question("callers-disable-grad", function.own),)
    if made := classes_elsewhere(ctx.sem, first.subject, function):
        questions += (Question("takes-gradients", " ".join(made)),)
    name = first.subject or "the model"
    return Finding(
        first.node,
        f"`{name}` is evaluated while autograd records",
        "each forward pass keeps its activations for a backward that never comes, which costs memory and time",
        "run it under `torch.no_grad()`",
        fix,
        questions,
    )


def _fix(region: EvalRegion, ctx: Context) -> Fix | None:
    file, function = ctx.file, region.function
    if isinstance(region.node, cst.FunctionDef):
        target: cst.For | cst.While | cst.FunctionDef = region.node
    else:
        target = whole if (whole := _whole_function(region, ctx)) is not None else region.node
    name, imports = torch_name(file, ctx.sem, "torch.no_grad", region.node)
    leaves = escaping(ctx.sem, function, target, doubtful=True)
    kind = Applicability.UNSAFE if leaves else Applicability.SAFE
    if isinstance(target, cst.FunctionDef):
        return Fix(
            (*imports, add_decorator(file, target, f"{name}()")),
            kind,
            f"decorate `{target.name.value}` with `{name}()`",
        )
    if not isinstance(target.body, cst.IndentedBlock):
        return None
    return Fix((*imports, *wrap_in_with(file, [target], f"{name}()")), kind, f"wrap the loop in `with {name}():`")


def _fix_tail(function: Function, first: Event, ctx: Context) -> Fix | None:
    """From the statement of the first forward to that of the last one in its block."""
    file = ctx.file
    start = file.statement(first.node)
    block = file.parent(start)
    if not isinstance(start, cst.SimpleStatementLine) or not isinstance(block, (cst.IndentedBlock, cst.Module)):
        return None
    forwards = [e for e in ctx.sem.events(function) if e.effect is Effect.FORWARD and e.order >= first.order]
    inside = [file.statement(e.node) for e in forwards]
    places = [i for i, s in enumerate(block.body) if any(s is at for at in inside)]
    statements = list(block.body[places[0] : places[-1] + 1])
    if any(isinstance(n, (cst.FunctionDef, cst.Lambda)) for s in statements for n in walk_scope(s)):
        return None
    around = first.loops[-1] if first.loops else function.node
    doubtful = not isinstance(around, cst.Module) and escaping(ctx.sem, function, around, doubtful=True)
    behind = [n for n in doubtful or () if file.row(n) >= file.row(start)]
    name, imports = torch_name(file, ctx.sem, "torch.no_grad", start)
    kind = Applicability.UNSAFE if behind else Applicability.SAFE
    return Fix((*imports, *wrap_in_with(file, statements, f"{name}()")), kind, f"evaluate in `with {name}():`")


def _whole_function(region: EvalRegion, ctx: Context) -> cst.FunctionDef | None:
    """The function, if the decorator form holds: it does nothing that needs recording and is no generator."""
    function = region.function
    if not isinstance(function.node, cst.FunctionDef) or function.node.asynchronous is not None:
        return None
    for event in ctx.sem.events(function):
        if event.effect in (Effect.BACKWARD, Effect.GRAD, Effect.STEP):
            return None
        if event.effect is Effect.CALL and not event.within(region.node) and event.target.startswith(("~", ".")):
            return None
        if event.effect is Effect.FORWARD and not event.within(region.node):
            return None
    defers = any(isinstance(n, (cst.Yield, cst.FunctionDef, cst.Lambda)) for n in walk_scope(function.node.body))
    return None if defers else function.node
