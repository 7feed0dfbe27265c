"""Probabilities are given to a loss that takes logits: sigmoid in front of binary cross-entropy with logits.

## What it does

Reports a sigmoid whose result reaches the input of `nn.BCEWithLogitsLoss` or `F.binary_cross_entropy_with_logits` with
nothing but reshaping in between. The value is followed through assignments, the file's own functions and losses, a
Module's `forward`, a layer at the end of `nn.Sequential`, and into other checked files.

## Why is this bad

The loss applies sigmoid itself. Of probabilities it makes values between 0.5 and 0.73: a sure "no" is read as a coin
toss, the loss of a perfect negative is 0.69, and the gradient of a confident mistake almost vanishes.

## Example

```python
scores = torch.sigmoid(net(x))
loss = F.binary_cross_entropy_with_logits(scores, y)
```

Use instead:

```python
scores = net(x)
loss = F.binary_cross_entropy_with_logits(scores, y)
probabilities = scores.sigmoid()   # where they are wanted
```

Silent unless every way into the loss ends in sigmoid: a sigmoid in one branch (evaluation only), gates, attention, a
sigmoid that is only reported, thresholded or passed as the target.

## Fix safety

Unsafe: training changes, which is the point, and a Module gives logits where it gave probabilities. Where the loss is
in another file, or other code reads the probabilities, too, the edit is only suggested or left out.

## Verified by

`fixtures/sigmoid_before_bce_with_logits/run.py`: the loss of the same logits equals a reference computed in float64.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torchlint.diagnostic import Applicability, Fix, Question, Severity
from torchlint.edits import without_activation
from torchlint.rule import Category, Context, Finding, Rule, suggestion, unsafe
from torchlint.semantics.lossflow import LossInput, ModuleOutput, is_first, meets
from torchlint.semantics.outputs import End

# A loss in the same file, or a function or layer that ends in sigmoid and may meet one elsewhere.
_MEETS = (
    r"\b(?:BCEWithLogitsLoss|binary_cross_entropy_with_logits)\b"
    r"|return [^\n]*(?<!\w)sigmoid\(|= [^\n]*(?<!\w)sigmoid\([^\n]*\n\s+return \w"
    r"|\bSigmoid\(\)"
)

RULE = Rule(
    "TL109",
    Category.TRAINING,
    Severity.WARNING,
    triggers=(
        r"(?<!\w)sigmoid_?\(",
        r"\bSigmoid\(",
        r"\b(?:BCEWithLogitsLoss|binary_cross_entropy_with_logits)\b",
        r"(?:[Ll]oss|[Cc]riterion)\w{0,80}(?:\[[^\]\n]{0,200}\])?\(",
        r"def forward\(",
    ),
    requires=(
        r"(?<!\w)sigmoid_?\(|\bSigmoid\(",
        _MEETS,
    ),
    since="0.1",
    fixes=(Applicability.UNSAFE, Applicability.SUGGESTION),
)

_LOSSES = ("bce_with_logits",)


@RULE.on
def check(given: LossInput, context: Context) -> Iterator[Finding]:
    if given.activation != "sigmoid" or given.loss not in _LOSSES:
        return
    for end in given.ends:
        if end.node is not None and is_first(context.sem, given, end, _LOSSES):
            edit = without_activation(context.file, end, given)
            fix = unsafe("give logits to the loss", edit) if edit is not None else None
            yield from _finding(end, fix, (), context)


@RULE.on
def check_module(output: ModuleOutput, context: Context) -> Iterator[Finding]:
    """A Module whose output meets no loss in its own file: another file may feed it to one."""
    end = output.end
    if output.activation != "sigmoid" or end.node is None or meets(context.sem, output, _LOSSES):
        return
    if not re.search(_MEETS, context.file.text):
        return  # what the prefilter leaves out
    edit = without_activation(context.file, end)
    fix = suggestion("give logits", edit) if edit is not None else None
    question = Question("output-not-in-bce-with-logits", f"{output.cls.own}@{context.file.row(end.node)}")
    yield from _finding(end, fix, (question,), context)


def _finding(end: End, fix: Fix | None, questions: tuple[Question, ...], context: Context) -> Iterator[Finding]:
    if end.node is None:
        return
    code = context.file.code(end.given if end.given is not None else end.node)
    subject = f"`{code}`" if len(code) < 40 and "\n" not in code and not end.layer else "the output"
    yield Finding(
        end.node,
        f"{subject} goes through sigmoid before a loss with logits",
        "the loss applies sigmoid itself and reads probabilities as 0.5 to 0.73, so confident mistakes hardly count",
        "give logits, and take the sigmoid where probabilities are wanted",
        fix,
        questions,
    )
