"""A tensor that grows by one `torch.cat` per turn of a loop.

## What it does

Finds `x = torch.cat([x, new])` inside a loop that never looks at `x` otherwise.

## Why is this bad

Every call allocates a new tensor and copies everything gathered so far: n turns copy n²/2 parts, and each result stays
alive in the autograd graph. A list of the parts and one `torch.cat` behind the loop copy every part once.

## Example

```python
features = torch.empty(0, 512)
for images, _ in loader:
    features = torch.cat([features, model(images)])
```

Use instead:

```python
features_parts = [torch.empty(0, 512)]
for images, _ in loader:
    features_parts.append(model(images))
features = torch.cat(features_parts)
```

A loop that uses the grown tensor in each turn (DenseNet blocks, key-value caches, decoding) is fine and not reported.

## Fix safety

Safe where the name starts as a tensor and nothing in the loop writes into the parts: the start value stays the first
part, so shapes, dtype promotion and the result of an empty loop are those of the original. Unsafe where the first turn
sets the name (`if i == 0`), where the start value is not known, or where a part may share memory with something reused.
No fix where new parts go in front or the start is an attribute.

## Verified by

`fixtures/cat_in_loop/run.py`: bitwise results and gradients for empty, single and many turns; time and peak memory.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.cat.html>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.vectorise.gather import list_fix
from torchlint.vectorise.growth import growth

RULE = Rule(
    "TL503",
    Category.VECTORISATION,
    Severity.WARNING,
    triggers=(r"\b(?:cat|concat|concatenate|[hvd]stack|row_stack)\s*\(",),
    shapes=("cat-growth",),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)


@RULE.on
def check(node: cst.Assign, ctx: Context) -> Iterator[Finding]:
    step = growth(node, ctx.sem)
    if step is None:
        return
    yield Finding(
        node,
        f"`{step.name}` grows by a concatenation in every turn",
        "each one copies all that was gathered before, so the cost is quadratic in the number of turns",
        "append the parts to a list and concatenate once behind the loop",
        list_fix(step, ctx.sem),
    )
