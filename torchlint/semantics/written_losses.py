"""Losses that are written out: the mean of squared differences, and the cross-entropy of a `log_softmax`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import libcst as cst

from torchlint.nodes import argument, dotted, is_whole, literal
from torchlint.semantics.kinds import Kind
from torchlint.semantics.made import Scope, Tracer
from torchlint.semantics.pointwise import constant, is_tensor, operation, reduced
from torchlint.semantics.reaching import Definition

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

_MADE_LIKE = frozenset(f"torch.{n}_like" for n in ("zeros", "ones", "full", "empty", "rand", "randn"))
_SIZED = frozenset(f"torch.{n}" for n in ("zeros", "ones", "empty", "rand", "randn"))
# Methods and functions whose result has the shape of what they are given.
_POINTWISE = frozenset(
    """detach clone contiguous float double half bfloat16 to cuda cpu type exp log sigmoid tanh relu softmax log_softmax
    abs sqrt square clamp neg sin cos type_as requires_grad_ round floor""".split()
)
_AS = frozenset(("view_as", "reshape_as", "expand_as"))
_FLAT = {"flatten": (), "ravel": (), "view": (-1,), "reshape": (-1,)}
_REDUCTIONS = frozenset("sum mean max min amax amin norm std var prod median".split())
_DEPTH = 6

Shape = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class MeanSquares:
    """`((a - b) ** 2).mean()`. `same_shape`: whether both certainly have one shape."""

    left: cst.BaseExpression = field(repr=False)
    right: cst.BaseExpression = field(repr=False)
    same_shape: bool = False


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Minus the log-probability of the target.

    `scores`: what `log_softmax` is applied to, None where the result has a name or a dtype; `target`: classes, or
    probabilities (`soft`); `reduction` as in `F.cross_entropy`. `dim`: the dim of the classes, None where not literal.
    `certain`: whether shapes and kinds are known to be those that `F.cross_entropy` takes.
    """

    scores: cst.BaseExpression | None = field(repr=False)
    target: cst.BaseExpression | None = field(repr=False)
    soft: bool
    reduction: Literal["mean", "sum", "none"]
    dim: int | None
    certain: bool = False


def mean_squares(node: cst.Call, sem: Semantics) -> MeanSquares | None:
    """The mean of the squares of the difference of two tensors, over all of their elements."""
    squared = _reduced_to_one(node, "mean", sem)
    difference = _base_of_square(squared, sem) if squared is not None else None
    if not isinstance(difference, cst.BinaryOperation) or not isinstance(difference.operator, cst.Subtract):
        return None
    left, right = difference.left, difference.right
    if any(sem.value(n).kind not in (Kind.TENSOR, Kind.BATCH) for n in (left, right)):
        return None
    shapes = Shapes(sem)
    if shapes.may_be_one_of_many(left) or shapes.may_be_one_of_many(right):
        return None  # a difference of every pair, or from one number
    if shapes.is_average(left) != shapes.is_average(right) or _are_slices_of_one(left, right, sem):
        return None  # a variance, the change from one step to the next
    first = shapes.of(left)
    return MeanSquares(left, right, first is not None and first == shapes.of(right))


def cross_entropy(node: cst.BaseExpression, sem: Semantics) -> CrossEntropy | None:
    """The cross-entropy that an expression computes step by step, with the mean or sum over it."""
    sign, reduction, squeezed = 1, "none", False
    core: cst.BaseExpression = node
    while True:
        whole = None
        if reduction == "none":
            for name in ("mean", "sum"):
                whole = _reduced_to_one(core, name, sem) if isinstance(core, cst.Call) else None
                if whole is not None:
                    reduction, core = name, whole
                    break
        if whole is not None:
            continue
        if isinstance(core, cst.UnaryOperation) and isinstance(core.operator, cst.Minus):
            sign, core = -sign, core.expression
        elif _is_squeeze(core):
            squeezed, core = True, core.func.value  # type: ignore[attr-defined]
        else:
            break
    if reduction not in ("mean", "sum", "none"):
        return None
    kind: Literal["mean", "sum", "none"] = reduction  # type: ignore[assignment]
    if isinstance(core, cst.Subscript):
        return _indexed(core, kind, sem) if sign < 0 else None
    if isinstance(core, cst.Call):
        gathered = _gathered(core, kind, squeezed, sem) if sign < 0 else None
        if gathered is not None or squeezed:
            return gathered
        total = reduced(core, "sum", sem)
        if total is None or total.dim is None or total.keepdim:
            return None
        return _weighted(total.operand, sign, kind, total.dim, sem)
    return _weighted(core, sign, kind, None, sem) if kind == "sum" and not squeezed else None


# -- the cores --------------------------------------------------------------------------------------------------------


