"""One process against several: what a script for ranks learns, and why it learns something else where it does.

The original runs as one process with the full batch. The rewritten script runs alone, as a group of one and as a group
of two real gloo processes, and after every optimizer step the parameters are compared. Equal runs are equivalent. Where
two processes differ, a cause is named only on evidence: the run must show it (a dropout that was called, gradients that
are half as large, a batch of which ranks took more), taking it out of both sides must make them equal, and it alone
must bring the difference back. What no such cause explains is a fault of the rewrite.
"""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from torchlint.verify.rank_agent import BATCH_NORM, DROPOUT, SUMMED, Order, Step, Trace, run
from torchlint.verify.verdict import Behaviour, BehaviourVerdict, CaseVerdict, Evidence

RAGGED = "ragged batch"
TOLERANCE = 1e-6  # of the largest parameter: two processes add the same numbers in another order
_SECONDS = 120.0
_WORLD = 2

_WHY = {
    DROPOUT: "every process draws masks of its own",
    BATCH_NORM: "every process normalises by the statistics of its own share",
    SUMMED: "gradients are averaged over processes, and a sum over a share is no mean",
    RAGGED: "a batch that does not divide is filled up with samples that count twice",
}


@dataclass(frozen=True, kw_only=True)
class RankCase:
    """A whole script that trains. `causes`: what must be found to make two processes differ, nothing if they must not.

    `wrong_fix(rewritten script)` returns a bad variant of the rewrite, whose difference must stay unexplained.
    """

    name: str
    script: str
    causes: tuple[str, ...] = ()
    wrong_fix: Callable[[str], str] | None = None


@dataclass(frozen=True)
class Cause:
    """Why ranks differ from one process: what was seen, and what happened without it."""

    name: str
    seen: str

    def __str__(self) -> str:
        return f"{self.name}: {self.seen}; {_WHY[self.name]}"


class RanksFailed(RuntimeError):
    """A run ended with an error; the message says which and how."""


def verify_ranks(cases: Sequence[RankCase], rewrite: Callable[[str], str]) -> list[CaseVerdict]:
    """A verdict for each script, compared with what `rewrite` makes of it."""
    verdicts = []
    for case in cases:
        started = time.monotonic()
        text = rewrite(case.script)
        behaviour, causes, steps = compare(case.script, text)
        failures = [] if behaviour.proven else [str(behaviour)]
        found = tuple(cause.name for cause in causes)
        if behaviour.proven and set(found) != set(case.causes):
            failures.append(f"expected {_listed(case.causes)} to make processes differ, found {_listed(found)}")
        wrong = None
        if case.wrong_fix is not None:
            wrong, _, _ = compare(case.script, case.wrong_fix(text))
            if case.wrong_fix(text) == text:
                failures.append("the wrong fix changes nothing")
            elif wrong.kind is not Behaviour.DIFFERENT:
                failures.append(f"the wrong fix is not refused: {wrong}")
        evidence = Evidence(
            calls=4,
            steps=steps,
            device="cpu, gloo, 1 and 2 processes",
            sandbox="scratch folder; processes meet on 127.0.0.1",
        )
        verdict = CaseVerdict(case.name, behaviour, wrong_fix=wrong, evidence=evidence, failures=tuple(failures))
        verdicts.append(replace(verdict, seconds=round(time.monotonic() - started, 2), notes=tuple(map(str, causes))))
    return verdicts


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def compare(before: str, after: str) -> tuple[BehaviourVerdict, tuple[Cause, ...], int]:
    """The verdict on a script and its rewrite for ranks, the causes of a difference, the steps that were compared."""
    with tempfile.TemporaryDirectory() as scratch:
        runs = _Runs(before, after, Path(scratch))
        try:
            return _judged(runs)
        except RanksFailed as failure:
            return BehaviourVerdict(Behaviour.DIFFERENT, str(failure)), (), 0


