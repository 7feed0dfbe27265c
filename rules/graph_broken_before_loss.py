"""`backward()` is called on a value whose graph was cut off: no gradient reaches the model.

## What it does

Follows what `backward()` is called on, and reports where the last of its graph ends: `.item()`, `.detach()`, `.data`,
`.numpy()`, `float(t)`, `torch.tensor(t)`, `Variable(t)` or `.argmax()` applied to what a model gave, or to a loss.

## Why is this bad

Nothing behind that place is trained. As it stands `backward()` raises "element 0 of tensors does not require grad";
with `requires_grad=True`, the answer that comes to hand, it runs without a word and computes the gradient of a number
with respect to itself. The optimizer then steps with no gradients, and the loss stays where it was.

## Example

```python
loss = torch.tensor(criterion(model(x), y).item(), requires_grad=True)
loss.backward()      # no parameter of the model gets a gradient
```

Use instead:

```python
loss = criterion(model(x), y)
loss.backward()
```

Silent as long as anything in the value carries a graph (a detached target, teacher or advantage beside it), where the
cut tensor's own `.grad` is read (gradients that are passed on by hand), and where a way to the value is not understood.

## Fix safety

There is no fix: what was meant is a loss of operations that can be differentiated.

## Verified by

Runs of the example: the parameters' gradients are None after `backward()`.

## References

- <https://docs.pytorch.org/docs/stable/notes/autograd.html>
- <https://docs.pytorch.org/docs/stable/generated/torch.tensor.html>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import dotted, find
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Kind
from torchlint.semantics.made import Scope
from torchlint.semantics.severed import Graphs, name_of, severed

RULE = Rule(
    "TL116",
    Category.TRAINING,
    Severity.WARNING,
    triggers=(r"\.backward\(\s*\)",),
    requires=(
        r"\.item\(|\.detach_?\(|\.data\b|\.numpy\(|\bfloat\(|\b(Double|Float|Half)?[tT]ensor\(|Variable\(|argmax\(",
    ),
    since="0.1",
)

_AROUND = ("scale", "scale_loss")  # scaler.scale(loss).backward()


@RULE.on
def check(call: cst.Call, context: Context) -> Iterator[Finding]:
    func = call.func
    if not isinstance(func, cst.Attribute) or func.attr.value != "backward" or call.args:
        return
    root = func.value
    while isinstance(root, cst.Call) and isinstance(root.func, cst.Attribute) and root.func.attr.value in _AROUND:
        if not root.args:
            return
        root = root.args[0].value
    if context.sem.value(root).kind in (Kind.MODULE, Kind.OPTIMIZER, Kind.FRAMEWORK):
        return
    scope = Scope(context.sem, context.sem.function(call))
    place = severed(Graphs(), root, scope)
    if place is None or _passed_on_by_hand(place, scope, context):
        return
    code = context.file.code(place)
    text = code if len(code) < 50 and "\n" not in code else f"{name_of(place)}…"
    loss = context.file.code(root)
    yield Finding(
        place,
        f"`{text}` cuts the graph that `{loss if len(loss) < 30 else 'loss'}.backward()` needs",
        "no gradient reaches what was computed before, so it does not train",
        "keep tensors up to `backward()`, and take numbers for reports from a copy",
    )


def _passed_on_by_hand(place: cst.BaseExpression, scope: Scope, context: Context) -> bool:
    """Whether the cut tensor is a leaf of its own: its `.grad` is read, or an optimizer works on it."""
    parent = context.file.parent(place)
    while parent is not None and not isinstance(parent, cst.Assign):
        if isinstance(parent, cst.BaseStatement):
            return False
        parent = context.file.parent(parent)
    names = {dotted(t.target) for t in parent.targets} if parent is not None else set()
    if not isinstance(scope.function.node, (cst.FunctionDef, cst.Module)):
        return False
    for node in find(scope.function.node, cst.Attribute):
        if node.attr.value == "grad" and dotted(node.value) in names:
            return True
    for made in find(scope.function.node, cst.Call):
        if context.sem.value(made).kind is Kind.OPTIMIZER and any(
            dotted(n) in names for a in made.args for n in find(a, cst.Name)
        ):
            return True
    return False
