"""Loops over the rows of tensors."""

from __future__ import annotations

import ast
import re

from torchlint.shapes.code import Code
from torchlint.shapes.plain import is_plain
from torchlint.shapes.syntax_tree import descend, last, mentions, statements
from torchlint.vectorise.pure import JOINS, PURE, WRITES

_SIZES = re.compile(r"\.shape|\.size\s*\(|\blen\s*\(|\b(?:zeros|ones|empty|full|rand|randn)\s*\(")
# Builtins that a row's work may call.
_ALLOWED = {"float", "int", "abs"}


def row_loop(code: Code) -> bool:
    for node in code.nodes:
        kind = node.__class__
        if kind is ast.For:
            assert isinstance(node, ast.For)
            if _is_row_loop(node, code):
                return True
        elif kind is ast.Call:
            assert isinstance(node, ast.Call)
            if last(node.func) in _JOINING and node.args and _is_row_comprehension(node.args[0], code):
                return True
        elif kind is ast.ListComp or kind is ast.GeneratorExp:
            assert isinstance(node, (ast.ListComp, ast.GeneratorExp))
            if _gives_number(node.elt) and _is_row_comprehension(node, code):
                return True
    return False


_JOINING = frozenset(("stack", "cat", "tensor", "vstack", "hstack", "sum"))


def _is_row_comprehension(node: ast.AST, code: Code) -> bool:
    if not isinstance(node, (ast.ListComp, ast.GeneratorExp)) or len(node.generators) != 1:
        return False
    inner = node.generators[0]
    if inner.ifs or inner.is_async:
        return False
    names = walked(inner.target, inner.iter, code)
    if names is None or not _is_pure(node.elt, code) or not mentions(node.elt, names):
        return False
    # A bare `x[i]` only takes the tensor apart.
    return any(isinstance(n, (ast.Call, ast.BinOp, ast.UnaryOp, ast.Compare)) for n in descend([node.elt]))


def _is_row_loop(loop: ast.For, code: Code) -> bool:
    names = walked(loop.target, loop.iter, code)
    if names is None or loop.orelse:
        return False
    sinks, seen = False, False
    for statement in statements(loop.body):
        simple = [statement]
        if isinstance(statement, ast.If):
            if not _is_pure(statement.test, code):
                return False
            seen = seen or mentions(statement.test, names)
            simple = statement.body + statement.orelse
        for small in simple:
            value, sink = _step(small, names, code)
            if value is None:
                return False
            sinks = sinks or sink
            seen = seen or mentions(value, names)
            seen = seen or (isinstance(small, ast.AugAssign) and mentions(small.target, names))
            # One and the same value in every row.
            seen = seen or (isinstance(small, ast.Assign) and isinstance(small.targets[0], ast.Subscript))
    return sinks and seen


