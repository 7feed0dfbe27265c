"""What was applied last to a value: the softmax, sigmoid or anything else that an expression ends in.

`ends` walks back from an expression through assignments, branches, the file's own functions, Modules' `forward`,
`nn.Sequential` and layers that were appended to a list, and gives one `End` for each way that leads there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import libcst as cst

from torchlint.nodes import argument, dotted, literal
from torchlint.semantics.kinds import Kind
from torchlint.semantics.made import DEPTH, Made, Scope, Tracer, is_sequential, super_init
from torchlint.semantics.names import OWN, Function
from torchlint.semantics.reaching import Definition, Path

_F = "torch.nn.functional."
_FUNCTIONS = {
    "torch.softmax": "softmax",
    _F + "softmax": "softmax",
    "torch.special.softmax": "softmax",
    "torch.log_softmax": "log_softmax",
    _F + "log_softmax": "log_softmax",
    "torch.special.log_softmax": "log_softmax",
    "torch.sigmoid": "sigmoid",
    _F + "sigmoid": "sigmoid",
    "torch.special.expit": "sigmoid",
    _F + "logsigmoid": "log_sigmoid",
}
_LAYERS = {
    "torch.nn.Softmax": "softmax",
    "torch.nn.Softmax2d": "softmax",
    "torch.nn.LogSoftmax": "log_softmax",
    "torch.nn.Sigmoid": "sigmoid",
    "torch.nn.LogSigmoid": "log_sigmoid",
}
_METHODS = {
    "softmax": "softmax",
    "log_softmax": "log_softmax",
    "sigmoid": "sigmoid",
    "sigmoid_": "sigmoid",
}
# What moves the values about and keeps each of them.
_KEEPING = frozenset(
    """view reshape squeeze unsqueeze flatten contiguous permute transpose t float half double bfloat16 to cuda cpu
    clone type type_as swapaxes swapdims movedim expand unflatten squeeze_ unsqueeze_ view_as reshape_as
    ravel""".split()
)
_KEEPING_LAYERS = frozenset(("torch.nn.Identity", "torch.nn.Flatten", "torch.nn.Unflatten"))
_JOINING = frozenset(("torch.cat", "torch.concat", "torch.stack", "torch.hstack", "torch.vstack"))
# Models of libraries, and the attributes under which they have their last layers.
_BACKBONES = re.compile(r"^(torchvision\.models\.|timm\.|efficientnet_pytorch\.|pretrainedmodels\.|torch\.hub\.load$)")
_HEADS = re.compile(r"^(_?fc|classifier|head|heads|heads\.head|last_linear)(\[-?\d+\])?$")
ACTIVATIONS = frozenset(_METHODS.values()) | {"log_sigmoid"}


@dataclass(frozen=True, slots=True, eq=False)
class End:
    """One thing that may have been applied last.

    `kind`: an activation ("softmax", "log_softmax", "sigmoid", "log_sigmoid"), "parameter" (the value is a parameter of
    `scope.function`, `name` says which and `path` which item of it), or "other". `node`: the call that applies the
    activation, or the layer where it stands last in a Sequential (`layer`); `given`: what the call applies it to.
    """

    kind: str
    node: cst.BaseExpression | None = field(default=None, repr=False)
    scope: Scope | None = field(default=None, repr=False)
    layer: bool = False
    name: str = ""
    path: Path = ()
    given: cst.BaseExpression | None = field(default=None, repr=False)


_OTHER = End("other")


def same_activation(ends: Iterable[End]) -> str | None:
    """The activation in which all ways end, None where they differ or end in none."""
    kinds = {end.kind for end in ends}
    kind = kinds.pop() if len(kinds) == 1 else ""
    return kind if kind in ACTIVATIONS else None


class Outputs(Tracer):
    """A tracer that knows what is applied last."""

    def ends(self, node: cst.BaseExpression | None, scope: Scope, path: Path = (), depth: int = 0) -> list[End]:
        """What may have been applied last to the item of the expression at `path`."""
        if node is None or not self.may_go_on(depth):
            return [_OTHER]
        if isinstance(node, cst.Call):
            return self._call(node, scope, path, depth)
        if isinstance(node, cst.IfExp):
            ways = [self.ends(n, scope, path, depth + 1) for n in (node.body, node.orelse)]
            return [end for way in ways for end in way]
        if isinstance(node, cst.NamedExpr):
            return self.ends(node.value, scope, path, depth + 1)
        if isinstance(node, (cst.Tuple, cst.List, cst.Dict)):
            return self._item(node, scope, path, depth)
        if isinstance(node, cst.ListComp):
            return self.ends(node.elt, scope, path[1:], depth + 1) if path else [_OTHER]
        definitions = self.definitions(node, scope)
        stored = scope.sem.reaching(scope.function).items.get(node, {})
        if path and isinstance(node, cst.Name) and (known := stored.get(f"{node.value}[{path[0]!r}]")):
            return [end for d in known for end in self._defined(d, scope, path[1:], depth)]
        if definitions:
            return [end for d, there in definitions for end in self._defined(d, there, path, depth)]
        if isinstance(node, cst.Subscript):
            index = node.slice[0].slice
            key = literal(index.value) if isinstance(index, cst.Index) and len(node.slice) == 1 else ...
            deeper: Path = (key, *path) if isinstance(key, (int, str)) else path
            return self.ends(node.value, scope, deeper, depth + 1)
        if isinstance(node, cst.Attribute) and dotted(node.value) != scope.self_name:
            return self.ends(node.value, scope, (node.attr.value, *path), depth + 1)
        return [_OTHER]

    def _defined(self, definition: Definition, scope: Scope, path: Path, depth: int) -> list[End]:
        if definition.kind == "value":
            return self.ends(definition.node, scope, (*definition.path, *path), depth + 1)
        if definition.kind == "parameter":
            if scope.bound is None:
                return [End("parameter", None, scope, False, definition.name, path)]
            given = scope.bound.get(definition.name)
            if given is not None:
                return self.ends(given[0], given[1], path, depth + 1)
        if definition.kind == "loop" and definition.node is not None:
            return self._turn(definition.node, scope, (*definition.path, *path), depth)
        if definition.kind == "changed" and path and isinstance(definition.statement, cst.Assign):
            return self._stored(definition, scope, path, depth)
        return [_OTHER]

    def _turn(self, iterated: cst.BaseExpression, scope: Scope, path: Path, depth: int) -> list[End]:
        """What a loop over this hands out in each turn."""
        while isinstance(iterated, cst.Call) and iterated.args:
            called = (dotted(iterated.func) or "").rpartition(".")[2]
            if called == "enumerate" and path[:1] == (1,):
                iterated, path = iterated.args[0].value, path[1:]
            elif called == "zip" and path and isinstance(path[0], int) and path[0] < len(iterated.args):
                iterated, path = iterated.args[path[0]].value, path[1:]
            elif called in ("enumerate", "zip", "range"):
                return [_OTHER]
            elif called in ("tqdm", "reversed", "list"):
                iterated = iterated.args[0].value
            else:
                break
        if isinstance(iterated, (cst.List, cst.Tuple)):
            ways = [self.ends(e.value, scope, path, depth + 1) for e in iterated.elements]
            return [end for way in ways for end in way] or [_OTHER]
        return self.ends(iterated, scope, (0, *path), depth + 1)

    def _stored(self, definition: Definition, scope: Scope, path: Path, depth: int) -> list[End]:
        """A store under an unknown key leaves the item as it was, or replaces it."""
        before = [end for d in definition.before for end in self._defined(d, scope, path, depth + 1)]
        return before + self.ends(definition.node, scope, path[1:], depth + 1)

    def _item(self, node: cst.Tuple | cst.List | cst.Dict, scope: Scope, path: Path, depth: int) -> list[End]:
        """The item of a display; of several items where the path ends, none is meant."""
        if not path:
            return [_OTHER]
        if isinstance(node, cst.Dict):
            for element in node.elements:
                if isinstance(element, cst.DictElement) and literal(element.key) == path[0]:
                    return self.ends(element.value, scope, path[1:], depth + 1)
        elif isinstance(path[0], int) and -len(node.elements) <= path[0] < len(node.elements):
            if not any(isinstance(e, cst.StarredElement) for e in node.elements):
                return self.ends(node.elements[path[0]].value, scope, path[1:], depth + 1)
        return [_OTHER]

    # -- calls ------------------------------------------------------------------------------------------------------

    def _call(self, node: cst.Call, scope: Scope, path: Path, depth: int) -> list[End]:
        sem, func = scope.sem, node.func
        name = sem.names.qualify(func, scope.function)
        first = argument(node, "input", 0)
        if name in _FUNCTIONS:
            if first is None or not _is_row(path):
                return [_OTHER]
            return [End(_FUNCTIONS[name], node, scope, given=first.value)]
        if name is not None and name.startswith("torch.") and first is not None:
            if name in _JOINING and isinstance(node.args[0].value, (cst.List, cst.Tuple)):
                parts = [self.ends(e.value, scope, (), depth + 1) for e in node.args[0].value.elements]
                return [end for part in parts for end in part] or [_OTHER]
            if name.rpartition(".")[2] in _KEEPING and name.count(".") == 1:
                return self.ends(first.value, scope, path, depth + 1)
        own = self._own(node, name, scope)
        if own is not None:
            inside, returning = own
            return self.returned_ends(inside, returning, path, depth)
        if name is None and isinstance(func, cst.Attribute):
            attr = func.attr.value
            if attr in _KEEPING and not self._is_object(func.value, scope):
                return self.ends(func.value, scope, path, depth + 1)
            if attr in _METHODS and not self._is_object(func.value, scope):
                return [End(_METHODS[attr], node, scope, given=func.value)] if _is_row(path) else [_OTHER]
        if name is not None and (name.startswith(("numpy.", _F)) or name.count(".") == 0):
            return [_OTHER]
        modules = self.object_called(node, scope)
        if modules:
            ways = [self._applied(made, node, scope, path, depth) for made in modules]
            if len(ways) > 1 and all(made.cls is not None for made in modules):
                return next((way for way in ways if same_activation(way)), ways[0])
            return [end for way in ways for end in way]
        if path and isinstance(path[0], str) and (kept := argument(node, path[0])) is not None:
            return self.ends(kept.value, scope, path[1:], depth + 1)  # an output class: Output(logits=…).logits
        return [_OTHER]

    def _is_object(self, node: cst.BaseExpression, scope: Scope) -> bool:
        """Whether what a method is called on is no tensor: self, a module, numpy."""
        if dotted(node) == scope.self_name:
            return True
        value = scope.sem.value(node)
        return value.kind not in (Kind.TENSOR, Kind.BATCH, Kind.UNKNOWN, Kind.PARAMETER, Kind.NONE)

    def _own(self, node: cst.Call, name: str | None, scope: Scope) -> tuple[Scope, Function] | None:
        """The function that the call runs, ready to be looked into: own, a method of an object, or another file's."""
        sem, func = scope.sem, node.func
        if isinstance(func, cst.Attribute) and dotted(func.value) == scope.self_name and scope.cls is not None:
            method = sem.names.method(scope.cls, func.attr.value)
            if method is not None:
                bound = self.bind(method, node, scope, bound_method=method.is_method)
                return Scope(sem, method, scope.instance, bound), method
            return None
        callee = sem.callee(node)
        if callee is not None and callee.name != "__init__":
            instance = None
            if callee.is_method and isinstance(func, cst.Attribute):
                instance = next(iter(self.made(func.value, scope)), None)
            bound = self.bind(callee, node, scope, bound_method=callee.is_method)
            return Scope(sem, callee, instance, bound), callee
        for called, seen_from in self.names_of(func, scope):
            found = self.found(seen_from, called)
            if found is not None and found.function is not None:
                bound = self.bind(found.function, node, scope, bound_method=False)
                return Scope(found.sem, found.function, None, bound), found.function
        if name is None and isinstance(func, cst.Attribute):
            for made in self.made(func.value, scope):
                method = made.sem.names.method(made.cls, func.attr.value) if made.cls is not None else None
                if method is not None:
                    bound = self.bind(method, node, scope, bound_method=method.is_method)
                    return Scope(made.sem, method, made, bound), method
        return None

    def returned_ends(self, scope: Scope, function: Function, path: Path = (), depth: int = 0) -> list[End]:
        """In what the function's result ends."""
        returned = [r for r in scope.sem.reaching(function).returned if r is not None and dotted(r) != "None"]
        return [end for r in returned for end in self.ends(r, scope, path, depth + 1)] or [_OTHER]

    # -- modules ----------------------------------------------------------------------------------------------------

    def _applied(self, made: Made, call: cst.Call, scope: Scope, path: Path, depth: int) -> list[End]:
        """What a call of that module ends in."""
        if made.name in _LAYERS and call.args and _is_row(path):
            return [End(_LAYERS[made.name], call, scope, given=call.args[0].value)]
        if made.name in _KEEPING_LAYERS and call.args:
            return self.ends(call.args[0].value, scope, path, depth + 1)
        return self.module_ends(made, path, depth + 1, call, scope)

    def module_ends(
        self,
        made: Made,
        path: Path = (),
        depth: int = 0,
        call: cst.Call | None = None,
        scope: Scope | None = None,
    ) -> list[End]:
        """In what the module's output ends; `call` and `scope` say with which arguments it is called."""
        if depth > DEPTH:
            return [_OTHER]
        if is_sequential(made):
            layers, there = made.node, made.scope
            if made.cls is not None:
                given = super_init(made)
                if given is None:
                    return [_OTHER]
                layers, there = given[0], Scope(made.sem, given[1], made)
            return self._last_of(layers, there, path, depth) if layers is not None else [_OTHER]
        forward = made.sem.names.method(made.cls, "forward") if made.cls is not None else None
        if forward is None:
            return self._head(made, depth) if made.cls is None and _is_row(path) else [_OTHER]
        bound = None
        if call is not None and scope is not None:
            bound = self.bind(forward, call, scope, bound_method=True)
        return self.returned_ends(Scope(made.sem, forward, made, bound), forward, path, depth)

    def _head(self, made: Made, depth: int) -> list[End]:
        """The head that was put on a library's model: `net = resnet18(); net.fc = nn.Sequential(…)`."""
        if made.node is None or not _BACKBONES.match(made.name):
            return [_OTHER]
        reaching = made.scope.sem.reaching(made.scope.function)
        names = [key for key, known in reaching.every.items() if any(d.node is made.node for d in known)]
        ways = []
        for key, known in reaching.every.items():
            if any(key.startswith(name + ".") and _HEADS.match(key[len(name) + 1 :]) for name in names):
                ways += [self._layer(d.node, made.scope, depth) for d in known if d.node is not None]
        return [end for way in ways for end in way] or [_OTHER]

    def _last_of(self, sequential: cst.Call, scope: Scope, path: Path, depth: int) -> list[End]:
        if not sequential.args or not _is_row(path):
            return [_OTHER]
        later = self._added_later(sequential, scope)
        if later:
            return [end for layer in later for end in self._layer(layer, scope, depth)]
        last = sequential.args[-1]
        if last.star == "*" or isinstance(last.value, (cst.Dict, cst.ListComp)) or len(sequential.args) == 1:
            tails = self._tail(last.value, scope, depth + 1)
            if tails or last.star:
                ways = [self._layer(node, there, depth) for node, there in tails]
                return [end for way in ways for end in way] or [_OTHER]
        return self._layer(last.value, scope, depth)

    def _added_later(self, sequential: cst.Call, scope: Scope) -> list[cst.BaseExpression]:
        """The modules that `net.add_module(name, m)` or `net.append(m)` puts behind the others."""
        env = scope.sem.reaching(scope.function).final
        for definitions in env.values():
            for d in definitions:
                if d.kind == "grown" and _starts_as(d, sequential) and d.node is not None:
                    return [g.node for g in definitions if g.kind == "grown" and g.node is not None]
        return []

    def _tail(self, node: cst.BaseExpression, scope: Scope, depth: int) -> list[tuple[cst.BaseExpression, Scope]]:
        """What may stand last in a list of layers."""
        if depth > DEPTH:
            return []
        if isinstance(node, (cst.List, cst.Tuple)):
            if not node.elements:
                return []
            last = node.elements[-1]
            if isinstance(last, cst.StarredElement):
                return self._tail(last.value, scope, depth + 1)
            if isinstance(last.value, cst.Tuple) and len(last.value.elements) == 2:  # OrderedDict's pairs
                return [(last.value.elements[1].value, scope)]
            return [(last.value, scope)]
        if isinstance(node, cst.Dict):
            last_pair = node.elements[-1] if node.elements else None
            return [(last_pair.value, scope)] if isinstance(last_pair, cst.DictElement) else []
        if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Add):
            return self._tail(node.right, scope, depth + 1)
        if isinstance(node, cst.Call):
            called = (dotted(node.func) or "").rpartition(".")[2]
            if called in ("OrderedDict", "list", "tuple", "ModuleList") and len(node.args) == 1:
                return self._tail(node.args[0].value, scope, depth + 1)
            own = self._own(node, scope.sem.names.qualify(node.func, scope.function), scope)
            if own is None:
                return []
            ways = [self._tail(r, own[0], depth + 1) for r in own[0].sem.reaching(own[1]).returned if r is not None]
            return [tail for way in ways for tail in way] if all(ways) else []
        result: list[tuple[cst.BaseExpression, Scope]] = []
        for definition, there in self.definitions(node, scope):
            tails: list[tuple[cst.BaseExpression, Scope]] = []
            if definition.kind == "grown" and definition.node is not None:
                tails = [(definition.node, there)]
            elif definition.kind == "value" and not definition.path and definition.node is not None:
                tails = self._tail(definition.node, there, depth + 1)
            elif definition.kind == "changed" and definition.node is not None:  # layers += [...]
                if isinstance(definition.statement, cst.AugAssign) or _is_extend(definition.node):
                    added = definition.node
                    added = added.args[0].value if isinstance(added, cst.Call) and _is_extend(added) else added
                    tails = self._tail(added, there, depth + 1)
            if not tails:
                return []
            result += tails
        return result

    def _layer(self, node: cst.BaseExpression, scope: Scope, depth: int) -> list[End]:
        """In what a layer that stands last in a Sequential ends."""
        objects = self.made(node, scope)
        result: list[End] = []
        for made in objects:
            if made.name in _LAYERS:
                result.append(End(_LAYERS[made.name], node, scope, layer=True))
            else:
                result += self.module_ends(made, (), depth + 1)
        return result or [_OTHER]


def _is_row(path: Path) -> bool:
    """Whether the item at the path is still a part of one tensor: rows are taken by number, never by name."""
    return all(isinstance(item, int) for item in path)


def _starts_as(definition: Definition, call: cst.Call) -> bool:
    return definition.node is call or any(_starts_as(d, call) for d in definition.before)


def _is_extend(node: cst.CSTNode | None) -> bool:
    return (
        isinstance(node, cst.Call)
        and isinstance(node.func, cst.Attribute)
        and node.func.attr.value == "extend"
        and len(node.args) == 1
    )


def owner(end: End) -> str:
    """The class (`~.Net`) in whose code the activation stands, or ""."""
    if end.scope is None or end.scope.cls is None:
        return ""
    for cls in end.scope.sem.names.mro(end.scope.cls):
        if any(m is end.scope.function for m in cls.methods.values()):
            return OWN + cls.qualname
    return end.scope.cls.own
