"""The flake8 plugin, found by its entry point and run by the real flake8."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from checkout import ROOT, copy_to, environment

from torchlint import __version__
from torchlint.cli import main
from torchlint.toml import parse_toml

BAD = """\
import torch


def validate(model: torch.nn.Module, loader):
    model.eval()
    return sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
"""


class Flake8:
    """flake8 in a process of its own, in a folder."""

    def __init__(self, folder: Path, *command: str, **more: str) -> None:
        self.folder = folder
        self._command = command
        self._environment = environment(**more)

    def __call__(self, *arguments: str, stdin: bytes = b"") -> list[str]:
        done = subprocess.run(
            [*self._command, "--isolated", *arguments],
            cwd=self.folder,
            env=self._environment,
            input=stdin,
            capture_output=True,
            check=False,
        )
        assert done.stderr == b""
        return done.stdout.decode("utf-8").splitlines()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that says of this checkout what its installation would say: name, version, entry points."""
    site = tmp_path_factory.mktemp("site")
    info = site / f"torchlint-{__version__}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torchlint\nVersion: {__version__}\n")
    path = ROOT / "pyproject.toml"
    points = parse_toml(str(path), path.read_bytes())["project"]["entry-points"]["flake8.extension"]
    lines = [f"{name} = {target}" for name, target in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[flake8.extension]", *lines, ""]))
    return site


@pytest.fixture
def flake8(tmp_path: Path, installed: Path) -> Flake8:
    return Flake8(tmp_path, sys.executable, "-m", "flake8", PYTHONPATH=f"{installed}{os.pathsep}{ROOT}")


def test_findings_are_those_of_check(flake8: Flake8, capsys: pytest.CaptureFixture[str]) -> None:
    text = "# 🔥 ünï\n" + BAD + "\n\nscaler = torch.cuda.amp.GradScaler()\n"
    path = flake8.folder / "a.py"
    path.write_text(text, encoding="utf-8")
    found = flake8("--select", "TL", "--format", "%(path)s:%(row)d:%(col)d: %(code)s %(text)s", "a.py")
    main(["check", str(path), "--output-format", "concise", "--no-cache"])
    expected = [line for line in capsys.readouterr().out.splitlines() if " TL" in line]
    assert [line.split()[1] for line in found] == [line.split()[1] for line in expected]
    places = [line.split()[0].rpartition("a.py")[2] for line in expected]
    assert [line.split()[0].rpartition("a.py")[2] for line in found] == places
    assert found[0].startswith("a.py:7:17: TL201 `model` is evaluated while autograd records: ")
    assert len(found) == 2


def test_the_nearest_settings_hold(flake8: Flake8) -> None:
    for name, setting in (("one", "ignore = ['TL201']"), ("two", "select = ['TL201']"), ("bad", "slect = []")):
        (flake8.folder / name).mkdir()
        (flake8.folder / name / "pyproject.toml").write_text(f"[tool.torchlint]\n{setting}\n")
        (flake8.folder / name / "a.py").write_text(BAD)
    (flake8.folder / "two" / "build").mkdir()
    (flake8.folder / "two" / "build" / "a.py").write_text(BAD)
    lines = flake8("--select", "TL", "--max-line-length", "300", ".")
    assert [line.split(": ")[0] for line in lines] == ["./bad/a.py:1:1", "./two/a.py:6:17"]
    assert "unknown key 'slect'; did you mean 'select'?" in lines[0]


def test_comments_silence_and_standard_input_is_read(flake8: Flake8) -> None:
    assert [line.split()[1] for line in flake8("--select", "TL", "-", stdin=BAD.encode())] == ["TL201"]
    for comment in ("# noqa: TL201", "# torchlint: ignore[TL201]"):
        silenced = BAD.replace("for x, y in loader)\n", f"for x, y in loader)  {comment}\n")
        assert flake8("--select", "TL", "-", stdin=silenced.encode()) == []


def test_the_rest_of_the_project_and_declared_encodings(flake8: Flake8) -> None:
    (flake8.folder / "pyproject.toml").write_text("[tool.torchlint]\nselect = ['TL201']\n")
    (flake8.folder / "a.py").write_bytes(b"# coding: latin-1\n# \xfc\n" + BAD.encode())
    (flake8.folder / "main.py").write_text("import a\nimport torch\n\n\nwith torch.no_grad():\n    a.validate(1, 2)\n")
    assert flake8("--select", "TL", ".") == []
    (flake8.folder / "main.py").write_text("import a\n\na.validate(1, 2)\n")
    assert [line.split()[0] for line in flake8("--select", "TL", ".")] == ["./a.py:8:17:"]


@pytest.mark.slow
def test_an_installed_plugin_is_found_by_flake8(tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    source, work = tmp_path / "source", tmp_path / "work"
    source.mkdir()
    work.mkdir()
    copy_to(source)
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", source, "flake8"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (work / "a.py").write_text(BAD)
    flake8 = Flake8(work, str(python), "-m", "flake8")
    assert [line.split()[1] for line in flake8("a.py")] == ["TL201"]
    assert f"torchlint: {__version__}" in flake8("--version")[0]
