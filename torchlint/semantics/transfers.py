"""Where tensors go: the target of a `.to` or `.cuda` call, and the moves that a loader's batches make.

A batch is followed from the loop over its loader through unpacking, subscripts, plain methods and the file's own
functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import argument, dotted, find, literal, walk
from torchlint.semantics import knowledge
from torchlint.semantics.blocks import unwrap_iteration
from torchlint.semantics.kinds import UNKNOWN, Kind, Value
from torchlint.semantics.names import OWN, Function

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

_NOT_CUDA = ("cpu", "mps", "xla", "xpu", "npu", "hpu", "meta", "tpu")
_MAX_DEPTH = 4
_LOADER_LIKE = (Kind.LOADER, Kind.ITERATOR)


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


def move_target(sem: Semantics, call: cst.Call) -> tuple[bool, cst.BaseExpression | None]:
    """Whether a call has the form of a move to a device, and the device argument (None for a bare `.cuda()`)."""
    func = call.func
    if not isinstance(func, cst.Attribute) or func.attr.value not in ("to", "cuda"):
        return False, None
    device = argument(call, "device", 0)
    if func.attr.value == "cuda":
        return True, device.value if device is not None else None
    if device is None or not is_device(sem, device.value):
        return False, None
    return True, device.value


def is_device(sem: Semantics, node: cst.BaseExpression) -> bool:
    """Whether the first argument of `.to` is a device: it takes a device, a dtype or a tensor."""
    text = literal(node)
    if isinstance(text, (str, int)):
        return True
    value = sem.value(node)
    if value.kind is Kind.DEVICE:
        return True
    if value.kind in (Kind.UNKNOWN, Kind.STRING, Kind.NUMBER, Kind.BATCH, Kind.NONE):
        if isinstance(node, cst.Call):
            node = node.func
        name = node.attr.value if isinstance(node, cst.Attribute) else dotted(node) or ""
        # The name only decides between the three readings that there are.
        return "device" in name.lower()
    return False


def may_be_cuda(sem: Semantics, device: cst.BaseExpression | None) -> bool:
    """False where the device is certainly something else than a CUDA GPU."""
    if device is None:
        return True
    verdict = _names_cuda(sem, device)
    if verdict is not None:
        return verdict
    name = dotted(device)
    return name is None or device_may_be_cuda(sem, name)


def surely_cuda(sem: Semantics, call: cst.Call) -> bool:
    """Whether a call surely puts a tensor on a CUDA device: by name, by number, or by a device that was made so."""
    is_move, device = move_target(sem, call)
    if not is_move:
        given = argument(call, "device")
        made = sem.value(call)
        if given is None or not (made.is_tensor or made.origin.startswith("torch.")):
            return False
        device = given.value
    elif device is None:
        receiver = sem.value(call.func.value) if isinstance(call.func, cst.Attribute) else None
        return receiver is None or receiver.kind is not Kind.MODULE
    if literal(device) == "cpu":
        return False
    verdict = _names_cuda(sem, device)
    name = dotted(device)
    if verdict is not None or name is None:
        return verdict is True
    made_from = [_names_cuda(sem, n) for n in _assigned(sem, name)]
    return bool(made_from) and all(v is True for v in made_from)


def device_may_be_cuda(sem: Semantics, text: str) -> bool:
    """The same for a device as `Value.device` has it: "cuda", "cpu" or the text of a name."""
    if text.partition(":")[0] in _NOT_CUDA:
        return False
    assigned = list(_assigned(sem, text))
    made = [v for v in (_names_cuda(sem, n) for n in assigned) if v is not None]
    return not made or any(made) or any(_is_accelerator(sem, n) for n in assigned)


def _is_accelerator(sem: Semantics, node: cst.BaseExpression) -> bool:
    """`torch.accelerator.current_accelerator()`: whatever the machine has, most often CUDA."""
    return any((sem.qualified(call.func) or "").startswith("torch.accelerator.") for call in find(node, cst.Call))


def _names_cuda(sem: Semantics, node: cst.BaseExpression) -> bool | None:
    """What the device expression itself says: True or False where it names devices, None where it does not."""
    named: set[str] = set()
    for n in walk(node):
        if isinstance(n, cst.SimpleString) and isinstance(n.evaluated_value, str):
            named.add(n.evaluated_value.partition(":")[0])
        elif isinstance(n, cst.FormattedStringText):
            named.add(n.value.partition(":")[0])
        elif isinstance(n, (cst.Name, cst.Attribute)):
            name = sem.qualified(n) or ""
            if name.startswith("torch.cuda"):
                return True
            if name.startswith("torch_xla"):
                named.add("xla")
    if any("cuda" in n for n in named):
        return True
    if named & set(_NOT_CUDA):
        return False
    return True if isinstance(literal(node), int) else None


def _assigned(sem: Semantics, name: str) -> Iterator[cst.BaseExpression]:
    """Everything that the file assigns to a dotted name, in any function."""
    for node in sem.file.nodes:
        if isinstance(node, cst.Assign):
            targets: list[cst.CSTNode] = [t.target for t in node.targets]
        elif isinstance(node, cst.AnnAssign):
            targets = [node.target]
        else:
            continue
        if node.value is not None and any(dotted(t) == name for t in targets):
            yield node.value


# -- batches ------------------------------------------------------------------------------------------------------


def loader_value(sem: Semantics, node: cst.BaseExpression, depth: int = 0) -> Value | None:
    """The loader that an iterated expression goes over, through `enumerate`, `tqdm`, `iter`; None if it is none."""
    node = unwrap_iteration(node)
    value = sem.value(node)
    if value.kind is Kind.LOADER:
        return value
    if value.kind is Kind.ITERATOR and isinstance(value.node, cst.Call) and value.node.args and depth < _MAX_DEPTH:
        return loader_value(sem, value.node.args[0].value, depth + 1)
    return None


def batch_moves(sem: Semantics) -> list[BatchMove]:
    """Every move of a loader's batch to a device, in source order per loop."""
    return sem.once(_batch_moves)


