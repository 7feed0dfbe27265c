"""Every process of a distributed script writes the same checkpoint.

## What it does
Reports `torch.save(…, path)` that all processes of a DistributedDataParallel script reach, where neither a test of the
rank stands around it (or around a call that leads to it), nor the path has the rank in it. Sharded checkpoints (FSDP,
DeepSpeed, ZeRO) are not reported: there each process has a part of its own to save.

## Why is this bad
Replicas are equal, so one file is enough. N processes that open the same file write over each other: who comes last
wins, a reader may meet half a file, and on a shared disk the checkpoint can end up broken. It also costs N writes.

## Example
```python
torch.save(ddp_model.module.state_dict(), "model.pt")
```
Use instead:
```python
if dist.get_rank() == 0:
    torch.save(ddp_model.module.state_dict(), "model.pt")
```

## Fix safety
Unsafe: processes other than the first no longer write, and no longer wait for the disk. Where another process reads the
file afterwards, a `dist.barrier()` is needed before; no fix is offered if the same function loads something.

## Verified by
Running the script as each of two ranks and counting who writes: both before, the first alone after.

## References
- https://pytorch.org/tutorials/intermediate/ddp_tutorial.html#save-and-load-checkpoints
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Severity
from torchlint.nodes import argument, find
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics.names import Function
from torchlint.semantics.processes import Processes
from torchlint.semantics.rank_guards import may_mind_rank, only_some
from torchlint.spelling import same

RULE = Rule(
    "TL806",
    Category.DISTRIBUTED,
    Severity.WARNING,
    triggers=(r"\bsave\(",),
    requires=(r"\bDistributedDataParallel\b|\binit_process_group\(", r"\btorch\b"),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

# Ways to save in which every process has a part of its own, or which see to the rank themselves.
_SHARDED = re.compile(
    r"FullyShardedDataParallel|fully_shard|FSDP|deepspeed|ZeroRedundancyOptimizer|torch_xla|xmp\.spawn|horovod|hvd\."
    r"|megatron|model_parallel|tensor_parallel|distributed\.rpc|distributed\.checkpoint|accelerat|Fabric\("
)
_THERE = ("os.path.exists", "os.path.isfile")
_OWN_PLACE = re.compile(r"tempfile|mkdtemp|mktemp|uuid|getpid|BytesIO|StringIO|buffer|hostname|\bdevice\b|worker", re.I)


@RULE.on
def check(module: cst.Module, ctx: Context) -> Iterator[Finding]:
    text = ctx.file.text
    if ("DistributedDataParallel" not in text and "init_process_group" not in text) or _SHARDED.search(text):
        return
    processes = Processes.of(ctx.sem)
    for call, function in processes.named("torch.save"):
        path = argument(call, "f", 1)
        if path is None or not everywhere(processes, call, function) or own_place(processes, path.value, function):
            continue
        if in_lone_branch(processes, call, function) or shared_out(processes, path.value, function):
            continue
        at = processes.file.twin(call, ctx.file)
        if at is not None:
            yield Finding(
                at,
                "every process saves to the same file",
                "they write over each other, and a checkpoint that is read or cut off meanwhile is broken",
                "save in the process of rank 0 only",
                first_only(processes, call, function),
            )


def in_lone_branch(processes: Processes, call: cst.Call, function: Function) -> bool:
    """Whether another branch of an `if` around the call saves in one process: this one runs alone."""
    inner: cst.CSTNode = call
    for outer in processes.file.ancestors(call):
        if isinstance(outer, (cst.FunctionDef, cst.ClassDef)):
            return False
        if isinstance(outer, cst.If) and inner is not outer.test:
            other = outer.orelse if inner is outer.body else outer.body
            saves = {c for c, _ in processes.named("torch.save")} & set(find(other, cst.Call)) if other else set()
            if any(only_some(processes, c, function) for c in saves):
                return True
        inner = outer
    return False


def shared_out(processes: Processes, path: cst.BaseExpression, function: Function) -> bool:
    """Whether the file is made only where it is not there yet: processes that go through a list of many in any order
    share it out like this."""
    asked = (c for c, where, name in processes.calls if where is function and name in _THERE)
    return any(c.args and same(c.args[0].value, path) for c in asked)


def everywhere(processes: Processes, call: cst.Call, function: Function) -> bool:
    """Whether all processes certainly reach the call, in a run that has several."""
    return bool(processes.started_from(function) & processes.parallel) and not only_some(processes, call, function)


def own_place(processes: Processes, path: cst.BaseExpression, function: Function, depth: int = 0) -> bool:
    """Whether the path might be another one in each process."""
    if _OWN_PLACE.search(processes.file.code(path)) or may_mind_rank(processes, path, function):
        return True
    if depth > 3:
        return False
    for name in find(path, cst.Name):
        if any(own_place(processes, v, function, depth + 1) for v in processes.values(name.value, function)):
            return True
        if any(own_place(processes, v, f, depth + 1) for v, f in processes.passed(name.value, function)):
            return True
    return False


def first_only(processes: Processes, call: cst.Call, function: Function) -> Fix | None:
    """The statement under `if dist.get_rank() == 0:`."""
    file = processes.file
    statement = file.parent(call)
    line = file.statement(call)
    if not isinstance(statement, cst.Expr) or not isinstance(line, cst.SimpleStatementLine) or len(line.body) != 1:
        return None
    if not isinstance(file.parent(line), (cst.IndentedBlock, cst.Module)):
        return None
    inside = [name for _, where, name in processes.calls if where is function]
    if "torch.load" in inside or "torch.distributed.destroy_process_group" in inside:
        return None
    dist = next((a for a, target in processes.sem.names.imports.items() if target == "torch.distributed"), None)
    dist = dist or ("torch.distributed" if "torch" in processes.sem.names.imports else None)
    if dist is None or processes.sem.names.qualify_text(f"{dist}.get_rank", function) != "torch.distributed.get_rank":
        return None
    certain = any(not r.conditional and r.function is function for r in processes.replicas.values())
    test = f"{dist}.get_rank() == 0"
    if not certain:
        test = f"not {dist}.is_initialized() or {test}"
    return unsafe("Save in the first process only", *file.reindent([line], f"if {test}:"))
