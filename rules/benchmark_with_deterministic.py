"""cuDNN is asked for reproducible results and for whatever is fastest today.

## What it does

Finds `torch.backends.cudnn.benchmark = True` that holds together with `torch.backends.cudnn.deterministic = True` or
`torch.use_deterministic_algorithms(True)`: set in the same branch of a function, or in a function that is called there.

## Why is this bad

With `benchmark` cuDNN times several kernels for each new shape and takes the fastest. `deterministic` only limits the
choice to kernels that repeat themselves; which of those wins is a matter of the clock, and they round differently. So
two runs with one seed may differ, and the limit on the choice still costs speed: neither of the two is had.

## Example

```python
torch.backends.cudnn.deterministic = True
torch.backends.cudnn.benchmark = True
```

Use instead, to repeat results:

```python
torch.backends.cudnn.deterministic = True
torch.backends.cudnn.benchmark = False
```

Silent where a variable decides, where the two are set in branches of which one runs, and where the flag is set to False
behind it.

## Fix safety

No fix: speed and reproducibility are the author's choice.

## Verified by

Nothing is rewritten, so nothing is run: the choice of kernels needs a GPU.

## References

- <https://docs.pytorch.org/docs/stable/notes/randomness.html#cuda-convolution-benchmarking>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import argument, literal, walk_scope
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Function
from torchlint.semantics.blocks import always

RULE = Rule(
    "TL903",
    Category.REPRODUCIBILITY,
    Severity.WARNING,
    triggers=(r"\.benchmark\s*=", r"\.deterministic\s*=", r"use_deterministic_algorithms\("),
    requires=(r"\.benchmark\s*=\s*True", r"\.deterministic\s*=\s*True|use_deterministic_algorithms\("),
    since="0.2",
)

_BENCHMARK = "torch.backends.cudnn.benchmark"
_DETERMINISTIC = "torch.backends.cudnn.deterministic"
_ALGORITHMS = "torch.use_deterministic_algorithms"


@RULE.on
def check(assigned: cst.Assign, ctx: Context) -> Iterator[Finding]:
    if _flag(assigned, _BENCHMARK, ctx) is not True:
        return
    function = ctx.sem.function(assigned)
    block = _branch(assigned, function, ctx)
    inside = [n for n in walk_scope(function.body) if isinstance(n, (cst.Assign, cst.Call))]
    behind = inside[next(i for i, n in enumerate(inside) if n is assigned) + 1 :]
    if any(isinstance(n, cst.Assign) and _flag(n, _BENCHMARK, ctx) is not None for n in behind):
        return
    together = [n for n in inside if _asks_for_repeats(n, ctx) is not None]
    # Only what stands in the same branch, or in one around it, surely holds together with it.
    asked: list[cst.CSTNode] = [n for n in together if _same_or_around(_branch(n, function, ctx), block)]
    if any(_asks_for_repeats(n, ctx) is False for n in together):
        return
    if not asked:
        asked = [
            site for site in _calls_that_ask(function, ctx) if _same_or_around(_branch(site, function, ctx), block)
        ]
    if asked:
        yield Finding(
            assigned,
            "cuDNN is asked for reproducible results and for the fastest kernel of the moment",
            "the kernels are chosen by the clock, so that two runs with one seed may differ",
            "set `benchmark` to False, or leave `deterministic` out",
        )


def _flag(node: cst.Assign, name: str, ctx: Context) -> object:
    """The constant that is given to the flag: True, False, `...` for anything else, None where it is not the flag."""
    if any(
        isinstance(t.target, cst.Attribute)
        and t.target.attr.value == name.rpartition(".")[2]
        and ctx.sem.qualified(t.target) == name
        for t in node.targets
    ):
        return literal(node.value)
    return None


def _asks_for_repeats(node: cst.CSTNode, ctx: Context) -> bool | None:
    """True where reproducible kernels are asked for, False where they surely or perhaps are not, else None."""
    if isinstance(node, cst.Assign):
        value = _flag(node, _DETERMINISTIC, ctx)
        return None if value is None else value is True
    if isinstance(node, cst.Call) and ctx.sem.qualified(node.func) == _ALGORITHMS:
        mode = argument(node, "mode", 0)
        return mode is not None and literal(mode.value) is True
    return None


def _calls_that_ask(function: Function, ctx: Context) -> Iterator[cst.CSTNode]:
    """The calls in this function of own functions that ask for reproducible kernels, whatever happens."""
    for callee in ctx.sem.names.functions.values():
        sites = [site for site in ctx.sem.call_sites(callee) if site.function is function]
        if not sites:
            continue
        body = [n for n in walk_scope(callee.body) if isinstance(n, (cst.Assign, cst.Call))]
        asks = [_asks_for_repeats(n, ctx) for n in body]
        sets = [n for n in body if isinstance(n, cst.Assign) and _flag(n, _BENCHMARK, ctx) is not None]
        if True in asks and False not in asks and not sets:
            if any(a is True and not _branch(n, callee, ctx) for n, a in zip(body, asks)):
                yield from (site.node for site in sites)


def _branch(node: cst.CSTNode, function: Function, ctx: Context) -> tuple[cst.CSTNode, ...]:
    """The blocks of `if`s and handlers around the node, innermost first, as far as the function."""
    blocks: list[cst.CSTNode] = []
    for ancestor in ctx.file.ancestors(node):
        if ancestor is function.node:
            break
        owner = ctx.file.parent(ancestor) if isinstance(ancestor, cst.BaseSuite) else None
        if isinstance(owner, (cst.If, cst.Else, cst.ExceptHandler)) and not always(owner):
            blocks.append(ancestor)
    return tuple(blocks)


def _same_or_around(outer: tuple[cst.CSTNode, ...], inner: tuple[cst.CSTNode, ...]) -> bool:
    return len(outer) <= len(inner) and all(a is b for a, b in zip(reversed(outer), reversed(inner)))
