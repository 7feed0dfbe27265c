"""From an expression about one row to the expression about all rows at once.

An expression is lifted bottom-up. What does not depend on the row stays as it is; what does gains a leading batch axis
(two of them for a pair of rows). Whether the two agree is a question of ranks: `x[i] + y[i]` is `x + y` only if both
rows have as many dimensions. A rank is known absolutely (`torch.zeros(n, d)`, `n, d = x.shape`) or relative to a tensor
that is never rebound; where it is not known the expression is not lifted, and `torch.vmap` has to do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import libcst as cst

from torchlint.nodes import argument, children, dotted, find, literal
from torchlint.semantics.model import Semantics
from torchlint.semantics.rows import bindings_in, definition_of, is_number, shape_owner
from torchlint.spelling import symbol

# Results that IEEE 754 fixes to the last bit, whatever kernel computes them.
_EXACT_NAMES = """
    abs neg negative relu clamp clip clamp_min clamp_max sqrt floor ceil round trunc square sign float double half long
    int bool isnan isinf isfinite logical_not eq ne lt le gt ge add sub mul div clone detach contiguous
"""
EXACT = frozenset(_EXACT_NAMES.split())
# One result per element as well, but vectorised and scalar kernels may differ in the last bit.
_ELEMENTWISE_NAMES = """
    exp exp2 expm1 log log2 log10 log1p sigmoid tanh sin cos tan asin acos atan sinh cosh erf erfc rsqrt reciprocal pow
    softplus gelu silu elu selu leaky_relu logsigmoid hardtanh relu6 mish softsign
"""
ELEMENTWISE = EXACT | frozenset(_ELEMENTWISE_NAMES.split())
# Reduce one dimension, or all of them when none is given.
REDUCE = frozenset(
    ["sum", "mean", "prod", "amax", "amin", "argmax", "argmin", "all", "any", "std", "var", "norm", "logsumexp"]
)
# Keep the shape and work along one dimension.
ALONG = frozenset(["softmax", "log_softmax", "cumsum", "cumprod", "flip", "normalize"])

Rank = tuple[str, int]  # (tensor whose row rank is meant, or "" for a plain number; offset)


@dataclass(frozen=True)
class Lifted:
    """`code` for all rows. `batched`: it has the batch axes in front. `exact`: bit for bit what the rows would give.
    `atom`: the text needs no parentheses when something binds to it. `rank`: dimensions of one row's value."""

    code: str
    batched: bool = False
    rank: Rank | None = None
    exact: bool = True
    atom: bool = True

    @property
    def tight(self) -> str:
        return self.code if self.atom else f"({self.code})"


class NotLifted(Exception):
    """The expression has no template; the argument says what is in the way."""


