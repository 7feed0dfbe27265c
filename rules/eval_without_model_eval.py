"""Evaluation with dropout and batch statistics still in training mode.

## What it does
Finds evaluation code (recording off, or a loop over data that only reports numbers) that runs a model which nothing
puts into eval mode, and which the same file has just trained, or has made anew and loaded weights into.

Silent where the mode is set by the function, by its callers, or by a helper in the project (where one caller of the
same file surely comes from training and another sets the mode, the first is meant); where the model is known to
hold no layer that minds (no Dropout, no BatchNorm); and where train mode is set on purpose right before (refreshing
batch statistics, MC dropout).

## Why is this bad
In train mode Dropout drops and BatchNorm normalises with the statistics of the evaluation batch and even updates its
running ones with them. Reported metrics are wrong, depend on the batch size, and evaluation data leaks into the model.

## Example
```python
for epoch in range(epochs):
    model.train()
    for x, y in train_loader:
        step(model, x, y)
    with torch.no_grad():
        for x, y in val_loader:
            correct += (model(x).argmax(1) == y).sum().item()
```
Use instead:
```python
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for x, y in val_loader:
            correct += (model(x).argmax(1) == y).sum().item()
    model.train(was_training)
```

## Fix safety
Unsafe: the evaluation's numbers change, which is the point. The mode is restored afterwards.

## Verified by
The model is in eval mode at every forward of the region after the fix, was not before, and its mode and running
statistics are the same before and after the call (`fixtures/eval_without_model_eval/run.py`).

## References
- https://docs.pytorch.org/docs/stable/notes/autograd.html#evaluation-mode-nn-module-eval
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Question, Severity
from torchlint.nodes import dotted, find, walk_scope
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, EvalRegion, Event, Function
from torchlint.semantics.evaluation import framework_questions
from torchlint.semantics.likely import likely_regions
from torchlint.semantics.measuring import EVALUATION_NAMES, HELD_OUT_NAMES, measures
from torchlint.semantics.modes import (
    aliases,
    arrives_in_eval_mode,
    call_sites,
    classes_elsewhere,
    handed_to,
    last_mode,
    mode_at,
    only_loaded,
    same_module,
    subject_at,
    trained_here,
    wrapped,
)
from torchlint.semantics.modules import made_of_none, minds_mode, names_layers
from torchlint.semantics.names import is_class_name
from torchlint.semantics.tails import held_out_draws

_OF_MODELS = re.compile(r"\.backward\(|\.load_state_dict\(|no_grad|inference_mode")

RULE = Rule(
    "TL203",
    Category.EVALUATION,
    Severity.WARNING,
    triggers=(r"no_grad", r"inference_mode", r"\.backward\(", EVALUATION_NAMES, HELD_OUT_NAMES),
    shapes=("forwards",),
    requires=(_OF_MODELS.pattern,),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

_TOLD = re.compile(r"(is_)?(train(ing)?|test(ing)?|eval(uate)?)(_mode)?$|deterministic$|mode$")
_DELIBERATE = re.compile(r"mc_|monte|dropout|uncertain|bn_|batch_?norm|calibrat|refresh|swa|warm|stat", re.IGNORECASE)


@RULE.on
def check(region: EvalRegion, ctx: Context) -> Iterator[Finding]:
    first = region.forwards[0]
    if region.mode not in ("train", "mixed", "unknown") or _DELIBERATE.search(region.function.name):
        return
    if not first.subject or not minds_mode(ctx.sem, first.value) or made_of_none(ctx.sem, first.value):
        return
    if arrives_in_eval_mode(ctx.sem, first.subject) or _is_told(first):
        return
    if _acts(region) and not is_class_name(first.value.origin) and not names_layers(ctx.sem):
        return  # policies seldom have Dropout or BatchNorm
    events = ctx.sem.events(region.function)
    overridden = region.mode == "train" and _overridden(region, events, first)
    infers = only_loaded(ctx.sem, first) and (measures(ctx.sem, region) or _goes_over(region))
    if region.evidence == "no_grad" and not overridden and not infers and not measures(ctx.sem, region):
        return  # a rollout, a teacher, a target: recording is off for other reasons than evaluation
    if region.mode == "train" and not overridden and not _forgotten(events, first):
        return
    if region.mode == "unknown" and not trained_here(ctx.sem, region.function, first):
        if not infers:
            return
    fix = None if overridden else _fix(region, first, ctx)
    questions = () if overridden else _questions(region.function, first, ctx)
    if region.mode == "mixed":  # one of the callers is known not to
        questions = tuple(q for q in questions if q.ask != "callers-set-eval")
    yield _finding(first, questions, fix)


@RULE.on
def one_of_several(region: EvalRegion, ctx: Context) -> Iterator[Finding]:
    """Of several models that run one after the other, only some were put into eval mode."""
    if region.mode != "eval" or _DELIBERATE.search(region.function.name) or not measures(ctx.sem, region):
        return
    seen = {region.forwards[0].subject}
    for forward in region.forwards:
        if forward.subject in seen or forward.via is not None:
            continue
        seen.add(forward.subject)
        mode, _ = mode_at(ctx.sem, region.function, forward)
        if (
            mode == "eval"
            or last_mode(ctx.sem.events(region.function), forward)
            or not forward.value.origin
            or not minds_mode(ctx.sem, forward.value)
        ):
            continue
        if trained_here(ctx.sem, region.function, forward, by_name=True) and not made_of_none(ctx.sem, forward.value):
            yield _finding(forward, _questions(region.function, forward, ctx), None)


@RULE.on
def handed_over(module: cst.Module, ctx: Context) -> Iterator[Finding]:
    """Regions whose model other files train and hand over."""
    if not ctx.file.mentions(_OF_MODELS):
        return
    for region in likely_regions(ctx.sem):
        first, asked = region.forwards[0], region.unless[0]
        if region.mode != "unknown" or asked.ask == "runs-no-model" or not measures(ctx.sem, region):
            continue
        if not _DELIBERATE.search(region.function.name) and not _is_told(first):
            trained = Question("not-in-train-mode", asked.subject)
            yield _finding(first, (*region.unless, trained, *_questions(region.function, first, ctx)), None)


@RULE.on
def behind_training(module: cst.Module, ctx: Context) -> Iterator[Finding]:
    """A batch of the test loader every ten steps, in the loop that trains."""
    for function, forward in held_out_draws(ctx.sem):
        if forward.subject and minds_mode(ctx.sem, forward.value) and trained_here(ctx.sem, function, forward):
            yield _finding(forward, _questions(function, forward, ctx), None)


def _is_told(forward: Event) -> bool:
    """Whether the call itself says that it does not train: `model(x, training=False)`."""
    call = forward.origin or forward.node
    named = [a.keyword.value for a in call.args if a.keyword is not None] if isinstance(call, cst.Call) else []
    return any(_TOLD.match(name) for name in named)


def _questions(function: Function, first: Event, ctx: Context) -> tuple[Question, ...]:
    questions = [*framework_questions(ctx.sem, function)]
    if made := classes_elsewhere(ctx.sem, first.subject, function):
        questions.append(Question("ignores-mode", " ".join(made)))
    if isinstance(function.node, cst.FunctionDef):
        questions.append(Question("callers-set-eval", function.own))
    called = (first.subject, *aliases(ctx.sem, function, first), *wrapped(first))
    questions += [
        Question("sets-eval-mode", e.target)
        for e in ctx.sem.events(function)
        if e.order < first.order and any(handed_to(e, name) for name in called)
    ]
    for site in call_sites(ctx.sem, function):
        there = subject_at(function, site, first.subject)
        questions += [
            Question("sets-eval-mode", e.target)
            for e in ctx.sem.events(site.function, Effect.CALL)
            if there and e.order < site.order and handed_to(e, there)
        ]
    return tuple(dict.fromkeys(questions))


def _finding(first: Event, questions: tuple[Question, ...], fix: Fix | None) -> Finding:
    return Finding(
        first.node,
        f"`{first.subject}` is evaluated in train mode",
        "Dropout and BatchNorm stay active, so metrics are wrong and running statistics take in evaluation data",
        f"call `{first.subject}.eval()` before and restore the mode after",
        fix,
        questions,
    )


def _goes_over(region: EvalRegion) -> bool:
    """Whether the region is a loop over something: what runs n times over the same is meant to differ each time."""
    loop = region.node
    return isinstance(loop, cst.For) and not (isinstance(loop.target, cst.Name) and loop.target.value.startswith("_"))


def _acts(region: EvalRegion) -> bool:
    """Whether the region acts in an environment: `observation, reward, done, info = env.step(action)`."""
    return any(
        isinstance(target := assign.targets[0].target, cst.Tuple)
        and len(target.elements) >= 4
        and isinstance(assign.value, cst.Call)
        and (dotted(assign.value.func) or "").endswith(".step")
        for assign in find(region.node, cst.Assign)
    )


def _forgotten(events: list[Event], first: Event) -> bool:
    """Whether training happened between the last `train()` and the region: the mode was set for that, not for this."""
    last = max(
        (
            e.order
            for e in events
            if e.effect is Effect.TRAIN and e.order < first.order and same_module(e.subject, first.subject)
        ),
        default=-1,
    )
    return last < 0 or any(e.effect is Effect.BACKWARD and last < e.order < first.order for e in events)


def _overridden(region: EvalRegion, events: list[Event], first: Event) -> bool:
    """Whether the evaluation, begun with `eval()`, calls `train()` itself on each turn."""
    return any(
        e.effect is Effect.TRAIN
        and e.order < first.order
        and e.within(region.node)
        and any(
            b.effect is Effect.EVAL
            and b.order < e.order
            and same_module(b.subject, e.subject)
            and not b.within(region.node)
            for b in events
        )
        and not any(b.effect is Effect.BACKWARD and b.within(region.node) for b in events)
        for e in events
    )


def _fix(region: EvalRegion, first: Event, ctx: Context) -> Fix | None:
    loop = region.node
    if isinstance(loop, cst.FunctionDef) or not first.subject.replace(".", "").isidentifier():
        return None
    if any(isinstance(n, (cst.Return, cst.Yield)) for n in walk_scope(loop.body)):
        return None  # the mode would not be restored on that way out
    if "was_training" in region.function.local or first.function is not region.function:
        return None
    around: cst.CSTNode = loop
    for scope in reversed(first.scopes):
        if any(a is scope for a in ctx.file.ancestors(loop)) and ctx.file.parent(around) is scope.body:
            around = scope
    name = first.subject
    return unsafe(
        f"evaluate `{name}` in eval mode and restore its mode",
        ctx.file.insert_before(around, [f"was_training = {name}.training", f"{name}.eval()"]),
        ctx.file.insert_after(around, f"{name}.train(was_training)"),
    )
