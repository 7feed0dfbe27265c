"""Probabilities are given to a loss that takes logits: softmax in front of cross-entropy.

## What it does

Reports a softmax whose result reaches the input of `nn.CrossEntropyLoss`, `F.cross_entropy`, `nn.NLLLoss` or
`F.nll_loss` with nothing but reshaping in between. The value is followed through assignments, the file's own functions
and losses, a Module's `forward`, a layer at the end of `nn.Sequential`, and into other checked files.

## Why is this bad

Cross-entropy applies log-softmax itself. Given probabilities it sees inputs between 0 and 1: with 10 classes the loss
of a perfect prediction is still 1.46, and the gradient of a confident mistake almost vanishes. Training works, slowly
and worse, and nothing warns. `nll_loss` takes log-probabilities: given probabilities it is not a likelihood at all.

## Example

```python
class Net(nn.Module):
    def forward(self, x):
        return F.softmax(self.fc(x), dim=1)

loss = nn.CrossEntropyLoss()(net(x), y)
```

Use instead:

```python
class Net(nn.Module):
    def forward(self, x):
        return self.fc(x)

loss = nn.CrossEntropyLoss()(net(x), y)
probabilities = net(x).softmax(dim=1)   # where they are wanted
```

Silent unless every way into the loss ends in softmax: a softmax in one branch (evaluation only), softmax of attention
weights, gates and policies, softmax that is only reported or goes to the loss as the target (distillation).
`log_softmax` before cross-entropy is superfluous and harmless, and not reported.

## Fix safety

Unsafe: training changes, which is the point, and a Module gives logits where it gave probabilities. Where the loss is
in another file, or other code reads the probabilities, too, the edit is only suggested or left out.

## Verified by

`fixtures/softmax_before_cross_entropy/run.py`: the loss of the same logits equals the cross-entropy of a reference
computed in float64.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html>
- <https://docs.pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Question, Severity
from torchlint.edits import without_activation
from torchlint.rule import Category, Context, Finding, Rule, suggestion, unsafe
from torchlint.semantics.lossflow import LossInput, ModuleOutput, is_first, meets
from torchlint.semantics.outputs import End
from torchlint.semantics.unit_tests import holds_unit_tests

# A loss in the same file, or a function or layer that ends in softmax and may meet one elsewhere.
_MEETS = (
    r"\b(?:CrossEntropyLoss|cross_entropy|NLLLoss|nll_loss)\b"
    r"|return [^\n]*(?<!\w)softmax\(|= [^\n]*(?<!\w)softmax\([^\n]*\n\s+return \w"
    r"|\bSoftmax(?:2d)?\([^()\n]*\)"
)

RULE = Rule(
    "TL108",
    Category.TRAINING,
    Severity.WARNING,
    triggers=(
        r"(?<!\w)softmax\(",
        r"\bSoftmax(?:2d)?\(",
        r"\b(?:CrossEntropyLoss|cross_entropy|NLLLoss|nll_loss)\b",
        r"(?:[Ll]oss|[Cc]riterion)\w{0,80}(?:\[[^\]\n]{0,200}\])?\(",
        r"def forward\(",
    ),
    requires=(
        r"(?<!\w)softmax\(|\bSoftmax(?:2d)?\(",
        _MEETS,
    ),
    since="0.1",
    fixes=(Applicability.UNSAFE, Applicability.SUGGESTION),
)

_TAKES = {
    "cross_entropy": (
        "goes through softmax before cross-entropy",
        "cross-entropy applies log-softmax itself, so the loss stays high and confident mistakes hardly count",
    ),
    "nll": (
        "goes through softmax into `nll_loss`",
        "it takes log-probabilities, so the loss is no likelihood and confident mistakes hardly count",
    ),
}


@RULE.on
def check(given: LossInput, context: Context) -> Iterator[Finding]:
    if given.activation != "softmax" or given.loss not in _TAKES or holds_unit_tests(context.sem):
        return
    for end in given.ends:
        if end.node is not None and is_first(context.sem, given, end, _TAKES):
            yield _finding(end, given.loss, _fix(end, given, context), (), context)


@RULE.on
def check_module(output: ModuleOutput, context: Context) -> Iterator[Finding]:
    """A Module whose output meets no loss in its own file: another file may feed it to one."""
    end = output.end
    if (
        output.activation != "softmax"
        or end.node is None
        or holds_unit_tests(context.sem)
        or meets(context.sem, output, _TAKES)
        or not re.search(_MEETS, context.file.text)  # what the prefilter leaves out
    ):
        return
    edit = without_activation(context.file, end)
    fix = suggestion("give logits", edit) if edit is not None else None
    question = Question("output-not-in-cross-entropy", f"{output.cls.own}@{context.file.row(end.node)}")
    yield _finding(end, "cross_entropy", fix, (question,), context)


def _finding(end: End, loss: str, fix: Fix | None, questions: tuple[Question, ...], context: Context) -> Finding:
    assert end.node is not None
    code = context.file.code(end.given if end.given is not None else end.node)
    subject = f"`{code}`" if len(code) < 40 and "\n" not in code and not end.layer else "the output"
    what, why = _TAKES[loss]
    do = (
        "give logits, and take the softmax where probabilities are wanted"
        if loss == "cross_entropy"
        else "use log_softmax"
    )
    return Finding(end.node, f"{subject} {what}", why, do, fix, questions)


def _fix(end: End, given: LossInput, context: Context) -> Fix | None:
    if given.loss == "nll":
        edit = _log_form(end, context)
        return unsafe("take log_softmax", edit) if edit is not None else None
    edit = without_activation(context.file, end, given)
    return unsafe("give logits to the loss", edit) if edit is not None else None


def _log_form(end: End, context: Context) -> Edit | None:
    """`F.softmax` → `F.log_softmax`, `nn.Softmax` → `nn.LogSoftmax`, where the name is written out here."""
    func = end.node.func if isinstance(end.node, cst.Call) else None
    if not isinstance(func, cst.Attribute):
        return None
    form = {"softmax": "log_softmax", "Softmax": "LogSoftmax"}.get(func.attr.value)
    return Edit(*context.file.span(func.attr), form) if form is not None else None
