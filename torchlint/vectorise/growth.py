"""Tensors that grow by one `torch.cat` per turn of a loop that never looks at them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import libcst as cst

from torchlint.nodes import argument, dotted, find, literal, walk
from torchlint.semantics.model import Semantics
from torchlint.semantics.rows import bound_names, definition_of, is_read
from torchlint.spelling import same

Loop = cst.For | cst.While

CAT = frozenset(f"torch.{n}" for n in ("cat", "concat", "concatenate", "hstack", "vstack", "dstack", "row_stack"))


@dataclass(frozen=True, eq=False)
class Growth:
    """`name = torch.cat([name, …])` inside a loop that never looks at `name`.

    `loop`: the outermost loop through which the name only grows. `first`: the `if` whose other branch sets the name in
    the first turn, if there is one. `parts`: what is added. `prepends`: the new parts go in front.
    """

    node: cst.Assign = field(repr=False)
    call: cst.Call = field(repr=False)
    name: str
    loop: Loop = field(repr=False)
    parts: tuple[cst.BaseExpression, ...] = field(repr=False)
    prepends: bool
    first: cst.If | cst.IfExp | None = field(default=None, repr=False)


def growth(node: cst.Assign, sem: Semantics) -> Growth | None:
    """The assignment as a growth step, if it certainly is one."""
    sem = sem
    if len(node.targets) != 1:
        return None
    name = place_of(node.targets[0].target)
    if name is None:
        return None
    call, choice = _cat_call(node.value, name, sem)
    if call is None:
        return None
    parts = parts_of(call, name)
    if parts is None:
        return None
    inner = _innermost_loop(node, sem)
    if inner is None or not _only_grows(name, inner, sem):
        return None
    if ("." in name or "[" in name) and not _set_before(name, inner, sem):
        return None
    if any(_is_released(part, inner) for part in parts[0]):
        return None
    first = choice or _first_guard(node, name, inner, sem)
    loop = inner
    while first is None and (outer := _innermost_loop(loop, sem)) is not None and _only_grows(name, outer, sem):
        loop = outer
    return Growth(node, call, name, loop, parts[0], parts[1], first)


def _cat_call(value: cst.BaseExpression, name: str, sem: Semantics) -> tuple[cst.Call | None, cst.IfExp | None]:
    """The cat call, bare or as `new if name is None else torch.cat(…)`."""
    if isinstance(value, cst.IfExp):
        if name not in _mentioned(value.test):
            return None, None
        for branch in (value.body, value.orelse):
            call, _ = _cat_call(branch, name, sem)
            if call is not None:
                return call, value
    if isinstance(value, cst.Call) and sem.qualified(value.func) in CAT:
        return value, None
    return None, None


_PLACES = (cst.Name, cst.Attribute, cst.Subscript)


def place_of(node: cst.CSTNode | None) -> str | None:
    """`x`, `self.x`, `out["x"]`: what names one and the same thing in every turn."""
    if isinstance(node, cst.Subscript) and len(node.slice) == 1 and isinstance(node.slice[0].slice, cst.Index):
        key, owner = literal(node.slice[0].slice.value), dotted(node.value)
        return f"{owner}[{key!r}]" if owner is not None and isinstance(key, str) else None
    return dotted(node)


def _is_keyed(name: cst.Name, sem: Semantics) -> bool:
    parent = sem.file.parent(name)
    return isinstance(parent, cst.Subscript) and parent.value is name and place_of(parent) is not None


def _mentioned(node: cst.CSTNode) -> set[str]:
    return {d for n in walk(node) if isinstance(n, _PLACES) and (d := place_of(n)) is not None}


def parts_of(call: cst.Call, name: str) -> tuple[tuple[cst.BaseExpression, ...], bool] | None:
    """What is added and whether it goes in front; None unless the name itself stands at one end and nowhere else."""
    arg = argument(call, "tensors", 0)
    if arg is None or not isinstance(arg.value, (cst.Tuple, cst.List)) or len(arg.value.elements) < 2:
        return None
    if any(isinstance(e, cst.StarredElement) for e in arg.value.elements) or argument(call, "out") is not None:
        return None
    items = [e.value for e in arg.value.elements]
    places = [i for i, item in enumerate(items) if place_of(item) == name]
    if len(places) != 1 or places[0] not in (0, len(items) - 1):
        return None
    rest = items[1:] if places[0] == 0 else items[:-1]
    if any(name in _mentioned(item) for item in rest):
        return None
    return tuple(rest), places[0] != 0


def _is_released(part: cst.BaseExpression, loop: Loop) -> bool:
    """Whether the loop drops each part once it is joined (`parts[k] = None`); a list would keep them all."""
    while isinstance(part, cst.Call) and isinstance(part.func, cst.Attribute):
        part = part.func.value
    if not isinstance(part, (cst.Subscript, cst.Name)):
        return False
    dropped: list[cst.CSTNode] = [n.target for n in find(loop, cst.Del)]
    dropped += [t.target for n in find(loop, cst.Assign) if isinstance(part, cst.Subscript) for t in n.targets]
    return any(same(part, target) for target in dropped)


def _innermost_loop(node: cst.CSTNode, sem: Semantics) -> Loop | None:
    for ancestor in sem.file.ancestors(node):
        if isinstance(ancestor, (cst.For, cst.While)):
            return ancestor
        if isinstance(ancestor, (cst.FunctionDef, cst.Lambda, cst.ClassDef)):
            return None
    return None


def _only_grows(name: str, loop: Loop, sem: Semantics) -> bool:
    """Whether every mention of the name in the loop is a growth step or its first-turn alternative."""
    root = re.split(r"[.\[]", name)[0]
    if root in bound_names(loop.target if isinstance(loop, cst.For) else loop.test):
        return False
    allowed: set[int] = set()
    steps: list[cst.Assign] = []
    for step in find(loop, cst.Assign):
        if len(step.targets) == 1 and place_of(step.targets[0].target) == name:
            call, choice = _cat_call(step.value, name, sem)
            if call is not None and parts_of(call, name) is not None:
                steps.append(step)
                arg = argument(call, "tensors", 0)
                assert arg is not None
                allowed.update(id(n) for e in _elements(arg.value) if place_of(e) == name for n in walk(e))
                if choice is not None:
                    allowed.update(id(n) for n in walk(choice.test))
    if not steps:
        return False
    guards = [g for step in steps if (g := _first_guard(step, name, loop, sem)) is not None]
    for guard in guards:
        allowed.update(id(n) for n in walk(guard.test))
    for n in walk(loop):
        if "[" in name and isinstance(n, cst.Name) and n.value == root and is_read(n, sem) and not _is_keyed(n, sem):
            return False  # all of the dict is looked at
        if isinstance(n, _PLACES) and place_of(n) == name and id(n) not in allowed:
            if _is_target(n, sem):
                if not any(n is s.targets[0].target for s in steps) and not any(
                    _in_other_branch(n, g, sem) for g in guards
                ):
                    return False
            elif not isinstance(n, cst.Name) or is_read(n, sem):
                return False
    return True


def _elements(node: cst.BaseExpression) -> Iterator[cst.BaseExpression]:
    if isinstance(node, (cst.Tuple, cst.List)):
        for element in node.elements:
            yield element.value


def _is_target(node: cst.CSTNode, sem: Semantics) -> bool:
    if isinstance(node, cst.Name):
        parent = sem.file.parent(node)
        return not is_read(node, sem) and not isinstance(parent, (cst.Attribute, cst.Arg, cst.Param))
    return isinstance(sem.file.parent(node), (cst.AssignTarget, cst.AugAssign, cst.AnnAssign, cst.Element))


def _in_other_branch(target: cst.CSTNode, guard: cst.If, sem: Semantics) -> bool:
    """Whether the binding is `name = new`, alone, in the guard's branch that does not grow."""
    statement = sem.file.parent(sem.file.parent(target) or target)
    return isinstance(statement, cst.Assign) and any(a is guard for a in sem.file.ancestors(target))


