"""Where a loader's batches go: the moves to a device that they make, and the functions of other files that get them.

A batch is followed from the loop over its loader through unpacking, subscripts, plain methods and the file's own
functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import dotted, find, literal, walk
from torchlint.semantics import knowledge
from torchlint.semantics.blocks import unwrap_iteration
from torchlint.semantics.kinds import Kind, Value
from torchlint.semantics.names import OWN, Function, is_class_name
from torchlint.semantics.transfers import assigned, cast_to_cuda, is_device, move_target

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

_MAX_DEPTH = 4
_COMPREHENSIONS = (cst.ListComp, cst.SetComp, cst.GeneratorExp, cst.DictComp)


@dataclass(frozen=True, eq=False)
class BatchMove:
    """A call that moves (part of) a batch to a device.

    `loader`: the value of the iterated loader; its `node` is the DataLoader call where that is certain.
    `direct`: the batch, an item or an attribute of it is moved as the loader gave it, not a result computed from it.
    `device`: the device argument, None for a bare `.cuda()`. `helper`: a foreign function does it, given both.
    """

    call: cst.Call = field(repr=False)
    loader: Value
    direct: bool
    device: cst.BaseExpression | None = field(default=None, repr=False)
    helper: bool = False


@dataclass(eq=False)
class Followed:
    """Where batches went. `strangers`: what else they are given to, by its qualified name, with their loader."""

    moves: dict[cst.Call, BatchMove] = field(default_factory=dict)
    strangers: list[tuple[str, Value]] = field(default_factory=list)


def loader_value(sem: Semantics, node: cst.BaseExpression, depth: int = 0) -> Value | None:
    """The loader that an iterated expression goes over, through `enumerate`, `tqdm`, `iter`; None if it is none."""
    node = unwrap_iteration(node)
    value = sem.value(node)
    if value.kind is Kind.LOADER:
        return value
    if depth >= _MAX_DEPTH:
        return None
    if value.kind is Kind.ITERATOR and isinstance(value.node, cst.Call) and value.node.args:
        return loader_value(sem, value.node.args[0].value, depth + 1)
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "__iter__":
        return loader_value(sem, node.func.value, depth + 1)
    return None


def batch_moves(sem: Semantics) -> list[BatchMove]:
    """Every move of a loader's batch to a device, in source order per loop."""
    return list(followed(sem).moves.values())


def followed(sem: Semantics) -> Followed:
    """Where the batches of all the file's loops over loaders go."""
    return sem.once(_followed)


def _followed(sem: Semantics) -> Followed:
    trail = _Trail(sem)
    for function in sem.functions:
        for node in walk(function.body, into=_stays_in):
            if isinstance(node, cst.For):
                for target, loader in () if looks_once(sem, node) else _loaders(sem, node.target, node.iter):
                    trail.follow(node.body, _names(target), loader)
            elif isinstance(node, _COMPREHENSIONS):
                for clause in find(node, cst.CompFor):
                    for target, loader in _loaders(sem, clause.target, clause.iter):
                        trail.follow(node, _names(target), loader)
            elif isinstance(node, cst.Assign) and (taken := _next_of(sem, node.value)) is not None:
                trail.follow(function.body, {n for t in node.targets for n in _names(t.target)}, taken)
            elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
                is_move, device = move_target(sem, node)  # `next(batches).to(device)`
                if is_move and (taken := _next_of(sem, node.func.value)) is not None:
                    trail.found.moves.setdefault(node, BatchMove(node, taken, True, device))
    return trail.found


def given(sem: Semantics, wheres: Sequence[cst.CSTNode]) -> Followed:
    """Where that goes which loops in these functions and classes take from things of which nothing is known here: from
    the loader, where the asking file hands one over."""
    trail = _Trail(sem)
    for function in sem.functions:
        if not any(node in wheres for node in (function.node, *sem.file.ancestors(function.node))):
            continue
        for node in walk(function.body, into=_stays_in):
            body: cst.CSTNode = function.body
            if isinstance(node, cst.For):
                source, body, targets = node.iter, node.body, [node.target]
            elif isinstance(node, cst.Assign) and (drawn := _drawn_from(node.value)) is not None:
                source, targets = drawn, [t.target for t in node.targets]
            else:
                continue
            value = sem.value(unwrap_iteration(source))
            if value.kind in (Kind.UNKNOWN, Kind.ITERATOR, Kind.LOADER) and value.element in (None, knowledge.BATCH):
                trail.follow(body, {n for t in targets for n in _names(t)}, value)
    return trail.found


