"""What one turn of a row loop does, and whether the turns are independent of each other.

A turn may bind temporaries, write its own row of a tensor, add to a total, and append to a list. Anything else (a row
that reads another row, an early exit, a call with unknown effects, randomness, rows of different lengths) makes the
loop more than a batched expression, and `read_body` says None.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import libcst as cst

from torchlint.nodes import dotted, find, literal, walk
from torchlint.semantics.blocks import statements
from torchlint.semantics.model import Semantics
from torchlint.semantics.rows import RowLoop, bindings_in, is_read, is_written_in_place, may_be_tensor, reads
from torchlint.vectorise.pure import WRITES
from torchlint.vectorise.purity import Purity, counter_at, root_of

_JOINS = frozenset(f"torch.{n}" for n in ("stack", "cat", "tensor", "vstack", "hstack", "as_tensor")) | {
    "numpy.mean",
    "numpy.array",
}


_SUMS = ("+=", "-=")
_OVERWRITES = ("copy_", "fill_", "zero_")  # what they leave tells nothing of what was there


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
    judge.written = {root for s in steps if s.kind in (StepKind.STORE, StepKind.WRITE) if (root := root_of(s.target))}
    judge.positions = _positions(body.of(StepKind.TEMPORARY), judge)
    for s in steps:
        seen = judge.rows_seen
        judge.stored = s.value if s.kind is StepKind.STORE and s.operator == "=" else None
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
            told = step.kind is StepKind.WRITE and is_written_in_place(step.target, sem)
            if not (told or (may_be_tensor(base, sem) if rows.whole else sem.value(base).is_tensor)):
                return None
            judge.rows_seen = judge.rows_seen or (told and step.operator not in _OVERWRITES)
        if isinstance(step.target, cst.Subscript) and not judge.is_own_row(step.target):
            if not _counts_up(step, body, judge):
                return None
        if step.kind is StepKind.APPEND and not _joined_later(step, body, sem):
            return None
    return body if judge.rows_seen or _fills_rows(body, judge) else None


def _fills_rows(body: Body, judge: Purity) -> bool:
    """Whether each turn does nothing but put one and the same value into its own row of a certain tensor."""
    return all(
        step.kind is StepKind.STORE
        and step.operator == "="
        and step.test is None
        and isinstance(step.target, cst.Subscript)
        and judge.is_own_row(step.target)
        and (value := judge.sem.value(_base(step.target))).is_tensor
        and value.evidence != "used"
        and not any(n.value in body.rows.bound for n in find(step.value, cst.Name))
        for step in body.steps
    )


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
    """`a, b = x, y` as two assignments, where no value reads a name that is assigned with it; `a, b = f(x)` as one
    for each name, of which no template writes any."""
    if not isinstance(small, cst.Assign) or len(small.targets) != 1:
        return [small]
    target, value = small.targets[0].target, small.value
    if not isinstance(target, cst.Tuple) or not isinstance(value, (cst.Tuple, cst.Call)):
        return [small]
    if isinstance(value, cst.Call):
        names = {n.value for n in find(target, cst.Name)}
        if len(names) < len(target.elements) or any(n.value in names for n in find(value, cst.Name)):
            return [small]
        return [cst.Assign([cst.AssignTarget(t)], value) for t in map(cst.Name, sorted(names))]
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
    written = {root for s in body.steps if s.kind in (StepKind.STORE, StepKind.WRITE) if (root := root_of(s.target))}
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
            for use in (_uses(root, loop.body, sem) if isinstance(loop, cst.For) else ())
        }
        if None in places or len(places - {()}) > 1:
            return False
    return True


def _uses(root: str, body: cst.CSTNode, sem: Semantics) -> Iterator[cst.CSTNode]:
    if "." in root:
        return (n for n in find(body, cst.Attribute) if dotted(n) == root)
    return reads(root, body, sem)


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


def _joined_later(step: Step, body: Body, sem: Semantics) -> bool:
    """Whether the list is a gathering of results: every other use joins it into a tensor or adds it up. A list of
    Python numbers may be used in any way, because `.tolist()` gives the same list."""
    if not isinstance(step.target, cst.Name):
        return False
    name, loop = step.target.value, body.rows.node
    if gives_number(step.value, sem):
        return True
    return isinstance(loop, cst.For) and joined_behind(name, loop, sem)


# What adds up the parts of a list, however many there are.
ADDED = frozenset(("sum", "len", "numpy.mean", "numpy.sum"))
# What takes parts of one size only.
EVEN = frozenset(("torch.stack", "torch.tensor", "torch.as_tensor"))


def joined_behind(name: str, loop: cst.For, sem: Semantics, joins: frozenset[str] | None = None) -> bool:
    """Whether a list that the loop fills is joined into a tensor, or added up, and used in no other way behind it.

    `joins`: what may be done with it, where not everything may.
    """
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
    joins = joins or _JOINS | {"sum", "len"}
    return bool(uses) and all(_joins(n, joins, sem) or _is_other_append(n, sem) for n in uses)


def is_joined_list(node: cst.BaseExpression, sem: Semantics) -> bool:
    """Whether a list is given to something that joins its parts, at once or by its name, and used in no other way."""
    parent = sem.file.parent(node)
    while isinstance(call := sem.file.parent(parent or node), cst.Call) and dotted(call.func) in ("list", "tuple"):
        node, parent = call, sem.file.parent(call)
    joins = _JOINS | {"sum"}
    if isinstance(call, cst.Call):
        return (sem.qualified(call.func) or dotted(call.func)) in joins
    target = parent.targets[0].target if isinstance(parent, cst.Assign) else None
    if not isinstance(target, cst.Name) or not isinstance(node, cst.ListComp):
        return False
    function = sem.function(node)
    uses = list(reads(target.value, function.body, sem))
    return (
        bool(uses) and len(bindings_in(target.value, function, sem)) == 1 and all(_joins(n, joins, sem) for n in uses)
    )


def _is_other_append(use: cst.Name, sem: Semantics) -> bool:
    parent = sem.file.parent(use)
    return isinstance(parent, cst.Attribute) and parent.attr.value in ("append", "extend")


def _joins(use: cst.Name, joins: frozenset[str], sem: Semantics) -> bool:
    arg = sem.file.parent(use)
    call = sem.file.parent(arg) if isinstance(arg, cst.Arg) else None
    return isinstance(call, cst.Call) and (sem.qualified(call.func) or dotted(call.func)) in joins


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
