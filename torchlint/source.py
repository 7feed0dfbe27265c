"""One source file: its text, its libcst tree, where each node lies, and how a changed node becomes a text edit.

The tree may be sparse (`prefilter` blanks the statements that cannot matter and keeps the line numbers), so positions
travel as (line, column) and are turned into offsets of the full text here.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar, cast

import libcst as cst
from libcst._nodes.internal import CodegenState

from torchlint.diagnostic import Edit
from torchlint.nodes import children_of, walk
from torchlint.positions import Index, Lines

N = TypeVar("N", bound=cst.CSTNode)

# Form feeds right before a statement, which libcst would leave out of what it gives back.
_LOST = re.compile(r"^\f+(?=[^\s#])", re.MULTILINE)


class File:
    """A parsed file. `text` is the decoded source without BOM; `tree` may hold fewer statements than `text`."""

    def __init__(self, path: str, text: str, tree: cst.Module, tree_text: str | None = None) -> None:
        self.path = path
        self.text = text
        self.tree = tree
        self._tree_text = text if tree_text is None else tree_text
        self._mentioned: dict[re.Pattern[str], bool] = {}
        self.kept: dict[cst.CSTNode, Any] = {}  # what follows from a node alone, wherever in a file it stands

    @classmethod
    def parse(cls, path: str, text: str) -> File:
        """Parse the whole text. Raises `libcst.ParserSyntaxError`."""
        if "\f" not in text:
            return cls(path, text, cst.parse_module(text))
        read = _LOST.sub("", text)
        return cls(path, text, cst.parse_module(read), read)

    def forget(self) -> None:
        """Drop what was worked out of the tree; asked again, it is worked out anew."""
        for name in ("index", "_survey", "_by_class", "_at"):
            self.__dict__.pop(name, None)

    def mentions(self, pattern: re.Pattern[str]) -> bool:
        """Whether the pattern matches anywhere in the text, comments included. Searched for once."""
        found = self._mentioned.get(pattern)
        if found is None:
            found = self._mentioned[pattern] = pattern.search(self.text) is not None
        return found

    @cached_property
    def lines(self) -> Lines:
        return Lines(self.text)

    @cached_property
    def _tree_lines(self) -> Lines:
        return self.lines if self._tree_text is self.text else Lines(self._tree_text)

    def twin(self, node: N, other: File) -> N | None:
        """The node of another tree of the same text at the place of this one's `node`; None if it is blanked there."""
        if other is self:
            return node
        return cast("N | None", other._at.get((type(node), self.caret(node))))

    @cached_property
    def _at(self) -> dict[tuple[type, tuple[int, int]], cst.CSTNode]:
        """The nodes by class and place; of several at one place the outermost."""
        found: dict[tuple[type, tuple[int, int]], cst.CSTNode] = {}
        for node in self.nodes:
            found.setdefault((node.__class__, self.caret(node)), node)
        return found

    def whole(self) -> File:
        """The file with all of its text in the tree: this one, where nothing was left out."""
        if self._tree_text is self.text or self._tree_text == _LOST.sub("", self.text):
            return self
        return File.parse(self.path, self.text)

    @cached_property
    def index(self) -> Index:
        return Index(self.tree)

    @cached_property
    def _survey(self) -> tuple[list[cst.CSTNode], dict[cst.CSTNode, cst.CSTNode]]:
        nodes: list[cst.CSTNode] = []
        parents: dict[cst.CSTNode, cst.CSTNode] = {}
        stack: list[cst.CSTNode] = [self.tree]
        pop, listed, add = stack.pop, children_of, nodes.append
        while stack:
            node = pop()
            add(node)
            below = listed[node.__class__](node)
            if below:
                for child in below:
                    parents[child] = node
                below.reverse()
                stack += below
        return nodes, parents

    @cached_property
    def _by_class(self) -> dict[type, list[cst.CSTNode]]:
        found: dict[type, list[cst.CSTNode]] = {}
        for node in self._survey[0]:
            found.setdefault(node.__class__, []).append(node)
        return found

    @property
    def nodes(self) -> list[cst.CSTNode]:
        """Every node of the tree in source order."""
        return self._survey[0]

    @property
    def parents(self) -> dict[cst.CSTNode, cst.CSTNode]:
        return self._survey[1]

    def all(self, kind: type[N]) -> list[N]:
        """Every node of exactly this class, in source order."""
        return cast("list[N]", self._by_class.get(kind, []))

    @cached_property
    def _order(self) -> dict[cst.CSTNode, int]:
        return {node: number for number, node in enumerate(self.nodes)}

    def within(self, node: cst.CSTNode, kind: type[N]) -> list[N]:
        """Every node of exactly this class at or under `node`, in source order, without a walk."""
        number, members = self._order.__getitem__, self.all(kind)
        last = node
        while below := children_of[last.__class__](last):
            last = below[-1]
        start = bisect_left(members, number(node), key=number)
        return members[start : bisect_left(members, number(last) + 1, start, key=number)]

    def parent(self, node: cst.CSTNode) -> cst.CSTNode | None:
        return self.parents.get(node)

    def ancestors(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """The node's parents, innermost first, up to the module."""
        up = self._survey[1].get
        parent = up(node)
        while parent is not None:
            yield parent
            parent = up(parent)

    def enclosing(self, node: cst.CSTNode, kind: type[N] | tuple[type[N], ...]) -> N | None:
        """The innermost ancestor of that class, or None."""
        for ancestor in self.ancestors(node):
            if isinstance(ancestor, kind):
                return ancestor
        return None

    def statement(self, node: cst.CSTNode) -> cst.SimpleStatementLine | cst.BaseCompoundStatement:
        """The statement line or compound statement that holds the node (itself, if it is one)."""
        if isinstance(node, (cst.SimpleStatementLine, cst.BaseCompoundStatement)):
            return node
        for ancestor in self.ancestors(node):
            if isinstance(ancestor, (cst.SimpleStatementLine, cst.BaseCompoundStatement)):
                return ancestor
        raise ValueError("a node of this file's tree has a statement around it")

    # -- where things are ---------------------------------------------------------------------------------------

    def _to_text(self, offset: int, end: bool = False) -> int:
        if self._tree_text is self.text:
            return offset
        row, column = self._tree_lines.locate(offset)
        found = self.lines.offset(row, column)
        if "\f" in self.text and not (end and column == 0):
            lost = _LOST.match(self.text, self.lines.starts[row])
            return found + len(lost[0]) if lost else found
        return found

    def span(self, node: cst.CSTNode) -> tuple[int, int]:
        """Offsets of everything that code generation prints for the node: what an edit must replace."""
        start, end = self.index.full[node]
        return self._to_text(start), self._to_text(end, end=True)

    def caret(self, node: cst.CSTNode) -> tuple[int, int]:
        """Offsets of the node as a reader sees it: without parentheses, decorators, leading lines, newline."""
        start, end = self.index.caret.get(node) or self.index.full[node]
        return self._to_text(start), self._to_text(end, end=True)

    def row(self, node: cst.CSTNode) -> int:
        """The 1-based line on which the node starts."""
        return self.lines.locate(self.caret(node)[0])[0] + 1

    def code(self, node: cst.CSTNode) -> str:
        """The node's source text, as a reader sees it, parentheses of its own included."""
        if isinstance(node, (cst.BaseExpression, cst.Arg)):
            return self._print(node, "")  # cheaper than the index, which most files never need
        start, end = self.caret(node)
        return self.text[start:end]

    def indent(self, node: cst.CSTNode) -> str:
        """The indentation of the line on which the node's statement starts."""
        return self.index.indent[self.statement(node)]

    @property
    def newline(self) -> str:
        return self.tree.default_newline

    @property
    def indent_unit(self) -> str:
        return self.tree.default_indent

    # -- edits ----------------------------------------------------------------------------------------------------

    def replace(self, old: cst.CSTNode, new: cst.CSTNode | str) -> Edit:
        """Put `new` where `old` stands. Text is taken as it is; nodes are printed at `old`'s indentation."""
        start, end = self.span(old)
        if isinstance(new, cst.CSTNode):
            new = self._print(new, self.indent(old))
        elif isinstance(old, (cst.BaseStatement, cst.BaseSmallStatement)):
            start, end = self.caret(old)
        return Edit(start, end, new)

    def _print(self, node: cst.CSTNode, indent: str) -> str:
        state = CodegenState(default_indent=self.indent_unit, default_newline=self.newline)
        if indent:
            state.increase_indent(indent)
        node._codegen(state)
        return "".join(state.tokens)

    def line_start(self, node: cst.CSTNode) -> int:
        """Offset of the first column of the line on which the node (decorators included) starts."""
        first: cst.CSTNode = node
        if isinstance(node, (cst.FunctionDef, cst.ClassDef)) and node.decorators:
            first = node.decorators[0]
        row, _ = self.lines.locate(self.caret(first)[0])
        return self.lines.starts[row]

    def line_end(self, node: cst.CSTNode) -> int:
        """Offset just behind the newline of the line on which the node's own code ends (comment included)."""
        _, end = self.caret(node)
        row, _ = self.lines.locate(max(end - 1, 0)) if end else (0, 0)
        starts = self.lines.starts
        return starts[row + 1] if row + 1 < len(starts) else len(self.text)

    def insert_before(self, statement: cst.CSTNode, lines: str | Sequence[str]) -> Edit:
        """New lines above a statement, at its indentation."""
        start = self.line_start(statement)
        return Edit(start, start, self._lines(lines, self.indent(statement)))

    def insert_after(self, statement: cst.CSTNode, lines: str | Sequence[str]) -> Edit:
        """New lines below a statement and its trailing comment, at its indentation."""
        end = self.line_end(statement)
        text = self._lines(lines, self.indent(statement))
        if end == len(self.text) and not self.text.endswith(("\n", "\r")):
            text = self.newline + text.removesuffix(self.newline)
        return Edit(end, end, text)

    def insert_first(self, block: cst.BaseSuite, lines: str | Sequence[str]) -> Edit:
        """New lines at the top of an indented block."""
        if not isinstance(block, cst.IndentedBlock):
            raise ValueError("insert_first needs an indented block, not a one-line suite")
        return self.insert_before(block.body[0], lines)

    def delete(self, statement: cst.CSTNode) -> Edit:
        """Remove a statement's lines; a comment behind it or above it stays (on a line of its own)."""
        line = self.statement(statement)
        start, end = self.line_start(line), self.line_end(line)
        code_end = self.caret(line)[1]
        rest = self.text[code_end:end]
        kept = ""
        if "#" in rest:
            kept = self.indent(line) + rest[rest.index("#") :]
        parent = self.parent(line)
        if (
            isinstance(parent, (cst.IndentedBlock, cst.Module))
            and len(parent.body) == 1
            and not isinstance(parent, cst.Module)
        ):
            kept = self.indent(line) + "pass" + (rest if "#" in rest else self.newline)
        return Edit(start, end, kept)

    def reindent(self, statements: Iterable[cst.CSTNode], header: str) -> tuple[Edit, ...]:
        """Put consecutive statements under a new header line (`with torch.no_grad():`), one level deeper.

        Lines inside multi-line strings are left alone, because their blanks are data.
        """
        body = list(statements)
        start, end = self.line_start(body[0]), max(self.caret(s)[1] for s in body)
        indent, unit = self.indent(body[0]), self.indent_unit
        frozen = self._string_rows(body)
        edits = [Edit(start, start, indent + header + self.newline)]
        first_row, last_row = self.lines.locate(start)[0], self.lines.locate(end - 1)[0]
        for row in range(first_row, last_row + 1):
            at = self.lines.starts[row]
            line_end = self.lines.starts[row + 1] if row + 1 < len(self.lines.starts) else len(self.text)
            if row not in frozen and self.text[at:line_end].strip():
                edits.append(Edit(at, at, unit))
        merged = edits[0]
        if len(edits) > 1 and edits[1].start == merged.start:
            edits[:2] = [Edit(start, start, merged.text + edits[1].text)]
        return tuple(edits)

    def _string_rows(self, nodes: Iterable[cst.CSTNode]) -> set[int]:
        """0-based rows that begin inside a multi-line string."""
        rows: set[int] = set()
        for node in nodes:
            for n in walk(node):
                if isinstance(n, (cst.SimpleString, cst.FormattedString)):
                    start, end = self.caret(n)
                    first, last = self.lines.locate(start)[0], self.lines.locate(end)[0]
                    rows.update(range(first + 1, last + 1))
        return rows

    def _lines(self, lines: str | Sequence[str], indent: str) -> str:
        if isinstance(lines, str):
            lines = lines.split("\n")
        return "".join((indent + line if line else "") + self.newline for line in lines)
