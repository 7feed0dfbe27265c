"""Activation checkpointing that does not say which of its two implementations is meant.

## What it does

Reports `torch.utils.checkpoint.checkpoint` and `checkpoint_sequential` without `use_reentrant`.

## Why is this bad

Without it the old, reentrant implementation runs, torch 2.4 and later warn, and a later release is to raise an error.
The old implementation gives no gradients at all to the parameters inside if none of the inputs needs one, as happens to
a model's first block, and knows neither `torch.autograd.grad` nor keyword arguments.

## Example

```python
x = checkpoint(self.block, x)
```

Use instead:

```python
x = checkpoint(self.block, x, use_reentrant=False)
```

Not reported: calls that pass `**kwargs`, projects whose oldest torch is before 1.11, which does not know the argument,
and code that minds the version.

## Fix safety

Unsafe: gradients that were silently missing appear, and the order in which backward frees memory changes.

## Verified by

`fixtures/checkpoint_use_reentrant/run.py`: the parameters inside get the gradients that they get without it.

## References

- <https://docs.pytorch.org/docs/stable/checkpoint.html>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.edits import add_argument
from torchlint.nodes import argument, dotted, has_star
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics.deprecations.shims import minds_version

RULE = Rule(
    "TL016",
    Category.FILES,
    Severity.WARNING,
    triggers=(
        r"\bcheckpoint\.(?:checkpoint|checkpoint_sequential)\s*\(",
        r"(?<![\w.])(?:checkpoint|checkpoint_sequential|cp)\s*\(",
        r"\bcp\.checkpoint\s*\(",
    ),
    requires=(r"\btorch\.utils\.checkpoint\b|\bfrom\s+torch\.utils\s+import\b[^\n]*\bcheckpoint\b",),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

_NAMES = {"torch.utils.checkpoint.checkpoint": None, "torch.utils.checkpoint.checkpoint_sequential": 3}


@RULE.on
def check(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    name = ctx.sem.qualified(call.func)
    short = dotted(call.func) or ""
    if name not in _NAMES or short.rpartition(".")[2] not in ("checkpoint", "checkpoint_sequential", "cp"):
        return
    if short.count(".") and short.rpartition(".")[0].rpartition(".")[2] not in ("checkpoint", "cp"):
        return  # by another name it matches no trigger
    version = ctx.torch_version
    if not call.args or has_star(call, "**") or (version is not None and version < (1, 11)):
        return
    if argument(call, "use_reentrant", _NAMES[name]) is not None or minds_version(ctx.sem, call):
        return
    yield Finding(
        call,
        f"`{short}` without `use_reentrant`",
        "torch warns and takes the old implementation, which may leave the parameters inside without gradients",
        "pass `use_reentrant=False`",
        unsafe("Use the implementation of today", add_argument(ctx.file, call, "use_reentrant=False")),
    )
