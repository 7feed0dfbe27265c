"""What one turn of a row loop does, and whether the turns are independent of each other.

A turn may bind temporaries, write its own row of a tensor, add to a total, and append to a list. Anything else (a row
that reads another row, an early exit, a call with unknown effects, randomness, rows of different lengths) makes the
loop more than a batched expression, and `read_body` says None.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace

import libcst as cst

from torchlint.semantics.blocks import statements
from torchlint.semantics.kinds import Kind
from torchlint.semantics.model import Semantics
from torchlint.semantics.names import Function
from torchlint.semantics.rows import RowLoop, bindings_in, definition_of, is_read, may_be_tensor, reads
from torchlint.source import dotted, find, literal, walk
from torchlint.spelling import same
from torchlint.vectorise.pure import PURE, SHAPING, WRITES

_BUILTINS = frozenset(("float", "int", "abs", "max", "min", "sum"))
# What makes one number of however many entries.
_REDUCE = frozenset(("max", "min", "sum", "mean", "any", "all", "prod", "amax", "amin"))
# Arithmetic that keeps integers integers, and calls whose results are positions.
_INTEGER = (cst.Add, cst.Subtract, cst.Multiply, cst.FloorDivide, cst.Modulo)
_INTEGERS = frozenset(("argmax", "argmin", "long", "int", "item", "randint", "randperm", "argsort", "searchsorted"))
_JOINS = frozenset(f"torch.{n}" for n in ("stack", "cat", "tensor", "vstack", "hstack", "as_tensor")) | {
    "numpy.mean",
    "numpy.array",
}


_SUMS = ("+=", "-=")


class StepKind(str, enum.Enum):
    TEMPORARY = "temporary"
    STORE = "store"
    ACCUMULATE = "accumulate"
    APPEND = "append"
    WRITE = "write"  # a method that writes into the row


@dataclass(frozen=True, eq=False)
class Step:
    """One statement of the turn. `target`: the name, item, list or row that receives; `operator`: as written."""

    kind: StepKind
    node: cst.BaseSmallStatement = field(repr=False)
    target: cst.BaseExpression = field(repr=False)
    value: cst.BaseExpression = field(repr=False)
    operator: str = "="
    test: cst.BaseExpression | None = field(default=None, repr=False)  # of the `if` around it


@dataclass(frozen=True, eq=False)
class Body:
    """The steps of a turn, all of them understood."""

    rows: RowLoop
    steps: tuple[Step, ...]

    def of(self, kind: StepKind) -> list[Step]:
        return [s for s in self.steps if s.kind is kind]

    @property
    def sinks(self) -> list[Step]:
        return [s for s in self.steps if s.kind is not StepKind.TEMPORARY]


def read_body(rows: RowLoop, sem: Semantics) -> Body | None:
    """The turn of a `for` statement; None where it does more than independent work per row."""
    loop = rows.node
    if not isinstance(loop, cst.For) or loop.orelse is not None or not isinstance(loop.body, cst.IndentedBlock):
        return None
    steps: list[Step] = []
    for statement in statements(loop.body):
        found = _guarded(statement, rows) if isinstance(statement, cst.If) else _line(statement, rows, steps)
        if found is None:
            return None
        steps += found
    body = Body(rows, tuple(steps))
    if not body.sinks or not _independent(body, sem):
        return None
    judge = Purity(rows, {s.target.value for s in body.of(StepKind.TEMPORARY) if isinstance(s.target, cst.Name)}, sem)
    judge.written = {root for s in steps if s.kind in (StepKind.STORE, StepKind.WRITE) if (root := _root(s.target))}
    judge.positions = _positions(body.of(StepKind.TEMPORARY), judge)
    for s in steps:
        seen = judge.rows_seen
        if not judge.is_pure(s.value) or not (s.test is None or judge.is_pure(s.test)):
            return None
        if s.kind is StepKind.WRITE and not rows.whole:
            judge.rows_seen = seen  # the row is only written; what comes into it may come from a list
    for step in steps:
        if step.kind is StepKind.WRITE and isinstance(step.node, cst.Expr) and isinstance(step.node.value, cst.Call):
            if not all(judge.is_pure(a.value) for a in step.node.value.args):
                return None
        if isinstance(step.target, cst.Subscript):
            base = _base(step.target)
            if not (may_be_tensor(base, sem) if rows.whole else sem.value(base).is_tensor):
                return None
        if isinstance(step.target, cst.Subscript) and not judge.is_own_row(step.target):
            if not _counts_up(step, body, judge):
                return None
        if step.kind is StepKind.APPEND and not _joined_later(step, body, sem):
            return None
    return body if judge.rows_seen else None


def _positions(temporaries: list[Step], judge: Purity) -> set[str]:
    """The temporaries that are positions: integers worked out from the counter."""
    for step in temporaries:
        if isinstance(step.target, cst.Name) and judge.is_position(step.value):
            judge.positions.add(step.target.value)
    return judge.positions


def _counts_up(step: Step, body: Body, judge: Purity) -> bool:
    """`table[a[i], b[i]] += value`: a sum into entries that the rows choose, in whatever order they come."""
    target = step.target
    if step.kind is not StepKind.STORE or step.operator not in _SUMS or not isinstance(target, cst.Subscript):
        return False
    value = judge.sem.value(target.value)
    if not value.is_tensor or value.evidence == "used" or not isinstance(target.value, cst.Name):
        return False
    parts = [e.slice.value for e in target.slice if isinstance(e.slice, cst.Index)]
    if len(parts) != len(target.slice) or not all(judge.is_pure(part) for part in parts):
        return False
    names = {n.value for s in body.steps for part in _read_parts(s) for n in find(part, cst.Name)}
    return target.value.value not in names


def _line(statement: cst.CSTNode, rows: RowLoop, before: list[Step]) -> list[Step] | None:
    if not isinstance(statement, cst.SimpleStatementLine):
        return None
    steps: list[Step] = []
    for small in statement.body:
        for single in _single(small):
            step = _step(single, rows, before + steps)
            if step is None:
                return None
            steps.append(step)
    return steps


def _single(small: cst.BaseSmallStatement) -> list[cst.BaseSmallStatement]:
    """`a, b = x, y` as two assignments, where no value reads a name that is assigned with it."""
    if not isinstance(small, cst.Assign) or len(small.targets) != 1:
        return [small]
    target, value = small.targets[0].target, small.value
    if not isinstance(target, cst.Tuple) or not isinstance(value, cst.Tuple):
        return [small]
    if len(target.elements) != len(value.elements) or not all(isinstance(e.value, cst.Name) for e in target.elements):
        return [small]
    names = {n.value for n in find(target, cst.Name)}
    if any(n.value in names for n in find(value, cst.Name)):
        return [small]
    return [
        cst.Assign([cst.AssignTarget(t.value)], v.value)
        for t, v in zip(target.elements, value.elements)
        if isinstance(t.value, cst.Name)
    ]


def _guarded(node: cst.If, rows: RowLoop) -> list[Step] | None:
    """The steps under an `if` on the row: stores and totals, which `torch.where` can choose, and what they need."""
    steps: list[Step] = []
    suites: list[cst.BaseSuite] = [node.body]
    if isinstance(node.orelse, cst.Else):
        suites.append(node.orelse.body)
    elif node.orelse is not None:
        return None
    for suite in suites:
        for statement in suite.body:
            found = _line(statement, rows, []) if isinstance(suite, cst.IndentedBlock) else None
            if found is None or any(s.kind in (StepKind.APPEND, StepKind.WRITE) for s in found):
                return None
            steps += [replace(s, test=node.test) for s in found]
    return steps


def _step(small: cst.BaseSmallStatement, rows: RowLoop, before: list[Step]) -> Step | None:
    if isinstance(small, cst.Assign) and len(small.targets) == 1:
        target = small.targets[0].target
        if isinstance(target, cst.Subscript):
            return Step(StepKind.STORE, small, target, small.value)
        if isinstance(target, cst.Name) and target.value not in rows.bound:
            known = {s.target.value for s in before if s.kind is StepKind.TEMPORARY and isinstance(s.target, cst.Name)}
            value = small.value
            if (
                isinstance(value, cst.BinaryOperation)
                and isinstance(value.operator, cst.Add)
                and isinstance(value.left, cst.Name)
                and value.left.value == target.value
                and target.value not in known
            ):
                return Step(StepKind.ACCUMULATE, small, target, value.right, "+=")
            return Step(StepKind.TEMPORARY, small, target, value)
    if isinstance(small, cst.AugAssign) and isinstance(small.target, (cst.Name, cst.Subscript)):
        operator = {
            cst.AddAssign: "+=",
            cst.SubtractAssign: "-=",
            cst.MultiplyAssign: "*=",
            cst.DivideAssign: "/=",
        }.get(type(small.operator))
        if operator is None:
            return None
        if isinstance(small.target, cst.Subscript):
            return Step(StepKind.STORE, small, small.target, small.value, operator)
        if operator in _SUMS and small.target.value not in rows.bound:
            return Step(StepKind.ACCUMULATE, small, small.target, small.value, operator)
    if (
        isinstance(small, cst.Expr)
        and isinstance(small.value, cst.Call)
        and isinstance(small.value.func, cst.Attribute)
    ):
        call, method = small.value, small.value.func.attr.value
        owner = small.value.func.value
        if method == "append" and len(call.args) == 1 and isinstance(owner, cst.Name):
            return Step(StepKind.APPEND, small, owner, call.args[0].value, method)
        if method in WRITES and (isinstance(owner, cst.Subscript) or dotted(owner) in rows.rows):
            return Step(StepKind.WRITE, small, owner, owner, method)
    return None


def _independent(body: Body, sem: Semantics) -> bool:
    """No turn reads what another turn wrote: temporaries come before their reads, totals and lists are not looked at,
    and tensors written into are read only at the turn's own row."""
    temporary: set[str] = set()
    carried = {
        s.target.value
        for s in body.steps
        if s.kind in (StepKind.ACCUMULATE, StepKind.APPEND) and isinstance(s.target, cst.Name)
    }
    later = {s.target.value for s in body.of(StepKind.TEMPORARY) if isinstance(s.target, cst.Name)}
    if carried & later:
        return False
    written = {root for s in body.steps if s.kind in (StepKind.STORE, StepKind.WRITE) if (root := _root(s.target))}
    if written & later:
        return False
    chosen: dict[str, cst.BaseExpression] = {}  # temporary → the condition under which this turn gave it its value
    for step in body.steps:
        read = {
            n.value for part in _read_parts(step) for n in walk(part) if isinstance(n, cst.Name) and is_read(n, sem)
        }
        if read & (later - temporary) or read & carried:
            return False
        if any(name in chosen and chosen[name] is not step.test for name in read):
            return False
        if step.kind is StepKind.TEMPORARY and isinstance(step.target, cst.Name):
            if step.test is not None and step.target.value not in temporary:
                chosen[step.target.value] = step.test
            elif step.test is None:
                chosen.pop(step.target.value, None)
            temporary.add(step.target.value)
    loop = body.rows.node
    summed = {s.target.value.value for s in body.steps if sums_into(s, body.rows)}  # type: ignore[attr-defined]
    for root in written - summed:
        places = {
            _own_place(use, body.rows, sem)
            for use in (reads(root, loop.body, sem) if isinstance(loop, cst.For) else ())
        }
        if None in places or len(places - {()}) > 1:
            return False
    return True


