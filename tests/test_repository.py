"""Invariants of the repository: what every rule has, what may import what, and that generated files are fresh."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from checkout import FIXTURES

from torchlint import cli, docs_build
from torchlint.diagnostic import Applicability
from torchlint.report.text import split_message
from torchlint.rule import Rule
from torchlint.scaffold import new_rule
from torchlint.testing.case import cases, rule_folders
from torchlint.testing.engine import check, rules
from torchlint.verify.case import Case as RunCase

ROOT = Path(__file__).parents[1]
RULES = [pytest.param(rule, id=rule.name) for rule in rules().values()]
# What a rule may build on. migrate and vectorise hold the two fixes that are programs of their own.
RULE_IMPORTS = {"diagnostic", "edits", "migrate", "nodes", "rule", "semantics", "source", "spelling", "vectorise"}
SECTIONS = ["What it does", "Why is this bad", "Example", "Fix safety", "Verified by", "References"]
# A fixture cannot make a rule crash; tests/test_check.py does.
WITHOUT_FIXTURES = {"rule-crashed"}


def folder_of(rule: Rule) -> Path:
    return FIXTURES / rule.name.replace("-", "_")


def test_every_rule_has_fixtures_and_the_reverse() -> None:
    folders = {folder.name.replace("_", "-") for folder in rule_folders(FIXTURES)}
    assert sorted(rules().keys() - WITHOUT_FIXTURES - folders) == [], "rules without a fixture folder"
    assert sorted(folders - rules().keys()) == [], "fixture folders that belong to no rule"


def test_every_rule_file_is_loaded() -> None:
    files = {path.stem.replace("_", "-") for path in (ROOT / "rules").glob("*.py")}
    assert files == set(rules())


def test_codes_are_unique_and_names_are_kebab_case() -> None:
    codes = [rule.code for rule in rules().values()]
    assert len(codes) == len(set(codes))
    for name in rules():
        assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", name), name


def test_nothing_else_lies_in_fixtures() -> None:
    known = re.compile(r"run\.py|torchlint\.toml|ok(_\w+)?\.py|bad(_\w+)?(\.fixed)?\.py|bad(_\w+)?\.out|__pycache__")
    folders = re.compile(r"(ok|bad)_\w+(\.fixed)?")
    for folder in rule_folders(FIXTURES):
        strangers = [p.name for p in folder.iterdir() if not (folders if p.is_dir() else known).fullmatch(p.name)]
        assert not [s for s in strangers if s != "__pycache__"], f"{folder.name}: {strangers}"
        stems = {case.stem.name for case in cases(folder)}
        for path in folder.iterdir():
            generated = re.fullmatch(r"(.+?)(\.out|\.fixed\.py|\.fixed)", path.name)
            assert generated is None or generated[1] in stems, f"{folder.name}/{path.name} has no source any more"


@pytest.mark.parametrize("rule", RULES)
def test_the_docstring_is_a_page(rule: Rule) -> None:
    summary, _, rest = rule.doc.strip().partition("\n")
    assert summary.endswith("."), "the first line is a sentence"
    assert rest.startswith("\n"), "a blank line follows the first one"
    found = re.findall(r"^## (.+)$", rest, re.MULTILINE)
    assert found == SECTIONS
    for section in re.split(r"^## .+$", rest, flags=re.MULTILINE)[1:]:
        assert section.strip(), "every section says something"


@pytest.mark.parametrize("rule", RULES)
def test_examples_are_python(rule: Rule) -> None:
    if rule.code != "TL001":  # whose example is what Python cannot read
        for block in re.findall(r"```python\n(.*?)```", rule.doc, re.DOTALL):
            ast.parse(textwrap.dedent(block))


@pytest.mark.parametrize("rule", [p for p in RULES if p.id not in WITHOUT_FIXTURES | {"syntax-error"}])
def test_messages_say_what_why_and_what_to_do(rule: Rule) -> None:
    for case in cases(folder_of(rule)):
        for d in check(case, case.files, rule):
            what, why, do = split_message(d.message)
            assert why, f"not `what: why; do`: {d.message}"
            assert do
            assert not re.match(r"(?!Python )[A-Z][a-z]", what), f"starts with a small letter: {what}"
            assert not d.message.endswith("."), d.message
            assert "\n" not in d.message
            if d.fix:
                assert not d.fix.message.endswith("."), d.fix.message


@pytest.mark.parametrize("rule", RULES)
def test_rules_import_only_what_rules_may(rule: Rule) -> None:
    path = ROOT / "rules" / f"{rule.name.replace('-', '_')}.py"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif not isinstance(node, ast.ImportFrom):
            continue
        else:
            assert node.level == 0, f"line {node.lineno}: a relative import"
            names = [node.module or ""]
            if node.module == "torchlint":
                names = [f"torchlint.{alias.name}" for alias in node.names]
        for name in names:
            top, _, rest = name.partition(".")
            if top == "torchlint":
                assert rest.partition(".")[0] in RULE_IMPORTS, f"line {node.lineno}: a rule imports {name}"
            else:
                assert top == "libcst" or top in sys.stdlib_module_names, f"line {node.lineno}: a rule imports {name}"


@pytest.mark.parametrize("rule", [p for p in RULES if Applicability.SAFE in rules()[str(p.id)].fixes])
def test_safe_fixes_are_proven_by_running(rule: Rule) -> None:
    if not rule.checks:  # the engine's own: it removes comments, which never run
        return
    path = folder_of(rule) / "run.py"
    assert path.is_file(), f"{rule.code} calls a fix safe, so it needs {path.relative_to(ROOT)}"
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location(f"run_{rule.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.CASES
    assert all(isinstance(case, RunCase) for case in module.CASES)


def test_the_pages_are_what_the_rules_say() -> None:
    stale = docs_build.stale(ROOT / "docs" / "rules")
    assert not stale, f"run `python -m torchlint.docs_build`: {stale}"


def test_torchlint_passes_torchlint(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(["check", "--no-cache", "--output-format", "concise", "torchlint", "rules"]) == 0, (
        capsys.readouterr()
    )


def test_the_readme_shows_what_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("NO_COLOR", "1")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert cli.main(["check", "--no-cache", "docs/example/train.py"]) == 1
    printed = capsys.readouterr().out
    (shown,) = re.findall(r"```text\n(.*?)```", readme, re.DOTALL)
    for part in shown.strip().split("\n\n…\n\n"):
        for block in part.split("\n\n"):
            assert block in printed, "README.md shows what `torchlint check docs/example/train.py` no longer prints"
    cli.main(["fix", "--no-cache", "docs/example/train.py"])
    (diff,) = re.findall(r"```diff\n(.*?)```", readme, re.DOTALL)
    assert capsys.readouterr().out == diff


def test_imports_point_one_way() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    if not lint_imports.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run([lint_imports], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_checking_imports_no_torch() -> None:
    program = (
        "import sys; from torchlint.cli import main; "
        "main(['check', '--no-cache', '-q', 'fixtures/eval_without_no_grad/bad.py']); "
        "sys.exit(sorted({'torch', 'numpy', 'pytest'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_say_why_they_exist_and_stay_small() -> None:
    for path in sorted((ROOT / "torchlint").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert text.startswith('"""'), f"{path.relative_to(ROOT)} says in its first line why it exists"
        assert text.count("\n") <= 480, f"{path.relative_to(ROOT)} may be two rooms"


