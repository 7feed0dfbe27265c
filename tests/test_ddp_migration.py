"""TL801's migration, run for real: alone and under torchrun, in one process and two, against the original."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import libcst as cst
import pytest

from torchlint.diagnostic import splice
from torchlint.migrate import Script, to_ddp
from torchlint.semantics import Semantics
from torchlint.source import File

ROOT = Path(__file__).parents[1]


def _benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ddp_migration", ROOT / "benchmarks" / "ddp_migration.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


bench = _benchmark()
SHAPES = [path.name for path in bench.SHAPES]


def _text(name: str) -> str:
    return (ROOT / "fixtures" / "dataparallel" / name).read_text()


@pytest.mark.parametrize("name", SHAPES)
def test_one_and_two_processes_learn_what_the_original_learned(name: str) -> None:
    pytest.importorskip("torch")
    outcome = bench.compare(name, _text(name))
    assert not outcome.refused
    # Alone and in a group of one the arithmetic is the same; two processes add the same numbers in another order.
    assert outcome.alone == 0.0
    assert outcome.one == 0.0
    assert outcome.two is not None
    assert outcome.two < bench.TOLERANCE


def test_only_the_first_process_prints() -> None:
    pytest.importorskip("torch")
    outcome = bench.compare("bad_chained.py", _text("bad_chained.py"), processes=(2,))
    assert outcome.output.count("epoch 0") == 1


def test_only_the_first_process_writes() -> None:
    pytest.importorskip("torch")
    outcome = bench.compare("bad_writing.py", _text("bad_writing.py"), processes=(2,))
    written = dict(outcome.written)
    assert sorted(written) == ["best.json", "losses.csv", "settings.json", "train.log"]
    assert len(written["losses.csv"].splitlines()) == 7
    assert len(written["train.log"].splitlines()) == 6


@pytest.mark.parametrize("name", ["sum loss", "BatchNorm", "dropout"])
def test_what_differs_by_design_is_said(name: str) -> None:
    migration, _ = bench.migrate("train.py", bench._DESIGN.format(**bench.DESIGN[name]))
    assert len(migration.cautions) == 1
    assert migration.rescaled is (name == "sum loss")


@pytest.mark.parametrize("name", [*SHAPES, "bad_summed.py"])
def test_the_migrated_text_has_nothing_left_to_migrate(name: str) -> None:
    _, after = bench.migrate(name, _text(name))
    compile(after, name, "exec")
    again, _ = bench.migrate(name, after)
    assert again.refused  # its own helpers are there: a second migration would write them twice
    assert "DataParallel(" not in after.replace("DistributedDataParallel(", "")


SCRIPT = """
import torch
import torch.nn as nn
from torch.utils.data import DataLoader

