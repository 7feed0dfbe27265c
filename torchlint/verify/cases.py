"""Tier 1: runs the cases of one fixture folder. Each case runs in a confined child of its own, with a time limit."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch

from torchlint.verify.case import Case
from torchlint.verify.judge import (
    Run,
    judge_behaviour,
    judge_memory,
    judge_property,
    judge_speed,
    unkept_claim,
)
from torchlint.verify.lines import edited_lines, evidence_lines, traced
from torchlint.verify.measure import Runnable, footprint, quiet, time_pairs
from torchlint.verify.remap import remapped
from torchlint.verify.sandbox import Isolation, memory_budget, run_forked
from torchlint.verify.surroundings import seed_all
from torchlint.verify.trial import Program, Trial
from torchlint.verify.verdict import (
    Behaviour,
    BehaviourVerdict,
    CaseVerdict,
    CostVerdict,
    Evidence,
    MemoryVerdict,
    Speed,
    Trend,
)

SEEDS = (0, 1, 2)


def load_cases(folder: Path) -> list[Case]:
    """The CASES of a fixture's run.py. Raises ValueError where there are none."""
    cases = getattr(run_module(folder), "CASES", None)
    if not cases:
        raise ValueError(f"{folder / 'run.py'} has no CASES")
    return list(cases)


def run_module(folder: Path) -> ModuleType:
    """A fixture's run.py, loaded. Raises ValueError where it cannot be."""
    path = folder / "run.py"
    spec = importlib.util.spec_from_file_location(f"torchlint_fixture_{folder.name}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be loaded")
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def verify_rule(
    before: str,
    after: str,
    cases: Sequence[Case],
    *,
    device: str = "cpu",
    sizes: Sequence[int] | None = None,
    seeds: Sequence[int] = SEEDS,
) -> list[CaseVerdict]:
    """Prove (or refuse) the change from `before` to `after` by each case. Never raises for what the code does."""
    verdicts = []
    for case in cases:
        started = time.monotonic()
        chosen = tuple(sizes or case.sizes)
        outcome = run_forked(
            lambda isolation, case=case, chosen=chosen: _Verification(  # type: ignore[misc]
                before, after, case, device, chosen, tuple(seeds), isolation
            ).verdict(),
            seconds=case.timeout,
            memory=None if device.startswith("cuda") else memory_budget(),
        )
        if outcome.reason is not None:
            unable = judge_behaviour([], unable=outcome.reason)
            verdict = CaseVerdict(case.name, unable, evidence=Evidence(device=device), failures=(str(unable),))
        else:
            verdict = outcome.value
        verdicts.append(replace(verdict, seconds=round(time.monotonic() - started, 2)))
    return verdicts


