"""Runs two modules on the same inputs and compares what they did; yardsticks are made only where they are needed."""

from __future__ import annotations

import functools
import linecache
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from torchlint.verify.boundary import UNUSABLE, variants
from torchlint.verify.compare import Comparison, Level, Yardstick, compare
from torchlint.verify.judge import Run
from torchlint.verify.measure import quiet
from torchlint.verify.observe import Observation, leaf, nudge, observe, to_double
from torchlint.verify.surroundings import seed_all
from torchlint.verify.walk import walk_state

NUDGES = 3

Inputs = dict[str, Any]
Maker = Callable[[], "Inputs | None"]


class Program:
    """A module text in a namespace of its own. Both programs of a trial bear the same name and file name.

    `filename` is what their code objects and tracebacks carry; it tells the two apart for line tracing only.
    """

    def __init__(self, text: str, entry: str, *, name: str, path: str, side: str) -> None:
        self.text = text
        self.filename = f"<{side} {path}>"
        self.module = types.ModuleType(name)
        self.module.__file__ = path
        linecache.cache[self.filename] = (len(text), None, text.splitlines(True), self.filename)
        self.activate()
        exec(compile(text, self.filename, "exec"), self.module.__dict__)
        self.earlier: Any = None
        self.function: Any = functools.reduce(getattr, entry.split("."), self.module)

    def activate(self) -> None:
        """Pickling and dataclasses look a module up by its name: make this one the answer."""
        sys.modules[self.module.__name__] = self.module

    def entry(self, /, **inputs: Any) -> Any:
        self.activate()
        return self.function(**inputs)


@dataclass(frozen=True, slots=True)
class Trial:
    """The two programs and how their inputs are made."""

    before: Program
    after: Program
    make: Callable[[int, str, int], Inputs]
    device: str = "cpu"
    backward: bool = True

    def maker(self, seed: int, size: int) -> Callable[[], Inputs]:
        def make() -> Inputs:
            seed_all(seed)
            return self.make(seed, self.device, size)

        return make

    def observe(
        self, program: Program, make: Maker, seed: int, prepare: Callable[[Inputs], Any] | None = None
    ) -> Observation:
        inputs = make()
        assert inputs is not None
        if prepare is not None:
            prepare(inputs)
        seed_all(seed + 1000)
        record = observe(
            program.entry, inputs, backward=self.backward, earlier=program.earlier, function=program.function
        )
        program.earlier, record.result = record.result, None
        return record

    def run(self, label: str, make: Maker, seed: int) -> Run:
        """Compare the programs on one set of inputs; anything short of bitwise agreement brings out the yardsticks."""
        a = self.observe(self.before, make, seed)
        b = self.observe(self.after, make, seed)
        comparison = compare(a, b)
        if comparison.level is Level.DIFFERENT and a.exception is None and b.exception is None:
            comparison = compare(a, b, self._yardstick(make, seed))
        return Run(label, comparison, a.exception, finite=label not in UNUSABLE, deliberate=a.deliberate)

    def self_check(self, make: Maker, seed: int) -> Comparison:
        """The original against itself; anything but bitwise agreement means that nothing can be proven.

        Both programs are called once before, so that what they keep from call to call is there for the comparisons.
        """
        self.observe(self.before, make, seed)
        self.observe(self.after, make, seed)
        return compare(self.observe(self.before, make, seed), self.observe(self.before, make, seed))

    def boundary_runs(self, size: int, seed: int) -> Iterator[Run]:
        for name, make in variants(lambda n: self.maker(seed, n)(), size):
            if make() is not None:
                yield self.run(name, make, seed)
        used = functools.partial(self._used, self.maker(seed, size), seed)
        if used() is not None:
            yield self.run("called before", used, seed)

    def _used(self, make: Callable[[], Inputs], seed: int) -> Inputs | None:
        """Inputs that the original was called with once: optimizers with a state, gradients, filled caches."""
        inputs = make()
        seed_all(seed + 2000)
        try:
            with quiet():
                self.before.entry(**inputs)
        except (Exception, SystemExit):
            return None
        return inputs

    def _yardstick(self, make: Maker, seed: int) -> Yardstick:
        nudged = tuple(self.observe(self.before, make, seed, functools.partial(nudge, seed=k)) for k in range(NUDGES))
        default = torch.get_default_dtype()

        def prepare(inputs: Inputs) -> None:  # the inputs themselves are made as always, or they would be other ones
            to_double(inputs)
            torch.set_default_dtype(torch.float64)

        try:
            double = self.observe(self.before, make, seed, prepare)
        except RuntimeError:  # inputs that cannot be turned into fp64 leave the envelope alone to decide
            return Yardstick(nudged)
        finally:
            torch.set_default_dtype(default)
        return Yardstick(nudged, None if double.exception else double)

    def consumes(self, make: Callable[[], Inputs]) -> bool:
        """Whether a call changes its arguments, so that a second call with the same ones would do other work."""
        inputs = make()
        if any(hasattr(value, "__next__") for value in inputs.values()):
            return True
        records = []
        for _ in range(2):
            observe(self.before.entry, inputs, backward=False)
            records.append(Observation({path: leaf(value) for path, value in walk_state(dict(inputs), "arg")}))
        # The first call may settle things (train → eval) without using anything up: what the second one does counts.
        return compare(records[0], records[1]).level is not Level.BITWISE
