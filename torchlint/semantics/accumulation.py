"""Values that grow over the turns of a loop, and where the autograd graphs go that they collect.

`total += loss`, `total = total + loss` and `losses.append(loss)` are growths. Names are followed through assignments
that keep the graph; `.item()`, `.detach()`, `float(…)` and the like end it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from torchlint.nodes import children, dotted, find, literal, walk
from torchlint.semantics.effects import Effect, Event
from torchlint.semantics.kinds import Graph, Kind
from torchlint.semantics.model import Semantics
from torchlint.semantics.names import Function
from torchlint.spelling import same

Loop = cst.For | cst.While
_NO_GRAPH = (Kind.NUMBER, Kind.NDARRAY, Kind.STRING, Kind.NONE, Kind.MODULE, Kind.FUNCTION, Kind.RANGE, Kind.DICT)
# Methods and attributes behind which a value no longer carries the graph.
_LEAVES_GRAPH = frozenset(
    ("item", "detach", "data", "tolist", "numpy", "shape", "size", "device", "dtype", "grad_fn", "requires_grad")
)
_SAME_GRAPH = frozenset(
    "mean sum clone cpu cuda to view squeeze reshape float double half unsqueeze flatten abs sqrt".split()
)
_LOOKING = frozenset(
    """format append write add_scalar add_scalars info debug warning log set_postfix set_postfix_str set_description
    log_metric log_metrics join extend update""".split()
)
_LOOKING_BUILTINS = frozenset(
    "print str repr len float int round sum min max abs sorted list tuple enumerate zip format isinstance".split()
)


# -- what grows ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Growth:
    """A statement that adds `added` to what `name` holds already."""

    at: cst.CSTNode
    name: str
    target: cst.BaseExpression
    added: cst.BaseExpression
    function: Function
    loops: tuple[Loop, ...]  # of the function, innermost first
    is_list: bool = False


def growth_at(node: cst.AugAssign | cst.Assign | cst.Call, sem: Semantics) -> Growth | None:
    found = _grown(node, sem)
    if found is None:
        return None
    target, added, is_list = found
    name = dotted(target.value if isinstance(target, cst.Subscript) else target)
    if name is None:
        return None
    function = sem.function(node)
    loops = enclosing_loops(node, sem)
    if not loops and not name.startswith("self."):
        return None
    return Growth(node, name, target, added, function, loops, is_list)


def _grown(
    node: cst.AugAssign | cst.Assign | cst.Call, sem: Semantics
) -> tuple[cst.BaseExpression, cst.BaseExpression, bool] | None:
    if isinstance(node, cst.AugAssign):
        if not isinstance(node.operator, cst.AddAssign):
            return None
        if isinstance(node.value, cst.List) and len(node.value.elements) == 1:
            return node.target, node.value.elements[0].value, True  # `losses += [loss]`
        if sem.value(node.target).kind in (Kind.LIST, Kind.NDARRAY):
            return None
        return node.target, node.value, False
    if isinstance(node, cst.Call):
        func = node.func
        if (
            not isinstance(func, cst.Attribute)
            or func.attr.value != "append"
            or len(node.args) != 1
            or node.args[0].star
        ):
            return None
        if sem.value(func.value).kind not in (Kind.LIST, Kind.UNKNOWN):
            return None
        return func.value, node.args[0].value, True
    if len(node.targets) != 1 or not isinstance(node.value, cst.BinaryOperation):
        return None
    target, value = node.targets[0].target, node.value
    if not isinstance(value.operator, cst.Add):
        return None
    for old, new in ((value.left, value.right), (value.right, value.left)):
        if same(old, target):
            return target, new, False
    return None


def enclosing_loops(node: cst.CSTNode, sem: Semantics) -> tuple[Loop, ...]:
    loops: list[Loop] = []
    for ancestor in sem.file.ancestors(node):
        if isinstance(ancestor, (cst.For, cst.While)):
            loops.append(ancestor)
        elif isinstance(ancestor, (cst.FunctionDef, cst.Lambda)):
            break
    return tuple(loops)


def starts_anew(growth: Growth, scope: cst.CSTNode) -> bool:
    """Whether each turn of the scope assigns the total something that does not build on it, or empties it.

    What is done every so many turns (`if step % 100 == 0: total = 0`) leaves it growing in between.
    """
    for node in walk(scope, into=lambda n: not isinstance(n, cst.ClassDef) and not _is_now_and_then(n)):
        if isinstance(node, cst.Assign) and node is not growth.at:
            if any(growth.name in bound_names(t.target) for t in node.targets) and not _mentions(
                node.value, growth.name
            ):
                return True
        elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
            if node.func.attr.value in ("clear", "pop", "popleft") and dotted(node.func.value) == growth.name:
                return True
        elif isinstance(node, cst.Del) and growth.name in bound_names(node.target):
            return True
    return False


def _is_now_and_then(node: cst.CSTNode) -> bool:
    """`if step % 100 == 0:`, whatever else is asked for."""
    return isinstance(node, cst.If) and any(
        isinstance(n.operator, cst.Modulo) for n in find(node.test, cst.BinaryOperation)
    )


def bound_names(target: cst.CSTNode) -> set[str]:
    if isinstance(target, (cst.Tuple, cst.List)):
        return {n for e in target.elements for n in bound_names(e.value)}
    if isinstance(target, cst.Subscript):
        return bound_names(target.value) if any(isinstance(e.slice, cst.Slice) for e in target.slice) else set()
    name = dotted(target)
    return {name} if name is not None else set()


def _mentions(node: cst.CSTNode, name: str) -> bool:
    return any(dotted(n) == name for n in walk(node) if isinstance(n, (cst.Name, cst.Attribute)))


# -- what carries a graph -----------------------------------------------------------------------------------------


def may_carry(node: cst.BaseExpression, sem: Semantics) -> bool:
    """False where the added value certainly is a number or a tensor without graph."""
    value = sem.value(node)
    if isinstance(node, (cst.Tuple, cst.List)):
        return bool(list(carriers(node, sem)))
    return value.kind not in _NO_GRAPH and value.graph is not Graph.DETACHED and bool(list(carriers(node, sem)))


def carriers(node: cst.BaseExpression, sem: Semantics) -> Iterator[cst.BaseExpression]:
    """The parts of a sum or product that may bring a graph: names, items, attributes, calls of unknown making."""
    if isinstance(node, cst.BinaryOperation):
        yield from carriers(node.left, sem)
        yield from carriers(node.right, sem)
        return
    if isinstance(node, cst.UnaryOperation):
        yield from carriers(node.expression, sem)
        return
    if isinstance(node, (cst.Tuple, cst.List)):  # `kept.append((step, loss))`
        for element in node.elements:
            yield from carriers(element.value, sem)
        return
    value = sem.value(node)
    if value.kind in _NO_GRAPH or value.graph is Graph.DETACHED or literal(node) is not ...:
        return
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value in ("len", "float", "int"):
        return
    if isinstance(node, (cst.Name, cst.Attribute, cst.Subscript)):
        if not (isinstance(node, cst.Attribute) and node.attr.value in _LEAVES_GRAPH):
            yield node
    elif isinstance(node, cst.Call):
        func = node.func
        if isinstance(func, cst.Attribute) and func.attr.value in _LEAVES_GRAPH:
            return
        yield node


def base_name(node: cst.BaseExpression) -> str | None:
    """`loss` of `loss`, `loss.mean()`, `loss.to(device)`: the name whose graph the expression carries."""
    while isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value in _SAME_GRAPH:
        node = node.func.value
    if isinstance(node, cst.Subscript):
        return dotted(node.value)
    return dotted(node)


def recording_off(node: cst.CSTNode, sem: Semantics) -> bool:
    """Whether the statement stands under `with torch.no_grad()`: a sum made there has no graph."""
    for ancestor in sem.file.ancestors(node):
        if isinstance(ancestor, cst.With):
            for item in ancestor.items:
                target = item.item.func if isinstance(item.item, cst.Call) else item.item
                if sem.qualified(target) in ("torch.no_grad", "torch.inference_mode", "torch.set_grad_enabled"):
                    return True
        elif isinstance(ancestor, cst.FunctionDef):
            return False
    return False


# -- what is differentiated ---------------------------------------------------------------------------------------


def differentiated(event: Event) -> set[str]:
    """The names whose graph a backward call runs through: its receiver's, and its arguments' (`engine.backward(x)`)."""
    node = event.node
    if not isinstance(node, cst.Call):
        return {event.subject} if event.subject else set()
    names: set[str] = {event.subject} if event.subject else set()
    parts: list[cst.BaseExpression] = [a.value for a in node.args if a.keyword is None]
    if isinstance(node.func, cst.Attribute):
        parts.append(node.func.value)
    for part in parts:
        names |= _graph_names(part)
    return names


def _graph_names(node: cst.BaseExpression) -> set[str]:
    """Names in an expression, divisors and called functions left out."""
    if isinstance(node, cst.BinaryOperation):
        right = set() if isinstance(node.operator, (cst.Divide, cst.FloorDivide)) else _graph_names(node.right)
        return _graph_names(node.left) | right
    if isinstance(node, cst.Call):
        names = {n for a in node.args for n in _graph_names(a.value)}
        if isinstance(node.func, cst.Attribute):
            names |= _graph_names(node.func.value)
        return names
    if isinstance(node, cst.Subscript):
        return _graph_names(node.value)
    name = dotted(node)
    return {name} if name is not None else set()


def is_last_item(event: Event, name: str) -> bool:
    """`losses[-1].backward()`: the list itself is kept, only its newest item is differentiated."""
    func = event.node.func if isinstance(event.node, cst.Call) else None
    if not isinstance(func, cst.Attribute) or not isinstance(func.value, cst.Subscript):
        return False
    index = func.value.slice[0].slice
    return dotted(func.value.value) == name and isinstance(index, cst.Index) and literal(index.value) == -1


def retains_graph(event: Event) -> bool:
    if not isinstance(event.node, cst.Call):
        return True
    given = [
        a for a in event.node.args if a.keyword is not None and a.keyword.value in ("retain_graph", "create_graph")
    ]
    return any(literal(a.value) is not False for a in given)


def rebound_between(name: str, one: cst.CSTNode, other: cst.CSTNode, scope: cst.CSTNode, sem: Semantics) -> bool:
    """Whether the name gets another value between two places: `loss = reduce(loss)` after backward is not that loss."""
    first, last = sorted((sem.file.caret(one)[0], sem.file.caret(other)[0]))
    for node in find(scope, cst.AssignTarget):
        if name in bound_names(node.target) and first < sem.file.caret(node)[0] < last:
            return True
    return False


def derived(names: set[str], scope: cst.CSTNode, growth: Growth) -> set[str]:
    """Names in the scope that are computed from these with their graph, the total itself left out."""
    result = set(names)
    for _ in range(4):
        size = len(result)
        for node in walk(scope):
            if isinstance(node, cst.Assign) and node is not growth.at:
                if _graph_names(node.value) & result:
                    result |= {n for t in node.targets for n in bound_names(t.target)}
            elif isinstance(node, cst.AugAssign) and node is not growth.at:
                if _graph_names(node.value) & result and (name := dotted(node.target)) is not None:
                    result.add(name)
            elif isinstance(node, cst.WithItem) and node.asname is not None:
                if isinstance(node.item, cst.Call) and _graph_names(node.item) & result:
                    result |= bound_names(node.asname.name)
        if len(result) == size:
            break
    return result - {growth.name}


def is_differentiated(growth: Growth, sem: Semantics) -> bool:
    """Whether anything made from the total is differentiated, in the function or, for an attribute, in its class."""
    functions = [growth.function]
    if growth.name.startswith("self.") and growth.function.cls is not None:
        functions = [m for c in sem.names.mro(growth.function.cls) for m in c.methods.values()]
    for function in functions:
        events = sem.events(function, Effect.BACKWARD, Effect.GRAD)
        if not events:
            continue
        made = _made_from(growth, function.node, sem)
        for event in events:
            if growth.is_list and is_last_item(event, growth.name):
                continue
            if differentiated(event) & (made | _clause_names(event, made, sem)):
                return True
    return False


def _clause_names(event: Event, made: set[str], sem: Semantics) -> set[str]:
    """Names that comprehensions around the event bind to items of the total: `[part.backward() for part in parts]`."""
    return {
        name
        for ancestor in sem.file.ancestors(event.node)
        if isinstance(ancestor, (cst.ListComp, cst.SetComp, cst.GeneratorExp, cst.DictComp))
        for clause in find(ancestor, cst.CompFor)
        if any(_carried(n, clause.iter) for n in made)
        for name in bound_names(clause.target)
    }


# -- where the graph goes -----------------------------------------------------------------------------------------


def _made_from(growth: Growth, scope: cst.CSTNode, sem: Semantics) -> set[str]:
    """The total, and the names that get it or something computed from it with its graph."""
    known = sem.once(_flows_by_scope)
    flows = known.get(scope)
    if flows is None:
        flows = known[scope] = list(_flows(scope))
    result = {growth.name}
    for _ in range(4):
        size = len(result)
        for kept, bound in flows:
            if not result.isdisjoint(kept):
                result |= bound
        if len(result) == size:
            break
    return result


def _flows_by_scope(_: Semantics) -> dict[cst.CSTNode, list[tuple[set[str], set[str]]]]:
    return {}


def _flows(scope: cst.CSTNode) -> Iterator[tuple[set[str], set[str]]]:
    """For each binding in a scope, the names whose graph the bound value may hold, and the names bound to it."""
    for node in walk(scope):
        if isinstance(node, cst.Assign):
            yield kept_names(node.value), {n for t in node.targets for n in bound_names(t.target)}
        elif isinstance(node, cst.AugAssign):
            if (name := dotted(node.target)) is not None:
                yield kept_names(node.value), {name}
        elif isinstance(node, cst.For):
            yield kept_names(node.iter), bound_names(node.target)


def _carried(name: str, node: cst.BaseExpression) -> bool:
    """Whether the expression's value may hold the graph of what the name holds."""
    return name in kept_names(node)


