"""Settings per file: parts of a monorepo checked in one run, nested and broken settings, `extend`, `--config`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.test_cache import EVALUATE, run
from torchlint.cli import main
from torchlint.config import load
from torchlint.locate import ConfigError, below, extended, locate
from torchlint.options import parse
from torchlint.session import Session

Output = pytest.CaptureFixture[str]


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def mono(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two projects with settings of their own, one of them with a project inside, in a repository that has some too."""
    write(
        tmp_path,
        {
            "pyproject.toml": "[tool.torchlint]\nselect = ['TL201']\nseverity = {TL201 = 'info'}\n",
            "top.py": EVALUATE,
            "a/pyproject.toml": "[tool.torchlint]\nselect = ['TL201']\nseverity = {TL201 = 'error'}\n",
            "a/src/deep/m.py": EVALUATE,
            "a/inner/torchlint.toml": "ignore = ['TL201']\n",
            "a/inner/m.py": EVALUATE,
            "b/pyproject.toml": "[tool.torchlint]\nselect = ['TL201']\nexclude = ['o.py']\n"
            "per-file-ignores = {'gen/*' = ['ALL']}\n",
            "b/gen/m.py": EVALUATE,
            "b/m.py": EVALUATE,
            "b/o.py": EVALUATE,
            "plain/m.py": EVALUATE,
        },
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(arguments: list[str], capsys: Output) -> dict[str, str]:
    assert main(["check", *arguments, "--output-format", "json"]) in (0, 1, 2)
    return {os.path.relpath(d["filename"]): d["severity"] for d in json.loads(capsys.readouterr().out)}


def test_each_file_under_its_own_settings(mono: Path, capsys: Output) -> None:
    expected = {"a/src/deep/m.py": "error", "b/m.py": "warning", "plain/m.py": "info", "top.py": "info"}
    cold = found(["."], capsys)
    assert cold == expected
    assert list(cold) == sorted(cold)
    assert found(["."], capsys) == expected  # from the caches
    assert found(["a", "b", "plain", "top.py"], capsys) == expected
    assert found(["a/src/deep/m.py", "b/m.py"], capsys) == {k: expected[k] for k in ("a/src/deep/m.py", "b/m.py")}
    assert found(["b/m.py", "b/o.py"], capsys) == {"b/m.py": "warning", "b/o.py": "warning"}  # named: not excluded


def test_one_file_alone_and_within_the_repository_agree(mono: Path, capsys: Output) -> None:
    for path, severity in found(["."], capsys).items():
        assert found([path], capsys) == {path: severity}


def test_warm_runs_over_parts_load_no_rule_and_see_changes(mono: Path) -> None:
    cold = run(mono, "check", ".", "--output-format", "concise")
    code, output = run(mono, "check", ".", "--output-format", "concise", modules=True)
    assert code == cold[0] == 1
    for module in ("libcst", "'torchlint.rule'"):
        assert module not in output
    (mono / "b" / "pyproject.toml").write_text("[tool.torchlint]\nignore = ['TL201']\n")
    assert "b/m.py" not in run(mono, "check", ".", "--output-format", "concise")[1]


def test_config_wins_for_all(mono: Path, capsys: Output) -> None:
    (mono / "one.toml").write_text("select = ['TL201']\nseverity = {TL201 = 'warning'}\n")
    assert set(found([".", "--config", "one.toml"], capsys).values()) == {"warning"}


def test_a_broken_part_costs_one_line_and_the_rest_goes_on(mono: Path, capsys: Output) -> None:
    (mono / "a" / "pyproject.toml").write_text("[tool.torchlint]\nslect = []\n")
    (mono / "b" / "pyproject.toml").write_text("[tool.torchlint\n")
    for _ in range(2):
        assert main(["check", ".", "--output-format", "concise"]) == 2
        out, err = capsys.readouterr()
        lines = err.splitlines()
        assert len(lines) == 2
        assert lines[0].endswith("did you mean 'select'?; 1 file under these settings not checked")
        assert "not valid TOML" in lines[1]
        assert "default settings are used" in lines[1]
        assert "top.py" in out
        assert "a/src" not in out
    (mono / "a" / "pyproject.toml").write_text("[tool.torchlint]\nselect = ['TL999']\n")
    assert main(["check", "."]) == 2
    assert f"torchlint: {mono}/a/pyproject.toml:2: unknown rule 'TL999'" in capsys.readouterr().err
    before = (mono / "b" / "m.py").read_text()
    assert main(["fix", ".", "--apply"]) == 2
    assert (mono / "b" / "m.py").read_text() == before
    assert "no_grad" in (mono / "plain" / "m.py").read_text()


def test_fix_uses_each_files_own_settings(mono: Path) -> None:
    assert main(["fix", ".", "--apply"]) == 0
    assert (mono / "a" / "inner" / "m.py").read_text() == EVALUATE
    for path in ("a/src/deep/m.py", "b/m.py", "plain/m.py"):
        assert "no_grad" in (mono / path).read_text()


def test_questions_reach_the_other_parts_of_a_run(mono: Path, capsys: Output) -> None:
    caller = "from src.deep.m import validate\nimport torch\n"
    (mono / "a" / "main.py").write_text(caller + "with torch.no_grad():\n    validate(torch.nn.Linear(1, 1), [])\n")
    assert "a/src/deep/m.py" not in found(["."], capsys)
    assert "a/src/deep/m.py" not in found(["."], capsys)
    assert found(["a/src/deep/m.py"], capsys) == {}


def test_a_pyproject_without_settings_tells_only_the_version(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "torchlint.toml": "ignore = ['TL1']\n",
            "requirements.txt": "torch>=2.5\n",
            "new/pyproject.toml": "[project]\ndependencies = ['torch>=2.6']\n",
            "old/pyproject.toml": "[project]\nname = 'x'\n",
            "old/requirements.txt": "torch==1.13.1\n",
            "none/pyproject.toml": "[project]\nname = 'y'\n",
            "new/a.py": "", "old/a.py": "", "none/a.py": "", "a.py": "",
        },
    )  # fmt: skip
    session = Session(parse(["check", str(tmp_path)]))
    configs = {name: session.project_of(str(tmp_path / name / "a.py")).config for name in ("new", "old", "none")}
    assert {name: c.torch_version for name, c in configs.items()} == {"new": (2, 6), "old": (1, 13), "none": (2, 5)}
    assert {c.ignore for c in configs.values()} == {("TL1",)}
    assert {c.root for c in configs.values()} == {str(tmp_path)}
    assert len(session.projects) == 3
    assert session.config.torch_version == (2, 5)


