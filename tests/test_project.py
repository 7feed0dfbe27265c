"""Questions that one file leaves open, answered by the files around it."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from fuzzing.project import findings

from torchlint.diagnostic import Question
from torchlint.semantics import Event, Semantics
from torchlint.semantics.project import Project
from torchlint.source import File

EVALUATION = """
def validate(model, loader):
    model.eval()
    for x, y in loader:
        print((model(x).argmax(1) == y).sum().item())
"""


def project(root: Path, **files: str) -> Project:
    """A project of these modules; `pkg__init` is `pkg/__init__.py`, `pkg__val` is `pkg/val.py`."""
    paths = []
    for name, code in files.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        if path.stem == "init":
            path = path.with_name("__init__.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        paths.append(str(path))
    return Project(paths, lambda p: Semantics(File.parse(p, Path(p).read_text())), lambda p: Path(p).read_text())


def many(
    root: Path, monkeypatch: pytest.MonkeyPatch, caller: str, count: int = 30
) -> tuple[Project, list[str], list[int]]:
    """A project of many modules that call `validate`, with the files in the order they are read, and how many meanings
    were alive at each reading."""
    monkeypatch.setattr("torchlint.semantics.project._HELD_CHARACTERS", 3 * len(caller))
    built = project(root, engine=EVALUATION, **{f"caller{i}": caller for i in range(count)})
    read: list[str] = []
    alive: list[int] = []
    held: weakref.WeakSet[Semantics] = weakref.WeakSet()

    def load(path: str) -> Semantics:
        sem = Semantics(File.parse(path, Path(path).read_text()))
        held.add(sem)
        gc.collect()
        read.append(path)
        alive.append(len(held))
        return sem

    built._load = load
    return built, read, alive


OFF = "import torch\nfrom engine import validate\n@torch.no_grad()\ndef main(m, d):\n    validate(m, d)\n"
ON = "from engine import validate\ndef main(m, d):\n    validate(m, d)\n"


def test_callers_of_a_word_of_the_project_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, read, alive = many(tmp_path, monkeypatch, OFF)
    assert ask(built, tmp_path, "engine.py", "callers-disable-grad", "~.validate")
    assert len(set(read)) == 31  # all had to be asked
    assert max(alive) < 10


def test_the_first_caller_that_records_ends_the_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, read, _ = many(tmp_path, monkeypatch, ON)
    assert not ask(built, tmp_path, "engine.py", "callers-disable-grad", "~.validate")
    assert len(set(read)) == 2


def test_each_caller_is_asked_once_however_many_ways_lead_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven layers of six functions that all call the six below: 280,000 ways up from the evaluation."""
    layers = [[f"layer{k}_{i}" for i in range(6)] for k in range(7)]
    below = [["validate"], *layers]
    program = "".join(
        f"def {name}(m, d):\n" + "".join(f"    {called}(m, d)\n" for called in below[k])
        for k, names in enumerate(layers)
        for name in names
    )
    asked: list[str] = []

    def last_mode(events: object, event: Event) -> str:
        asked.append(event.subject)
        return ""

    monkeypatch.setattr("torchlint.semantics.modes.last_mode", last_mode)
    built = project(tmp_path, engine=EVALUATION, run="from engine import validate\n" + program)
    assert not ask(built, tmp_path, "engine.py", "callers-set-eval", "~.validate")
    assert not ask(built, tmp_path, "engine.py", "callers-disable-grad", "~.validate")
    assert 0 < len(asked) < 30_000


def test_texts_are_kept_up_to_a_sum_and_then_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchlint.semantics.project._TEXT_CHARACTERS", 100)
    built = project(tmp_path, a="#" * 90, b="#" * 90, c="sampler.set_epoch(1)\n" + "#" * 90)
    for _ in range(2):
        assert ask(built, tmp_path, "a.py", "calls-set-epoch", "")
        built._answers.clear()
    assert sum(map(len, built._texts.values())) == 180


def ask(project: Project, root: Path, file: str, ask: str, subject: str) -> bool:
    return project.answer(str(root / file), Question(ask, subject))


