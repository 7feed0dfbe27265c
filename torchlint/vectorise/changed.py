"""What the body of a loop changes: names that it adds to or sets, attributes that add up, lists that fill."""

from __future__ import annotations

import libcst as cst

from torchlint.nodes import dotted, find, walk
from torchlint.semantics.rows import bound_names
from torchlint.vectorise.pure import WRITES


class Changed:
    """`grown`: names that are added to; `others`: names that are set; `totals`: attributes that are added to; `filled`:
    lists that get parts."""

    def __init__(self, body: cst.CSTNode) -> None:
        self.grown: set[str] = set()
        self.others: set[str] = set()
        self.totals: set[str] = set()
        self.filled: set[str] = set()
        for node in walk(body):
            if isinstance(node, cst.AugAssign):
                sums = isinstance(node.operator, (cst.AddAssign, cst.SubtractAssign))
                (self.grown if sums else self.others).update(bound_names(node.target))
                if isinstance(node.target, cst.Attribute):
                    self.totals.add(dotted(node.target) or "")
            elif isinstance(node, cst.Assign):
                for target in node.targets:
                    for name in bound_names(target.target):
                        (self.grown if added_to(name, node.value) is not None else self.others).add(name)
            elif isinstance(node, cst.For):
                self.others |= bound_names(node.target)
            elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
                if node.func.attr.value == "append":
                    self.filled.add(dotted(node.func.value) or "")


def may_compute(body: cst.BaseSuite) -> bool:
    """Whether no statement of the body itself is of a kind that is there for its effect."""
    for statement in body.body:
        if isinstance(statement, cst.SimpleStatementLine):
            for small in statement.body:
                call = small.value if isinstance(small, cst.Expr) else None
                if isinstance(call, cst.Call) and not (
                    isinstance(call.func, cst.Attribute) and call.func.attr.value in WRITES | {"append"}
                ):
                    return False
        elif not isinstance(statement, (cst.If, cst.For)):
            return False
    return True


def added_to(name: str, value: cst.BaseExpression) -> list[cst.BaseExpression] | None:
    """`v` and `w` of `name + v - w` and of `v + name + w`."""
    terms: list[cst.BaseExpression] = []
    while isinstance(value, cst.BinaryOperation) and isinstance(value.operator, (cst.Add, cst.Subtract)):
        if isinstance(value.right, cst.Name) and value.right.value == name and isinstance(value.operator, cst.Subtract):
            return None
        terms.append(value.right)
        value = value.left
    terms.append(value)
    others = [t for t in terms if not (isinstance(t, cst.Name) and t.value == name)]
    if len(terms) != len(others) + 1 or any(mentions(t, name) for t in others):
        return None
    return others


def mentions(node: cst.CSTNode, name: str) -> bool:
    return any(n.value == name for n in find(node, cst.Name))
