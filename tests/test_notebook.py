"""Notebooks: read as one program in cell order, placed by cell and line, and written back byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.engine import SYNTAX, everything_concerns, importing_rule, rename_rule  # noqa: F401
from torchlint import cli, notebook
from torchlint.check import check_text
from torchlint.config import Config
from torchlint.diagnostic import Diagnostic
from torchlint.encoding import Undecodable
from torchlint.fix import fix_text
from torchlint.magics import neutral
from torchlint.suppress import add_ignores, scan

Source = str | list[str]
OUTPUT = {"name": "stdout", "output_type": "stream", "text": ["0.5\n", "π ≈ 3\n"]}
MARKDOWN = "# A title\n\nold"


def lines(source: str) -> list[str]:
    return source.splitlines(keepends=True)


def code(source: Source, **metadata: Any) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "execution_count": 7,
        "id": "a1b2",
        "metadata": metadata,
        "outputs": [OUTPUT],
        "source": source if isinstance(source, list) else lines(source),
    }


def raw(
    *cells: Source | dict[str, Any], language: str | None = "python", indent: int | None = 1, **style: Any
) -> bytes:
    """A notebook file as Jupyter writes it: code cells from texts, others as they are."""
    content = {
        "cells": [c if isinstance(c, dict) else code(c) for c in cells],
        "metadata": {"language_info": {"name": language}} if language else {},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return (json.dumps(content, indent=indent, ensure_ascii=False, **style) + "\n").encode()


def markdown(text: str = MARKDOWN) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": "m", "metadata": {}, "source": lines(text)}


def check(data: bytes) -> list[Diagnostic]:
    return check_text("n.ipynb", notebook.decode(data).text, [rename_rule(), SYNTAX], Config())


def places(data: bytes) -> list[tuple[str, int | None, int, int]]:
    return [(d.code, d.cell, d.row, d.column) for d in check(data)]


def fixed(data: bytes, unsafe: bool = True) -> bytes:
    book = notebook.decode(data)
    result = fix_text("n.ipynb", book.text, [rename_rule()], Config(), unsafe=unsafe)
    assert result.notes == []
    return book.encode(result.text)


def run(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    exit_code = cli.main(argv)
    out, err = capsys.readouterr()
    return exit_code, out, err


# -- reading ----------------------------------------------------------------------------------------------------------


def test_findings_lie_in_their_cell_and_line() -> None:
    data = raw(markdown(), "x = 1\nold", {"cell_type": "raw", "metadata": {}, "source": ["old"]}, "", "\n  \nx = (old)")
    assert places(data) == [("TL901", 2, 2, 1), ("TL901", 5, 3, 6)]


@pytest.mark.parametrize(
    "line",
    [
        "x = 1;", "%matplotlib inline", "!pip install -q torch", "?old", "old?", "old.old??", "%%time", "!l", "/f old",
        ";f old", "files = !ls {old}", "t = %timeit -o old", "%load_ext x", "!pip install \\\n    torch \\\n\n",
        "pip install old", "get_ipython().system('ls')", "%config InlineBackend.figure_format = 'svg'", "await f()",
        "ls -la old.txt", "async with f() as g: pass", "%time !ls old", "!echo '((('", '!echo """',
    ],
)  # fmt: skip
def test_magics_are_read_over_and_positions_stay(line: str) -> None:
    source = f"x = 1\n{line}\ny = old  # c\n"
    if line == "%%time":
        source = f"{line}\nx = 1\ny = old\n"
    data = raw(source)
    assert places(data) == [("TL901", 1, source.count("\n", 0, source.index("y = ")) + 1, 5)]
    assert fixed(data) == data.replace(b"y = old", b"y = new")


def test_magics_in_blocks_and_what_only_looks_like_one() -> None:
    source = "if x:\n    !ls old\nfor i in y:\n\t%time old\n    \n"
    source += "z = (a\n% b\n)\ns = '''\n!ls\n%%time\n'''\nold\ndef f():\n    ?f\n"
    text = neutral(source).text
    assert len(text) == len(source)
    compile(text, "cell", "exec")
    assert text.splitlines()[1] == "    _#s old"
    assert text.splitlines()[3] == "\t_;    old"  # what is timed runs, and is checked
    assert text.splitlines()[5:] == [*source.splitlines()[5:14], "    _#"]


