"""Runs a training script as one rank and notes what each optimizer step used: samples, gradients, parameters.

It also notes what makes ranks differ from one process by design, and can take these things out of a run: dropout,
statistics over the batch, and losses that sum. It lives in the process of the script and ends with it.
"""

from __future__ import annotations

import functools
import io
import os
import runpy
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import RandomSampler

from torchlint.verify.channel import seal

DROPOUT, BATCH_NORM, SUMMED = "dropout", "BatchNorm", "sum loss"
_MOST_STEPS = 200
_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")


@dataclass
class Step:
    """What one optimizer step used, and the parameters that it left; vectors are flat and in float64."""

    samples: int
    gradient: torch.Tensor
    parameters: torch.Tensor


@dataclass
class Trace:
    """One rank's run. `seen`: cause → what the script called. `error`: how the script ended, if not well."""

    steps: list[Step] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Order:
    """How to run a script: as which of how many ranks, where they meet, and which causes to take out.

    `world` 0 means that nobody launches: the script runs as a user would start it alone.
    """

    script: Path
    folder: Path
    world: int
    rank: int
    port: int
    key: str  # what the trace is signed with
    without: frozenset[str] = frozenset()


def run(order: Order) -> None:
    """Run the script to its end and leave its trace in the folder. Called in a process of its own."""
    trace = Trace()
    torch.set_num_threads(1)
    os.chdir(order.folder)
    os.environ.update(_launched(order))
    with open("output.txt", "w", encoding="utf-8") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        sys.stdout = sys.stderr = output
        sys.argv = [str(order.script)]
        torch.manual_seed(0)
        held: list[object] = []
        try:
            with watched(trace, order.without, order.world):
                held.append(runpy.run_path(str(order.script), run_name="__main__"))
        except SystemExit as end:
            trace.error = f"exit {end.code}" if end.code else ""
        except BaseException as error:
            trace.error = f"{type(error).__name__}: {error}"
        steps = [(s.samples, s.gradient, s.parameters) for s in trace.steps]
        data = io.BytesIO()
        torch.save((steps, trace.seen, trace.error), data)
        (order.folder / "trace").write_bytes(seal(data.getvalue(), order.key))
        output.flush()
        # Nothing of the script is taken down: the destructor of gloo's group waits for its threads while it holds the
        # interpreter's lock, and now and then one of them waits for the lock (torch 2.13, seen in 1 of 40 launches).
        os._exit(0)


def _launched(order: Order) -> dict[str, str]:
    """What torchrun sets."""
    if not order.world:
        return {}
    return {
        "RANK": str(order.rank),
        "LOCAL_RANK": str(order.rank),
        "WORLD_SIZE": str(order.world),
        "LOCAL_WORLD_SIZE": str(order.world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(order.port),
    }


@contextmanager
def watched(trace: Trace, without: frozenset[str], world: int) -> Iterator[None]:
    """Note everything that steps inside, and take the causes out."""
    with ExitStack() as stack:
        for name in _DROPOUTS:
            stack.enter_context(_patched(name, lambda f: _dropout(f, trace, DROPOUT in without)))
        stack.enter_context(_patched("batch_norm", lambda f: _batch_norm(f, trace, BATCH_NORM in without)))
        for name in _losses():
            stack.enter_context(_patched(name, lambda f: _loss(f, trace)))
        # Ranks meet on the CPU, also where there is a GPU: one could not serve two of them.
        stack.enter_context(mock.patch.object(torch.cuda, "is_available", return_value=False))
        stack.enter_context(mock.patch.object(torch.cuda, "device_count", return_value=0))
        stack.enter_context(mock.patch.object(RandomSampler, "__iter__", _in_the_order_of_ranks))
        stack.enter_context(mock.patch.object(torch.distributed, "destroy_process_group"))  # see `run`
        counted = _Samples()
        before = _Before(trace, counted, world if SUMMED in without and world > 1 else 1)
        for handle in (
            register_module_forward_pre_hook(counted),
            register_optimizer_step_pre_hook(before),
            register_optimizer_step_post_hook(before.after),
        ):
            stack.callback(handle.remove)
        yield


def _patched(name: str, make: Callable[[Any], Any]) -> Any:
    return mock.patch.object(nn.functional, name, make(getattr(nn.functional, name)))


def _losses() -> list[str]:
    names = [n for n in dir(nn.functional) if n.endswith("_loss")]
    return [*names, "cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div"]


def _dropout(original: Any, trace: Trace, off: bool) -> Any:
    @functools.wraps(original)
    def dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        if training and p > 0:
            trace.seen.setdefault(DROPOUT, f"{original.__name__}(p={p:g})")
        result: torch.Tensor = original(input, p, training and not off, inplace)
        return result

    return dropout


def _batch_norm(original: Any, trace: Trace, off: bool) -> Any:
    @functools.wraps(original)
    def batch_norm(
        input: torch.Tensor,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        training: bool = False,
        *rest: Any,
        **named: Any,
    ) -> torch.Tensor:
        if training:
            trace.seen.setdefault(BATCH_NORM, f"batch_norm over {input.shape[1]} channels in train mode")
            if off and running_mean is not None:
                training = False
        result: torch.Tensor = original(input, running_mean, running_var, weight, bias, training, *rest, **named)
        return result

    return batch_norm


def _loss(original: Any, trace: Trace) -> Any:
    @functools.wraps(original)
    def loss(*args: Any, **named: Any) -> torch.Tensor:
        if named.get("reduction") == "sum" or named.get("size_average") is False:
            trace.seen.setdefault(SUMMED, f'{original.__name__}(reduction="sum")')
        result: torch.Tensor = original(*args, **named)
        return result

    return loss


def _in_the_order_of_ranks(self: Any) -> Iterator[int]:
    """The order that a DistributedSampler with seed 0 would draw, so that all runs see the same batches."""
    epoch = self.__dict__.setdefault("_epoch", 0)
    self._epoch += 1
    generator = torch.Generator()
    generator.manual_seed(epoch)
    yield from torch.randperm(len(self.data_source), generator=generator).tolist()


class _Samples:
    """How many samples went through an outermost module in train mode since the last step."""

    def __init__(self) -> None:
        self.count = 0
        self._inner: set[int] = set()

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if id(module) in self._inner or not module.training:
            return
        self._inner.update(id(m) for m in module.modules() if m is not module)
        first = next((a for a in args if isinstance(a, torch.Tensor) and a.dim()), None)
        if first is not None and any(p.requires_grad for p in module.parameters()):
            self.count += len(first)

    def taken(self) -> int:
        count, self.count = self.count, 0
        return count


class _Before:
    """The optimizer hooks: gradients ahead of the step, parameters behind it."""

    def __init__(self, trace: Trace, samples: _Samples, scale: int) -> None:
        self.trace, self.samples, self.scale = trace, samples, scale

    def __call__(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        gradients = [p.grad for p in _parameters(optimizer) if p.grad is not None]
        if self.scale != 1:
            for gradient in gradients:
                gradient.mul_(self.scale)
        if len(self.trace.steps) < _MOST_STEPS:
            self.trace.steps.append(Step(self.samples.taken(), _flat(gradients), torch.empty(0)))

    def after(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self.trace.steps and not self.trace.steps[-1].parameters.numel():
            self.trace.steps[-1].parameters = _flat(_parameters(optimizer))


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    parts = [t.detach().double().flatten() for t in tensors]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
