"""Loops whose turns, however deep, only compute on their own part of a tensor.

`body` reads the turns that templates can write for all rows at once. This reads more: loops in loops, choices by
counters and by values, functions of the file, masked reductions of a row. It says that there is a form for all turns,
and leaves it to people to write it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import libcst as cst

from torchlint.nodes import dotted, find, walk
from torchlint.semantics.blocks import leaves, statements
from torchlint.semantics.certain import surely_tensor
from torchlint.semantics.kinds import Kind
from torchlint.semantics.model import Semantics
from torchlint.semantics.names import Function
from torchlint.semantics.rows import bound_names, definition_of, extent
from torchlint.spelling import same
from torchlint.vectorise.body import ADDED, EVEN, joined_behind
from torchlint.vectorise.changed import Changed, added_to, may_compute, mentions
from torchlint.vectorise.pure import WRITES
from torchlint.vectorise.varying import SAME, Expressions, How, Seen, Unclear, base_of, joined

_LAYERS = frozenset(
    f"torch.nn.{name}" for name in "Linear Bilinear Embedding LayerNorm ReLU GELU Sigmoid Tanh Softmax Softplus".split()
)
_DEEP = 3  # functions that call functions
_ASKED = frozenset(("shape", "size", "device", "dtype", "new"))  # of what is written
_SUMS = (cst.AddAssign, cst.SubtractAssign)


def worked_on(loop: cst.For, sem: Semantics) -> cst.BaseExpression | None:
    """The tensor whose parts the turns compute on, each for itself; None where that is not plain."""
    turns = Turns(sem)
    try:
        turns.loop(loop)
    except Unclear:
        return None
    if not turns.sinks or not turns.worked or not _only_writes(turns):
        return None
    for name, guarded in turns.appended.items():
        if name in turns.numbers and not guarded:
            continue  # `.tolist()` gives the same list
        joins = ADDED if guarded else ADDED | EVEN if name in turns.uneven else None
        if not joined_behind(name, loop, sem, joins):
            return None
    return _walked(turns, loop.iter)


def worked_in(node: cst.ListComp | cst.GeneratorExp, sem: Semantics) -> cst.BaseExpression | None:
    """The same for a comprehension."""
    turns = Turns(sem)
    try:
        turns.header(node.for_in.target, node.for_in.iter, 0)
        found = turns.seen(node.elt)
    except Unclear:
        return None
    return _walked(turns, node.for_in.iter) if turns.worked and found.how is How.VALUES else None


def _walked(turns: Turns, source: cst.BaseExpression) -> cst.BaseExpression | None:
    """The first certain tensor whose parts the outermost loop picks. What comes into a tensor is no list where it is
    picked by several indices. A count that nothing is known of may be that of the lists that it picks items of."""
    if turns.listed and not _is_measured(source, turns.sem):
        return None
    picked = turns.walked + (turns.several if turns.writes_tensor else [])
    return next((tensor for tensor, loops in picked if 0 in loops), None)


def _is_measured(source: cst.BaseExpression, sem: Semantics) -> bool:
    """Whether a loop has as many turns as a tensor is long: all but `range(n)` of an `n` that was given."""
    while isinstance(source, cst.Call) and source.args and dotted(source.func) not in ("range", "torch.arange"):
        source = source.args[0].value
    if not isinstance(source, cst.Call):
        return True
    return any(_asks_shape(n, sem) for arg in source.args for n in walk(arg.value))


def _asks_shape(node: cst.CSTNode, sem: Semantics) -> bool:
    """`len(x)` of a tensor, `x.shape`, `x.size(0)`, or a name for these."""
    if isinstance(node, cst.Attribute):
        return node.attr.value in ("shape", "size", "numel")
    if not isinstance(node, (cst.Name, cst.Call)):
        return False
    made = definition_of(node.value, node, sem) if isinstance(node, cst.Name) else None
    return extent(node, sem) is not None or (
        made is not None and any(n.attr.value in ("shape", "size") for n in find(made[1], cst.Attribute))
    )


class Turns(Expressions):
    """The turns of a loop, read statement by statement. `sinks`: what is left of them. `appended`: the lists from
    outside that they fill, and whether some turns leave them alone; `numbers`: those that get Python numbers."""

    def __init__(self, sem: Semantics, depth: int = 0, loops: int = 0) -> None:
        super().__init__(sem)
        self.depth = depth
        self.loops = loops  # how many have been entered
        self.open = 0  # how many are being read
        self.running: set[str] = set()  # names that only grow in a loop that is being read
        self.appended: dict[str, bool] = {}
        self.numbers: set[str] = set()
        self.uneven: set[str] = set()  # those whose parts may differ in size, for all that the turns show
        self.stores: list[cst.Subscript] = []
        self.writes_tensor = False
        self.sinks: list[cst.BaseExpression] = []
        self.returned: list[Seen] = []
        self.guards: list[Seen] = []
        self.pinned: frozenset[int] = frozenset()  # loops of which only one turn gets here

    # -- loops and choices --------------------------------------------------------------------------------------------

    def loop(self, node: cst.For) -> None:
        if node.orelse is not None or node.asynchronous is not None or not isinstance(node.body, cst.IndentedBlock):
            raise Unclear("an else of a loop")
        number, self.loops, self.open = self.loops, self.loops + 1, self.open + 1
        self.header(node.target, node.iter, number)
        if not may_compute(node.body):
            raise Unclear("a call for its effect")
        changed = Changed(node.body)
        growing, others = changed.grown - changed.others, changed.others
        self.totals |= changed.totals
        self.filled |= changed.filled
        header = bound_names(node.target)
        outer, self.running = self.running, self.running | growing
        for name in others - header:
            self.names.pop(name, None)  # the turn before left it
        self.changing |= others
        guards = list(self.guards)
        self.suite(node.body)
        self.guards, self.running, self.open = guards, outer, self.open - 1
        self.changing |= header
        for name in others | header:
            self.names.pop(name, None)
        for name, seen in self.names.items():
            self.names[name] = replace(seen, loops=seen.loops - {number})

    def suite(self, body: cst.BaseSuite) -> None:
        for statement in statements(body) if isinstance(body, cst.IndentedBlock) else body.body:
            if isinstance(statement, cst.SimpleStatementLine):
                for small in statement.body:
                    self.small(small)
            elif isinstance(statement, cst.If):
                self.choice(statement)
            elif isinstance(statement, cst.For):
                self.loop(statement)
            elif isinstance(statement, cst.BaseSmallStatement):
                self.small(statement)
            else:
                raise Unclear(type(statement).__name__)

    def choice(self, node: cst.If) -> None:
        test = self.seen(node.test)
        if test.how is How.LENGTH:
            raise Unclear("a question about as many entries as there are")
        self.worked = self.worked or test.how > How.PLACE
        names, lists, places = dict(self.names), dict(self.appended), dict(self.places)
        ends: list[dict[str, Seen]] = []
        filled: list[dict[str, bool]] = []
        for arm in (node.body, node.orelse):
            self.names, self.appended, self.places = dict(names), dict(lists), dict(places)
            self.guards.append(test)
            pinned = self.pinned
            if arm is node.body and _pins(node.test, test):
                self.pinned = pinned | test.loops
            if isinstance(arm, cst.If):
                self.choice(arm)
            elif arm is not None:
                self.suite(arm.body if isinstance(arm, cst.Else) else arm)
            self.guards.pop()
            self.pinned = pinned
            filled.append(self.appended)
            if not _leaves(arm):
                ends.append({name: _under(seen, test, names.get(name)) for name, seen in self.names.items()})
        if leaves(node.body) and test.how is not How.SAME and not self.depth:
            self.guards.append(test)  # whatever stands behind an `if … continue` is under it, too
        self.names = _met(ends) if ends else names
        self.places = {name: given for name, given in places.items() if self.names.get(name) is names.get(name)}
        self.changing |= {name for end in ends for name in end} - self.names.keys()
        guarded = self._is_guarded()
        self.appended = {**filled[0], **filled[1]}
        for name in (filled[0].keys() & filled[1].keys()) - lists.keys():
            self.appended[name] = guarded  # one part either way

    def _is_guarded(self) -> bool:
        return any(guard.how is not How.SAME for guard in self.guards)

    # -- statements ---------------------------------------------------------------------------------------------------

    def small(self, node: cst.BaseSmallStatement) -> None:
        if isinstance(node, (cst.Pass, cst.Continue)):
            return
        if isinstance(node, cst.Assert):
            self.seen(node.test)
        elif isinstance(node, cst.Return) and self.depth and not self.open:
            given = self.seen(node.value) if node.value is not None else SAME
            self.returned.append(replace(joined(given, *self.guards), whole=given.whole))
        elif isinstance(node, cst.Raise) and self.guards and not self._is_guarded():
            return  # asks for what the caller gives
        elif isinstance(node, cst.Expr):
            self._alone(node.value)
        elif isinstance(node, cst.Assign):
            for target in node.targets:
                self._assign(target.target, node.value)
        elif isinstance(node, cst.AugAssign):
            self._grow(node)
        else:
            raise Unclear(type(node).__name__)

    def _alone(self, node: cst.BaseExpression) -> None:
        if isinstance(node, (cst.SimpleString, cst.ConcatenatedString)):
            return
        if isinstance(node, cst.Call) and dotted(node.func) == "print" and self.guards:
            return  # a few of them are looked at
        if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute) or any(a.star for a in node.args):
            raise Unclear("a call for its effect")
        owner, method = node.func.value, node.func.attr.value
        if method == "append" and isinstance(owner, cst.Name) and len(node.args) == 1:
            self._append(owner.value, node.args[0].value)
        elif method in WRITES and isinstance(owner, cst.Subscript):
            self._store(owner, joined(*(self.seen(a.value) for a in node.args)), method in ("add_", "sub_"))
        else:
            raise Unclear(f"{method} for its effect")

    def _append(self, name: str, node: cst.BaseExpression) -> None:
        value, known = self.seen(node), self.names.get(name)
        if value.sequence or (value.how is How.LENGTH and known is not None):
            raise Unclear("parts of their own length")
        if known is not None:
            if self._is_guarded() or not known.sequence:
                raise Unclear("as many parts as a turn chooses")
            self.names[name] = replace(joined(known, value), sequence=True)
            return
        if self.depth or name in self.appended:
            raise Unclear("several parts of one list")
        self.appended[name] = self._is_guarded()
        if value.how is How.LENGTH:
            self.uneven.add(name)
        if self.sem.value(node).kind is Kind.NUMBER:
            self.numbers.add(name)
        if value.how > How.PLACE:
            self.sinks.append(node)

    def _assign(self, target: cst.BaseExpression, value: cst.BaseExpression) -> None:
        if isinstance(target, cst.Name):
            added = added_to(target.value, value) if target.value in self.running else None
            if added is not None:
                for term in added:
                    self._total(target.value, term)
            else:
                self._name_is(target.value, self.seen(value), value)
        elif isinstance(target, (cst.Tuple, cst.List)):
            self._unpack(target.elements, value)
        elif isinstance(target, cst.Subscript):
            self._store(target, self.seen(value), False)
        else:
            raise Unclear("an attribute is set")

    def _unpack(self, elements: Sequence[cst.BaseElement], value: cst.BaseExpression) -> None:
        parts: list[cst.BaseExpression | None] = [None] * len(elements)
        if isinstance(value, (cst.Tuple, cst.List)) and len(value.elements) == len(elements):
            parts = [e.value for e in value.elements]
            found = [self.seen(part) for part in parts if part is not None]
        else:
            whole, pair = self.seen(value), self.is_pair(value)
            if whole.how is How.LENGTH and not pair:
                raise Unclear("parts of their own length")
            found = [replace(whole, sequence=False, whole=pair and k == 1) for k in range(len(elements))]
        for element, seen, part in zip(elements, found, parts):
            if isinstance(element.value, cst.Subscript):
                self._store(element.value, seen, False)
            elif isinstance(element.value, cst.Name):
                self._name_is(element.value.value, seen, part)
            else:
                raise Unclear("a nested target")

    def _name_is(self, name: str, seen: Seen, value: cst.BaseExpression | None) -> None:
        if name in self.running or name in self.appended:
            raise Unclear("a total that is set")
        self.bind(name, seen)
        if seen.how in (How.SAME, How.PLACE) and value is not None and not mentions(value, name):
            self.places[name] = value

    def _total(self, name: str, value: cst.BaseExpression) -> None:
        """Adds to a sum of the turns: one of an outer turn, or of all."""
        seen, known = self.seen(value), self.names.get(name)
        if seen.sequence or self.sem.value(value).kind in (Kind.LIST, Kind.TUPLE, Kind.STRING, Kind.DICT):
            raise Unclear("a list that grows")
        found = joined(seen, *self.guards)
        found = replace(found, how=min(found.how, How.VALUES))  # what adds up has one size
        if known is not None:
            self.names[name] = replace(joined(known, found), whole=known.whole and seen.whole)
        elif self.depth:
            raise Unclear("a name of another function")
        elif found.how > How.PLACE:
            self.sinks.append(value)
        self.worked = self.worked or found.how > How.PLACE

    def _grow(self, node: cst.AugAssign) -> None:
        target = node.target
        if isinstance(target, cst.Subscript):
            self._store(target, self.seen(node.value), isinstance(node.operator, _SUMS))
        elif isinstance(target, cst.Attribute) or (isinstance(target, cst.Name) and target.value in self.running):
            if not isinstance(node.operator, _SUMS):
                raise Unclear("a product of all turns")
            self._total(dotted(target) or "", node.value)
        elif isinstance(target, cst.Name):
            known = self.seen(target)
            if known.sequence or (not known.fresh and known.how > How.PLACE and not known.whole):
                raise Unclear("a view is written to")
            found = joined(known, self.seen(node.value), *self.guards)
            self.names[target.value] = replace(found, how=How.VALUES) if found.how is How.PLACE else found

    def _store(self, target: cst.Subscript, value: Seen, adds: bool) -> None:
        """`out[i, …] = value`."""
        root, indices = base_of(target), _indices(target)
        value = replace(value, how=min(value.how, How.VALUES))  # it has the size of what it is written to
        seen = [self.index(part, SAME, len(indices)) for part in indices]
        own = self.pinned.union(*(s.loops for s, i in zip(seen, indices) if s.how is How.PLACE and self.is_place(i)))
        everything = joined(value, *seen, *self.guards)
        if isinstance(root, cst.Name) and root.value in self.names:
            if not self.names[root.value].fresh:
                raise Unclear("a view is written to")
            self.names[root.value] = joined(self.names[root.value], everything)
            return
        if isinstance(root, cst.Name) and root.value in self.changing | self.running:
            raise Unclear("what an earlier turn made is written to")
        if self.depth or self.sem.value(root).kind not in (Kind.TENSOR, Kind.PARAMETER, Kind.UNKNOWN, Kind.BATCH):
            raise Unclear("what is written is no tensor")
        if not adds and not value.loops.union(*(g.loops for g in self.guards)) <= own:
            raise Unclear("the last turn wins")
        if not own and all(s.how is How.SAME for s in seen):
            raise Unclear("every turn writes to one place")
        if surely_tensor(root, self.sem):
            self.writes_tensor = True
        elif len(indices) < 2:
            raise Unclear("what may be a list is written to")
        self.stores.append(target)
        if everything.how > How.PLACE:
            self.worked = True
            self.sinks.append(target)

    # -- calls --------------------------------------------------------------------------------------------------------

    def function(self, callee: Function, node: cst.Call, args: list[Seen]) -> Seen:
        definition = callee.node
        if not isinstance(definition, cst.FunctionDef) or self.depth >= _DEEP or definition.asynchronous is not None:
            raise Unclear("an own function")
        if definition.decorators and not callee.is_static:
            raise Unclear("a decorated function")
        inner = Turns(self.sem, self.depth + 1, self.loops)
        bare = callee.is_method and isinstance(node.func, cst.Attribute)
        params = callee.params[1:] if bare else callee.params
        inner.names = dict.fromkeys(params, SAME)
        for place, (arg, seen) in enumerate(zip(node.args, args)):
            if arg.keyword is None and place >= len(params):
                raise Unclear("more arguments than parameters")
            inner.names[arg.keyword.value if arg.keyword is not None else params[place]] = replace(seen, fresh=False)
        inner.changing = callee.local - set(callee.params)
        inner.suite(definition.body)
        if not inner.returned or inner.stores or inner.appended:
            raise Unclear("a function that does more than give something back")
        self.worked = self.worked or inner.worked
        return replace(joined(*inner.returned), whole=all(r.whole for r in inner.returned))

    def module(self, node: cst.Call, args: list[Seen]) -> Seen:
        """A layer that a function of the turn calls; of one that the turn itself calls TL507 speaks, and a network is
        given one slice after the other where memory is short."""
        if not self.depth or self.sem.value(node.func).origin not in _LAYERS:
            raise Unclear("a module")
        return self.computed(*args)


def _pins(test: cst.BaseExpression, seen: Seen) -> bool:
    """`i == 0`: one turn of its loop."""
    return (
        seen.how is How.PLACE
        and len(seen.loops) == 1
        and isinstance(test, cst.Comparison)
        and len(test.comparisons) == 1
        and isinstance(test.comparisons[0].operator, cst.Equal)
    )


def _leaves(arm: cst.BaseSuite | cst.If | cst.Else | None) -> bool:
    if isinstance(arm, cst.If):
        return arm.orelse is not None and _leaves(arm.body) and _leaves(arm.orelse)
    suite = arm.body if isinstance(arm, cst.Else) else arm
    return suite is not None and leaves(suite)


def _under(seen: Seen, test: Seen, before: Seen | None) -> Seen:
    """What a name is that was set where a test holds."""
    if seen is before or test.how is How.SAME:
        return seen
    return replace(seen, how=max(seen.how, How.VALUES), loops=seen.loops | test.loops)


def _met(ends: list[dict[str, Seen]]) -> dict[str, Seen]:
    """What is known behind the arms of a choice: of those names that every arm knows."""
    found: dict[str, Seen] = {}
    for name in set.intersection(*(set(end) for end in ends)):
        parts = [end[name] for end in ends]
        met = joined(*parts)
        found[name] = replace(
            met,
            fresh=all(p.fresh for p in parts),
            whole=all(p.whole for p in parts),
            sequence=any(p.sequence for p in parts),
        )
    return found


def _indices(target: cst.Subscript) -> list[cst.BaseSlice]:
    """`i`, `j` and `k` of `x[i][j, k]`."""
    found: list[cst.BaseSlice] = []
    node: cst.BaseExpression = target
    while isinstance(node, cst.Subscript):
        found[:0] = [e.slice for e in node.slice]
        node = node.value
    return found


def _only_writes(turns: Turns) -> bool:
    """Whether no turn reads of what is written anything but its own place."""
    for read in turns.read:
        for target in turns.stores:
            if not same(read, base_of(target)):
                continue
            node: cst.CSTNode = read
            while isinstance(parent := turns.sem.file.parent(node), cst.Subscript) and parent.value is node:
                node = parent
                if same(node, target):
                    break
            else:
                if not isinstance(parent, cst.Attribute) or parent.attr.value not in _ASKED:
                    return False
    return True
