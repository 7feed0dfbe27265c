"""What a call costs: interleaved timings with an A/A control, live and saved tensor bytes, operation counters.

Timing and behaviour are separate runs. Times are taken in blocks of at least 4 ms; in every round the variants run in
random order, so that drift of the machine hits all of them alike. Work on one thread that never waits is timed by the
processor's clock, which other programs on the same cores cannot stretch; anything else by the wall clock.
"""

from __future__ import annotations

import contextlib
import gc
import io
import random
import resource
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchlint.verify.stats import Ratio, paired_ratio
from torchlint.verify.surroundings import global_flags, restore_flags
from torchlint.verify.walk import walk_state

BLOCK_SECONDS = 0.004
ROUNDS = (15, 31, 61, 121)  # more only while the interval is not settled
_MOST_CALLS = 20_000


@dataclass(frozen=True, slots=True)
class Runnable:
    """An entry and a maker of its arguments. `fresh`: the call uses its arguments up, so each call needs new ones."""

    entry: Callable[..., Any]
    make: Callable[[], Mapping[str, Any]]
    fresh: bool


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per call before and after, their ratio, and the ratio of the original to itself in the same rounds."""

    before: float
    after: float
    ratio: Ratio
    control: Ratio
    clock: str  # "cpu" or "wall"


@dataclass(frozen=True, slots=True)
class Footprint:
    """One call's tensor memory in bytes and its counters."""

    peak: int
    saved: int
    allocated: int
    ops: int
    syncs: int
    copies: int
    raised: str | None = None

    @property
    def counters(self) -> dict[str, int]:
        return {"ops": self.ops, "allocated bytes": self.allocated, "syncs": self.syncs, "copies": self.copies}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No output, no warnings, and the global flags as they were when it ends."""
    flags = global_flags()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            restore_flags(flags)


# -- time -------------------------------------------------------------------------------------------------------------


class _TooSlow(Exception):
    """Too few rounds would fit into the time that is left."""


class _Stopwatch:
    """Times one variant in blocks of a fixed number of calls. Raises _TooSlow after the second call if it is."""

    def __init__(self, runnable: Runnable, device: str, deadline: float) -> None:
        self._runnable = runnable
        self._cuda = device.startswith("cuda") and torch.cuda.is_available()
        self._kept = None if runnable.fresh else runnable.make()
        self.calls = 1
        self.block()  # warm-up: allocator, lazy initialisation, caches
        while True:
            wall = self.block()[0] * self.calls
            if 3 * ROUNDS[0] * wall > deadline - time.perf_counter():
                raise _TooSlow
            if wall >= BLOCK_SECONDS or self.calls >= _MOST_CALLS:
                break
            self.calls = min(_MOST_CALLS, max(self.calls * 2, int(self.calls * BLOCK_SECONDS * 1.25 / max(wall, 1e-9))))
        self.waits = self._cuda or min(self._pauses() for _ in range(3)) > 0

    def _pauses(self) -> int:
        """How often a block gave up the processor of its own accord; being preempted by others does not count."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        self.block()
        return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before

    def block(self) -> tuple[float, float]:
        """Seconds per call by the wall clock and by the processor's."""
        entry = self._runnable.entry
        inputs = [self._kept if self._kept is not None else self._runnable.make() for _ in range(self.calls)]
        with quiet():
            if self._cuda:
                torch.cuda.synchronize()
            # The thread's clock: the process's own is only updated by ticks once a CPU limit is set.
            wall, cpu = time.perf_counter(), time.thread_time()
            for arguments in inputs:
                entry(**arguments)
            if self._cuda:
                torch.cuda.synchronize()
            cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
        return wall / self.calls, cpu / self.calls


def time_pairs(
    before: Runnable, after: Runnable, control: Runnable, *, device: str = "cpu", budget: float = 20.0, seed: int = 0
) -> Timing | None:
    """Time the variants against each other. `control` is a second copy of `before`, with state of its own.

    None if the budget in seconds did not allow the smallest number of rounds: too little evidence is no evidence.
    """
    deadline = time.perf_counter() + budget
    try:
        watches = [_Stopwatch(r, device, deadline) for r in (before, after, control)]
    except _TooSlow:
        return None
    clock = 0 if torch.get_num_threads() > 1 or any(watch.waits for watch in watches) else 1
    times: list[list[float]] = [[], [], []]
    order = [0, 1, 2]
    generator = random.Random(seed)
    ratio = same = None
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for rounds in ROUNDS:
            while len(times[0]) < rounds and time.perf_counter() < deadline:
                generator.shuffle(order)
                for i in order:
                    times[i].append(watches[i].block()[clock])
                if len(times[0]) % 4 == 0:
                    gc.collect(0)
            if len(times[0]) < ROUNDS[0]:
                return None
            ratio, same = paired_ratio(times[0], times[1]), paired_ratio(times[0], times[2])
            if ratio.settled and not same.noisy:
                break
    finally:
        if collecting:
            gc.enable()
    assert ratio is not None
    assert same is not None
    middle = len(times[0]) // 2
    return Timing(sorted(times[0])[middle], sorted(times[1])[middle], ratio, same, "cpu" if clock else "wall")


# -- memory and counters ----------------------------------------------------------------------------------------------

# In inference mode `item` comes undivided.
_SYNCS = {
    "_local_scalar_dense",
    "item",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "_unique2",
    "unique_consecutive",
}


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations and follows the life of every storage that they make."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: dict[int, int] = {}
        self.now = self.peak = self.allocated = self.ops = self.syncs = self.copies = 0

    def _freed(self, key: int) -> None:
        self.now -= self.live.pop(key, 0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        result = func(*args, **(kwargs or {}))
        self.ops += 1
        name = func.overloadpacket.__name__
        made = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        if name in _SYNCS:
            self.syncs += 1
        if name in ("_to_copy", "copy_") and len({t.device.type for t in given + made}) > 1:
            self.copies += 1
        known = {t.untyped_storage()._cdata for t in given if t.layout == torch.strided}
        for tensor in made:
            if tensor.layout != torch.strided:
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in known or key in self.live:
                continue
            size = storage.nbytes()
            self.live[key] = size
            self.now += size
            self.allocated += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key)
        return result


def footprint(runnable: Runnable, *, warm: bool = True, state: Mapping[str, Any] | None = None) -> Footprint:
    """Memory and counters of one call, with `warm` after another one.

    Storages of the arguments, and of `state`, do not count as saved.
    """
    if warm:
        with quiet():
            _error_of(runnable.entry, runnable.make())
    inputs = runnable.make()
    own = {v.untyped_storage()._cdata for _, v in walk_state({**inputs, **(state or {})}, "arg") if _strided(v)}
    kept: dict[int, int] = {}
    total = [0]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if _strided(tensor):
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in own and key not in kept:
                kept[key] = storage.nbytes()
                total[0] += storage.nbytes()
                weakref.finalize(storage, kept.pop, key, None)
        return tensor

    gc.collect()
    meter = Meter()
    with quiet(), meter, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        raised = _error_of(runnable.entry, inputs)
    return Footprint(meter.peak, total[0], meter.allocated, meter.ops, meter.syncs, meter.copies, raised)


def _strided(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided


def _error_of(entry: Callable[..., Any], inputs: Mapping[str, Any]) -> str | None:
    """Make the call; what it raises, if it does. Judging that is the business of the behaviour run."""
    try:
        entry(**inputs)
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return None
