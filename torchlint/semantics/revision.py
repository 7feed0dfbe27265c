"""What a first pass over the functions took for granted, and so which of them a second pass must look at again.

A function's evaluation depends on what its parameters get at the call sites, on attributes that other methods set, and
on the functions that it calls or stands in. The first pass meets these in some order and notes what it read; a function
for which all of that stayed as it was read would come out the same again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torchlint.semantics.kinds import UNKNOWN, Value
from torchlint.semantics.names import Function

Attribute = tuple[str, str]  # class, attribute
Parameter = tuple[Function, str]


@dataclass
class Reads:
    """What each function read while it was evaluated."""

    attributes: dict[tuple[Attribute, Function], Value | None] = field(default_factory=dict)
    parameters: dict[Parameter, Value] = field(default_factory=dict)
    readers: dict[Function, set[Function]] = field(default_factory=dict)  # function → who asked for its summary
    running: list[Function] = field(default_factory=list)

    def attribute(self, key: Attribute, value: Value | None) -> None:
        if self.running:
            self.attributes.setdefault((key, self.running[-1]), value)

    def summary(self, function: Function) -> None:
        if self.running:
            self.readers.setdefault(function, set()).add(self.running[-1])

    def outdated(
        self,
        attributes: Mapping[Attribute, Value],
        arguments: Mapping[Parameter, Value],
        functions: Iterable[Function],
    ) -> set[Function]:
        """The functions for which something that they read is different now, and all that depend on them."""
        changed = {f for (key, f), value in self.attributes.items() if attributes.get(key) != value}
        changed.update(key[0] for key, value in self.parameters.items() if arguments.get(key, UNKNOWN) != value)
        inner: dict[Function, list[Function]] = {}
        for function in functions:
            if function.parent is not None:
                inner.setdefault(function.parent, []).append(function)
        queue = list(changed)
        while queue:
            function = queue.pop()
            for other in (*self.readers.get(function, ()), *inner.get(function, ())):
                if other not in changed:
                    changed.add(other)
                    queue.append(other)
        return changed
