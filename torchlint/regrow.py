"""The libcst tree of an edited text, which shares with the tree before the edit every statement that it left alone.

Only the statements that hold the edit are parsed anew, among neighbours that stand in for theirs, and the nodes around
them are made anew; what is known of the places of nodes is moved along. Where it is not plain that parsing the
whole text would give the very same tree, there is no result, and the caller parses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import libcst as cst

from torchlint.nodes import children, find
from torchlint.positions import Index
from torchlint.source import File

_Places = dict[cst.CSTNode, tuple[int, int]]
_BRANCHES = (cst.If, cst.Else, cst.Finally, cst.ExceptHandler, cst.ExceptStarHandler, cst.MatchCase)
_ODD = re.compile(r"\f|\r(?!\n)")


class Tree(File):
    """A whole file whose places are known, and stay known when it is forgotten."""

    def __init__(self, path: str, text: str, tree: cst.Module, index: Index | None = None) -> None:
        super().__init__(path, text, tree)
        self.__dict__["index"] = Index(tree) if index is None else index

    def forget(self) -> None:
        index = self.index
        super().forget()
        self.__dict__["index"] = index

    @classmethod
    def planted(cls, path: str, text: str) -> Tree | None:
        """A text parsed whole. Raises `libcst.ParserSyntaxError`; None where the tree does not give back all of it."""
        if _ODD.search(text):
            return None
        tree = cls(path, text, cst.parse_module(text))
        return tree if tree.index.position == len(text) else None

    def regrown(self, text: str) -> Tree | None:
        """The tree of another version of the text, which must be known to parse; None where it must be parsed."""
        if text == self.text:
            same = Tree(self.path, text, self.tree, self.index)
            same.kept = self.kept
            return same
        if _ODD.search(text):
            return None
        change = _changed_lines(self.text, text)
        for level in reversed(list(_levels(self, change))):
            for first, last in _attempts(self, level, change):
                new = _parsed(self, level, first, last, text, change)
                if new is not None:
                    return _joined(self, level, first, last, new, text, change)
        return None


@dataclass(frozen=True)
class _Change:
    """The lines from `start` to `end` of the text before became those that are longer by `growth` characters."""

    start: int
    end: int
    growth: int


@dataclass(frozen=True)
class _Level:
    """A block: the nodes from the module down to it, and the indentations of the blocks around it, its own too."""

    path: tuple[cst.CSTNode, ...]
    indents: tuple[str, ...]

    @property
    def body(self) -> Sequence[cst.BaseStatement]:
        block = self.path[-1]
        assert isinstance(block, (cst.Module, cst.IndentedBlock))
        return block.body

    @property
    def indent(self) -> str:
        return "".join(self.indents)


def _changed_lines(old: str, new: str) -> _Change:
    before, after = old.split("\n"), new.split("\n")
    most = min(len(before), len(after))
    head = 0
    while head < most and before[head] == after[head]:
        head += 1
    tail = 0
    while tail < most - head and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    start = sum(map(len, before[:head])) + head
    end = len(old) - sum(map(len, before[len(before) - tail :])) - tail if tail else len(old)
    return _Change(start, max(end + 1, start) if tail else end, len(new) - len(old))


# -- where the edit lies ------------------------------------------------------------------------------------------


def _levels(file: Tree, change: _Change) -> Iterator[_Level]:
    """The blocks that hold the whole change, outermost first."""
    level = _Level((file.tree,), ())
    while True:
        yield level
        inner = _inner(file, level, change)
        if inner is None:
            return
        level = inner


def _inner(file: Tree, level: _Level, change: _Change) -> _Level | None:
    full = file.index.full
    for statement in level.body:
        start, end = full[statement]
        if start <= change.start < end and change.end <= end and isinstance(statement, cst.BaseCompoundStatement):
            for path in _blocks((statement,)):
                block = path[-1]
                assert isinstance(block, cst.IndentedBlock)
                if full[block.body[0]][0] <= change.start and change.end <= full[block.body[-1]][1]:
                    indent = file.tree.default_indent if block.indent is None else block.indent
                    return _Level((*level.path, *path), (*level.indents, indent))
    return None


def _blocks(path: tuple[cst.CSTNode, ...]) -> Iterator[tuple[cst.CSTNode, ...]]:
    """The ways from a compound statement to its own blocks."""
    for child in children(path[-1]):
        if isinstance(child, cst.IndentedBlock):
            yield (*path, child)
        elif isinstance(child, _BRANCHES):
            yield from _blocks((*path, child))


def _attempts(file: Tree, level: _Level, change: _Change) -> Iterator[tuple[int, int]]:
    """Which statements of the block to parse anew: those that the change touches, or also one more on either side."""
    full, body = file.index.full, level.body
    touched = [
        i
        for i, statement in enumerate(body)
        if full[statement][0] < max(change.end, change.start + 1) and full[statement][1] > change.start
    ]
    if change.start == change.end:  # new lines between two statements: they may belong to either
        touched = [i for i, statement in enumerate(body) if full[statement][0] < change.start <= full[statement][1]]
    if body and not touched and change.end <= full[body[0]][0]:
        touched = [0]  # above all statements
    if touched:
        first, last = touched[0], touched[-1]
        yield first, last
        wider = max(first - 1, 0), min(last + 1, len(body) - 1)
        if wider != (first, last):
            yield wider


# -- the new statements -------------------------------------------------------------------------------------------


def _parsed(
    file: Tree, level: _Level, first: int, last: int, text: str, change: _Change
) -> Sequence[cst.CSTNode] | None:
    """What the statements from `first` to `last` of a block have become; at the top of a file the lines above, too."""
    body, full, tree = level.body, file.index.full, file.tree
    top = first == 0 and not level.indents
    start, end = 0 if top else full[body[first]][0], full[body[last]][1]
    if not start <= change.start <= change.end <= end or not (top or _same_indentation(file, start)):
        return None
    indent, newline, default = level.indent, tree.default_newline, tree.default_indent
    defaults = f"if 0:{newline}{default}pass{newline}"
    parts = [] if top else [defaults]
    parts += [f"{''.join(level.indents[:depth])}if 0:{newline}" for depth in range(len(level.indents))]
    if first:
        block = next(find(body[first - 1], cst.IndentedBlock), None)
        if block is None:
            parts.append(f"{indent}pass{newline}")
        else:
            deeper = default if block.indent is None else block.indent
            parts.append(f"{indent}if 0:{newline}{indent}{deeper}pass{newline}")
    parts.append(text[start : end + change.growth])
    following = body[last + 1] if last + 1 < len(body) else None
    if following is not None:
        parts.append(file.text[end : full[following][0] + _leading(file, following)])
        parts.append(f"{indent}pass{newline}")
    elif not _ends_plainly(file, level, end, text[start : end + change.growth]):
        return None
    parts.append(f"pass{newline}")
    parts.append(defaults if top else "")
    try:
        module = cst.parse_module("".join(parts))
    except (cst.ParserSyntaxError, RecursionError):
        return None
    if module.default_indent != default or module.default_newline != newline:
        return None
    return _between(module, level, first, following)


def _same_indentation(file: Tree, start: int) -> bool:
    """Whether the file's indentation and newline are told by what stands in front of an offset."""
    block = next(find(file.tree, cst.IndentedBlock), None)
    return block is not None and file.index.full[block.body[0]][0] < start


