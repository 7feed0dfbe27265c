"""What a name is before anything is assigned to it: by annotation, by the file's own calls, by how it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import dotted, literal, walk, walk_scope
from torchlint.semantics import knowledge
from torchlint.semantics.kinds import UNKNOWN, Kind, Value
from torchlint.semantics.names import OWN, Class, Function, Names, parameters

if TYPE_CHECKING:
    from torchlint.semantics.evaluate import Evaluator

NUMBER = Value(Kind.NUMBER)
BATCH = knowledge.BATCH


_TABLE = "parameters[]"  # indexed, so no method, and what has it no Module
_GIVEN = "torch()"  # handed to a function of torch that takes nothing but tensors
_ROW_GIVEN = "torch([i])"  # a row or an element of it is
_PART_GIVEN = "torch([:, i])"  # a part by several indices is, which lists do not have
_MEASURED = "size(i)"  # asked for the length of one axis, laid out anew, reduced along a `dim`
_AS_MODULE = "f(module)"  # handed to a function of the file that treats it as a Module
_TELLING = frozenset((cst.Attribute, cst.Call, cst.Subscript, cst.AssignTarget, cst.For, cst.CompFor, cst.NamedExpr))
_OF_LEAVES = frozenset("grad data detach clone shape size dim clamp_ clamp unsqueeze squeeze".split())
_SIZED = frozenset(("shape", "size", "ndim", "dim"))  # of a tensor, and not of a list of them


def collect_uses(ev: Evaluator) -> None:
    handed: list[tuple[Function, cst.Call, Function]] = []
    for function in [ev.names.module, *ev.names.functions.values()]:
        uses: dict[str, set[str]] = {}
        ev.uses[function] = uses
        cls = function.cls
        body = function.node if isinstance(function.node, cst.Module) else function.node.body
        given: list[tuple[str, str]] = []
        bound = list(function.params)
        looped: list[tuple[str, cst.BaseExpression]] = []
        for node in walk_scope(body, lambdas=True):
            if node.__class__ not in _TELLING:
                continue
            if isinstance(node, cst.Attribute):
                base = dotted(node.value) or item_text(node.value)
                if (
                    base is None
                    and node.attr.value in knowledge.TENSOR_ONLY
                    and (what := _part(node.value)) is not None
                ):
                    given.append(what)
                if base is None and node.attr.value in ("cuda", "to"):
                    base = dotted(_converted(node.value))
                if base is not None:
                    uses.setdefault(base, set()).add(node.attr.value)
                    if cls is not None and function.params and base.startswith(function.params[0] + "."):
                        key = base.partition(".")[2]
                        ev.class_uses.setdefault(cls.qualname, {}).setdefault(key, set()).add(node.attr.value)
            elif isinstance(node, cst.Call) and (base := dotted(node.func) or item_text(node.func)) is not None:
                uses.setdefault(base, set()).add("()")
                if "." in base and _names_axes(node, base.rpartition(".")[2]):
                    uses.setdefault(base.rpartition(".")[0], set()).add(_MEASURED)
                if base in ev.names.functions and base not in function.local - ev.names.module.local:
                    handed.append((function, node, ev.names.functions[base]))
                if node.args and base.rpartition(".")[2] in knowledge.TAKES_TENSOR:
                    name = ev.names.qualify_text(base, function) or ""
                    if name.startswith("torch.") and (what := _given(node.args[0])) is not None:
                        given.append(what)
            elif isinstance(node, cst.Subscript):
                if isinstance(node.value, cst.Attribute) and node.value.attr.value == "parameters":
                    uses.setdefault(dotted(node.value.value) or "", set()).add(_TABLE)
            elif isinstance(node, (cst.AssignTarget, cst.For, cst.CompFor, cst.NamedExpr)):
                bound += (n.value for n in walk(node.target) if isinstance(n, cst.Name))
                if isinstance(node, cst.For) and isinstance(node.target, cst.Name):
                    looped.append((node.target.value, node.iter))
        _share_with_items(uses, looped)
        for name, how in given:
            if bound.count(name) == 1:  # else what is given may be another thing than what was bound first
                uses.setdefault(name, set()).add(how)
    for function, call, callee in handed:
        _note_modules(ev, function, call, callee)


def _share_with_items(uses: dict[str, set[str]], looped: list[tuple[str, cst.BaseExpression]]) -> None:
    """What a loop does with each of some things is done with the one of a name, too: `for m in nets.values(): m.eval()`
    speaks of `nets["encoder"]`."""
    for name, iterated in looped:
        if isinstance(iterated, cst.Call) and isinstance(iterated.func, cst.Attribute) and not iterated.args:
            iterated = iterated.func.value if iterated.func.attr.value == "values" else iterated
        base = dotted(iterated)
        for key in [k for k in uses if base is not None and k.startswith(f"{base}[")]:
            uses[key] |= uses.get(name, set())


def item_text(node: cst.BaseExpression) -> str | None:
    """`nets[0]`, `models["encoder"]`: an item that is named by a constant, and so has uses of its own."""
    if not isinstance(node, cst.Subscript) or len(node.slice) != 1 or not isinstance(node.slice[0].slice, cst.Index):
        return None
    base, key = dotted(node.value), literal(node.slice[0].slice.value)
    return f"{base}[{key!r}]" if base is not None and isinstance(key, (int, str)) else None


def _note_modules(ev: Evaluator, function: Function, call: cst.Call, callee: Function) -> None:
    """Note which names a call hands to parameters that the called function, or both of them, treat as Modules."""
    for position, arg in enumerate(call.args):
        if arg.star:
            return
        if isinstance(arg.value, cst.Name):
            param = arg.keyword.value if arg.keyword is not None else "".join(callee.params[position : position + 1])
            here = ev.uses[function].setdefault(arg.value.value, set())
            there = ev.uses[callee].get(param, set())
            if Kind.MODULE in (used_as(there).kind, used_as(here | there).kind):
                here.add(_AS_MODULE)


# Methods with a `dim` where those of arrays have an `axis`.
_ALONG = frozenset("sum mean max min argmax argmin prod std var all any softmax sort norm cumsum squeeze".split())


def _names_axes(call: cst.Call, method: str) -> bool:
    """`x.size(0)`, `x.view(-1, 8)`, `x.argmax(dim=1)`: no list, no array and no model takes its axes so."""
    if method in ("size", "view"):
        numbers = [a for a in call.args if a.keyword is None and isinstance(literal(a.value), int)]
        return bool(numbers) and (method == "view" or len(call.args) == 1)
    return method in _ALONG and any(
        a.keyword is not None and a.keyword.value == "dim" and isinstance(literal(a.value), int) for a in call.args
    )


def _given(arg: cst.Arg) -> tuple[str, str] | None:
    """The name that is handed over, or of which a part is, and how."""
    if arg.keyword is not None or arg.star:
        return None
    return (arg.value.value, _GIVEN) if isinstance(arg.value, cst.Name) else _part(arg.value)


def _part(value: cst.BaseExpression) -> tuple[str, str] | None:
    if not isinstance(value, cst.Subscript) or not isinstance(value.value, cst.Name):
        return None
    if len(value.slice) > 1:
        return value.value.value, _PART_GIVEN
    return (value.value.value, _ROW_GIVEN) if isinstance(value.slice[0].slice, cst.Index) else None


# Conversions that may stand between a batch and its move to a device.
_CONVERSIONS = frozenset(
    "float double half long int bool byte type squeeze unsqueeze view reshape permute transpose contiguous".split()
)


def _converted(node: cst.BaseExpression) -> cst.BaseExpression:
    """`x` of `x.float()`, `Variable(x)`."""
    while isinstance(node, cst.Call):
        if isinstance(node.func, cst.Attribute) and node.func.attr.value in _CONVERSIONS:
            node = node.func.value
        elif (dotted(node.func) or "").rpartition(".")[2] == "Variable" and node.args:
            node = node.args[0].value
        else:
            break
    return node


def used(ev: Evaluator, function: Function, key: str) -> Value:
    """What the methods called on a name say about it."""
    known = ev.by_use.get((function, key))
    if known is None:
        known = ev.by_use[function, key] = used_as(_uses_of(ev, function, key))
    return known


def _uses_of(ev: Evaluator, function: Function, key: str) -> set[str]:
    scope: Function | None = function
    attrs: set[str] = set()
    root = key.partition(".")[0]
    while scope is not None:
        attrs |= ev.uses.get(scope, {}).get(key, set())
        if function.cls is not None and function.params and root == function.params[0] and "." in key:
            name = key.partition(".")[2]
            for cls in ev.names.mro(function.cls):
                attrs |= ev.class_uses.get(cls.qualname, {}).get(name, set())
            break
        if root in scope.local:
            break
        scope = scope.parent
    return attrs


def asked_as_tensor(ev: Evaluator, function: Function, name: str) -> bool:
    """Whether the function treats the name itself as a tensor, and not only parts of it."""
    told = used_as(_uses_of(ev, function, name)).kind is Kind.TENSOR
    return told or (name in function.params and _is_given_to_model(ev, function, name))


def _is_given_to_model(ev: Evaluator, function: Function, name: str) -> bool:
    """Whether it is an argument of a Module's forward that has a shape: what has one there is no array."""
    if function.name != "forward" or function.cls is None or not is_module(ev.names, function.cls):
        return False
    attrs = _uses_of(ev, function, name)
    return not attrs.isdisjoint(("shape", "size", "ndim")) and attrs.isdisjoint(knowledge.NOT_TENSOR)


