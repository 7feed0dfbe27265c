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
_ATOMS = (torch.dtype, torch.device, torch.Size, range, slice)
_CONTAINERS: tuple[Any, ...] = (collections.OrderedDict, dict, list, tuple, collections.deque, set, frozenset)
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: the type was made by a class statement
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
        if is_a(value, PLAIN) or type(value) in _ATOMS:
            if made_in_python(type(value)):
                yield f"{path}.type", type(value).__name__
            yield path, plain(value)
            return
        if id(value) in seen or depth > MAX_DEPTH or count > MAX_LEAVES:
            return
        seen.add(id(value))
        keep.append(value)
        count += 1
        if is_a(value, torch.Tensor) or is_array(value):
            yield path, value
            if is_a(value, torch.Tensor) and value.is_leaf and value.grad is not None:
                yield from visit(value.grad, f"{path}.grad", depth + 1)
        elif is_a(value, (torch.Generator, random.Random)) or type(value).__name__ in GENERATORS:
            yield path, value
        elif is_a(value, (*_OPAQUE, types.FunctionType)):
            # Not the qualified name: a function in a function bears the name of the version that made it.
            yield path, f"<{getattr(value, '__name__', type(value).__name__)}>"
            if functions and is_a(value, types.FunctionType):
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
    elif is_a(value, _CONTAINERS) or isinstance(value, Mapping):
        yield ".type", type(value).__name__
        yield from _contents(value)
        if made_in_python(type(value)):
            yield from _attributes(value)
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    else:
        yield ".type", type(value).__name__
        yield from _attributes(value)


def _contents(value: Any) -> Iterator[tuple[str, Any]]:
    """What a container holds, by the ways of the builtin type that it is of: a subclass may tell otherwise."""
    kind = next((k for k in _CONTAINERS if is_a(value, k)), None)
    if kind is None or issubclass(kind, dict):
        items = [(key, value[key]) for key in list(value)] if kind is None else list(kind.items(value))
        for key, child in items:
            yield f"[{plain(key)!r}]" if is_a(key, PLAIN) else f"[{type(key).__name__}]", child
        yield ".keys", repr([plain(k) if is_a(k, PLAIN) else type(k).__name__ for k, _ in items])
    elif kind in (set, frozenset):
        yield ".items", repr(sorted(map(repr, kind.__iter__(value))))
    else:
        held = list(kind.__iter__(value))
        yield ".len", len(held)
        for i, item in enumerate(held):
            yield f"[{i}]", item


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object keeps, read past its own ways of being read."""
    for cls in type(value).__mro__:
        for name, slot in vars(cls).items():
            if name == "__dict__" and type(slot) is types.GetSetDescriptorType:
                for key, child in slot.__get__(value).items():
                    yield f".{key}", child
            elif type(slot) is types.MemberDescriptorType and made_in_python(cls) and not name.startswith("__"):
                try:
                    child = slot.__get__(value)
                except AttributeError:  # it was never set
                    continue
                yield f".{name}", child


def is_a(value: Any, types: Any) -> bool:
    """Whether the object is of the type, whatever its `__class__` says."""
    return issubclass(type(value), types)


def made_in_python(cls: type) -> bool:
    return bool(cls.__flags__ & _HEAP_TYPE)


def plain(value: Any) -> Any:
    """The number or text that a value is, without what a subclass of its own makes of comparing and pickling it."""
    if not made_in_python(type(value)):
        return value
    if is_a(value, complex):
        return complex(complex.real.__get__(value), complex.imag.__get__(value))
    if is_a(value, bytes):
        return bytes.__getitem__(value, slice(None))
    kinds: tuple[tuple[type, Any], ...] = ((int, int.__int__), (float, float.__float__), (str, str.__str__))
    return next((read(value) for kind, read in kinds if is_a(value, kind)), value)


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
    return numpy is not None and is_a(value, numpy.ndarray)


def pointer(value: Any) -> int | None:
    """The address of the memory behind a tensor or array, whatever view of it this is."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.numel() == 0:
            return None
        try:
            return value.untyped_storage().data_ptr() or None
        except RuntimeError:  # a tensor made of others has no memory of its own
            return None
    if is_array(value) and value.size:
        while value.base is not None and is_array(value.base):
            value = value.base
        return int(value.__array_interface__["data"][0])
    return None
