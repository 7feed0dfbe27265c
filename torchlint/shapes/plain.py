"""Expressions that are certainly no tensor: numbers, texts, containers of Python, and names bound to nothing else.

Only what the evaluator of `semantics` would also not take for a tensor counts; everything doubtful may be one.
"""

from __future__ import annotations

import ast

from torchlint.shapes.code import Code

_DISPLAYS = (
    ast.Constant, ast.JoinedStr, ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp, ast.Lambda,
)  # fmt: skip
_BUILTINS = frozenset(
    """len range str int float bool list dict set tuple frozenset sorted open isinstance issubclass hasattr type repr id
    ord chr zip enumerate input format bytes""".split()
)
# Methods of texts, dicts and modules of the standard library that no tensor has.
_METHODS = frozenset(
    """format join strip lstrip rstrip startswith endswith lower upper encode decode splitlines keys values items
    setdefault readlines readline read listdir glob exists isfile isdir basename dirname abspath fromkeys
    perf_counter getenv getLogger named_parameters named_modules named_children parameters modules children buffers
    named_buffers state_dict""".split()
)
_NAMED_TYPES = frozenset("int float str bool bytes".split())


def is_plain(node: ast.AST, code: Code) -> bool:
    """Whether the expression certainly is no tensor, and nothing that a tensor could be an item of."""
    if isinstance(node, _DISPLAYS):
        return True
    if isinstance(node, ast.Name):
        return _is_plain_name(node.id, code)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name):
            return node.func.id in _BUILTINS and node.func.id not in code.bindings
        return isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS
    if isinstance(node, ast.BinOp):
        return is_plain(node.left, code) and is_plain(node.right, code)
    if isinstance(node, ast.IfExp):
        return is_plain(node.body, code) and is_plain(node.orelse, code)
    if isinstance(node, ast.BoolOp):
        return all(is_plain(value, code) for value in node.values)
    return isinstance(node, ast.UnaryOp) and (isinstance(node.op, ast.Not) or is_plain(node.operand, code))


def _is_plain_name(name: str, code: Code) -> bool:
    known = code.names.get(name)
    if known is None:
        code.names[name] = True  # `x = x + 1` says nothing against it
        bound = code.bindings.get(name)
        known = code.names[name] = bound is not None and all(_is_plain_binding(b, code) for b in bound)
    return known


def _is_plain_binding(bound: ast.AST | None, code: Code) -> bool:
    if isinstance(bound, ast.arg):
        return isinstance(bound.annotation, ast.Name) and bound.annotation.id in _NAMED_TYPES
    return bound is not None and is_plain(bound, code)
