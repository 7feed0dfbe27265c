"""An editor for tests: a real LSP client over stdio that keeps its texts and makes edits itself, in UTF-16 columns."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest_lsp
from lsprotocol import types
from pygls.protocol import default_converter
from pytest_lsp.client import DEFAULT_CLIENT_FEATURES, LanguageClient, register_lsp_features

PUBLISH = types.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS
LAUNCH = f"import sys; sys.path[:0] = {[str(Path(p).resolve()) for p in sys.path if p]!r}; "
COMMAND = [sys.executable, "-I", "-c", LAUNCH + "from torchlint.cli import main; sys.exit(main(['server', '--stdio']))"]


def units(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def at(text: str, position: types.Position) -> int:
    """The offset, in UTF-16 code units, of a position."""
    lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)
    return sum(len(units(line)) // 2 for line in lines[: position.line]) + position.character


def position(text: str, offset: int) -> types.Position:
    """The position of an offset in characters."""
    lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", text[:offset])
    return types.Position(len(lines) - 1, len(units(lines[-1])) // 2)


def span(text: str, inside: types.Range) -> str:
    """What a range covers."""
    return units(text)[2 * at(text, inside.start) : 2 * at(text, inside.end)].decode("utf-16-le")


class Editor(LanguageClient):
    """`texts` are the open documents; `published` is every (uri, version, diagnostics) that came, in order."""

    def __init__(self) -> None:
        super().__init__(converter_factory=default_converter)
        register_lsp_features(self, {m: f for m, f in DEFAULT_CLIENT_FEATURES.items() if m != PUBLISH})
        self.texts: dict[str, str] = {}
        self.versions: dict[str, int] = {}
        self.published: list[tuple[str, int | None, list[types.Diagnostic], float]] = []
        self.registered: list[types.Registration] = []

        @self.feature(PUBLISH)
        def publish(params: types.PublishDiagnosticsParams) -> None:
            now = time.perf_counter()
            self.published.append((params.uri, params.version, list(params.diagnostics), now))

        @self.feature(types.CLIENT_REGISTER_CAPABILITY)
        def register(params: types.RegistrationParams) -> None:
            self.registered += params.registrations

    # -- documents ------------------------------------------------------------------------------------------------

    def open(self, path: Path | str, text: str | None = None) -> str:
        uri = path.as_uri() if isinstance(path, Path) else path
        if text is None:
            assert isinstance(path, Path)
            text = path.read_bytes().decode("utf-8")
        self.texts[uri], self.versions[uri] = text, 1
        self.text_document_did_open(
            types.DidOpenTextDocumentParams(types.TextDocumentItem(uri, types.LanguageKind.Python, 1, text))
        )
        return uri

    def type(self, uri: str, old: str, new: str) -> int:
        """Replace the first `old` by `new`, as an incremental change; the new version."""
        text = self.texts[uri]
        start = text.index(old)
        inside = types.Range(position(text, start), position(text, start + len(old)))
        return self._change(uri, [types.TextDocumentContentChangePartial(range=inside, text=new)])

    def replace(self, uri: str, text: str) -> int:
        """Send the whole text anew; the new version."""
        self.texts[uri] = text
        self.versions[uri] += 1
        self._send(uri, [types.TextDocumentContentChangeWholeDocument(text)])
        return self.versions[uri]

    def _change(self, uri: str, changes: list[types.TextDocumentContentChangePartial]) -> int:
        for change in changes:
            text = self.texts[uri]
            raw = units(text)
            start, end = 2 * at(text, change.range.start), 2 * at(text, change.range.end)
            self.texts[uri] = (raw[:start] + units(change.text) + raw[end:]).decode("utf-16-le")
        self.versions[uri] += 1
        self._send(uri, changes)
        return self.versions[uri]

    def _send(self, uri: str, changes: Any) -> None:
        identifier = types.VersionedTextDocumentIdentifier(uri=uri, version=self.versions[uri])
        self.text_document_did_change(types.DidChangeTextDocumentParams(identifier, changes))

    def close(self, uri: str) -> None:
        self.text_document_did_close(types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(uri)))

    def perform(self, edit: types.WorkspaceEdit) -> dict[str, str]:
        """The texts that an edit leads to, by URI; nothing is sent."""
        results: dict[str, str] = {}
        for change in edit.document_changes or ():
            assert isinstance(change, types.TextDocumentEdit)
            uri = change.text_document.uri
            assert change.text_document.version == self.versions[uri]
            text = self.texts[uri]
            raw = units(text)
            for one in sorted(change.edits, key=lambda e: at(text, e.range.start), reverse=True):
                assert isinstance(one, types.TextEdit)
                start, end = 2 * at(text, one.range.start), 2 * at(text, one.range.end)
                raw = raw[:start] + units(one.new_text) + raw[end:]
            results[uri] = raw.decode("utf-16-le")
        return results

    # -- waiting --------------------------------------------------------------------------------------------------

    async def findings(self, uri: str, version: int | None = None, since: int = 0) -> list[types.Diagnostic]:
        """The diagnostics published for a version of a document (the current one), waited for."""
        wanted = self.versions.get(uri) if version is None else version
        for _ in range(600):
            for where, which, found, _ in reversed(self.published[since:]):
                if where == uri and which == wanted:
                    return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"no diagnostics for version {wanted} of {uri} in {self.published}")

    async def until(self, uri: str, codes: list[str], since: int = 0) -> list[types.Diagnostic]:
        """Wait until exactly these codes are shown for a document."""
        shown: list[Any] = []
        for _ in range(600):
            shown = [found for where, _, found, _ in self.published[since:] if where == uri][-1:]
            if shown and sorted(str(d.code) for d in shown[0]) == sorted(codes):
                return list(shown[0])
            await asyncio.sleep(0.05)
        raise AssertionError(f"{uri} never showed {codes}: {shown}")

    async def actions(self, uri: str, inside: types.Range, only: list[str] | None = None) -> list[types.CodeAction]:
        context = types.CodeActionContext([], only)
        params = types.CodeActionParams(types.TextDocumentIdentifier(uri), inside, context)
        found = await self.text_document_code_action_async(params)
        return [action for action in found or () if isinstance(action, types.CodeAction)]

    async def begin(self, *folders: Path, options: Any = None, watching: bool = True) -> types.InitializeResult:
        capabilities = pytest_lsp.client_capabilities("visual-studio-code")
        if not watching:
            assert capabilities.workspace is not None
            capabilities.workspace.did_change_watched_files = None
        sync = types.NotebookDocumentSyncClientCapabilities(dynamic_registration=True)
        capabilities.notebook_document = types.NotebookDocumentClientCapabilities(sync)
        return await self.initialize_session(
            types.InitializeParams(
                capabilities=capabilities,
                root_uri=folders[0].as_uri(),
                workspace_folders=[types.WorkspaceFolder(f.as_uri(), f.name) for f in folders],
                initialization_options=options,
            )
        )


def watched(*paths: Path) -> types.DidChangeWatchedFilesParams:
    """What a client that watches files says of changed ones."""
    return types.DidChangeWatchedFilesParams([types.FileEvent(p.as_uri(), types.FileChangeType.Changed) for p in paths])
