"""Which expressions make the CPU wait for the GPU, how often per turn of which loop, and whether a GPU is there at all.

The evaluator notes every place where Python needs a tensor's values (`Effect.SYNC`: `.item()`, `.cpu()`, `float(t)`, a
printed tensor, the truth of one). Here they are sorted: on the CPU they cost nothing, under `if step % N == 0` little,
in every step or for every element much.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import dotted, find, walk
from torchlint.semantics.batches import loader_value
from torchlint.semantics.blocks import always, unwrap_iteration
from torchlint.semantics.effects import Effect, Event, Guard
from torchlint.semantics.kinds import Kind
from torchlint.semantics.loops import TrainingLoop
from torchlint.semantics.names import Function
from torchlint.semantics.transfers import device_may_be_cuda

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

Loop = cst.For | cst.While
Clause = cst.For | cst.CompFor

# What says that tensors of this file go to a GPU: by name, by a device that is chosen, by a library that places them.
GPU = (
    r"cuda|torch\.accelerator\.|\.to\(\s*(?:device\s*=\s*)?[\w.\[\]\"']*device|\bAccelerator\(|deepspeed|\bFabric\(|convert_tensor"
    r"|prepare_batch"
)
_GPU = re.compile(GPU)
_WAITING = frozenset("item tolist cpu numpy float int bool print format data[0]".split())
EXPLICIT = frozenset(
    ("torch.cuda.synchronize", "torch.accelerator.synchronize", "torch.cuda.current_stream.synchronize")
)
_EVERY_TURN = re.compile(r"rank|is_main|is_master|main_process|cuda|gpu", re.I)
_COUNTED = re.compile(r"%|every|freq|interval|period|debug|verbose|first|last", re.I)
_MEASURING = re.compile(r"bench|profil|latenc|throughput|timing|(^|_)time(_|$)|speed|warm_?up", re.I)
_WORLD = re.compile(r"(^|\.|_)(env|envs|game|simulator|gym)(s|_\w+)?$", re.I)
_FETCHING = frozenset(("next", "__next__", "get_batch", "next_batch", "sample_batch"))
_COUNTS = frozenset(("range", "trange", "count", "arange", "linspace", "repeat"))
_PARAMETERS = frozenset(("parameters", "named_parameters", "param_groups"))


@dataclass(frozen=True, eq=False)
class Sync:
    """A place where the CPU waits for the GPU.

    `code`: what it looks like. `loops`: loops of its function around it, inside the one that was asked about,
    comprehension clauses included, outermost first. `call`: the call in the asked function that leads to it, if a
    callee does it.
    """

    node: cst.CSTNode = field(repr=False)
    event: Event = field(repr=False)
    code: str
    loops: tuple[Clause | cst.While, ...] = field(default=(), repr=False)
    call: cst.CSTNode | None = field(default=None, repr=False)

    @property
    def repeated(self) -> bool:
        """Whether it happens more than once per turn of the asked loop."""
        return bool(self.loops)


# -- is there a GPU -----------------------------------------------------------------------------------------------


def uses_gpu(sem: Semantics) -> bool:
    """Whether the file says anywhere that its tensors may lie on a GPU. A script for the CPU never does."""
    return sem.file.mentions(_GPU)


def uses_gpu_by_text(text: str) -> bool:
    return _GPU.search(text) is not None


def waits(sem: Semantics, event: Event, elsewhere: bool = False) -> bool:
    """Whether a SYNC or TRANSFER event makes the CPU wait: its tensor may lie on a GPU and comes to the host.

    `elsewhere`: another file may have put it there.
    """
    if not elsewhere and not uses_gpu(sem):
        return False
    if event.effect is Effect.TRANSFER:
        if event.detail != "cpu" or event.value.kind is Kind.UNKNOWN:
            return False
    elif event.detail not in _WAITING:
        return False
    device = event.value.device
    if device in ("", "?"):
        return not is_host_batch(sem, root_of(read(event)))
    return device_may_be_cuda(sem, device)


def is_host_batch(sem: Semantics, root: cst.CSTNode) -> bool:
    """Whether this is a batch as the loader gave it: it lies on the host until somebody moves it."""
    value = sem.value(root)
    return value.kind is Kind.BATCH and value.node is None and not value.origin and not value.device


def root_of(node: cst.CSTNode) -> cst.CSTNode:
    """The name that a chain of items, attributes and method calls starts from (or whatever it starts from)."""
    while isinstance(node, (cst.Attribute, cst.Subscript, cst.Call)):
        node = node.func if isinstance(node, cst.Call) else node.value
    return node


def root_name(node: cst.CSTNode) -> str | None:
    """The same, where it is a plain name."""
    root = root_of(node)
    return root.value if isinstance(root, cst.Name) else None


def read(event: Event) -> cst.BaseExpression:
    """The tensor whose values are asked for."""
    node = event.node
    if isinstance(node, cst.Call):
        if event.detail in ("float", "int", "bool") and node.args:
            return node.args[0].value
        if isinstance(node.func, cst.Attribute):
            return node.func.value
    if isinstance(node, cst.Subscript):
        return node.value
    assert isinstance(node, cst.BaseExpression)
    return node


class _Waits(dict[tuple[Function, bool], "list[Event]"]):
    """What `events_of` has answered for one file."""

    def __init__(self, sem: Semantics) -> None:
        super().__init__()


def events_of(sem: Semantics, function: Function, elsewhere: bool = False) -> list[Event]:
    """The function's own waits, in order, each place once."""
    known = sem.once(_Waits)
    if (function, elsewhere) not in known:
        seen: dict[int, Event] = {}
        for event in sem.events(function, Effect.SYNC, Effect.TRANSFER):
            if event.function is function and waits(sem, event, elsewhere) and _is_tensor(sem, event):
                seen.setdefault(id(event.node), event)
        known[function, elsewhere] = list(seen.values())
    return known[function, elsewhere]


