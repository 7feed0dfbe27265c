"""What a framework does itself is not asked for, and what the user of a framework does wrong is still said.

`tests/data/frameworks` holds a right program for each framework. Each must be silent under the default rules; then one
place is made wrong, and exactly that must be found.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing.project import findings, rules

PROGRAMS = Path(__file__).parent / "data" / "frameworks"
DEFAULT = frozenset(rule.code for rule in rules() if rule.default)

CLEAR = "                optimizer.zero_grad()\n"
SOFTMAX = ("model(x), y)", "model(x).softmax(-1), y)")

# (framework, right text, wrong text, what is found)
MISTAKES = [
    ("lightning", "(self.net(x), y)", "(self.net(x).softmax(-1), y)", "TL108"),
    ("lightning", "        super().__init__()\n", "", "TL118"),
    ("accelerate", CLEAR, "", "TL101"),
    ("accelerate", "with torch.no_grad():", "if y is not None:", "TL201"),
    ("accelerate", "        model.eval()\n", "", "TL203"),
    ("accelerate", *SOFTMAX, "TL108"),
    ("fabric", *SOFTMAX, "TL108"),
    ("deepspeed", "engine(x), y)", "engine(x).softmax(-1), y)", "TL108"),
    ("ignite", "        optimizer.zero_grad()\n", "", "TL101"),
    ("ignite", *SOFTMAX, "TL108"),
    ("ignite", "model(x), y)", "model(x), y).detach()", "TL116"),
    ("transformers", "outputs.logits,", "outputs.logits.softmax(-1),", "TL108"),
    ("composer", "cross_entropy(outputs,", "cross_entropy(outputs.softmax(-1),", "TL108"),
    ("fastai", "        if not", "        self.model.require_grad = False\n        if not", "TL019"),
    ("skorch", "torch.softmax(self.net(x), dim=-1)", "torch.log(torch.softmax(self.net(x), dim=-1))", "TL508"),
    ("skorch", "        super().__init__()\n", "", "TL118"),
    (
        "monai",
        "        device=device,\n        val_data",
        "        device=torch.zeros(1).cuda().device,\n        val_data",
        "TL401",
    ),
    ("pyg", "        optimizer.zero_grad()\n", "", "TL101"),
    ("pyg", "@torch.no_grad()\n", "", "TL201"),
    ("pyg", ", training=self.training", "", "TL205"),
    ("pyg", "loss.detach()", "loss", "TL601"),
    ("dgl", "            optimizer.zero_grad()\n", "", "TL101"),
    ("dgl", '.srcdata["feat"])', '.srcdata["feat"]).softmax(-1)', "TL108"),
]


def found(text: str) -> list[str]:
    return [d.code for d in findings({"program.py": text}, DEFAULT)]


@pytest.mark.parametrize("program", sorted(PROGRAMS.glob("*.py")), ids=lambda program: program.stem)
def test_what_the_framework_does_is_not_asked_for(program: Path) -> None:
    assert found(program.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(("framework", "right", "wrong", "code"), MISTAKES)
def test_what_the_user_does_wrong_is_said(framework: str, right: str, wrong: str, code: str) -> None:
    text = (PROGRAMS / f"{framework}.py").read_text(encoding="utf-8")
    assert right in text
    assert found(text.replace(right, wrong, 1)) == [code]


def test_every_framework_has_a_mistake() -> None:
    assert {framework for framework, *_ in MISTAKES} == {program.stem for program in PROGRAMS.glob("*.py")}
