"""A Module's `forward` is called directly, past everything that calling the Module does.

## What it does
Reports `model.forward(x)` where `model` is known to be an `nn.Module`, also as one that callers hand over, that a
function of another file makes, or that a dict holds.

## Why is this bad
`model(x)` runs forward and backward hooks, DistributedDataParallel's gradient synchronisation, weight and spectral
norm, pruning, FSDP's gathering, `torch.compile`'s compiled code. `model.forward(x)` runs none of them: results differ,
or gradients silently stay unsynchronised, as soon as one of them is added.

## Example
```python
output = model.forward(x)
```
Use instead:
```python
output = model(x)
```
`self.forward(...)`, `super().forward(...)`, `Class.forward(self, ...)` and wrappers that hand their own `forward` on to
a Module that they were given are not reported. Parts that a Module makes itself are, those in a ModuleList or of
another file's class included.

## Fix safety
Safe where the model is made in the same file from plain layers, handed to nothing that could hook or wrap it; unsafe
elsewhere, because hooks that were skipped will run.

## Verified by
Bitwise equal results, and a forward hook that runs after the fix and did not before.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.forward
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Question, Severity
from torchlint.nodes import dotted, find, has_star
from torchlint.rule import Category, Context, Finding, Rule, safe, unsafe
from torchlint.semantics import Class, Function, Kind, Value
from torchlint.semantics.blocks import unwrap_iteration
from torchlint.semantics.names import is_class_name
from torchlint.semantics.unit_tests import holds_unit_tests

RULE = Rule(
    "TL111",
    Category.TRAINING,
    Severity.WARNING,
    triggers=(r"\.forward\(",),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)

_HOOKING = re.compile(
    r"hook|parallel|weight_norm|spectral_norm|prun|parametriz|fsdp|fully_shard|compile|quant|torch\.jit|\bscript\b|\btrace\b|__call__|accelerat|deepspeed|fabric|lightning|compat",
    re.I,
)


@RULE.on
def check(call: cst.Call, context: Context) -> Iterator[Finding]:
    func = call.func
    if not isinstance(func, cst.Attribute) or func.attr.value != "forward":
        return
    receiver = func.value
    value = context.sem.value(receiver)
    maker = _maker(receiver, context)
    asked: tuple[Question, ...] = ()
    there = f"@{context.file.row(func)}"
    if value.kind is Kind.MODULE or (value.kind is Kind.LOSS_FN and value.origin.startswith("torch.nn.")):
        if not _is_module(value, context) and not _is_element(receiver, context):
            return
        if maker is not None:
            asked = (Question("is-known-as-no-module", maker),)
        elif value.evidence == "used":
            asked = (Question("other-than-module-there", there),)
    elif not _is_element(receiver, context):
        if holds_unit_tests(context.sem):
            return  # a test of a class is about its forward
        if maker is None and (value.kind is not Kind.UNKNOWN or not isinstance(receiver, _PLACES)):
            return
        asked = (Question("is-no-module", maker) if maker is not None else Question("no-module-there", there),)
    if isinstance(receiver, cst.Call) or _delegates(call, receiver, context) or _special(value, context):
        return
    name = context.file.code(receiver)
    edit = context.file.replace(func, name)
    hookless = _hookless(value, receiver, context)
    yield Finding(
        func,
        f"`{name}.forward(...)` is called directly",
        "hooks, DDP synchronisation, weight norm and compiled code are skipped",
        f"call `{name}(...)`",
        fix=safe("Call the module", edit) if hookless else unsafe("Call the module", edit),
        unless=asked,
    )


_PLACES = (cst.Name, cst.Attribute, cst.Subscript)


def _is_element(receiver: cst.BaseExpression, context: Context) -> bool:
    """Whether it is an item of a ModuleList, or what a loop takes from one."""
    if isinstance(receiver, cst.Subscript):
        return _holds_modules(receiver.value, context)
    if not isinstance(receiver, cst.Name):
        return False
    found = context.sem.reaching(context.sem.function(receiver)).uses.get(receiver, ())
    loops = [d.statement for d in found if d.kind == "loop"]
    return bool(loops) and all(
        isinstance(loop, cst.For) and _holds_modules(unwrap_iteration(loop.iter), context) for loop in loops
    )


_CONTAINERS = ("torch.nn.ModuleList", "torch.nn.ModuleDict", "torch.nn.Sequential")


def _holds_modules(node: cst.BaseExpression, context: Context) -> bool:
    value = context.sem.value(node)
    return value.kind is Kind.MODULE and value.origin in _CONTAINERS


def _maker(receiver: cst.BaseExpression, context: Context) -> str | None:
    """The class of another file that the receiver is made of: `Block` of `self.b = Block()`."""
    value = context.sem.value(receiver)
    made = value.node if isinstance(receiver, cst.Name) else None
    name, cls = dotted(receiver), context.sem.function(receiver).cls
    if made is None and name is not None and name.startswith("self.") and cls is not None:
        assigned = [
            a.value
            for method in cls.methods.values()
            for a in context.file.within(method.node, cst.Assign)
            if any(dotted(t.target) == name for t in a.targets)
        ]
        made = assigned[0] if len(assigned) == 1 else None
    if not isinstance(made, cst.Call):
        return None
    origin = context.sem.qualified(made.func) or ""
    foreign = origin and not origin.startswith(("~.", "torch."))
    return origin if foreign and is_class_name(origin) else None


def _is_module(value: Value, context: Context) -> bool:
    """Whether the receiver certainly is a Module: one of torch's, or of a class of this file that derives from it."""
    if value.origin.startswith("~."):
        return value.evidence != "used"
    return value.origin.startswith("torch.nn.") or value.evidence in ("made", "annotated", "used") or bool(value.origin)


