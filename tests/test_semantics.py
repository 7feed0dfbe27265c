"""Names, kinds, effects and regions: the evidence that rules stand on."""

from __future__ import annotations

import textwrap

import libcst as cst
import pytest

from torchlint.nodes import dotted, find
from torchlint.semantics import Effect, EvalRegion, Graph, Kind, LoaderCall, Semantics, TrainingLoop, Value
from torchlint.source import File


def semantics(code: str) -> Semantics:
    return Semantics(File.parse("module.py", textwrap.dedent(code)))


def last_value(code: str, name: str) -> Value:
    """What is known about the last use of a name."""
    sem = semantics(code)
    uses = [n for n in find(sem.file.tree, cst.Name) if n.value == name] + [
        n for n in find(sem.file.tree, cst.Attribute) if dotted(n) == name
    ]
    return sem.value(max(uses, key=lambda n: sem.file.caret(n)[0]))


def effects(code: str, function: str) -> list[tuple[str, str]]:
    sem = semantics(code)
    return [
        (e.effect.value, e.subject) for e in sem.events(sem.names.functions[function]) if e.effect is not Effect.CALL
    ]


@pytest.mark.parametrize(
    ("imports", "expression", "qualified"),
    [
        ("import torch.nn.functional as Fn", "Fn.relu", "torch.nn.functional.relu"),
        ("from torch.utils.data import DataLoader as DL", "DL", "torch.utils.data.DataLoader"),
        ("import torch as th", "th.nn.parallel.DataParallel", "torch.nn.DataParallel"),
        ("from torch.optim.adam import Adam", "Adam", "torch.optim.Adam"),
        ("from torch.nn import *", "DataParallel", "torch.nn.DataParallel"),
        ("from .utils import reset", "reset", ".utils.reset"),
        ("import torch", "torch.autograd.no_grad", "torch.no_grad"),
    ],
)
def test_names_are_resolved_through_imports(imports: str, expression: str, qualified: str) -> None:
    sem = semantics(f"{imports}\nx = {expression}\n")
    assign = next(find(sem.file.tree, cst.Assign))
    assert sem.qualified(assign.value) == qualified


def test_a_parameter_hides_an_import() -> None:
    sem = semantics("import torch.nn.functional as F\ndef f(F):\n    return F.relu\n")
    node = next(find(sem.file.tree, cst.Return)).value
    assert node is not None
    assert sem.qualified(node) is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("x = torch.zeros(3)\nx", Kind.TENSOR),
        ("x = np.zeros(3)\nx", Kind.NDARRAY),
        ("x = torch.nn.Linear(2, 3)\nx", Kind.MODULE),
        ("x = torch.nn.CrossEntropyLoss()\nx", Kind.LOSS_FN),
        ("x = torch.optim.AdamW(p)\nx", Kind.OPTIMIZER),
        ("x = torch.zeros(3).numpy()\nx", Kind.NDARRAY),
        ("x = torch.zeros(3).sum().item()\nx", Kind.NUMBER),
        ("x = torch.zeros(3).shape[0]\nx", Kind.NUMBER),
        ("x = [torch.zeros(3)]\nx", Kind.LIST),
        ("x = unknown()\nx", Kind.UNKNOWN),
        ("x = torch.zeros(2) if c else np.zeros(2)\nx", Kind.UNKNOWN),
        ("values = [torch.zeros(2)]\nfor x in values:\n    x", Kind.TENSOR),
        ("for i, x in enumerate(torch.zeros(2, 2)):\n    x", Kind.TENSOR),
        ("x = torch.zeros(2, 2).max(1)\nx", Kind.TUPLE),
        ("def f(x: torch.Tensor):\n    x", Kind.TENSOR),
        ("def f(*x: torch.Tensor):\n    x", Kind.TUPLE),
        ("def f(x):\n    x.unsqueeze(0)\n    x", Kind.TENSOR),
        ("def f(x):\n    return x\nf(torch.zeros(2))", Kind.TENSOR),
    ],
)
def test_kinds_come_from_what_made_a_value(code: str, kind: Kind) -> None:
    assert last_value("import torch\nimport numpy as np\n" + code, "x").kind is kind


