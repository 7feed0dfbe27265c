"""What CI systems read: GitLab's, reviewdog's and JUnit's formats, the fingerprints in them, and --output-file."""

from __future__ import annotations

import json
import os
import stat
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from test_report import SOURCE, finding, insertion, render

from torchlint.catalogue import load
from torchlint.cli import main
from torchlint.diagnostic import Applicability, Diagnostic, Edit, Fix, Severity
from torchlint.fingerprint import fingerprints
from torchlint.report.lines import Texts

Output = pytest.CaptureFixture[str]
EVIL = "\x1b]0;owned\x07 ]]> <b>&\"' \u202e \ud800 \ufffe \x00 \n::error::x"
MOVE = "import torch\n\nx = torch.range(0, 3)\n"

# The keys and values that each format's own documentation asks for.
GITLAB = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["description", "check_name", "fingerprint", "severity", "location"],
        "additionalProperties": False,
        "properties": {
            "description": {"type": "string", "minLength": 1},
            "check_name": {"type": "string", "minLength": 1},
            "fingerprint": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
            "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
            "location": {
                "type": "object",
                "required": ["path", "lines"],
                "properties": {
                    "path": {"type": "string", "pattern": "^(?!\\./|/)"},
                    "lines": {
                        "type": "object",
                        "required": ["begin"],
                        "properties": {"begin": {"type": "integer", "minimum": 1}},
                    },
                },
            },
        },
    },
}
_POSITION = {
    "type": "object",
    "required": ["line"],
    "additionalProperties": False,
    "properties": {"line": {"type": "integer", "minimum": 1}, "column": {"type": "integer", "minimum": 1}},
}
_RANGE = {"type": "object", "required": ["start"], "properties": {"start": _POSITION, "end": _POSITION}}
RDJSON = {
    "type": "object",
    "required": ["source", "diagnostics"],
    "additionalProperties": False,
    "properties": {
        "source": {"type": "object", "required": ["name"]},
        "diagnostics": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["message", "location"],
                "additionalProperties": False,
                "properties": {
                    "message": {"type": "string"},
                    "location": {
                        "type": "object",
                        "required": ["path"],
                        "properties": {"path": {"type": "string"}, "range": _RANGE},
                    },
                    "severity": {"enum": ["ERROR", "WARNING", "INFO"]},
                    "code": {"type": "object", "required": ["value"]},
                    "suggestions": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["range", "text"],
                            "additionalProperties": False,
                            "properties": {"range": _RANGE, "text": {"type": "string"}},
                        },
                    },
                },
            },
        },
    },
}


def gitlab(found: Sequence[Diagnostic], source: str = SOURCE) -> Any:
    report = json.loads(render("gitlab", found, source))
    jsonschema.Draft7Validator(GITLAB).validate(report)
    return report


def rdjson(found: Sequence[Diagnostic], source: str = SOURCE) -> Any:
    report = json.loads(render("rdjson", found, source))
    jsonschema.Draft7Validator(RDJSON).validate(report)
    return report["diagnostics"]


def junit(found: Sequence[Diagnostic], source: str = SOURCE) -> ET.Element:
    return ET.fromstring(render("junit", found, source).encode())


def of_each_severity() -> list[Diagnostic]:
    return [finding(severity=severity) for severity in Severity]


# -- formats ---------------------------------------------------------------------------------------------------------


def test_gitlab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI_PROJECT_DIR", raising=False)
    report = gitlab(of_each_severity())
    assert [issue["severity"] for issue in report] == ["major", "minor", "info"]
    assert report[0]["location"] == {"path": "src/train.py", "lines": {"begin": 6, "end": 9}}
    assert len({issue["fingerprint"] for issue in report}) == 3
    assert gitlab([]) == []


def test_paths_start_at_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_PROJECT_DIR", "/")
    (issue,) = gitlab([finding(path="./src/../src/train.py")])
    assert issue["location"]["path"] == "project/src/train.py"
    assert ",file=project/src/train.py," in render("github", [finding()])
    (run,) = json.loads(render("sarif", [finding()]))["runs"]
    assert '"uri": "project/src/train.py"' in json.dumps(run["results"])
    assert run["originalUriBaseIds"]["SRCROOT"]["uri"] == "file:///"
    monkeypatch.setenv("CI_PROJECT_DIR", "/elsewhere")
    assert gitlab([finding()])[0]["location"]["path"] == "src/train.py"


