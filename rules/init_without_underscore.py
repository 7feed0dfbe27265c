"""Functions that change tensors in place, by names without the underscore that says so.

## What it does

Reports `xavier_uniform`, `kaiming_normal`, `constant`, `normal`, `orthogonal` and the others of `torch.nn.init`, and
`torch.nn.utils.clip_grad_norm`.

## Why is this bad

They are aliases that torch 0.4 left for old code. They warn at each call and are to be removed.

## Example

```python
init.xavier_uniform(layer.weight)
nn.utils.clip_grad_norm(model.parameters(), 1.0)
```

Use instead:

```python
init.xavier_uniform_(layer.weight)
nn.utils.clip_grad_norm_(model.parameters(), 1.0)
```

Not reported: functions of the same names that are not torch's, and code that minds the version.

## Fix safety

Safe: the old names call the new ones.

## Verified by

`fixtures/init_without_underscore/run.py`: the same weights, gradients and norms.

## References

- <https://docs.pytorch.org/docs/stable/nn.init.html>
- <https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Severity
from torchlint.nodes import dotted
from torchlint.rule import Category, Context, Finding, Rule, safe
from torchlint.semantics.deprecations.shims import minds_version
from torchlint.semantics.deprecations.table import table

_NAMES = (
    r"uniform|normal|constant|eye|dirac|xavier_uniform|xavier_normal|kaiming_uniform|kaiming_normal|orthogonal|sparse"
)

RULE = Rule(
    "TL018",
    Category.FILES,
    Severity.WARNING,
    triggers=(
        rf"(?<=init)(?:\.{_NAMES})\b(?!\s*=)".replace("|", r"|\."),
        r"\bclip_grad_norm\b(?!\s*=)",
        rf"\bfrom torch\.nn\.init import\s*(?:\([\w\s,]*|[\w ,]*)\b(?:{_NAMES})\b",
    ),
    requires=(r"\btorch",),
    since="0.1",
    fixes=(Applicability.SAFE,),
)

_OLD = re.compile(rf"^torch\.nn\.(?:init\.(?:{_NAMES})|utils\.(?:clip_grad\.)?clip_grad_norm)$")
_LAST = frozenset((*_NAMES.split("|"), "clip_grad_norm"))


@RULE.on
def check(node: cst.Attribute, ctx: Context) -> Iterator[Finding]:
    old = node.attr.value
    if old not in _LAST:
        return
    owner = node.value.attr.value if isinstance(node.value, cst.Attribute) else dotted(node.value) or ""
    if old != "clip_grad_norm" and not owner.endswith("init"):
        return  # by another name it matches no trigger
    name = ctx.sem.qualified(node) or ""
    if not _OLD.match(name) or isinstance(ctx.file.parent(node), (cst.AssignTarget, cst.Attribute)):
        return
    if minds_version(ctx.sem, node) or not _is_mined(name):
        return
    end = ctx.file.caret(node)[1]
    yield Finding(
        node,
        f"`{dotted(node)}` is a name of torch before 0.4",
        "torch warns of each call and will remove it",
        f"write `{old}_`",
        safe("Write the underscore", Edit(end, end, "_")),
    )


@RULE.on
def check_import(node: cst.ImportFrom, ctx: Context) -> Iterator[Finding]:
    module = dotted(node.module) or ""
    if module not in ("torch.nn.init", "torch.nn.utils", "torch.nn.utils.clip_grad") or node.relative:
        return
    if isinstance(node.names, cst.ImportStar) or minds_version(ctx.sem, node):
        return
    for alias in node.names:
        old = dotted(alias.name) or ""
        if not _OLD.match(f"{module}.{old}") or not _is_mined(f"{module}.{old}"):
            continue
        text = f"{old}_" if alias.asname is not None else f"{old}_ as {old}"
        yield Finding(
            alias,
            f"`{module}.{old}` is a name of torch before 0.4",
            "torch warns of each call and will remove it",
            f"import `{old}_`",
            safe("Import the name with the underscore", Edit(*ctx.file.span(alias.name), text)),
        )


def _is_mined(name: str) -> bool:
    return name.replace("clip_grad.", "") in table("torch").names