class Lifter:
    """Lifts expressions of one loop nest.

    `axes`: counters, outermost first, each with the source text of its length. `rows`: names bound to a row, with the
    tensor and the position of its axis. `aligned` tells whether a tensor has as many rows as
    there are turns of that axis.
    """

    def __init__(
        self,
        sem: Semantics,
        axes: list[tuple[str, str]],
        rows: dict[str, tuple[cst.BaseExpression, int]],
        aligned: Callable[[cst.BaseExpression, int], bool],
    ) -> None:
        self.sem = sem
        self.axes = axes
        self.counters = {name: i for i, (name, _) in enumerate(axes) if name}
        self.rows = rows
        self.aligned = aligned
        self.temporaries: dict[str, Lifted] = {}

    @property
    def depth(self) -> int:
        return len(self.axes)

    def lift(self, node: cst.BaseExpression) -> Lifted:
        """The expression for all rows. Raises NotLifted."""
        if not self.depends(node):
            rank = None if not is_number(node, self.sem) else ("", 0)
            atom = isinstance(node, (cst.Name, cst.Attribute, cst.Call, cst.Subscript, cst.Integer, cst.Float))
            return Lifted(self._code(node), rank=rank, atom=atom or bool(node.lpar))
        if isinstance(node, cst.Name):
            return self._name(node)
        if isinstance(node, cst.Subscript):
            return self._subscript(node)
        if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, (cst.Minus, cst.BitInvert)):
            inner = self.lift(node.expression)
            sign = "-" if isinstance(node.operator, cst.Minus) else "~"
            return replace(inner, code=sign + inner.tight, atom=False)
        if isinstance(node, cst.BinaryOperation):
            return self._binary(node)
        if isinstance(node, cst.Comparison) and len(node.comparisons) == 1:
            part = node.comparisons[0]
            if isinstance(part.operator, (cst.In, cst.NotIn, cst.Is, cst.IsNot)):
                raise NotLifted("a membership test")
            return self._pointwise(node.left, part.comparator, symbol(part.operator))
        if isinstance(node, cst.Call):
            return self._call(node)
        raise NotLifted("an expression without a batched template")

    def depends(self, node: cst.CSTNode) -> bool:
        """Whether the value differs from row to row."""
        names = {*self.counters, *self.rows, *self.temporaries}
        if isinstance(node, cst.Name):
            return node.value in names
        if isinstance(node, cst.Attribute):
            return self.depends(node.value)
        if isinstance(node, cst.Arg):
            return self.depends(node.value)
        return any(self.depends(child) for child in children(node))

    def _code(self, node: cst.BaseExpression) -> str:
        return self.sem.file.code(node)

    def _name(self, node: cst.Name) -> Lifted:
        if node.value in self.rows:
            tensor, axis = self.rows[node.value]
            return self._whole(tensor, axis)
        if node.value in self.temporaries:
            return self.temporaries[node.value]
        raise NotLifted("the counter itself is a value")

    def _whole(self, tensor: cst.BaseExpression, axis: int) -> Lifted:
        """All rows of a tensor, set on its own batch axis."""
        if self.depends(tensor) or not self.sem.value(tensor).is_tensor:
            raise NotLifted("what is indexed is not known to be a tensor that all rows share")
        code = self._code(tensor)
        if not isinstance(tensor, (cst.Name, cst.Attribute, cst.Subscript, cst.Call)):
            code = f"({code})"
        if not self.aligned(tensor, axis):
            code = f"{code}[:{self.axes[axis][1]}]"
        if self.depth == 2:
            code += "[:, None]" if axis == 0 else "[None]"
        return Lifted(code, True, row_rank(tensor, self.sem))

    def _subscript(self, node: cst.Subscript) -> Lifted:
        """`x[i]`; `x[i, a:b, 0]`, whose further parts only take away from the row."""
        first = node.slice[0].slice
        if isinstance(node.value, cst.Subscript) and self.depends(node.value):
            row, rest = self.lift(node.value), list(node.slice)
        elif isinstance(first, cst.Index) and isinstance(first.value, cst.Name) and first.value.value in self.counters:
            row, rest = self._whole(node.value, self.counters[first.value.value]), list(node.slice[1:])
        elif self.depends(node.value) and isinstance(node.value, cst.Name):
            row, rest = self._name(node.value), list(node.slice)
        else:
            raise NotLifted("an index that is not the row itself")
        if not rest:
            return row
        taken = 0
        for element in rest:
            if self.depends(element):
                raise NotLifted("an index that differs from row to row")
            if isinstance(element.slice, cst.Index):
                if not isinstance(literal(element.slice.value), int):
                    raise NotLifted("an index whose kind is not known")
                taken += 1
        inside = ", ".join([":"] * self.depth + [self.sem.file.code(e.slice) for e in rest])
        rank = None if row.rank is None else (row.rank[0], row.rank[1] - taken)
        return replace(row, code=f"{row.tight}[{inside}]", rank=rank, atom=True)

    def _binary(self, node: cst.BinaryOperation) -> Lifted:
        if isinstance(node.operator, cst.MatrixMultiply):
            return self._product(node.left, node.right)
        if isinstance(node.operator, (cst.LeftShift, cst.RightShift)):
            raise NotLifted("a shift")
        lifted = self._pointwise(node.left, node.right, symbol(node.operator))
        if isinstance(node.operator, cst.Power) and literal(node.right) != 2:
            lifted = replace(lifted, exact=False)
        return lifted

    def _pointwise(self, left: cst.BaseExpression, right: cst.BaseExpression, symbol: str) -> Lifted:
        a, b = self.lift(left), self.lift(right)
        rank = self._agree(a, b)
        return Lifted(f"{a.tight} {symbol} {b.tight}", True, rank, a.exact and b.exact, atom=False)

    def _agree(self, *parts: Lifted) -> Rank | None:
        """The common rank of operands that broadcast row by row as they do all at once. Raises NotLifted."""
        ranks = {p.rank for p in parts if p.batched}
        if any(not p.batched and p.rank != ("", 0) for p in parts):
            raise NotLifted("an operand that all rows share may have more dimensions than a row")
        if len(ranks) != 1 or (None in ranks and len([p for p in parts if p.batched]) > 1):
            raise NotLifted("rows whose numbers of dimensions may differ")
        return ranks.pop()

    def _product(self, left: cst.BaseExpression, right: cst.BaseExpression) -> Lifted:
        """`W @ x[i]` is `x @ W.T` for vectors x[i] and a matrix W; `x[i] @ y[j]` is `x @ y.T`."""
        if self.depth != 1:
            raise NotLifted("a product of a pair")
        a, b = self.lift(left), self.lift(right)
        if not a.batched and b.batched and b.rank == ("", 1) and total_rank(left, self.sem) == 2:
            return Lifted(f"{b.tight} @ {a.tight}.T", True, ("", 1), exact=False, atom=False)
        if a.batched and not b.batched and a.rank == ("", 1) and total_rank(right, self.sem) == 2:
            return Lifted(f"{a.tight} @ {b.tight}", True, ("", 1), exact=False, atom=False)
        raise NotLifted("a matrix product whose shapes are not known")

    def _call(self, node: cst.Call) -> Lifted:
        name = self.sem.qualified(node.func) or ""
        function = name.rpartition(".")[2]
        if name.startswith(("torch.nn.functional.", "torch.")) and name.count(".") in (1, 3) and node.args:
            if argument(node, "input", 0) is not node.args[0]:
                raise NotLifted("a call whose input is not its first argument")
            subject = self.lift(node.args[0].value)
            return self._apply(function, subject, list(node.args[1:]), self._code(node.func))
        if isinstance(node.func, cst.Attribute) and not name:
            subject = self.lift(node.func.value)
            return self._apply(node.func.attr.value, subject, list(node.args), "")
        raise NotLifted("a call that is not known to treat rows alone")

    def _apply(self, function: str, subject: Lifted, args: list[cst.Arg], prefix: str) -> Lifted:
        if not subject.batched or any(a.star for a in args):
            raise NotLifted("arguments that differ from row to row")
        if function in ELEMENTWISE:
            if any(self.depends(a) or not (_constant(a.value) or is_number(a.value, self.sem)) for a in args):
                raise NotLifted("arguments that may have dimensions of their own")
            texts = [_argument(a, self._code(a.value)) for a in args]
            exact = subject.exact and function in EXACT
            return replace(subject, code=_called(function, subject, texts, prefix), exact=exact, atom=True)
        if function in REDUCE | ALONG:
            return self._along(function, subject, args, prefix)
        raise NotLifted(f"`{function}`, for which there is no template")

    def _along(self, function: str, subject: Lifted, args: list[cst.Arg], prefix: str) -> Lifted:
        """A function of one dimension: the row's dimension d is the batch's d + depth; negative ones stay."""
        texts: list[str] = []
        dim: int | None = None
        keep = False
        for position, arg in enumerate(args):
            keyword = arg.keyword.value if arg.keyword is not None else ""
            value = literal(arg.value)
            if keyword == "dim" or (not keyword and position == 0 and function != "norm"):
                if not isinstance(value, int) or isinstance(value, bool):
                    raise NotLifted("a dimension that is not written out")
                dim = value
                texts.append(_argument(arg, str(value if value < 0 else value + self.depth)))
            elif keyword in ("keepdim", "dtype", "p", "unbiased", "correction") or (not keyword and function == "norm"):
                keep = keep or (keyword == "keepdim" and value is not False)
                texts.append(_argument(arg, self._code(arg.value)))
            else:
                raise NotLifted("an argument without a template")
        if dim is None:
            if subject.rank is None or subject.rank[0] or subject.rank[1] < 1 or function in ALONG:
                raise NotLifted("a reduction over all dimensions of rows whose number of dimensions is not known")
            dims = tuple(range(-subject.rank[1], 0))
            if len(dims) > 1 and function in ("prod", "argmax", "argmin", "all", "any"):
                raise NotLifted("a reduction that takes one dimension only")
            texts.append(f"dim={dims[0] if len(dims) == 1 else dims}")
            rank: Rank | None = ("", 0)
        elif function in ALONG:
            rank = subject.rank
        else:
            rank = subject.rank if keep or subject.rank is None else (subject.rank[0], subject.rank[1] - 1)
        return replace(subject, code=_called(function, subject, texts, prefix), rank=rank, exact=False, atom=True)


