"""Which stretches of code evaluate: forward passes whose results nobody differentiates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torchlint.semantics.loops import EvalRegion

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics


def eval_regions(sem: Semantics) -> Iterator[EvalRegion]:
    return iter(())
