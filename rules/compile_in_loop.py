"""A model or function is compiled again in every turn of a loop.

## What it does
Reports `torch.compile`, `torch.jit.script` and `torch.jit.trace` inside a loop, given things that the loop does not
change.

## Why is this bad
`torch.jit.trace` and `torch.jit.script` do all of their work again in each turn: for one `nn.Linear`, 13 ms and 2 ms
where the call itself takes 0.013 ms. `torch.compile` finds its compiled code again, but each turn makes a new wrapper
that starts without the fast path of the old one: 0.27 ms a turn against 0.03 ms (best of 40 and 200, torch 2.13, CPU);
and `model = torch.compile(model)` in a loop wraps the wrapper, and compiles once more.

## Example
```python
for x, y in loader:
    compiled = torch.compile(model)
    loss = loss_fn(compiled(x), y)
```
Use instead:
```python
compiled = torch.compile(model)
for x, y in loader:
    loss = loss_fn(compiled(x), y)
```
Calls under an `if`, calls whose arguments change from turn to turn (models, modes or backends that are compared), and
loops that measure time or reset the compiler are not reported.

## Fix safety
Unsafe: the compiled thing outlives the turn, and with it what tracing has fixed. The line moves above the loop, and
above the loops around it that change nothing of it.

## Verified by
Equal results, bit for bit, and fewer operations.

## References
- https://pytorch.org/docs/stable/generated/torch.compile.html
- https://pytorch.org/docs/stable/generated/torch.jit.trace.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Severity
from torchlint.edits import move_before
from torchlint.nodes import dotted, find, walk
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import flow
from torchlint.semantics.blocks import always

RULE = Rule(
    "TL706",
    Category.PRECISION,
    Severity.WARNING,
    triggers=(r"\bcompile\(", r"\b(script|trace)\("),
    requires=(r"\b(torch\.compile|jit\.(script|trace)|import[^\n]*\b(compile|script|trace))\b", r"\b(?:for|while)\b"),
    since="0.2",
    fixes=(Applicability.UNSAFE,),
)

_COMPILERS = frozenset(("torch.compile", "torch.jit.script", "torch.jit.trace"))
_COMPILED = ("model", "obj", "func")  # the parameters of what is compiled
_MEASURES = re.compile(
    r"perf_counter|time\.time|monotonic|\breset\(|do_bench|benchmark|Timer|timeit|profile|cache_size", re.I
)

Loop = cst.For | cst.While


@RULE.on
def check(call: cst.Call, context: Context) -> Iterator[Finding]:
    name = context.sem.qualified(call.func)
    if name not in _COMPILERS or not any(
        not a.star and (a.keyword is None or a.keyword.value in _COMPILED) for a in call.args
    ):
        return  # `torch.compile(mode=…)` alone makes a decorator
    loops = _loops_around(call, context)
    if not loops or _MEASURES.search(context.file.code(loops[-1])):
        return
    own = _target(call, context)
    needed = {n for n in (dotted(node) for arg in call.args for node in walk(arg.value)) if n is not None}
    free = [loop for loop in loops if not needed & _changed(loop, call, own)]
    if not free or free[0] is not loops[0]:
        return
    yield Finding(
        call,
        f"`{dotted(call.func)}` is called in every turn of the loop",
        "each turn traces or wraps again what does not change",
        "call it once, before the loop",
        fix=_fix(call, loops, free, context),
    )


def _loops_around(call: cst.Call, context: Context) -> list[Loop]:
    """The loops around a call in its function, innermost first; none if an `if` or a nested scope comes first."""
    loops: list[Loop] = []
    inner: cst.CSTNode = call
    for node in context.file.ancestors(call):
        if isinstance(node, (cst.FunctionDef, cst.Lambda, cst.ClassDef)):
            break
        if isinstance(node, (cst.If, cst.IfExp, cst.ExceptHandler, cst.CompFor)) and not loops and not always(node):
            return []
        if isinstance(node, (cst.For, cst.While)) and inner is node.body:
            loops.append(node)
        inner = node
    return loops


def _target(call: cst.Call, context: Context) -> str | None:
    parent = context.file.parent(call)
    return dotted(parent.targets[0].target) if isinstance(parent, cst.Assign) and len(parent.targets) == 1 else None


def _changed(loop: Loop, call: cst.Call, own: str | None) -> set[str]:
    """What a turn of the loop assigns or defines, the assignment of this very call left out."""
    changed = flow.assigned_in(loop) | {d.name.value for d in find(loop.body, cst.FunctionDef)}
    changed |= {d.name.value for d in find(loop.body, cst.ClassDef)}
    if own is not None and own in changed:
        others = [
            a
            for a in find(loop.body, cst.Assign)
            if a.value is not call
            and any(own in flow.bound_names(t.target) or dotted(t.target) == own for t in a.targets)
        ]
        if not others and not (isinstance(loop, cst.For) and own in flow.bound_names(loop.target)):
            changed = changed - {own}
    return changed


def _fix(call: cst.Call, loops: list[Loop], free: list[Loop], context: Context) -> Fix | None:
    line = flow.line_of(context.sem, call)
    if line is None or len(line.body) != 1 or context.file.parent(line) is not loops[0].body:
        return None
    small = line.body[0]
    if (
        not isinstance(small, cst.Assign)
        or small.value is not call
        or not isinstance(small.targets[0].target, cst.Name)
    ):
        return None
    target = loops[0]
    for loop in loops[1:]:
        if loop not in free:
            break
        target = loop
    return unsafe("Compile once", *move_before(context.file, line, target))
