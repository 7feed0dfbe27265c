"""An attribute that is meant to freeze or to differentiate, and is misspelled or set on a Module.

## What it does

Reports

- `x.require_grad = …` and other misspellings of `requires_grad`
- `module.requires_grad = …` on a Module that the class keeps, which has no such attribute

## Why is this bad

Python adds the attribute and nothing else happens. What was to be frozen is trained, and what was to get a gradient
gets none. Nothing warns.

## Example

```python
for p in backbone.parameters():
    p.require_grad = False
model.fc.requires_grad = True
```

Use instead:

```python
for p in backbone.parameters():
    p.requires_grad = False
model.fc.requires_grad_(True)
```

Not reported: classes that have an attribute of that name themselves.

## Fix safety

Unsafe: what is frozen or trained changes, which is the point.

## Verified by

`fixtures/requires_grad_typo/run.py`: the parameters are frozen after the call.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.Tensor.requires_grad.html>
- <https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.requires_grad_>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.nodes import dotted, literal
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics.kinds import UNKNOWN, Kind, Value

RULE = Rule(
    "TL019",
    Category.FILES,
    Severity.ERROR,
    triggers=(
        r"\.(?:require_grads?|requires_grads|required_grads?|requires?_gradients?|require_gradient|requries_grad|requires_gard)\s*=(?!=)",
        r"\.requires_grad\s*=(?!=)",
    ),
    requires=(r"\btorch",),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

_TYPOS = frozenset(
    """require_grad require_grads requires_grads required_grad required_grads requires_gradient requires_gradients
    require_gradient require_gradients requries_grad requires_gard""".split()
)


@RULE.on
def check(node: cst.Assign, ctx: Context) -> Iterator[Finding]:
    if len(node.targets) != 1 or not isinstance(node.targets[0].target, cst.Attribute):
        return
    target = node.targets[0].target
    name = target.attr.value
    if name in _TYPOS:
        yield from _typo(target, name, ctx)
    elif name == "requires_grad":
        yield from _module(node, target, ctx)


def _typo(target: cst.Attribute, name: str, ctx: Context) -> Iterator[Finding]:
    kind = ctx.sem.value(target.value).kind
    if kind not in (Kind.TENSOR, Kind.PARAMETER, Kind.MODULE, Kind.UNKNOWN, Kind.BATCH):
        return
    owner = dotted(target.value)
    if kind is not Kind.MODULE and (owner in ("self", "cls") or _is_used_elsewhere(name, ctx)):
        return
    if kind is Kind.MODULE:
        return  # `requires_grad` would do as little
    fix = unsafe("Spell it as torch does", Edit(*ctx.file.span(target.attr), "requires_grad"))
    yield Finding(
        target,
        f"tensors have no attribute `{name}`",
        "Python adds one, and nothing is frozen or differentiated",
        "write `requires_grad`",
        fix,
    )


def _is_used_elsewhere(name: str, ctx: Context) -> bool:
    """Whether the file reads the attribute or has an argument of that name, so that somebody meant it."""
    return re.search(rf"\bself\.{name}\b|\bdef\s[^:]*\b{name}\b|\.{name}\b(?!\s*=[^=])", ctx.file.text) is not None


def _module(node: cst.Assign, target: cst.Attribute, ctx: Context) -> Iterator[Finding]:
    value = _attribute(target.value, ctx)
    if value.kind is not Kind.MODULE or not value.origin.startswith("torch.nn."):
        return
    owner = ctx.file.code(target.value)
    yield Finding(
        target,
        f"the Module `{owner}` has no attribute `requires_grad`",
        "Python adds one, and its parameters stay as they are",
        f"call `{owner}.requires_grad_({ctx.file.code(node.value)})`",
        _called(node, owner, ctx),
    )


def _attribute(owner: cst.BaseExpression, ctx: Context) -> Value:
    """What the class keeps as `self.owner`."""
    method = ctx.sem.function(owner)
    if method.cls is None or not isinstance(owner, cst.Attribute) or dotted(owner.value) not in method.params[:1]:
        return UNKNOWN
    return ctx.sem.evaluator.attributes.get((method.cls.qualname, owner.attr.value), UNKNOWN)


def _called(node: cst.Assign, owner: str, ctx: Context) -> Fix | None:
    start, end = ctx.file.span(node)
    value = ctx.file.code(node.value)
    if "#" in ctx.file.text[start:end] or "\n" in value:
        return None
    given = "" if literal(node.value) is True else value
    return unsafe("Reach the parameters", Edit(start, end, f"{owner}.requires_grad_({given})"))
