"""Tier 3: whole runs of the command, with the text before and after a fix in memory, compared step by step.

For edits that cannot be compared call by call (module-level code, generators, CUDA). The first divergence is located to
the step and the tensor; runs of the original with parameters nudged by one ulp are the yardstick.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torchlint.verify.channel import Forged, items
from torchlint.verify.compare import FAR, Comparison, Level, Yardstick, compare, deviation, without_graphs
from torchlint.verify.judge import Run, judge_behaviour, judge_property
from torchlint.verify.launching import UNWATCHED, watched
from torchlint.verify.lines import edited_lines, evidence_lines
from torchlint.verify.observe import Observation
from torchlint.verify.properties import misweighed, skips_a_rate, stuck, unbooked
from torchlint.verify.sandbox import scratch_directory
from torchlint.verify.stats import slope
from torchlint.verify.userrun import ABORT_AT_EXIT, execute
from torchlint.verify.verdict import Behaviour, BehaviourVerdict, Point

NUDGES = 3
STEPS = 8  # divergence compounds: the early steps tell
MOST_STEPS = 400  # how long to wait for an edited line that is only reached later
SECONDS = 5.0  # how much further than that a run goes: a short program to its end, a long one past its first steps
_LEAK = 32 * 1024  # bytes per step
_ENOUGH = 16  # steps by which a leak is told
_LAUNCHES = 3  # of one run of several ranks, where torch aborts them after their end

Texts = Mapping[str, str]


@dataclass
class Recorded:
    """One run of the command: a record per step, how it ended, and what it showed on the way."""

    records: list[Observation] = field(default_factory=list)
    steps: int = 0
    stopped: bool = False  # by us, after enough steps
    deviations: list[float] = field(default_factory=list)
    lines: set[str] = field(default_factory=set)
    resident: list[int] = field(default_factory=list)
    ended: str = ""
    enclosed: bool = False
    replaced: str | None = None  # why what was recorded cannot be believed

    scales: list[float] = field(default_factory=list)
    late: list[bool] = field(default_factory=list)
    early: int = 0
    alone: bool = True  # not one of several ranks

    @property
    def broken(self) -> tuple[str | None, ...]:
        """How the gradient ledger, the weights of the micro-batches' losses, the mode and the schedule are broken."""
        return unbooked(self.deviations), misweighed(self.scales), stuck(self.late), skips_a_rate(self.early)


@dataclass(frozen=True, slots=True)
class Differential:
    verdict: BehaviourVerdict
    steps: int = 0
    sandbox: str = ""
    curve: tuple[Point, ...] = ()
    complete: bool = True  # whether every edited statement was executed
    growth: tuple[int, int] | None = None  # bytes of the process per step before and after, where they differ


@dataclass
class _Original:
    """The runs of one text before: traced, plain, and (once they are needed) nudged ones."""

    traced: Recorded
    plain: Recorded
    steps: int
    nudged: list[Recorded] = field(default_factory=list)


