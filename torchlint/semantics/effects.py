"""What calls do to training: the events that a function performs, in order, with the loops and guards around them."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, fields

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.record import entity, record
from torchlint.semantics.kinds import UNKNOWN, Value
from torchlint.semantics.names import Function


class Effect(str, enum.Enum):
    FORWARD = "forward"  # a Module is called; subject: the module
    LOSS = "loss"  # a loss function is called
    BACKWARD = "backward"  # subject: the tensor (or the framework object that runs it)
    GRAD = "autograd.grad"  # gradients asked for by other means than backward
    STEP = "step"  # subject: the optimizer
    ZERO_GRAD = "zero_grad"  # subject: optimizer, module or "parameters" for `p.grad = None` loops
    SCHEDULER_STEP = "scheduler step"
    CLIP = "clip"  # subject: the module or optimizer whose gradients; `detail`: "method" for a framework's own
    UNSCALE = "unscale"
    MAKE = "make"  # an optimizer is made; value: what it is
    REPLACE = (
        "replace"  # the subject's parameters give way to new ones; `detail`: the function that does it, or "layer"
    )
    SCALER_UPDATE = "scaler update"
    EVAL = "eval"  # subject: the module
    TRAIN = "train"
    SYNC = "sync"  # the host needs a tensor's values; `detail`: item, tolist, cpu, float, bool, format, print, …
    TRANSFER = "transfer"  # to, cuda; `detail`: the target's source text
    CALL = "call"  # a call whose target this file does not define; `target` says what is known of it
    PRINT = "print"


@dataclass(frozen=True, slots=True)
class Guard:
    """An `if` around an event: its node and whether the event is in its body (True) or behind its test (False)."""

    node: cst.If = field(repr=False)
    taken: bool
    depth: int = 0  # how many loops of the function are around it

    @property
    def test(self) -> cst.BaseExpression:
        return self.node.test


@record
class GradMode:
    """Whether autograd records here. `unless`: questions to other files that may still say that it does not."""

    off: bool = False
    unless: tuple[Question, ...] = ()

    def or_off(self, other: GradMode) -> GradMode:
        if not other.off and not other.unless:
            return self
        return GradMode(self.off or other.off, self.unless + tuple(q for q in other.unless if q not in self.unless))


RECORDING = GradMode()


@entity
class Event:
    """One effect. `loops` and `guards` are those of the function in which `node` stands, outermost first."""

    effect: Effect
    node: cst.CSTNode = field(repr=False)
    function: Function = field(repr=False)
    subject: str = ""
    value: Value = UNKNOWN
    loops: tuple[cst.For | cst.While, ...] = field(default=(), repr=False)
    guards: tuple[Guard, ...] = field(default=(), repr=False)
    grad: GradMode = RECORDING
    order: int = 0
    via: Function | None = field(default=None, repr=False)  # the callee in which it really happens
    origin: cst.CSTNode | None = field(default=None, repr=False)  # the node there
    inner_loop: bool = False  # the callee performs it in a loop of its own
    inner_guards: tuple[Guard, ...] = field(default=(), repr=False)  # the callee performs it under these
    target: str = ""
    detail: str = ""
    scopes: tuple[cst.With, ...] = field(default=(), repr=False)  # the with statements around it, outermost first

    @property
    def guarded(self) -> bool:
        return bool(self.guards or self.inner_guards)

    def within(self, loop: cst.CSTNode) -> bool:
        return any(item is loop for item in self.loops)

    def guards_in(self, loop: cst.CSTNode) -> tuple[Guard, ...]:
        """The guards between the loop and the event, the callee's included."""
        depth = next((i + 1 for i, item in enumerate(self.loops) if item is loop), 0)
        return tuple(g for g in self.guards if g.depth >= depth) + self.inner_guards

    def but(self, **changes: object) -> Event:
        return Event(**{**{name: getattr(self, name) for name in _FIELDS}, **changes})


_FIELDS = tuple(f.name for f in fields(Event))


# Effects whose order is what training rules judge, and how many of them one call replays before only new ones count.
_IN_ORDER = frozenset((Effect.ZERO_GRAD, Effect.BACKWARD, Effect.GRAD, Effect.STEP))
_MAX_SEQUENCE = 64


class Replay:
    """What a call replays of its callee: what is alike once, but clearing, differentiating and stepping in order."""

    def __init__(self) -> None:
        self._seen: set[tuple[object, ...]] = set()
        self._sequence: list[tuple[object, ...]] = []

    def adds(self, event: Event, subject: str) -> bool:
        """Whether the event, of this subject at the call, says anything new."""
        key = (event.effect, subject, event.guarded, bool(event.loops), event.target, event.grad.off)
        ordered = event.effect in _IN_ORDER
        if key in self._seen:
            if not ordered or key == self._sequence[-1] or len(self._sequence) >= _MAX_SEQUENCE:
                return False
        self._seen.add(key)
        if ordered:
            self._sequence.append(key)
        return True
