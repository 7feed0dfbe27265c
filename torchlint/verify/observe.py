"""What one call did, as a flat record: return, exception, stdout, random state, arguments, memory sharing, flags.

Everything reachable from the arguments is walked (modules, optimizers, containers, plain objects), so a changed buffer
deep inside a model is seen as well as a changed return value. Tensors are copied to the CPU.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import linecache
import math
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from torchlint.verify import aftermath
from torchlint.verify.surroundings import digest, global_flags, restore_flags, rng_state
from torchlint.verify.walk import GENERATORS, PLAIN, is_a, is_array, plain, pointer, walk_state

_MOST_DRAWN = 64


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
    deliberate: bool = False  # whether the exception comes from a `raise` or `assert` of the code's own
    result: Any = None  # what the call returned, until the next call has been judged against it


# -- copies -----------------------------------------------------------------------------------------------------------


def leaf(value: Any) -> Any:
    """A comparable copy of one walked value."""
    if is_a(value, torch.Tensor):
        return _tensor_leaf(value)
    if is_array(value):
        kind, numpy = type(value).__name__, sys.modules["numpy"]
        value = numpy.ndarray.view(value, numpy.ndarray)
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
                kind,
            )
        return repr(value.tolist())
    if is_a(value, torch.Generator):
        return digest(value.get_state().numpy().tobytes())
    if is_a(value, random.Random):
        return digest(repr(value.getstate()).encode())
    if type(value).__name__ in GENERATORS:
        return digest(repr(value).encode() + repr(getattr(value, "bit_generator", value)).encode())
    if is_a(value, PLAIN):
        return plain(value)
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
    return DigestLeaf(digest(data), facts)


def _tensor_leaf(tensor: torch.Tensor) -> TensorLeaf | str:
    # Neither a subclass nor a mode of the program's may answer for a tensor: it would say what it likes.
    with torch._C.DisableTorchFunction():
        if not _speaks_for_itself(type(tensor)):
            with torch._C._DisableTorchDispatch():
                return _copied(tensor)
        if type(tensor).__module__.startswith("torch."):
            return _copied(tensor)
    # Whatever is compared with this differs, the same program's second run too: it is not-verifiable.
    return f"a {type(tensor).__name__} computes what it shows of itself: {os.urandom(8).hex()}"


def _speaks_for_itself(kind: type[torch.Tensor]) -> bool:
    return kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def _copied(tensor: torch.Tensor) -> TensorLeaf:
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


# -- one call ---------------------------------------------------------------------------------------------------------


class _Drawn:
    """What an iterator that was returned yields: the values that are made when somebody asks."""

    def __init__(self, iterator: Any) -> None:
        self.of = type(iterator).__name__
        self.items = list(itertools.islice(iterator, _MOST_DRAWN))


def observe(
    entry: Callable[..., Any],
    inputs: Mapping[str, Any],
    /,
    *,
    backward: bool = True,
    earlier: Any = None,
    function: Any = None,
) -> Observation:
    """Call `entry(**inputs)` and record everything that a caller could notice. The caller's flags are restored.

    With `backward`, the returned tensors that carry a graph are differentiated with fixed random weights and the
    gradients that arrive at the arguments are part of the record. `earlier` is what an earlier call returned: memory
    that is handed out twice is noted. `function` is what `entry` really calls, for what it keeps in its defaults.
    """
    flags = global_flags()
    owners: dict[int, str] = {}
    with torch._C.DisableTorchFunction():
        # Strong references: memory of an argument must not be reused for a result while sharing is being judged.
        known = [(path, value) for path, value in walk_state(dict(inputs), "arg") if isinstance(value, torch.Tensor)
                 or pointer(value)]  # fmt: skip
        versions = {path: _version(value) for path, value in known}
        for path, value in known:
            owners.setdefault(pointer(value) or 0, path)
        for _, value in walk_state(earlier, "earlier"):
            owners.setdefault(pointer(value) or 0, "an earlier result")

    result: Any = None
    error: BaseException | None = None
    stdout = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(stdout), aftermath.watching() as left:
        warnings.filterwarnings("ignore", message="(?s).*")  # no other filter is equal to this one
        own = warnings.filters[0]
        try:
            result = entry(**inputs)
            if isinstance(result, Iterator) and not isinstance(result, io.IOBase):
                result = _Drawn(result)
        except (Exception, SystemExit) as caught:
            error = caught
        silenced = list(itertools.takewhile(lambda one: one != own, warnings.filters))

    record = Observation(result=result, deliberate=_deliberate(error, function))
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

    with torch._C.DisableTorchFunction():
        returned = list(walk_state(result, "return", functions=True))
        given_out: dict[int, str] = {}
        for path, value in returned:
            leaves[path] = leaf(value)
            if pointer(value) is not None:
                leaves[f"{path}@shares memory with"] = owners.get(pointer(value) or 0, "nothing")
                start = value.data_ptr() if isinstance(value, torch.Tensor) else value.__array_interface__["data"][0]
                if given_out.setdefault(start, path) != path:
                    leaves[f"{path}@is the memory of"] = given_out[start]
        _arguments(leaves, inputs, dict(known), versions, owners)
        if inspect.isfunction(function := inspect.unwrap(function) if function is not None else None):
            for path, value in walk_state((function.__defaults__, function.__kwdefaults__), "defaults"):
                leaves[path] = leaf(value)
    for name, words in rng.items():
        leaves[f"random state of {name}"] = words
    for name, value in after.items():
        leaves[f"flag {name}"] = repr(value)
    leaves["stdout"] = stdout.getvalue()
    leaves.update(left.leaves, **{"warning filters": repr([(f[0], str(f[2])) for f in silenced])})
    leaves["threads left running"] = left.threads_left()
    if backward and error is None:
        _differentiate([v for _, v in returned if isinstance(v, torch.Tensor)], inputs, leaves)
    return record


def _deliberate(error: BaseException | None, function: Any) -> bool:
    last = error.__traceback__ if error is not None else None
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    code = getattr(inspect.unwrap(function), "__code__", None) if function is not None else None
    if last is None or code is None or last.tb_frame.f_code.co_filename != code.co_filename:
        return False
    return linecache.getline(code.co_filename, last.tb_lineno).strip().startswith(("raise", "assert"))


def _arguments(
    leaves: dict[str, Any], inputs: Mapping[str, Any], known: Mapping[str, Any], versions: Mapping[str, int | None],
    owners: Mapping[int, str],
) -> None:  # fmt: skip
    """What became of the arguments: values, memory, and whether they are still what the caller holds."""
    for path, value in walk_state(dict(inputs), "arg"):
        leaves[path] = leaf(value)
        at = pointer(value)
        if at is not None and owners.get(at, path) != path:
            leaves[f"{path}@shares memory with"] = owners[at]
        if isinstance(value, torch.nn.Parameter) and path in known and known[path] is not value:
            leaves[f"{path}@is another object"] = True  # an optimizer would go on with the old one
        elif path in known and known[path] is value and versions[path] != _version(value) and _is_data(path):
            leaves[f"{path}@written to"] = True  # autograd notices, also where the old values are put back


def _version(value: Any) -> int | None:
    return value._version if isinstance(value, torch.Tensor) and not value.is_inference() else None


def _is_data(path: str) -> bool:
    """Not what optimizers and backward keep: which kernel they write it with is their business."""
    return ".grad" not in path and ".state" not in path


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
        if is_array(value) and value.dtype.kind == "f" and value.flags.writeable:
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
