"""Measure torchlint against its peers in one run: cold, warm, one small file, and cost against lines.

    python benchmarks/speed.py FOLDER… --peers BIN [--sample N] [--rounds N] [--seed S]
    python benchmarks/speed.py --page [--check]

Each FOLDER holds Python files (an unzipped wheel). BIN is the bin folder of an environment with the peers, which this
script does not install: `pip install torchfix==0.7.0 torch-preflight==0.5.0 ruff`. torchlint runs with the Python that
runs this script. Tools take turns within each round, so that a change in the machine's load meets all of them; figures
are user + system CPU seconds of the process and its children, wall seconds, and peak resident memory, as medians with
the range. The cold comparison uses N files drawn at random, the same for all tools, because the peers take minutes on a
package. Writes results/speed.json and the figures of docs/performance.md; `--page` writes these alone, from the file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from figures import fill, results
from figures import table as lines_of_table

ROOT = Path(__file__).resolve().parents[1]
PEERS = "torchfix==0.7.0 torch-preflight==0.5.0 ruff"
FIVE = "TL101,TL201,TL301,TL501,TL801"  # gradients not cleared, no_grad, row loops, pin_memory, DataParallel
RUFF = ("check", "--select", "F,NPY,PERF", "--quiet", "--isolated")
SMALL = {
    "nothing to parse": "import os\n\n\ndef name(path):\n    return os.path.basename(path)\n",
    "torch, nothing to find": "import torch\n\n\ndef double(x):\n    return x * 2\n",
    "libcst needed": "import torch\n\n\ndef make(device):\n    return torch.zeros(3, 4).to(device)\n",
}


@dataclass(frozen=True)
class Measure:
    """One process, its children included."""

    cpu: float
    user: float
    wall: float
    peak_mb: float


@dataclass(frozen=True)
class Row:
    """All rounds of one tool on one job. `ratio`: its CPU over torchlint's, per round."""

    job: str
    tool: str
    cpu: list[float]
    user: list[float]
    wall: list[float]
    peak_mb: list[float]
    ratio: list[float]


def measure(command: Sequence[str], folder: Path) -> Measure:
    """Run a command, its output thrown away. Exit codes say what was found, so only a signal or 2 and more counts."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    peak = usage.ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)
    return Measure(usage.ru_utime + usage.ru_stime, usage.ru_utime, wall, peak)


def rounds(
    job: str,
    tools: Mapping[str, Sequence[str]],
    folder: Path,
    count: int,
    warm_up: bool = True,
    prepare: Callable[[str], None] = lambda tool: None,
) -> list[Row]:
    """Each tool once per round, in turn. The first round of a short job is not counted: it fills the disk's cache."""
    taken: dict[str, list[Measure]] = {tool: [] for tool in tools}
    for i in range(count + warm_up):
        for tool, command in tools.items():
            prepare(tool)
            one = measure(command, folder)
            if i >= warm_up:
                taken[tool].append(one)
    base = next(iter(taken.values()))
    rows = []
    for tool, runs in taken.items():
        ratio = [m.cpu / b.cpu for m, b in zip(runs, base)]
        rows.append(
            Row(
                job,
                tool,
                [m.cpu for m in runs],
                [m.user for m in runs],
                [m.wall for m in runs],
                [m.peak_mb for m in runs],
                ratio,
            )
        )
        print(f"{job:36} {tool:24} {shown(rows[-1].cpu)} s CPU, {shown(rows[-1].wall)} s, × {shown(ratio)}", flush=True)
    return rows


def shown(values: Sequence[float]) -> str:
    if not values:
        return ""
    digits = 1 if statistics.median(values) >= 10 else 3
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def torchlint(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "torchlint", "check", "-q", *arguments]


def lines_of(files: Sequence[Path]) -> int:
    return sum(f.read_bytes().count(b"\n") for f in files)


