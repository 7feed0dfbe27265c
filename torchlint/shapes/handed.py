"""Functions that may read values of what they are handed, and those that train."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from torchlint.aside import is_aside
from torchlint.shapes.code import Code
from torchlint.shapes.syntax_tree import below, descend

_READS = frozenset(("item", "tolist", "numpy", "cpu"))
_CHOOSES_LITTLE = re.compile(r"rank|main|master|cuda|gpu", re.IGNORECASE)
_STEPS = re.compile(r"\.step\(|\.backward\(|\bEngine\(|\bdef training_step\(")
_TRAINS = re.compile(r"backward\(|\bdef training_step\(")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def step_or_handed_wait(code: Code) -> bool:
    """A step, in a file that trains; or a read, in every call, of values that parameters of a function lead to."""
    if _STEPS.search(code.text) and _TRAINS.search(code.whole.text):
        return True
    return any(
        isinstance(node, _Function) and not is_aside(node.name) and _reads_parameter(node, code)
        for node in code.nodes
        if node.__class__ in (ast.FunctionDef, ast.AsyncFunctionDef)
    )


def _reads_parameter(function: _Function, code: Code) -> bool:
    reads = list(_reads(function.body))
    if not reads:
        return False
    if code.whole.trains:
        return True  # it may be a step itself, by what it calls
    args = function.args
    given = [*args.posonlyargs, *args.args, *args.kwonlyargs, *(a for a in (args.vararg, args.kwarg) if a is not None)]
    known = {a.arg for a in given} - {"self", "cls"}
    binding = [b for b in (_bound(n) for n in descend(function.body)) if b is not None] if known else []
    grown = True
    while grown:
        grown = False
        for target, source in binding:
            if not target <= known and source & known:
                known |= target
                grown = True
    return any(_names(read) & known for read in reads)


def _bound(node: ast.AST) -> tuple[set[str], set[str]] | None:
    """The names that a node binds, and those in what it binds them to."""
    if isinstance(node, ast.Assign):
        return set().union(*map(_names, node.targets)), _names(node.value)
    if isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
        return _names(node.target), _names(node.iter)
    return None


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in descend([node]) if isinstance(n, ast.Name)}


def _reads(body: list[ast.stmt]) -> Iterator[ast.expr]:
    """What is read where no condition decides about it: neither in a branch, unless it asks for the device or the rank
    or the other one reads too, nor in an `except`."""
    stack: list[ast.AST] = [*body]
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.ExceptHandler, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _READS | {"to"}:
            yield node.func.value
        if isinstance(node, ast.If) and not _lets_through(node):
            stack.append(node.test)
        else:
            stack += below(node)


def _lets_through(node: ast.If) -> bool:
    if isinstance(node.test, ast.Constant) or _CHOOSES_LITTLE.search(ast.unparse(node.test)):
        return True
    return bool(node.orelse) and all(
        any(isinstance(n, ast.Attribute) and n.attr in ("item", "tolist") for n in descend(arm))
        for arm in (node.body, node.orelse)
    )
