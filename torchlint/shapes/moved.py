"""Tensors that are made and then moved."""

from __future__ import annotations

import ast

from torchlint.shapes.code import FACTORIES, Code
from torchlint.shapes.syntax_tree import descend, last


def made_then_moved(code: Code) -> bool:
    """`.to(…)` or `.cuda(…)` of what a factory makes, or of a name that one was bound to."""
    moved: list[ast.expr] = []
    made: set[str] = set()
    for node in code.nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("to", "cuda"):
            moved.append(node.func.value)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and _has_factory(node.value):
            made.add(node.targets[0].id)
    return any(source.id in made if isinstance(source, ast.Name) else _has_factory(source) for source in moved)


def _has_factory(node: ast.expr) -> bool:
    return any(
        isinstance(n, ast.Call) and last(n.func) in FACTORIES and not any(k.arg == "device" for k in n.keywords)
        for n in descend([node])
    )
