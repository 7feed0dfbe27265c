"""Loops whose turns do nothing but compute, loops in them included."""

from __future__ import annotations

import ast

from torchlint.shapes.code import Code
from torchlint.shapes.plain import is_plain
from torchlint.shapes.syntax_tree import descend, last, mentions
from torchlint.vectorise.pure import BATCHED, BUILTINS, JOINS, LIGHT, PURE, UNEVEN, WRITES

# Statements and expressions that no turn holds of which a form for all turns can be told.
_HEAVY = (
    ast.Break, ast.Return, ast.While, ast.With, ast.Try, ast.Delete, ast.Global, ast.Nonlocal, ast.FunctionDef,
    ast.ClassDef, ast.Import, ast.ImportFrom, ast.Lambda, ast.SetComp, ast.DictComp, ast.Yield, ast.YieldFrom,
    ast.Await, ast.Dict, ast.Starred, ast.NamedExpr, ast.AnnAssign, ast.Match, ast.JoinedStr,
)  # fmt: skip
_HANDING_ON = frozenset(("tqdm", "track", "reversed", "enumerate"))
_CALLED = PURE | BATCHED | LIGHT | UNEVEN | WRITES | BUILTINS
_CALLED |= frozenset("append count index isinstance hasattr callable Variable nelement element_size".split())


def turns_work(code: Code) -> bool:
    """A loop that keeps something of each turn, or a comprehension that is joined, and computes from what it picks."""
    for node in code.nodes:
        if isinstance(node, ast.For):
            if not node.orelse and _walks(node.iter, code) and _works(node, code):
                return True
        elif isinstance(node, (ast.ListComp, ast.GeneratorExp)) and len(node.generators) == 1:
            clause = node.generators[0]
            if not clause.ifs and _walks(clause.iter, code) and _is_computed([node.elt], code):
                if any(isinstance(n, ast.Call) and last(n.func) in JOINS for n in code.nodes):
                    return True
    return False


def _walks(source: ast.expr, code: Code) -> bool:
    while isinstance(source, ast.Call) and last(source.func) in _HANDING_ON and source.args:
        source = source.args[0]
    if isinstance(source, ast.Call) and last(source.func) in ("range", "arange"):
        return not (len(source.args) == 1 and isinstance(source.args[0], ast.Constant) and source.args[0].value == 1)
    parts = source.args if isinstance(source, ast.Call) and last(source.func) == "zip" else [source]
    return not all(is_plain(part, code) for part in parts)


def _works(loop: ast.For, code: Code) -> bool:
    body, target = loop.body, loop.target
    nodes = list(descend(body))
    if not _is_computed(body, code):
        return False
    names = {n.id for n in descend([target]) if isinstance(n, ast.Name)}
    kept = any(
        isinstance(n, ast.AugAssign)
        or (isinstance(n, ast.Assign) and isinstance(n.targets[0], (ast.Subscript, ast.Tuple)))
        or (isinstance(n, ast.Assign) and isinstance(n.value, ast.BinOp))
        or (isinstance(n, ast.Call) and last(n.func) in WRITES | {"append"})
        for n in nodes
    )
    return (
        kept
        and any(mentions(statement, names) for statement in body)
        and (not _counts(loop.iter) or _picks(nodes, names))
    )


def _counts(source: ast.expr) -> bool:
    return isinstance(source, ast.Call) and last(source.func) in ("range", "arange")


def _picks(nodes: list[ast.AST], names: set[str]) -> bool:
    """Whether something is picked by what a header binds or a turn assigns, or compared with it, or is a row itself."""
    own = names | {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return any(
        (isinstance(n, ast.Subscript) and mentions(n.slice, own))
        or (isinstance(n, ast.Compare) and mentions(n, names))
        or (isinstance(n, ast.For) and not (isinstance(n.iter, ast.Call) and last(n.iter.func) == "range"))
        for n in nodes
    )


def _is_computed(turn: list[ast.stmt] | list[ast.expr], code: Code) -> bool:
    whole = code.whole
    for node in descend(turn):
        if isinstance(node, _HEAVY):
            return False
        if isinstance(node, ast.Call):
            name = last(node.func)
            if name == "print":
                continue  # under a condition
            if name in _CALLED or name.endswith("_") or name.startswith("rand") or name in whole.functions:
                continue
            if whole.has_loss or whole.has_transform:
                continue  # a loss or a transform may be kept under any name
            if isinstance(node.func, ast.Name) and name in whole.imported:
                continue
            if not isinstance(node.func, ast.Attribute) or not _is_of_import(node.func, code):
                return False
    return True


def _is_of_import(node: ast.Attribute, code: Code) -> bool:
    """`F.pad`, `torch.linalg.svd`, `math.log`."""
    owner: ast.expr = node
    while isinstance(owner, ast.Attribute):
        owner = owner.value
    return isinstance(owner, ast.Name) and owner.id in code.whole.imported
