"""pins: what declares a torch version, in which order, and that nothing is guessed or run."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchlint.locate import locate
from torchlint.pins import find


def pin(folder: Path) -> tuple[tuple[int, int], str] | None:
    found = find(locate([str(folder)]).hints)
    return found and (found.version, found.where.removeprefix(str(folder) + "/"))


CASES = {
    "pyproject": ("pyproject.toml", "[project]\ndependencies = [\n  'torch>=2.1',\n]\n", (2, 1), "pyproject.toml:3"),
    "extra": ("pyproject.toml", "[project.optional-dependencies]\ngpu = ['torch~=2.2']\n", (2, 2), "pyproject.toml:2"),
    "group": (
        "pyproject.toml",
        "[dependency-groups]\ndev = [{include-group = 'x'}, 'torch==2.3']\n",
        (2, 3),
        "pyproject.toml:2",
    ),
    "poetry": ("pyproject.toml", "[tool.poetry.dependencies]\ntorch = '^2.0'\n", (2, 0), "pyproject.toml:2"),
    "poetry-pin": (
        "pyproject.toml",
        "[tool.poetry.dependencies]\ntorch = {version = '2.0.1'}\n",
        (2, 0),
        "pyproject.toml:2",
    ),
    "requirements": (
        "requirements.txt",
        "# torch==1.0\nnumpy\ntorch==2.4.1+cu121 ; python_version > '3'\n",
        (2, 4),
        "requirements.txt:3",
    ),
    "variant": ("requirements-gpu.txt", "torch[opt] >= 1.13\n", (1, 13), "requirements-gpu.txt:1"),
    "setup.cfg": ("setup.cfg", "[options]\ninstall_requires =\n    numpy\n    torch>=1.12\n", (1, 12), "setup.cfg:4"),
    "setup.py": (
        "setup.py",
        "from setuptools import setup\nR = ['torch>=1.11,<3']\nsetup(install_requires=R)\nraise SystemExit\n",
        (1, 11),
        "setup.py:2",
    ),
    "setup.py-extra": ("setup.py", "setup(extras_require={'t': ['torch==1.9.0']})\n", (1, 9), "setup.py:1"),
    "conda": (
        "environment.yml",
        "dependencies:\n  - python=3.10\n  - pytorch::pytorch=2.1=py3.10_cuda\n",
        (2, 1),
        "environment.yml:3",
    ),
    "conda-pip": ("environment.yaml", "dependencies:\n  - pip:\n    - torch==2.0.1\n", (2, 0), "environment.yaml:3"),
    "uv": (
        "uv.lock",
        'x\n[[package]]\nname = "torch"\nversion = "2.6.0"\n[[package]]\nname = "torch"\nversion = "2.3.1+cu121"\n',
        (2, 3),
        "uv.lock",
    ),
    "poetry-lock": ("poetry.lock", '[[package]]\nname = "torch"\nversion = "2.5.1"\n', (2, 5), "poetry.lock"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_file(tmp_path: Path, case: str) -> None:
    name, text, version, where = CASES[case]
    (tmp_path / name).write_text(text)
    assert pin(tmp_path) == (version, where)


SILENT = {
    "upper bound": ("requirements.txt", "torch<2\n"),
    "no bound": ("requirements.txt", "torch\n-r other.txt\n"),
    "another package": ("requirements.txt", "torchvision>=0.15\npytorch-lightning>=2.1\ntorch-geometric==2.3\n"),
    "an address": ("requirements.txt", "torch @ https://example.org/torch-2.3.1-cp311.whl\n"),
    "computed": ("setup.py", "setup(install_requires=open('torch>=1.1').read().split())\n"),
    "not Python": ("setup.py", "setup(install_requires=['torch>=1.1'\n"),
    "not ini": ("setup.cfg", "torch>=1.1\n"),
    "not text": ("requirements.txt", b"torch>=1.1\n\xff\xfe"),
    "conda, not an entry": ("environment.yml", "name: torch=2.1\n"),
    "conda, another": ("environment.yml", "dependencies:\n  - pytorch-cuda=12.1\n"),
    "lock of another": ("uv.lock", '[[package]]\nname = "torchmetrics"\nversion = "1.0.0"\n'),
    "not asked": ("constraints.txt", "torch==1.13\n"),
}


@pytest.mark.parametrize("case", SILENT)
def test_what_says_nothing(tmp_path: Path, case: str) -> None:
    name, text = SILENT[case]
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert pin(tmp_path) is None


def test_the_order(tmp_path: Path) -> None:
    order = (
        ("poetry.lock", '[[package]]\nname = "torch"\nversion = "1.8.0"\n'),
        ("uv.lock", '[[package]]\nname = "torch"\nversion = "1.7.0"\n'),
        ("environment.yml", "dependencies:\n- pytorch=1.6\n"),
        ("requirements_z.txt", "torch==1.5\n"),
        ("requirements-a.txt", "torch==1.4\n"),
        ("requirements.txt", "torch==1.3\n"),
        ("setup.py", "setup(install_requires=['torch>=1.2'])\n"),
        ("setup.cfg", "[options]\ninstall_requires = torch>=1.1\n"),
        ("pyproject.toml", "[project]\ndependencies = ['torch>=1.0']\n"),
    )
    for minor, (name, text) in zip(range(8, -1, -1), order):
        (tmp_path / name).write_text(text)
        found = pin(tmp_path)
        assert found is not None
        assert found[0] == (1, minor), name


def test_the_nearest_project_comes_first(tmp_path: Path) -> None:
    (tmp_path / "torchlint.toml").write_text("")
    (tmp_path / "requirements.txt").write_text("torch==1.3\n")
    inner = tmp_path / "pkg"
    inner.mkdir()
    (inner / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    found = pin(inner)
    assert found is not None
    assert found[0] == (1, 3)
    (inner / "setup.py").write_text("setup(install_requires=['torch>=2.2'])\n")
    found = pin(inner)
    assert found is not None
    assert found[0] == (2, 2)


@pytest.mark.parametrize("name", ["requirements.txt", "setup.cfg", "uv.lock"])
def test_unreadable_files_are_silent(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert pin(tmp_path) is None
