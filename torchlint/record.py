"""`@record` and `@entity`: to a type checker `@dataclass(frozen=True, slots=True)`, made in a third of the time.

A frozen dataclass stores each of its fields through `object.__setattr__`, and values are made by the thousand. That
nobody assigns to a field is left to the type checker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: object) -> Callable[[T], T]:
        return lambda decorator: decorator


T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Equal by value, and hashed by it."""
    return dataclass(slots=True, unsafe_hash=True)(cls)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
def entity(cls: type[T]) -> type[T]:
    """Equal to itself alone."""
    return dataclass(slots=True, eq=False)(cls)
