"""What the verifier says: frozen verdicts on behaviour, cost and memory, with the evidence they rest on."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Behaviour(str, enum.Enum):
    """The classes of behaviour verdict, best first; missing evidence is NOT_VERIFIABLE, never a pass."""

    BITWISE = "equivalent-bitwise"
    TOLERANCE = "equivalent-within-tolerance"
    EXCEPT = "equivalent-except"
    INTENDED = "intended-change-confirmed"
    DIFFERENT = "different"
    NOT_VERIFIABLE = "not-verifiable"


class Speed(str, enum.Enum):
    FASTER = "faster"
    SLOWER = "slower"
    SAME = "no measurable change"
    INCONCLUSIVE = "inconclusive"
    GPU_ONLY = "gpu-only"
    NOT_MEASURED = "not measured"


class Trend(str, enum.Enum):
    SAVES = "saves"
    COSTS = "costs"
    SAME = "same"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same: where (`return[0]`, `arg.model.fc.weight.grad`), of which kind, and how far."""

    where: str
    kind: str
    before: str
    after: str
    far: str = ""

    def __str__(self) -> str:
        far = f" ({self.far})" if self.far else ""
        return f"{self.where}: {self.kind} {self.before} → {self.after}{far}"


@dataclass(frozen=True, slots=True)
class BehaviourVerdict:
    """`detail` is what stands in the brackets: how it is equivalent, what is different, or why it cannot be told.

    `plausible` lists the exceptions of an `equivalent-except` that a running program can meet; a fix with such a case
    is not safe. The others are inputs on which the original itself raised.
    """

    kind: Behaviour
    detail: str = ""
    plausible: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()

    @property
    def equivalent(self) -> bool:
        """Whether the fix does what the original did."""
        return self.kind in (Behaviour.BITWISE, Behaviour.TOLERANCE) or (self.kind is Behaviour.EXCEPT and self.proven)

    @property
    def proven(self) -> bool:
        """Whether `--apply --verify` writes this class of fix by default."""
        if self.kind is Behaviour.EXCEPT:
            return not self.plausible
        return self.kind in (Behaviour.BITWISE, Behaviour.TOLERANCE, Behaviour.INTENDED)

    def __str__(self) -> str:
        return f"{self.kind.value}({self.detail})" if self.detail else self.kind.value


@dataclass(frozen=True, slots=True)
class CostVerdict:
    """`ratio` is time before divided by time after, with its 95 % interval."""

    kind: Speed
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    detail: str = ""

    def __str__(self) -> str:
        if self.ratio is None:
            return f"{self.kind.value} ({self.detail})" if self.detail else self.kind.value
        interval = f"×{self.ratio:.3g} [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.kind.value} {interval}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True, slots=True)
class MemoryVerdict:
    """Bytes of tensors, not of the process: the peak of live storages, and what autograd keeps for backward."""

    kind: Trend
    peak: tuple[int, int] | None = None
    saved: tuple[int, int] | None = None

    def __str__(self) -> str:
        if self.peak is None or self.saved is None or self.kind is Trend.SAME:
            return self.kind.value
        parts = [
            f"{what} {human_bytes(before)}→{human_bytes(after)}"
            for what, (before, after) in (("peak", self.peak), ("saved", self.saved))
            if before != after
        ]
        return f"{self.kind.value} {', '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a change costs or gains in the user's own run: time, memory, and (before, after) of each counter."""

    speed: CostVerdict = CostVerdict(Speed.NOT_MEASURED)
    memory: MemoryVerdict = MemoryVerdict(Trend.NOT_MEASURED)
    counters: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [str(self.speed)] if self.speed.kind is not Speed.NOT_MEASURED else []
        if self.memory.kind is not Trend.NOT_MEASURED:
            parts.append(f"memory {self.memory}")
        parts += [f"{name} {a}→{b}" for name, (a, b) in self.counters.items() if a != b and name != "allocated bytes"]
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Point:
    """One step of a divergence curve: relative deviations from the original, of the fix and of 1-ulp nudges."""

    step: int
    fixed: float
    nudged: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was really run."""

    calls: int = 0
    sizes: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    variants: tuple[str, ...] = ()
    steps: int = 0
    threads: int = 1
    device: str = "cpu"
    edited_lines: int = 0
    executed_lines: int = 0
    sandbox: str = ""

    def __str__(self) -> str:
        parts = [f"{self.calls} calls"]
        if self.sizes:
            parts.append("n=" + ",".join(map(str, self.sizes)))
        if self.seeds:
            parts.append(f"{len(self.seeds)} seeds")
        if self.variants:
            parts.append(f"{len(self.variants)} variants")
        if self.steps:
            parts.append(f"{self.steps} steps")
        return ", ".join([*parts, self.device])


@dataclass(frozen=True, slots=True)
class CaseVerdict:
    """Everything known about one fix (or one case of a rule).

    `speed` holds one cost verdict per size. `counters` maps a counter to (before, after). `wrong_fix` is the verdict on
    the planted bad rewrite. `failures` says what the case promised and did not show; empty means that it holds.
    """

    name: str
    behaviour: BehaviourVerdict
    speed: Mapping[int, CostVerdict] = field(default_factory=dict)
    memory: MemoryVerdict = MemoryVerdict(Trend.NOT_MEASURED)
    counters: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    wrong_fix: BehaviourVerdict | None = None
    evidence: Evidence = Evidence()
    failures: tuple[str, ...] = ()
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return self.behaviour.proven and not self.failures

    @property
    def cost(self) -> CostVerdict:
        """The verdict at the largest size that was timed."""
        return self.speed[max(self.speed)] if self.speed else CostVerdict(Speed.NOT_MEASURED)


def human_bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def cost_from_json(data: Mapping[str, Any] | None) -> Cost | None:
    """The cost that `as_json` wrote."""
    if data is None:
        return None
    speed, memory = data["speed"], data["memory"]
    pairs = {name: tuple(memory[name]) if memory[name] else None for name in ("peak", "saved")}
    return Cost(
        CostVerdict(Speed(speed["kind"]), speed["ratio"], speed["low"], speed["high"], speed["detail"]),
        MemoryVerdict(Trend(memory["kind"]), pairs["peak"], pairs["saved"]),
        {name: (a, b) for name, (a, b) in data["counters"].items()},
    )


def as_json(value: Any) -> Any:
    """Verdicts as plain JSON values: enums by value, tuples as lists, keys as strings."""
    from dataclasses import fields, is_dataclass

    if isinstance(value, enum.Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(v) for v in value]
    return value
