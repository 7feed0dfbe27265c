"""Loops that set one entry, or one stretch, per row: `out[i, index[i]] = 1`, `mask[i, :, lengths[i]:] = 0`."""

from __future__ import annotations

from dataclasses import dataclass, field

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix
from torchlint.nodes import dotted, find, is_whole, literal
from torchlint.semantics.blocks import statements
from torchlint.semantics.kinds import Kind
from torchlint.semantics.model import Semantics
from torchlint.semantics.rows import definition_of, extent
from torchlint.spelling import same
from torchlint.vectorise.emit import comments_in
from torchlint.vectorise.lift import total_rank


@dataclass(frozen=True, eq=False)
class Scatter:
    """`out[i, …] = value` for every i. `index`: the tensor or list that says where; `bound`: "" for one entry, "upper"
    for `:index[i]`, "lower" for `index[i]:`; `axis`: of what, all other axes but the first being written whole.
    `value`: source text of the number that is written. `length`: that of the number of rows; `own`: the index's own."""

    loop: cst.For = field(repr=False)
    out: cst.Name
    index: cst.BaseExpression = field(repr=False)
    value: str
    bound: str
    axis: int
    length: str
    own: bool
    scalar: bool  # the source says that an item of the index is one number
    every: bool  # no row is left out
    in_array: bool  # it is a numpy array that is written


def read_scatter(loop: cst.For, sem: Semantics) -> Scatter | None:
    """The loop as a scatter of a number that all rows share; None if it is anything more."""
    small, test = _only_assignment(loop)
    header = _header(loop, sem)
    out, indices = _indices(small.targets[0].target) if small is not None else (None, [])
    if small is None or header is None or not isinstance(out, cst.Name) or len(indices) < 2:
        return None
    counter, item, source, length = header
    first = indices[0]
    others = [(axis, part) for axis, part in enumerate(indices) if axis and not is_whole(part)]
    if not isinstance(first, cst.Index) or dotted(first.value) != counter or len(others) != 1:
        return None
    axis, (bound, where) = others[0][0], _where(others[0][1])
    if where is None or (test is not None and not (bound and _compares(test, where))):
        return None
    every = test is None or (bound == "lower" and _asks_for_room(test, out, axis, sem))
    where, scalar = _unwrapped(where)
    index: cst.BaseExpression | None = None
    if item and dotted(where) == item:
        index = source
    elif isinstance(where, cst.Subscript) and len(where.slice) == 1 and isinstance(where.slice[0].slice, cst.Index):
        if dotted(where.slice[0].slice.value) == counter:
            index = where.value
    filled = small.value if dotted(small.value) != item or not item else _listed(source, sem)
    value = _filling(filled, sem) or _shared(filled, {counter, item, out.value}, sem)
    if index is None or value is None or out.value in {n.value for n in find(index, cst.Name)}:
        return None
    if not _are_evident(out, index, bound, scalar, loop, sem):
        return None
    own = index is source or length == f"len({sem.file.code(index)})" or _is_extent_of(length, sem.file.code(index))
    in_array = sem.value(out).kind is Kind.NDARRAY
    return Scatter(loop, out, index, value, bound, axis, length, own, scalar or bool(bound), every, in_array)


def _only_assignment(loop: cst.For) -> tuple[cst.Assign | None, cst.BaseExpression | None]:
    """The assignment that is all a turn does, and the test of the `if` around it."""
    inside = statements(loop.body)
    test: cst.BaseExpression | None = None
    if len(inside) == 1 and isinstance(inside[0], cst.If) and inside[0].orelse is None:
        test, inside = inside[0].test, statements(inside[0].body)
    line = inside[0] if len(inside) == 1 else None
    if loop.orelse is not None or loop.asynchronous is not None or not isinstance(line, cst.SimpleStatementLine):
        return None, None
    small = line.body[0]
    alone = len(line.body) == 1 and isinstance(small, cst.Assign) and len(small.targets) == 1
    return (small, test) if alone and isinstance(small, cst.Assign) else (None, None)


def _are_evident(
    out: cst.Name, index: cst.BaseExpression, bound: str, scalar: bool, loop: cst.For, sem: Semantics
) -> bool:
    """Whether it is plain that a tensor is written, or an array at places that are read out of a tensor.

    What a stretch ends at may be anything: it is read item by item.
    """
    written, known = sem.value(out), sem.value(index)
    if written.kind is Kind.NDARRAY:
        return not bound and scalar and (known.is_tensor or known.kind is Kind.BATCH)
    if not written.is_tensor and not (written.kind is Kind.UNKNOWN and _is_measured(out, loop, sem)):
        return False
    return known.is_tensor or known.kind is Kind.LIST or (bool(bound) and known.kind is Kind.UNKNOWN)


