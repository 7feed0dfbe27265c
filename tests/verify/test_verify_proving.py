"""`fix --apply --verify=run`: exactly the proven fixes are written, by the real command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]

LIBRARY = """\
import torch
import torch.nn.functional as F


def train(model, optimizer, loader):
    model.train()
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()


def gather(parts):
    out = torch.empty(0, 3)
    for part in parts:
        out = torch.cat([out, part])
    return out


def unused(parts):
    out = torch.empty(0, 3)
    for part in parts:
        out = torch.cat([out, part])
    return out
"""
SCRIPT = """\
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import library

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(40, 4), torch.randint(0, 3, (40,))), batch_size=8)
library.train(model, optimizer, loader)
library.gather([torch.randn(2, 3) for _ in range(4)])
torch.save(model.state_dict(), "model.pt")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "library.py").write_text(LIBRARY)
    (tmp_path / "train.py").write_text(SCRIPT)
    return tmp_path


def torchlint(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from torchlint.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=project, capture_output=True, text=True, timeout=200, check=False
    )


def test_only_what_is_proven_is_written(project: Path) -> None:
    done = torchlint(project, "fix", "library.py", "--apply", "--verify=run", "--", sys.executable, "train.py")
    text = (project / "library.py").read_text()
    assert done.returncode == 1, done.stdout + done.stderr  # `unused` is left
    assert "optimizer.zero_grad()" in text
    assert text[text.index("def unused") :] == LIBRARY[LIBRARY.index("def unused") :]
    assert text[text.index("def gather") : text.index("def unused")] != LIBRARY[LIBRARY.index("def gather") :]
    assert "intended-change-confirmed" in done.stdout
    assert "never called" in done.stdout
    if "changes no file" in done.stdout:
        assert not (project / "model.pt").exists()


def test_without_apply_nothing_is_written(project: Path) -> None:
    done = torchlint(project, "fix", "library.py", "--verify=run", "--", sys.executable, "train.py")
    assert (project / "library.py").read_text() == LIBRARY
    assert "+        optimizer.zero_grad()" in done.stdout


EVALUATION = """

def evaluate(model, loader):
    model.eval()
    scores = []
    for x, _ in loader:
        scores.append(model(x))
    return torch.cat(scores)
"""


@pytest.mark.parametrize(
    ("last", "proven"),
    [
        ("print(scores.sum().item())", True),
        ("scores.sum().backward(); print(model[0].weight.grad.sum().item())", False),
    ],
)
def test_whether_a_lost_graph_matters_shows_in_the_whole_run(project: Path, last: str, proven: bool) -> None:
    (project / "library.py").write_text(LIBRARY + EVALUATION)
    (project / "train.py").write_text(SCRIPT + f"scores = library.evaluate(model, loader)\n{last}\n")
    words = ("fix", "library.py", "--apply", "--select=TL201", "--verify=run", "--", sys.executable, "train.py")
    done = torchlint(project, *words)
    assert ("no_grad" in (project / "library.py").read_text()) is proven, done.stdout + done.stderr
    assert "comparing whole runs for TL201" in done.stderr
    assert done.returncode == 1 - proven


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fix", "library.py", "--verify=run"], "needs the command"),
        (["fix", "library.py", "--verify=walk", "--", "python", "train.py"], "unknown --verify=walk"),
        (["fix", "--verify=run", "--no-such", "--", "python", "train.py"], "--no-such"),
        (["verify", "TL999"], "unknown rule"),
        (["verify", "--device", "cuda", "TL101"], "no CUDA device"),
    ],
)
def test_mistakes_are_told_in_one_line(project: Path, words: list[str], message: str) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    done = torchlint(project, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_plugin_judges_by_the_tests(project: Path) -> None:
    (project / "test_library.py").write_text(
        "import torch, library\ndef test_gather():\n    assert len(library.gather([torch.ones(2, 3)] * 3)) == 6\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "torchlint.verify.pytest_plugin", "--torchlint-verify=library.py", "-q"],
        cwd=project, capture_output=True, text=True, timeout=200, check=False,
        env={**__import__("os").environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if "library.py:" in line]
    verdicts = {line.split()[1].rstrip(":"): line for line in lines}
    assert "never called" in verdicts["train"]
    assert "TL503  equivalent" in verdicts["gather"]
    assert "atexit" not in done.stderr
    assert (project / "library.py").read_text() == LIBRARY


def test_the_plugin_is_installed_and_costs_nothing() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert (
        '[project.entry-points.pytest11]\n"torchlint.verify.pytest_plugin" = "torchlint.verify.pytest_plugin"' in text
    )
    heavy = "[m for m in ('torch', 'libcst', 'numpy') if m in sys.modules]"
    code = f"import sys, torchlint.verify.pytest_plugin; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_readme_proves_what_the_example_has() -> None:
    """Running it takes minutes; that the run shown is one of today's fixes can be told without."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```\n(proven:\n.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    done = torchlint(ROOT, "check", "docs/example/train.py", "--no-cache", "--output-format=json")
    assert set(re.findall(r"TL\d+", shown)) == {d["code"] for d in json.loads(done.stdout) if d["fix"]}
