"""A tensor that is made on the CPU and moved to its device at once.

## What it does

Finds factory calls (`torch.zeros`, `ones`, `full`, `arange`, `eye`, `empty`, `rand`, `randn`, `randperm`, …) without
`device=` whose result goes straight through `.to(device)` or `.cuda()`: in the same expression, through methods that
only change shape or dtype, through arithmetic with numbers, or in a later statement, the first to use the name.

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import add_argument
from torchlint.rule import Category, Context, Finding, Rule, safe, unsafe
from torchlint.semantics import Kind
from torchlint.semantics.transfers import is_device
from torchlint.source import File, argument, dotted, find, literal, walk

RULE = Rule(
    "TL401",
    Category.DEVICE,
    Severity.WARNING,
    triggers=(
        r"\.to\s*\(",
        r"\.cuda\s*\(",
    ),
    shapes=("made-then-moved",),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)

_EXACT = frozenset("zeros ones full eye empty arange range tril_indices triu_indices".split())
_ROUNDED = frozenset(
    "linspace logspace hann_window hamming_window blackman_window bartlett_window kaiser_window".split()
)
_RANDOM = frozenset("rand randn randint randperm normal".split())
_LEGACY = frozenset(f"{n}Tensor" for n in ("", "Float", "Double", "Half", "Long", "Int", "Short", "Byte", "Bool"))
# Keywords under which `device=` would mean something else than a later move.
_SPECIAL = frozenset(("device", "generator", "out", "pin_memory", "requires_grad", "layout"))
# Methods and functions of one tensor that give the same bits on every device.
_METHODS = frozenset(
    """long int short byte bool float double half bfloat16 type unsqueeze unsqueeze_ squeeze view reshape repeat expand
    permute transpose t contiguous flatten triu tril triu_ tril_ fill_ zero_ mul add sub mul_ add_ sub_ clone
    repeat_interleave diag roll flip""".split()
)
_FUNCTIONS = frozenset("triu tril unsqueeze squeeze reshape permute transpose flatten diag flip roll t".split())
_RANDOM_METHODS = frozenset("uniform_ normal_ random_ bernoulli_ exponential_".split())
_EXACT_OPERATORS = (cst.Add, cst.Subtract, cst.Multiply)


@dataclass
class _Made:
    """An expression that computes with nothing but freshly made CPU tensors and numbers."""

    factories: list[cst.Call] = field(default_factory=list)
    exact: bool = True  # the same bits on every device
    random: bool = False
    legacy: bool = False  # holds a constructor that takes no device
    scalar: bool = False  # a number of the host: the copy stays, only a tensor is saved


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
    if move is None:
        return
    if isinstance(move.source, cst.Name):
        yield from _named(move, move.source, ctx)
        return
    made = _made(move.source, ctx)
    if made is not None and made.factories and not _reproducible(made, node, ctx):
        edits = _drop_move(move, ctx.file)
        yield _finding(node, move, made, edits, ctx)


def _finding(at: cst.CSTNode, move: _Move, made: _Made, edits: tuple[Edit, ...] | None, ctx: Context) -> Finding:
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


def _fix(move: _Move, made: _Made, edits: tuple[Edit, ...] | None, ctx: Context) -> Fix | None:
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
    if func.attr.value != "to":
        return None
    device = argument(node, "device", 0)
    if device is None or not _is_device(device.value, ctx):
        return None
    kept = tuple(a for a in node.args if a is not device and (a.keyword is None or a.keyword.value != "non_blocking"))
    if ctx.sem.value(device.value).is_tensor:
        return _Move(node, func.value, None, kept)
    return _Move(node, func.value, ctx.file.code(device.value), kept)


def _is_device(node: cst.BaseExpression, ctx: Context) -> bool:
    """Whether the first argument of `.to` names a device other than the CPU (or a tensor that lies on one)."""
    value = ctx.sem.value(node)
    if value.kind is Kind.TENSOR:
        return value.evidence != "" and value.device != "cpu"
    made_by = value.node if value.kind is Kind.DEVICE else None
    text = literal(made_by.args[0].value if isinstance(made_by, cst.Call) and made_by.args else node)
    return is_device(ctx.sem, node) and text != "cpu"


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


# -- what is moved ------------------------------------------------------------------------------------------------


def _made(node: cst.BaseExpression, ctx: Context) -> _Made | None:
    """How the expression is made, if from nothing but CPU factories and numbers."""
    if isinstance(node, cst.Call):
        name = ctx.sem.qualified(node.func) or ""
        module, _, last = name.rpartition(".")
        if module == "torch":
            return _factory(node, last, ctx) if last not in _FUNCTIONS else _through(node, ctx)
        if isinstance(node.func, cst.Attribute):
            return _method(node, node.func, ctx)
    elif isinstance(node, cst.BinaryOperation):
        return _arithmetic(node, ctx)
    elif isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Minus):
        return _made(node.expression, ctx)
    elif isinstance(node, cst.Subscript) and all(_plain_index(e.slice) for e in node.slice):
        return _made(node.value, ctx)
    return None


def _factory(node: cst.Call, last: str, ctx: Context) -> _Made | None:
    if any(a.star == "**" or (a.keyword is not None and a.keyword.value in _SPECIAL) for a in node.args):
        return None
    if last in _EXACT:
        return _Made([node], exact=not (last in ("arange", "range") and _has_fraction(node)))
    if last in _ROUNDED:
        return _Made([node], exact=False)
    if last in _RANDOM:
        if last == "normal" and argument(node, "size", 2) is None:
            return None
        return _Made([node], random=True)
    if last == "tensor" and node.args and _is_constant(node.args[0].value):
        return _Made([node], scalar=True)
    if last in _LEGACY and all(_is_size(a.value, ctx) for a in node.args if not a.star):
        return _Made([node], legacy=True)
    return None


def _has_fraction(node: cst.Call) -> bool:
    return any(isinstance(n, (cst.Float, cst.Divide)) for a in node.args for n in _with_operators(a.value))


def _with_operators(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for n in walk(node):
        yield n
        if isinstance(n, cst.BinaryOperation):
            yield n.operator


def _is_constant(node: cst.BaseExpression) -> bool:
    """A literal number, or an empty list: what is copied is no data."""
    if isinstance(node, cst.List):
        return not node.elements
    return isinstance(literal(node), (bool, int, float))


def _is_size(node: cst.BaseExpression, ctx: Context) -> bool:
    """Whether an argument of an old constructor is a size; a list or an array would be the data itself."""
    if isinstance(node, cst.List):
        return not node.elements
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "size":
        return True  # numpy's and Python's sizes are no methods
    if isinstance(node, cst.Attribute) and node.attr.value == "shape":
        return True
    return ctx.sem.value(node).kind is Kind.NUMBER


def _method(node: cst.Call, func: cst.Attribute, ctx: Context) -> _Made | None:
    attr = func.attr.value
    if attr == "to":
        first = argument(node, "dtype", 0)
        if first is None or len(node.args) != 1 or not _is_dtype(first.value, ctx):
            return None
        return _made(func.value, ctx)
    if attr in _RANDOM_METHODS:
        if any(a.keyword is not None and a.keyword.value == "generator" for a in node.args):
            return None
        made = _made(func.value, ctx)
        if made is not None:
            made.random = True
        return made
    if attr not in _METHODS or any(ctx.sem.value(a.value).kind in _TENSORS for a in node.args):
        return None
    return _made(func.value, ctx)


_TENSORS = (Kind.TENSOR, Kind.PARAMETER, Kind.BATCH)


def _is_dtype(node: cst.BaseExpression, ctx: Context) -> bool:
    name = ctx.sem.qualified(node) or ""
    if name.startswith("torch.") and name.count(".") == 1:
        return True
    return isinstance(node, cst.Attribute) and node.attr.value == "dtype"


def _through(node: cst.Call, ctx: Context) -> _Made | None:
    """`torch.triu(made, …)`: a function that only rearranges its first argument."""
    if not node.args or node.args[0].star or node.args[0].keyword is not None:
        return None
    if any(a.star or ctx.sem.value(a.value).kind in _TENSORS for a in node.args[1:]):
        return None
    return _made(node.args[0].value, ctx)


def _arithmetic(node: cst.BinaryOperation, ctx: Context) -> _Made | None:
    sides = []
    for side in (node.left, node.right):
        made = _made(side, ctx)
        if made is None and ctx.sem.value(side).kind is Kind.NUMBER:
            made = _Made()
        if made is None:
            return None
        sides.append(made)
    left, right = sides
    return _Made(
        left.factories + right.factories,
        left.exact and right.exact and isinstance(node.operator, _EXACT_OPERATORS),
        left.random or right.random,
        left.legacy or right.legacy,
        left.scalar or right.scalar,
    )


def _plain_index(node: cst.BaseSlice) -> bool:
    """`[None]`, `[:, None]`, `[0]`: indexing that needs no tensor."""
    if isinstance(node, cst.Index):
        return literal(node.value) is not ...
    return isinstance(node, cst.Slice) and all(
        p is None or literal(p) is not ... for p in (node.lower, node.upper, node.step)
    )


def _reproducible(made: _Made, node: cst.CSTNode, ctx: Context) -> bool:
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


def _named(move: _Move, name: cst.Name, ctx: Context) -> Iterator[Finding]:
    """`x = torch.zeros(n)`, and the next mention of `x` is `x.to(device)`."""
    file = ctx.file
    here = file.statement(move.call)
    block = file.parent(here)
    if not isinstance(here, cst.SimpleStatementLine) or not isinstance(block, (cst.IndentedBlock, cst.Module)):
        return
    place = next(i for i, s in enumerate(block.body) if s is here)
    maker = _maker(block.body[:place], name.value, move, ctx)
    if maker is None or not isinstance(maker.body[0], cst.Assign):
        return
    made = _made(maker.body[0].value, ctx)
    if made is None or not made.factories or made.scalar or _reproducible(made, move.call, ctx):
        return
    mentions = [n for n in find(here, cst.Name) if n.value == name.value and n is not name]
    edits: tuple[Edit, ...] | None = None
    if _is_rebinding(here, name.value, move.call):
        edits = _drop_move(move, file) if move.kept else (file.delete(here),)
    elif not mentions and _only_use(name, maker, ctx):
        edits = _drop_move(move, file)
    elif not _only_use(name, maker, ctx):
        return  # the CPU tensor is used as such, too
    yield _finding(made.factories[0], move, made, edits, ctx)


def _maker(before: Sequence[cst.CSTNode], name: str, move: _Move, ctx: Context) -> cst.SimpleStatementLine | None:
    """The statement that makes the name, if nothing between it and the move mentions the name or rebinds the device."""
    needed = set(re.findall(r"[A-Za-z_]\w*", move.device or ""))
    for statement in reversed(before):
        names = [n for n in find(statement, cst.Name) if n.value == name]
        if not names:
            bound = {dotted(t.target) or "" for t in find(statement, cst.AssignTarget)}
            if any(b.partition(".")[0] in needed for b in bound):
                return None
            continue
        if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1 or len(names) != 1:
            return None
        small = statement.body[0]
        if isinstance(small, cst.Assign) and len(small.targets) == 1 and small.targets[0].target is names[0]:
            return statement
        return None
    return None


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


def _only_use(name: cst.Name, maker: cst.SimpleStatementLine, ctx: Context) -> bool:
    """Whether the move is the only place that reads the name."""
    scope = ctx.sem.function(name).node
    made = set(find(maker, cst.Name))
    return not any(
        n.value == name.value and n is not name and n not in made and not _is_target(n, ctx.file)
        for n in find(scope, cst.Name)
    )


def _is_target(node: cst.Name, file: File) -> bool:
    parent = file.parent(node)
    return isinstance(parent, cst.AssignTarget) or (isinstance(parent, cst.Arg) and parent.keyword is node)


def _repeated(node: cst.CSTNode, ctx: Context) -> bool:
    """Whether the code may run once per step: in a loop, or in a function other than a constructor."""
    for ancestor in ctx.file.ancestors(node):
        if isinstance(ancestor, (cst.For, cst.While)):
            return True
        if isinstance(ancestor, cst.FunctionDef):
            return ancestor.name.value not in ("__init__", "__init_subclass__", "main", "setUp", "setup")
    return False
