"""Walks everything that can be reached from a value: what a call could change, and what its caller can notice.

A changed buffer deep inside a model is met as well as a changed return value, each object once.
"""

from __future__ import annotations

import collections
import functools
import random
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch

MAX_DEPTH = 12
MAX_LEAVES = 20_000

PLAIN = (int, float, complex, str, bytes, bool, type(None))
_OPAQUE = (type, types.ModuleType, types.BuiltinFunctionType, types.MethodType, types.CodeType)
_MODULE_INTERNALS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training")
GENERATORS = ("RandomState", "Generator")  # of numpy, by name: it may not be imported


def walk_state(root: Any, path: str, *, functions: bool = False) -> Iterator[tuple[str, Any]]:
    """(path, value) of every tensor, array, plain value and random generator reachable from `root`, each once.

    With `functions` also what functions keep: their closures and defaults.
    """
    seen: set[int] = set()
    keep: list[Any] = []
    count = 0

    def visit(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
        nonlocal count
        if isinstance(value, (*PLAIN, torch.dtype, torch.device, torch.Size, range, slice)):
            yield path, value
            return
        if id(value) in seen or depth > MAX_DEPTH or count > MAX_LEAVES:
            return
        seen.add(id(value))
        keep.append(value)
        count += 1
        if isinstance(value, torch.Tensor) or is_array(value):
            yield path, value
            if isinstance(value, torch.Tensor) and value.is_leaf and value.grad is not None:
                yield from visit(value.grad, f"{path}.grad", depth + 1)
        elif isinstance(value, (torch.Generator, random.Random)) or type(value).__name__ in GENERATORS:
            yield path, value
        elif isinstance(value, (*_OPAQUE, types.FunctionType)):
            # Not the qualified name: a function in a function bears the name of the version that made it.
            yield path, f"<{getattr(value, '__name__', type(value).__name__)}>"
            if functions and isinstance(value, types.FunctionType):
                for name, child in _kept_by(value):
                    yield from visit(child, f"{path}{name}", depth + 1)
        else:
            for name, child in _children(value):
                yield from visit(child, f"{path}{name}", depth + 1)

    yield from visit(root, path, 0)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.nn.Module) and "_modules" in vars(value):  # else its __init__ has not begun
        yield ".training", value.training
        for table in (value._parameters, value._buffers, value._modules):
            for name, child in table.items():
                yield f".{name}", child
        for name, child in vars(value).items():
            if "hook" in name:
                if isinstance(child, Mapping) and child:
                    yield f".{name}.len", len(child)
            elif name not in _MODULE_INTERNALS:
                yield f".{name}", child
    elif isinstance(value, torch.optim.Optimizer):
        for g, group in enumerate(value.param_groups):
            for key, setting in group.items():
                if key != "params":
                    yield f".group{g}.{key}", setting
            for p, parameter in enumerate(group["params"]):
                yield f".group{g}.param{p}", parameter
                for key, state in value.state.get(parameter, {}).items():
                    yield f".group{g}.state{p}.{key}", state
    elif isinstance(value, Mapping):
        yield ".type", type(value).__name__
        for key in list(value):
            yield f"[{key!r}]" if isinstance(key, PLAIN) else f"[{type(key).__name__}]", value[key]
        yield ".keys", repr([k if isinstance(k, PLAIN) else type(k).__name__ for k in value])
    elif isinstance(value, (list, tuple, collections.deque)):
        yield ".type", type(value).__name__
        yield ".len", len(value)
        for i, item in enumerate(value):
            yield f"[{i}]", item
    elif isinstance(value, (set, frozenset)):
        yield ".type", type(value).__name__
        yield ".items", repr(sorted(map(repr, value)))
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    else:
        yield ".type", type(value).__name__
        for name, child in (getattr(value, "__dict__", None) or {}).items():
            yield f".{name}", child
        for cls in type(value).__mro__:
            slots = getattr(cls, "__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, name) and not name.startswith("__"):
                    yield f".{name}", getattr(value, name)


def _kept_by(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        if cell_is_bound(cell):
            yield f".{name}", cell.cell_contents
    yield ".defaults", (function.__defaults__, function.__kwdefaults__)


def cell_is_bound(cell: types.CellType) -> bool:
    """Whether the variable of a closure has a value yet."""
    try:
        cell.cell_contents  # noqa: B018 (raises where it has none)
    except ValueError:
        return False
    return True


def is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def pointer(value: Any) -> int | None:
    """The address of the memory behind a tensor or array, whatever view of it this is."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.numel() == 0:
            return None
        return value.untyped_storage().data_ptr() or None
    if is_array(value) and value.size:
        while value.base is not None and is_array(value.base):
            value = value.base
        return int(value.__array_interface__["data"][0])
    return None
