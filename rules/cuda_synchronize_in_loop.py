"""Every batch waits for the whole GPU, or gives its memory back, without need.

## What it does

Reports `torch.cuda.synchronize()` and `torch.cuda.empty_cache()` in every turn of a loop over batches.

## Why is this bad

`synchronize()` stops the CPU until the GPU has nothing left to do, so that no kernel of the next step is queued in
time. Results do not depend on it: operations of one stream run in order, and whatever reads a value waits for it.

`empty_cache()` also waits, then frees every unused block of the caching allocator. The next step asks the driver for
the same blocks again, with a `cudaMalloc` each, which is what the cache was for. It does not make room for PyTorch,
which would reuse the cached blocks anyway; only other processes gain.

## Example

```python
for x, y in loader:
    loss = criterion(model(x.cuda()), y.cuda())
    loss.backward()
    optimizer.step()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
```

Use instead: neither. Where fragmentation is the trouble, `PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True` helps, or
one `empty_cache()` per epoch.

Not reported: under a test such as `step % 100 == 0`, in an `except` that handles running out of memory, and
`synchronize()` in functions that take time, use streams or CUDA graphs, copy to the CPU without blocking, or hand
tensors to other processes. Evaluation loops are info.

## Fix safety

Removing `synchronize()` is safe. Removing `empty_cache()` is unsafe: reserved memory may grow.

## Verified by

`fixtures/cuda_synchronize_in_loop/run.py`: bitwise results; fewer synchronisations counted on remapped CUDA code.

## References

- <https://docs.pytorch.org/docs/stable/notes/cuda.html#asynchronous-execution>
- <https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-memory-management>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.nodes import dotted
from torchlint.rule import Category, Context, Finding, Rule, safe, unsafe
from torchlint.semantics import EvalRegion, Event, TrainingLoop
from torchlint.semantics.batches import loader_value
from torchlint.semantics.syncs import EXPLICIT, called_every_turn, measures, over_batches

RULE = Rule(
    "TL404",
    Category.DEVICE,
    Severity.WARNING,
    triggers=(r"\bsynchronize\(", r"\bempty_cache\("),
    requires=(r"\bfor\b",),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)

_EMPTYING = frozenset(("torch.cuda.empty_cache", "torch.cuda.memory.empty_cache", "torch.accelerator.empty_cache"))
# Why code may have to wait: it measures, it works with streams, or somebody else reads the memory.
_NEEDED = re.compile(
    r"\btime\b|time\(|_time\b|timer|perf_counter|\btic\b|\btoc\b|elapsed|profil|bench|latency|flops|nvtx|Event\b|stream"
    r"|CUDAGraph|\.replay\(|non_blocking.{0,40}cpu|cpu.{0,40}non_blocking|queue|\.put\(|\bipc|share_memory",
    re.I,
)


@RULE.on
def check_training(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    if isinstance(loop.node, cst.FunctionDef) or not over_batches(context.sem, loop):
        return
    yield from _calls(loop.node, loop.function.node, loop.events, None, context)


@RULE.on
def check_evaluation(region: EvalRegion, context: Context) -> Iterator[Finding]:
    node = region.node
    if isinstance(node, cst.For) and loader_value(context.sem, node.iter) is not None:
        if not measures(region.function, context.file.path):
            yield from _calls(node, region.function.node, region.events, Severity.INFO, context)


def _calls(
    loop: cst.For | cst.While,
    function: cst.CSTNode,
    events: tuple[Event, ...],
    severity: Severity | None,
    context: Context,
) -> Iterator[Finding]:
    for event in called_every_turn(context.sem, loop, events):
        name = dotted(event.node.func) if isinstance(event.node, cst.Call) else None
        if event.target in EXPLICIT:
            around = function if isinstance(function, cst.FunctionDef) else loop
            if not _NEEDED.search(_without(context.file.code(around))):
                yield Finding(
                    event.node,
                    f"`{name}()` stops the CPU in every step until the GPU has nothing left to do",
                    "the next step's kernels are queued too late, and no result depends on it",
                    "remove it",
                    _removal(event, True, context),
                    severity=severity,
                )
        elif event.target in _EMPTYING:
            yield Finding(
                event.node,
                f"`{name}()` gives the cached GPU memory back in every step",
                "it waits for the GPU, and the next step has to ask the driver for the same memory again",
                "remove it, or call it once per epoch",
                _removal(event, False, context),
                severity=severity,
            )


def _without(text: str) -> str:
    """The text without its comments, which may well speak of time."""
    return re.sub(r"#.*", "", text)


def _removal(event: Event, is_safe: bool, context: Context) -> Fix | None:
    """The call's line goes, and with it an `if torch.cuda.is_available():` that holds nothing else."""
    file = context.file
    line = file.parent(file.parent(event.node) or event.node)
    if not isinstance(line, cst.SimpleStatementLine) or len(line.body) != 1:
        return None
    removed: cst.CSTNode = line
    block = file.parent(line)
    guard = file.parent(block) if isinstance(block, cst.IndentedBlock) and len(block.body) == 1 else None
    if isinstance(guard, cst.If):
        # Only the plain form: an `elif`, an `else` or a comment between the lines would have to go somewhere.
        if guard.orelse is not None or isinstance(file.parent(guard), cst.If) or "#" in file.code(guard):
            return None
        removed = guard
    build = safe if is_safe else unsafe
    if removed is line:
        return build("remove the call", file.delete(line))
    start, end = file.line_start(removed), file.line_end(line)
    if len(getattr(file.parent(removed), "body", ())) < 2:
        return None
    behind = file.text[file.caret(line)[1] : end]
    comment = file.indent(removed) + behind[behind.index("#") :] if "#" in behind else ""
    return build("remove the call", Edit(start, end, comment))
