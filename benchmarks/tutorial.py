"""What docs/tutorial.md shows, made by doing it: `python benchmarks/tutorial.py run|time|page [--check]`.

`run` gives the page's commands to a shell in a copy of docs/example/tutorial and keeps what they print; `time` runs the
script as it was and as `run` left it, in turns; `page` writes both into the page. All need torch but `page`.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import DOCS, HERE, fill, results, table

EXAMPLE = DOCS / "example" / "tutorial"
OUT = HERE / "results" / "tutorial.json"
COMMANDS = {
    "check": "torchlint check train.py",
    "fix": "torchlint fix train.py",
    "apply": "torchlint fix train.py --apply --verify=run -- python train.py",
    "rest": "torchlint fix train.py --apply --unsafe",
    "again": "torchlint check train.py",
    "before": "python train.py.orig",
    "after": "python train.py",
}
PAIRS = 5
# One thread, so that neither a machine's cores nor its other work decide about the numbers; no colours, no width.
SETTINGS = {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "120"}


def environment() -> dict[str, str]:
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TORCHLINT"))}
    here = str(Path(sys.executable).parent)
    return {**bare, **SETTINGS, "PATH": here + os.pathsep + bare.get("PATH", "")}


def save(**news: Any) -> None:
    old = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    OUT.write_text(json.dumps({**old, **news}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def run() -> None:
    printed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(shutil.copytree(EXAMPLE, Path(folder, "tutorial"))) / "train.py"
        shutil.copy(script, f"{script}.orig")
        for name, command in COMMANDS.items():
            done = subprocess.run(
                command, shell=True, cwd=script.parent, env=environment(), capture_output=True, text=True, check=False
            )
            # What the shell would show, trouble first; the program that is verified says nothing on stderr.
            printed[name] = done.stderr + done.stdout
            print(f"$ {command}\n{printed[name]}[{done.returncode}]", flush=True)
        save(printed=printed, fixed=script.read_text(encoding="utf-8"))


def once(script: str, folder: str) -> tuple[float, float, float]:
    """Wall and CPU seconds and the most MiB of one run."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", script], cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, process.returncode
    return time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def measure() -> None:
    import torch

    texts = {
        "before": (EXAMPLE / "train.py").read_text(encoding="utf-8"),
        "after": results("tutorial")["fixed"],
        "start": "import torch\ntorch.optim.Adam([torch.zeros(1, requires_grad=True)])\n",
    }
    rounds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in texts}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(PAIRS):
            for name, text in texts.items():
                rounds[name].append(once(text, folder))
                print(name, *(round(x, 2) for x in rounds[name][-1]), flush=True)
    save(
        time={
            name: dict(zip(("wall", "cpu", "peak"), ([round(x, 2) for x in column] for column in zip(*taken))))
            for name, taken in rounds.items()
        },
        **{"with": {"python": platform.python_version(), "torch": torch.__version__, "cores": os.cpu_count()}},
    )


# -- the page ---------------------------------------------------------------------------------------------------------


def script() -> str:
    return f"```python\n{(EXAMPLE / 'train.py').read_text(encoding='utf-8')}```\n"


def shown(name: str, language: str = "text") -> Callable[[], str]:
    """A command and all that it printed."""

    def block() -> str:
        printed = results("tutorial")["printed"][name].rstrip("\n")
        return f"```console\n$ {COMMANDS[name]}\n```\n\n```{language}\n{printed}\n```\n"

    return block


def first_findings() -> str:
    """The first two findings as they are printed, and the last lines."""
    printed = results("tutorial")["printed"]["check"].rstrip("\n")
    findings = re.split(r"\n\n(?=\w+\[TL\d+\])", printed)
    *_, end = findings[-1].split("\n\n")
    return f"```console\n$ {COMMANDS['check']}\n```\n\n```text\n" + "\n\n".join([*findings[:2], "…", end]) + "\n```\n"


def all_findings() -> str:
    """Every finding of the first check: its rule's page, its line, and why it is bad."""
    rows: list[list[object]] = []
    pages = {page.name[:5]: page.name for page in (DOCS / "rules").glob("TL*.md")}
    printed = results("tutorial")["printed"]["check"]
    for code, line, why in re.findall(
        r"^\w+\[(TL\d+)\].*\n +--> \S+?:(\d+):\d+\n(?:.*\n)*?   = why: (.*)$", printed, re.M
    ):
        rows.append([f"[{code}](rules/{pages[code]})", line, why])
    return table(["rule", "line", "why"], rows)


def times() -> str:
    data = results("tutorial")
    taken = data["time"]
    middle = {name: {what: statistics.median(of) for what, of in t.items()} for name, t in taken.items()}

    def row(title: str, of: Callable[[str], float], digits: int, unit: str) -> list[object]:
        before, after = of("before"), of("after")
        return [title, f"{before:.{digits}f} {unit}", f"{after:.{digits}f} {unit}", f"×{before / after:.2f}"]

    rows = [
        row("the program, CPU time", lambda n: middle[n]["cpu"], 2, "s"),
        row("without the start of Python and torch", lambda n: middle[n]["cpu"] - middle["start"]["cpu"], 2, "s"),
        row("most memory", lambda n: middle[n]["peak"], 0, "MiB"),
    ]
    made = data["with"]
    return (
        table(["median of " + str(len(taken["before"]["cpu"])), "before", "after", ""], rows)
        + f"\nPython {made['python']}, torch {made['torch']}, one thread on a machine of {made['cores']} cores.\n"
    )


FIGURES: dict[str, Callable[[], str]] = {
    "script": script, "check": first_findings, "findings": all_findings, "fix": shown("fix", "diff"),
    "apply": shown("apply"), "rest": shown("rest"), "again": shown("again"),
    "before": shown("before"), "after": shown("after"), "times": times,
}  # fmt: skip


def page() -> None:
    sys.exit(fill("tutorial.md", FIGURES, check="--check" in sys.argv))


if __name__ == "__main__":
    {"run": run, "time": measure, "page": page}[sys.argv[1]]()
