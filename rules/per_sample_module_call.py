"""A module that is called once for every slice of a batch.

## What it does

Finds loops over an axis of a tensor that call a module on one slice per turn: `net(x[i : i + 1])`,
`encoder(frames[:, t])`, `net(image.unsqueeze(0)) for image in images`.

Silent where a turn needs what an earlier one gave (recurrent cells, autoregressive decoding), where modules keep a
state, where each turn has a module of its own, where slices are ragged, skipped or differentiated one by one, and
where a comment says that it is done to save memory.

## Why is this bad

Every call launches all kernels of the module for a fraction of the work that they can do at once. On a GPU a forward
pass of one sample takes about as long as one of sixteen; on a CPU the larger matrices use caches and vector units
better, too.

## Example

```python
outputs = []
for i in range(images.size(0)):
    outputs.append(net(images[i].unsqueeze(0)))
```

Use instead:

```python
outputs = net(images)                                    # the axis is the batch's own
features = encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])   # two axes as one batch
```

`torch.vmap` maps what has no batch dimension.

## Fix safety

Nothing is rewritten: BatchNorm in train mode and Dropout see another batch, and all activations are alive at once.

## Verified by

`tests/test_batched_advice.py`: in eval mode one call gives what the loop gives, up to rounding.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.vmap.html>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics.rows import saves_memory
from torchlint.semantics.samples import SampleCall, sample_call
from torchlint.vectorise.body import read_body
from torchlint.vectorise.emit import elements_are_work

RULE = Rule(
    "TL507",
    Category.VECTORISATION,
    Severity.WARNING,
    triggers=(
        r"\bfor\b[^\n]*\brange\([^\n]*(?:\.shape\[|\.size\()",
        r"\.unsqueeze\(\s*0\s*\)|\[\s*None\s*[\],]",
        r"\[\s*(\w+)\s*:\s*\1\s*\+\s*1\s*[\],]",
    ),
    requires=(r"\bfor\b",),
    shapes=("slice-calls",),
    since="0.1",
)


@RULE.on
def check(node: cst.For, ctx: Context) -> Iterator[Finding]:
    found = sample_call(node, ctx.sem)
    if found is None or saves_memory(node, ctx.sem) or read_body(found.rows, ctx.sem) is not None:
        return
    yield _finding(found, ctx)


@RULE.on
def check_comprehension(node: cst.ListComp | cst.GeneratorExp, ctx: Context) -> Iterator[Finding]:
    found = sample_call(node.for_in, ctx.sem)
    if found is None or saves_memory(node, ctx.sem) or elements_are_work(node, found.rows, ctx.sem):
        return
    yield _finding(found, ctx)


def _finding(found: SampleCall, ctx: Context) -> Finding:
    name, over = ctx.file.code(found.node.func), ctx.file.code(found.rows.over)
    axis = found.rows.axis
    where = f"each row of `{over}`" if axis == 0 else f"each slice of `{over}` along axis {axis}"
    batched = f"call `{name}` once on all rows" if axis == 0 else "fold the axis into the batch and call it once"
    return Finding(
        found.node,
        f"`{name}` is called for {where}",
        "every turn launches all of its kernels for a fraction of the work they do at once",
        f"{batched}, or map it with `torch.vmap`",
    )
