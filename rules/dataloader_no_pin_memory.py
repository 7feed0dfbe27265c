"""A DataLoader that feeds a CUDA device from pageable memory.

## What it does

Finds `DataLoader(...)` calls without `pin_memory` whose batches reach a CUDA device: moved in the loop over the loader,
in a function or method that is given the batch, or, for a loader that a function returns, by its callers. The loaders
of PyTorch Geometric and MONAI, which derive from PyTorch's and hand `pin_memory` on, are known, too.

## Why is this bad

CUDA can copy only from page-locked memory while the host goes on. From ordinary memory each batch is first copied into
a staging buffer, and the host waits. With `pin_memory` the loader's own thread does that copy ahead of time.

## Example

```python
loader = DataLoader(dataset, batch_size=64, shuffle=True, num_workers=4)
for images, labels in loader:
    images = images.cuda()
```

Use instead:

```python
loader = DataLoader(dataset, batch_size=64, shuffle=True, num_workers=4, pin_memory=torch.cuda.is_available())
```

Silent for loaders whose batches stay on the CPU or go to another kind of device, for data that already lies on the GPU,
for tensors and lists held in memory, where `pin_memory` is given in any form, and where a `**kwargs` may give it.

## Fix safety

Safe: the batches hold the same values, and where there is no CUDA device the argument is False. Where a `torch.device`
variable is bound before the call, the fix asks it instead. Not offered where the call passes `*args`.

## Verified by

`fixtures/dataloader_no_pin_memory/run.py`: the batches are bitwise equal; the time is a matter of the GPU.

## References

- <https://docs.pytorch.org/docs/stable/data.html#memory-pinning>
- <https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html>
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Question, Severity
from torchlint.edits import add_argument, torch_name
from torchlint.nodes import argument, dotted, find, has_star, walk, walk_scope
from torchlint.rule import Category, Context, Finding, Rule, safe
from torchlint.semantics import Function, Kind, LoaderCall, Value
from torchlint.semantics.batches import BatchMove, followed, iterated_here, loader_value, looks_once, stranger
from torchlint.semantics.derived_loaders import hands_on, makes_base, speaks_of_pinning
from torchlint.semantics.loading import gives_one_batch, is_unit_test, parameters_of_loader, setting
from torchlint.semantics.loops import loader_call
from torchlint.semantics.names import OWN, is_class_name
from torchlint.semantics.transfers import makes_device_tensors, may_be_cuda, move_target

RULE = Rule(
    "TL301",
    Category.DATA,
    Severity.WARNING,
    triggers=(
        *(r"DataLoader\b", r"Loader\w*\s*\(", r"\.to\s*\(", r"\.cuda\s*\(", r"\.type\s*\("),
        r"__init__\s*\([^)]*\b(?:num_workers|batch_size|collate_fn|shuffle)\b",
    ),
    requires=(r"Loader\w*\s*\(|\bDataLoader\s+as\b|(?:=|\belse|\bor|\()\s*(?:\w+\.)*DataLoader\b",),
    since="0.1",
    fixes=(Applicability.SAFE,),
)


@RULE.on
def check(loader: LoaderCall, ctx: Context) -> Iterator[Finding]:
    if loader.value.origin.startswith(OWN):
        pinned_by_nobody = _is_plain(loader.value.origin, ctx) and _says_nothing(loader)
    else:
        pinned_by_nobody = not _pins_nothing(loader) and setting(ctx.sem, loader, "pin_memory").absent
    if pinned_by_nobody and not loader.open:
        yield from _unpinned(loader, ctx, ())


@RULE.on
def check_derived(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    """A call of another file's class which may derive from DataLoader."""
    name = dotted(call.func) or ""
    if "Loader" not in name.rpartition(".")[2] or not is_class_name(name):
        return
    value = ctx.sem.value(call)
    if value.node is not call or not value.origin or value.origin.startswith((OWN, "torch.")):
        return
    if value.kind is Kind.UNKNOWN or (value.kind is Kind.LOADER and value.evidence == "used"):
        loader = loader_call(ctx.sem, call, value)
        if _says_nothing(loader):
            yield from _unpinned(loader, ctx, (Question("is-no-plain-loader", value.origin),))


