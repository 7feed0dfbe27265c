"""The state of the whole process that a call may read or change: random generators, torch's and Python's switches."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def rng_state() -> dict[str, str]:
    """A digest per random generator of the process."""
    state = {
        "torch": digest(torch.get_rng_state().numpy().tobytes()),
        "python": digest(repr(random.getstate()).encode()),
    }
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        words = numpy.random.get_state(legacy=False)["state"]
        state["numpy"] = digest(words["key"].tobytes() + str(words["pos"]).encode())
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for i in range(torch.cuda.device_count()):
            state[f"cuda:{i}"] = digest(torch.cuda.get_rng_state(i).numpy().tobytes())
    return state


def seed_all(seed: int) -> None:
    """Seed every generator of the process."""
    random.seed(seed)
    torch.manual_seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


_CPU = torch.device("cpu")
_SMALLEST, _ONE = 5e-324, 1.0


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return "."


def _hear(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)


# Global switches that a fix could leave flipped: name → (read, write).
_FLAGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "autocast cpu": (
        lambda: torch.is_autocast_enabled("cpu"),
        lambda on: torch.set_autocast_enabled("cpu", on),
    ),
    "autocast cuda": (
        lambda: torch.is_autocast_enabled("cuda"),
        lambda on: torch.set_autocast_enabled("cuda", on),
    ),
    "anomaly detection": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    "matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "cudnn benchmark": (
        lambda: torch.backends.cudnn.benchmark,
        lambda on: setattr(torch.backends.cudnn, "benchmark", on),
    ),
    "cudnn deterministic": (
        lambda: torch.backends.cudnn.deterministic,
        lambda on: setattr(torch.backends.cudnn, "deterministic", on),
    ),
    "cudnn": (lambda: torch.backends.cudnn.enabled, lambda on: setattr(torch.backends.cudnn, "enabled", on)),
    "cudnn TF32": (
        lambda: torch.backends.cudnn.allow_tf32,
        lambda on: setattr(torch.backends.cudnn, "allow_tf32", on),
    ),
    "flash attention": (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    "memory-efficient attention": (
        torch.backends.cuda.mem_efficient_sdp_enabled,
        torch.backends.cuda.enable_mem_efficient_sdp,
    ),
    "plain attention": (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
    "default device": (torch.get_default_device, lambda old: torch.set_default_device(None if old == _CPU else old)),
    "denormal numbers flushed": (lambda: _SMALLEST * _ONE == 0, torch.set_flush_denormal),
    "print options": (
        lambda: asdict(torch._tensor_str.PRINT_OPTS),
        lambda old: vars(torch._tensor_str.PRINT_OPTS).update(old),
    ),
    "numpy's errors": (
        lambda: sys.modules["numpy"].geterr() if "numpy" in sys.modules else None,
        lambda old: sys.modules["numpy"].seterr(**old) if old else None,
    ),
    "garbage collection": (gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    "directory": (_directory, os.chdir),
    "log off up to": (lambda: logging.root.manager.disable, logging.disable),
    "log level": (lambda: logging.root.level, logging.root.setLevel),
    "interrupt": (lambda: signal.getsignal(signal.SIGINT), _hear),
    "recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
}


def global_flags() -> dict[str, Any]:
    """Every switch as it stands."""
    flags = {name: read() for name, (read, _) in _FLAGS.items()}
    flags["inference mode"] = torch.is_inference_mode_enabled()
    return flags


def restore_flags(flags: Mapping[str, Any]) -> None:
    """Put back what a call left flipped, so that the next call starts from the same state."""
    for name, (read, write) in _FLAGS.items():
        if name in flags and read() != flags[name]:
            write(flags[name])