def given_to(sem: Semantics, function: Function) -> Followed:
    """Where the arguments of a function go that another file calls with a batch."""
    trail = _Trail(sem)
    params = function.params[1:] if function.is_method else function.params
    trail.follow(function.body, set(params), Value())
    return trail.found


def _loaders(
    sem: Semantics, target: cst.BaseExpression, iterated: cst.BaseExpression
) -> Iterator[tuple[cst.BaseExpression, Value]]:
    """(target, loader) for each loader that a `for` goes over; `zip` and `enumerate` are taken apart."""
    if isinstance(iterated, cst.Call):
        last = (dotted(iterated.func) or "").rpartition(".")[2]
        args = [a.value for a in iterated.args if a.keyword is None and not a.star]
        parts = [e.value for e in target.elements] if isinstance(target, (cst.Tuple, cst.List)) else []
        if last == "enumerate" and args and len(parts) == 2:
            yield from _loaders(sem, parts[1], args[0])
            return
        if last == "zip" and len(parts) == len(args):
            for part, arg in zip(parts, args):
                yield from _loaders(sem, part, arg)
            return
        if args and last not in ("zip", "enumerate") and unwrap_iteration(iterated) is not iterated:
            yield from _loaders(sem, target, args[0])
            return
    loader = loader_value(sem, iterated)
    if loader is not None:
        yield target, loader


def _next_of(sem: Semantics, node: cst.BaseExpression) -> Value | None:
    """The loader behind `next(iterator)` or `iterator.next()`."""
    if not isinstance(node, cst.Call):
        return None
    if (drawn := _drawn_from(node)) is not None:
        return loader_value(sem, drawn) or _gone_round(sem, drawn)
    if isinstance(node.func, cst.Attribute) and node.func.attr.value in ("next", "__next__"):
        return loader_value(sem, node.func.value)
    return None


def _drawn_from(node: cst.BaseExpression) -> cst.BaseExpression | None:
    """`batches` of `next(batches)`."""
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value == "next" and node.args:
        return node.args[0].value
    return None


def _gone_round(sem: Semantics, node: cst.BaseExpression) -> Value | None:
    """The loader in `batches = endless(loader)`, a generator of another file (perhaps of a star import) that is drawn
    from."""
    name = dotted(node)
    made = list(assigned(sem, name)) if name is not None else [node]
    call = made[0] if len(made) == 1 else None
    if not isinstance(call, cst.Call) or len(call.args) != 1 or sem.callee(call) is not None:
        return None
    if (sem.qualified(call.func) or "").startswith(OWN) or sem.value(call).kind is not Kind.UNKNOWN:
        return None
    handed = sem.value(call.args[0].value)
    return handed if handed.kind is Kind.LOADER else None


def _names(target: cst.CSTNode) -> set[str]:
    return {n.value for n in walk(target) if isinstance(n, cst.Name)}


# -- following ----------------------------------------------------------------------------------------------------


