"""The prefilter may never change a result."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from torchlint import prefilter
from torchlint.catalogue import load
from torchlint.check import check_text
from torchlint.config import Config
from torchlint.source import File
from torchlint.triggers import Scan

FIXTURES = sorted(p for p in (Path(__file__).parents[1] / "fixtures").rglob("*.py") if p.parent.name != "syntax_error")
RULES = load()


def sparse(text: str, code: str) -> str | None:
    """The text as the rule's libcst tree sees it, None where the rule can find nothing in it."""
    plan = prefilter.Layout("x.py", Scan(text), ast.parse(text)).plan(
        prefilter.Seeds(r for r in RULES if r.code == code)
    )
    return plan.sparse() if plan is not None else None


@pytest.mark.parametrize("path", FIXTURES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_findings_are_the_same_without_it(path: Path) -> None:
    text = path.read_text()
    thin = check_text(str(path), text, RULES, Config())
    full = check_text(str(path), text, RULES, Config(), tree=File.parse(str(path), text))
    assert thin == full


def test_lines_stay_where_they_are() -> None:
    text = (
        "import torch\n\n\ndef a():\n    x = 1\n    return x\n\n\ndef b(m, loss):\n    m.eval()\n    loss.backward()\n"
        "    return helper(m)\n\n\ndef helper(m):\n    return m\n"
    )
    thin = sparse(text, "TL204")
    assert thin is not None
    assert thin.count("\n") == text.count("\n")
    assert "x = 1" not in thin
    assert "return helper(m)" in thin
    assert "    return m\n" in thin  # reached from a kept function


def test_a_script_that_trains_at_its_top_level_reaches_the_methods_of_its_models() -> None:
    text = (
        "import torch\nfrom torch import nn\n\n\nclass Agent(nn.Module):\n    def get_value(self, x):\n"
        "        return self.critic(x)\n\n    def unused(self):\n        return 1\n\n\nagent = Agent()\n"
        "for x, y in torch.load('b.pt'):\n    loss = ((agent.get_value(x) - y) ** 2).mean()\n    loss.backward()\n"
    )
    thin = sparse(text, "TL508")
    assert thin is not None
    assert "return self.critic(x)" in thin
    assert "return 1" not in thin


def test_files_without_torch_are_not_parsed() -> None:
    assert not prefilter.concerns("model.eval()\n")


def test_text_that_only_libcst_reads_is_checked_whole() -> None:
    text = (
        "import torch\ntype X[T = int] = list[T]\n\n\ndef f(model: torch.nn.Module, x):\n    return model.forward(x)\n"
    )
    assert [d.code for d in check_text("x.py", text, RULES, Config())] == ["TL111"]


def test_words_in_docstrings_are_no_triggers() -> None:
    text = 'import torch\n\n\ndef f(m):\n    """Call m.eval() first."""\n    return m\n'
    assert sparse(text, "TL204") is None


def test_what_a_model_of_the_top_level_is_made_of_is_kept() -> None:
    text = (
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.drop = torch.nn.Dropout()\n\n\nmodel = Net()\n\n\ndef fit(loss):\n    loss.backward()\n\n\n"
        "def test(x):\n    model.eval()\n    return model(x)\n"
    )
    thin = sparse(text, "TL204")
    assert thin is not None
    assert "torch.nn.Dropout()" in thin
