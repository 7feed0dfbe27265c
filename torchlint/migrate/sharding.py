"""How the processes of a distributed script share data: which loaders train, with which sampler, in which epochs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from torchlint.migrate.epochs import counts_once
from torchlint.migrate.script import DISTRIBUTED_SAMPLER, LOADER, MOVES, PASSES_ITEMS, Loop, Script
from torchlint.nodes import argument, children, dotted, has_star, literal, walk, walk_scope
from torchlint.semantics.measuring import is_held_out_name

# Methods and functions that take a loader and hand back one that is sharded and announces its epochs.
_PREPARES = re.compile(
    r"(^|[._])(prepare\w*|setup_dataloaders?|auto_dataloader|ParallelLoader|MpDeviceLoader|make_private\w*)$"
)
_BATCH_SAMPLER = "torch.utils.data.BatchSampler"
_SHARDS = re.compile(r"rank|world_?size|shard|num_replicas|process_index|num_processes|split_dataset_by_node", re.I)


@dataclass(frozen=True, eq=False)
class Trained:
    """A loop over a training loader. `around`: the loops over epochs, each with what in its body leads to the batches.

    `elsewhere` names the function of another file that goes over the loader, where this file only has the epoch loop.
    """

    loop: Loop
    loader: cst.BaseExpression
    made: tuple[cst.BaseExpression, ...]
    around: tuple[tuple[Loop, cst.CSTNode], ...]
    elsewhere: str = ""


def trained_loaders(script: Script) -> Iterator[Trained]:
    """Every loader that training goes over, as far as this file shows."""
    for loop in script.training_loops():
        expr = _drawn(script, loop) or script.iterated(loop)
        if expr is not None:
            yield Trained(loop, expr, tuple(script.origins(expr)), tuple(script.loops_around(loop)))
        yield from _gone_round(script, loop)
    yield from _handed_over(script)


def _drawn(script: Script, loop: Loop) -> cst.BaseExpression | None:
    """The loader of `batches = iter(loader); for step in …: batch = next(batches)`."""
    for origin in _drawn_from(script, loop):
        if dotted(origin.func) == "iter" and origin.args:
            return origin.args[0].value
    return None


def _drawn_from(script: Script, loop: Loop) -> Iterator[cst.Call]:
    """The calls that made what the loop draws from with `next`."""
    for node in walk_scope(loop.body):
        if isinstance(node, cst.Call) and dotted(node.func) == "next" and node.args:
            for origin in script.origins(node.args[0].value):
                if isinstance(origin, cst.Call):
                    yield origin


def _gone_round(script: Script, loop: Loop) -> Iterator[Trained]:
    """The loader that a generator of the file goes over again and again, where the loop draws from it:
    `while True: for batch in loader: yield batch`."""
    for origin in _drawn_from(script, loop):
        function = script.callee(origin)
        for turn in walk_scope(function.body) if function is not None else ():
            name = dotted(turn.iter) if isinstance(turn, cst.For) else None
            outer = script.file.enclosing(turn, (cst.While, cst.FunctionDef)) if name is not None else None
            if function is None or name is None or not isinstance(outer, cst.While) or not _yields(turn):
                continue
            if (loader := script.passed(origin, function, name)) is not None:
                yield Trained(loop, loader, tuple(script.origins(loader)), ((outer, turn),))


def _yields(node: cst.CSTNode) -> bool:
    return any(isinstance(n, cst.Yield) for n in walk_scope(node))


def _handed_over(script: Script) -> Iterator[Trained]:
    """`for epoch in …: train_one_epoch(model, loader, …)` where the function is imported."""
    for loop in script.nodes:
        if not isinstance(loop, cst.For) or not isinstance(loop.iter, cst.Call) or script.trains(loop.body):
            continue
        if not (dotted(loop.iter.func) or "").endswith("range"):
            continue
        for call in (n for n in walk_scope(loop.body) if isinstance(n, cst.Call)):
            target = script.qualified(call.func)
            if target is None or "train" not in target.rpartition(".")[2] or script.callee(call) is not None:
                continue
            for arg in call.args:
                made = tuple(script.origins(arg.value))
                if any(isinstance(m, cst.Call) and script.qualified(m.func) == LOADER for m in made):
                    yield Trained(loop, arg.value, made, ((loop, call),), target)


def given_away(script: Script) -> Iterator[tuple[cst.Call, cst.FunctionDef]]:
    """The samplers of loaders that functions return for other files to train with, each with its function.

    Loaders that are named for evaluation are left out: their order does not matter.
    """
    for loader in script.made_by(LOADER):
        function, line = script.scope(loader), script.file.statement(loader)
        if not isinstance(function, cst.FunctionDef) or prepared(script, loader):
            continue
        names = {n.value for n in walk(line) if isinstance(n, cst.Name)}
        if any(map(is_held_out_name, names)):
            continue
        bound = {dotted(t.target) for t in walk(line) if isinstance(t, cst.AssignTarget)}
        returned = [n for n in walk_scope(function.body) if isinstance(n, cst.Return) and n.value is not None]
        if any(n is loader or dotted(n) in bound - {None} for r in returned for n in walk(r)):
            for sampler in samplers(script, loader):
                if script.scope(sampler) is function and not any(
                    is_held_out_name(n.value) for n in walk(sampler) if isinstance(n, cst.Name)
                ):
                    yield sampler, function


def loaders(script: Script, trained: Trained) -> list[cst.Call]:
    """The DataLoader calls behind a training loop, those in dicts and comprehensions included."""
    found = []
    for origin in trained.made:
        for node in walk(origin) if not isinstance(origin, cst.Call) else [origin]:
            if isinstance(node, cst.Call) and script.qualified(node.func) == LOADER:
                found.append(node)
        if isinstance(origin, cst.Subscript):
            for value in script.origins(origin.value):
                found += [n for n in walk(value) if isinstance(n, cst.Call) and script.qualified(n.func) == LOADER]
    return found


def samplers(script: Script, loader: cst.Call) -> list[cst.Call]:
    """The DistributedSampler calls that a loader may draw its order from."""
    arg = argument(loader, "sampler", 3) or argument(loader, "batch_sampler", 4)
    if arg is None:
        return []
    found = []
    for origin in script.origins(arg.value):
        values = script.origins(origin.value) if isinstance(origin, cst.Subscript) else [origin]
        if isinstance(origin, cst.Call) and script.qualified(origin.func) == _BATCH_SAMPLER and origin.args:
            values = script.origins(origin.args[0].value)
        for value in values:
            found += [
                n for n in walk(value) if isinstance(n, cst.Call) and script.qualified(n.func) == DISTRIBUTED_SAMPLER
            ]
    return found


def may_sample(script: Script, loader: cst.Call) -> bool:
    """Whether the loader is given a sampler, or a `**kwargs` that may hold one."""
    names = ("sampler", "batch_sampler")
    if any(argument(loader, name) for name in names):
        return True
    for arg in loader.args:
        if not arg.star:
            continue
        if arg.star == "*" or _changed(script, arg.value):
            return True
        for made in script.origins(arg.value):
            if not isinstance(made, cst.Dict):
                return True
            keys = [literal(e.key) if isinstance(e, cst.DictElement) else ... for e in made.elements]
            if any(key is ... or key in names for key in keys):
                return True
    return False


def _changed(script: Script, options: cst.BaseExpression) -> bool:
    """Whether a dict gets more keys than it was made with, other than constant ones that are no sampler's."""
    name = dotted(options)
    for node in script.nodes if name is not None else ():
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and dotted(node.func.value) == name:
            return True
        if isinstance(node, (cst.AugAssign, cst.For)) and dotted(node.target) == name:
            return True
        if isinstance(node, cst.AssignTarget) and isinstance(node.target, cst.Subscript):
            index = node.target.slice[0].slice
            key = literal(index.value) if isinstance(index, cst.Index) else ...
            if dotted(node.target.value) == name and (key is ... or key in ("sampler", "batch_sampler")):
                return True
    return False