def _constant(node: cst.BaseExpression) -> bool:
    return literal(node) is not ...


def _argument(arg: cst.Arg, text: str) -> str:
    return f"{arg.keyword.value}={text}" if arg.keyword is not None else text


def _called(function: str, subject: Lifted, args: list[str], prefix: str) -> str:
    if prefix:
        return f"{prefix}({', '.join([subject.code, *args])})"
    return f"{subject.tight}.{function}({', '.join(args)})"


# -- ranks ------------------------------------------------------------------------------------------------------------


def total_rank(node: cst.BaseExpression, sem: Semantics, depth: int = 0) -> int | None:
    """How many dimensions a tensor has, where the source spells it out."""
    if depth > 4:
        return None
    if isinstance(node, cst.Name):
        found = definition_of(node.value, node, sem)
        if found is not None and isinstance(found[0], cst.Name):
            rank = _made_rank(found[1], sem, depth)
            if rank is not None:
                return rank
        return _unpacked_rank(node, sem)
    return _made_rank(node, sem, depth)


def _made_rank(value: cst.BaseExpression, sem: Semantics, depth: int) -> int | None:
    if not isinstance(value, cst.Call):
        return None
    name = sem.qualified(value.func) or ""
    short = name.rpartition(".")[2]
    if name in {f"torch.{n}" for n in ("zeros", "ones", "empty", "rand", "randn")}:
        sizes = [a for a in value.args if a.keyword is None]
        if any(a.star for a in value.args) or not sizes:
            return None
        if len(sizes) > 1:
            return len(sizes)
        only = sizes[0].value
        if isinstance(only, (cst.Tuple, cst.List)):
            return None if any(isinstance(e, cst.StarredElement) for e in only.elements) else len(only.elements)
        return 1 if is_number(only, sem) or _is_extent(only) else None
    if name.startswith("torch.") and short.endswith("_like") and value.args:
        return total_rank(value.args[0].value, sem, depth + 1)
    if name in ("torch.arange", "torch.linspace", "torch.randperm"):
        return 1
    if isinstance(value.func, cst.Attribute) and value.func.attr.value in (
        "clone",
        "detach",
        "contiguous",
        "float",
        "double",
    ):
        return total_rank(value.func.value, sem, depth + 1)
    if isinstance(value.func, cst.Attribute) and value.func.attr.value in ("argmax", "argmin") and len(value.args) == 1:
        whole = total_rank(value.func.value, sem, depth + 1)
        return whole - 1 if whole is not None and isinstance(literal(value.args[0].value), int) else None
    return None