class Runs:
    """Runs one command with any texts; what it knows of a text before it keeps.

    `texts` (path → text) are files as they are: runs of the original with them serve for the edits of all of them.
    """

    def __init__(
        self, command: Sequence[str], *, steps: int = STEPS, seed: int = 0, timeout: float = 3600.0,
        cwd: str | None = None,
    ) -> None:  # fmt: skip
        self.texts: dict[str, str] = {}
        self.command, self.steps, self.seed, self.timeout = command, steps, seed, timeout
        self.where = os.path.abspath(cwd or ".")
        self.count = 0  # how often the command was run
        self._known: dict[tuple[tuple[str, str], ...], _Original] = {}
        self._traces: dict[tuple[tuple[str, str], ...], Recorded] = {}

    def judge(self, files: Mapping[str, tuple[str, str]]) -> Differential:
        """Judge all edits of `files` (path → text before, text after) together."""
        old = self._with({path: before for path, (before, _) in files.items()})
        new = self._with({path: after for path, (_, after) in files.items()})
        original = self._original(old, files)
        first = original.plain
        sandbox = "the runs change no file" if first.enclosed else "the runs were not sandboxed"
        unable = _stillborn(first) or _stillborn(original.traced)
        if unable:
            return Differential(judge_behaviour([], unable=unable), 0, sandbox)
        fixed = self._record(new, steps=original.steps, trace=True)
        replaced = next((r.replaced for r in (first, original.traced, fixed) if r.replaced), None)
        if replaced:
            return Differential(judge_behaviour([], unable=replaced), first.steps, sandbox)
        unsteady = next((r for r in _runs(first, original.traced, ()) if r.comparison.level is not Level.BITWISE), None)
        check = unsteady.comparison if unsteady else Comparison()
        reached = _executed(files, original.traced, fixed)
        executed = any(reached)
        runs = _runs(first, fixed, ())
        differs = any(r.comparison.level is Level.DIFFERENT for r in runs)
        intended = _intended(first, fixed, executed)
        # What is far apart from its first difference on is no rounding: no nudge would bring it together.
        if check.level is Level.BITWISE and differs and not (intended and _far(first, fixed, runs)):
            original.nudged = original.nudged or [
                self._record(old, steps=original.steps, nudge=k) for k in range(NUDGES)
            ]
            runs = _runs(first, fixed, original.nudged)
        verdict = judge_behaviour(runs, self_check=check, executed=executed)
        if verdict.kind is Behaviour.DIFFERENT and intended:
            verdict = intended
        curve = _curve(first, fixed, original.nudged) if verdict.kind is Behaviour.DIFFERENT else ()
        growth = _growth(original.traced, fixed) if verdict.equivalent else None
        return Differential(verdict, first.steps, sandbox, curve, all(reached), growth)

    def _with(self, texts: Texts) -> dict[str, str]:
        return {os.path.realpath(path): text for path, text in {**self.texts, **texts}.items()}

    def idle(self, texts: Mapping[str, str]) -> frozenset[str]:
        """Those of the files (path → text) of which the command runs no line, by one run for all of them.

        None are named where that run shows nothing: it failed, did not end, or was tampered with.
        """
        real = {path: os.path.realpath(path) for path in texts}
        hints = [[f"{real[path]}:{row}" for row in range(1, text.count("\n") + 2)] for path, text in texts.items()]
        old = self._with(texts)
        run = self._traces[_key(old)] = self._record(old, steps=self.steps, trace=True, hints=hints)
        if run.ended or run.replaced or not run.lines:
            return frozenset()
        reached = {line.rpartition(":")[0] for line in run.lines}
        return frozenset(path for path in texts if real[path] not in reached)

    def _original(self, old: Texts, files: Mapping[str, tuple[str, str]]) -> _Original:
        key, hints = _key(old), _hints(files)
        known = self._known.get(key)
        traced = known.traced if known is not None else self._traces.get(key)
        if traced is None or not self._shows(traced, hints):
            traced = self._record(old, steps=self.steps, trace=True, hints=hints)
        elif known is not None:
            return known
        # A program that came to its own end before it was stopped is always run to its end.
        steps = max(self.steps, traced.steps + (not traced.stopped))
        if known is None or known.steps != steps:
            plain = traced if _stillborn(traced) else self._record(old, steps=steps)
            known = _Original(traced, plain, steps)
        self._known[key] = replace(known, traced=traced)
        return self._known[key]

    @staticmethod
    def _shows(traced: Recorded, hints: Sequence[Sequence[str]]) -> bool:
        """Whether a run was long enough to have reached these lines, or went on as long as a run may."""
        reached = all(set(hint) & traced.lines for hint in hints)
        return reached or not traced.stopped or traced.steps >= MOST_STEPS

    def _record(
        self,
        texts: Texts,
        *,
        steps: int,
        nudge: int | None = None,
        trace: bool = False,
        hints: Sequence[Sequence[str]] = (),
    ) -> Recorded:
        for _ in range(_LAUNCHES):
            result = self._launch(texts, steps, nudge, trace, hints)
            if result.alone or not result.ended.endswith(ABORT_AT_EXIT):
                break
        return result

    def _launch(
        self, texts: Texts, steps: int, nudge: int | None, trace: bool, hints: Sequence[Sequence[str]]
    ) -> Recorded:
        key = os.urandom(32).hex()
        plan = {
            "mode": "record", "texts": texts, "keep": self.steps, "steps": steps, "seed": self.seed, "nudge": nudge,
            "trace": trace, "hints": hints, "most": max(steps, MOST_STEPS) if hints else steps,
            "seconds": SECONDS if hints else 0.0, "key": key,
        }  # fmt: skip
        result = Recorded()
        self.count += 1
        with scratch_directory() as out:
            output = os.path.join(out, "stdout")
            plan["out"] = out
            result.ended, result.enclosed = execute(self.command, plan, out, self.timeout, self.where, output)
            if not result.ended and not watched(out):
                result.ended = UNWATCHED
            paths = sorted(Path(out).glob("record-*"))
            found = [_read(str(path), key) for path in paths]
            if found:
                best = max(found, key=lambda one: (one.replaced is not None, one.steps, len(one.records)))
                result = replace(best, ended=result.ended, enclosed=result.enclosed)
                with open(output, encoding="utf-8", errors="replace") as text:
                    said = without_graphs(text.read())
                if not result.alone:  # whose line comes first is chance
                    said = "".join(sorted(said.splitlines(keepends=True)))
                end = Observation({"how it ended": result.ended, "stdout": said})
                result.records.append(end)
        return result


def differential(
    files: Mapping[str, tuple[str, str]],
    command: Sequence[str],
    *,
    steps: int = STEPS,
    seed: int = 0,
    timeout: float = 3600.0,
    cwd: str | None = None,
) -> Differential:
    """Judge all edits of `files` together by the first `steps` optimizer steps (more, if they come later)."""
    return Runs(command, steps=steps, seed=seed, timeout=timeout, cwd=cwd).judge(files)


def _key(texts: Texts) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(texts.items()))


