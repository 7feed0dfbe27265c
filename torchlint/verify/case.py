"""The contract of `fixtures/<rule>/run.py`: how the code before and after a fix is run, and what the fix promises.

A run.py holds `CASES`, a list of `Case`. *Before* is the fixture's `bad.py`; *after* is what the autofix really made of
it, never a hand-written twin. This module imports nothing heavy, so that a run.py can be read without torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

MakeInputs = Callable[[int, str, int], dict[str, Any]]
WrongFix = Callable[[str], str]
Property = Callable[[Callable[..., Any], dict[str, Any]], "str | None"]
Claim = Literal["time", "memory", "gpu"]

DEFAULT_SIZES = (7, 64, 200)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to run the code.

    `entry` names the function (or `Class.method`, then called unbound with `self` among the inputs) in `bad.py` that
    is called; it must execute the lines that the fix changes, or the verdict is
    `not-verifiable(edited line never executed)`.

    `make_inputs(seed, device, size)` returns the keyword arguments. It is called afresh for every run, right after all
    random generators were seeded with `seed`, so the same arguments must give the same values. Everything that the
    entry can change must be reachable from its arguments (models, optimizers, lists): that is what is compared.

    `wrong_fix(source_before)` returns a plausible bad rewrite of the whole module that must be refused.

    `property(entry, inputs)` is for changes that are the point of the fix. It calls the entry, returns None where the
    property holds and else how it is broken. It must be broken before and hold after; results may then differ.
    `torchlint.verify.properties` has ready ones (gradient ledger, grad mode off, train mode restored, …).

    `cost` is what the fix claims: "time" (faster at the largest size), "memory" (fewer peak or saved bytes at the
    largest size), "gpu" (fewer syncs, copies or device operations, counted by running CUDA code remapped to the CPU;
    `make_inputs` then gets "cuda" for that run), or None.

    `boundary` also runs n = 0, n = 1, NaN, inf, other dtypes, strides and requires_grad variants of the inputs.
    `backward` differentiates what the entry returns (with fixed random weights) and compares the gradients too.
    """

    name: str
    entry: str
    make_inputs: MakeInputs
    wrong_fix: WrongFix
    sizes: tuple[int, ...] = DEFAULT_SIZES
    property: Property | None = None
    cost: Claim | None = None
    boundary: bool = True
    backward: bool = True
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if len(self.sizes) < 3 or all(size % 16 == 0 for size in self.sizes):
            raise ValueError(
                f"case {self.name!r}: give at least 3 sizes, one of them no multiple of 16; got {self.sizes}"
            )
