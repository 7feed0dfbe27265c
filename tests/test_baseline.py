"""baseline: old findings are hidden wherever they move, new ones are not, and fixed ones are told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from test_ci_formats import notebook

from torchlint.cli import main

Output = pytest.CaptureFixture[str]
HEAD = "import torch\n\n"
FIRST = "x = torch.range(0, 3)\n"
SECOND = "y = torch.range(0, 4)\n"
THIRD = "z = torch.range(0, 5)\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> Path:
    (tmp_path / "pyproject.toml").write_text("[tool.torchlint]\nselect = ['TL010']\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text(HEAD + FIRST + SECOND)
    (tmp_path / "b.py").write_text(HEAD + FIRST)
    monkeypatch.chdir(tmp_path)
    assert main(["check", ".", "--write-baseline", "base.json"]) == 0
    assert capsys.readouterr().out == "Wrote base.json: 3 findings\n"
    return tmp_path


def compare(capsys: Output, *more: str) -> tuple[int, str]:
    code = main(["check", *(more or (".",)), "--baseline", "base.json", "--output-format", "concise"])
    out, err = capsys.readouterr()
    assert err == ""
    return code, out


def test_the_file_is_for_people_too(project: Path) -> None:
    first, *lines, last = (project / "base.json").read_text().splitlines()
    assert first == '{"torchlint-baseline": 1, "findings": ['
    assert last == "]}"
    entries = [json.loads(line.rstrip(",")) for line in lines]
    assert [(e["path"], e["line"]) for e in entries] == [
        ("b.py", FIRST.strip()), ("src/a.py", FIRST.strip()), ("src/a.py", SECOND.strip())
    ]  # fmt: skip
    assert entries[0]["message"] == "`torch.range` is deprecated"


@pytest.mark.parametrize("cache", [(), ("--no-cache",)], ids=["warm", "cold"])
def test_only_new_findings_count(project: Path, capsys: Output, cache: tuple[str, ...]) -> None:
    hidden = "3 findings in the baseline base.json hidden\n"
    for _ in range(2):
        assert compare(capsys, ".", *cache) == (0, "Nothing new: 2 files checked.\n" + hidden)
    (project / "b.py").write_text(f"import os\n{HEAD}{THIRD}\n\nif 1:\n    {FIRST}")
    for _ in range(2):
        code, out = compare(capsys, ".", *cache)
        assert code == 1
        assert out.startswith("b.py:4:5: TL010")
        assert out.count("TL010") == 1
        assert out.endswith(hidden)


def test_one_more_of_the_same_is_new(project: Path, capsys: Output) -> None:
    (project / "b.py").write_text(HEAD + FIRST + FIRST)
    code, out = compare(capsys)
    assert (code, out.count("TL010")) == (1, 1)


def test_what_is_fixed_is_told_and_taken_out(project: Path, capsys: Output) -> None:
    (project / "src" / "a.py").write_text(HEAD + SECOND)
    (project / "b.py").unlink()
    code, out = compare(capsys)
    assert code == 0
    assert "2 entries of base.json fixed; take them out with --write-baseline base.json:\n  b.py: TL010 `torch" in out
    before = (project / "base.json").read_text()
    assert main(["check", ".", "--write-baseline", "base.json"]) == 0
    assert capsys.readouterr().out == "Wrote base.json: 1 finding (0 added, 2 removed)\n"
    kept = [line for line in (project / "base.json").read_text().splitlines() if "path" in line]
    assert len(kept) == 1
    assert kept[0] in before


@pytest.mark.parametrize("some", [("b.py",), (".", "--select", "TL201"), (".", "--exclude", "src")])
def test_what_a_run_does_not_look_at_is_not_fixed(project: Path, capsys: Output, some: tuple[str, ...]) -> None:
    before = (project / "base.json").read_text()
    code, out = compare(capsys, *some)
    assert code == 0
    assert "fixed" not in out
    assert main(["check", *some, "--write-baseline", "base.json"]) == 0
    assert (project / "base.json").read_text() == before


def test_what_cannot_be_parsed_is_neither_accepted_nor_fixed(project: Path, capsys: Output) -> None:
    (project / "b.py").write_text("def f(:\n")
    assert main(["check", ".", "--baseline", "base.json", "--output-format", "concise"]) == 2
    out = capsys.readouterr().out
    assert "TL001" in out
    assert "fixed" not in out
    before = (project / "base.json").read_text()
    assert main(["check", ".", "--write-baseline", "base.json"]) == 2
    assert (project / "base.json").read_text() == before


def test_a_renamed_file_keeps_its_entries(project: Path, capsys: Output) -> None:
    (project / "lib").mkdir()
    (project / "src" / "a.py").rename(project / "lib" / "c.py")
    code, out = compare(capsys)
    assert code == 0
    assert "src/a.py is now lib/c.py: its entries hold there\n" in out
    assert "fixed" not in out
    assert main(["check", ".", "--write-baseline", "base.json"]) == 0
    text = (project / "base.json").read_text()
    assert "src/a.py" not in text
    assert text.count("lib/c.py") == 2


def test_a_file_that_is_another_is_not_taken_for_a_renamed_one(project: Path, capsys: Output) -> None:
    (project / "src" / "a.py").unlink()
    (project / "c.py").write_text(HEAD + THIRD)
    code, out = compare(capsys)
    assert code == 1
    assert "is now" not in out
    assert "2 entries" in out


def test_it_works_from_any_folder(project: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project / "src")
    assert main(["check", "..", "--baseline", "../base.json"]) == 0
    monkeypatch.chdir("/")
    assert main(["check", str(project), "--baseline", str(project / "base.json")]) == 0


def test_cells_may_be_put_in_between(project: Path, capsys: Output) -> None:
    for name in ("base.json", "b.py", "src/a.py"):
        (project / name).unlink()
    notebook(project / "n.ipynb", [HEAD, FIRST])
    assert main(["check", ".", "--write-baseline", "base.json"]) == 0
    notebook(project / "n.ipynb", [HEAD, "print(1)\n", "\n" + FIRST])
    capsys.readouterr()
    assert compare(capsys)[0] == 0


def test_machines_get_the_findings_and_people_the_rest(project: Path, capsys: Output) -> None:
    assert main(["check", ".", "--baseline", "base.json", "--output-format", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == []
    assert err == "3 findings in the baseline base.json hidden\n"
    assert main(["check", ".", "--baseline", "base.json", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_run_that_says_nothing_new_writes_the_same_file(project: Path) -> None:
    before = (project / "base.json").read_bytes()
    (project / "b.py").write_text("import os\n" + HEAD + FIRST)
    assert main(["check", ".", "--write-baseline", "base.json"]) == 0
    assert (project / "base.json").read_bytes() == before


def test_a_run_that_saw_not_everything_takes_nothing_out(project: Path, capsys: Output) -> None:
    before = (project / "base.json").read_text()
    (project / "b.py").unlink()
    assert main(["check", ".", "missing.py", "--write-baseline", "base.json"]) == 2
    out, err = capsys.readouterr()
    assert "base.json not written: not everything could be checked\n" in out
    assert err == "torchlint: missing.py: no such file or directory\n"
    assert (project / "base.json").read_text() == before
    assert main(["check", ".", "missing.py", "--baseline", "base.json"]) == 2
    assert "fixed" not in capsys.readouterr().out


ENTRY = {"path": "b.py", "code": "TL010", "fingerprint": "0" * 32}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not a baseline"),
        (b"[" * 500_000, "nested too deeply"),
        (b'{"torchlint-baseline": 1' + b"0" * 9999 + b"}", "not a baseline"),
        (b"{}", "not a baseline"),
        (b'{"torchlint-baseline": 2, "findings": []}', "version 2"),
        (b'{"torchlint-baseline": true, "findings": []}', "version True"),
        (b'{"torchlint-baseline": "\\u001b[2J", "findings": []}', "version"),
        (b'{"torchlint-baseline": 1, "findings": {}}', "no list"),
        (b'{"torchlint-baseline": 1, "findings": [1]}', "entry 1"),
        (json.dumps({"torchlint-baseline": 1, "findings": [{**ENTRY, "line": 3}]}).encode(), "entry 1"),
        (b" " * (64 * 1024 * 1024 + 1), "larger than 64 MiB"),
    ],
    ids=range(12),
)
def test_a_file_that_is_no_baseline_is_one_line(project: Path, capsys: Output, content: bytes, says: str) -> None:
    (project / "base.json").write_bytes(content)
    for option in ("--baseline", "--write-baseline"):
        assert main(["check", ".", option, "base.json"]) == 2
        out, err = capsys.readouterr()
        assert says in err
        assert err.count("\n") == 1
        assert "\x1b" not in err
        assert out == ""
    assert (project / "base.json").read_bytes() == content


def test_paths_in_a_baseline_are_only_compared(project: Path, capsys: Output) -> None:
    paths = ("/etc/passwd", "../" * 99 + "x", "a\0", "\ud800")
    entries = [{**ENTRY, "path": path, "message": "\x1b[2J\n"} for path in paths]
    (project / "base.json").write_text(json.dumps({"torchlint-baseline": 1, "findings": entries}))
    code, out = compare(capsys)
    assert code == 1
    assert "\x1b" not in out


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_no_pipe_is_waited_for(project: Path, capsys: Output) -> None:
    os.mkfifo(project / "pipe")
    for name, says in (("pipe", "not a file"), ("src", "irectory"), ("none.json", "--write-baseline none.json")):
        assert main(["check", ".", "--baseline", name]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "other", [("--write-baseline", "x"), ("--diff",), ("--add-ignore",), ("--show-files",)], ids=lambda o: o[0]
)
def test_options_that_contradict_each_other(project: Path, capsys: Output, other: tuple[str, ...]) -> None:
    assert main(["check", ".", "--baseline", "base.json", *other]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (project / "x").exists()
