"""One real call of an edited function: what forked children show of both versions, and how they compare.

All of them begin in the state of this call; the process itself goes on untouched.
"""

from __future__ import annotations

import functools
import inspect
import os
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torchlint.verify import clock, tamper
from torchlint.verify.launching import rank
from torchlint.verify.shadow import MADE_INSIDE, MEETS_RANKS, Limits, Shadow

if TYPE_CHECKING:
    from torchlint.verify.compare import Comparison
    from torchlint.verify.observe import Observation
    from torchlint.verify.verdict import Cost

NUDGES = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """What one child did: the observation (values of tensors only where asked for), the lines of the file it ran."""

    record: Observation
    lines: frozenset[int]
    sandbox: str
    hidden: bool  # it used a model or an optimizer that it had made itself
    replaced: str | None  # why what was observed cannot be believed


class Call:
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
        self.twins: tuple[Seen | str, Seen | str] | None = None
        self.broken: dict[str, str] | None = None
        self.wanted: dict[frozenset[str], list[Seen | str]] = {}  # what nudged runs have shown of these paths

    def judge(self, shadow: Shadow, function: Any) -> None:
        from torchlint.verify.compare import Comparison, Level, compare
        from torchlint.verify.judge import Run

        self.limits = shadow.limits
        if self.twins is None:
            first = self._child(self.original)
            self.twins = first, first if isinstance(first, str) else self._child(self.original, trace=True)
        first, again = self.twins
        if isinstance(first, str) or isinstance(again, str):
            late = isinstance(first, str) and first.startswith("timeout") and rank()[1] > 1
            shadow.unable = MEETS_RANKS if late else f"original: {first if isinstance(first, str) else again}"
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
        replaced = next((s.replaced for s in (first, again, fixed) if isinstance(s, Seen) and s.replaced), None)
        if replaced is not None:
            shadow.unable = replaced
            shadow.runs.clear()
            return
        if first.hidden or (isinstance(fixed, Seen) and fixed.hidden):
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
        records = [s.record for s in seen if isinstance(s, Seen)]
        if len(records) == 2 and deviation(*records) < FAR:
            while len(known) < 1 + NUDGES:
                prepare = functools.partial(nudge, seed=len(known) - 1)
                known.append(self._child(self.original, wanted=wanted, prepare=prepare))
            seen += known[1:]
            records += [s.record for s in known[1:] if isinstance(s, Seen)]
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
    ) -> Seen | str:
        from contextlib import nullcontext

        from torchlint.verify import live
        from torchlint.verify.lines import traced
        from torchlint.verify.observe import digested, observe

        def call(**_: Any) -> Any:
            return function(*self.args, **self.kwargs)

        def work(isolation: Any) -> Seen:
            self._begin()
            if prepare is not None:
                prepare(self.inputs)
            lines: set[int] = set()
            with live.made_inside() as used, traced(_code_file(function)) if trace else nullcontext(lines) as lines:
                record = observe(call, self.inputs, function=function)
            seen = digested(record, wanted)
            return Seen(seen, frozenset(lines), str(isolation), bool(used), tamper.replaced())

        outcome = self._fork(work)
        if outcome.reason is not None:
            return str(outcome.reason)
        seen: Seen = outcome.value
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
