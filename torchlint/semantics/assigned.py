"""What assignments to attributes do to training: gradients that are dropped, layers that are put in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import dotted, walk
from torchlint.semantics.effects import Effect
from torchlint.semantics.frames import Frame
from torchlint.semantics.kinds import Kind, Value

if TYPE_CHECKING:
    from torchlint.semantics.evaluate import Evaluator


def attribute_assigned(ev: Evaluator, target: cst.Attribute, value: Value, frame: Frame, source: cst.CSTNode) -> None:
    """`p.grad = None` clears; `model.fc = nn.Linear(…)` brings new parameters, `model.fc = wrap(model.fc)` does not."""
    if target.attr.value == "grad" and value.kind is Kind.NONE:
        ev.emit(Effect.ZERO_GRAD, target, frame, subject="parameters")
    base = dotted(target.value) if value.kind is Kind.MODULE else None
    if base is None or base == frame.self_name:
        return
    key = f"{base}.{target.attr.value}"
    if ev.lookup(base, frame).kind is Kind.MODULE and not any(dotted(n) == key for n in walk(source)):
        ev.emit(Effect.REPLACE, target, frame, subject=key, value=value, detail="layer")
