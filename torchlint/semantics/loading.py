"""What a DataLoader call says about itself: its settings by keyword, by place or by `**options`, and its workers.

Loaders of other libraries are read by the same questions where they derive from torch's own and hand its arguments on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import libcst as cst

from torchlint.nodes import argument, dotted, find, has_star, literal, walk, walk_scope
from torchlint.semantics.blocks import asks_for_main
from torchlint.semantics.kinds import Kind, Value
from torchlint.semantics.loops import LoaderCall, Loop
from torchlint.semantics.names import Function

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

# The order of the positional parameters of each family of loaders that torch's DataLoader is the base of.
_TORCH = (
    "dataset batch_size shuffle sampler batch_sampler num_workers collate_fn pin_memory drop_last timeout "
    "worker_init_fn multiprocessing_context generator"
).split()
_FAMILIES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile(r"^torch\.utils\.data\.DataLoader$"), tuple(_TORCH)),
    (
        re.compile(r"^torch_geometric\.(data|loader)\.(dataloader\.)?DataLoader$"),
        ("dataset", "batch_size", "shuffle", "follow_batch", "exclude_keys"),
    ),
    (
        re.compile(r"^torch_geometric\.(data|loader)\.(DataListLoader|DenseDataLoader)$"),
        ("dataset", "batch_size", "shuffle"),
    ),
    (re.compile(r"^monai\.data\.(dataloader\.)?DataLoader$"), ("dataset", "num_workers")),
    (re.compile(r"^dgl\.dataloading\.(pytorch\.)?GraphDataLoader$"), ("dataset", "collate_fn")),
)


def parameters_of_loader(origin: str) -> tuple[str, ...]:
    """The positional parameters of a loader that takes the arguments of torch's DataLoader; () for any other."""
    return next((names for pattern, names in _FAMILIES if pattern.match(origin)), ())


@dataclass(frozen=True)
class Setting:
    """One argument of a loader. `given` is None where the call may or may not pass it.

    `value` is the constant that it surely has, else `...`; `node` the expression, where it is in sight.
    """

    given: bool | None
    value: Any = ...
    node: cst.BaseExpression | None = field(default=None, repr=False)

    @property
    def absent(self) -> bool:
        return self.given is False


def setting(sem: Semantics, loader: LoaderCall, name: str) -> Setting:
    """What the call passes for a parameter of torch's DataLoader."""
    names = parameters_of_loader(loader.value.origin)
    position = names.index(name) if name in names else None
    arg = argument(loader.node, name, position)
    if arg is not None:
        return Setting(True, constant(sem, arg.value), arg.value)
    if name in loader.given:
        if _taken_out(sem, loader, name):
            return Setting(None)
        node = _in_options(sem, loader, name)
        return Setting(True, constant(sem, node) if node is not None else ..., node)
    if loader.open or not names or has_star(loader.node, "*"):
        return Setting(None)
    return Setting(False)


def _taken_out(sem: Semantics, loader: LoaderCall, name: str) -> bool:
    """Whether the function takes the key out of its `**options`: `options.pop("shuffle", None)`."""
    options = {dotted(arg.value) for arg in loader.node.args if arg.star == "**"}
    return any(
        isinstance(call.func, cst.Attribute)
        and call.func.attr.value == "pop"
        and dotted(call.func.value) in options
        and bool(call.args)
        and literal(call.args[0].value) == name
        for call in find(sem.function(loader.node).body, cst.Call)
    )


def _in_options(sem: Semantics, loader: LoaderCall, name: str) -> cst.BaseExpression | None:
    """The value of a key of a `**options` whose dict display is in sight."""
    for arg in loader.node.args:
        made = sem.value(arg.value).node if arg.star == "**" else None
        if isinstance(made, cst.Dict):
            for element in made.elements:
                if isinstance(element, cst.DictElement) and literal(element.key) == name:
                    return element.value
        if isinstance(made, cst.Call) and (found := argument(made, name)) is not None:
            return found.value
    return None


def constant(sem: Semantics, node: cst.BaseExpression) -> Any:
    """The value of a literal, or of a plain name that is bound once, to a literal, in its scope; else `...`."""
    value = literal(node)
    if value is not ... or not isinstance(node, cst.Name):
        return value
    function = sem.function(node)
    while function.parent is not None and node.value not in function.local:
        function = function.parent
    if node.value in function.params:
        return ...
    bound = [n for n in walk_scope(function.body) if _binds(n, node.value)]
    if len(bound) != 1 or not isinstance(bound[0], cst.Assign) or len(bound[0].targets) != 1:
        return ...
    return literal(bound[0].value) if isinstance(bound[0].targets[0].target, cst.Name) else ...