def _growth(before: Recorded, after: Recorded) -> tuple[int, int] | None:
    """How much the process grows by with each step, where the original leaks and the fix makes a difference.

    A program still fills its caches in the first steps: without enough of them behind those nothing is said.
    """
    settled = [run.resident[max(2, len(run.resident) // 4) :] for run in (before, after)]
    if any(len(values) < _ENOUGH for values in settled):
        return None
    a, b = (slope(values) for values in settled)
    return (max(0, round(a)), max(0, round(b))) if a > _LEAK and not a / 2 < b < a * 2 else None


def _stillborn(run: Recorded) -> str | None:
    """Why a run of the original shows nothing: it did not end, or failed before the first step."""
    if run.ended.startswith("timeout"):
        return run.ended
    return f"crash in the original: {run.ended}" if run.ended and not run.steps else None


def _read(path: str, key: str) -> Recorded:
    """What one process of a run has written: records, and at last the rest; a killed one has no last part."""
    result = Recorded()
    try:
        for item in items(path, key):
            if isinstance(item, Observation):
                result.records.append(item)
                continue
            seen: dict[str, Any] = item
            result.replaced = seen["replaced"]
            result.steps, result.stopped, result.lines = seen["steps"], seen["stopped"], set(seen["lines"])
            result.deviations, result.scales, result.resident = seen["deviations"], seen["scales"], seen["resident"]
            result.late, result.early, result.alone = seen["late"], seen["early"], seen["alone"]
    except (Forged, KeyError, TypeError):
        result.replaced = "the record of a run was not written by torchlint, or was changed since"
    return result


def _runs(a: Recorded, b: Recorded, nudged: Sequence[Recorded]) -> list[Run]:
    """One comparison per step, and one of how the runs ended."""
    runs = []
    for i, (left, right) in enumerate(zip(a.records[:-1], b.records[:-1])):
        yardstick = Yardstick(tuple(n.records[i] for n in nudged if i < len(n.records)))
        runs.append(Run(f"step {i + 1}", compare(left, right, yardstick)))
    if len(a.records) != len(b.records):
        uneven = Comparison()
        uneven.differ("the run", "steps", a.steps, f"{b.steps} {b.ended}")
        return [*runs, Run("end", uneven)]
    if a.records and b.records:
        yardstick = Yardstick(tuple(n.records[-1] for n in nudged if len(n.records) == len(a.records)))
        runs.append(Run("end", compare(a.records[-1], b.records[-1], yardstick)))
    return runs


def _intended(first: Recorded, fixed: Recorded, executed: bool) -> BehaviourVerdict | None:
    """The verdict on a property that the original breaks and the fix keeps, if there is one."""
    if not fixed.deviations or fixed.ended:
        return None
    for before, after in zip(first.broken, fixed.broken):
        verdict = judge_property([before], [after], executed=executed)
        if before and not before.startswith("no ") and verdict.kind is Behaviour.INTENDED:
            return verdict
    return None


def _far(first: Recorded, fixed: Recorded, runs: Sequence[Run]) -> bool:
    """Whether the first step that differs at all differs by more than rounding can make of one step."""
    at = next(i for i, run in enumerate(runs) if run.comparison.level is Level.DIFFERENT)
    return at < min(first.steps, fixed.steps) and deviation(first.records[at], fixed.records[at]) >= FAR


def _curve(first: Recorded, fixed: Recorded, nudged: Sequence[Recorded]) -> tuple[Point, ...]:
    """Per step, how far the fixed run is from the original, and how far runs nudged by one ulp are."""
    points = []
    for i, (a, b) in enumerate(zip(first.records[: first.steps], fixed.records[: fixed.steps])):
        others = [deviation(a, n.records[i]) for n in nudged if i < n.steps]
        points.append(Point(i + 1, deviation(a, b), max(others, default=0.0)))
    return tuple(points)


def _executed(files: Mapping[str, tuple[str, str]], again: Recorded, fixed: Recorded) -> list[bool]:
    """For each edited statement whether it was executed."""
    reached = []
    for path, (before, after) in files.items():
        real = os.path.realpath(path)
        old, new = edited_lines(before, after)
        for text, edited, ran in ((before, old, again.lines), (after, new, fixed.lines)):
            for statement in evidence_lines(text, edited, module_level=True):
                reached.append(any(f"{real}:{line}" in ran for line in statement))
    return reached


def _hints(files: Mapping[str, tuple[str, str]]) -> list[list[str]]:
    """Lines of the texts before that show that the place of an edit was reached, as sets of "file:line"."""
    found = []
    for path, (before, after) in files.items():
        real = os.path.realpath(path)
        old, _ = edited_lines(before, after)
        a, b = before.splitlines(), after.splitlines()
        for tag, start, _end, _, _ in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
            if tag == "insert":
                old |= {line for line in (start, start + 1) if 1 <= line <= len(a)}
        for statement in evidence_lines(before, old, module_level=True):
            found.append([f"{real}:{line}" for line in sorted(statement)])
    return found
