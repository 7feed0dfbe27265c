"""Tier 2, inside the user's own process: at a real call of an edited function, fork children that run both versions.

All children start from the identical state: the original, the original again, each fixed variant, each observed in a
sandbox. The parent goes on untouched and makes the real call. Nothing is pickled but results; no harness is needed.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import functools
import importlib
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from torchlint.verify import stopping, tamper
from torchlint.verify.situation import Situation, situation
from torchlint.verify.weave import HOOK, SHIFT, Edited

if TYPE_CHECKING:
    from torchlint.verify.compare import Comparison
    from torchlint.verify.judge import Run
    from torchlint.verify.verdict import BehaviourVerdict, Cost

SLOW = 30.0  # seconds: a function that takes so long is compared at two calls, not three
WATCHED = 10_000  # calls among which those of a new kind are looked for


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is spent on one function: first calls that are verified, seconds per child, for timing, and in all; and
    later calls in another mode, and with other shapes, that are verified too."""

    calls: int = 3
    child_seconds: float = 60.0
    timing_seconds: float = 2.0
    total_seconds: float = 300.0
    modes: int = 3
    shapes: int = 1


@dataclass(eq=False)
class Shadow:
    """One variant of an edited function, and what has been seen of it so far.

    `statements` are the line sets that count as evidence.
    """

    path: str
    function: Edited
    statements: list[set[int]]
    out: str
    limits: Limits
    calls: int = 0
    spent: float = 0.0
    runs: list[Run] = field(default_factory=list)
    properties: list[tuple[str | None, str | None]] = field(default_factory=list)
    self_check: Comparison | None = None
    executed: set[int] = field(default_factory=set)
    unable: str | None = None
    cost: Cost | None = None
    sandbox: str = ""
    key: str = "00"  # what this run's results are signed with
    pid: int = 0  # of the process that counted the calls
    seen: list[Situation] = field(default_factory=list)  # of the calls that were verified
    later: list[int] = field(default_factory=lambda: [0, 0])  # verified for their mode, for their shapes

    def wants(self) -> bool:
        """Whether the next call is verified in any case."""
        most = min(2, self.limits.calls) if self.spent > SLOW else self.limits.calls
        return self.unable is None and len(self.runs) < most and self.spent < self.limits.total_seconds

    def watches(self) -> bool:
        """Whether a later call may still be verified for what is new about it."""
        left = self.later[0] < self.limits.modes or self.later[1] < self.limits.shapes
        return left and self.unable is None and self.spent <= SLOW and bool(self.runs) and self.calls <= WATCHED

    def wants_as_new(self, call: Situation) -> bool:
        """Whether a later call is verified because none was before that is like it."""
        if not self.watches():
            return False
        if all(call.mode != s.mode for s in self.seen):
            return self.later[0] < self.limits.modes and self.verdict().equivalent
        if all(call.shape != s.shape for s in self.seen):
            return self.later[1] < self.limits.shapes and self.verdict().equivalent
        return False

    def note(self, call: Situation) -> None:
        """The call is verified."""
        if not self.wants():
            in_new_mode = all(call.mode != s.mode for s in self.seen)
            self.later[0 if in_new_mode else 1] += 1
        self.seen.append(call)

    def verdict(self) -> BehaviourVerdict:
        from torchlint.verify.judge import judge_behaviour, judge_property
        from torchlint.verify.verdict import Behaviour

        ran = not self.statements or any(s & self.executed for s in self.statements)
        verdict = judge_behaviour(
            self.runs, self_check=self.self_check, executed=ran, unable=None if self.runs else self.unable
        )
        if verdict.kind is Behaviour.DIFFERENT and self.properties:
            intended = judge_property(
                [before for before, _ in self.properties], [after for _, after in self.properties], executed=ran
            )
            if intended.kind is Behaviour.INTENDED:
                verdict = intended
        return verdict

    @property
    def complete(self) -> bool:
        """Whether every edited statement was executed: if not, some fix among several may not have run at all."""
        return all(lines & self.executed for lines in self.statements)

    def publish(self, replaced: Callable[[], str | None] = tamper.replaced) -> None:
        """Write the verdict so far: a program that is killed later has still been seen.

        What looks for replacements is bound before the program begins, so that it cannot itself be replaced.
        """
        from torchlint.verify import channel
        from torchlint.verify.verdict import Behaviour, BehaviourVerdict, as_json

        verdict = self.verdict()
        told = replaced()
        if told is not None:
            verdict = BehaviourVerdict(Behaviour.NOT_VERIFIABLE, told)
        data = {"path": self.path, "function": asdict(self.function), "verdict": as_json(verdict),
                "calls": self.calls, "verified": len(self.runs), "sandbox": self.sandbox,
                "cost": as_json(self.cost), "complete": self.complete}  # fmt: skip
        name = f"{os.getpid()}-{self.function.name}-{self.function.before[0]}-{self.function.variant}.json"
        temporary = os.path.join(self.out, "." + name)
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(channel.sign(data, self.key))
        os.replace(temporary, os.path.join(self.out, name))


