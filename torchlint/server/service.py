"""The language server: what the editor tells and asks, answered from checks that run beside it.

Documents are kept here and not by pygls (see `text`). A check waits until typing pauses, is dropped when the document
changes before it ran, and its result is dropped when the document changed while it ran.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from lsprotocol import types
from pygls.lsp.server import LanguageServer
from pygls.protocol import LanguageServerProtocol
from pygls.protocol.language_server import lsp_method

from torchlint import __version__
from torchlint.locate import DECLARATIONS, LOCKS
from torchlint.server import actions
from torchlint.server.checking import Checked, Checker, Result, Worker
from torchlint.server.documents import Document, NotebookDocument, path_of
from torchlint.server.text import Text
from torchlint.unified import edits_between

DEBOUNCE = 0.15  # seconds without a change before a check; the client may set "debounce" in milliseconds
NEIGHBOURS = 0.6  # … before other open files are checked again whose findings depend on other files
SETTINGS = ("*.toml", "requirements*.txt", *(n for n in (*DECLARATIONS, *LOCKS) if not n.endswith((".toml", ".txt"))))
SOURCES = ("*.py", "*.ipynb")
NOTEBOOKS = types.NotebookDocumentSyncOptions(
    [
        types.NotebookDocumentFilterWithNotebook(
            notebook=types.NotebookDocumentFilterNotebookType("jupyter-notebook"),
            cells=[types.NotebookCellLanguage("python")],
        )
    ],
    save=True,
)


class Protocol(LanguageServerProtocol):
    """Hands documents on as they come, where pygls would first keep texts of its own."""

    @lsp_method(types.TEXT_DOCUMENT_DID_OPEN)
    def lsp_text_document__did_open(self, params: types.DidOpenTextDocumentParams) -> None:
        self.fm.features[types.TEXT_DOCUMENT_DID_OPEN](params)

    @lsp_method(types.TEXT_DOCUMENT_DID_CHANGE)
    def lsp_text_document__did_change(self, params: types.DidChangeTextDocumentParams) -> None:
        self.fm.features[types.TEXT_DOCUMENT_DID_CHANGE](params)

    @lsp_method(types.TEXT_DOCUMENT_DID_CLOSE)
    def lsp_text_document__did_close(self, params: types.DidCloseTextDocumentParams) -> None:
        self.fm.features[types.TEXT_DOCUMENT_DID_CLOSE](params)

    @lsp_method(types.NOTEBOOK_DOCUMENT_DID_OPEN)
    def lsp_notebook_document__did_open(self, params: types.DidOpenNotebookDocumentParams) -> None:
        self.fm.features[types.NOTEBOOK_DOCUMENT_DID_OPEN](params)

    @lsp_method(types.NOTEBOOK_DOCUMENT_DID_CHANGE)
    def lsp_notebook_document__did_change(self, params: types.DidChangeNotebookDocumentParams) -> None:
        self.fm.features[types.NOTEBOOK_DOCUMENT_DID_CHANGE](params)

    @lsp_method(types.NOTEBOOK_DOCUMENT_DID_CLOSE)
    def lsp_notebook_document__did_close(self, params: types.DidCloseNotebookDocumentParams) -> None:
        self.fm.features[types.NOTEBOOK_DOCUMENT_DID_CLOSE](params)


class Server(LanguageServer):
    """The open documents of one editor, and the checks of them."""

    def __init__(self) -> None:
        super().__init__("torchlint", __version__, protocol_cls=Protocol, notebook_document_sync=NOTEBOOKS)
        self.checker = Checker()
        self.worker = Worker()
        self.debounce = DEBOUNCE
        self.client = actions.Client(False, False, False)
        self._documents: dict[str, Document] = {}
        self._told: set[str] = set()

    # -- documents ------------------------------------------------------------------------------------------------

    @property
    def folder(self) -> str:
        """Where documents without a file are taken to lie."""
        return self.workspace.root_path or os.getcwd()

    @property
    def units(self) -> str:
        """What columns are counted in."""
        encoding = self.workspace.position_encoding
        return encoding.value if isinstance(encoding, types.PositionEncodingKind) else encoding or "utf-16"

    def opened(self, document: Document) -> None:
        self._documents[document.uri] = document
        self.schedule(document, 0.0)

    def closed(self, uri: str) -> None:
        document = self._documents.pop(uri, None)
        if document is not None:
            if document.task is not None:
                document.task.cancel()
            for one in document.uris:
                self._publish(one, None, [])

    def document(self, uri: str) -> Document | None:
        """The open document of a URI, for a cell its notebook."""
        found = self._documents.get(uri)
        if found is None:
            notebooks = (d for d in self._documents.values() if isinstance(d, NotebookDocument))
            found = next((d for d in notebooks if d.cell(uri) is not None), None)
        return found

    def changed(self, document: Document) -> None:
        """Check a document once typing pauses, and then those whose findings may depend on it."""
        self.schedule(document, self.debounce)
        self.recheck(asking_only=True, besides=document)

    def recheck(self, asking_only: bool = False, besides: Document | None = None) -> None:
        for other in self._documents.values():
            if other is not besides and (not asking_only or (other.result and other.result.answers.asked)):
                self.schedule(other, max(NEIGHBOURS, self.debounce) if asking_only else 0.0)

    # -- checks ---------------------------------------------------------------------------------------------------

    def schedule(self, document: Document, delay: float) -> asyncio.Task[None]:
        """Let a document be checked after a delay, in place of any check of it that waits or runs."""
        if document.task is not None:
            document.task.cancel()
        document.task = asyncio.get_running_loop().create_task(self._check(document, delay))
        return document.task

    async def _check(self, document: Document, delay: float) -> None:
        document.running = False
        if delay:
            await asyncio.sleep(delay)
        document.running = True
        revision = document.revision
        try:
            path, data = document.path, document.data()
            buffers = self._buffers(document)
            checked = await self.work(lambda: self.checker.check(path, data, revision, buffers))
        except Exception as error:
            self.log(f"checking {document.path} failed, please report this", error)
            checked = Checked(revision)
        if document.revision != revision or self._documents.get(document.uri) is not document:
            return  # a later check will say what holds now
        document.result = checked
        if checked.problem and checked.problem not in self._told:
            self._told.add(checked.problem)
            message = types.ShowMessageParams(types.MessageType.Error, f"torchlint: {checked.problem}")
            self.window_show_message(message)
        self._show(document, checked)
        self.worker.submit(lambda: self.checker.prepare(path, checked.program))

    def _show(self, document: Document, checked: Checked) -> None:
        shown: dict[str, list[types.Diagnostic]] = {uri: [] for uri in document.uris}
        for d in checked.diagnostics:
            uri, one = actions.diagnostic(document, d, self.client)
            shown.setdefault(uri, []).append(one)
            if d.code == "TL002":
                self.log(f"{d.path}: {d.message}")
        for uri, found in shown.items():
            self._publish(uri, document.version if uri == document.uri else None, found)

    def _publish(self, uri: str, version: int | None, found: list[types.Diagnostic]) -> None:
        self.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, found, version))

    def unshown(self, uris: list[str]) -> None:
        """Take the findings of cells that are gone off the screen."""
        for uri in uris:
            self._publish(uri, None, [])

    async def result(self, document: Document, at_once: bool = False) -> Checked | None:
        """What holds for a document as it is now; None where it changed or was closed meanwhile.

        Editors ask after every key: only `at_once` does not wait until typing pauses.
        """
        if document.result is None or document.result.revision != document.revision:
            task = document.task
            if task is None or task.done() or (at_once and not document.running):
                task = self.schedule(document, 0.0)
            await asyncio.wait({task})
        found = document.result
        return found if found is not None and found.revision == document.revision else None

    async def work(self, job: Callable[[], Result]) -> Result:
        return await asyncio.wrap_future(self.worker.submit(job))

    def _buffers(self, document: Document) -> dict[str, str]:
        """The programs of the other open documents, by path."""
        found: dict[str, str] = {}
        for other in self._documents.values():
            if other is document:
                continue
            if not isinstance(other, NotebookDocument):
                found[other.path] = other.text.source[other.text.mark :]
            elif other.result is not None:
                found[other.path] = other.result.program
        return found

    # -- answers --------------------------------------------------------------------------------------------------

    async def actions(self, params: types.CodeActionParams) -> list[types.CodeAction] | None:
        uri, only = params.text_document.uri, params.context.only
        document = self.document(uri)
        checked = await self.result(document, at_once=only is not None) if document is not None else None
        if document is None or checked is None or checked.project is None:
            return None
        found: list[types.CodeAction] = []
        if actions.wanted(actions.QUICK_FIX, only):
            chosen = actions.at(document, uri, params.range, checked.diagnostics)
            found += await self.work(lambda: actions.fixes(document, checked, chosen, self.client))
        kinds = (actions.FIX_ALL, actions.FIX_ALL_CELLS)[: 1 + isinstance(document, NotebookDocument)]
        kind = next((kind for kind in kinds if actions.wanted(kind, only)), None)
        if kind is not None:
            if only is None and self.client.resolves:
                if actions.has_safe_fixes(checked):
                    found.append(actions.fix_all(kind, document.uri, None))
            elif only is not None:
                edit = await self._fix_all(document, checked)
                found += [actions.fix_all(kind, document.uri, edit)] if edit is not None else []
        # Edits are made for the text that was checked: one that changed meanwhile gets none.
        return found if document.revision == checked.revision else None

    async def resolve(self, action: types.CodeAction) -> types.CodeAction:
        uri = action.data.get("uri") if isinstance(action.data, dict) else getattr(action.data, "uri", None)
        document = self._documents.get(str(uri))
        checked = await self.result(document, at_once=True) if document is not None else None
        if document is not None and checked is not None:
            action.edit = await self._fix_all(document, checked)
        return action

    async def _fix_all(self, document: Document, checked: Checked) -> types.WorkspaceEdit | None:
        path, data = document.path, document.data()
        done = await self.work(lambda: self.checker.fixed(path, data, checked))
        if done is None or document.revision != checked.revision:
            return None
        text, notes = done
        for note in notes:
            self.log(note)
        edits = edits_between(checked.program, text)
        return actions.workspace_edit(document.edits(edits, checked.program), self.client) if edits else None

    async def hover(self, params: types.HoverParams) -> types.Hover | None:
        document = self.document(params.text_document.uri)
        checked = await self.result(document) if document is not None else None
        if document is None or checked is None:
            return None
        here = types.Range(params.position, params.position)
        found = actions.at(document, params.text_document.uri, here, checked.diagnostics)
        page = await self.work(lambda: actions.pages(found)) if found else ""
        if not page:
            return None
        return types.Hover(types.MarkupContent(types.MarkupKind.Markdown, page), document.place(found[0])[1])

    # -- words ----------------------------------------------------------------------------------------------------

    def log(self, text: str, error: BaseException | None = None) -> None:
        """A line for the client's log, with the traceback of an error."""
        if error is not None:
            text = f"{text}:\n{''.join(traceback.format_exception(error))}"
        kind = types.MessageType.Error if error is not None else types.MessageType.Warning
        self.window_log_message(types.LogMessageParams(kind, text))

    def introduced(self, params: types.InitializeParams) -> None:
        """Note what the client understands and wants."""
        documents, workspace = params.capabilities.text_document, params.capabilities.workspace
        action = documents.code_action if documents else None
        resolve = action.resolve_support if action else None
        published = documents.publish_diagnostics if documents else None
        edit = workspace.workspace_edit if workspace else None
        self.client = actions.Client(
            versions=bool(edit and edit.document_changes),
            resolves=bool(action and action.data_support and resolve and "edit" in resolve.properties),
            tags=bool(published and published.tag_support),
        )
        options: Any = params.initialization_options
        value = options.get("debounce") if isinstance(options, dict) else getattr(options, "debounce", None)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
            self.debounce = value / 1000

    def watch_files(self) -> None:
        """Ask the client to tell of changed settings and sources, if it can."""
        workspace = self.client_capabilities.workspace
        watched = workspace.did_change_watched_files if workspace else None
        if watched is None or not watched.dynamic_registration:
            return
        watchers = [types.FileSystemWatcher(f"**/{pattern}") for pattern in (*SETTINGS, *SOURCES)]
        options = types.DidChangeWatchedFilesRegistrationOptions(watchers)
        registration = types.Registration("torchlint-files", types.WORKSPACE_DID_CHANGE_WATCHED_FILES, options)
        self.client_register_capability(types.RegistrationParams([registration]))


