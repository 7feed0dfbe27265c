"""A Module keeps a constant tensor as a plain attribute, so that it stays behind when the Module moves.

## What it does

Reports `self.mask = torch.tril(…)` in the `__init__` of an `nn.Module` where other methods compute with `self.mask`.

## Why is this bad

`module.to(device)`, `.cuda()`, `.half()` and `.double()` move parameters and buffers, and nothing else. A plain tensor
stays on the CPU: the first forward on a GPU fails, or every forward copies it over with `self.mask.to(x.device)`, for
which the CPU has to wait. Under `nn.DataParallel` replicas get it from the wrong device.

## Example

```python
class Attention(nn.Module):
    def __init__(self, length):
        super().__init__()
        self.mask = torch.tril(torch.ones(length, length))
```

Use instead:

```python
class Attention(nn.Module):
    def __init__(self, length):
        super().__init__()
        self.register_buffer("mask", torch.tril(torch.ones(length, length)), persistent=False)
```

`persistent=False` leaves the state dict as it is, so that old checkpoints still load; leave it out for what training
changes and a checkpoint should hold.

Nothing is said of attributes that another method sets, too, of tensors made with `device=` or moved at once, of those
that are read only as numbers or shapes or to be indexed on the CPU, and of classes with their own `to`, `cuda` or
`_apply`.

## Fix safety

Unsafe: the attribute follows the Module's device and dtype from then on, which is the point.

## Verified by

`fixtures/tensor_attribute_not_buffer/run.py`: the attribute follows `module.double()`, results are the same.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.register_buffer>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Severity
from torchlint.nodes import dotted, find, walk
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Class, Function, Kind
from torchlint.semantics.origins import is_module

_MADE = r"\bself\.\w+\s*=\s*(?:torch\.\w+|tensor|Tensor|from_numpy|zeros|ones|arange|linspace)\("
RULE = Rule(
    "TL406",
    Category.DEVICE,
    Severity.WARNING,
    # The uses are in forward and in what it calls; only files with such an attribute are looked at.
    triggers=(_MADE, r"\bdef forward\("),
    requires=(_MADE, r"\bdef forward\("),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

_OWN_MOVES = frozenset(("to", "cuda", "cpu", "_apply", "half", "double", "float"))
# Methods that give the same values, in another shape or dtype.
_VIEWS = frozenset(
    "view reshape expand unsqueeze squeeze repeat transpose permute t flatten float long clone detach".split()
)


@RULE.on
def check(cls: cst.ClassDef, context: Context) -> Iterator[Finding]:
    names = context.sem.names
    own = next((c for c in names.classes.values() if c.node is cls), None)
    init = own.methods.get("__init__") if own is not None else None
    if own is None or init is None or not init.params:
        return
    family = list(names.mro(own))
    if not is_module(names, own):
        return
    if any(name in _OWN_MOVES for c in family for name in c.methods):
        return
    for assign in context.file.within(init.node, cst.Assign):
        attribute = _attribute(assign, init)
        if attribute is None or not re.match(_MADE, context.file.code(assign)) or not _is_constant(assign, context):
            continue
        uses = _uses(attribute, own, context)
        if not uses:
            continue
        copied = [u for u in uses if _is_moved(u, context)]
        if len(copied) < len(uses) and _may_be_scalar(assign.value, context):
            continue
        if len(copied) == len(uses):
            why = "`.to(…)` of the Module leaves it behind, and every forward copies it over"
        else:
            why = "`.to(…)` of the Module leaves it behind, so a forward on a GPU fails"
        yield Finding(
            assign.targets[0].target,
            f"`self.{attribute}` is a tensor that the Module does not know of",
            why,
            f'register it: `self.register_buffer("{attribute}", …, persistent=False)`',
            _fix(assign, attribute, init, context),
        )


def _attribute(assign: cst.Assign, init: Function) -> str | None:
    target = assign.targets[0].target
    if len(assign.targets) != 1 or not isinstance(target, cst.Attribute):
        return None
    return target.attr.value if dotted(target.value) == init.params[0] else None


def _is_constant(assign: cst.Assign, context: Context) -> bool:
    """Whether the value certainly is a plain tensor on the CPU that nothing learns."""
    value = context.sem.value(assign.value)
    if value.kind is not Kind.TENSOR or value.device != "cpu":
        return False
    for node in walk(assign.value):
        if isinstance(node, cst.Arg) and node.keyword is not None and node.keyword.value in ("device", "requires_grad"):
            return False
        if isinstance(node, cst.Attribute) and node.attr.value in (
            "to",
            "cuda",
            "requires_grad_",
            "Parameter",
            "type_as",
        ):
            return False
    return True


def _may_be_scalar(node: cst.BaseExpression, context: Context) -> bool:
    """Whether the tensor may have no dimension: such ones meet tensors of every device without being moved."""
    if not isinstance(node, cst.Call) or not (dotted(node.func) or "").endswith("tensor") or not node.args:
        return False
    data = node.args[0].value
    return not isinstance(data, (cst.List, cst.Tuple, cst.ListComp)) and context.sem.value(data).kind is not Kind.LIST


def _uses(attribute: str, cls: Class, context: Context) -> list[cst.Attribute] | None:
    """Where `forward` and what it reaches compute with the attribute; None where more than one place sets it."""
    written = rf"\.{re.escape(attribute)}\s*(?:\[[^\]\n]*\]\s*)?(?:[-+*/|&]?=(?!=)|:\s*[\w.\[\]]+\s*=)"
    changed = rf"\.{re.escape(attribute)}(?:\[[^\]\n]*\])?\.[a-z]\w*_\("
    if re.search(changed, context.file.text) or len(re.findall(written, context.file.text)) != 1:
        return None
    if f'"{attribute}"' in context.file.text:
        return None
    return [
        node
        for method in _reached(cls, context)
        for node in _own_attributes(method)
        if node.attr.value == attribute and _computes(node, context)
    ]


def _reached(cls: Class, context: Context) -> list[Function]:
    """`forward` and the methods that it names, directly or through others."""
    found: list[Function] = []
    names = ["forward"]
    for name in names:
        method = context.sem.names.method(cls, name)
        if method is not None and method.params and name != "__init__":
            found.append(method)
            names += {node.attr.value: None for node in _own_attributes(method) if node.attr.value not in names}
    return found


def _own_attributes(method: Function) -> Iterator[cst.Attribute]:
    return (node for node in find(method.node, cst.Attribute) if dotted(node.value) == method.params[0])


def _is_moved(node: cst.BaseExpression, context: Context) -> bool:
    parent = context.file.parent(_whole(node, context))
    return isinstance(parent, cst.Attribute) and parent.attr.value in ("to", "cuda", "type_as")


def _whole(node: cst.BaseExpression, context: Context) -> cst.BaseExpression:
    """The expression that only looks at the tensor in another way: `self.mask[None, :n].expand(b, -1)`."""
    while True:
        parent = context.file.parent(node)
        if isinstance(parent, cst.Subscript) and parent.value is node:
            node = parent
            continue
        call = context.file.parent(parent) if isinstance(parent, cst.Attribute) else None
        if isinstance(parent, cst.Attribute) and isinstance(call, cst.Call) and parent.attr.value in _VIEWS:
            node = call
            continue
        return node


def _computes(node: cst.BaseExpression, context: Context) -> bool:
    """Whether the tensor meets others here: a term of arithmetic, an argument of torch, or copied to where they are."""
    node = _whole(node, context)
    parent = context.file.parent(node)
    if isinstance(parent, cst.Attribute):
        return _is_moved(node, context)
    if isinstance(parent, cst.BinaryOperation):
        return _may_be_tensor(parent.left if parent.right is node else parent.right, context)
    if isinstance(parent, cst.Comparison):
        return any(_may_be_tensor(c.comparator, context) for c in parent.comparisons)
    if isinstance(parent, cst.ComparisonTarget):
        whole = context.file.parent(parent)
        return isinstance(whole, cst.Comparison) and _may_be_tensor(whole.left, context)
    call = context.file.parent(parent) if isinstance(parent, cst.Arg) else None
    if isinstance(call, cst.Call):
        target = context.sem.qualified(call.func) or ""
        if isinstance(call.func, cst.Attribute) and context.sem.value(call.func.value).kind in (
            Kind.TENSOR,
            Kind.BATCH,
        ):
            return call.func.attr.value not in ("view_as", "expand_as", "reshape_as", "to", "type_as")
        return target.startswith("torch.") and any(
            _may_be_tensor(a.value, context) for a in call.args if a is not parent
        )
    return False


def _may_be_tensor(node: cst.BaseExpression, context: Context) -> bool:
    """Whether the other operand is a tensor that moves with the Module or its input."""
    value = context.sem.value(node)
    made_here = isinstance(node, cst.Call) and value.device == "cpu"
    return value.kind in (Kind.TENSOR, Kind.PARAMETER, Kind.BATCH) and not made_here


# -- fix ----------------------------------------------------------------------------------------------------------


def _fix(assign: cst.Assign, attribute: str, init: Function, context: Context) -> Fix | None:
    """`self.register_buffer(…)` in the assignment's place, behind `super().__init__()`."""
    file = context.file
    line = file.parent(assign)
    body = init.node.body if isinstance(init.node, cst.FunctionDef) else None
    if not isinstance(line, cst.SimpleStatementLine) or not isinstance(body, cst.IndentedBlock):
        return None
    begun = [i for i, s in enumerate(body.body) if _calls_super(s)]
    place = next((i for i, s in enumerate(body.body) if s is line), None)
    if not begun or place is None or begun[0] >= place:
        return None
    text = f'{init.params[0]}.register_buffer("{attribute}", {file.code(assign.value)}, persistent=False)'
    return unsafe("register it as a buffer", file.replace(assign, text))


def _calls_super(statement: cst.CSTNode) -> bool:
    return any(isinstance(c.func, cst.Attribute) and c.func.attr.value == "__init__" for c in find(statement, cst.Call))
