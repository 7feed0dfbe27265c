"""Wheel, sdist and editable install: each ships the rules and the fixtures, needs no torch, and checks code."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from checkout import ROOT, copy_to, environment

pytest.importorskip("build")
pytest.importorskip("hatchling")
pytestmark = pytest.mark.slow

BAD = """\
import torch


def validate(model: torch.nn.Module, loader):
    model.eval()
    return sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
"""
RULES = sorted(path.name for path in (ROOT / "rules").glob("*.py"))
FIXTURES = sorted(path.name for path in (ROOT / "fixtures").iterdir() if (path / "bad.py").is_file())


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of this checkout and the wheel that was built from that sdist."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    copy_to(source)
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, folder=source)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_wheel_holds_rules_and_fixtures(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"torchlint/rules/{name}" for name in RULES} <= names
    assert {f"torchlint/fixtures/{name}/bad.py" for name in FIXTURES} <= names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"torchlint"}


def test_the_sdist_holds_what_tests_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"rules/{name}" for name in RULES} <= names
    assert {f"fixtures/{name}/bad.py" for name in FIXTURES} <= names
    assert {"tests/test_fixtures.py", "tests/conftest.py", "LICENSE", "README.md", "pyproject.toml"} <= names
    assert not [name for name in names if "__pycache__" in name]


@pytest.fixture(params=["wheel", "sdist", "editable"])
def python(request: pytest.FixtureRequest, built: Path, tmp_path: Path) -> Path:
    """The interpreter of a fresh environment with torchlint and what it needs, nothing else."""
    venv.create(tmp_path / "env", with_pip=True)
    found = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if request.param == "editable":
        source = tmp_path / "source"
        source.mkdir()
        copy_to(source)
        what = ["-e", str(source)]
    else:
        (path,) = built.glob("*.whl" if request.param == "wheel" else "*.tar.gz")
        what = [str(path)]
    done = run(found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    return found


def test_an_installation_checks_code(python: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "a.py").write_text(BAD, encoding="utf-8")
    done = run(python, "-m", "torchlint", "check", "a.py", "--output-format", "concise", folder=work)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "a.py:6:17: TL201 " in done.stdout
    listed = run(python.with_name("torchlint"), "rule", "--all", folder=work)
    assert len(listed.stdout.splitlines()) == len(RULES)
    page = run(python.with_name("torchlint"), "rule", "TL201", folder=work)
    assert "## What it does" in page.stdout
    code = (
        "from torchlint.verify.command import fixtures_folder; print((fixtures_folder() / 'row_loop/bad.py').is_file())"
    )
    assert run(python, "-c", code, folder=work).stdout == "True\n"
    packages = run(python, "-m", "pip", "list", "--format", "freeze", folder=work).stdout
    heavy = {"torch", "numpy", "pygls", "scipy", "pandas"}
    assert not heavy & {line.partition("==")[0] for line in packages.splitlines()}, packages
