"""Sigmoid and binary cross-entropy in two steps, where one stable loss would do.

## What it does

Reports a sigmoid whose result is the input of `nn.BCELoss` or `F.binary_cross_entropy`: at the call, or through the
file's own functions and Modules.

## Why is this bad

Sigmoid rounds to 0 or 1 where a logit is beyond about ±17 in float32 (±9 in float16). There the loss is cut off at 100
and its gradient is 0: the worst mistakes teach nothing. `BCEWithLogitsLoss` computes the same loss from the logit
without rounding, in one kernel, and works under autocast, where `BCELoss` raises.

## Example

```python
loss = F.binary_cross_entropy(torch.sigmoid(logits), y)
```

Use instead:

```python
loss = F.binary_cross_entropy_with_logits(logits, y)
```

Severity is info: the code is right where logits stay small. Silent unless every way into the loss ends in sigmoid.

## Fix safety

Unsafe: losses differ in the last bits, and by far for large logits. Only where sigmoid and loss stand in one function
and share nothing with others; a Module that ends in sigmoid has other readers, and the change is left to you.

## Verified by

`fixtures/sigmoid_with_bce_loss/run.py`: the result is as close to a float64 reference for small logits and finite, with
a gradient, for large ones.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html>
- <https://docs.pytorch.org/docs/stable/amp.html#prefer-binary-cross-entropy-with-logits-over-binary-cross-entropy>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import without_activation
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics.lossflow import LossInput, is_first
from torchlint.semantics.outputs import End

RULE = Rule(
    "TL110",
    Category.TRAINING,
    Severity.INFO,
    triggers=(
        r"(?<!\w)sigmoid_?\(",
        r"\bSigmoid\(",
        r"\b(?:BCELoss|binary_cross_entropy)\b",
        r"(?:[Ll]oss|[Cc]riterion)\w{0,80}(?:\[[^\]\n]{0,200}\])?\(",
        r"def forward\(",
    ),
    requires=(r"(?<!\w)sigmoid_?\(|\bSigmoid\(", r"\b(?:BCELoss|binary_cross_entropy)\b"),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

_STABLE = {"BCELoss": "BCEWithLogitsLoss", "binary_cross_entropy": "binary_cross_entropy_with_logits"}
_LOSSES = ("bce",)


@RULE.on
def check(given: LossInput, context: Context) -> Iterator[Finding]:
    if given.activation != "sigmoid" or given.loss not in _LOSSES:
        return
    for end in given.ends:
        if end.node is None or not is_first(context.sem, given, end, _LOSSES):
            continue
        yield Finding(
            end.node,
            "sigmoid and binary cross-entropy are computed in two steps",
            "sigmoid rounds large logits to 0 or 1, where the loss has no gradient; autocast refuses it",
            "give the logits to the loss with logits",
            _fix(given, end, context),
        )


def _fix(given: LossInput, end: End, context: Context) -> Fix | None:
    """Both sides at once, where both are in sight and nothing else depends on either."""
    if end.layer or end.scope is None or end.scope.function is not given.function or len(given.ends) > 1:
        return None
    loss = given.loss_call if not given.made else given.made[0].node
    if loss is None or not given.direct or not _is_alone(given, context):
        return None
    activation = without_activation(context.file, end, given)
    renamed = _renamed(loss, context)
    return unsafe("compute the loss from logits", activation, renamed) if activation and renamed else None


def _is_alone(given: LossInput, context: Context) -> bool:
    """Whether no other input goes into the same loss object."""
    if not given.made:
        return True
    made = given.made[0].node
    others = [g for g in context.sem.objects(LossInput) if any(m.node is made for m in g.made)]
    return len(given.made) == 1 and len(others) == 1


def _renamed(loss: cst.Call, context: Context) -> Edit | None:
    if not isinstance(loss.func, cst.Attribute):
        return None
    stable = _STABLE.get(loss.func.attr.value)
    return Edit(*context.file.span(loss.func.attr), stable) if stable is not None else None
