"""A suppression comment that suppresses nothing.

## What it does
Reports `# torchlint: ignore[…]`, `# torchlint: ignore-file[…]` and torchlint codes under `# noqa:` that match no
finding of this run. A code whose rule is not selected is not reported, and neither are `# noqa` without codes nor
the codes of other tools, since torchlint cannot know what those are for.

## Why is this bad
A stale suppression hides the next mistake on its line, and tells the reader about a problem that is gone.

## Example
```python
optimizer.zero_grad()  # torchlint: ignore[TL102] accumulation is handled below
```

## Fix safety
Safe: only the comment, or the codes in it that match nothing, are removed. A reason behind a removed list goes with it.

## Verified by
The text without comments is the same before and after, so nothing that runs can differ.

## References
None.
"""

from torchlint.diagnostic import Applicability, Severity
from torchlint.rule import Category, Rule

RULE = Rule("TL003", Category.FILES, Severity.WARNING, triggers=(), since="0.1", fixes=(Applicability.SAFE,))
