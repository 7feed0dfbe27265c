"""What CI systems read: GitLab's, reviewdog's and JUnit's formats, the fingerprints in them, and --output-file."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema
import pytest
from test_report import SARIF_SCHEMA, SOURCE, finding, insertion, render

from torchlint.catalogue import load
from torchlint.cli import main
from torchlint.diagnostic import Applicability, Diagnostic, Edit, Fix, Severity
from torchlint.fingerprint import fingerprints
from torchlint.report.lines import Texts

Output = pytest.CaptureFixture[str]
EVIL = "\x1b]0;owned\x07 ]]> <b>&\"' \u202e \ud800 \ufffe \x00 \n::error::x"
MOVE = "import torch\n\nx = torch.range(0, 3)\n"

# What each format's own documentation asks for, in our words.
# GitLab, "Code Quality report format".
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
                "additionalProperties": False,
                "properties": {
                    "path": {"type": "string", "pattern": "^(?!\\./|/)."},
                    "lines": {
                        "type": "object",
                        "required": ["begin"],
                        "additionalProperties": False,
                        "properties": {
                            "begin": {"type": "integer", "minimum": 1},
                            "end": {"type": "integer", "minimum": 1},
                        },
                    },
                },
            },
        },
    },
}
# reviewdog, "Reviewdog Diagnostic Format" (DiagnosticResult). A column counts bytes and needs its line.
_POSITION = {
    "type": "object",
    "required": ["line"],
    "additionalProperties": False,
    "properties": {"line": {"type": "integer", "minimum": 1}, "column": {"type": "integer", "minimum": 1}},
}
_RANGE = {
    "type": "object",
    "required": ["start"],
    "additionalProperties": False,
    "properties": {"start": _POSITION, "end": _POSITION},
}
_NAMED = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {"name": {"type": "string", "minLength": 1}, "url": {"type": "string", "format": "uri"}},
}
_SEVERITIES = {"enum": ["UNKNOWN_SEVERITY", "ERROR", "WARNING", "INFO"]}
RDJSON = {
    "type": "object",
    "required": ["diagnostics"],
    "additionalProperties": False,
    "properties": {
        "source": _NAMED,
        "severity": _SEVERITIES,
        "diagnostics": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["message", "location"],
                "additionalProperties": False,
                "properties": {
                    "message": {"type": "string", "minLength": 1},
                    "location": {
                        "type": "object",
                        "required": ["path"],
                        "additionalProperties": False,
                        "properties": {"path": {"type": "string", "minLength": 1}, "range": _RANGE},
                    },
                    "severity": _SEVERITIES,
                    "source": _NAMED,
                    "code": {
                        "type": "object",
                        "required": ["value"],
                        "additionalProperties": False,
                        "properties": {"value": {"type": "string", "minLength": 1}, "url": {"type": "string"}},
                    },
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
# Jenkins, junit-10.xsd of the xUnit plugin: of each element the attributes it must have, those it may, its children.
_COUNTED = {"name", "tests", "failures", "errors"}
JUNIT: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": (set(), {*_COUNTED, "time"}, {"testsuite"}),
    "testsuite": (
        _COUNTED,
        {"group", "time", "skipped", "timestamp", "hostname", "id", "package", "file", "log", "url"},
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
    ),
    "testcase": ({"name"}, {"time", "classname", "group"}, {"skipped", "error", "failure", "system-out", "system-err"}),
    "failure": (set(), {"type", "message"}, set()),
    "skipped": (set(), {"type", "message"}, set()),
}


def gitlab(found: Sequence[Diagnostic], source: str = SOURCE) -> Any:
    return valid_gitlab(render("gitlab", found, source))


def valid_gitlab(text: str) -> Any:
    report = json.loads(text)
    jsonschema.Draft7Validator(GITLAB).validate(report)
    for issue in report:
        lines = issue["location"]["lines"]
        assert lines["begin"] <= lines.get("end", lines["begin"])
    assert len({issue["fingerprint"] for issue in report}) == len(report)
    return report


def rdjson(found: Sequence[Diagnostic], source: str = SOURCE) -> Any:
    return valid_rdjson(render("rdjson", found, source))


def valid_rdjson(text: str) -> Any:
    report = json.loads(text)
    jsonschema.Draft7Validator(RDJSON, format_checker=jsonschema.FormatChecker()).validate(report)
    for entry in report["diagnostics"]:
        for range_ in [entry["location"]["range"], *(s["range"] for s in entry.get("suggestions", ()))]:
            start, end = (range_.get(key, range_["start"]) for key in ("start", "end"))
            assert (start["line"], start["column"]) <= (end["line"], end["column"])
    return report["diagnostics"]


def junit(found: Sequence[Diagnostic], source: str = SOURCE) -> ET.Element:
    return valid_junit(render("junit", found, source))


def valid_junit(text: str) -> ET.Element:
    report = ET.fromstring(text.encode())
    assert report.tag == "testsuites"
    for element in report.iter():
        needed, allowed, children = JUNIT[element.tag]
        assert needed <= set(element.attrib) <= needed | allowed
        assert {child.tag for child in element} <= children
        assert element.tag in ("failure", "skipped") or not (element.text or "").strip()
    for suites in (report, *report):
        cases = list(suites.iter("testcase"))
        assert suites.get("tests") == str(len(cases))
        assert suites.get("failures") == str(sum(1 for _ in suites.iter("failure")))
        assert all(len(case) <= 1 for case in cases)
    return report


def annotations(text: str) -> list[tuple[str, dict[str, str], str]]:
    """Command, properties and message of each line, read as the runner reads them.

    GitHub, "Workflow commands for GitHub Actions", and TryParseV2 and ValidateLinesAndColumns of its runner.
    """

    def undone(value: str, *more: tuple[str, str]) -> str:
        for code, char in (("%0D", "\r"), ("%0A", "\n"), *more, ("%25", "%")):
            value = value.replace(code, char)
        return value

    read = []
    for line in re.split("\r\n|\r|\n", text.removesuffix("\n")) if text else ():
        assert line.startswith("::")
        command, _, listed = line[2 : line.index("::", 2)].partition(" ")
        assert command in ("error", "warning", "notice")
        pairs = [pair.split("=", 1) for pair in listed.split(",")]
        properties = {key: undone(value, ("%3A", ":"), ("%2C", ",")) for key, value in pairs}
        assert properties.keys() <= {"title", "file", "line", "endLine", "col", "endColumn"}
        assert all(value.strip() == value != "" for value in properties.values())
        assert 1 <= int(properties["line"]) <= int(properties["endLine"])
        if "col" in properties:
            assert properties["line"] == properties["endLine"]
            assert 1 <= int(properties["col"]) <= int(properties["endColumn"])
        read.append((command, properties, undone(line[line.index("::", 2) + 2 :])))
    return read


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
    assert report.attrib == {"name": "torchlint", "tests": "4", "failures": "3", "errors": "0"}
    first, second = report
    assert first.attrib == {
        "name": "src/train.py", "file": "src/train.py", "tests": "3", "failures": "2", "errors": "0", "skipped": "1",
    }  # fmt: skip
    assert second.get("name") == "z.py"
    assert [case[0].tag for case in first] == ["failure", "failure", "skipped"]
    assert first[0].get("name") == "TL201 eval-without-no-grad at 6:5"
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


ODD_NAMES = ["a b.py", "名前 é.py", "q\"uo'te&<x>.py", "new\nline.py", "100%2C,a:b.py", "-dash.py", "cr\r::error::x.py"]


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
@pytest.mark.parametrize("form", ["gitlab", "junit", "rdjson", "github", "sarif"])
def test_odd_file_names_make_valid_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, form: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ODD_NAMES:
        (tmp_path / name).write_text(
            "import torch\n\nx = torch.range(0, 3)\ny = torch.load(\n    'é', weights_only=False)\n"
        )
    notebook(tmp_path / "on kaggle.ipynb", ["!pip install x\n", MOVE])
    assert main(["check", ".", "--select", "TL010,TL904", "--output-format", form]) == 1
    text = capsys.readouterr().out
    files = {name.replace("\n", "␊").replace("\r", "␍") for name in ODD_NAMES} | {"on kaggle.ipynb"}
    if form == "gitlab":
        named = [issue["location"]["path"] for issue in valid_gitlab(text)]
    elif form == "junit":
        named = [suite.attrib["file"] for suite in valid_junit(text) for _ in suite]
    elif form == "rdjson":
        named = [entry["location"]["path"] for entry in valid_rdjson(text)]
    elif form == "github":
        named, files = [about["file"] for _, about, _ in annotations(text)], {*ODD_NAMES, "on kaggle.ipynb"}
    else:
        jsonschema.Draft7Validator(SARIF_SCHEMA).validate(json.loads(text))
        results = json.loads(text)["runs"][0]["results"]
        uris = [r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in results]
        named, files = [unquote(uri) for uri in uris], {*ODD_NAMES, "on kaggle.ipynb"}
    assert set(named) == files
    assert len(named) == 2 * len(ODD_NAMES) + 1


def test_empty_reports_are_valid() -> None:
    assert valid_gitlab(render("gitlab", [])) == []
    assert valid_rdjson(render("rdjson", [])) == []
    assert valid_junit(render("junit", [])).get("failures") == "0"
    assert annotations(render("github", [])) == []


def test_annotations_are_read_as_they_were_meant() -> None:
    found = finding(message="100% of a,b:c::d\n::error::e: why; do", path="a,b:c%0A.py", severity=Severity.ERROR)
    many, one = annotations(render("github", [found, finding(end="loader")]))
    assert many[0] == "error"
    assert many[1] == {
        "title": "torchlint (TL201 eval-without-no-grad)", "file": "a,b:c%0A.py", "line": "6", "endLine": "9",
    }  # fmt: skip
    assert many[2] == "a,b:c%0A.py:6:5: TL201 100% of a,b:c::d\n::error::e: why; do"
    assert one[1] | {"title": ""} == {
        "title": "", "file": "src/train.py", "line": "6", "endLine": "6", "col": "5", "endColumn": "23",
    }  # fmt: skip


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


def test_what_was_printed_before_is_written_to_the_file_all_the_same(project: Path, capsys: Output) -> None:
    os.utime(project / "bad.py", (1_000_000_000, 1_000_000_000))  # long ago: all is taken from the cache
    for _ in range(2):
        assert main(["check", "bad.py", "--output-format", "concise"]) == 1
    shown = capsys.readouterr().out
    assert main(["check", "bad.py", "--output-format", "concise", "--output-file", "out"]) == 1
    assert capsys.readouterr().out == "Wrote out: 1 finding (1 warning) in 1 file\n"
    assert (project / "out").read_text() * 2 == shown


@pytest.mark.skipif(os.name == "nt", reason="has no such paths")
def test_standard_output_and_pipes_can_be_named(project: Path) -> None:
    command = [sys.executable, "-m", "torchlint", "check", "bad.py", "--output-format", "concise", "-q"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stdout
    assert "TL010" in shown
    for path in ("/dev/stdout", "/dev/fd/1"):
        words = [*command, "--output-file", path]
        piped = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
        assert (piped.stdout, piped.stderr, piped.returncode) == (shown, "", 1)
    read, write = os.pipe()
    words = [*command, "--output-file", f"/dev/fd/{write}"]
    subprocess.run(words, pass_fds=[write], env=environment, check=False)
    os.close(write)
    with os.fdopen(read) as other:
        assert other.read() == shown


def test_statistics_have_no_such_format(project: Path, capsys: Output) -> None:
    assert main(["check", ".", "--statistics", "--output-format", "junit"]) == 2
    assert "use json" in capsys.readouterr().err
