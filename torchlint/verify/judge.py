"""From measurements to verdicts. Pure functions: no clock, no torch, no rule; thresholds stand here and in `stats`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchlint.verify.compare import ENVELOPE_FACTOR, Comparison, Level
from torchlint.verify.stats import THRESHOLD, Ratio
from torchlint.verify.verdict import (
    Behaviour,
    BehaviourVerdict,
    CostVerdict,
    Difference,
    MemoryVerdict,
    Speed,
    Trend,
)

MEMORY_THRESHOLD = 1.02  # bytes are exact; a smaller change is an artefact of the warm-up


_GRAPH = ("requires_grad", "inference")  # kinds of difference by which a result is the same number without its graph


@dataclass(frozen=True, slots=True)
class Run:
    """One comparison of the original and the fix on the same inputs. `label` says which (`n=7 seed=0`, `NaN`)."""

    label: str
    comparison: Comparison
    original_raised: str | None = None
    finite: bool = True  # whether the inputs held neither NaN nor inf
    deliberate: bool = False  # whether the original raised by a `raise` or `assert` of its own


def lost_graph(differences: Sequence[Difference]) -> bool:
    """Whether results are the same numbers without their graph, and all else follows from it."""
    rest = [d for d in differences if not _of_graph(d)]
    return len(rest) < len(differences) and all(d.where.startswith("backward.") for d in rest)


def _of_graph(difference: Difference) -> bool:
    return difference.kind in _GRAPH


def judge_behaviour(
    runs: Sequence[Run],
    variants: Sequence[Run] = (),
    *,
    self_check: Comparison | None = None,
    executed: bool | None = True,
    unable: str | None = None,
) -> BehaviourVerdict:
    """The verdict on equivalence. `unable` is a reason why nothing could be told at all."""
    if unable:
        return BehaviourVerdict(Behaviour.NOT_VERIFIABLE, unable)
    if self_check is not None and self_check.level is not Level.BITWISE:
        where = str(self_check.differences[0].where) if self_check.differences else "unknown"
        return BehaviourVerdict(Behaviour.NOT_VERIFIABLE, f"nondeterministic original: {where}")
    if not runs:
        return BehaviourVerdict(Behaviour.NOT_VERIFIABLE, "no call observed")
    if all(run.original_raised for run in runs):
        return BehaviourVerdict(Behaviour.NOT_VERIFIABLE, f"crash in the original: {runs[0].original_raised}")
    for run in runs:
        if run.comparison.level is Level.DIFFERENT:
            found = run.comparison.differences
            # What is more than the presence of a graph tells more, wherever it stands.
            first = found[0] if lost_graph(found) else next((d for d in found if not _of_graph(d)), found[0])
            return BehaviourVerdict(
                Behaviour.DIFFERENT, f"{run.label}: {first}", differences=tuple(run.comparison.differences)
            )
    if not executed:
        return BehaviourVerdict(Behaviour.NOT_VERIFIABLE, "edited line never executed")
    broken = [run for run in variants if run.comparison.level is Level.DIFFERENT]
    if broken:
        plausible = tuple(run.label for run in broken if not _excuse(run))
        details = [run.label + _excuse(run) for run in broken]
        first_differences = tuple(run.comparison.differences[0] for run in broken)
        return BehaviourVerdict(Behaviour.EXCEPT, ", ".join(details), plausible, first_differences)
    level = max(run.comparison.level for run in (*runs, *variants))
    if level is Level.BITWISE:
        return BehaviourVerdict(Behaviour.BITWISE)
    ratio = max(run.comparison.worst_ratio for run in (*runs, *variants))
    if level is Level.ENVELOPE:
        return BehaviourVerdict(Behaviour.TOLERANCE, f"envelope: {ratio:.2g} of {ENVELOPE_FACTOR:g} allowed")
    return BehaviourVerdict(Behaviour.TOLERANCE, "fp64-closer")


def _excuse(run: Run) -> str:
    """Why a difference is none that a running program can meet: the original gives no usable result there."""
    if run.original_raised:
        return "" if run.deliberate else " where the original raises"  # a check that is there to be met
    if run.finite and all(difference.kind == "overflow" for difference in run.comparison.differences):
        return " where the original overflows"
    return ""


def judge_property(before: Sequence[str | None], after: Sequence[str | None], *, executed: bool) -> BehaviourVerdict:
    """The verdict on an intended change: broken in every run before, whole in every run after."""
    if not before or not after:
        return BehaviourVerdict(Behaviour.NOT_VERIFIABLE, "the property was never checked")
    still = next((text for text in after if text is not None), None)
    if still is not None:
        return BehaviourVerdict(Behaviour.DIFFERENT, f"the property does not hold after the fix: {still}")
    broken = [text for text in before if text is not None]
    if len(broken) < len(before):
        return BehaviourVerdict(
            Behaviour.NOT_VERIFIABLE, f"the property already holds before, in {len(before) - len(broken)} runs"
        )
    if not executed:
        return BehaviourVerdict(Behaviour.NOT_VERIFIABLE, "edited line never executed")
    return BehaviourVerdict(Behaviour.INTENDED, f"before: {broken[0]}")


def judge_speed(ratio: Ratio | None, control: Ratio | None, *, gpu_only: bool = False) -> CostVerdict:
    """The verdict on time. Where the original differs from itself as much as a claim needs, nothing is claimed."""
    if gpu_only:
        return CostVerdict(Speed.GPU_ONLY, detail="not measured here")
    if ratio is None or control is None:
        return CostVerdict(Speed.INCONCLUSIVE, detail="too few rounds in the time allowed")
    numbers = (ratio.value, ratio.low, ratio.high)
    # An effect must clear the threshold and the noise that the control shows in the same rounds.
    least = max(THRESHOLD, control.value, 1 / control.value)
    if control.noisy and not (ratio.low > least**2 or ratio.high < 1 / least**2):
        return CostVerdict(Speed.INCONCLUSIVE, *numbers, f"noise: the original against itself is ×{control.value:.2f}")
    if ratio.claims:
        return CostVerdict(Speed.FASTER if ratio.value > 1 else Speed.SLOWER, *numbers)
    if ratio.low > 1 / THRESHOLD and ratio.high < THRESHOLD:
        return CostVerdict(Speed.SAME, *numbers)
    return CostVerdict(Speed.INCONCLUSIVE, *numbers, "noise: the interval is too wide")


def judge_memory(peak: tuple[int, int], saved: tuple[int, int]) -> MemoryVerdict:
    """Peak of live tensor bytes first; with equal peaks, what autograd saves for backward."""
    for before, after in (peak, saved):
        if after * MEMORY_THRESHOLD < before:
            return MemoryVerdict(Trend.SAVES, peak, saved)
        if before * MEMORY_THRESHOLD < after:
            return MemoryVerdict(Trend.COSTS, peak, saved)
    return MemoryVerdict(Trend.SAME, peak, saved)


_GPU_COUNTERS = ("syncs", "host→device copies", "device→host copies", "blocking copies", "device ops", "caches emptied")


def unkept_claim(
    claim: str | None,
    speed: CostVerdict,
    memory: MemoryVerdict,
    remapped: Mapping[str, tuple[int, int]],
) -> str | None:
    """What the fix claims of its cost and did not show; None where it did."""
    if claim == "time" and speed.kind is not Speed.FASTER:
        return f"claims time, measured: {speed}"
    if claim == "memory" and memory.kind is not Trend.SAVES:
        return f"claims memory, measured: {memory}"
    if claim == "gpu":
        pairs = {name: remapped.get(name, (0, 0)) for name in _GPU_COUNTERS}
        if not any(after < before for before, after in pairs.values()):
            shown = ", ".join(f"{name} {before}→{after}" for name, (before, after) in pairs.items())
            return f"claims a GPU effect, counted: {shown}"
    return None