def _is_extent(node: cst.BaseExpression) -> bool:
    """`x.shape[0]`, `x.size(0)`, `len(x)`: one number, so a factory given it alone makes a vector."""
    if isinstance(node, cst.Subscript):
        shape = isinstance(node.value, cst.Attribute) and node.value.attr.value == "shape"
        return shape and isinstance(node.slice[0].slice, cst.Index)
    if isinstance(node, cst.Call):
        last = (dotted(node.func) or "").rpartition(".")[2]
        return last == "len" or (last == "size" and len(node.args) == 1)
    return False


def _unpacked_rank(node: cst.Name, sem: Semantics) -> int | None:
    """The rank that `n, d = x.shape` asserts of a name that is never rebound."""
    if not steady(node.value, node, sem):
        return None
    for assign in find(sem.function(node).body, cst.Assign):
        target = assign.targets[0].target
        if isinstance(target, cst.Tuple) and len(assign.targets) == 1:
            owner = shape_owner(assign.value, sem)
            if owner is not None and dotted(owner) == node.value:
                if not any(isinstance(e, cst.StarredElement) for e in target.elements):
                    return len(target.elements)
    return None


def steady(name: str, at: cst.CSTNode, sem: Semantics) -> bool:
    """Whether the name means one tensor throughout its function."""
    function = sem.function(at)
    count = len(bindings_in(name, function, sem))
    return count == 0 if name in function.params else count == 1


def row_rank(tensor: cst.BaseExpression, sem: Semantics) -> Rank | None:
    """The rank of a row: absolute where known, else relative to the tensor it has the shape of."""
    total = total_rank(tensor, sem)
    if total is not None:
        return ("", total - 1)
    if isinstance(tensor, cst.Name):
        found = definition_of(tensor.value, tensor, sem)
        if found is not None and isinstance(found[0], cst.Name) and isinstance(found[1], cst.Call):
            call = found[1]
            name = sem.qualified(call.func) or ""
            like: cst.BaseExpression | None = None
            if name.startswith("torch.") and name.endswith("_like") and call.args:
                like = call.args[0].value
            elif isinstance(call.func, cst.Attribute) and call.func.attr.value in ("clone", "detach", "contiguous"):
                like = call.func.value
            if isinstance(like, cst.Name) and like.value != tensor.value:
                return row_rank(like, sem)
        return (tensor.value, 0) if steady(tensor.value, tensor, sem) else None
    return None