def copy(files: Sequence[Path], roots: Sequence[Path], to: Path) -> None:
    """The files under their own relative paths, apart from everything else, so that a tool can be given one folder."""
    for file in files:
        root = next(r for r in roots if r in file.parents)
        target = to / root.name / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def cold(sample: Path, peers: Path, count: int) -> list[Row]:
    tools: dict[str, Sequence[str]] = {
        "torchlint": torchlint("--no-cache", "--jobs", "1", "."),
        f"torchlint --select {FIVE}": torchlint("--no-cache", "--jobs", "1", "--select", FIVE, "."),
        "torchfix": [str(peers / "torchfix"), "-j", "1", "--select", "ALL", "."],
        "torch-preflight": [str(peers / "torch-preflight"), "check", "."],
    }
    return rounds("cold, one process, sample", tools, sample, count, warm_up=False)


def warm(tree: Path, peers: Path, count: int) -> list[Row]:
    tools: dict[str, Sequence[str]] = {
        "torchlint, cached": torchlint("."),
        "ruff F,NPY,PERF, cached": [str(peers / "ruff"), *RUFF, "."],
    }
    for command in tools.values():
        measure(command, tree)
    return rounds("warm, nothing changed", tools, tree, count)


def one_file(scratch: Path, count: int) -> list[Row]:
    """As pre-commit and editors call it: the project has a cache, the file is as it was or has just been changed."""
    rows: list[Row] = []
    for name, text in SMALL.items():
        folder = scratch / name.replace(",", "").replace(" ", "_")
        folder.mkdir()
        small = folder / "small.py"
        small.write_text(text)
        measure(torchlint("small.py"), folder)
        changes = iter(range(1, 1_000_000))

        def prepare(tool: str, small: Path = small, text: str = text, changes: Iterator[int] = changes) -> None:
            if tool == "torchlint, changed":
                small.write_text(f"{text}# {next(changes)}\n")
            elif tool == "torchlint, cached":
                measure(torchlint("small.py"), small.parent)

        tools = {
            "bare python": [sys.executable, "-c", "pass"],
            "torchlint, changed": torchlint("small.py"),
            "torchlint, cached": torchlint("small.py"),
        }
        rows += rounds(f"one small file: {name}", tools, folder, count, prepare=prepare)
    return rows