def initial_values(ev: Evaluator, function: Function) -> dict[str, Value]:
    env: dict[str, Value] = {}
    node = function.node
    if isinstance(node, cst.Module):
        return env
    for param in parameters(node):
        name = param.name.value
        value = UNKNOWN
        if param.annotation is not None:
            value = annotation(ev, param.annotation.annotation, function)
        if param.star == "*":
            env[name] = Value(Kind.TUPLE, element=value)
            continue
        if param.star == "**":
            env[name] = Value(Kind.DICT, element=value)
            continue
        if value.kind is Kind.UNKNOWN:
            value = ev.reads.parameters[function, name] = ev.arguments.get((function, name), UNKNOWN)
            if value.kind is Kind.UNKNOWN:
                ev.unknown_parameters.add((function, name))
        if value.kind in (Kind.UNKNOWN, Kind.NONE) and param.default is not None:
            default = literal(param.default)
            if isinstance(default, (bool, int, float)):
                value = NUMBER
            elif isinstance(default, str):
                value = Value(Kind.STRING)
        if value.kind is Kind.UNKNOWN:
            told = used(ev, function, name)
            if told.kind is Kind.UNKNOWN and _is_given_to_model(ev, function, name):
                told = Value(Kind.TENSOR, evidence="used")
            value = value if told.kind is Kind.UNKNOWN and value.node is not None else told
        elif value.kind is Kind.BATCH and used(ev, function, name).kind is Kind.TENSOR:
            value = value.but(kind=Kind.TENSOR)  # what a loader gave could have been more than one
        env[name] = value
    if function.is_method and function.cls is not None:
        env[function.params[0]] = instance(ev, function.cls)
    return env


