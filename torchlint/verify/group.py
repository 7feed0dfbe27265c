"""A process group in one process: what a fixture needs to run code of several ranks one after the other.

Collectives answer at once and DistributedDataParallel only forwards, so this shows what each rank draws, calls and
holds, not what ranks learn together; `torchlint.verify.ranks` starts real processes for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import Dataset

from torchlint.verify.properties import shards_disjoint

WORLD = 2
_start = dist.init_process_group  # the real one, which `process` hides


class Noted(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A dataset that notes which samples were drawn, in order."""

    def __init__(self, size: int, device: str = "cpu") -> None:
        self.inputs = torch.randn(size, 4, device=device)
        self.drawn: list[int] = []

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.drawn.append(index)
        return self.inputs[index], self.inputs[index].sum(0, keepdim=True)


def _bare(self: DistributedDataParallel, module: nn.Module, *_: object, **__: object) -> None:
    nn.Module.__init__(self)
    self.module = module
    self.require_backward_grad_sync = True


def _through(self: DistributedDataParallel, *inputs: Any, **named: Any) -> Any:
    return self.module(*inputs, **named)


@contextmanager
def process(rank: int, world: int = WORLD) -> Iterator[None]:
    """Inside, a process group starts as the given rank, whatever the code asks for."""

    def pretend(*_: object, **__: object) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
        _start("fake", store=FakeStore(), rank=rank, world_size=world)

    if dist.is_initialized():
        dist.destroy_process_group()
    alone = mock.patch.multiple(DistributedDataParallel, __init__=_bare, forward=_through)
    with mock.patch.object(dist, "init_process_group", pretend), alone:
        try:
            yield
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


@cache
def stay(rank: int = 0) -> None:
    """Be that rank for the rest of this process: for code that starts its group where no property looks on.

    A case runs in a confined child of its own, so nothing has to be undone.
    """
    _stays.append(process(rank))
    _stays[-1].__enter__()


_stays: list[AbstractContextManager[None]] = []


def drawn_by_rank(data: Noted, run: Callable[[int], object], epochs: int, world: int = WORLD) -> list[list[list[int]]]:
    """The samples that each rank's run draws, by rank and epoch."""
    shards = []
    for rank in range(world):
        data.drawn.clear()
        with process(rank, world):
            run(rank)
        length = len(data.drawn) // epochs
        shards.append([data.drawn[e * length : (e + 1) * length] for e in range(epochs)])
    return shards


def each_epoch_shared(shards: Sequence[Sequence[Sequence[int]]], samples: int) -> str | None:
    """None where each epoch is divided among the ranks and no epoch has the order of the one before."""
    for epoch in range(len(shards[0])):
        broken = shards_disjoint([rank[epoch] for rank in shards], range(samples))
        if broken:
            return f"epoch {epoch}: {broken}"
    repeats = any(a == b for a, b in zip(shards[0], shards[0][1:]))
    return "every epoch has the same order" if repeats else None
