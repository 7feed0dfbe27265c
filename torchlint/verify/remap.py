"""Runs CUDA code on a machine without a GPU: cuda becomes cpu, and what would have crossed the bus is counted.

A tensor that would live on the device carries a mark; `tensor.device` and `tensor.is_cuda` tell the code what it would
see on a GPU, `.numpy()` and mixed-device arithmetic fail as they would there. Times mean nothing under the remapping.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

_MARK = "_torchlint_on_device"
_DEVICE = torch.device("cuda", 0)

_SYNCS = {
    "item", "tolist", "__bool__", "__float__", "__int__", "__index__", "__repr__", "__format__", "__contains__",
    "nonzero", "masked_select", "unique", "equal", "allclose", "argwhere",
}  # fmt: skip
# Without `device=` these make tensors in host memory, whatever their arguments are.
_FACTORIES = {"tensor", "as_tensor", "from_numpy", "zeros", "ones", "empty", "rand", "randn", "arange", "full"}
# Operations that refuse operands on two devices. Zero-dimensional CPU tensors are promoted and pass.
_ONE_DEVICE = {
    "add", "sub", "mul", "div", "__add__", "__sub__", "__mul__", "__truediv__", "matmul", "__matmul__", "mm", "bmm",
    "linear", "conv1d", "conv2d", "conv3d", "embedding", "cat", "stack", "cross_entropy", "nll_loss", "mse_loss",
    "l1_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "eq", "__eq__", "where", "batch_norm",
}  # fmt: skip


def on_device(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and _MARK in getattr(value, "__dict__", {})


def _is_cuda(device: Any) -> bool:
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, str) and device.partition(":")[0] == "cuda"


class Remap(TorchFunctionMode):
    """`counters` holds host→device and device→host copies, blocking ones, syncs, device operations, caches emptied."""

    def __init__(self) -> None:
        super().__init__()
        self.counters: Counter[str] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__"):
            return self._attribute(func, name, args, kwargs)
        first = args[0] if args else None
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        marked = any(on_device(t) for t in tensors)
        if isinstance(first, torch.Tensor) and name in ("to", "cuda", "cpu"):
            return self._move(func, name, args, kwargs)
        if name == "numpy" and on_device(first):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it first.")
        if marked and name in _SYNCS:
            self.counters["syncs"] += 1
        if marked and name in _ONE_DEVICE and any(not on_device(t) and t.dim() for t in tensors):
            raise RuntimeError("Expected all tensors to be on the same device, but found at least two: cuda:0 and cpu")
        if name == "copy_" and len(tensors) == 2 and on_device(tensors[0]) != on_device(tensors[1]):
            self._count_copy(to_device=on_device(tensors[0]), blocking=not kwargs.get("non_blocking", False))
            return func(*args, **kwargs)
        target = kwargs.get("device")
        if _is_cuda(target) or (isinstance(target, int) and not isinstance(target, bool)):
            kwargs["device"] = torch.device("cpu")
            marked = True
            if name in ("tensor", "as_tensor", "asarray", "from_numpy"):
                self._count_copy(to_device=True, blocking=True)
        elif target is not None or name in _FACTORIES:
            marked = False
        result = func(*args, **kwargs)
        if marked:
            self.counters["device ops"] += 1
            tree_map(self._mark, result)
        return result

    def _attribute(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        attribute = getattr(func.__self__, "__name__", "")
        if name == "__get__" and on_device(args[0]):
            if attribute == "device":
                return _DEVICE
            if attribute == "is_cuda":
                return True
            result = func(*args, **kwargs)
            return self._mark(result) if isinstance(result, torch.Tensor) else result
        result = func(*args, **kwargs)
        if name == "__set__" and attribute == "data":
            if on_device(args[1]):
                self._mark(args[0])
            else:
                args[0].__dict__.pop(_MARK, None)
        return result

    def _move(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        source: torch.Tensor = args[0]
        rest = list(args[1:])
        if name == "cuda":
            target: Any = _DEVICE
            blocking = not (kwargs.get("non_blocking") or (len(rest) > 1 and rest[1]))
            dtype = None
        elif name == "cpu":
            target, blocking, dtype = torch.device("cpu"), True, None
        else:
            devices = [a for a in [*rest, kwargs.get("device")] if isinstance(a, (str, torch.device))]
            others = [a for a in [*rest, kwargs.get("other")] if isinstance(a, torch.Tensor)]
            dtypes = [a for a in [*rest, kwargs.get("dtype")] if isinstance(a, torch.dtype)]
            target = devices[0] if devices else None
            if others:
                target = _DEVICE if on_device(others[0]) else torch.device("cpu")
            if any(isinstance(a, int) and not isinstance(a, bool) for a in rest[:1]):
                target = _DEVICE
            blocking = not (kwargs.get("non_blocking") or any(a is True for a in rest))
            dtype = dtypes[0] if dtypes else (others[0].dtype if others else None)
        goes = on_device(source) if target is None else _is_cuda(target)
        moves = goes != on_device(source)
        if moves:
            self._count_copy(to_device=goes, blocking=blocking)
        copy = moves or bool(kwargs.get("copy"))
        result = torch.Tensor.to(source, dtype=dtype or source.dtype, copy=copy)
        if goes:
            return self._mark(result)
        result.__dict__.pop(_MARK, None)
        return result

    def _count_copy(self, *, to_device: bool, blocking: bool) -> None:
        self.counters["host→device copies" if to_device else "device→host copies"] += 1
        if blocking:
            self.counters["blocking copies"] += 1
            if not to_device:
                self.counters["syncs"] += 1

    @staticmethod
    def _mark(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            value.__dict__[_MARK] = True
        return value


@contextlib.contextmanager
def remapped() -> Iterator[Remap]:
    """Run the block as if there were one CUDA device."""
    mode = Remap()

    def synchronize(*_: Any) -> None:
        mode.counters["syncs"] += 1

    def emptied(*_: Any) -> None:
        mode.counters["caches emptied"] += 1

    def nothing(*_: Any, **__: Any) -> None:
        return None

    def zero(*_: Any, **__: Any) -> int:
        return 0

    replaced: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": zero,
        "synchronize": synchronize,
        "empty_cache": emptied,
        "set_device": nothing,
        "manual_seed_all": nothing,
        "max_memory_allocated": zero,
        "memory_allocated": zero,
        "reset_peak_memory_stats": nothing,
        "get_device_name": lambda *_: "remapped to the CPU",
    }
    with contextlib.ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mode)
        yield mode
