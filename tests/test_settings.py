"""`torchlint config`: what holds and where it comes from; the schema accepts what the reader accepts, and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import libcst as cst
import pytest

from torchlint.catalogue import load as load_rules
from torchlint.cli import main
from torchlint.config import KEYS, from_table
from torchlint.locate import ConfigError
from torchlint.run import choose
from torchlint.schema import FILE, schema, text
from torchlint.toml import parse_toml

Output = pytest.CaptureFixture[str]

OWN = """\
[project]
dependencies = ["torch>=2.1"]

[tool.torchlint]
extend = "base.toml"
ignore = ["TL1"]  # torch-version = "9.9"
extend-select = [
    "TL503",
]
per-file-ignores = {"gen/*" = ["ALL"]}

[tool.torchlint.severity]
"TL201" = "error"

[tool.torchlint.rules.unstable-log-exp]
small = true
"""
BASE = "severity.TL203 = 'info'\nextend-select = ['TL504']\nignore = []\ntarget-device = 'cpu'\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text(OWN)
    (tmp_path / "base.toml").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(capsys: Output, *arguments: str) -> dict[str, Any]:
    assert main(["config", *arguments, "--output-format", "json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_every_setting_has_its_origin(project: Path, capsys: Output) -> None:
    document = shown(capsys, "--jobs", "2", "--ignore", "TL3")
    sources = {key: entry["source"] for key, entry in document["settings"].items()}
    assert set(sources) == set(KEYS)
    assert sources["ignore"] == "--ignore, pyproject.toml:6"
    assert sources["extend-select"] == "pyproject.toml:7, base.toml:2"
    assert sources["per-file-ignores"] == "pyproject.toml:10"
    assert sources["severity"] == "pyproject.toml:12"
    assert sources["target-device"] == "base.toml:4"
    assert sources["jobs"] == "--jobs"
    assert sources["exclude"] == "default"
    assert document["torch"] == {
        "version": "2.1",
        "source": "pyproject.toml:2, the oldest torch that the project allows",
    }
    assert document["settings"]["ignore"]["value"] == ["TL1", "TL3"]
    assert document["rules"]["known"] == len(load_rules())
    assert not any(code.startswith("TL1") for code in document["rules"]["codes"])


def test_the_text_is_toml_that_means_the_same(project: Path, capsys: Output) -> None:
    assert main(["config"]) == 0
    out = capsys.readouterr().out
    table = parse_toml("out", out.encode())["tool"]["torchlint"]
    values = {key: entry["value"] for key, entry in shown(capsys)["settings"].items()}
    assert table == {key: value for key, value in values.items() if key in table}
    assert all(not values[key] for key in set(values) - set(table))
    from_table(table, "out", ".")
    assert '"TL203" = "info"  # base.toml:1' in out or 'TL203 = "info"  # base.toml:1' in out
    assert 'TL201 = "error"  # pyproject.toml:13' in out
    assert "[tool.torchlint.rules.unstable-log-exp]  # pyproject.toml:15" in out
    assert max(map(len, out.replace(str(project), "").splitlines())) < 121


def test_nothing_that_a_checkout_holds_acts_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    folder = tmp_path / "\x1b[31mred"
    folder.mkdir()
    toml = "cache-dir = 'x\u202e'\n[per-file-ignores]\n\"a\\u001b[2J\" = ['TL1']\n"
    (folder / "torchlint.toml").write_text(toml, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for verb in ("config", "doctor"):
        main([verb, str(folder)])
        out = capsys.readouterr().out
        assert not {"\x1b", "\u202e"} & set(out)
        if verb == "config":
            assert parse_toml("out", out.encode())["tool"]["torchlint"]["per-file-ignores"] == {"a\x1b[2J": ["TL1"]}


def test_without_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["config"]) == 0
    out = capsys.readouterr().out
    assert "# settings: none found" in out
    assert "# torch-version: the newest" in out
    assert parse_toml("out", out.encode())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pyproject.tml"], "did you mean pyproject.toml?"),
        (["a", "b"], "takes one PATH"),
        (["--output-format", "jsn"], "did you mean json?"),
        (["--select", "TL9999"], "unknown rule"),
        (["--config", "bas.toml"], "no such config file; did you mean base.toml?"),
    ],
)
def test_errors(project: Path, capsys: Output, arguments: list[str], says: str) -> None:
    assert main(["config", *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[project]\nname = 'x'\n[tool.torchlint]\nslect = []\n", "pyproject.toml:4: [tool.torchlint]: unknown key"),
        ("[tool.torchlint.severity]\nTL201 = 'warn'\n", "pyproject.toml:1: [tool.torchlint]: severity must be"),
        ("[tool]\ntorchlint.jobs = 'x'\n", "pyproject.toml:2: [tool.torchlint]: jobs must be"),
        ("[torchlint]\nselect = []\n", "write [tool.torchlint]"),
        ("[tool.torchlint]\nselect = ['']\n", "pyproject.toml:2: unknown rule ''"),
        ("[tool.torchlint.rules.unstable-log-exp]\nsmall = 1\n", "small must be true or false, not 1"),
    ],
)
def test_errors_in_settings_lead_to_the_line(
    toml: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    (tmp_path / "pyproject.toml").write_text(toml)
    monkeypatch.chdir(tmp_path)
    assert main(["check", "."]) == 2
    assert says in capsys.readouterr().err


def test_an_unknown_rule_is_blamed_on_the_file_that_names_it(project: Path, capsys: Output) -> None:
    (project / "base.toml").write_text("ignore = ['TL1', 'TL1x']\n")
    (project / "pyproject.toml").write_text("[tool.torchlint]\nextend = 'base.toml'\n")
    assert main(["check", "."]) == 2
    assert f"{project}/base.toml:1: unknown rule 'TL1x'" in capsys.readouterr().err


# -- the schema ---------------------------------------------------------------------------------------------------


def test_the_schema_is_fresh_and_a_schema(capsys: Output) -> None:
    assert FILE.read_text(encoding="utf-8") == text(), "run `python -m torchlint.schema`"
    jsonschema.Draft7Validator.check_schema(schema())
    assert main(["config", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


GOOD = {
    "extend": "extend = '../base.toml'",
    "select": "select = ['ALL', 'TL1', 'row-loop']",
    "ignore": "ignore = []",
    "extend-select": "extend-select = ['TL503']",
    "per-file-ignores": "[per-file-ignores]\n'tests/*' = ['TL2']",
    "exclude": "exclude = ['a', 'b/*']",
    "extend-exclude": "extend-exclude = ['a']",
    "severity": "severity = {TL1 = 'info', row-loop = 'error'}",
    "torch-version": "torch-version = '2.4.1'",
    "target-device": "target-device = 'cuda'",
    "jobs": "jobs = 0",
    "cache-dir": "cache-dir = '/tmp/x'",
    "rule-paths": "rule-paths = ['tools/lint']",
    "docs": "docs = true",
    "docstrings": "docstrings = false",
    "loader-names": "loader-names = ['make_loader']",
    "grad-disabling": "grad-disabling = ['frozen']",
    "rules": "[rules.unstable-log-exp]\nsmall = true\n[rules.TL201]",
}
BAD = [
    "slect = ['TL1']",
    "select = 'TL1'",
    "jobs = -1",
    "jobs = true",
    "target-device = 'gpu'",
    "torch-version = 2.4",
    "torch-version = 'new'",
    "severity = {TL101 = 'fatal'}",
    "per-file-ignores = ['a']",
    "per-file-ignores = {a = 'TL1'}",
    "rules = 1",
    "docs = 'README.md'",
    "[rules.no-such-rule]",
    "[rules.unstable-log-exp]\nsmal = true",
    "[rules.unstable-log-exp]\nsmall = 'yes'",
    "[rules.TL201]\nlimit = 1",
]


def accepted(table: dict[str, Any]) -> bool:
    try:
        choose(load_rules(), from_table(table, "t", "."))
    except ConfigError:
        return False
    return True


def valid(table: dict[str, Any]) -> bool:
    return bool(jsonschema.Draft7Validator(schema()).is_valid(table))


def test_every_key_is_in_the_schema() -> None:
    assert set(schema()["properties"]) == {"extend", *KEYS} == set(GOOD)


@pytest.mark.parametrize("key", GOOD)
def test_what_is_accepted_validates(key: str) -> None:
    table = parse_toml("t", GOOD[key].encode())
    assert accepted(table)
    assert valid(table)


@pytest.mark.parametrize("toml", BAD)
def test_what_is_refused_does_not_validate(toml: str) -> None:
    table = parse_toml("t", toml.encode())
    assert not accepted(table)
    assert not valid(table)


def test_names_of_the_project_are_understood() -> None:
    from torchlint.check import check_text
    from torchlint.config import Config
    from torchlint.nodes import find
    from torchlint.semantics import Semantics
    from torchlint.semantics.kinds import Kind
    from torchlint.source import File

    source = """\