def kept_names(node: cst.BaseExpression) -> set[str]:
    """The names whose graph the expression's value may hold."""
    if isinstance(node, cst.Call):
        func = node.func
        if isinstance(func, cst.Attribute) and func.attr.value in _LEAVES_GRAPH:
            return set()
        if isinstance(func, cst.Name) and func.value in ("float", "int", "len", "str", "print", "round", "isinstance"):
            return set()
        names = {n for a in node.args for n in kept_names(a.value)}
        if isinstance(func, cst.Attribute):
            names |= kept_names(func.value)
        return names
    if isinstance(node, cst.Attribute) and node.attr.value in _LEAVES_GRAPH:
        return set()
    if isinstance(node, (cst.Name, cst.Attribute)):
        name = dotted(node)
        return {name} if name is not None else kept_names(node.value) if isinstance(node, cst.Attribute) else set()
    names = set()
    if isinstance(node, (cst.FormattedString, cst.Comparison, cst.Lambda)):
        return names
    for child in children(node):
        for part in walk(child):
            if isinstance(part, cst.BaseExpression):
                names |= kept_names(part)
                break
    return names


def escapes(growth: Growth, sem: Semantics, *, means: bool = False) -> bool:
    """Whether the total may get, with its graph, where it cannot be followed: returned, yielded, given to a call.

    With `means` one that is returned divided, as evaluations give their averages, does not.
    """
    scope = growth.function.node
    made = _made_from(growth, scope, sem)
    for node in walk(scope):
        if isinstance(node, (cst.Return, cst.Yield)):
            value = node.value.item if isinstance(node.value, cst.From) else node.value
            average = means and isinstance(value, cst.BinaryOperation) and isinstance(value.operator, cst.Divide)
            if value is not None and not average and kept_names(value) & made:
                return True
        elif isinstance(node, cst.Call) and not _reports(node, sem):
            if any(kept_names(a.value) & made for a in node.args):
                return True
    return False


def _reports(call: cst.Call, sem: Semantics) -> bool:
    """Whether a call only looks at its arguments: prints, formats, logs, or collects them as the growth itself does."""
    if isinstance(call.func, cst.Attribute) and call.func.attr.value in _LOOKING:
        return True
    name = sem.qualified(call.func) or dotted(call.func) or ""
    return name in _LOOKING_BUILTINS or name.partition(".")[0] in (
        "numpy",
        "math",
        "torch",
        "logging",
        "wandb",
        "mlflow",
    )