def _is_measured(out: cst.Name, loop: cst.For, sem: Semantics) -> bool:
    """Whether `out.size()` is called, which an array has not, and the loop goes over all rows of it."""
    if not _is_all_of(loop, out, sem):
        return False
    calls = (c.func for c in find(sem.function(loop).body, cst.Call))
    return any(isinstance(f, cst.Attribute) and f.attr.value == "size" and same(f.value, out) for f in calls)


def _header(loop: cst.For, sem: Semantics) -> tuple[str, str, cst.BaseExpression | None, str] | None:
    """(counter, name of the item, what is enumerated, number of turns)."""
    call = loop.iter
    if not isinstance(call, cst.Call) or len(call.args) != 1 or call.args[0].star or call.args[0].keyword is not None:
        return None
    only = call.args[0].value
    function = dotted(call.func)
    if function == "range" and isinstance(loop.target, cst.Name):
        return loop.target.value, "", None, sem.file.code(only)
    if function == "enumerate" and isinstance(loop.target, cst.Tuple) and len(loop.target.elements) == 2:
        counter, item = (dotted(e.value) for e in loop.target.elements)
        if counter and item:
            return counter, item, only, f"len({sem.file.code(only)})"
    return None


def _indices(target: cst.BaseExpression) -> tuple[cst.BaseExpression, list[cst.BaseSlice]]:
    """What is indexed and by what: `out` and `i, j` of `out[i, j]` and of `out[i][j]`."""
    if not isinstance(target, cst.Subscript):
        return target, []
    inside, own = target.value, [e.slice for e in target.slice]
    if isinstance(inside, cst.Subscript) and len(inside.slice) == 1 and isinstance(inside.slice[0].slice, cst.Index):
        return inside.value, [inside.slice[0].slice, *own]
    return inside, own


def _compares(test: cst.BaseExpression, where: cst.BaseExpression) -> bool:
    """Whether a test only compares the end of the stretch with something."""
    return isinstance(test, cst.Comparison) and len(test.comparisons) == 1 and same(test.left, where)


def _asks_for_room(test: cst.BaseExpression, out: cst.Name, axis: int, sem: Semantics) -> bool:
    """`lengths[i] < T`: where it does not hold, the stretch is empty."""
    compared = test.comparisons[0] if isinstance(test, cst.Comparison) else None
    measured = extent(compared.comparator, sem) if compared is not None else None
    return (
        compared is not None
        and isinstance(compared.operator, (cst.LessThan, cst.NotEqual))
        and measured is not None
        and measured[1] == axis
        and same(measured[0], out)
    )


_FILLS = {"torch.zeros": "0", "torch.ones": "1"}


def _filling(node: cst.BaseExpression, sem: Semantics) -> str | None:
    """The number that fills a tensor made on the spot: `torch.zeros(T - lengths[i], n)`."""
    return _FILLS.get(sem.qualified(node.func) or "") if isinstance(node, cst.Call) else None


def _listed(source: cst.BaseExpression | None, sem: Semantics) -> cst.BaseExpression:
    """What each item of an enumerated list was made by: `torch.ones(n)` of `[torch.ones(n) for n in lengths]`."""
    made = definition_of(source.value, source, sem) if isinstance(source, cst.Name) else None
    listed = made[1] if made is not None and isinstance(made[0], cst.Name) else source
    return listed.elt if isinstance(listed, cst.ListComp) else cst.Name("_")


def _shared(node: cst.BaseExpression, changing: set[str], sem: Semantics) -> str | None:
    """The source text of a number that is the same for all rows."""
    if changing & {n.value for n in find(node, cst.Name)} or not _is_number(node, sem):
        return None
    return sem.file.code(node)


def _where(index: cst.BaseSlice) -> tuple[str, cst.BaseExpression | None]:
    if isinstance(index, cst.Index):
        return "", index.value
    if isinstance(index, cst.Slice) and index.step is None:
        if index.lower is None and index.upper is not None:
            return "upper", index.upper
        if index.upper is None and index.lower is not None:
            return "lower", index.lower
    return "", None