def _leading(file: Tree, statement: cst.BaseStatement) -> int:
    """The length of the lines above a statement that belong to it."""
    lines: Sequence[cst.EmptyLine] = statement.leading_lines  # type: ignore[attr-defined]
    places = [file.index.full[line] for line in lines]
    return sum(end - start for start, end in places)


def _ends_plainly(file: Tree, level: _Level, end: int, chunk: str) -> bool:
    """Whether nothing around the end of a block may belong to it or to what is around it."""
    block = level.path[-1]
    assert isinstance(block, (cst.Module, cst.IndentedBlock))
    final = chunk.rstrip("\r\n").rpartition("\n")[2].strip()
    if block.footer or not chunk.endswith("\n") or not final or final.startswith("#") or chunk.endswith("\n\n"):
        return False
    for line in file.text[end:].split("\n"):
        code = line.strip()
        if code and not code.startswith("#"):
            return True
        if line.rstrip("\r") and (not code or line.startswith(level.indent)):
            return False
    return end == len(file.text)


def _between(
    module: cst.Module, level: _Level, first: int, following: cst.BaseStatement | None
) -> Sequence[cst.CSTNode] | None:
    """The statements between the stand-ins, where these are what they were."""
    if module.footer:
        return None
    inside: list[Any]
    if first == 0 and not level.indents:
        inside = [*module.header, *module.body[:-1]]
    else:
        inside = list(module.body[1:])
    if not _is_plain(inside.pop(), 0):
        return None
    for _ in level.indents:
        if len(inside) != 1 or not isinstance(inside[0], cst.If) or inside[0].leading_lines or inside[0].orelse:
            return None
        block = inside[0].body
        if not isinstance(block, cst.IndentedBlock) or block.footer:
            return None
        inside = list(block.body)
    if first:
        before = inside.pop(0)
        if isinstance(before, cst.If):
            if before.orelse or not isinstance(before.body, cst.IndentedBlock) or before.body.footer:
                return None
            if len(before.body.body) != 1:
                return None
        elif not _is_plain(before, 0):
            return None
    if following is not None:
        if not inside or not _is_plain(inside.pop(), len(following.leading_lines)):  # type: ignore[attr-defined]
            return None
    return inside if any(isinstance(one, cst.BaseStatement) for one in inside) else None


