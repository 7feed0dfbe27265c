"""Loops that set one entry, or one stretch, per row: `out[i, index[i]] = 1`, `mask[i, :lengths[i]] = True`."""

from __future__ import annotations

from dataclasses import dataclass, field

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix
from torchlint.semantics.blocks import statements
from torchlint.semantics.kinds import Kind
from torchlint.semantics.model import Semantics
from torchlint.semantics.rows import definition_of
from torchlint.source import dotted, find, literal
from torchlint.vectorise.emit import _comments
from torchlint.vectorise.lift import total_rank


@dataclass(frozen=True, eq=False)
class Scatter:
    """`out[i, …] = value` for every i. `index`: the tensor or list that says where; `bound`: "" for one entry, "upper"
    for `:index[i]`, "lower" for `index[i]:`. `length`: source text of the number of rows; `own`: the index's own."""

    loop: cst.For = field(repr=False)
    out: cst.Name
    index: cst.BaseExpression = field(repr=False)
    value: cst.BaseExpression = field(repr=False)
    bound: str
    length: str
    own: bool
    scalar: bool  # the source says that an item of the index is one number
    plain: bool = True  # `out` has the two dimensions only, the value is a number, the index surely a tensor or list


def read_scatter(loop: cst.For, sem: Semantics) -> Scatter | None:
    """The loop as a scatter of a number that all rows share; None if it is anything more."""
    small, test = _only_assignment(loop)
    if loop.orelse is not None or loop.asynchronous is not None or small is None or len(small.targets) != 1:
        return None
    target = small.targets[0].target
    if not isinstance(target, cst.Subscript) or len(target.slice) < 2 or not isinstance(target.value, cst.Name):
        return None
    header = _header(loop, sem)
    first = target.slice[0].slice
    if header is None or not sem.value(target.value).is_tensor or not isinstance(first, cst.Index):
        return None
    counter, item, source, length = header
    if dotted(first.value) != counter:
        return None
    chosen = [e.slice for e in target.slice[1:] if not _is_whole(e.slice)]
    bound, where = _where(chosen[0]) if len(chosen) == 1 else ("", None)
    if where is None:
        return None
    where, scalar = _unwrapped(where)
    index: cst.BaseExpression | None = None
    if item and dotted(where) == item:
        index = source
    elif isinstance(where, cst.Subscript) and len(where.slice) == 1 and isinstance(where.slice[0].slice, cst.Index):
        if dotted(where.slice[0].slice.value) == counter:
            index = where.value
    if index is None or target.value.value in {n.value for n in find(index, cst.Name)}:
        return None
    names = {n.value for n in find(small.value, cst.Name)}
    number = not names & {counter, item, target.value.value} and _is_number(small.value, sem)
    if not number and not (bound and _is_constant(small.value, sem)):
        return None
    if test is not None and not (bound and _compares(test, where)):
        return None
    known = sem.value(index).is_tensor or sem.value(index).kind is Kind.LIST
    if not known and not (bound and sem.value(index).kind is Kind.UNKNOWN):
        return None
    own = index is source or length == f"len({sem.file.code(index)})" or _is_extent_of(length, sem.file.code(index))
    plain = known and number and test is None and len(target.slice) == 2
    return Scatter(loop, target.value, index, small.value, bound, length, own, scalar or bool(bound), plain)


def _only_assignment(loop: cst.For) -> tuple[cst.Assign | None, cst.BaseExpression | None]:
    """The one assignment of the body, and the test of an `if` that is around it."""
    inside = statements(loop.body)
    line = inside[0] if len(inside) == 1 else None
    test: cst.BaseExpression | None = None
    if isinstance(line, cst.If) and line.orelse is None:
        test, below = line.test, statements(line.body)
        line = below[0] if len(below) == 1 else None
    if not isinstance(line, cst.SimpleStatementLine) or len(line.body) != 1:
        return None, None
    small = line.body[0]
    return (small, test) if isinstance(small, cst.Assign) else (None, None)


def _is_whole(index: cst.BaseSlice) -> bool:
    return isinstance(index, cst.Slice) and index.lower is None and index.upper is None and index.step is None


def _is_constant(node: cst.BaseExpression, sem: Semantics) -> bool:
    """`torch.zeros(…)` and `torch.ones(…)` of whatever size."""
    return isinstance(node, cst.Call) and sem.qualified(node.func) in ("torch.zeros", "torch.ones")


def _compares(test: cst.BaseExpression, where: cst.BaseExpression) -> bool:
    """Whether the test only asks if the stretch is empty: it compares the bound with something."""
    return isinstance(test, cst.Comparison) and len(test.comparisons) == 1 and test.left.deep_equals(where)


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
    """One indexed assignment. None where the index may have more than one dimension."""
    if sem.names.imports.get("torch") != "torch" or not scatter.plain:
        return None
    is_list = sem.value(scatter.index).kind is Kind.LIST
    vector = is_list or total_rank(scatter.index, sem) == 1
    comments = _comments(scatter.loop, sem)
    if not (vector or scatter.scalar) or comments is None or _counter_is_read(scatter, sem):
        return None
    out, index, value = scatter.out.value, sem.file.code(scatter.index), sem.file.code(scatter.value)
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
        rows = (
            out
            if scatter.length in (f"{out}.shape[0]", f"{out}.size(0)", f"len({out})")
            else f"{out}[:{scatter.length}]"
        )
        sign = "<" if scatter.bound == "upper" else ">="
        line = f"{rows}[torch.arange({out}.shape[1], device={out}.device) {sign} {where}] = {value}"
        safe = False
    else:
        if not vector:
            index = f"{index}.flatten()"
        line = f"{out}[torch.arange({scatter.length}, device={out}.device), {index}] = {value}"
        safe = not is_list and vector and _is_made_here(scatter.out, sem)
    loop, newline = scatter.loop, sem.file.newline
    indent = sem.file.indent(loop)
    text = "".join(f"{indent}{part}{newline}" for part in (*comments, line))
    edit = Edit(sem.file.line_start(loop), sem.file.line_end(loop), text)
    return Fix(
        (edit,), Applicability.SAFE if safe else Applicability.UNSAFE, "replace the loop by one indexed assignment"
    )


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
