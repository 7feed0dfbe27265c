"""Measure what pathological sources and very many files cost: seconds, memory, and how each ends.

    python benchmarks/faults.py [--seconds S] [--gigabytes G] [--page] [NAME…]

Each source is made here, checked with all rules in a process of its own under limits on time and address space, and
written as one row of results/faults.tsv and of docs/reliability.md; NAME picks some (a part of the name is enough) and
writes neither. --page only writes the page from the rows that are there.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import fill, table

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "faults.tsv"
T = "import torch\n"
LOOP = T + "def f(model, loader):\n  for x in loader:\n    loss = model(x)\n    loss.backward()\n"
SOURCES = {
    "100,000 parentheses, one in the other": T + "x = " + "(" * 100_000 + "1" + ")" * 100_000 + "\n",
    "50,000 chained calls": T + "x = torch.ones(1)" + ".relu()" * 50_000 + "\n",
    "99 blocks, one in the other": T
    + "".join(" " * i + "if x:\n" for i in range(99))
    + " " * 99
    + "torch.zeros(1).to('cuda')\n",
    "a sum of 1,000,000 terms": T + "x = " + " + ".join(["a"] * 1_000_000) + "\n",
    "1,000,000 minus signs": T + "x = " + "-" * 1_000_000 + "1\n",
    "20,000 lambdas": T + "x = " + "lambda: " * 20_000 + "1\n",
    "a list of 1,000,000": T + "x = [" + "1, " * 1_000_000 + "]\n",
    "an integer of 1,000,000 digits": T + "x = " + "9" * 1_000_000 + "\n",
    "a string of 50,000,000 characters": T + "x = '" + "a" * 50_000_000 + "'\n",
    "an f-string of 100,000 fields": T + "x = f'" + "{a}" * 100_000 + "'\n",
    "a name of 5,000,000 characters": T + "x" * 5_000_000 + " = torch.ones(1)\n",
    "1,000,000 lines": T + "x = 1\n" * 1_000_000,
    "200,000 lines that make tensors": T + "".join(f"w{i} = torch.ones(1)\n" for i in range(200_000)),
    "a loop of 50,000 lines": LOOP + "    loss.item()\n" * 50_000,
    "100,000 decorators": T + "@torch.no_grad()\n" * 100_000 + "def f(): pass\n",
    "200,000 noqa comments": T + "x = 1  # noqa: TL401\n" * 200_000,
    "20,000 aliases, each of the last": T
    + "a0 = torch\n"
    + "".join(f"a{i + 1} = a{i}\n" for i in range(20_000))
    + "x = a20000.zeros(1).to('cuda')\n",
    "5,000 functions, each calling the last": T
    + "def f0(x): return torch.zeros(1)\n"
    + "".join(f"def f{i + 1}(x): return f{i}(x)\n" for i in range(5_000)),
    "20,000 elif": T + "if a: torch.ones(1)\n" + "".join(f"elif a == {i}: torch.ones(1)\n" for i in range(20_000)),
    "3,000 try statements": T
    + "def f(model, x):\n"
    + "".join(f"  try:\n    model(x).backward()\n  except E{i}: pass\n" for i in range(3_000)),
    "1,000,000 NUL bytes": T + "\0" * 1_000_000,
    "200,000 continued lines": T + "x = 1 " + "\\\n" * 200_000 + "+ 1\n",
    "5,000 findings in one expression": T + "torch.stack([" + "torch.ones(1).to('cuda'), " * 5_000 + "])\n",
    "5,000 functions with a finding": T + "def f():\n    torch.zeros(1).to('cuda')\n" * 5_000,
}


def measure(target: Path, seconds: float, memory: int, *more: str) -> tuple[str, float, float]:
    """How a check ended, its CPU seconds and its peak of memory in MB."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "torchlint",
        "check",
        "--no-cache",
        "--output-format",
        "concise",
        *more,
        str(target),
    ]
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, preexec_fn=limit)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        lines = out.read().decode(errors="replace").splitlines()
    cpu = usage.ru_utime + usage.ru_stime
    if process.returncode < 0:
        ended = f"ended by signal {-process.returncode}: the limit of {seconds:.0f} s"
    else:
        said = [line for line in lines if "TL001" in line or "TL002" in line or "failed" in line]
        if process.returncode == 2 and not said:
            raise SystemExit(f"torchlint itself failed: {lines[-1:]}")
        found = sum(": TL" in line for line in lines)
        ended = said[0].partition(": ")[2].removeprefix("TL001 ").partition(":")[0] if said else f"{found} findings"
    return ended, cpu, usage.ru_maxrss / 1024


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("names", nargs="*")
    options.add_argument("--seconds", type=float, default=120)
    options.add_argument("--gigabytes", type=float, default=8)
    options.add_argument("--page", action="store_true")
    chosen = options.parse_args()
    if chosen.page:
        fill("reliability.md", FIGURES)
        return
    memory = int(chosen.gigabytes * (1 << 30))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, text in SOURCES.items():
            if chosen.names and not any(part in name for part in chosen.names):
                continue
            path = Path(folder, "a.py")
            path.write_text(text, newline="")
            rows.append(
                (name, f"{len(text) / 1e6:.2f}", *_shown(measure(path, chosen.seconds, memory, "--select", "ALL")))
            )
            print(*rows[-1], sep="\t", flush=True)
        if not chosen.names or "10,000 files" in chosen.names:
            many = Path(folder, "many")
            many.mkdir()
            for number in range(10_000):
                (many / f"m{number}.py").write_text(
                    f"{T}\ndef f(x):\n    return torch.zeros({number + 1}).to('cuda')\n"
                )
            began = time.monotonic()
            row = _shown(measure(many, chosen.seconds * 5, memory, "--jobs", "2"))
            rows.append(("10,000 files with 2 workers", "0.70", *row))
            print(*rows[-1], f"{time.monotonic() - began:.1f} s by the wall", sep="\t", flush=True)
    if not chosen.names:
        OUT.write_text("source\tMB\tended\tCPU seconds\tpeak MB\n" + "".join("\t".join(row) + "\n" for row in rows))
        fill("reliability.md", FIGURES)


def rows_of_results() -> str:
    head, *rows = [line.split("\t") for line in OUT.read_text().splitlines()]
    return table(head, [list(row) for row in rows])


FIGURES = {"faults": rows_of_results}


def _shown(measured: tuple[str, float, float]) -> tuple[str, str, str]:
    ended, cpu, peak = measured
    return ended, f"{cpu:.2f}", f"{peak:.0f}"


if __name__ == "__main__":
    main()
