"""A Python loop that sets one entry, or one stretch, in each row of a tensor.

## What it does

Finds `for i in …: out[i, index[i]] = 1` and `for i, n in enumerate(lengths): mask[i, :n] = True` on tensors, further
axes that are written whole included (`x[i, :, n:] = 0`), and numpy arrays that are filled at places read from a tensor.

## Why is this bad

Every turn reads one index back (on a GPU it waits for it) and launches a kernel that writes a few numbers. Indexing
with `torch.arange` for the rows, or comparing `torch.arange` with the lengths, writes all of them in one call.

## Example

```python
for i in range(labels.shape[0]):
    one_hot[i, labels[i]] = 1.0
```

Use instead:

```python
one_hot[torch.arange(labels.shape[0], device=one_hot.device), labels] = 1.0
```

## Fix safety

Safe for one entry per row of a tensor made here, where the index is known to be a vector: row numbers are unique, so
no entry is written twice. Unsafe for stretches (a negative length counts from the end in the loop and is empty in the
comparison), and for lists. No fix where the index may have further dimensions, or be something else than a tensor.

## Verified by

`fixtures/index_assign_loop/run.py`: 0, 1 and many rows, repeated indices, gradients; time.

## References

- <https://docs.pytorch.org/docs/stable/tensor_view.html>
- <https://numpy.org/doc/stable/user/basics.indexing.html#integer-array-indexing>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.vectorise.scatter import read_scatter, scatter_fix

RULE = Rule(
    "TL504",
    Category.VECTORISATION,
    Severity.WARNING,
    triggers=(r"\bfor\b[^\n]*\bin\s+(?:range|enumerate)\b",),
    shapes=("scatter",),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)


@RULE.on
def check(node: cst.For, ctx: Context) -> Iterator[Finding]:
    scatter = read_scatter(node, ctx.sem)
    if scatter is None:
        return
    if scatter.bound:
        do = "compare `torch.arange` with the lengths and assign once"
    else:
        do = f"index with `{'numpy' if scatter.in_array else 'torch'}.arange` for the rows and assign once"
    yield Finding(
        node,
        f"Python loop that writes into one row of `{scatter.out.value}` per turn",
        "every turn reads an index back and launches a kernel for a few numbers",
        do,
        scatter_fix(scatter, ctx.sem),
    )
