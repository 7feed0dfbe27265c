"""The language server, spoken to by a real client over stdio, about real files."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_lsp
from lsp_editor import COMMAND, LAUNCH, Editor, position, span, watched
from lsprotocol import types
from pytest_lsp import ClientServerConfig

from torchlint import cli
from torchlint.run import read
from torchlint.server.service import DEBOUNCE
from torchlint.server.text import Text
from torchlint.unified import edits_between

FIXTURES = Path(__file__).parent.parent / "fixtures"
SAMPLES = ("eval_without_no_grad", "missing_zero_grad", "blocking_transfer", "row_loop", "legacy_amp", "cat_in_loop")
QUICK_FIX = "quickfix"
FIX_ALL = "source.fixAll.torchlint"
BAD = """\
import torch


def validate(model: torch.nn.Module, loader):
    model.eval()
    correct = 0
    for x, y in loader:
        correct += (model(x).argmax(1) == y).sum().item()
    return correct
"""
GOOD = BAD.replace("def validate", "@torch.no_grad()\ndef validate")
TRAIN = """\
import torch
from torch import nn
from gradients import fresh_start


def train(model: nn.Module, loader, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for _ in range(epochs):
        for x, y in loader:
            fresh_start(optimizer)
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
"""
CLEARS = "def fresh_start(optimizer):\n    optimizer.zero_grad()\n"
CLEARS_NOTHING = "def fresh_start(optimizer):\n    print(optimizer)\n"


@pytest_lsp.fixture(scope="module", config=ClientServerConfig(server_command=COMMAND, client_factory=Editor))
async def editor(client: Editor, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[None]:
    result = await client.begin(tmp_path_factory.mktemp("workspace"), options={"debounce": 60})
    assert result.server_info is not None
    assert result.server_info.name == "torchlint"
    yield
    await client.shutdown_session()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("[tool.torchlint]\n")
    return tmp_path


def place(text: str, d: types.Diagnostic) -> tuple[Any, ...]:
    """A diagnostic as `torchlint check --output-format json` gives it."""
    rows = text.split("\n")
    start, end = d.range.start, d.range.end
    columns = [len(rows[p.line].encode("utf-16-le")[: 2 * p.character].decode("utf-16-le")) + 1 for p in (start, end)]
    message = d.message.rpartition(" (")[0]
    return (d.code, message, start.line + 1, columns[0], end.line + 1, columns[1])


def checked(path: Path, capsys: pytest.CaptureFixture[str]) -> list[tuple[Any, ...]]:
    """What the command line finds."""
    cli.main(["check", str(path), "--output-format", "json", "--no-cache"])
    found = []
    for d in json.loads(capsys.readouterr().out):
        start, end = d["location"], d["end_location"]
        found.append((d["code"], d["message"], start["row"], start["column"], end["row"], end["column"]))
    return sorted(found)


# -- diagnostics ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("name", SAMPLES)
async def test_findings_are_those_of_check(editor: Editor, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = FIXTURES / name / "bad.py"
    uri = editor.open(path)
    found = await editor.findings(uri)
    assert found
    assert sorted(place(editor.texts[uri], d) for d in found) == checked(path, capsys)
    assert {d.source for d in found} == {"torchlint"}
    editor.close(uri)
    assert await editor.until(uri, []) == []


@pytest.mark.asyncio
async def test_severities_and_tags(editor: Editor, project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.torchlint]\nseverity = {TL201 = 'error', TL013 = 'info'}\n")
    text = BAD + "\n\nscaler = torch.cuda.amp.GradScaler()\nx = 1  # torchlint: ignore[TL201]\n"
    uri = editor.open(project / "a.py", text)
    found = {d.code: d for d in await editor.findings(uri)}
    assert found["TL201"].severity is types.DiagnosticSeverity.Error
    assert found["TL013"].severity is types.DiagnosticSeverity.Information
    assert found["TL013"].tags == (types.DiagnosticTag.Deprecated,)
    assert found["TL003"].tags == (types.DiagnosticTag.Unnecessary,)
    assert found["TL201"].tags is None


@pytest.mark.asyncio
async def test_typing_publishes_only_the_newest_version(editor: Editor, project: Path) -> None:
    uri = editor.open(project / "a.py", BAD)
    assert [d.code for d in await editor.findings(uri)] == ["TL201"]
    before = len(editor.published)
    for count in range(8):
        editor.type(uri, f"correct = {count}", f"correct = {count + 1}")
        await asyncio.sleep(0.005)
    version = editor.replace(uri, GOOD)
    assert await editor.findings(uri) == []
    assert [v for where, v, *_ in editor.published[before:] if where == uri] == [version]


@pytest.mark.asyncio
async def test_a_file_that_does_not_parse(editor: Editor, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "a.py"
    path.write_text("x = 'ünï'\ndef f(:\n    pass\n", encoding="utf-8")
    uri = editor.open(path)
    found = await editor.findings(uri)
    assert [d.code for d in found] == ["TL001"]
    assert [place(editor.texts[uri], d) for d in found] == checked(path, capsys)
    editor.replace(uri, BAD)
    assert [d.code for d in await editor.findings(uri)] == ["TL201"]


@pytest.mark.asyncio
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
async def test_positions_count_utf16(editor: Editor, project: Path, newline: str, mark: str) -> None:
    before = '"""🔥🔥 \f \u2028 \x85 𝕏"""\n' + BAD.replace("(model(x)", "len('🔥é') * (model(x)")
    text = mark + before.replace("\n", newline)
    uri = editor.open(project / "a.py", text)
    (d,) = await editor.findings(uri)
    assert span(text, d.range) == "model(x)"
    # A change behind characters of two units, then the fix: both must land where they are meant to.
    editor.type(uri, "é", "🔥e")
    text = editor.texts[uri]
    (d,) = await editor.findings(uri)
    assert span(text, d.range) == "model(x)"
    fix, ignore, _ = await editor.actions(uri, d.range)
    assert fix.edit is not None
    assert ignore.edit is not None
    fixed = editor.perform(fix.edit)[uri]
    assert fixed == text.replace("def validate", f"@torch.no_grad(){newline}def validate")
    ignored = editor.perform(ignore.edit)[uri]
    assert ignored == text.replace(".item()", ".item()  # torchlint: ignore[TL201]")


@pytest.mark.asyncio
async def test_a_document_without_a_file(editor: Editor) -> None:
    uri = editor.open("untitled:Untitled-1", BAD)
    assert [d.code for d in await editor.findings(uri)] == ["TL201"]


@pytest.mark.asyncio
async def test_excluded_files_are_left_alone(editor: Editor, project: Path) -> None:
    uri = editor.open(project / ".venv" / "lib" / "a.py", BAD)
    assert await editor.findings(uri) == []


# -- actions ----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["eval_without_no_grad", "missing_zero_grad", "legacy_amp", "row_loop"])
async def test_fixes_are_offered_safe_first_and_labelled(editor: Editor, name: str) -> None:
    path = FIXTURES / name / "bad.py"
    uri = editor.open(path)
    seen = set()
    for d in await editor.findings(uri):
        found = [a for a in await editor.actions(uri, d.range, [QUICK_FIX]) if d.code in a.title]
        kinds = [
            "ignore" if ": ignore TL" in a.title else "unsafe" if "unsafe, " in a.title else
            "suggestion" if "suggestion, " in a.title else "safe" for a in found
        ]  # fmt: skip
        assert kinds == sorted(kinds, key=["safe", "unsafe", "suggestion", "ignore"].index)
        assert [bool(a.is_preferred) for a in found] == [kind == "safe" for kind in kinds]
        for action in found:
            assert action.edit is not None
            compile(editor.perform(action.edit)[uri], "fixed", "exec")
        seen |= set(kinds)
    assert seen & {"safe", "unsafe", "suggestion"}
    assert "ignore" in seen
    editor.close(uri)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["eval_without_no_grad", "legacy_amp", "unused_suppression"])
async def test_fix_all_is_what_fix_apply_writes(editor: Editor, name: str, project: Path) -> None:
    path = project / "a.py"
    path.write_bytes((FIXTURES / name / "bad.py").read_bytes())
    uri = editor.open(path)
    await editor.findings(uri)
    everything = types.Range(types.Position(0, 0), types.Position(0, 0))
    (action,) = await editor.actions(uri, everything, ["source.fixAll"])
    assert action.kind == FIX_ALL
    assert action.edit is not None
    (lazy,) = [a for a in await editor.actions(uri, everything) if a.kind == FIX_ALL]
    assert lazy.edit is None
    resolved = await editor.code_action_resolve_async(lazy)
    assert resolved.edit == action.edit
    cli.main(["fix", str(path), "--apply", "--quiet", "--no-cache"])
    assert editor.perform(action.edit)[uri] == read(str(path)).text
    assert await editor.actions(uri, everything, ["refactor"]) == []


@pytest.mark.asyncio
async def test_actions_wait_for_the_check_of_the_text_as_it_is(editor: Editor, project: Path) -> None:
    uri = editor.open(project / "a.py", BAD)
    await editor.findings(uri)
    editor.type(uri, "import torch\n", "import torch\n\n\n\n")
    at = position(editor.texts[uri], editor.texts[uri].index("model(x)"))
    actions = await editor.actions(uri, types.Range(at, at), [QUICK_FIX])
    assert actions[0].edit is not None
    assert editor.perform(actions[0].edit)[uri] == editor.texts[uri].replace(BAD[14:], GOOD[14:])


@pytest.mark.asyncio
async def test_hover_shows_the_page(editor: Editor, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = editor.open(project / "a.py", BAD)
    (d,) = await editor.findings(uri)
    document = types.TextDocumentIdentifier(uri)
    hover = await editor.text_document_hover_async(types.HoverParams(document, d.range.start))
    assert hover is not None
    assert hover.range == d.range
    assert isinstance(hover.contents, types.MarkupContent)
    cli.main(["rule", "TL201"])
    page = capsys.readouterr().out.strip()
    assert hover.contents.value.split() == page.split()
    assert max(map(len, page.split("\n"))) <= 120 < max(map(len, hover.contents.value.split("\n")))  # editors wrap
    assert await editor.text_document_hover_async(types.HoverParams(document, types.Position(0, 0))) is None


# -- settings and other files -----------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_settings_are_read_again(editor: Editor, project: Path) -> None:
    uri = editor.open(project / "a.py", BAD)
    await editor.until(uri, ["TL201"])
    settings = project / "pyproject.toml"
    settings.write_text("[tool.torchlint]\nignore = ['TL201']\n")
    editor.workspace_did_change_watched_files(watched(settings))
    await editor.until(uri, [])
    settings.write_text("[tool.torchlint]\nignroe = ['TL201']\n")
    told = len(editor.messages)
    editor.workspace_did_change_watched_files(watched(settings))
    editor.type(uri, "correct = 0", "correct = 1")
    assert await editor.findings(uri) == []  # as for the command line: nothing is checked under such settings
    assert any("unknown key 'ignroe'" in m.message for m in editor.messages[told:])
    settings.write_text("[tool.torchlint]\n")
    editor.type(uri, "correct = 1", "correct = 0")  # a client that watches nothing
    await editor.until(uri, ["TL201"])
    patterns = [w["globPattern"] for r in editor.registered for w in _options(r)["watchers"]]
    assert {"**/*.toml", "**/*.py"} <= set(patterns)


def _options(registration: types.Registration) -> Any:
    options = registration.register_options
    return options if isinstance(options, dict) else json.loads(json.dumps(options, default=vars))


@pytest.mark.asyncio
async def test_every_file_has_its_nearest_settings(editor: Editor, tmp_path: Path) -> None:
    for name, ignore in (("one", "TL201"), ("two", "TL101")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "torchlint.toml").write_text(f"ignore = ['{ignore}']\n")
    first = editor.open(tmp_path / "one" / "a.py", BAD)
    second = editor.open(tmp_path / "two" / "a.py", BAD)
    assert await editor.findings(first) == []
    assert [d.code for d in await editor.findings(second)] == ["TL201"]


@pytest.mark.asyncio
async def test_unsaved_texts_of_other_files_answer_questions(editor: Editor, project: Path) -> None:
    (project / "gradients.py").write_text(CLEARS_NOTHING)
    train = editor.open(project / "train.py", TRAIN)
    await editor.until(train, ["TL101"])
    other = editor.open(project / "gradients.py")
    editor.replace(other, CLEARS)
    await editor.until(train, [], since=len(editor.published))
    editor.replace(other, CLEARS_NOTHING)
    await editor.until(train, ["TL101"], since=len(editor.published))
    editor.close(other)
    (project / "gradients.py").write_text(CLEARS)
    editor.workspace_did_change_watched_files(watched(project / "gradients.py"))
    await editor.until(train, [], since=len(editor.published))


# -- notebooks --------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_notebooks_are_one_program(editor: Editor, project: Path) -> None:
    names = [f"vscode-notebook-cell:{(project / 'n.ipynb').as_posix()}#{i}" for i in range(3)]
    head, tail = BAD.split("\n\n\n")
    sources = ["%pip install torch\n" + head, "# words", tail]
    kinds = [types.NotebookCellKind.Code, types.NotebookCellKind.Markup, types.NotebookCellKind.Code]
    languages = ["python", "markdown", "python"]
    notebook = (project / "n.ipynb").as_uri()
    editor.notebook_document_did_open(
        types.DidOpenNotebookDocumentParams(
            types.NotebookDocument(
                notebook, "jupyter-notebook", 1, [types.NotebookCell(k, n) for k, n in zip(kinds, names)]
            ),
            [types.TextDocumentItem(n, lang, 1, s) for n, lang, s in zip(names, languages, sources)],
        )
    )
    (d,) = await editor.until(names[2], ["TL201"])
    assert span(tail, d.range) == "model(x)"
    editor.texts[names[2]], editor.versions[names[2]] = tail, 1
    fix = (await editor.actions(names[2], d.range, [QUICK_FIX]))[0]
    assert fix.edit is not None
    assert editor.perform(fix.edit) == {names[2]: "@torch.no_grad()\n" + tail}
    # On saving, VS Code asks for the whole notebook's fixes by a name of their own, at its first cell.
    start = types.Range(types.Position(0, 0), types.Position(0, 0))
    (saved,) = await editor.actions(names[0], start, ["notebook.source.fixAll"])
    assert saved.kind == "notebook.source.fixAll.torchlint"
    assert saved.edit is not None
    assert editor.perform(saved.edit) == editor.perform(fix.edit)
    # A cell that switches autograd off comes in between, and goes again.
    off = types.NotebookCell(types.NotebookCellKind.Code, names[0] + "9")
    opened = [types.TextDocumentItem(off.document, "python", 1, "torch.set_grad_enabled(False)")]
    array = types.NotebookCellArrayChange(1, 0, [off])
    structure = types.NotebookDocumentCellChangeStructure(array, opened)
    change = types.NotebookDocumentChangeEvent(cells=types.NotebookDocumentCellChanges(structure=structure))
    identifier = types.VersionedNotebookDocumentIdentifier(2, notebook)
    editor.notebook_document_did_change(types.DidChangeNotebookDocumentParams(identifier, change))
    await editor.until(names[2], [])
    structure = types.NotebookDocumentCellChangeStructure(types.NotebookCellArrayChange(1, 1))
    change = types.NotebookDocumentChangeEvent(cells=types.NotebookDocumentCellChanges(structure=structure))
    identifier = types.VersionedNotebookDocumentIdentifier(3, notebook)
    editor.notebook_document_did_change(types.DidChangeNotebookDocumentParams(identifier, change))
    await editor.until(names[2], ["TL201"])
    text = types.NotebookDocumentCellContentChanges(
        types.VersionedTextDocumentIdentifier(2, names[2]),
        [types.TextDocumentContentChangeWholeDocument("def f(:\n")],
    )
    change = types.NotebookDocumentChangeEvent(cells=types.NotebookDocumentCellChanges(text_content=[text]))
    identifier = types.VersionedNotebookDocumentIdentifier(4, notebook)
    editor.notebook_document_did_change(types.DidChangeNotebookDocumentParams(identifier, change))
    await editor.until(names[2], ["TL001"])
    editor.notebook_document_did_close(
        types.DidCloseNotebookDocumentParams(types.NotebookDocumentIdentifier(notebook), [])
    )
    await editor.until(names[2], [])


# -- the process ------------------------------------------------------------------------------------------------------

CRASHES = """\
import time
from torchlint.server import checking
real = checking.run.check_bytes
def broken(path, data, *rest):
    if b"crash" in data:
        raise RuntimeError("as a test wants it")
    if b"slow" in data:
        time.sleep(1)
    print("noise on standard output")
    return real(path, data, *rest)
checking.run.check_bytes = broken
from torchlint.cli import main
sys.exit(main(["server"]))
"""


@pytest.mark.asyncio
async def test_crashes_are_logged_and_outdated_checks_are_dropped(tmp_path: Path) -> None:
    editor = Editor()
    await editor.start_io(sys.executable, "-I", "-c", LAUNCH + "\n" + CRASHES)
    await editor.begin(tmp_path, watching=False)
    uri = editor.open(tmp_path / "a.py", BAD + "# crash\n")
    assert await editor.findings(uri) == []
    assert any("as a test wants it" in m.message for m in editor.log_messages)
    editor.type(uri, "# crash\n", "")
    assert [d.code for d in await editor.findings(uri)] == ["TL201"]
    assert not editor.registered
    # A check that is outdated while it runs shows nothing.
    slow = editor.open(tmp_path / "b.py", BAD + "# slow\n")
    await asyncio.sleep(0.3)
    editor.type(slow, "# slow\n", "")
    assert [d.code for d in await editor.findings(slow)] == ["TL201"]
    assert [version for where, version, *_ in editor.published if where == slow] == [2]
    assert editor._server is not None
    await editor.shutdown_session()
    assert editor._server.returncode == 0
    await editor.stop()


def test_an_editor_that_goes_away_ends_it() -> None:
    done = subprocess.run(COMMAND, input=b"", capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == b""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent")
def test_a_signal_ends_it_at_once() -> None:
    initialize = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"processId": 1, "capabilities": {}}}
    body = json.dumps(initialize).encode()
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"Content-Length")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM


def test_without_pygls(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from torchlint import server

    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["server"]) == 2
    assert capsys.readouterr().err == "torchlint: torchlint server needs pygls: pip install 'torchlint[server]'\n"
    assert cli.main(["server", "x.py"]) == 2


def test_the_vscode_extension_is_whole() -> None:
    folder = Path(__file__).parent.parent / "editors" / "vscode"
    package = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    script = folder / package["main"]
    text = script.read_text(encoding="utf-8")
    settings = package["contributes"]["configuration"]["properties"]
    assert settings["torchlint.debounce"]["default"] == DEBOUNCE * 1000
    assert all(c["command"] in text for c in package["contributes"]["commands"])
    assert 'require("vscode-languageclient/node")' in text
    assert list(package["dependencies"]) == ["vscode-languageclient"]
    node = shutil.which("node")
    if node is not None:
        subprocess.run([node, "--check", str(script)], check=True)


# -- texts ------------------------------------------------------------------------------------------------------------

LINES = "a🔥é\r\n\r𝕏\u2028\f\x85b\n\n last 🔥"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_positions_and_offsets_agree(encoding: str) -> None:
    text = Text(LINES, encoding)
    for offset in range(len(LINES) + 1):
        if LINES[offset - 1 : offset + 1] != "\r\n":
            assert text.offset(text.position(offset)) == offset
            assert encoding != "utf-16" or text.position(offset) == position(LINES, offset)
    assert text.offset(types.Position(0, 99)) == 3
    assert text.offset(types.Position(99, 0)) == len(LINES)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "x\n"),
        ("x\n", ""),
        ("a\r\nb\r\nc\r\n", "a\r\nc\r\n"),
        ("a\r\nb\r\nc", "a\r\nB\r\nx\r\nc"),
        ("a\nb\nc\n", "a\nb2\nc\nd\n"),
        ("same", "same"),
        ("a\r", "a\r\n"),
    ],
)
def test_edits_between_texts(before: str, after: str) -> None:
    text = before
    for edit in sorted(edits_between(before, after), reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
        # No edit may part a \r\n: clients have no position inside one.
        for offset in (edit.start, edit.end):
            assert before[offset - 1 : offset + 1] != "\r\n" or offset == 0
    assert text == after