def sums_into(step: Step, rows: RowLoop) -> bool:
    """`table[…] += value` with no counter among the indices."""
    target = step.target
    if step.kind is not StepKind.STORE or step.operator not in _SUMS or not isinstance(target, cst.Subscript):
        return False
    return isinstance(target.value, cst.Name) and counter_at(target, rows) is None


def _read_parts(step: Step) -> list[cst.CSTNode]:
    parts: list[cst.CSTNode] = [step.value]
    if step.test is not None:
        parts.append(step.test)
    if isinstance(step.target, cst.Subscript):
        parts += list(step.target.slice)
    if step.kind is StepKind.WRITE and isinstance(step.node, cst.Expr) and isinstance(step.node.value, cst.Call):
        parts += list(step.node.value.args)
    return parts


def _base(node: cst.BaseExpression) -> cst.BaseExpression:
    """`x` of `x[i][j]`."""
    while isinstance(node, cst.Subscript):
        node = node.value
    return node


def _root(node: cst.CSTNode) -> str | None:
    while isinstance(node, (cst.Subscript, cst.Attribute)):
        node = node.value
    return node.value if isinstance(node, cst.Name) else None


def _own_place(use: cst.CSTNode, rows: RowLoop, sem: Semantics) -> tuple[int, ...] | None:
    """Where among the indices the counter stands in `name[i]`, `name[:, i]`, `name[0][i]`; () where the name is only
    asked for what no turn changes (`name.shape`, `name.device`) or is the row itself; None for any other read."""
    if isinstance(use, cst.Name) and use.value in rows.rows:
        return ()
    parent = sem.file.parent(use)
    while isinstance(parent, cst.Attribute) and parent.value is use:
        if parent.attr.value in ("shape", "device", "dtype"):
            return ()
        use, parent = parent, sem.file.parent(parent)
    depth = 0
    while isinstance(parent, cst.Subscript) and parent.value is use:
        at = counter_at(parent, rows)
        if at is not None:
            return (depth, at)
        use, parent, depth = parent, sem.file.parent(parent), depth + 1
    return None


