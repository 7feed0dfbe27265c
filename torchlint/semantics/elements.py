"""Waits for the GPU that happen once per element of a tensor: `for i in range(n): … t[i].item()`.

Only of tensors that were put on a device or that a model computed; the facts about single waits are in `syncs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import dotted, find, walk
from torchlint.semantics.effects import Effect, Event
from torchlint.semantics.kinds import Kind
from torchlint.semantics.names import Function
from torchlint.semantics.syncs import HOST, Clause, events_of, loops_between, read, root_name
from torchlint.semantics.transfers import may_be_cuda, move_target

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics


@dataclass(frozen=True, eq=False)
class ElementSync:
    """A wait for each element of a tensor.

    `loop`: the loop or comprehension clause over the elements. `tensor`: what is gone through, by iterating over it
    (`index` None) or by an index that counts (`index` the loop's name).
    """

    event: Event = field(repr=False)
    loop: Clause = field(repr=False)
    tensor: cst.BaseExpression = field(repr=False)
    name: str
    index: bool


_MOST_NAMES = 40  # how far back a value is followed through a function
_PER_ELEMENT = frozenset(("item", "tolist", "cpu", "numpy", "float", "int"))


def element_syncs(sem: Semantics, function: Function) -> Iterator[ElementSync]:
    """The function's waits that happen once per element of a tensor that lies on a GPU."""
    for event in events_of(sem, function):
        if event.detail in _PER_ELEMENT and _surely_moved(sem, event):
            found = _element_sync(sem, event)
            if found is not None:
                yield found


def _surely_moved(sem: Semantics, event: Event) -> bool:
    """Whether the tensor itself tells that it lies on a device: it was put there, or a model computed it."""
    if event.value.device not in ("", "?"):
        return True
    name = root_name(read(event))
    return name is not None and _from_model(sem, event.function, name)


def _from_model(sem: Semantics, function: Function, name: str) -> bool:
    """Whether the name is bound to what a module gave or what was moved to a device, or computed from such."""
    forwards = {id(e.node) for e in sem.events(function, Effect.FORWARD, Effect.LOSS) if e.via is None}
    bound = sources(function)
    wanted, seen = [name], {name}
    while wanted:
        for source in bound.get(wanted.pop(), ()):
            if HOST.search(sem.file.code(source)):
                continue
            for part in walk(source):
                if id(part) in forwards or (isinstance(part, cst.Call) and _moves(sem, part)):
                    return True
                if isinstance(part, cst.Name) and part.value not in seen and len(seen) < _MOST_NAMES:
                    seen.add(part.value)
                    wanted.append(part.value)
    return False


def _moves(sem: Semantics, call: cst.Call) -> bool:
    moved, device = move_target(sem, call)
    return moved and may_be_cuda(sem, device)


def sources(function: Function) -> dict[str, list[cst.BaseExpression]]:
    """Name → what the function binds it to, or takes it from in a loop."""
    found: dict[str, list[cst.BaseExpression]] = {}
    for node in walk(function.body):
        if isinstance(node, cst.Assign):
            targets, source = [t.target for t in node.targets], node.value
        elif isinstance(node, (cst.For, cst.CompFor)):
            targets, source = [node.target], node.iter
        else:
            continue
        for target in targets:
            for n in walk(target):
                if isinstance(n, cst.Name):
                    found.setdefault(n.value, []).append(source)
    return found


def _element_sync(sem: Semantics, event: Event) -> ElementSync | None:
    node = read(event)
    if event.detail in ("float", "int") and not isinstance(node, cst.Subscript):
        return None  # `int(x)` is everywhere, and mostly of numbers
    for loop in reversed(loops_between(sem, event.node, event.function.node)):
        if isinstance(loop, cst.While):
            continue
        for name, iterated in _pieces(loop.target, loop.iter):
            if isinstance(iterated, cst.Call) and dotted(iterated.func) == "range":
                base = _indexed_by(node, name)
                if base is not None and _is_whole(sem, base, loop):
                    return ElementSync(event, loop, base, name, True)
            elif _is_tensor(sem, iterated) and root_name(node) in _held(loop, name):
                return ElementSync(event, loop, iterated, name, False)
    return None


def _pieces(target: cst.BaseExpression, iterated: cst.BaseExpression) -> Iterator[tuple[str, cst.BaseExpression]]:
    """(name, what it goes over) for each plain name that a loop binds; `zip` and `enumerate` are taken apart."""
    if isinstance(target, cst.Name):
        yield target.value, iterated
        if isinstance(iterated, cst.Call) and dotted(iterated.func) in ("reversed", "list", "tqdm") and iterated.args:
            yield target.value, iterated.args[0].value
    elif isinstance(target, cst.Tuple):
        parts = [e.value for e in target.elements]
        last = (dotted(iterated.func) or "") if isinstance(iterated, cst.Call) else ""
        args = [a.value for a in iterated.args if a.keyword is None] if isinstance(iterated, cst.Call) else []
        if last == "enumerate" and args and len(parts) == 2:
            yield from _pieces(parts[1], args[0])
        elif last == "zip" and len(parts) == len(args):
            for part, arg in zip(parts, args):
                yield from _pieces(part, arg)
        elif not last:
            for part in parts:
                yield from _pieces(part, iterated)


def _indexed_by(node: cst.CSTNode, name: str) -> cst.BaseExpression | None:
    """The `t` of a `t[name]` or `t[..., name]` in a chain of items and methods."""
    while isinstance(node, (cst.Attribute, cst.Subscript, cst.Call)):
        if isinstance(node, cst.Subscript):
            if any(isinstance(e.slice, cst.Index) and dotted(e.slice.value) == name for e in node.slice):
                return node.value
        node = node.func if isinstance(node, cst.Call) else node.value
    return None


def _is_tensor(sem: Semantics, node: cst.BaseExpression) -> bool:
    """A tensor, or the part of a batch that was moved."""
    value = sem.value(node)
    return value.is_tensor or (value.kind is Kind.BATCH and value.device not in ("", "cpu"))


def _is_whole(sem: Semantics, base: cst.BaseExpression, loop: Clause) -> bool:
    """Whether the indexed thing is one tensor for the whole loop, and not made or changed by its turns."""
    if not _is_tensor(sem, base):
        return False
    names = {n.value for n in walk(base) if isinstance(n, cst.Name)}
    inside = loop.body if isinstance(loop, cst.For) else loop.iter
    for node in walk(inside):
        if isinstance(node, (cst.AssignTarget, cst.AugAssign, cst.AnnAssign, cst.For)):
            if any(isinstance(n, cst.Name) and n.value in names for n in walk(node.target)):
                return False
    return not any(isinstance(n, cst.Call) for n in walk(base))


def _held(loop: Clause, name: str) -> set[str]:
    """The loop's name and the names that take it apart in the body: `x1, y1, x2, y2 = box`."""
    held = {name}
    if isinstance(loop, cst.For):
        for node in find(loop.body, cst.Assign):
            if root_name(node.value) in held and not any(isinstance(n, cst.Call) for n in walk(node.value)):
                held |= {n.value for t in node.targets for n in walk(t) if isinstance(n, cst.Name)}
    return held