def _judged(runs: _Runs) -> tuple[BehaviourVerdict, tuple[Cause, ...], int]:
    original = runs.original()
    count = len(original.steps)
    if not count:
        return BehaviourVerdict(Behaviour.NOT_VERIFIABLE, "no optimizer step was made"), (), 0
    for name, ranks in (("alone", runs.rewritten(0)), ("a group of one", runs.rewritten(1))):
        gap, step = distance(original.steps, ranks[0].steps)
        if gap:
            return BehaviourVerdict(Behaviour.DIFFERENT, f"{name}: step {step}: {_far(gap)}"), (), count
    ranks = runs.rewritten(_WORLD)
    apart, _ = max(distance(ranks[0].steps, other.steps) for other in ranks[1:])
    if apart > TOLERANCE:
        return (
            BehaviourVerdict(Behaviour.DIFFERENT, f"the processes end with different parameters: {_far(apart)}"),
            (),
            count,
        )
    gap, step = distance(original.steps, ranks[0].steps)
    if gap <= TOLERANCE:
        exact = "bitwise" if not gap else f"{gap:.1g} of the largest parameter"
        return BehaviourVerdict(Behaviour.TOLERANCE, f"{_WORLD} processes after {count} steps: {exact}"), (), count
    causes = _causes(runs, original, ranks)
    if causes is None:
        detail = f"{_WORLD} processes: step {step}: {_far(gap)}, and nothing that the script does explains it"
        return BehaviourVerdict(Behaviour.DIFFERENT, detail), (), count
    detail = f"{_WORLD} processes differ by {gap:.1g} by design; {'; '.join(map(str, causes))}"
    return BehaviourVerdict(Behaviour.INTENDED, detail), causes, count


def distance(one: Sequence[Step], other: Sequence[Step]) -> tuple[float, int]:
    """How far parameters are apart at most, relative to the largest, and the first step where that is too far."""
    if len(one) != len(other):
        return float("inf"), min(len(one), len(other))
    worst, first = 0.0, len(one)
    for i, (a, b) in enumerate(zip(one, other)):
        if a.parameters.shape != b.parameters.shape:
            return float("inf"), i
        scale = max(a.parameters.abs().max().item(), 1e-12)
        gap = (a.parameters - b.parameters).abs().max().item() / scale
        if gap != gap:  # NaN on one side only; on both it would be no difference
            gap = 0.0 if torch.equal(a.parameters.isnan(), b.parameters.isnan()) else float("inf")
        worst = max(worst, gap)
        if gap > TOLERANCE:
            first = min(first, i)
    return worst, first


def _far(gap: float) -> str:
    return "another number of steps or parameters" if gap == float("inf") else f"parameters are {gap:.1g} apart"


# -- why --------------------------------------------------------------------------------------------------------------


def _causes(runs: _Runs, original: Trace, ranks: Sequence[Trace]) -> tuple[Cause, ...] | None:
    """The causes that explain the whole difference, or None."""
    suspects = {name: seen for trace in (original, *ranks) for name, seen in trace.seen.items() if name != SUMMED}
    ratio = _gradient_ratio(original, ranks)
    if ratio is not None and abs(ratio - _WORLD) < 0.01:
        called = original.seen.get(SUMMED, "a loss that sums")
        suspects[SUMMED] = f"{called}, gradients alone are {ratio:.3g} times those of {_WORLD} processes"
    ragged = _ragged(original, ranks)
    if ragged is not None and ragged[1] is None:
        return None  # ranks take other batches than one process, which no script can mean
    names = frozenset(suspects)
    end = ragged[0] if ragged is not None else len(original.steps)
    gap, _ = runs.distance(names, end)
    if gap > TOLERANCE:
        return None
    found = [Cause(name, suspects[name]) for name in sorted(names) if _alone_differs(runs, names, name, end)]
    if ragged is not None and ragged[1] is not None and runs.distance(names, None)[0] > TOLERANCE:
        found.append(Cause(RAGGED, ragged[1]))
    return tuple(found) or None


def _alone_differs(runs: _Runs, names: frozenset[str], name: str, end: int) -> bool:
    """Whether a cause makes a difference by itself, all others taken out."""
    return runs.distance(names - {name}, end)[0] > TOLERANCE


