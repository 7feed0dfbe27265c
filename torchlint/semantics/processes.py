"""How a file trains in several processes: who is which rank, which models are replicas.

Read from the whole file, which distributed scripts are few enough for. A name is a rank or a world size because it
reaches `init_process_group`, comes from `torch.distributed` or the launcher's environment, or is what `mp.spawn`
counts; a model is a replica because a call wraps it in DistributedDataParallel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import libcst as cst

from torchlint.nodes import argument, dotted, literal, walk_scope
from torchlint.semantics.blocks import always, asks_for_main
from torchlint.semantics.calls import bind_arguments
from torchlint.semantics.model import Semantics
from torchlint.semantics.names import Function

_Source = Callable[[cst.BaseExpression, Function], bool]

DDP = "torch.nn.parallel.DistributedDataParallel"
GROUP = "torch.distributed.init_process_group"
SPAWN = re.compile(r"^torch\.multiprocessing\.(spawn\.)?(spawn|start_processes)$")
PROCESS = re.compile(r"^(torch\.)?multiprocessing\.(\w+\.)*Process$")
_CANONICAL = {
    "torch.distributed.distributed_c10d.init_process_group": GROUP,
    "torch.nn.parallel.distributed.DistributedDataParallel": DDP,
    "torch.nn.DistributedDataParallel": DDP,
}
_RANKS = frozenset(("torch.distributed.get_rank", "torch.distributed.get_node_local_rank"))
_WORLDS = frozenset(("torch.distributed.get_world_size",))
_RANK_VARIABLES = frozenset(("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_LOCALID", "OMPI_COMM_WORLD_RANK"))
_WORLD_VARIABLES = frozenset(("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))


@dataclass(frozen=True, eq=False)
class Replica:
    """A model wrapped in DistributedDataParallel. `conditional`: the wrap stands under an `if` of its function."""

    call: cst.Call = field(repr=False)
    function: Function
    conditional: bool


class Processes:
    """What one file says about its processes. `sem` and `file` are those of the whole file, nothing blanked."""

    def __init__(self, sem: Semantics) -> None:
        self.sem = sem
        self.file = sem.file

    @classmethod
    def of(cls, sem: Semantics) -> Processes:
        """The processes of a file, read once however many rules ask."""
        return sem.whole.once(cls)

    # -- calls --------------------------------------------------------------------------------------------------------

    @cached_property
    def calls(self) -> list[tuple[cst.Call, Function, str]]:
        """Every call of the file in source order, with its function and its qualified name ("" where unknown)."""
        at = self.sem.evaluator.function_at
        result = []
        for call in self.file.all(cst.Call):
            function = at.get(call) or self.sem.function(call)
            name = self.sem.names.qualify(call.func, function) or ""
            result.append((call, function, _CANONICAL.get(name, name)))
        return result

    def named(self, *names: str) -> Iterator[tuple[cst.Call, Function]]:
        return ((call, function) for call, function, name in self.calls if name in names)

    @cached_property
    def spawned(self) -> dict[Function, cst.Call]:
        """Functions of this file that are started in processes of their own, with the call that starts them."""
        result: dict[Function, cst.Call] = {}
        for call, function, name in self.calls:
            target = None
            if SPAWN.match(name):
                target = argument(call, "fn", 0)
            elif PROCESS.match(name):
                target = argument(call, "target", 1)
            if target is not None:
                own = self.sem.names.qualify(target.value, function) or ""
                started = self.sem.names.functions.get(own.removeprefix("~.")) if own.startswith("~.") else None
                if started is not None:
                    result.setdefault(started, call)
        return result

    @cached_property
    def callers(self) -> dict[Function, list[tuple[cst.Call, Function]]]:
        """Function → the calls of this file that reach it."""
        result: dict[Function, list[tuple[cst.Call, Function]]] = {}
        for call, function, _ in self.calls:
            callee = self.sem.callee(call)
            if callee is not None:
                result.setdefault(callee, []).append((call, function))
        return result

    @cached_property
    def parallel(self) -> set[Function]:
        """Functions that run in every process: they start the group or wrap a model, or call what does."""
        result: set[Function] = set()
        for _, function in self.named(GROUP, DDP):
            result |= self.started_from(function)
        return result

    def started_from(self, function: Function) -> set[Function]:
        """The function and those of the file that reach it by calls."""
        found: set[Function] = set()
        queue = [function]
        while queue:
            current = queue.pop()
            if current not in found:
                found.add(current)
                queue += [caller for _, caller in self.callers.get(current, ())]
        return found

    # -- ranks --------------------------------------------------------------------------------------------------------

    @cached_property
    def ranks(self) -> set[tuple[Function, str]]:
        """(function, name) of what certainly holds the rank of the process."""
        seeds = set(self._given("rank", 4)) | set(self._assigned_from(self._is_rank_source))
        for function in self.spawned:
            if function.params and SPAWN.match(self._name(self.spawned[function])):
                seeds.add((function, function.params[0]))
        return self._spread(seeds)

    @cached_property
    def worlds(self) -> set[tuple[Function, str]]:
        """(function, name) of what certainly holds the number of processes."""
        return self._spread(set(self._given("world_size", 3)) | set(self._assigned_from(self._is_world_source)))

    def is_rank(self, node: cst.BaseExpression, function: Function) -> bool:
        return self._is_rank_source(node, function) or self._holds(self.ranks, node, function)

    def is_world_size(self, node: cst.BaseExpression, function: Function) -> bool:
        return self._is_world_source(node, function) or self._holds(self.worlds, node, function)

    def holds_rank(self, name: str, function: Function) -> bool:
        """The same for a name as text."""
        return self._known_as(self.ranks, name, function)

    def _name(self, call: cst.Call) -> str:
        return self.sem.qualified(call.func) or ""

    def _given(self, keyword: str, position: int) -> Iterator[tuple[Function, str]]:
        for call, function in self.named(GROUP):
            arg = argument(call, keyword, position)
            if arg is not None and (name := dotted(arg.value)) is not None:
                yield function, name

    def _assigned_from(self, source: _Source) -> Iterator[tuple[Function, str]]:
        for function in self.sem.functions:
            for node in walk_scope(function.body):
                if isinstance(node, cst.Assign) and source(node.value, function):
                    for target in node.targets:
                        if (name := dotted(target.target)) is not None:
                            yield function, name

    def _is_rank_source(self, node: cst.BaseExpression, function: Function) -> bool:
        return self._source(node, function, _RANKS, _RANK_VARIABLES)

    def _is_world_source(self, node: cst.BaseExpression, function: Function) -> bool:
        return self._source(node, function, _WORLDS, _WORLD_VARIABLES)

    def _source(
        self, node: cst.BaseExpression, function: Function, made: frozenset[str], variables: frozenset[str]
    ) -> bool:
        if isinstance(node, cst.Call):
            name = self.sem.names.qualify(node.func, function)
            if name in made:
                return True
            if name in ("os.getenv", "os.environ.get") and node.args:
                return literal(node.args[0].value) in variables
            if isinstance(node.func, cst.Name) and node.func.value == "int" and node.args:
                return self._source(node.args[0].value, function, made, variables)
        if isinstance(node, cst.Subscript) and self.sem.names.qualify(node.value, function) == "os.environ":
            index = node.slice[0].slice
            return isinstance(index, cst.Index) and literal(index.value) in variables
        if isinstance(node, cst.IfExp):
            return self._source(node.body, function, made, variables)
        return False

    def _holds(self, known: set[tuple[Function, str]], node: cst.BaseExpression, function: Function) -> bool:
        name = dotted(node)
        return name is not None and self._known_as(known, name, function)

    def _known_as(self, known: set[tuple[Function, str]], name: str, function: Function) -> bool:
        scope: Function | None = function
        while scope is not None:
            if (scope, name) in known:
                return True
            if name.partition(".")[0] in scope.local:
                return False
            scope = scope.parent if scope.parent is not None else _outer(self.sem, scope)
        return False

    @cached_property
    def _handed(self) -> list[tuple[Function, cst.CSTNode, Function, dict[str, cst.BaseExpression]]]:
        """(caller, call, callee, parameter → what it is given) for every call or spawn of a function of this file."""
        result: list[tuple[Function, cst.CSTNode, Function, dict[str, cst.BaseExpression]]] = []
        for callee, sites in self.callers.items():
            for call, caller in sites:
                bound = bind_arguments(callee, call, callee.is_method and isinstance(call.func, cst.Attribute))
                result.append((caller, call, callee, {param: arg.value for param, arg in bound.items()}))
        for callee, start in self.spawned.items():
            spawns = SPAWN.match(self._name(start)) is not None
            args = argument(start, "args", 1 if spawns else 3)
            if args is not None and isinstance(args.value, cst.Tuple):
                params = callee.params[1:] if spawns else callee.params
                values = [e.value for e in args.value.elements if not isinstance(e, cst.StarredElement)]
                result.append((self.sem.function(start), start, callee, dict(zip(params, values))))
        return result

    def _spread(self, known: set[tuple[Function, str]]) -> set[tuple[Function, str]]:
        """Names that are handed on by calls hold the same thing there, in both directions."""
        for _ in range(4):
            before = len(known)
            for caller, _call, callee, given in self._handed:
                for param, value in given.items():
                    name = dotted(value)
                    if name is None:
                        continue
                    if (callee, param) in known and "." not in name:
                        known.add((caller, name))
                    if (caller, name) in known:
                        known.add((callee, param))
            if len(known) == before:
                break
        return known

    # -- replicas -----------------------------------------------------------------------------------------------------

    @cached_property
    def replicas(self) -> dict[tuple[Function | str, str], Replica]:
        """(function or class name, name) → the replica that the name stands for there."""
        found: dict[tuple[Function | str, str], Replica] = {}
        for call, function in self.named(DDP):
            around = (a for a in self.file.ancestors(call) if isinstance(a, (cst.If, cst.FunctionDef, cst.ClassDef)))
            guard = next((a for a in around if not always(a)), None)
            replica = Replica(call, function, isinstance(guard, cst.If) and not asks_for_main(guard))
            for name in self._targets(call):
                found[self._scope(function, name), name] = replica
        for _ in range(4):
            before = len(found)
            for caller, site, callee, given in self._handed:
                for param, value in given.items():
                    name = dotted(value) or ""
                    known = found.get((self._scope(caller, name), name))
                    if known is not None and self._behind(site, caller, known):
                        found.setdefault((callee, param), known)
            if len(found) == before:
                break
        # A parameter that gets a plain model from another caller is a replica in some calls only.
        for caller, _, callee, given in self._handed:
            for param, value in given.items():
                passed, known = dotted(value) or "", found.get((callee, param))
                if known is not None and (self._scope(caller, passed), passed) not in found:
                    found[callee, param] = replace(known, conditional=True)
        return found

    def replica(self, node: cst.BaseExpression, function: Function) -> Replica | None:
        """The replica that an expression stands for at its place, by name; None where it is none."""
        name = dotted(node)
        if name is None:
            return None
        found = self.replicas.get((self._scope(function, name), name))
        if found is None and name.partition(".")[0] not in function.local:
            found = self.replicas.get((self.sem.names.module, name))
        return found if found is not None and self._behind(node, function, found) else None

    def _behind(self, node: cst.CSTNode, function: Function, replica: Replica) -> bool:
        """Whether the node stands behind the wrap, as far as both are in one function."""
        return replica.function is not function or self.file.caret(node)[0] > self.file.caret(replica.call)[1]

    def _scope(self, function: Function, name: str) -> Function | str:
        if function.cls is not None and function.params and name.startswith(function.params[0] + "."):
            return function.cls.qualname
        return function

    def _targets(self, call: cst.Call) -> list[str]:
        parent = self.file.parent(call)
        if isinstance(parent, cst.Assign):
            return [name for t in parent.targets if (name := dotted(t.target)) is not None]
        if isinstance(parent, cst.AnnAssign) and (name := dotted(parent.target)) is not None:
            return [name]
        return []

    # -- names ---------------------------------------------------------------------------------------------------------

    def values(self, name: str, function: Function) -> list[cst.BaseExpression]:
        """What the function, or else the module, assigns to a plain name."""
        scope = function if name in function.local else self.sem.names.module
        return [
            node.value
            for node in walk_scope(scope.body)
            if isinstance(node, (cst.Assign, cst.AnnAssign))
            and node.value is not None
            and name in (dotted(t) for t in _assigned(node))
        ]

    def passed(self, name: str, function: Function) -> Iterator[tuple[cst.BaseExpression, Function]]:
        """What the calls of this file give to a parameter, each with the function that calls."""
        for caller, _, callee, given in self._handed:
            if callee is function and name in given and caller is not function:
                yield given[name], caller


def _outer(sem: Semantics, function: Function) -> Function | None:
    return None if function is sem.names.module else sem.names.module


def _assigned(node: cst.Assign | cst.AnnAssign) -> Iterable[cst.BaseExpression]:
    for target in [t.target for t in node.targets] if isinstance(node, cst.Assign) else [node.target]:
        yield from (e.value for e in target.elements) if isinstance(target, (cst.Tuple, cst.List)) else (target,)