def shuffles(sampler: cst.Call) -> bool:
    """Whether a DistributedSampler certainly shuffles: by default, or with a literal True."""
    shuffle = argument(sampler, "shuffle", 3)
    return not has_star(sampler, "**") and (shuffle is None or literal(shuffle.value) is True)


def shuffles_in(script: Script, loader: cst.Call, sampler: cst.Call) -> bool:
    """Whether it certainly shuffles where the loader gets it: a function of the file may be told to, by its caller."""
    if shuffles(sampler):
        return True
    name, function = told_to_shuffle(script, sampler)
    arg = argument(loader, "sampler", 3)
    if function is None or arg is None:
        return False
    told = [script.passed(c, function, name) for c in script.calls_behind(arg.value) if script.callee(c) is function]
    return bool(told) and all(t is not None and literal(t) is True for t in told)


def told_to_shuffle(script: Script, sampler: cst.Call) -> tuple[str, cst.FunctionDef | None]:
    """The parameter that says whether it shuffles, with its function."""
    shuffle, function = argument(sampler, "shuffle", 3), script.scope(sampler)
    name = dotted(shuffle.value) if shuffle is not None else None
    if name is None or not isinstance(function, cst.FunctionDef):
        return "", None
    return (name, function) if any(p.name.value == name for p in function.params.params) else ("", None)


