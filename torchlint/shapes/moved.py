"""Tensors that are made and then moved."""

from __future__ import annotations

import ast

from torchlint.shapes.code import FACTORIES, Code
from torchlint.shapes.syntax_tree import descend, dotted, last

_MOVES = ("to", "cuda", "type")


def made_then_moved(code: Code) -> bool:
    """`.to(…)`, `.cuda(…)` or `.type(torch.cuda.…)` of what a factory makes, or of names that it went through."""
    moved: list[ast.expr] = []
    made: set[str] = set()
    remade: list[ast.Assign] = []
    for node in code.nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MOVES:
            moved.append(node.func.value)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            if _has_factory(node.value):
                made.update(map(dotted, node.targets[0].elts))
        elif isinstance(node, ast.Assign) and (name := dotted(node.targets[0])):
            if _has_factory(node.value):
                made.add(name)
            else:
                remade.append(node)
    if any(map(_has_factory, moved)):
        return True
    for _ in range(3 if made else 0):  # `mask = mask.float()` on the way
        made |= {dotted(assign.targets[0]) for assign in remade if _reads(assign.value, made)}
    return bool(made) and any(_reads(source, made) for source in moved)


def _reads(node: ast.expr, names: set[str]) -> bool:
    return any(isinstance(n, (ast.Name, ast.Attribute)) and dotted(n) in names for n in descend([node]))


def _has_factory(node: ast.expr) -> bool:
    return any(
        isinstance(n, ast.Call) and last(n.func) in FACTORIES and not any(k.arg == "device" for k in n.keywords)
        for n in descend([node])
    )