def _is_python(item: types.TextDocumentItem) -> bool:
    """Notebooks come as such: neither as the JSON of their file nor cell by cell."""
    if item.uri.endswith(".ipynb") or item.uri.startswith("vscode-notebook-cell:"):
        return False
    return item.language_id == "python" or item.uri.endswith(".py")


def _is_source(change: types.FileEvent) -> bool:
    """Whether a changed file is code and says nothing of the project."""
    return change.uri.endswith((".py", ".ipynb")) and change.uri.rpartition("/")[2] not in DECLARATIONS


def build() -> Server:
    """A server that listens to everything it knows."""
    server = Server()

    @server.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        server.introduced(params)

    @server.feature(types.INITIALIZED)
    def initialized(params: types.InitializedParams) -> None:
        server.watch_files()
        server.worker.submit(server.checker.warm_up)

    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    def did_open(params: types.DidOpenTextDocumentParams) -> None:
        item = params.text_document
        if _is_python(item):
            text = Text(item.text, server.units)
            server.opened(Document(item.uri, path_of(item.uri, server.folder), item.version, text))

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    def did_change(params: types.DidChangeTextDocumentParams) -> None:
        document = server.document(params.text_document.uri)
        if document is not None:
            document.change(params.text_document.version, params.content_changes)
            server.changed(document)

    @server.feature(types.TEXT_DOCUMENT_DID_SAVE)
    def did_save(params: types.DidSaveTextDocumentParams) -> None:
        server.recheck(asking_only=True)

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def did_close(params: types.DidCloseTextDocumentParams) -> None:
        server.closed(params.text_document.uri)

    @server.feature(types.NOTEBOOK_DOCUMENT_DID_OPEN)
    def notebook_did_open(params: types.DidOpenNotebookDocumentParams) -> None:
        item = params.notebook_document
        path = path_of(item.uri, server.folder)
        server.opened(NotebookDocument(item, path, params.cell_text_documents, server.units))

    @server.feature(types.NOTEBOOK_DOCUMENT_DID_CHANGE)
    def notebook_did_change(params: types.DidChangeNotebookDocumentParams) -> None:
        document = server.document(params.notebook_document.uri)
        if isinstance(document, NotebookDocument):
            server.unshown(document.restructure(params.change, params.notebook_document.version))
            server.changed(document)

    @server.feature(types.NOTEBOOK_DOCUMENT_DID_CLOSE)
    def notebook_did_close(params: types.DidCloseNotebookDocumentParams) -> None:
        server.closed(params.notebook_document.uri)

    @server.feature(types.NOTEBOOK_DOCUMENT_DID_SAVE)
    def notebook_did_save(params: types.DidSaveNotebookDocumentParams) -> None:
        server.recheck(asking_only=True)

    @server.feature(types.WORKSPACE_DID_CHANGE_WATCHED_FILES)
    def did_change_watched_files(params: types.DidChangeWatchedFilesParams) -> None:
        server.worker.submit(server.checker.nearest.forget_files)
        server.recheck(asking_only=all(map(_is_source, params.changes)))

    @server.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)
    def did_change_configuration(params: types.DidChangeConfigurationParams) -> None:
        server.recheck()

    kinds = [types.CodeActionKind.QuickFix, actions.FIX_ALL, actions.FIX_ALL_CELLS]

    @server.feature(types.TEXT_DOCUMENT_CODE_ACTION, types.CodeActionOptions(kinds, resolve_provider=True))
    async def code_action(params: types.CodeActionParams) -> list[types.CodeAction] | None:
        return await server.actions(params)

    @server.feature(types.CODE_ACTION_RESOLVE)
    async def resolve(params: types.CodeAction) -> types.CodeAction:
        return await server.resolve(params)

    @server.feature(types.TEXT_DOCUMENT_HOVER)
    async def hover(params: types.HoverParams) -> types.Hover | None:
        return await server.hover(params)

    return server


def serve() -> int:
    """Speak with one editor over standard input and output; the exit code."""
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if hasattr(signal, name):  # nothing to put in order: end at once, where Python would wait for the next message
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    server = build()
    channel = sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever prints must not disturb the conversation
    server.start_io(sys.stdin.buffer, channel)
    return 0 if server.protocol._shutdown else 1