def counter_at(node: cst.Subscript, rows: RowLoop) -> int | None:
    """The position of the bare counter among the indices, None if it is not there exactly once."""
    places = [
        i
        for i, e in enumerate(node.slice)
        if isinstance(e.slice, cst.Index) and isinstance(e.slice.value, cst.Name) and e.slice.value.value == rows.index
    ]
    return places[0] if len(places) == 1 and rows.index else None


def _joined_later(step: Step, body: Body, sem: Semantics) -> bool:
    """Whether the list is a gathering of results: every other use joins it into a tensor or adds it up. A list of
    Python numbers may be used in any way, because `.tolist()` gives the same list."""
    if not isinstance(step.target, cst.Name):
        return False
    name, loop = step.target.value, body.rows.node
    if gives_number(step.value, sem):
        return True
    function = sem.function(loop)
    if name in function.params:
        return False
    made = bindings_in(name, function, sem)
    if not made or not all(isinstance(b, cst.Assign) for b in made):
        return False
    end = sem.file.caret(loop)[1]
    uses = [n for n in reads(name, function.body, sem) if sem.file.caret(n)[0] >= end]
    rebound = [sem.file.caret(b)[1] for b in made if sem.file.caret(b)[0] >= end]
    if rebound:
        uses = [n for n in uses if sem.file.caret(n)[0] < min(rebound)]
    return bool(uses) and all(_joins(n, sem) or _is_other_append(n, sem) for n in uses)


