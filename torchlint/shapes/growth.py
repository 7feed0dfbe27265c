"""Tensors that grow by concatenation, and totals and lists that may keep autograd graphs."""

from __future__ import annotations

import ast

from torchlint.shapes.code import Code
from torchlint.shapes.plain import is_plain
from torchlint.shapes.syntax_tree import below, dotted, last, root

_LEAVES_GRAPH = frozenset(
    ("item", "detach", "data", "tolist", "numpy", "shape", "size", "device", "dtype", "grad_fn", "requires_grad")
)


def cat_growth(code: Code) -> bool:
    """`x = torch.cat([x, …])` or with `x` at the other end, bare or as one side of a conditional expression."""
    for node in code.nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            sides = [node.value]
            while sides:
                value = sides.pop()
                if isinstance(value, ast.IfExp):
                    sides += [value.body, value.orelse]
                elif isinstance(value, ast.Call):
                    given = [*value.args[:1], *(k.value for k in value.keywords if k.arg == "tensors")]
                    for items in given:
                        if isinstance(items, (ast.List, ast.Tuple)) and len(items.elts) > 1:
                            name = _place(node.targets[0])
                            if name and name in (_place(items.elts[0]), _place(items.elts[-1])):
                                return True
    return False


def _place(node: ast.expr) -> str:
    """`x`, `self.x`, `out["x"]`."""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return f"{dotted(node.value)}[{node.slice.value!r}]"
    return dotted(node)


def growth(code: Code) -> bool:
    """A value with a possible autograd graph that is added to a total or appended to a list, turn by turn."""
    trained = code.whole.trains
    stack: list[tuple[ast.AST, bool]] = [(root, False) for root in code.roots]
    while stack:
        node, inside = stack.pop()
        if node is None:
            continue
        kind = node.__class__
        if kind in (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda):
            inside = False
        elif kind is ast.While or kind is ast.For or kind is ast.AsyncFor:
            # Without a backward only a loop over a loader keeps graphs that nothing uses.
            inside = trained or (kind is ast.For and _may_go_over_loader(node.iter))  # type: ignore[attr-defined]
        elif kind is ast.AugAssign or kind is ast.Assign or kind is ast.Call:
            grown = _grown(node, code)
            if grown is not None and (inside or (trained and grown == "self")):
                return True
        stack += [(n, inside) for n in below(node)]
    return False


def _may_go_over_loader(node: ast.expr) -> bool:
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("items", "keys", "values")
    ):
        return False
    return not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range") and not (
        isinstance(node, (ast.List, ast.Tuple, ast.Constant, ast.Dict, ast.Set))
    )


def _grown(node: ast.AST, code: Code) -> str | None:
    """The first name of what grows by something that may carry a graph; None if it is no growth."""
    if isinstance(node, ast.AugAssign):
        return root(node.target) if isinstance(node.op, ast.Add) and _carries(node.value, code) else None
    if isinstance(node, ast.Call):
        if (
            not isinstance(node.func, ast.Attribute)
            or node.func.attr not in ("append", "update", "add")
            or not 0 < len(node.args) + len(node.keywords) < 4
        ):
            return None
        return root(node.func.value) if _carries((*node.args, *(k.value for k in node.keywords))[0], code) else None
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.value, ast.BinOp):
        owner = root(node.targets[0])
        if isinstance(node.value.op, ast.Add) and owner in (root(node.value.left), root(node.value.right)):
            return owner
    return None


def _carries(node: ast.expr, code: Code) -> bool:
    if isinstance(node, ast.BinOp):
        return _carries(node.left, code) or _carries(node.right, code)
    if isinstance(node, ast.UnaryOp):
        return _carries(node.operand, code)
    if isinstance(node, (ast.Tuple, ast.List)):
        return any(_carries(e, code) for e in node.elts)
    if isinstance(node, ast.Call):
        leaves = _LEAVES_GRAPH if isinstance(node.func, ast.Attribute) else ("len", "float", "int")
        return last(node.func) not in leaves and not is_plain(node, code)
    if isinstance(node, ast.Attribute):
        return node.attr not in _LEAVES_GRAPH
    return isinstance(node, ast.Subscript) or (isinstance(node, ast.Name) and not is_plain(node, code))
