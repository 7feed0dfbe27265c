"""A checkpoint written in every batch of a training loop.

## What it does

Finds `torch.save` that runs in each turn of a loop over batches, directly or in a function of the file that the loop
calls.

## Why is this bad

Saving copies every tensor to the CPU, which waits for the GPU, and writes it all to disk: seconds for a step that takes
milliseconds. The disk fills up, or the one file is overwritten again and again and is torn when the job dies.

## Example

```python
for epoch in range(epochs):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
        torch.save(model.state_dict(), "model.pt")
```

Use instead:

```python
for epoch in range(epochs):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    torch.save(model.state_dict(), "model.pt")
```

Silent where the save stands under an `if` (every N steps, the best so far), behind a `break` or `return`, and in loops
over epochs, files or tasks.

Off by default: where steps take minutes, a checkpoint for each is no waste.

## Fix safety

No fix: how often to save is for the author to say.

## Verified by

Nothing is rewritten, so nothing is run.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.save.html>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import dotted, walk_scope
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Effect, TrainingLoop
from torchlint.semantics.syncs import over_batches

RULE = Rule(
    "TL606",
    Category.MEMORY,
    Severity.WARNING,
    triggers=(r"\.save\(|\bsave\(|\bimport[^\n]*\bsave\b", r"\.step\("),
    requires=(r"\.backward\(", r"\btorch\.save\b|\bfrom\s+torch\s+import[^\n]*\bsave\b"),
    since="0.2",
    default=False,
)


@RULE.on
def check(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    if not isinstance(loop.node, cst.For) or not over_batches(context.sem, loop) or _counts(loop.node.iter):
        return
    if any(isinstance(node, (cst.Break, cst.Return)) for node in walk_scope(loop.node.body)):
        return
    for event in loop.of(Effect.CALL):
        if event.target == "torch.save" and not loop.guards(event) and not event.inner_loop:
            name = f"`{event.via.name}` saves" if event.via is not None else "`torch.save` runs"
            yield Finding(
                event.node,
                f"{name} in every batch",
                "each save waits for the GPU and writes everything to disk",
                "save once per epoch, or every N steps",
            )


def _counts(node: cst.BaseExpression) -> bool:
    """Whether the loop counts: its turns may as well be epochs over one batch, in a loop over seeds."""
    return isinstance(node, cst.Call) and dotted(node.func) in ("range", "trange", "tqdm.trange")
