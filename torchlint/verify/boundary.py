"""Boundary inputs: what captured or made inputs hide (no rows, one row, NaN, other dtypes, strides, requires_grad)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from torchlint.verify.observe import to_double
from torchlint.verify.walk import walk_state

Inputs = dict[str, Any]
Change = Callable[[Inputs], bool]

COUNTS = (0, 1, 2, 26)
UNUSABLE = frozenset({"NaN", "inf"})  # what comes in is not finite, so what comes out may rightly not be


def data_tensors(inputs: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """Every tensor among the inputs that is data: in containers and datasets, not the parameters of modules."""
    owned: set[int] = set()
    for value in _objects(inputs):
        if isinstance(value, torch.nn.Module):
            owned.update(id(t) for t in (*value.parameters(), *value.buffers()))
        elif isinstance(value, torch.optim.Optimizer):
            owned.update(id(t) for _, t in walk_state(value, "") if isinstance(t, torch.Tensor))
    for path, value in walk_state(dict(inputs), "arg"):
        if isinstance(value, torch.Tensor) and id(value) not in owned and not path.endswith(".grad"):
            yield value


def _objects(inputs: Mapping[str, Any]) -> Iterator[Any]:
    stack = list(inputs.values())
    for _ in range(1000):
        if not stack:
            return
        value = stack.pop()
        yield value
        if isinstance(value, Mapping):
            stack.extend(value.values())
        elif isinstance(value, (list, tuple)):
            stack.extend(value)
        elif not isinstance(value, (torch.nn.Module, torch.optim.Optimizer)):
            stack.extend((getattr(value, "__dict__", None) or {}).values())


def _each(function: Callable[[torch.Tensor], torch.Tensor | None]) -> Change:
    """Replaces the values of every float tensor with elements; None keeps one. Says whether any was changed."""

    def change(inputs: Inputs) -> bool:
        changed = False
        for tensor in data_tensors(inputs):
            if tensor.is_floating_point() and tensor.numel():
                with torch.no_grad():
                    new = function(tensor.data)
                if new is not None:
                    tensor.data = new
                    changed = True
        return changed

    return change


def _first(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(t: torch.Tensor) -> torch.Tensor:
        t = t.clone()
        t.view(-1)[0] = value if t.is_contiguous() else t.reshape(-1)[0]
        return t

    return change


def _not_contiguous(t: torch.Tensor) -> torch.Tensor | None:
    if t.dim() == 0 or t.numel() < 2:
        return None
    return t.t().contiguous().t() if t.dim() == 2 and min(t.shape) > 1 else torch.stack([t, t], -1)[..., 0]


def _double(inputs: Inputs) -> bool:
    to_double(inputs)
    return True


def _requires_grad(inputs: Inputs) -> bool:
    changed = False
    for tensor in data_tensors(inputs):
        if tensor.is_floating_point() and tensor.is_leaf and not tensor.requires_grad:
            tensor.requires_grad_(True)
            changed = True
    return changed


def _hooked(inputs: Inputs) -> bool:
    """Hooks on every module with parameters, which say whether it was called as a module."""
    modules = [m for value in _objects(inputs) if isinstance(value, torch.nn.Module) for m in value.modules()]
    modules = [m for m in modules if any(True for _ in m.parameters())]
    for module in modules:
        module.register_forward_pre_hook(_called)
    return bool(modules)


def _evaluating(inputs: Inputs) -> bool:
    modules = [value for value in _objects(inputs) if isinstance(value, torch.nn.Module)]
    for module in modules:
        module.eval()
    return bool(modules)


def _partly_frozen(inputs: Inputs) -> bool:
    """The first layer with parameters does not learn and is in eval mode, as in finetuning."""
    for value in _objects(inputs):
        for module in value.modules() if isinstance(value, torch.nn.Module) else ():
            own = list(module.parameters(recurse=False))
            if own and module is not value:
                module.eval()
                for parameter in own:
                    parameter.requires_grad_(False)
                return True
    return False


def _negative_integers(inputs: Inputs) -> bool:
    """Whole numbers counted from the end: the same elements where they are indices, others where they are numbers."""
    changed = False
    for tensor in data_tensors(inputs):
        if tensor.dtype in (torch.int64, torch.int32) and tensor.numel():
            tensor.data = -1 - tensor.data
            changed = True
    return changed


def _no_items(inputs: Inputs) -> bool:
    lists = [value for value in inputs.values() if isinstance(value, list) and value]
    for value in lists:
        value.clear()
    return bool(lists)


def _called(module: torch.nn.Module, _: Any) -> None:
    module.__dict__["was called"] = True


CHANGES: Mapping[str, Change] = {
    "NaN": _each(_first(float("nan"))),
    "inf": _each(_first(float("inf"))),
    "zeros": _each(torch.zeros_like),
    "halves": _each(lambda t: t.round() + 0.5),
    "×1e4": _each(lambda t: t * 1e4),
    "×1e-20": _each(lambda t: t * 1e-20),
    "equal rows": _each(lambda t: t[:1].repeat(t.shape[0], *[1] * (t.dim() - 1)) if t.dim() else None),
    "not contiguous": _each(_not_contiguous),
    "expanded": _each(lambda t: t[:1].expand(t.shape) if t.dim() and t.shape[0] > 1 else None),
    "float64": _double,
    "bfloat16": _each(lambda t: t.bfloat16()),
    "requires_grad": _requires_grad,
    "hooks": _hooked,
    "eval mode": _evaluating,
    "partly frozen": _partly_frozen,
    "negative integers": _negative_integers,
    "no items": _no_items,
}


def variants(make: Callable[[int], Inputs], size: int) -> Iterator[tuple[str, Callable[[], Inputs | None]]]:
    """(name, maker) of every boundary input; `make(n)` makes ordinary inputs of size n.

    A maker returns None where the variant does not apply (no tensor to change, or inputs of that size cannot be made).
    """
    for count in COUNTS:
        yield f"n={count}", lambda count=count: _attempt(make, count)  # type: ignore[misc]
    for name, change in CHANGES.items():
        yield name, lambda change=change: _changed(make, size, change)  # type: ignore[misc]


def _attempt(make: Callable[[int], Inputs], count: int) -> Inputs | None:
    try:
        return make(count)
    except Exception:  # whatever the maker of inputs cannot do at that size
        return None


def _changed(make: Callable[[int], Inputs], size: int, change: Change) -> Inputs | None:
    inputs = make(size)
    try:
        return inputs if change(inputs) else None
    except RuntimeError:  # a layout or subclass that cannot be changed in place
        return None
