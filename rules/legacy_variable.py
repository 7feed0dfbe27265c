"""`Variable`, `volatile` and `loss.data[0]`: torch before 0.4.

## What it does

Reports

- `torch.autograd.Variable`, called, passed on, in annotations and in `isinstance`
- `loss.data[0]` and `total[0]` of tensors that have no dimension

## Why is this bad

Tensors and Variables became one in torch 0.4. `Variable(x)` wraps nothing any more and cuts `x` off its graph.
`volatile=True` does nothing but warn, so what was meant to save memory records a graph. Indexing a tensor without
dimensions raises an IndexError.

## Example

```python
images = Variable(images.cuda(), volatile=True)
loss = criterion(model(images), labels)
total += loss.data[0]
```

Use instead:

```python
with torch.no_grad():
    images = images.cuda()
    loss = criterion(model(images), labels)
    total += loss.item()
```

Not reported: items of tensors whose dimensions are unknown, code that minds the version of torch, and `x.data`, which
is TL020's.

## Fix safety

Safe where the tensor certainly has no graph that `Variable` would cut, where the new code cuts it as well
(`x.detach().requires_grad_()`), and for losses that certainly have no dimension, whose indexing can only raise.
Elsewhere unsafe. `with torch.no_grad():` in place of `volatile` is left to you.

## Verified by

`fixtures/legacy_variable/run.py`: the same values and gradients without the wrapper, and numbers where an error was.

## References

- <https://pytorch.org/blog/pytorch-0_4_0-migration-guide/>
- <https://docs.pytorch.org/docs/stable/autograd.html#variable-deprecated>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import remove_imported, torch_name
from torchlint.nodes import argument, dotted, has_star, literal
from torchlint.rule import Category, Context, Finding, Rule, safe, unsafe
from torchlint.semantics.deprecations.shims import minds_version
from torchlint.semantics.kinds import Graph, Kind
from torchlint.semantics.knowledge import FACTORIES, LIKE
from torchlint.semantics.scalars import Scalars

RULE = Rule(
    "TL011",
    Category.FILES,
    Severity.WARNING,
    triggers=(
        r"\bVariable\b",
        r"\.data\[0\]",
        r"(?<=loss)\[0\]",
        r"(?<=total)\[0\]",
    ),
    requires=(r"\btorch",),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)

_VARIABLE = "torch.autograd.Variable"
_TOTAL = re.compile(r"(?:loss|total)$")
_ATOMS = (cst.Name, cst.Attribute, cst.Call, cst.Subscript)


@RULE.on
def check_name(name: cst.Name, ctx: Context) -> Iterator[Finding]:
    if name.value != "Variable":
        return
    node: cst.BaseExpression = name
    parent = ctx.file.parent(name)
    if isinstance(parent, cst.Attribute) and parent.attr is name:
        node, parent = parent, ctx.file.parent(parent)
    if isinstance(parent, (cst.Attribute, cst.ImportAlias, cst.AsName, cst.AssignTarget, cst.Param, cst.ImportFrom)):
        return
    if isinstance(parent, cst.Arg) and parent.keyword is name:
        return
    if ctx.sem.qualified(node) != _VARIABLE or minds_version(ctx.sem, node):
        return
    if isinstance(parent, cst.Call) and parent.func is node:
        yield _wrapped(parent, ctx)
        return
    is_type = isinstance(parent, cst.Annotation) or _in_isinstance(node, ctx)
    fix = None
    if is_type:
        tensor, imports = torch_name(ctx.file, ctx.sem, "torch.Tensor", node)
        fix = safe("Ask for a tensor", Edit(*ctx.file.span(node), tensor), *imports)
    yield Finding(
        node,
        "`Variable` is a name of torch before 0.4",
        "it stands for every tensor" if is_type else "it cuts what it is given off its graph",
        "write `torch.Tensor`" if is_type else "leave it out",
        fix,
    )


def _in_isinstance(node: cst.BaseExpression, ctx: Context) -> bool:
    parent = ctx.file.parent(node)
    if isinstance(parent, cst.Element):
        parent = ctx.file.parent(ctx.file.parent(parent) or parent)
    call = ctx.file.parent(parent) if isinstance(parent, cst.Arg) else None
    return isinstance(call, cst.Call) and dotted(call.func) in ("isinstance", "issubclass")


def _wrapped(call: cst.Call, ctx: Context) -> Finding:
    volatile = argument(call, "volatile", 2)
    if volatile is not None and literal(volatile.value) is not False:
        what, why = "`volatile` does nothing since torch 0.4", "the graph that it was to save is recorded"
        do = "leave `Variable` out and put the code under `with torch.no_grad():`"
    else:
        what = "`Variable` is a name of torch before 0.4"
        why, do = "it wraps nothing and cuts what it is given off its graph", "use the tensor itself"
    return Finding(call, what, why, do, _unwrapped(call, ctx))


def _unwrapped(call: cst.Call, ctx: Context) -> Fix | None:
    file = ctx.file
    data = argument(call, "data", 0)
    if data is None or has_star(call) or isinstance(data.value, (cst.Lambda, cst.NamedExpr, cst.Yield)):
        return None
    start, end = file.span(call)
    first, last = file.span(data.value)
    if "#" in file.text[start:first] + file.text[last:end]:
        return None
    text = file.text[first:last]
    value = ctx.sem.value(data.value)
    fresh = _is_fresh(data.value, ctx)
    grad = argument(call, "requires_grad", 1)
    wanted = literal(grad.value) if grad is not None else False
    if wanted not in (False, None):
        text = text if isinstance(data.value, _ATOMS) or data.value.lpar else f"({text})"
        given = "" if wanted is True or grad is None else file.code(grad.value)
        return safe(
            "Ask the tensor for gradients",
            Edit(start, end, f"{text}{'' if fresh else '.detach()'}.requires_grad_({given})"),
        )
    outer = file.parent(call)
    plain = isinstance(outer, (cst.Assign, cst.Return, cst.Arg)) and "\n" not in text
    if not plain and not (isinstance(data.value, _ATOMS) and "\n" not in text) and not data.value.lpar:
        text = f"({text})"
    target = outer.targets[0].target if isinstance(outer, cst.Assign) and len(outer.targets) == 1 else None
    line = file.parent(outer) if outer is not None else None
    edit = Edit(start, end, text)
    if (
        target is not None
        and isinstance(outer, cst.Assign)
        and dotted(target) is not None
        and file.code(target) == text
    ):
        if not isinstance(line, cst.SimpleStatementLine) or len(line.body) != 1:
            return None
        edit = file.delete(outer)  # x = x
    volatile = argument(call, "volatile", 2) is not None  # it tells what was meant, and goes with the wrapper
    certain = not volatile and (fresh or value.graph is Graph.DETACHED or value.kind is Kind.BATCH)
    return (safe if certain else unsafe)("Leave Variable out", edit)


def _is_fresh(node: cst.BaseExpression, ctx: Context) -> bool:
    """Whether the expression makes a tensor that nobody else has: a factory, moved or converted at most."""
    while isinstance(node, cst.Call):
        name = ctx.sem.qualified(node.func)
        if name is not None:
            shared = name in ("torch.from_numpy", "torch.as_tensor") or argument(node, "requires_grad") is not None
            return (name in FACTORIES or name in LIKE) and not shared
        if not isinstance(node.func, cst.Attribute) or node.func.attr.value not in (
            "cuda",
            "to",
            "float",
            "long",
            "double",
        ):
            return False
        node = node.func.value
    return False


@RULE.on
def check_item(node: cst.Subscript, ctx: Context) -> Iterator[Finding]:
    index = node.slice[0].slice if len(node.slice) == 1 else None
    if not isinstance(index, cst.Index) or literal(index.value) != 0 or isinstance(literal(index.value), bool):
        return
    of_data = isinstance(node.value, cst.Attribute) and node.value.attr.value == "data"
    if not of_data and not (isinstance(node.value, cst.Name) and _TOTAL.search(node.value.value)):
        return
    parent = ctx.file.parent(node)
    if isinstance(parent, (cst.AssignTarget, cst.Del)) or (isinstance(parent, cst.AugAssign) and parent.target is node):
        return
    tensor = node.value.value if isinstance(node.value, cst.Attribute) and of_data else node.value
    scalars = Scalars(ctx.sem, ctx.sem.function(node))
    certain = scalars.certain(tensor)
    if not certain and not (of_data and scalars.likely(tensor)):
        return
    if minds_version(ctx.sem, node):
        return
    text = ctx.file.code(tensor)
    kind = safe if certain else unsafe
    yield Finding(
        node,
        f"`{text}` has no dimension to index",
        "torch 0.5 and later raise an IndexError here",
        f"call `{text}.item()`",
        kind("Take the number out", Edit(*ctx.file.span(node), f"{text}.item()")),
    )


@RULE.on
def check_import(node: cst.ImportFrom, ctx: Context) -> Iterator[Finding]:
    """What is left once nothing uses it."""
    if dotted(node.module) != "torch.autograd" or isinstance(node.names, cst.ImportStar) or node.relative:
        return
    if ctx.file.path.endswith("__init__.py") or len(re.findall(r"\bVariable\b", ctx.file.text)) != 1:
        return
    for alias in node.names:
        if dotted(alias.name) != "Variable" or alias.asname is not None or minds_version(ctx.sem, node):
            continue
        edit = remove_imported(ctx.file, node, alias)
        yield Finding(
            alias,
            "`Variable` is imported and not used",
            "it is a name of torch before 0.4",
            "leave it out",
            safe("Import what is used", edit) if edit is not None else None,
            severity=Severity.INFO,
        )
