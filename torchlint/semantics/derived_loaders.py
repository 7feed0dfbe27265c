"""Classes that derive from torch's DataLoader: whether a call of one is as good as a call of DataLoader itself."""

from __future__ import annotations

import libcst as cst

from torchlint.nodes import dotted, find, walk
from torchlint.semantics.names import Class


def hands_on(cls: Class) -> bool:
    """Whether the class gives batches as its base does, and leaves pinning to whoever makes one: its constructor, if it
    has one, hands its `**kwargs` on, and nothing in it speaks of `pin_memory`."""
    if "__iter__" in cls.methods or speaks_of_pinning(cls):
        return False
    init = cls.methods.get("__init__")
    if init is None:
        return True
    options = init.node.params.star_kwarg if isinstance(init.node, cst.FunctionDef) else None
    return options is not None and any(
        arg.star == "**" and dotted(arg.value) == options.name.value
        for call in find(init.node, cst.Call)
        if makes_base(call)
        for arg in call.args
    )


def speaks_of_pinning(cls: Class) -> bool:
    for node in walk(cls.node):
        if isinstance(node, cst.Name) and node.value == "pin_memory":
            return True
        if isinstance(node, cst.SimpleString) and node.raw_value == "pin_memory":
            return True
    return False


def makes_base(call: cst.Call) -> bool:
    """`super().__init__(…)`, `DataLoader.__init__(self, …)`."""
    return isinstance(call.func, cst.Attribute) and call.func.attr.value == "__init__"
