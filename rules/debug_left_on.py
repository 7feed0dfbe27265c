"""Debugging of autograd that is always on: anomaly detection, gradient checks, profiling.

## What it does

Finds `torch.autograd.set_detect_anomaly(True)`, `with torch.autograd.detect_anomaly():` around training, a trainer's
`detect_anomaly=True`, `gradcheck` in a training loop, and `autograd.profiler.profile(True)` or `emit_nvtx(True)` around
one, where the switch is a constant.

Silent under an `if`, where the file also switches it off, and in files that are there for tests, debugging or
profiling.

## Why is this bad

Anomaly detection records a stack trace for every operation of the forward pass and looks for NaN after every one of
the backward pass, which synchronises the device each time. Training commonly takes twice the time, for a report that
nobody needs until something breaks.

## Example

```python
torch.autograd.set_detect_anomaly(True)
```

Use instead: the line for as long as the search for a NaN takes, or behind a switch.

```python
torch.autograd.set_detect_anomaly(args.debug)
```

## Fix safety

Unsafe: results are the same to the last bit, but a NaN in backward no longer raises. The statement, the argument or the
`with` is taken away; a check of gradients is left to the author.

## Verified by

`fixtures/debug_left_on/run.py`: bitwise equal parameters and gradients with fewer
operations and no synchronisation.

## References

- <https://docs.pytorch.org/docs/stable/autograd.html#anomaly-detection>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.edits import remove_argument, unwrap_with
from torchlint.nodes import argument, dotted, find, literal
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, TrainingLoop
from torchlint.semantics.blocks import always

RULE = Rule(
    "TL603",
    Category.MEMORY,
    Severity.WARNING,
    triggers=(r"detect_anomaly", r"\bgradg?g?check\(", r"\bemit_nvtx\(", r"profiler\.profile\("),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

_ANOMALY = frozenset(("torch.autograd.detect_anomaly", "torch.autograd.anomaly_mode.detect_anomaly"))
_SET_ANOMALY = frozenset(("torch.autograd.set_detect_anomaly", "torch.autograd.anomaly_mode.set_detect_anomaly"))
_PROFILERS = frozenset(("torch.autograd.profiler.profile", "torch.autograd.profiler.emit_nvtx"))
_CHECKS = frozenset(f"torch.autograd.{n}" for n in ("gradcheck", "gradgradcheck", "gradcheck.gradcheck"))
_ON_PURPOSE = re.compile(
    r"(?:^|[/\\])tests?[/\\]|(?:^|[/\\_])(?:tests?|debug|profil|bench|repro)[^/\\]*$", re.IGNORECASE
)
_ALSO_OFF = re.compile(r"set_detect_anomaly\(\s*(?!(?:mode\s*=\s*)?True)\w|detect_anomaly\s*=\s*False")
_SLOW = "every operation records a stack trace and is searched for NaN, which about doubles the time of a step"


@RULE.on
def check(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    name = ctx.sem.qualified(call.func) or ""
    if not name or _ON_PURPOSE.search(ctx.file.path) or _has_switch(call, ctx):
        return
    if name in _SET_ANOMALY or name in _ANOMALY:
        on = argument(call, "mode", 0)
        if name in _ANOMALY or (on is not None and literal(on.value) is True):
            yield from _anomaly(call, ctx)
    elif name in _PROFILERS:
        on = argument(call, "enabled", 0)
        around = _with_of(call, ctx)
        if on is not None and literal(on.value) is True and around is not None and _trains(around, ctx):
            what = f"`{ctx.file.code(call.func)}` is always on around training"
            yield Finding(call, what, "every operation is recorded", "profile a few steps, behind a switch")
    elif name.rpartition(".")[2] == "Trainer" and name.partition(".")[0] in ("pytorch_lightning", "lightning"):
        on = argument(call, "detect_anomaly")
        if on is not None and literal(on.value) is True:
            fix = unsafe("train without anomaly detection", remove_argument(ctx.file, call, on))
            yield Finding(on, "the trainer's anomaly detection is always on", _SLOW, "put it behind a switch", fix)


@RULE.on
def check_loop(loop: TrainingLoop, ctx: Context) -> Iterator[Finding]:
    if _ON_PURPOSE.search(ctx.file.path):
        return
    for call in find(loop.node, cst.Call):
        if (ctx.sem.qualified(call.func) or "") in _CHECKS and not _has_switch(call, ctx):
            why = "it differentiates numerically, one element after the other, in every step"
            yield Finding(call, "gradients are checked in the training loop", why, "check them once, in a test")


def _anomaly(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    """Anomaly detection that is switched on for good: as a statement of its own, or around training."""
    name, do = ctx.file.code(call.func), "take it out, or put it behind a switch"
    if ctx.file.mentions(_ALSO_OFF):
        return
    line = ctx.file.statement(call)
    if isinstance(line, cst.SimpleStatementLine):
        if (ctx.sem.qualified(call.func) or "") in _SET_ANOMALY and _is_whole(line, call):
            fix = unsafe("train without anomaly detection", ctx.file.delete(line))
            yield Finding(call, f"`{name}(True)` is always on", _SLOW, do, fix)
        return
    around = _with_of(call, ctx)
    if around is None or not _trains(around, ctx):
        return
    edits = unwrap_with(ctx.file, around) if len(around.items) == 1 and around.items[0].asname is None else ()
    with_fix = unsafe("train without anomaly detection", *edits) if edits else None
    yield Finding(call, f"`{name}` is always on around training", _SLOW, do, with_fix)


def _is_whole(line: cst.SimpleStatementLine, call: cst.Call) -> bool:
    """Whether the call is all that the line does."""
    return len(line.body) == 1 and isinstance(line.body[0], cst.Expr) and line.body[0].value is call


def _with_of(call: cst.Call, ctx: Context) -> cst.With | None:
    """The `with` whose context the call makes."""
    item = ctx.file.parent(call)
    around = ctx.file.parent(item) if isinstance(item, cst.WithItem) else None
    return around if isinstance(around, cst.With) else None


def _trains(around: cst.With, ctx: Context) -> bool:
    """Whether gradients are computed and applied under the `with`, or in the loop that it stands in."""
    function = ctx.sem.function(around)
    if any(around in e.scopes for e in ctx.sem.events(function, Effect.STEP)):
        return True
    loop = ctx.file.enclosing(around, (cst.For, cst.While))
    events = ctx.sem.events(function, Effect.STEP, Effect.BACKWARD)
    stepped = loop is not None and any(e.effect is Effect.STEP and e.within(loop) for e in events)
    return stepped and any(e.effect is Effect.BACKWARD and around in e.scopes for e in events)


def _has_switch(call: cst.Call, ctx: Context) -> bool:
    """Whether a condition decides if the call runs (`if __name__ == "__main__"` is none), or an error led to it."""
    for ancestor in ctx.file.ancestors(call):
        if isinstance(ancestor, cst.ExceptHandler):
            return True
        if isinstance(ancestor, (cst.If, cst.IfExp)) and not _is_main(ancestor.test) and not always(ancestor):
            return True
        if isinstance(ancestor, (cst.FunctionDef, cst.Lambda)):
            return False
    return False


def _is_main(test: cst.BaseExpression) -> bool:
    return isinstance(test, cst.Comparison) and dotted(test.left) == "__name__"