def _binds(node: cst.CSTNode, name: str) -> bool:
    if isinstance(node, cst.Assign):
        targets: list[cst.CSTNode] = [t.target for t in node.targets]
    elif isinstance(node, (cst.AnnAssign, cst.AugAssign, cst.For, cst.NamedExpr)):
        targets = [node.target]
    elif isinstance(node, cst.Global):
        return any(item.name.value == name for item in node.names)
    else:
        return False
    return any(isinstance(n, cst.Name) and n.value == name for t in targets for n in walk(t))


# -- workers ------------------------------------------------------------------------------------------------------


def works_in_processes(sem: Semantics, loader: LoaderCall) -> bool | None:
    """Whether other processes load the items: None where the number of workers is not known."""
    workers = setting(sem, loader, "num_workers")
    if workers.absent:
        return False
    return workers.value > 0 if isinstance(workers.value, int) else None


# -- what is loaded, and where --------------------------------------------------------------------------------------


def dataset_value(sem: Semantics, loader: LoaderCall) -> Value:
    """What is known about the dataset of the loader; of Subset and random_split, what they split."""
    node = setting(sem, loader, "dataset").node
    value = sem.value(node) if node is not None else Value()
    for _ in range(3):
        made = value.node
        if value.origin not in _WRAPPERS or not isinstance(made, cst.Call):
            break
        inner = argument(made, "dataset", 0)
        if inner is None:
            break
        value = sem.value(inner.value)
    return value


_TRAIN = re.compile(r"(is_?)?train(ing)?$", re.I)
_SPLIT = re.compile(r"(split|mode|phase|flag|subset|partition|stage|image_set)$", re.I)
_WRAPPERS = ("torch.utils.data.Subset", "torch.utils.data.random_split")


def gives_one_batch(sem: Semantics, loader: LoaderCall) -> bool:
    """Whether a loader is made for one batch, so that there is none ahead of which anything could be done: the whole
    dataset at once, or `next(iter(DataLoader(…)))`."""
    return _takes_all_at_once(sem, loader) or _drawn_once(sem, loader.node)


def _takes_all_at_once(sem: Semantics, loader: LoaderCall) -> bool:
    """`batch_size=len(dataset)`, also `len(dataset.data)`."""
    size, dataset = setting(sem, loader, "batch_size").node, argument(loader.node, "dataset", 0)
    if not isinstance(size, cst.Call) or dataset is None or not size.args or dotted(size.func) != "len":
        return False
    whole, counted = dotted(dataset.value), dotted(size.args[0].value)
    return whole is not None and counted is not None and f"{counted}.".startswith(f"{whole}.")


def _drawn_once(sem: Semantics, made: cst.Call) -> bool:
    """Drawn from by `next(iter(…))` where it is made, or by way of one name."""
    parent = sem.file.parent(made)
    if not isinstance(parent, cst.Assign):
        return _draws_one(sem, made)
    function = sem.function(made)
    target = parent.targets[0].target
    if isinstance(function.node, cst.Module) or len(parent.targets) != 1 or not isinstance(target, cst.Name):
        return False
    uses = [n for n in sem.file.within(function.node, cst.Name) if n.value == target.value and n is not target]
    return len(uses) == 1 and _draws_one(sem, uses[0]) and _loop_around(sem, uses[0]) is _loop_around(sem, made)


def _draws_one(sem: Semantics, loader: cst.CSTNode) -> bool:
    """`next(iter(loader))`."""
    for name in ("iter", "next"):
        arg = sem.file.parent(loader)
        call = sem.file.parent(arg) if isinstance(arg, cst.Arg) else None
        if not isinstance(call, cst.Call) or not isinstance(call.func, cst.Name) or call.func.value != name:
            return False
        loader = call
    return True


def _loop_around(sem: Semantics, node: cst.CSTNode) -> cst.For | cst.While | None:
    around = sem.file.enclosing(node, (cst.For, cst.While, cst.FunctionDef))
    return around if isinstance(around, (cst.For, cst.While)) else None


def is_held_out(sem: Semantics, loader: LoaderCall, splits: Collection[str]) -> bool:
    """Whether the dataset is made here as one that is not for training, by a constant argument: `train=False`, or one
    of the `splits` by name."""
    made = dataset_value(sem, loader).node
    if not isinstance(made, cst.Call):
        return False
    for arg in made.args:
        name = arg.keyword.value if arg.keyword is not None else ""
        value = literal(arg.value)
        if (_TRAIN.match(name) and value is False) or (_SPLIT.match(name) and value in splits):
            return True
    return False


_TEST = re.compile(r"^\s*(?:async )?def test_", re.MULTILINE)


