"""cli: verbs, exit codes, errors, in real processes where that matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import torchlint
from torchlint.cli import main
from torchlint.explain import explain, for_terminal
from torchlint.options import TEACHING, VERBS, UsageError, help_text, parse
from torchlint.report.terminal import Paint

EVALUATE = """\
import torch

def validate(model, loader):
    model.eval()
    hits = 0
    for x, y in loader:
        hits += (model(x).argmax(1) == y).sum().item()
    return hits
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text("[tool.torchlint]\nselect = ['TL0', 'TL201']\n")
    (tmp_path / "bad.py").write_text(EVALUATE)
    (tmp_path / "good.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


Output = pytest.CaptureFixture[str]


def test_exit_codes(project: Path, capsys: Output) -> None:
    assert main(["check", "good.py"]) == 0
    assert capsys.readouterr().out == "All clear: 1 file checked.\n"
    assert main(["check", "."]) == 1
    assert main(["check", ".", "--exit-zero"]) == 0
    assert main(["check", "nope.py"]) == 2
    assert main(["check", "good.py", "--ignore", "TL201"]) == 0
    assert main(["check", ".", "--ignore", "TL201"]) == 0


def test_info_findings_do_not_fail(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.torchlint]\nselect=['TL201']\nseverity = {TL201 = 'info'}\n")
    assert main(["check", "."]) == 0


def test_trouble_is_said_and_the_rest_goes_on(project: Path, capsys: Output) -> None:
    (project / "broken.py").write_text("def f(:\n")
    assert main(["check", ".", "god.py", "--output-format", "concise"]) == 2
    out, err = capsys.readouterr()
    assert "TL001" in out
    assert "TL201" in out
    assert err == "torchlint: god.py: no such file or directory; did you mean good.py?\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["chek", "."], "did you mean check?"),
        (["src/"], "did you mean `torchlint check src/`?"),
        (["check", ".", "--slect", "TL1"], "did you mean --select?"),
        (["."], "did you mean `torchlint check .`?"),
        (["bad.py"], "did you mean `torchlint check bad.py`?"),
        (["lint", "."], "did you mean `torchlint check`?"),
        (["explain", "TL201"], "did you mean `torchlint rule`?"),
        (["frobnicate"], "the verbs are check, fix"),
        (["--select", "TL1", "check", "."], "options come behind the verb: torchlint check --select"),
        (["check", ".", "--fix"], "did you mean `torchlint fix PATH`, with --apply to write?"),
        (["check", ".", "--verbose"], "`torchlint doctor` shows the rest"),
        (["check", ".", "-x"], "`torchlint check --help` lists them"),
        (["fix", ".", "--write"], "did you mean `torchlint fix PATH --apply`?"),
        (["doctor", "a", "b"], "doctor takes one PATH"),
        (["check", ".", "--select"], "--select needs RULES"),
        (["check", ".", "--statistics=1"], "takes no value"),
        (["check"], "needs paths"),
        (["check", ".", "--select", "eval-without-nograd"], "did you mean eval-without-no-grad"),
        (["check", ".", "--output-format", "jsn"], "did you mean json?"),
        (["check", ".", "--jobs", "many"], "--jobs needs a number"),
        (["check", ".", "--config", "nope.toml"], "no such config file"),
        (["rule", "TL99"], "unknown rule"),
        (["check", "-", "good.py"], "cannot be mixed"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(project: Path, capsys: Output, arguments: list[str], says: str) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_unknown_key_stops_and_broken_toml_falls_back(project: Path, capsys: Output) -> None:
    (project / "pyproject.toml").write_text("[tool.torchlint]\nslect = []\n")
    assert main(["check", "."]) == 2
    assert "did you mean 'select'?" in capsys.readouterr().err
    (project / "pyproject.toml").write_text("[tool.torchlint\n")
    assert main(["check", "."]) == 2
    out, err = capsys.readouterr()
    assert "TL201" in out
    assert "not valid TOML" in err
    assert main(["fix", ".", "--apply"]) == 2
    assert (project / "bad.py").read_text() == EVALUATE


def test_fix_shows_then_writes(project: Path, capsys: Output) -> None:
    assert main(["fix", "."]) == 1
    out = capsys.readouterr().out
    assert out.startswith("--- a/bad.py\n+++ b/bad.py\n")
    assert (project / "bad.py").read_text() == EVALUATE
    assert main(["fix", ".", "--apply", "--unsafe"]) == 0
    assert "no_grad" in (project / "bad.py").read_text()
    assert capsys.readouterr().out == "Fixed 1 finding in 1 file.\n"
    assert main(["check", "."]) == 0
    assert main(["fix", "."]) == 0


def test_the_diff_applies(project: Path, capsys: Output) -> None:
    main(["fix", ".", "-q"])
    (project / "x.diff").write_text(capsys.readouterr().out)
    subprocess.run(["git", "apply", "x.diff"], cwd=project, check=True)
    assert "no_grad" in (project / "bad.py").read_text()


@pytest.mark.parametrize("form", [[], ["--output-format", "concise"], ["--statistics"]])
def test_quiet_prints_findings_only(project: Path, capsys: Output, form: list[str]) -> None:
    main(["check", ".", *form])
    full = capsys.readouterr().out
    assert main(["check", ".", "-q", *form]) == 1
    quiet = capsys.readouterr().out
    assert "1 finding (" in full
    assert full.startswith(quiet.rstrip())
    assert "TL201" in quiet
    assert "1 finding (" not in quiet


def test_add_ignore(project: Path, capsys: Output) -> None:
    assert main(["check", ".", "--add-ignore"]) == 0
    assert "# torchlint: ignore[TL201]" in (project / "bad.py").read_text()
    assert main(["check", "."]) == 0


def test_show_files_and_empty_folder(project: Path, capsys: Output) -> None:
    (project / "empty").mkdir()
    assert main(["check", ".", "--show-files"]) == 0
    assert capsys.readouterr().out == "bad.py\ngood.py\n"
    assert main(["check", "empty"]) == 0
    assert capsys.readouterr().out == "No Python files found under the given paths.\n"


def test_formats(project: Path, capsys: Output) -> None:
    for form in ("text", "concise", "json", "github", "sarif"):
        assert main(["check", ".", "--output-format", form]) == 1
        out = capsys.readouterr().out
        assert "TL201" in out
        assert "\x1b[" not in out
        if form in ("json", "sarif"):
            json.loads(out)
    main(["check", "good.py", "--output-format", "json"])
    assert json.loads(capsys.readouterr().out) == []


def test_colour(project: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    main(["check", "."])
    assert "\x1b[" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    main(["check", "."])
    assert "\x1b[" not in capsys.readouterr().out


def test_standard_input(project: Path) -> None:
    def feed(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "torchlint", *arguments, "-"]
        env = {**os.environ, "PYTHONPATH": str(Path(torchlint.__file__).parents[1])}
        return subprocess.run(command, input=EVALUATE.encode(), capture_output=True, check=False, env=env)

    done = feed("check", "--output-format", "concise", "--stdin-filename", "pkg/eval.py")
    assert done.returncode == 1
    assert done.stdout.startswith(b"pkg/eval.py:7:")
    done = feed("fix", "--apply", "--unsafe", "--stdin-filename", "pkg/eval.py")
    assert done.returncode == 0
    assert b"torch.no_grad()" in done.stdout


def test_help_version_rules(capsys: Output) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out == TEACHING
    assert main(["check", "--help"]) == 0
    assert "--add-ignore" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("torchlint ")
    assert main(["rule", "--all"]) == 0
    assert "eval-without-no-grad" in capsys.readouterr().out
    assert main(["rule", "syntax-error"]) == 0
    assert "## Why is this bad" in capsys.readouterr().out


def test_option_parsing() -> None:
    arguments = parse(["check", "a", "--select=TL1,TL2", "--select", "TL3", "-j4", "-q", "--", "--odd"])
    assert arguments.paths == ["a", "--odd"]
    assert arguments.many("--select") == ["TL1", "TL2", "TL3"]
    assert arguments.text("--jobs") == "4"
    assert arguments.flag("--quiet")
    with pytest.raises(UsageError):
        parse(["check", "--nope"])


def test_the_first_screen_and_the_options_fit_eighty_columns() -> None:
    assert max(map(len, TEACHING.splitlines())) <= 80
    for verb in VERBS:
        wrapped = help_text(verb, 80)
        assert max(map(len, wrapped.splitlines())) <= 80
        assert wrapped.split() == help_text(verb).split()


def test_a_page_is_wrapped_for_the_screen_and_says_the_same() -> None:
    page = explain(["TL201"])
    shown = for_terminal(page, 70, Paint(False))
    assert shown.split() == page.split()
    inside = False
    for line in shown.splitlines():
        inside ^= line.startswith("```")
        assert inside or len(line) <= 70 or " " not in line.strip().removeprefix("- ")
    assert "    for x, y in loader:\n        correct += (model(x).argmax(1) == y).sum().item()\n" in shown
    assert "\x1b[1m## Why is this bad\x1b[0m" in for_terminal(page, 70, Paint(True))


def test_fixes_that_others_made_possible_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        "import torch\nfrom torch.utils.data import DataLoader\n\n\ndef train(model, data, optimizer):\n"
        "    loader = DataLoader(data, batch_size=8, num_workers=2)\n    for x, y in loader:\n"
        "        x, y = x.cuda(), y.cuda()\n        optimizer.zero_grad()\n        loss = model(x, y)\n"
        "        loss.backward()\n        optimizer.step()\n"
    )
    (tmp_path / "a.py").write_text(text)
    main(["fix", str(tmp_path), "--select", "TL301,TL304", "--apply", "--unsafe", "--no-cache"])
    assert capsys.readouterr().out == "Fixed 3 findings in 1 file; 2 of them came up when others were fixed.\n"
