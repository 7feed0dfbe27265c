"""What a first pass over the functions took for granted, and so which of them a second pass must look at again.

A function's evaluation depends on what its parameters get at the call sites, on attributes that other methods set, and
on the functions that it calls or stands in. The first pass meets these in some order and notes what it read; a function
for which all of that stayed as it was read would come out the same again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torchlint.semantics.kinds import UNKNOWN, Kind, Value
from torchlint.semantics.names import Function

Attribute = tuple[str, str]  # class, attribute
Parameter = tuple[Function, str]


@dataclass
class Reads:
    """What each function read while it was evaluated."""

    attributes: dict[tuple[Attribute, Function], Value | None] = field(default_factory=dict)
    parameters: dict[Parameter, Value] = field(default_factory=dict)
    readers: dict[Function, set[Function]] = field(default_factory=dict)  # function → who asked for its summary
    unset: dict[Function, set[Attribute]] = field(default_factory=dict)  # function → what it assigned an unknown to
    running: list[Function] = field(default_factory=list)

    def attribute(self, key: Attribute, value: Value | None) -> None:
        if self.running:
            self.attributes.setdefault((key, self.running[-1]), value)

    def left(self, key: Attribute) -> None:
        """An attribute was assigned something of which nothing is known: a parameter, perhaps, that will be."""
        if self.running:
            self.unset.setdefault(self.running[-1], set()).add(key)

    def summary(self, function: Function) -> None:
        if self.running:
            self.readers.setdefault(function, set()).add(self.running[-1])

    def given_others(self, arguments: Mapping[Parameter, Value]) -> set[Function]:
        """The functions that were evaluated with the first of several loaders that they are given."""
        return {
            key[0]
            for key, value in self.parameters.items()
            if value.kind is Kind.LOADER and arguments.get(key, UNKNOWN).node is not value.node
        }

    def outdated(
        self,
        attributes: Mapping[Attribute, Value],
        arguments: Mapping[Parameter, Value],
        functions: Iterable[Function],
    ) -> set[Function]:
        """The functions for which something that they read is different now, and all that depend on them."""
        changed = {f for (key, f), value in self.attributes.items() if attributes.get(key) != value}
        changed.update(key[0] for key, value in self.parameters.items() if arguments.get(key, UNKNOWN) != value)
        changed |= self.given_others(arguments)
        inner: dict[Function, list[Function]] = {}
        for function in functions:
            if function.parent is not None:
                inner.setdefault(function.parent, []).append(function)
        users: dict[Attribute, set[Function]] = {}
        for key, reader in self.attributes:
            users.setdefault(key, set()).add(reader)
        queue = list(changed)
        while queue:
            function = queue.pop()
            told = [f for key in self.unset.get(function, ()) for f in users.get(key, ())]
            for other in (*self.readers.get(function, ()), *inner.get(function, ()), *told):
                if other not in changed:
                    changed.add(other)
                    queue.append(other)
        return changed
