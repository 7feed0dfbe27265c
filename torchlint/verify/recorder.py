"""Tier 3, inside the user's process: one record per optimizer step, of losses, gradients, parameters and random state.

The run is a plain run of the original or of the fixed text; only torch's own hooks watch it. Records go to a file as
they are made, so that watching neither adds to the memory that the run is judged by nor is lost when it is killed.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torchlint.verify import tamper

if TYPE_CHECKING:
    import torch


MOST_FORWARDS = 200


class Enough(SystemExit):
    """Ends the program after the wanted number of steps, as `sys.exit(0)` would."""


class Recorder:
    """Writes one Observation per step, and what else was seen when the program ends or has made enough steps.

    Enough are `steps` of them, or with `hints` (sets of "file:line") as many more, up to `most`, as it takes until one
    line of each set was executed and `seconds` have passed since the first step: what a fix changes may show only in
    the second epoch. Gradients and parameters are only kept for the first `keep`. `nudge` moves the
    parameters that each optimizer is made with by one ulp: the yardstick of the comparison. A program that is not
    `alone` goes on unwatched after that: other ranks wait for it.
    """

    def __init__(
        self, out: str, *, keep: int, steps: int, most: int, seconds: float, seed: int, nudge: int | None,
        lines: set[str], hints: Sequence[Sequence[str]], key: str, alone: bool = True,
    ) -> None:  # fmt: skip
        from torchlint.verify.channel import Record
        from torchlint.verify.observe import Observation
        from torchlint.verify.surroundings import seed_all

        self.keep, self.steps, self.most = keep, steps, most
        self.seconds, self.began = seconds, 0.0
        self.nudge, self.lines = nudge, lines
        self.hints = [set(hint) for hint in hints]
        self.pid, self.alone = os.getpid(), alone
        self.record = Record(os.path.join(out, f"record-{self.pid}"), key)
        self.made = self.forwards = self.depth = 0
        self.current = Observation()
        self.resident: list[int] = []
        self.finished = self.stopped = False
        self.modes: list[tuple[bool, bool]] = []  # grad mode and training flag of forwards since the last backward
        self.late: list[bool] = []  # by backward, whether it trains a model in eval mode
        self.early = 0  # scheduler steps ahead of the first optimizer step
        seed_all(seed)
        self._watch()
        atexit.register(self.write)

    def _watch(self) -> None:
        import torch
        from torch.nn.modules import module
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        from torchlint.verify.properties import Ledger, in_eval_mode, note_losses

        torch.set_num_threads(1)
        self.ledger = Ledger()
        note_losses(self.ledger)
        backward, construct = torch.autograd.backward, torch.optim.Optimizer.__init__

        def watched_backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
            root = tensors if isinstance(tensors, torch.Tensor) else next(iter(tensors))
            value = float(root.detach().double().sum())
            number = sum(path.startswith("loss") for path in self.current.leaves)
            self.current.leaves[f"loss {number + 1}"] = value
            self.late.append(in_eval_mode(self.modes))
            self.modes.clear()
            self.ledger.around(lambda: backward(tensors, *args, **kwargs), root)

        def watched_construct(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            construct(optimizer, *args, **kwargs)
            self.ledger.follow(optimizer)
            if self.nudge is not None:
                from torchlint.verify.observe import nudge

                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                nudge({"parameters": parameters}, self.nudge)

        schedule: Any = torch.optim.lr_scheduler.LRScheduler
        advance = schedule.step

        def watched_advance(scheduler: Any, *args: Any, **kwargs: Any) -> None:
            # The constructor makes a step of its own, which is none.
            self.early += not self.made and getattr(scheduler, "_step_count", 0) > 0
            advance(scheduler, *args, **kwargs)

        schedule.step = watched_advance
        torch.autograd.backward = watched_backward
        setattr(torch.optim.Optimizer, "__init__", watched_construct)  # noqa: B010 (a method of torch's own)
        register_optimizer_step_pre_hook(self._before_step)
        register_optimizer_step_post_hook(self._after_step)
        module.register_module_forward_pre_hook(self._enter)
        module.register_module_forward_hook(self._leave, always_call=True)

    def _own(self) -> bool:
        """Workers inherit the hooks and must not record."""
        return os.getpid() == self.pid and not self.finished

    def _enter(self, module: torch.nn.Module, *_: Any) -> None:
        import torch

        from torchlint.verify.properties import has_parameters

        if not self.depth and has_parameters(module):
            self.modes.append((torch.is_grad_enabled(), module.training))
        self.depth += 1

    def _leave(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        self.depth -= 1
        if self.depth or not self._own() or self.forwards >= MOST_FORWARDS:
            return
        self._note_forward(module, output)

    def _note_forward(self, module: torch.nn.Module, output: Any) -> None:
        import torch

        from torchlint.verify.observe import leaf
        from torchlint.verify.walk import walk_state

        self.forwards += 1
        name = f"forward {self.forwards} of {type(module).__name__}"
        self.current.leaves[f"{name}, training"] = module.training
        for path, value in walk_state(output, name):
            if isinstance(value, torch.Tensor):
                # What records a graph may change with a fix; whether the numbers do is the question here.
                self.current.leaves[path] = leaf(value.detach())

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self._own():
            self.ledger.settle(optimizer, args, kwargs)
            self._tensors(optimizer, "gradient", lambda p: p.grad)

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        from torchlint.verify.observe import Observation
        from torchlint.verify.surroundings import rng_state

        if not self._own():
            return
        self.resident.append(resident_bytes())
        self._tensors(optimizer, "parameter", lambda p: p)
        for name, digest in rng_state().items():
            self.current.leaves[f"random state of {name}"] = digest
        self.record.add(self.current)
        self.made += 1
        self.current = Observation()
        self.began = self.began or time.monotonic()
        seen = self.made >= self.steps and all(hint & self.lines for hint in self.hints)
        seen = seen and time.monotonic() - self.began >= self.seconds
        if seen or self.made >= self.most:
            self.stopped = True
            self.write()
            if self.alone:
                raise Enough(0)

    def _tensors(self, optimizer: Any, what: str, of: Any) -> None:
        from torchlint.verify.observe import leaf

        if self.made >= self.keep:
            return
        for g, group in enumerate(optimizer.param_groups):
            for i, parameter in enumerate(group["params"]):
                tensor = of(parameter)
                self.current.leaves[f"{what} {g}.{i}"] = None if tensor is None else leaf(tensor.detach())

    def write(self, replaced: Callable[[], str | None] = tamper.replaced) -> None:
        if not self._own():
            return
        self.finished = True
        sys.settrace(None)
        if self.current.leaves:
            self.record.add(self.current)
        seen = {
            "replaced": replaced(),
            "steps": self.made, "stopped": self.stopped, "deviations": self.ledger.steps, "scales": self.ledger.scales,
            "late": self.late, "early": self.early, "alone": self.alone,
            "lines": sorted(self.lines), "resident": self.resident,
        }  # fmt: skip
        self.record.add(seen)
        self.record.close()


def resident_bytes() -> int:
    """The memory that this process holds, 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