import torch
from mylib import frozen

@frozen
def validate(model: torch.nn.Module, loader):
    model.eval()
    for x, y in loader:
        print((model(x).argmax(1) == y).sum().item())
"""
    rules = [rule for rule in load_rules() if rule.code == "TL201"]

    def found(config: Config) -> set[str]:
        return {d.code for d in check_text("a.py", source, rules, config)}

    assert "TL201" in found(Config())
    assert "TL201" not in found(Config(grad_disabling=("mylib.frozen",)))
    for names, kind in ((), Kind.UNKNOWN), (("mylib.make_loader",), Kind.LOADER):
        file = File.parse("a.py", "from mylib import make_loader\n\ndef f():\n    return make_loader()\n")
        assert Semantics(file, (), names).value(next(iter(find(file.tree, cst.Call)))).kind is kind


def test_options_may_be_given_by_code(tmp_path: Path, capsys: Output) -> None:
    from torchlint.check import check_text
    from torchlint.config import load
    from torchlint.locate import locate

    source = "import torch\n\ndef loss(x):\n    x = torch.as_tensor(x)\n    return torch.log(1 + x.exp())\n"
    rules = [rule for rule in load_rules() if rule.name == "unstable-log-exp"]
    found = []
    for name in ("unstable-log-exp", rules[0].code):
        (tmp_path / "torchlint.toml").write_text(f"[rules.{name}]\nsmall = true\n")
        found.append([d.message for d in check_text("a.py", source, rules, load(locate([str(tmp_path)])))])
    assert found[0] == found[1]


def test_the_docs_name_every_key_with_its_default() -> None:
    from torchlint.config import Config

    page = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text(encoding="utf-8")
    described = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert described == set(KEYS)
    assert f'| `target-device` | `"{Config().target_device}"` |' in page
    assert f"| `jobs` | `{Config().jobs}` |" in page