def _gathered(
    core: cst.Call, reduction: Literal["mean", "sum", "none"], squeezed: bool, sem: Semantics
) -> CrossEntropy | None:
    """`log_softmax(x, d).gather(d, y.unsqueeze(d))`."""
    if sem.qualified(core.func) == "torch.gather":
        source, dim, index = argument(core, "input", 0), argument(core, "dim", 1), argument(core, "index", 2)
        given = source.value if source is not None else None
    elif isinstance(core.func, cst.Attribute) and core.func.attr.value == "gather":
        given, dim, index = core.func.value, argument(core, "dim", 0), argument(core, "index", 1)
    else:
        return None
    if given is None or dim is None or index is None:
        return None
    found = _log_softmax(given, sem)
    if found is None or found[1] is None or literal(dim.value) != found[1]:
        return None
    target = _unsqueezed(index.value, found[1])
    plain = reduction != "none" or squeezed
    return CrossEntropy(found[0], target, False, reduction, found[1], target is not None and plain)


def _indexed(core: cst.Subscript, reduction: Literal["mean", "sum", "none"], sem: Semantics) -> CrossEntropy | None:
    """`log_softmax(x, 1)[range(len(y)), y]`. Never certain: -1 is the last class here and an error there."""
    indices = [e.slice.value for e in core.slice if isinstance(e.slice, cst.Index)]
    if len(indices) != 2 or len(core.slice) != 2 or not isinstance(indices[0], cst.Call):
        return None
    rows, target = indices[0], indices[1]
    is_range = sem.qualified(rows.func) == "torch.arange" or dotted(rows.func) == "range"
    found = _log_softmax(core.value, sem)
    if found is None or found[1] not in (1, -1) or not is_range or not rows.args:
        return None
    return CrossEntropy(found[0], target, False, reduction, 1)


def _weighted(
    product: cst.BaseExpression, sign: int, reduction: Literal["mean", "sum", "none"], dim: str | None, sem: Semantics
) -> CrossEntropy | None:
    """`(target * log_softmax(x, d)).sum(d)`, or summed over all."""
    if isinstance(product, cst.UnaryOperation) and isinstance(product.operator, cst.Minus):
        sign, product = -sign, product.expression
    if not isinstance(product, cst.BinaryOperation) or not isinstance(product.operator, cst.Multiply):
        return None
    sides: list[cst.BaseExpression] = []
    for side in (product.left, product.right):
        if isinstance(side, cst.UnaryOperation) and isinstance(side.operator, cst.Minus):
            sign, side = -sign, side.expression
        sides.append(side)
    for logs, target in (sides, sides[::-1]):
        found = _log_softmax(logs, sem)
        if found is None or sign > 0 or _log_softmax(target, sem) is not None:
            continue
        if dim is not None and str(found[1]) != dim:
            return None
        if not is_tensor(target, sem) or _is_own_softmax(target, logs, found[0], sem):
            return None  # an entropy
        classes = _one_hot(target, sem)
        if classes is not None:
            # With `.float()` the result is a float32 whatever the scores are.
            plain = isinstance(target, cst.Call) and sem.qualified(target.func) is not None
            return CrossEntropy(found[0], classes, False, reduction, found[1], found[1] == 1 and plain)
        shapes = Shapes(sem)
        shape = shapes.of(found[0]) if found[0] is not None else None
        sure = shape is not None and shape == shapes.of(target) and _is_softmax(target, sem)
        return CrossEntropy(found[0], target, True, reduction, found[1], sure)
    return None


# -- the parts --------------------------------------------------------------------------------------------------------


def _reduced_to_one(node: cst.BaseExpression, name: str, sem: Semantics) -> cst.BaseExpression | None:
    """What `x.mean()` or `torch.mean(x)` reduces, where it does so over all dims."""
    found = reduced(node, name, sem)
    if found is None or not isinstance(node, cst.Call):
        return None
    return found.operand if len(node.args) == (0 if sem.qualified(node.func) is None else 1) else None


def _base_of_square(node: cst.BaseExpression, sem: Semantics) -> cst.BaseExpression | None:
    """The d of `d ** 2`, `d.pow(2)`, `torch.pow(d, 2)`, `d.square()`."""
    if isinstance(node, cst.BinaryOperation):
        return node.left if isinstance(node.operator, cst.Power) and constant(node.right) == 2 else None
    if not isinstance(node, cst.Call):
        return None
    square = operation(node, sem)
    if square is not None:
        return square.operand if square.name == "square" else None
    if sem.qualified(node.func) == "torch.pow" and len(node.args) == 2:
        return node.args[0].value if constant(node.args[1].value) == 2 else None
    if isinstance(node.func, cst.Attribute) and node.func.attr.value == "pow" and len(node.args) == 1:
        return node.func.value if constant(node.args[0].value) == 2 else None
    return None


