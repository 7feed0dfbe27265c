"""Tier 3, inside the user's process: one record per optimizer step, of losses, gradients, parameters and random state.

The run is a plain run of the original or of the fixed text; only torch's own hooks watch it.
"""

from __future__ import annotations

import atexit
import os
import pickle
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from torchlint.verify.observe import Observation

MOST_FORWARDS = 200


class Enough(SystemExit):
    """Ends the program after the wanted number of steps, as `sys.exit(0)` would."""


class Recorder:
    """Collects one Observation per step and writes them when the program ends (or has made enough steps).

    `nudge` moves the parameters that each optimizer is made with by one ulp: the yardstick of the comparison.
    """

    def __init__(self, out: str, steps: int, seed: int, nudge: int | None, lines: set[str]) -> None:
        from torchlint.verify.observe import Observation, seed_all

        self.out, self.steps, self.nudge, self.lines = out, steps, nudge, lines
        self.pid = os.getpid()
        self.records: list[Observation] = []
        self.current = Observation()
        self.deviations: list[float] = []
        self.forwards = self.depth = 0
        self.finished = False
        seed_all(seed)
        self._watch()
        atexit.register(self.write)

    def _watch(self) -> None:
        import torch
        from torch.nn.modules import module
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        from torchlint.verify.properties import Ledger

        torch.set_num_threads(1)
        self.ledger = Ledger()
        backward, construct = torch.autograd.backward, torch.optim.Optimizer.__init__

        def watched_backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
            root = tensors if isinstance(tensors, torch.Tensor) else next(iter(tensors))
            value = float(root.detach().double().sum())
            number = sum(path.startswith("loss") for path in self.current.leaves)
            self.current.leaves[f"loss {number + 1}"] = value
            self.ledger.around(lambda: backward(tensors, *args, **kwargs), root)

        def watched_construct(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            construct(optimizer, *args, **kwargs)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            known = {id(p) for p in self.ledger.parameters}
            self.ledger.parameters.extend(p for p in parameters if id(p) not in known)
            if self.nudge is not None:
                from torchlint.verify.observe import nudge

                nudge({"parameters": parameters}, self.nudge)

        torch.autograd.backward = watched_backward
        setattr(torch.optim.Optimizer, "__init__", watched_construct)  # noqa: B010 (a method of torch's own)
        register_optimizer_step_pre_hook(self._before_step)
        register_optimizer_step_post_hook(self._after_step)
        module.register_module_forward_pre_hook(self._enter)
        module.register_module_forward_hook(self._leave, always_call=True)

    def _own(self) -> bool:
        """Workers inherit the hooks and must not record."""
        return os.getpid() == self.pid and not self.finished

    def _enter(self, *_: Any) -> None:
        self.depth += 1

    def _leave(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        import torch

        from torchlint.verify.observe import leaf, walk_state

        self.depth -= 1
        if self.depth or not self._own() or self.forwards >= MOST_FORWARDS:
            return
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
        from torchlint.verify.observe import Observation, rng_state

        if not self._own():
            return
        self._tensors(optimizer, "parameter", lambda p: p)
        for name, digest in rng_state().items():
            self.current.leaves[f"random state of {name}"] = digest
        self.records.append(self.current)
        self.current = Observation()
        if len(self.records) >= self.steps:
            self.write()
            raise Enough(0)

    def _tensors(self, optimizer: Any, what: str, of: Any) -> None:
        from torchlint.verify.observe import leaf

        for g, group in enumerate(optimizer.param_groups):
            for i, parameter in enumerate(group["params"]):
                tensor = of(parameter)
                self.current.leaves[f"{what} {g}.{i}"] = None if tensor is None else leaf(tensor.detach())

    def write(self) -> None:
        if not self._own():
            return
        self.finished = True
        sys.settrace(None)
        if self.current.leaves:
            self.records.append(self.current)
        data = {"records": self.records, "deviations": self.ledger.steps, "lines": sorted(self.lines)}
        with open(os.path.join(self.out, "record.pickle"), "wb") as file:
            pickle.dump(data, file)