def is_unit_test(sem: Semantics, loader: LoaderCall) -> bool:
    """Code of a file that pytest or unittest collects; an evaluation script called `test_x.py` holds no tests."""
    path = sem.file.path.replace(os.sep, "/")
    base = path.rpartition("/")[2]
    if base == "conftest.py":
        return True
    return (base.startswith("test_") or base.endswith("_test.py")) and sem.file.mentions(_TEST)


def runs_on_import(sem: Semantics, function: Function, node: cst.CSTNode) -> bool:
    """Whether the node runs when the module is imported: at its top level, or called from there, no `__name__` asked.

    That is what a worker that is spawned does: it imports the main module, and would make loaders of its own.
    """
    return _runs_on_import(sem, function, node, set())


def _runs_on_import(sem: Semantics, function: Function, node: cst.CSTNode, seen: set[Function]) -> bool:
    if isinstance(function.node, cst.Module):
        return not any(isinstance(a, cst.If) and asks_for_main(a) for a in sem.file.ancestors(node))
    if function in seen:
        return False
    seen.add(function)
    return any(_runs_on_import(sem, site.function, site.node, seen) for site in sem.call_sites(function))


def passes_lambda(sem: Semantics, loader: LoaderCall) -> bool:
    """Whether the call, or the one that makes its dataset, is given a lambda: it cannot be sent to a spawned worker."""
    made = dataset_value(sem, loader).node
    places = [loader.node, *([made] if isinstance(made, cst.Call) else [])]
    if any(True for place in places for _ in find(place, cst.Lambda)):
        return True
    return any(sem.value(a.value).origin == "lambda" or _names_lambda(sem, a.value) for p in places for a in p.args)


def _names_lambda(sem: Semantics, node: cst.BaseExpression) -> bool:
    made = sem.value(node).node if dotted(node) is not None else None
    return isinstance(made, cst.CSTNode) and any(True for _ in find(made, cst.Lambda))


# -- loops over loaders -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LoaderLoop:
    """A `for` that certainly goes over the loader which one call of the file makes."""

    node: cst.For = field(repr=False)
    function: Function
    loader: cst.Call = field(repr=False)


def loader_loops(sem: Semantics) -> list[LoaderLoop]:
    """Every `for` over a loader of this file, `enumerate`, `tqdm` and `zip` looked through."""
    return sem.once(_loader_loops)


def _loader_loops(sem: Semantics) -> list[LoaderLoop]:
    return [
        LoaderLoop(node, function, made)
        for function in sem.functions
        for node in walk_scope(function.body)
        if isinstance(node, cst.For)
        for made in _gone_over(sem, node.iter)
    ]


def _gone_over(sem: Semantics, node: cst.BaseExpression) -> Iterator[cst.Call]:
    value = sem.value(node)
    if value.kind is Kind.LOADER and isinstance(value.node, cst.Call):
        yield value.node
    elif isinstance(node, cst.Call) and (dotted(node.func) or "").rpartition(".")[2] in _HANDING_ON:
        for arg in node.args:
            if not arg.star and arg.keyword is None:
                yield from _gone_over(sem, arg.value)


_HANDING_ON = ("enumerate", "tqdm", "trange", "zip", "track", "progress_bar", "iter", "islice", "log_every")


def repeats(sem: Semantics, loop: LoaderLoop) -> Iterator[Loop]:
    """The loops that go over the same loader again and again: around this one, or around the call of its function."""
    made_in = sem.function(loop.loader)
    around = [a for a in _within(sem, loop.node) if isinstance(a, (cst.For, cst.While))]
    yield from (a for a in around if not _holds(sem, a, loop.loader))
    if made_in is not loop.function or isinstance(made_in.node, cst.Module):
        yield from _repeated_calls(sem, loop.function, loop.loader, 0)


def _repeated_calls(sem: Semantics, function: Function, loader: cst.Call, depth: int) -> Iterator[Loop]:
    for site in sem.call_sites(function):
        if _hands_another(sem, site.node, loader):
            continue
        yield from (item for item in site.loops if not _holds(sem, item, loader))
        if depth < 2 and sem.function(loader) is not site.function:
            yield from _repeated_calls(sem, site.function, loader, depth + 1)


def _hands_another(sem: Semantics, call: cst.CSTNode, loader: cst.Call) -> bool:
    """Whether the function gets loaders at this call, and not this one."""
    values = [sem.value(a.value) for a in call.args] if isinstance(call, cst.Call) else []
    handed = [v.node for v in values if v.kind is Kind.LOADER]
    return bool(handed) and all(node is not loader for node in handed)


def _within(sem: Semantics, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for ancestor in sem.file.ancestors(node):
        if isinstance(ancestor, (cst.FunctionDef, cst.ClassDef)):
            return
        yield ancestor


def _holds(sem: Semantics, outer: cst.CSTNode, node: cst.CSTNode) -> bool:
    return any(a is outer for a in sem.file.ancestors(node))
