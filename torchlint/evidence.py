"""What was measured of each rule's fix, as far as it is committed under benchmarks/: reports take no other numbers.

`python -m torchlint.evidence` distils the verifier's results into torchlint/evidence.json, which is shipped; `--check`
says whether that file is what it would write. Nothing here is estimated, and every number names the file it is from.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("evidence.json")
CASES = "benchmarks/verifier/rules_cpu.json"  # every rule's own cases
PROGRAMS = "benchmarks/verifier/programs.json"  # five programs with planted mistakes, fixed and proven whole
_RATIO = re.compile(r"(faster|slower|no measurable change|inconclusive) ×([\d.]+) \[([\d.]+), ([\d.]+)\]")
_MEMORY = re.compile(r"(saves|costs) memory: peak \[(\d+), (\d+)\]")
_KINDS = ("faster", "slower", "no measurable change", "inconclusive")


@dataclass(frozen=True, slots=True)
class Timing:
    """Time before divided by time after, with its 95 % interval, at one size of input (0: as the program has it)."""

    size: int
    kind: str  # one of _KINDS
    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One case or place of a program that a fix was measured on. `peak` is bytes of tensors before and after."""

    name: str
    source: str
    timings: tuple[Timing, ...]
    peak: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was measured of one rule's fix. `verdicts` counts its cases by how they compare before and after."""

    verdicts: Mapping[str, int]
    measurements: tuple[Measurement, ...]
    gpu_only: bool


@cache
def load() -> dict[str, Evidence]:
    """What is shipped, by rule code."""
    document = json.loads(FILE.read_text(encoding="utf-8"))
    return {code: _evidence(entry) for code, entry in document["rules"].items()}


@dataclass(frozen=True, slots=True)
class Source:
    """The machine that a file of numbers was made on."""

    machine: str
    device: str


@cache
def sources() -> dict[str, Source]:
    """The files that the numbers are from."""
    document = json.loads(FILE.read_text(encoding="utf-8"))
    return {path: Source(**facts) for path, facts in document["sources"].items()}


def _evidence(entry: Mapping[str, Any]) -> Evidence:
    measured = tuple(
        Measurement(m["name"], m["source"], tuple(Timing(*t) for t in m["timings"]), m["peak"] and tuple(m["peak"]))
        for m in entry["measurements"]
    )
    return Evidence(entry["verdicts"], measured, entry["gpu_only"])


# -- made from the verifier's results -----------------------------------------------------------------------------


def distil(cases: Mapping[str, Any], programs: Mapping[str, Any]) -> dict[str, Any]:
    """The document to ship, from the two results."""
    rules: dict[str, Any] = {}
    for rule in cases["rules"]:
        code = rule["rule"].split()[0]
        entry = rules[code] = {"verdicts": {}, "measurements": [], "gpu_only": False}
        for case in rule["cases"]:
            if not case["holds"]:
                continue  # what is not proven is no evidence
            kind = case["behaviour"]["kind"]
            entry["verdicts"][kind] = entry["verdicts"].get(kind, 0) + 1
            entry["gpu_only"] |= any(cost["kind"] == "gpu-only" for cost in case["speed"].values())
            timings = [
                [int(size), cost["kind"], *(round(cost[k], 3) for k in ("ratio", "low", "high"))]
                for size, cost in case["speed"].items()
                if cost["kind"] in _KINDS
            ]
            peak = case["memory"]["peak"] if case["memory"]["kind"] in ("saves", "costs") else None
            if timings or peak:
                entry["measurements"].append({"name": case["name"], "source": CASES, "timings": timings, "peak": peak})
    for name, program in programs["programs"].items():
        for unit in program["units"]:
            for code, verdict in unit["proven"].items():
                if code in rules:  # a verdict on several rules together says nothing of each
                    found = _of_program(f"{name}: {unit['place'].split()[-1]}", verdict)
                    rules[code]["measurements"] += [found] if found["timings"] or found["peak"] else []
    described = {CASES: _machine(cases["machine"]), PROGRAMS: _machine(programs["machine"])}
    return {"sources": described, "rules": dict(sorted(rules.items()))}


def _of_program(name: str, verdict: str) -> dict[str, Any]:
    ratio, memory = _RATIO.search(verdict), _MEMORY.search(verdict)
    timings = [[0, ratio[1], *map(float, ratio.groups()[1:])]] if ratio else []
    peak = [int(memory[2]), int(memory[3])] if memory else None
    return {"name": name, "source": PROGRAMS, "timings": timings, "peak": peak}


def _machine(facts: Mapping[str, Any]) -> dict[str, str]:
    machine = f"torch {facts['torch']}, {facts['system']}, {facts['cpus']} cores"
    return {"machine": machine, "device": facts["device"]}


def text(root: Path) -> str:
    cases, programs = (json.loads((root / path).read_text(encoding="utf-8")) for path in (CASES, PROGRAMS))
    return json.dumps(distil(cases, programs), indent=1, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write or check the file beside this module, from the current folder's benchmarks."""
    if arguments == ["--check"]:
        if FILE.is_file() and FILE.read_text(encoding="utf-8") == text(Path()):
            return 0
        print(f"{FILE.name} is not what benchmarks/ says: run `python -m torchlint.evidence`", file=sys.stderr)
        return 1
    if arguments:
        print("usage: python -m torchlint.evidence [--check]", file=sys.stderr)
        return 2
    written = text(Path())
    if not FILE.is_file() or FILE.read_text(encoding="utf-8") != written:
        FILE.write_text(written, encoding="utf-8", newline="\n")
        print(FILE)  # to be committed
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