def _is_plain(statement: cst.CSTNode, leading: int) -> bool:
    return (
        isinstance(statement, cst.SimpleStatementLine)
        and len(statement.leading_lines) == leading
        and len(statement.body) == 1
        and isinstance(statement.body[0], cst.Pass)
    )


# -- the new tree -------------------------------------------------------------------------------------------------


def _joined(
    file: Tree, level: _Level, first: int, last: int, new: Sequence[cst.CSTNode], text: str, change: _Change
) -> Tree | None:
    """The tree with the new statements in the place of those from `first` to `last`."""
    body = level.body
    gone = body[first], body[last]
    full, caret = file.index.full, file.index.caret
    start, end = full[gone[0]][0], full[gone[1]][1]
    block = level.path[-1]
    header = [one for one in new if isinstance(one, cst.EmptyLine)]
    if first == 0 and isinstance(block, cst.Module):
        start = 0
    part = Index.of_part(file.tree, new, start, level.indents)
    if part.position != end + change.growth:
        return None
    carets = caret[gone[0]], caret[gone[1]]
    made: list[tuple[cst.CSTNode, cst.CSTNode]] = []
    statements = new[len(header) :]
    node: cst.CSTNode = block.with_changes(body=(*body[:first], *statements, *body[last + 1 :]))
    if start == 0:
        node = node.with_changes(header=header)
    made.append((block, node))
    for outer in reversed(level.path[:-1]):
        block, node = outer, _with(outer, block, node)
        made.append((block, node))
    growth = change.growth
    fulls, shown = (
        {
            at: place if place[1] <= start else (place[0] + growth, place[1] + growth)
            for at, place in old.items()
            if place[1] <= start or place[0] >= end
        }
        for old in (full, caret)
    )
    for before, after in made:
        fulls[after] = (full[before][0], full[before][1] + growth)
        if before in caret:
            left, right = caret[before]
            if left == carets[0][0]:
                left = part.caret[statements[0]][0]
            elif left > start:
                return None
            if right == carets[1][1]:
                right = part.caret[new[-1]][1]
            elif right >= end:
                right += growth
            else:
                return None
            shown[after] = (left, right)
    fulls.update(part.full)
    shown.update(part.caret)
    index = Index.of_part(file.tree, (), 0, ())
    index.full, index.caret = fulls, shown
    index.indent = {at: indent for at, indent in file.index.indent.items() if at in fulls}
    index.indent.update((after, file.index.indent[before]) for before, after in made if before in file.index.indent)
    index.indent.update(part.indent)
    assert isinstance(node, cst.Module)
    joined = Tree(file.path, text, node, index)
    joined.kept = {at: known for at, known in file.kept.items() if at in fulls}
    return joined


def _with(parent: cst.CSTNode, old: cst.CSTNode, new: cst.CSTNode) -> cst.CSTNode:
    """The node with one of its children replaced."""
    for field in fields(parent):
        value = getattr(parent, field.name)
        if value is old:
            return parent.with_changes(**{field.name: new})
        if isinstance(value, (list, tuple)) and any(one is old for one in value):
            return parent.with_changes(**{field.name: type(value)(new if one is old else one for one in value)})
    raise ValueError("a node of this tree is a child of the node around it")
