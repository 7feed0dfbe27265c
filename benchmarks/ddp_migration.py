"""Evidence for TL801: run migrated scripts as one process and under torchrun, and compare what they learned.

For every script the original runs as it is; the migrated text runs alone, under `torchrun --nproc_per_node=1` and under
`--nproc_per_node=2`, on CPU with gloo. The parameters that each run saves are compared with the original's. A shuffling
original visits the samples in the sampler's order (`torch.randperm` seeded with the epoch), so that runs see the same
batches.

    python benchmarks/ddp_migration.py            prints the table and writes benchmarks/results/ddp_migration.json
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from torchlint.diagnostic import splice
from torchlint.migrate import Migration, Script, to_ddp
from torchlint.semantics import Semantics
from torchlint.source import File
from torchlint.verify.userrun import ABORT_AT_EXIT

ROOT = Path(__file__).resolve().parent.parent
_NAMES = ("bad", "bad_flat", "bad_main", "bad_chained", "bad_guarded", "bad_writing", "bad_options", "bad_nested")
_NAMES += ("bad_part_wrapped", "bad_chosen_net", "bad_renamed")
SHAPES = [ROOT / "fixtures" / "dataparallel" / f"{name}.py" for name in _NAMES]
TOLERANCE = 1e-6

# Runs a script as __main__ with the sample order that DistributedSampler would choose.
_ORIGINAL = """
import runpy, sys, torch
from torch.utils.data import RandomSampler

def same_order(self):
    epoch = self.__dict__.setdefault("epoch", 0)
    self.epoch += 1
    generator = torch.Generator()
    generator.manual_seed(epoch)
    yield from torch.randperm(len(self.data_source), generator=generator).tolist()

RandomSampler.__iter__ = same_order
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_COMPARE = """
import json, sys, torch
def plain(path):
    return {k.removeprefix("module."): v for k, v in torch.load(path, weights_only=True).items()}
first, result = plain(sys.argv[1]), {}
for path in sys.argv[2:]:
    other = plain(path)
    assert first.keys() == other.keys(), (list(first), list(other))
    result[path] = max((first[k].double() - other[k].double()).abs().max().item() for k in first)
print(json.dumps(result))
"""

# Scripts in which two processes learn something else than one by design; the migration says which.
_DESIGN = """
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(4)
data = TensorDataset(torch.randn({samples}, 6), torch.randn({samples}, 2))
loader = DataLoader(data, batch_size=16)
model = nn.DataParallel(nn.Sequential(nn.Linear(6, 8), {layer}, nn.Linear(8, 2)))
criterion = nn.MSELoss(reduction="{reduction}")
optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
for epoch in range(2):
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
torch.save(model.state_dict(), "model.pt")
"""
DESIGN = {
    "mean loss": {"samples": 64, "layer": "nn.Tanh()", "reduction": "mean"},
    "sum loss": {"samples": 64, "layer": "nn.Tanh()", "reduction": "sum"},
    "BatchNorm": {"samples": 64, "layer": "nn.BatchNorm1d(8)", "reduction": "mean"},
    "dropout": {"samples": 64, "layer": "nn.Dropout(0.5)", "reduction": "mean"},
    "ragged last batch": {"samples": 67, "layer": "nn.Tanh()", "reduction": "mean"},
}


@dataclass(frozen=True)
class Outcome:
    """Greatest absolute difference of any parameter or buffer from the original run; None where a run was not made."""

    name: str
    alone: float | None
    one: float | None
    two: float | None
    refused: str = ""
    cautions: tuple[str, ...] = ()
    output: str = ""  # what two processes printed
    failed: str = ""  # how a run ended that should not have failed
    written: tuple[tuple[str, str], ...] = ()  # what the last run left beside the weights


def migrate(path: str, text: str) -> tuple[Migration, str]:
    """The migration of a script and its text afterwards."""
    file = File.parse(path, text)
    migration = to_ddp(Script(file, Semantics(file).qualified))
    return migration, splice(text, migration.edits)


def compare(name: str, text: str, *, processes: tuple[int, ...] = (1, 2)) -> Outcome:
    """Run the script before and after, in scratch folders, and compare the `model.pt` that each run leaves."""
    migration, after = migrate(name, text)
    if migration.refused:
        return Outcome(name, None, None, None, migration.refused)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    with tempfile.TemporaryDirectory() as scratch:
        runs = {"original": [sys.executable, "-c", _ORIGINAL], "alone": [sys.executable]}
        runs |= {str(n): [*launch, f"--nproc_per_node={n}"] for n in processes}
        output = ""
        for run, command in runs.items():
            folder = Path(scratch, run)
            folder.mkdir()
            (folder / "train.py").write_text(text if run == "original" else after)
            output = _run([*command, "train.py"], folder)
        saved = {run: str(Path(scratch, run, "model.pt")) for run in runs}
        found = json.loads(_run([sys.executable, "-c", _COMPARE, *saved.values()], Path(scratch)))
        gaps = {run: found.get(path) for run, path in saved.items()}
        left = [p for p in sorted(folder.iterdir()) if p.suffix not in (".pt", ".py") and p.is_file()]
        written = tuple((p.name, p.read_text()) for p in left)
    return Outcome(name, gaps["alone"], gaps.get("1"), gaps.get("2"), "", migration.cautions, output, "", written)


def _run(command: list[str], folder: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
    for _ in range(3):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180)
        if done.returncode == 0 or ABORT_AT_EXIT not in done.stderr:
            break
        for left in folder.iterdir():  # another launch finds what the first one found
            if left.name != "train.py":
                left.unlink()
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def outcomes() -> Iterator[Outcome]:
    texts = {path.name: path.read_text() for path in SHAPES}
    texts |= {name: _DESIGN.format(**values) for name, values in DESIGN.items()}
    for name, text in texts.items():
        try:
            yield compare(name, text)
        except RuntimeError as error:  # noqa: PERF203 - a row of the result, not its end: nothing is tried again
            yield Outcome(name, None, None, None, failed=" ".join(str(error).splitlines()[:2]))


def main() -> int:
    rows = []
    print(f"{'script':22} {'alone':>10} {'1 process':>10} {'2 processes':>12}  by design")
    for outcome in outcomes():
        cells = [f"{gap:.1e}" if gap is not None else "-" for gap in (outcome.alone, outcome.one, outcome.two)]
        why = outcome.failed or outcome.refused or "; ".join(outcome.cautions)
        print(f"{outcome.name:22} {cells[0]:>10} {cells[1]:>10} {cells[2]:>12}  {why}", flush=True)
        row = asdict(outcome)
        del row["output"], row["written"]
        rows.append(row)
    version = _run([sys.executable, "-c", "import torch; print(torch.__version__)"], ROOT).strip()
    result = {
        "torch": version,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, gloo on CPU",
        "tolerance": TOLERANCE,
        "greatest difference from the original run": rows,
    }
    target = ROOT / "benchmarks" / "results" / "ddp_migration.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
