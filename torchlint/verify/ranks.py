"""One process against several: what a script for ranks learns, and why it learns something else where it does.

The original runs as one process with the full batch. The rewritten script runs alone, as a group of one and as a group
of two real gloo processes, and after every optimizer step the parameters are compared. Equal runs are equivalent. Where
two processes differ, a cause is named only on evidence: the run must show it (a dropout that was called, gradients that
are half as large, a batch of which ranks took more), taking it out of both sides must make them equal, and it alone
must bring the difference back. What no such cause explains is a fault of the rewrite.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from torchlint.verify.channel import Forged, unsealed
from torchlint.verify.rank_agent import BATCH_NORM, DROPOUT, SUMMED, Order, Step, Trace, run
from torchlint.verify.sandbox import adopt_orphans, confine, end_children, memory_budget
from torchlint.verify.verdict import Behaviour, BehaviourVerdict, CaseVerdict, Evidence

RAGGED = "ragged batch"
TOLERANCE = 1e-6  # of the largest parameter: two processes add the same numbers in another order
_SECONDS = 120.0
_WORLD = 2
_ISOLATION = "isolation"

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


@dataclass(frozen=True)
class Compared:
    """The verdict on a script and its rewrite, why ranks differ if they do, and what was run to know it."""

    behaviour: BehaviourVerdict
    causes: tuple[Cause, ...] = ()
    steps: int = 0
    launches: int = 0
    sandbox: str = ""


class RanksFailed(RuntimeError):
    """A run ended with an error; the message says which and how."""


def verify_ranks(cases: Sequence[RankCase], rewrite: Callable[[str], str]) -> list[CaseVerdict]:
    """A verdict for each script, compared with what `rewrite` makes of it."""
    verdicts = []
    for case in cases:
        started = time.monotonic()
        text = rewrite(case.script)
        result = compare(case.script, text)
        behaviour = result.behaviour
        failures = [] if behaviour.proven else [str(behaviour)]
        found = tuple(cause.name for cause in result.causes)
        if behaviour.proven and set(found) != set(case.causes):
            failures.append(f"expected {_listed(case.causes)} to make processes differ, found {_listed(found)}")
        wrong = None
        if case.wrong_fix is not None:
            wrong = compare(case.script, case.wrong_fix(text)).behaviour
            if case.wrong_fix(text) == text:
                failures.append("the wrong fix changes nothing")
            elif wrong.kind is not Behaviour.DIFFERENT:
                failures.append(f"the wrong fix is not refused: {wrong}")
        evidence = Evidence(
            calls=result.launches,
            steps=result.steps,
            device="cpu, gloo, 1 and 2 processes",
            sandbox=result.sandbox,
        )
        verdict = CaseVerdict(case.name, behaviour, wrong_fix=wrong, evidence=evidence, failures=tuple(failures))
        verdicts.append(
            replace(verdict, seconds=round(time.monotonic() - started, 2), notes=tuple(map(str, result.causes)))
        )
    return verdicts


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def compare(before: str, after: str) -> Compared:
    """A script as one process against its rewrite alone, as a group of one and as a group of two."""
    with tempfile.TemporaryDirectory() as scratch:
        runs = _Runs(before, after, Path(scratch))
        try:
            runs.original()
        except RanksFailed as failure:
            unable = BehaviourVerdict(Behaviour.NOT_VERIFIABLE, f"crash in the original: {failure}")
            return Compared(unable, launches=runs.launches, sandbox=runs.sandbox)
        try:
            behaviour, causes = _judged(runs)
            steps = len(runs.original().steps)
        except RanksFailed as failure:
            behaviour, causes, steps = BehaviourVerdict(Behaviour.DIFFERENT, str(failure)), (), 0
        return Compared(behaviour, causes, steps, runs.launches, runs.sandbox)


def _judged(runs: _Runs) -> tuple[BehaviourVerdict, tuple[Cause, ...]]:
    original = runs.original()
    if not original.steps:
        return BehaviourVerdict(Behaviour.NOT_VERIFIABLE, "no optimizer step was made"), ()
    for name, world in (("alone", 0), ("a group of one", 1)):
        gap, step = distance(original.steps, runs.rewritten(world)[0].steps)
        if gap:
            return BehaviourVerdict(Behaviour.DIFFERENT, f"{name}: step {step}: {_far(gap)}"), ()
    ranks = runs.rewritten(_WORLD)
    apart, _ = max(distance(ranks[0].steps, other.steps) for other in ranks[1:])
    if apart > TOLERANCE:
        detail = f"the processes end with different parameters: {_far(apart)}"
        return BehaviourVerdict(Behaviour.DIFFERENT, detail), ()
    if len(ranks[0].steps) == len(original.steps):
        unshared = _ragged(original, ranks)
        if unshared is not None and not unshared.padding:
            return BehaviourVerdict(Behaviour.DIFFERENT, f"ranks do not share the batches: {unshared}"), ()
    gap, step = distance(original.steps, ranks[0].steps)
    if gap <= TOLERANCE:
        exact = f"parameters are {gap:.1g} apart" if gap else "bitwise"
        return BehaviourVerdict(Behaviour.TOLERANCE, f"{_WORLD} processes, {len(original.steps)} steps: {exact}"), ()
    causes = _causes(runs, original, ranks) if len(ranks[0].steps) == len(original.steps) else None
    if causes is None:
        detail = f"{_WORLD} processes: step {step}: {_far(gap)}, and nothing that the script does explains it"
        return BehaviourVerdict(Behaviour.DIFFERENT, detail), ()
    detail = f"{_WORLD} processes differ by {gap:.1g} by design; {'; '.join(map(str, causes))}"
    return BehaviourVerdict(Behaviour.INTENDED, detail), causes


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
    # The size of gradients shows only where all else that changes them is taken out.
    rest = frozenset(suspects)
    ratio = _gradient_ratio(runs.original(rest), runs.rewritten(_WORLD, rest))
    if ratio is not None and abs(ratio - _WORLD) < 0.01:
        called = original.seen.get(SUMMED, "a loss that sums")
        suspects[SUMMED] = f"{called}, gradients alone are {ratio:.3g} times those of {_WORLD} processes"
    ragged = _ragged(original, ranks)
    names = frozenset(suspects)
    end = ragged.step if ragged is not None else len(original.steps)
    gap, _ = runs.distance(names, end)
    if gap > TOLERANCE:
        return None
    found = [Cause(name, suspects[name]) for name in sorted(names) if _alone_differs(runs, names, name, end)]
    if ragged is not None and runs.distance(names, None)[0] > TOLERANCE:
        found.append(Cause(RAGGED, str(ragged)))
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


@dataclass(frozen=True)
class _Uneven:
    """A step in which ranks together take other samples than one process."""

    step: int
    samples: int
    shares: tuple[int, ...]
    padding: bool  # a last batch that was filled up, and not a full one that ranks do not share

    def __str__(self) -> str:
        shares = " + ".join(map(str, self.shares))
        return f"step {self.step} takes {self.samples} samples alone and {shares} over processes"


def _ragged(original: Trace, ranks: Sequence[Trace]) -> _Uneven | None:
    """The first step in which ranks together take other samples than one process; None where all take the same.

    Full batches must be shared exactly, and a smaller one is filled up by fewer samples than there are ranks.
    """
    full = max(step.samples for step in original.steps)
    for i, step in enumerate(original.steps):
        shares = tuple(trace.steps[i].samples for trace in ranks)
        if sum(shares) != step.samples or len(set(shares)) > 1:
            padding = step.samples < full and 0 <= sum(shares) - step.samples < len(ranks)
            return _Uneven(i, step.samples, shares, padding)
    return None


# -- running ----------------------------------------------------------------------------------------------------------


class _Runs:
    """The runs of a script and its rewrite; each is made once."""

    def __init__(self, before: str, after: str, scratch: Path) -> None:
        self.scratch = scratch
        self.sandbox = ""
        self.scripts = {"before": before, "after": after}
        self._made: dict[tuple[str, int, frozenset[str]], list[Trace]] = {}

    @property
    def launches(self) -> int:
        return len(self._made)

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
            self.sandbox = (folder / _ISOLATION).read_text(encoding="utf-8")
        return self._made[key]


@cache
def _prepared() -> None:
    """What every script imports is imported once, ahead of the forks."""
    import torch._dynamo
    import torch.distributed
    import torch.utils.data

    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()


def launch(
    script: str, folder: Path, world: int, without: frozenset[str] = frozenset(), *, seconds: float = _SECONDS
) -> list[Trace]:
    """The traces of a script's ranks (of one process that nobody launched, if `world` is 0). Raises RanksFailed."""
    _prepared()
    folder.mkdir()
    path = folder / "train.py"
    path.write_text(script, encoding="utf-8")
    places = [folder / f"rank{rank}" for rank in range(max(world, 1))]
    for place in places:
        place.mkdir()
    key = os.urandom(32).hex()
    orders = [Order(path, place, world, rank, 0, key, without) for rank, place in enumerate(places)]
    host = multiprocessing.get_context("fork").Process(target=_host, args=(folder, orders, seconds))
    host.start()
    host.join()
    return list(_read(places, world, key))