def _batch_moves(sem: Semantics) -> list[BatchMove]:
    moves: dict[cst.Call, BatchMove] = {}
    for function in sem.functions:
        for node in walk(function.body, into=_stays_in):
            if isinstance(node, cst.For):
                for target, loader in () if looks_once(sem, node) else _loaders(sem, node.target, node.iter):
                    _follow(sem, node.body, _names(target), loader, moves, 0)
            elif isinstance(node, (cst.ListComp, cst.SetComp, cst.GeneratorExp, cst.DictComp)):
                for clause in find(node, cst.CompFor):
                    for target, loader in _loaders(sem, clause.target, clause.iter):
                        _follow(sem, node, _names(target), loader, moves, 0)
            elif isinstance(node, cst.Assign) and (taken := _next_of(sem, node.value)) is not None:
                names = {n for t in node.targets for n in _names(t.target)}
                _follow(sem, function.body, names, taken, moves, 0)
            elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
                is_move, device = move_target(sem, node)  # `next(batches).to(device)`
                if is_move and (taken := _next_of(sem, node.func.value)) is not None:
                    moves.setdefault(node, BatchMove(node, taken, True, device))
    return list(moves.values())


def moves_of_given(sem: Semantics, wheres: Sequence[cst.CSTNode]) -> list[BatchMove]:
    """The moves of what loops in these functions and classes take from things of which nothing is known here: from the
    loader, where the asking file hands one over."""
    moves: dict[cst.Call, BatchMove] = {}
    for function in sem.functions:
        if not any(node in wheres for node in (function.node, *sem.file.ancestors(function.node))):
            continue
        for node in walk(function.body, into=_stays_in):
            body: cst.CSTNode = function.body
            if isinstance(node, cst.For):
                given, body, targets = node.iter, node.body, [node.target]
            elif isinstance(node, cst.Assign) and (drawn := _drawn_from(node.value)) is not None:
                given, targets = drawn, [t.target for t in node.targets]
            else:
                continue
            value = sem.value(unwrap_iteration(given))
            if value.kind in (Kind.UNKNOWN, Kind.ITERATOR, Kind.LOADER) and value.element in (None, knowledge.BATCH):
                _follow(sem, body, {n for t in targets for n in _names(t)}, value, moves, 0)
    return list(moves.values())


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
    made = list(_assigned(sem, name)) if name is not None else [node]
    call = made[0] if len(made) == 1 else None
    if not isinstance(call, cst.Call) or len(call.args) != 1 or sem.callee(call) is not None:
        return None
    if (sem.qualified(call.func) or "").startswith(OWN) or sem.value(call).kind is not Kind.UNKNOWN:
        return None
    given = sem.value(call.args[0].value)
    return given if given.kind is Kind.LOADER else None


def _names(target: cst.CSTNode) -> set[str]:
    return {n.value for n in walk(target) if isinstance(n, cst.Name)}


