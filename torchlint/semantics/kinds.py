"""The vocabulary of values: what an expression is, and what is known about it.

A value has a kind because of what it was made from (a torch factory, a Module call, an item of a DataLoader, an
annotation), never because of how it is spelled. `UNKNOWN` is the honest answer, and rules stay silent on it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import Any

import libcst as cst


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


@dataclass(frozen=True, slots=True)
class Value:
    """What is known about an expression.

    `origin`: qualified name of what made it (`torch.nn.Linear`, `torch.zeros`, `~.Net` for a class of this file), or "".
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
        return replace(self, **changes)


UNKNOWN = Value()
