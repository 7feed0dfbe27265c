"""Where tensors go: the target of a `.to` or `.cuda` call, and what devices there may be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import argument, dotted, find, literal, walk
from torchlint.semantics.kinds import UNKNOWN, Kind, Value
from torchlint.semantics.names import OWN

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

_DEVICE = re.compile(r"device|(^|_)(dev|gpu|cuda)$")
_NOT_CUDA = ("cpu", "mps", "xla", "xpu", "npu", "hpu", "meta", "tpu")


def move_target(sem: Semantics, call: cst.Call) -> tuple[bool, cst.BaseExpression | None]:
    """Whether a call has the form of a move to a device, and the device argument (None for a bare `.cuda()`)."""
    func = call.func
    if not isinstance(func, cst.Attribute) or func.attr.value not in ("to", "cuda"):
        return False, None
    if isinstance(func.value, cst.Name) and sem.qualified(func) is not None:
        return False, None  # `utils.cuda(x)`
    device = argument(call, "device", 0)
    if func.attr.value == "cuda":
        return True, device.value if device is not None else None
    if device is None or not is_device(sem, device.value):
        return False, None
    return True, device.value


def is_device(sem: Semantics, node: cst.BaseExpression) -> bool:
    """Whether the first argument of `.to` is a device: it takes a device, a dtype or a tensor."""
    text = literal(node)
    if isinstance(text, (str, int)):
        return True
    value = sem.value(node)
    if value.kind is Kind.DEVICE:
        return True
    if value.kind in (Kind.UNKNOWN, Kind.STRING, Kind.NUMBER, Kind.BATCH, Kind.NONE):
        if isinstance(node, cst.Call):
            node = node.func
        name = node.attr.value if isinstance(node, cst.Attribute) else dotted(node) or ""
        # The name only decides between the three readings that there are.
        return _DEVICE.search(name.lower()) is not None
    return False


def may_be_cuda(sem: Semantics, device: cst.BaseExpression | None) -> bool:
    """False where the device is certainly something else than a CUDA GPU."""
    if device is None:
        return True
    verdict = _names_cuda(sem, device)
    if verdict is not None:
        return verdict
    name = dotted(device)
    return name is None or device_may_be_cuda(sem, name)


def surely_cuda(sem: Semantics, call: cst.Call) -> bool:
    """Whether a call surely puts a tensor on a CUDA device: by name, by number, or by a device that was made so."""
    is_move, device = move_target(sem, call)
    if not is_move:
        given = argument(call, "device")
        made = sem.value(call)
        if given is None or not (made.is_tensor or made.origin.startswith("torch.")):
            return False
        device = given.value
    elif device is None:
        receiver = sem.value(call.func.value) if isinstance(call.func, cst.Attribute) else None
        return receiver is None or receiver.kind is not Kind.MODULE
    if literal(device) == "cpu":
        return False
    verdict = _names_cuda(sem, device)
    name = dotted(device)
    if verdict is not None or name is None:
        return verdict is True
    made_from = [_names_cuda(sem, n) for n in assigned(sem, name)]
    return bool(made_from) and all(v is True for v in made_from)


def device_may_be_cuda(sem: Semantics, text: str) -> bool:
    """The same for a device as `Value.device` has it: "cuda", "cpu" or the text of a name."""
    if text.partition(":")[0] in _NOT_CUDA:
        return False
    bound = list(assigned(sem, text))
    made = [v for v in (_names_cuda(sem, n) for n in bound) if v is not None]
    return not made or any(made) or any(_is_accelerator(sem, n) for n in bound)


def _is_accelerator(sem: Semantics, node: cst.BaseExpression) -> bool:
    """`torch.accelerator.current_accelerator()`: whatever the machine has, most often CUDA."""
    return any((sem.qualified(call.func) or "").startswith("torch.accelerator.") for call in find(node, cst.Call))


def _names_cuda(sem: Semantics, node: cst.BaseExpression) -> bool | None:
    """What the device expression itself says: True or False where it names devices, None where it does not."""
    named: set[str] = set()
    for n in walk(node):
        if isinstance(n, cst.SimpleString) and isinstance(n.evaluated_value, str):
            named.add(n.evaluated_value.partition(":")[0])
        elif isinstance(n, cst.FormattedStringText):
            named.add(n.value.partition(":")[0])
        elif isinstance(n, (cst.Name, cst.Attribute)):
            name = sem.qualified(n) or ""
            if name.startswith("torch.cuda"):
                return True
            if name.startswith("torch_xla"):
                named.add("xla")
    if any("cuda" in n for n in named):
        return True
    if named & set(_NOT_CUDA):
        return False
    return True if isinstance(literal(node), int) else None


def assigned(sem: Semantics, name: str) -> Iterator[cst.BaseExpression]:
    """Everything that the file assigns to a dotted name, in any function."""
    for node in sem.file.nodes:
        if isinstance(node, cst.Assign):
            targets: list[cst.CSTNode] = [t.target for t in node.targets]
        elif isinstance(node, cst.AnnAssign):
            targets = [node.target]
        else:
            continue
        if node.value is not None and any(dotted(t) == name for t in targets):
            yield node.value


def cast_to_cuda(sem: Semantics, node: cst.Call) -> cst.BaseExpression | None:
    """The type in `x.type(Tensor)` of old code, where `Tensor` may be `torch.cuda.FloatTensor`."""
    if not isinstance(node.func, cst.Attribute) or node.func.attr.value != "type" or not node.args:
        return None
    kind = node.args[0].value
    named = (dotted(kind) or "").rpartition(".")[0] == "torch.cuda"
    made = assigned(sem, kind.value) if isinstance(kind, cst.Name) else iter(())
    return kind if named or any(_names_cuda(sem, n) for n in made) else None


def makes_device_tensors(sem: Semantics, node: cst.BaseExpression, *, told: bool = True) -> bool:
    """Whether a dataset or collate expression already puts its tensors on a device: pinning them would fail.

    Without `told`, that the call which makes the dataset is given a `device` says nothing.
    """
    value = sem.value(node)
    places: list[cst.CSTNode] = [node]
    if isinstance(value.node, cst.CSTNode) and value.node is not node:
        places.append(value.node)
    cls = sem.class_of(value.origin)
    if cls is not None:
        places += [m.node for c in sem.names.mro(cls) for name, m in c.methods.items() if name in _ITEM_METHODS]
    function = sem.names.functions.get(value.origin.removeprefix(OWN)) if value.origin.startswith(OWN) else None
    if function is not None:
        places.append(function.node)
    for place in places:
        for call in find(place, cst.Call):
            is_move, device = move_target(sem, call)
            if is_move and may_be_cuda(sem, device):
                return True
            arg = argument(call, "device")
            if arg is not None and may_be_cuda(sem, arg.value) and (told or call is not value.node):
                return True
            for given in call.args:
                if _lies_on_device(sem.value(given.value)):
                    return True
    return any(_lies_on_device(v) for v in (value, *(value.items or ()), value.element or UNKNOWN))


_ITEM_METHODS = ("__init__", "__getitem__", "__getitems__", "__iter__", "__call__", "collate", "collate_fn", "_load")


def _lies_on_device(value: Value) -> bool:
    return value.is_tensor and value.device not in ("", "cpu", "?")
