"""How the classes of a file keep their submodules: which attributes hold layers in a plain list or dict, where
`nn.Module` does not see them, and whether anything else makes them seen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import libcst as cst

from torchlint.nodes import argument, dotted, find
from torchlint.semantics.model import Semantics
from torchlint.semantics.names import OWN, Class, Function

_MODULE_ROOT = re.compile(r"^torch\.nn\.Module$|(^|\.)LightningModule$")
_TRAINED = re.compile(
    r"^torch\.nn\.((Lazy)?(Linear|Bilinear|Conv\w+|Embedding\w*|BatchNorm\w+|InstanceNorm\w+)|SyncBatchNorm|LayerNorm|GroupNorm|RMSNorm|PReLU"
    r"|LSTM|GRU|RNN|\w+Cell|MultiheadAttention|Transformer\w*)$"
)
# Calls that look at a list and keep nothing of it.
_LOOKING = frozenset("len enumerate zip range reversed print isinstance iter any all sum str repr type".split())
_GROWING = {"append": 0, "extend": 0, "insert": 1, "add": 0}


@dataclass(frozen=True, eq=False)
class PlainContainer:
    """An attribute of a Module class that holds trained layers in a plain container.

    `value`: what is assigned to `self.name`: a display, a comprehension, an empty list or dict, or the name of a local
    list. `elements`: the expressions that are put into it.
    """

    cls: Class
    name: str
    function: Function
    assign: cst.Assign = field(repr=False)
    value: cst.BaseExpression = field(repr=False)
    elements: tuple[cst.BaseExpression, ...] = field(repr=False)
    is_dict: bool
    grown: int  # so many elements come by `append` and the like

    @property
    def path(self) -> str:
        """`self.layers`, as a regular expression."""
        return re.escape(f"{self.function.params[0]}.{self.name}")


def is_module_class(sem: Semantics, cls: Class) -> bool:
    """Whether the class certainly is a plain nn.Module: every base outside of this file is nn.Module itself."""
    roots = sem.names.roots(cls)
    return bool(roots) and all(_MODULE_ROOT.search(r) or r in ("object", "abc.ABC") for r in roots) and any(
        _MODULE_ROOT.search(r) for r in roots
    )  # fmt: skip


def plain_containers(sem: Semantics, cls: Class) -> Iterator[PlainContainer]:
    """The attributes of the class (not of its bases) that keep layers out of `parameters()`."""
    for function in cls.methods.values():
        if not function.params or function.is_static:
            continue
        own = function.params[0]
        for assign in sem.file.within(function.node, cst.Assign):
            target = assign.targets[0].target
            if len(assign.targets) != 1 or not isinstance(target, cst.Attribute) or dotted(target.value) != own:
                continue
            found = _container(sem, cls, function, target.attr.value, assign)
            if found is not None:
                yield found


def _container(sem: Semantics, cls: Class, function: Function, name: str, assign: cst.Assign) -> PlainContainer | None:
    value = assign.value
    display: cst.BaseExpression | None = value
    path = f"{function.params[0]}.{name}"
    if isinstance(value, cst.Name):
        display, path = _display_of(sem, function, value.value), value.value
    if display is None or not _is_container(display):
        return None
    grown = [e for method in _methods(cls, function, path) for e in _grown(sem, method, path)]
    elements = (*_elements(display), *grown)
    if not any(_is_trained(sem, e) for e in elements):
        return None
    is_dict = isinstance(display, (cst.Dict, cst.DictComp)) or _calls(display, "dict", "OrderedDict")
    return PlainContainer(cls, name, function, assign, value, elements, is_dict, len(grown))


def _methods(cls: Class, function: Function, path: str) -> list[Function]:
    """Where the container may grow: in any method if it is an attribute, in its own function if it is a local."""
    return list(cls.methods.values()) if "." in path else [function]


def _display_of(sem: Semantics, function: Function, name: str) -> cst.BaseExpression | None:
    """What a local name is first bound to, where it is bound once."""
    values = [
        a.value
        for a in sem.file.within(function.node, cst.Assign)
        if any(isinstance(t.target, cst.Name) and t.target.value == name for t in a.targets)
    ]
    return values[0] if len(values) == 1 else None


def _is_container(node: cst.BaseExpression) -> bool:
    if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, (cst.Add, cst.Multiply)):
        return _is_container(node.left) or _is_container(node.right)
    return isinstance(node, (cst.List, cst.Tuple, cst.Dict, cst.ListComp, cst.DictComp)) or _calls(
        node, "list", "dict", "OrderedDict"
    )


def _calls(node: cst.BaseExpression, *names: str) -> bool:
    return isinstance(node, cst.Call) and not node.args and (dotted(node.func) or "").rpartition(".")[2] in names


def _elements(node: cst.BaseExpression) -> Iterator[cst.BaseExpression]:
    if isinstance(node, (cst.List, cst.Tuple)):
        for element in node.elements:
            yield element.value
    elif isinstance(node, cst.Dict):
        for pair in node.elements:
            yield pair.value
    elif isinstance(node, cst.ListComp):
        yield node.elt
    elif isinstance(node, cst.DictComp):
        yield node.value
    elif isinstance(node, cst.BinaryOperation):
        yield from _elements(node.left)
        yield from _elements(node.right)


def _grown(sem: Semantics, function: Function, path: str) -> Iterator[cst.BaseExpression]:
    """What is appended to the container, or stored under a key of it."""
    for node in sem.file.within(function.node, cst.Call):
        if not isinstance(node.func, cst.Attribute):
            continue
        index = _GROWING.get(node.func.attr.value)
        if index is None or dotted(node.func.value) != path or len(node.args) <= index:
            continue
        value = node.args[index].value
        yield from _elements(value) if node.func.attr.value == "extend" and _is_container(value) else [value]
    for assign in sem.file.within(function.node, cst.Assign):
        target = assign.targets[0].target
        if isinstance(target, cst.Subscript) and dotted(target.value) == path:
            yield assign.value


def _is_trained(sem: Semantics, node: cst.BaseExpression, depth: int = 0) -> bool:
    """Whether the expression makes a module, here and now, that certainly has parameters."""
    if isinstance(node, cst.Tuple):
        return any(_is_trained(sem, e.value, depth) for e in node.elements)
    if not isinstance(node, cst.Call):
        return False
    name = sem.qualified(node.func) or ""
    if name == "torch.nn.Sequential":
        return any(_is_trained(sem, a.value, depth) for a in node.args)
    if name.startswith(OWN):
        cls = sem.class_of(name)
        if cls is None or depth > 2 or not is_module_class(sem, cls):
            return False
        return any(_is_trained(sem, call, depth + 1) for call in find(cls.node, cst.Call))
    return _TRAINED.match(name) is not None


# -- other ways to be seen --------------------------------------------------------------------------------------------

_BY_HAND = re.compile(
    r"\b(add_module|register_module|setattr|__setattr__|_modules|__dict__"
    r"|requires_grad\w*|freeze\w*(?!\w|=False)|frozen|teachers?|stop_gradient)\b|\.parameters\(|\.eval\(\)"
    r"|def (parameters|named_parameters|modules|named_modules|children|_apply|state_dict|train|to|cuda)\b",
    re.I,
)


def kept_by_hand(sem: Semantics, held: PlainContainer) -> bool:
    """Whether the class handles its layers by hand somewhere, keeps them out on purpose, or hands the container on.

    Asked of the text: the tree may lack the methods in which no rule can find anything.
    """
    if any(_BY_HAND.search(class_text(sem, c)) for c in sem.names.mro(held.cls)):
        return True
    if isinstance(held.value, cst.List) and len(held.value.elements) == 1 and not held.grown:
        return True  # the known way to hide a module
    if isinstance(held.value, cst.Name) and _handed_on(sem, held.function, held.value.value, held.assign):
        return True
    own = class_text(sem, held.cls)
    for use in re.finditer(rf"\b{held.path}\b", own):
        if not _USED_AFTER.match(own, use.end()) and not _USED_BEFORE.search(own, 0, use.start()):
            return True
    return re.search(rf"\b(?!{held.path}\b)\w+\.{re.escape(held.name)}\b", sem.file.text) is not None


# What may stand behind and in front of a container that is only looked at, grown or assigned.
_USED_AFTER = re.compile(r"\s*\[|\.(append|extend|insert|items|keys|values|get|__len__)\(|\s*(:[^=\n]*)?=(?!=)")
_USED_BEFORE = re.compile(
    r"(\bin\s+|\bif\s+|\bnot\s+|\b(len|enumerate|zip|reversed|iter|print)\(([^()\n]|\([^()\n]*\))*)\Z"
)
_NEXT_STATEMENT = r"^[ \t]{0,%d}(class|def|async|@|if|for|while|with|try|import|from|[A-Za-z_]\w*\s*[=(.\[])"


def class_text(sem: Semantics, cls: Class) -> str:
    """The source of a class, all of its methods included."""
    text = sem.file.text
    start = sem.file.caret(cls.node)[0]
    indent = start - (text.rfind("\n", 0, start) + 1)
    end = re.compile(_NEXT_STATEMENT % indent, re.MULTILINE).search(text, start + 1)
    return text[start : end.start() if end is not None else len(text)]


def growths(sem: Semantics, held: PlainContainer) -> int:
    """How often the class puts something into the container, in methods that the tree lacks, too."""
    return len(
        re.findall(rf"\b{held.path}(\.(append|extend|insert)\(|\[[^\]\n]*\]\s*=(?!=))", class_text(sem, held.cls))
    )


def _handed_on(sem: Semantics, function: Function, name: str, but: cst.Assign) -> bool:
    """Whether a local container goes somewhere else as a whole: into a call that keeps it, another name, a return."""
    for node in find(function.node, cst.Name):
        parent = sem.file.parent(node)
        if node.value != name or parent is but:
            continue
        if isinstance(parent, cst.Arg):
            call = sem.file.parent(parent)
            if not isinstance(call, cst.Call) or (dotted(call.func) or "") not in _LOOKING:
                return True
        elif not isinstance(parent, (cst.Attribute, cst.Subscript, cst.For, cst.CompFor, cst.AssignTarget)):
            return True
    return False


def is_read(sem: Semantics, held: PlainContainer) -> bool:
    """Whether a method takes layers out of the container: by a loop, an index, a key."""
    read = rf"\bin\b[^\n]*\b{held.path}\b|\b{held.path}\s*\[[^\]\n]*\](?!\s*=[^=])"
    return re.search(read, class_text(sem, held.cls)) is not None


def initialised_before(sem: Semantics, function: Function, node: cst.CSTNode) -> bool:
    """Whether `super().__init__()` (or `Base.__init__(self)`) stands above the node in its function; a method other
    than `__init__` runs behind it."""
    if function.name != "__init__":
        return True
    place = sem.file.caret(node)[0]
    return any(sem.file.caret(call)[0] < place for call in base_inits(function))


def base_inits(function: Function) -> list[cst.Call]:
    """The calls of a base class's `__init__` in a function."""
    return [
        call
        for call in find(function.node, cst.Call)
        if isinstance(call.func, cst.Attribute)
        and call.func.attr.value == "__init__"
        and (isinstance(call.func.value, cst.Call) or (argument(call, "self", 0) is not None and bool(call.args)))
    ]
