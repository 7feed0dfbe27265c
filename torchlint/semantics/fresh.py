"""Tensors that are made from nothing but factories and numbers, so that they could as well be made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import argument, dotted, literal, walk
from torchlint.semantics.kinds import Kind

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

_EXACT = frozenset("zeros ones full eye empty arange range tril_indices triu_indices".split())
_ROUNDED = frozenset(
    "linspace logspace hann_window hamming_window blackman_window bartlett_window kaiser_window".split()
)
_RANDOM = frozenset("rand randn randint randperm normal".split())
_SIZED = frozenset("zeros ones empty rand randn".split())
_LEGACY = frozenset(f"{n}Tensor" for n in ("", "Float", "Double", "Half", "Long", "Int", "Short", "Byte", "Bool"))
# Keywords under which `device=` would mean something else than a later move.
_SPECIAL = frozenset(("device", "generator", "out", "pin_memory", "requires_grad", "layout"))
# Methods and functions of one tensor that give the same bits on every device.
_METHODS = frozenset(
    """long int short byte bool float double half bfloat16 type unsqueeze unsqueeze_ squeeze view reshape repeat expand
    permute transpose t contiguous flatten triu tril triu_ tril_ fill_ zero_ mul add sub mul_ add_ sub_ clone
    repeat_interleave diag roll flip masked_fill masked_fill_ logical_not eq ne lt le gt ge""".split()
)
_SHAPED = frozenset("expand_as view_as reshape_as".split())  # of the other tensor they read the shape alone
_FUNCTIONS = frozenset("triu tril unsqueeze squeeze reshape permute transpose flatten diag flip roll t".split())
_JOINS = frozenset("cat concat stack hstack vstack".split())
_MATHEMATICS = frozenset("exp log sqrt rsqrt pow sin cos tanh sigmoid div".split())  # other last bits on other devices
_RANDOM_METHODS = frozenset("uniform_ normal_ random_ bernoulli_ exponential_".split())
IN_PLACE = frozenset(("fill_", "zero_", *_RANDOM_METHODS))
_EXACT_OPERATORS = (cst.Add, cst.Subtract, cst.Multiply)
_TENSORS = (Kind.TENSOR, Kind.PARAMETER, Kind.BATCH)


@dataclass
class Fresh:
    """An expression that computes with nothing but freshly made CPU tensors and numbers."""

    factories: list[cst.Call] = field(default_factory=list)
    exact: bool = True  # the same bits on every device
    random: bool = False
    legacy: bool = False  # holds a constructor that takes no device
    scalar: bool = False  # a number of the host: the copy stays, only a tensor is saved


Known = Callable[[cst.BaseExpression], "Fresh | None"]


def freshly_made(node: cst.BaseExpression, sem: Semantics, known: Known | None = None) -> Fresh | None:
    """How the expression is made, if from nothing but CPU factories and numbers. `known` says how a name was."""
    if isinstance(node, cst.Call):
        name = sem.qualified(node.func) or ""
        module, _, last = name.rpartition(".")
        if name == "torch.autograd.Variable":
            return freshly_made(node.args[0].value, sem, known) if _wraps_only(node) else None
        if module == "torch":
            if last in _FUNCTIONS or last in _MATHEMATICS or (last == "bernoulli" and len(node.args) == 1):
                return _through(node, last, sem, known)
            if last in _JOINS:
                return _pieces(node, sem, known)
            return _factory(node, last, sem)
        if isinstance(node.func, cst.Attribute):
            return _method(node, node.func, sem, known)
    elif isinstance(node, cst.BinaryOperation):
        return _arithmetic(node, sem, known)
    elif isinstance(node, cst.UnaryOperation) and isinstance(node.operator, (cst.Minus, cst.BitInvert)):
        return freshly_made(node.expression, sem, known)
    elif isinstance(node, cst.Comparison):
        sides = [node.left, *(c.comparator for c in node.comparisons)]
        return _joined(sides, sem, known) if len(sides) == 2 else None
    elif isinstance(node, cst.Subscript) and all(_plain_index(e.slice) for e in node.slice):
        return freshly_made(node.value, sem, known)
    elif isinstance(node, (cst.Name, cst.Attribute)) and known is not None:
        return known(node)
    return None


def _factory(node: cst.Call, last: str, sem: Semantics) -> Fresh | None:
    if any(a.star == "**" or (a.keyword is not None and a.keyword.value in _SPECIAL) for a in node.args):
        return None
    if _is_empty(node, last):
        return None  # no element is copied, and nothing waits
    if last in _EXACT:
        return Fresh([node], exact=not (last in ("arange", "range") and _has_fraction(node)))
    if last in _ROUNDED:
        return Fresh([node], exact=False)
    if last in _RANDOM:
        if last == "normal" and argument(node, "size", 2) is None:
            return None
        return Fresh([node], random=True)
    if last == "tensor" and node.args and _is_constant(node.args[0].value):
        return Fresh([node], scalar=True)
    if last in _LEGACY and (len(node.args) > 1 or all(_is_size(a.value, sem) for a in node.args if not a.star)):
        return Fresh([node], legacy=True)
    return None


def _is_empty(node: cst.Call, last: str) -> bool:
    """Whether the tensor surely has no element: `torch.FloatTensor()`, `torch.tensor([])`, `torch.zeros(0, 3)`."""
    given = [a.value for a in node.args if a.keyword is None or a.keyword.value in ("data", "size")]
    if not given:
        return last in _LEGACY and not node.args
    first = given[0]
    if isinstance(first, (cst.List, cst.Tuple)) and (last in _LEGACY or last == "tensor"):
        return not first.elements
    if last not in _SIZED and last not in _LEGACY:
        return False
    sizes = [e.value for e in first.elements] if isinstance(first, (cst.List, cst.Tuple)) else given
    return any(literal(size) == 0 and not isinstance(literal(size), bool) for size in sizes)


def _wraps_only(node: cst.Call) -> bool:
    """`Variable(x)` of torch before 0.4, which is `x`; with `requires_grad=True` it is the leaf on the CPU."""
    rest = node.args[1:]
    return (
        bool(node.args)
        and all(a.keyword is not None and a.keyword.value in ("volatile", "requires_grad") and _off(a) for a in rest)
        and not node.args[0].star
        and node.args[0].keyword is None
    )


def _off(arg: cst.Arg) -> bool:
    return literal(arg.value) is False or (arg.keyword is not None and arg.keyword.value == "volatile")


def _has_fraction(node: cst.Call) -> bool:
    return any(isinstance(n, (cst.Float, cst.Divide)) for a in node.args for n in _with_operators(a.value))


def _with_operators(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for n in walk(node):
        yield n
        if isinstance(n, cst.BinaryOperation):
            yield n.operator


def _is_constant(node: cst.BaseExpression) -> bool:
    """A literal number: what is copied is no data."""
    return isinstance(literal(node), (bool, int, float))


def _is_size(node: cst.BaseExpression, sem: Semantics) -> bool:
    """Whether an argument of an old constructor is a size; a list or an array would be the data itself."""
    if isinstance(node, cst.List):
        return not node.elements
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "size":
        return True  # numpy's and Python's sizes are no methods
    if isinstance(node, cst.Attribute) and node.attr.value == "shape":
        return True
    return sem.value(node).kind is Kind.NUMBER


def _method(node: cst.Call, func: cst.Attribute, sem: Semantics, known: Known | None) -> Fresh | None:
    attr = func.attr.value
    if attr == "to":
        first = argument(node, "dtype", 0)
        if first is None or len(node.args) != 1 or not _is_dtype(first.value, sem):
            return None
        return freshly_made(func.value, sem, known)
    if attr in _RANDOM_METHODS:
        if any(a.keyword is not None and a.keyword.value == "generator" for a in node.args):
            return None
        made = freshly_made(func.value, sem, known)
        if made is not None:
            made.random = True
        return made
    if attr in _SHAPED or (attr in _MATHEMATICS and not node.args):
        made = freshly_made(func.value, sem, known)
        if made is not None:
            made.exact = made.exact and attr in _SHAPED
        return made
    if attr not in _METHODS or not all(_is_number_or_fresh(a.value, sem, known) for a in node.args):
        return None
    return freshly_made(func.value, sem, known)


def _is_number_or_fresh(node: cst.BaseExpression, sem: Semantics, known: Known | None) -> bool:
    return sem.value(node).kind not in _TENSORS or freshly_made(node, sem, known) is not None


def _is_dtype(node: cst.BaseExpression, sem: Semantics) -> bool:
    name = sem.qualified(node) or ""
    if name.startswith("torch.") and name.count(".") == 1:
        return True
    return isinstance(node, cst.Attribute) and node.attr.value == "dtype"


def _through(node: cst.Call, last: str, sem: Semantics, known: Known | None) -> Fresh | None:
    """`torch.triu(made, …)`: a function that only rearranges its first argument, or computes with it alone."""
    if not node.args or node.args[0].star or node.args[0].keyword is not None:
        return None
    if any(a.star or sem.value(a.value).kind in _TENSORS for a in node.args[1:]):
        return None
    made = freshly_made(node.args[0].value, sem, known)
    if made is not None:
        made.exact = made.exact and last in _FUNCTIONS
        made.random = made.random or last == "bernoulli"
    return made


def _pieces(node: cst.Call, sem: Semantics, known: Known | None) -> Fresh | None:
    """`torch.cat([torch.ones(n), torch.zeros(m)])`: all the pieces are made here."""
    first = node.args[0] if node.args and node.args[0].keyword is None else None
    if first is None or not isinstance(first.value, (cst.List, cst.Tuple)) or not first.value.elements:
        return None
    if any(a.star or sem.value(a.value).kind in _TENSORS for a in node.args[1:]):
        return None
    pieces = [e.value for e in first.value.elements if not isinstance(e, cst.StarredElement)]
    made = [freshly_made(piece, sem, known) for piece in pieces]
    if len(pieces) < len(first.value.elements) or not all(m is not None and m.factories for m in made):
        return None
    return _joined(pieces, sem, known)


def _arithmetic(node: cst.BinaryOperation, sem: Semantics, known: Known | None) -> Fresh | None:
    made = _joined((node.left, node.right), sem, known)
    if made is not None:
        made.exact = made.exact and isinstance(node.operator, _EXACT_OPERATORS)
    return made


def _joined(sides: Sequence[cst.BaseExpression], sem: Semantics, known: Known | None) -> Fresh | None:
    parts = [(side, freshly_made(side, sem, known)) for side in sides]
    sizes = {dotted(a.value) for _, made in parts if made for call in made.factories for a in call.args}
    result = Fresh()
    for side, made in parts:
        if made is not None:
            result = Fresh(
                result.factories + made.factories,
                result.exact and made.exact,
                result.random or made.random,
                result.legacy or made.legacy,
                result.scalar or made.scalar,
            )
        elif not _is_number(side, sem) and (dotted(side) is None or dotted(side) not in sizes):
            return None
    return result


def _is_number(node: cst.BaseExpression, sem: Semantics) -> bool:
    """Whether the expression is one of Python's numbers: `-math.log(n)`."""
    if isinstance(node, cst.UnaryOperation):
        return _is_number(node.expression, sem)
    if isinstance(node, cst.Call) and (sem.qualified(node.func) or "").startswith("math."):
        return True
    return sem.value(node).kind is Kind.NUMBER


def _plain_index(node: cst.BaseSlice) -> bool:
    """`[None]`, `[:, None]`, `[0]`: indexing that needs no tensor."""
    if isinstance(node, cst.Index):
        return literal(node.value) is not ...
    return isinstance(node, cst.Slice) and all(
        p is None or literal(p) is not ... for p in (node.lower, node.upper, node.step)
    )
