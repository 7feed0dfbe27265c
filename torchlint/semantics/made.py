"""Where objects come from: the constructor calls that a name, an attribute or an item may hold the result of.

`Tracer.made` walks back over reaching definitions, own functions' returns, constructors' arguments and wrappers such as
`DataParallel(net).to(device)`. With `find` it also follows imports into other files of the project.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import argument, dotted, find, literal
from torchlint.semantics.calls import bind_arguments
from torchlint.semantics.kinds import Kind
from torchlint.semantics.names import OWN, Class, Function, parameters
from torchlint.semantics.reaching import Definition, Path, key_of

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

DEPTH = 14
_STEPS = 2000  # for one question; code in which the ways multiply is left unanswered
# Calls that give their first argument back, wrapped or changed in place.
_WRAPPERS = re.compile(
    r"(^|\.)(DataParallel|DistributedDataParallel|FullyShardedDataParallel|DDP|FSDP|compile|deepcopy|copy|prepare"
    r"|convert_sync_batchnorm|parallelize_module|fully_shard|replace_all_modules|GradSampleModule\w*|script|freeze"
    r"|prepare_model|clone_module|setup_module|to_device|cuda|weights_init|init_weights|init_net)$"
)
_KEEPING = frozenset(
    """to cuda cpu half float double bfloat16 train eval requires_grad_ apply share_memory type module xpu
    to_empty""".split()
)
_CONSTRUCTORS = ("__init__", "setup", "build", "_build", "_init_weights", "build_model", "configure_model")


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """An object by the call that makes it. `name` is the qualified callee, `cls` its class where a checked file has
    it; `scope` is where `node` stands."""

    name: str
    node: cst.Call | None = field(repr=False)
    scope: Scope = field(repr=False)
    sem: Semantics = field(repr=False)
    cls: Class | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """A function under way: on which object (`instance`) and with which arguments, where that is known."""

    sem: Semantics
    function: Function
    instance: Made | None = None
    bound: Mapping[str, tuple[cst.BaseExpression, Scope]] | None = None

    @property
    def cls(self) -> Class | None:
        if self.instance is not None and self.instance.cls is not None:
            return self.instance.cls
        function: Function | None = self.function
        while function is not None and function.cls is None:
            function = function.parent
        return function.cls if function is not None else None

    @property
    def self_name(self) -> str:
        function: Function | None = self.function
        while function is not None and not function.is_method:
            function = function.parent
        return function.params[0] if function is not None else ""


@dataclass(frozen=True, slots=True)
class Found:
    """A definition of another file."""

    sem: Semantics
    function: Function | None = None
    cls: Class | None = None


Display = cst.Dict | cst.List | cst.Tuple | cst.ListComp
Find = Callable[["Semantics", str], "Found | None"]
# The calls of a file's function (of its class, for `__init__`) in other files, each with the function it stands in.
Sites = Callable[["Semantics", Function], "Iterator[tuple[cst.Call, Scope]]"]


class Tracer:
    """Walks back from expressions. `find` resolves imported names of checked files, without it they stay names; `sites`
    finds what other files pass for parameters."""

    def __init__(self, find: Find | None = None, sites: Sites | None = None) -> None:
        self._find = find
        self._sites = sites
        self._steps = 0

    def may_go_on(self, depth: int) -> bool:
        """Whether a walk that is this deep may take one more step."""
        self._steps = self._steps + 1 if depth else 0
        return depth <= DEPTH and self._steps <= _STEPS

    def found(self, sem: Semantics, name: str) -> Found | None:
        """The function or class that a qualified name of that file stands for, also in another file."""
        own = name.removeprefix(OWN)
        if name.startswith(OWN):
            if own in sem.names.functions:
                return Found(sem, function=sem.names.functions[own])
            return Found(sem, cls=sem.names.classes[own]) if own in sem.names.classes else None
        if self._find is None or name.startswith(("torch.", "numpy.")):
            return None
        return self._find(sem, name)

    # -- definitions ------------------------------------------------------------------------------------------------

    def definitions(self, node: cst.BaseExpression, scope: Scope) -> list[tuple[Definition, Scope]]:
        """The definitions that reach a place, each with the scope in which its expression stands."""
        here = scope.sem.reaching(scope.function).uses.get(node)
        if here is not None:
            return [(d, scope) for d in here]
        key = key_of(node)
        if key is None:
            return []
        root = key.partition(".")[0].partition("[")[0]
        if root == scope.self_name and key != root:
            return self.attribute(key[len(root) + 1 :], scope) if key[len(root)] == "." else []
        outer = scope.function.parent if root not in scope.function.local else None
        while outer is not None:
            if every := scope.sem.reaching(outer).every.get(key):
                return [(d, Scope(scope.sem, outer, scope.instance)) for d in every]
            if root in outer.local and outer.parent is not None:
                break
            outer = outer.parent
        return []

    def attribute(self, name: str, scope: Scope) -> list[tuple[Definition, Scope]]:
        """What the attribute of an object may be: what its constructor leaves, and what other methods assign."""
        cls = scope.cls
        if cls is None:
            return []
        result: list[tuple[Definition, Scope]] = []
        for owner in scope.sem.names.mro(cls):
            for method in owner.methods.values():
                if not method.is_method or not isinstance(method.node, cst.FunctionDef):
                    continue
                key = f"{method.params[0]}.{name}"
                reaching = scope.sem.reaching(method)
                settled = method.name in _CONSTRUCTORS
                definitions = (reaching.final if settled else reaching.every).get(key, ())
                if definitions:
                    inside = Scope(scope.sem, method, scope.instance, self._constructor_arguments(method, scope))
                    result += [(d, inside) for d in definitions]
            if result:
                return result
            for line in owner.node.body.body:
                for small in line.body if isinstance(line, cst.SimpleStatementLine) else ():
                    if isinstance(small, cst.Assign) and any(dotted(t.target) == name for t in small.targets):
                        made = Definition("value", small.value, (), name, (), small)
                        return [(made, Scope(scope.sem, scope.sem.names.module))]
        return result

    def _constructor_arguments(
        self, method: Function, scope: Scope
    ) -> Mapping[str, tuple[cst.BaseExpression, Scope]] | None:
        made = scope.instance
        if made is None or made.node is None or method.name != "__init__":
            return None
        return self.bind(method, made.node, made.scope, bound_method=True)

    def bind(
        self, function: Function, call: cst.Call, scope: Scope, *, bound_method: bool
    ) -> Mapping[str, tuple[cst.BaseExpression, Scope]]:
        """Parameter → what the call passes for it (its default where nothing is passed)."""
        bound = {name: (a.value, scope) for name, a in bind_arguments(function, call, bound_method).items()}
        if isinstance(function.node, cst.FunctionDef) and not any(a.star for a in call.args):
            inner = Scope(scope.sem, function)
            for param in parameters(function.node):
                if param.default is not None:
                    bound.setdefault(param.name.value, (param.default, inner))
        return bound

    # -- objects ----------------------------------------------------------------------------------------------------

    def made(self, node: cst.BaseExpression | None, scope: Scope, path: Path = (), depth: int = 0) -> list[Made]:
        """The calls that may have made the object; [] where that cannot be told."""
        if node is None or not self.may_go_on(max(depth, 1)):
            return []
        if isinstance(node, cst.IfExp):
            return self.made(node.body, scope, path, depth + 1) + self.made(node.orelse, scope, path, depth + 1)
        if isinstance(node, cst.BooleanOperation):
            return self.made(node.left, scope, path, depth + 1) + self.made(node.right, scope, path, depth + 1)
        if isinstance(node, (cst.Tuple, cst.List)) and path and isinstance(path[0], int):
            if path[0] < len(node.elements):
                return self.made(node.elements[path[0]].value, scope, path[1:], depth + 1)
            return []
        if isinstance(node, cst.Call):
            return self._made_by_call(node, scope, path, depth)
        definitions = self.definitions(node, scope)
        if definitions:
            return self.made_by(definitions, path, depth)
        if isinstance(node, cst.Attribute):
            return self._made_member(node, scope, path, depth)
        if isinstance(node, cst.Subscript):
            return self._made_item(node, scope, path, depth)
        return []

    def made_by(self, definitions: list[tuple[Definition, Scope]], path: Path = (), depth: int = 0) -> list[Made]:
        result: list[Made] = []
        for definition, scope in definitions:
            if definition.kind == "value":
                result += self.made(definition.node, scope, (*definition.path, *path), depth + 1)
            elif definition.kind == "parameter":
                result += self._given(definition.name, scope, path, depth)
            elif definition.kind == "loop" and definition.node is not None and not (definition.path or path):
                for item, there in self.items(definition.node, scope, depth + 1):
                    result += self.made(item, there, (), depth + 1)
            elif definition.kind in ("grown", "changed"):
                result += self.made_by([(d, scope) for d in definition.before], path, depth + 1)
        return _distinct(result)

    def _given(self, name: str, scope: Scope, path: Path, depth: int) -> list[Made]:
        """What callers pass for a parameter."""
        if scope.bound is not None:
            given = scope.bound.get(name)
            return self.made(given[0], given[1], path, depth + 1) if given is not None else []
        result: list[Made] = []
        for expression, there in self.passed(name, scope):
            result += self.made(expression, there, path, depth + 1)
        if not result and isinstance(scope.function.node, cst.FunctionDef):
            for param in parameters(scope.function.node):
                if param.name.value == name and param.default is not None:
                    return self.made(param.default, scope, path, depth + 1)
        return result

    def passed(self, name: str, scope: Scope) -> Iterator[tuple[cst.BaseExpression, Scope]]:
        """The arguments that this file's calls of the function pass for a parameter."""
        function = scope.function
        for site in scope.sem.call_sites(function):
            call = site.node
            if not isinstance(call, cst.Call):
                continue
            bound_method = function.is_method and (isinstance(call.func, cst.Attribute) or function.name == "__init__")
            arg = bind_arguments(function, call, bound_method).get(name)
            if arg is not None and site.function is not function:
                yield arg.value, Scope(scope.sem, site.function)
        if self._sites is not None:
            for call, there in self._sites(scope.sem, function):
                by_object = function.is_method and (isinstance(call.func, cst.Attribute) or function.name == "__init__")
                arg = bind_arguments(function, call, by_object).get(name)
                if arg is not None:
                    yield arg.value, there
        for called, call in scope.sem.evaluator.callbacks.get(function, ()):  # mp.spawn(main, args=(world, model))
            given = argument(call, "args")
            if called.endswith("spawn") and given is not None and isinstance(given.value, cst.Tuple):
                position = function.params.index(name) - 1 if name in function.params else -1
                if 0 <= position < len(given.value.elements):
                    yield given.value.elements[position].value, Scope(scope.sem, scope.sem.function(call))

    def _made_by_call(self, node: cst.Call, scope: Scope, path: Path, depth: int) -> list[Made]:
        sem = scope.sem
        name = sem.names.qualify(node.func, scope.function)
        first = node.args[0].value if node.args and not node.args[0].star else None
        if name is None and isinstance(node.func, cst.Attribute) and node.func.attr.value in _KEEPING:
            return self.made(node.func.value, scope, path, depth + 1)
        called = name or dotted(node.func) or ""
        if first is not None and _WRAPPERS.search(called):
            position = path[0] if path and isinstance(path[0], int) and called.endswith("prepare") else 0
            if position < len(node.args):
                return self.made(node.args[position].value, scope, (), depth + 1)
        callee = sem.callee(node)
        if callee is not None and callee.name != "__init__":
            inside = Scope(sem, callee, None, self.bind(callee, node, scope, bound_method=callee.is_method))
            return self.returned(inside, path, depth)
        if name is None:
            return []
        found = self.found(sem, name)
        if found is not None and found.function is not None:
            inside = Scope(found.sem, found.function, None, self.bind(found.function, node, scope, bound_method=False))
            return self.returned(inside, path, depth)
        if found is not None and found.cls is not None:
            return [Made(name, node, scope, found.sem, found.cls)] if not path else []
        return [Made(name, node, scope, sem)] if not path else []

    def returned(self, scope: Scope, path: Path = (), depth: int = 0) -> list[Made]:
        """What the function gives back."""
        result: list[Made] = []
        for node in scope.sem.reaching(scope.function).returned:
            result += self.made(node, scope, path, depth + 1)
        return _distinct(result)

    def _made_member(self, node: cst.Attribute, scope: Scope, path: Path, depth: int) -> list[Made]:
        """`model.head`: an attribute of an object whose class is known; `ddp.module` is the object itself."""
        bases = self.made(node.value, scope, (), depth + 1)
        if not bases:
            return []
        if node.attr.value == "module":
            return bases
        result: list[Made] = []
        for base in bases:
            if base.cls is not None:
                inside = Scope(base.sem, base.sem.names.module, base)
                result += self.made_by(self.attribute(node.attr.value, inside), path, depth + 1)
        return _distinct(result)

    def _made_item(self, node: cst.Subscript, scope: Scope, path: Path, depth: int) -> list[Made]:
        """`losses["cls"]`, `nets[0]`: an item of a display; all of them where the index is no constant."""
        index = node.slice[0].slice
        key = literal(index.value) if isinstance(index, cst.Index) and len(node.slice) == 1 else ...
        result: list[Made] = []
        for display, there in self.displays(node.value, scope, depth + 1):
            if isinstance(display, cst.Dict) and key is not ...:
                pairs = [e for e in display.elements if isinstance(e, cst.DictElement)]
                chosen = [e.value for e in pairs if literal(e.key) == key]
            else:
                chosen = _elements(display)
                if isinstance(key, int) and -len(chosen) <= key < len(chosen) and not _is_comprehension(display):
                    chosen = [chosen[key]]
            for value in chosen:
                result += self.made(value, there, path, depth + 1)
        return _distinct(result)

    def items(self, node: cst.BaseExpression, scope: Scope, depth: int = 0) -> list[tuple[cst.BaseExpression, Scope]]:
        """The expressions that a loop over the thing may hand out: items of displays, and what was appended."""
        result = [(e, there) for display, there in self.displays(node, scope, depth) for e in _elements(display)]
        for definition, there in self.definitions(node, scope) if not isinstance(node, cst.Call) else ():
            while definition.kind == "grown" and definition.node is not None:
                result.append((definition.node, there))
                if len(definition.before) != 1:
                    break
                definition = definition.before[0]
        return result

    def displays(
        self, node: cst.BaseExpression, scope: Scope, depth: int, seen: set[cst.CSTNode] | None = None
    ) -> Iterator[tuple[Display, Scope]]:
        """The displays and comprehensions that a place may hold, looked for inside `nn.ModuleDict(…)`, too."""
        seen = set() if seen is None else seen
        if depth > DEPTH or node in seen:
            return  # where names are bound anew in loops, thousands of ways lead to the same display
        seen.add(node)
        if isinstance(node, (cst.Dict, cst.List, cst.Tuple, cst.ListComp)):
            yield node, scope
        elif isinstance(node, cst.Call) and len(node.args) == 1:
            name = scope.sem.names.qualify(node.func, scope.function) or dotted(node.func) or ""
            if name in ("torch.nn.ModuleDict", "torch.nn.ModuleList", "dict", "list", "tuple"):
                yield from self.displays(node.args[0].value, scope, depth + 1, seen)
        else:
            for definition, there in self.definitions(node, scope):
                if definition.kind == "value" and not definition.path and definition.node is not None:
                    yield from self.displays(definition.node, there, depth + 1, seen)

    # -- callees ----------------------------------------------------------------------------------------------------

    def names_of(self, node: cst.BaseExpression, scope: Scope, depth: int = 0) -> list[tuple[str, Semantics]]:
        """The qualified names that a place stands for, each as a file sees it: `loss_fn = utils.my_loss` gives the
        latter."""
        name = scope.sem.names.qualify(node, scope.function)
        if name is not None:
            return [(name, scope.sem)]
        if not isinstance(node, (cst.Name, cst.Attribute)) or not self.may_go_on(depth + 1):
            return []
        result: list[tuple[str, Semantics]] = []
        for definition, there in self.definitions(node, scope):
            if definition.kind == "value" and not definition.path and definition.node is not None:
                result += self.names_of(definition.node, there, depth + 1)
            elif definition.kind == "parameter":
                given = there.bound.get(definition.name) if there.bound is not None else None
                passed = [given] if given is not None else () if there.bound else self.passed(definition.name, there)
                for expression, outside in passed:
                    result += self.names_of(expression, outside, depth + 1)
        return result

    def object_called(self, call: cst.Call, scope: Scope) -> list[Made]:
        """The objects that the call may call: by their making, else by the kind that the evaluator gave the callee."""
        made = self.made(call.func, scope)
        if made:
            return made
        value = scope.sem.value(call.func)
        if value.kind in (Kind.MODULE, Kind.LOSS_FN, Kind.OBJECT) and value.origin:
            node = value.node if isinstance(value.node, cst.Call) else None
            found = self.found(scope.sem, value.origin)
            return [Made(value.origin, node, scope, scope.sem, found.cls if found is not None else None)]
        return []