class _Trail:
    """Follows batches through a file, and notes where they went."""

    def __init__(self, sem: Semantics) -> None:
        self.sem = sem
        self.found = Followed()

    def follow(self, body: cst.CSTNode, names: set[str], loader: Value, depth: int = 0) -> None:
        """Note the moves of what these names hold in a body; names that get (parts of) it are followed, too."""
        held = set(names)
        computed: set[str] = set()
        seen: set[cst.Call] = set()

        def look_at(call: cst.Call) -> None:
            if call not in seen:
                seen.add(call)
                _hand_to_lambdas(call, held, computed)
                self._moved(call, held, computed, loader)
                if depth < _MAX_DEPTH:
                    self._follow_call(call, held | computed, loader, depth)

        for node in walk(body, into=_stays_in):
            if isinstance(node, cst.Assign):
                _hand_to_clauses(node.value, held, computed)
                # What is assigned is computed before the names mean something else: `x = x.cuda()`.
                for call in find(node.value, cst.Call):
                    look_at(call)
                for target in node.targets:
                    _hand_on(node.value, target.target, held, computed)
            elif isinstance(node, _COMPREHENSIONS):
                _hand_to_clauses(node, held, computed)
            elif isinstance(node, cst.For):
                _hand_on(unwrap_iteration(node.iter), node.target, held, computed)
            elif isinstance(node, cst.Call):
                look_at(node)

    def _moved(self, node: cst.Call, held: set[str], computed: set[str], loader: Value) -> None:
        sem, moves = self.sem, self.found.moves
        is_move, device = move_target(sem, node)
        if is_move and isinstance(node.func, cst.Attribute):
            root, direct = _root(node.func.value)
            if root in held or root in computed:
                moves.setdefault(node, BatchMove(node, loader, direct and root in held, device))
            return
        if (kind := cast_to_cuda(sem, node)) is not None and isinstance(node.func, cst.Attribute):
            if _root(node.func.value)[0] in held | computed:
                moves.setdefault(node, BatchMove(node, loader, False, kind, helper=True))
            return
        if not held & {_root(a.value)[0] for a in node.args} or sem.callee(node) is not None:
            return
        value = sem.value(node.func)
        if value.kind not in (Kind.MODULE, Kind.LOSS_FN):
            for arg in node.args:
                if not isinstance(literal(arg.value), (int, str)) and is_device(sem, arg.value):
                    moves.setdefault(node, BatchMove(node, loader, False, arg.value, helper=True))
        if (name := stranger(sem, node)) is not None:
            self.found.strangers.append((name, loader))

    def _follow_call(self, node: cst.Call, held: set[str], loader: Value, depth: int) -> None:
        """Go on in an own function that is given the batch."""
        callee = _reached(self.sem, node)
        if callee is None or isinstance(callee.node, cst.Module):
            return
        params = callee.params[1:] if callee.is_method else callee.params
        taken: set[str] = set()
        for i, arg in enumerate(node.args):
            if _root(arg.value)[0] not in held:
                continue
            if arg.star == "*":
                taken.update(params[i:])
            elif arg.keyword is not None:
                taken.add(arg.keyword.value)
            elif i < len(params):
                taken.add(params[i])
        if taken:
            self.follow(callee.node.body, taken & set(callee.params), loader, depth + 1)


def _hand_to_clauses(node: cst.CSTNode, held: set[str], computed: set[str]) -> None:
    """The element of a comprehension is written ahead of the clause that binds its names, also of one in another:
    `[[t.to(device) for t in part] for part in batch]`."""
    clauses = list(find(node, cst.CompFor))
    for clause in (*clauses, *clauses) if len(clauses) > 1 else clauses:
        _hand_on(unwrap_iteration(clause.iter), clause.target, held, computed)


def _hand_to_lambdas(call: cst.Call, held: set[str], computed: set[str]) -> None:
    """`map(lambda t: t.to(device), batch)`, `apply(batch, lambda t: …)`."""
    roots = {_root(a.value)[0] for a in call.args}
    for into in (held, computed):
        if roots & into:
            for arg in call.args:
                if isinstance(arg.value, cst.Lambda):
                    into.update(p.name.value for p in arg.value.params.params)
            return


def _hand_on(source: cst.BaseExpression, target: cst.CSTNode, held: set[str], computed: set[str]) -> None:
    """Names that are bound to the batch hold it; names bound to something made from it by methods are computed."""
    if isinstance(source, cst.Tuple) and isinstance(target, cst.Tuple) and len(source.elements) == len(target.elements):
        for part, name in zip(source.elements, target.elements):
            _hand_on(part.value, name.value, held, computed)
        return
    names = _names(target)
    root, direct = _root(source)
    if root in held or root in computed:
        if direct and root in held:
            held |= names
            computed -= names
        else:
            computed |= names
            held -= names