def _is_other_append(use: cst.Name, sem: Semantics) -> bool:
    parent = sem.file.parent(use)
    return isinstance(parent, cst.Attribute) and parent.attr.value in ("append", "extend")


def _joins(use: cst.Name, sem: Semantics) -> bool:
    arg = sem.file.parent(use)
    call = sem.file.parent(arg) if isinstance(arg, cst.Arg) else None
    if not isinstance(call, cst.Call):
        return False
    return (sem.qualified(call.func) or dotted(call.func)) in _JOINS | {"sum", "len"}


def gives_number(node: cst.BaseExpression, sem: Semantics) -> bool:
    """`row.item()`, `float(row)`, `1 if row == y else 0`: a Python number out of a tensor."""
    if isinstance(node, cst.Tuple):
        return bool(node.elements) and all(gives_number(e.value, sem) for e in node.elements)
    if isinstance(node, cst.IfExp):
        return all(isinstance(literal(part), (int, float)) for part in (node.body, node.orelse))
    if not isinstance(node, cst.Call):
        return False
    if isinstance(node.func, cst.Attribute):
        return node.func.attr.value == "item" and not node.args
    return isinstance(node.func, cst.Name) and node.func.value in ("float", "int") and len(node.args) == 1


def _names_only(target: cst.CSTNode) -> bool:
    if isinstance(target, (cst.Tuple, cst.List)):
        return all(_names_only(e.value) for e in target.elements)
    return isinstance(target, cst.Name)