def _is_tensor(sem: Semantics, event: Event) -> bool:
    """Whether what is read is a tensor; of unknown things only those that were computed from tensors."""
    if event.detail == "data[0]":
        return _is_scalar(sem, event)
    if event.value.is_tensor or event.value.kind is Kind.BATCH:
        return True
    return event.detail == "item" and event.value.kind is Kind.UNKNOWN and _from_tensors(sem, event)


def _is_scalar(sem: Semantics, event: Event) -> bool:
    """Whether `x.data[0]` reads a number: `x` is differentiated without arguments, or a term of what is.

    An element of anything longer is a tensor, and nobody waits for it.
    """
    data = read(event)
    name = dotted(data.value) if isinstance(data, cst.Attribute) else None
    losses = {e.subject for e in sem.events(event.function, Effect.BACKWARD)}
    for node in find(event.function.node, cst.Assign):
        if any(dotted(t.target) in losses for t in node.targets):
            losses |= {dotted(term) or "" for term in _terms(node.value)}
    return name is not None and name in losses


def _terms(node: cst.BaseExpression) -> Iterator[cst.BaseExpression]:
    if isinstance(node, cst.BinaryOperation):
        yield from _terms(node.left)
        yield from _terms(node.right)
    else:
        yield node


HOST = re.compile(
    r"\.cpu\(|\.to\(.cpu|numpy|\bnp\.|\.item\(|\.tolist\(|(?<!\.)\b(?:float|int|len)\(|env\.|\.sample\(|random\."
)


def _from_tensors(sem: Semantics, event: Event) -> bool:
    """Whether an unknown thing with `.item()` was computed here from tensors, by a function of another file say."""
    root = root_of(read(event))
    if not isinstance(root, cst.Name):
        return not HOST.search(sem.file.code(root)) and any(
            _holds_tensor(sem, n) or _computed(sem, event, n.value) for n in walk(root) if isinstance(n, cst.Name)
        )
    return differentiated_or_computed(sem, event, root.value)


