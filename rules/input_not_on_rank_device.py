"""A DistributedDataParallel replica on a GPU is fed tensors that lie on the CPU.

## What it does
Reports a call of a DistributedDataParallel model whose parameters are on a GPU with a tensor that is certainly on the
CPU: one made by a torch factory without `device=`, or a batch that comes from a DataLoader and is never moved. Models
that are only wrapped in some runs, and devices that may be the CPU, are left alone.

## Why is this bad
Without `device_ids` the call raises ("Expected all tensors to be on the same device"). With `device_ids=[rank]`, DDP
copies its inputs over itself in every step, while the host waits, and it copies nothing but inputs: a loss
against a target that was left on the CPU raises. Where DDP's copy keeps the program running, the finding is an `info`.

## Example
```python
ddp_model = DistributedDataParallel(model.to(rank), device_ids=[rank])
outputs = ddp_model(torch.randn(100, 10))
```
Use instead:
```python
ddp_model = DistributedDataParallel(model.to(rank), device_ids=[rank])
outputs = ddp_model(torch.randn(100, 10, device=rank))
```

## Fix safety
Unsafe: random numbers drawn on the GPU are others than those drawn on the CPU. A loader's batches are moved as they
are.

## Verified by
Running the step with a stand-in for the GPU and noting where the tensors lie that reach the replica: on the CPU before,
on the replica's device after.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html
- https://pytorch.org/tutorials/intermediate/ddp_tutorial.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import add_argument
from torchlint.nodes import argument, dotted, find, walk_scope
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import knowledge
from torchlint.semantics.batches import loader_value
from torchlint.semantics.kinds import Kind
from torchlint.semantics.names import Function
from torchlint.semantics.processes import Processes, Replica
from torchlint.semantics.transfers import makes_device_tensors

RULE = Rule(
    "TL809",
    Category.DISTRIBUTED,
    Severity.WARNING,
    triggers=(r"\bDistributedDataParallel\b|\bDDP\(", r"\.backward\(|\bstep\("),
    requires=(r"\bDistributedDataParallel\b",),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

# Statements that put new tensors or whole models elsewhere than the CPU without a word at the call.
_ELSEWHERE = re.compile(
    r"set_default_device|set_default_tensor_type|set_default_dtype\(torch\.cuda|with torch\.device\("
)
_TAKES_DEVICE = knowledge.FACTORIES - {"torch.from_numpy"} - {n for n in knowledge.FACTORIES if n.endswith("Tensor")}


@dataclass(frozen=True, eq=False)
class Stray:
    """A tensor on the CPU. `made`: the factory call, or the loop whose loader hands it out."""

    node: cst.BaseExpression
    made: cst.Call | cst.For


@RULE.on
def check(module: cst.Module, ctx: Context) -> Iterator[Finding]:
    if "DistributedDataParallel" not in ctx.file.text or ctx.file.mentions(_ELSEWHERE):
        return
    processes = Processes.of(ctx.sem)
    if not processes.replicas:
        return
    for call, function, _ in processes.calls:
        replica = processes.replica(call.func, function)
        if replica is None or replica.conditional:
            continue
        device = gpu(processes, replica)
        strays = [s for a in call.args if not a.star and (s := stray(processes, a.value, function)) is not None]
        at = processes.file.twin(strays[0].node, ctx.file) if strays else None
        if device is not None and at is not None:
            yield finding(processes, replica, device, call, function, strays, at)


def finding(
    processes: Processes,
    replica: Replica,
    device: str,
    call: cst.Call,
    function: Function,
    strays: list[Stray],
    at: cst.CSTNode,
) -> Finding:
    given = argument(replica.call, "device_ids", 1)
    targets = compared(processes, call, function)
    model = processes.file.code(call.func)
    severity = None
    if given is None:
        why = "the call raises, because parameters and input lie on different devices"
    elif targets:
        why = f"only inputs are copied over, so the loss against `{processes.file.code(targets[0].node)}` raises"
    else:
        why, severity = (
            "DistributedDataParallel copies it over in every step, and the host waits for the copy",
            Severity.INFO,
        )
    return Finding(
        at,
        f"`{model}` is on `{device}` and gets a tensor that lies on the CPU",
        why,
        f"make it on `{device}`, or move it there",
        move(processes, [*strays, *targets], device, replica, function),
        severity=severity,
    )


def gpu(processes: Processes, replica: Replica) -> str | None:
    """How the replica's device is written, where it is certainly a GPU."""
    given = argument(replica.call, "device_ids", 1)
    if given is not None:
        if isinstance(given.value, cst.List) and len(given.value.elements) == 1:
            device = given.value.elements[0].value
            if isinstance(device, (cst.Name, cst.Attribute, cst.Integer)):
                return processes.file.code(device)
        return None
    model = argument(replica.call, "module", 0)
    place = processes.sem.value(model.value).device if model is not None else ""
    if place == "cuda":
        return '"cuda"'
    return place if processes.holds_rank(place, replica.function) else None