def _delegates(call: cst.Call, receiver: cst.BaseExpression, context: Context) -> bool:
    """Whether this is a class talking about its own forward, or a wrapper handing it on."""
    name = dotted(receiver.value if isinstance(receiver, cst.Subscript) else receiver)
    if name is None:
        return True
    root = name.partition(".")[0]
    function: Function | None = context.sem.function(call)
    while function is not None:
        if function.is_method and root == function.params[0]:
            hands_on = function.name == "__call__" or function.name.startswith("forward")
            return name == root or (hands_on and (has_star(call) or not _makes(function, name)))
        function = function.parent
    return False


def _makes(function: Function, name: str) -> bool:
    """Whether the class makes that part of itself, and is no wrapper around what it is given."""
    parts = [
        a.value
        for method in (function.cls.methods.values() if function.cls is not None else ())
        for a in find(method.node, cst.Assign)
        if any(dotted(t.target) == name for t in a.targets)
    ]
    return bool(parts) and all(isinstance(p, cst.Call) for p in parts)


def _special(value: Value, context: Context) -> bool:
    """Whether the class of this file gives `__call__` or `forward` a meaning of its own."""
    cls = context.sem.class_of(value.origin)
    if cls is None:
        return False
    if context.sem.names.method(cls, "__call__") is not None:
        return True
    forward = context.sem.names.method(cls, "forward")
    return forward is not None and any(True for _ in find(forward.node, cst.Yield))


def _hookless(value: Value, receiver: cst.BaseExpression, context: Context) -> bool:
    """Whether no hook can exist: made in this function from a plain class of this file, and the file knows no hooks."""
    cls = context.sem.class_of(value.origin)
    name = receiver.value if isinstance(receiver, cst.Name) else None
    if cls is None or name is None or value.node is None or not _plain(cls, context):
        return False
    if any(_HOOKING.search(n.value) for n in context.file.all(cst.Name)):
        return False
    made = context.sem.function(value.node)
    if made is not context.sem.function(receiver):
        return False
    for call in find(made.node, cst.Call):
        target = context.sem.qualified(call.func) or dotted(call.func) or ""
        if any(dotted(a.value) == name for a in call.args) and not target.startswith(("print", "torch.save", "len")):
            return False
    return True


def _plain(cls: Class, context: Context) -> bool:
    return set(context.sem.names.roots(cls)) == {"torch.nn.Module"}
