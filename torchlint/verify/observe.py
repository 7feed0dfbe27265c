"""What one call did, as a flat record: return, exception, stdout, random state, arguments, memory sharing, flags.

Everything reachable from the arguments is walked (modules, optimizers, containers, plain objects), so a changed buffer
deep inside a model is seen as well as a changed return value. Tensors are copied to the CPU.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import io
import math
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

MAX_DEPTH = 12
MAX_LEAVES = 20_000

_PLAIN = (int, float, complex, str, bytes, bool, type(None))
_OPAQUE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.CodeType)
_MODULE_INTERNALS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training")


@dataclass(frozen=True, slots=True)
class TensorLeaf:
    """A tensor's values (detached, contiguous, on the CPU) and what else a caller can notice about it."""

    value: torch.Tensor
    shape: tuple[int, ...]
    dtype: str
    device: str
    requires_grad: bool
    inference: bool
    contiguous: bool
    container: str  # "Tensor", "Parameter", "ndarray", …


@dataclass(frozen=True, slots=True)
class DigestLeaf:
    """A tensor by the digest of its values, where carrying them would be too much."""

    digest: str
    facts: tuple[Any, ...]


@dataclass(slots=True)
class Observation:
    """`leaves` is ordered: what is nearest to a caller comes first, so the first difference is the telling one."""

    leaves: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    exception: str | None = None
    traceback: str = ""
    result: Any = None  # what the call returned, until the next call has been judged against it


# -- walking state ----------------------------------------------------------------------------------------------------


def walk_state(root: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(path, value) of every tensor, array, plain value and random generator reachable from `root`, each once."""
    seen: set[int] = set()
    keep: list[Any] = []
    count = 0

    def visit(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
        nonlocal count
        if isinstance(value, (*_PLAIN, torch.dtype, torch.device, torch.Size, range, slice)):
            yield path, value
            return
        if id(value) in seen or depth > MAX_DEPTH or count > MAX_LEAVES:
            return
        seen.add(id(value))
        keep.append(value)
        count += 1
        if isinstance(value, torch.Tensor) or _is_array(value):
            yield path, value
            if isinstance(value, torch.Tensor) and value.is_leaf and value.grad is not None:
                yield from visit(value.grad, f"{path}.grad", depth + 1)
        elif isinstance(value, (torch.Generator, random.Random)) or type(value).__name__ in (
            "RandomState",
            "Generator",
        ):
            yield path, value
        elif isinstance(value, _OPAQUE):
            yield path, f"<{getattr(value, '__qualname__', type(value).__name__)}>"
        else:
            for name, child in _children(value):
                yield from visit(child, f"{path}{name}", depth + 1)

    yield from visit(root, path, 0)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.nn.Module):
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
        for key in list(value):
            yield f"[{key!r}]" if isinstance(key, _PLAIN) else f"[{type(key).__name__}]", value[key]
        yield ".keys", repr([k if isinstance(k, _PLAIN) else type(k).__name__ for k in value])
    elif isinstance(value, (list, tuple, collections.deque)):
        yield ".len", len(value)
        for i, item in enumerate(value):
            yield f"[{i}]", item
    elif isinstance(value, (set, frozenset)):
        yield ".items", repr(sorted(map(repr, value)))
    else:
        yield ".type", type(value).__name__
        for name, child in (getattr(value, "__dict__", None) or {}).items():
            yield f".{name}", child
        for cls in type(value).__mro__:
            slots = getattr(cls, "__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, name) and not name.startswith("__"):
                    yield f".{name}", getattr(value, name)


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def leaf(value: Any) -> Any:
    """A comparable copy of one walked value."""
    if isinstance(value, torch.Tensor):
        return _tensor_leaf(value)
    if _is_array(value):
        if value.dtype.kind in "biufc":
            tensor = torch.from_numpy(value.copy())
            return TensorLeaf(
                tensor,
                tuple(value.shape),
                str(value.dtype),
                "cpu",
                False,
                False,
                bool(value.flags.c_contiguous),
                "ndarray",
            )
        return repr(value.tolist())
    if isinstance(value, torch.Generator):
        return _digest(value.get_state().numpy().tobytes())
    if isinstance(value, random.Random):
        return _digest(repr(value.getstate()).encode())
    if type(value).__name__ in ("RandomState", "Generator"):
        return _digest(repr(value).encode() + repr(getattr(value, "bit_generator", value)).encode())
    if isinstance(value, _PLAIN):
        return value
    return repr(value)


def digested(record: Observation, keep: frozenset[str] = frozenset()) -> Observation:
    """The record with digests in place of the tensors, but for the paths in `keep`; without the result itself."""
    leaves = {
        path: _digest_leaf(value) if isinstance(value, TensorLeaf) and path not in keep else value
        for path, value in record.leaves.items()
    }
    return replace(record, leaves=leaves, result=None)


def _digest_leaf(leaf: TensorLeaf) -> DigestLeaf:
    value = leaf.value
    if value.is_floating_point():
        value = value.masked_fill(value.isnan(), math.nan)  # all NaNs are one
    data = value.contiguous().flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b""
    facts = (leaf.shape, leaf.dtype, leaf.device, leaf.requires_grad, leaf.inference, leaf.container)
    return DigestLeaf(_digest(data), facts)


def _tensor_leaf(tensor: torch.Tensor) -> TensorLeaf:
    with torch.no_grad():
        dense = tensor.detach()
        if dense.layout != torch.strided:
            dense = dense.to_dense()
        if dense.is_quantized:
            dense = dense.dequantize()
        # A plain copy: an inference tensor, a view or a subclass must not carry over into the comparison.
        value = torch.empty(dense.shape, dtype=dense.dtype)
        if not dense.is_meta:
            value.copy_(dense.resolve_conj().resolve_neg())
    return TensorLeaf(
        value,
        tuple(tensor.shape),
        str(tensor.dtype),
        str(tensor.device),
        tensor.requires_grad,
        tensor.is_inference(),
        tensor.layout != torch.strided or tensor.is_contiguous(),
        type(tensor).__name__,
    )


def _pointer(value: Any) -> int | None:
    """The address of the memory behind a tensor or array, whatever view of it this is."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.numel() == 0:
            return None
        return value.untyped_storage().data_ptr() or None
    if _is_array(value) and value.size:
        while value.base is not None and _is_array(value.base):
            value = value.base
        return int(value.__array_interface__["data"][0])
    return None


# -- global state -----------------------------------------------------------------------------------------------------


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def rng_state() -> dict[str, str]:
    """A digest per random generator of the process."""
    state = {
        "torch": _digest(torch.get_rng_state().numpy().tobytes()),
        "python": _digest(repr(random.getstate()).encode()),
    }
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        words = numpy.random.get_state(legacy=False)["state"]
        state["numpy"] = _digest(words["key"].tobytes() + str(words["pos"]).encode())
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for i in range(torch.cuda.device_count()):
            state[f"cuda:{i}"] = _digest(torch.cuda.get_rng_state(i).numpy().tobytes())
    return state


def seed_all(seed: int) -> None:
    """Seed every generator of the process."""
    random.seed(seed)
    torch.manual_seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


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
}