@RULE.on
def check_base(node: cst.ClassDef, ctx: Context) -> Iterator[Finding]:
    """A class that makes its base, a DataLoader, with arguments of its own and without `pin_memory`."""
    cls = next((c for c in ctx.sem.classes if c.node is node), None)
    if cls is None or not any(parameters_of_loader(b or "") for b in cls.bases) or speaks_of_pinning(cls):
        return
    init = cls.methods.get("__init__")
    if init is None or hands_on(cls) or "__iter__" in cls.methods or ctx.target_device == "cpu":
        return
    made = [c for c in find(init.node, cst.Call) if makes_base(c)]
    if len(made) != 1 or any(a.star and ctx.sem.value(a.value).keys is None for a in made[0].args):
        return
    moved = (m for m in followed(ctx.sem).moves.values() if m.loader.origin == cls.own)
    unless = () if any(may_be_cuda(ctx.sem, m.device) for m in moved) else (Question("no-cuda-use", cls.own),)
    yield _finding(loader_call(ctx.sem, made[0], Value(origin=cls.own)), ctx, unless)


def _unpinned(loader: LoaderCall, ctx: Context, unless: tuple[Question, ...]) -> Iterator[Finding]:
    if ctx.target_device == "cpu" or gives_one_batch(ctx.sem, loader):
        return
    on_device = _on_device_already(loader, ctx)
    if on_device is None or _collates_graphs(loader, ctx) or _in_memory(loader, ctx) or is_unit_test(ctx.sem, loader):
        return
    evidence = _evidence(loader, ctx)
    if evidence is not None:
        yield _finding(loader, ctx, unless + evidence + on_device)


def _finding(loader: LoaderCall, ctx: Context, unless: tuple[Question, ...]) -> Finding:
    return Finding(
        loader.node,
        "this DataLoader feeds a CUDA device without `pin_memory`",
        "each batch is copied from pageable memory while the host waits",
        f"pass `pin_memory={_condition(loader, ctx)[0]}`",
        _fix(loader, ctx),
        unless,
    )


# -- evidence that batches reach a CUDA device --------------------------------------------------------------------


def _evidence(loader: LoaderCall, ctx: Context) -> tuple[Question, ...] | None:
    """The questions under which the loader feeds a GPU, () if it surely does, None if nothing says so."""
    sem = ctx.sem
    trail = followed(sem)
    moves = [m for m in trail.moves.values() if may_be_cuda(sem, m.device)]
    if any(m.loader.node is loader.node for m in moves):
        return ()
    if helpers := sorted({name for name, given in trail.strangers if given.node is loader.node}):
        return (Question("moves-nothing", " ".join(helpers)),)
    if not all(looks_once(sem, loop) for loop in iterated_here(sem, loader.node)):
        return None  # its loop is here, and nothing in it is moved
    leaves = _leaves(loader, ctx)
    if leaves and any(_may_be(m.loader, loader, ctx) for m in moves):
        return ()
    if leaves and (helpers := sorted({name for name, given in trail.strangers if _may_be(given, loader, ctx)})):
        return (Question("moves-nothing", " ".join(helpers)),)
    if leaves and _fed_to_cuda_model(loader, ctx):
        return ()
    if _chosen_with_moved(loader, moves, ctx):
        return ()
    if (maker := _returning(loader, ctx)) is not None and not moves and (makers := _handed_out(maker, ctx)):
        return (Question("no-cuda-use", " ".join(makers)),)
    if leaves and (taker := _taker(loader, ctx)) is not None:
        return (Question("moves-no-batches", taker),)
    if (owner := _owner(loader, ctx)) is not None and not moves:
        return (Question("no-cuda-use", owner),)
    return None


def _chosen_with_moved(loader: LoaderCall, moves: list[BatchMove], ctx: Context) -> bool:
    """Whether a dict holds this loader and one whose batches are moved: `for x, y in loaders[phase]`."""
    moved = {m.loader.node for m in moves}
    for node in ctx.file.all(cst.Dict) if moved else ():
        held = {ctx.sem.value(e.value).node for e in node.elements if isinstance(e, cst.DictElement)}
        if loader.node in held and held & moved:
            return True
    return False