@pytest.mark.parametrize(
    "magic", ["%%bash", "%%html", "%%writefile old.py", "%%javascript", "%%python", "\n%%script x"]
)
def test_cells_under_other_magics_are_no_python(magic: str) -> None:
    assert places(raw("old", f"{magic}\nold = <br>", "old")) == [("TL901", 1, 1, 1), ("TL901", 3, 1, 1)]


def test_a_cell_that_does_not_parse_costs_no_other() -> None:
    data = raw("old\n", "x = 1\nprint 'old'\n", "def f(:\n    old", "x = (old,\n", "y = old")
    assert [p[:3] for p in places(data)] == [
        ("TL901", 1, 1), ("TL001", 2, 2), ("TL001", 3, 1), ("TL001", 4, 1), ("TL901", 5, 1),
    ]  # fmt: skip
    assert fixed(data) == data.replace(b'"old\\n"', b'"new\\n"').replace(b"y = old", b"y = new")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not valid JSON"),
        (b'{"cells": [}', "not valid JSON"),
        (b'{"cells": [], "nbformat": 4} x', "not valid JSON: Extra data"),
        (b'{"cells": [],}', "not valid JSON"),
        (b'{"cells": [{"source": [] "a": 1}]}', "not valid JSON"),
        (b'{\n<<<<<<< HEAD\n "cells": []', "merge conflict"),
        (b"[]", "no `nbformat`"),
        (b'{"nbformat": 4}', "no `cells`"),
        (b'{"nbformat": 3, "worksheets": []}', "notebook format 3"),
        (b'{"nbformat": 4, "cells": [{"cell_type": "code", "source": 3}]}', "cell 1 of this notebook has no source"),
        (b'{"nbformat": 4, "cells": [{"cell_type": "code"}]}', "cell 1 of this notebook has no source"),
        (b"\xff", "not UTF-8"),
        (b'{"a":' + b"[" * 200_000, "too deeply"),
    ],
)
def test_what_is_no_notebook_is_said(data: bytes, message: str) -> None:
    with pytest.raises(Undecodable) as error:
        notebook.decode(data)
    assert message in error.value.message


def test_other_languages_and_empty_files_are_passed_over() -> None:
    assert notebook.decode(raw("old <- 1", language="R")).text == ""
    assert notebook.decode(b"").text == ""
    other = code("SELECT old", vscode={"languageId": "sql"})
    assert places(raw(other, "old", language=None)) == [("TL901", 2, 1, 1)]
    julia = raw("old").replace(b'"language_info"', b'"kernelspec"').replace(b'"name": "python"', b'"name": "julia-1.9"')
    assert notebook.decode(julia).text == ""


# -- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 1, 2, 4])
@pytest.mark.parametrize(
    "source", ["x = 1\nold", "old\n", "old", "x\n\nold\n\n", "old # é → 𝛼 \x0b \u2028 'q' \"\\t\"\nx\n"]
)
@pytest.mark.parametrize("listed", [True, False])
def test_only_the_source_changes(indent: int | None, source: str, listed: bool) -> None:
    stored: Source = lines(source) if listed else source
    data = raw(markdown(), "%matplotlib inline\n", {**code(""), "source": stored}, "y = 2", indent=indent)
    assert data.count(b"old") == 2
    before, after = fixed(data), data[::-1].replace(b"dlo", b"wen", 1)[::-1]
    assert before == after  # the last `old` of the file; the title's stays


def test_odd_files_keep_their_style() -> None:
    data = (
        b'\xef\xbb\xbf{"nbformat":4,\t"cells":[{"source" : [ "a = \'\\u003cp\\u003e\\u00e9\\/\'\\n" ,"old;\\n", "b"],'
        b"\r\n"
        b'"cell_type":"code","zzz":1e5,"outputs":[{"old":"\\u00e9"}]}],"metadata":{}}   '
    )
    assert fixed(data) == data.replace(b'"old;', b'"new;')
    assert fixed(raw("old # é", indent=None)).count("é".encode()) == 1
    escaped = raw("x = 'é'; old").replace("é".encode(), b"\\u00e9").replace("π ≈".encode(), b"")
    assert fixed(escaped) == escaped.replace(b"old", b"new")


