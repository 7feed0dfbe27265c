"""A Python loop over the rows of a tensor that does the same independent work for each.

## What it does

Finds `for i in range(x.shape[0])`, `for row in x` and comprehensions over a tensor whose turns are independent: each
reads its own row (or entries at positions worked out from the counter), and writes its own row of a result, appends to
a list that is stacked, adds to a total, or counts up entries of a table (`confusion[t, p] += 1`).

Also finds loops in loops, choices by counters and values, functions of the file and masked reductions of a row, where
each turn computes on its own part of a tensor alone: pairs of samples in a loss, scores of attention one by one, a
decomposition per matrix.

And finds loops that treat a tensor entry by entry where it is plain that there is a batched form, though few of them
are written for you: entries that become Python numbers one after the other, entries of a table that are written one
after the other, a tensor that is compared with every class in turn, one tensor that gets one offset after the other,
suppression of boxes class by class, and entries of several tensors that are copied to the host in every turn.

## Why is this bad

Every turn launches its own small kernels and, with autograd, its own graph nodes. The batched operation does the same
work in one call: 25 times faster for 16 rows and 300 times for 256 on a CPU, and the gap is wider on a GPU.

## Example

```python
for i in range(x.shape[0]):
    out[i] = x[i] * 2 + 1
```

Use instead:

```python
out[:] = x * 2 + 1
```

Recurrences, early exits, ragged rows, tables of the counter alone, randomness, side effects and Python lists of
tensors are not reported, nor is a loop whose comment says that it saves memory.

## Fix safety

Safe for arithmetic and other operations that IEEE 754 fixes to the last bit, written into a tensor made here, and for
entries that become Python numbers, which are read from one `.tolist()`: unsafe where an annotation alone says that it
is a tensor, where the turns may write into it by another name, and where entries are compared with negative numbers,
which `uint8` wraps. Unsafe for reductions and transcendental functions (the order of additions and the vectorised
kernels may differ in the last bit), for stacked lists (`torch.stack([])` raises, an empty batch does not), and wherever
`torch.vmap` is used, along any dimension, which is slower than the loop below some twenty rows and holds what all turns
compute at once. Where no template applies, the finding comes without a fix.

## Verified by

`fixtures/row_loop/run.py`: each template on several sizes, on 0 and 1 rows, NaN, other dtypes, strides, and gradients.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.vmap.html>
- <https://docs.pytorch.org/docs/stable/notes/broadcasting.html>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.nodes import literal
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics.display import draws, few, in_text
from torchlint.semantics.rows import Loop, row_loop, saves_memory
from torchlint.vectorise.body import Body, StepKind, gives_number, is_joined_list, read_body, sums_into
from torchlint.vectorise.by_entry import How, by_entry
from torchlint.vectorise.emit import comprehension_fix, elements_are_work, row_fix
from torchlint.vectorise.mapped import mapped_comprehension, mapped_loop
from torchlint.vectorise.pairs import read_pairs
from torchlint.vectorise.suppression import suppressed_by_class
from torchlint.vectorise.tolist import list_fix
from torchlint.vectorise.work import worked_in

RULE = Rule(
    "TL501",
    Category.VECTORISATION,
    Severity.WARNING,
    triggers=(r"\bfor\b",),
    shapes=("row-loop", "by-entry", "turns-work"),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)

WHY = "every turn launches small kernels of its own for independent work"


@RULE.on
def check(node: cst.For, ctx: Context) -> Iterator[Finding]:
    rows = row_loop(node, ctx.sem)
    body = read_body(rows, ctx.sem) if rows is not None else None
    if rows is None or body is None:
        yield from _by_entry(node, node, ctx)
        return
    if draws(node) or _in_pairs(node, ctx) or saves_memory(node, ctx.sem):
        return
    what = f"Python loop over the {'rows' if rows.axis == 0 else 'slices'} of `{ctx.file.code(rows.over)}`"
    fix = row_fix(body, ctx.sem) or mapped_loop(body, ctx.sem)
    if fix is None and _makes_numbers(body, ctx):
        fix = list_fix(node, ctx.sem)
    yield Finding(node, what, WHY, _batched_form(body), fix)


def _makes_numbers(body: Body, ctx: Context) -> bool:
    return any(gives_number(step.value, ctx.sem) for step in body.sinks)


@RULE.on
def check_comprehension(node: cst.ListComp | cst.GeneratorExp, ctx: Context) -> Iterator[Finding]:
    inner = node.for_in
    if inner.inner_for_in is not None or few(inner.iter) or in_text(node, ctx.file):
        return
    if not inner.ifs and (found := _comprehended(node, ctx)) is not None:
        yield found
    else:
        yield from _by_entry(node, inner, ctx)


def _comprehended(node: cst.ListComp | cst.GeneratorExp, ctx: Context) -> Finding | None:
    rows = row_loop(node.for_in, ctx.sem)
    if saves_memory(node, ctx.sem):
        return None
    if rows is None or not elements_are_work(node, rows, ctx.sem):
        over = worked_in(node, ctx.sem) if is_joined_list(node, ctx.sem) else None
        return None if over is None else _worked(node, over, ctx)
    if isinstance(node.elt, cst.IfExp) and gives_number(node.elt, ctx.sem):
        do = "test all rows at once and count with `.sum()`: `(a == b).sum()` in place of `a[i] == b[i]`"
    elif gives_number(node.elt, ctx.sem):
        do = "move the whole tensor once with `.tolist()`"
    elif is_joined_list(node, ctx.sem):
        do = "apply the operation to the whole tensor, or map it with `torch.vmap`"
    else:
        return None
    what = f"Python loop over the rows of `{ctx.file.code(rows.over)}`"
    fix = comprehension_fix(node, rows, ctx.sem) or mapped_comprehension(node, rows, ctx.sem)
    if fix is None and (gives_number(node.elt, ctx.sem) or isinstance(node.elt, (cst.List, cst.Tuple))):
        fix = list_fix(node.for_in, ctx.sem)
    return Finding(node, what, WHY, do, fix)


def _worked(node: cst.CSTNode, over: cst.BaseExpression, ctx: Context) -> Finding:
    what, why, do = _ENTRIES[How.COMPUTED]
    return Finding(node, what.format(" ".join(ctx.file.code(over).split())), why, do)


_ENTRIES = {
    How.READ: (
        "Python loop that reads `{}` entry by entry",
        "every entry becomes a tensor of its own before it is a number",
        "move all of them at once with `.tolist()` ahead of the loop, or compute on the whole tensor",
    ),
    How.WRITTEN: (
        "Python loop that writes `{}` entry by entry",
        WHY,
        "write all entries at once: choose them with a mask or `torch.where`, place them with an index",
    ),
    How.COUNTED: (
        "Python loop that compares all of `{}` with one class per turn",
        "every turn goes through the whole tensor again for one number",
        "count all classes at once with `torch.bincount`, or compare with `torch.arange` along a new dimension",
    ),
    How.MOVED: (
        "Python loop that copies entries of `{}` and of other tensors to the host",
        "every copy waits for the device, and costs more than what it copies",
        "copy the whole tensors once ahead of the loop",
    ),
    How.COMPUTED: (
        "Python loop whose turns each compute on their own part of `{}`",
        WHY,
        "compute all turns at once: a dimension for each loop, `torch.where` for each choice, a reduction for each sum",
    ),
    How.SHIFTED: (
        "Python loop that adds one offset after the other to `{}`",
        WHY,
        "add all offsets at once: multiples of `torch.arange` along a new dimension, then flatten",
    ),
}


def _by_entry(node: cst.CSTNode, loop: Loop, ctx: Context) -> Iterator[Finding]:
    if isinstance(loop, cst.For) and "nms" in ctx.file.text and suppressed_by_class(loop, ctx.sem) is not None:
        yield Finding(
            node,
            "Python loop that suppresses the boxes of one class per turn",
            "every class launches kernels of its own and waits for how many boxes are kept",
            "call `torchvision.ops.batched_nms` once, with the class of each box",
        )
        return
    found = by_entry(loop, ctx.sem)
    if found is not None and not saves_memory(loop, ctx.sem):
        what, why, do = _ENTRIES[found.how]
        fix = list_fix(loop, ctx.sem) if found.how is How.READ else None
        yield Finding(node, what.format(" ".join(ctx.file.code(found.tensor).split())), why, do, fix)


def _in_pairs(node: cst.For, ctx: Context) -> bool:
    """Whether the loop is the inner one of a pairwise nest, which TL502 reports."""
    outer = ctx.file.enclosing(node, cst.For)
    return outer is not None and read_pairs(outer, ctx.sem) is not None


def _batched_form(body: Body) -> str:
    kinds = {step.kind for step in body.sinks}
    tested = [step for step in body.steps if step.test is not None]
    if tested and all(step.kind is StepKind.ACCUMULATE and literal(step.value) is not ... for step in tested):
        return "test all rows at once and count with `.sum()`: `(a == b).sum()` in place of `if a[i] == b[i]`"
    if tested:
        return "compute all rows at once and choose with `torch.where`"
    if any(sums_into(step, body.rows) for step in body.sinks):
        return "add all rows at once with `index_put_(..., accumulate=True)`, or count them with `torch.bincount`"
    if StepKind.WRITE in kinds:
        return "use the operation's form with a batch dimension (`scatter_add_`, `index_put_`)"
    if StepKind.APPEND in kinds:
        return "apply the operation to the whole tensor, or map it with `torch.vmap`, instead of collecting rows"
    if StepKind.ACCUMULATE in kinds:
        return "compute all rows at once and reduce over the batch dimension"
    return "write the whole tensor in one assignment, with `x` in place of `x[i]`"
