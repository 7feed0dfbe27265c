"""Gradient accumulation under DistributedDataParallel that averages gradients in every micro-batch.

## What it does
Reports a training loop over a DistributedDataParallel model that calls `backward()` for every batch and steps the
optimizer only in every N-th, without `no_sync()`. Accelerate, Fabric, DeepSpeed and the like, which do this themselves,
are not reported, nor is a loop that sets `require_backward_grad_sync` by hand.

## Why is this bad
DDP sends all gradients to all processes in every backward, so a group of N micro-batches pays for N reductions, of
which one is needed. `no_sync()` lets the gradients add up in each process and leaves the reduction to the last
micro-batch; the sum that the optimizer sees is the same.

## Example
```python
for i, (x, y) in enumerate(loader):
    loss = criterion(ddp_model(x), y) / n
    loss.backward()
    if (i + 1) % n == 0:
        optimizer.step()
        optimizer.zero_grad()
```
Use instead:
```python
for i, (x, y) in enumerate(loader):
    with contextlib.nullcontext() if (i + 1) % n == 0 else ddp_model.no_sync():
        loss = criterion(ddp_model(x), y) / n
        loss.backward()
    if (i + 1) % n == 0:
        optimizer.step()
        optimizer.zero_grad()
```

## Fix safety
Unsafe: gradients are added before they are averaged and not after, which changes their last bits, and those of the
other micro-batches of a group stay in each process until its last one. Code between that reads `.grad` sees the
process's own gradients.

## Verified by
Counting the turns in which gradients are reduced: all of them before, the stepping ones after, with the same steps.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html#torch.nn.parallel.DistributedDataParallel.no_sync
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Severity
from torchlint.edits import torch_name, wrap_in_with
from torchlint.nodes import find, walk
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import TrainingLoop, flow, microbatches
from torchlint.semantics.effects import Effect
from torchlint.semantics.kinds import Kind
from torchlint.semantics.processes import Processes, Replica

RULE = Rule(
    "TL804",
    Category.DISTRIBUTED,
    Severity.WARNING,
    triggers=(r"\.backward\(",),
    requires=(r"\bDistributedDataParallel\b", r"%"),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

# What a file says that decides by itself when gradients are reduced.
_HANDLED = re.compile(
    r"no_sync|require_backward_grad_sync|register_comm_hook|delay_allreduce|delay_unscale|set_gradient_sync"
)


@RULE.on
def check(module: cst.Module, ctx: Context) -> Iterator[Finding]:
    if "DistributedDataParallel" not in ctx.file.text or ctx.file.mentions(_HANDLED):
        return
    processes = Processes.of(ctx.sem)
    if not processes.replicas:
        return
    for loop in processes.sem.objects(TrainingLoop):
        for step in loop.of(Effect.STEP):
            group = microbatches.accumulation(loop, step)
            if group is None or any(b.value.kind is Kind.FRAMEWORK or b.via is not None for b in group.backwards):
                continue
            found = replica_of(processes, loop)
            at = processes.file.twin(flow.call_of(group.backwards[0]), ctx.file)
            if found is None or at is None:
                continue
            model, replica = found
            n = processes.file.code(group.steps)
            yield Finding(
                at,
                f"the gradients of `{model}` are averaged over all processes in every turn",
                f"the optimizer steps in every `{n}`-th, so the other turns wait for a reduction that nothing uses yet",
                f"run them under `{model}.no_sync()`",
                keep_local(processes, group, model, replica),
            )
            break


def replica_of(processes: Processes, loop: TrainingLoop) -> tuple[str, Replica] | None:
    """The one replica that the loop itself calls, and its name there."""
    found: dict[str, Replica] = {}
    for event in loop.of(Effect.FORWARD):
        call = event.node
        if event.via is None and isinstance(call, cst.Call):
            model: cst.BaseExpression = call.func
            if isinstance(model, cst.Attribute) and model.attr.value == "forward":
                model = model.value
            replica = processes.replica(model, loop.function)
            if replica is not None:
                found[processes.file.code(model)] = replica
    return next(iter(found.items())) if len(found) == 1 else None


def keep_local(processes: Processes, group: microbatches.Accumulation, model: str, replica: Replica) -> Fix | None:
    """Forward and backward under `no_sync()` in the turns without a step."""
    file, loop = processes.file, group.loop.node
    if not isinstance(loop, (cst.For, cst.While)) or not isinstance(loop.body, cst.IndentedBlock):
        return None
    if not group.guard.taken or any(isinstance(n, cst.NamedExpr) for n in walk(group.guard.test)):
        return None
    block = list(loop.body.body)
    forwards = [e.node for e in group.loop.of(Effect.FORWARD) if e.via is None]
    wanted = [*forwards, *(flow.call_of(b) for b in group.backwards)]
    rows = [i for i, statement in enumerate(block) if any(n in wanted for n in walk(statement))]
    stepping = next((i for i, s in enumerate(block) if s is group.guard.node), None)
    if not rows or stepping is None or rows[-1] >= stepping:
        return None
    held = block[rows[0] : rows[-1] + 1]
    if any(not isinstance(s, cst.SimpleStatementLine) for s in held) or counts(group, block[rows[0] : stepping]):
        return None
    test = file.code(group.guard.test)
    null, imports = torch_name(file, processes.sem, "contextlib.nullcontext", loop)
    if replica.conditional:
        test = f'{parenthesised(group.guard.test, test)} or not hasattr({model}, "no_sync")'
    with_ = wrap_in_with(file, held, f"{null}() if {test} else {model}.no_sync()")
    return unsafe("Reduce gradients in the stepping turns only", *imports, *with_)


def counts(group: microbatches.Accumulation, statements: Sequence[cst.CSTNode]) -> bool:
    """Whether a name of the step's test changes between the forward and the step: it would say something else above."""
    names = {n.value for n in find(group.guard.test, cst.Name)}
    return any(
        isinstance(node, (cst.AssignTarget, cst.AugAssign, cst.AnnAssign, cst.For))
        and any(n.value in names for n in find(node.target, cst.Name))
        for statement in statements
        for node in walk(statement)
    )


def parenthesised(test: cst.BaseExpression, code: str) -> str:
    return f"({code})" if isinstance(test, (cst.BooleanOperation, cst.IfExp)) else code