def test_junit_counts_what_fails() -> None:
    report = junit([*of_each_severity(), finding(path="z.py")])
    assert report.attrib == {"name": "torchlint", "tests": "4", "failures": "3", "errors": "0", "skipped": "1"}
    first, second = report
    assert (first.get("name"), first.get("tests"), second.get("name")) == ("src/train.py", "3", "z.py")
    assert [case[0].tag for case in first] == ["failure", "failure", "skipped"]
    assert first[0].get("line") == "6"
    assert (first[0][0].text or "").startswith("src/train.py:6:5: TL201 ")


def test_junit_without_findings_has_a_case_that_passed() -> None:
    (case,) = junit([]).iter("testcase")
    assert list(case) == []


def test_rdjson_counts_bytes() -> None:
    source = "名前 = model(y)\n"
    found = finding(source, "model(", ")", fix=Fix((Edit(5, 10, "net"),), Applicability.SAFE, "Rename"))
    (entry,) = rdjson([found], source)
    assert entry["location"]["range"] == {"start": {"line": 1, "column": 10}, "end": {"line": 1, "column": 18}}
    assert entry["suggestions"] == [
        {"range": {"start": {"line": 1, "column": 10}, "end": {"line": 1, "column": 15}}, "text": "net"}
    ]
    assert [d["severity"] for d in rdjson(of_each_severity())] == ["ERROR", "WARNING", "INFO"]


def test_rdjson_suggests_whole_fixes_only() -> None:
    source = "import os\n" + "x = 1\n" * 40 + "y = 2\n"
    near = Fix((Edit(0, 0, "import re\n"), Edit(10, 11, "z")), Applicability.UNSAFE, "Do")
    far = Fix((Edit(0, 0, "import re\n"), Edit(len(source) - 6, len(source) - 5, "z")), Applicability.SAFE, "Do")
    idea = Fix((Edit(0, 0, "import re\n"),), Applicability.SUGGESTION, "Do")
    found = [finding(source, "x", "1", fix=fix) for fix in (near, far, idea)]
    first, second, third = rdjson(found, source)
    assert first["suggestions"][0]["text"] == "import re\nimport os\nz"
    assert "suggestions" not in second
    assert "suggestions" not in third


@pytest.mark.parametrize("form", ["gitlab", "junit", "rdjson"])
def test_hostile_text_stays_text(form: str) -> None:
    found = finding(message=f"{EVIL}: why; do", path=f"a{EVIL}.py", fix=insertion(SOURCE, "    total", "    pass\n"))
    text = render(form, [found])
    assert not any(ord(c) < 32 and c != "\n" for c in text)
    assert not any(c in text for c in "\u202e\ud800\ufffe\x7f")
    assert not any(line.startswith("::") for line in text.splitlines())
    if form == "junit":
        (failure,) = junit([found]).iter("failure")
        assert "]]> <b>&\"'" in (failure.text or "")
        assert "]]> <b>&\"'" in failure.get("message", "")
    else:
        (entry,) = gitlab([found]) if form == "gitlab" else rdjson([found])
        shown = entry["description" if form == "gitlab" else "message"]
        assert "]]> <b>&\"'" in shown
        shown.encode()  # no lone surrogate is left for strict readers


def test_notebooks_name_the_cell_and_mark_the_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    notebook(tmp_path / "a.ipynb", ["1\n", MOVE])
    for form in ("gitlab", "junit", "rdjson"):
        main(["check", ".", "--select", "TL010", "--output-format", form])
        out = capsys.readouterr().out
        assert "cell 2:3:5" in out
        if form == "gitlab":
            assert json.loads(out)[0]["location"]["lines"] == {"begin": 1, "end": 1}
        elif form == "rdjson":
            assert json.loads(out)["diagnostics"][0]["location"]["range"]["start"]["line"] == 1


def notebook(path: Path, cells: list[str]) -> None:
    def cell(source: str) -> dict[str, Any]:
        lines = source.splitlines(keepends=True)
        return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": lines}

    kernel = {"kernelspec": {"name": "python3", "language": "python"}}
    content = {"cells": [cell(c) for c in cells], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(content, indent=1))


# -- fingerprints ----------------------------------------------------------------------------------------------------