def is_module(names: Names, cls: Class) -> bool:
    """Whether the class derives from `nn.Module`, or from a framework's, through whatever of this file."""
    return any(knowledge.MODULE_BASES.match(root) for root in names.roots(cls))


def instance(ev: Evaluator, cls: Class) -> Value:
    roots = ev.names.roots(cls)
    if is_module(ev.names, cls):
        return Value(Kind.MODULE, cls.own)
    if any(knowledge.DATASET_BASES.match(r) for r in roots):
        return Value(Kind.DATASET, cls.own)
    if any(knowledge.OPTIMIZER_BASES.match(r) for r in roots):
        return Value(Kind.OPTIMIZER, cls.own)
    if any(knowledge.LOADERS.match(r) for r in roots) and ev.names.method(cls, "__iter__") is None:
        return Value(Kind.LOADER, cls.own, element=knowledge.BATCH)
    if (
        "forward" in {m for c in ev.names.mro(cls) for m in c.methods}
        and roots
        and not any(r.startswith("torch.autograd") for r in roots)
    ):
        return Value(Kind.MODULE, cls.own, evidence="used")
    return Value(Kind.OBJECT, cls.own)


def annotation(ev: Evaluator, node: cst.BaseExpression, function: Function) -> Value:
    if isinstance(node, cst.SimpleString):
        text = node.evaluated_value
        name = (
            ev.names.qualify_text(text, function)
            if isinstance(text, str) and text.replace(".", "").isidentifier()
            else None
        )
        return (knowledge.annotated(name) if name else None) or UNKNOWN
    if isinstance(node, cst.Subscript):
        head = dotted(node.value) or ""
        last = head.rpartition(".")[2]
        inner = [e.slice.value for e in node.slice if isinstance(e.slice, cst.Index)]
        if last == "Optional" and inner:
            return annotation(ev, inner[0], function)
        if last in ("List", "list", "Sequence", "Iterable", "Tuple", "tuple") and inner:
            kind = Kind.TUPLE if last.lower() == "tuple" else Kind.LIST
            return Value(kind, element=annotation(ev, inner[0], function), evidence="annotated")
        if last in ("Dict", "dict", "Mapping"):
            return Value(Kind.DICT, evidence="annotated")
        return annotation(ev, node.value, function)
    if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.BitOr):
        left, right = annotation(ev, node.left, function), annotation(ev, node.right, function)
        return left if right.kind in (Kind.UNKNOWN, Kind.NONE) else right if left.kind is Kind.UNKNOWN else UNKNOWN
    name = ev.names.qualify(node, function) or dotted(node)
    if name is None:
        return UNKNOWN
    if name.startswith(OWN) and (cls := ev.names.classes.get(name.removeprefix(OWN))):
        return instance(ev, cls).but(evidence="annotated")
    return knowledge.annotated(name) or UNKNOWN


