"""The outputs of a language model stay in memory during the next step.

## What it does

Finds training loops over batches that bind the outputs of a language model with a head (`AutoModelForCausalLM` and its
kin) to a name and keep them until the name is bound anew.

## Why is this bad

The outputs hold the logits: batch × length × vocabulary numbers, gigabytes for a usual batch. The name lets go of them
only when the next forward pass has made new ones, so at the peak there are two sets.

## Example

```python
for batch in loader:
    outputs = model(**batch)
    outputs.loss.backward()
    optimizer.step()
    optimizer.zero_grad()
```

Use instead:

```python
for batch in loader:
    outputs = model(**batch)
    loss = outputs.loss
    del outputs
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
```

Silent where the name is deleted or bound to something else in the loop, where only the loss is taken
(`loss = model(**batch).loss`), and for models whose outputs are small.

## Fix safety

No fix: the outputs may be wanted behind the loop.

## Verified by

Nothing is rewritten, so nothing is run.

## References

- <https://docs.pytorch.org/docs/stable/notes/faq.html#my-model-reports-cuda-runtime-error-2-out-of-memory>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import find, walk
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Effect, TrainingLoop
from torchlint.semantics.syncs import over_batches

RULE = Rule(
    "TL605",
    Category.MEMORY,
    Severity.INFO,
    triggers=(r"\.backward\(", r"\.step\("),
    requires=(r"\.backward\(", r"For(?:CausalLM|ConditionalGeneration|MaskedLM|Seq2SeqLM)\b|LMHeadModel\b"),
    since="0.2",
)

_HEAD = re.compile(r"^transformers\.(\w+\.)*\w*(For(CausalLM|ConditionalGeneration|MaskedLM|Seq2SeqLM)|LMHeadModel)\b")


@RULE.on
def check(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    if isinstance(loop.node, cst.FunctionDef) or not over_batches(context.sem, loop):
        return
    for forward in loop.of(Effect.FORWARD):
        statement = context.file.parent(forward.node)
        if forward.via is not None or not _HEAD.match(forward.value.origin) or not isinstance(statement, cst.Assign):
            continue
        target = statement.targets[0].target
        if len(statement.targets) != 1 or not isinstance(target, cst.Name) or _lets_go(loop.node, target):
            continue
        yield Finding(
            forward.node,
            f"`{target.value}` keeps this step's logits until the next forward pass has made new ones",
            "at the peak there are two sets of batch × length × vocabulary numbers",
            f"take the loss and `del {target.value}` before `backward()`",
        )


def _lets_go(loop: cst.For | cst.While, name: cst.Name) -> bool:
    """Whether the loop deletes the name or binds it to something else."""
    if any(n.value == name.value for gone in find(loop.body, cst.Del) for n in walk(gone) if isinstance(n, cst.Name)):
        return True
    return any(
        isinstance(target, cst.Name) and target.value == name.value and target is not name
        for made in find(loop.body, cst.AssignTarget)
        for target in walk(made.target)
    )
