"""report: what each format prints, and what must never reach a terminal, a workflow log or a parser."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from torchlint.diagnostic import Applicability, Diagnostic, Edit, Fix, Severity
from torchlint.report import FORMATS, ReportContext
from torchlint.report.lines import Lines
from torchlint.report.terminal import clean, expand, width

MESSAGE = "evaluation of `model` records a graph: every batch keeps its activations; use `torch.no_grad()`"
SOURCE = """\
import torch

def validate(model, loader):
    model.eval()
    total = 0
    for x, y in loader:  # one pass
        out = model(x)
        total += loss(out, y)
        print(total)
    return total
"""


def finding(
    source: str = SOURCE,
    start: str = "for x",
    end: str = "print(total)",
    *,
    fix: Fix | None = None,
    message: str = MESSAGE,
    path: str = "src/train.py",
    severity: Severity = Severity.WARNING,
) -> Diagnostic:
    first = source.index(start)
    last = source.index(end, first) + len(end)
    lines = Lines(source)
    (row, column), (end_row, end_column) = lines.locate(first), lines.locate(last)
    return Diagnostic(
        "TL201", "eval-without-no-grad", severity, message, path, row, column, end_row, end_column, first, last, fix
    )


def insertion(source: str, before: str, text: str, applicability: Applicability = Applicability.SAFE) -> Fix:
    at = source.index(before)
    return Fix((Edit(at, at, text),), applicability, "Insert a line")


def indented(source: str, first: int, last: int, header: str) -> Fix:
    """Rows `first` to `last` under a new header, as `File.reindent` writes it."""
    lines = Lines(source)
    edits = [Edit(lines.start(first), lines.start(first), f"    {header}\n    ")]
    edits += [Edit(lines.start(row), lines.start(row), "    ") for row in range(first + 1, last + 1)]
    return Fix(tuple(edits), Applicability.SAFE, f"Wrap the loop in `{header}`")


def render(
    form: str,
    found: Sequence[Diagnostic],
    source: str = SOURCE,
    *,
    color: bool = False,
    columns: int = 0,
    statistics: bool = False,
) -> str:
    return FORMATS[form](found, ReportContext("/project", lambda _: source, color, columns, statistics, 3))


# -- text -----------------------------------------------------------------------------------------------------------


def test_text_shows_the_code_the_reason_and_the_fix() -> None:
    fix = indented(SOURCE, 6, 9, "with torch.no_grad():")
    assert (
        render("text", [finding(fix=fix)])
        == """\
warning[TL201] eval-without-no-grad: evaluation of `model` records a graph
 --> src/train.py:6:5
  |
4 |     model.eval()
5 |     total = 0
6 |     for x, y in loader:  # one pass
  |     ^^^^^^^^^^^^^^^^^^^
7 |         out = model(x)
8 |         total += loss(out, y)
  |
  = why: every batch keeps its activations
  = help: use `torch.no_grad()`
  = safe fix: wrap the loop in `with torch.no_grad():`
  |
6 +     with torch.no_grad():
7 ~         for x, y in loader:  # one pass
  … 3 more lines, indented deeper

