"""The file's own dataset classes: which methods give items, and what those do for each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import dotted, find, walk, walk_scope
from torchlint.semantics import knowledge
from torchlint.semantics.names import Class, Function

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

# Calls that read a file or decode one: what makes an item worth a process of its own.
_READS = re.compile(
    r"^(PIL\.Image\.open|cv2\.imread|imageio(\.\w+)*\.imread|skimage\.io\.imread|tifffile\.imread|numpy\.(load|loadtxt|genfromtxt)"
    r"|torch\.load|torchaudio\.load|torchvision\.io\.\w+|torchvision\.datasets\.folder\.\w+|librosa\.(\w+\.)?load|soundfile\.read"
    r"|scipy\.io\.(loadmat|wavfile\.read)|nibabel\.load|pandas\.read_\w+|h5py\.File|pydicom\.\w+|rasterio\.open|decord\.VideoReader"
    r"|matplotlib\.(image|pyplot)\.imread|open|io\.open)$"
)
# Stretches of source without which `dataset_class` and `reads_items` cannot say yes: triggers for rules that ask them.
ITEM_TRIGGERS = (
    r"def __(getitem|getitems|iter|len)__\b",
    r"\b(open|imread|load|loadtxt|genfromtxt|loadmat|read|read_\w+|File|dcmread|VideoReader|\w*loader)\s*\(",
)
_ITEM_METHODS = ("__getitem__", "__getitems__", "__iter__")
_DATASET_NAME = re.compile(r"Dataset$")


@dataclass(frozen=True, eq=False)
class DatasetClass:
    """A class of the file whose items a DataLoader asks for. `items` are the methods that give them."""

    cls: Class
    items: tuple[Function, ...]
    init: Function | None

    @property
    def name(self) -> str:
        return self.cls.node.name.value


def dataset_classes(sem: Semantics) -> Iterator[DatasetClass]:
    """Own classes that derive from torch's Dataset, or from another file's that is called one and has its methods."""
    for cls in sem.classes:
        if (found := dataset_class(sem, cls)) is not None:
            yield found


def dataset_class(sem: Semantics, cls: Class) -> DatasetClass | None:
    """The class as a dataset, None if it is none or gives no items of its own."""
    items = tuple(cls.methods[name] for name in _ITEM_METHODS if name in cls.methods)
    if not items:
        return None
    roots = sem.names.roots(cls)
    known = any(knowledge.DATASET_BASES.match(r) for r in roots)
    if not known and not ("__len__" in cls.methods and any(_DATASET_NAME.search(r) for r in roots)):
        return None
    return DatasetClass(cls, items, cls.methods.get("__init__"))


def item_functions(sem: Semantics, dataset: DatasetClass) -> Iterator[Function]:
    """The methods that run for every item: those that give it, and the class's own that they call."""
    queue, seen = list(dataset.items), set()
    while queue:
        function = queue.pop(0)
        if function in seen:
            continue
        seen.add(function)
        yield function
        for node in walk_scope(function.body):
            if isinstance(node, cst.Call) and function.params and isinstance(node.func, cst.Attribute):
                base = node.func.value
                if isinstance(base, cst.Name) and base.value == function.params[0]:
                    called = sem.names.method(dataset.cls, node.func.attr.value)
                    if called is not None:
                        queue.append(called)


def reads_items(sem: Semantics, cls: Class) -> bool:
    """Whether an item of the class is read from a file, or decoded, when it is asked for, and on the CPU alone."""
    for current in sem.names.mro(cls):
        dataset = dataset_class(sem, current)
        if dataset is None:
            continue
        calls = [c for function in item_functions(sem, dataset) for c in find(function.node, cst.Call)]
        if any(isinstance(c.func, cst.Attribute) and c.func.attr.value in ("cuda", "to") for c in calls):
            return False  # what it does there is not for a worker
        if any(_READS.match(called_name(sem, call)) for call in calls):
            return True
    return False


def called_name(sem: Semantics, call: cst.Call) -> str:
    """The qualified name of what is called; a built-in by its own name."""
    name = sem.qualified(call.func)
    if name is None and isinstance(call.func, cst.Name):
        function = sem.function(call)
        if call.func.value not in function.local and call.func.value not in sem.names.module.local:
            return call.func.value
    return name or ""


def may_move_items(sem: Semantics, cls: Class) -> bool:
    """Whether a method of the class moves something, or reads a device that it was given and does more than keep it."""
    for method in (m for c in sem.names.mro(cls) for m in c.methods.values()):
        for node in walk(method.body):
            if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
                if node.func.attr.value in ("to", "cuda"):
                    return True
            elif isinstance(node, (cst.Name, cst.Attribute)) and (dotted(node) or "").rpartition(".")[2] == "device":
                if not _only_kept(sem, node):
                    return True
    return False


def _only_kept(sem: Semantics, node: cst.CSTNode) -> bool:
    """Whether the node is a side of `self.device = device`."""
    parent = sem.file.parent(node)
    if isinstance(parent, cst.Attribute):  # the name of `self.device`
        return _only_kept(sem, parent)
    if isinstance(parent, cst.AssignTarget):
        return True
    return isinstance(parent, cst.Assign) and all(isinstance(t.target, cst.Attribute) for t in parent.targets)
