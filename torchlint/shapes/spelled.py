"""Expressions that some rules cannot do without, each told by a few nodes."""

from __future__ import annotations

import ast
import re

from torchlint.shapes.code import Code
from torchlint.shapes.plain import is_plain
from torchlint.shapes.syntax_tree import last

_PRODUCTS = frozenset(("matmul", "bmm"))
_CONTAINERS = (ast.List, ast.Tuple, ast.Dict, ast.ListComp, ast.DictComp)
_EMPTY = frozenset(("list", "dict", "OrderedDict"))
_GROWING = frozenset(("append", "extend", "insert", "add"))
_SOFTMAX_MODULE = re.compile(r"(?<!\w)Softmax\(")


def builtin_over_tensor(code: Code) -> bool:
    """`sum(x)`, `max(x)` or `min(x)` of one thing that may be a tensor."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("sum", "max", "min")
        and len(node.args) == (2 if node.func.id == "sum" and len(node.args) == 2 else 1)
        and not isinstance(node.args[0], (ast.GeneratorExp, ast.Starred))
        and not is_plain(node.args[0], code)
        for node in code.nodes
    )


def attention(code: Code) -> bool:
    """Two matrix products, a transposition and a softmax; or a softmax that is made here and called elsewhere."""
    if _SOFTMAX_MODULE.search(code.text):
        return True
    products = transposed = False
    count = 0
    for node in code.nodes:
        if isinstance(node, ast.BinOp):
            count += isinstance(node.op, ast.MatMult)
        elif isinstance(node, ast.Call):
            count += last(node.func) in _PRODUCTS
        elif isinstance(node, ast.Attribute):
            transposed = transposed or node.attr in ("transpose", "mT")
        products = count > 1
        if products and transposed:
            return True
    return False


def plain_containers(code: Code) -> bool:
    """An attribute that gets a list, tuple or dict, or one that grows."""
    for node in code.nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
            if isinstance(target, ast.Attribute):
                value = node.value
                bound = code.bindings.get(value.id, []) if isinstance(value, ast.Name) else [value]
                if any(b is not None and _is_container(b) for b in bound):
                    return True
            elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Attribute):
                return True
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _GROWING:
            if isinstance(node.func.value, ast.Attribute):
                return True
    return False


def _is_container(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_container(node.left) or _is_container(node.right)
    return isinstance(node, _CONTAINERS) or (isinstance(node, ast.Call) and last(node.func) in _EMPTY)