def differentiated_or_computed(sem: Semantics, event: Event, name: str) -> bool:
    """Whether a name of unknown kind holds a tensor at the event: the function differentiates it, or the turn computes
    it from tensors."""
    for backward in sem.events(event.function, Effect.BACKWARD):
        if backward.subject.partition(".")[0] == name or name in _differentiated(backward):
            return True
    return _computed(sem, event, name)


def _differentiated(backward: Event) -> set[str]:
    """The names in what is differentiated: `loss` of `(loss * size).backward()`."""
    call = backward.node
    if not isinstance(call, cst.Call) or not isinstance(call.func, cst.Attribute):
        return set()
    around = call.func.value
    return (
        {n.value for n in walk(around) if isinstance(n, cst.Name)} if isinstance(around, cst.BinaryOperation) else set()
    )


def _computed(sem: Semantics, event: Event, name: str) -> bool:
    """Whether the name is bound, in the same turn, by a call that is given tensors."""
    around: cst.CSTNode = event.loops[-1].body if event.loops else event.function.body
    for node in find(around, cst.Assign):
        bound = {n.value for t in node.targets for n in walk(t) if isinstance(n, cst.Name)}
        if name in bound and isinstance(node.value, cst.Call):
            if HOST.search(sem.file.code(node.value)):
                return False
            if any(_holds_tensor(sem, a.value) for a in node.value.args):
                return True
    return False


def _holds_tensor(sem: Semantics, node: cst.BaseExpression) -> bool:
    value = sem.value(node)
    held = (*(value.items or ()), value.element) if value.kind in (Kind.DICT, Kind.LIST) else (value,)
    return any(v is not None and (v.is_tensor or v.kind is Kind.BATCH) and v.device != "cpu" for v in held)


# -- per step -----------------------------------------------------------------------------------------------------


def step_syncs(sem: Semantics, loop: TrainingLoop, elsewhere: bool = False) -> list[Sync]:
    """What makes the CPU wait in every turn of a training loop, no matter what; helpers of the same file included.

    `elsewhere`: another file may have put the tensors on a GPU.
    """
    found: list[Sync] = []
    all_off = all(e.grad.off for e in loop.events if e.effect is Effect.BACKWARD)
    for event in events_of(sem, loop.function, elsewhere):
        inside = isinstance(loop.node, cst.FunctionDef) or event.within(loop.node)
        if event.grad.off and (all_off or (event.loops and event.loops[-1] is not loop.node)):
            continue  # an evaluation inside the loop, or by the helper that trains, too
        if inside and every_turn(sem, loop.node, event):
            found.append(sync_of(sem, event, loop.node))
    if isinstance(loop.node, cst.FunctionDef):
        return found
    for callee, sites in sem.evaluator.call_sites.items():
        if callee is loop.function:
            continue
        for site in sites:
            if site.function is loop.function and site.within(loop.node) and every_turn(sem, loop.node, site):
                for event in events_of(sem, callee, elsewhere):
                    if every_turn(sem, callee.node, event):
                        found.append(sync_of(sem, event, callee.node, site.node))
                break
    return found


def sync_of(sem: Semantics, event: Event, inside: cst.CSTNode, call: cst.CSTNode | None = None) -> Sync:
    node = event.node
    code = " ".join(sem.file.code(node).split())
    if event.detail in ("print", "format"):
        code = f"print({code})" if event.detail == "print" else f"{{{code}}}"
    return Sync(node, event, code, loops_between(sem, node, inside), call)


