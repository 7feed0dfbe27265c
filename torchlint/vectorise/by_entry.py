"""Loops that treat a tensor entry by entry: no template writes their batched form, but it is plain that there is one.

Five forms: entries that become Python numbers one after the other (`.tolist()` moves them all at once), entries that
are written one after the other (a mask or an index writes them all), a tensor that is compared with every class in turn
(`bincount`), a list of the same tensor with one offset after the other (`arange`), and entries of several tensors that
are copied to the host in every turn.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field

import libcst as cst

from torchlint.nodes import dotted, find, is_whole, literal, walk
from torchlint.semantics.blocks import statements
from torchlint.semantics.certain import is_measured
from torchlint.semantics.display import draws, few, in_text
from torchlint.semantics.kinds import Kind
from torchlint.semantics.model import Semantics
from torchlint.semantics.rows import Loop, bound_names, extent, may_be_tensor, row_loop
from torchlint.spelling import same
from torchlint.vectorise.body import joined_behind, read_body
from torchlint.vectorise.host_copies import copied_by_entry, waits_are_said
from torchlint.vectorise.light import Entry, LightTurn, Store
from torchlint.vectorise.pairs import read_pairs
from torchlint.vectorise.pure import BUILTINS, CONTAINER_METHODS, SPEAKS_OF_TENSORS
from torchlint.vectorise.purity import root_of
from torchlint.vectorise.scatter import read_scatter
from torchlint.vectorise.work import worked_on


class How(str, enum.Enum):
    READ = "reads"
    WRITTEN = "writes"
    COUNTED = "compares with one class per turn"
    SHIFTED = "shifts"
    MOVED = "copies to the host"
    COMPUTED = "computes on"


@dataclass(frozen=True, eq=False)
class ByEntry:
    """`tensor`: what is treated entry by entry."""

    how: How
    tensor: cst.BaseExpression = field(repr=False)


def _known(sem: Semantics) -> dict[Loop, ByEntry | None]:
    """What has been made of the loops of one file: nothing yet."""
    return {}


def by_entry(loop: Loop, sem: Semantics) -> ByEntry | None:
    """The loop as one that goes through a tensor by entries; None where it, or a loop around it, is something else."""
    known = sem.once(_known)
    if loop not in known:
        known[loop] = None if _is_covered(loop, sem) else _by_entry(loop, sem)
    return known[loop]


def _is_covered(loop: Loop, sem: Semantics) -> bool:
    """Whether something is said of a loop around it."""
    around = sem.file.enclosing(loop, cst.For) if isinstance(loop, cst.For) else None
    return around is not None and (by_entry(around, sem) is not None or _is_covered(around, sem))


def _by_entry(loop: Loop, sem: Semantics) -> ByEntry | None:
    if few(loop.iter):
        return None
    turn = LightTurn(loop, sem)
    if turn.few:
        return None
    if turn.is_light:
        found = _written(turn) or _read(turn) or _counted(turn) or _shifted(turn)
    else:
        copied = copied_by_entry(loop, sem)
        found = None if copied is None else ByEntry(How.MOVED, copied)
    if found is not None and not _mentions_tensors(loop, sem):
        found = None
    if found is None and isinstance(loop, cst.For) and not is_compiled(loop, sem):
        worked = worked_on(loop, sem)
        found = None if worked is None else ByEntry(How.COMPUTED, worked)
    if found is None or draws(loop) or _said_otherwise(loop, sem):
        return None
    return found


def is_compiled(loop: Loop, sem: Semantics) -> bool:
    """Whether the function is a kernel, or is compiled, and its loops with it: `@cuda.jit`, `@torch.jit.script`."""
    function = sem.file.enclosing(loop, cst.FunctionDef)
    names = (
        [dotted(d.decorator.func if isinstance(d.decorator, cst.Call) else d.decorator) for d in function.decorators]
        if isinstance(function, cst.FunctionDef)
        else []
    )
    return any("jit" in (name or "").split(".") for name in names)


def _mentions_tensors(loop: Loop, sem: Semantics) -> bool:
    """Whether the function itself has to do with tensors: one that knows items only may be given anything."""
    file = sem.file
    start, end = file.caret(file.enclosing(loop, cst.FunctionDef) or file.tree)
    return SPEAKS_OF_TENSORS.search(file.text, start, end) is not None


def _said_otherwise(loop: Loop, sem: Semantics) -> bool:
    """Whether the loop, or one in it, has a batched form of its own."""
    if not isinstance(loop, cst.For):
        return in_text(loop, sem.file)
    for inner in find(loop, cst.For):
        rows = row_loop(inner, sem)
        if (
            (rows is not None and read_body(rows, sem) is not None)
            or read_pairs(inner, sem)
            or read_scatter(inner, sem)
        ):
            return True
    return False


# -- entries that become numbers --------------------------------------------------------------------------------------


# What turns numbers into numbers, and asks a tensor for one.
_PLAIN = BUILTINS | CONTAINER_METHODS
_PLAIN |= frozenset(
    "item tolist size dim numel cpu detach long double half byte floor ceil sqrt pow log exp isinf isnan".split()
)
# What makes a small tensor of numbers, to be written into an entry.
_MADE = frozenset("tensor LongTensor FloatTensor randint rand randn randperm".split())
_TESTS = re.compile(r"(^|/)tests?/")


def _read(turn: LightTurn) -> ByEntry | None:
    """Numbers are made of one entry after the other, and little else is done: tensors of a row's own length are not
    what `.tolist()` gives."""
    if not _gathers(turn) or _TESTS.search(turn.sem.file.path):
        return None
    written = {root_of(s.target) for s in turn.stores}
    own = turn.local - turn.early
    filled = [
        s.target for s in turn.stores if turn.sem.value(_base(s.target)).is_tensor and root_of(s.target) not in own
    ]
    fills = bool(filled)
    if fills and not (all(turn.entry(target, whole=True) for target in filled) and _is_only_written(turn)):
        return None
    works = bool(turn.calls - _PLAIN - (_MADE if fills else frozenset())) or _cuts(turn)
    for node in turn.numbers:
        entry = turn.entry(node)
        if entry is None:
            continue
        item = _is_item(node, turn.sem)
        # No list takes several indices, and what else has `item()` has `tolist()`, too.
        sure = item and isinstance(entry.node, cst.Subscript) and len(entry.node.slice) > 1
        if not sure and not _is_certain(entry.base, turn, item=item):
            continue
        if works and sum(isinstance(i, cst.Name) and i.value in turn.counters for i in entry.indices) < 2:
            continue
        if root_of(entry.base) in written | {None}:
            continue
        if not fills and waits_are_said(turn.loop, turn.sem):
            return None
        return ByEntry(How.READ, entry.base)
    return None


def _base(node: cst.BaseExpression) -> cst.BaseExpression:
    while isinstance(node, cst.Subscript):
        node = node.value
    return node


def _gathers(turn: LightTurn) -> bool:
    """Whether something is left of a turn; a text is for people to read."""
    if isinstance(turn.loop, cst.For):
        return bool(turn.stores or turn.calls & CONTAINER_METHODS or next(find(turn.loop, cst.AugAssign), None))
    owner = turn.sem.file.parent(turn.loop)
    elt = owner.elt if isinstance(owner, (cst.ListComp, cst.GeneratorExp)) else None
    return elt is not None and not any(isinstance(n, (cst.SimpleString, cst.ConcatenatedString)) for n in _leaves(elt))


def _leaves(elt: cst.BaseExpression) -> list[cst.BaseExpression]:
    return [elt.body, elt.orelse] if isinstance(elt, cst.IfExp) else [elt]


def _cuts(turn: LightTurn) -> bool:
    """Whether stretches are taken of something."""
    return any(not is_whole(part) for part in find(turn.loop, cst.Slice))


def _is_item(node: cst.CSTNode, sem: Semantics) -> bool:
    parent = sem.file.parent(node)
    return isinstance(parent, cst.Attribute) and parent.attr.value == "item"


def _is_certain(node: cst.BaseExpression, turn: LightTurn, item: bool = False) -> bool:
    """Whether it is a tensor beyond doubt: made, annotated, or asked for its `size()`; a batch whose items are numbers
    of tensors, or that was moved."""
    value = turn.sem.value(node)
    if value.is_tensor and value.evidence != "used":
        return True
    if value.is_tensor or value.kind is Kind.UNKNOWN:
        return (item and value.is_tensor) or is_measured(node, turn.sem)
    return value.kind is Kind.BATCH and (item or value.device not in ("", "cpu"))


# -- entries that are written -----------------------------------------------------------------------------------------


def _written(turn: LightTurn) -> ByEntry | None:
    """Each turn writes entries of its own, out of what all turns share."""
    if turn.random or not turn.stores or any(turn.varies(part) for part in find(turn.loop, cst.Slice)):
        return None
    packed = {name for name in turn.carried if turn.counts[name]}
    if turn.carried - packed or not all(_only_places(name, turn) for name in packed):
        return None
    found: cst.BaseExpression | None = None
    for store in turn.stores:
        entry = turn.entry(store.target, whole=True) or _packed_entry(store, packed, turn)
        if entry is None or not _is_own(store, entry, packed, turn):
            return None
        if not _is_certain(entry.base, turn):
            # No list takes several indices.
            if len(entry.indices) < 2 or not may_be_tensor(entry.base, turn.sem):
                return None
        elif store.value is not None and _is_work(store, entry, turn):
            found = found or entry.base
        # What is taken out of a tensor has one size, and so have the places in a list that it is written to.
        sized = store.value is not None and _takes_entries(store.value, turn)
        if not all(_is_place(index, turn) and not _takes_items(index, turn, lists=sized) for index in entry.indices):
            return None
        if store.value is not None and _takes_items(store.value, turn):
            return None
    return ByEntry(How.WRITTEN, found) if found is not None and _is_only_written(turn) else None


def _packed_entry(store: Store, packed: set[str], turn: LightTurn) -> Entry | None:
    """`out[k, 0] = …` where `k` counts what has been written."""
    target = store.target
    if not isinstance(target, cst.Subscript) or turn.varies(target.value):
        return None
    indices = [e.slice.value for e in target.slice if isinstance(e.slice, cst.Index)]
    if len(indices) != len(target.slice) or not any(isinstance(i, cst.Name) and i.value in packed for i in indices):
        return None
    return Entry(target, target.value, tuple(indices))


def _only_places(name: str, turn: LightTurn) -> bool:
    """Whether a count is used for nothing but to say where to write."""
    places = {id(n) for s in turn.stores for n in find(s.target, cst.Name)}
    grown = {id(n.target) for n in find(turn.loop, cst.AugAssign)}
    return all(id(n) in places | grown for n in find(turn.loop, cst.Name) if n.value == name)


def _is_own(store: Store, entry: Entry, packed: set[str], turn: LightTurn) -> bool:
    """Whether no other turn writes the same entry another value."""
    names = {i.value for i in entry.indices if isinstance(i, cst.Name)}
    if names & packed:
        return True
    header = turn.loop.target
    if names.isdisjoint(n.value for n in find(header, cst.Name)):
        return False
    return store.value is None or _depends(store.value, turn, names) <= names


def _depends(node: cst.CSTNode, turn: LightTurn, places: set[str], seen: frozenset[str] = frozenset()) -> set[str]:
    """The names of headers that a value depends on, by way of what the turn assigns; `places` stand for themselves."""
    inner = {name for c in find(node, cst.CompFor) for name in bound_names(c.target)}
    found: set[str] = set()
    for name in ({n.value for n in find(node, cst.Name)} & turn.varying) - inner:
        made = _definitions(name, turn)
        if name in places or name in seen or name not in turn.local or not made:
            found.add(name)
        else:
            found |= {d for value in made for d in _depends(value, turn, places, seen | {name})}
    return found


def _is_work(store: Store, entry: Entry, turn: LightTurn) -> bool:
    """Whether what is written comes out of tensors, and not of the counters alone, of which a table is made once: over
    all rows of a tensor one and the same part, or an update."""
    assert store.value is not None
    if _takes_entries(store.value, turn) or any(_takes_entries(i, turn) for i in entry.indices):
        return True
    call = turn.loop.iter
    last = call.args[-1].value if isinstance(call, cst.Call) and call.args and len(call.args) < 3 else None
    if last is None or dotted(call.func if isinstance(call, cst.Call) else None) != "range":
        return False
    if extent(last, turn.sem) is None:
        return False
    return store.operator != "=" or (isinstance(store.value, cst.Subscript) and not turn.varies(store.value))


def _takes_entries(value: cst.BaseExpression, turn: LightTurn) -> bool:
    """Whether what is written is computed from entries of something, not from the counters alone: a table of those is
    made once."""
    made = _definitions(value.value, turn) if isinstance(value, cst.Name) else []
    for item in (item for part in (value, *made) for item in find(part, cst.Subscript)):
        entry = turn.entry(item, whole=True)
        if entry is not None and (len(entry.indices) > 1 or turn.sem.value(entry.base).is_tensor):
            return True
    return False


def _definitions(name: str, turn: LightTurn) -> list[cst.BaseExpression]:
    """What the turn assigns to a name."""
    return [a.value for a in find(turn.loop, cst.Assign) if any(name in bound_names(t.target) for t in a.targets)]


def _is_place(index: cst.BaseExpression, turn: LightTurn, depth: int = 3) -> bool:
    """Whether an index is a place or as many of them in every turn: what is counted, or looked up; a mask picks as many
    as it likes."""
    if isinstance(index, cst.Name):
        made = _definitions(index.value, turn) if index.value in turn.local and not turn.counts[index.value] else []
        return depth > 0 and all(_is_place(value, turn, depth - 1) for value in made)
    if isinstance(index, cst.BinaryOperation):
        return _is_place(index.left, turn, depth) and _is_place(index.right, turn, depth)
    if isinstance(index, cst.Call):
        if isinstance(index.func, cst.Attribute):
            return index.func.attr.value in ("item", "long", "int") and _is_place(index.func.value, turn, depth)
        return dotted(index.func) == "int"
    return not any(isinstance(n, (cst.Comparison, cst.Call)) for n in walk(index))


def _takes_items(value: cst.BaseExpression, turn: LightTurn, lists: bool = False) -> bool:
    """Whether single items are taken of what may be a list, whose tensors need not be of one size. `lists`: those of a
    list are, if it is one."""
    for item in find(value, cst.Subscript):
        parent = turn.sem.file.parent(item)
        entry = turn.entry(item, whole=True)
        kind = turn.sem.value(entry.base).kind if entry is not None else Kind.UNKNOWN
        if entry is None or kind in (Kind.TENSOR, Kind.PARAMETER) or (lists and kind is Kind.LIST):
            continue
        plain = [i for i in entry.indices if next(find(i, cst.Subscript), None) is None]
        if len(plain) < 2 and not (isinstance(parent, cst.Subscript) and parent.value is item):
            return True
    return False


def _is_only_written(turn: LightTurn) -> bool:
    """Whether no turn reads an entry that another one wrote."""
    sem = turn.sem
    targets = [s.target for s in turn.stores]
    inside = {id(n) for t in targets for n in find(t, cst.Name)}
    roots = {root_of(t) for t in targets}
    for name in find(turn.loop, cst.Name):
        if name.value not in roots or id(name) in inside:
            continue
        node: cst.CSTNode = name
        while isinstance(parent := sem.file.parent(node), (cst.Subscript, cst.Attribute)) and parent.value is node:
            node = parent
            if isinstance(node, cst.Attribute) and node.attr.value in ("shape", "size", "device", "dtype", "new"):
                break
            if isinstance(node, cst.Subscript) and (any(same(node, t) for t in targets) or _is_before(node, turn)):
                break
        else:
            return False
    return True


def _is_before(node: cst.Subscript, turn: LightTurn) -> bool:
    """`w[0, …]` in `for c in range(1, n)`: an entry that no turn writes."""
    call = turn.loop.iter
    if not isinstance(call, cst.Call) or dotted(call.func) != "range" or len(call.args) != 2:
        return False
    first, start = node.slice[0].slice, literal(call.args[0].value)
    place = literal(first.value) if isinstance(first, cst.Index) else None
    return isinstance(place, int) and isinstance(start, int) and 0 <= place < start


# -- a tensor that is compared with every class -----------------------------------------------------------------------

_SUMS = frozenset(("sum", "mean", "count_nonzero", "any"))
_COUNTS = _PLAIN | _SUMS | frozenset("logical_and logical_or logical_not eq ne to type tensor all cuda nansum".split())


def _counted(turn: LightTurn) -> ByEntry | None:
    """`(guess == c).sum()` for every class c, with nothing carried along but totals."""
    counter = turn.loop.target
    call = turn.loop.iter
    if not isinstance(counter, cst.Name) or not isinstance(call, cst.Call):
        return None
    if (dotted(call.func) or "").rpartition(".")[2] not in ("range", "unique"):
        return None
    if turn.random or turn.nested or turn.carried or not turn.calls & _SUMS or turn.calls - _COUNTS:
        return None
    for test in turn.tests:
        if len(test.comparisons) != 1 or not isinstance(test.comparisons[0].operator, cst.Equal):
            continue
        sides = (test.left, test.comparisons[0].comparator)
        for whole, other in (sides, sides[::-1]):
            if isinstance(other, cst.Name) and other.value == counter.value and not turn.varies(whole):
                sure = _is_certain(whole, turn, item=_gives_mask(test, turn.sem))
                if sure and turn.sem.value(whole).kind is not Kind.UNKNOWN:
                    return ByEntry(How.COUNTED, whole)
    return None


def _gives_mask(test: cst.Comparison, sem: Semantics) -> bool:
    """Whether a comparison chooses entries, or has methods: that of a list is one truth value."""
    parent = sem.file.parent(test)
    return isinstance(parent, cst.Attribute) or (
        isinstance(parent, cst.Index) and isinstance(sem.file.parent(parent), cst.SubscriptElement)
    )


# -- one tensor, with one offset after the other ----------------------------------------------------------------------


def _shifted(turn: LightTurn) -> ByEntry | None:
    """`parts.append(edges + n * i)`, concatenated behind the loop."""
    loop, sem = turn.loop, turn.sem
    if not isinstance(loop, cst.For) or turn.local or turn.stores or turn.nested or turn.rows:
        return None
    found: cst.BaseExpression | None = None
    for statement in statements(loop.body):
        small = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) else None
        call = small.value if isinstance(small, cst.Expr) else None
        if not isinstance(call, cst.Call) or not isinstance(call.func, cst.Attribute) or len(call.args) != 1:
            return None
        gathered, value = call.func.value, call.args[0].value
        if call.func.attr.value != "append" or not isinstance(gathered, cst.Name):
            return None
        if not isinstance(value, cst.BinaryOperation) or not isinstance(value.operator, cst.Add):
            return None
        if not joined_behind(gathered.value, loop, sem):
            return None
        sides = (value.left, value.right)
        for whole, step in (sides, sides[::-1]):
            if not turn.varies(whole) and sem.value(whole).is_tensor and _is_multiple(step, turn):
                found = whole
                break
        else:
            return None
    return ByEntry(How.SHIFTED, found) if found is not None else None


def _is_multiple(node: cst.BaseExpression, turn: LightTurn) -> bool:
    """`i`, `n * i`."""
    if isinstance(node, cst.Name):
        return node.value in turn.counters
    if not isinstance(node, cst.BinaryOperation) or not isinstance(node.operator, cst.Multiply):
        return False
    sides = (node.left, node.right)
    return any(
        isinstance(a, cst.Name) and a.value in turn.counters and not turn.varies(b) for a, b in (sides, sides[::-1])
    )