def growth(files: list[Path], roots: Sequence[Path], scratch: Path, seed: int) -> list[dict[str, float]]:
    """CPU per line on nested random parts of the files: an eighth, a quarter, a half, all."""
    drawn = list(files)
    random.Random(seed).shuffle(drawn)
    result = []
    for share in (8, 4, 2, 1):
        part = drawn[: max(len(drawn) // share, 1)]
        folder = scratch / f"part{share}"
        copy(part, roots, folder)
        one = measure(torchlint("--no-cache", "--jobs", "1", "."), folder)
        count = lines_of(part)
        result.append({"files": len(part), "lines": count, "cpu": one.cpu, "peak_mb": one.peak_mb})
        print(
            f"{count:9,} lines {one.cpu:7.2f} s CPU {one.cpu / count * 1e6:6.1f} µs a line {one.peak_mb:.0f} MB",
            flush=True,
        )
    return result


def setting(peers: Path) -> dict[str, Any]:
    def said(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    def git(*arguments: str) -> str:
        return said("git", "-C", str(ROOT), *arguments)

    model = (
        [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
        if Path("/proc/cpuinfo").exists()
        else []
    )
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {model[0].partition(': ')[2] if model else ''}",
        "python": platform.python_version(),
        "torchlint": git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "torchlint") else ""),
        "peers": said(str(peers / "python"), "-m", "pip", "list", "--format", "freeze").split(),
        "load": [round(x, 2) for x in os.getloadavg()],
    }


def conditions() -> str:
    data = results("speed")
    where, sizes = data["setting"], data["sizes"]
    peers = {name: number for name, _, number in (line.partition("==") for line in where["peers"])}
    named = ", ".join(f"{name} {peers[name]}" for name in ("TorchFix", "torch-preflight", "ruff"))
    return (
        f"{where['date'][:10]}, torchlint {where['torchlint']}, Python {where['python']} on {where['machine']}, beside "
        f"{named}. The code is {', '.join(data['packages'])}: {sizes['files']:,} files, {sizes['lines']:,} lines. "
        f"Medians of the rounds, range in brackets. Load at the start {where['load'][0]}, at the end "
        f"{where['load at the end'][0]}: on a machine with other work, processor time says more than wall time.\n"
    )


def sample() -> str:
    sizes = results("speed")["sizes"]
    return (
        f"A random sample of {sizes['sample files']} of these files ({sizes['sample lines']:,} lines), the same for "
        "all tools, because the others take minutes on a package. One process each.\n"
    )


def job(name: str) -> str:
    found = [row for row in results("speed")["rows"] if row["job"].startswith(name)]
    return lines_of_table(
        ["tool", "processor time, s", "wall, s", "peak, MB", "ratio of processor time"],
        [[row["tool"], *(shown(row[key]) for key in ("cpu", "wall", "peak_mb", "ratio"))] for row in found],
    )


def growing() -> str:
    return lines_of_table(
        ["files", "lines", "processor time, s", "µs a line", "peak, MB"],
        [
            [
                f"{g['files']:,}",
                f"{g['lines']:,}",
                f"{g['cpu']:.2f}",
                f"{g['cpu'] / g['lines'] * 1e6:.0f}",
                f"{g['peak_mb']:.0f}",
            ]
            for g in results("speed")["growth"]
        ],
    )


def small() -> str:
    """Each job's own Python start is taken off, round by round."""
    base: dict[str, dict[str, Any]] = {}
    lines: list[list[object]] = []
    for row in results("speed")["rows"]:
        name = row["job"].removeprefix("one small file: ")
        if name == row["job"]:
            continue
        if row["tool"] == "bare python":
            base[name] = row
            continue
        above = [shown([(a - b) * 1e3 for a, b in zip(row[key], base[name][key])]) for key in ("cpu", "wall")]
        lines.append([name + row["tool"].removeprefix("torchlint"), *above])
    return lines_of_table(["file", "processor time, ms", "wall, ms"], lines)


FIGURES: dict[str, Callable[[], str]] = {
    "conditions": conditions,
    "sample": sample,
    "cold": lambda: job("cold"),
    "growth": growing,
    "warm": lambda: job("warm"),
    "small": small,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--peers", type=Path, help=f"bin folder of an environment with {PEERS}")
    parser.add_argument("--sample", type=int, default=60, help="files for the cold comparison")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="only write the page, from the last results")
    parser.add_argument("--check", action="store_true", help="with --page: only say whether the page is fresh")
    args = parser.parse_args()
    if args.page:
        return fill("performance.md", FIGURES, args.check)
    if not args.folders or args.peers is None:
        parser.error("needs folders to check, and --peers")
    peers = args.peers.absolute()
    missing = [t for t in ("torchfix", "torch-preflight", "ruff") if not (peers / t).exists()]
    if missing:
        parser.error(f"{peers} has no {', '.join(missing)}; in an environment of its own: pip install {PEERS}")
    roots = [f.resolve() for f in args.folders]
    files = sorted(f for root in roots for f in root.rglob("*.py"))
    drawn = sorted(random.Random(args.seed).sample(files, min(args.sample, len(files))))
    where = setting(peers)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        copy(drawn, roots, scratch / "sample")
        copy(files, roots, scratch / "all")
        coldness = cold(scratch / "sample", peers, args.rounds)
        warmth = warm(scratch / "all", peers, max(args.rounds * 2, 5))
        alone = one_file(scratch, max(args.rounds * 3, 9))
        grown = growth(files, roots, scratch, args.seed)
    where["load at the end"] = [round(x, 2) for x in os.getloadavg()]
    sizes = {"files": len(files), "lines": lines_of(files), "sample files": len(drawn), "sample lines": lines_of(drawn)}
    packages = [r.name for r in roots]
    rows = coldness + warmth + alone
    out = Path(__file__).parent / "results"
    out.mkdir(exist_ok=True)
    data = {"setting": where, "packages": packages, "sizes": sizes, "rows": [asdict(r) for r in rows], "growth": grown}
    (out / "speed.json").write_text(json.dumps(data, indent=1) + "\n")
    return fill("performance.md", FIGURES)


if __name__ == "__main__":
    sys.exit(main())