# -- torchlint new-rule --------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "rules").mkdir()
    (tmp_path / "fixtures").mkdir()
    return tmp_path


def test_a_new_rule_starts_as_a_rule_that_works(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule_file, bad, ok = new_rule("item-in-tests", checkout)
    spec = importlib.util.spec_from_file_location("torchlint.rules.item_in_tests", rule_file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "torchlint.rules.item_in_tests", module)
    spec.loader.exec_module(module)
    rule: Rule = module.RULE
    assert rule.name == "item-in-tests"
    assert rule.code not in {r.code for r in rules().values()}
    (bad_case, ok_case) = cases(bad.parent)
    assert [(bad_case.path, ok_case.path)] == [(bad, ok)]
    from torchlint.check import check_text
    from torchlint.config import Config

    found = check_text("bad.py", bad_case.texts["bad.py"], [rule], Config())
    assert {("bad.py", d.row) for d in found} == set(bad_case.places("expect", code=rule.code))
    assert check_text("ok.py", ok_case.texts["ok.py"], [rule], Config()) == []
    assert re.findall(r"^## (.+)$", rule.doc, re.MULTILINE) == SECTIONS


def test_the_next_new_rule_gets_another_code(checkout: Path) -> None:
    first = new_rule("one-thing", checkout)[0].read_text(encoding="utf-8")
    second = new_rule("another-thing", checkout)[0].read_text(encoding="utf-8")
    assert re.findall(r'"(TL\d+)"', first) != re.findall(r'"(TL\d+)"', second)


@pytest.mark.parametrize("name", ["Item", "item_in_loop", "../x", "a b", "", "eval-without-no-grad"])
def test_names_that_cannot_be_or_are_taken_write_nothing(checkout: Path, name: str) -> None:
    with pytest.raises(ValueError, match="rule"):
        new_rule(name, checkout)
    assert not list(checkout.rglob("*.py"))


def test_a_new_rule_needs_a_checkout(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checkout"):
        new_rule("one-thing", tmp_path)


# -- docs_build --------------------------------------------------------------------------------


def test_pages_are_written_once_and_orphans_go(tmp_path: Path) -> None:
    (tmp_path / "TL000-gone.md").write_text("old", encoding="utf-8")
    written = docs_build.write(tmp_path)
    assert "TL000-gone.md" in written
    assert not (tmp_path / "TL000-gone.md").exists()
    assert docs_build.write(tmp_path) == []
    index = (tmp_path / "index.md").read_text(encoding="utf-8")
    for rule in rules().values():
        assert f"[{rule.name}]({rule.code}-{rule.name}.md)" in index
        assert (tmp_path / f"{rule.code}-{rule.name}.md").is_file()
