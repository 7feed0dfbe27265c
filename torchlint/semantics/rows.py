"""Loops that walk along an axis of a tensor: `for i in range(x.shape[0])`, `for row in x`, `[... for row in x]`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import libcst as cst

from torchlint.nodes import dotted, find, literal, walk, walk_scope
from torchlint.semantics.display import few
from torchlint.semantics.kinds import Kind
from torchlint.semantics.model import Semantics
from torchlint.semantics.names import Function
from torchlint.spelling import same

Loop = cst.For | cst.CompFor

# Wrappers that hand out the same items in the same order.
PROGRESS = frozenset(("tqdm.tqdm", "tqdm.trange", "tqdm.auto.tqdm", "tqdm.notebook.tqdm", "rich.progress.track"))

# Factories whose first argument is the size, or begins it.
_SIZED = frozenset(f"torch.{n}" for n in ("zeros", "ones", "empty", "full", "rand", "randn"))


@dataclass(frozen=True, eq=False)
class RowLoop:
    """A loop whose turns are the slices of a tensor along `axis`.

    `index`: the name of the counter, if there is one. `rows`: for each name that the loop itself binds to a slice, the
    tensor it is a slice of. `length`: source text that gives the number of turns, valid in front of the loop.
    `over`: the tensor whose axis is walked. `whole`: from end to end, and a turn's slice is what indexing gives.
    """

    node: Loop = field(repr=False)
    index: str
    rows: dict[str, cst.BaseExpression] = field(repr=False)
    over: cst.BaseExpression = field(repr=False)
    axis: int
    length: str
    whole: bool = True

    @property
    def bound(self) -> set[str]:
        """The names that the loop header binds."""
        return {*self.rows, self.index} - {""}


def row_loop(node: Loop, sem: Semantics) -> RowLoop | None:
    """The loop as a walk over a tensor; None where it walks anything else, or the evidence for a tensor is missing."""
    if node.asynchronous is not None:
        return None
    source = _unwrap(node.iter, sem)
    target: cst.BaseExpression | None = node.target
    index = ""
    if isinstance(source, cst.Call) and _builtin(source, "enumerate", sem) and len(source.args) == 1:
        if not isinstance(target, cst.Tuple) or len(target.elements) != 2:
            return None
        counter = target.elements[0].value
        if not isinstance(counter, cst.Name):
            return None
        index, target, source = counter.value, target.elements[1].value, source.args[0].value
    if isinstance(source, cst.Call) and _builtin(source, "range", sem):
        return _counted(node, source, target, sem) if not index else None
    if isinstance(source, cst.Call) and _builtin(source, "zip", sem):
        return _zipped(node, source, target, index, sem)
    if not isinstance(target, cst.Name):
        return None
    parts = taken_apart(source, sem)
    if parts is not None:
        return RowLoop(node, index, {target.value: source}, parts[0], parts[1], f"len({sem.file.code(source)})", False)
    if not _walkable(source, sem):
        return None
    return RowLoop(node, index, {target.value: source}, source, 0, f"len({sem.file.code(source)})")


def _counted(node: Loop, call: cst.Call, target: cst.CSTNode | None, sem: Semantics) -> RowLoop | None:
    args = [a for a in call.args if a.keyword is None and not a.star]
    if len(args) != len(call.args) or not isinstance(target, cst.Name):
        return None
    if len(args) == 2 and literal(args[0].value) == 0:
        args = args[1:]
    if len(args) != 1:
        return None
    length = args[0].value
    found = extent(length, sem) or _made_with(length, node, target.value, sem)
    whole = found is not None
    if found is None and not few(node.iter) and not _counts_a_list(length, node, target.value, sem):
        found = _picked_by(node, target.value, sem)
    if found is None:
        return None
    return RowLoop(node, target.value, {}, found[0], found[1], sem.file.code(length), whole)


def _counts_a_list(length: cst.BaseExpression, loop: Loop, counter: str, sem: Semantics) -> bool:
    """`for i in range(len(embeddings))` over `embeddings[i] * weights[i]`: what is counted may be a list, which the
    tensor beside it does not make one tensor."""
    if not isinstance(length, cst.Call) or not _builtin(length, "len", sem) or len(length.args) != 1:
        return False
    counted = dotted(length.args[0].value)
    turn = loop.body if isinstance(loop, cst.For) else sem.file.parent(loop)
    for item in sem.file.within(turn, cst.Subscript) if turn is not None and counted is not None else ():
        part = item.slice[0].slice
        if isinstance(part, cst.Index) and dotted(part.value) == counter and dotted(item.value) == counted:
            return True
    return False


def _picked_by(loop: Loop, counter: str, sem: Semantics) -> tuple[cst.BaseExpression, int] | None:
    """The tensor whose slices the counter picks, where the number of turns is not the length of anything known."""
    turn = loop.body if isinstance(loop, cst.For) else sem.file.parent(loop)
    for item in sem.file.within(turn, cst.Subscript) if turn is not None else ():
        for axis, element in enumerate(item.slice):
            part = element.slice
            if isinstance(part, cst.Index) and isinstance(part.value, (cst.Name, cst.BinaryOperation)):
                if counter in {n.value for n in find(part.value, cst.Name)}:
                    if _walkable(item.value, sem) or is_written_in_place(item, sem):
                        return item.value, axis
            if isinstance(part, cst.Index) and isinstance(part.value, cst.Ellipsis):
                break
    return None


def is_written_in_place(node: cst.CSTNode, sem: Semantics) -> bool:
    """`boxes[i, :, 0::4].clamp_(…)`: no list takes several indices, and no array has such a method."""
    method = sem.file.parent(node)
    call = sem.file.parent(method) if isinstance(method, cst.Attribute) and method.value is node else None
    if not isinstance(node, cst.Subscript) or len(node.slice) < 2 or not isinstance(call, cst.Call):
        return False
    name = method.attr.value if isinstance(method, cst.Attribute) else ""
    return (
        call.func is method and re.fullmatch(r"[a-z]\w*[a-z0-9]_", name) is not None and may_be_tensor(node.value, sem)
    )


# What takes a tensor apart along one dimension: `x.unbind(1)`, `torch.split(x, 1, dim=2)`, `x.chunk(x.size(1), dim=1)`.
_APART = frozenset(("unbind", "split", "chunk"))


def taken_apart(node: cst.BaseExpression, sem: Semantics) -> tuple[cst.BaseExpression, int] | None:
    """The tensor and the axis of which an expression is the tuple of all slices, each one long."""
    if isinstance(node, cst.Name) and (made := definition_of(node.value, node, sem)) is not None:
        node = made[1] if isinstance(made[0], cst.Name) else node
    if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute):
        return None
    args, name = list(node.args), node.func.attr.value
    if (sem.qualified(node.func) or "") == f"torch.{name}" and args and args[0].keyword is None:
        tensor = args.pop(0).value
    else:
        tensor = node.func.value
    if name not in _APART or not _is_tensor(tensor, sem):
        return None
    size = None if name == "unbind" else next((a.value for a in args if a.keyword is None), None)
    named = next((a.value for a in args if a.keyword is not None and a.keyword.value == "dim"), None)
    places = [a.value for a in args if a.keyword is None][0 if name == "unbind" else 1 :]
    where = named if named is not None else places[0] if places else None
    axis = 0 if where is None else literal(where)
    if not isinstance(axis, int) or axis < 0:
        return None
    if name == "split" and (size is None or literal(size) != 1):
        return None
    if name == "chunk":
        measured = extent(size, sem) if size is not None else None
        if measured is None or not same(measured[0], tensor) or measured[1] != axis:
            return None
    return tensor, axis


def _made_with(
    length: cst.BaseExpression, loop: Loop, counter: str, sem: Semantics
) -> tuple[cst.BaseExpression, int] | None:
    """The tensor made with that many rows (`out = torch.zeros(n, d)`) that the loop indexes by its counter."""
    for item in sem.file.within(loop, cst.Subscript) if isinstance(loop, cst.For) else ():
        first = item.slice[0].slice
        if not isinstance(item.value, cst.Name) or not isinstance(first, cst.Index):
            continue
        if not isinstance(first.value, cst.Name) or first.value.value != counter:
            continue
        made = definition_of(item.value.value, item, sem)
        if made is None or not isinstance(made[1], cst.Call) or not made[1].args:
            continue
        if (sem.qualified(made[1].func) or "") in _SIZED:
            size = made[1].args[0].value
            if isinstance(size, (cst.Tuple, cst.List)) and size.elements:
                size = size.elements[0].value
            if same(size, length):
                return item.value, 0
    return None


def _zipped(node: Loop, call: cst.Call, target: cst.CSTNode | None, index: str, sem: Semantics) -> RowLoop | None:
    if not isinstance(target, cst.Tuple) or len(target.elements) != len(call.args) or len(call.args) < 2:
        return None
    rows: dict[str, cst.BaseExpression] = {}
    for element, arg in zip(target.elements, call.args):
        if arg.star or arg.keyword is not None or not isinstance(element.value, cst.Name):
            return None
        if not _walkable(arg.value, sem):
            return None
        rows[element.value.value] = arg.value
    first = call.args[0].value
    return RowLoop(node, index, rows, first, 0, f"len({sem.file.code(first)})")


def _unwrap(node: cst.BaseExpression, sem: Semantics) -> cst.BaseExpression:
    """What a progress bar is put around."""
    if isinstance(node, cst.Call) and node.args and node.args[0].keyword is None:
        if (sem.qualified(node.func) or "") in PROGRESS:
            return node.args[0].value
    return node


def _builtin(call: cst.Call, name: str, sem: Semantics) -> bool:
    return isinstance(call.func, cst.Name) and call.func.value == name and sem.qualified(call.func) in (None, name)


# What makes tensors of positions, whose items choose what to do rather than hold the data.
POSITIONS = frozenset("nonzero unique unique_consecutive randperm arange linspace logspace range".split())


def _walkable(node: cst.BaseExpression, sem: Semantics) -> bool:
    """A tensor whose rows a loop may walk."""
    value = sem.value(node)
    if not _is_tensor(node, sem) or value.evidence == "used":
        return False
    return value.origin.rpartition(".")[2] not in POSITIONS


def extent(node: cst.BaseExpression, sem: Semantics) -> tuple[cst.BaseExpression, int] | None:
    """The tensor and the axis whose length an expression is (`x.shape[0]`, `x.size(1)`, `len(x)`, a name for these)."""
    found = _direct_extent(node, sem)
    if found is not None or not isinstance(node, cst.Name):
        return found
    definition = definition_of(node.value, node, sem)
    if definition is None:
        return None
    target, value = definition
    if isinstance(target, cst.Name):
        return _direct_extent(value, sem)
    if isinstance(target, (cst.Tuple, cst.List)):
        tensor = shape_owner(value, sem)
        for axis, element in enumerate(target.elements):
            if isinstance(element, cst.StarredElement):
                return None
            if isinstance(element.value, cst.Name) and element.value.value == node.value and tensor is not None:
                return tensor, axis
    return None


def _direct_extent(node: cst.BaseExpression, sem: Semantics) -> tuple[cst.BaseExpression, int] | None:
    if isinstance(node, cst.Call):
        if _builtin(node, "int", sem) and len(node.args) == 1:
            return _direct_extent(node.args[0].value, sem)
        if _builtin(node, "len", sem) and len(node.args) == 1 and _is_tensor(node.args[0].value, sem):
            return node.args[0].value, 0
        if isinstance(node.func, cst.Attribute) and node.func.attr.value == "size" and len(node.args) == 1:
            axis = literal(node.args[0].value)
            if isinstance(axis, int) and axis >= 0 and may_be_tensor(node.func.value, sem):
                return node.func.value, axis
    if isinstance(node, cst.Subscript) and len(node.slice) == 1 and isinstance(node.slice[0].slice, cst.Index):
        axis = literal(node.slice[0].slice.value)
        tensor = shape_owner(node.value, sem)
        if isinstance(axis, int) and axis >= 0 and tensor is not None:
            return tensor, axis
    return None


def shape_owner(node: cst.BaseExpression, sem: Semantics) -> cst.BaseExpression | None:
    """`x` for `x.shape` and `x.size()` of a tensor."""
    if isinstance(node, cst.Attribute) and node.attr.value == "shape":
        owner = node.value
    elif (
        isinstance(node, cst.Call)
        and isinstance(node.func, cst.Attribute)
        and node.func.attr.value == "size"
        and not node.args
    ):
        # Only tensors have a `size` that can be called.
        return node.func.value if may_be_tensor(node.func.value, sem) else None
    else:
        return None
    return owner if _is_tensor(owner, sem) else None


def may_be_tensor(node: cst.BaseExpression, sem: Semantics) -> bool:
    """Nothing says that it is anything else."""
    return sem.value(node).kind in (Kind.TENSOR, Kind.PARAMETER, Kind.BATCH, Kind.UNKNOWN)


def _is_tensor(node: cst.BaseExpression, sem: Semantics) -> bool:
    return sem.value(node).is_tensor and not is_star_parameter(node, sem)


def is_star_parameter(node: cst.BaseExpression, sem: Semantics) -> bool:
    """`*tensors: Tensor` is a tuple, whatever its annotation says of the members."""
    function = sem.function(node).node
    if not isinstance(node, cst.Name) or not isinstance(function, cst.FunctionDef):
        return False
    stars = (function.params.star_arg, function.params.star_kwarg)
    return any(isinstance(s, cst.Param) and s.name.value == node.value for s in stars)


_MEMORY = re.compile(r"\b(memory|mem|oom|peak|vram|chunk)", re.IGNORECASE)


def saves_memory(node: cst.CSTNode, sem: Semantics) -> bool:
    """Whether a comment above the statement says that going row by row is meant to save memory."""
    row = sem.file.row(sem.file.statement(node)) - 2
    starts, text = sem.file.lines.starts, sem.file.text
    while row >= 0:
        line = text[starts[row] : starts[row + 1]].strip()
        if not line.startswith("#"):
            return False
        if _MEMORY.search(line):
            return True
        row -= 1
    return False


class _Bindings(dict[Function, "dict[str, list[cst.CSTNode]]"]):
    """What binds each name of a function, collected when it is first asked for."""

    def __init__(self, sem: Semantics) -> None:
        super().__init__()

    def __missing__(self, function: Function) -> dict[str, list[cst.CSTNode]]:
        table: dict[str, list[cst.CSTNode]] = {}
        for node, names in _binding(function.body):
            for name in names:
                table.setdefault(name, []).append(node)
        self[function] = table
        return table


def bindings_in(name: str, function: Function, sem: Semantics) -> list[cst.CSTNode]:
    """Every node in the function's scope that binds the name, in order: see `bindings`."""
    return sem.once(_Bindings)[function].get(name, [])