def loops_between(sem: Semantics, node: cst.CSTNode, outer: cst.CSTNode) -> tuple[Clause | cst.While, ...]:
    """The loops and comprehension clauses around a node, up to an ancestor of it, outermost first."""
    loops: list[Clause | cst.While] = []
    below: cst.CSTNode = node
    for ancestor in sem.file.ancestors(node):
        if ancestor is outer:
            break
        if isinstance(ancestor, (cst.For, cst.While)) and below is ancestor.body:
            loops.append(ancestor)
        elif isinstance(ancestor, (cst.ListComp, cst.SetComp, cst.GeneratorExp, cst.DictComp)):
            if below is not ancestor.for_in:
                loops.extend(reversed(list(_clauses(ancestor))))
        below = ancestor
    return tuple(reversed(loops))


def _clauses(node: cst.ListComp | cst.SetComp | cst.GeneratorExp | cst.DictComp) -> Iterator[cst.CompFor]:
    clause: cst.CompFor | None = node.for_in
    while clause is not None:
        yield clause
        clause = clause.inner_for_in


def every_turn(sem: Semantics, outer: cst.CSTNode, event: Event) -> bool:
    """Whether nothing but the rank or the device decides if the event happens in a turn."""
    depth = next((i + 1 for i, item in enumerate(event.loops) if item is outer), 0)
    guards = [g for g in event.guards if g.depth >= depth]
    if not all(_lets_through(sem, guard, event) for guard in guards):
        return False
    for loop in event.loops[depth:]:
        if isinstance(loop, cst.For) and loader_value(sem, loop.iter) is not None:
            return False  # an evaluation inside the loop
        if isinstance(loop, cst.For) and isinstance(unwrap_iteration(loop.iter), cst.List):
            return False
    return not any(isinstance(a, cst.ExceptHandler) for a in _between(sem, event.node, outer)) and not _conditional(
        sem, event.node, outer
    )


def _lets_through(sem: Semantics, guard: Guard, event: Event) -> bool:
    test = sem.file.code(guard.test)
    if _COUNTED.search(test):
        return False
    around = any(a is guard.node for a in sem.file.ancestors(event.node))
    if not guard.taken and not around:
        return True  # behind `if resumed: continue`: the turns that are skipped are the exception
    return (guard.taken and _EVERY_TURN.search(test) is not None) or _either_way(guard.node)


def _either_way(node: cst.CSTNode) -> bool:
    """Whether both branches of an `if` read a value: whichever is taken, the turn waits."""
    if not isinstance(node, cst.If) or not isinstance(node.orelse, cst.Else):
        return False
    return all(
        any(isinstance(c.func, cst.Attribute) and c.func.attr.value in ("item", "tolist") for c in find(arm, cst.Call))
        for arm in (node.body, node.orelse.body)
    )


