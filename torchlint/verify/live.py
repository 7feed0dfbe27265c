"""What lives in a process besides the arguments of a call: what the call could change, what it makes and uses itself.

Of a model that a call makes, trains and drops, nothing can be compared from outside.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from torchlint.verify.walk import cell_is_bound


def live() -> tuple[list[Any], list[Any]]:
    """The modules (those that are ready) and the optimizers of this process."""
    # By type and not by isinstance: that would ask proxies for their __class__, and wake what they stand for.
    objects = gc.get_objects()
    modules = [o for o in objects if issubclass(type(o), torch.nn.Module) and "_modules" in vars(o)]
    return modules, [o for o in objects if issubclass(type(o), torch.optim.Optimizer)]


def world(function: Any) -> dict[str, Any]:
    """Everything that a call could change besides its arguments: live models and optimizers, the module's own data."""
    modules, optimizers = live()
    children = {id(c) for m in modules for c in m.children()}
    world: dict[str, Any] = {}
    for i, module in enumerate(m for m in modules if id(m) not in children):
        world[f"live {type(module).__name__} {i}"] = module
    for i, optimizer in enumerate(optimizers):
        world[f"live {type(optimizer).__name__} {i}"] = optimizer
    data = (torch.Tensor, int, float, str, list, dict, set)
    space = getattr(function, "__globals__", {})
    world["globals"] = {
        name: value for name, value in list(space.items()) if isinstance(value, data) and not name.startswith("__")
    }
    cells = getattr(function, "__closure__", None) or ()
    world["closure"] = [cell.cell_contents for cell in cells if cell_is_bound(cell)]
    return world


@contextlib.contextmanager
def made_inside() -> Iterator[set[str]]:
    """What the block uses that was not there when it began: "model", "optimizer"."""
    modules, optimizers = live()
    known = {id(o) for o in (*modules, *optimizers)}
    found: set[str] = set()

    def forward(module: torch.nn.Module, _: Any) -> None:
        # A module without parameters (a loss, an activation) is nothing but a function.
        if id(module) not in known and any(True for _ in module.parameters()):
            found.add("model")

    def step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if id(optimizer) not in known:
            found.add("optimizer")

    handles = register_module_forward_pre_hook(forward), register_optimizer_step_pre_hook(step)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