def bindings(name: str, body: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """Every node in the scope that binds the name: Assign, AnnAssign, AugAssign, For, With, NamedExpr, Del."""
    return (node for node, names in _binding(body) if name in names)


def _binding(body: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, set[str]]]:
    for node in walk_scope(body):
        targets: list[cst.CSTNode] = []
        if isinstance(node, cst.Assign):
            targets = [t.target for t in node.targets]
        elif isinstance(node, (cst.AnnAssign, cst.AugAssign, cst.NamedExpr, cst.For, cst.Del)):
            targets = [node.target]
        elif isinstance(node, cst.With):
            targets = [i.asname.name for i in node.items if i.asname is not None]
        if targets:
            yield node, {name for target in targets for name in bound_names(target)}


def bound_names(target: cst.CSTNode) -> set[str]:
    """The plain names that an assignment target binds."""
    if isinstance(target, cst.Name):
        return {target.value}
    if isinstance(target, (cst.Tuple, cst.List)):
        return {name for e in target.elements for name in bound_names(e.value)}
    return set()


def definition_of(
    name: str, at: cst.CSTNode, sem: Semantics
) -> tuple[cst.BaseAssignTargetExpression, cst.BaseExpression] | None:
    """The one assignment that gives the name its value in this scope, as (target, value); None unless just one."""
    function = sem.function(at)
    if name in function.params:
        return None
    found = bindings_in(name, function, sem)
    if len(found) != 1 or not isinstance(found[0], cst.Assign) or len(found[0].targets) != 1:
        return None
    return found[0].targets[0].target, found[0].value


