"""Losses that are told how to reduce with `size_average` and `reduce`.

## What it does

Reports the arguments `size_average=` and `reduce=` of torch's losses, as modules and as functions, and the reduction
`"elementwise_mean"`.

## Why is this bad

torch 0.4.1 replaced the two by `reduction`, warns of each use and will remove them. Together they are hard to read:
`reduce=False` wins over `size_average`, and both win over `reduction`, silently.

## Example

```python
criterion = nn.CrossEntropyLoss(size_average=False)
loss = F.mse_loss(x, y, reduce=False)
```

Use instead:

```python
criterion = nn.CrossEntropyLoss(reduction="sum")
loss = F.mse_loss(x, y, reduction="none")
```

Not reported: arguments of these names that other functions have (`scatter(…, reduce="sum")`).

## Fix safety

Safe for literals. Unsafe for expressions, which may be None: that stands for True. No fix where `reduction` is given as
well.

## Verified by

`fixtures/legacy_reduction_args/run.py`: the same losses and gradients, and the wrong reduction refused.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import remove_argument
from torchlint.nodes import argument, has_star, literal
from torchlint.rule import Category, Context, Finding, Rule, safe, unsafe
from torchlint.semantics.deprecations.shims import minds_version
from torchlint.semantics.knowledge import is_loss_function

RULE = Rule(
    "TL012",
    Category.FILES,
    Severity.WARNING,
    triggers=(
        r"\belementwise_mean\b",
        r"\bsize_average\s*=",
        r"\breduce\s*=\s*(?:[\"']|(?:True|False|None|\w*\.?\w*reduce)\b)",
    ),
    requires=(r"[lL]oss|cross_entropy|kl_div",),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)

_LOSS = re.compile(r"^torch\.nn\.\w+Loss(2d)?$")
_REDUCTIONS = {(True, True): "mean", (False, True): "sum", (True, False): "none", (False, False): "none"}


@RULE.on
def check(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    given = [a for a in call.args if a.keyword is not None and a.keyword.value in ("size_average", "reduce")]
    named = argument(call, "reduction")
    old_name = named is not None and literal(named.value) == "elementwise_mean"
    if not given and not old_name:
        return
    name = ctx.sem.qualified(call.func) or ""
    if not (_LOSS.match(name) or is_loss_function(name)) or minds_version(ctx.sem, call):
        return
    if old_name and named is not None:
        yield Finding(
            named,
            "`elementwise_mean` is a name of torch 0.4.1",
            "torch warns of each use and will remove it",
            'write `reduction="mean"`',
            safe("Say the reduction by its name", Edit(*ctx.file.span(named.value), '"mean"')),
        )
        return
    said = " and ".join(f"`{a.keyword.value}`" for a in given if a.keyword is not None)
    reduction, certain = _reduction(call, ctx)
    yield Finding(
        given[0],
        f"{said} {'are' if len(given) > 1 else 'is'} deprecated",
        "torch warns of each use and will remove them",
        f"write `reduction={reduction}`" if reduction else "write `reduction=`",
        _fix(call, given, reduction, certain, ctx),
    )


def _reduction(call: cst.Call, ctx: Context) -> tuple[str, bool]:
    """What the two stand for, as code, and whether that is certain; "" where it cannot be written."""
    average, reduce = argument(call, "size_average"), argument(call, "reduce")
    values = [literal(a.value) if a is not None else None for a in (average, reduce)]
    if ... not in values:
        return f'"{_REDUCTIONS[values[0] is not False, values[1] is not False]}"', True
    if values[1] is False:
        return '"none"', True
    if average is not None and values[0] is ... and values[1] in (None, True):
        return f'"mean" if {_operand(average.value, ctx)} else "sum"', False
    if reduce is not None and values[1] is ... and values[0] is not ...:
        told = _REDUCTIONS[values[0] is not False, True]
        return f'"{told}" if {_operand(reduce.value, ctx)} else "none"', False
    return "", False


def _operand(node: cst.BaseExpression, ctx: Context) -> str:
    text = ctx.file.code(node)
    return f"({text})" if isinstance(node, (cst.IfExp, cst.Lambda)) else text


def _fix(call: cst.Call, given: list[cst.Arg], reduction: str, certain: bool, ctx: Context) -> Fix | None:
    if not reduction or argument(call, "reduction") is not None or has_star(call):
        return None
    file = ctx.file
    edits = [Edit(file.span(given[0])[0], file.span(given[0].value)[1], f"reduction={reduction}")]
    edits += [remove_argument(file, call, other) for other in given[1:]]
    if any("#" in file.text[e.start : e.end] for e in edits):
        return None
    return (safe if certain else unsafe)("Say the reduction by its name", *edits)