def _reached(sem: Semantics, node: cst.Call) -> Function | None:
    """The own function or method that a call runs; for a call of an own module, its `forward`."""
    callee = sem.callee(node)
    if callee is not None:
        return callee
    func = node.func
    if isinstance(func, cst.Attribute):
        value = sem.value(func.value)
        cls = sem.class_of(value.origin)
        if cls is not None:
            return sem.names.method(cls, func.attr.value)
    value = sem.value(func)
    cls = sem.class_of(value.origin) if value.kind is Kind.MODULE else None
    return sem.names.method(cls, "forward") if cls is not None else None


def stranger(sem: Semantics, call: cst.Call) -> str | None:
    """The qualified name of what a call reaches in another file: `fit` itself, `Trainer.fit` for `trainer.fit` and for
    `self.fit` of a class that derives from it, `Net.forward` for `net(x)`."""
    name = sem.qualified(call.func)
    if name is None and isinstance(call.func, cst.Attribute):
        if sem.value(call.func.value).kind is Kind.FRAMEWORK:
            return None  # it moves batches by its own means
        origin = sem.value(call.func.value).origin or _own_class(sem, call.func.value)
        cls = sem.class_of(origin)
        if cls is not None:
            if sem.names.method(cls, call.func.attr.value) is not None:
                return None
            origin = next((r for r in sem.names.roots(cls) if not r.startswith((OWN, "torch."))), "")
        if not is_class_name(origin):
            return _method_of_made(sem, call.func)
        name = f"{origin}.{call.func.attr.value}"
    if name is None:
        origin = sem.value(call.func).origin
        name = f"{origin}.forward" if is_class_name(origin) else None
    return None if name is None or name.startswith((OWN, "torch.")) or "." not in name else name


def _method_of_made(sem: Semantics, func: cst.Attribute) -> str | None:
    """`models.create().step` for `model.step`, where a function of another file has made `model`."""
    made = sem.value(func.value)
    maker = sem.qualified(made.node.func) if made.kind is Kind.UNKNOWN and isinstance(made.node, cst.Call) else None
    if maker is None or maker.startswith((OWN, "torch.")) or "." not in maker:
        return None
    return f"{maker}().{func.attr.value}"


def _own_class(sem: Semantics, node: cst.BaseExpression) -> str:
    """The class in whose method `self` is written."""
    function = sem.function(node)
    if function.cls is None or not function.params or dotted(node) != function.params[0]:
        return ""
    return function.cls.own


def _root(node: cst.BaseExpression) -> tuple[str | None, bool]:
    """The name that a chain of items, attributes and method calls starts from, and whether no call is in it.

    `Variable(x)` and tuples or lists of one name count as the name.
    """
    direct = True
    while True:
        if isinstance(node, (cst.Subscript, cst.Attribute)):
            node = node.value
        elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
            direct = direct and node.func.attr.value in ("items", "values", "get", "pop")
            node = node.func.value
        elif isinstance(node, cst.Call) and dotted(node.func) == "Variable" and node.args:
            node = node.args[0].value
        else:
            break
    return (node.value if isinstance(node, cst.Name) else None), direct


def _stays_in(node: cst.CSTNode) -> bool:
    return not isinstance(node, (cst.FunctionDef, cst.ClassDef))


# -- loaders ------------------------------------------------------------------------------------------------------


def iterated_here(sem: Semantics, loader: cst.Call) -> list[cst.For]:
    """The `for` statements of the file that certainly go over the loader made by this call."""
    return [
        node
        for node in sem.file.all(cst.For)
        if any(value.node is loader for _, value in _loaders(sem, node.target, node.iter))
    ]


def looks_once(sem: Semantics, loop: cst.For) -> bool:
    """Whether the loop ends in its first turn and stands in no other: a look at one batch."""
    if isinstance(sem.file.enclosing(loop, (cst.For, cst.While, cst.FunctionDef)), cst.For | cst.While):
        return False
    last = loop.body.body[-1] if isinstance(loop.body, cst.IndentedBlock) else loop.body
    return isinstance(last, cst.SimpleStatementLine | cst.SimpleStatementSuite) and isinstance(last.body[-1], cst.Break)
