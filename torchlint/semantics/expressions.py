"""What each kind of expression is worth: the evaluator's cases for everything but calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import children, dotted, literal
from torchlint.semantics import knowledge
from torchlint.semantics.blocks import TRANSPARENT, unwrap_iteration
from torchlint.semantics.effects import Effect
from torchlint.semantics.frames import Frame, Summary
from torchlint.semantics.kinds import UNKNOWN, Graph, Kind, Value, join, join_all, join_graph
from torchlint.semantics.names import OWN, Function
from torchlint.semantics.origins import is_module, item_text, used

if TYPE_CHECKING:
    from torchlint.semantics.evaluate import Evaluator

NUMBER = Value(Kind.NUMBER)
DETACHED = Value(Kind.TENSOR, graph=Graph.DETACHED)
BATCH = knowledge.BATCH


def element_of(ev: Evaluator, node: cst.BaseExpression, value: Value, frame: Frame) -> Value:
    """What a `for` over this gives."""
    if isinstance(node, cst.Call):
        name = dotted(node.func) or ""
        last = name.rpartition(".")[2]
        args = [a.value for a in node.args if a.keyword is None and not a.star]
        if last == "enumerate" and args:
            inner = element_of(ev, args[0], ev.values.get(args[0], UNKNOWN), frame)
            return Value(Kind.TUPLE, items=(NUMBER, inner))
        if last == "zip":
            return Value(Kind.TUPLE, items=tuple(element_of(ev, a, ev.values.get(a, UNKNOWN), frame) for a in args))
        if last in TRANSPARENT and args:
            return element_of(ev, args[0], ev.values.get(args[0], UNKNOWN), frame)
        if last in ("range", "trange"):
            return NUMBER
        if last == "items" and isinstance(node.func, cst.Attribute):
            base = ev.values.get(node.func.value, UNKNOWN)
            return Value(Kind.TUPLE, items=(UNKNOWN, _held_by(base)))
        if last == "values" and isinstance(node.func, cst.Attribute):
            return _held_by(ev.values.get(node.func.value, UNKNOWN))
    if value.kind is Kind.LOADER:
        return value.element or BATCH
    if value.is_tensor:
        return Value(Kind.TENSOR, graph=value.graph, device=value.device)
    if value.kind is Kind.BATCH:
        return value
    if value.kind is Kind.RANGE:
        return NUMBER
    if value.element is not None:
        return value.element
    if value.items:
        return join_all(value.items)
    return UNKNOWN


def _held_by(value: Value) -> Value:
    """A value of a dict, or of a batch that is one."""
    return value if value.kind is Kind.BATCH else value.element or UNKNOWN


def other(ev: Evaluator, node: cst.CSTNode, frame: Frame) -> Value:

    for child in children(node):
        if isinstance(child, cst.BaseExpression):
            ev.eval(child, frame)
        else:
            other(ev, child, frame)
    return UNKNOWN


def name_value(ev: Evaluator, node: cst.Name, frame: Frame) -> Value:
    return ev.lookup(node.value, frame)


def attribute(ev: Evaluator, node: cst.Attribute, frame: Frame) -> Value:
    return attribute_of(ev, node, ev.eval(node.value, frame), frame)


def attribute_of(ev: Evaluator, node: cst.Attribute, base: Value, frame: Frame) -> Value:
    """The value of an attribute whose base has been evaluated."""
    key = dotted(node)
    attr = node.attr.value
    if key is not None and key in frame.env:
        value = frame.env[key]
        return value if value.kind is not Kind.UNKNOWN else ev.recover(key, value, frame)
    if key is not None and frame.self_name and key.startswith(frame.self_name + "."):
        found = self_attribute(ev, key.partition(".")[2], frame)
        if found is not None:
            return found
    if base.kind is Kind.MODULE and base.origin.startswith(OWN):
        if found := member(ev, base.origin, attr):
            return found
    if base.is_tensor or base.kind is Kind.BATCH:
        return _tensor_attribute(ev, base, attr, node)
    if base.kind is Kind.MODULE:
        if attr == "module":
            return base
        if attr in ("weight", "bias"):
            return Value(Kind.PARAMETER, graph=Graph.ATTACHED)
        if attr in ("device",):
            return Value(Kind.DEVICE)
        return UNKNOWN
    if base.kind is Kind.OBJECT and base.origin.startswith(OWN):
        return member(ev, base.origin, attr) or UNKNOWN
    if base.kind is Kind.LOADER and base.origin.startswith(OWN):
        if found := member(ev, base.origin, attr):
            return found
    if base.kind is Kind.LOADER and attr == "dataset":
        return Value(Kind.DATASET)
    if base.kind is Kind.LOADER and attr in ("sampler", "batch_sampler"):
        return Value(Kind.SAMPLER)
    if base.kind is Kind.NDARRAY:
        return (
            Value(Kind.TUPLE, element=NUMBER)
            if attr == "shape"
            else NUMBER
            if attr in ("size", "ndim")
            else Value(Kind.NDARRAY)
        )
    if key is not None:
        return ev.lookup(key, frame)
    return UNKNOWN


def self_attribute(ev: Evaluator, name: str, frame: Frame) -> Value | None:
    cls = frame.function.cls
    while cls is None and frame.function.parent is not None and frame.function.parent.cls is not None:
        cls = frame.function.parent.cls
    if cls is None:
        return None
    for owner in ev.names.mro(cls):
        value = ev.attributes.get((owner.qualname, name))
        ev.reads.attribute((owner.qualname, name), value)
        if value is not None and value.kind is not Kind.UNKNOWN:
            return value
        ev.missed.add((owner.qualname, name))
    if "." not in name and (method := ev.names.method(cls, name)) is not None:
        if isinstance(method.node, cst.FunctionDef) and any(
            dotted(d.decorator) == "property" for d in method.node.decorators
        ):
            return ev.summary(method).returns
        return Value(Kind.FUNCTION, method.own, node=method.node)
    by_use = used(ev, frame.function, f"{frame.self_name}.{name}") if frame.self_name else UNKNOWN
    if by_use.kind is Kind.UNKNOWN and is_module(ev.names, cls):
        # A module's member whose `forward` is called is a module, whoever made it.
        if any("forward" in ev.class_uses.get(c.qualname, {}).get(name, ()) for c in ev.names.mro(cls)):
            return Value(Kind.MODULE, evidence="used")
    return by_use if by_use.kind is not Kind.UNKNOWN else None


def member(ev: Evaluator, origin: str, attr: str) -> Value | None:
    cls = ev.names.classes.get(origin.removeprefix(OWN))
    if cls is None:
        return None
    for owner in ev.names.mro(cls):
        value = ev.attributes.get((owner.qualname, attr))
        ev.reads.attribute((owner.qualname, attr), value)
        if value is not None:
            return value
        ev.missed.add((owner.qualname, attr))
    method = ev.names.method(cls, attr)
    return Value(Kind.FUNCTION, method.own, node=method.node) if method is not None else None


def _tensor_attribute(ev: Evaluator, base: Value, attr: str, node: cst.Attribute) -> Value:
    if attr == "shape":
        return Value(Kind.TUPLE, "shape", element=NUMBER) if base.is_tensor else UNKNOWN
    if attr in ("data", "grad"):
        return base.but(graph=Graph.DETACHED, kind=Kind.TENSOR, items=None, node=node)
    if attr in ("T", "mT", "H", "real", "imag"):
        return base
    if attr == "device":
        return Value(Kind.DEVICE)
    if attr in ("ndim", "requires_grad", "is_cuda", "is_leaf", "itemsize", "nbytes"):
        return NUMBER
    if base.kind is Kind.BATCH:
        return base
    return UNKNOWN


def own_callee(ev: Evaluator, func: cst.BaseExpression, frame: Frame) -> Function | None:
    """The function of this file that a call expression reaches, if that is certain."""
    if isinstance(func, cst.Attribute):
        if isinstance(func.value, cst.Call) and dotted(func.value.func) == "super":
            cls = frame.function.cls
            if cls is not None:
                for owner in list(ev.names.mro(cls))[1:]:
                    if func.attr.value in owner.methods:
                        return owner.methods[func.attr.value]
            return None
        base = ev.values.get(func.value) or ev.eval(func.value, frame)
        if base.origin.startswith(OWN) and base.kind in (
            Kind.OBJECT,
            Kind.MODULE,
            Kind.DATASET,
            Kind.OPTIMIZER,
            Kind.LOADER,
            Kind.CLASS,
        ):
            cls = ev.names.classes.get(base.origin.removeprefix(OWN))
            if cls is not None and (method := ev.names.method(cls, func.attr.value)) is not None:
                return method
    value = ev.values.get(func) or UNKNOWN
    if value.kind is Kind.FUNCTION and value.origin.startswith(OWN):
        return ev.names.functions.get(value.origin.removeprefix(OWN))
    name = ev.names.qualify(func, frame.function)
    if name is not None and name.startswith(OWN):
        return ev.names.functions.get(name.removeprefix(OWN))
    return None


def subscript(ev: Evaluator, node: cst.Subscript, frame: Frame) -> Value:
    base = ev.eval(node.value, frame)
    for element in node.slice:
        slice_value(ev, element.slice, frame)
    if isinstance(node.value, cst.Attribute) and node.value.attr.value == "data":
        ev.emit(Effect.SYNC, node, frame, value=base, detail="data[0]")  # how `item` was written before 0.4
    if base.is_tensor:
        return Value(Kind.TENSOR, graph=base.graph, device=base.device)
    if base.kind is Kind.BATCH:
        return base
    index = node.slice[0].slice if len(node.slice) == 1 else None
    if isinstance(index, cst.Slice) and base.kind in (Kind.LIST, Kind.TUPLE):
        return base.but(items=None)
    if isinstance(index, cst.Index):
        key = literal(index.value)
        if base.items is not None:
            if base.keys is not None:
                if key in base.keys:
                    return base.items[base.keys.index(key)]
            elif isinstance(key, int) and -len(base.items) <= key < len(base.items):
                return base.items[key]
    if base.kind is Kind.NDARRAY:
        return Value(Kind.NDARRAY)
    if base.kind is Kind.DATASET:
        return BATCH
    if base.kind is Kind.MODULE:
        return Value(Kind.MODULE)
    if base.kind is Kind.UNKNOWN and base.origin == "torch.load":
        return base  # of a saved dict: whatever was kept there
    if base.element is None and base.kind in (Kind.UNKNOWN, Kind.LIST, Kind.DICT, Kind.TUPLE):
        if (item := item_text(node)) is not None and (by_use := used(ev, frame.function, item)).kind is Kind.MODULE:
            return by_use
    return base.element or UNKNOWN


def slice_value(ev: Evaluator, node: cst.CSTNode, frame: Frame) -> None:
    if isinstance(node, cst.Index):
        ev.eval(node.value, frame)
    elif isinstance(node, cst.Slice):
        for part in (node.lower, node.upper, node.step):
            if part is not None:
                ev.eval(part, frame)


def arithmetic(ev: Evaluator, left: Value, right: Value, frame: Frame) -> Value:
    kinds = (left.kind, right.kind)
    if left.is_tensor or right.is_tensor or Kind.BATCH in kinds:
        if Kind.NDARRAY in kinds:
            return UNKNOWN
        graph = Graph.DETACHED if frame.grad.off else join_graph((left, right))
        device = left.device if left.is_tensor and left.device == right.device else left.device or right.device
        return Value(Kind.TENSOR, graph=graph, device=device)
    if Kind.NDARRAY in kinds:
        return Value(Kind.NDARRAY)
    if left.kind is Kind.NUMBER and right.kind is Kind.NUMBER:
        return NUMBER
    if left.kind is right.kind and left.kind in (Kind.LIST, Kind.TUPLE, Kind.STRING):
        return left.but(items=None, element=left.element if left.element == right.element else None)
    return UNKNOWN


def binary(ev: Evaluator, node: cst.BinaryOperation, frame: Frame) -> Value:
    left = ev.eval(node.left, frame)
    right = ev.eval(node.right, frame)
    if left.kind is Kind.STRING and isinstance(node.operator, cst.Modulo):
        return Value(Kind.STRING)
    return arithmetic(ev, left, right, frame)


def unary(ev: Evaluator, node: cst.UnaryOperation, frame: Frame) -> Value:
    value = ev.eval(node.expression, frame)
    if isinstance(node.operator, cst.Not):
        return NUMBER
    return value.but(items=None, node=None) if value.kind in (Kind.TENSOR, Kind.NDARRAY, Kind.NUMBER) else UNKNOWN


def comparison(ev: Evaluator, node: cst.Comparison, frame: Frame) -> Value:
    values = [ev.eval(node.left, frame), *(ev.eval(c.comparator, frame) for c in node.comparisons)]
    if len(node.comparisons) == 1 and not isinstance(
        node.comparisons[0].operator, (cst.Is, cst.IsNot, cst.In, cst.NotIn)
    ):
        if any(v.is_tensor for v in values):
            return DETACHED
        if any(v.kind is Kind.NDARRAY for v in values):
            return Value(Kind.NDARRAY)
        if any(v.kind in (Kind.UNKNOWN, Kind.BATCH) for v in values):
            return Value(graph=Graph.DETACHED)
    return NUMBER


def boolean(ev: Evaluator, node: cst.BooleanOperation, frame: Frame) -> Value:
    return join(ev.eval(node.left, frame), ev.eval(node.right, frame))


def conditional(ev: Evaluator, node: cst.IfExp, frame: Frame) -> Value:
    ev.eval(node.test, frame)
    tested(ev, node.test, frame)
    return join(ev.eval(node.body, frame), ev.eval(node.orelse, frame))


def tested(ev: Evaluator, node: cst.BaseExpression, frame: Frame) -> None:
    """Python asks for the truth of an evaluated expression: of a tensor it has to be fetched."""
    if isinstance(node, cst.BooleanOperation):
        tested(ev, node.left, frame)
        tested(ev, node.right, frame)
    elif isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Not):
        tested(ev, node.expression, frame)
    elif ev.values.get(node, UNKNOWN).kind is Kind.TENSOR:
        value = ev.values[node]
        if isinstance(node, cst.Comparison):
            sides = [ev.values.get(n, UNKNOWN) for n in (node.left, *(c.comparator for c in node.comparisons))]
            value = next((v for v in sides if v.is_tensor), value)
        ev.emit(Effect.SYNC, node, frame, value=value, detail="bool")


_PYTHON_TYPES = {
    "dict": Kind.DICT, "list": Kind.LIST, "tuple": Kind.TUPLE, "set": Kind.SET, "str": Kind.STRING, "int": Kind.NUMBER,
    "float": Kind.NUMBER, "bool": Kind.NUMBER,
}  # fmt: skip


def narrow(ev: Evaluator, test: cst.BaseExpression, frame: Frame) -> None:
    """What holds under `if isinstance(name, dict)`, where nothing but uses said what the name is."""
    if not isinstance(test, cst.Call) or dotted(test.func) != "isinstance" or len(test.args) != 2:
        return
    name, kind = dotted(test.args[0].value), _PYTHON_TYPES.get(dotted(test.args[1].value) or "")
    if name and kind is not None and ev.values.get(test.args[0].value, UNKNOWN).evidence in ("", "used"):
        frame.env[name] = Value(kind)


def stored(container: Value, value: Value) -> Value:
    """A list or dict after a value was put into it."""
    return container.but(element=value if container.element is None else join(container.element, value))


def display(ev: Evaluator, node: cst.Tuple | cst.List, frame: Frame) -> Value:
    values = tuple(ev.eval(e.value, frame) for e in node.elements)
    kind = Kind.TUPLE if isinstance(node, cst.Tuple) else Kind.LIST
    starred = any(isinstance(e, cst.StarredElement) for e in node.elements)
    element = join_all(values) if values else None
    if element is not None and element.kind is Kind.LOADER and element.node is None:
        element = element.but(node=node)  # one of those that stand here
    return Value(
        kind,
        graph=join_graph(values) if values else Graph.UNKNOWN,
        node=node,
        element=element,
        items=None if starred else values,
    )


def dictionary(ev: Evaluator, node: cst.Dict, frame: Frame) -> Value:
    keys, values = [], []
    for element in node.elements:
        values.append(ev.eval(element.value, frame))
        if isinstance(element, cst.DictElement):
            ev.eval(element.key, frame)
            keys.append(literal(element.key))
        else:
            keys.append(...)
    whole = not any(k is ... for k in keys)
    return Value(
        Kind.DICT,
        node=node,
        element=join_all(values) if values else None,
        items=tuple(values) if whole else None,
        keys=tuple(keys) if whole else None,
    )


def comprehension(
    ev: Evaluator, node: cst.ListComp | cst.SetComp | cst.GeneratorExp | cst.DictComp, frame: Frame
) -> Value:
    saved = dict(frame.env)
    clause: cst.CompFor | None = node.for_in
    while clause is not None:
        iterated = ev.eval(clause.iter, frame)
        ev.bind(clause.target, element_of(ev, clause.iter, iterated, frame), frame, clause.iter)
        for condition in clause.ifs:
            ev.eval(condition.test, frame)
        clause = clause.inner_for_in
    if isinstance(node, cst.DictComp):
        ev.eval(node.key, frame)
        element = ev.eval(node.value, frame)
        kind = Kind.DICT
    else:
        element = ev.eval(node.elt, frame)
        kind = {cst.ListComp: Kind.LIST, cst.SetComp: Kind.SET}.get(node.__class__, Kind.ITERATOR)
    frame.env = saved
    return Value(kind, graph=element.graph, node=node, element=element)


def lambda_value(ev: Evaluator, node: cst.Lambda, frame: Frame) -> Value:
    saved = dict(frame.env)
    for param in node.params.params:
        frame.env[param.name.value] = UNKNOWN
    quiet = Frame(frame.function, frame.env, Summary(), frame.grad)
    ev.eval(node.body, quiet)
    frame.env = saved
    return Value(Kind.FUNCTION, node=node)


def named(ev: Evaluator, node: cst.NamedExpr, frame: Frame) -> Value:
    value = ev.eval(node.value, frame)
    ev.bind(node.target, value, frame, node.value)
    return value


def await_value(ev: Evaluator, node: cst.Await, frame: Frame) -> Value:
    return ev.eval(node.expression, frame)


def yield_value(ev: Evaluator, node: cst.Yield, frame: Frame) -> Value:
    given = node.value.item if isinstance(node.value, cst.From) else node.value
    value = ev.eval(given, frame)
    loop = frame.loops[-1] if frame.loops else None
    if not isinstance(node.value, cst.From) and isinstance(loop, cst.For) and isinstance(given, (cst.Name, cst.Tuple)):
        value = ev.values.get(unwrap_iteration(loop.iter), UNKNOWN) if _same_names(given, loop.target) else UNKNOWN
    if value.kind is Kind.LOADER:
        frame.returns.append(value)  # a generator that hands on the batches stands for their loader
    return UNKNOWN


def _same_names(one: cst.BaseExpression, other: cst.BaseExpression) -> bool:
    if isinstance(one, cst.Tuple) and isinstance(other, cst.Tuple) and len(one.elements) == len(other.elements):
        return all(_same_names(a.value, b.value) for a, b in zip(one.elements, other.elements))
    return isinstance(one, cst.Name) and isinstance(other, cst.Name) and one.value == other.value


def number(ev: Evaluator, node: cst.CSTNode, frame: Frame) -> Value:
    return NUMBER


def string(ev: Evaluator, node: cst.CSTNode, frame: Frame) -> Value:
    if isinstance(node, cst.FormattedString):
        for part in node.parts:
            if isinstance(part, cst.FormattedStringExpression):
                value = ev.eval(part.expression, frame)
                if value.is_tensor:
                    ev.emit(Effect.SYNC, part.expression, frame, value=value, detail="format")
    return Value(Kind.STRING)