def run(train_set):
    loader = DataLoader(train_set, batch_size=8, shuffle=True)
    model = nn.DataParallel(nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        for i, (x, y) in enumerate(loader):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()

run(torch.utils.data.TensorDataset(torch.randn(16, 4), torch.randn(16, 1)))
"""


def _migrated(text: str) -> tuple[str, str]:
    file = File.parse("train.py", text)
    migration = to_ddp(Script(file, Semantics(file).qualified))
    return migration.refused, splice(text, migration.edits)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("loss.backward()", "loss.backward()\n            if loss.item() < 0.1: break"), "in one process only"),
        (
            ("            optimizer.step()", "            optimizer.step()\n        if loss < 1: return"),
            "end training early",
        ),
        (("batch_size=8", "batch_size=1"), "batches of one"),
        (("batch_size=8, shuffle=True", "batch_size=8, sampler=other"), "draws with a sampler of its own"),
        (("batch_size=8, shuffle=True", "batch_size=8, **options"), "unpacked arguments"),
        (("nn.Linear(4, 1))", "nn.Linear(4, 1), dim=1)"), "another dimension"),
        (("import torch\n", "import torch\nimport torch.distributed as td\n"), ""),
        (("import torch\n", "import torch\nimport torch.distributed as td\ntd.is_available()\n"), "branch of its own"),
        (("batch_size=8", "batch_size=size"), ""),
        (("    for epoch", "    def go(m): m.cuda()\n    go(model)\n    for epoch"), "moved after it is wrapped"),
        (("    for epoch", "    for m in (model, loss): m.to('cuda')\n    for epoch"), "moved after it is wrapped"),
        (
            (
                "nn.DataParallel(nn.Linear(4, 1))",
                "nn.DataParallel(nn.Linear(4, 1).cuda())\n    go(model)\n    def go(m): m.cuda()",
            ),
            "",
        ),
        (
            ("batch_size=8, shuffle=True)", "batch_size=size)\n    noise = torch.randn(size, 4)"),
            "a tensor of the whole batch's size",
        ),
        (("    for epoch", "    print(loader.batch_size)\n    for epoch"), "uses the batch size of a loader"),
        (
            ("    for epoch", "    steps = len(loader.dataset) / loader.batch_size\n    for epoch"),
            "uses the batch size",
        ),
        (
            ("loss.backward()", "torch.autograd.grad(loss, model.parameters())\n            loss.backward()"),
            "autograd.grad",
        ),
        (("nn.functional.mse_loss(model(x), y)", "SupConLoss()(model(x), y)"), "compares the samples of a batch"),
        (("nn.functional.mse_loss(model(x), y)", "nn.functional.mse_loss(model.module(x), y)"), "past its wrapper"),
        (("    optimizer =", "    criterion = nn.DataParallel(criterion)\n    optimizer ="), "wraps a loss"),
        (("    optimizer =", "    model.head = nn.DataParallel(model.head[0])\n    optimizer ="), "so wrap model"),
        (
            ("    optimizer =", "    model.head = nn.DataParallel(model.head)\n    model.head.module\n    optimizer ="),
            "so wrap model",
        ),
        (("    optimizer =", "    model = x or nn.DataParallel(model)\n    optimizer ="), "inside an expression"),
        (("model(x)", "model(x.to('cuda:%d' % run.gpu).cuda(run.other))"), "several GPUs"),
        (("for i, (x, y)", "for gpu in (0, 1): x.cuda(gpu)\n        for i, (x, y)"), "may pick several GPUs"),
        (
            (
                "    optimizer =",
                "    if run.gpu:\n        if run.two:\n            model = nn.DataParallel(model)\n"
                "            model.module.tie()\n    optimizer =",
            ),
            "differs from the other branch",
        ),
        (
            ("    for epoch", "    log = open('log.txt', 'w+')\n    log.read()\n    for epoch"),
            "every process would write",
        ),
        (
            ("    for epoch", "    open('log.txt', 'w').write(open('log.txt').read())\n    for epoch"),
            "every process would read 'log.txt'",
        ),
        (("    for epoch", "    import mlflow\n    mlflow.start_run()\n    for epoch"), "every process would write"),
        (
            ("    for epoch", "    path = save_config(loader)\n    print(path)\n    for epoch"),
            "needs an answer from path",
        ),
        (
            ("    for epoch", "    import numpy\n    numpy.save('y', model(0))\n    for epoch"),
            "computes while it writes",
        ),
        (
            ("    for epoch", "    plan = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)\n    for epoch"),
            "Plateau",
        ),
        (("for i, (x, y) in enumerate(loader)", "for x, y in elsewhere(loader)"), "comes from elsewhere"),
        (("for i, (x, y) in enumerate(loader):", "for i in range(9):\n            x, y = draw()"), "counts steps"),
        (("for i, (x, y) in enumerate(loader):", "for x, y in loader[0]:"), "is not seen"),
        (("def run(", "def is_main(): pass\n\ndef run("), "is_main is already used"),
        (("nn.DataParallel(nn.Linear(4, 1))", "nn.DataParallel(nn.Linear(4, 1)).cuda(run.gpu)"), ""),
        (("model(x)", "model(x.cuda(2))"), "picks a GPU"),
        (("    for epoch in range(3):", "    epoch = 0\n    while epoch < 3:"), "counts in an unknown way"),
    ],
)
def test_a_shape_that_is_not_understood_is_left_alone(change: tuple[str, str], reason: str) -> None:
    text = SCRIPT.replace(*change)
    assert text != SCRIPT
    refused, after = _migrated(text)
    if reason:
        assert reason in refused
        assert after == text
    else:
        assert not refused


def test_a_loss_divided_by_the_batch_size_is_left_alone() -> None:
    text = SCRIPT.replace("batch_size=8", "batch_size=size").replace(
        "loss.backward()", "total = loss / size\n            total.backward()"
    )
    assert "divides a loss" in _migrated(text)[0]
    shown = text.replace(
        "total = loss / size\n            total.backward()", "loss.backward()\n            print(loss / size)"
    )
    assert not _migrated(shown)[0]


def test_epochs_that_numpy_counts_are_announced_as_integers() -> None:
    refused, after = _migrated("import numpy as np" + SCRIPT.replace("in range(3)", "in np.arange(3)"))
    assert not refused
    assert "loader.sampler.set_epoch(int(epoch))" in after


def test_a_known_shape_is_migrated() -> None:
    refused, after = _migrated(SCRIPT)
    assert not refused
    for part in (
        "setup_distributed()",
        "loader.sampler.set_epoch(epoch)",
        "8 // dist.get_world_size()",
        "destroy_process_group",
    ):
        assert part in after
    cst.parse_module(after)


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("log = open('log.txt', 'w')", "log = open_on_main('log.txt', 'w')"),
        ("log = open('log.txt')", "log = open('log.txt')"),
        (
            "import torch.utils.tensorboard as tb; board = tb.SummaryWriter(); board.add_text('a', 'b')",
            "board = tb.SummaryWriter() if is_main() else Unheard()",
        ),
        ("import wandb; wandb.init(project='p')", "wandb.init(project='p', mode=None if is_main() else \"disabled\")"),
        ("import wandb; wandb.init()", 'wandb.init(mode=None if is_main() else "disabled")'),
        ("from mine import save_all\n    save_all(loader)", "    if is_main():\n        save_all(loader)\n"),
        (
            "from mine import Logger\n    log = Logger('x')\n    tell(log)\n    def tell(sink): sink.add(1)",
            "log = Logger('x') if is_main() else Unheard()",
        ),
        (
            "from mine import draw; from visdom import Visdom\n    board = Visdom()\n    draw(board, 1)",
            "    if is_main():\n        draw(board, 1)\n",
        ),
        ("from mine import save_path\n    path = save_path(loader)\n    print(path)", "    path = save_path(loader)\n"),
        (
            "import logging; logging.basicConfig(filename='a.log')",
            "logging.basicConfig(filename='a.log' if is_main() else os.devnull)",
        ),
    ],
)
def test_what_writes_is_left_to_the_first_process(line: str, written: str) -> None:
    refused, after = _migrated(SCRIPT.replace("    for epoch", f"    {line}\n    for epoch"))
    assert not refused
    assert written in after
    compile(after, "train.py", "exec")


@pytest.mark.parametrize(("visible", "processes"), [("'0,1'", "2"), ('"3"', "1"), ("args.gpus", "gpu")])
def test_as_many_processes_are_started_as_gpus_are_left_visible(visible: str, processes: str) -> None:
    refused, after = _migrated(
        SCRIPT.replace("    for epoch", f"    os.environ['CUDA_VISIBLE_DEVICES'] = {visible}\n    for epoch")
    )
    assert not refused
    assert after.lstrip().startswith(f"# On all GPUs of one machine: torchrun --nproc_per_node={processes} train.py\n")


def test_names_of_the_script_are_not_shadowed() -> None:
    refused, after = _migrated(SCRIPT.replace("loss", "dist"))
    assert not refused
    assert "torch.distributed.get_world_size()" in after
    assert "as dist" not in after
