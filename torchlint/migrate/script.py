"""The shape of a training script: what each name was made from, what calls what, and which loops train.

Everything is read from one file. `origins` follows a name through assignments, tuple unpacking, parameters and the
returns of the file's own functions to the expressions that made it; a training loop is one that reaches `backward()`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property

import libcst as cst

from torchlint.nodes import dotted, walk, walk_scope
from torchlint.semantics import Semantics
from torchlint.source import File

Scope = cst.FunctionDef | cst.Module
Loop = cst.For | cst.While
Place = tuple[cst.CSTNode | None, str]  # where a name lives (function, class of a `self.x`, module), and the name

LOADER = "torch.utils.data.DataLoader"
DATA_PARALLEL = "torch.nn.DataParallel"
DISTRIBUTED_SAMPLER = "torch.utils.data.DistributedSampler"
_REPLICATES = re.compile(
    r"(DDP|FSDP|DistributedDataParallel\w*|FullyShardedDataParallel|fully_shard|init_process_group)$"
)

# What hands a module back to its caller.
MOVES = tuple("cuda cpu to to_empty half float double bfloat16 type train eval requires_grad_".split())

# Wrappers around an iterable that hand on its items, one by one.
PASSES_ITEMS = ("enumerate", "tqdm", "trange", "iter", "list", "track", "islice", "ProgressBar", "progress_bar")


class Script:
    """One file, with the questions a migration asks of it. `qualified` resolves names through imports."""

    def __init__(self, file: File, qualified: Callable[[cst.CSTNode], str | None]) -> None:
        self.file = file
        self.qualified = qualified
        self._trains: dict[cst.CSTNode, bool] = {}
        self._callees: dict[cst.Call, cst.FunctionDef | None] = {}
        self._known: dict[Place, set[Place]] = {}

    @staticmethod
    def whole(sem: Semantics) -> Script:
        """The script behind a file whose tree may be thinned: here the prints and loops of every function matter."""
        return sem.whole.once(_script)

    # -- what there is ----------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[cst.CSTNode]:
        return self.file.nodes

    @cached_property
    def calls(self) -> list[cst.Call]:
        return self.file.all(cst.Call)

    @cached_property
    def functions(self) -> dict[str, cst.FunctionDef]:
        """The file's functions and methods by dotted name (`Trainer.fit`)."""
        found = {}
        for node in self.nodes:
            if isinstance(node, cst.FunctionDef):
                around = [
                    a.name.value for a in self.file.ancestors(node) if isinstance(a, (cst.FunctionDef, cst.ClassDef))
                ]
                found[".".join([*reversed(around), node.name.value])] = node
        return found

    def made_by(self, name: str) -> list[cst.Call]:
        """The calls of that qualified name."""
        return self._calls_by_name.get(name, [])

    @cached_property
    def _calls_by_name(self) -> dict[str, list[cst.Call]]:
        found: dict[str, list[cst.Call]] = {}
        for call in self.calls:
            if (name := self.qualified(call.func)) is not None:
                found.setdefault(name, []).append(call)
        return found

    @cached_property
    def classes(self) -> dict[str, cst.ClassDef]:
        """The file's classes by name."""
        return {n.name.value: n for n in self.nodes if isinstance(n, cst.ClassDef)}

    @cached_property
    def replicates(self) -> bool:
        """Whether the file can train in several processes: it wraps in DDP or FSDP, or starts a process group."""
        return any(_REPLICATES.search(self.qualified(c.func) or dotted(c.func) or "") for c in self.calls)

    @cached_property
    def optimises(self) -> bool:
        """Whether the file steps or makes an optimizer: without one, a `backward()` is an attack or an attribution."""
        for call in self.calls:
            if isinstance(call.func, cst.Attribute) and call.func.attr.value in ("zero_grad", "step"):
                return True
            if (self.qualified(call.func) or "").startswith("torch.optim."):
                return True
        return False

    # -- scopes and calls -------------------------------------------------------------------------------------------

    def scope(self, node: cst.CSTNode) -> Scope:
        """The innermost function around the node, or the module."""
        return self.file.enclosing(node, cst.FunctionDef) or self.file.tree

    def owner(self, node: cst.CSTNode) -> cst.ClassDef | None:
        """The class whose method the node stands in."""
        for ancestor in self.file.ancestors(node):
            if isinstance(ancestor, cst.ClassDef):
                return ancestor
        return None

    def callee(self, call: cst.Call) -> cst.FunctionDef | None:
        """The function of this file that a call runs: by name, or `self.method` of the class around it."""
        if call not in self._callees:
            self._callees[call] = self._callee(call)
        return self._callees[call]

    def _callee(self, call: cst.Call) -> cst.FunctionDef | None:
        name = self.qualified(call.func)
        if name is not None and name.startswith("~."):
            return self.functions.get(f"{name[2:]}.__init__" if name[2:] in self.classes else name[2:])
        if isinstance(call.func, cst.Name):  # `train = train_by_dice if dice else …`: the first of those it may be
            chosen = (self.qualified(value) or "" for value, _ in self.assigned(call.func))
            return next((self.functions[n[2:]] for n in chosen if n[2:] in self.functions and n[:2] == "~."), None)
        if isinstance(call.func, cst.Attribute) and dotted(call.func.value) == "self":
            owner = self.owner(call)
            if owner is not None:
                return self.functions.get(f"{owner.name.value}.{call.func.attr.value}")
        return None

    @cached_property
    def call_sites(self) -> dict[cst.FunctionDef, list[cst.Call]]:
        sites: dict[cst.FunctionDef, list[cst.Call]] = {}
        for call in self.calls:
            function = self.callee(call)
            if function is not None:
                sites.setdefault(function, []).append(call)
        return sites

    def passed(self, call: cst.Call, function: cst.FunctionDef, name: str) -> cst.BaseExpression | None:
        """The expression that a call hands to the parameter of that name."""
        params = [p.name.value for p in (*function.params.posonly_params, *function.params.params)]
        bound = isinstance(call.func, cst.Attribute) or function.name.value == "__init__"
        if params[:1] in (["self"], ["cls"]) and bound:
            params = params[1:]
        for position, arg in enumerate(call.args):
            if arg.star:
                return None
            if arg.keyword is not None:
                if arg.keyword.value == name:
                    return arg.value
            elif position < len(params) and params[position] == name:
                return arg.value
        return None

    # -- where values come from -------------------------------------------------------------------------------------

    @cached_property
    def _bindings(self) -> dict[Place, list[tuple[cst.BaseExpression, int | None]]]:
        """(scope, name) → what is assigned to it, with the position where a tuple is unpacked."""
        table: dict[Place, list[tuple[cst.BaseExpression, int | None]]] = {}
        for node in self.nodes:
            if isinstance(node, cst.Assign):
                for target in node.targets:
                    self._bind(table, target.target, node.value, None)
            elif isinstance(node, cst.AnnAssign) and node.value is not None:
                self._bind(table, node.target, node.value, None)
        return table

    def _bind(
        self,
        table: dict[Place, list[tuple[cst.BaseExpression, int | None]]],
        target: cst.BaseExpression,
        value: cst.BaseExpression,
        position: int | None,
    ) -> None:
        if isinstance(target, (cst.Tuple, cst.List)):
            for i, element in enumerate(target.elements):
                if isinstance(value, (cst.Tuple, cst.List)) and len(value.elements) == len(target.elements):
                    self._bind(table, element.value, value.elements[i].value, None)
                else:
                    self._bind(table, element.value, value, i)
            return
        text = dotted(target)
        if text is None:
            return
        if text.startswith("self."):
            owner = self.owner(target)
            if owner is not None:
                table.setdefault((owner, text), []).append((value, position))
        else:
            table.setdefault((self.scope(target), text), []).append((value, position))

    def assigned(self, expr: cst.BaseExpression) -> list[tuple[cst.BaseExpression, int | None]]:
        """What is assigned to a name or `self.` attribute as seen from where it stands."""
        place = self._place(expr)
        return self._bindings.get(place, []) if place is not None else []

    def _place(self, expr: cst.CSTNode) -> Place | None:
        """A name and where it lives as seen from where it stands; None for any other expression."""
        text = dotted(expr)
        if text is None:
            return None
        if text.startswith("self."):
            return self.owner(expr), text
        scope = self.scope(expr)
        while isinstance(scope, cst.FunctionDef) and (scope, text) not in self._bindings:
            if any(p.name.value == text for p in scope.params.params):
                break
            scope = self.scope(scope)
        return scope, text

    def origins(self, expr: cst.BaseExpression) -> list[cst.BaseExpression]:
        """The expressions that may have made this one; one that cannot be followed stands for itself."""
        return [e for e, made_here in self._trail(expr) if made_here]

    def calls_behind(self, expr: cst.BaseExpression) -> list[cst.Call]:
        """The calls of own functions that what this expression holds went through, and that which made it."""
        return [e for e, _ in self._trail(expr) if isinstance(e, cst.Call)]

    def methods_on(self, expr: cst.BaseExpression, part: str = "") -> set[str]:
        """The methods called on what a name holds, or on a part of it (`.encoder`), under whatever names the file's own
        functions know it."""
        place = self._place(expr)
        found: set[str] = set()
        for call in self.calls:
            if isinstance(call.func, cst.Attribute) and call.func.attr.value not in found:
                receiver = self._whole(call.func.value, part)
                if receiver is not None and place in self._names_behind(receiver):
                    found.add(call.func.attr.value)
        return found

    def same(self, one: cst.BaseExpression, other: cst.BaseExpression) -> bool:
        """Whether a name may hold what the other was made to hold, handed on to functions and back."""
        return self._place(other) in self._names_behind(one)

    @staticmethod
    def _whole(receiver: cst.BaseExpression, part: str) -> cst.BaseExpression | None:
        """`model` of `model.encoder`, given `.encoder`; a wrapper's `.module` is looked through."""
        for name in ("module", *(n for n in reversed(part.split(".")) if n)):
            if isinstance(receiver, cst.Attribute) and receiver.attr.value == name:
                receiver = receiver.value
            elif name != "module":
                return None
        return receiver

    def _names_behind(self, expr: cst.BaseExpression) -> set[Place]:
        """The names, each with the scope it lives in, that hold what this expression holds."""
        here = self._place(expr)
        if here is None or here not in self._known:
            places = {self._place(e) for e, _ in self._trail(expr, through=MOVES)}
            found = {place for place in places if place is not None}
            if here is None:  # a call or the like: each has names of its own behind it
                return found
            self._known[here] = found
        return self._known[here]

    def _trail(
        self, expr: cst.BaseExpression, through: tuple[str, ...] = ()
    ) -> Iterator[tuple[cst.BaseExpression, bool]]:
        """The expressions behind this one, itself first, each with whether it is made where it stands."""
        seen: set[tuple[cst.CSTNode, int | None]] = set()
        queue: list[tuple[cst.BaseExpression, int | None]] = [(expr, None)]
        while queue:
            current, position = queue.pop()
            while isinstance(current, cst.Call) and isinstance(current.func, cst.Attribute):
                if current.func.attr.value not in through:
                    break
                current = current.func.value
            if (current, position) in seen:
                continue
            seen.add((current, position))
            below = self._behind(current, position)
            yield current, below is None
            queue.extend(below or ())

    def _behind(
        self, expr: cst.BaseExpression, position: int | None
    ) -> list[tuple[cst.BaseExpression, int | None]] | None:
        """One step back from an expression, or None where it is made here."""
        if isinstance(expr, cst.IfExp):
            return [(expr.body, position), (expr.orelse, position)]
        if isinstance(expr, cst.Call):
            function = self.callee(expr)
            if function is None:
                return None
            returned = [n.value for n in walk_scope(function.body) if isinstance(n, cst.Return) and n.value is not None]
            if not returned:
                return None
            steps: list[tuple[cst.BaseExpression, int | None]] = []
            for value in returned:
                if position is not None and isinstance(value, cst.Tuple) and position < len(value.elements):
                    steps.append((value.elements[position].value, None))
                else:
                    steps.append((value, position))
            return steps
        if not isinstance(expr, (cst.Name, cst.Attribute)):
            return None
        bound = self.assigned(expr)
        if bound:
            steps = [(value, inner if inner is not None else position) for value, inner in bound]
            if any(expr is n for value, _ in bound for n in walk(value)):  # `loader = endless(loader)` of a parameter
                steps += self._from_callers(expr, position) or []
            return steps
        return self._from_callers(expr, position)

    def handed(self, parameter: cst.Name) -> list[cst.BaseExpression]:
        """What made the arguments that callers hand to a parameter; empty where they are not all known."""
        return [made for value, _ in self._from_callers(parameter, None) or () for made in self.origins(value)]

    def _from_callers(
        self, expr: cst.BaseExpression, position: int | None
    ) -> list[tuple[cst.BaseExpression, int | None]] | None:
        function = self.scope(expr)
        if isinstance(expr, cst.Name) and isinstance(function, cst.FunctionDef):
            sites = self.call_sites.get(function, [])
            handed = [self.passed(site, function, expr.value) for site in sites]
            if handed and all(value is not None for value in handed):
                return [(value, position) for value in handed if value is not None]
        return None

    # -- loops ------------------------------------------------------------------------------------------------------

    def is_backward(self, call: cst.Call) -> bool:
        """`loss.backward()` and its kin (`accelerator.backward(loss)`), not `super().backward` or an own function."""
        if not (isinstance(call.func, cst.Attribute) and call.func.attr.value == "backward"):
            return False
        return not isinstance(call.func.value, cst.Call) or dotted(call.func.value.func) != "super"

    def trains(self, node: cst.CSTNode) -> bool:
        """Whether running the node reaches a backward pass, in a file that has an optimizer."""
        if node in self._trains:
            return self._trains[node]
        self._trains[node] = False  # a recursive call adds nothing
        for inner in walk(node):
            if isinstance(inner, cst.Call) and self.optimises:
                function = self.callee(inner)
                if self.is_backward(inner) or (function is not None and self.trains(function)):
                    self._trains[node] = True
                    break
        return self._trains[node]

    def iterated(self, loop: Loop) -> cst.BaseExpression | None:
        """The iterable that a `for` walks over, `enumerate`, `tqdm` and the like taken off.

        A name given right before the loop is followed to what it wraps: `bar = tqdm(loader)`.
        """
        if not isinstance(loop, cst.For):
            return None
        expr = _unwrapped(loop.iter)
        if isinstance(expr, cst.Name) and (made := self._just_before(loop, expr.value)) is not None:
            inner = _unwrapped(made)
            return expr if inner is made else inner
        return expr

    def _just_before(self, loop: Loop, name: str) -> cst.BaseExpression | None:
        """What the name was last given by a statement in front of the loop, in the same block."""
        block = self.file.parent(loop)
        body = block.body if isinstance(block, (cst.IndentedBlock, cst.Module)) else ()
        found = None
        for statement in body:
            if statement is loop:
                break
            for node in walk_scope(statement):
                if isinstance(node, cst.Assign) and any(dotted(t.target) == name for t in node.targets):
                    found = node.value if isinstance(statement, cst.SimpleStatementLine) else None
        return found

    def training_loops(self) -> Iterator[cst.For | cst.While]:
        """The innermost loops that reach a backward pass by their own statements or calls."""
        for node in self.nodes:
            if isinstance(node, (cst.For, cst.While)) and self.trains(node.body):
                inner = (n for n in walk_scope(node.body) if isinstance(n, (cst.For, cst.While)))
                if not any(self.trains(n.body) for n in inner) and self._own_backward(node):
                    yield node

    def _own_backward(self, loop: Loop) -> bool:
        """Whether a backward is reached from the loop without entering a further loop of a callee."""
        for call in (n for n in walk_scope(loop.body) if isinstance(n, cst.Call)):
            if self.is_backward(call):
                return True
            function = self.callee(call)
            if function is not None and self.trains(function):
                loops = [n for n in walk_scope(function.body) if isinstance(n, (cst.For, cst.While))]
                if not any(self.trains(n.body) for n in loops):
                    return True
        return False

    def loops_around(self, node: cst.CSTNode) -> list[tuple[Loop, cst.CSTNode]]:
        """The nearest loops outside `node`, also in callers of its function, each with the node or call inside it."""
        found: list[tuple[Loop, cst.CSTNode]] = []
        queue, seen = [node], set()
        while queue:
            current = queue.pop()
            if current in seen:
                continue
            seen.add(current)
            for ancestor in self.file.ancestors(current):
                if isinstance(ancestor, (cst.For, cst.While)):
                    found.append((ancestor, current))
                    break
                if isinstance(ancestor, cst.FunctionDef):
                    queue.extend(self.call_sites.get(ancestor, []))
                    break
        return found


def _unwrapped(expr: cst.BaseExpression) -> cst.BaseExpression:
    while isinstance(expr, cst.Call) and expr.args and not expr.args[0].star:
        if (dotted(expr.func) or "").rpartition(".")[2] not in PASSES_ITEMS:
            break
        expr = expr.args[0].value
    return expr


def _script(sem: Semantics) -> Script:
    return Script(sem.file, sem.qualified)
