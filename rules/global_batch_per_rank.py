"""Every process takes a batch that was multiplied by the number of processes.

## What it does
Reports a batch size of the form `n * world_size` that a process of a DistributedDataParallel script uses for itself: as
`batch_size` of a DataLoader with a DistributedSampler, or for tensors that it feeds to its replica. A product that is
divided by the number of processes again, or only logged, is not reported.

## Why is this bad
`nn.DataParallel` splits one batch among the GPUs, so there the batch is scaled by their number. DDP splits nothing:
each process loads its own batch. Multiplied in every process, a step takes `n * world_size` samples per GPU and
`n * world_size ** 2` in all: GPUs run out of memory as processes are added, and the learning rate no longer fits.

## Example
```python
batch_size = 100 * dist.get_world_size()
loader = DataLoader(train_set, batch_size=batch_size, sampler=DistributedSampler(train_set))
```
Use instead:
```python
batch_size = 100
loader = DataLoader(train_set, batch_size=batch_size, sampler=DistributedSampler(train_set))
```

## Fix safety
A suggestion: whether the factor or the number was meant per process only the author knows, and the learning rate goes
with the answer.

## Verified by
Counting what two processes take in a step, with the product and with the share: `tests/test_processes.py`.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html
- https://pytorch.org/docs/stable/notes/cuda.html#use-nn-parallel-distributeddataparallel-instead-of-multiprocessing-or-nn-dataparallel
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.nodes import argument
from torchlint.rule import Category, Context, Finding, Rule, suggestion
from torchlint.semantics import knowledge
from torchlint.semantics.kinds import Kind
from torchlint.semantics.names import Function
from torchlint.semantics.processes import DDP, Processes

RULE = Rule(
    "TL810",
    Category.DISTRIBUTED,
    Severity.WARNING,
    triggers=(
        r"\*\s*[\w.]*(world|size|gpus?\b|device_count|n_proc|num_proc)",
        r"(world|gpus?|device_count|proc)[\w.()]{0,200}\s*\*",
    ),
    requires=(r"\bDistributedDataParallel\b",),
    since="0.1",
    fixes=(Applicability.SUGGESTION,),
)

_SAMPLER = "torch.utils.data.DistributedSampler"


@RULE.on
def check(module: cst.Module, ctx: Context) -> Iterator[Finding]:
    if "DistributedDataParallel" not in ctx.file.text:
        return
    processes = Processes.of(ctx.sem)
    if not any(processes.named(DDP)):
        return
    reported: set[cst.CSTNode] = set()
    for size, function in sizes(processes):
        product = scaled(processes, size, function)
        at = processes.file.twin(product.node, ctx.file) if product is not None else None
        if product is None or at is None or product.node in reported:
            continue
        reported.add(product.node)
        code = processes.file.code
        share = code(product.share)
        yield Finding(
            at,
            f"every process takes a batch of `{share} * {code(product.factor)}` for itself",
            f"DistributedDataParallel divides no batch, so a step sees `{share}` times the squared number of processes",
            f"use `{share}` per process",
            suggestion("Use the batch of one process", processes.file.replace(product.node, share)),
        )


@dataclass(frozen=True)
class Product:
    """`share * factor`, the factor being the number of processes."""

    node: cst.BinaryOperation
    share: cst.BaseExpression
    factor: cst.BaseExpression


def sizes(processes: Processes) -> Iterator[tuple[cst.BaseExpression, Function]]:
    """Expressions for how many samples one process takes at once."""
    sem = processes.sem
    for call, function, name in processes.calls:
        if name == "torch.utils.data.DataLoader":
            size, sampler = argument(call, "batch_size", 1), argument(call, "sampler", 3)
            if size is not None and sampler is not None and divides(processes, sampler.value):
                yield size.value, function
        elif processes.replica(call.func, function) is not None:
            for arg in call.args:
                made = sem.value(arg.value).node
                if isinstance(made, cst.Call) and sem.qualified(made.func) in knowledge.FACTORIES and made.args:
                    first = made.args[0].value
                    if isinstance(first, (cst.Tuple, cst.List)) and first.elements:
                        first = first.elements[0].value
                    yield first, sem.function(made)


def divides(processes: Processes, sampler: cst.BaseExpression) -> bool:
    """Whether the sampler certainly gives each process its share."""
    value = processes.sem.value(sampler)
    return value.kind is Kind.SAMPLER and value.origin == _SAMPLER


def scaled(processes: Processes, size: cst.BaseExpression, function: Function, depth: int = 0) -> Product | None:
    """The product with the number of processes that a size is, itself or under its name."""
    if isinstance(size, cst.BinaryOperation) and isinstance(size.operator, cst.Multiply):
        for share, factor in ((size.left, size.right), (size.right, size.left)):
            if processes.is_world_size(factor, function):
                return Product(size, share, factor)
    if isinstance(size, cst.Name) and depth < 3:
        values = processes.values(size.value, function)
        home = function if size.value in function.local else processes.sem.names.module
        if len(values) == 1:
            return scaled(processes, values[0], home, depth + 1)
    return None
