"""Which `with torch.autocast(…)` stands around an event, and in what precision it lets it run."""

from __future__ import annotations

from dataclasses import dataclass, field

import libcst as cst

from torchlint.nodes import argument, literal
from torchlint.semantics.effects import Event
from torchlint.semantics.model import Semantics

_GENERIC = frozenset(("torch.autocast", "torch.amp.autocast", "torch.amp.autocast_mode.autocast"))
_OF_CUDA = frozenset(("torch.cuda.amp.autocast", "torch.cuda.amp.autocast_mode.autocast"))
_HALF = frozenset(("torch.float16", "torch.half"))


@dataclass(frozen=True, eq=False)
class Autocast:
    """One `with` that casts. `device`: the code of its device type. `half`: it certainly casts to float16."""

    node: cst.With = field(repr=False)
    call: cst.Call = field(repr=False)
    device: str
    half: bool


def autocast_around(sem: Semantics, event: Event) -> Autocast | None:
    """The innermost autocast region that an event certainly runs in; None where autocast may be off."""
    for scope in reversed(event.scopes):
        for item in scope.items:
            if isinstance(item.item, cst.Call):
                found = _autocast(sem, scope, item.item)
                if found is not None:
                    return None if _is_off(sem, item.item) else found
    return None


def _autocast(sem: Semantics, scope: cst.With, call: cst.Call) -> Autocast | None:
    name = sem.qualified(call.func)
    if name not in _GENERIC and name not in _OF_CUDA:
        return None
    own_device = argument(call, "device_type", 0) if name in _GENERIC else None
    device = sem.file.code(own_device.value) if own_device is not None else '"cuda"'
    dtype = argument(call, "dtype", 1)
    on_cuda = name in _OF_CUDA or (own_device is not None and str(literal(own_device.value)).startswith("cuda"))
    half = sem.qualified(dtype.value) in _HALF if dtype is not None else on_cuda
    return Autocast(scope, call, device, half)


def _is_off(sem: Semantics, call: cst.Call) -> bool:
    """Whether `enabled=` says False, or something that is only known at run time."""
    first = sem.qualified(call.func) in _OF_CUDA  # its first argument; the generic one's is the device
    enabled = argument(call, "enabled", 0 if first else 2)
    return enabled is not None and literal(enabled.value) is not True