def _unwrapped(node: cst.BaseExpression) -> tuple[cst.BaseExpression, bool]:
    """`x` of `int(x)` and `x.item()`, and whether it was wrapped so."""
    if isinstance(node, cst.Call):
        if dotted(node.func) == "int" and len(node.args) == 1:
            return node.args[0].value, True
        if isinstance(node.func, cst.Attribute) and node.func.attr.value == "item" and not node.args:
            return node.func.value, True
    return node, False


def _is_number(node: cst.BaseExpression, sem: Semantics) -> bool:
    value = literal(node)
    if isinstance(value, (int, float)) or sem.value(node).kind is Kind.NUMBER:
        return True
    return dotted(node) in ("math.inf", "math.nan") or _is_inf(node)


def _is_inf(node: cst.BaseExpression) -> bool:
    if isinstance(node, cst.UnaryOperation):
        return _is_inf(node.expression)
    return isinstance(node, cst.Call) and dotted(node.func) == "float" and len(node.args) == 1


def _is_extent_of(length: str, index: str) -> bool:
    return length in (f"{index}.shape[0]", f"{index}.size(0)", f"{index}.numel()")


def scatter_fix(scatter: Scatter, sem: Semantics) -> Fix | None:
    """One indexed assignment. None where the index may have more than one dimension, or be no tensor at all."""
    if sem.names.imports.get("torch") != "torch":
        return None
    kind = sem.value(scatter.index).kind
    if kind in (Kind.UNKNOWN, Kind.BATCH) or scatter.in_array or not scatter.every:
        return None
    is_list = kind is Kind.LIST
    vector = is_list or total_rank(scatter.index, sem) == 1
    comments = comments_in(scatter.loop, sem)
    if not (vector or scatter.scalar) or comments is None or _counter_is_read(scatter, sem):
        return None
    out, index, axis = scatter.out.value, sem.file.code(scatter.index), scatter.axis
    if not isinstance(scatter.index, (cst.Name, cst.Attribute, cst.Call, cst.Subscript)):
        index = f"({index})"
    if not scatter.own:
        index = f"{index}[:{scatter.length}]"
    if scatter.bound:
        where = (
            f"torch.tensor({index}, device={out}.device)[:, None]"
            if is_list
            else f"{index}.reshape(-1, 1).to({out}.device)"
        )
        rows = out if _is_all_of(scatter.loop, scatter.out, sem) else f"{out}[:{scatter.length}]"
        if axis > 1:
            rows = f"{rows}.transpose(1, {axis})"
        sign = "<" if scatter.bound == "upper" else ">="
        line = f"{rows}[torch.arange({out}.shape[{axis}], device={out}.device) {sign} {where}] = {scatter.value}"
        safe = False
    else:
        if not vector:
            index = f"{index}.flatten()"
        between = ":, " * (axis - 1)
        line = f"{out}[torch.arange({scatter.length}, device={out}.device), {between}{index}] = {scatter.value}"
        safe = not is_list and vector and _is_made_here(scatter.out, sem)
    loop, newline = scatter.loop, sem.file.newline
    indent = sem.file.indent(loop)
    text = "".join(f"{indent}{part}{newline}" for part in (*comments, line))
    edit = Edit(sem.file.line_start(loop), sem.file.line_end(loop), text)
    return Fix(
        (edit,), Applicability.SAFE if safe else Applicability.UNSAFE, "replace the loop by one indexed assignment"
    )


def _is_all_of(loop: cst.For, out: cst.Name, sem: Semantics) -> bool:
    """Whether the loop goes over every row of what it writes into."""
    call = loop.iter
    if not isinstance(call, cst.Call) or dotted(call.func) != "range":
        return False
    measured = extent(call.args[0].value, sem)
    return measured is not None and measured[1] == 0 and same(measured[0], out)


def _is_made_here(out: cst.Name, sem: Semantics) -> bool:
    found = definition_of(out.value, out, sem)
    return (
        found is not None
        and isinstance(found[1], cst.Call)
        and (sem.qualified(found[1].func) or "").startswith("torch.")
    )


def _counter_is_read(scatter: Scatter, sem: Semantics) -> bool:
    """Whether what the loop binds is read after it outside loops of its own."""
    bound = {n.value for n in find(scatter.loop.target, cst.Name)}
    end = sem.file.caret(scatter.loop)[1]
    for name in find(sem.function(scatter.loop).body, cst.Name):
        if name.value in bound and sem.file.caret(name)[0] >= end:
            if not any(
                isinstance(a, (cst.For, cst.ListComp, cst.GeneratorExp, cst.DictComp, cst.SetComp))
                for a in sem.file.ancestors(name)
            ):
                return True
    return False
