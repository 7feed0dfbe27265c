"""A tensor that never changes is copied to the GPU in every turn of a loop.

## What it does

Reports `weights.to(device)` and `weights.cuda()` inside a loop where `weights` is a tensor on the CPU that the loop
neither binds nor changes, and the device is the same in every turn.

## Why is this bad

Every turn copies the same bytes again, from memory that is not pinned, so that the CPU waits for each copy. Class
weights, masks, anchors and normalisation constants are typical.

## Example

```python
weights = torch.tensor([1.0, 5.0])
for x, y in loader:
    loss = F.cross_entropy(model(x.to(device)), y.to(device), weight=weights.to(device))
```

Use instead:

```python
weights = torch.tensor([1.0, 5.0])
weights_moved = weights.to(device)
for x, y in loader:
    loss = F.cross_entropy(model(x.to(device)), y.to(device), weight=weights_moved)
```

Nothing is said of tensors that may lie on the device already (moving them again is free), of Modules, of code under a
condition, and of names that anything in the loop binds or writes into.

## Fix safety

Safe where the copy is only read: it is an argument of a function of torch or a term of arithmetic. Unsafe where it goes
elsewhere, because whoever changes it in place would then change it for the next turn, too.

## Verified by

`fixtures/invariant_transfer_in_loop/run.py`: bitwise results, fewer host-to-device copies counted on remapped CUDA
code.

## References

- <https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html#avoid-unnecessary-cpu-gpu-synchronization>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Severity
from torchlint.nodes import dotted
from torchlint.rule import Category, Context, Finding, Rule, safe, unsafe
from torchlint.semantics.blocks import always
from torchlint.semantics.flow import assigned_in
from torchlint.semantics.hoisting import changed_in, is_invariant
from torchlint.semantics.transfers import may_be_cuda, move_target

# Not `.to(x.device)`: where `x` is may differ from turn to turn, and library code is full of it.
_TO_DEVICE = (
    r"\.to\(\s*(?:device\s*=\s*)?"
    r"(?:(?:(?:self|args|opt|cfg|config)\.)?\w*[dD](?:evice|EVICE)\b|(?:torch\.device\()?[\"']cuda)"
)
RULE = Rule(
    "TL405",
    Category.DEVICE,
    Severity.WARNING,
    triggers=(_TO_DEVICE, r"\.cuda\("),
    requires=(r"\b(?:for|while)\b", r"tensor\(|from_numpy\(|Tensor\(|zeros\(|ones\(|arange\(|eye\(|full\(|linspace\("),
    shapes=("moves-in-loop",),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)


@RULE.on
def check(call: cst.Call, context: Context) -> Iterator[Finding]:
    func = call.func
    if not isinstance(func, cst.Attribute) or func.attr.value not in ("to", "cuda"):
        return
    name = dotted(func.value)
    value = context.sem.value(func.value)
    if name is None or not value.is_tensor or value.device != "cpu":
        return
    if func.attr.value == "to" and not re.search(_TO_DEVICE, context.file.code(call)):
        return
    moved, device = move_target(context.sem, call)
    if not moved or not may_be_cuda(context.sem, device):
        return
    loop = _loop(call, context)
    if loop is None or changed_in(name, loop):
        return
    bound = assigned_in(loop)
    if not is_invariant(func.value, bound) or not all(is_invariant(a.value, bound) for a in call.args):
        return
    outer = _outermost(call, name, loop, context)
    fix, fresh = _fix(call, name, outer, context)
    yield Finding(
        call,
        f"`{context.file.code(call)}` copies the same tensor to the device in every turn",
        "the loop never changes it, and the CPU waits for each copy",
        f"move it once, ahead of the loop{f', as `{fresh}`' if fresh else ''}",
        fix,
    )


def _loop(call: cst.Call, context: Context) -> cst.For | cst.While | None:
    """The innermost loop around the call that reaches it in every turn."""
    below: cst.CSTNode = call
    for ancestor in context.file.ancestors(call):
        if isinstance(ancestor, (cst.For, cst.While)):
            return ancestor if below is ancestor.body else None
        if isinstance(ancestor, (cst.IfExp, cst.BooleanOperation, cst.FunctionDef, cst.Lambda, cst.ClassDef)):
            return None
        if isinstance(ancestor, cst.If) and not always(ancestor):
            return None
        if isinstance(ancestor, (cst.ExceptHandler, cst.ListComp, cst.SetComp, cst.DictComp, cst.GeneratorExp)):
            return None
        below = ancestor
    return None


def _outermost(call: cst.Call, name: str, loop: cst.For | cst.While, context: Context) -> cst.For | cst.While:
    """The outermost loop ahead of which the copy still is the same; the tensor is made before it."""
    best = loop
    made = context.sem.value(call.func.value).node if isinstance(call.func, cst.Attribute) else None
    inside = set(map(id, context.file.ancestors(made))) if made is not None else set()
    for ancestor in context.file.ancestors(loop):
        if isinstance(ancestor, (cst.FunctionDef, cst.If, cst.With, cst.Try, cst.ClassDef)) and not always(ancestor):
            break
        if isinstance(ancestor, (cst.For, cst.While)):
            bound = assigned_in(ancestor)
            if changed_in(name, ancestor) or id(ancestor) in inside:
                break
            if not all(is_invariant(a.value, bound) for a in call.args):
                break
            best = ancestor
    return best


def _fix(call: cst.Call, name: str, loop: cst.For | cst.While, context: Context) -> tuple[Fix | None, str]:
    file = context.file
    function = context.sem.function(call)
    last = name.rpartition(".")[2].lstrip("_")
    fresh = f"{last.lower() if last.isupper() else last}_moved"
    code = file.code(call)
    taken = function.local | context.sem.names.module.local | set(context.sem.names.imports)
    if fresh in taken or "\n" in code or "#" in code or isinstance(file.parent(loop), cst.SimpleStatementSuite):
        return None, ""
    if isinstance(loop, cst.For) and loop.asynchronous is not None:
        return None, ""
    build = safe if _only_read(call, context) else unsafe
    edits = (file.insert_before(loop, f"{fresh} = {code}"), file.replace(call, fresh))
    return build("move it once", *edits), fresh


def _only_read(call: cst.Call, context: Context) -> bool:
    """Whether the copy goes nowhere but into arithmetic or into a function that is known not to change it."""
    parent = context.file.parent(call)
    if isinstance(parent, (cst.BinaryOperation, cst.Comparison, cst.ComparisonTarget)):
        return True
    called = context.file.parent(parent) if isinstance(parent, cst.Arg) else None
    if not isinstance(parent, cst.Arg) or not isinstance(called, cst.Call):
        return False
    target = context.sem.qualified(called.func) or ""
    if not target.startswith("torch.") or target.endswith("_"):
        return False
    return parent.keyword is None or parent.keyword.value in ("weight", "pos_weight", "other", "mask", "attn_mask")
