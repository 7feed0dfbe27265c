"""Loops that treat a tensor entry by entry, and do nothing that is not light."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from torchlint.shapes.code import Code
from torchlint.shapes.plain import is_plain
from torchlint.shapes.rows import walked
from torchlint.shapes.syntax_tree import descend, last, mentions
from torchlint.vectorise.pure import BUILTINS, CONTAINER_METHODS, LIGHT, PASSING, PURE, SPEAKS_OF_TENSORS, WRITES

_CALLED = PURE | LIGHT | WRITES | CONTAINER_METHODS | {"normal", "bernoulli", "multinomial"}
_NUMBERS = frozenset(("int", "float", "bool"))
_SUMS = frozenset(("sum", "mean", "count_nonzero", "any"))
# Statements and expressions that no light turn holds.
_HEAVY = (
    ast.Break, ast.Return, ast.Raise, ast.While, ast.With, ast.Try, ast.Delete, ast.Global, ast.Nonlocal,
    ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Lambda, ast.SetComp, ast.DictComp,
    ast.Yield, ast.YieldFrom, ast.Await, ast.Dict, ast.Starred, ast.NamedExpr, ast.AnnAssign, ast.Match,
)  # fmt: skip


def by_entry(code: Code) -> bool:
    """A loop of light turns that reads or writes items by what it binds, or compares with it."""
    if SPEAKS_OF_TENSORS.search(code.text) is None:
        return False
    for node in code.nodes:
        kind = node.__class__
        if kind is ast.For:
            assert isinstance(node, ast.For)
            if _is_by_entry(node, code):
                return True
        elif kind is ast.ListComp or kind is ast.GeneratorExp:
            assert isinstance(node, (ast.ListComp, ast.GeneratorExp))
            inner = node.generators[0]
            if len(node.generators) == 1:
                names = _bound(inner.target, inner.iter, code)
                if names is None or not _is_light([node.elt, *inner.ifs]):
                    continue
                picks = _Picks(names, _rows(inner.target, inner.iter), code)
                if any(picks.entry(part) for test in inner.ifs for part in _asked(test)):
                    return True
                if picks.any_number(list(descend([node.elt]))):
                    return True
    return False


def _is_by_entry(loop: ast.For, code: Code) -> bool:
    counts = _counts(loop)
    names = _bound(loop.target, loop.iter, code)
    if names is None:
        return False
    below = list(descend(loop.body))
    calls = [n for n in below if isinstance(n, ast.Call)]
    if counts and any(last(c.func) == "nms" for c in calls):
        return True
    loops = [loop, *(n for n in below if isinstance(n, ast.For))]
    every = {n.id for f in loops for n in descend([f.target]) if isinstance(n, ast.Name)}
    if sum(last(c.func) == "cpu" and _picks_by(c.func, every) for c in calls) > 1:
        return True
    if loop.orelse or any(isinstance(n, _HEAVY) for n in below) or not all(_is_light_call(c.func) for c in calls):
        return False
    grown = {n.target.id for n in below if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)}
    own = {t.id for n in below if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    if any(_writes(n, every | grown, own, code) for n in below):
        return True
    if counts and any(_compares_with(n, names) for n in below) and any(last(c.func) in _SUMS for c in calls):
        return True
    if counts and any(last(c.func) == "append" and c.args and isinstance(c.args[0], ast.BinOp) for c in calls):
        return True
    rows = {name for f in loops for name in _rows(f.target, f.iter)}
    return _Picks(every, rows, code).any_number(below)


def _rows(target: ast.expr, source: ast.expr) -> set[str]:
    """The names of a header that are items of something, not counts."""
    name = last(source.func) if isinstance(source, ast.Call) else ""
    if name in ("range", "tolist"):
        return set()
    if name == "enumerate" and isinstance(target, ast.Tuple):
        target = target.elts[-1]
    return {n.id for n in descend([target]) if isinstance(n, ast.Name)}


def _picks_by(node: ast.expr, names: set[str]) -> bool:
    return any(isinstance(n, ast.Subscript) and mentions(n.slice, names) for n in descend([node]))


def _bound(target: ast.expr, source: ast.expr, code: Code) -> set[str] | None:
    """The names that a header binds: counts pick items of tensors, whatever it is that is counted."""
    names = walked(target, source, code)
    if names is not None or not isinstance(source, ast.Call):
        return names
    name = last(source.func)
    if name == "enumerate" and isinstance(target, ast.Tuple):
        target = target.elts[0]
    elif name == "zip":
        return {n.id for n in descend([target]) if isinstance(n, ast.Name)}
    elif name not in ("range", "unique"):
        return None
    return {target.id} if isinstance(target, ast.Name) else None


def _counts(loop: ast.For) -> bool:
    names = ("range", "unique")
    return isinstance(loop.iter, ast.Call) and last(loop.iter.func) in names and isinstance(loop.target, ast.Name)


def _writes(node: ast.AST, names: set[str], own: set[str], code: Code) -> bool:
    """`out[i, …] = x[i]`, `out[i, …] += 1`, `out[k] = x[i]`."""
    if not isinstance(node, (ast.Assign, ast.AugAssign)):
        return False
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        base = _base(target) if isinstance(target, ast.Subscript) else None
        if base is None or not _picks_by(target, names) or is_plain(base, code):
            continue
        if isinstance(base, ast.Name) and base.id in own:
            continue
        if isinstance(node, ast.AugAssign) or any(isinstance(n, ast.Subscript) for n in descend([node.value])):
            return True
        if any(isinstance(n, ast.Name) and n.id in own for n in descend([node.value])):
            return True
    return False


def _compares_with(node: ast.AST, names: set[str]) -> bool:
    return isinstance(node, ast.Compare) and any(
        isinstance(side, ast.Name) and side.id in names for side in (node.left, *node.comparators)
    )


class _Picks:
    """What a loop's names pick. `rows`: those of them that are items themselves."""

    def __init__(self, names: set[str], rows: set[str], code: Code) -> None:
        self.names = names
        self.rows = rows
        self.code = code

    def any_number(self, nodes: list[ast.AST]) -> bool:
        """Whether an item becomes a number: in a condition, `x[i].item()`, `int(x[i])`, `range(x[i])`."""
        for node in nodes:
            if isinstance(node, (ast.If, ast.IfExp, ast.Assert)):
                if any(map(self.entry, _asked(node.test))):
                    return True
            elif isinstance(node, ast.Call):
                if isinstance(node.func, ast.Attribute):
                    if node.func.attr == "item" and self.entry(node.func.value):
                        return True
                elif (last(node.func) in _NUMBERS or last(node.func) == "range") and any(map(self.entry, node.args)):
                    return True
        return False

    def entry(self, node: ast.expr) -> bool:
        while isinstance(node, (ast.Attribute, ast.Call)):
            inner = node.func if isinstance(node, ast.Call) else node
            if not isinstance(inner, ast.Attribute) or inner.attr not in PASSING:
                return False
            if isinstance(node, ast.Call) and node.args:
                return False
            node = inner.value
        picked = False
        while isinstance(node, ast.Subscript):
            picked = picked or mentions(node.slice, self.names)
            node = node.value
        if isinstance(node, ast.Name) and node.id in self.rows:
            return True
        return picked and not is_plain(node, self.code)


_COMPARE = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def _asked(test: ast.expr) -> Iterator[ast.expr]:
    """What a condition needs the truth or the value of."""
    if isinstance(test, ast.BoolOp):
        for value in test.values:
            yield from _asked(value)
    elif isinstance(test, ast.UnaryOp):
        yield from _asked(test.operand)
    elif isinstance(test, ast.Compare):
        if all(isinstance(op, _COMPARE) for op in test.ops):
            yield from (test.left, *test.comparators)
    else:
        yield test


def _base(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.Subscript):
        node = node.value
    return node


def _is_light(turn: list[ast.expr]) -> bool:
    return not any(
        isinstance(n, _HEAVY) or (isinstance(n, ast.Call) and not _is_light_call(n.func)) for n in descend(turn)
    )


def _is_light_call(function: ast.expr) -> bool:
    name = last(function)
    if isinstance(function, ast.Name) and (name in BUILTINS or name == "print"):
        return True
    if name in _CALLED or name.startswith("rand"):
        return True
    return isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "math"