def _taker(loader: LoaderCall, ctx: Context) -> str | None:
    """The imported function, method or class that is given the loader, alone or in a dict, where it or its maker is
    called."""
    makers = [site.function for site in ctx.sem.call_sites(loader.function)]
    for function in dict.fromkeys((loader.function, *makers)):
        for call in ctx.file.within(function.body, cst.Call):
            if any(_holds(ctx.sem.value(a.value), loader) for a in call.args):
                name = stranger(ctx.sem, call)
                if name is not None and ctx.sem.function(call) is function:
                    return name
    return None


def _holds(value: Value, loader: LoaderCall) -> bool:
    if value.node is loader.node:
        return value.kind in (Kind.LOADER, Kind.UNKNOWN)
    held = value.items or (() if value.element is None else (value.element,))
    return value.kind in (Kind.DICT, Kind.LIST, Kind.TUPLE) and any(_holds(v, loader) for v in held)


def _may_be(value: Value, loader: LoaderCall, ctx: Context) -> bool:
    """Whether a loop over this value may be one over the loader: over any of the file, or of those in a display, or of
    another file's class."""
    if loader.value.kind is Kind.UNKNOWN:
        return value.origin == loader.value.origin
    if isinstance(value.node, (cst.Tuple, cst.List)):
        return any(ctx.sem.value(e.value).node is loader.node for e in value.node.elements)
    return not isinstance(value.node, cst.Call)


def _leaves(loader: LoaderCall, ctx: Context) -> bool:
    """Whether the loader goes on from where it is made: passed, returned, stored, or global."""
    parent = ctx.file.parent(loader.node)
    if not isinstance(parent, (cst.Assign, cst.AnnAssign)):
        return not isinstance(parent, cst.Expr)
    if isinstance(loader.function.node, cst.Module) or any("." in t for t in loader.targets) or not loader.targets:
        return True
    names = set(loader.targets)
    for node in ctx.file.within(loader.function.node, cst.Name):
        if node.value in names and not isinstance(ctx.file.parent(node), (cst.AssignTarget, cst.For)):
            return True
    return False


def _fed_to_cuda_model(loader: LoaderCall, ctx: Context) -> bool:
    """Whether a function of another file gets this loader together with a model that was put on a GPU."""
    if not loader.targets:
        return False
    body = loader.function.node
    for call in ctx.file.within(body, cst.Call):
        values = [ctx.sem.value(a.value) for a in call.args]
        if not any(v.kind is Kind.LOADER and v.node is loader.node for v in values):
            continue
        if ctx.sem.callee(call) is not None or ctx.sem.value(call.func).kind is not Kind.UNKNOWN:
            continue
        receiver = ctx.sem.value(call.func.value) if isinstance(call.func, cst.Attribute) else None
        if receiver is not None and receiver.kind is not Kind.UNKNOWN:
            continue  # a framework's method moves the batches by its own means
        models = [dotted(a.value) for a, v in zip(call.args, values) if v.kind is Kind.MODULE]
        if any(m is not None and _put_on_cuda(m, body, ctx) for m in models):
            return True
    return False


def _put_on_cuda(model: str, body: cst.CSTNode, ctx: Context) -> bool:
    """Whether `model.cuda()` or `model.to(device)` stands in the function, with a device that may be CUDA."""
    for node in walk(body):
        if isinstance(node, cst.Call):
            is_move, device = move_target(ctx.sem, node)
            if is_move and ctx.sem.value(node).kind is Kind.MODULE and may_be_cuda(ctx.sem, device):
                moved = dotted(node.func.value) if isinstance(node.func, cst.Attribute) else None
                if moved == model or _bound_to(node, model, ctx):
                    return True
    return False


def _bound_to(node: cst.Call, name: str, ctx: Context) -> bool:
    parent = ctx.file.parent(node)
    return isinstance(parent, cst.Assign) and any(dotted(t.target) == name for t in parent.targets)


def _returning(loader: LoaderCall, ctx: Context) -> Function | None:
    """The function that hands this loader to its callers."""
    function = loader.function
    if isinstance(function.node, cst.Module) or function.name.startswith("__"):
        return None  # nobody asks `__call__` for a loader
    names = {t for t in (*loader.targets, *_held_in(loader, ctx)) if "." not in t}
    given = ctx.file.within(function.body, cst.Return), ctx.file.within(function.body, cst.Yield)
    values = (node.value for nodes in given for node in nodes)
    return function if any(_mentions(value, loader.node, names) for value in values) else None


