"""One `.tolist()` for the entries of a tensor that a loop turns into Python numbers one after the other.

Two forms: rows that the loop's header hands out, whose tensor is walked as a list of numbers instead
(`for v in x.tolist()`), and entries picked by indices, which a list made ahead of the loop gives (`values[i]`).

`.item()` takes a single entry, so a row on which it is called has one; flattening what lies behind the indices
therefore keeps the order and the number of entries, whatever the number of dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix
from torchlint.nodes import dotted, find, literal, walk
from torchlint.semantics.certain import surely_tensor
from torchlint.semantics.kinds import Kind
from torchlint.semantics.model import Semantics
from torchlint.semantics.rows import Loop, bound_names, definition_of, fresh_name, is_read, may_be_tensor, reads
from torchlint.spelling import same
from torchlint.vectorise.lift import total_rank
from torchlint.vectorise.light import LightTurn
from torchlint.vectorise.purity import root_of

# What leaves an entry what it is. `.long()` and the like change its value.
_KEPT = frozenset(("detach", "cpu", "cuda"))
_ORDERS = (cst.Equal, cst.NotEqual, cst.LessThan, cst.LessThanEqual, cst.GreaterThan, cst.GreaterThanEqual)
_SMALL = 127  # what every dtype can hold, so that a comparison in the tensor's own dtype is that of the number


@dataclass(frozen=True, eq=False)
class _Use:
    """An entry where it becomes a number. `whole`: the expression that the number replaces; `exact`: whether the number
    gives the same for certain. `item`: by `.item()`, which no number of Python has."""

    whole: cst.BaseExpression = field(repr=False)
    exact: bool
    item: bool = False


def list_fix(loop: Loop, sem: Semantics) -> Fix | None:
    """Read the numbers from a list. None where the loop does more with the entries, or may change them."""
    turn = LightTurn(loop, sem)
    if not turn.is_light or turn.random:
        return None
    edits: list[Edit] = []
    exact = True
    for name, source in turn.rows.items():
        if not _in_header(source, loop, sem) or not _is_steady(source, turn) or _leaves_row(name, turn):
            continue
        uses = _uses_of_row(name, source, turn)
        if uses:
            edits.append(sem.file.replace(source, _listed(source, 1, _rank(source, sem), sem)))
            edits += [sem.file.replace(use.whole, name) for use in uses if not isinstance(use.whole, cst.Name)]
            exact = exact and _is_exact(uses, source, turn)
    for base, entries in _entries(turn):
        depth = len(entries[0][1])
        name = fresh_name(_name_of(base), sem)
        edits.append(sem.file.insert_before(loop, f"{name} = {_listed(base, depth, _rank(base, sem), sem)}"))
        for use, indices in entries:
            edits.append(sem.file.replace(use.whole, name + "".join(f"[{sem.file.code(i)}]" for i in indices)))
        exact = exact and _is_exact([use for use, _ in entries], base, turn)
    if not edits:
        return None
    return Fix(
        tuple(edits), Applicability.SAFE if exact else Applicability.UNSAFE, "read the numbers from one `.tolist()`"
    )


def _in_header(source: cst.BaseExpression, loop: Loop, sem: Semantics) -> bool:
    return source is loop.iter or any(a is loop.iter for a in sem.file.ancestors(source))


def _name_of(base: cst.BaseExpression) -> str:
    if isinstance(base, cst.Name):
        return f"{base.value}_list"
    return f"{base.attr.value}_list" if isinstance(base, cst.Attribute) else "numbers"


def _listed(tensor: cst.BaseExpression, depth: int, rank: int | None, sem: Semantics) -> str:
    """The entries behind `depth` indices as numbers."""
    code = sem.file.code(tensor)
    if not isinstance(tensor, (cst.Name, cst.Attribute, cst.Subscript, cst.Call)):
        code = f"({code})"
    if rank == depth:
        return f"{code}.tolist()"
    return f"{code}.flatten({depth - 1 or ''}).tolist()"


def _rank(tensor: cst.BaseExpression, sem: Semantics) -> int | None:
    """How many dimensions a tensor has; one behind `.flatten()`, `.view(-1)`."""
    made = definition_of(tensor.value, tensor, sem) if isinstance(tensor, cst.Name) else None
    value = made[1] if made is not None and isinstance(made[0], cst.Name) else tensor
    if isinstance(value, cst.Call) and isinstance(value.func, cst.Attribute):
        flat = value.func.attr.value == "flatten" and not value.args
        line = value.func.attr.value in ("view", "reshape") and len(value.args) == 1
        if flat or (line and literal(value.args[0].value) == -1):
            return 1
    return total_rank(tensor, sem)


# -- whether the entries stay what they are ---------------------------------------------------------------------------


def _is_steady(tensor: cst.BaseExpression, turn: LightTurn) -> bool:
    """Whether it is a tensor for certain, and no turn assigns it or writes into it by that name."""
    if not isinstance(tensor, (cst.Name, cst.Attribute, cst.Subscript, cst.Call)) or "\n" in turn.sem.file.code(tensor):
        return False
    if turn.varies(tensor) or not surely_tensor(tensor, turn.sem):
        return False
    root = root_of(tensor)
    if root is None and not isinstance(tensor, cst.Call):
        return False
    own = {n.value for n in find(tensor, cst.Name)}
    for store in turn.stores:
        target = root_of(store.target)
        if target is None or target.removeprefix("self.") in own or target in own | {root}:
            return False
        if target in turn.local and may_be_tensor(_base(store.target), turn.sem):
            return False  # what the turn made may be a view
    return True


def _base(node: cst.BaseExpression) -> cst.BaseExpression:
    while isinstance(node, cst.Subscript):
        node = node.value
    return node


def _leaves_row(name: str, turn: LightTurn) -> bool:
    """Whether a name that the header binds is bound again in a turn, or read behind the loop."""
    inner = [n.target for part in _body(turn) for n in walk(part) if isinstance(n, (cst.For, cst.CompFor))]
    if name in turn.local or any(name in bound_names(target) for target in inner):
        return True
    if not isinstance(turn.loop, cst.For):
        return False
    file, end = turn.sem.file, turn.sem.file.caret(turn.loop)[1]
    return any(
        file.caret(use)[0] >= end and not any(_binds(a, name) for a in file.ancestors(use))
        for use in reads(name, turn.sem.function(turn.loop).body, turn.sem)
    )


def _binds(node: cst.CSTNode, name: str) -> bool:
    if isinstance(node, cst.For):
        return name in bound_names(node.target)
    inner = getattr(node, "for_in", None)
    return isinstance(inner, cst.CompFor) and name in bound_names(inner.target)


def _is_exact(uses: list[_Use], tensor: cst.BaseExpression, turn: LightTurn) -> bool:
    """Whether the numbers are those that the turns read, even if an annotation says tensor of what is a list."""
    told = any(use.item for use in uses) or _is_made(tensor, turn.sem)
    return told and all(use.exact for use in uses) and not _may_share(tensor, turn)


def _is_made(tensor: cst.BaseExpression, sem: Semantics) -> bool:
    """Whether the function itself makes the tensor, or that of which it is a part."""
    root: cst.BaseExpression = tensor
    while isinstance(root, cst.Subscript):
        root = root.value
    if not isinstance(root, cst.Name):
        return isinstance(root, cst.Call)
    made = definition_of(root.value, root, sem)
    return made is not None and sem.value(root).evidence != "annotated"


def _may_share(tensor: cst.BaseExpression, turn: LightTurn) -> bool:
    """Whether something that the turns write into may be the tensor by another name."""
    made = definition_of(tensor.value, tensor, turn.sem) if isinstance(tensor, cst.Name) else None
    for store in turn.stores:
        base = _base(store.target)
        kind = turn.sem.value(base).kind
        if kind in (Kind.LIST, Kind.DICT, Kind.NUMBER):
            continue
        if not isinstance(base, cst.Name) or made is None:
            return True
        other = definition_of(base.value, base, turn.sem)
        if other is None or any(n.value == tensor.value for n in find(other[1], cst.Name)):  # type: ignore[attr-defined]
            return True
        if any(n.value == base.value for n in find(made[1], cst.Name)):
            return True
    return False


# -- rows that the header hands out -----------------------------------------------------------------------------------


def _body(turn: LightTurn) -> list[cst.CSTNode]:
    loop = turn.loop
    if isinstance(loop, cst.For):
        return [loop.body]
    owner = turn.sem.file.parent(loop)
    parts = [owner.key, owner.value] if isinstance(owner, cst.DictComp) else [getattr(owner, "elt", None)]
    return [p for p in (*parts, *loop.ifs) if isinstance(p, cst.CSTNode)]


def _uses_of_row(name: str, source: cst.BaseExpression, turn: LightTurn) -> list[_Use]:
    """Every use of the row, if all of them make a number of it and one is made in every turn; else none."""
    found: list[_Use] = []
    certain = _rank(source, turn.sem) == 1
    asked = {id(n) for n in turn.numbers}
    for part in _body(turn):
        for read in find(part, cst.Name):
            if read.value != name or not is_read(read, turn.sem):
                continue
            use = _number(read, turn.sem)
            if use is None:
                return []
            found.append(use)
            certain = certain or id(read) in asked or any(id(a) in asked for a in _up_to(read, use.whole, turn.sem))
    return found if certain else []


def _up_to(node: cst.CSTNode, end: cst.CSTNode, sem: Semantics) -> Iterator[cst.CSTNode]:
    for ancestor in sem.file.ancestors(node):
        yield ancestor
        if ancestor is end:
            return


def _number(entry: cst.BaseExpression, sem: Semantics) -> _Use | None:
    """The entry as it becomes a number: `e.item()`, `int(e)`, `e == 1`, `if e`."""
    use = _as_number(entry, sem)
    return None if use is None or "\n" in sem.file.code(use.whole) else use


def _as_number(entry: cst.BaseExpression, sem: Semantics) -> _Use | None:
    file = sem.file
    node: cst.BaseExpression = entry
    while isinstance(parent := file.parent(node), cst.Attribute) and parent.value is node:
        call = file.parent(parent)
        if parent.attr.value == "data":
            node = parent
        elif isinstance(call, cst.Call) and call.func is parent and not call.args:
            if parent.attr.value == "item":
                return _Use(call, True, item=True)
            if parent.attr.value not in _KEPT:
                return None
            node = call
        else:
            return None
    if isinstance(parent, cst.Arg):
        call = file.parent(parent)
        taken = isinstance(call, cst.Call) and len(call.args) == 1 and dotted(call.func) in ("int", "float", "bool")
        return _Use(node, True) if taken else None
    if isinstance(parent, cst.ComparisonTarget):
        parent = file.parent(parent)
    if isinstance(parent, cst.Comparison):
        if len(parent.comparisons) != 1 or not isinstance(parent.comparisons[0].operator, _ORDERS):
            return None
        other = parent.comparisons[0].comparator if parent.left is node else parent.left
        value = literal(other)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _SMALL or not _is_asked(parent, sem):
            return None
        return _Use(node, value >= 0)
    return _Use(node, True) if _is_asked(node, sem) else None


def _is_asked(node: cst.BaseExpression, sem: Semantics) -> bool:
    """Whether the truth of an expression is all that is asked of it."""
    parent = sem.file.parent(node)
    while isinstance(parent, cst.BooleanOperation) or (
        isinstance(parent, cst.UnaryOperation) and isinstance(parent.operator, cst.Not)
    ):
        if isinstance(parent, cst.UnaryOperation):
            return True
        node, parent = parent, sem.file.parent(parent)
    return isinstance(parent, (cst.If, cst.IfExp, cst.CompIf, cst.Assert)) and parent.test is node


# -- entries picked by indices ----------------------------------------------------------------------------------------

_Entries = list[tuple[_Use, tuple[cst.BaseExpression, ...]]]


def _entries(turn: LightTurn) -> list[tuple[cst.BaseExpression, _Entries]]:
    """Per tensor, the entries that become numbers, with the indices that pick them."""
    loop, sem = turn.loop, turn.sem
    block = sem.file.parent(loop)
    if not isinstance(loop, cst.For) or not isinstance(block, (cst.IndentedBlock, cst.Module)):
        return []
    if block.body and isinstance(sem.file.parent(block), cst.ClassDef):
        return []
    found: list[tuple[cst.BaseExpression, _Entries]] = []
    for item in find(loop.body, cst.Subscript):
        parent = sem.file.parent(item)
        if isinstance(parent, cst.Subscript) and parent.value is item:
            continue
        indices: list[cst.BaseExpression] = []
        base: cst.BaseExpression = item
        while isinstance(base, cst.Subscript) and all(isinstance(e.slice, cst.Index) for e in base.slice):
            if not all(_is_place(e.slice.value, turn) for e in base.slice if isinstance(e.slice, cst.Index)):
                break
            indices[:0] = [e.slice.value for e in base.slice if isinstance(e.slice, cst.Index)]
            base = base.value
        if not any(n.value in turn.bound for i in indices for n in find(i, cst.Name)):
            continue
        use = _number(item, sem)
        if use is None or not isinstance(base, (cst.Name, cst.Attribute)) or not _is_steady(base, turn):
            continue
        for known, entries in found:
            if same(known, base):
                if len(entries[0][1]) == len(indices):
                    entries.append((use, tuple(indices)))
                break
        else:
            found.append((base, [(use, tuple(indices))]))
    return found


def _is_place(index: cst.BaseExpression, turn: LightTurn) -> bool:
    """An integer: a counter, a number that is written out, or both together."""
    if isinstance(index, cst.Name):
        if index.value in turn.local:
            return False
        return index.value in turn.counters or turn.sem.value(index).kind is Kind.NUMBER
    if isinstance(index, cst.UnaryOperation):
        return isinstance(literal(index), int)
    if isinstance(index, cst.BinaryOperation) and isinstance(index.operator, (cst.Add, cst.Subtract)):
        return _is_place(index.left, turn) and _is_place(index.right, turn)
    return isinstance(index, cst.Integer)
