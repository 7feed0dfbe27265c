"""What is a tensor beyond doubt: by what made it, or by what its function asks of it.

A list of tensors is walked over and indexed as a tensor is, and so is an array.
"""

from __future__ import annotations

import libcst as cst

from torchlint.semantics.kinds import Kind, Value
from torchlint.semantics.knowledge import TENSOR_ONLY
from torchlint.semantics.model import Semantics
from torchlint.semantics.names import Function
from torchlint.semantics.origins import asked_as_tensor
from torchlint.semantics.rows import POSITIONS, bindings_in, is_star_parameter, may_be_tensor
from torchlint.spelling import same


def walkable(node: cst.BaseExpression, sem: Semantics) -> bool:
    """A tensor whose rows a loop may walk: one of data, not of positions."""
    return surely_tensor(node, sem) and sem.value(node).origin.rpartition(".")[2] not in POSITIONS


def surely_tensor(node: cst.BaseExpression, sem: Semantics) -> bool:
    """A tensor beyond doubt: made, annotated, moved, asked for its `size()`, or treated as one as a whole."""
    value = sem.value(node)
    if value.is_tensor and value.evidence != "used":
        return not is_star_parameter(node, sem)
    if value.kind is Kind.BATCH and value.device not in ("", "cpu"):
        return True
    if value.kind not in (Kind.TENSOR, Kind.BATCH, Kind.UNKNOWN):
        return False
    return (
        is_measured(node, sem)
        or _is_asked(node, value, sem)
        or _is_made_by_method(node, sem)
        or _is_sequence_of_states(node, sem)
    )


def _is_asked(node: cst.BaseExpression, value: Value, sem: Semantics) -> bool:
    """Whether a parameter that stands for one thing is treated as a tensor: `x.unsqueeze(1)`, `torch.softmax(x, 1)`."""
    function = sem.function(node)
    return (
        isinstance(node, cst.Name)
        and value.kind is Kind.TENSOR
        and node.value in function.params
        and not bindings_in(node.value, function, sem)
        and asked_as_tensor(sem.evaluator, function, node.value)
    )


def _is_made_by_method(node: cst.BaseExpression, sem: Semantics) -> bool:
    """Whether a name is only ever bound to what methods give that nothing but a tensor has: `x = x.detach()`."""
    if not isinstance(node, cst.Name):
        return False
    made = bindings_in(node.value, sem.function(node), sem)
    return bool(made) and all(
        isinstance(m, cst.Assign)
        and isinstance(m.targets[0].target, cst.Name)
        and isinstance(m.value, cst.Call)
        and isinstance(m.value.func, cst.Attribute)
        and m.value.func.attr.value in TENSOR_ONLY
        and not (sem.qualified(m.value.func) or "")
        for m in made
    )


_RECURRENT = frozenset(f"torch.nn.{name}" for name in ("RNN", "LSTM", "GRU"))


def _is_sequence_of_states(node: cst.BaseExpression, sem: Semantics) -> bool:
    """`out` of `out, _ = self.gru(x)`."""
    if not isinstance(node, cst.Name):
        return False
    made = bindings_in(node.value, sem.function(node), sem)
    return bool(made) and all(
        isinstance(m, cst.Assign)
        and isinstance(m.targets[0].target, cst.Tuple)
        and same(m.targets[0].target.elements[0].value, node)
        and sem.value(m.value).origin in _RECURRENT
        for m in made
    )


class _Measured(dict[Function, "list[cst.BaseExpression]"]):
    """What each function calls `size()` of, collected when it is first asked for."""

    def __init__(self, sem: Semantics) -> None:
        super().__init__()
        self._sem = sem

    def __missing__(self, function: Function) -> list[cst.BaseExpression]:
        calls = (c.func for c in self._sem.file.within(function.body, cst.Call))
        self[function] = [f.value for f in calls if isinstance(f, cst.Attribute) and f.attr.value == "size"]
        return self[function]


def is_measured(node: cst.BaseExpression, sem: Semantics) -> bool:
    """Whether `x.size()` is called of it in the function, which neither lists nor arrays have."""
    return any(same(measured, node) for measured in sem.once(_Measured)[sem.function(node)])


# Methods of tensors that neither arrays nor lists have.
TELLING = frozenset(
    "float long cuda cpu detach unsqueeze clamp sigmoid softmax log_softmax topk expand int bool".split()
)


def told_by_method(node: cst.Subscript, sem: Semantics) -> bool:
    """`x[i, :, j].float()`: no list takes several indices, and no array has such a method."""
    method = sem.file.parent(node)
    call = sem.file.parent(method) if isinstance(method, cst.Attribute) and method.value is node else None
    told = isinstance(method, cst.Attribute) and method.attr.value in TELLING
    return told and isinstance(call, cst.Call) and call.func is method and may_be_tensor(node.value, sem)
