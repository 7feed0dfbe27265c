"""Arguments, imports and decorators go where a careful person would put them."""

from __future__ import annotations

import libcst as cst
import pytest

from torchlint.diagnostic import splice
from torchlint.edits import add_decorator, ensure_import, remove_argument, set_argument, torch_name
from torchlint.nodes import find
from torchlint.semantics import Semantics
from torchlint.source import File


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("f()\n", "f(k=1)\n"),
        ("f(a)\n", "f(a, k=1)\n"),
        ("f(a, k=2)\n", "f(a, k=1)\n"),
        ("f(a, **kw)\n", "f(a, k=1, **kw)\n"),
        ("f(\n    a,\n    b=2,  # two\n)\n", "f(\n    a,\n    b=2,  # two\n    k=1,\n)\n"),
        ("f(a,\n  b)\n", "f(a,\n  b,\n  k=1)\n"),
        ("f(\n    a\n)\n", "f(\n    a,\n    k=1\n)\n"),
        ("f(a,)\n", "f(a, k=1,)\n"),
    ],
)
def test_set_argument(before: str, after: str) -> None:
    file = File.parse("x.py", before)
    call = next(find(file.tree, cst.Call))
    assert splice(before, [set_argument(file, call, "k", "1")]) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [("f(a, k=1)\n", "f(a)\n"), ("f(k=1, b=2)\n", "f(b=2)\n"), ("f(k=1)\n", "f()\n")],
)
def test_remove_argument(before: str, after: str) -> None:
    file = File.parse("x.py", before)
    call = next(find(file.tree, cst.Call))
    arg = next(a for a in call.args if a.keyword is not None and a.keyword.value == "k")
    assert splice(before, [remove_argument(file, call, arg)]) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import os\n", "import torch\nimport os\n"),
        ('"""Doc."""\nx = 1\n', '"""Doc."""\n\nimport torch\nx = 1\n'),
        (
            "from __future__ import annotations\nimport os\n",
            "from __future__ import annotations\nimport torch\nimport os\n",
        ),
        ("# comment\nx = 1\n", "# comment\nimport torch\n\nx = 1\n"),
    ],
)
def test_ensure_import(before: str, after: str) -> None:
    file = File.parse("x.py", before)
    fixed = splice(before, [ensure_import(file, "torch")])
    assert fixed == after
    compile(fixed, "x.py", "exec")


def test_torch_name_uses_the_alias_of_the_file() -> None:
    file = File.parse("x.py", "import torch as th\n\ndef f():\n    pass\n")
    name, imports = torch_name(file, Semantics(file), "torch.no_grad", next(find(file.tree, cst.Pass)))
    assert (name, imports) == ("th.no_grad", ())


def test_torch_name_adds_an_import_where_only_a_function_has_one() -> None:
    file = File.parse("x.py", "from torch import nn\n\ndef f():\n    pass\n")
    name, imports = torch_name(file, Semantics(file), "torch.no_grad", next(find(file.tree, cst.Pass)))
    assert name == "torch.no_grad"
    assert splice(file.text, imports).startswith("import torch\n")


def test_decorators_go_below_staticmethod() -> None:
    text = "class A:\n    @staticmethod\n    # why\n    def f(x):\n        return x\n"
    file = File.parse("x.py", text)
    fixed = splice(text, [add_decorator(file, next(find(file.tree, cst.FunctionDef)), "torch.no_grad()")])
    assert "    # why\n    @torch.no_grad()\n    def f(x):\n" in fixed
