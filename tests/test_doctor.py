"""doctor: says what is there, and for each broken thing what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import torchlint
from torchlint import doctor
from torchlint.cli import main
from torchlint.doctor import Line
from torchlint.toml import parse_toml

Output = pytest.CaptureFixture[str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text("[tool.torchlint]\ntorch-version = '2.4'\n")
    (tmp_path / "a.py").write_text("import torch\n")
    monkeypatch.chdir(tmp_path)
    # Asked for real in one test only: it takes seconds.
    monkeypatch.setattr(doctor, "_torch", lambda: Line("torch", "2.13.0, devices: cpu"))
    return tmp_path


def test_everything_fine(project: Path, capsys: Output) -> None:
    assert main(["check", "."]) == 0
    capsys.readouterr()
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in (
        f"torchlint {torchlint.__version__}",
        "libcst",
        "on by default",
        "pyproject.toml; 8",
        "torch >= 2.4",
        "1 file,",
        "rlimits",
    ):
        assert word in out, word
    assert out.endswith("Nothing is broken.\n")
    assert "\x1b" not in out


def test_torch_is_asked_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('mine')\n")
    monkeypatch.chdir(tmp_path)
    line = doctor._torch()
    assert not line.broken
    assert "cpu" in line.text


BROKEN_TORCH = {
    "raises": (
        "raise OSError('libcudart.so.12: cannot open shared object file')",
        "cannot be imported: OSError: libcudart",
    ),
    "crashes": ("import os; os.kill(os.getpid(), 9)", "it ended with code -9"),
    "hangs": ("import time; time.sleep(60)", "took longer than 1 s"),
}


@pytest.mark.parametrize("case", BROKEN_TORCH)
def test_a_broken_torch_does_not_break_doctor(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, says = BROKEN_TORCH[case]
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(body + "\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "TORCH_SECONDS", 1.0 if case == "hangs" else 60.0)
    line = doctor._torch()
    assert line.broken
    assert says in line.text
    assert "import torch" in line.remedy


def test_no_torch_is_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    line = doctor._torch()
    assert not line.broken
    assert "torchlint[verify]" in line.remedy


def test_broken_settings(project: Path, capsys: Output) -> None:
    (project / "pyproject.toml").write_text("[tool.torchlint]\nslect = []\n")
    assert main(["doctor"]) == 2
    out = capsys.readouterr().out
    assert "!! settings" in out
    assert "did you mean 'select'?" in out
    assert "torchlint config --schema" in out
    assert out.endswith("1 thing to repair.\n")


def test_the_cache(project: Path, capsys: Output) -> None:
    folder = project / ".torchlint_cache"
    folder.mkdir()
    (folder / "abc").write_bytes(b"garbage")
    assert main(["doctor"]) == 0
    assert "1 of an older torchlint or damaged" in capsys.readouterr().out
    (folder / "abc").unlink()
    folder.rmdir()
    folder.write_text("")
    assert main(["doctor", "a.py"]) == 2
    assert "is not a folder" in capsys.readouterr().out


def test_a_rule_that_cannot_be_imported(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setitem(sys.modules, "torchlint.rules.eval_without_no_grad", None)
    assert main(["doctor"]) == 2
    assert "!! rules" in capsys.readouterr().out


def test_a_path_that_does_not_exist(project: Path, capsys: Output) -> None:
    assert main(["doctor", "nope"]) == 2
    assert "no such file" in capsys.readouterr().out


def test_the_extras_are_those_of_the_package() -> None:
    path = Path(__file__).parents[1] / "pyproject.toml"
    optional = parse_toml(str(path), path.read_bytes())["project"]["optional-dependencies"]
    named = {extra: tuple(line.partition(">")[0] for line in lines) for extra, lines in optional.items()}
    assert {extra: needs for extra, needs in named.items() if extra not in ("dev", "docs")} == doctor.EXTRAS
