"""What tells one call of a function from another: its mode and the kinds of its arguments, and their shapes.

The first calls of a program are often alike: training mode, whole batches. A call in eval mode, without gradients or
with the last, shorter batch takes other paths, so it is compared too, however late it comes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

_ITEMS = 8  # of a container or an object that are looked at
_WORD = 16  # characters of a text that may be a flag ("train", "bilinear")


@dataclass(frozen=True, slots=True)
class Situation:
    """`mode`: gradients, autocast, training flags, types and flags of arguments; `shape`: the sizes of tensors."""

    mode: Hashable
    shape: Hashable


def situation(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Situation:
    """The situation of a call that is about to be made. Looks at arguments only, two levels deep; changes nothing."""
    import torch

    shapes: list[tuple[int, ...]] = []
    kinds = tuple(_kind(value, 2, shapes) for value in (*args, *kwargs.values()))
    mode = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), tuple(kwargs), kinds
    return Situation(mode, tuple(shapes))


def _kind(value: Any, depth: int, shapes: list[tuple[int, ...]]) -> Hashable:
    """By type and not by isinstance, which asks proxies for their `__class__` and wakes what they stand for."""
    import torch

    kind = type(value)
    if value is None or kind is bool or (kind is str and len(value) <= _WORD):
        return value  # type: ignore[no-any-return]
    if issubclass(kind, torch.Tensor):
        shapes.append(tuple(value.shape))
        return kind, value.dtype, value.dim(), value.requires_grad
    if issubclass(kind, torch.nn.Module):
        return kind, value.training
    if not depth:
        return (kind,)
    return kind, tuple(_kind(item, depth - 1, shapes) for item in _items(value, kind))


def _items(value: Any, kind: type) -> Iterator[Any]:
    """The first items of a container; of another object the modules and flags that it keeps."""
    import torch

    if kind in (list, tuple):
        yield from value[:_ITEMS]
    elif kind is dict:
        yield from islice(value.values(), _ITEMS)
    else:
        try:
            kept = object.__getattribute__(value, "__dict__")
        except AttributeError:
            return
        yield from (v for v in list(kept.values()) if type(v) is bool or issubclass(type(v), torch.nn.Module))
