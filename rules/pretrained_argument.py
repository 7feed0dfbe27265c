"""torchvision models that are asked for weights by `pretrained=`.

## What it does

Reports `pretrained=` and `pretrained_backbone=`, also by position, in calls of torchvision's model builders.

## Why is this bad

torchvision 0.13 replaced them by `weights=`, warns of each use and announces their removal. There are several sets of
weights for most models today; `True` stands for the oldest one.

## Example

```python
model = torchvision.models.resnet50(pretrained=True)
backbone = torchvision.models.vgg16(pretrained=args.pretrained)
```

Use instead:

```python
model = torchvision.models.resnet50(weights="IMAGENET1K_V1")
backbone = torchvision.models.vgg16(weights="IMAGENET1K_V1" if args.pretrained else None)
```

Which weights `True` stands for is mined from torchvision, model by model.

Not reported: builders of other packages (timm has a `pretrained` of its own), projects whose oldest torch goes with a
torchvision before 0.13, and code that minds the version.

## Fix safety

Safe for True and False, unsafe for expressions, whose values only you know. No fix where `weights` is given as well, or
for the quantized models, whose weights depend on another argument.

## Verified by

`fixtures/pretrained_argument/run.py`: builders with torchvision's rules get the same weights.

## References

- <https://docs.pytorch.org/vision/stable/models.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.nodes import argument, dotted, has_star, literal
from torchlint.rule import Category, Context, Finding, Rule, safe, unsafe
from torchlint.semantics.deprecations.shims import minds_version
from torchlint.semantics.deprecations.table import table, torchvision_for

_OLD_MODELS = "resnet|vgg|densenet|inception|squeezenet|resnext|alexnet|googlenet|mobilenet|mnasnet|shufflenet"

RULE = Rule(
    "TL015",
    Category.FILES,
    Severity.WARNING,
    triggers=(
        r"\bpretrained(?:_backbone)?\s*=",
        rf"\b(?:{_OLD_MODELS})\w*\s*\(\s*(?:True|False|pretrained)\b",
    ),
    requires=(r"\btorchvision\b",),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)

_BUILDER = re.compile(
    r"^(torchvision\.models(?:\.(?:detection|segmentation|quantization|video|optical_flow))?)\.(?:\w+\.)?(\w+)$"
)
_SINCE = (0, 13)


@RULE.on
def check(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    match = _BUILDER.match(ctx.sem.qualified(call.func) or "")
    if match is None:
        yield from _by_name(call, ctx)
        return
    arguments = table("torchvision").weights.get(f"{match[1]}.{match[2]}")
    version = torchvision_for(ctx.torch_version)
    if arguments is None or (version is not None and version < _SINCE):
        return
    for old, (new, default) in arguments.items():
        given = argument(call, old, 0 if old == "pretrained" else None)
        if given is None or not (given.keyword is not None or _is_old(call, given)):
            continue
        if minds_version(ctx.sem, call):
            return
        member = default.rpartition(".")[2]
        value = _value(given.value, member, ctx)
        yield Finding(
            given,
            f"`{old}` is deprecated since torchvision 0.13",
            "torchvision warns of each use and will remove it",
            f"pass `{new}={value}`" if value else f"pass `{new}=`",
            _fix(call, given, new, value, ctx),
        )


def _by_name(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    """`models.__dict__[arch](pretrained=True)`, `getattr(models, arch)(pretrained=True)`: any of the builders."""
    func, table_of = call.func, False
    if isinstance(func, cst.Subscript):
        table_of = ctx.sem.qualified(func.value) == "torchvision.models.__dict__"
    elif isinstance(func, cst.Call) and dotted(func.func) == "getattr" and len(func.args) > 1:
        table_of = ctx.sem.qualified(func.args[0].value) == "torchvision.models"
    given = argument(call, "pretrained")
    version = torchvision_for(ctx.torch_version)
    if not table_of or given is None or (version is not None and version < _SINCE) or minds_version(ctx.sem, call):
        return
    old = {True: '"IMAGENET1K_V1"', False: "None"}.get(literal(given.value), "")
    yield Finding(
        given,
        "`pretrained` is deprecated since torchvision 0.13",
        "torchvision warns of each use and will remove it",
        f"pass `weights={old}`",
    )


def _is_old(call: cst.Call, given: cst.Arg) -> bool:
    """By position the old argument is a truth value; the builders of today take none."""
    called = (dotted(call.func) or "").rpartition(".")[2]
    said = given.value.value if isinstance(given.value, cst.Name) else ""
    return said in ("True", "False", "pretrained") and re.match(_OLD_MODELS, called) is not None


def _value(given: cst.BaseExpression, member: str, ctx: Context) -> str:
    if literal(given) is False or literal(given) is None:
        return "None"
    if not member:
        return ""
    if literal(given) is True:
        return f'"{member}"'
    text = ctx.file.code(given)
    return f'"{member}" if {f"({text})" if isinstance(given, (cst.IfExp, cst.Lambda)) else text} else None'


def _fix(call: cst.Call, given: cst.Arg, new: str, value: str, ctx: Context) -> Fix | None:
    if not value or argument(call, new) is not None or has_star(call, "*"):
        return None
    if given.keyword is None and len([a for a in call.args if a.keyword is None and not a.star]) > 1:
        return None  # the builders of today take keywords only
    file = ctx.file
    start, end = file.span(given)[0], file.span(given.value)[1]
    if "#" in file.text[start:end]:
        return None
    certain = literal(given.value) is not ... and not has_star(call)
    return (safe if certain else unsafe)("Name the weights", Edit(start, end, f"{new}={value}"))