def samplers_returned(script: Script) -> Iterator[tuple[cst.Call, str]]:
    """The samplers that functions make for other files' loaders, each with what to ask of their callers."""
    for sampler in script.made_by(DISTRIBUTED_SAMPLER):
        function = script.scope(sampler)
        if not isinstance(function, cst.FunctionDef) or script.owner(sampler) is not None:
            continue
        if any(
            isinstance(n, cst.Return) and n.value is not None and sampler in walk(n.value)
            for n in walk_scope(function.body)
        ):
            name, told = told_to_shuffle(script, sampler)
            if shuffles(sampler) or told is not None:
                yield sampler, f"~.{function.name.value} {name}".rstrip()


def handed_away(script: Script) -> Iterator[tuple[cst.Call, cst.Call, str]]:
    """The loaders with such a sampler that go to a class of another file, with the sampler and the class's name."""
    for call in script.calls:
        target = script.qualified(call.func) or ""
        if target.startswith(("~.", "torch.")) or not target.rpartition(".")[2][:1].isupper():
            continue
        for arg in call.args:
            held_out = (arg.keyword.value if arg.keyword is not None else "", dotted(arg.value) or "")
            if arg.star or any(map(is_held_out_name, held_out)):
                continue
            for made in script.origins(arg.value):
                if isinstance(made, cst.Call) and script.qualified(made.func) == LOADER and not prepared(script, made):
                    for sampler in samplers(script, made):
                        yield made, sampler, target


def several_epochs(trained: Trained) -> list[tuple[Loop, cst.CSTNode]]:
    """The loops around a training loop that may turn more than once."""
    return [(loop, via) for loop, via in trained.around if not counts_once(loop)]


def prepared(script: Script, loader: cst.Call) -> bool:
    """Whether a framework takes the loader over: `loader = accelerator.prepare(loader)`."""
    for call in script.calls:
        func = call.func.attr if isinstance(call.func, cst.Attribute) else call.func
        if _PREPARES.search(dotted(func) or "") and call is not loader:
            if any(arg.value is loader or loader in script.origins(arg.value) for arg in call.args):
                return True
    return False


def handed_to_strangers(script: Script, trained: Trained) -> list[str]:
    """Functions of other files that get the loader: they may call `set_epoch` on it."""
    name = dotted(trained.loader)
    found = []
    for call in script.calls:
        target = script.qualified(call.func)
        if target is None or target.startswith(("~.", "torch.")) or target.rpartition(".")[2] in PASSES_ITEMS:
            continue
        if name and any(dotted(a.value) == name for a in call.args):
            found.append(target)
    return found


def sharded_by_hand(script: Script, loader: cst.Call) -> bool:
    """Whether the dataset was already divided: made with the rank, or an IterableDataset, which shards itself."""
    data = argument(loader, "dataset", 0)
    if data is None:
        return True
    queue: list[cst.BaseExpression] = [data.value]
    seen: set[cst.CSTNode] = set()
    while queue:
        expr = queue.pop()
        if expr in seen:
            continue
        seen.add(expr)
        for origin in script.origins(expr):
            read = list(_read(script, origin))
            if _is_iterable(script, origin) or any(_SHARDS.search(_word(n)) for n in read):
                return True
            if isinstance(origin, cst.Subscript) and _indexed_by_parameter(script, origin):
                return True
            queue += [n for n in read if isinstance(n, (cst.Name, cst.Attribute)) and script.assigned(n)]
    return any(_SHARDS.search(_word(n)) for n in _read(script, data.value))