def prints(source: str, *starts: str) -> list[str]:
    return fingerprints([finding(source, start, start) for start in starts], Texts(lambda _: source))


@pytest.mark.parametrize(
    "moved",
    ["import os\n\n\n" + SOURCE, SOURCE + "\n\nmore = 1\n", SOURCE.replace("\n", "\r\n"),
     SOURCE.replace("    for x", "        for x"), SOURCE.replace("total = 0", "total = 1")],
    ids=["lines above", "lines below", "line ends", "another indentation", "another line edited"],
)  # fmt: skip
def test_fingerprints_outlive(moved: str) -> None:
    assert prints(SOURCE, "for x", "out = ") == prints(moved, "for x", "out = ")


def test_fingerprints_tell_findings_apart() -> None:
    twice = prints(SOURCE, "for x", "for x", "out = ")
    assert len(set(twice)) == 3
    assert prints(SOURCE.replace("in loader", "in batches"), "for x")[0] not in twice
    assert prints(SOURCE, "for x") == twice[:1]  # whatever else is found


def test_every_rule_has_a_page_in_sarif() -> None:
    rules = load()
    found = [replace(finding(), code=rule.code, name=rule.name) for rule in rules]
    (run,) = json.loads(render("sarif", found))["runs"]
    entries = {entry["id"]: entry for entry in run["tool"]["driver"]["rules"]}
    assert entries.keys() == {rule.code for rule in rules}
    for entry in entries.values():
        assert "## What it does" in entry["help"]["markdown"]
        assert 20 < len(entry["fullDescription"]["text"]) <= 1024
        assert entry["shortDescription"]["text"].endswith(".")


def test_sarif_and_gitlab_keep_theirs_when_lines_move() -> None:
    moved = "import os\n" + SOURCE
    for form, key in (("sarif", "torchlint/v2"), ("gitlab", "fingerprint")):

        def of(text: str, key: str = key) -> list[str]:
            return [line for line in text.splitlines() if f'"{key}"' in line]

        assert of(render(form, [finding()])) == of(render(form, [finding(moved)], moved)) != []


# -- --output-file ---------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text("[tool.torchlint]\nselect = ['TL010']\n")
    (tmp_path / "bad.py").write_text(MOVE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("form", ["text", "concise", "json", "github", "sarif", "gitlab", "junit", "rdjson"])
def test_the_file_has_what_the_terminal_would_have(
    project: Path, capsys: Output, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["check", "bad.py", "--output-format", form]) == 1
    shown = capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["check", "bad.py", "--output-format", form, "--output-file", "out"]) == 1
    assert capsys.readouterr().out == "Wrote out: 1 finding (1 warning) in 1 file\n"
    assert (project / "out").read_text() == shown
    assert sorted(p.name for p in project.iterdir() if p.name.endswith(".tmp")) == []


def test_the_file_is_replaced_with_its_permissions(project: Path, capsys: Output) -> None:
    (project / "real").write_text("old\n" * 9999)
    (project / "real").chmod(0o640)
    (project / "out").symlink_to("real")
    assert main(["check", "bad.py", "--output-file", "out", "-q", "--exit-zero"]) == 0
    assert capsys.readouterr().out == ""
    assert (project / "out").is_symlink()
    assert "TL010" in (project / "real").read_text()
    assert "old" not in (project / "real").read_text()
    assert stat.S_IMODE(os.stat("real").st_mode) == 0o640
    (project / "bad.py").write_text("")
    assert main(["check", "bad.py", "--output-format", "github", "--output-file", "out"]) == 0
    assert (project / "real").read_text() == ""


@pytest.mark.parametrize(
    ("target", "says"),
    [("no/out", "there is no folder no"), (".", "it is a folder"), ("bad.py/out", "there is no folder bad.py"),
     ("", "needs a name")],
)  # fmt: skip
def test_a_path_that_cannot_be_written_is_one_line(project: Path, capsys: Output, target: str, says: str) -> None:
    assert main(["check", "bad.py", f"--output-file={target}"]) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert err.count("\n") == 1
    assert out == ""


def test_statistics_have_no_such_format(project: Path, capsys: Output) -> None:
    assert main(["check", ".", "--statistics", "--output-format", "junit"]) == 2
    assert "use json" in capsys.readouterr().err
