"""Modules that a loop calls once per slice of a batch: `for i in range(len(x)): out.append(net(x[i : i + 1]))`."""

from __future__ import annotations

from dataclasses import dataclass, field

import libcst as cst

from torchlint.nodes import dotted, find, literal, walk
from torchlint.semantics.blocks import always
from torchlint.semantics.effects import Effect
from torchlint.semantics.kinds import Kind
from torchlint.semantics.model import Semantics
from torchlint.semantics.rows import Loop, RowLoop, bound_names, definition_of, reads, row_loop
from torchlint.semantics.turns import keeps_state
from torchlint.spelling import same

# What may stand between a slice and the module: layout, device and type, nothing that depends on the values.
_LAYOUT = frozenset(
    """unsqueeze squeeze view reshape permute transpose contiguous flatten to cuda cpu float half double clone detach
    type type_as requires_grad_""".split()
)
_WRAPPERS = frozenset(("torch.unsqueeze", "torch.squeeze", "torch.autograd.Variable", "torch.reshape"))
# Loops that are there for another reason than the result: measurements, and gradients sample by sample.
_REASONS = frozenset("backward grad synchronize perf_counter time record memory_allocated step".split())


@dataclass(frozen=True, eq=False)
class SampleCall:
    """A module called on one slice per turn. `rows`: the loop; `given`: the argument that is the slice."""

    node: cst.Call = field(repr=False)
    rows: RowLoop
    given: cst.BaseExpression = field(repr=False)


def sample_call(node: Loop, sem: Semantics) -> SampleCall | None:
    """The module call that a loop over a tensor makes for each of its slices, independently of all other turns."""
    rows = row_loop(node, sem)
    body: cst.CSTNode | None = node.body if isinstance(node, cst.For) else sem.file.parent(node)
    if rows is None or body is None or (isinstance(node, cst.CompFor) and (node.ifs or node.inner_for_in is not None)):
        return None
    for call in find(body, cst.Call):
        called = sem.value(call.func)
        if (called.kind is not Kind.MODULE and not _infers(call, sem)) or keeps_state(called, sem):
            continue
        if isinstance(sem.file.parent(call), cst.Expr):
            continue  # called for what it remembers
        if _own_loop(call, sem) is not (node if isinstance(node, cst.For) else body) or _is_guarded(call, body, sem):
            continue
        given = _slice_given(call, rows, sem)
        if given is not None and _is_independent(call, rows, sem) and _is_evident(given, call, rows, sem):
            return SampleCall(call, rows, given)
    return None


def _infers(call: cst.Call, sem: Semantics) -> bool:
    """Whether a parameter is called as a model is: with recording off, and on a batch of one made for it."""
    function = sem.function(call)
    if not isinstance(call.func, cst.Name) or call.func.value not in function.params or len(call.args) != 1:
        return False
    if sem.value(call.func).kind is not Kind.UNKNOWN:
        return False
    if not any(e.node is call and e.grad.off for e in sem.events(function, Effect.CALL)):
        return False
    return any(_makes_batch(n) for n in walk(_definition(call.args[0].value, call, sem)))


def _makes_batch(node: cst.CSTNode) -> bool:
    """`x.unsqueeze(0)`, `x[None]`, `x[i : i + 1]`."""
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "unsqueeze":
        return len(node.args) == 1 and literal(node.args[0].value) == 0
    if not isinstance(node, cst.Subscript):
        return False
    first = node.slice[0].slice
    return literal(first.value) is None if isinstance(first, cst.Index) else _is_one_long(first)


def _is_one_long(part: cst.BaseSlice) -> bool:
    """`i : i + 1`."""
    if not isinstance(part, cst.Slice) or not isinstance(part.lower, cst.Name):
        return False
    upper = part.upper
    if not isinstance(upper, cst.BinaryOperation) or not isinstance(upper.operator, cst.Add):
        return False
    return same(upper.left, part.lower) and literal(upper.right) == 1


def _is_evident(given: cst.BaseExpression, call: cst.Call, rows: RowLoop, sem: Semantics) -> bool:
    """Whether samples of one tensor are walked: the loop's header says so, or each gets a batch axis of its own.

    Annotations call lists of tensors a tensor, too, and so a plain walk over one is no evidence.
    """
    if not rows.rows and (".shape[" in rows.length or ".size(" in rows.length):
        return True
    return any(_makes_batch(n) for n in walk(_definition(given, call, sem)))


def _definition(node: cst.BaseExpression, at: cst.CSTNode, sem: Semantics) -> cst.BaseExpression:
    """What a name was assigned, where that is one thing; else the expression itself."""
    made = definition_of(node.value, at, sem) if isinstance(node, cst.Name) else None
    return node if made is None else made[1]


def _own_loop(call: cst.Call, sem: Semantics) -> cst.CSTNode | None:
    """The innermost loop or comprehension around the call."""
    kinds = (cst.For, cst.While, cst.ListComp, cst.GeneratorExp, cst.SetComp, cst.DictComp, cst.Lambda, cst.FunctionDef)
    return sem.file.enclosing(call, kinds)


def _is_guarded(call: cst.Call, body: cst.CSTNode, sem: Semantics) -> bool:
    """Whether some slices may be left out: the call is under a condition or an assertion, or the loop may end early."""
    for ancestor in sem.file.ancestors(call):
        if ancestor is body:
            break
        if isinstance(ancestor, (cst.If, cst.IfExp, cst.Try, cst.While, cst.Assert)) and not always(ancestor):
            return True
    return any(isinstance(n, (cst.Break, cst.Continue, cst.Return, cst.Yield, cst.Raise)) for n in walk(body))


