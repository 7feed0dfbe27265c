"""Whether two observations agree: bitwise, within the computation's own conditioning, closer to fp64, or not.

Fixed tolerances fail both ways: one that accepts a correct log_softmax also accepts a wrong loss scale. The measure
here is the original itself: how far do its results move when its inputs and parameters move by one ulp? A fix may
deviate by a small multiple of that, in rms and in the maximum, and not more. Where a fix is numerically better than
the original (log_softmax for log(softmax)), a run of the original in fp64 decides: the fix must be no further from it.

Known limit: a wrong constant below the conditioning (an epsilon of 1e-8 inside a log, a scale of 1 + 1e-7) is not seen.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from torchlint.verify.observe import Observation, TensorLeaf
from torchlint.verify.verdict import Difference

ENVELOPE_FACTOR = 4.0
FAR = 0.05  # a relative deviation that is no question of rounding
_KIND = re.compile(r"[ .\[]")
_GRAPH = re.compile(r", (?:grad_fn=<\w+>|requires_grad=True)")
_NUMBER = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?")


class Level(enum.IntEnum):
    BITWISE = 0
    ENVELOPE = 1
    FP64 = 2
    DIFFERENT = 3


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What tolerance is measured with: runs of the original on inputs nudged by one ulp, and one run in fp64."""

    nudged: tuple[Observation, ...] = ()
    double: Observation | None = None


@dataclass(slots=True)
class Comparison:
    """The worst level met, every difference in the order in which a caller would meet them, and mere remarks."""

    level: Level = Level.BITWISE
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    worst_ratio: float = 0.0  # largest deviation in units of the envelope

    def raise_to(self, level: Level) -> None:
        self.level = max(self.level, level)

    def differ(self, where: str, kind: str, before: object, after: object, far: str = "") -> None:
        self.raise_to(Level.DIFFERENT)
        self.differences.append(Difference(where, kind, _short(before), _short(after), far))


def compare(before: Observation, after: Observation, yardstick: Yardstick | None = None) -> Comparison:
    """Compare everything observed. Without a yardstick only bitwise agreement passes."""
    result = Comparison()
    yardstick = yardstick or Yardstick()
    paths = list(before.leaves) + [p for p in after.leaves if p not in before.leaves]
    for path in paths:
        if path not in before.leaves or path not in after.leaves:
            side = before.leaves.get(path, "nothing"), after.leaves.get(path, "nothing")
            result.differ(path, "missing" if path in before.leaves else "extra", *map(describe, side))
            continue
        _leaf(result, path, before.leaves[path], after.leaves[path], yardstick)
    for note in before.notes.keys() & after.notes.keys():
        if before.notes[note] != after.notes[note]:
            result.notes.append(f"{note}: {_short(before.notes[note])} → {_short(after.notes[note])}")
    return result


def deviation(a: Observation, b: Observation) -> float:
    """How far the floats of `b` are from those of `a`, relative to their size; 1 where something is missing.

    Taken by kind (losses, gradients, parameters, …), the worst of them: a single gradient may be zero but for rounding.
    """
    sums: dict[str, list[float]] = {}
    for path in [*a.leaves, *(p for p in b.leaves if p not in a.leaves)]:
        x, y = (_floats(o.leaves.get(path)) for o in (a, b))
        if x is None and y is None:
            continue
        if x is None or y is None or x.shape != y.shape or not torch.equal(x.isfinite(), y.isfinite()):
            return 1.0
        total = sums.setdefault(_KIND.split(path)[0], [0.0, 0.0])
        total[0] += float((x - y).nan_to_num(0.0, 0.0, 0.0).pow(2).sum())
        total[1] += float(x.nan_to_num(0.0, 0.0, 0.0).pow(2).sum())
    return max((math.sqrt(off / size) if size else float(off > 0) for off, size in sums.values()), default=0.0)


def _floats(value: Any) -> torch.Tensor | None:
    if isinstance(value, TensorLeaf):
        return value.value.double() if value.value.is_floating_point() else None
    return _as_tensor(value)


def _leaf(result: Comparison, path: str, a: Any, b: Any, yardstick: Yardstick) -> None:
    if isinstance(a, TensorLeaf) and isinstance(b, TensorLeaf):
        _tensor(result, path, a, b, yardstick)
    elif type(a) is not type(b):
        result.differ(path, "type", describe(a), describe(b))
    elif isinstance(a, float):
        if (a == b and math.copysign(1, a) == math.copysign(1, b)) or (math.isnan(a) and math.isnan(b)):
            return
        _numbers(result, path, torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64),
                 [_as_tensor(o.leaves.get(path)) for o in yardstick.nudged],
                 _as_tensor(yardstick.double.leaves.get(path)) if yardstick.double else None,
                 torch.finfo(torch.float32).eps)  # fmt: skip
    elif path in ("stdout", "log"):
        if a != b:
            _text(result, path, a, b, yardstick)
    elif a != b:
        kind = "random state" if path.startswith("random state") else "flag" if path.startswith("flag") else "value"
        kind = "exception" if path.endswith("exception") else "aliasing" if "@" in path else kind
        result.differ(path, kind, a, b)


