"""Notices when a program replaces what its own comparison rests on, by accident or not.

The references are taken before the first line of the edited code is run. What is looked at is what the verifier's own
code names: its modules, functions and constants, and whatever of Python, torch and the standard library these call. A
program that is out to deceive can go deeper than that (it shares the process); what it may do by ordinary means is
noticed.
"""

from __future__ import annotations

import dis
import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

_OURS = ("aftermath", "boundary", "call", "channel", "clock", "compare", "judge", "lines", "live", "measure", "observe",
         "properties", "sandbox", "shadow", "stats", "stopping", "surroundings",
         "tamper", "verdict", "walk")  # fmt: skip
# What code does to tensors without naming it.
_OPERATORS = (
    "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__add__", "__sub__", "__mul__", "__truediv__",
    "__and__", "__or__", "__xor__", "__invert__", "__neg__", "__bool__", "__float__", "__int__", "__index__",
    "__getitem__", "__setitem__", "__len__", "__iter__", "__array__", "allclose", "tolist",
)  # fmt: skip
# What programs replace to run without a GPU or a compiler, with older files, behind a proxy or quietly. No judgement
# goes by it.
_THEIRS = frozenset(("compile", "cuda", "load", "socket", "warn"))
_STORE_GLOBAL = dis.opmap["STORE_GLOBAL"]
_ABSENT = object()

# What looks for replacements must not itself go by what may have been replaced.
_type, _tuple, _map, _id = type, tuple, map, id

Spaces = tuple[Mapping[str, Any], ...]

_kept: dict[tuple[str, str], tuple[Spaces, Any, Any]] = {}  # (owner, name) → where it stands, value, its insides


def remember() -> None:
    """Import torch and everything that judges, and take the references. Further calls do nothing."""
    if _kept:
        return
    ours = [importlib.import_module(f"torchlint.verify.{name}") for name in _OURS]
    torch: Any = importlib.import_module("torch")
    used: set[str] = set()
    for module in ours:
        _keep_own(module, used)
    for module in {id(v): v for m in ours for v in vars(m).values() if isinstance(v, ModuleType)}.values():
        if module not in ours:
            _keep_called(module, used - _THEIRS)
    _keep_called(importlib.import_module("builtins"), used | {"__import__", "__build_class__"})
    for owner in (torch.Tensor, torch.nn.Module, torch.optim.Optimizer):
        named = {name for name in used - _THEIRS if not name.startswith("__")}
        for name in named.union(_OPERATORS if owner is torch.Tensor else ()):
            if _current(_spaces(owner), name) is not _ABSENT:
                _keep(owner, name)
    for owner, name in ((torch, "allclose"), (torch.autograd, "backward")):
        _keep(owner, name)
    for name in used.intersection(sys.modules):
        _keep(sys.modules, name)


def replaced() -> str | None:
    """What the program has put in the place of something that a comparison rests on, None if all is as it was."""
    for (owner_name, name), (spaces, value, insides) in _kept.items():
        now = _current(spaces, name)
        if (now is not value or _insides(name, now) != insides) and not _is_torchs_own(owner_name, now):
            return f"the program replaces {owner_name}.{name}: what it computes cannot be compared"
    return None


def _is_torchs_own(owner_name: str, now: Any) -> bool:
    """torch puts functions around some of its own, `manual_seed` for one, when its compiler is first imported."""
    if owner_name.partition(".")[0] != "torch" or _type(now) is not FunctionType:
        return False
    folder = os.path.dirname(str(sys.modules["torch"].__file__))
    file: str = now.__code__.co_filename
    return file.startswith(os.path.join(folder, ""))


def _keep_own(module: ModuleType, used: set[str]) -> None:
    """All of a module of ours but its variables; the names that its code uses are added to `used`."""
    own = [v for v in vars(module).values() if getattr(v, "__module__", None) == module.__name__]
    inner = [f for c in own if isinstance(c, type) for f in vars(c).values()]
    codes = [c for v in (*own, *inner) for f in _functions(v) for c in _codes(f.__code__)]
    variables = {name for code in codes for name in _stored(code)}
    used.update(name for code in codes for name in code.co_names)
    for name in vars(module):
        if name not in variables and not name.startswith("__"):
            _keep(module, name)
    for owner in own:
        if isinstance(owner, type):
            for name, value in vars(owner).items():
                if any(_functions(value)):
                    _keep(owner, name)


def _keep_called(module: ModuleType, used: Iterable[str]) -> None:
    """What a module of somebody else's offers to be called under one of the names; the rest of it may well change."""
    for name in used:
        if callable(vars(module).get(name)):
            _keep(module, name)


def _functions(value: Any) -> Iterator[FunctionType]:
    """The functions that a value is made of: decorators, and what they are around."""
    for one in (value.fget, value.fset) if isinstance(value, property) else (value,):
        while one is not None:
            if isinstance(one, FunctionType):
                yield one
            one = getattr(one, "__wrapped__", None)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _stored(code: CodeType) -> Iterator[str]:
    """The global variables that the code assigns to."""
    if _STORE_GLOBAL in code.co_code[::2]:
        yield from (i.argval for i in dis.get_instructions(code) if i.opcode == _STORE_GLOBAL)


def _keep(owner: Any, name: str) -> None:
    spaces = _spaces(owner)
    value = _current(spaces, name)
    _kept.setdefault((_name(owner), name), (spaces, value, _insides(name, value)))


def _spaces(owner: Any) -> Spaces:
    if isinstance(owner, type):
        return tuple(vars(cls) for cls in owner.__mro__)
    return (owner if isinstance(owner, dict) else vars(owner),)


def _insides(name: str, value: Any) -> Any:
    """What can be changed of a function, or of a constant, while it stays the same object."""
    kind = _type(value)
    if kind is FunctionType:
        return value.__code__, value.__defaults__, _tuple((value.__kwdefaults__ or {}).items())
    if name.isupper() and (kind is dict or kind is list or kind is set):
        return _tuple(_map(_id, value.values() if kind is dict else value))
    return None


def _current(spaces: Spaces, name: str) -> Any:
    """What the name means there, without running any code of the program's."""
    for space in spaces:
        if name in space:
            return space[name]
    return _ABSENT


def _name(owner: Any) -> str:
    if isinstance(owner, dict):
        return "sys.modules"
    return f"{owner.__module__}.{owner.__qualname__}" if isinstance(owner, type) else str(owner.__name__)
