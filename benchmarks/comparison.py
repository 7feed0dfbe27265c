"""What torchlint and two of its peers report at judged places: `python benchmarks/comparison.py VERB …`.

    run CORPUS TREES WORK --peers BIN [--tool NAME]   # the tools; what they print is kept in WORK
    probe WORK --peers BIN                            # each tool over a few small programs, and the versions of all
    score CORPUS TREES WORK                           # results/comparison.json: hits at the places of labels.tsv
    page [--check]                                    # docs/comparison.md

TREES holds `<owner>+<name>/` with the .py and .ipynb files of each commit of CORPUS/manifest.tsv; BIN is the folder of
an environment's programs that has torchfix and torch-preflight. They read one file at a time and are given the files
that have judged places; torchlint asks other files, too, and is given the trees. A finding hits a place if its rule
speaks of the place's kind of mistake (`KEYS`) and stands in the region that the place's judge gave; where one region
holds good and bad of one kind, only the line itself and its neighbours count. Of the peers, findings within `NEAR`
lines of a bad place count, too.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from figures import HERE, fill, results, table

OUT = HERE / "results" / "comparison.json"
NEAR = 5
OFF = "torchlint, TL302"  # the one rule of `KEYS` that is off by default and has places of its own
ALL = "torchlint, all rules"
COMMANDS = {
    "torchlint": "torchlint check {paths} --no-cache --exit-zero --output-format json",
    OFF: "torchlint check {paths} --no-cache --exit-zero --output-format json --select TL302",
    "torchfix": "torchfix --select ALL {paths}",
    "torch-preflight": "torch-preflight check {paths} --format json",
}
PEERS = ("torchfix", "torch-preflight")
TOOLS = ("torchlint", *PEERS)

# Which rules speak of which kind of mistake. In doubt a peer's rule is listed: it is enough that its message would lead
# a reader to the mistake. A deprecation is a deprecation, whatever the rule's code.
_MODERN = {"TOR001", "TOR003", "TOR004", "TOR101", "TOR103", "TOR104", "TOR105", "TOR201", "TOR202"}
KEYS: dict[str, set[str]] = {
    "eval-without-no-grad": {"TL201", "TG002"},
    "eval-without-model-eval": {"TL203", "TG011"},
    "train-mode-not-restored": {"TL204", "TG011"},
    "zero-grad-missing": {"TL101", "TL103", "TG003"},
    "zero-grad-misplaced-accumulation": {"TL102", "TL103", "TL104", "TG003", "TG014"},
    "loss-accumulates-graph": {"TL601", "TG001"},
    "softmax-before-cross-entropy": {"TL108", "TG005"},
    "dataloader-no-pin-memory": {"TL301", "TG004"},
    "dataloader-no-workers": {"TL302", "TG004", "TOR401"},
    "dataparallel": {"TL801"},
    "missing-set-epoch": {"TL803", "TG012"},
    "loop-over-tensor-rows": {"TL501", "TL502", "TL504", "TL507", "TG007"},
    "cat-in-loop": {"TL503"},
    "create-on-cpu-then-to-device": {"TL401", "TG013"},
    "sync-in-hot-loop": {"TL402", "TL403", "TL404", "TG007"},
    "deprecated-api": {f"TL{n:03d}" for n in range(10, 20)} | _MODERN,
    "torch-load-unsafe": {"TL904", "TOR102"},
}

# The smallest program for each rule of a peer that no kind of judged place asks for.
PROBES = {
    "TG006": (
        "sigmoid in front of BCE with logits",
        "import torch\nfrom torch import nn\n\nloss_fn = nn.BCEWithLogitsLoss()\n\n\n"
        "def loss(model, x, y):\n    return loss_fn(torch.sigmoid(model(x)), y)\n",
    ),
    "TG008": (
        "a training run that seeds torch and draws from numpy",
        "import numpy as np\nimport torch\nfrom torch import nn\n\n\ndef main(loader):\n    torch.manual_seed(0)\n"
        "    model = nn.Linear(2, 2)\n    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "    for x, y in loader:\n        x = x + torch.from_numpy(np.random.randn(*x.shape))\n"
        "        optimizer.zero_grad()\n        nn.functional.cross_entropy(model(x), y).backward()\n"
        "        optimizer.step()\n",
    ),
    "TG014": (
        "accumulation that does not divide the loss",
        "import torch\nfrom torch import nn\n\n\ndef train(model, loader, optimizer, accumulate):\n"
        "    for i, (x, y) in enumerate(loader):\n        loss = nn.functional.cross_entropy(model(x), y)\n"
        "        loss.backward()\n        if (i + 1) % accumulate == 0:\n            optimizer.step()\n"
        "            optimizer.zero_grad()\n",
    ),
    "TOR002": ("`require_grad`, misspelled", "import torch\n\nx = torch.zeros(2)\nx.require_grad = True\n"),
    "TOR106": ("`log(1 + x)`", "import torch\n\n\ndef f(x: torch.Tensor):\n    return torch.log(1 + x)\n"),
    "TOR107": ("`exp(x) - 1`", "import torch\n\n\ndef f(x: torch.Tensor):\n    return torch.exp(x) - 1\n"),
    "TOR203": ("`import torchvision.models as models`", "import torchvision.models as models\n\nprint(models)\n"),
    "TOR901": (
        "a `torch.library.Library` in a test",
        'import torch\n\nlibrary = torch.library.Library("mine", "FRAGMENT")\n',
    ),
}
Places = dict[tuple[str, str], set[tuple[int | None, int]]]  # (file, code) → cell and row


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


# -- running the tools ------------------------------------------------------------------------------------------------


def command(tool: str, peers: Path, paths: Path) -> list[str]:
    program, *options = COMMANDS[tool].format(paths=paths).split()
    return [str((peers if tool in PEERS else Path(sys.executable).parent) / program), *options]


def run(args: argparse.Namespace) -> None:
    files = args.work / "judged"
    for file in judged_files(args.corpus):
        (files / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(args.trees / file, files / file)
    for tool in args.tool or COMMANDS:
        words = command(tool, args.peers, files if tool in PEERS else args.trees)
        with (args.work / f"{tool}.out").open("w", encoding="utf-8") as out:
            subprocess.run(words, stdout=out, stderr=subprocess.DEVNULL, check=False)


def judged_files(corpus: Path) -> set[str]:
    lists = (rows(corpus / name) for name in ("labels.tsv", "exhaustive.tsv"))
    return {row["repo"].replace("/", "+") + "/" + row["path"] for one in lists for row in one}


def probe(args: argparse.Namespace) -> None:
    shown: dict[str, dict[str, list[str]]] = {}
    for rule, (_, text) in PROBES.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "train.py").write_text(text, encoding="utf-8")
            shown[rule] = {}
            for tool, more in (("torchlint", []), (ALL, ["--select", "ALL"]), *((peer, []) for peer in PEERS)):
                words = [*command(tool.partition(",")[0], args.peers, root), *more]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                shown[rule][tool] = sorted({code for _, code in found(tool, done.stdout, root)})
    asked = "from importlib.metadata import version as v; print(v('torchfix'), v('torch-preflight'), v('libcst'))"
    peers = output(str(args.peers / "python"), "-c", asked).split()
    versions = dict(zip(("torchfix", "torch-preflight", "libcst of the peers"), peers))
    versions |= {"torchlint": version("torchlint"), "libcst of torchlint": version("libcst")}
    commit = output("git", "-C", str(HERE), "rev-parse", "--short", "HEAD")
    made = {"with": versions, "commit": commit, "date": str(datetime.date.today()), "probes": shown}
    (args.work / "probes.json").write_text(json.dumps(made), encoding="utf-8")


def output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def found(tool: str, printed: str, root: Path) -> Places:
    """Where a tool reports what, by what it printed."""
    places: Places = defaultdict(set)

    def add(path: str, code: str, cell: int | None, row: int) -> None:
        file = Path(path) if Path(path).is_absolute() else Path.cwd() / path
        places[str(file.resolve().relative_to(root.resolve())), code].add((cell, row))

    if tool == "torch-preflight":
        for d in json.loads(printed)["diagnostics"]:
            add(d["path"], d["code"], None, d["line"])
    elif tool == "torchfix":
        for path, row, code in re.findall(r"^(.+?):(\d+):\d+: (TOR\d+)", printed, re.M):
            add(path, code, None, int(row))
    else:
        for d in json.loads(printed):
            add(d["filename"], d["code"], d.get("cell"), d["location"]["row"])
    return places


# -- what they hit ----------------------------------------------------------------------------------------------------


class Place:
    """One judged place."""

    def __init__(self, row: dict[str, str]) -> None:
        self.repo, self.path, self.key, self.bad = row["repo"], row["path"], row["rule_key"], row["verdict"] == "bad"
        self.file = row["repo"].replace("/", "+") + "/" + row["path"]
        self.line = int(row["line"])
        self.first, self.last = int(row["region_start"] or self.line), int(row["region_end"] or self.line)
        self.cell = tuple(int(x) for x in row["nb_cell"].split(":")) if row["nb_cell"] else None
        self.others = []
        for other in filter(None, row["alt_locations"].replace(";", ",").split(",")):
            path, _, line = other.strip().rpartition(":")
            if line.isdigit():
                self.others.append((self.repo.replace("/", "+") + "/" + path if path else self.file, int(line)))

    def hit(self, places: Places, mixed: bool, near: int) -> bool:
        first, last = (self.line - 1, self.line + 1) if mixed else (self.first - near, self.last + near)
        for code in KEYS[self.key]:
            for cell, row in places.get((self.file, code), ()):
                if cell is None and first <= row <= last:
                    return True
                if cell is not None and self.cell is not None:
                    if cell == self.cell[0] and (not mixed or abs(row - self.cell[1]) <= 1):
                        return True
            if any(row == line for file, line in self.others for _, row in places.get((file, code), ())):
                return True
        return False


def score(args: argparse.Namespace) -> None:
    labels = [Place(row) for row in rows(args.corpus / "labels.tsv")]
    groups = defaultdict(list)
    for place in labels:
        groups[place.file, place.key].append(place)
    hits: dict[str, list[bool]] = {}
    told: dict[str, Any] = {}
    files = judged_files(args.corpus)
    judged = {e["repo"].replace("/", "+") + "/" + e["path"] for e in rows(args.corpus / "exhaustive.tsv")}
    for tool in COMMANDS:
        printed = (args.work / f"{tool}.out").read_text(encoding="utf-8")
        places = found(tool, printed, args.work / "judged" if tool in PEERS else args.trees)
        hits[tool] = []
        for one in labels:
            mixed = any(
                o.bad != one.bad and o.first <= one.last and one.first <= o.last for o in groups[one.file, one.key]
            )
            hits[tool].append(one.hit(places, mixed, NEAR if tool in PEERS and one.bad else 0))
        near = NEAR if tool in PEERS else 0
        inside = wrong = 0
        for (file, code), where in places.items():
            keys = [key for key, codes in KEYS.items() if code in codes]
            if file in judged and keys:
                bad = [p for key in keys for p in groups[file, key] if p.bad]
                inside += len(where)
                wrong += sum(not any(p.first - near <= row <= p.last + near for p in bad) for _, row in where)
        told[tool] = {
            "findings": sum(len(where) for (file, _), where in places.items() if file in files),
            "found": sum(h for h, p in zip(hits[tool], labels) if p.bad),
            "alarms": sum(h for h, p in zip(hits[tool], labels) if not p.bad),
            "judged files": [inside, wrong],
        }
    keys: dict[str, Any] = {}
    for key in KEYS:
        of_key = [(i, p) for i, p in enumerate(labels) if p.key == key]
        keys[key] = {"bad": sum(p.bad for _, p in of_key), "ok": sum(not p.bad for _, p in of_key), "tools": {}}
        for tool in COMMANDS:
            reported = [p.bad for i, p in of_key if hits[tool][i]]
            keys[key]["tools"][tool] = [sum(reported), len(reported) - sum(reported)]
    places_told = [
        {"place": f"{p.repo} {p.path}:{p.line}", "key": p.key, "verdict": "bad" if p.bad else "ok", "by": by}
        for i, p in enumerate(labels)
        if (by := [tool for tool in COMMANDS if hits[tool][i]]) or p.bad
    ]
    made = json.loads((args.work / "probes.json").read_text(encoding="utf-8"))
    notebooks = [p for p in labels if p.cell is not None]
    made |= {
        "files": len(files),
        "repositories": len({p.repo for p in labels}),
        "bad": sum(p.bad for p in labels),
        "ok": sum(not p.bad for p in labels),
        "in notebooks": [sum(p.bad for p in notebooks), sum(not p.bad for p in notebooks)],
        "tools": told,
        "keys": keys,
        "places": places_told,
    }
    OUT.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


# -- the page ---------------------------------------------------------------------------------------------------------


def summary() -> str:
    data = results("comparison")
    lines: list[list[object]] = []
    for tool in TOOLS:
        told = data["tools"][tool]
        inside, wrong = told["judged files"]
        lines.append(
            [
                f"{tool} {data['with'][tool]}",
                f"{told['found']} of {data['bad']}",
                f"{told['alarms']} of {data['ok']}",
                f"{inside - wrong} of {inside}",
                f"{told['findings']:,}",
            ]
        )
    return (
        table(["", "bad places found", "good places reported", "match in the four files", "findings in all"], lines)
        + f"\nRun on {data['date']}, torchlint at commit {data['commit']}.\n"
    )


def by_key() -> str:
    data = results("comparison")
    lines: list[list[object]] = []
    for key, one in data["keys"].items():

        def cell(tool: str, one: Any = one, key: str = key) -> str:
            hit, alarms = one["tools"][tool]
            if tool in PEERS and not any(c in KEYS[key] for c in rules_of(tool)):
                return "–"
            return f"{hit}" + (f" (+{alarms})" if alarms else "")

        lines.append([key, one["bad"], one["ok"], *(cell(tool) for tool in TOOLS)])
    found, alarms = data["keys"]["dataloader-no-workers"]["tools"][OFF]
    return (
        table(["kind of mistake", "bad", "good", *TOOLS], lines)
        + f"\nTL302, which speaks of `num_workers`, is off by default. Switched on, it finds {found} of the bad places "
        f"and reports {alarms} of the good ones.\n"
    )


def rules_of(tool: str) -> set[str]:
    prefix = {"torchfix": "TOR", "torch-preflight": "TG"}.get(tool, "TL")
    return {code for codes in KEYS.values() for code in codes if code.startswith(prefix)}


def theirs() -> str:
    """Bad places that a peer reports and torchlint does not."""
    data = results("comparison")
    lines: list[list[object]] = []
    for one in data["places"]:
        peers = [tool for tool in one["by"] if tool in PEERS]
        if one["verdict"] == "bad" and peers and "torchlint" not in one["by"]:
            switched = " (and TL302, switched on)" if OFF in one["by"] else ""
            lines.append([f"`{one['place']}`", one["key"], ", ".join(peers) + switched])
    return table(["place", "kind of mistake", "reported by"], lines)


def probes() -> str:
    lines: list[list[object]] = []
    for rule, by in results("comparison")["probes"].items():
        ours = [code if code in by["torchlint"] else f"{code} (off by default)" for code in by[ALL]]
        lines.append([PROBES[rule][0], *(", ".join(codes) or "—" for codes in (ours, *(by[peer] for peer in PEERS)))])
    return table(["program", *TOOLS], lines)


def mapping() -> str:
    def listed(codes: set[str], prefix: str) -> str:
        return ", ".join(sorted(code for code in codes if code.startswith(prefix)))

    return table(
        ["kind of mistake", "torchlint", "torchfix", "torch-preflight"],
        [[key, *(listed(codes, prefix) for prefix in ("TL", "TOR", "TG"))] for key, codes in KEYS.items()],
    )


def commands() -> str:
    lines = (c.format(paths="files/" if tool in PEERS else "trees/") for tool, c in COMMANDS.items())
    return "```console\n" + "".join(f"$ {line}\n" for line in lines) + "```\n"


FIGURES: dict[str, Callable[[], str]] = {
    "summary": summary, "by-key": by_key, "theirs": theirs, "probes": probes, "mapping": mapping, "commands": commands,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running, probing, scoring, paging = (verbs.add_parser(name) for name in ("run", "probe", "score", "page"))
    for verb in (running, scoring):
        verb.add_argument("corpus", type=Path)
        verb.add_argument("trees", type=Path)
    for verb in (running, probing):
        verb.add_argument("work", type=Path)
        verb.add_argument("--peers", type=Path, required=True)
    running.add_argument("--tool", action="append", choices=COMMANDS)
    scoring.add_argument("work", type=Path)
    paging.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.verb == "page":
        return fill("comparison.md", FIGURES, args.check)
    {"run": run, "probe": probe, "score": score}[args.verb](args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