@pytest.mark.parametrize(
    ("caller", "expected"),
    [
        (
            "import torch\nfrom engine import validate\n"
            "def main(m, d):\n    with torch.no_grad():\n        validate(m, d)\n",
            True,
        ),
        ("import torch\nimport engine\n@torch.no_grad()\ndef main(m, d):\n    engine.validate(m, d)\n", True),
        ("from engine import validate\ndef main(m, d):\n    validate(m, d)\n", False),
        ("import torch\nfrom other import validate\nwith torch.no_grad():\n    validate(m, d)\n", False),
    ],
)
def test_callers_in_other_files(tmp_path: Path, caller: str, expected: bool) -> None:
    built = project(tmp_path, engine=EVALUATION, train=caller)
    assert ask(built, tmp_path, "engine.py", "callers-disable-grad", "~.validate") is expected


def test_a_caller_of_the_caller(tmp_path: Path) -> None:
    built = project(
        tmp_path,
        engine=EVALUATION,
        run="from engine import validate\ndef both(m, a, b):\n    validate(m, a)\n    validate(m, b)\n",
        main="import torch\nfrom run import both\nwith torch.inference_mode():\n    both(m, a, b)\n",
    )
    assert ask(built, tmp_path, "engine.py", "callers-disable-grad", "~.validate")


def test_the_projects_own_decorator_in_a_package(tmp_path: Path) -> None:
    built = project(
        tmp_path,
        pkg__init="",
        pkg__torch_utils="import torch\ndef smart(f):\n    def run(*a):\n"
        "        with torch.inference_mode():\n            return f(*a)\n    return run\n",
        pkg__val="from .torch_utils import smart\n@smart\ndef run(model):\n    model.eval()\n",
    )
    assert ask(built, tmp_path, "pkg/val.py", "disables-grad", ".torch_utils.smart")


def test_helpers_behind_a_re_export(tmp_path: Path) -> None:
    built = project(
        tmp_path,
        pkg__init="from pkg.optim import reset\n",
        pkg__optim="def reset(model):\n    for p in model.parameters():\n        p.grad = None\n",
        train="from pkg import reset\nreset(m)\n",
    )
    assert ask(built, tmp_path, "train.py", "zeroes-gradients", "pkg.reset")
    assert not ask(built, tmp_path, "train.py", "runs-backward", "pkg.reset")


def test_a_framework_base_two_files_away(tmp_path: Path) -> None:
    built = project(
        tmp_path,
        base="import pytorch_lightning as pl\nclass Base(pl.LightningModule):\n    pass\n",
        middle="from base import Base\nclass Middle(Base):\n    pass\n",
        model="from middle import Middle\nclass Model(Middle):\n    pass\n",
    )
    assert ask(built, tmp_path, "model.py", "framework-class", "middle.Middle")


def test_import_cycles_end(tmp_path: Path) -> None:
    built = project(tmp_path, a="from b import f\n", b="from a import f\n", c="from a import f\nf()\n")
    assert not ask(built, tmp_path, "c.py", "zeroes-gradients", "a.f")


@pytest.mark.parametrize(
    ("body", "expected"),
    [("x.cuda()", False), ('x.to("cpu")', True), ("x", True)],
)
def test_a_class_of_another_file_moves_the_batches(tmp_path: Path, body: str, expected: bool) -> None:
    trainer = (
        "class Trainer:\n"
        "    def __init__(self, model, train_loader):\n        self.model, self.train_loader = model, train_loader\n"
        f"    def fit(self):\n        for x, y in self.train_loader:\n            self.model({body})\n"
    )
    built = project(tmp_path, trainer=trainer, main="from trainer import Trainer\n")
    assert ask(built, tmp_path, "main.py", "moves-no-batches", "trainer.Trainer") is expected
    assert ask(built, tmp_path, "main.py", "moves-no-batches", "elsewhere.Trainer") is True


def test_what_a_function_returns_is_handed_to_a_mover(tmp_path: Path) -> None:
    maker = "def get_loader(d):\n    return DataLoader(d)\n"
    solver = "class Solver:\n    def __init__(self, loader):\n        self.loader = loader\n"
    moves = "    def train(self):\n        for x, y in self.loader:\n            self.net(x.to(self.device))\n"
    main = "from data import get_loader\nfrom solver import Solver\nbatches = get_loader(3)\nSolver(batches).train()\n"
    built = project(tmp_path / "one", data=maker, solver=solver + moves, main=main)
    assert ask(built, tmp_path / "one", "data.py", "no-cuda-use", "~.get_loader") is False
    built = project(tmp_path / "two", data=maker, solver=solver, main=main)
    assert ask(built, tmp_path / "two", "data.py", "no-cuda-use", "~.get_loader") is True


