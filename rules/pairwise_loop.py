"""Two nested Python loops that compare every row of one tensor with every row of another.

## What it does

Finds `for i …: for j …: d[i, j] = f(x[i], y[j])` over the rows of tensors, where each entry depends on its
two rows alone.

## Why is this bad

n·m turns each launch kernels for a handful of numbers. Broadcasting, `torch.cdist` or one matrix product fill the whole
table in one call, 70 to 800 times faster on a CPU. Broadcasting vectors of length k holds n·m·k numbers at once;
`torch.cdist` and a matrix product hold n·m.

## Example

```python
for i in range(x.shape[0]):
    for j in range(y.shape[0]):
        d[i, j] = torch.norm(x[i] - y[j])
```

Use instead:

```python
d[:] = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
```

## Fix safety

Safe for arithmetic between two vectors' entries, written into a table made here. Unsafe where a dimension is
summed over (the order of additions may differ in the last bit). `cdist` is told not to use its matrix-product form,
which errs by 2e-3 between close points; on a CPU it has no kernel for half precisions and raises there. No fix where
the numbers of dimensions are not known from the source.

## Verified by

`fixtures/pairwise_loop/run.py`: empty, single and many rows, NaN, dtypes, strides, gradients; time.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.cdist.html>
- <https://docs.pytorch.org/docs/stable/notes/broadcasting.html>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.vectorise.pairs import pairs_fix, read_pairs

RULE = Rule(
    "TL502",
    Category.VECTORISATION,
    Severity.WARNING,
    triggers=(r"\bfor\b",),
    shapes=("pairs",),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)


@RULE.on
def check(node: cst.For, ctx: Context) -> Iterator[Finding]:
    pairs = read_pairs(node, ctx.sem)
    if pairs is None:
        return
    x, y = ctx.file.code(pairs.outer.over), ctx.file.code(pairs.inner.over)
    yield Finding(
        node,
        f"nested Python loops over all pairs of rows of `{x}` and `{y}`",
        "every pair launches small kernels of its own",
        f"fill `{ctx.file.code(pairs.table)}` at once by broadcasting (n·m·k numbers in memory), `torch.cdist` "
        "or a matrix product",
        pairs_fix(pairs, ctx.sem),
    )
