"""The statistics of paired timings: a bootstrap interval on the median log-ratio. Pure Python, no clock, no torch."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

THRESHOLD = 1.05  # a smaller effect is not worth a claim


@dataclass(frozen=True, slots=True)
class Ratio:
    """Time before / time after: the median of the pairs with its 95 % interval, from `pairs` pairs."""

    value: float
    low: float
    high: float
    pairs: int
    sure: tuple[float, float] | None = None  # the 99.5 % interval: what a claim needs, as it is looked at repeatedly

    @property
    def claims(self) -> bool:
        """Whether the interval lies wholly beyond the threshold, on either side."""
        low, high = self.sure or (self.low, self.high)
        return low > THRESHOLD or high < 1 / THRESHOLD

    @property
    def noisy(self) -> bool:
        """Of a control (the original against itself): whether it shows an effect where there is none."""
        return self.claims or not 1 / THRESHOLD < self.value < THRESHOLD

    @property
    def settled(self) -> bool:
        """Whether the interval lies beyond the threshold or wholly inside the band of no change."""
        return self.claims or (self.low > 1 / THRESHOLD and self.high < THRESHOLD)


def slope(values: Sequence[float]) -> float:
    """How much the values grow from one to the next, by least squares; 0 where there are too few to tell."""
    n = len(values)
    if n < 4:
        return 0.0
    middle, mean = (n - 1) / 2, sum(values) / n
    return sum((i - middle) * (v - mean) for i, v in enumerate(values)) / sum((i - middle) ** 2 for i in range(n))


def paired_ratio(before: Sequence[float], after: Sequence[float], resamples: int = 4000, seed: int = 0) -> Ratio:
    """The ratio of paired times. Raises ValueError without pairs."""
    logs = [math.log(a / b) for a, b in zip(before, after)]
    if not logs:
        raise ValueError("no pairs of timings")
    generator = random.Random(seed)
    medians = sorted(statistics.median(generator.choices(logs, k=len(logs))) for _ in range(resamples))
    low, high, least, most = (math.exp(medians[int(q * resamples)]) for q in (0.025, 0.975, 0.0025, 0.9975))
    return Ratio(math.exp(statistics.median(logs)), low, high, len(logs), (least, most))
