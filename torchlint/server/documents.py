"""What the editor has open: Python files, and notebooks whose cells are documents of their own."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.uris import to_fs_path, urlparse

from torchlint import notebook
from torchlint.diagnostic import Applicability, Diagnostic, Edit, Fix
from torchlint.encoding import encoded
from torchlint.server.text import Text

if TYPE_CHECKING:
    from torchlint.server.checking import Checked

# Edits of one document: its URI, its version, what to change.
Edits = tuple[str, "int | None", list[types.TextEdit]]


def path_of(uri: str, folder: str) -> str:
    """The file that a URI stands for; one that has no file yet is taken to lie in `folder`."""
    path = to_fs_path(uri)
    if path is not None:
        return os.path.abspath(path)
    return os.path.join(folder, os.path.basename(urlparse(uri)[2]) or "untitled.py")


class Document:
    """An open Python file. `result` is what was found last, `task` the check that waits or, if `running`, runs."""

    def __init__(self, uri: str, path: str, version: int | None, text: Text) -> None:
        self.uri = uri
        self.path = path
        self.version = version
        self.text = text
        self.revision = 0  # counts changes, also those that carry no version
        self.result: Checked | None = None
        self.task: asyncio.Task[None] | None = None
        self.running = False

    @property
    def uris(self) -> list[str]:
        """Where diagnostics are shown."""
        return [self.uri]

    def change(self, version: int | None, changes: Iterable[types.TextDocumentContentChangeEvent]) -> None:
        self.version = version
        self.revision += 1
        for change in changes:
            self.text = self.text.changed(change)

    def data(self) -> bytes:
        """The bytes that saving would write, in the encoding that the text declares."""
        return encoded(self.text.source)

    def place(self, diagnostic: Diagnostic) -> tuple[str, types.Range]:
        """Where a finding is shown."""
        return self.uri, _range(self.text, diagnostic)

    def edits(self, edits: Iterable[Edit], program: str) -> list[Edits]:
        """Edits of the checked text as the client needs them."""
        return [(self.uri, self.version, [self.text.edit(e) for e in sorted(set(edits))])]


class Cell:
    """One cell of an open notebook."""

    __slots__ = ("kind", "language", "text", "uri", "version")

    def __init__(self, item: types.TextDocumentItem, kind: types.NotebookCellKind, units: str) -> None:
        self.uri = item.uri
        self.kind = kind
        self.language = item.language_id
        self.version = item.version
        self.text = Text(item.text, units)


class NotebookDocument(Document):
    """An open notebook. Cells are numbered from 1, as in its file; its version is its own, not that of a cell."""

    def __init__(
        self, item: types.NotebookDocument, path: str, cells: Iterable[types.TextDocumentItem], u: str
    ) -> None:
        super().__init__(item.uri, path, item.version, Text("", u))
        self._metadata = item.metadata
        texts = {cell.uri: cell for cell in cells}
        self.cells = [Cell(texts[c.document], c.kind, u) for c in item.cells if c.document in texts]

    @property
    def uris(self) -> list[str]:
        return [cell.uri for cell in self.cells]

    def cell(self, uri: str) -> Cell | None:
        return next((cell for cell in self.cells if cell.uri == uri), None)

    def restructure(self, event: types.NotebookDocumentChangeEvent, version: int) -> list[str]:
        """Apply a change of the notebook; the URIs of the cells that are gone."""
        self.version = version
        self.revision += 1
        if event.metadata is not None:
            self._metadata = event.metadata
        changes = event.cells
        before = self.uris
        if changes is not None and changes.structure is not None:
            array = changes.structure.array
            known = {cell.uri: cell for cell in self.cells}
            opened = {item.uri: item for item in changes.structure.did_open or ()}
            fresh = [self._opened(c, opened, known) for c in array.cells or ()]
            self.cells[array.start : array.start + array.delete_count] = [c for c in fresh if c is not None]
        for change in (changes.text_content if changes is not None else None) or ():
            cell = self.cell(change.document.uri)
            if cell is not None:
                cell.version = change.document.version
                for one in change.changes:
                    cell.text = cell.text.changed(one)
        return sorted(set(before) - set(self.uris))

    def _opened(
        self, cell: types.NotebookCell, opened: dict[str, types.TextDocumentItem], known: dict[str, Cell]
    ) -> Cell | None:
        if cell.document in opened:
            return Cell(opened[cell.document], cell.kind, self.text.units)
        return known.get(cell.document)  # moved

    def data(self) -> bytes:
        """The notebook as a file of the same cells: what the engine reads of one is in it."""
        cells: list[dict[str, Any]] = []
        for cell in self.cells:
            code = cell.kind is types.NotebookCellKind.Code
            metadata = {"vscode": {"languageId": cell.language}} if code and cell.language != "python" else {}
            kind = "code" if code else "markdown"
            cells.append({"cell_type": kind, "metadata": metadata, "source": cell.text.source})
        content = {"nbformat": 4, "nbformat_minor": 5, "metadata": _plain(self._metadata), "cells": cells}
        return json.dumps(content, default=lambda _: None).encode("utf-8", "replace")

    def place(self, diagnostic: Diagnostic) -> tuple[str, types.Range]:
        number = diagnostic.cell or 1
        if not 0 < number <= len(self.cells):
            return self.uri, _range(self.text, diagnostic)
        cell = self.cells[number - 1]
        return cell.uri, _range(cell.text, diagnostic)

    def edits(self, edits: Iterable[Edit], program: str) -> list[Edits]:
        found: list[Edits] = []
        for number, part in notebook.parts(Fix(tuple(edits), Applicability.SAFE, ""), program):
            cell = self.cells[number - 1]
            found.append((cell.uri, cell.version, [cell.text.edit(e) for e in part.edits]))
        return found


def _range(text: Text, d: Diagnostic) -> types.Range:
    start = text.place(d.row, d.column)
    end = text.place(d.end_row, d.end_column)
    return types.Range(start, end if (end.line, end.character) >= (start.line, start.character) else start)


def _plain(metadata: Any) -> Any:
    """A notebook's own metadata as a file has them: kernelspec and language_info; clients wrap them differently."""
    if isinstance(metadata, dict):
        inner = metadata.get("metadata")
        return inner if isinstance(inner, dict) else metadata
    return {}
