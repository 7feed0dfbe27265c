"""A transfer between processes is started and nothing waits for it.

## What it does
Reports `dist.isend(…)`, `dist.irecv(…)` and collectives with `async_op=True` whose result is thrown away, or kept under
a name that is never read. A function that synchronises the device or the group behind the call is not reported.

## Why is this bad
The call returns at once and gives a handle; the transfer is done when the handle's `wait()` returns. Without it, a
buffer is read before the data has come in, or changed before it has gone out. Which of the two happens depends on
timing: the results are wrong now and then, and right under a debugger.

## Example
```python
dist.irecv(received, src=left)
total += received
```
Use instead:
```python
request = dist.irecv(received, src=left)
request.wait()
total += received
```

## Fix safety
Unsafe: the process waits now. The wait is put in front of the first later statement that names the tensor, or at the
end of the block. No fix is offered where that statement communicates itself: waiting there could block both sides.

## Verified by
Running the exchange with transfers that happen when they are waited for: before, what arrives is not what was sent.

## References
- https://pytorch.org/docs/stable/distributed.html#torch.distributed.isend
- https://pytorch.org/docs/stable/distributed.html#synchronous-and-asynchronous-collective-operations
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.nodes import argument, dotted, find, literal, walk
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics.names import Function
from torchlint.semantics.processes import Processes

RULE = Rule(
    "TL807",
    Category.DISTRIBUTED,
    Severity.WARNING,
    triggers=(r"\bisend\(", r"\birecv\(", r"\basync_op\s*=\s*True"),
    requires=(r"\bdistributed\b",),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

_TRANSFERS = frozenset(("torch.distributed.isend", "torch.distributed.irecv"))
_ASKS = re.compile(r"torch\.distributed\.(get_|is_|new_|init_|destroy_)")
_WORDS = {"isend": "sending", "irecv": "receiving"}
_SYNCHRONISE = frozenset(("torch.cuda.synchronize", "torch.distributed.barrier", "torch.distributed.monitored_barrier"))


@RULE.on
def check(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    name = dotted(call.func) or ""
    if not name.endswith(("isend", "irecv")) and argument(call, "async_op") is None:
        return
    processes = Processes.of(ctx.sem)
    twin = next((c for c, _, _ in processes.calls if processes.file.twin(c, ctx.file) is call), None)
    if twin is None:
        return
    function = processes.sem.function(twin)
    handle = kept_as(processes, twin)
    if not starts(processes, twin) or handle is None or (handle and read(function, handle)):
        return
    if synchronised(processes, twin, function) or coalesced(processes, twin):
        return
    tensor = argument(twin, "tensor", 0)
    what = processes.file.code(tensor.value) if tensor is not None else "the tensor"
    receives = "recv" in name or "isend" not in name
    yield Finding(
        call,
        f"nothing waits for this `{name}`",
        f"`{what}` may be {'read before it has come in' if receives else 'changed before it has gone out'}",
        "keep the handle that it returns and call `wait()` on it before the tensor is used again",
        wait(processes, twin, handle, function),
    )


def starts(processes: Processes, call: cst.Call) -> bool:
    """Whether the call certainly starts a transfer and gives a handle."""
    name = processes.sem.qualified(call.func) or ""
    if name in _TRANSFERS:
        return True
    asked = argument(call, "async_op")
    return name.startswith("torch.distributed.") and asked is not None and literal(asked.value) is True


def kept_as(processes: Processes, call: cst.Call) -> str | None:
    """The name that keeps the handle, "" where it is thrown away; None where it goes elsewhere."""
    parent = processes.file.parent(call)
    if isinstance(parent, cst.Expr):
        return ""
    if isinstance(parent, cst.Assign) and len(parent.targets) == 1 and isinstance(parent.targets[0].target, cst.Name):
        return parent.targets[0].target.value
    return None


def read(function: Function, name: str) -> bool:
    """Whether the function, or one inside it, reads the name."""
    targets = {t.target for t in find(function.body, cst.AssignTarget)}
    return any(n.value == name and n not in targets for n in find(function.body, cst.Name))


def synchronised(processes: Processes, call: cst.Call, function: Function) -> bool:
    """Whether the function waits for everything behind the call."""
    place = processes.file.caret(call)[0]
    return any(
        where is function and name in _SYNCHRONISE and processes.file.caret(other)[0] > place
        for other, where, name in processes.calls
    )


def coalesced(processes: Processes, call: cst.Call) -> bool:
    """Whether a manager around it collects the calls and hands out one handle for all."""
    return any(
        isinstance(node, cst.With) and any("coalesc" in processes.file.code(item.item) for item in node.items)
        for node in processes.file.ancestors(call)
    )


def wait(processes: Processes, call: cst.Call, handle: str, function: Function) -> Fix | None:
    """The handle gets a name, and a `wait()` ahead of the tensor's next use."""
    file = processes.file
    line = file.statement(call)
    block = file.parent(line)
    tensor = argument(call, "tensor", 0)
    if not isinstance(block, cst.IndentedBlock) or not isinstance(line, cst.SimpleStatementLine) or len(line.body) != 1:
        return None
    root = next(iter(find(tensor.value, cst.Name)), None) if tensor is not None else None
    if root is None:
        return None
    edits: list[Edit] = []
    if not handle:
        handle = new_name(processes, call, function)
        start = file.caret(call)[0]
        edits.append(Edit(start, start, f"{handle} = "))
    later = list(block.body)[list(block.body).index(line) + 1 :]
    user = next((s for s in later if leaves_or_names(s, root.value)), None)
    if user is not None and any(c in transfers(processes, function) for c in find(user, cst.Call)):
        return None
    waiting = f"{handle}.wait()"
    edits.append(file.insert_before(user, waiting) if user is not None else file.insert_after(block.body[-1], waiting))
    return unsafe("Wait for the transfer before the tensor is used", *edits)


def new_name(processes: Processes, call: cst.Call, function: Function) -> str:
    """`sending`, `receiving` or `request`, with a number where the function throws several such handles away."""
    word = _WORDS.get((dotted(call.func) or "").rpartition(".")[2], "request")
    thrown = [
        c
        for c in transfers(processes, function)
        if isinstance(processes.file.parent(c), cst.Expr)
        and _WORDS.get((dotted(c.func) or "").rpartition(".")[2], "request") == word
    ]
    number = thrown.index(call) + 1
    taken = {n.value for n in find(function.body, cst.Name)} | set(function.params)
    name = word if number == 1 else f"{word}_{number}"
    while name in taken:
        name += "_"
    return name


def transfers(processes: Processes, function: Function) -> Sequence[cst.Call]:
    """The calls of the function that talk to other processes."""
    return [
        c
        for c, where, name in processes.calls
        if where is function and name.startswith("torch.distributed.") and not _ASKS.match(name)
    ]


def leaves_or_names(statement: cst.CSTNode, name: str) -> bool:
    """Whether a statement mentions the name or ends the block."""
    return any(
        (isinstance(n, cst.Name) and n.value == name) or isinstance(n, (cst.Return, cst.Break, cst.Continue, cst.Raise))
        for n in walk(statement)
    )
