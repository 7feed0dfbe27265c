"""How a name was made that a later statement moves: the statements ahead of the move that make it, and nothing else.

Between them the name may be asked for its shape, filled in place or made anew from itself; both arms of an `if` may
make it. Anything else that touches it ends the search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import dotted, find, walk
from torchlint.semantics.fresh import IN_PLACE, Fresh, freshly_made

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

_DEPTH = 4
_ASKED = ("shape", "size", "dim", "dtype", "ndim", "numel")


@dataclass(eq=False)
class Earlier:
    """The names that a moved expression was made from in earlier statements.

    `makers`: the assignments by name, the last one first. `filled`: whether one was filled in place. `optional`:
    whether the move stands under an `if` that they do not stand under. `rebound`: whether a statement in between binds
    one of the names that had to stay as they are.
    """

    makers: dict[str, list[cst.Assign]] = field(default_factory=dict)
    filled: bool = False
    optional: bool = False
    rebound: bool = False

    @property
    def plain(self) -> bool:
        """Whether one statement makes one name."""
        return not self.filled and not self.rebound and [len(found) for found in self.makers.values()] == [1]


def made_before(
    node: cst.BaseExpression, here: cst.SimpleStatementLine, frozen: frozenset[str], sem: Semantics
) -> tuple[Fresh | None, Earlier]:
    """How an expression of the statement is made, where the names in it were made right before. `frozen`: names that no
    statement in between should bind."""
    earlier = Earlier()
    search = _Search(sem, frozen, earlier)
    before = _ahead(here, sem)
    made = freshly_made(node, sem, lambda name: search.made(name, before, 0))
    if not earlier.makers and (outer := _ahead_of_if(here, sem)) is not None:
        names = {dotted(n) for n in walk(node)}
        if not any(dotted(n) in names and not _is_asked(n, sem) for s in before for n in _places(s)):
            earlier.optional = True
            made = freshly_made(node, sem, lambda name: search.made(name, outer, 0))
    return made, earlier


def _ahead(statement: cst.CSTNode, sem: Semantics) -> Sequence[cst.CSTNode]:
    block = sem.file.parent(statement)
    if not isinstance(block, (cst.IndentedBlock, cst.Module)):
        return ()
    return block.body[: next(i for i, s in enumerate(block.body) if s is statement)]


def _ahead_of_if(here: cst.SimpleStatementLine, sem: Semantics) -> Sequence[cst.CSTNode] | None:
    """What stands ahead of the `if` whose body holds nothing but plain statements, this one among them."""
    block = sem.file.parent(here)
    test = sem.file.parent(block) if isinstance(block, cst.IndentedBlock) else None
    if not isinstance(test, cst.If) or block is not test.body or isinstance(sem.file.parent(test), cst.If):
        return None
    if not all(isinstance(s, cst.SimpleStatementLine) for s in test.body.body):
        return None
    if test.orelse is not None and not isinstance(here.body[-1], cst.Return):
        return None
    return _ahead(test, sem)


class _Search:
    def __init__(self, sem: Semantics, frozen: frozenset[str], earlier: Earlier) -> None:
        self.sem = sem
        self.frozen = frozen
        self.earlier = earlier

    def made(self, node: cst.BaseExpression, before: Sequence[cst.CSTNode], depth: int) -> Fresh | None:
        """How a name was made in the statements ahead, the nearest first."""
        name = dotted(node)
        if name is None or depth > _DEPTH:
            return None
        random = False
        for i in range(len(before) - 1, -1, -1):
            statement = before[i]
            places = [n for n in _places(statement) if dotted(n) == name and not _is_asked(n, self.sem)]
            if not places:
                self.earlier.rebound = self.earlier.rebound or self._binds_frozen(statement)
                continue
            filled = _filled_in_place(statement, name)
            if filled is not None:
                self.earlier.filled = True
                random = random or filled not in ("fill_", "zero_")
                continue
            made = self._made_by(statement, name, before[:i], depth)
            if made is not None:
                made.random = made.random or random
            return made
        return None

    def _binds_frozen(self, statement: cst.CSTNode) -> bool:
        bound = {(dotted(t.target) or "").partition(".")[0] for t in find(statement, cst.AssignTarget)}
        return bool(bound & self.frozen)

    def _made_by(self, statement: cst.CSTNode, name: str, before: Sequence[cst.CSTNode], depth: int) -> Fresh | None:
        if isinstance(statement, cst.If):
            return self._made_by_arms(statement, name, depth)
        assign, value = _assignment(statement, name)
        if assign is None or value is None:
            return None
        self.earlier.rebound = self.earlier.rebound or value is not assign.value
        made = freshly_made(value, self.sem, lambda inner: self.made(inner, before, depth + 1))
        if made is None or not made.factories:
            return None
        self.earlier.makers.setdefault(name, []).append(assign)
        return made

    def _made_by_arms(self, statement: cst.If, name: str, depth: int) -> Fresh | None:
        """`if bidirectional: h = zeros(4, n)` and `else: h = zeros(2, n)`."""
        if not isinstance(statement.orelse, cst.Else):
            return None
        result: Fresh | None = None
        for arm in (statement.body, statement.orelse.body):
            holding = [s for s in arm.body if any(dotted(n) == name and not _is_asked(n, self.sem) for n in _places(s))]
            made = self._made_by(holding[0], name, (), depth) if len(holding) == 1 else None
            if made is None:
                return None
            result = result or made
        return result


def _assignment(statement: cst.CSTNode, name: str) -> tuple[cst.Assign | None, cst.BaseExpression | None]:
    """`name = …` alone on its line, or side by side with others as in `h, c = zeros(n), zeros(n)`; what is assigned."""
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return None, None
    small = statement.body[0]
    if not isinstance(small, cst.Assign) or len(small.targets) != 1:
        return None, None
    target, value = small.targets[0].target, small.value
    if isinstance(target, cst.Tuple) and isinstance(value, cst.Tuple) and len(target.elements) == len(value.elements):
        held = [v.value for t, v in zip(target.elements, value.elements) if dotted(t.value) == name]
        return (small, held[0]) if len(held) == 1 else (None, None)
    return (small, value) if dotted(target) == name else (None, None)


def _filled_in_place(statement: cst.CSTNode, name: str) -> str | None:
    """The method in `name.normal_(0, 1)`, alone on its line."""
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return None
    small = statement.body[0]
    call = small.value if isinstance(small, cst.Expr) else None
    if isinstance(call, cst.Call) and isinstance(call.func, cst.Attribute) and dotted(call.func.value) == name:
        return call.func.attr.value if call.func.attr.value in IN_PLACE else None
    return None


def _places(statement: cst.CSTNode) -> list[cst.BaseExpression]:
    return [n for n in walk(statement) if isinstance(n, (cst.Name, cst.Attribute))]


def _is_asked(node: cst.CSTNode, sem: Semantics) -> bool:
    """Whether the tensor is only asked for its shape or type there."""
    parent = sem.file.parent(node)
    if isinstance(parent, cst.Attribute):
        return parent.value is node and parent.attr.value in _ASKED
    if isinstance(parent, cst.Arg):
        return parent.keyword is node or dotted(getattr(sem.file.parent(parent), "func", parent)) == "len"
    return False


def only_there(name: str, moved: cst.CSTNode, earlier: Earlier, sem: Semantics) -> bool:
    """Whether nothing but its making, its move and questions for its shape reads the name in its function."""
    scope = sem.function(moved).node
    known = {id(n) for assign in earlier.makers.get(name, ()) for n in walk(assign)}
    known |= {id(n) for n in walk(moved)}
    for node in _places(scope):
        if dotted(node) != name or id(node) in known or _is_asked(node, sem):
            continue
        parent = sem.file.parent(node)
        if isinstance(parent, cst.AssignTarget):
            continue
        if _filled_in_place(sem.file.statement(node), name) is not None:
            continue
        return False
    return True