def _host(folder: Path, orders: Sequence[Order], seconds: float) -> None:
    """The ranks' parent, shut in with them: they write beneath the folder and meet on a loopback of their own."""
    adopt_orphans()
    isolation = confine(str(folder), seconds=seconds, memory=memory_budget())
    (folder / _ISOLATION).write_text(str(isolation), encoding="utf-8")
    port = _free_port()
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=run, args=(replace(order, port=port),)) for order in orders]
    for process in started:
        process.start()
    end = time.monotonic() + seconds
    for process in started:
        process.join(max(0.0, end - time.monotonic()))
    for process in started:
        if process.is_alive():
            process.kill()
            process.join()
    end_children()


def _read(places: Sequence[Path], world: int, key: str) -> Iterator[Trace]:
    who = f"{world} processes" if world else "one process"
    for rank, place in enumerate(places):
        file = place / "trace"
        if not file.is_file():
            raise RanksFailed(f"{who}: rank {rank} did not end in time, or crashed")
        # The script ran in the process that wrote this: nothing but tensors and plain data is taken from it.
        try:
            data = unsealed(file.read_bytes(), key)
        except Forged:
            why = f"rank {rank}'s trace was not written by torchlint, or was changed since"
            raise RanksFailed(f"{who}: {why}") from None
        steps, seen, error = torch.load(io.BytesIO(data), weights_only=True)
        if error:
            raise RanksFailed(f"{who}: rank {rank} ends with {error}")
        yield Trace([Step(*step) for step in steps], seen)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