def test_the_cache_knows_what_told_the_version(tmp_path: Path) -> None:
    write(tmp_path, {"torchlint.toml": "", "requirements.txt": "torch>=2.5\n", "a.py": ""})
    key = locate([str(tmp_path)]).key
    assert locate([str(tmp_path)]).key == key
    (tmp_path / "requirements.txt").write_text("torch>=1.5\n")
    assert locate([str(tmp_path)]).key != key


def test_extend_takes_what_is_not_set(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "base.toml": "select = ['TL1']\nextend-select = ['TL503']\nignore = ['TL2']\n"
            "[severity]\nTL101 = 'info'\nTL102 = 'info'\n[per-file-ignores]\n'a' = ['TL1']\n'b' = ['TL1']\n",
            "app/pyproject.toml": "[tool.ruff]\nextend = 'no.toml'\n[tool.torchlint]\nextend = '../base.toml'  # team\n"
            "select = ['TL3']\nextend-select = ['TL504']\nseverity = {TL101 = 'error'}\nper-file-ignores = {b = []}\n",
        },
    )
    found = locate([str(tmp_path / "app")])
    config = load(found)
    assert config.select == ("TL3",)
    assert config.extend_select == ("TL503", "TL504")
    assert config.ignore == ("TL2",)
    assert config.severity == {"TL101": "error", "TL102": "info"}
    assert config.per_file_ignores == (("a", ("TL1",)), ("b", ()))
    assert config.root == str(tmp_path / "app")
    key = found.key
    (tmp_path / "base.toml").write_text("select = []\n")
    assert locate([str(tmp_path / "app")]).key != key


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"torchlint.toml": "extend = 'base.tml'\n", "base.toml": ""}, "does not exist; did you mean"),
        ({"torchlint.toml": "extend = 'a.toml'\n", "a.toml": "extend = 'torchlint.toml'\n"}, "in a circle"),
        ({"torchlint.toml": "'extend' = 'a.toml'\n", "a.toml": ""}, "on a line of its own"),
        ({"torchlint.toml": "extend = 'a.toml'\n", "a.toml": "slect = []\n"}, "a.toml:1: unknown key 'slect'"),
        ({"torchlint.toml": "extend = 'a.toml'\n", "a.toml": "select = [\n"}, "a.toml: not valid TOML"),
    ],
)
def test_extend_that_cannot_be_used(tmp_path: Path, files: dict[str, str], says: str) -> None:
    write(tmp_path, files)
    with pytest.raises(ConfigError, match=says):
        load(locate([str(tmp_path)]))


def test_extend_is_read_from_our_table_only() -> None:
    assert extended("pyproject.toml", b"[tool.ruff]\nextend = 'a'\n[tool.torchlint.rules.x]\nextend = 'b'\n") == ""
    assert extended("pyproject.toml", b"[tool.torchlint]\nextend-select = ['a']\n  extend='b'\n") == "b"
    assert extended("x/torchlint.toml", b'extend = "../b.toml"\n') == "b.toml"


def test_below_without_anything_is_the_enclosing_project(tmp_path: Path) -> None:
    write(tmp_path, {"pyproject.toml": "[tool.torchlint]\n", "a/pyproject.toml": "[project]\nname = 'numbers'\n"})
    top = locate([str(tmp_path)])
    assert below(str(tmp_path / "a"), top) is top