1 finding (1 warning) in 1 of 3 files
1 fixable with `torchlint fix --apply`
"""
    )


def test_text_says_how_a_fix_may_be_applied() -> None:
    found = [
        finding(fix=insertion(SOURCE, "    total = 0", "    model.cpu()\n", applicability))
        for applicability in Applicability
    ]
    text = render("text", found)
    assert "= safe fix: insert" in text
    assert "= unsafe fix (--unsafe): insert" in text
    assert "= suggestion: insert" in text
    assert text.count("\n5 +     model.cpu()\n") == 3
    assert text.endswith("1 fixable with `torchlint fix --apply`, 1 more with `--unsafe`\n")


def test_diff_numbers_follow_earlier_insertions() -> None:
    first, second = SOURCE.index("import torch"), SOURCE.index("    return")
    fix = Fix((Edit(first, first, "import os\n"), Edit(second, second, "    os.sync()\n")), Applicability.UNSAFE, "Do")
    assert " 1 + import os\n   :\n11 +     os.sync()\n" in render("text", [finding(fix=fix)])


def test_a_replaced_line_is_shown_before_and_after() -> None:
    at = SOURCE.index("loss(out, y)")
    fix = Fix((Edit(at, at + len("loss(out, y)"), "loss(out, y).item()"),), Applicability.SAFE, "Add `.item()`")
    text = render("text", [finding(fix=fix)])
    assert "8 -         total += loss(out, y)\n8 +         total += loss(out, y).item()\n" in text


def test_what_is_taken_away_comes_before_what_is_put_there() -> None:
    source = "for i in x:\n    # why\n    y[i] = x[i]\n"
    fix = Fix((Edit(0, len(source), "# why\ny[:] = x\n"),), Applicability.SAFE, "Copy at once")
    text = render("text", [finding(source, "for", "x[i]", fix=fix)], source)
    assert "1 - for i in x:\n2 -     # why\n3 -     y[i] = x[i]\n1 + # why\n2 + y[:] = x\n" in text


def test_long_diffs_are_cut() -> None:
    fix = insertion(SOURCE, "import torch", "".join(f"x{i} = {i}\n" for i in range(20)))
    text = render("text", [finding(fix=fix)])
    assert "x11 = 11" in text
    assert "x12" not in text
    assert "… 8 more lines\n" in text


@pytest.mark.parametrize(
    ("line", "shown", "carets"),
    [
        ("\tx = model(y)\n", "    x = model(y)", "        ^^^^^^^^"),
        ("名前 = model(y)\n", "名前 = model(y)", "       ^^^^^^^^"),
        ("e\u0301 = model(y)\n", "e\u0301 = model(y)", "    ^^^^^^^^"),
        ('s = "\x1b[2J"; model(y)\n', 's = "\u241b[2J"; model(y)', "            ^^^^^^^^"),
        ("s = '\u202e'; model(y)\n", "s = '\ufffd'; model(y)", "         ^^^^^^^^"),
    ],
    ids=["tab", "wide", "combining", "escape", "bidirectional"],
)
def test_carets_stand_under_the_code(line: str, shown: str, carets: str) -> None:
    text = render("text", [finding(line, "model(", ")")], line)
    assert f"1 | {shown}\n  | {carets}\n" in text


def test_nothing_that_acts_on_a_terminal_is_echoed() -> None:
    evil = "x\x1b]0;owned\x07\r\x9b2J"
    source = f"{evil}\n"
    found = finding(
        source, "x", "x", message=f"{evil}: {evil}; {evil}", path=f"{evil}.py", fix=insertion(source, "x", evil)
    )
    for form in ("text", "concise"):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", render(form, [found], source))


def test_colour_changes_no_character() -> None:
    found = [finding(fix=insertion(SOURCE, "    total", "    pass\n")), finding(severity=Severity.ERROR)]
    for form in ("text", "concise"):
        for statistics in (False, True):
            painted = render(form, found, color=True, statistics=statistics)
            assert "\x1b[" in painted
            assert re.sub(r"\x1b\[[\d;]*m", "", painted) == render(form, found, statistics=statistics)


def test_text_fits_the_terminal() -> None:
    source = "value = " + " + ".join(f"name{i}" for i in range(100)) + "\n"
    found = finding(source, "name50", "name50", fix=insertion(source, "value", "import a\n"))
    text = render("text", [found], source, columns=72)
    assert max(map(len, text.splitlines())) <= 72
    rows = text.splitlines()
    at = next(i for i, row in enumerate(rows) if "^" in row)
    code, carets = rows[at - 1 : at + 1]
    assert code[carets.index("^") : carets.rindex("^") + 1] == "name50"


def test_a_finding_without_source_has_no_frame() -> None:
    text = render("text", [finding()], "")
    assert text.startswith(
        "warning[TL201] eval-without-no-grad: evaluation of `model` records a graph\n --> src/train.py:6:5\n"
    )
    assert "|" not in text


def test_a_message_of_another_shape_is_shown_whole() -> None:
    assert "error[TL201] eval-without-no-grad: invalid syntax: no\n" in render(
        "text", [finding(message="invalid syntax: no", severity=Severity.ERROR)]
    )


def test_a_comment_sign_in_a_string_is_code() -> None:
    source = "for x in f('#'):  # c\n    pass\n"
    assert "\n  | ^^^^^^^^^^^^^^^^\n" in render("text", [finding(source, "for", "pass")], source)


@pytest.mark.parametrize("source", ["", "a", "a\n", "a\r\nb\rc\n", "a\fb\n"])
def test_lines_are_pythons(source: str) -> None:
    lines = Lines(source)
    assert [lines.line(row) for row in range(1, len(lines) + 1)] == re.split(r"\r\n|\n|\r", source)
    assert all(lines.start(row) + column - 1 == i for i in range(len(source)) for row, column in [lines.locate(i)])


def test_a_line_wider_than_the_terminal_shows_what_matters() -> None:
    head = "model = " + "wrap(" * 12 + "call(first, second"
    source = f"short = 1\n{head}, third_argument)" + ")" * 12 + "\nshort = 2\n"
    start = source.index(", third_argument")
    fix = Fix((Edit(start, start + 16, ""),), Applicability.SAFE, "drop it")
    text = render("text", [finding(source, "wrap(", ")" * 12, fix=fix)], source, columns=72)
    lines = text.splitlines()
    assert max(map(width, lines)) <= 72
    assert "1 | short = 1" in lines  # context that fits is not cut
    assert any(line.startswith("2 | model = wrap(") and line.endswith("…") for line in lines)
    removed, added = (next(line for line in lines if line.startswith(f"2 {sign} …")) for sign in "-+")
    assert "second, third_argument)" in removed
    assert "second)" in added
    assert removed.index("second") == added.index("second")


def test_display_width() -> None:
    assert width("ab") == 2
    assert width("損失") == 4
    assert width("e\u0301") == 1
    assert expand("a\tb") == ("a   b", [0, 1, 4, 5])
    assert clean("a\nb\x7f\x85\ud800") == "a\u240ab\u2421\ufffd\ufffd"


# -- concise, statistics --------------------------------------------------------------------------------------------


def test_concise_is_one_line_per_finding() -> None:
    found = [finding(fix=insertion(SOURCE, "    total", "    pass\n", a)) for a in Applicability]
    assert render("concise", found).splitlines() == [
        f"src/train.py:6:5: TL201 [*] {MESSAGE}",
        f"src/train.py:6:5: TL201 [!] {MESSAGE}",
        f"src/train.py:6:5: TL201 {MESSAGE}",
        "3 findings (3 warnings) in 1 of 3 files",
        "1 fixable with `torchlint fix --apply`, 1 more with `--unsafe`",
    ]


def test_statistics_count_rules() -> None:
    found = [finding(fix=insertion(SOURCE, "    total", "    pass\n")), finding(severity=Severity.INFO)]
    assert render("text", found, statistics=True) == (
        "2  TL201  eval-without-no-grad  (1 safe fix)\n2 findings (1 warning, 1 info) in 1 of 3 files\n"
    )
    assert json.loads(render("json", found, statistics=True)) == [
        {"count": 2, "code": "TL201", "name": "eval-without-no-grad", "safe_fixes": 1, "unsafe_fixes": 0}
    ]


# -- json -----------------------------------------------------------------------------------------------------------


def test_json_is_shaped_like_ruffs() -> None:
    fix = insertion(SOURCE, "    total", "    pass\n", Applicability.UNSAFE)
    first, second = json.loads(render("json", [finding(fix=fix), finding(path="/elsewhere/a.py")]))
    assert first == {
        "cell": None,
        "code": "TL201",
        "name": "eval-without-no-grad",
        "severity": "warning",
        "message": MESSAGE,
        "filename": "/project/src/train.py",
        "location": {"row": 6, "column": 5},
        "end_location": {"row": 9, "column": 21},
        "fix": {
            "applicability": "unsafe",
            "message": "Insert a line",
            "edits": [
                {"content": "    pass\n", "location": {"row": 5, "column": 1}, "end_location": {"row": 5, "column": 1}}
            ],
        },
        "url": None,
    }
    assert second["filename"] == "/elsewhere/a.py"
    assert second["fix"] is None
    assert render("json", []) == "[]\n"


# -- github ---------------------------------------------------------------------------------------------------------


def test_github_annotations_are_escaped() -> None:
    found = finding(SOURCE, "model.eval()", "model.eval()", path="a,b:c%.py", message="50% off:\n::error::x")
    assert render("github", [found]) == (
        "::warning title=torchlint (TL201 eval-without-no-grad),file=a%2Cb%3Ac%25.py,"
        "line=4,endLine=4,col=5,endColumn=17::a,b:c%25.py:4:5: TL201 50%25 off:%0A::error::x\n"
    )


def test_github_gives_no_columns_for_several_lines() -> None:
    text = render("github", [finding(severity=Severity.INFO)])
    assert text.startswith("::notice title=")
    assert "line=6,endLine=9::" in text


# -- sarif ----------------------------------------------------------------------------------------------------------

SARIF_SCHEMA = json.loads((Path(__file__).parent / "data" / "sarif-2.1.0-subset.json").read_text(encoding="utf-8"))


def sarif(found: Sequence[Diagnostic], source: str = SOURCE) -> Any:
    log = json.loads(render("sarif", found, source))
    jsonschema.Draft7Validator(SARIF_SCHEMA).validate(log)
    return log


def test_sarif_is_valid_and_complete() -> None:
    fix = insertion(SOURCE, "    total", "    pass\n")
    log = sarif([finding(fix=fix), finding(path="a b.py", severity=Severity.INFO), finding(path="../x.py")])
    (run,) = log["runs"]
    (rule,) = run["tool"]["driver"]["rules"]
    assert rule["id"] == "TL201"
    assert "## What it does" in rule["help"]["markdown"]
    assert run["originalUriBaseIds"]["SRCROOT"]["uri"] == "file:///project/"
    first, second, third = run["results"]
    assert first["level"] == "warning"
    assert second["level"] == "note"
    place = first["locations"][0]["physicalLocation"]
    assert place == {
        "artifactLocation": {"uri": "src/train.py", "uriBaseId": "SRCROOT"},
        "region": {"startLine": 6, "startColumn": 5, "endLine": 9, "endColumn": 21},
    }
    assert second["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%20b.py"
    assert third["locations"][0]["physicalLocation"]["artifactLocation"] == {"uri": "file:///x.py"}
    (replacement,) = first["fixes"][0]["artifactChanges"][0]["replacements"]
    assert replacement["insertedContent"] == {"text": "    pass\n"}


def test_sarif_without_findings_is_valid() -> None:
    assert sarif([])["runs"][0]["results"] == []


def test_sarif_fingerprints_outlive_moved_lines() -> None:
    def fingerprints(source: str) -> list[str]:
        run = sarif([finding(source), finding(source)], source)["runs"][0]
        return [result["partialFingerprints"]["torchlint/v2"] for result in run["results"]]

    assert fingerprints(SOURCE) == fingerprints("import os\n\n" + SOURCE)
    assert len(set(fingerprints(SOURCE))) == 2


def test_the_schema_refuses_what_is_not_sarif() -> None:
    log = json.loads(render("sarif", [finding()]))
    del log["runs"][0]["results"][0]["message"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SARIF_SCHEMA).validate(log)


def test_a_narrow_terminal_cuts_the_indentation_of_all_lines_alike() -> None:
    source = "            total = 0\n            total += something(x).long(y)\n            print(total)\n"
    at = source.index("something")
    found = finding(source, "something", "(y)", fix=Fix((Edit(at, at, "a_function_of("),), Applicability.UNSAFE, "Do"))
    text = render("text", [found], source, columns=40)
    assert "1 |   total = 0\n2 |   total += something(x).long(y)\n" in text
    assert "3 |   print(total)\n" in text
    assert all(len(line) <= 40 for line in text.splitlines())
    assert text.startswith("warning[TL201] eval-without-no-grad:\n  evaluation of")