_inside = False  # true in a shadow's children, and while one is being made


def install(shadows: Mapping[str, list[Shadow]], *, stop: bool = False) -> None:
    """Provide the hook that woven modules call; `shadows` maps a path to its functions, in weaving order.

    With `stop` the program ends, as by `sys.exit()`, when all that was asked of its calls is answered.
    """
    if stop:
        stopping.expect(s for group in shadows.values() for s in group)

    def hook(numbers: list[int], original: Any, fixed: list[Any]) -> Any:
        path = os.path.realpath(inspect.currentframe().f_back.f_code.co_filename)  # type: ignore[union-attr]
        return _wrap([shadows[path][number] for number in numbers], original, fixed)

    def finish() -> None:
        for shadow in (s for group in shadows.values() for s in group):
            # Nobody reads it any more where the folder is gone, as after the summary of pytest.
            if shadow.calls and shadow.pid == os.getpid() and os.path.isdir(shadow.out):
                shadow.publish()

    setattr(builtins, HOOK, hook)
    atexit.register(finish)


def _wrap(shadows: Sequence[Shadow], original: Any, fixed: Sequence[Any]) -> Any:
    if isinstance(original, (staticmethod, classmethod)):
        same = [(s, f.__func__) for s, f in zip(shadows, fixed) if type(f) is type(original)]
        for shadow, function in zip(shadows, fixed):
            if type(function) is not type(original):
                shadow.unable = "the kind of method changes"
        if not same:
            return original
        return type(original)(_wrap([s for s, _ in same], original.__func__, [f for _, f in same]))
    for function in fixed:
        function.__name__, function.__qualname__ = original.__name__, original.__qualname__

    @functools.wraps(original)
    def shadowed(*args: Any, **kwargs: Any) -> Any:
        if not _inside:
            for shadow in shadows:
                if shadow.pid != os.getpid():  # a forked worker inherits what its parent has seen
                    shadow.pid, shadow.calls = os.getpid(), 0
                shadow.calls += 1
            if wanting := _wanting(shadows, args, kwargs):
                _verify(shadows, wanting, original, fixed, args, kwargs)
            stopping.stop_if_answered(asked=bool(wanting))
        return original(*args, **kwargs)

    return shadowed


def _wanting(shadows: Sequence[Shadow], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Shadow]:
    """The variants for which this call is verified."""
    if not any(s.wants() or s.watches() for s in shadows):
        return []
    try:
        call = situation(args, kwargs)
    except Exception:  # an argument that cannot be looked at: it tells nothing about the call
        call = Situation(None, None)
    wanting = [s for s in shadows if s.wants() or s.wants_as_new(call)]
    for shadow in wanting:
        shadow.note(call)
    return wanting


def _verify(
    shadows: Sequence[Shadow],
    wanting: Sequence[Shadow],
    original: Any,
    fixed: Sequence[Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """Judge the call for the first variant, and for the others unless that one is equivalent. Never raises.

    The user's program must run as if this were not here.
    """
    global _inside
    _inside = True
    from torchlint.verify.call import Call

    call: Call | None = None
    equal = shadows[0].verdict().equivalent
    try:
        for shadow, function in zip(shadows, fixed):
            if shadow not in wanting or (shadow is not shadows[0] and shadows[0].complete and equal):
                continue
            started = time.monotonic()
            try:
                shadow.unable = _unforkable(args, kwargs)
                if shadow.unable is None:
                    call = call or Call(original, args, kwargs, f"call {shadow.calls} of {shadow.function.name}")
                    call.judge(shadow, function)
            except Exception as error:
                shadow.unable = f"verifying failed: {type(error).__name__}: {error}"
                if os.environ.get("TORCHLINT_VERIFY_DEBUG"):
                    traceback.print_exc(file=sys.__stderr__)
            if shadow is shadows[0]:
                equal = shadow.verdict().equivalent
            shadow.spent += time.monotonic() - started
            shadow.publish()
    finally:
        _inside = False


def _unforkable(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    import torch

    # numpy seeds itself from the system when it is first imported: that must not happen in each child anew.
    with contextlib.suppress(ImportError):
        importlib.import_module("numpy.random")
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return CUDA_IS_UP
    for value in (*args, *kwargs.values()):
        if inspect.isgenerator(value) or type(value).__name__ == "_MultiProcessingDataLoaderIter":
            return USED_UP
    return None


CUDA_IS_UP = "CUDA is initialised: a fork cannot use it"
USED_UP = "an argument is an iterator that the children would use up"
MEETS_RANKS = "it seems to wait for other ranks, which a fork cannot meet"
MADE_INSIDE = "what it trains or evaluates is made inside the call: nothing of it is seen from outside"


def shifted(lines: set[int], variant: int) -> set[int]:
    """Lines of a fixed text as a trace of the woven module reports them."""
    return {line + SHIFT * (variant + 1) for line in lines}