def stray(processes: Processes, node: cst.BaseExpression, function: Function) -> Stray | None:
    """The tensor, if it is certainly on the CPU."""
    sem = processes.sem
    value = sem.value(node)
    if value.is_tensor and value.device == "cpu" and isinstance(value.node, cst.Call):
        if sem.qualified(value.node.func) in knowledge.FACTORIES:
            return Stray(node, value.node)
        return None
    if isinstance(node, cst.Name):
        loop = handed_out(processes, node, function)
        return Stray(node, loop) if loop is not None else None
    return None


def handed_out(processes: Processes, name: cst.Name, function: Function) -> cst.For | None:
    """The loop over a DataLoader of this file whose batch the name is, if nothing may have moved it."""
    sem, file = processes.sem, processes.file
    if sum(1 for n in walk_scope(function.body) if binds(n, name.value)) != 1:
        return None
    for outer in file.ancestors(name):
        if isinstance(outer, cst.For) and binds(outer, name.value):
            loader = loader_value(sem, outer.iter)
            made = loader.node if loader is not None else None
            if isinstance(made, cst.Call) and stays_on_cpu(processes, made) and untouched(outer, name.value):
                return outer
            return None
    return None


def binds(node: cst.CSTNode, name: str) -> bool:
    if isinstance(node, (cst.For, cst.AssignTarget, cst.AugAssign, cst.AnnAssign, cst.NamedExpr, cst.CompFor)):
        return any(n.value == name for n in find(node.target, cst.Name))
    return False


def stays_on_cpu(processes: Processes, loader: cst.Call) -> bool:
    """Whether the loader's batches certainly lie on the CPU: a plain DataLoader over a dataset that is known."""
    sem = processes.sem
    if sem.qualified(loader.func) != "torch.utils.data.DataLoader" or any(a.star for a in loader.args):
        return False
    data = argument(loader, "dataset", 0)
    if data is None or argument(loader, "collate_fn", 6) is not None:
        return False
    if argument(loader, "pin_memory", 7) is not None:
        return True  # only tensors on the CPU can be pinned
    return sem.value(data.value).kind is Kind.DATASET and not makes_device_tensors(sem, data.value)


def untouched(loop: cst.For, name: str) -> bool:
    """Whether the batch is handed to nothing that could move it in place, and calls no method that does."""
    for node in find(loop.body, cst.Attribute):
        if dotted(node.value) == name and node.attr.value in ("to", "cuda", "data", "copy_", "set_"):
            return False
    return True


def compared(processes: Processes, forward: cst.Call, function: Function) -> list[Stray]:
    """Tensors on the CPU with which a loss compares in the same function."""
    sem = processes.sem
    found = []
    for call, where, name in processes.calls:
        if where is not function or call is forward:
            continue
        if sem.value(call.func).kind is Kind.LOSS_FN or knowledge.is_loss_function(name):
            found += [s for a in call.args if (s := stray(processes, a.value, function)) is not None]
    return found


def move(processes: Processes, strays: list[Stray], code: str, replica: Replica, function: Function) -> Fix | None:
    """Factories make their tensor on the device; batches are moved at the top of their loop."""
    file = processes.file
    if replica.function is not function and not code.startswith('"'):
        return None  # what the device is called there is not known
    edits: list[Edit] = []
    batches: dict[cst.For, list[str]] = {}
    for item in strays:
        if isinstance(item.made, cst.For):
            names = batches.setdefault(item.made, [])
            if (name := file.code(item.node)) not in names:
                names.append(name)
        elif processes.sem.qualified(item.made.func) in _TAKES_DEVICE and argument(item.made, "device") is None:
            edits.append(add_argument(file, item.made, f"device={code}"))
        else:
            end = file.span(item.made)[1]
            edits.append(Edit(end, end, f".to({code})"))
    for loop, names in batches.items():
        if not isinstance(loop.body, cst.IndentedBlock):
            return None
        ordered = [n.value for n in find(loop.target, cst.Name) if n.value in names]
        moved = ", ".join(f"{n}.to({code})" for n in ordered)
        edits.append(file.insert_first(loop.body, f"{', '.join(ordered)} = {moved}"))
    return unsafe("Put the batch on the replica's device", *dict.fromkeys(edits))
