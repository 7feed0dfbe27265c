"""A private name of torch for which there is a public one.

## What it does

Reports

- `torch.utils.data._utils.collate.default_collate` and `default_convert`, also by way of `torch.utils.data.dataloader`
- `torch.optim.lr_scheduler._LRScheduler`
- `torch.utils._pytree._register_pytree_node`
- `torch.distributed._all_gather_base` and `_reduce_scatter_base`

## Why is this bad

Private names change without notice. Since torch 2.0 the schedulers derive from `LRScheduler`, and `_LRScheduler` is a
class below it that only old user code derives from: `isinstance(StepLR(…), _LRScheduler)` is False.

## Example

```python
from torch.utils.data._utils.collate import default_collate

class Warmup(torch.optim.lr_scheduler._LRScheduler): ...
```

Use instead:

```python
from torch.utils.data import default_collate

class Warmup(torch.optim.lr_scheduler.LRScheduler): ...
```

Not reported: projects whose oldest torch lacks the public name (1.11 has `default_collate`, 2.0 `LRScheduler`, 2.2
`register_pytree_node`, 1.13 the collectives), and code that minds the version.

## Fix safety

Safe where both names are one object. Unsafe for `_LRScheduler`, since `isinstance` answers differently.

## Verified by

`fixtures/nonpublic_api/run.py`: the same batches, and schedulers that are recognised.

## References

- <https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.default_collate>
- <https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.LRScheduler.html>
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import torch_name
from torchlint.nodes import dotted
from torchlint.rule import Category, Context, Finding, Rule, safe, unsafe
from torchlint.semantics.deprecations.shims import minds_version

RULE = Rule(
    "TL017",
    Category.FILES,
    Severity.INFO,
    triggers=(
        r"\b_utils\.collate\b",
        r"\bdefault_collate\b",
        r"\bdefault_convert\b",
        r"\b_LRScheduler\b",
        r"\b_register_pytree_node\b",
        r"\b_all_gather_base\b",
        r"\b_reduce_scatter_base\b",
    ),
    requires=(r"\btorch",),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)


@dataclass(frozen=True, slots=True)
class _Public:
    name: str
    available: tuple[int, int]
    same: bool = True  # both names are one object


_COLLATE = {
    f"torch.utils.data.{module}.{name}": _Public(f"torch.utils.data.{name}", (1, 11))
    for module in ("_utils.collate", "dataloader")
    for name in ("default_collate", "default_convert")
}
_PUBLIC = _COLLATE | {
    "torch.optim.lr_scheduler._LRScheduler": _Public("torch.optim.lr_scheduler.LRScheduler", (2, 0), same=False),
    "torch.utils._pytree._register_pytree_node": _Public(
        "torch.utils._pytree.register_pytree_node", (2, 2), same=False
    ),
    "torch.distributed._all_gather_base": _Public("torch.distributed.all_gather_into_tensor", (1, 13), same=False),
    "torch.distributed._reduce_scatter_base": _Public("torch.distributed.reduce_scatter_tensor", (1, 13), same=False),
}
_LAST = frozenset(name.rpartition(".")[2] for name in _PUBLIC)


@RULE.on
def check(node: cst.Attribute, ctx: Context) -> Iterator[Finding]:
    if node.attr.value not in _LAST or isinstance(ctx.file.parent(node), (cst.AssignTarget, cst.Attribute)):
        return
    name = ctx.sem.qualified(node) or ""
    public = _offered(name, ctx)
    spelled = dotted(node) or ""
    if public is None or minds_version(ctx.sem, node) or (name in _COLLATE and not _triggers(spelled)):
        return
    if public.name.rpartition(".")[0] == name.rpartition(".")[0]:
        new = f"{dotted(node.value)}.{public.name.rpartition('.')[2]}"
        imports: tuple[Edit, ...] = ()
    else:
        new, imports = torch_name(ctx.file, ctx.sem, public.name, node)
    yield _finding(node, name, public, _fixed(public, Edit(*ctx.file.span(node), new), *imports))


def _triggers(spelled: str) -> bool:
    return "_utils.collate." in spelled or "dataloader." in spelled


@RULE.on
def check_import(node: cst.ImportFrom, ctx: Context) -> Iterator[Finding]:
    module = dotted(node.module) or ""
    if node.relative or not module.startswith("torch.") or isinstance(node.names, cst.ImportStar):
        return
    for alias in node.names:
        name = f"{module}.{dotted(alias.name)}"
        public = _offered(name, ctx)
        if public is None or minds_version(ctx.sem, node):
            continue
        yield _finding(alias, name, public, _imported(node, alias, public, ctx))


def _imported(node: cst.ImportFrom, alias: cst.ImportAlias, public: _Public, ctx: Context) -> Fix | None:
    """`from m import _old` → `from n import new as _old`; None where other names are imported from `m` as well."""
    file = ctx.file
    module, _, new = public.name.rpartition(".")
    bound = alias.asname.name if alias.asname is not None else alias.name
    if not isinstance(bound, cst.Name) or node.module is None or isinstance(node.names, cst.ImportStar):
        return None
    text = new if bound.value == new else f"{new} as {bound.value}"
    edits = [Edit(file.span(alias.name)[0], file.caret(alias)[1], text)]
    if module != dotted(node.module):
        if len(node.names) != 1:
            return None
        edits.append(Edit(*file.span(node.module), module))
    return _fixed(public, *edits)


def _fixed(public: _Public, *edits: Edit) -> Fix:
    return (safe if public.same else unsafe)("Use the public name", *edits)


def _offered(name: str, ctx: Context) -> _Public | None:
    public = _PUBLIC.get(name)
    if public is None or (ctx.torch_version is not None and ctx.torch_version < public.available):
        return None
    return public


def _finding(node: cst.CSTNode, name: str, public: _Public, fix: Fix | None) -> Finding:
    why = "it may change without notice"
    if name.endswith("._LRScheduler"):
        why = "torch's own schedulers are none of its instances since 2.0"
    return Finding(node, f"`{name}` is private", why, f"use `{public.name}`", fix)
