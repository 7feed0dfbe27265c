"""The mean of per-batch means, where the last batch is smaller.

## What it does

Finds evaluations that add up a mean loss per batch and divide the sum by the number of batches.

## Why is this bad

Each batch counts the same, however few samples it has. With 10,000 samples in batches of 256 the 16 samples of the last
batch weigh sixteen times as much as the others, and the result changes with the batch size.

## Example

```python
total = 0.0
for x, y in loader:
    total += F.cross_entropy(model(x), y).item()
return total / len(loader)
```

Use instead:

```python
total = 0.0
for x, y in loader:
    total += F.cross_entropy(model(x), y, reduction="sum").item()
return total / len(loader.dataset)
```

Silent where the loss is a sum or is weighted by the size of its batch, where the loader drops the last batch, and in
training loops, where the number is a progress report.

Off by default: for many batches the difference is small.

## Fix safety

No fix: which of loss, weight and divisor to change depends on the code around it.

## Verified by

Nothing is rewritten, so nothing is run.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import argument, dotted, literal, walk_scope
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import EvalRegion, Kind, LoaderCall
from torchlint.semantics.loading import setting

RULE = Rule(
    "TL207",
    Category.EVALUATION,
    Severity.INFO,
    triggers=(r"/=?\s*(?:float\()?len\(",),
    requires=(r"\+=", r"/=?\s*(?:float\()?len\("),
    since="0.2",
    default=False,
)

_FUNCTIONAL = re.compile(r"^torch\.nn\.functional\.(\w+_loss|\w*cross_entropy\w*|kl_div)$")


@RULE.on
def check(region: EvalRegion, context: Context) -> Iterator[Finding]:
    loop = region.node
    if isinstance(loop, cst.FunctionDef):
        loops = [node for node in walk_scope(loop.body) if isinstance(node, cst.For)]
    else:
        loops = [loop] if isinstance(loop, cst.For) else []
    for node in loops:
        loader = _gone_over(node.iter)
        if loader is None or _drops_last(node.iter, context):
            continue
        sums = {
            n.target.value
            for n in walk_scope(node.body)
            if isinstance(n, cst.AugAssign)
            and isinstance(n.operator, cst.AddAssign)
            and isinstance(n.target, cst.Name)
            and _is_mean_loss(n.value, context)
        }
        for quotient, total, divisor in _quotients(region):
            if total in sums and divisor == loader:
                yield Finding(
                    quotient,
                    f"`{total}` is a sum of means, and the last batch counts as much as a full one",
                    "the result depends on the batch size",
                    'add up with `reduction="sum"` and divide by the number of samples',
                )


def _gone_over(node: cst.BaseExpression) -> str | None:
    """The name of what a loop goes over, behind `enumerate` or a progress bar."""
    while isinstance(node, cst.Call) and node.args and node.args[0].keyword is None:
        node = node.args[0].value
    return dotted(node)


def _drops_last(node: cst.BaseExpression, context: Context) -> bool:
    """Whether the loader is made here with `drop_last`, or in a way that leaves this open."""
    while isinstance(node, cst.Call) and node.args and context.sem.value(node).kind is not Kind.LOADER:
        node = node.args[0].value
    made = context.sem.value(node).node
    for loader in context.sem.objects(LoaderCall):
        if loader.node is made:
            return not (
                setting(context.sem, loader, "drop_last").absent
                and setting(context.sem, loader, "batch_sampler").absent
            )
    return False


def _is_mean_loss(node: cst.BaseExpression, context: Context) -> bool:
    """Whether the value is a loss over a batch with the default reduction, as a number or a tensor."""
    sem = context.sem
    while (
        isinstance(node, cst.Call)
        and isinstance(node.func, cst.Attribute)
        and node.func.attr.value in ("item", "detach")
    ):
        node = node.func.value
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value == "float" and node.args:
        node = node.args[0].value
    made = sem.value(node).node if isinstance(node, cst.Name) else node
    if not isinstance(made, cst.Call) or any(argument(made, name) for name in ("reduction", "size_average", "reduce")):
        return False
    if _FUNCTIONAL.match(sem.qualified(made.func) or ""):
        return True
    function = sem.value(made.func)
    making = function.node
    if function.kind is not Kind.LOSS_FN or not isinstance(making, cst.Call):
        return False
    given = argument(making, "reduction")
    return (given is None or literal(given.value) == "mean") and argument(making, "size_average") is None


def _quotients(region: EvalRegion) -> Iterator[tuple[cst.CSTNode, str, str]]:
    """`total / len(loader)` and `total /= len(loader)` of the region's function: (node, total, loader)."""
    for node in walk_scope(region.function.body):
        if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Divide):
            total, below = dotted(node.left), node.right
        elif isinstance(node, cst.AugAssign) and isinstance(node.operator, cst.DivideAssign):
            total, below = dotted(node.target), node.value
        else:
            continue
        while isinstance(below, cst.Call) and dotted(below.func) == "float" and below.args:
            below = below.args[0].value
        if total and isinstance(below, cst.Call) and dotted(below.func) == "len" and below.args:
            yield node, total, dotted(below.args[0].value) or ""
