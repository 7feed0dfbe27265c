"""Automatic mixed precision by its old names, `torch.cuda.amp` and `torch.cpu.amp`.

## What it does

Reports `autocast`, `GradScaler`, `custom_fwd` and `custom_bwd` of `torch.cuda.amp` and `torch.cpu.amp`.

## Why is this bad

torch 2.4 and later warn of each of them. The names of `torch.amp` take the kind of device as an argument, so the same
code serves every one.

## Example

```python
scaler = torch.cuda.amp.GradScaler()
with torch.cuda.amp.autocast(False):
    loss = criterion(model(x), y)
```

Use instead:

```python
scaler = torch.amp.GradScaler("cuda")
with torch.amp.autocast("cuda", enabled=False):
    loss = criterion(model(x), y)
```

Not reported: projects whose oldest torch lacks the new names (1.10 has `autocast`, 2.3 `GradScaler`, 2.4 the others),
and code that minds the version.

## Fix safety

Safe: the old names call the new ones with the same settings. `autocast` takes its arguments in another order than
before, so they are passed by name.

## Verified by

`fixtures/legacy_amp/run.py`: the same values and dtypes, enabled and not.

## References

- <https://docs.pytorch.org/docs/stable/amp.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import add_argument, remove_imported, torch_name
from torchlint.nodes import dotted, has_star
from torchlint.rule import Category, Context, Finding, Rule, safe
from torchlint.semantics.deprecations.shims import minds_version

RULE = Rule(
    "TL013",
    Category.FILES,
    Severity.WARNING,
    triggers=(
        r"\bamp\.(?:autocast|GradScaler|custom_fwd|custom_bwd)\b",
        r"\b(?:autocast|GradScaler|custom_fwd|custom_bwd)\b",
    ),
    requires=(r"\btorch\.c(?:uda|pu)\.amp\b|\bfrom\s+torch\.c(?:uda|pu)\s+import\b|\bc(?:uda|pu)\.amp\b",),
    since="0.1",
    fixes=(Applicability.SAFE,),
)

_NAME = re.compile(
    r"^torch\.(cuda|cpu)\.amp\.(?:autocast_mode\.|grad_scaler\.)?(autocast|GradScaler|custom_fwd|custom_bwd)$"
)
_AVAILABLE = {"autocast": (1, 10), "GradScaler": (2, 3), "custom_fwd": (2, 4), "custom_bwd": (2, 4)}
_AUTOCAST = ("enabled", "dtype", "cache_enabled")


@RULE.on
def check(node: cst.Name, ctx: Context) -> Iterator[Finding]:
    if node.value not in _AVAILABLE:
        return
    called: cst.BaseExpression = node
    parent = ctx.file.parent(node)
    if isinstance(parent, cst.Attribute) and parent.attr is node:
        called, parent = parent, ctx.file.parent(parent)
    if not isinstance(parent, (cst.Call, cst.Decorator)) or (
        isinstance(parent, cst.Call) and parent.func is not called
    ):
        return
    match = _NAME.match(ctx.sem.qualified(called) or "")
    if match is None or minds_version(ctx.sem, called):
        return
    device, name = match[1], match[2]
    version = ctx.torch_version
    if version is not None and version < _AVAILABLE[name]:
        return
    how = f'device_type="{device}"' if name.startswith("custom") else f'"{device}"'
    yield Finding(
        parent if isinstance(parent, cst.Call) else called,
        f"`{dotted(called)}` is deprecated since torch 2.4",
        "torch warns of it and will remove it",
        f"write `torch.amp.{name}({how}{', …' if isinstance(parent, cst.Call) and parent.args else ''})`",
        _fix(called, parent, device, name, ctx),
    )


def _fix(called: cst.BaseExpression, parent: cst.CSTNode, device: str, name: str, ctx: Context) -> Fix | None:
    file = ctx.file
    new, imports = torch_name(file, ctx.sem, f"torch.amp.{name}", called)
    edits = [Edit(*file.span(called), new), *imports]
    if not isinstance(parent, cst.Call):
        given = f'(device_type="{device}")' if name.startswith("custom") else ""
        if not given:
            return None  # a context manager is made by calling it
        edits[0] = Edit(*file.span(called), new + given)
    elif has_star(parent) and name != "GradScaler":
        return None
    elif name.startswith("custom"):
        if any(a.keyword is None for a in parent.args):
            return None  # the function itself
        edits.append(add_argument(file, parent, f'device_type="{device}"'))
    elif not parent.args:
        edits.append(add_argument(file, parent, f'"{device}"'))
    else:
        start = file.span(parent.args[0])[0]
        edits.append(Edit(start, start, f'"{device}", '))
        for position, arg in enumerate(parent.args):
            if name == "autocast" and arg.keyword is None:
                if position >= len(_AUTOCAST):
                    return None
                at = file.span(arg)[0]
                where = Edit(at, at, f"{_AUTOCAST[position]}=")
                if at == start:
                    edits[-1] = Edit(start, start, f'"{device}", {_AUTOCAST[position]}=')
                else:
                    edits.append(where)
    return safe(f"Use torch.amp.{name}", *edits)


@RULE.on
def check_import(node: cst.ImportFrom, ctx: Context) -> Iterator[Finding]:
    """What is left once nothing uses it."""
    if not re.fullmatch(r"torch\.(cuda|cpu)\.amp", dotted(node.module) or "") or node.relative:
        return
    if isinstance(node.names, cst.ImportStar) or ctx.file.path.endswith("__init__.py"):
        return
    for alias in node.names:
        name = dotted(alias.name) or ""
        if name not in _AVAILABLE or alias.asname is not None or minds_version(ctx.sem, node):
            continue
        # `torch.amp.autocast` is no use of the imported name.
        if len(re.findall(rf"(?<!amp\.)\b{name}\b", ctx.file.text)) != 1:
            continue
        edit = remove_imported(ctx.file, node, alias)
        yield Finding(
            alias,
            f"`{name}` is imported and not used",
            f"`{dotted(node.module)}` is deprecated since torch 2.4",
            "leave it out",
            safe("Import what is used", edit) if edit is not None else None,
            severity=Severity.INFO,
        )
