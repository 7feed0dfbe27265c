"""config: every key, every error, and where settings are found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.engine import rename_rule
from torchlint.config import from_table, load
from torchlint.locate import ConfigError, locate
from torchlint.pins import torch_floor
from torchlint.rule import Rule, UnknownRule
from torchlint.run import choose
from torchlint.toml import BrokenToml, parse_toml


def configure(text: str) -> object:
    return from_table(parse_toml("t.toml", text.encode()), "t.toml", "/project")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("slect = ['TL1']", "unknown key 'slect'; did you mean 'select'?"),
        ("select = 'TL1'", "select must be a list of strings, not 'TL1'"),
        ("jobs = -1", "jobs must be a number of processes"),
        ("jobs = true", "jobs must be"),
        ("target-device = 'gpu'", 'target-device must be "auto", "cuda" or "cpu"'),
        ("torch-version = 2.4", 'torch-version must be a version such as "2.4"'),
        ("severity = {TL101 = 'fatal'}", "severity must be a table"),
        ("per-file-ignores = ['a']", "per-file-ignores must be a table"),
        ("rules = 1", "rules must be tables"),
    ],
)
def test_errors_name_the_key_and_what_it_takes(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(text)
    assert says in str(caught.value)
    assert str(caught.value).startswith("t.toml: ")


def options_rule() -> Rule:
    return rename_rule(options={"limit": 3, "names": ["a"]})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[rules.old-nam]\nlimit = 1", "did you mean 'old-name'?"),
        ("[rules.old-name]\nlimt = 1", "unknown option 'limt'; did you mean 'limit'?"),
        ("[rules.old-name]\nlimit = 'x'", "limit must be a number, not 'x'"),
        ("[rules.old-name]\nnames = [1]", "names must be a list of strings"),
    ],
)
def test_rule_options_are_checked(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose([options_rule()], configure(text))  # type: ignore[arg-type]
    assert says in str(caught.value)


def test_good_rule_options_pass() -> None:
    assert choose([options_rule()], configure("[rules.old-name]\nlimit = 5\nnames = ['b']"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("", {"TL901"}),
        ("select = ['TL9']", {"TL901"}),
        ("select = ['TL905']", {"TL905"}),
        ("select = ['taste']", {"TL905"}),
        ("select = ['ALL']", {"TL901", "TL905"}),
        ("extend-select = ['TL905']", {"TL901", "TL905"}),
        ("select = ['ALL']\nignore = ['TL901']", {"TL905"}),
    ],
)
def test_selection(text: str, codes: set[str]) -> None:
    rules = [rename_rule(), rename_rule("TL905", "taste", default=False)]
    assert {r.code for r in choose(rules, configure(text))} == codes  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["select", "ignore", "extend-select"])
def test_unknown_selectors_are_errors(key: str) -> None:
    with pytest.raises(UnknownRule, match="did you mean"):
        choose([rename_rule()], configure(f"{key} = ['old-nam']"))  # type: ignore[arg-type]


def test_found_upwards_and_torch_version_from_the_dependencies(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[project]\ndependencies = ['numpy', 'torch[x]>=2.1,<3']\n[tool.torchlint]\nignore = ['TL1']\n"
    )
    (tmp_path / "src" / "deep").mkdir(parents=True)
    config = load(locate([str(tmp_path / "src" / "deep"), str(tmp_path / "src")]))
    assert config.ignore == ("TL1",)
    assert config.torch_version == (2, 1)
    assert config.root == str(tmp_path)


def test_a_pyproject_without_our_section_does_not_end_the_search(tmp_path: Path) -> None:
    (tmp_path / "torchlint.toml").write_text("ignore = ['TL1']\n")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "pyproject.toml").write_text("[project]\ndependencies = ['torchlint', 'torch~=2.6']\n")
    config = load(locate([str(tmp_path / "pkg")]))
    assert config.ignore == ("TL1",)
    assert config.torch_version == (2, 6)


def test_broken_toml_says_where(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.torchlint\n")
    with pytest.raises(BrokenToml, match="line 1"):
        load(locate([str(tmp_path)]))


def test_explicit_config_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        locate([str(tmp_path)], os.path.join(tmp_path, "nope.toml"))


@pytest.mark.parametrize(
    ("line", "floor"),
    [
        ("torch>=2.4", (2, 4)),
        ("torch == 1.13.1", (1, 13)),
        ("torch (>=2.0,<3)", (2, 0)),
        ("torch", None),
        ("torch<2.5", None),
        ("torchvision>=0.15", None),
        ("torch-geometric>=2.3", None),
    ],
)
def test_torch_floor(line: str, floor: tuple[int, int] | None) -> None:
    assert torch_floor([line]) == floor
