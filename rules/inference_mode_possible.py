"""Evaluation under `no_grad` that could run in inference mode.

## What it does

Finds functions that evaluate a model under `torch.no_grad()`, as a decorator or a `with` around the loop, and from
which only numbers leave.

## Why is this bad

`torch.inference_mode()` also leaves out version counters and view tracking. That saves a little time in each operation,
which shows where models are small and steps are many.

## Example

```python
@torch.no_grad()
def accuracy(model, loader):
    model.eval()
    correct = 0
    for x, y in loader:
        correct += (model(x).argmax(1) == y).sum().item()
    return correct
```

Use instead:

```python
@torch.inference_mode()
def accuracy(model, loader):
    model.eval()
    correct = 0
    for x, y in loader:
        correct += (model(x).argmax(1) == y).sum().item()
    return correct
```

Silent where a tensor leaves: it is returned, kept in a list, an attribute or by another object. Off by default, because
the gain is small and a tensor that the model itself keeps (a cache of rotary positions, say) can then not be trained
with: torch raises.

## Fix safety

Unsafe: a tensor that is made in inference mode and used by autograd later raises.

## Verified by

`fixtures/inference_mode_possible/run.py`: bitwise the same numbers.

## References

- <https://docs.pytorch.org/docs/stable/notes/autograd.html#inference-mode>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import torch_name
from torchlint.nodes import walk_scope
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import EvalRegion, Kind
from torchlint.semantics.blocks import statements

RULE = Rule(
    "TL202",
    Category.EVALUATION,
    Severity.INFO,
    triggers=(r"\bno_grad\(",),
    requires=(r"\bno_grad\(", r"\.eval\("),
    since="0.2",
    fixes=(Applicability.UNSAFE,),
    default=False,
)

_PLAIN = (Kind.NUMBER, Kind.STRING, Kind.NONE)


@RULE.on
def check(region: EvalRegion, context: Context) -> Iterator[Finding]:
    if region.mode != "eval" or not all(forward.grad.off for forward in region.forwards):
        return
    found = _no_grad(region, context)
    if found is None:
        return
    call, scope = found
    if any(_leaves(node, scope, context) for node in walk_scope(scope.body)):
        return
    yield Finding(
        call,
        "only numbers leave this evaluation",
        "`no_grad` still counts versions and tracks views for an autograd that will not come",
        "use `torch.inference_mode()`",
        _fix(call, context),
    )


def _no_grad(region: EvalRegion, context: Context) -> tuple[cst.Call, cst.With | cst.FunctionDef] | None:
    """The `torch.no_grad()` that holds for the whole region, and what it is written on."""
    node = region.function.node
    if isinstance(node, cst.FunctionDef):
        for decorator in node.decorators:
            if _is_no_grad(decorator.decorator, context):
                return decorator.decorator, node  # type: ignore[return-value]
    for scope in region.forwards[0].scopes:
        for item in scope.items:
            if _is_no_grad(item.item, context) and all(scope in f.scopes for f in region.forwards):
                # What is made in it must not be read behind it: then the function ends with it.
                last = statements(node.body)[-2:] if isinstance(node, cst.FunctionDef) else ()
                return (item.item, scope) if any(s is scope for s in last) else None  # type: ignore[return-value]
    return None


def _is_no_grad(node: cst.BaseExpression, context: Context) -> bool:
    return isinstance(node, cst.Call) and not node.args and context.sem.qualified(node.func) == "torch.no_grad"


def _leaves(node: cst.CSTNode, scope: cst.With | cst.FunctionDef, context: Context) -> bool:
    """Whether a tensor may leave here: returned, stored, handed to an object that may keep it."""
    sem = context.sem
    if isinstance(node, (cst.Return, cst.Yield)):
        return isinstance(node.value, cst.From) or (node.value is not None and not _is_plain(node.value, context))
    if isinstance(node, (cst.Assign, cst.AugAssign)):
        targets = [t.target for t in node.targets] if isinstance(node, cst.Assign) else [node.target]
        stored = any(isinstance(t, (cst.Attribute, cst.Subscript)) for t in targets)
        return stored and not _is_plain(node.value, context)
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        owner = sem.value(node.func.value)
        if owner.is_tensor or owner.kind in (Kind.MODULE, Kind.LOSS_FN) or sem.qualified(node.func) is not None:
            return False
        return not all(_is_plain(arg.value, context) for arg in node.args)
    return False


def _is_plain(node: cst.BaseExpression, context: Context) -> bool:
    if isinstance(node, (cst.Tuple, cst.List)):
        return all(_is_plain(element.value, context) for element in node.elements)
    if isinstance(node, cst.Dict):
        return all(isinstance(e, cst.DictElement) and _is_plain(e.value, context) for e in node.elements)
    return context.sem.value(node).kind in _PLAIN


def _fix(call: cst.Call, context: Context) -> Fix:
    name, imports = torch_name(context.file, context.sem, "torch.inference_mode", call)
    return unsafe("Run in inference mode", *imports, Edit(*context.file.span(call.func), name))
