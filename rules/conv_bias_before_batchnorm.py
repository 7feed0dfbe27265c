"""A convolution or linear layer has a bias that the BatchNorm right behind it takes out again.

## What it does
Reports `nn.Conv*d`, `nn.ConvTranspose*d` and `nn.Linear` with a bias directly in front of an `nn.BatchNorm*d` of as
many channels in the same `nn.Sequential`. Off by default: what it costs is small.

## Why is this bad
BatchNorm subtracts the mean of each channel, and the bias with it: the bias has no effect on the output, its gradient
is zero up to rounding, and it is stored, loaded, decayed, synchronised and added all the same.

## Example
```python
nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU())
```
Use instead:
```python
nn.Sequential(nn.Conv2d(3, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
```
Layers whose `bias=` is given, a BatchNorm over another dimension (its number of features is not written as the layer's
outputs are), and other norms (GroupNorm and LayerNorm average over several channels, so the bias counts there) are not
reported.

## Fix safety
No fix: without the bias, checkpoints lose a key and the layers made later get other random weights. In code whose
weights are not yet trained, write `bias=False` by hand.

## Verified by
The gradient of such a bias in train mode: 6.5e-9, where the largest of the weight is 0.033 (torch 2.13, CPU).

## References
- https://arxiv.org/abs/1502.03167
- https://pytorch.org/tutorials/recipes/recipes/tuning_guide.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import argument, has_star
from torchlint.rule import Category, Context, Finding, Rule

RULE = Rule(
    "TL703",
    Category.PRECISION,
    Severity.INFO,
    triggers=(r"BatchNorm[123]d\(",),
    requires=(r"\bSequential\(", r"\b(Conv(Transpose)?[123]d|Linear)\("),
    since="0.2",
    default=False,
)

_BIASED = re.compile(r"^torch\.nn\.(Conv(Transpose)?[123]d|Linear)$")
_NORM = re.compile(r"^torch\.nn\.BatchNorm[123]d$")
# The position of `bias` among the arguments.
_POSITION = {"Linear": 2, "Conv": 7, "ConvTranspose": 7}


@RULE.on
def check(call: cst.Call, context: Context) -> Iterator[Finding]:
    if context.sem.qualified(call.func) != "torch.nn.Sequential":
        return
    for first, second in zip(call.args, call.args[1:]):
        layer, norm = first.value, second.value
        if first.star or second.star or not isinstance(layer, cst.Call) or not isinstance(norm, cst.Call):
            continue
        name = context.sem.qualified(layer.func) or ""
        if not _BIASED.match(name) or not _NORM.match(context.sem.qualified(norm.func) or ""):
            continue
        kind = name.rpartition(".")[2].rstrip("123d")
        if has_star(layer) or argument(layer, "bias", _POSITION[kind]) is not None:
            continue
        if not _same_channels(layer, norm, context):
            continue
        yield Finding(
            layer,
            f"`{context.file.code(layer.func)}` has a bias right before BatchNorm",
            "the norm subtracts it again: a parameter that is stored, stepped and added for nothing",
            "pass `bias=False` (checkpoints lose that key)",
        )


def _same_channels(layer: cst.Call, norm: cst.Call, context: Context) -> bool:
    """Whether the norm takes the layer's outputs as its channels: both are written alike."""
    out = argument(layer, "out_channels", 1) or argument(layer, "out_features", 1)
    features = argument(norm, "num_features", 0)
    return (
        out is not None and features is not None and context.file.code(out.value) == context.file.code(features.value)
    )
