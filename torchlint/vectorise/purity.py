"""Whether an expression of a turn is computed from the turn's own row alone, and the same way in every turn."""

from __future__ import annotations

import libcst as cst

from torchlint.nodes import dotted, find, literal
from torchlint.semantics.kinds import Kind
from torchlint.semantics.model import Semantics
from torchlint.semantics.names import Function
from torchlint.semantics.rows import RowLoop, definition_of, may_be_tensor
from torchlint.spelling import same
from torchlint.vectorise.pure import PURE, SHAPING, TAKES_BATCHES

_BUILTINS = frozenset(("float", "int", "abs", "max", "min", "sum"))
# What makes one number of however many entries.
_REDUCE = frozenset(("max", "min", "sum", "mean", "any", "all", "prod", "amax", "amin"))
_OF_TENSORS = frozenset("shape device dtype ndim data grad T mT H real imag requires_grad is_cuda".split())
# Arithmetic that keeps integers integers, and calls whose results are positions.
_INTEGER = (cst.Add, cst.Subtract, cst.Multiply, cst.FloorDivide, cst.Modulo)
_INTEGERS = frozenset(("argmax", "argmin", "long", "int", "item", "randint", "randperm", "argsort", "searchsorted"))


def counter_at(node: cst.Subscript, rows: RowLoop) -> int | None:
    """The position of the bare counter among the indices, None if it is not there exactly once."""
    places = [
        i
        for i, e in enumerate(node.slice)
        if isinstance(e.slice, cst.Index) and isinstance(e.slice.value, cst.Name) and e.slice.value.value == rows.index
    ]
    return places[0] if len(places) == 1 and rows.index else None


def root_of(node: cst.CSTNode) -> str | None:
    """The name that a chain of items and attributes starts from; of an object's own attribute, both: `self.grid`."""
    while isinstance(node, (cst.Subscript, cst.Attribute)):
        if isinstance(node, cst.Attribute) and isinstance(node.value, cst.Name) and node.value.value == "self":
            return f"self.{node.attr.value}"
        node = node.value
    return node.value if isinstance(node, cst.Name) else None


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
        self.stored: cst.BaseExpression | None = None  # what goes into a row of its own: of its size in every turn

    def is_pure(self, node: cst.CSTNode) -> bool:
        """Whether the expression is a fixed-shape computation from the turn's own row and what all turns share."""
        if isinstance(node, (cst.Integer, cst.Float, cst.SimpleString, cst.Imaginary)):
            return True
        if isinstance(node, cst.Name):
            if node.value in self.rows.rows:
                self.rows_seen = True
            return True
        if isinstance(node, cst.Attribute):
            # What an item has besides may be a layer's weight, or anything else of an object.
            return (node.attr.value in _OF_TENSORS or not self._varies(node.value)) and self.is_pure(node.value)
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
        made = self.sem.value(node.func)
        if made.kind is Kind.LOSS_FN or (name is None and TAKES_BATCHES.match(made.origin)):
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
        if (
            name not in _REDUCE
            or not isinstance(owner, cst.Subscript)
            or len(owner.slice) != 1
            or self.is_own_row(owner)
        ):
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
        if not value.is_tensor or value.evidence == "used" or self._varies(node.value) or root_of(node) in self.written:
            return False
        for element in node.slice:
            part = element.slice
            if isinstance(part, cst.Index) and self._varies(part.value):
                if not (self.is_position(part.value) or self._is_integer(part.value) or self._fits(node, part.value)):
                    return False
            elif not self._is_fixed_index(part):
                return False
        self.rows_seen = True
        return True

    def _fits(self, node: cst.Subscript, index: cst.BaseExpression) -> bool:
        """Whether all of the entries at `index[i]` fill the turn's own row: a mask would pick as many as it likes."""
        return node is self.stored and isinstance(index, cst.Subscript) and self.is_pure(index)

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