def _follow(
    sem: Semantics, body: cst.CSTNode, names: set[str], loader: Value, moves: dict[cst.Call, BatchMove], depth: int
) -> None:
    """Collect the moves of what these names hold in a body; names that get (parts of) it are followed, too."""
    held = set(names)
    computed: set[str] = set()
    seen: set[cst.Call] = set()

    def look_at(call: cst.Call) -> None:
        if call not in seen:
            seen.add(call)
            _moved(sem, call, held, computed, loader, moves)
            if depth < _MAX_DEPTH:
                _follow_call(sem, call, held | computed, loader, moves, depth)

    for node in walk(body, into=_stays_in):
        if isinstance(node, cst.Assign):
            for clause in find(node.value, cst.CompFor):
                _hand_on(unwrap_iteration(clause.iter), clause.target, held, computed)
            # What is assigned is computed before the names mean something else: `x = x.cuda()`.
            for call in find(node.value, cst.Call):
                look_at(call)
            for target in node.targets:
                _hand_on(node.value, target.target, held, computed)
        elif isinstance(node, (cst.ListComp, cst.SetComp, cst.GeneratorExp, cst.DictComp)):
            # The element is written ahead of the clause that binds its names.
            for clause in find(node, cst.CompFor):
                _hand_on(unwrap_iteration(clause.iter), clause.target, held, computed)
        elif isinstance(node, cst.For):
            _hand_on(unwrap_iteration(node.iter), node.target, held, computed)
        elif isinstance(node, cst.Call):
            look_at(node)


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


def _moved(
    sem: Semantics, node: cst.Call, held: set[str], computed: set[str], loader: Value, moves: dict[cst.Call, BatchMove]
) -> None:
    is_move, device = move_target(sem, node)
    if is_move and isinstance(node.func, cst.Attribute):
        root, direct = _root(node.func.value)
        if root in held or root in computed:
            moves.setdefault(node, BatchMove(node, loader, direct and root in held, device))
        return
    if (kind := _cast_to_cuda(sem, node)) is not None and isinstance(node.func, cst.Attribute):
        if _root(node.func.value)[0] in held | computed:
            moves.setdefault(node, BatchMove(node, loader, False, kind, helper=True))
        return
    if sem.callee(node) is not None or sem.value(node.func).kind in (Kind.MODULE, Kind.LOSS_FN):
        return
    given = {_root(a.value)[0] for a in node.args}
    if given & held:
        for arg in node.args:
            if not isinstance(literal(arg.value), (int, str)) and is_device(sem, arg.value):
                moves.setdefault(node, BatchMove(node, loader, False, arg.value, helper=True))


def _cast_to_cuda(sem: Semantics, node: cst.Call) -> cst.BaseExpression | None:
    """The type in `x.type(Tensor)` of old code, where `Tensor` may be `torch.cuda.FloatTensor`."""
    if not isinstance(node.func, cst.Attribute) or node.func.attr.value != "type" or not node.args:
        return None
    kind = node.args[0].value
    named = (dotted(kind) or "").rpartition(".")[0] == "torch.cuda"
    made = _assigned(sem, kind.value) if isinstance(kind, cst.Name) else iter(())
    return kind if named or any(_names_cuda(sem, n) for n in made) else None


def _follow_call(
    sem: Semantics, node: cst.Call, held: set[str], loader: Value, moves: dict[cst.Call, BatchMove], depth: int
) -> None:
    """Go on in an own function that is given the batch."""
    callee = _reached(sem, node)
    if callee is None or isinstance(callee.node, cst.Module):
        return
    params = callee.params[1:] if callee.is_method else callee.params
    given: set[str] = set()
    for i, arg in enumerate(node.args):
        if _root(arg.value)[0] not in held:
            continue
        if arg.star == "*":
            given.update(params[i:])
        elif arg.keyword is not None:
            given.add(arg.keyword.value)
        elif i < len(params):
            given.add(params[i])
    if given:
        _follow(sem, callee.node.body, given & set(callee.params), loader, moves, depth + 1)


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


def makes_device_tensors(sem: Semantics, node: cst.BaseExpression, *, told: bool = True) -> bool:
    """Whether a dataset or collate expression already puts its tensors on a device: pinning them would fail.

    Without `told`, that the call which makes the dataset is given a `device` says nothing.
    """
    value = sem.value(node)
    places: list[cst.CSTNode] = [node]
    if isinstance(value.node, cst.CSTNode) and value.node is not node:
        places.append(value.node)
    cls = sem.class_of(value.origin)
    if cls is not None:
        places += [m.node for c in sem.names.mro(cls) for name, m in c.methods.items() if name in _ITEM_METHODS]
    function = sem.names.functions.get(value.origin.removeprefix(OWN)) if value.origin.startswith(OWN) else None
    if function is not None:
        places.append(function.node)
    for place in places:
        for call in find(place, cst.Call):
            is_move, device = move_target(sem, call)
            if is_move and may_be_cuda(sem, device):
                return True
            arg = argument(call, "device")
            if arg is not None and may_be_cuda(sem, arg.value) and (told or call is not value.node):
                return True
            for given in call.args:
                if _lies_on_device(sem.value(given.value)):
                    return True
    return any(_lies_on_device(v) for v in (value, *(value.items or ()), value.element or UNKNOWN))


_ITEM_METHODS = ("__init__", "__getitem__", "__getitems__", "__iter__", "__call__", "collate", "collate_fn", "_load")


def _lies_on_device(value: Value) -> bool:
    return value.is_tensor and value.device not in ("", "cpu", "?")