def global_flags() -> dict[str, Any]:
    flags = {name: read() for name, (read, _) in _FLAGS.items()}
    flags["inference mode"] = torch.is_inference_mode_enabled()
    return flags


def restore_flags(flags: Mapping[str, Any]) -> None:
    """Put back what a call left flipped, so that the next call starts from the same state."""
    for name, (read, write) in _FLAGS.items():
        if name in flags and read() != flags[name]:
            write(flags[name])


# -- one call ---------------------------------------------------------------------------------------------------------


def observe(
    entry: Callable[..., Any], inputs: Mapping[str, Any], /, *, backward: bool = True, earlier: Any = None
) -> Observation:
    """Call `entry(**inputs)` and record everything that a caller could notice. The caller's flags are restored.

    With `backward`, the returned tensors that carry a graph are differentiated with fixed random weights and the
    gradients that arrive at the arguments are part of the record. `earlier` is what an earlier call returned: memory
    that is handed out twice is noted.
    """
    flags = global_flags()
    # Strong references: memory of an argument must not be reused for a result while sharing is being judged.
    inputs_before = [(path, value) for path, value in walk_state(dict(inputs), "arg") if _pointer(value)]
    owners: dict[int, str] = {}
    for path, value in inputs_before:
        owners.setdefault(_pointer(value) or 0, path)

    for _, value in walk_state(earlier, "earlier"):
        pointer = _pointer(value)
        if pointer is not None:
            owners.setdefault(pointer, "an earlier result")

    result: Any = None
    error: BaseException | None = None
    stdout = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(stdout):
        warnings.simplefilter("ignore")
        try:
            result = entry(**inputs)
        except (Exception, SystemExit) as caught:
            error = caught

    record = Observation(result=result)
    leaves = record.leaves
    leaves["exception"] = None if error is None else type(error).__name__
    if error is not None:
        import traceback

        record.exception = f"{type(error).__name__}: {error}"
        record.traceback = "".join(traceback.format_exception(error))
        record.notes["exception message"] = str(error)
    rng = rng_state()
    after = global_flags()
    restore_flags(flags)

    returned = list(walk_state(result, "return"))
    for path, value in returned:
        leaves[path] = leaf(value)
        pointer = _pointer(value)
        if pointer is not None:
            leaves[f"{path}@shares memory with"] = owners.get(pointer, "nothing")
    for path, value in walk_state(dict(inputs), "arg"):
        leaves[path] = leaf(value)
        pointer = _pointer(value)
        if pointer is not None and owners.get(pointer, path) != path:
            leaves[f"{path}@shares memory with"] = owners[pointer]
    for name, digest in rng.items():
        leaves[f"random state of {name}"] = digest
    for name, value in after.items():
        leaves[f"flag {name}"] = repr(value)
    leaves["stdout"] = stdout.getvalue()
    if backward and error is None:
        _differentiate([v for _, v in returned if isinstance(v, torch.Tensor)], inputs, leaves)
    return record


