"""Layers are kept in a Python list or dict, where the Module that owns them does not see them.

## What it does
Reports an attribute of an `nn.Module` that holds layers with parameters in a plain list, tuple or dict, where nothing
else registers them.

## Why is this bad
`nn.Module` finds its submodules among its attributes, and does not look into lists. Layers in one are missing from
`parameters()`, so no optimizer trains them; from `state_dict()`, so they are not saved; and from `.to(device)`,
`.half()`, `.train()` and `.eval()`. The model runs, with random weights in these layers.

## Example
```python
class Net(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.layers = [nn.Linear(8, 8) for _ in range(depth)]
```
Use instead:
```python
class Net(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(depth)])
```
Lists whose layers are registered some other way (`add_module`, `nn.Sequential(*layers)`, an attribute each), handed to
something else, trained by hand through `.parameters()`, frozen, or hidden on purpose (`self.teacher = [teacher]`) are
not reported.

## Fix safety
Unsafe: the layers start to be trained, saved and moved; checkpoints gain their keys. The container becomes a
`nn.ModuleList` or `nn.ModuleDict`; where some element is no Module or a key no string, there is no fix.

## Verified by
The layers that forward uses are all among `parameters()`, and a training step moves them.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.ModuleList.html
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import torch_name
from torchlint.nodes import literal
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Kind
from torchlint.semantics.registration import (
    PlainContainer,
    growths,
    initialised_before,
    is_module_class,
    is_read,
    kept_by_hand,
    plain_containers,
)

RULE = Rule(
    "TL117",
    Category.TRAINING,
    Severity.ERROR,
    triggers=(
        r"[=+*]\s*[\[(]\s*[\w.]*\b[A-Z]\w*\(",
        r"\.(append|extend|insert)\([^()\n]{0,200}\b[A-Z]\w{0,80}\(",
        r"[{,]\s*['\"]?\w+['\"]?\s*:\s*[\w.]*\b[A-Z]\w*\(",
        r"self\.\w+\[[^\]\n]*\]\s*=\s*[\w.]*\b[A-Z]\w*\(",
    ),
    requires=(r"\(\s*[\w.]*Module\b",),
    shapes=("plain-containers",),
    since="0.2",
    fixes=(Applicability.UNSAFE,),
)

# Names that nn.ModuleDict refuses as keys, because it has attributes of that name.
_TAKEN = frozenset(
    """training train eval type to float half double bfloat16 cpu cuda xpu ipu mtia forward call_super_init dump_patches
    parameters buffers modules children apply compile extra_repr share_memory state_dict zero_grad requires_grad_ items
    keys values pop clear update add_module register_module""".split()
)


@RULE.on
def check(node: cst.ClassDef, context: Context) -> Iterator[Finding]:
    cls = next((c for c in context.sem.classes if c.node is node), None)
    if cls is None or not is_module_class(context.sem, cls):
        return
    for held in plain_containers(context.sem, cls):
        if kept_by_hand(context.sem, held) or not is_read(context.sem, held):
            continue
        container = "dict" if held.is_dict else "tuple" if isinstance(held.value, cst.Tuple) else "list"
        better = "nn.ModuleDict" if held.is_dict else "nn.ModuleList"
        yield Finding(
            held.assign.targets[0].target,
            f"`self.{held.name}` keeps layers in a plain {container}",
            "they are missing from parameters(), state_dict() and .to(): not trained, not saved, not moved",
            f"use `{better}`",
            fix=_fix(held, context),
        )


def _fix(held: PlainContainer, context: Context) -> Fix | None:
    sem, value = context.sem, held.value
    if any(sem.value(e).kind not in (Kind.MODULE, Kind.LOSS_FN) for e in held.elements):
        return None
    if not initialised_before(sem, held.function, held.assign) or (isinstance(value, cst.Name) and held.is_dict):
        return None
    if not isinstance(value, cst.Name) and growths(sem, held) != held.grown:
        return None
    if held.is_dict and (held.grown or not isinstance(value, cst.Dict) or not _plain_keys(value)):
        return None
    name, imports = _nn(context, "ModuleDict" if held.is_dict else "ModuleList", held.assign)
    start, end = context.file.span(value)
    message = f"Use {name}"
    if (isinstance(value, cst.List) and not value.elements) or (isinstance(value, cst.Call) and not value.args):
        return unsafe(message, Edit(start, end, f"{name}()"), *imports)
    return unsafe(message, Edit(start, start, f"{name}("), Edit(end, end, ")"), *imports)


def _plain_keys(display: cst.Dict) -> bool:
    keys = [literal(e.key) if isinstance(e, cst.DictElement) else None for e in display.elements]
    return all(isinstance(k, str) and k and "." not in k and k not in _TAKEN for k in keys)


def _nn(context: Context, name: str, at: cst.CSTNode) -> tuple[str, tuple[Edit, ...]]:
    """How this file writes a class of torch.nn."""
    for alias, target in context.sem.names.imports.items():
        if target in ("torch.nn", f"torch.nn.{name}"):
            written = alias if target != "torch.nn" else f"{alias}.{name}"
            if context.sem.names.qualify_text(written, context.sem.function(at)) == f"torch.nn.{name}":
                return written, ()
    return torch_name(context.file, context.sem, f"torch.nn.{name}", at)