def test_crlf_sources() -> None:
    data = raw("x = 1\r\nold\r\n", "%cd old\r\nold", "f(1)\r\n")
    assert [p[1:] for p in places(data)] == [(1, 2, 1), (2, 2, 1)]
    assert fixed(data) == data.replace(b'"old', b'"new')


def test_lines_added_and_removed_between_cells() -> None:
    data = raw("%%time\nimport os\n", "f(1)", "f(2)")
    book = notebook.decode(data)
    result = fix_text("n.ipynb", book.text, [importing_rule()], Config(), unsafe=False)
    assert result.text == book.text, "nothing may come before a cell magic"
    data = raw("%cd x\nf(0)", "f(1)")
    book = notebook.decode(data)
    result = fix_text("n.ipynb", book.text, [importing_rule()], Config(), unsafe=False)
    assert json.loads(book.encode(result.text))["cells"][0]["source"] == ["import g\n", "%cd x\n", "g.f(0)"]
    for new, sources in {
        book.text.replace("f(0)", "f(0)\nx\n"): ["%cd x\nf(0)\nx\n", "f(1)"],
        book.text.replace("f(0)\n", ""): ["%cd x", "f(1)"],
        book.text.replace("%cd x\nf(0)\n", ""): ["", "f(1)"],
        book.text.replace("f(1)", "f(1)\n\ny"): ["%cd x\nf(0)", "f(1)\n\ny"],
    }.items():
        assert ["".join(c["source"]) for c in json.loads(book.encode(new))["cells"]] == sources


def test_a_fix_that_touches_a_magic_or_joins_cells_is_not_made() -> None:
    book = notebook.decode(raw("x = 1\n!ls\n", "old"))
    for bad in (book.text.replace("!ls", "!rm"), book.text.replace("!ls\n", ""), book.text.replace(notebook.MARK, "#")):
        assert not notebook.intact(book.text, bad)
    assert not notebook.intact(book.text, book.text.replace("old", "if old:"))
    assert notebook.intact(book.text, book.text.replace("old", "new\nx"))
    with pytest.raises(ValueError, match="cells"):
        book.encode("x = 1\n")


def test_suppressions_and_unused_ones() -> None:
    data = raw(
        "x = 1", "old  # torchlint: ignore[TL901]\nold\n", "x = 1  # torchlint: ignore[TL901]\n!ls # torchlint: ignore"
    )
    text = notebook.decode(data).text
    assert [(s.cell, s.row) for s in scan(text)] == [(2, 1), (3, 1)]
    found = check(data)
    assert [(d.cell, d.row) for d in found if not any(s.covers(d) for s in scan(text))] == [(2, 2)]
    written = add_ignores(
        notebook.decode(raw("%%time\nf(\n  old)", "old")).text, check(raw("%%time\nf(\n  old)", "old"))
    )
    assert list(notebook.sections(written).values()) == [
        "%%time\nf(\n  old)  # torchlint: ignore[TL901]\n", "old  # torchlint: ignore[TL901]",
    ]  # fmt: skip


# -- through the command line -----------------------------------------------------------------------------------------

MODEL = "import torch\nfrom torch import nn\nmodel = nn.Linear(4, 2)\nopt = torch.optim.SGD(model.parameters(), 0.1)"
DATA = "from torch.utils.data import DataLoader\nloader = DataLoader(dataset, batch_size=4)"
TRAIN = (
    "%%time\n"
    "for x, y in loader:\n"
    "    !nvidia-smi\n"
    "    loss = nn.functional.mse_loss(model(x), y)\n"
    "    loss.backward()\n"
    "    opt.step()\n"
)