def _tensor(result: Comparison, path: str, a: TensorLeaf, b: TensorLeaf, yardstick: Yardstick) -> None:
    for attribute in ("container", "shape", "dtype", "device", "requires_grad", "inference"):
        if getattr(a, attribute) != getattr(b, attribute):
            result.differ(path, attribute, getattr(a, attribute), getattr(b, attribute))
    if a.shape != b.shape or a.dtype != b.dtype:
        return
    if a.contiguous != b.contiguous and path.startswith("return"):
        result.differ(path, "layout", *("contiguous" if t.contiguous else "not contiguous" for t in (a, b)))
    if same_bits(a.value, b.value):
        return
    if not (a.value.is_floating_point() or a.value.is_complex()):
        wrong = int((a.value != b.value).sum())
        first = (a.value != b.value).flatten().nonzero()[0].item()
        result.differ(
            path, "value", _element(a.value, int(first)), _element(b.value, int(first)),
            f"{wrong} of {a.value.numel()} elements",
        )  # fmt: skip
        return
    candidates = [o.leaves.get(path) for o in yardstick.nudged]
    nudged = [c.value for c in candidates if isinstance(c, TensorLeaf) and c.shape == a.shape and c.dtype == a.dtype]
    double = yardstick.double.leaves.get(path) if yardstick.double else None
    reference = double.value if isinstance(double, TensorLeaf) and double.shape == a.shape else None
    if a.value.is_complex():
        real = torch.view_as_real
        _numbers(result, path, real(a.value), real(b.value), [real(n) for n in nudged],
                 None if reference is None or not reference.is_complex() else real(reference),
                 torch.finfo(a.value.dtype).eps)  # fmt: skip
    else:
        _numbers(result, path, a.value, b.value, list(nudged), reference, torch.finfo(a.value.dtype).eps)


def _numbers(
    result: Comparison, path: str, a: torch.Tensor, b: torch.Tensor,
    nudged: Sequence[torch.Tensor | None], reference: torch.Tensor | None, eps: float,
) -> None:  # fmt: skip
    """Judge deviating floats: first by the envelope, then by the distance to fp64."""
    a, b = a.double(), b.double()
    runs = [n.double() for n in nudged if n is not None]
    ratio = _envelope_ratio(a, b, runs, eps)
    if ratio <= ENVELOPE_FACTOR and not (reference is not None and _jumps(a, b, reference.double(), eps)):
        result.worst_ratio = max(result.worst_ratio, ratio)
        result.raise_to(Level.ENVELOPE)
        return
    if reference is not None and _closer(a, b, reference.double()):
        result.raise_to(Level.FP64)
        return
    result.worst_ratio = max(result.worst_ratio, ratio)
    odd = (a.isnan() != b.isnan()) | (a.isinf() != b.isinf()) | (a.isinf() & b.isinf() & (a != b))
    if odd.any():
        at = int(odd.flatten().nonzero()[0])
        result.differ(
            path, "overflow" if _overflow_only(a, b, odd, runs, eps) else "nan", _element(a, at), _element(b, at)
        )
        return
    gap = (a - b).nan_to_num(0.0, 0.0, 0.0).abs()
    at = int(gap.flatten().argmax())
    times = f", {ratio:.3g}× the 1-ulp envelope" if runs and math.isfinite(ratio) else ""
    result.differ(path, "value", _element(a, at), _element(b, at), f"max {float(gap.max()):.3g}{times}")


def _jumps(a: torch.Tensor, b: torch.Tensor, reference: torch.Tensor, eps: float) -> bool:
    """Whether the fix is far from an fp64 run that the original agrees with to the last digits.

    Where a function jumps (`round` at a half), the nudged runs of the original lie on both sides of the jump, and their
    envelope would hold anything; the original itself knows on which side it is.
    """
    if reference.shape != a.shape or not all(bool(t.isfinite().all()) for t in (a, b, reference)):
        return False
    scale = _rms(reference)
    return _rms(a - reference) <= 8 * eps * scale and _rms(b - reference) > FAR * scale > 0


def _envelope_ratio(a: torch.Tensor, b: torch.Tensor, runs: Sequence[torch.Tensor], eps: float) -> float:
    """The larger of the rms and maximum deviations of `b` from `a`, in units of how far nudged originals deviate.

    Two ulps of the tensor's own scale (four for the maximum) are free: the last rounding may fall either way. The
    nudged runs are rounded too, so an envelope is known to half an ulp only: of a single number all three may come out
    unmoved. Without nudged runs, or where NaN or inf stand elsewhere, the ratio is infinite.
    """
    if not runs or not torch.equal(a.isfinite(), b.isfinite()):
        return math.inf
    finite = a.isfinite()
    if not torch.equal(a[~finite].nan_to_num(0.5), b[~finite].nan_to_num(0.5)):
        return math.inf
    x, y = a[finite], b[finite]
    if not x.numel():
        return 0.0
    free = 2 * eps * _rms(x)
    worst = 0.0
    for measure, allowance in ((_rms, free), (_max, 2 * free)):
        deviation = measure(x - y)
        if deviation <= allowance:
            continue
        envelope = max((measure(x - r[finite]) for r in runs if r.shape == a.shape), default=0.0)
        if not math.isfinite(envelope):
            return math.inf
        envelope = max(envelope, free / 4)
        worst = max(worst, (deviation - allowance) / envelope if envelope else math.inf)
    return worst