def _log_softmax(node: cst.BaseExpression, sem: Semantics) -> tuple[cst.BaseExpression | None, int | None] | None:
    """What the logarithm of the softmax is taken of (None where the result has a name or a dtype), over which dim."""
    if isinstance(node, cst.Call):
        name = sem.qualified(node.func)
        if name in ("torch.log_softmax", "torch.nn.functional.log_softmax"):
            given, dim = argument(node, "input", 0), argument(node, "dim", 1)
            scores = given.value if given is not None else None
        elif name is None and isinstance(node.func, cst.Attribute) and node.func.attr.value == "log_softmax":
            if not is_tensor(node.func.value, sem):
                return None
            scores, dim = node.func.value, argument(node, "dim", 0)
        else:
            return None
        which = literal(dim.value) if dim is not None else None
        if scores is None or not isinstance(which, int):
            return None
        return (scores if len(node.args) == (2 if name is not None else 1) else None, which)
    if not isinstance(node, cst.Name):
        return None
    known = _definitions(node, sem)
    if len(known) != 1 or known[0].kind != "value" or known[0].path or known[0].node is None:
        return None
    made = known[0].node
    found = _log_softmax(made, sem) if isinstance(made, cst.Call) else None
    if found is None or not _is_read_once(node, sem):
        return None  # what is needed elsewhere is there anyway
    return (None, found[1])


def _definitions(node: cst.BaseExpression, sem: Semantics) -> list[Definition]:
    """The definitions that reach a place."""
    return [d for d, _ in sem.once(_tracer).definitions(node, Scope(sem, sem.function(node)))]


def _tracer(_: Semantics) -> Tracer:
    """One for all questions about a file: it keeps what it has worked out of a function."""
    return Tracer()


def _is_read_once(name: cst.Name, sem: Semantics) -> bool:
    uses = sem.reaching(sem.function(name)).uses
    own = set(uses.get(name, ()))
    return sum(1 for node, known in uses.items() if isinstance(node, cst.Name) and own & set(known)) == 1


def _is_squeeze(node: cst.BaseExpression) -> bool:
    return isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "squeeze"


def _unsqueezed(node: cst.BaseExpression, dim: int) -> cst.BaseExpression | None:
    """The y of `y.unsqueeze(dim)` or, for dim 1, `y[:, None]`."""
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "unsqueeze":
        given = argument(node, "dim", 0)
        return node.func.value if given is not None and literal(given.value) == dim else None
    if isinstance(node, cst.Subscript) and dim == 1 and len(node.slice) == 2:
        first, second = (e.slice for e in node.slice)
        return (
            node.value if is_whole(first) and isinstance(second, cst.Index) and literal(second.value) is None else None
        )
    return None


def _one_hot(node: cst.BaseExpression, sem: Semantics) -> cst.BaseExpression | None:
    """The classes of `F.one_hot(y, n)`, with or without `.float()`."""
    while isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value in _POINTWISE:
        if sem.qualified(node.func) is not None:
            return None
        node = node.func.value
    if not isinstance(node, cst.Call) or sem.qualified(node.func) != "torch.nn.functional.one_hot":
        return None
    given = argument(node, "input", 0) or argument(node, "tensor", 0)
    return given.value if given is not None else None


def _is_own_softmax(
    target: cst.BaseExpression, logs: cst.BaseExpression, scores: cst.BaseExpression | None, sem: Semantics
) -> bool:
    """Whether the target is the very distribution of which the logarithm is taken: `exp(logs)`, `softmax(scores)`."""
    made = [target, *(_nodes_of(target, sem) if isinstance(target, cst.Name) else ())]
    same = {sem.file.code(n) for n in (logs, scores) if n is not None}
    if isinstance(logs, cst.Name):
        same.update(_scores_by_name(logs, sem))
    for node in made:
        method = node.func if isinstance(node, cst.Call) else None
        if isinstance(node, cst.Call) and any(sem.file.code(a.value) in same for a in node.args):
            return True
        if isinstance(method, cst.Attribute) and sem.file.code(method.value) in same:
            return True
    return False


def _nodes_of(name: cst.Name, sem: Semantics) -> list[cst.BaseExpression]:
    """The expressions that a name may have its value from."""
    return [d.node for d in _definitions(name, sem) if d.node is not None]


def _scores_by_name(logs: cst.Name, sem: Semantics) -> set[str]:
    """The text of what the named logarithm of a softmax is taken of."""
    found = [_log_softmax(node, sem) for node in _nodes_of(logs, sem) if isinstance(node, cst.Call)]
    return {sem.file.code(f[0]) for f in found if f is not None and f[0] is not None}