def _mentions(value: cst.CSTNode | None, node: cst.CSTNode, names: Collection[str | None]) -> bool:
    """Whether the node itself, or one of the names that hold what it gives, stands in the value."""
    return value is not None and any(n is node or (isinstance(n, cst.Name) and n.value in names) for n in walk(value))


def _owner(loader: LoaderCall, ctx: Context) -> str | None:
    """The class that keeps the loader in an attribute for others, where this file makes no object of it."""
    cls, params = loader.function.cls, loader.function.params
    if cls is None or not params or not any(t.startswith(f"{params[0]}.") for t in loader.targets):
        return None
    init = ctx.sem.names.method(cls, "__init__")
    return None if init is not None and ctx.sem.call_sites(init) else cls.own


def _held_in(loader: LoaderCall, ctx: Context) -> Iterator[str]:
    """The names of the dict or list that the loader is put into where it is made: `{s: DataLoader(d) for s in …}`."""
    node: cst.CSTNode | None = ctx.file.parent(loader.node)
    while isinstance(node, _DISPLAYS):
        node = ctx.file.parent(node)
    for target in node.targets if isinstance(node, cst.Assign) else ():
        held = target.target.value if isinstance(target.target, cst.Subscript) else target.target
        if (name := dotted(held)) is not None:
            yield name


_DISPLAYS = (
    cst.Dict | cst.DictComp | cst.DictElement | cst.List | cst.ListComp | cst.Tuple | cst.Element
)  # what holds its members


def _handed_out(function: Function, ctx: Context, depth: int = 0) -> list[str]:
    """The names of a function that makes a loader, and of those of the file that give on what it returns; none where
    the file itself calls it for more than a look at one batch: its own loops are known."""
    makers = [function.own]
    for site in ctx.sem.call_sites(function):
        if depth < _MOST_MAKERS and _gives_on(site.function, site.node, ctx):
            outer = _handed_out(site.function, ctx, depth + 1)
            if not outer:
                return []
            makers += [name for name in outer if name not in makers]
            continue
        loops = [
            loop
            for loop in walk_scope(site.function.body)
            if isinstance(loop, cst.For) and loader_value(ctx.sem, loop.iter) is not None
        ]
        if not loops or not all(looks_once(ctx.sem, loop) for loop in loops):
            return []
    return makers


_MOST_MAKERS = 2  # functions that a loader is given on by


def _gives_on(function: Function, call: cst.CSTNode, ctx: Context) -> bool:
    """Whether a function returns what it gets from a call, as such, under a name or in a display."""
    if isinstance(function.node, cst.Module) or function.name.startswith("__"):
        return False
    names = {dotted(t.target) for t in _assigned_to(call, ctx)} - {None}
    return any(_mentions(node.value, call, names) for node in ctx.file.within(function.body, cst.Return))


def _assigned_to(call: cst.CSTNode, ctx: Context) -> Sequence[cst.AssignTarget]:
    parent = ctx.file.parent(call)
    return parent.targets if isinstance(parent, cst.Assign) else ()


# -- loaders that must not or need not be pinned ------------------------------------------------------------------


def _says_nothing(loader: LoaderCall) -> bool:
    """Whether the call of a derived class surely passes no `pin_memory`."""
    return "pin_memory" not in loader.given and not loader.open


def _is_plain(origin: str, ctx: Context) -> bool:
    """Whether a class of this file is as good as torch's own loader."""
    names = ctx.sem.whole.names
    cls = names.classes.get(origin.removeprefix(OWN))
    return (
        cls is not None
        and all(hands_on(c) for c in names.mro(cls))
        and all(parameters_of_loader(root) for root in names.roots(cls))
    )


def _pins_nothing(loader: LoaderCall) -> bool:
    """A loader that does not hand `pin_memory` on to torch's, or whose batches have no way to be pinned (DGL's)."""
    return not parameters_of_loader(loader.value.origin) or loader.value.origin.startswith("dgl.")