class Purity:
    """Judges the expressions of a turn. `rows_seen`: rows of certain tensors were among them."""

    def __init__(
        self, rows: RowLoop, temporaries: set[str], sem: Semantics, judging: tuple[Function, ...] = ()
    ) -> None:
        self._judging = judging
        self.rows = rows
        self.sem = sem
        self.varying = temporaries | rows.bound
        self.written: set[str] = set()  # tensors that some turn writes into
        self.positions: set[str] = set()  # temporaries that are integers worked out from the counter
        self.rows_seen = False
        self.work_seen = False

    def is_pure(self, node: cst.CSTNode) -> bool:
        """Whether the expression is a fixed-shape computation from the turn's own row and what all turns share."""
        if isinstance(node, (cst.Integer, cst.Float, cst.SimpleString, cst.Imaginary)):
            return True
        if isinstance(node, cst.Name):
            if node.value in self.rows.rows:
                self.rows_seen = True
            return True
        if isinstance(node, cst.Attribute):
            return self.is_pure(node.value)
        if isinstance(node, cst.Subscript):
            return self._is_pure_item(node)
        if isinstance(node, (cst.BinaryOperation, cst.UnaryOperation, cst.Comparison)):
            self.work_seen = True
            if isinstance(node, cst.Comparison):
                return self.is_pure(node.left) and all(self.is_pure(c.comparator) for c in node.comparisons)
            if isinstance(node, cst.UnaryOperation):
                return not isinstance(node.operator, cst.Not) and self.is_pure(node.expression)
            return self.is_pure(node.left) and self.is_pure(node.right)
        if isinstance(node, cst.IfExp):
            self.work_seen = True
            return all(self.is_pure(part) for part in (node.test, node.body, node.orelse))
        if isinstance(node, cst.BooleanOperation):
            return self.is_pure(node.left) and self.is_pure(node.right)
        if isinstance(node, (cst.Tuple, cst.List)):
            return all(isinstance(e, cst.Element) and self.is_pure(e.value) for e in node.elements)
        return isinstance(node, cst.Call) and self._is_pure_call(node)

    def _is_pure_call(self, node: cst.Call) -> bool:
        name = self.sem.qualified(node.func)
        self.work_seen = True
        if any(a.star for a in node.args):
            return False
        if self._is_reduced_choice(node):
            return True
        if not all(self.is_pure(a.value) for a in node.args) or self._is_shaped_by_turn(node, name):
            return False
        if name is not None and name.startswith("torch."):
            last = name.rpartition(".")[2]
            return last in PURE and not (last == "where" and len(node.args) < 3)
        if isinstance(node.func, cst.Name) and node.func.value in _BUILTINS and name in (None, node.func.value):
            return True
        if self.sem.value(node.func).kind is Kind.LOSS_FN:
            return True
        callee = self.sem.callee(node)
        if callee is not None:
            return self._is_pure_function(callee)
        return (
            name is None
            and isinstance(node.func, cst.Attribute)
            and node.func.attr.value in PURE
            and self.is_pure(node.func.value)
        )

    def _is_shaped_by_turn(self, node: cst.Call, name: str | None) -> bool:
        """`torch.roll(x, shift[i])`, `x.repeat(i)`: numbers that one call for all rows takes only once."""
        last = (name or "").rpartition(".")[2] or (node.func.attr.value if isinstance(node.func, cst.Attribute) else "")
        further = node.args[1:] if (name or "").startswith("torch.") else node.args
        return not self._judging and last in SHAPING and any(self._varies(a.value) for a in further)

    def _is_reduced_choice(self, node: cst.Call) -> bool:
        """`x[i][mask[i]].max()`: entries that the row chooses, as many as it likes, and one number of them."""
        owner = node.func.value if isinstance(node.func, cst.Attribute) else None
        if (self.sem.qualified(node.func) or "").startswith("torch.") and len(node.args) == 1:
            owner = node.args[0].value
        elif node.args:
            return False
        name = node.func.attr.value if isinstance(node.func, cst.Attribute) else ""
        if name not in _REDUCE or not isinstance(owner, cst.Subscript) or len(owner.slice) != 1:
            return False
        index = owner.slice[0].slice
        if not isinstance(index, cst.Index) or not self._varies(index.value) or not self.is_pure(index.value):
            return False
        return isinstance(owner.value, (cst.Subscript, cst.Name)) and self.is_pure(owner.value)

    def _is_pure_function(self, function: Function) -> bool:
        """A function of this file that only names intermediate results and returns one."""
        if function in self._judging or not isinstance(function.node, cst.FunctionDef):
            return False
        inner = Purity(self.rows, set(function.params), self.sem, (*self._judging, function))
        inner.varying = set(function.local)
        for statement in function.node.body.body:
            for small in statement.body if isinstance(statement, cst.SimpleStatementLine) else [None]:
                if isinstance(small, cst.Expr) and isinstance(small.value, cst.SimpleString):
                    continue
                if isinstance(small, cst.Assign) and all(_names_only(t.target) for t in small.targets):
                    value: cst.BaseExpression | None = small.value
                else:
                    value = small.value if isinstance(small, cst.Return) else None
                if value is None or not inner.is_pure(value):
                    return False
        return True

    def _is_pure_item(self, node: cst.Subscript) -> bool:
        own = self.is_own_row(node)
        if own:
            value = self.sem.value(node.value)
            # Neither a list nor a tuple takes several indices, so a batch that does is a tensor.
            certain = value.is_tensor or (value.kind is Kind.BATCH and len(node.slice) > 1)
            if certain or same(node.value, self.rows.over):
                self.rows_seen = True
            elif not may_be_tensor(node.value, self.sem):
                return False
            return self.is_pure(node.value)
        if not self.is_pure(node.value):
            return False
        return self._is_gathered(node) or all(self._is_fixed_index(e.slice) for e in node.slice)

    def _is_gathered(self, node: cst.Subscript) -> bool:
        """`x[i + 1]`, `x[i, index[i]]` of a tensor that no turn writes: entries at positions the turn works out."""
        value = self.sem.value(node.value)
        if not value.is_tensor or value.evidence == "used" or self._varies(node.value) or _root(node) in self.written:
            return False
        for element in node.slice:
            part = element.slice
            if isinstance(part, cst.Index) and self._varies(part.value):
                if not self.is_position(part.value) and not self._is_integer(part.value):
                    return False
            elif not self._is_fixed_index(part):
                return False
        self.rows_seen = True
        return True

    def is_position(self, node: cst.CSTNode) -> bool:
        """An integer worked out from the counter: `i + 1`, `(i + k) % n`."""
        if isinstance(node, cst.Name):
            return node.value == self.rows.index or node.value in self.positions
        if not isinstance(node, cst.BinaryOperation) or not isinstance(node.operator, _INTEGER):
            return False
        sides = (node.left, node.right)
        if not all(self.is_position(s) or self._is_number(s) for s in sides):
            return False
        return any(map(self.is_position, sides))

    def _is_number(self, node: cst.BaseExpression) -> bool:
        return not self._varies(node) and (
            isinstance(literal(node), int) or self.sem.value(node).kind is Kind.NUMBER or isinstance(node, cst.Name)
        )

    def _is_integer(self, node: cst.BaseExpression) -> bool:
        """`index[i]`, `int(index[i])` of what was made of integers: `argmax`, `.long()`, `randint`."""
        if not self.is_pure(node):
            return False
        if isinstance(node, cst.Call):
            name = node.func.attr.value if isinstance(node.func, cst.Attribute) else dotted(node.func) or ""
            return name.rpartition(".")[2] in _INTEGERS
        if not isinstance(node, cst.Subscript) or not self.is_own_row(node) or not isinstance(node.value, cst.Name):
            return False
        made = definition_of(node.value.value, node, self.sem)
        call = made[1] if made is not None else None
        if not isinstance(call, cst.Call) or not isinstance(call.func, cst.Attribute):
            return False
        return call.func.attr.value in _INTEGERS

    def is_own_row(self, node: cst.Subscript) -> bool:
        """`x[i]`, `x[i, 1:]`, `x[:, i]`: the counter once, and nothing else that differs from turn to turn."""
        if isinstance(node.value, cst.Name) and node.value.value in self.rows.rows:
            return all(self._is_fixed_index(e.slice) for e in node.slice)
        at = counter_at(node, self.rows)
        if at is None or self._varies(node.value):
            return (
                isinstance(node.value, cst.Subscript)
                and self.is_own_row(node.value)
                and all(self._is_fixed_index(e.slice) for e in node.slice)
            )
        return all(self._is_fixed_index(e.slice) for i, e in enumerate(node.slice) if i != at)

    def _is_fixed_index(self, index: cst.BaseSlice) -> bool:
        """An index that selects the same number of items in every turn."""
        if isinstance(index, cst.Slice):
            return not any(part is not None and self._varies(part) for part in (index.lower, index.upper, index.step))
        if not isinstance(index, cst.Index) or self._varies(index.value):
            return False
        if isinstance(index.value, cst.Comparison):
            return False
        kind = self.sem.value(index.value).kind
        return (
            kind in (Kind.NUMBER, Kind.NONE)
            or literal(index.value) is not ...
            or isinstance(index.value, (cst.Ellipsis, cst.Name))
        )

    def _varies(self, node: cst.CSTNode) -> bool:
        return any(n.value in self.varying for n in find(node, cst.Name))
