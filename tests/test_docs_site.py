"""The documentation site: nothing is lost in it, and what its pages show is what the result files and the tools say."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from checkout import ROOT

from torchlint.cli import main
from torchlint.testing import Suite

DOCS = ROOT / "docs"
PAGES = sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md") if p.relative_to(DOCS).parts[0] != "example")


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A script of benchmarks/, which finds its neighbours as it does when it is run."""
    folder = ROOT / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def in_nav(entries: list[Any]) -> list[str]:
    return [
        page
        for entry in entries
        for value in entry.values()
        for page in (in_nav(value) if isinstance(value, list) else [value])
    ]


def test_every_page_is_in_the_navigation() -> None:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)
    listed = in_nav(settings["nav"])
    assert len(listed) == len(set(listed))
    assert sorted(listed) == [page for page in PAGES if not re.fullmatch(r"rules/TL\d+-.*\.md", page)]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_pages(page: str) -> None:
    text = re.sub(r"```.*?```", "", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s#]+\.md)[^)]*\)", text):
        assert (DOCS / page).parent.joinpath(target).is_file(), target


@pytest.mark.parametrize(
    ("page", "script"),
    [
        ("reliability.md", "reliability"),
        ("reliability.md", "faults"),
        ("comparison.md", "comparison"),
        ("tutorial.md", "tutorial"),
        ("performance.md", "speed"),
    ],
)
def test_figures_are_those_of_the_result_files(page: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = benchmark("figures", monkeypatch)
    assert figures.fill(page, benchmark(script, monkeypatch).FIGURES, check=True) == 0


def test_the_rule_of_ten_minutes_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's commands and files, in its order: the scaffold is filled, and every check of it holds, the run too."""
    page = (DOCS / "add-a-rule.md").read_text(encoding="utf-8")
    files = dict(re.findall(r'```python title="([^"]+)"\n(.*?)```', page, re.DOTALL))
    shown = dict(re.findall(r"```console\n\$ torchlint ([^\n]+)\n(.*?)```", page, re.DOTALL))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHLINT_BLESS", "1")
    (scaffold, check, verify) = shown
    assert main(scaffold.split()) == 0
    made = capsys.readouterr().out
    assert made.splitlines()[:3] == shown[scaffold].splitlines()
    for name, text in files.items():
        assert name == "test_rules.py" or Path(name).parent.is_dir(), "the scaffold makes the folder"
        Path(name).write_text(text, encoding="utf-8")
    assert main([*check.split(), "--jobs", "1"]) == 1
    assert capsys.readouterr().out.startswith(shown[check].partition("…")[0])
    namespace: dict[str, Any] = {}
    exec(compile(files["test_rules.py"], "test_rules.py", "exec"), namespace)
    checks = Suite("tools/lint").checks()
    assert f"{len(checks)} passed" in page
    assert "nonzero_count:run" in map(str, checks)
    for one in checks:
        namespace["test_rules"](one)
    assert verify == "verify ACME002 --rules tools/lint"


def test_the_tutorial_shows_what_is_printed_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tutorial = json.loads((ROOT / "benchmarks/results/tutorial.json").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    script = Path(shutil.copy(DOCS / "example" / "tutorial" / "train.py", tmp_path))
    for name in ("check", "fix"):
        assert main([name, "train.py"]) == 1
        printed = capsys.readouterr()
        assert printed.err + printed.out == tutorial["printed"][name]
    script.write_text(tutorial["fixed"], encoding="utf-8")
    assert main(["check", "train.py"]) == 0
    printed = capsys.readouterr()
    assert printed.err + printed.out == tutorial["printed"]["again"]


def test_the_comparison_counts_what_it_lists() -> None:
    data = json.loads((ROOT / "benchmarks/results/comparison.json").read_text(encoding="utf-8"))
    for tool in ("torchlint", "torchfix", "torch-preflight"):
        hits = [place["verdict"] for place in data["places"] if tool in place["by"]]
        assert data["tools"][tool]["found"] == hits.count("bad")
        assert data["tools"][tool]["alarms"] == hits.count("ok")
        by_key = [one["tools"][tool] for one in data["keys"].values()]
        assert [sum(column) for column in zip(*by_key)] == [hits.count("bad"), hits.count("ok")]
    assert sum(one["bad"] for one in data["keys"].values()) == data["bad"]
