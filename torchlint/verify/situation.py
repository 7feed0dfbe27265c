"""What tells one call of a function from another: its mode and the kinds of its arguments, and their shapes.

The first calls of a program are often alike: training mode, whole batches. A call in eval mode, without gradients or
with the last, shorter batch takes other paths, so it is compared too, however late it comes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
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
    import torch

    if value is None or isinstance(value, bool) or (isinstance(value, str) and len(value) <= _WORD):
        return value
    if isinstance(value, torch.Tensor):
        shapes.append(tuple(value.shape))
        return type(value), value.dtype, value.dim(), value.requires_grad
    if isinstance(value, torch.nn.Module):
        return type(value), value.training
    if depth:
        inside = tuple(_kind(item, depth - 1, shapes) for item in _items(value))
        return type(value), inside
    return (type(value),)


def _items(value: Any) -> Iterator[Any]:
    """The first items of a container; of another object the modules and flags that it keeps."""
    if isinstance(value, (list, tuple)):
        yield from value[:_ITEMS]
    elif isinstance(value, dict):
        yield from (item for item, _ in zip(value.values(), range(_ITEMS)))
    elif hasattr(value, "__dict__"):
        import torch

        yield from (v for v in list(vars(value).values()) if isinstance(v, (bool, torch.nn.Module)))
