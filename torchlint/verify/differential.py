"""Tier 3: the whole command twice, with the original and with the fixed text in memory, compared step by step.

For edits that cannot be compared call by call (module-level code, generators, CUDA). The first divergence is located to
the step and the tensor; runs of the original with parameters nudged by one ulp are the yardstick.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torchlint.verify.compare import Comparison, Level, Yardstick, compare
from torchlint.verify.judge import Run, judge_behaviour, judge_property
from torchlint.verify.lines import edited_lines, evidence_lines
from torchlint.verify.observe import Observation
from torchlint.verify.properties import TOLERANCE
from torchlint.verify.sandbox import scratch_directory
from torchlint.verify.userrun import execute
from torchlint.verify.verdict import Behaviour, BehaviourVerdict

NUDGES = 3
STEPS = 8  # divergence compounds: the early steps tell


@dataclass
class Recorded:
    """One run of the command: a record per step, how it ended, and what it showed on the way."""

    records: list[Observation] = field(default_factory=list)
    deviations: list[float] = field(default_factory=list)
    lines: set[str] = field(default_factory=set)
    ended: str = ""
    enclosed: bool = False

    @property
    def broken_ledger(self) -> str | None:
        bad = [d for d in self.deviations if not d <= TOLERANCE]
        if not bad:
            return None
        return f"{len(bad)} of {len(self.deviations)} steps use a gradient that is not what backward added"


@dataclass(frozen=True, slots=True)
class Differential:
    verdict: BehaviourVerdict
    steps: int = 0
    sandbox: str = ""


def differential(
    files: Mapping[str, tuple[str, str]],
    command: Sequence[str],
    *,
    steps: int = STEPS,
    seed: int = 0,
    timeout: float = 3600.0,
    cwd: str | None = None,
) -> Differential:
    """Judge all edits of `files` (path → text before, text after) together by at most `steps` optimizer steps."""
    where = os.path.abspath(cwd or ".")
    old = {os.path.realpath(path): before for path, (before, _) in files.items()}
    new = {os.path.realpath(path): after for path, (_, after) in files.items()}

    def run(texts: Mapping[str, str], *, nudge: int | None = None, trace: bool = False) -> Recorded:
        plan = {"mode": "record", "texts": texts, "steps": steps, "seed": seed, "nudge": nudge, "trace": trace}
        return _record(plan, command, timeout, where)

    first = run(old)
    sandbox = "the runs change no file" if first.enclosed else "the runs were not sandboxed"

    def told(verdict: BehaviourVerdict) -> Differential:
        return Differential(verdict, max(0, len(first.records) - 1), sandbox)

    if first.ended and not first.records:
        return told(judge_behaviour([], unable=f"crash in the original: {first.ended}"))
    again, fixed = run(old, trace=True), run(new, trace=True)
    unsteady = next((r for r in _runs(first, again, ()) if r.comparison.level is not Level.BITWISE), None)
    check = unsteady.comparison if unsteady else Comparison()
    executed = _executed(files, again, fixed)
    runs = _runs(first, fixed, ())
    if check.level is Level.BITWISE and any(r.comparison.level is Level.DIFFERENT for r in runs):
        runs = _runs(first, fixed, [run(old, nudge=k) for k in range(NUDGES)])
    verdict = judge_behaviour(runs, self_check=check, executed=executed)
    if verdict.kind is Behaviour.DIFFERENT and first.broken_ledger and fixed.deviations and not fixed.ended:
        intended = judge_property([first.broken_ledger], [fixed.broken_ledger], executed=executed)
        if intended.kind is Behaviour.INTENDED:
            verdict = intended
    return told(verdict)


def _runs(a: Recorded, b: Recorded, nudged: Sequence[Recorded]) -> list[Run]:
    """One comparison per step, and one of how the runs ended."""
    runs = []
    for i, (left, right) in enumerate(zip(a.records[:-1], b.records[:-1])):
        yardstick = Yardstick(tuple(n.records[i] for n in nudged if i < len(n.records)))
        runs.append(Run(f"step {i + 1}", compare(left, right, yardstick)))
    if len(a.records) != len(b.records):
        uneven = Comparison()
        uneven.differ("the run", "steps", len(a.records) - 1, f"{len(b.records) - 1} {b.ended}")
        return [*runs, Run("end", uneven)]
    if a.records and b.records:
        yardstick = Yardstick(tuple(n.records[-1] for n in nudged if len(n.records) == len(a.records)))
        runs.append(Run("end", compare(a.records[-1], b.records[-1], yardstick)))
    return runs


def _executed(files: Mapping[str, tuple[str, str]], again: Recorded, fixed: Recorded) -> bool:
    for path, (before, after) in files.items():
        real = os.path.realpath(path)
        old, new = edited_lines(before, after)
        for text, edited, ran in ((before, old, again.lines), (after, new, fixed.lines)):
            for statement in evidence_lines(text, edited, module_level=True):
                if any(f"{real}:{line}" in ran for line in statement):
                    return True
    return False


def _record(plan: dict[str, Any], command: Sequence[str], timeout: float, cwd: str) -> Recorded:
    result = Recorded()
    with scratch_directory() as out:
        output = os.path.join(out, "stdout")
        result.ended, result.enclosed = execute(command, {**plan, "out": out}, out, timeout, cwd, output)
        path = os.path.join(out, "record.pickle")
        if os.path.exists(path):
            with open(path, "rb") as file:
                data = pickle.load(file)
            result.records, result.deviations = data["records"], data["deviations"]
            result.lines = set(data["lines"])
            with open(output, encoding="utf-8", errors="replace") as text:
                end = Observation({"how it ended": result.ended, "stdout": text.read()})
            result.records.append(end)
    return result