def _between(sem: Semantics, node: cst.CSTNode, outer: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for ancestor in sem.file.ancestors(node):
        if ancestor is outer:
            return
        yield ancestor


def _conditional(sem: Semantics, node: cst.CSTNode, outer: cst.CSTNode) -> bool:
    """Whether a conditional expression or a short circuit decides if the node is reached at all."""
    below = node
    for ancestor in _between(sem, node, outer):
        if isinstance(ancestor, cst.IfExp) and below is not ancestor.test:
            return True
        if isinstance(ancestor, cst.BooleanOperation) and below is ancestor.right:
            return True
        below = ancestor
    return False


def reached_every_turn(sem: Semantics, node: cst.CSTNode, loop: cst.CSTNode) -> bool:
    """Whether no `if`, `except` or conditional expression inside the loop decides if the node is reached."""
    while isinstance(loop, cst.CompFor):
        loop = sem.file.parents[loop]
    below = node
    for ancestor in _between(sem, node, loop):
        decides = isinstance(ancestor, cst.If) and below is not ancestor.test and not always(ancestor)
        if decides or isinstance(ancestor, cst.ExceptHandler):
            return False
        below = ancestor
    return not _conditional(sem, node, loop)


def per_parameter(sync: Sync) -> bool:
    """Whether it waits once for every parameter of a model."""
    return any(
        isinstance(n, cst.Attribute) and n.attr.value in _PARAMETERS
        for loop in sync.loops
        if not isinstance(loop, cst.While)
        for n in walk(loop.iter)
    )


def over_batches(sem: Semantics, loop: TrainingLoop) -> bool:
    """Whether the loop takes a step per batch: it goes over data, fetches it, or is repeated by another loop."""
    node = loop.node
    if isinstance(node, cst.FunctionDef) or loop.outer or any(site.loops for site in sem.call_sites(loop.function)):
        return True
    targets: set[str] = set()
    if isinstance(node, cst.For):
        if loader_value(sem, node.iter) is not None:
            return True
        targets = {n.value for n in walk(node.target) if isinstance(n, cst.Name)}
        for assign in find(node.body, cst.Assign) if targets else ():
            parts = [n for n in walk(assign.value) if isinstance(n, (cst.Name, cst.Call))]
            if parts and all(isinstance(n, cst.Name) and n.value in targets for n in parts):
                targets |= {n.value for t in assign.targets for n in walk(t) if isinstance(n, cst.Name)}
        if _hands_to_model(loop, node, targets):
            return True
    for call in find(node.body, cst.Call):
        name = dotted(call.func) or ""
        if name.rpartition(".")[2] in _FETCHING:
            return True
        if name.partition(".")[0] in targets and name.endswith((".to", ".cuda")):
            return True
        if (callee := sem.callee(call)) is not None and _takes_batch(call, callee, targets):
            return True
    return False


def over_things(node: cst.CSTNode) -> bool:
    """Whether a loop goes over something that it is given, and does not count."""
    if not isinstance(node, cst.For):
        return False
    over = unwrap_iteration(node.iter)
    return not isinstance(over, cst.Call) or (dotted(over.func) or "").rpartition(".")[2] not in _COUNTS


def _hands_to_model(loop: TrainingLoop, node: cst.For, targets: set[str]) -> bool:
    """Whether the model is given what the loop goes over, and that is no count of epochs."""
    return over_things(node) and any(
        isinstance(event.node, cst.Call)
        and any(isinstance(n, cst.Name) and n.value in targets for arg in event.node.args for n in walk(arg.value))
        for event in loop.of(Effect.FORWARD)
        if event.via is None
    )


def _takes_batch(call: cst.Call, callee: Function, batch: set[str]) -> bool:
    """Whether an own function that the loop calls fetches the batch itself, or moves the one that it is given."""
    params = callee.params[1:] if callee.is_method else callee.params
    given = {p for p, arg in zip(params, call.args) if arg.keyword is None and dotted(arg.value) in batch}
    for inner in find(callee.node, cst.Call):
        owner, _, last = (dotted(inner.func) or "").rpartition(".")
        if last in _FETCHING or (last in ("to", "cuda") and owner in given):
            return True
    return False


def measures(function: Function, path: str) -> bool:
    """Whether the function is there to take time: it has to wait."""
    return _MEASURING.search(function.name) is not None or _MEASURING.search(path.rpartition("/")[2]) is not None


def synchronizes(sem: Semantics, loop: TrainingLoop) -> bool:
    """Whether every turn waits explicitly: `torch.cuda.synchronize()`."""
    return any(e.target in EXPLICIT for e in called_every_turn(sem, loop.node, loop.events))


def called_every_turn(sem: Semantics, loop: cst.CSTNode, events: Iterable[Event]) -> Iterator[Event]:
    """The calls among the loop's events that stand in it themselves and happen in every turn of it."""
    for event in events:
        if event.effect is Effect.CALL and event.via is None and every_turn(sem, loop, event):
            yield event


def asks_world(loop: TrainingLoop) -> bool:
    """Whether the loop acts in an environment: actions have to come to the host in every step."""
    for event in loop.events:
        if event.effect in (Effect.CALL, Effect.STEP, Effect.SCHEDULER_STEP):
            owner, _, last = event.subject.rpartition(".")
            if last in ("step", "reset") and _WORLD.search(owner):
                return True
    return False
