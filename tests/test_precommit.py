"""The hooks under the real pre-commit: this checkout as the hook repository, commits in a scratch project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from checkout import copy_to, environment, git

pytest.importorskip("pre_commit")
pytestmark = pytest.mark.slow

BAD = """\
import torch


def validate(model: torch.nn.Module, loader):
    model.eval()
    correct = 0
    for x, y in loader:
        correct += (model(x).argmax(1) == y).sum().item()
    return correct
"""
CLEAN = BAD.replace("def validate", "@torch.no_grad()\ndef validate")
TRAIN = """\
import torch
from torch import nn
from gradients import fresh_start


def train(model: nn.Module, loader, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for _ in range(epochs):
        for x, y in loader:
            fresh_start(optimizer)
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
"""
CLEARS = "def fresh_start(optimizer):\n    optimizer.zero_grad()\n"
CLEARS_NOTHING = "def fresh_start(optimizer):\n    print(optimizer)\n"


@pytest.fixture(scope="module")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("torchlint")
    copy_to(repository)
    git(repository, "init", "-q", "-b", "main")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "as it is now")
    return repository


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("pre-commit"))


class Project:
    """A scratch project with one of the hooks installed."""

    def __init__(self, folder: Path, hooks: Path, cache: str, hook: str) -> None:
        self.folder = folder
        self.environment = environment(PRE_COMMIT_HOME=cache)
        git(folder, "init", "-q", "-b", "main")
        revision = git(hooks, "rev-parse", "HEAD")
        self.write(".pre-commit-config.yaml", f"repos:\n- repo: {hooks}\n  rev: {revision}\n  hooks:\n  - id: {hook}\n")
        self.write(".gitignore", ".torchlint_cache/\n")
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", "start")
        subprocess.run(
            [sys.executable, "-m", "pre_commit", "install"],
            cwd=folder,
            env=self.environment,
            check=True,
            capture_output=True,
        )

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def commit(self, *names: str) -> tuple[bool, str]:
        """Stage these files and commit: whether it went through, and what was printed."""
        git(self.folder, "add", *names)
        done = subprocess.run(
            ["git", "commit", "-m", "x"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def checked(tmp_path: Path, hooks: Path, cache: str) -> Project:
    return Project(tmp_path, hooks, cache, "torchlint-check")


@pytest.fixture
def fixed(tmp_path: Path, hooks: Path, cache: str) -> Project:
    return Project(tmp_path, hooks, cache, "torchlint-fix")


def test_a_bad_commit_is_blocked_and_a_clean_one_passes(checked: Project) -> None:
    checked.write("a.py", BAD)
    passed, output = checked.commit("a.py")
    assert not passed, output
    assert "warning[TL201] eval-without-no-grad" in output
    checked.write("a.py", CLEAN)
    passed, output = checked.commit("a.py")
    assert passed, output


def test_a_commit_without_python_passes(checked: Project) -> None:
    checked.write("README.md", "words\n")
    passed, output = checked.commit("README.md")
    assert passed, output
    assert "Skipped" in output


def test_only_what_is_staged_counts(checked: Project) -> None:
    checked.write("other.py", BAD)
    checked.write("a.py", CLEAN)
    passed, output = checked.commit("a.py")
    assert passed, output
    checked.write("a.py", "import torch\nx = 1\n")
    git(checked.folder, "add", "a.py")
    checked.write("a.py", BAD)  # in the working tree, and not staged
    passed, output = checked.commit()
    assert passed, output
    assert checked.read("a.py") == BAD


@pytest.mark.parametrize(("helper", "passes"), [(CLEARS, True), (CLEARS_NOTHING, False)])
def test_the_rest_of_the_project_answers_questions(checked: Project, helper: str, passes: bool) -> None:
    checked.write("gradients.py", helper)
    passed, output = checked.commit("gradients.py")
    assert passed, output
    checked.write("train.py", TRAIN)
    passed, output = checked.commit("train.py")
    assert passed is passes, output
    assert ("TL101" in output) is not passes
    assert "gradients.py:" not in output


def test_fixes_are_written_and_wait_to_be_staged(fixed: Project) -> None:
    fixed.write("a.py", BAD)
    passed, output = fixed.commit("a.py")
    assert not passed, output
    assert "files were modified by this hook" in output
    assert "torch.no_grad()" in fixed.read("a.py")
    passed, output = fixed.commit("a.py")
    assert passed, output


def test_the_hooks_live_in_an_environment_without_torch(checked: Project, cache: str) -> None:
    checked.write("a.py", CLEAN)
    passed, output = checked.commit("a.py")
    assert passed, output
    environments = list(Path(cache).glob("repo*/py_env-*/bin/python"))
    assert environments
    code = "import importlib.metadata as m; print(*sorted({d.metadata['Name'].lower() for d in m.distributions()}))"
    for python in environments:
        run = subprocess.run([python, "-c", code], env=checked.environment, check=True, capture_output=True, text=True)
        found = set(run.stdout.split())
        assert "torchlint" in found
        assert not found & {"torch", "numpy", "pygls", "flake8"}, found