def _step(node: ast.stmt, names: set[str], code: Code) -> tuple[ast.expr | None, bool]:
    """What a statement of a turn computes, and whether it keeps the result; None where the rule gives up."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        if isinstance(target, ast.Subscript) and _is_pure(node.value, code) and mentions(target, names):
            return node.value, True
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple) and _is_pure(node.value, code):
            return node.value, False
        if isinstance(target, ast.Name) and _is_pure(node.value, code):
            grows = isinstance(node.value, ast.BinOp) and isinstance(node.value.left, ast.Name)
            return node.value, grows and node.value.left.id == target.id  # type: ignore[attr-defined]
    elif isinstance(node, ast.AugAssign):
        if isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)) and _is_pure(node.value, code):
            own = isinstance(node.target, ast.Subscript) and mentions(node.target, names)
            return (node.value, True) if own or isinstance(node.target, ast.Name) else (None, False)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
        call, method = node.value, node.value.func.attr
        if method == "append" and len(call.args) == 1 and isinstance(node.value.func.value, ast.Name):
            if _is_pure(call.args[0], code) and (
                _gives_number(call.args[0]) or _is_joined(node.value.func.value.id, code)
            ):
                return call.args[0], True
        elif method in WRITES:
            owner = node.value.func.value
            if isinstance(owner, ast.Subscript) or (isinstance(owner, ast.Name) and owner.id in names):
                return call, True
    return None, False


def _is_joined(name: str, code: Code) -> bool:
    """Whether a list is given to something that joins its items."""
    return any(
        isinstance(n, ast.Call)
        and last(n.func) in JOINS
        and any(isinstance(a, ast.Name) and a.id == name for a in (*n.args, *(k.value for k in n.keywords)))
        for n in code.nodes
    )


def walked(target: ast.expr, source: ast.expr, code: Code) -> set[str] | None:
    """The names that a loop header binds, None where it cannot be a walk along an axis of a tensor."""
    name = last(source.func) if isinstance(source, ast.Call) else ""
    if name in ("tqdm", "track", "trange") and isinstance(source, ast.Call) and source.args:
        return walked(target, source.args[0], code) or _walked_by(target)
    if name == "range" and isinstance(source, ast.Call) and isinstance(source.func, ast.Name):
        args = source.args
        if len(args) == 2 and isinstance(args[0], ast.Constant) and args[0].value == 0:
            args = args[1:]
        if len(args) != 1 or source.keywords or not isinstance(target, ast.Name):
            return None
        measured = _measured(args[0])
        if measured is not None and is_plain(measured, code):
            return None
        if _SIZES.search(code.text) or f"[{target.id}" in code.text or f"{target.id}]" in code.text:
            return {target.id}
        return None
    if isinstance(source, (ast.List, ast.Tuple, ast.Constant, ast.Dict, ast.Set, ast.JoinedStr)):
        return None
    parts = source.args if isinstance(source, ast.Call) and name in ("zip", "enumerate") else [source]
    if all(is_plain(part, code) for part in parts):
        return None
    if any(isinstance(p, ast.Call) and last(p.func) in _NO_TENSORS for p in parts):
        return None
    return _walked_by(target)


_NO_TENSORS = frozenset(
    "items keys values parameters named_parameters modules named_modules children named_children sorted".split()
)


def _measured(length: ast.expr) -> ast.expr | None:
    """What an expression is certainly the length of: `x` in `len(x)`."""
    if isinstance(length, ast.Call) and isinstance(length.func, ast.Name) and length.func.id == "len" and length.args:
        return length.args[0]
    return None


def _walked_by(target: ast.expr) -> set[str] | None:
    if isinstance(target, ast.Name):
        return {target.id}
    if isinstance(target, ast.Tuple):
        return {n.id for n in descend([target]) if isinstance(n, ast.Name)}
    return None


def _gives_number(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple):
        return bool(node.elts) and all(map(_gives_number, node.elts))
    if isinstance(node, ast.IfExp):
        return isinstance(node.body, ast.Constant) and isinstance(node.orelse, ast.Constant)
    if not isinstance(node, ast.Call):
        return False
    return last(node.func) in ("item", "float", "int")


def _is_pure(node: ast.AST, code: Code) -> bool:
    """Whether an expression is of the kinds that are computed row by row."""
    if isinstance(node, (ast.Name, ast.Constant)):
        return True
    if isinstance(node, ast.Attribute):
        return _is_pure(node.value, code)
    if isinstance(node, ast.Subscript):
        return _is_pure(node.value, code)
    if isinstance(node, ast.BinOp):
        return _is_pure(node.left, code) and _is_pure(node.right, code)
    if isinstance(node, ast.UnaryOp):
        return not isinstance(node.op, ast.Not) and _is_pure(node.operand, code)
    if isinstance(node, ast.Compare):
        return _is_pure(node.left, code) and all(_is_pure(c, code) for c in node.comparators)
    if isinstance(node, (ast.Tuple, ast.List)):
        return all(_is_pure(e, code) for e in node.elts)
    if isinstance(node, ast.IfExp):
        return all(_is_pure(part, code) for part in (node.test, node.body, node.orelse))
    if isinstance(node, ast.BoolOp):
        return all(_is_pure(value, code) for value in node.values)
    if not isinstance(node, ast.Call):
        return False
    if any(k.arg is None for k in node.keywords):
        return False
    if not all(_is_pure(a, code) for a in (*node.args, *(k.value for k in node.keywords))):
        return False
    # A loss or a transform may be kept under any name.
    held = code.whole.has_loss or code.whole.has_transform
    if isinstance(node.func, ast.Name):
        name = node.func.id  # own functions, and names imported from torch
        return name in _ALLOWED or held or name in code.whole.callable
    if isinstance(node.func, ast.Attribute):
        return node.func.attr in PURE or held or node.func.attr in code.whole.functions
    return False


def pairs(code: Code) -> bool:
    """A loop whose only statement is a loop that stores one item."""
    for node in code.nodes:
        below = statements(node.body) if isinstance(node, ast.For) else []
        if len(below) == 1 and isinstance(below[0], ast.For):
            inner = statements(below[0].body)
            if len(inner) == 1 and isinstance(inner[0], ast.Assign) and isinstance(inner[0].targets[0], ast.Subscript):
                return True
    return False


def _is_chain(node: ast.AST) -> bool:
    return isinstance(node, ast.Subscript) and isinstance(node.value, ast.Subscript)


def scatter(code: Code) -> bool:
    """A counted loop whose only statement, under an `if` or not, stores into `out[i, …]` or `out[i][…]`."""
    for node in code.nodes:
        below = statements(node.body) if isinstance(node, ast.For) else []
        if len(below) == 1 and isinstance(below[0], ast.If):
            below = statements(below[0].body)
        if isinstance(node, ast.For) and len(below) == 1 and isinstance(below[0], ast.Assign):
            target = below[0].targets[0]
            if (isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Tuple)) or _is_chain(target):
                if isinstance(node.iter, ast.Call) and last(node.iter.func) in ("range", "enumerate"):
                    return True
    return False