@pytest.mark.parametrize(
    ("code", "graph"),
    [
        ("y = net(x)", Graph.ATTACHED),
        ("y = net(x).detach()", Graph.DETACHED),
        ("y = net(x).argmax(1)", Graph.DETACHED),
        ("with torch.no_grad():\n    y = net(x)", Graph.DETACHED),
        ("y = torch.nn.functional.mse_loss(net(x), x) / 2", Graph.ATTACHED),
    ],
)
def test_graphs_follow_forward_passes(code: str, graph: Graph) -> None:
    code = f"import torch\nnet = torch.nn.Linear(2, 2)\nx = torch.zeros(1, 2)\n{code}\ny\n"
    assert last_value(code, "y").graph is graph


def test_helpers_are_summarised_where_they_are_called() -> None:
    code = """
    class Trainer:
        def __init__(self, net):
            self.net = net
            self.opt = torch.optim.SGD(net.parameters(), 0.1)
        def clear(self):
            for p in self.net.parameters():
                p.grad = None
        def fit(self, loader):
            for x, y in loader:
                self.clear()
                loss = torch.nn.functional.cross_entropy(self.net(x), y)
                loss.backward()
                self.opt.step()
    """
    found = effects("import torch\n" + textwrap.dedent(code), "Trainer.fit")
    assert found == [
        ("zero_grad", "parameters"),
        ("forward", "self.net"),
        ("loss", "torch.nn.functional.cross_entropy"),
        ("backward", "loss"),
        ("step", "self.opt"),
    ]


def test_a_callee_speaks_of_the_callers_names() -> None:
    code = """
    def step(net, opt, x):
        opt.zero_grad()
        net(x).sum().backward()
        opt.step()
    def fit(model, optimizer, loader):
        model.train()
        for x in loader:
            step(model, optimizer, x)
        model.parameters()
    """
    assert ("zero_grad", "optimizer") in effects(code, "fit")
    assert ("step", "optimizer") in effects(code, "fit")


def test_one_chain_of_calls_is_evaluated_once() -> None:
    code = "def f(model, x):\n    model.eval()\n    model.to('cpu')\n    return model(x).abs().sum().sqrt().item()\n"
    assert [e for e, _ in effects(code, "f")].count("forward") == 1


def test_the_training_loop_is_the_innermost_one_that_steps() -> None:
    code = """
    def fit(model, opt, loader):
        for epoch in range(3):
            for x, y in loader:
                opt.zero_grad()
                model(x).sum().backward()
                opt.step()
    """
    sem = semantics(code)
    loops = list(sem.objects(TrainingLoop))
    assert [sem.file.row(loop.node) for loop in loops] == [4]
    assert len(loops[0].outer) == 1


def test_loader_keywords_come_out_of_known_dicts() -> None:
    code = """
    from torch.utils.data import DataLoader
    kw = {"num_workers": 2, "pin_memory": True}
    a = DataLoader(data, batch_size=4, **kw)
    b = DataLoader(data, **options)
    """
    first, second = semantics(code).objects(LoaderCall)
    assert set(first.given) == {"batch_size", "num_workers", "pin_memory"}
    assert not first.open
    assert second.open


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("model.eval()\n    for x, y in loader:\n        n += (model(x).argmax(1) == y).sum().item()", ["eval"]),
        ("for x, y in loader:\n        opt.zero_grad()\n        model(x).sum().backward()\n        opt.step()", []),
        ("model.eval()\n    print(model(torch.randn(2, 3)).shape)", []),  # a smoke test
    ],
)
def test_eval_regions_need_evidence(body: str, expected: list[str]) -> None:
    code = f"import torch\ndef f(model, loader, opt, n=0):\n    model.to('cpu')\n    {body}\n"
    assert [r.evidence for r in semantics(code).objects(EvalRegion)] == expected
