"""Spawned processes start a process group and have no address to meet at.

## What it does
Reports `init_process_group` in a function that `mp.spawn` (or `Process`) starts, where the call names neither an
`init_method` nor a `store`, and nothing in the project mentions `MASTER_ADDR`. Scripts that a launcher starts
(`torchrun`, SLURM, MPI) are not reported: those set the address themselves.

## Why is this bad
Without a method and a store the group is made by `env://`, which reads `MASTER_ADDR` and `MASTER_PORT` from the
environment. `torchrun` sets them, `mp.spawn` does not: every process stops with "environment variable MASTER_ADDR
expected, but not set" before the first batch.

## Example
```python
def main(rank, world_size):
    dist.init_process_group("nccl", rank=rank, world_size=world_size)

mp.spawn(main, args=(world_size,), nprocs=world_size)
```
Use instead:
```python
def main(rank, world_size):
    os.environ.setdefault("MASTER_ADDR", "localhost")
    os.environ.setdefault("MASTER_PORT", "29500")
    dist.init_process_group("nccl", rank=rank, world_size=world_size)
```

## Fix safety
A suggestion: the port must be free on the machine, and `localhost` is right for one machine only.

## Verified by
Really starting the processes, once as they are and once with the suggested lines: `tests/test_processes.py`.

## References
- https://pytorch.org/docs/stable/distributed.html#environment-variable-initialization
- https://pytorch.org/tutorials/intermediate/ddp_tutorial.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Question, Severity
from torchlint.edits import torch_name
from torchlint.nodes import argument, has_star, literal
from torchlint.rule import Category, Context, Finding, Rule, suggestion
from torchlint.semantics.processes import GROUP, Processes

RULE = Rule(
    "TL811",
    Category.DISTRIBUTED,
    Severity.WARNING,
    triggers=(r"\binit_process_group\(",),
    requires=(r"\binit_process_group\(", r"\bspawn\(|\bProcess\(|\bstart_processes\("),
    since="0.1",
    fixes=(Applicability.SUGGESTION,),
)

# What a launcher has set is read: it set the address, too.
_LAUNCHED = re.compile(r"environ(?:\.get\(|\[)\s*[\"'](?:LOCAL_RANK|RANK|WORLD_SIZE)[\"']")
_LINES = ('{environ}.setdefault("MASTER_ADDR", "localhost")', '{environ}.setdefault("MASTER_PORT", "29500")')


@RULE.on
def check(module: cst.Module, ctx: Context) -> Iterator[Finding]:
    text = ctx.file.text
    if "init_process_group" not in text or "MASTER_" in text or "environ.update" in text or _LAUNCHED.search(text):
        return
    processes = Processes.of(ctx.sem)
    for call, function in processes.named(GROUP):
        if not reads_environment(call) or not (processes.started_from(function) & processes.spawned.keys()):
            continue
        at = processes.file.twin(call, ctx.file)
        if at is not None:
            yield Finding(
                at,
                "spawned processes have no address to meet at",
                "`env://` reads MASTER_ADDR and MASTER_PORT, which torchrun sets and `mp.spawn` does not, and raises",
                "set both in `os.environ`, or pass `init_method`",
                set_address(processes, call),
                (Question("sets-rendezvous", function.own),),
            )


def reads_environment(call: cst.Call) -> bool:
    """Whether the group is certainly made by `env://`."""
    if has_star(call) or argument(call, "store", 5):
        return False
    method = argument(call, "init_method", 1)
    backend = argument(call, "backend", 0)
    if backend is not None and literal(backend.value) in ("mpi", "fake"):
        return False  # these need no meeting point
    return method is None or literal(method.value) in (None, "env://")


def set_address(processes: Processes, call: cst.Call) -> Fix | None:
    """The two variables, above the call."""
    file = processes.file
    statement = file.statement(call)
    if not isinstance(statement, cst.SimpleStatementLine):
        return None
    environ, imports = torch_name(file, processes.sem, "os.environ", call)
    lines = [line.format(environ=environ) for line in _LINES]
    return suggestion("Meet on this machine", *imports, file.insert_before(statement, lines))