def reads(name: str, node: cst.CSTNode, sem: Semantics) -> Iterator[cst.Name]:
    """Every place at or under the node where the plain name is read (nested functions included)."""
    for n in walk(node):
        if isinstance(n, cst.Name) and n.value == name and is_read(n, sem):
            yield n


def is_read(node: cst.Name, sem: Semantics) -> bool:
    """Whether the Name node is a variable that is read, not a target, a keyword or a declared name."""
    parent = sem.file.parent(node)
    if isinstance(parent, cst.Attribute):
        return parent.value is node
    if isinstance(parent, (cst.AssignTarget, cst.AnnAssign, cst.AsName, cst.For, cst.CompFor, cst.NamedExpr)):
        return getattr(parent, "target", getattr(parent, "name", None)) is not node
    if isinstance(parent, cst.Arg):
        return parent.value is node
    if isinstance(parent, (cst.Param, cst.FunctionDef, cst.ClassDef)):
        return getattr(parent, "name", None) is not node
    if isinstance(parent, cst.Element):
        holder: cst.CSTNode | None = parent
        while isinstance(holder, (cst.Element, cst.Tuple, cst.List)):
            inner, holder = holder, sem.file.parent(holder)
        if isinstance(holder, (cst.AssignTarget, cst.AsName)):
            return False
        if isinstance(holder, (cst.For, cst.CompFor)):
            return holder.target is not inner
    return True


def fresh_name(wanted: str, sem: Semantics) -> str:
    """A name like the wanted one that this file does not use, not even in a comment: its text is searched, not its
    tree."""
    name, n = wanted, 2
    while name in sem.file.text and re.search(rf"\b{name}\b", sem.file.text):
        name, n = f"{wanted}_{n}", n + 1
    return name


def is_number(node: cst.BaseExpression, sem: Semantics) -> bool:
    """A Python number for certain: a literal, or a value known to be one."""
    return isinstance(literal(node), (int, float)) or sem.value(node).kind is Kind.NUMBER