def _read(script: Script, expr: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """What an expression is made from, its devices left out: a process's own device says nothing about its data."""
    queue = [expr]
    while queue:
        node = queue.pop()
        if isinstance(node, cst.FormattedString) and script.file.code(node).lstrip("rfRF'\"").startswith("cuda"):
            continue
        if isinstance(node, cst.Call):
            name = script.qualified(node.func) or ""
            if name == "torch.device":
                continue
            moves = isinstance(node.func, cst.Attribute) and node.func.attr.value in MOVES
            queue += [node.func, *(a for a in node.args if not (moves or _is_device(a)))]
            continue
        yield node
        # A name behind a dot is no variable (the whole that it ends is), nor is that of a keyword.
        queue += [node.value] if isinstance(node, (cst.Attribute, cst.Arg)) else children(node)


def _is_device(arg: cst.Arg) -> bool:
    return arg.keyword is not None and arg.keyword.value in ("device", "device_ids", "output_device", "map_location")


def _word(node: cst.CSTNode) -> str:
    """The word that a node adds to the text: a name, the name behind a dot, of a keyword, or a string."""
    if isinstance(node, cst.Attribute):
        return node.attr.value
    if isinstance(node, cst.Arg):
        return node.keyword.value if node.keyword is not None else ""
    return node.value if isinstance(node, (cst.Name, cst.SimpleString, cst.FormattedStringText)) else ""


def _indexed_by_parameter(script: Script, node: cst.Subscript) -> bool:
    """Whether the items are picked by what the process's own function was given: `data[seeds]`.

    What a function of this file is called with is followed: only the start of a process gives each its own.
    """
    queue = [n for e in node.slice if isinstance(e.slice, cst.Index) for n in _read(script, e.slice.value)]
    seen: set[cst.CSTNode] = set()
    while queue:
        name = queue.pop()
        if not isinstance(name, cst.Name) or name in seen:
            continue
        seen.add(name)
        for origin in script.origins(name):
            scope = script.scope(origin)
            if isinstance(origin, cst.Name):
                if isinstance(scope, cst.FunctionDef) and any(
                    isinstance(n, cst.Param) and n.name.value == origin.value for n in walk(scope.params)
                ):
                    return True
            elif origin not in seen:
                seen.add(origin)
                queue += _read(script, origin)
    return False


def undivided_branch(script: Script, loader: cst.Call) -> bool:
    """Whether the loader is made where another branch of the same `if` makes one with a sampler: for a lone process."""
    inner: cst.CSTNode = loader
    for outer in script.file.ancestors(loader):
        if isinstance(outer, (cst.FunctionDef, cst.ClassDef)):
            return False
        if isinstance(outer, cst.If) and inner is not outer.test:
            other = outer.orelse if inner is outer.body else outer.body
            calls = (n for n in walk(other) if isinstance(n, cst.Call)) if other is not None else ()
            if any("Sampler" in (dotted(c.func) or "") or argument(c, "sampler") is not None for c in calls):
                return True
        inner = outer
    return False


def _is_iterable(script: Script, origin: cst.BaseExpression) -> bool:
    name = (script.qualified(origin.func) or "") if isinstance(origin, cst.Call) else ""
    cls = script.classes.get(name.removeprefix("~."))
    return "Iterable" in name or (cls is not None and any("Iterable" in (dotted(b.value) or "") for b in cls.bases))


def optional(script: Script, loader: cst.Call) -> bool:
    """Whether the loader has a DistributedSampler in some runs only (`… if distributed else None`)."""
    arg = argument(loader, "sampler", 3)
    made = script.origins(arg.value) if arg is not None else []
    return not made or not all(
        isinstance(m, cst.Call) and script.qualified(m.func) == DISTRIBUTED_SAMPLER for m in made
    )


def group_exists(script: Script, loader: cst.Call) -> bool:
    """Whether the process group certainly exists when the loader is made: started above it, in its function, unguarded.

    A function of this file that starts the group counts where it is called.
    """
    scope = script.scope(loader)
    for call in script.calls:
        if (
            script.scope(call) is scope
            and script.file.row(call) < script.file.row(loader)
            and _starts_group(script, call, 0)
        ):
            if script.file.enclosing(call, (cst.If, cst.For, cst.While, cst.FunctionDef)) in (None, scope):
                return True
    return False


def _starts_group(script: Script, call: cst.Call, depth: int) -> bool:
    if (script.qualified(call.func) or "") == "torch.distributed.init_process_group":
        return True
    function = script.callee(call)
    if function is None or depth > 3:
        return False
    inner = (n for n in walk_scope(function.body) if isinstance(n, cst.Call))
    return any(
        _starts_group(script, n, depth + 1) and script.file.enclosing(n, (cst.If, cst.FunctionDef)) is function
        for n in inner
    )
