"""The vocabulary of values: what an expression is, and what is known about it.

A value has a kind because of what it was made from (a torch factory, a Module call, an item of a DataLoader, an
annotation), never because of how it is spelled. `UNKNOWN` is the honest answer, and rules stay silent on it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import field, fields
from typing import Any

import libcst as cst

from torchlint.record import record


class Kind(str, enum.Enum):
    UNKNOWN = "unknown"
    TENSOR = "tensor"
    PARAMETER = "parameter"  # nn.Parameter, or an item of model.parameters()
    MODULE = "module"  # an nn.Module instance
    LOSS_FN = "loss function"  # an nn.*Loss instance or F.cross_entropy and the like
    OPTIMIZER = "optimizer"
    SCHEDULER = "scheduler"
    SCALER = "gradient scaler"
    LOADER = "data loader"
    DATASET = "dataset"
    SAMPLER = "sampler"
    DEVICE = "device"
    NDARRAY = "numpy array"
    NUMBER = "number"  # int, float, bool of Python
    STRING = "string"
    NONE = "None"
    LIST = "list"
    TUPLE = "tuple"
    DICT = "dict"
    SET = "set"
    RANGE = "range"
    ITERATOR = "iterator"
    FUNCTION = "function"
    CLASS = "class"
    CONTEXT = "context manager"
    FRAMEWORK = "framework engine"  # Trainer, Accelerator, DeepSpeed engine, Fabric, ...
    BATCH = "batch"  # an item of a loader whose structure is not known: tensors, or tuples/dicts of them
    OBJECT = "object"  # an instance of a class defined in the checked files; `origin` names it


class Graph(str, enum.Enum):
    """Whether a tensor carries an autograd graph."""

    UNKNOWN = "unknown"
    ATTACHED = "attached"
    DETACHED = "detached"


@record
class Value:
    """What is known about an expression.

    `origin`: qualified name of what made it (`torch.nn.Linear`, `torch.zeros`, `~.Net` for an own class), or "".
    `node`: the expression that made it, to look at its arguments.  `device`: "cpu", "cuda", the source text of the
    device expression, or "" when unknown.  `element`: what iterating or indexing gives, where that is uniform.
    `items`: the members of a tuple or list display, or values of a dict display (keys in `keys`).
    """

    kind: Kind = Kind.UNKNOWN
    origin: str = ""
    graph: Graph = Graph.UNKNOWN
    device: str = ""
    node: cst.CSTNode | None = field(default=None, repr=False, compare=False)
    element: Value | None = None
    items: tuple[Value, ...] | None = None
    keys: tuple[Any, ...] | None = None
    evidence: str = ""  # "made", "annotated", "used": how sure the kind is

    @property
    def is_tensor(self) -> bool:
        return self.kind in (Kind.TENSOR, Kind.PARAMETER)

    def but(self, **changes: Any) -> Value:
        """The same with some fields changed: `dataclasses.replace`, without what that checks on every call."""
        return Value(**{**{name: getattr(self, name) for name in _FIELDS}, **changes})


_FIELDS = tuple(f.name for f in fields(Value))
UNKNOWN = Value()


def join(a: Value, b: Value) -> Value:
    """What is known when either may hold."""
    if a is b:
        return a  # by far the most frequent: a branch left the name alone
    if a == b:
        # Which of two loaders it is decides what is said of each.
        return a.but(node=None) if a.kind is Kind.LOADER and a.node is not b.node else a
    if a.kind is Kind.NONE or (a.kind is Kind.NUMBER and b.is_tensor):
        return b
    if b.kind is Kind.NONE or (b.kind is Kind.NUMBER and a.is_tensor):
        return a
    if a.kind is not b.kind:
        if Kind.UNKNOWN in (a.kind, b.kind) and Graph.ATTACHED in (a.graph, b.graph):
            return Value(graph=Graph.UNKNOWN)
        return UNKNOWN
    return Value(
        a.kind,
        a.origin if a.origin == b.origin else "",
        a.graph if a.graph is b.graph else Graph.UNKNOWN,
        a.device if a.device == b.device else "",
        a.node if a.node is b.node else None,
        a.element if a.element == b.element else None,
        a.items if a.items == b.items else None,
        a.keys if a.keys == b.keys else None,
        a.evidence if a.evidence == b.evidence else "",
    )


def join_graph(values: Iterable[Value]) -> Graph:
    """The graph of a result made from these: attached if any is, detached if all are."""
    result = Graph.DETACHED
    for value in values:
        if value.graph is Graph.ATTACHED or value.kind is Kind.PARAMETER:
            return Graph.ATTACHED
        if value.graph is Graph.UNKNOWN and value.kind in (
            Kind.UNKNOWN,
            Kind.TENSOR,
            Kind.BATCH,
            Kind.OBJECT,
            Kind.TUPLE,
            Kind.LIST,
            Kind.DICT,
        ):
            result = Graph.UNKNOWN
    return result


def join_all(values: Sequence[Value]) -> Value:
    if not values:
        return UNKNOWN
    result = values[0]
    for value in values[1:]:
        result = join(result, value)
    return result