def _gradient_ratio(original: Trace, ranks: Sequence[Trace]) -> float | None:
    """How much larger the first gradient of one process is, if it is the same in all else."""
    a, b = original.steps[0].gradient, ranks[0].steps[0].gradient
    if a.shape != b.shape or not b.norm():
        return None
    ratio = (a @ b / (b @ b)).item()
    return ratio if (a - ratio * b).norm() < 1e-3 * a.norm() else None


def _ragged(original: Trace, ranks: Sequence[Trace]) -> tuple[int, str | None] | None:
    """The first step in which ranks together take other samples than one process, and how it came to be.

    None: all steps take the same. A step without explanation is no padding of a last batch: full batches must be
    shared exactly, and a smaller one is filled up by fewer samples than there are ranks.
    """
    full = max(step.samples for step in original.steps)
    for i, step in enumerate(original.steps):
        shares = [trace.steps[i].samples for trace in ranks]
        if sum(shares) == step.samples and len(set(shares)) == 1:
            continue
        padded = sum(shares) - step.samples
        if step.samples < full and 0 <= padded < len(ranks):
            return i, f"step {i} takes {step.samples} samples alone and {' + '.join(map(str, shares))} over processes"
        return i, None
    return None


# -- running ----------------------------------------------------------------------------------------------------------


class _Runs:
    """The runs of a script and its rewrite; each is made once."""

    def __init__(self, before: str, after: str, scratch: Path) -> None:
        self.scratch = scratch
        self.scripts = {"before": before, "after": after}
        self._made: dict[tuple[str, int, frozenset[str]], list[Trace]] = {}

    def original(self, without: frozenset[str] = frozenset()) -> Trace:
        return self._traces("before", 0, without)[0]

    def rewritten(self, world: int, without: frozenset[str] = frozenset()) -> list[Trace]:
        return self._traces("after", world, without)

    def distance(self, without: frozenset[str], end: int | None) -> tuple[float, int]:
        """How far one process and two are apart with some causes taken out, up to a step."""
        one, two = self.original(without), self.rewritten(_WORLD, without)[0]
        return distance(one.steps[:end], two.steps[:end])

    def _traces(self, side: str, world: int, without: frozenset[str]) -> list[Trace]:
        key = (side, world, without)
        if key not in self._made:
            folder = self.scratch / f"{side}-{world}-{'-'.join(sorted(without)) or 'whole'}".replace(" ", "")
            self._made[key] = launch(self.scripts[side], folder, world, without)
        return self._made[key]


def launch(script: str, folder: Path, world: int, without: frozenset[str] = frozenset()) -> list[Trace]:
    """The traces of a script's ranks (of one process that nobody launched, if `world` is 0). Raises RanksFailed."""
    port = _free_port()
    context = multiprocessing.get_context("fork")
    folder.mkdir()
    path = folder / "train.py"
    path.write_text(script, encoding="utf-8")
    started = []
    for rank in range(max(world, 1)):
        place = folder / f"rank{rank}"
        place.mkdir()
        process = context.Process(target=run, args=(Order(path, place, world, rank, port, without),))
        process.start()
        started.append((process, place))
    end = time.monotonic() + _SECONDS
    try:
        for process, _ in started:
            process.join(max(0.0, end - time.monotonic()))
    finally:
        for process, _ in started:
            if process.is_alive():
                process.kill()
                process.join()
    return list(_read([place for _, place in started], world))


def _read(places: Sequence[Path], world: int) -> Iterator[Trace]:
    who = f"{world} processes" if world else "one process"
    for rank, place in enumerate(places):
        file = place / "trace.pt"
        if not file.is_file():
            raise RanksFailed(f"{who}: rank {rank} did not end within {_SECONDS:.0f} s, or crashed")
        steps, seen, error = torch.load(file, weights_only=False)
        if error:
            raise RanksFailed(f"{who}: rank {rank} ends with {error}")
        yield Trace(steps, seen)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
