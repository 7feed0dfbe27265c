"""Notices when a program replaces what its own comparison rests on, by accident or not.

The references are taken before the first line of the program's is run. What is looked at is what the agent itself
calls: torch's comparisons and conversions, digests, clocks, and the verifier's own functions. A program that is out to
deceive can go deeper than that (it shares the process); what it may do by ordinary means is noticed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pickle
import sys
from types import FunctionType
from typing import Any

_OURS = ("aftermath", "boundary", "clock", "compare", "judge", "lines", "live", "measure", "observe", "properties",
         "sandbox", "shadow", "stats", "surroundings", "verdict", "walk", "weave", "channel")  # fmt: skip
_TORCH = ("equal", "allclose", "isclose", "isnan", "isfinite", "is_tensor", "get_rng_state", "no_grad")
_TENSOR = ("__eq__", "equal", "allclose", "detach", "cpu", "contiguous", "clone", "double", "numpy", "tolist", "item",
           "to", "view", "is_contiguous", "numel", "untyped_storage", "data_ptr")  # fmt: skip
_MODULES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (hashlib, ("sha256", "blake2b", "md5", "new")),
    (pickle, ("dumps", "loads", "dump", "load")),
    (json, ("dumps", "dump")),
)

_kept: dict[tuple[str, str], tuple[Any, Any, Any]] = {}  # (owner, name) → owner, value, its code


def remember() -> None:
    """Take the references, of torch's too once it is there. To be called before the program's own code is run."""
    for name in _OURS:
        module = sys.modules.get(f"torchlint.verify.{name}")
        if module is None:
            continue
        for key, value in list(vars(module).items()):
            if isinstance(value, FunctionType) and value.__module__ == module.__name__:
                _keep(module, key)
            elif isinstance(value, type) and value.__module__ == module.__name__:
                for inner, method in list(vars(value).items()):
                    if isinstance(method, (FunctionType, property)):
                        _keep(value, inner)
    for owner, names in _MODULES:
        for name in names:
            _keep(owner, name)


def remember_torch() -> None:
    """Import torch and everything that judges, and take their references too."""
    for name in _OURS:
        importlib.import_module(f"torchlint.verify.{name}")
    torch: Any = importlib.import_module("torch")
    remember()
    for name in _TORCH:
        _keep(torch, name)
    for name in _TENSOR:
        _keep(torch.Tensor, name)


def _keep(owner: Any, name: str) -> None:
    value = _current(owner, name)
    _kept.setdefault((_name(owner), name), (owner, value, getattr(value, "__code__", None)))


def _current(owner: Any, name: str) -> Any:
    return vars(owner).get(name, getattr(owner, name, None))


def _name(owner: Any) -> str:
    return f"{owner.__module__}.{owner.__qualname__}" if isinstance(owner, type) else str(owner.__name__)


def replaced() -> str | None:
    """What the program has put in the place of something that a comparison rests on, None if all is as it was."""
    for (owner_name, name), (owner, value, code) in _kept.items():
        now = _current(owner, name)
        if (now is not value and now != value) or getattr(now, "__code__", None) is not code:
            return f"the program replaces {owner_name}.{name}: what it computes cannot be compared"
    return None
