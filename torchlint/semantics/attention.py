"""Attention written out: `softmax(q @ k.transpose(-2, -1) * scale + mask) @ v`, followed back from the last product.

Each step may be an expression of its own with a name, as long as nothing else reads it: whoever needs the weights
cannot do with a fused kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import libcst as cst

from torchlint.nodes import argument, dotted, literal
from torchlint.semantics.kinds import Kind
from torchlint.semantics.made import Scope, Tracer
from torchlint.semantics.reaching import Definition

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

_F = "torch.nn.functional."
_LAST_TWO = ((-2, -1), (-1, -2), (2, 3), (3, 2))
_LAST_TWO_OF_THREE = ((1, 2), (2, 1))


@dataclass(frozen=True, slots=True)
class Mask:
    """One mask. `add`: a float one that is added; `drop`: `node` is true where scores are taken out by `fill`.
    `optional`: only under a condition."""

    kind: Literal["add", "drop"]
    node: cst.BaseExpression = field(repr=False)
    fill: cst.BaseExpression | None = field(default=None, repr=False)
    optional: bool = False


@dataclass(slots=True)
class Attention:
    """The parts of one attention; `product` is the last matmul. `divided`: the scores are divided by `scale`, not
    multiplied. `rate`: the dropout call. `statements`: those that hold earlier steps, first to last."""

    product: cst.BaseExpression
    value: cst.BaseExpression
    query: cst.BaseExpression | None = None
    key: cst.BaseExpression | None = None
    scale: cst.BaseExpression | None = None
    divided: bool = False
    masks: list[Mask] = field(default_factory=list)
    rate: cst.Call | None = None
    statements: list[cst.CSTNode] = field(default_factory=list)


def attention(node: cst.BaseExpression, sem: Semantics) -> Attention | None:
    """The attention whose weighted sum of values the expression is."""
    sides = product(node, sem)
    if sides is None:
        return None
    found = Attention(node, sides[1])
    return found if _Walk(sem, node, found).weights(sides[0]) else None


def product(node: cst.BaseExpression, sem: Semantics) -> tuple[cst.BaseExpression, cst.BaseExpression] | None:
    """The two sides of a matrix product of tensors."""
    if isinstance(node, cst.BinaryOperation):
        return (node.left, node.right) if isinstance(node.operator, cst.MatrixMultiply) else None
    if not isinstance(node, cst.Call) or any(a.keyword is not None or a.star for a in node.args):
        return None
    name = sem.qualified(node.func)
    if name in ("torch.matmul", "torch.bmm") and len(node.args) == 2:
        return node.args[0].value, node.args[1].value
    if name is None and isinstance(node.func, cst.Attribute) and len(node.args) == 1:
        if node.func.attr.value in ("matmul", "bmm"):
            return node.func.value, node.args[0].value
    return None


class _Walk:
    """One walk from the weights back to query and key; each method says whether its part is what it should be."""

    def __init__(self, sem: Semantics, at: cst.BaseExpression, found: Attention) -> None:
        self.sem = sem
        self.found = found
        self.scope = Scope(sem, sem.function(at))
        self.tracer = Tracer()
        self.reaching = sem.reaching(self.scope.function)

    def weights(self, node: cst.BaseExpression) -> bool:
        node = self._follow(node)
        if isinstance(node, cst.Call) and self._is_dropout(node):
            self.found.rate = node
            node = self._follow(node.args[0].value)
        scores = self._softmaxed(node)
        return scores is not None and self._scores(scores)

    def _scores(self, node: cst.BaseExpression) -> bool:
        """Masks and a scale around the product of query and key."""
        node = self._follow(node)
        sides = product(node, self.sem)
        if sides is not None:
            self.found.query, self.found.key = sides[0], self._transposed(sides[1], node)
            return self.found.key is not None
        if isinstance(node, cst.BinaryOperation):
            if isinstance(node.operator, cst.Add):
                self.found.masks.append(Mask("add", node.right))
                return self._scores(node.left)
            if isinstance(node.operator, (cst.Divide, cst.Multiply)) and self.found.scale is None:
                self.found.divided = isinstance(node.operator, cst.Divide)
                left_is_scale = not self.found.divided and self._is_number(node.left)
                self.found.scale = node.left if left_is_scale else node.right
                return self._scores(node.right if left_is_scale else node.left)
            return False
        mask = self._masked(node)
        if mask is None:
            return False
        self.found.masks.append(mask[0])
        return self._scores(mask[1])

    # -- steps ------------------------------------------------------------------------------------------------------

    def _is_dropout(self, node: cst.Call) -> bool:
        if not node.args or node.args[0].keyword is not None:
            return False
        name = self.sem.qualified(node.func)
        if name is not None:
            return name == _F + "dropout" and argument(node, "inplace", 3) is None
        made = self.tracer.made(node.func, self.scope)
        return bool(made) and all(m.name == "torch.nn.Dropout" for m in made) and len(node.args) == 1

    def _softmaxed(self, node: cst.BaseExpression) -> cst.BaseExpression | None:
        """What softmax over the last dim is applied to."""
        if not isinstance(node, cst.Call):
            return None
        name = self.sem.qualified(node.func)
        if name in (_F + "softmax", "torch.softmax"):
            given, dim = argument(node, "input", 0), argument(node, "dim", 1)
            if given is None or len(node.args) != 2:
                return None
            return given.value if dim is not None and literal(dim.value) == -1 else None
        if name is not None or not isinstance(node.func, cst.Attribute):
            return None
        if node.func.attr.value == "softmax" and dotted(node.func.value) != self.scope.self_name:
            dim = argument(node, "dim", 0)
            return node.func.value if dim is not None and len(node.args) == 1 and literal(dim.value) == -1 else None
        made = self.tracer.made(node.func, self.scope)
        if len(made) == 1 and made[0].name == "torch.nn.Softmax" and made[0].node is not None and len(node.args) == 1:
            dim = argument(made[0].node, "dim", 0)
            return node.args[0].value if dim is not None and literal(dim.value) == -1 else None
        return None

    @staticmethod
    def _masked(node: cst.BaseExpression) -> tuple[Mask, cst.BaseExpression] | None:
        """`scores.masked_fill(mask, value)`: the mask and the scores."""
        if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute) or len(node.args) != 2:
            return None
        if node.func.attr.value not in ("masked_fill", "masked_fill_"):
            return None
        mask, fill = argument(node, "mask", 0), argument(node, "value", 1)
        if mask is None or fill is None:
            return None
        return Mask("drop", mask.value, fill.value), node.func.value

    def _transposed(self, node: cst.BaseExpression, matmul: cst.BaseExpression) -> cst.BaseExpression | None:
        """The key of `key.transpose(-2, -1)`."""
        node = self._follow(node)
        if isinstance(node, cst.Attribute) and node.attr.value == "mT":
            return node.value
        if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute) or len(node.args) != 2:
            return None
        if node.func.attr.value != "transpose":
            return None
        dims = (literal(node.args[0].value), literal(node.args[1].value))
        of_three = isinstance(matmul, cst.Call) and (dotted(matmul.func) or "").endswith("bmm")
        return node.func.value if dims in _LAST_TWO or (of_three and dims in _LAST_TWO_OF_THREE) else None

    def _is_number(self, node: cst.BaseExpression) -> bool:
        return self.sem.value(node).kind is Kind.NUMBER

    # -- names ------------------------------------------------------------------------------------------------------

    def _follow(self, node: cst.BaseExpression) -> cst.BaseExpression:
        """The expression behind a name that only this step reads; the name itself where others do, too."""
        if not isinstance(node, cst.Name):
            return node
        known = self.reaching.uses.get(node, ())
        if len(known) == 1 and self._only_here(known[0], [node]) and known[0].node is not None:
            if known[0].statement is not None:
                self.found.statements.insert(0, known[0].statement)
            return self._follow(known[0].node)
        if len(known) == 2:
            return self._masked_under_condition(node, known) or node
        return node

    def _masked_under_condition(self, node: cst.Name, known: tuple[Definition, ...]) -> cst.BaseExpression | None:
        """`if mask is not None: scores = scores.masked_fill(…)`: what the scores were before."""
        for later, earlier in (known, known[::-1]):
            mask = self._masked(later.node) if later.node is not None else None
            source = mask[1] if mask is not None else None
            if mask is None or not isinstance(source, cst.Name) or earlier.node is None:
                continue
            before = self.reaching.uses.get(source, ())
            if len(before) == 1 and before[0] is earlier and self._only_here(later, [node]):
                if self._only_here(earlier, [node, source]):
                    self.found.masks.append(Mask("drop", mask[0].node, mask[0].fill, optional=True))
                    return self._follow(earlier.node)
        return None

    def _only_here(self, definition: Definition, places: list[cst.Name]) -> bool:
        """Whether nothing but these places reads what the statement assigns."""
        if definition.kind != "value" or definition.path:
            return False
        if isinstance(definition.statement, cst.Assign) and len(definition.statement.targets) != 1:
            return False
        reading = [use for use, known in self.reaching.uses.items() if any(d is definition for d in known)]
        return len(reading) == len(places) and all(any(r is p for p in places) for r in reading)