def _overflow_only(
    a: torch.Tensor, b: torch.Tensor, odd: torch.Tensor, runs: Sequence[torch.Tensor], eps: float
) -> bool:
    """Whether the fix is finite wherever the two disagree on that, and agrees with the original everywhere else."""
    if not bool(b[odd].isfinite().all()):
        return False
    kept = ~odd
    return _envelope_ratio(a[kept], b[kept], [r[kept] for r in runs if r.shape == a.shape], eps) <= ENVELOPE_FACTOR


def _closer(a: torch.Tensor, b: torch.Tensor, reference: torch.Tensor) -> bool:
    """Whether the fix is no further from the fp64 run than the original is.

    The reference must be one: the original has to approximate it (else it took another path, or drew other random
    numbers), and where the original overflowed the fix must give the reference's finite value.
    """
    if reference.shape != a.shape or not bool(reference.isfinite().all()) or not bool(b.isfinite().all()):
        return False
    finite = a.isfinite()
    scale = _rms(reference)
    if finite.any():
        error_a = a[finite] - reference[finite]
        if _rms(error_a) > 1e-3 * scale:
            return False
        error_b = b[finite] - reference[finite]
        if _rms(error_b) > _rms(error_a) or _max(error_b) > _max(error_a):
            return False
    if finite.all():
        return True
    return _max((b - reference)[~finite]) <= 1e-5 * max(scale, _max(reference[~finite]))


def _rms(x: torch.Tensor) -> float:
    return float(x.pow(2).mean().sqrt()) if x.numel() else 0.0


def _max(x: torch.Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the last bit; 0.0 and -0.0 differ, all NaNs are one."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if not a.is_floating_point():
        return torch.equal(a, b)
    nan = a.isnan()
    if not torch.equal(nan, b.isnan()):
        return False
    a, b = a.masked_fill(nan, 0), b.masked_fill(nan, 0)
    return torch.equal(a, b) and torch.equal(a.signbit(), b.signbit())


def _text(result: Comparison, path: str, a: str, b: str, yardstick: Yardstick) -> None:
    """Printed text may differ in the digits of its numbers, as far as the numbers of nudged runs do."""
    if _NUMBER.sub("#", a) == _NUMBER.sub("#", b):
        x, y = ([float(n) for n in _NUMBER.findall(text)] for text in (a, b))
        texts = [str(o.leaves.get(path, "")) for o in yardstick.nudged]
        runs = [[float(n) for n in _NUMBER.findall(t)] for t in texts if _NUMBER.sub("#", t) == _NUMBER.sub("#", a)]
        if runs and all(
            p == q
            or (p != int(p) and abs(p - q) <= ENVELOPE_FACTOR * max(abs(p - r[i]) for r in runs) + _last_digit(a, i))
            for i, (p, q) in enumerate(zip(x, y))
        ):
            result.raise_to(Level.ENVELOPE)
            return
    if without_graphs(a) == without_graphs(b):
        result.differ(path, "requires_grad", *_first_apart(a, b))
        return
    lines_a, lines_b = a.splitlines(), b.splitlines()
    for i, (line_a, line_b) in enumerate(zip(lines_a, lines_b)):
        if line_a != line_b:
            result.differ(f"{path} line {i + 1}", path, line_a, line_b)
            return
    result.differ(path, path, f"{len(lines_a)} lines", f"{len(lines_b)} lines")


def without_graphs(text: str) -> str:
    """Printed text without what a tensor's repr says of its graph: a value is the same number with and without it."""
    return _GRAPH.sub("", text)


def _first_apart(a: str, b: str) -> tuple[str, str]:
    return next(((x, y) for x, y in zip(a.splitlines(), b.splitlines()) if x != y), (a, b))


def _last_digit(text: str, index: int) -> float:
    """One unit in the last printed place of the text's index-th number: rounding for print may fall either way."""
    mantissa, _, exponent = _NUMBER.findall(text)[index].lower().partition("e")
    digits = len(mantissa.partition(".")[2])
    return 1.01 * 10.0 ** (int(exponent or 0) - digits)


def _as_tensor(value: Any) -> torch.Tensor | None:
    return torch.tensor([value], dtype=torch.float64) if isinstance(value, float) else None


def _element(tensor: torch.Tensor, index: int) -> str:
    value = tensor.flatten()[index].item()
    text = f"{value:.7g}" if isinstance(value, float) else str(value)
    return text if tensor.numel() == 1 else f"[{index}] {text}"


def describe(value: Any) -> str:
    """A leaf in words, for a difference of type or presence."""
    if isinstance(value, TensorLeaf):
        return f"{value.container}{list(value.shape)}"
    return value if isinstance(value, str) else f"{type(value).__name__} {_short(value)}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = text.replace("\n", "⏎")
    return text if len(text) <= 80 else text[:77] + "…"