def _collates_graphs(loader: LoaderCall, ctx: Context) -> bool:
    """Whether a file that works with DGL puts its batches together itself: they hold its graphs, which cannot be
    pinned."""
    imported = any(name.partition(".")[0] == "dgl" for name in ctx.sem.names.imports.values())
    return imported and setting(ctx.sem, loader, "collate_fn").node is not None


def _on_device_already(loader: LoaderCall, ctx: Context) -> tuple[Question, ...] | None:
    """None where the dataset or the collate function makes tensors on a device: pinning them would fail. What to ask of
    a dataset of another file that is given a device."""
    questions: tuple[Question, ...] = ()
    for name in ("dataset", "collate_fn"):
        part = _part(loader, name, ctx)
        if part is None or not makes_device_tensors(ctx.sem, part):
            continue
        made = ctx.sem.value(part)
        if not made.origin or made.origin.startswith(OWN) or makes_device_tensors(ctx.sem, part, told=False):
            return None
        questions += (Question("items-on-device", made.origin),)
    return questions


def _part(loader: LoaderCall, name: str, ctx: Context) -> cst.BaseExpression | None:
    node = setting(ctx.sem, loader, name).node
    if node is None and not parameters_of_loader(loader.value.origin):
        given = argument(loader.node, name, 0 if name == "dataset" else None)
        node = given.value if given is not None else None
    return node


def _in_memory(loader: LoaderCall, ctx: Context) -> bool:
    """Tensors or a list that the file itself holds in memory: toys, and often on the device already."""
    dataset = argument(loader.node, "dataset", 0)
    if dataset is None:
        return False
    value = ctx.sem.value(dataset.value)
    return value.origin.endswith(".TensorDataset") or value.is_tensor or value.kind is Kind.LIST


# -- fix ----------------------------------------------------------------------------------------------------------


def _fix(loader: LoaderCall, ctx: Context) -> Fix | None:
    if has_star(loader.node, "*"):
        return None
    value, imports = _condition(loader, ctx)
    return safe(f"pass `pin_memory={value}`", add_argument(ctx.file, loader.node, f"pin_memory={value}"), *imports)


def _condition(loader: LoaderCall, ctx: Context) -> tuple[str, tuple[Edit, ...]]:
    """What says whether the batches go to CUDA, and the import that it needs, if any."""
    device = _bound_device(loader, ctx)
    if device is not None:
        return f'{device}.type == "cuda"', ()
    name, imports = torch_name(ctx.file, ctx.sem, "torch.cuda.is_available", loader.node)
    return f"{name}()", imports


def _bound_device(loader: LoaderCall, ctx: Context) -> str | None:
    """A plain name that surely holds a `torch.device` where the loader is made: assigned in a statement above it."""
    statement: cst.CSTNode = ctx.file.statement(loader.node)
    while True:
        block = ctx.file.parent(statement)
        if not isinstance(block, (cst.IndentedBlock, cst.Module)):
            return None
        found: str | None = None
        for above in block.body:
            if above is statement:
                break
            found = _device_assigned(above, ctx) or (None if found and _rebinds(above, found) else found)
        if found is not None:
            return found
        owner = ctx.file.parent(block)
        if owner is None or isinstance(owner, (cst.Module, cst.FunctionDef, cst.ClassDef)):
            return None
        while owner is not None and not isinstance(ctx.file.parent(owner), (cst.IndentedBlock, cst.Module)):
            owner = ctx.file.parent(owner)
        if owner is None:
            return None
        statement = owner


def _device_assigned(statement: cst.CSTNode, ctx: Context) -> str | None:
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return None
    small = statement.body[0]
    if not isinstance(small, cst.Assign) or not isinstance(small.value, cst.Call) or len(small.targets) != 1:
        return None
    if ctx.sem.qualified(small.value.func) != "torch.device":
        return None
    target = small.targets[0].target
    return target.value if isinstance(target, cst.Name) else None


def _rebinds(statement: cst.CSTNode, name: str) -> bool:
    if isinstance(statement, (cst.FunctionDef, cst.ClassDef)):
        return False  # a name of its own
    return any(isinstance(t, cst.AssignTarget) and dotted(t.target) == name for t in walk_scope(statement))
