"""Runs before/after pairs through the verifier's own trial and judge, each in a confined child."""

from __future__ import annotations

import json
import signal
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from torchlint.verify.judge import judge_behaviour  # noqa: E402
from torchlint.verify.sandbox import memory_budget, run_forked  # noqa: E402
from torchlint.verify.table import machine_facts  # noqa: E402
from torchlint.verify.trial import Program, Trial  # noqa: E402
from torchlint.verify.verdict import BehaviourVerdict  # noqa: E402

_IMPORTS = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\n\n"


def module(body: str, parameters: list[str]) -> str:
    """A module that defines f; a body that defines it already is taken as it is."""
    if "def f(" in body:
        return _IMPORTS + body
    return f"{_IMPORTS}def f({', '.join(parameters)}):\n" + textwrap.indent(body.strip(), "    ") + "\n"


def judge_pair(
    before: str,
    after: str,
    make: Callable[[int, str, int], dict[str, Any]],
    *,
    sizes: tuple[int, ...] = (7, 64, 200),
    seeds: tuple[int, ...] = (0, 1, 2),
    boundary: bool = True,
) -> BehaviourVerdict:
    """The behaviour verdict on `f` before and after."""

    def work(_: Any) -> BehaviourVerdict:
        import torch

        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        # A shell's background job is started with interrupts ignored, and a fix that ignores them would change nothing.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        names = list(make(0, "cpu", sizes[0]))
        trial = Trial(
            Program(module(before, names), "f", name="m", path="m.py", side="before"),
            Program(module(after, names), "f", name="m", path="m.py", side="after"),
            make,
        )
        check = trial.self_check(trial.maker(seeds[0], sizes[0]), seeds[0])
        runs = [trial.run(f"n={size} seed={seed}", trial.maker(seed, size), seed) for size in sizes for seed in seeds]
        variants = list(trial.boundary_runs(sizes[0], seeds[0])) if boundary else []
        return judge_behaviour(runs, variants, self_check=check)

    outcome = run_forked(work, seconds=120, memory=memory_budget())
    return outcome.value if outcome.reason is None else judge_behaviour([], unable=outcome.reason)


def write(name: str, result: dict[str, Any]) -> None:
    """The result file, with what it was measured on."""
    document = {"machine": machine_facts("cpu"), **result}
    (HERE / f"{name}.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
