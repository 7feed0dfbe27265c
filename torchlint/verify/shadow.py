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
import random
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torchlint.verify import clock, stopping, tamper
from torchlint.verify.weave import HOOK, SHIFT, Edited

if TYPE_CHECKING:
    from torchlint.verify.compare import Comparison
    from torchlint.verify.judge import Run
    from torchlint.verify.observe import Observation
    from torchlint.verify.verdict import BehaviourVerdict, Cost

NUDGES = 3
SLOW = 30.0  # seconds: a function that takes so long is compared at two calls, not three


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is spent on one function: calls that are verified, seconds per child, for timing, and in all."""

    calls: int = 3
    child_seconds: float = 60.0
    timing_seconds: float = 2.0
    total_seconds: float = 300.0


@dataclass
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

    def wants(self) -> bool:
        most = min(2, self.limits.calls) if self.spent > SLOW else self.limits.calls
        return self.unable is None and len(self.runs) < most and self.spent < self.limits.total_seconds

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
            if shadow.calls and shadow.pid == os.getpid():
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
            if any(shadow.wants() for shadow in shadows):
                _verify(shadows, original, fixed, args, kwargs)
                stopping.stop_if_answered()
        return original(*args, **kwargs)

    return shadowed


def _verify(
    shadows: Sequence[Shadow], original: Any, fixed: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Judge the call for the first variant, and for the others unless that one is equivalent. Never raises.

    The user's program must run as if this were not here.
    """
    global _inside
    _inside = True
    call: _Call | None = None
    equal = shadows[0].verdict().equivalent
    try:
        for shadow, function in zip(shadows, fixed):
            if not shadow.wants() or (shadow is not shadows[0] and shadows[0].complete and equal):
                continue
            started = time.monotonic()
            try:
                shadow.unable = _unforkable(args, kwargs)
                if shadow.unable is None:
                    call = call or _Call(original, args, kwargs, f"call {shadow.calls} of {shadow.function.name}")
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
MADE_INSIDE = "what it trains or evaluates is made inside the call: nothing of it is seen from outside"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one child did: the observation (values of tensors only where asked for), the lines of the file it ran."""

    record: Observation
    lines: frozenset[int]
    sandbox: str
    hidden: bool  # it used a model or an optimizer that it had made itself
    replaced: str | None  # why what was observed cannot be believed


class _Call:
    """The comparison at one call; the runs of the original are shared by all variants."""

    def __init__(self, original: Any, args: tuple[Any, ...], kwargs: dict[str, Any], label: str) -> None:
        from torchlint.verify.live import world

        self.original, self.label = original, label
        self.args, self.kwargs = args, kwargs
        self.random = random.getstate()  # CPython reseeds `random` in a forked child
        self.inputs: dict[str, Any] = {"args": args, "kwargs": kwargs, **world(original)}
        self.names = _names(original, args)
        self.clocks = clock.readings()
        self.limits = Limits()
        self.twins: tuple[_Seen | str, _Seen | str] | None = None
        self.broken: dict[str, str] | None = None
        self.wanted: dict[frozenset[str], list[_Seen | str]] = {}  # what nudged runs have shown of these paths

    def judge(self, shadow: Shadow, function: Any) -> None:
        from torchlint.verify.compare import Comparison, Level, compare
        from torchlint.verify.judge import Run

        self.limits = shadow.limits
        if self.twins is None:
            self.twins = self._child(self.original), self._child(self.original, trace=True)
        first, again = self.twins
        if isinstance(first, str) or isinstance(again, str):
            shadow.unable = f"original: {first if isinstance(first, str) else again}"
            return
        shadow.sandbox = first.sandbox
        refused = first.record.exception
        if refused is not None and ("PermissionError" in refused or "Read-only file system" in refused):
            shadow.unable = f"external write: {refused}"
            return
        check = self._named(compare(first.record, again.record))
        if shadow.self_check is None or check.level is not Level.BITWISE:
            shadow.self_check = check
        fixed = self._child(function, trace=True)
        replaced = next((s.replaced for s in (first, again, fixed) if isinstance(s, _Seen) and s.replaced), None)
        if replaced is not None:
            shadow.unable = replaced
            shadow.runs.clear()
            return
        if first.hidden or (isinstance(fixed, _Seen) and fixed.hidden):
            shadow.unable = MADE_INSIDE
            shadow.runs.clear()
            return
        if isinstance(fixed, str):
            comparison = Comparison()
            comparison.differ("the fixed function", "end", "returns", fixed)
            shadow.runs.append(Run(self.label, comparison))
            return
        shadow.executed |= again.lines | fixed.lines
        comparison = compare(first.record, fixed.record)
        if comparison.level is Level.DIFFERENT and check.level is Level.BITWISE:
            comparison = self._closely(first.record, fixed.record, function)
            if comparison.level is Level.DIFFERENT:
                shadow.properties += self._properties(function, _tensors(first.record) == _tensors(fixed.record))
        shadow.runs.append(Run(self.label, self._named(comparison), first.record.exception))
        if shadow.cost is None and comparison.level is not Level.DIFFERENT and first.record.exception is None:
            shadow.cost = self._cost(function)

    def _named(self, comparison: Comparison) -> Comparison:
        """The comparison with its differences told in the names of the function's own parameters."""

        def plain(text: str) -> str:
            return _PATH.sub(lambda m: self.names.get(m[0], m[1] or m[2]), text)

        comparison.differences = [
            replace(d, where=plain(d.where), before=plain(d.before), after=plain(d.after))
            for d in comparison.differences
        ]
        return comparison

    def _cost(self, function: Any) -> Cost | None:
        """Memory and counters of one call of each version, and their times where that many calls can be made.

        Every figure is taken in a child of its own, from the state of this call.
        """
        from torchlint.verify.judge import judge_memory, judge_speed
        from torchlint.verify.measure import Footprint, Runnable, footprint, time_pairs
        from torchlint.verify.verdict import Cost

        def runnable(f: Any) -> Runnable:
            return Runnable(lambda **_: f(*self.args, **self.kwargs), dict, False)

        def weigh(f: Any) -> Footprint | None:
            def work(_: Any) -> Footprint:
                self._begin()
                return footprint(runnable(f), warm=False, state=self.inputs)

            outcome = self._fork(work)
            return outcome.value if outcome.reason is None else None

        def clock(_: Any) -> Any:
            self._begin()
            return time_pairs(
                runnable(self.original), runnable(function), runnable(self.original), budget=self.limits.timing_seconds
            )

        a, b = weigh(self.original), weigh(function)
        if a is None or b is None or a.raised or b.raised:
            return None
        outcome = self._fork(clock)
        timing = outcome.value if outcome.reason is None else None
        speed = judge_speed(timing.ratio, timing.control) if timing else judge_speed(None, None)
        counters = {name: (count, b.counters[name]) for name, count in a.counters.items()}
        return Cost(speed, judge_memory((a.peak, b.peak), (a.saved, b.saved)), counters)

    def _closely(self, a: Observation, b: Observation, function: Any) -> Comparison:
        """Compare again with the values of what differs, measured by nudged runs of the original.

        Where the two are far apart no nudge can bring them together, and none is run.
        """
        from torchlint.verify.compare import FAR, Comparison, Yardstick, compare, deviation
        from torchlint.verify.observe import nudge

        wanted = frozenset(
            path for path in {**a.leaves, **b.leaves} if a.leaves.get(path, _ABSENT) != b.leaves.get(path, _ABSENT)
        )
        if wanted not in self.wanted:
            self.wanted[wanted] = [self._child(self.original, wanted=wanted)]
        known = self.wanted[wanted]
        seen = [known[0], self._child(function, wanted=wanted)]
        records = [s.record for s in seen if isinstance(s, _Seen)]
        if len(records) == 2 and deviation(*records) < FAR:
            while len(known) < 1 + NUDGES:
                prepare = functools.partial(nudge, seed=len(known) - 1)
                known.append(self._child(self.original, wanted=wanted, prepare=prepare))
            seen += known[1:]
            records += [s.record for s in known[1:] if isinstance(s, _Seen)]
        failed = next((s for s in seen if isinstance(s, str)), None)
        if failed is not None:
            result = Comparison()
            result.differ("the function", "end", "returns", failed)
            return result
        return compare(records[0], records[1], Yardstick(tuple(records[2:])))

    def _properties(self, function: Any, kept: bool) -> list[tuple[str | None, str | None]]:
        """A property that is broken before, with its state after, best one that holds then; (None, None) without any.

        Nothing where the original has already trained its parameters to NaN and the mode of the model tells nothing
        either: of such gradients no version has a property.

        Each version is called twice, with gradients cleared before: the state in which the original has left this
        process (stale gradients above all) must not count against the fix, and its own aftermath must.

        Layers that are missing from their model are found again only if no tensor went or came meanwhile (`kept`).
        """
        if self.broken is None:
            self.broken = {name: how for name, how in self._survey(self.original).items() if how is not None}
        spoiled = self._spoiled()
        if not self.broken:
            return [] if spoiled else [(None, None)]
        after = self._survey(function)
        for name, how in self.broken.items():
            if name in after and after[name] is None and (kept or name != "registered"):
                return [(how, None)]
        if spoiled:
            return []
        name, how = next(iter(self.broken.items()))
        return [(how, after.get(name) or "nothing is known of it after the fix")]

    def _spoiled(self) -> bool:
        import torch

        models = [m for m in self.inputs.values() if isinstance(m, torch.nn.Module)]
        return not all(bool(p.isfinite().all()) for m in models for p in m.parameters())

    def _survey(self, function: Any) -> dict[str, str | None]:
        import torch

        from torchlint.verify.measure import quiet
        from torchlint.verify.properties import survey
        from torchlint.verify.walk import walk_state

        def twice(**_: Any) -> None:
            function(*self.args, **self.kwargs)
            function(*self.args, **self.kwargs)

        def work(_: Any) -> dict[str, str | None]:
            self._begin()
            for _path, value in walk_state(self.inputs, ""):
                if isinstance(value, torch.Tensor) and value.is_leaf:
                    value.grad = None
            with quiet():
                return survey(twice, self.inputs)

        outcome = self._fork(work)
        return dict(outcome.value) if outcome.reason is None else {}

    def _child(
        self,
        function: Any,
        *,
        trace: bool = False,
        wanted: frozenset[str] = frozenset(),
        prepare: Callable[[dict[str, Any]], Any] | None = None,
    ) -> _Seen | str:
        from contextlib import nullcontext

        from torchlint.verify import live
        from torchlint.verify.lines import traced
        from torchlint.verify.observe import digested, observe

        def call(**_: Any) -> Any:
            return function(*self.args, **self.kwargs)

        def work(isolation: Any) -> _Seen:
            self._begin()
            if prepare is not None:
                prepare(self.inputs)
            lines: set[int] = set()
            with live.made_inside() as used, traced(_code_file(function)) if trace else nullcontext(lines) as lines:
                record = observe(call, self.inputs, function=function)
            seen = digested(record, wanted)
            return _Seen(seen, frozenset(lines), str(isolation), bool(used), tamper.replaced())

        outcome = self._fork(work)
        if outcome.reason is not None:
            return str(outcome.reason)
        seen: _Seen = outcome.value
        if wanted:
            kept = {path: seen.record.leaves[path] for path in seen.record.leaves if path in wanted}
            return replace(seen, record=replace(seen.record, leaves=kept))
        return seen

    def _begin(self) -> None:
        import torch

        random.setstate(self.random)
        clock.freeze(self.clocks)
        torch.set_num_threads(1)

    def _fork(self, work: Callable[[Any], Any]) -> Any:
        from torchlint.verify.sandbox import memory_budget, run_forked

        return run_forked(work, seconds=self.limits.child_seconds, memory=memory_budget(), project=os.getcwd())


_ABSENT = object()
_PATH = re.compile(r"arg\['(?:args|kwargs)'\]\[(?:'(\w+)'|\d+)\]|arg\['([\w ]+)'\]")


def _names(function: Any, args: tuple[Any, ...]) -> dict[str, str]:
    """How paths into positional arguments begin, and the names that the function itself has for these."""
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = inspect.signature(inspect.unwrap(function)).parameters.values()
    named = [p.name for p in parameters if p.kind in kinds][: len(args)]
    rest = [f"*args[{i}]" for i in range(len(args) - len(named))]
    return {f"arg['args'][{i}]": name for i, name in enumerate([*named, *rest])}


def _tensors(record: Observation) -> list[str]:
    """All tensors that can be reached from outside, by their values."""
    from torchlint.verify.observe import DigestLeaf

    return sorted(value.digest for value in record.leaves.values() if isinstance(value, DigestLeaf))


def _code_file(function: Any) -> str:
    return str(inspect.unwrap(function).__code__.co_filename)


def shifted(lines: set[int], variant: int) -> set[int]:
    """Lines of a fixed text as a trace of the woven module reports them."""
    return {line + SHIFT * (variant + 1) for line in lines}
