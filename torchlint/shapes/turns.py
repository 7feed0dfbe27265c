"""Loops whose turns may each wait for the device, move a tensor there, or call a module on one slice."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from torchlint.shapes.code import Code
from torchlint.shapes.forwards import may_be_module
from torchlint.shapes.plain import is_plain
from torchlint.shapes.rows import walked
from torchlint.shapes.syntax_tree import descend, last

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)
_Header = tuple[ast.expr, ast.expr, list[ast.AST]]  # target, iterated, what runs once per turn
_READS = frozenset(("item", "tolist", "cpu", "numpy"))
_WRAPPERS = frozenset(("enumerate", "zip", "tqdm", "list", "reversed"))


def element_syncs(code: Code) -> bool:
    """A read of what a loop hands out, or of an item that its counter picks: `x.item()`, `t[i].cpu()`, `int(t[i])`."""
    return any(_reads_elements(header, code) for header in _headers(code))


def moves_in_loop(code: Code) -> bool:
    """`.to(…)` or `.cuda(…)` in a loop's body."""
    loops = [n for n in code.nodes if isinstance(n, (ast.For, ast.While))]
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("to", "cuda")
        for loop in loops
        for node in descend(loop.body)
    )


def slice_calls(code: Code) -> bool:
    """A call of what may be a module, for each step along an axis."""
    return any(
        walked(target, source, code) is not None
        and any(isinstance(n, ast.Call) and n.args and may_be_module(n.func, code) for n in descend(turn))
        for target, source, turn in _headers(code)
    )


def _headers(code: Code) -> Iterator[_Header]:
    for node in code.nodes:
        if isinstance(node, (ast.For, ast.AsyncFor)):
            yield node.target, node.iter, [*node.body]
        elif isinstance(node, _COMPREHENSIONS):
            parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            for clause in node.generators:
                # A clause that stands further in goes over what an outer one hands out.
                yield clause.target, clause.iter, [*parts, *(p for g in node.generators for p in (g.iter, *g.ifs))]


def _reads_elements(header: _Header, code: Code) -> bool:
    target, source, turn = header
    bound = _names([target])
    parts = source.args if isinstance(source, ast.Call) and last(source.func) in _WRAPPERS else [source]
    counts = not all(is_plain(part, code) for part in parts)
    held = bound | _names(t for n in descend(turn) if isinstance(n, ast.Assign) for t in n.targets)
    for node in descend(turn):
        read = _read(node)
        if read is not None and (_is_picked(read, bound) or (counts and _root(read) in held)):
            return True
    return False


def _read(node: ast.AST) -> ast.expr | None:
    """What `x.item()`, `float(x[i])` read."""
    if not isinstance(node, ast.Call):
        return None
    if isinstance(node.func, ast.Attribute):
        return node.func.value if node.func.attr in _READS else None
    is_number = isinstance(node.func, ast.Name) and node.func.id in ("float", "int") and len(node.args) == 1
    return node.args[0] if is_number and isinstance(node.args[0], ast.Subscript) else None


def _is_picked(node: ast.expr, names: set[str]) -> bool:
    """Whether one of the names stands among the indices of a chain of items and methods."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        if isinstance(node, ast.Subscript) and names & _names([node.slice]):
            return True
        node = node.func if isinstance(node, ast.Call) else node.value
    return False


def _root(node: ast.expr) -> str:
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _names(nodes: Iterator[ast.AST] | list[ast.AST] | list[ast.expr]) -> set[str]:
    return {n.id for n in descend(nodes) if isinstance(n, ast.Name)}