class _Verification:
    """The work of the child: all runs of one case."""

    def __init__(
        self, before: str, after: str, case: Case, device: str,
        sizes: tuple[int, ...], seeds: tuple[int, ...], isolation: Isolation,
    ) -> None:  # fmt: skip
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        self.case, self.device, self.sizes, self.seeds = case, device, sizes, seeds
        self.before, self.after = before, after
        self.isolation = isolation
        self.calls = 0
        self.notes: list[str] = []

    def verdict(self) -> CaseVerdict:
        case = self.case
        try:
            original = self._program(self.before, "before")
        except BaseException as error:
            return self._unable(f"crash in the original: {type(error).__name__}: {error}")
        try:
            trial = self._trial(original, self._program(self.after, "after"))
        except BaseException as error:
            return self._refuse(f"the fixed module does not load: {type(error).__name__}: {error}")
        edited, executed = self._coverage(trial)
        if not edited:
            return self._unable("the fix changes nothing")
        behaviour, variants = self._behaviour(trial, executed=bool(executed))
        speed: dict[int, CostVerdict] = {}
        memory = MemoryVerdict(Trend.NOT_MEASURED)
        counters: dict[str, tuple[int, int]] = {}
        if behaviour.proven:
            memory, counters = self._footprints(trial)
            speed = self._speeds(trial)
        remap_counters = self._remapped() if case.cost == "gpu" and behaviour.proven else {}
        wrong, complaint = self._wrong_fix(original)
        failures = [] if behaviour.proven else [str(behaviour)]
        if complaint:
            failures.append(complaint)
        if behaviour.proven:
            last = speed[max(speed)] if speed else CostVerdict(Speed.NOT_MEASURED)
            unkept = unkept_claim(case.cost, last, memory, remap_counters)
            if unkept:
                failures.append(unkept)
        return CaseVerdict(
            case.name, behaviour, speed, memory, {**counters, **remap_counters}, wrong,
            self._evidence(edited, executed, variants), tuple(failures), notes=tuple(self.notes),
        )  # fmt: skip

    # -- pieces -------------------------------------------------------------------------------------------------------

    def _program(self, text: str, side: str) -> Program:
        with quiet():
            return Program(text, self.case.entry, name="bad", path="bad.py", side=side)

    def _trial(self, before: Program, after: Program) -> Trial:
        return Trial(before, after, self.case.make_inputs, self.device, self.case.backward)

    def _unable(self, reason: str) -> CaseVerdict:
        verdict = judge_behaviour([], unable=reason)
        return CaseVerdict(self.case.name, verdict, evidence=self._evidence(0, 0, ()), failures=(str(verdict),))

    def _refuse(self, reason: str) -> CaseVerdict:
        verdict = BehaviourVerdict(Behaviour.DIFFERENT, reason)
        return CaseVerdict(self.case.name, verdict, evidence=self._evidence(0, 0, ()), failures=(str(verdict),))

    def _evidence(self, edited: int, executed: int, variants: tuple[str, ...]) -> Evidence:
        return Evidence(
            calls=self.calls, sizes=self.sizes, seeds=self.seeds, variants=variants, threads=1, device=self.device,
            edited_lines=edited, executed_lines=executed, sandbox=str(self.isolation),
        )  # fmt: skip

    def _coverage(self, trial: Trial) -> tuple[int, int]:
        """How many edited statements there are on both sides, and how many of them a call executes."""
        old, new = edited_lines(self.before, self.after)
        total = ran = 0
        for program, text, lines in ((trial.before, self.before, old), (trial.after, self.after, new)):
            wanted = evidence_lines(text, lines)
            with traced(program.filename) as executed:
                trial.observe(program, trial.maker(self.seeds[0], self.sizes[0]), self.seeds[0])
            total += len(wanted)
            ran += sum(1 for statement in wanted if statement & executed)
            self.calls += 1
        return total, ran

    def _behaviour(self, trial: Trial, *, executed: bool) -> tuple[BehaviourVerdict, tuple[str, ...]]:
        if self.case.property is not None:
            before, after = self._properties(trial.before), self._properties(trial.after)
            return judge_property(before, after, executed=executed), ()
        check = trial.self_check(trial.maker(self.seeds[0], self.sizes[0]), self.seeds[0])
        runs = list(self._runs(trial))
        boundary = list(trial.boundary_runs(self.sizes[0], self.seeds[0])) if self.case.boundary else []
        self.calls += 2 + 2 * len(runs) + 2 * len(boundary)
        for run in (*runs, *boundary):
            self.notes.extend(f"{run.label}: {note}" for note in run.comparison.notes)
        verdict = judge_behaviour(runs, boundary, self_check=check, executed=executed)
        return verdict, tuple(run.label for run in boundary)

    def _runs(self, trial: Trial) -> Iterator[Run]:
        for size in self.sizes:
            for seed in self.seeds:
                yield trial.run(f"n={size} seed={seed}", trial.maker(seed, size), seed)

    def _properties(self, program: Program) -> list[str | None]:
        check = self.case.property
        assert check is not None
        results: list[str | None] = []
        for size in self.sizes:
            for seed in self.seeds:
                seed_all(seed)
                inputs = self.case.make_inputs(seed, self.device, size)
                seed_all(seed + 1000)
                self.calls += 1
                with quiet():
                    try:
                        results.append(check(program.entry, inputs))
                    except Exception as error:
                        results.append(f"raises {type(error).__name__}: {error}")
        return results

    def _footprints(self, trial: Trial) -> tuple[MemoryVerdict, dict[str, tuple[int, int]]]:
        make = trial.maker(self.seeds[0], max(self.sizes))
        a, b = (footprint(Runnable(program.entry, make, True)) for program in (trial.before, trial.after))
        self.calls += 4
        if a.raised or b.raised:
            # A call that raises half-way saves nothing; some properties call the entry in a world of their own making.
            self.notes.append(f"memory and counters not measured: {'after' if b.raised else 'before'} the fix the call "
                              f"raises {b.raised or a.raised}")  # fmt: skip
            return MemoryVerdict(Trend.NOT_MEASURED), {}
        counters = {name: (count, b.counters[name]) for name, count in a.counters.items()}
        return judge_memory((a.peak, b.peak), (a.saved, b.saved)), counters

    def _speeds(self, trial: Trial) -> dict[int, CostVerdict]:
        if self.case.cost == "gpu" and not self.device.startswith("cuda"):
            return {max(self.sizes): judge_speed(None, None, gpu_only=True)}
        if self.case.cost is None or (self.case.property is not None and self.case.cost != "time"):
            return {}
        speeds = {}
        budget = self.case.timeout / (3 * len(self.sizes))
        for size in self.sizes:
            make = trial.maker(self.seeds[0], size)
            fresh = trial.consumes(make)
            # Separate namespaces: neither variant may profit from what another one has cached.
            programs = [self._program(text, "timed") for text in (self.before, self.after, self.before)]
            runnables = [Runnable(program.entry, make, fresh) for program in programs]
            timing = time_pairs(*runnables, device=self.device, budget=budget)
            speeds[size] = judge_speed(timing.ratio, timing.control) if timing else judge_speed(None, None)
        return speeds

    def _remapped(self) -> dict[str, tuple[int, int]]:
        """Transfers and syncs of the code as written for a GPU, counted on the CPU."""
        sides = []
        for text in (self.before, self.after):
            with remapped() as mode, quiet():
                program = self._program(text, "remapped")
                seed_all(self.seeds[0])
                inputs = self.case.make_inputs(self.seeds[0], "cuda", max(self.sizes))
                mode.counters.clear()
                seed_all(self.seeds[0] + 1000)
                try:
                    program.entry(**inputs)
                except Exception as error:
                    self.notes.append(f"remapped to the CPU: raises {type(error).__name__}: {error}")
                sides.append(dict(mode.counters))
        names = sorted(set(sides[0]) | set(sides[1]))
        return {name: (sides[0].get(name, 0), sides[1].get(name, 0)) for name in names}

    def _wrong_fix(self, original: Program) -> tuple[BehaviourVerdict | None, str | None]:
        """The verdict on the planted bad rewrite, and a complaint unless it was refused for what it does."""
        text = self.case.wrong_fix(self.before)
        if text == self.before:
            return None, "the wrong fix changes nothing"
        try:
            trial = self._trial(original, self._program(text, "wrong"))
        except BaseException as error:
            return None, f"the wrong fix does not load: {type(error).__name__}: {error}"
        if self.case.property is not None:
            verdict = judge_property(self._properties(original), self._properties(trial.after), executed=True)
        else:
            runs = []
            for run in self._runs(trial):
                runs.append(run)
                if run.comparison.differences:
                    break
            boundary = []
            if not runs[-1].comparison.differences and self.case.boundary:
                boundary = list(trial.boundary_runs(self.sizes[0], self.seeds[0]))
            verdict = judge_behaviour(runs, boundary)
        self.calls += 2
        refused = verdict.kind in (Behaviour.DIFFERENT, Behaviour.EXCEPT) and not verdict.proven
        return verdict, None if refused else f"the wrong fix passes: {verdict}"


def resolve_device(wanted: str) -> str:
    """`auto` is cuda where there is one. Asked in a child, because CUDA must not be initialised before a fork."""
    if wanted != "auto":
        return wanted
    with contextlib.suppress(OSError):
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    outcome = run_forked(lambda _: torch.cuda.is_available(), seconds=60, confined=False)
    return "cuda" if outcome.value else "cpu"
