"""What a Module is made of, as far as its file says: which layers behave differently in train and eval mode."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import argument, dotted, find, has_star, literal
from torchlint.semantics.kinds import Kind, Value
from torchlint.semantics.names import OWN, Class

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

_MINDS = re.compile(r"Dropout|BatchNorm|SyncBatchNorm|FeatureAlpha|RReLU|StochasticDepth|DropPath")
# Layers that mind the mode only where an argument says so: its name, and the place of it in the call.
_ASKED = {
    **dict.fromkeys(("torch.nn.RNN", "torch.nn.LSTM", "torch.nn.GRU"), ("dropout", 5)),
    **dict.fromkeys((f"torch.nn.InstanceNorm{n}d" for n in (1, 2, 3)), ("track_running_stats", 4)),
    "torch.nn.MultiheadAttention": ("dropout", 2),
    "torch.nn.RNNCell": ("dropout", None),
    "torch.nn.LSTMCell": ("dropout", None),
    "torch.nn.GRUCell": ("dropout", None),
}
_STATELESS = re.compile(
    r"^torch\.nn\.(Linear|Bilinear|Conv\w+|Embedding\w*|ReLU\w*|\w*LU|Sigmoid|Tanh|Softmax|LogSoftmax|Flatten|Identity|LayerNorm|GroupNorm|RMSNorm"
    r"|\w*Pool\w*|Upsample\w*|Pixel\w+|Sequential|ModuleList|ModuleDict|Parameter\w*|ZeroPad\w*|Unflatten|Softplus|Module|\w*Loss)$"
)

_WRAPPER = re.compile(r"\.(?:Distributed)?DataParallel$")


def minds_mode(sem: Semantics, value: Value, depth: int = 0, *, beside_given: bool = False) -> bool:
    """Whether the module may behave differently in train mode: False only where every layer is known not to.

    With `beside_given` modules that its constructor is given do not count: the caller judges them.
    """
    if value.kind is not Kind.MODULE or depth > 4:
        return True
    if value.origin.startswith(OWN):
        cls = sem.class_of(value.origin)
        if cls is None or any(not r.startswith("torch.nn.Module") for r in sem.names.roots(cls)):
            return True
        family = list(sem.names.mro(cls))
        if not beside_given and any(_takes_modules(sem, c) for c in family):
            return True
        return any(_call_minds(sem, call, depth) for c in family for call in find(c.node.body, cst.Call))
    if value.node is not None and isinstance(value.node, cst.Call) and value.origin.startswith("torch.nn."):
        if _WRAPPER.search(sem.qualified(value.node.func) or "") and value.node.args:
            return minds_mode(sem, sem.value(value.node.args[0].value), depth + 1, beside_given=beside_given)
        return any(_call_minds(sem, call, depth) for call in find(value.node, cst.Call))
    return True


# What a file says that makes a layer which minds the mode, or gets one from elsewhere.
_LAYERS = re.compile(r"[Dd]ropout|DropPath|BatchNorm|InstanceNorm|RReLU|StochasticDepth|Transformer")
_HINTS = re.compile(
    rf"{_LAYERS.pattern}|pretrained|\btimm\b|\btransformers\b|\btorchvision\.models\b|\bmodels\b|\bhub\b"
)


def made_of_none(sem: Semantics, value: Value) -> bool:
    """Whether the file that makes the module (for a notebook: all that is made in it) mentions no layer that minds."""
    if value.kind is Kind.MODULE:
        cls = sem.class_of(value.origin) if value.origin.startswith(OWN) else None
        made = [cls] if cls is not None else []
    else:
        made = list(sem.names.classes.values()) if sem.file.path.endswith(".ipynb") else []
    modules = any(r.startswith("torch.nn.Module") for c in made for r in sem.names.roots(c))
    return modules and not sem.file.mentions(_HINTS)


def names_layers(sem: Semantics) -> bool:
    """Whether the file mentions a layer that minds the mode."""
    return sem.file.mentions(_LAYERS)


def _takes_modules(sem: Semantics, cls: Class) -> bool:
    """Whether the constructor keeps something that it was given and that may be a module: `self.encoder = encoder`."""
    init = cls.methods.get("__init__")
    if init is None:
        return False
    for assign in find(init.node, cst.Assign):
        target = assign.targets[0].target
        if isinstance(target, cst.Attribute) and dotted(target.value) == init.params[0]:
            value = sem.value(assign.value)
            given = isinstance(assign.value, cst.Name) and assign.value.value in init.params
            if given and value.kind in (Kind.UNKNOWN, Kind.MODULE, Kind.LIST, Kind.OBJECT):
                if value.kind is Kind.MODULE or _called(cls, target.attr.value):
                    return True
            if isinstance(assign.value, cst.Call) and sem.qualified(assign.value.func) in _HOLDERS:
                if any(isinstance(a.value, cst.Name) and a.value.value in init.params for a in assign.value.args):
                    return True
    return False


# Libraries whose calls in a Module make no layers of it.
_NO_LAYERS = frozenset(
    """torch math numpy super sklearn scipy pandas itertools collections functools operator random os sys re copy time
    logging warnings typing einops matplotlib tqdm""".split()
)
_HOLDERS = ("torch.nn.ModuleList", "torch.nn.ModuleDict", "torch.nn.Sequential")


def _called(cls: Class, attribute: str) -> bool:
    """Whether the class calls the attribute, as one does with a module."""
    return any(dotted(call.func) == f"self.{attribute}" for call in find(cls.node.body, cst.Call))


def _call_minds(sem: Semantics, call: cst.Call, depth: int) -> bool:
    name = sem.qualified(call.func)
    if name is None:
        return False  # a method or a value: the module behind it was made by a call seen elsewhere
    if name.startswith(OWN):
        value = sem.value(call)
        helper = sem.names.functions.get(name.removeprefix(OWN))
        if helper is not None and value.kind is Kind.MODULE and depth < 4:
            return any(_call_minds(sem, inner, depth + 1) for inner in find(helper.node, cst.Call))
        return value.kind is Kind.MODULE and minds_mode(sem, value, depth + 1)
    if name.startswith(("torch.nn.init.", "torch.nn.utils.")):
        return False
    if name.startswith("torch.nn.functional.") or not name.startswith("torch.nn."):
        return "dropout" in name or name.partition(".")[0] not in _NO_LAYERS
    if name in _ASKED:
        keyword, position = _ASKED[name]
        asked = argument(call, keyword, position)
        return has_star(call) or (asked is not None and literal(asked.value) not in (0, 0.0, False))
    return bool(_MINDS.search(name)) or not _STATELESS.match(name)
