"""A file's tree without its whitespace, made from Python's own syntax tree at a tenth of what a libcst parse costs.

Most files hold no finding. For them rules and semantics need to know what the code says and never how it is printed,
so they run on a skeleton first: the same libcst node classes, of which only the fields that carry meaning are set.
Whatever asks for the rest (whitespace, an edit, a place that only code generation knows) raises `NeedsText`; then, and
also where a rule has something to report, the file is parsed by libcst itself and looked at anew. So every finding and
every fix comes from a full libcst tree; a skeleton may only show that there is none.
"""

from __future__ import annotations

import ast
from collections.abc import Collection
from functools import cached_property

import libcst as cst

from torchlint.nodes import walk
from torchlint.positions import Index
from torchlint.skeleton import nodes as bare
from torchlint.skeleton.missing import NeedsText
from torchlint.skeleton.statements import Statements
from torchlint.source import File


class Skeleton(File):
    """A file whose tree has no whitespace. `emptied` are the functions whose bodies are left out, as `...`.

    Raises NeedsText for syntax that is too rare to be worth a second way of reading it.
    """

    def __init__(self, path: str, text: str, tree: ast.Module, emptied: Collection[ast.AST] = ()) -> None:
        if "\r" in text.replace("\r\n", ""):
            raise NeedsText("lines that end in a carriage return")
        self._source = text.split("\n")
        made = Statements(self._source, emptied)
        super().__init__(path, text, bare.module(made.statements(tree.body)))
        self._origin = made.origin
        self._parsed = tree
        self._emptied = emptied

    def whole(self) -> Skeleton:
        return Skeleton(self.path, self.text, self._parsed) if self._emptied else self

    @cached_property
    def _at(self) -> dict[tuple[type, tuple[int, int]], cst.CSTNode]:
        """Without the nodes whose place is not known: asking for the twin of one needs the text."""
        found: dict[tuple[type, tuple[int, int]], cst.CSTNode] = {}
        for node in walk(self.tree):
            if node in self._origin:
                found.setdefault((node.__class__, self.caret(node)), node)
        return found

    @property
    def index(self) -> Index:
        raise NeedsText("index")

    def span(self, node: cst.CSTNode) -> tuple[int, int]:
        raise NeedsText("span")

    def indent(self, node: cst.CSTNode) -> str:
        raise NeedsText("indent")

    def caret(self, node: cst.CSTNode) -> tuple[int, int]:
        if isinstance(node, cst.SimpleStatementLine) and node.body:
            return self.caret(node.body[0])[0], self.caret(node.body[-1])[1]
        origin = self._origin.get(node)
        if origin is None:
            raise NeedsText("caret")
        row, last = origin.lineno, origin.end_lineno  # type: ignore[attr-defined]
        return (
            self._offset(row, origin.col_offset),  # type: ignore[attr-defined]
            self._offset(last, origin.end_col_offset),  # type: ignore[attr-defined]
        )

    def row(self, node: cst.CSTNode) -> int:
        origin = self._origin.get(node)
        return origin.lineno if origin is not None else super().row(node)  # type: ignore[attr-defined]

    def code(self, node: cst.CSTNode) -> str:
        if isinstance(node, cst.Arg):
            node = node.value
        start, end = self.caret(node)
        return self.text[start:end]

    def _offset(self, row: int, column: int) -> int:
        line = self._source[row - 1]
        if not line.isascii():
            column = len(line.encode()[:column].decode(errors="ignore"))
        return self.lines.starts[row - 1] + column