@pytest.mark.parametrize(("layer", "expected"), [("nn.PixelShuffle(2)", True), ("nn.Dropout(0.5)", False)])
def test_a_module_of_another_file_that_ignores_the_mode(tmp_path: Path, layer: str, expected: bool) -> None:
    net = (
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"        self.conv, self.last = nn.Conv2d(1, 4, 3), {layer}\n        nn.init.orthogonal_(self.conv.weight)\n"
    )
    built = project(tmp_path, model=net, main="from model import Net\n")
    assert ask(built, tmp_path, "main.py", "ignores-mode", "model.Net") is expected


@pytest.mark.parametrize(
    ("body", "expected"), [("self.adapt(x)", True), ("torch.autograd.grad(self.net(x).sum(), x)", True), ("x", False)]
)
def test_a_model_of_another_file_that_differentiates_in_its_forward(tmp_path: Path, body: str, expected: bool) -> None:
    net = (
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n"
        f"    def forward(self, x):\n        return {body}\n"
        "    def adapt(self, x):\n        return torch.autograd.grad(self.net(x).sum(), self.net.parameters())\n"
    )
    built = project(tmp_path, model=net, main="from model import Net\n")
    assert ask(built, tmp_path, "main.py", "takes-gradients", "model.Net") is expected
    assert ask(built, tmp_path, "main.py", "takes-gradients", "elsewhere.Net") is False


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("    return {s: DataLoader(d[s]) for s in d}\n", True),
        ("    loaders = {s: DataLoader(d[s]) for s in d}\n    return loaders\n", True),
        ("    loaders = {}\n    loaders['train'] = DataLoader(d)\n    return loaders\n", True),
        ("    return DataLoader(d)\n\n\ndef look():\n    for x in make(3):\n        print(x)\n        break\n", True),
        ("    return DataLoader(d)\n\n\ndef all():\n    for x in make(3):\n        print(x)\n", False),
    ],
)
def test_loaders_whose_batches_another_file_moves(body: str, expected: bool) -> None:
    files = {
        "data.py": f"from torch.utils.data import DataLoader\n\n\ndef make(d):\n{body}",
        "main.py": "from data import make\nfor x, y in make(3)['train']:\n    net(x.cuda())\n",
    }
    assert [d.path for d in findings(files, frozenset({"TL301"}))] == ["data.py"] * expected


SEQ2SEQ = """\
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = {layer}

    def forward(self, x):
        return self.layer(x)


class Net(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        return self.encoder(x)
"""
TRAINS = """\
import torch
from models import Encoder, Net


def fit(net, loader, held_out):
    optimizer = torch.optim.Adam(net.parameters())
    for epoch in range(9):
        for x, y in loader:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(net(x), y).backward()
            optimizer.step()
        evaluate(net, held_out)


def evaluate(net, loader):
    total = 0.0
    with torch.no_grad():
        for x, y in loader:
            total += torch.nn.functional.mse_loss(net(x), y).item()
    print("loss", total / len(loader))


encoder = Encoder()
net = Net(encoder).to("cpu")
fit(net, torch.load("train.pt"), torch.load("test.pt"))
"""


@pytest.mark.parametrize(("layer", "count"), [("nn.Linear(3, 3)", 0), ("nn.Dropout(0.5)", 1)])
def test_a_module_minds_the_mode_where_one_that_it_is_given_does(tmp_path: Path, layer: str, count: int) -> None:
    (tmp_path / "models.py").write_text(SEQ2SEQ.format(layer=layer))
    (tmp_path / "main.py").write_text(TRAINS)
    command = [sys.executable, "-m", "torchlint", "check", ".", "--no-cache", "--select", "TL203"]
    done = subprocess.run(
        [*command, "--output-format", "json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert [d["code"] for d in json.loads(done.stdout)] == ["TL203"] * count, done.stderr