def _first_guard(step: cst.Assign, name: str, loop: Loop, sem: Semantics) -> cst.If | None:
    """The `if` around the step one of whose branches sets the name (first turn) while the other grows it."""
    for ancestor in sem.file.ancestors(step):
        if ancestor is loop:
            return None
        if isinstance(ancestor, cst.If) and isinstance(ancestor.orelse, cst.Else):
            here = any(n is step for n in walk(ancestor.body))
            other: cst.CSTNode = ancestor.orelse if here else ancestor.body
            for assign in find(other, cst.Assign):
                if len(assign.targets) == 1 and place_of(assign.targets[0].target) == name:
                    if name not in _mentioned(assign.value) or _is_growth_value(assign.value, name, sem):
                        return None if _is_growth_value(assign.value, name, sem) else ancestor
    return None


def _is_growth_value(value: cst.BaseExpression, name: str, sem: Semantics) -> bool:
    call, _ = _cat_call(value, name, sem)
    return call is not None and parts_of(call, name) is not None


def _set_before(name: str, loop: Loop, sem: Semantics) -> bool:
    """Whether the function itself sets the attribute in front of the loop (else it grows from call to
    call by design), and is not the constructor, whose few turns set things up."""
    start = sem.file.caret(loop)[0]
    if sem.function(loop).name == "__init__":
        return False
    if "[" in name:
        made = definition_of(name.partition("[")[0], loop, sem)
        return made is not None and isinstance(made[1], (cst.Dict, cst.List)) and sem.file.caret(made[1])[0] < start
    for assign in find(sem.function(loop).body, cst.Assign):
        if any(place_of(t.target) == name for t in assign.targets) and sem.file.caret(assign)[0] < start:
            return True
    return False
