"""A Module is given layers before, or without, `super().__init__()`.

## What it does
Reports an `__init__` of an `nn.Module` class that assigns layers or parameters to `self` and calls no base class's
`__init__`, or calls it only later.

## Why is this bad
`nn.Module.__init__` makes the tables in which layers are kept. Before it has run, the first assignment of one raises
`AttributeError: cannot assign module before Module.__init__() call`: the class cannot be made at all.

## Example
```python
class Net(nn.Module):
    def __init__(self, width):
        self.fc = nn.Linear(width, width)
```
Use instead:
```python
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc = nn.Linear(width, width)
```
Classes whose bases are not all known, that are decorated, made by a metaclass or `__new__`, that define `__setattr__`,
or that hand `self` to something which may initialise it, are not reported.

## Fix safety
Safe: code that raised an error runs. The call becomes the first statement of `__init__`. There is no fix where the
base class's own `__init__` asks for arguments.

## Verified by
Making the class: an AttributeError before, a Module with its layers in `parameters()` after.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.Module.html
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import move_before
from torchlint.nodes import dotted, find, walk
from torchlint.rule import Category, Context, Finding, Rule, safe
from torchlint.semantics import Class, Function, Kind
from torchlint.semantics.registration import base_inits, is_module_class

RULE = Rule(
    "TL118",
    Category.TRAINING,
    Severity.ERROR,
    triggers=(
        r"def __init__\((?:(?!super\(|\.__init__\(|\n[ \t]*(?:def|class)\b)[\s\S])*?"
        r"\bself\.\w+\s*=\s*[\w.]*\b[A-Z]\w*\(",
    ),
    requires=(r"\(\s*[\w.]*Module\b",),
    since="0.2",
    fixes=(Applicability.SAFE,),
)

_MODULES = (Kind.MODULE, Kind.LOSS_FN, Kind.PARAMETER)


@RULE.on
def check(node: cst.ClassDef, context: Context) -> Iterator[Finding]:
    cls = next((c for c in context.sem.classes if c.node is node), None)
    if cls is None or "__init__" not in cls.methods or not is_module_class(context.sem, cls):
        return
    init = cls.methods["__init__"]
    if not init.params or _is_special(cls, init, context):
        return
    assigned = next((a for a in find(init.node, cst.Assign) if _keeps_layer(a, init, context)), None)
    inits = base_inits(init)
    if assigned is None or context.file.enclosing(assigned, cst.FunctionDef) is not init.node:
        return
    place = context.file.caret(assigned)[0]
    if any(context.file.caret(call)[0] < place for call in inits):
        return
    name = dotted(assigned.targets[0].target)
    yield Finding(
        assigned.targets[0].target,
        f"`{name}` is assigned before `super().__init__()`"
        if inits
        else f"`{cls.qualname}` never calls `super().__init__()`",
        "nn.Module refuses layers until its own `__init__` has run, so this raises AttributeError",
        "call `super().__init__()` first",
        fix=_fix(cls, init, inits, context),
    )


def _keeps_layer(assign: cst.Assign, init: Function, context: Context) -> bool:
    target = assign.targets[0].target
    return (
        isinstance(target, cst.Attribute)
        and dotted(target.value) == init.params[0]
        and isinstance(assign.value, cst.Call)
        and context.sem.value(assign.value).kind in _MODULES
        and (context.sem.qualified(assign.value.func) or "").startswith("torch.nn.")
    )


def _is_special(cls: Class, init: Function, context: Context) -> bool:
    """Whether something else may initialise the object, or assignments may mean something else."""
    if cls.node.decorators or cls.node.keywords:
        return True
    family = list(context.sem.names.mro(cls))
    if any(m in c.methods for c in family for m in ("__new__", "__setattr__", "__init_subclass__")):
        return True
    own = init.params[0]
    for call in find(init.node, cst.Call):
        if dotted(call.func) == "super" or call in base_inits(init):
            continue
        if any(dotted(a.value) == own for a in call.args):
            return True
        if isinstance(call.func, cst.Attribute) and dotted(call.func.value) == own:
            helper = context.sem.names.method(cls, call.func.attr.value)
            if helper is not None and base_inits(helper):
                return True
        if isinstance(call.func, cst.Attribute) and isinstance(call.func.value, cst.Call):
            if dotted(call.func.value.func) == "super":
                return True
    return False


def _fix(cls: Class, init: Function, inits: list[cst.Call], context: Context) -> Fix | None:
    body = init.node.body
    if not isinstance(body, cst.IndentedBlock) or len(cls.bases) != 1:
        return None
    first = next((s for s in body.body if not _is_docstring(s)), None)
    if first is None:
        return None
    if not inits:
        base = context.sem.class_of(cls.bases[0])
        above = context.sem.names.method(base, "__init__") if base is not None else None
        if above is not None and len(above.params) > 1:
            return None
        start = context.file.span(first)[0]  # above the comments of the first statement
        text = context.file.indent(first) + "super().__init__()" + context.file.newline
        return safe("Call super().__init__() first", Edit(start, start, text))
    line = context.file.statement(inits[0])
    if len(inits) > 1 or not isinstance(line, cst.SimpleStatementLine) or len(line.body) != 1:
        return None
    if context.file.parent(line) is not body or _needs_locals(inits[0], init):
        return None
    return safe("Call super().__init__() first", *move_before(context.file, line, first))


def _is_docstring(statement: cst.CSTNode) -> bool:
    small = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) else None
    return isinstance(small, cst.Expr) and isinstance(small.value, (cst.SimpleString, cst.ConcatenatedString))


def _needs_locals(call: cst.Call, init: Function) -> bool:
    """Whether the call's arguments are more than the parameters of `__init__`, so that its place matters."""
    names = {n.value for arg in call.args for n in walk(arg.value) if isinstance(n, cst.Name)}
    return not names <= {*init.params, "self"} or any(True for a in call.args for _ in find(a.value, cst.Attribute))
