"""A shuffling loader without a generator of its own, in a program that asks for determinism.

## What it does

Finds `DataLoader(..., shuffle=True)` without `generator` and sampler in a file that sets
`torch.use_deterministic_algorithms(True)` or `cudnn.deterministic = True`.

## Why is this bad

The order of the batches is drawn from torch's global generator, so it depends on every random number drawn before: one
more layer, another initialisation or a second loader, and the same seed gives other batches. Runs that were meant to
differ in one thing differ in two.

## Example

```python
torch.manual_seed(seed)
torch.backends.cudnn.deterministic = True
loader = DataLoader(dataset, batch_size=64, shuffle=True)
```

Use instead:

```python
order = torch.Generator().manual_seed(seed)
loader = DataLoader(dataset, batch_size=64, shuffle=True, generator=order)
```

The same seed still gives the same run without it, so the rule is off by default.

## Fix safety

No fix: where the seed comes from is for the author to say.

## Verified by

Nothing is rewritten, so nothing is run.

## References

- <https://docs.pytorch.org/docs/stable/notes/randomness.html#dataloader>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torchlint.diagnostic import Severity
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import LoaderCall
from torchlint.semantics.loading import is_unit_test, setting

_DETERMINISTIC = r"\buse_deterministic_algorithms\(\s*(?:mode\s*=\s*)?True|\bcudnn\.deterministic\s*=\s*True"
RULE = Rule(
    "TL902",
    Category.REPRODUCIBILITY,
    Severity.INFO,
    triggers=(r"DataLoader\b",),
    requires=(r"\bDataLoader\s*\(|\bDataLoader\s+as\b", _DETERMINISTIC, r"\bshuffle\b"),
    since="0.2",
    default=False,
)


@RULE.on
def check(loader: LoaderCall, ctx: Context) -> Iterator[Finding]:
    sem = ctx.sem
    if loader.value.origin != "torch.utils.data.DataLoader" or is_unit_test(sem, loader):
        return
    if setting(sem, loader, "shuffle").value is not True:
        return
    if not all(setting(sem, loader, name).absent for name in ("generator", "sampler", "batch_sampler")):
        return
    if not re.search(rf"^[^#\n]*(?:{_DETERMINISTIC})", ctx.file.text, re.MULTILINE):
        return
    yield Finding(
        loader.node,
        "this loader draws its order from the global generator",
        "with one more random number drawn before it, the same seed gives other batches",
        "pass `generator=torch.Generator().manual_seed(seed)`",
    )
