"""What the evaluator carries along: the frame of a function under evaluation, and the summary that it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import libcst as cst

from torchlint.semantics.effects import Event, GradMode, Guard
from torchlint.semantics.kinds import UNKNOWN, Value
from torchlint.semantics.names import Function


@dataclass(eq=False)
class Summary:
    """What calling a function does and gives."""

    events: list[Event] = field(default_factory=list)
    returns: Value = UNKNOWN
    grad: GradMode = field(default_factory=GradMode)  # of the function's body as its decorators set it
    done: bool = False


@dataclass
class Frame:
    function: Function
    env: dict[str, Value]
    summary: Summary
    grad: GradMode
    loops: tuple[cst.For | cst.While, ...] = ()
    guards: tuple[Guard, ...] = ()
    scopes: tuple[cst.With, ...] = ()
    returns: list[Value] = field(default_factory=list)

    @cached_property
    def self_name(self) -> str:
        f = self.function
        return f.params[0] if f.is_method else ""
