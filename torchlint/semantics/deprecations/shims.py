"""Whether code stands where its author already minds which torch is installed: then nothing is old about it."""

from __future__ import annotations

import re

import libcst as cst

from torchlint.nodes import children, dotted, find
from torchlint.semantics.blocks import always
from torchlint.semantics.model import Semantics
from torchlint.spelling import spelled

_VERSION = re.compile(
    r"version|(?<![a-z])(?:major|minor)(?![a-z])|hasattr\(|TORCH_|_after\(|__kwdefaults__|signature\(|WITH_PT|is_torch|torch_?(?:gt|ge|lt|le|greater|less|geq|leq|min|at_least|\d)|\bpt_?\d",
    re.I,
)
_MISSING = frozenset(("ImportError", "ModuleNotFoundError", "AttributeError"))


def minds_version(sem: Semantics, node: cst.CSTNode) -> bool:
    """Whether the node stands in a `try` that catches a missing name, or under or behind a test of a version, or its
    name was imported there: `if V(torch.__version__) >= …: from torch.cuda.amp import autocast`."""
    if not isinstance(node, (cst.Import, cst.ImportFrom)) and _imported_conditionally(sem, node):
        return True
    below = node
    for ancestor in sem.file.ancestors(node):
        if isinstance(ancestor, cst.Try) and any(_catches_missing(h, node) for h in ancestor.handlers):
            return True
        if (
            isinstance(ancestor, cst.ExceptHandler)
            and ancestor.type is not None
            and dotted(ancestor.type) == "TypeError"
        ):
            return True  # another try, without an argument that this torch did not know
        if isinstance(ancestor, cst.BooleanOperation) and _asks(ancestor):
            return True  # hasattr(torch, "old") and torch.old(x)
        if isinstance(ancestor, (cst.If, cst.IfExp)) and below is not ancestor.test and _asks(ancestor.test):
            return True
        if isinstance(ancestor, (cst.IndentedBlock, cst.Module)) and _left(ancestor, below):
            return True
        below = ancestor
    return False


def _imported_conditionally(sem: Semantics, node: cst.CSTNode) -> bool:
    root = node.func if isinstance(node, cst.Call) else node
    while isinstance(root, cst.Attribute):
        root = root.value
    if not isinstance(root, cst.Name) or root.value not in sem.names.imports:
        return False
    if root.value in sem.names.functions or root.value in sem.names.classes or root.value in sem.names.module.local:
        return True  # and what stands in for it
    for statement in sem.file.tree.body:
        if isinstance(statement, (cst.If, cst.Try)) and not always(statement) and not _is_main(statement):
            for imported in find(statement, cst.ImportFrom):
                if root.value in _bound(imported):
                    return True
    return False


def _is_main(statement: cst.If | cst.Try) -> bool:
    return (
        isinstance(statement, cst.If) and re.match(r"\(__name__ == .__main__.\)$", spelled(statement.test)) is not None
    )


def _bound(imported: cst.ImportFrom) -> list[str]:
    names = () if isinstance(imported.names, cst.ImportStar) else imported.names
    return [dotted(a.asname.name if a.asname is not None else a.name) or "" for a in names]


def _catches_missing(handler: cst.ExceptHandler, node: cst.CSTNode) -> bool:
    if handler.type is None:
        return isinstance(node, (cst.Import, cst.ImportFrom))
    caught = [e.value for e in handler.type.elements] if isinstance(handler.type, cst.Tuple) else [handler.type]
    names = {(dotted(c) or "").rpartition(".")[2] for c in caught}
    return bool(names & _MISSING) or (isinstance(node, (cst.Import, cst.ImportFrom)) and "Exception" in names)


def _asks(test: cst.BaseExpression) -> bool:
    return _VERSION.search(spelled(test)) is not None


def _left(block: cst.IndentedBlock | cst.Module, before: cst.CSTNode) -> bool:
    """Whether an `if <version>: return …` stands ahead in the block."""
    for statement in block.body:
        if statement is before:
            return False
        if isinstance(statement, cst.If) and isinstance(statement.body, cst.IndentedBlock) and _asks(statement.test):
            last = statement.body.body[-1] if statement.body.body else None
            if last is not None and any(isinstance(c, (cst.Return, cst.Raise)) for c in children(last)):
                return True
    return False
