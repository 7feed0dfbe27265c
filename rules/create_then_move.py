"""A tensor that is made on the CPU and moved to its device at once.

## What it does

Finds factory calls (`torch.zeros`, `ones`, `full`, `arange`, `eye`, `empty`, `rand`, `randn`, `randperm`, …) without
`device=` whose result goes straight through `.to(device)`, `.cuda()` or `.type(torch.cuda.LongTensor)`: in the same
expression, through methods that only change shape or dtype, through arithmetic with numbers or `torch.cat` of several,
or in later statements that do nothing else with the name, under an `if use_cuda:` as well.

## Why is this bad

The tensor is allocated and filled twice, once on the host. The copy of pageable memory makes the host wait for the
device, so a mask or an index made this way in every step stalls the queue of kernels in every step.

## Example

```python
index = torch.randperm(batch_size).cuda()
mask = torch.triu(torch.ones(n, n)).to(x.device)
```

Use instead:

```python
index = torch.randperm(batch_size, device="cuda")
mask = torch.triu(torch.ones(n, n, device=x.device))
```

Data that exists only on the host (`torch.tensor(rows)`, `torch.from_numpy(array)`) has to be copied anyway and is not
reported, nor is a tensor that is filled on the CPU before it moves, nor a `pin_memory()` transfer.

## Fix safety

Safe for constants: the values are the same on every device. Unsafe for random factories, because each device has its
own random stream, and for `arange` of floats, `linspace` and windows, whose last bit may differ. No fix where `device=`
could mean something else than the move did: `.to(other_tensor)`, `.cuda(index)` with an index that may be None, the old
constructors such as `torch.FloatTensor(n)`, which take no device.

## Verified by

`fixtures/create_then_move/run.py`: bitwise results, and fewer host-to-device copies counted on remapped CUDA code.

## References

- <https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html#create-tensors-directly-on-the-target-device>
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import add_argument
from torchlint.nodes import argument, dotted, find, literal
from torchlint.rule import Category, Context, Finding, Rule, safe, unsafe
from torchlint.semantics import Kind
from torchlint.semantics.fresh import Fresh, freshly_made
from torchlint.semantics.made_before import made_before, only_there
from torchlint.semantics.transfers import is_device
from torchlint.semantics.unit_tests import holds_unit_tests
from torchlint.source import File

RULE = Rule(
    "TL401",
    Category.DEVICE,
    Severity.WARNING,
    triggers=(
        r"\.to\s*\(",
        r"\.cuda\s*\(",
        r"\.type\s*\(\s*(?:\w+\.)*cuda\.",
    ),
    shapes=("made-then-moved",),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)


@dataclass(frozen=True)
class _Move:
    """A `.to(…)` or `.cuda(…)`: the device as source text, or None where no text surely means the same."""

    call: cst.Call
    source: cst.BaseExpression
    device: str | None
    kept: tuple[cst.Arg, ...] = ()  # arguments of `.to` other than the device: dtype and the like


@RULE.on
def check(node: cst.Call, ctx: Context) -> Iterator[Finding]:
    move = _move(node, ctx)
    if move is None or holds_unit_tests(ctx.sem):
        return
    made = freshly_made(move.source, ctx.sem)
    if made is None:
        yield from _made_earlier(move, ctx)
    elif made.factories and not _reproducible(made, node, ctx):
        edits = _drop_move(move, ctx.file)
        yield _finding(node, move, made, edits, ctx)


def _finding(at: cst.CSTNode, move: _Move, made: Fresh, edits: tuple[Edit, ...] | None, ctx: Context) -> Finding:
    name = dotted(made.factories[0].func) or "a factory"
    how = f"`device={move.device}`" if move.device is not None else "the device"
    do = f"pass {how} to `{name}`"
    if made.legacy:
        do = "make it there with a factory that takes `device=`, such as `torch.zeros` or `torch.empty`"
    why = "it is allocated twice, and the copy makes the host wait for the device"
    if made.scalar:
        why = "the number takes a detour through a CPU tensor"
    severity = None if _repeated(at, ctx) and not made.scalar else Severity.INFO
    return Finding(
        at,
        f"`{name}` makes this tensor on the CPU and then it is moved",
        why,
        do,
        _fix(move, made, edits, ctx),
        severity=severity,
    )


def _fix(move: _Move, made: Fresh, edits: tuple[Edit, ...] | None, ctx: Context) -> Fix | None:
    if edits is None or move.device is None or made.legacy:
        return None
    if len(made.factories) > 1 and not re.fullmatch(r"[\w.\"':]+", move.device):
        return None
    added = [add_argument(ctx.file, factory, f"device={move.device}") for factory in made.factories]
    build = safe if made.exact and not made.random else unsafe
    return build(f"make it with `device={move.device}`", *added, *edits)


# -- the move -----------------------------------------------------------------------------------------------------


def _move(node: cst.Call, ctx: Context) -> _Move | None:
    func = node.func
    if not isinstance(func, cst.Attribute) or any(a.star for a in node.args):
        return None
    if any(a.keyword is not None and a.keyword.value in ("copy", "memory_format") for a in node.args):
        return None
    if func.attr.value == "cuda":
        device = argument(node, "device", 0)
        return _Move(node, func.value, '"cuda"' if device is None else _cuda_index(device.value, ctx))
    if func.attr.value == "type":
        kind = node.args[0].value if len(node.args) == 1 else None
        to_cuda = kind is not None and (ctx.sem.qualified(kind) or "").startswith("torch.cuda.")
        return _Move(node, func.value, None) if to_cuda else None
    if func.attr.value != "to":
        return None
    device = argument(node, "device", 0)
    if device is None or not _is_device(device.value, ctx):
        return None
    kept = tuple(a for a in node.args if a is not device and (a.keyword is None or a.keyword.value != "non_blocking"))
    if ctx.sem.value(device.value).is_tensor or _is_plain_tensor(device.value, ctx):
        return _Move(node, func.value, None, kept)
    return _Move(node, func.value, ctx.file.code(device.value), kept)


def _is_device(node: cst.BaseExpression, ctx: Context) -> bool:
    """Whether the first argument of `.to` names a device other than the CPU (or a tensor that lies on one)."""
    value = ctx.sem.value(node)
    if value.kind is Kind.TENSOR:
        return value.evidence != "" and value.device != "cpu"
    if value.kind is Kind.UNKNOWN and isinstance(node, cst.Name) and _is_asked_for_device(node, ctx):
        return True
    made_by = value.node if value.kind is Kind.DEVICE else None
    text = literal(made_by.args[0].value if isinstance(made_by, cst.Call) and made_by.args else node)
    return is_device(ctx.sem, node) and text != "cpu"


def _is_plain_tensor(node: cst.BaseExpression, ctx: Context) -> bool:
    return isinstance(node, cst.Name) and not is_device(ctx.sem, node) and _is_asked_for_device(node, ctx)


def _is_asked_for_device(node: cst.Name, ctx: Context) -> bool:
    """Whether the function reads `x.device` of the name: it is a tensor, then, and no dtype."""
    return any(
        a.attr.value == "device" and isinstance(a.value, cst.Name) and a.value.value == node.value
        for a in find(ctx.sem.function(node).node, cst.Attribute)
    )


def _cuda_index(node: cst.BaseExpression, ctx: Context) -> str | None:
    """The text of a device index that cannot be None: `.cuda(None)` is the current GPU, `device=None` the CPU."""
    value = ctx.sem.value(node)
    if (
        isinstance(literal(node), int)
        or value.kind is Kind.DEVICE
        or (value.kind is Kind.NUMBER and value.evidence == "")
    ):
        return ctx.file.code(node)
    return None


def _drop_move(move: _Move, file: File) -> tuple[Edit, ...] | None:
    """The edits that leave the moved expression alone, or `.to(dtype)` of it; None where a comment would be lost."""
    start, end = file.span(move.source)[1], file.caret(move.call)[1]
    if "#" in file.text[start:end]:
        return None
    if move.kept:
        return (Edit(start, end, f".to({', '.join(file.code(a).rstrip(', ') for a in move.kept)})"),)
    return (Edit(start, end, ""),)


# -- random numbers -----------------------------------------------------------------------------------------------


def _reproducible(made: Fresh, node: cst.CSTNode, ctx: Context) -> bool:
    """Random numbers drawn on the CPU right under a seed are meant to be the same on every device."""
    if not made.random:
        return False
    body = ctx.sem.function(node).node
    if isinstance(body, cst.Module):
        return False
    return any(
        ctx.sem.qualified(c.func) in ("torch.manual_seed", "torch.random.manual_seed") for c in find(body, cst.Call)
    )


# -- moved in a later statement -----------------------------------------------------------------------------------


def _made_earlier(move: _Move, ctx: Context) -> Iterator[Finding]:
    """`x = torch.zeros(n)`, and nothing else is done with `x` until it is moved, or what is made from it alone."""
    here = ctx.file.statement(move.call)
    if not isinstance(here, cst.SimpleStatementLine):
        return
    frozen = frozenset(re.findall(r"[A-Za-z_]\w*", move.device or ""))
    made, earlier = made_before(move.source, here, frozen, ctx.sem)
    if made is None or not earlier.makers or made.scalar or _reproducible(made, move.call, ctx):
        return
    name, *others = earlier.makers
    edits: tuple[Edit, ...] | None = None
    if not others and _is_rebinding(here, name, move.call):
        edits = _drop_rebinding(move, here, ctx.file)
    elif not others and _is_rebinding_at_will(here, name, move.call):
        earlier.optional = True
    elif earlier.optional and isinstance(here.body[-1], cst.Return):
        pass  # what comes behind the `if` has the tensor on the CPU, because it is meant to be there
    elif earlier.optional or not all(only_there(n, here, earlier, ctx.sem) for n in earlier.makers):
        return  # the CPU tensor is used as such, too
    else:
        edits = _drop_move(move, ctx.file)
    if earlier.optional or not earlier.plain:
        # `if use_cuda: x = x.cuda()`: what it is otherwise is not said here; several statements are the author's.
        move, edits = replace(move, device=None), None
    yield _finding(made.factories[0], move, made, edits, ctx)


def _drop_rebinding(move: _Move, here: cst.SimpleStatementLine, file: File) -> tuple[Edit, ...] | None:
    if move.kept or not isinstance(move.source, (cst.Name, cst.Attribute)):
        return _drop_move(move, file)
    return (file.delete(here),)


def _is_rebinding(statement: cst.SimpleStatementLine, name: str, call: cst.Call) -> bool:
    """`x = x.to(device)` and nothing else on the line."""
    small = statement.body[0]
    return (
        len(statement.body) == 1
        and isinstance(small, cst.Assign)
        and small.value is call
        and len(small.targets) == 1
        and dotted(small.targets[0].target) == name
    )


def _is_rebinding_at_will(statement: cst.SimpleStatementLine, name: str, call: cst.Call) -> bool:
    """`x = x.cuda() if use_cuda else x`."""
    small = statement.body[0]
    if len(statement.body) != 1 or not isinstance(small, cst.Assign) or len(small.targets) != 1:
        return False
    choice = small.value
    if dotted(small.targets[0].target) != name or not isinstance(choice, cst.IfExp):
        return False
    arms = (choice.body, choice.orelse)
    return any(arm is call for arm in arms) and any(dotted(arm) == name for arm in arms)


def _repeated(node: cst.CSTNode, ctx: Context) -> bool:
    """Whether the code may run once per step: in a loop, or in a function other than a constructor."""
    for ancestor in ctx.file.ancestors(node):
        if isinstance(ancestor, (cst.For, cst.While)):
            return True
        if isinstance(ancestor, cst.FunctionDef):
            return ancestor.name.value not in ("__init__", "__init_subclass__", "main", "setUp", "setup")
    return False
