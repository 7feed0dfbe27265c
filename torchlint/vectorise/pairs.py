"""Two nested row loops that fill a table: `d[i, j] = f(x[i], y[j])`, and the broadcast that fills it at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix
from torchlint.nodes import argument, find, literal
from torchlint.semantics.blocks import statements
from torchlint.semantics.model import Semantics
from torchlint.semantics.rows import RowLoop, definition_of, row_loop
from torchlint.spelling import same
from torchlint.vectorise.body import Step, StepKind, read_body
from torchlint.vectorise.emit import comments_in, outlives
from torchlint.vectorise.lift import Lifted, Lifter, NotLifted, row_rank, steady, total_rank


@dataclass(frozen=True, eq=False)
class Pairs:
    """A nest whose only statement is `table[i, j] = value`."""

    outer: RowLoop
    inner: RowLoop
    store: Step = field(repr=False)
    table: cst.BaseExpression = field(repr=False)


def read_pairs(loop: cst.For, sem: Semantics) -> Pairs | None:
    """The nest, if each entry is computed from its own two rows alone."""
    inside = statements(loop.body)
    below = inside[0] if len(inside) == 1 else None
    if loop.orelse is not None or not isinstance(below, cst.For):
        return None
    outer, inner = row_loop(loop, sem), row_loop(below, sem)
    if outer is None or inner is None or not outer.index or not inner.index or outer.bound & inner.bound:
        return None
    if inner.axis != outer.axis and same(outer.over, inner.over):
        return None  # the elements of one matrix, not pairs of its rows
    if not outer.whole or not inner.whole:
        return None
    body = read_body(inner, sem)
    if (
        body is None
        or len(body.steps) != 1
        or body.steps[0].kind is not StepKind.STORE
        or body.steps[0].test is not None
    ):
        return None
    store = body.steps[0]
    if not isinstance(store.target, cst.Subscript) or store.operator != "=":
        return None
    table = _table(store.target, outer.index, inner.index)
    if table is None or not _only_indexes(outer.index, store, sem):
        return None
    names = {n.value for n in find(store.value, cst.Name)}
    if not names & outer.bound or not names & inner.bound or outlives(body, sem):
        return None
    return Pairs(outer, inner, store, table)


def _table(target: cst.Subscript, i: str, j: str) -> cst.BaseExpression | None:
    """`d` of `d[i, j]` and of `d[i][j]`."""
    indices = [
        e.slice.value.value
        for e in target.slice
        if isinstance(e.slice, cst.Index) and isinstance(e.slice.value, cst.Name)
    ]
    if len(indices) != len(target.slice):
        return None
    if indices == [i, j]:
        return target.value
    if indices == [j] and isinstance(target.value, cst.Subscript) and len(target.value.slice) == 1:
        first = target.value.slice[0].slice
        if isinstance(first, cst.Index) and isinstance(first.value, cst.Name) and first.value.value == i:
            return target.value.value
    return None


def _only_indexes(counter: str, store: Step, sem: Semantics) -> bool:
    """Whether the counter is used as the first index of something and in no other way."""
    for name in find(store.value, cst.Name):
        if name.value == counter:
            element = sem.file.parent(sem.file.parent(name) or name)
            owner = sem.file.parent(element) if isinstance(element, cst.SubscriptElement) else None
            if not isinstance(owner, cst.Subscript) or owner.slice[0] is not element:
                return False
    return True


def pairs_fix(pairs: Pairs, sem: Semantics) -> Fix | None:
    """The broadcast, `torch.cdist` or matrix product that fills the table; None where ranks are not known."""
    loop = pairs.outer.node
    comments = comments_in(loop, sem) if isinstance(loop, cst.For) else None
    rank = total_rank(pairs.table, sem)
    if not all(isinstance(o, cst.Name) and steady(o.value, o, sem) for o in (pairs.outer.over, pairs.inner.over)):
        return None
    if (
        comments is None
        or rank is None
        or pairs.outer.axis
        or pairs.inner.axis
        or not isinstance(pairs.table, cst.Name)
    ):
        return None
    lifter = Lifter(
        sem,
        [(pairs.outer.index, pairs.outer.length), (pairs.inner.index, pairs.inner.length)],
        {
            **{n: (t, 0) for n, t in pairs.outer.rows.items()},
            **{n: (t, 1) for n, t in pairs.inner.rows.items()},
        },
        lambda tensor, axis: same(tensor, (pairs.outer, pairs.inner)[axis].over),
    )
    special = _distance(pairs, sem) or _product(pairs, sem)
    if special is not None and rank == 2:
        lifted, means = Lifted(special[0], True, ("", 0), exact=False), special[1]
    else:
        try:
            lifted, means = lifter.lift(pairs.store.value), "a broadcast"
        except NotLifted:
            return None
    if lifted.rank is None or lifted.rank[0] or lifted.rank[1] + 2 != rank:
        return None
    index = ":" if _is_whole(pairs, sem) else f":{pairs.outer.length}, :{pairs.inner.length}"
    line = f"{pairs.table.value}[{index}] = {lifted.code}"
    indent, newline = sem.file.indent(loop), sem.file.newline
    text = "".join(f"{indent}{part}{newline}" for part in (*comments, line))
    edit = Edit(sem.file.line_start(loop), sem.file.line_end(loop), text)
    safe = lifted.exact and _is_made_here(pairs.table, sem)
    return Fix((edit,), Applicability.SAFE if safe else Applicability.UNSAFE, f"replace the nest by {means}")


def _is_made_here(table: cst.Name, sem: Semantics) -> bool:
    found = definition_of(table.value, table, sem)
    made = sem.qualified(found[1].func) if found is not None and isinstance(found[1], cst.Call) else None
    return made in ("torch.zeros", "torch.empty", "torch.ones", "torch.full")


def _is_whole(pairs: Pairs, sem: Semantics) -> bool:
    """Whether the table was made with exactly these two sizes."""
    if not isinstance(pairs.table, cst.Name) or not _is_made_here(pairs.table, sem):
        return False
    found = definition_of(pairs.table.value, pairs.table, sem)
    if found is None or not isinstance(found[1], cst.Call):
        return False
    sizes: list[cst.BaseExpression] = [a.value for a in found[1].args if a.keyword is None]
    if len(sizes) == 1 and isinstance(sizes[0], (cst.Tuple, cst.List)):
        sizes = [e.value for e in sizes[0].elements]
    return [sem.file.code(s) for s in sizes[:2]] == [pairs.outer.length, pairs.inner.length]


def _vector(node: cst.BaseExpression, pairs: Pairs, sem: Semantics) -> tuple[str, int] | None:
    """(tensor, 0 for the outer and 1 for the inner loop) of a whole row that is a vector."""
    for axis, rows in enumerate((pairs.outer, pairs.inner)):
        tensor: cst.BaseExpression | None = None
        if isinstance(node, cst.Name):
            tensor = rows.rows.get(node.value)
        elif isinstance(node, cst.Subscript) and len(node.slice) == 1:
            index = node.slice[0].slice
            if isinstance(index, cst.Index) and isinstance(index.value, cst.Name) and index.value.value == rows.index:
                tensor = node.value
        if tensor is not None and row_rank(tensor, sem) == ("", 1) and same(tensor, rows.over):
            return sem.file.code(tensor), axis
    return None


def _ordered(a: cst.BaseExpression, b: cst.BaseExpression, pairs: Pairs, sem: Semantics) -> tuple[str, str] | None:
    first, second = _vector(a, pairs, sem), _vector(b, pairs, sem)
    if first is None or second is None or first[1] == second[1]:
        return None
    return (first[0], second[0]) if first[1] == 0 else (second[0], first[0])


def _distance(pairs: Pairs, sem: Semantics) -> tuple[str, str] | None:
    """The Euclidean distance of two vectors: `torch.norm(a - b)`, `(a - b).norm()`, `torch.dist(a, b)`."""
    node = pairs.store.value
    if not isinstance(node, cst.Call):
        return None
    name = sem.qualified(node.func)
    operands: tuple[cst.BaseExpression, cst.BaseExpression] | None = None
    if name == "torch.dist" and len(node.args) == 2:
        operands = (node.args[0].value, node.args[1].value)
    else:
        difference: cst.BaseExpression | None = None
        rest = list(node.args)
        if name in ("torch.norm", "torch.linalg.norm", "torch.linalg.vector_norm") and rest:
            difference = rest.pop(0).value
        elif isinstance(node.func, cst.Attribute) and node.func.attr.value == "norm":
            difference = node.func.value
        plain = not rest or (len(rest) == 1 and argument(node, "p") is rest[0] and literal(rest[0].value) == 2)
        if isinstance(difference, cst.BinaryOperation) and isinstance(difference.operator, cst.Subtract) and plain:
            operands = (difference.left, difference.right)
    ordered = _ordered(*operands, pairs, sem) if operands is not None else None
    torch = sem.names.imports.get("torch")
    if ordered is None or torch != "torch":
        return None
    return f'torch.cdist({ordered[0]}, {ordered[1]}, compute_mode="donot_use_mm_for_euclid_dist")', "`torch.cdist`"


def _product(pairs: Pairs, sem: Semantics) -> tuple[str, str] | None:
    """The inner product of two vectors: `a @ b`, `torch.dot(a, b)`, `a.dot(b)`, `(a * b).sum()`."""
    node = pairs.store.value
    operands: tuple[cst.BaseExpression, cst.BaseExpression] | None = None
    if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.MatrixMultiply):
        operands = (node.left, node.right)
    elif isinstance(node, cst.Call):
        inner = node.func.value if isinstance(node.func, cst.Attribute) else None
        if sem.qualified(node.func) == "torch.dot" and len(node.args) == 2:
            operands = (node.args[0].value, node.args[1].value)
        elif isinstance(node.func, cst.Attribute) and node.func.attr.value == "dot" and len(node.args) == 1:
            operands = (node.func.value, node.args[0].value)
        elif isinstance(node.func, cst.Attribute) and node.func.attr.value == "sum" and not node.args:
            if isinstance(inner, cst.BinaryOperation) and isinstance(inner.operator, cst.Multiply):
                operands = (inner.left, inner.right)
    ordered = _ordered(*operands, pairs, sem) if operands is not None else None
    return None if ordered is None else (f"{ordered[0]} @ {ordered[1]}.T", "one matrix product")