def used_as(attrs: set[str]) -> Value:
    """The kind that a set of used attributes gives away, or UNKNOWN."""
    if not attrs:
        return UNKNOWN
    if _AS_MODULE in attrs and _TABLE not in attrs:
        return Value(Kind.MODULE, evidence="used")
    if "param_groups" in attrs or ("zero_grad" in attrs and "step" in attrs):
        return Value(Kind.OPTIMIZER, evidence="used")
    if {"scale", "step", "update"} <= attrs:
        return Value(Kind.SCALER, evidence="used")
    if "requires_grad_" in attrs and (len(attrs) == 1 or attrs & _OF_LEAVES):
        attrs = attrs - {"requires_grad_"}  # tensors have it, too
    if (
        attrs
        & {"parameters", "named_parameters", "named_modules", "modules", "children", "named_children", "requires_grad_"}
        or (
            attrs & {"eval", "train"}
            and attrs & {"()", "to", "cuda", "state_dict", "load_state_dict", "forward", "module"}
        )
        or {"()", "load_state_dict"} <= attrs
    ):
        if "fit" not in attrs and _TABLE not in attrs:
            return Value(Kind.MODULE, evidence="used")
    if attrs & {"batch_sampler", "collate_fn"} or ("dataset" in attrs and attrs & {"batch_size", "sampler"}):
        return Value(Kind.LOADER, element=BATCH, evidence="used")
    if attrs & knowledge.NOT_TENSOR:
        return UNKNOWN
    if (
        attrs & knowledge.TENSOR_ONLY
        or not attrs.isdisjoint((_GIVEN, _MEASURED))
        or _PART_GIVEN in attrs
        or (_ROW_GIVEN in attrs and attrs & _SIZED)
    ):
        return Value(Kind.TENSOR, evidence="used")
    return UNKNOWN