def _are_slices_of_one(left: cst.BaseExpression, right: cst.BaseExpression, sem: Semantics) -> bool:
    """Whether it is `x[1:] - x[:-1]`."""
    if not isinstance(left, cst.Subscript) or not isinstance(right, cst.Subscript):
        return False
    return sem.file.code(left.value) == sem.file.code(right.value)


def _is_softmax(node: cst.BaseExpression, sem: Semantics) -> bool:
    found = operation(node, sem)
    if found is not None:
        return found.name == "softmax"
    method = node.func if isinstance(node, cst.Call) else None
    return isinstance(method, cst.Attribute) and method.attr.value == "softmax" and sem.qualified(method) is None


# -- shapes -----------------------------------------------------------------------------------------------------------


class Shapes:
    """What can be told of shapes from how tensors are made: enough to say that two of them are one."""

    def __init__(self, sem: Semantics) -> None:
        self._sem = sem

    def of(self, node: cst.BaseExpression, depth: int = 0) -> Shape | None:
        """The same for two expressions only where their shapes certainly are; None where nothing is known."""
        if depth > _DEPTH:
            return None
        if isinstance(node, (cst.Name, cst.Attribute)) and self._sem.qualified(node) is None:
            return self._of_name(node, depth)
        if isinstance(node, cst.UnaryOperation):
            return self.of(node.expression, depth + 1)
        if isinstance(node, cst.BinaryOperation):
            numbers = [self._sem.value(n).kind is Kind.NUMBER for n in (node.left, node.right)]
            if any(numbers):
                return self.of(node.right if numbers[0] else node.left, depth + 1) if not all(numbers) else None
            first, second = self.of(node.left, depth + 1), self.of(node.right, depth + 1)
            return first if first == second else None
        return self._of_call(node, depth) if isinstance(node, cst.Call) else None

    def may_be_one_of_many(self, node: cst.BaseExpression, depth: int = 0) -> bool:
        """Whether the expression is made to be broadcast: reduced to one value or with a dim kept or added."""
        made = self._made(node) or node
        if depth > _DEPTH:
            return True
        if isinstance(made, cst.BinaryOperation):
            return any(self.may_be_one_of_many(side, depth + 1) for side in (made.left, made.right))
        if isinstance(made, cst.Subscript):
            return any(isinstance(e.slice, cst.Index) and literal(e.slice.value) is None for e in made.slice)
        if not isinstance(made, cst.Call) or not isinstance(made.func, cst.Attribute):
            return False
        name = made.func.attr.value
        if name in ("unsqueeze", "expand", "repeat", "item"):
            return True
        if name in ("detach", "clone", "float", "to"):
            return self.may_be_one_of_many(made.func.value, depth + 1)
        if name not in _REDUCTIONS:
            return False
        keeps = any(a.keyword is not None and a.keyword.value in ("keepdim", "keepdims") for a in made.args)
        return keeps or len(made.args) == (0 if self._sem.qualified(made.func) is None else 1)

    def is_average(self, node: cst.BaseExpression) -> bool:
        made = self._made(node) or node
        return any(reduced(made, name, self._sem) is not None for name in ("mean", "median"))

    def _made(self, node: cst.BaseExpression) -> cst.BaseExpression | None:
        known = _definitions(node, self._sem)
        return known[0].node if len(known) == 1 and known[0].kind == "value" and not known[0].path else None

    def _of_name(self, node: cst.Name | cst.Attribute, depth: int) -> Shape | None:
        known = _definitions(node, self._sem)
        if len(known) != 1:
            return None
        definition = known[0]
        if definition.kind == "value" and definition.node is not None and not definition.path:
            return self.of(definition.node, depth + 1) or ("that of", definition.node)
        return ("that of", definition)

    def _of_call(self, node: cst.Call, depth: int) -> Shape | None:
        name = self._sem.qualified(node.func)
        if name in _MADE_LIKE:
            given = argument(node, "input", 0)
            return self.of(given.value, depth + 1) if given is not None else None
        if name in _SIZED:
            sizes = [literal(a.value) for a in node.args if a.keyword is None]
            sizes = list(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple) else sizes
            return ("size", *sizes) if sizes and all(isinstance(n, int) for n in sizes) else None
        if name is not None:
            module, _, last = name.rpartition(".")
            if module in ("torch", "torch.nn.functional") and last in _POINTWISE and node.args:
                return self.of(node.args[0].value, depth + 1)
            return None
        if not isinstance(node.func, cst.Attribute) or not is_tensor(node.func.value, self._sem):
            return None
        method = node.func.attr.value
        if method in _AS and len(node.args) == 1:
            return self.of(node.args[0].value, depth + 1)
        if method in _FLAT and tuple(literal(a.value) for a in node.args) == _FLAT[method]:
            return ("flat",)
        return self.of(node.func.value, depth + 1) if method in _POINTWISE else None
