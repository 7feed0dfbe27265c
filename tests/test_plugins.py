"""Rules from elsewhere: by path, only when asked for, and with one line for each thing that is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchlint import plugins
from torchlint.cli import main
from torchlint.scaffold import new_rule

RULE = '''\
"""A call of something that is gone."""

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.rule import Category, Context, Finding, Rule

RULE = Rule("{code}", Category.TRAINING, Severity.WARNING, triggers=(r"\\.frobnicate\\(",), since="1.0")


@RULE.on
def check(call: cst.Call, context: Context) -> list[Finding]:
    if context.sem.qualified(call.func) != "torch.frobnicate":
        return []
    return [Finding(call, "`torch.frobnicate` is called", "it costs", "leave it out")]
'''
BAD = "import torch\n\ntorch.frobnicate(1)\n"
Output = pytest.CaptureFixture[str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    folder = tmp_path / "tools" / "lint"
    folder.mkdir(parents=True)
    (folder / "gone_call.py").write_text(RULE.format(code="ACME001"))
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text(BAD)
    return tmp_path


def check(*more: str) -> int:
    return main(["check", "src", "--jobs", "1", "--output-format", "concise", *more])


def test_rules_of_a_folder_are_checked_cold_and_warm(project: Path, capsys: Output) -> None:
    for _ in range(2):
        assert check("--rules", "tools/lint") == 1
        assert "ACME001" in capsys.readouterr().out


def test_a_changed_rule_is_seen(project: Path, capsys: Output) -> None:
    stamp = plugins._files(str(project / "tools/lint"))
    before = list(stamp)
    (project / "tools/lint/gone_call.py").write_text(RULE.format(code="ACME001").replace("it costs", "it costs much"))
    assert list(plugins._files(str(project / "tools/lint"))) != before


def test_nothing_is_loaded_unless_it_is_asked_for(project: Path, capsys: Output) -> None:
    (project / "tools/lint/trap.py").write_text("open('sprung', 'w')\n")
    (project / "pyproject.toml").write_text('[tool.torchlint]\nrule-paths = ["tools/lint"]\n')
    for _ in range(2):
        assert check() == 0
        assert "pass --rules tools/lint" in capsys.readouterr().err
    assert not (project / "sprung").exists()
    assert check("--rules", "tools/lint") == 1
    assert "pass --rules" not in capsys.readouterr().err
    assert (project / "sprung").exists()


def test_the_variable_takes_absolute_folders_only(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv(plugins.VARIABLE, "tools/lint")
    assert check() == 2
    assert "is not absolute" in capsys.readouterr().err
    monkeypatch.setenv(plugins.VARIABLE, str(project / "tools" / "lint"))
    assert check() == 1


def test_the_rules_are_known_everywhere(project: Path, capsys: Output) -> None:
    asked = ("--rules", "tools/lint")
    assert main(["rule", "gone-call", *asked]) == 0
    assert "# gone-call (ACME001)" in capsys.readouterr().out
    assert check("--select", "ACME", *asked) == 1
    assert check("--ignore", "gone-call", *asked) == 0
    capsys.readouterr()
    assert main(["check", "src", "--output-format", "sarif", *asked]) == 1
    assert "A call of something that is gone." in capsys.readouterr().out
    (project / "src/a.py").write_text(BAD.replace("(1)", "(1)  # torchlint: ignore[ACME001] known"))
    assert check(*asked) == 0


def test_workers_load_them_too(project: Path, capsys: Output) -> None:
    for number in range(4):
        (project / f"src/m{number}.py").write_text(BAD + f"# {number}\n" * 30000)
    assert main(["check", "src", "--jobs", "2", "--no-cache", "--rules", "tools/lint"]) == 1
    assert "5 findings" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import nowhere_to_be_found\n", "other.py cannot be imported: ModuleNotFoundError"),
        ("RULE = 3\n", "RULE is no torchlint.rule.Rule"),
        ("def f(:\n", "other.py cannot be imported: SyntaxError"),
        ("raise SystemExit(0)\n", "cannot be imported: SystemExit"),
        (RULE.format(code="TL999"), "TL codes are torchlint's own"),
        (RULE.format(code="ACME1"), "is not letters and three digits"),
        (RULE.format(code="ACME001"), "ACME001 is taken by rules of"),
        (RULE.format(code="ACME002").replace("@RULE.on", ""), "has no check"),
        (RULE.format(code="ACME002").replace(r'r"\.', 'r"('), "is no regular expression"),
    ],
)
def test_what_is_broken_is_one_line_and_the_rest_works(project: Path, capsys: Output, text: str, line: str) -> None:
    (project / "tools/lint/other.py").write_text(text)
    for _ in range(2):  # a warm run hides nothing
        assert check("--rules", "tools/lint") == 2
        shown = capsys.readouterr()
        assert "ACME001" in shown.out
        assert len(shown.err.splitlines()) == 1
        assert line in shown.err


def test_folders_without_rules(project: Path, capsys: Output) -> None:
    (project / "empty").mkdir()
    assert check("--rules", "empty") == 2
    assert "holds no rule" in capsys.readouterr().err
    assert check("--rules", "nowhere") == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_plugin_for_another_api(project: Path, capsys: Output) -> None:
    package = project / "acme_rules.py"
    package.write_text("TORCHLINT_API = 2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(project))
        found, troubles = plugins.rules_of(("plugin acme", "acme_rules", str(package)))
    assert not found
    assert troubles == ["plugin acme: is written for rule API 2, and this torchlint has 1: upgrade torchlint"]


def test_entry_points_are_read_without_importing(tmp_path: Path) -> None:
    info = tmp_path / "acme_lint-1.2.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(
        "[other]\nx = y\n\n[torchlint.rules]\n# ours\nacme = acme_lint.rules [extra]\n"
    )
    assert list(plugins._offered(str(tmp_path))) == [("plugin acme (acme_lint 1.2)", "acme_lint.rules", "")]


def test_a_new_rule_of_a_team(project: Path, capsys: Output) -> None:
    rule_file, bad, _ = new_rule("item-often", project, project / "tools/lint")
    assert rule_file == project / "tools/lint/item_often.py"
    assert '"ACME002"' in rule_file.read_text()
    assert main(["check", str(bad), "--rules", "tools/lint"]) == 1
    assert "ACME002" in capsys.readouterr().out
    for code in ("TL950", "ACME001", "acme"):
        with pytest.raises(ValueError, match=r"code|already"):
            new_rule("another", project, project / "tools/lint", code)
    assert main(["new-rule", "another"]) == 2
    assert "--rules tools/lint" in capsys.readouterr().err


def test_the_cases_of_a_folder(project: Path, capsys: Output) -> None:
    new_rule("gone-name", project, project / "tools" / "lint", "ACME003")
    assert main(["verify", "--rules", "tools/lint"]) == 2
    assert "none of these rules has cases to run" in capsys.readouterr().err
    assert main(["verify", "--rules", "tools/lnt"]) == 2
    assert "tools/lnt: no such folder" in capsys.readouterr().err
    assert main(["verify", "--rules", "tools/lint", "ACME9"]) == 2
    assert "ACME9" in capsys.readouterr().err
