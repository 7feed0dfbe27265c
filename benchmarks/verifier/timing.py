"""Calibration of the timing verdict: false claims on A/A pairs, power at a true ×1.15, with load on the other core.

Run `python benchmarks/verifier/timing.py [A/A pairs] [effects]` from the repository root; it writes timing.json.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
from collections import Counter
from typing import Any

import torch
from suite import write

from torchlint.verify.judge import judge_speed
from torchlint.verify.measure import Runnable, time_pairs

MATRIX = torch.randn(96, 96)


def work(count: int) -> Runnable:
    """A chain of matrix products; 23 of them take ×1.15 the time of 20."""

    def entry(x: torch.Tensor) -> torch.Tensor:
        y = x
        for _ in range(count):
            y = (x @ y).tanh()
        return y

    return Runnable(entry, lambda: {"x": MATRIX}, False)


def burn() -> None:
    while True:
        sum(range(10_000))


def sample(before: int, after: int, times: int) -> dict[str, Any]:
    kinds: Counter[str] = Counter()
    ratios, pairs = [], []
    started = time.monotonic()
    for i in range(times):
        timing = time_pairs(work(before), work(after), work(before), seed=i)
        verdict = judge_speed(timing.ratio, timing.control) if timing else judge_speed(None, None)
        kinds[verdict.kind.value] += 1
        if timing:
            ratios.append(timing.ratio.value)
            pairs.append(timing.ratio.pairs)
    return {
        "runs": times,
        "verdicts": dict(kinds),
        "median ratio": round(statistics.median(ratios), 4),
        "median pairs": statistics.median(pairs),
        "seconds per run": round((time.monotonic() - started) / times, 2),
    }


def main() -> int:
    torch.set_num_threads(1)
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    effects = int(sys.argv[2]) if len(sys.argv) > 2 else 40
    result: dict[str, Any] = {"load average before": os.getloadavg()[0]}
    load = multiprocessing.Process(target=burn, daemon=True)
    busy = os.getloadavg()[0] >= (os.cpu_count() or 1)
    result["load"] = "other programs on all cores" if busy else "one process of our own that computes all the time"
    if not busy:
        load.start()
    claims = found = done = 0
    quiet = "A/A, no load of our own"
    for name, before, times in (
        ("×1.15 with load", 23, effects), ("A/A with load", 20, pairs // 2), (quiet, 20, pairs - pairs // 2),
    ):  # fmt: skip
        if name == quiet and not busy:
            load.terminate()
        result[name] = sample(before, 20, times)
        print(name, result[name], flush=True)
        verdicts = result[name]["verdicts"]
        if before != 20:
            found = verdicts.get("faster", 0)
        else:
            claims += verdicts.get("faster", 0) + verdicts.get("slower", 0)
            done += times
        result["load average after"] = os.getloadavg()[0]
        result["false claims"], result["found"] = f"{claims} of {done}", f"{found} of {effects}"
        write("timing", result)
    return 0 if claims <= pairs // 200 and found >= round(effects * 0.95) else 1


if __name__ == "__main__":
    raise SystemExit(main())
