"""One process alone does what all processes of a DistributedDataParallel script must do together.

## What it does
Reports, under a test that certainly lets one process through (`rank == 0`, `dist.get_rank() == 0`, a function or name
that says so): wrapping a model in DistributedDataParallel, a forward and backward pass through a replica, and
collectives such as `all_reduce`, `broadcast` and `barrier`. Collectives of a group of their own, and those that the
file calls at another place too (one process first, then the others), are not reported; nor is a replica that one
process evaluates.

## Why is this bad
These calls wait for all processes: the wrap broadcasts parameters, backward averages gradients, and collectives are
made of waiting. The one process waits for partners who never call, or who answer with the next call that they make:
the script hangs, or exchanges the wrong tensors.

## Example
```python
if rank == 0:
    dist.all_reduce(loss)
    print(loss.item() / world_size)
```
Use instead:
```python
dist.all_reduce(loss)
if rank == 0:
    print(loss.item() / world_size)
```

## Fix safety
There is no fix: the call has to move out of the test, and what follows from that only the author knows.

## Verified by
Really starting two processes: with the call under the test one of them never ends, and both end with the call in front
of it (`tests/test_processes.py`).

## References
- https://pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html
- https://pytorch.org/docs/stable/distributed.html#collective-functions
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import argument
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics.effects import Effect
from torchlint.semantics.names import Function
from torchlint.semantics.processes import DDP, Processes
from torchlint.semantics.rank_guards import in_one_process, one_process, tests_around

RULE = Rule(
    "TL808",
    Category.DISTRIBUTED,
    Severity.WARNING,
    triggers=(r"\brank\b", r"get_rank\(", r"RANK\b", r"\bDistributedDataParallel\b"),
    requires=(r"\bDistributedDataParallel\b|\binit_process_group\(", r"rank|RANK"),
    since="0.1",
)

_COLLECTIVES = frozenset(
    f"torch.distributed.{n}"
    for n in """all_reduce broadcast all_gather all_gather_into_tensor all_gather_object broadcast_object_list reduce
    reduce_scatter reduce_scatter_tensor gather gather_object scatter scatter_object_list all_to_all all_to_all_single
    barrier monitored_barrier""".split()
)


@RULE.on
def check(module: cst.Module, ctx: Context) -> Iterator[Finding]:
    text = ctx.file.text
    if "DistributedDataParallel" not in text and "init_process_group" not in text:
        return
    processes = Processes.of(ctx.sem)
    for call, function, name in processes.calls:
        what = waits(processes, call, function, name)
        if what is None or not in_one_process(processes, call, function):
            continue
        at = processes.file.twin(call, ctx.file)
        if at is not None:
            subject, why, do = what
            yield Finding(at, f"one process alone {subject}", why, do)


def waits(processes: Processes, call: cst.Call, function: Function, name: str) -> tuple[str, str, str] | None:
    """What the call is, why it waits and what to do, if it is one that all processes must make."""
    if name == DDP:
        if argument(call, "process_group") is not None:
            return None
        return (
            "wraps a model in DistributedDataParallel",
            "the wrap broadcasts parameters and waits for processes that never come",
            "wrap in every process, outside of the test",
        )
    if name in _COLLECTIVES:
        short = name.removeprefix("torch.distributed.")
        if argument(call, "group") is not None or elsewhere(processes, call, function, name):
            return None
        return (
            f"calls `{short}`",
            "it waits for all processes, and the others never call it",
            "call it in every process",
        )
    replica = processes.replica(call.func, function)
    if replica is None or replica.conditional or not trains(processes, call, function):
        return None
    return (
        "runs a replica forward and backward",
        "backward averages gradients with processes that never come",
        "train in every process",
    )


def trains(processes: Processes, call: cst.Call, function: Function) -> bool:
    """Whether a backward pass stands in the same function under the same certain test."""
    return any(
        event.via is None
        and any(one_process(processes, t, taken, function) for t, taken in tests_around(processes, event.node))
        for event in processes.sem.events(function, Effect.BACKWARD)
    )


def elsewhere(processes: Processes, call: cst.Call, function: Function, name: str) -> bool:
    """Whether the collective is called at another place, too: then the processes may meet in two branches."""
    return any(other is not call and n == name for other, _, n in processes.calls)
