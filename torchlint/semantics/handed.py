"""What a function waits for of what it is handed: reads of its parameters' values, of which only its callers in other
files can tell whether they lie on a GPU, and how often they happen.

A number that decides sizes or ways has to come to the host. So `.item()` counts where it is only told on: returned,
stored, summed. A function that does nothing but bring a tensor to the host is not meant: whoever calls it decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.aside import is_aside
from torchlint.nodes import dotted, find, walk
from torchlint.semantics.effects import Effect, Event
from torchlint.semantics.elements import sources
from torchlint.semantics.kinds import Kind
from torchlint.semantics.loops import TrainingLoop
from torchlint.semantics.names import Function
from torchlint.semantics.syncs import HOST, Sync, every_turn, measures, read, root_name, root_of, sync_of
from torchlint.semantics.transfers import device_may_be_cuda
from torchlint.semantics.unit_tests import holds_unit_tests

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

_READS = frozenset(("item", "tolist", "numpy", "cpu"))
_TO_HOST = frozenset(("numpy", "tolist"))
_ON_THE_WAY = frozenset(("detach", "data", "clone", "squeeze", "flatten", "view", "reshape", "float"))
_TELLING = frozenset("append update add add_ extend setdefault info round float str log add_scalar".split())
_LOSS = re.compile(r"loss|criteri", re.IGNORECASE)
_ASKS_FOR_GPU = re.compile(r"cuda|gpu", re.IGNORECASE)
# Where what serves inference lies.
_ELSEWHERE = re.compile(
    r"(^|/)(bin|pipelines?|backends?|schedulers?|quantizers?|deploy\w*|export\w*|demos?|inference|serving)/"
    r"|(^|/)(predict|validat|val|plot|visuali|export|infer|deploy|demo)\w*\.py$"
)
_MOST_NAMES = 40  # how far back a value is followed through a function


@dataclass(frozen=True, eq=False)
class HandedWait:
    """A wait of a function for what it is handed: in every call of it, no matter what.

    `params`: the parameters of which a value is read; none where the function is a training step of its own.
    """

    function: Function
    sync: Sync = field(repr=False)
    params: tuple[str, ...]


def handed_waits(sem: Semantics) -> Iterator[HandedWait]:
    """The waits of the file's functions for what other files may hand them; those that loops of this file reach are
    theirs to tell."""
    if holds_unit_tests(sem) or _ELSEWHERE.search(sem.file.path.replace("\\", "/")):
        return
    here: set[Function] | None = None
    for function in sem.names.functions.values():
        if is_aside(function.name) or measures(function, sem.file.path):
            continue
        waits = list(_waits(sem, function))
        if waits:
            here = _reached_here(sem) if here is None else here
            if function not in here:
                yield from waits


def _reached_here(sem: Semantics) -> set[Function]:
    """The functions with a training loop of their own, and those that such a loop calls."""
    loops = list(sem.objects(TrainingLoop))
    reached = {loop.function for loop in loops}
    for callee, sites in sem.evaluator.call_sites.items():
        if any(site.function is loop.function and site.within(loop.node) for site in sites for loop in loops):
            reached.add(callee)
    return reached


def is_step(sem: Semantics, function: Function) -> bool:
    """Whether one call of the function is one step of training."""
    own = [e for e in sem.events(function, Effect.BACKWARD, Effect.STEP) if not e.loops and not e.inner_loop]
    return len({e.effect for e in own}) == 2


def _waits(sem: Semantics, function: Function) -> Iterator[HandedWait]:
    seen: set[int] = set()
    step: bool | None = None
    bound: dict[str, list[cst.BaseExpression]] | None = None
    for event in sem.events(function, Effect.SYNC, Effect.TRANSFER):
        if event.function is not function or id(event.node) in seen or not _may_wait(sem, event):
            continue
        if not every_turn(sem, function.node, event) or _without_gpu(sem, event) or _needed(sem, event):
            continue
        step = is_step(sem, function) if step is None else step
        params: tuple[str, ...] = ()
        if not step:
            bound = sources(function) if bound is None else bound
            params = _read_parameters(sem, event, bound)
        if (params or (step and event.value.is_tensor)) and not _only_brings(sem, event):
            seen.add(id(event.node))
            yield HandedWait(function, sync_of(sem, event, function.node), params)


def _may_wait(sem: Semantics, event: Event) -> bool:
    """Whether the event reads values, of something that may be a tensor on a GPU."""
    node = event.node
    if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute):
        return False
    if event.grad.off and event.function.name == "forward":
        return False  # a model for inference alone
    if event.effect is Effect.TRANSFER:
        if event.detail != "cpu" or any(a.keyword is not None and a.keyword.value == "non_blocking" for a in node.args):
            return False
    elif event.detail not in _READS:
        return False
    if not (event.value.is_tensor or event.value.kind in (Kind.BATCH, Kind.UNKNOWN)):
        return False
    return event.value.device in ("", "?") or device_may_be_cuda(sem, event.value.device)


def _without_gpu(sem: Semantics, event: Event) -> bool:
    """Whether it happens only where there is no GPU: behind `if torch.cuda.is_available(): return …`."""
    return any(not g.taken and _ASKS_FOR_GPU.search(sem.file.code(g.test)) for g in event.guards)


def _read_parameters(sem: Semantics, event: Event, bound: dict[str, list[cst.BaseExpression]]) -> tuple[str, ...]:
    """The parameters from which what is read was computed, on the device as far as can be seen."""
    function = event.function
    given = set(function.params[1:] if function.is_method else function.params)
    seen = set(function.params) - given  # what an object keeps is not handed over by this call
    start = read(event)
    if HOST.search(sem.file.code(start)):
        return ()
    row = sem.file.row(event.node)
    wanted = [n.value for n in walk(start) if isinstance(n, cst.Name) and n.value not in seen]
    found: set[str] = set()
    seen.update(wanted)
    while wanted:
        name = wanted.pop()
        here = [
            source
            for source in bound.get(name, ())
            if sem.file.row(source) < row and not any(n is event.node for n in walk(source))
        ]
        if any(HOST.search(sem.file.code(source)) for source in here):
            if not event.value.is_tensor:
                return ()
            continue
        if name in given:
            found.add(name)
        for source in here:
            for part in walk(source):
                if isinstance(part, cst.Name) and part.value not in seen and len(seen) < _MOST_NAMES:
                    seen.add(part.value)
                    wanted.append(part.value)
    return tuple(p for p in function.params if p in found)


# -- what has to be on the host -------------------------------------------------------------------------------------


def _needed(sem: Semantics, event: Event) -> bool:
    """Whether the host needs the values: lengths to pack by, a number that sizes or ways depend on."""
    detail = "cpu" if event.effect is Effect.TRANSFER else event.detail
    parent = sem.file.parent(event.node)
    if isinstance(parent, cst.Arg):
        around = sem.file.parent(parent)
        called = (dotted(around.func) or "").rpartition(".")[2] if isinstance(around, cst.Call) else ""
        if called in ("pack_padded_sequence", "split", "view", "reshape", "expand", "range", "tensor_split"):
            return True
    if detail in ("cpu", "tolist") and "pack_padded_sequence" in sem.file.text:
        if any((dotted(c.func) or "").endswith("pack_padded_sequence") for c in find(event.function.body, cst.Call)):
            return True
    if detail == "item":
        return _is_module(sem, event.function) or not _told(sem, event.node, event.function, 0)
    return detail == "cpu" and _is_module(sem, event.function) and not _goes_to_host(sem, event.node)


def _is_module(sem: Semantics, function: Function) -> bool:
    """Whether it belongs to a Module that is no loss: what it reads may decide what it computes."""
    cls = function.cls
    return cls is not None and sem.names.method(cls, "forward") is not None and not _LOSS.search(cls.qualname)


def _goes_to_host(sem: Semantics, node: cst.CSTNode) -> bool:
    """Whether `.numpy()` or `.tolist()` follows in the same chain."""
    parent = sem.file.parent(node)
    while isinstance(parent, (cst.Attribute, cst.Call)):
        if isinstance(parent, cst.Attribute):
            if parent.attr.value in _TO_HOST:
                return True
            if parent.attr.value not in _ON_THE_WAY:
                return False
        parent = sem.file.parent(parent)
    return False


def _told(sem: Semantics, node: cst.CSTNode, function: Function, depth: int) -> bool:
    """Whether a number is only told on: returned, stored, summed; nothing here is decided by it."""
    below, parent = node, sem.file.parent(node)
    while parent is not None:
        if isinstance(parent, (cst.Return, cst.AugAssign, cst.DictElement)):
            return True
        if isinstance(parent, cst.Assign):
            return all(_told_of(sem, t.target, function, depth) for t in parent.targets)
        if isinstance(parent, cst.Arg):
            call = sem.file.parent(parent)
            last = call.func.attr.value if isinstance(call, cst.Call) and isinstance(call.func, cst.Attribute) else ""
            if last not in _TELLING and not (isinstance(call, cst.Call) and dotted(call.func) in _TELLING):
                return False
            if last in _TELLING and last not in ("round", "float", "str"):
                return True
            below, parent = call or below, sem.file.parent(call) if call is not None else None
            continue
        if not isinstance(parent, (cst.BinaryOperation, cst.UnaryOperation, cst.Tuple, cst.List, cst.Element)):
            return False
        below, parent = parent, sem.file.parent(parent)
    return False


def _told_of(sem: Semantics, target: cst.BaseExpression, function: Function, depth: int) -> bool:
    """The same of what the number is bound to: an attribute or an item, or a name that is only told on."""
    if isinstance(target, (cst.Attribute, cst.Subscript)):
        return True
    if not isinstance(target, cst.Name) or depth > 1:
        return False
    uses = [
        n
        for n in find(function.body, cst.Name)
        if n.value == target.value and n is not target and not isinstance(sem.file.parent(n), cst.AssignTarget)
    ]
    return bool(uses) and all(_told(sem, n, function, depth + 1) for n in uses)


def _only_brings(sem: Semantics, event: Event) -> bool:
    """Whether the function is there to bring a tensor to the host: `return x.detach().cpu().numpy()`."""
    name = root_name(read(event))
    if name is None or name not in event.function.params:
        return False
    node: cst.CSTNode | None = event.node
    while isinstance(node, (cst.Call, cst.Attribute)):
        if isinstance(node, cst.Call) and any(n is not node for n in find(root_of(node), cst.Call)):
            return False
        node = sem.file.parent(node)
    return isinstance(node, cst.Return)