def test_two_cells_define_and_use_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = raw("# !pip install torch", markdown(), MODEL, DATA, TRAIN)
    Path("n.ipynb").write_bytes(data)
    exit_code, out, _ = run(["check", ".", "--select", "TL101", "--output-format", "concise"], capsys)
    assert exit_code == 1
    assert out.startswith("n.ipynb:cell 5:5:5: TL101")
    again, warm, _ = run(["check", ".", "--select", "TL101", "--output-format", "concise"], capsys)
    assert (again, warm) == (exit_code, out)
    _, out, _ = run(["check", ".", "--select", "TL101", "--output-format", "json"], capsys)
    (finding,) = json.loads(out)
    assert (finding["cell"], finding["location"]) == (5, {"row": 5, "column": 5})
    assert {e["cell"] for e in finding["fix"]["edits"]} == {5}
    _, out, _ = run(["check", ".", "--select", "TL101"], capsys)
    assert "--> n.ipynb:cell 5:5:5" in out
    assert "3 |     !nvidia-smi" in out
    assert "\ufdd0" not in out
    _, out, _ = run(["check", ".", "--select", "TL101", "--output-format", "github"], capsys)
    assert "line=1," in out
    assert "n.ipynb:cell 5:5:5: TL101" in out
    _, out, _ = run(["check", ".", "--select", "TL101", "--output-format", "sarif"], capsys)
    (result,) = json.loads(out)["runs"][0]["results"]
    assert "fixes" not in result
    assert result["message"]["text"].startswith("cell 5:5:5: ")
    _, out, _ = run(["fix", ".", "--select", "TL101", "--unsafe"], capsys)
    assert out.startswith("--- a/n.ipynb:cell 5\n")
    exit_code, _, _ = run(["fix", ".", "--select", "TL101", "--apply", "--unsafe"], capsys)
    assert exit_code == 0
    written = Path("n.ipynb").read_bytes()
    assert written == data.replace(b'step()\\n"\n', b'step()\\n",\n    "    opt.zero_grad()\\n"\n')
    assert run(["check", ".", "--select", "TL101"], capsys)[0] == 0


def test_standard_input(tmp_path: Path) -> None:
    data = raw(MODEL, DATA, TRAIN)
    arguments = ["fix", "-", "--stdin-filename", "n.ipynb", "--select", "TL101", "--apply", "--unsafe"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "torchlint", *arguments]
    done = subprocess.run(command, input=data, capture_output=True, check=False, cwd=tmp_path, env=environment)
    assert json.loads(done.stdout)["cells"][:2] == json.loads(data)["cells"][:2]
    assert b"zero_grad()" in done.stdout


def test_broken_notebooks_exit_2_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.ipynb").write_bytes(b"{")
    Path("b.ipynb").write_bytes(raw(MODEL, "x = (", DATA, TRAIN))
    Path("r.ipynb").write_bytes(raw("x <- old(", language="R"))
    exit_code, out, _ = run(["check", ".", "--select", "TL101", "--output-format", "concise"], capsys)
    assert exit_code == 2
    assert [line.partition(" TL")[0] for line in out.splitlines()[:3]] == [
        "a.ipynb:1:2:", "b.ipynb:cell 2:1:5:", "b.ipynb:cell 4:5:5:",
    ]  # fmt: skip


def test_questions_to_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").write_text("[tool.torchlint]\n")
    Path("helpers.py").write_text("def reset_all(opt):\n    opt.zero_grad()\n\ndef other(opt):\n    print(opt)\n")
    train = TRAIN.replace("    !nvidia", "    reset_all(opt)\n    !nvidia")
    Path("n.ipynb").write_bytes(raw("%load_ext x\nfrom helpers import reset_all", MODEL, DATA, train))
    assert run(["check", ".", "--select", "TL101"], capsys)[0] == 0
    Path("n.ipynb").write_bytes(raw("from helpers import other as reset_all", MODEL, DATA, train))
    assert run(["check", ".", "--select", "TL101"], capsys)[0] == 1


def test_an_unchanged_notebook_costs_a_warm_run_nothing(tmp_path: Path) -> None:
    (tmp_path / "n.ipynb").write_bytes(raw(MODEL))
    program = (
        "import sys; from torchlint.cli import main; code = main(['check', '.']); "
        "print(code, *sorted({'json', 're', 'libcst', 'torchlint.notebook'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", program]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0"
