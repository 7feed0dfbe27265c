"""Turns of light work: arithmetic, items, Python's own containers and functions of torch; nothing of unknown cost.

`LightTurn` reads a loop and the loops in it, and keeps what happens to single entries of tensors: which are read as
numbers, which are written, what is compared with the counter, and which names one turn hands to the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import libcst as cst

from torchlint.nodes import children, dotted, find, is_whole, literal
from torchlint.semantics.blocks import leaves, statements
from torchlint.semantics.model import Semantics
from torchlint.semantics.rows import Loop, bound_names
from torchlint.vectorise.pure import BUILTINS, CONTAINER_METHODS, LIGHT, PASSING, PURE, WRITES

_NUMBERS = frozenset(("int", "float", "bool"))
_WRAPPERS = frozenset(("tqdm.tqdm", "tqdm.auto.tqdm", "tqdm.notebook.tqdm"))
_OPERATORS = (cst.BaseBinaryOp, cst.BaseUnaryOp, cst.BaseBooleanOp, cst.BaseCompOp)
# Leaves, and operators, which `children` gives, too.
_SILENT = frozenset((cst.Integer, cst.Float, cst.Imaginary, cst.SimpleString, cst.ConcatenatedString, cst.Ellipsis))
_SILENT |= {c for c in vars(cst).values() if isinstance(c, type) and issubclass(c, _OPERATORS)}
_PLAIN_PARTS = frozenset((cst.Subscript, cst.SubscriptElement, cst.Index, cst.Slice, cst.Tuple, cst.List, cst.Set))
_PLAIN_PARTS |= {cst.Element, cst.BinaryOperation, cst.BooleanOperation, cst.UnaryOperation}
_PLAIN_PARTS |= {cst.Comparison, cst.ComparisonTarget}


@dataclass(frozen=True, eq=False)
class Entry:
    """One entry of a tensor. `base`: the tensor; `indices`: what picks the entry, outermost first."""

    node: cst.BaseExpression = field(repr=False)
    base: cst.BaseExpression = field(repr=False)
    indices: tuple[cst.BaseExpression, ...] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Store:
    """`base[indices] operator value`; `value` None for a method that writes in place."""

    target: cst.BaseExpression = field(repr=False)
    value: cst.BaseExpression | None = field(repr=False)
    operator: str


class LightTurn:
    """What a loop's turns do, if all of it is light (`is_light`)."""

    def __init__(self, loop: Loop, sem: Semantics) -> None:
        self.loop = loop
        self.sem = sem
        self.counters: set[str] = set()  # the names that count
        self.rows: dict[str, cst.BaseExpression] = {}  # name → what it is handed out of
        self.bound: set[str] = set()  # all that headers bind
        self.local: set[str] = set()  # all that the turns assign
        self.numbers: list[cst.BaseExpression] = []  # what becomes a number in every turn
        self.tests: list[cst.Comparison] = []  # all comparisons
        self.stores: list[Store] = []
        self.calls: set[str] = set()  # the last names of what is called
        self.few = False  # a handful of turns, as the header shows
        self.early: set[str] = set()  # names that are read before the turn has assigned them
        self.counts: dict[str, bool] = {}  # name → only ever grown, by numbers that are written out
        self.random = False
        self.nested = False
        self.header = self._header(loop.target, loop.iter)
        self.is_light = self.header and self._turn()

    @property
    def varying(self) -> set[str]:
        return self.bound | self.local

    @property
    def carried(self) -> set[str]:
        """What a turn takes over from the one before."""
        return self.early & self.local

    def varies(self, node: cst.CSTNode) -> bool:
        return not self.varying.isdisjoint(n.value for n in find(node, cst.Name))

    def entry(self, node: cst.BaseExpression, whole: bool = False) -> Entry | None:
        """The expression as one entry of something that all turns share, picked by what the headers bind.

        `whole`: further axes may be taken from end to end.
        """
        while True:
            if isinstance(node, cst.Attribute) and node.attr.value in PASSING:
                node = node.value
            elif isinstance(node, cst.Call) and not node.args and isinstance(node.func, cst.Attribute):
                if node.func.attr.value not in PASSING:
                    return None
                node = node.func.value
            else:
                break
        written, indices = node, list[cst.BaseExpression]()
        while isinstance(node, cst.Subscript):
            parts = [e.slice for e in node.slice if not (whole and is_whole(e.slice))]
            if not all(isinstance(p, cst.Index) for p in parts):
                return None
            indices[:0] = [p.value for p in parts if isinstance(p, cst.Index)]
            node = node.value
        if isinstance(node, cst.Name) and node.value in self.rows:
            return Entry(written, self.rows[node.value], tuple(indices)) if not self._changes(node.value) else None
        picked = any(isinstance(i, cst.Name) and i.value in self.bound for i in indices)
        return Entry(written, node, tuple(indices)) if picked and not self.varies(node) else None

    def _changes(self, row: str) -> bool:
        return row in self.local or self.varies(self.rows[row])

    # -- headers ------------------------------------------------------------------------------------------------------

    def _header(self, target: cst.BaseExpression, source: cst.BaseExpression) -> bool:
        self.bound |= bound_names(target)
        call = source if isinstance(source, cst.Call) else None
        name = call.func.value if call is not None and isinstance(call.func, cst.Name) else ""
        if call is not None and call.args and (self.sem.qualified(call.func) or "") in _WRAPPERS:
            return self._header(target, call.args[0].value)
        if call is None or name not in ("range", "enumerate", "zip"):
            self.few = self.few or isinstance(source, (cst.Tuple, cst.List))
            if isinstance(target, cst.Name):
                self.rows[target.value] = source
            return True
        if any(a.star or a.keyword is not None for a in call.args):
            return False
        if name == "range":
            self.counters |= bound_names(target)
            return isinstance(target, cst.Name)
        parts = [e.value for e in target.elements] if isinstance(target, cst.Tuple) else []
        if name == "enumerate":
            if len(parts) != 2 or not isinstance(parts[0], cst.Name) or not call.args:
                return False
            self.counters.add(parts[0].value)
            return self._header(parts[1], call.args[0].value)
        return len(parts) == len(call.args) and all(self._header(t, a.value) for t, a in zip(parts, call.args))

    # -- statements ---------------------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        if isinstance(self.loop, cst.For):
            if self.loop.orelse is not None or self.loop.asynchronous is not None:
                return False
            return self._suite(self.loop.body, set(), False)
        owner = self.sem.file.parent(self.loop)
        parts = [owner.key, owner.value] if isinstance(owner, cst.DictComp) else [getattr(owner, "elt", None)]
        return all(self._test(c.test, set(), False) for c in self.loop.ifs) and all(
            isinstance(p, cst.BaseExpression) and self._expression(p, set(), False) for p in parts
        )

    def _suite(self, suite: cst.BaseSuite, known: set[str], guarded: bool) -> bool:
        for statement in statements(suite) if isinstance(suite, cst.IndentedBlock) else suite.body:
            if isinstance(statement, cst.SimpleStatementLine):
                if not all(self._small(s, known, guarded) for s in statement.body):
                    return False
            elif isinstance(statement, cst.If):
                if not self._if(statement, known, guarded):
                    return False
            elif isinstance(statement, cst.For) and statement.orelse is None and statement.asynchronous is None:
                self.nested = True
                ranged = isinstance(statement.iter, cst.Call) and dotted(statement.iter.func) == "range"
                if ranged and not guarded and isinstance(statement.iter, cst.Call):
                    self.numbers += [a.value for a in statement.iter.args]
                if not self._expression(statement.iter, known, guarded):
                    return False
                if not self._header(statement.target, statement.iter):
                    return False
                inside = known | bound_names(statement.target)
                if not self._suite(statement.body, inside, guarded):
                    return False
            elif not isinstance(statement, cst.BaseSmallStatement) or not self._small(statement, known, guarded):
                return False
        return True

    def _if(self, node: cst.If, known: set[str], guarded: bool) -> bool:
        if not self._test(node.test, known, guarded):
            return False
        yes, no = set(known), set(known)
        if not self._suite(node.body, yes, True):
            return False
        if isinstance(node.orelse, cst.If):
            if not self._if(node.orelse, no, True):
                return False
        elif node.orelse is not None and not self._suite(node.orelse.body, no, True):
            return False
        known |= no if leaves(node.body) else yes & no
        return True

    def _small(self, node: cst.BaseSmallStatement, known: set[str], guarded: bool) -> bool:
        if isinstance(node, (cst.Pass, cst.Continue)):
            return True
        if isinstance(node, cst.Assert):
            return self._test(node.test, known, guarded)
        if isinstance(node, cst.Expr):
            return isinstance(node.value, cst.SimpleString) or self._call_alone(node.value, known, guarded)
        if isinstance(node, cst.Assign):
            return self._expression(node.value, known, guarded) and all(
                self._target(t.target, node.value, known, guarded) for t in node.targets
            )
        if isinstance(node, cst.AugAssign):
            return self._grow(node, known, guarded)
        return False

    def _call_alone(self, node: cst.BaseExpression, known: set[str], guarded: bool) -> bool:
        if not isinstance(node, cst.Call) or not self._expression(node, known, guarded):
            return False
        if isinstance(node.func, cst.Attribute) and node.func.attr.value in WRITES:
            self.stores.append(Store(node.func.value, None, node.func.attr.value))
        return True

    def _target(self, target: cst.CSTNode, value: cst.BaseExpression, known: set[str], guarded: bool) -> bool:
        if isinstance(target, (cst.Tuple, cst.List)):
            return all(self._target(e.value, value, known, guarded) for e in target.elements)
        if isinstance(target, cst.Name):
            known.add(target.value)
            self.local.add(target.value)
            self.counts[target.value] = False
            return True
        if not isinstance(target, cst.Subscript):
            return False
        self.stores.append(Store(target, value, "="))
        return self._expression(target, known, guarded)

    def _grow(self, node: cst.AugAssign, known: set[str], guarded: bool) -> bool:
        if not self._expression(node.value, known, guarded):
            return False
        if isinstance(node.target, cst.Subscript):
            self.stores.append(Store(node.target, node.value, type(node.operator).__name__))
            return self._expression(node.target, known, guarded)
        if not isinstance(node.target, cst.Name):
            total = dotted(node.target)
            read = sum(dotted(n) == total for n in find(self.loop, cst.Attribute))
            added = sum(dotted(n.target) == total for n in find(self.loop, cst.AugAssign))
            return total is not None and read == added  # it is looked at nowhere
        name = node.target.value
        self.local.add(name)
        counts = isinstance(node.operator, cst.AddAssign) and isinstance(literal(node.value), int)
        self.counts[name] = counts and self.counts.get(name, True)
        return True

    # -- expressions --------------------------------------------------------------------------------------------------

    def _test(self, node: cst.BaseExpression, known: set[str], guarded: bool) -> bool:
        """A condition: what it compares, and what it asks for itself, becomes a number."""
        if not guarded:
            self.numbers += _asked(node)
        return self._expression(node, known, guarded)

    def _expression(self, node: cst.CSTNode, known: set[str], guarded: bool) -> bool:
        kind = node.__class__
        if kind is cst.Name:
            assert isinstance(node, cst.Name)
            if node.value not in known:
                self.early.add(node.value)
            return True
        if kind in _SILENT:
            return True
        if isinstance(node, cst.Call):
            if guarded and dotted(node.func) == "print":
                return True  # a few of them are looked at
            if not self._call(node, guarded):
                return False
            if isinstance(node.func, cst.Attribute) and not self._expression(node.func.value, known, guarded):
                return False
            return all(self._expression(a.value, known, guarded) for a in node.args)
        if isinstance(node, cst.Attribute):
            return self._expression(node.value, known, guarded)
        if isinstance(node, cst.IfExp):
            chosen = (self._expression(part, known, True) for part in (node.body, node.orelse))
            return self._test(node.test, known, guarded) and all(chosen)
        if isinstance(node, (cst.ListComp, cst.GeneratorExp)):
            return self._comprehension(node, known)
        if isinstance(node, cst.Comparison):
            self.tests.append(node)
        return kind in _PLAIN_PARTS and all(self._expression(part, known, guarded) for part in children(node))

    def _comprehension(self, node: cst.ListComp | cst.GeneratorExp, known: set[str]) -> bool:
        inner = node.for_in
        if inner.inner_for_in is not None or not self._expression(inner.iter, known, True):
            return False
        inside = known | bound_names(inner.target)
        return all(self._expression(part, inside, True) for part in (node.elt, *(c.test for c in inner.ifs)))

    def _call(self, node: cst.Call, guarded: bool) -> bool:
        name = self.sem.qualified(node.func)
        last = node.func.attr.value if isinstance(node.func, cst.Attribute) else dotted(node.func) or ""
        if name is not None and name != last:
            last = name.rpartition(".")[2]
        self.calls.add(last)
        if not guarded and last in _NUMBERS and len(node.args) == 1 and isinstance(node.func, cst.Name):
            self.numbers.append(node.args[0].value)
        if isinstance(node.func, cst.Name) and last in BUILTINS and name in (None, last):
            return True
        if name is not None and name.startswith("torch."):
            drawn = last.startswith("rand") or last in ("normal", "bernoulli", "multinomial")
            self.random = self.random or drawn
            return drawn or last in PURE or last in LIGHT
        if name is not None and name.startswith("math."):
            return True
        if name is not None or not isinstance(node.func, cst.Attribute) or self.sem.callee(node) is not None:
            return False
        if last == "item" and not node.args and not guarded:
            self.numbers.append(node.func.value)
        return last in PURE or last in LIGHT or last in WRITES or last in CONTAINER_METHODS


def _asked(node: cst.BaseExpression) -> list[cst.BaseExpression]:
    """What a condition needs the truth or the value of."""
    if isinstance(node, cst.BooleanOperation):
        return _asked(node.left) + _asked(node.right)
    if isinstance(node, cst.UnaryOperation):
        return _asked(node.expression) if isinstance(node.operator, cst.Not) else []
    if isinstance(node, cst.Comparison):
        compared = (cst.Equal, cst.NotEqual, cst.LessThan, cst.LessThanEqual, cst.GreaterThan, cst.GreaterThanEqual)
        if all(isinstance(c.operator, compared) for c in node.comparisons):
            return [node.left, *(c.comparator for c in node.comparisons)]
        return []
    return [node]