def _differentiate(outputs: list[torch.Tensor], inputs: Mapping[str, Any], leaves: dict[str, Any]) -> None:
    outputs = [t for t in outputs if t.requires_grad and not t.is_leaf and (t.is_floating_point() or t.is_complex())]
    if not outputs:
        return
    generator = torch.Generator().manual_seed(99)
    weights = [
        torch.randn(t.shape, generator=generator, dtype=torch.float64).to(dtype=t.dtype, device=t.device)
        for t in outputs
    ]
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.autograd.backward(outputs, weights)
    except RuntimeError as error:
        leaves["backward.exception"] = type(error).__name__
        return
    for path, value in walk_state(dict(inputs), "arg"):
        if isinstance(value, torch.Tensor) and value.is_leaf and value.requires_grad:
            leaves[f"backward.{path}.grad"] = None if value.grad is None else leaf(value.grad)


# -- changed inputs ---------------------------------------------------------------------------------------------------


def _floats(inputs: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    for _, value in walk_state(dict(inputs), "arg"):
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.layout == torch.strided:
            yield value


def nudge(inputs: Mapping[str, Any], seed: int) -> None:
    """Move every float in every tensor and array by one ulp, up or down at random: this shows the conditioning.

    Whole numbers stay: a target of 1.0 or a mask is exact, and 1.0000001 would be no probability any more.
    """
    generator = torch.Generator().manual_seed(seed)
    for tensor in _floats(inputs):
        data = tensor.data
        if data.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            continue
        up = torch.rand(data.shape, generator=generator).to(data.device) < 0.5
        toward = torch.where(up, torch.inf, -torch.inf).to(data.dtype)
        if any(stride == 0 and size > 1 for size, stride in zip(data.shape, data.stride())):
            continue
        moved = torch.nextafter(data, toward) if data.dtype != torch.float16 else _nextafter_half(data, up)
        data.copy_(torch.where(data == data.round(), data, moved))
    for _, value in walk_state(dict(inputs), "arg"):
        if _is_array(value) and value.dtype.kind == "f" and value.flags.writeable:
            numpy = sys.modules["numpy"]
            upward = (torch.rand(value.shape, generator=generator) < 0.5).numpy()
            shifted = numpy.nextafter(value, numpy.where(upward, numpy.inf, -numpy.inf).astype(value.dtype))
            value[...] = numpy.where(value == value.round(), value, shifted)


def _nextafter_half(data: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    step = torch.finfo(data.dtype).eps * data.abs().clamp_min(torch.finfo(data.dtype).tiny)
    return data + torch.where(up, step, -step)


def to_double(inputs: Mapping[str, Any]) -> None:
    """Turn every float32 tensor reachable from the inputs into float64, in place, gradients included."""
    for tensor in list(_floats(inputs)):
        if tensor.dtype == torch.float32:
            grad = tensor.grad if tensor.is_leaf else None
            if grad is not None:
                tensor.grad = None
            tensor.data = tensor.data.double()
            if grad is not None:
                tensor.grad = grad.double()