def _slice_given(call: cst.Call, rows: RowLoop, sem: Semantics) -> cst.BaseExpression | None:
    """The one argument that is a slice of this turn, where all others are slices, too, or the same in every turn."""
    if _turns(call.func, rows, sem):
        return None  # another module in each turn
    found: cst.BaseExpression | None = None
    for arg in call.args:
        if arg.star:
            return None
        if _is_slice(arg.value, rows, sem, set()):
            found = found or arg.value
        elif _turns(arg.value, rows, sem):
            return None
    return found


def _is_slice(node: cst.BaseExpression, rows: RowLoop, sem: Semantics, seen: set[str]) -> bool:
    """Whether an expression is the turn's slice of a tensor, whole, in whatever layout."""
    if isinstance(node, cst.Name):
        if node.value in rows.rows:
            return True
        made = _made_in(rows.node, node.value)
        if len(made) != 1 or node.value in seen or not _is_before(made[0], node, sem):
            return False
        return _is_slice(made[0].value, rows, sem, seen | {node.value})
    if isinstance(node, cst.Subscript):
        if isinstance(node.value, cst.Name) and _is_whole(node, rows.bound):
            return node.value.value in rows.rows
        return not _turns(node.value, rows, sem) and _is_tensor(node.value, sem) and _picks_one(node, rows)
    if not isinstance(node, cst.Call) or any(_turns(a.value, rows, sem) for a in node.args[1:]):
        return False
    if (sem.qualified(node.func) or "") in _WRAPPERS and node.args:
        return _is_slice(node.args[0].value, rows, sem, seen)
    if isinstance(node.func, cst.Attribute) and node.func.attr.value in _LAYOUT:
        return not any(_turns(a.value, rows, sem) for a in node.args) and _is_slice(node.func.value, rows, sem, seen)
    return False


def _is_tensor(node: cst.BaseExpression, sem: Semantics) -> bool:
    return sem.value(node).kind in (Kind.TENSOR, Kind.BATCH, Kind.UNKNOWN, Kind.PARAMETER)


def _is_whole(node: cst.Subscript, bound: set[str]) -> bool:
    """`x[None]`, `x[:, None]`: all of it."""
    return all(
        (isinstance(e.slice, cst.Index) and literal(e.slice.value) is None)
        or (isinstance(e.slice, cst.Slice) and e.slice.lower is None and e.slice.upper is None)
        for e in node.slice
    )


def _picks_one(node: cst.Subscript, rows: RowLoop) -> bool:
    """`x[i]`, `x[:, i]`, `x[i : i + 1]`, `x[i, None]`: one position along one axis, all of the others."""
    picked = 0
    for element in node.slice:
        part = element.slice
        if isinstance(part, cst.Slice):
            if part.lower is None and part.upper is None:
                continue
            if not _is_one_long(part) or not isinstance(part.lower, cst.Name) or part.lower.value != rows.index:
                return False
            picked += 1
        elif isinstance(part, cst.Index):
            if isinstance(part.value, cst.Name) and part.value.value == rows.index:
                picked += 1
            elif literal(part.value) is not None and not isinstance(part.value, cst.Ellipsis):
                return False
    return picked == 1


def _turns(node: cst.CSTNode, rows: RowLoop, sem: Semantics) -> bool:
    """Whether the expression may have another value in every turn: it reads what the loop binds."""
    bound = set(rows.bound)
    if isinstance(rows.node, cst.For):
        for n in walk(rows.node.body):
            if isinstance(n, (cst.AssignTarget, cst.AugAssign, cst.AnnAssign, cst.NamedExpr, cst.For)):
                bound |= bound_names(n.target)
    return any(isinstance(n, cst.Name) and n.value in bound for n in walk(node))


def _made_in(loop: Loop, name: str) -> list[cst.Assign]:
    """The assignments in the loop that bind the name, if nothing else there does."""
    if not isinstance(loop, cst.For):
        return []
    others = (cst.AugAssign, cst.AnnAssign, cst.NamedExpr, cst.For)
    if any(isinstance(n, others) and name in bound_names(n.target) for n in walk(loop.body)):
        return []
    found = [n for n in find(loop.body, cst.Assign) if any(name in bound_names(t.target) for t in n.targets)]
    return found if all(len(n.targets) == 1 and isinstance(n.targets[0].target, cst.Name) for n in found) else []


def _is_before(made: cst.Assign, use: cst.CSTNode, sem: Semantics) -> bool:
    return sem.file.caret(made)[0] < sem.file.caret(use)[0]


def _is_independent(call: cst.Call, rows: RowLoop, sem: Semantics) -> bool:
    """Whether no turn writes what a later one reads through the module: the tensor that is walked stays as it is, and
    the loop is there for the results."""
    loop = rows.node
    if not isinstance(loop, cst.For):
        return True
    roots = {dotted(rows.over), *(dotted(r) for r in rows.rows.values())}
    roots |= {dotted(s.value) for a in call.args for s in find(a.value, cst.Subscript)}
    for node in walk(loop.body):
        if isinstance(node, (cst.AssignTarget, cst.AugAssign)):
            target: cst.CSTNode = node.target
            while isinstance(target, cst.Subscript):
                target = target.value
            if dotted(target) in roots:
                return False
        if isinstance(node, cst.Call):
            last = node.func.attr.value if isinstance(node.func, cst.Attribute) else dotted(node.func)
            if last in _REASONS:
                return False
    return not any(list(reads(name, call, sem)) for name in _fed_back(call, loop, sem))


def _fed_back(call: cst.Call, loop: cst.For, sem: Semantics) -> set[str]:
    """The names that the call's own statement binds: a later turn reads them as they were left."""
    line = sem.file.statement(call)
    return {name for n in find(line, cst.AssignTarget) for name in bound_names(n.target)}