def is_sequential(made: Made) -> bool:
    """Whether the object is an `nn.Sequential`, or one of a class derived from it that has no forward of its own."""
    if made.cls is None:
        return made.name == "torch.nn.Sequential"
    names = made.sem.names
    return "torch.nn.Sequential" in names.roots(made.cls) and names.method(made.cls, "forward") is None


def super_init(made: Made) -> tuple[cst.Call, Function] | None:
    """The `super().__init__(…)` call of a class's constructor."""
    init = made.sem.names.method(made.cls, "__init__") if made.cls is not None else None
    if init is None:
        return None
    for call in find(init.node, cst.Call):
        if isinstance(call.func, cst.Attribute) and call.func.attr.value == "__init__":
            if isinstance(call.func.value, cst.Call) and dotted(call.func.value.func) == "super":
                return call, init
    return None


def _elements(display: Display) -> list[cst.BaseExpression]:
    if isinstance(display, cst.ListComp):
        return [display.elt]
    return [e.value for e in display.elements if not isinstance(e, (cst.StarredElement, cst.StarredDictElement))]


def _is_comprehension(display: Display) -> bool:
    return isinstance(display, cst.ListComp)


def _distinct(objects: list[Made]) -> list[Made]:
    result: list[Made] = []
    for made in objects:
        if not any(made.node is known.node and made.name == known.name for known in result):
            result.append(made)
    return result
