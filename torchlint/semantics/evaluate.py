"""The evaluator: one pass over each function that finds what its expressions are and what its calls do.

It executes statements abstractly: names carry `Value`s, branches join, calls of the file's own functions are answered
by the callee's summary (its events and what it returns), everything else by the tables in `knowledge`. It never guesses
from spelling; where two readings remain it says UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.semantics import knowledge
from torchlint.semantics.effects import Effect, Event, GradMode, Guard
from torchlint.semantics.kinds import UNKNOWN, Graph, Kind, Value
from torchlint.semantics.names import OWN, Class, Function, Names, parameters
from torchlint.source import argument, dotted, literal, walk

NUMBER = Value(Kind.NUMBER)
TENSOR = Value(Kind.TENSOR)
DETACHED = Value(Kind.TENSOR, graph=Graph.DETACHED)
BATCH = knowledge.BATCH

_TRANSPARENT = frozenset(("enumerate", "zip", "reversed", "iter", "list", "tuple", "sorted", "islice", "cycle", "chain", "tqdm", "trange", "progress_bar", "prefetch", "track"))  # fmt: skip
_MAX_DEPTH = 24


def join(a: Value, b: Value) -> Value:
    """What is known when either may hold."""
    if a == b:
        return a
    if a.kind is Kind.NONE or (a.kind is Kind.NUMBER and b.is_tensor):
        return b
    if b.kind is Kind.NONE or (b.kind is Kind.NUMBER and a.is_tensor):
        return a
    if a.kind is not b.kind:
        if Kind.UNKNOWN in (a.kind, b.kind) and Graph.ATTACHED in (a.graph, b.graph):
            return Value(graph=Graph.UNKNOWN)
        return UNKNOWN
    return Value(
        a.kind,
        a.origin if a.origin == b.origin else "",
        a.graph if a.graph is b.graph else Graph.UNKNOWN,
        a.device if a.device == b.device else "",
        a.node if a.node is b.node else None,
        a.element if a.element == b.element else None,
        a.items if a.items == b.items else None,
        a.keys if a.keys == b.keys else None,
        a.evidence if a.evidence == b.evidence else "",
    )


def join_graph(values: Iterable[Value]) -> Graph:
    """The graph of a result made from these: attached if any is, detached if all are."""
    result = Graph.DETACHED
    for value in values:
        if value.graph is Graph.ATTACHED or value.kind is Kind.PARAMETER:
            return Graph.ATTACHED
        if value.graph is Graph.UNKNOWN and value.kind in (Kind.UNKNOWN, Kind.TENSOR, Kind.BATCH, Kind.OBJECT, Kind.TUPLE, Kind.LIST, Kind.DICT):
            result = Graph.UNKNOWN
    return result


@dataclass(eq=False)
class Summary:
    """What calling a function does and gives."""

    events: list[Event] = field(default_factory=list)
    returns: Value = UNKNOWN
    grad: GradMode = GradMode()  # of the function's body as its decorators set it
    done: bool = False


@dataclass
class _Frame:
    function: Function
    env: dict[str, Value]
    summary: Summary
    grad: GradMode
    loops: tuple[cst.For | cst.While, ...] = ()
    guards: tuple[Guard, ...] = ()
    scopes: tuple[cst.With, ...] = ()
    returns: list[Value] = field(default_factory=list)
    closures: dict[str, Value] | None = None

    @property
    def self_name(self) -> str:
        f = self.function
        return f.params[0] if f.is_method else ""


class Evaluator:
    """Evaluates every function of a module once (twice where call sites teach something about parameters)."""

    def __init__(self, names: Names, grad_disabling: Sequence[str] = (), loader_names: Sequence[str] = ()) -> None:
        self.names = names
        self.grad_disabling = set(grad_disabling)
        self.values: dict[cst.CSTNode, Value] = {}
        self.function_at: dict[cst.CSTNode, Function] = {}
        self.summaries: dict[Function, Summary] = {}
        self.attributes: dict[tuple[str, str], Value] = {}  # (class, attribute) → value
        self.arguments: dict[tuple[Function, str], Value] = {}  # (function, parameter) → join over the call sites
        self.call_sites: dict[Function, list[Event]] = {}
        self.callbacks: dict[Function, list[tuple[str, cst.Call]]] = {}  # function → (qualified callee, call) it is handed to
        self._uses: dict[Function, dict[str, set[str]]] = {}
        self._class_uses: dict[str, dict[str, set[str]]] = {}
        self._depth = 0
        self._collecting = True
        self._unknown_parameters: set[tuple[Function, str]] = set()
        self._missed: set[tuple[str, str]] = set()
        self._collect_uses()

    # -- running ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._run_all()
        if self._learned():
            self.values.clear()
            self.summaries.clear()
            self.call_sites.clear()
            self.callbacks.clear()
            self._collecting = False
            self._run_all()

    def _run_all(self) -> None:
        self.summary(self.names.module)
        for cls in self.names.classes.values():
            for name in ("__init__", "setup", "build", "on_fit_start"):
                if name in cls.methods:
                    self.summary(cls.methods[name])
        for function in self.names.functions.values():
            self.summary(function)

    def _learned(self) -> bool:
        """Whether a second pass could know more: parameters got values, or attributes were read before they were set."""
        return any(
            self.arguments[key].kind is not Kind.UNKNOWN and key in self._unknown_parameters for key in self.arguments
        ) or any(key in self._missed for key in self.attributes)

    def summary(self, function: Function) -> Summary:
        """The function's summary; an unfinished one (recursion) is empty so far."""
        found = self.summaries.get(function)
        if found is not None:
            return found
        summary = self.summaries[function] = Summary()
        if self._depth > _MAX_DEPTH:
            return summary
        self._depth += 1
        try:
            grad = self._decorated_grad(function)
            summary.grad = grad
            env = self._initial(function)
            frame = self._frames[function] = _Frame(function, env, summary, grad)
            if isinstance(function.node, cst.Module):
                self._block(function.node.body, frame)
            else:
                self._suite(function.node.body, frame)
            summary.returns = _join_all(frame.returns)
        finally:
            self._depth -= 1
        summary.done = True
        return summary

    # -- parameters and uses --------------------------------------------------------------------------------------

    def _collect_uses(self) -> None:
        self._frames: dict[Function, _Frame] = {}
        for function in [self.names.module, *self.names.functions.values()]:
            uses: dict[str, set[str]] = {}
            self._uses[function] = uses
            cls = function.cls
            body = function.node if isinstance(function.node, cst.Module) else function.node.body
            for node in walk(body, into=_not_a_definition):
                kind = node.__class__
                if kind is not cst.Attribute and kind is not cst.Call:
                    continue
                if isinstance(node, cst.Attribute):
                    base = dotted(node.value)
                    if base is not None:
                        uses.setdefault(base, set()).add(node.attr.value)
                        if cls is not None and function.params and base.startswith(function.params[0] + "."):
                            key = base.partition(".")[2]
                            self._class_uses.setdefault(cls.qualname, {}).setdefault(key, set()).add(node.attr.value)
                elif isinstance(node, cst.Call) and (base := dotted(node.func)) is not None:
                    uses.setdefault(base, set()).add("()")

    def _used_as(self, function: Function, key: str) -> Value:
        """What the methods called on a name say about it."""
        scope: Function | None = function
        attrs: set[str] = set()
        root = key.partition(".")[0]
        while scope is not None:
            attrs |= self._uses.get(scope, {}).get(key, set())
            if function.cls is not None and function.params and root == function.params[0] and "." in key:
                name = key.partition(".")[2]
                for cls in self.names.mro(function.cls):
                    attrs |= self._class_uses.get(cls.qualname, {}).get(name, set())
                break
            if root in scope.local:
                break
            scope = scope.parent
        return used_as(attrs)

    def _initial(self, function: Function) -> dict[str, Value]:
        env: dict[str, Value] = {}
        node = function.node
        if isinstance(node, cst.Module):
            return env
        for param in parameters(node):
            name = param.name.value
            value = UNKNOWN
            if param.annotation is not None:
                value = self._annotation(param.annotation.annotation, function)
            if param.star == "*":
                env[name] = Value(Kind.TUPLE, element=value)
                continue
            if param.star == "**":
                env[name] = Value(Kind.DICT, element=value)
                continue
            if value.kind is Kind.UNKNOWN:
                value = self.arguments.get((function, name), UNKNOWN)
                if value.kind is Kind.UNKNOWN:
                    self._unknown_parameters.add((function, name))
            if value.kind in (Kind.UNKNOWN, Kind.NONE) and param.default is not None:
                default = literal(param.default)
                if isinstance(default, (bool, int, float)):
                    value = NUMBER
                elif isinstance(default, str):
                    value = Value(Kind.STRING)
            if value.kind is Kind.UNKNOWN:
                value = self._used_as(function, name)
            env[name] = value
        if function.is_method and function.cls is not None:
            env[function.params[0]] = self._instance(function.cls)
        return env

    def _instance(self, cls: Class) -> Value:
        roots = self.names.roots(cls)
        if any(knowledge.MODULE_BASES.match(r) for r in roots):
            return Value(Kind.MODULE, cls.own)
        if any(knowledge.DATASET_BASES.match(r) for r in roots):
            return Value(Kind.DATASET, cls.own)
        if any(knowledge.OPTIMIZER_BASES.match(r) for r in roots):
            return Value(Kind.OPTIMIZER, cls.own)
        if "forward" in {m for c in self.names.mro(cls) for m in c.methods} and roots and not any(r.startswith("torch.autograd") for r in roots):
            return Value(Kind.MODULE, cls.own, evidence="used")
        return Value(Kind.OBJECT, cls.own)

    def _annotation(self, node: cst.BaseExpression, function: Function) -> Value:
        if isinstance(node, cst.SimpleString):
            text = node.evaluated_value
            name = self.names.qualify_text(text, function) if isinstance(text, str) and text.replace(".", "").isidentifier() else None
            return (knowledge.annotated(name) if name else None) or UNKNOWN
        if isinstance(node, cst.Subscript):
            head = dotted(node.value) or ""
            last = head.rpartition(".")[2]
            inner = [e.slice.value for e in node.slice if isinstance(e.slice, cst.Index)]
            if last == "Optional" and inner:
                return self._annotation(inner[0], function)
            if last in ("List", "list", "Sequence", "Iterable", "Tuple", "tuple") and inner:
                kind = Kind.TUPLE if last.lower() == "tuple" else Kind.LIST
                return Value(kind, element=self._annotation(inner[0], function), evidence="annotated")
            if last in ("Dict", "dict", "Mapping"):
                return Value(Kind.DICT, evidence="annotated")
            return self._annotation(node.value, function)
        if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.BitOr):
            left, right = self._annotation(node.left, function), self._annotation(node.right, function)
            return left if right.kind in (Kind.UNKNOWN, Kind.NONE) else right if left.kind is Kind.UNKNOWN else UNKNOWN
        name = self.names.qualify(node, function) or dotted(node)
        if name is None:
            return UNKNOWN
        if name.startswith(OWN) and (cls := self.names.classes.get(name.removeprefix(OWN))):
            return self._instance(cls).but(evidence="annotated")
        return knowledge.annotated(name) or UNKNOWN

    # -- grad mode --------------------------------------------------------------------------------------------------

    def _decorated_grad(self, function: Function) -> GradMode:
        mode = GradMode()
        if isinstance(function.node, cst.FunctionDef):
            for decorator in function.node.decorators:
                target = decorator.decorator
                call = target if isinstance(target, cst.Call) else None
                mode = mode.or_off(self._disables(call.func if call else target, call, function))
            if function.parent is not None and function.parent.parent is not None and function.cls is None:
                # A nested function runs wherever it is called; its text stands inside its parent's decorators.
                pass
        return mode

    def _disables(self, target: cst.BaseExpression, call: cst.Call | None, function: Function) -> GradMode:
        """The grad mode under a decorator or a with item."""
        name = self.names.qualify(target, function)
        if name is None:
            if isinstance(target, cst.Call):
                return self._disables(target.func, target, function)
            text = dotted(target) or ""
            if text.rpartition(".")[2] in ("no_grad", "inference_mode"):
                return GradMode(True)
            return GradMode()
        last = name.rpartition(".")[2]
        if name in knowledge.GRAD_OFF:
            if call is not None and name == "torch.inference_mode":
                mode = argument(call, "mode", 0)
                if mode is not None and literal(mode.value) is False:
                    return GradMode()
            return GradMode(True)
        if name in knowledge.GRAD_SET:
            mode = argument(call, "mode", 0) if call is not None else None
            return GradMode(mode is None or literal(mode.value) is not True)
        if name in self.grad_disabling or last in ("no_grad", "inference_mode", "no_grad_wrapper"):
            return GradMode(True)
        own = name.removeprefix(OWN)
        if name.startswith(OWN):
            if own in self.names.functions:
                return GradMode(self._body_disables(self.names.functions[own]))
            if own in self.names.classes:
                cls = self.names.classes[own]
                enter = self.names.method(cls, "__enter__") or self.names.method(cls, "__call__")
                return GradMode(enter is not None and self._body_disables(enter))
            return GradMode()
        if name.partition(".")[0] in _FOREIGN or name.startswith("torch."):
            return GradMode()
        return GradMode(unless=(Question("disables-grad", name),))

    def _body_disables(self, function: Function) -> bool:
        """Whether a decorator or context manager of this file turns recording off somewhere in its body."""
        for node in walk(function.node):
            if isinstance(node, (cst.Name, cst.Attribute)):
                name = self.names.qualify(node, function)
                if name in knowledge.GRAD_OFF or name in knowledge.GRAD_SET:
                    return True
        return False

    # -- statements -------------------------------------------------------------------------------------------------

    def _suite(self, suite: cst.BaseSuite, frame: _Frame) -> None:
        if isinstance(suite, cst.IndentedBlock):
            self._block(suite.body, frame)
        elif isinstance(suite, cst.SimpleStatementSuite):
            for small in suite.body:
                self._small(small, frame)

    def _block(self, body: Sequence[cst.CSTNode], frame: _Frame) -> None:
        guards = frame.guards
        for statement in body:
            if isinstance(statement, cst.SimpleStatementLine):
                for small in statement.body:
                    self._small(small, frame)
            else:
                self._compound(statement, frame)
                if isinstance(statement, cst.If) and statement.orelse is None and leaves(statement.body):
                    frame.guards = (*frame.guards, Guard(statement, False, len(frame.loops)))
        frame.guards = guards

    def _compound(self, node: cst.CSTNode, frame: _Frame) -> None:
        if isinstance(node, cst.If):
            self._if(node, frame)
        elif isinstance(node, cst.For):
            self._for(node, frame)
        elif isinstance(node, cst.While):
            self._eval(node.test, frame)
            before = dict(frame.env)
            frame.loops = (*frame.loops, node)
            self._suite(node.body, frame)
            frame.loops = frame.loops[:-1]
            self._merge(frame, before)
            if node.orelse is not None:
                self._suite(node.orelse.body, frame)
        elif isinstance(node, cst.With):
            self._with(node, frame)
        elif isinstance(node, (cst.Try, cst.TryStar)):
            self._suite(node.body, frame)
            for handler in node.handlers:
                before = dict(frame.env)
                self._suite(handler.body, frame)
                self._merge(frame, before)
            for part in (node.orelse, node.finalbody):
                if part is not None:
                    self._suite(part.body, frame)
        elif isinstance(node, cst.Match):
            self._eval(node.subject, frame)
            for case in node.cases:
                before = dict(frame.env)
                self._suite(case.body, frame)
                self._merge(frame, before)
        elif isinstance(node, cst.ClassDef):
            for item in node.body.body:
                if isinstance(item, cst.SimpleStatementLine):
                    for small in item.body:
                        if isinstance(small, (cst.Assign, cst.AnnAssign)) and small.value is not None:
                            self._eval(small.value, frame)
        elif isinstance(node, cst.FunctionDef):
            function = self.names.function_of.get(node)
            if function is not None:
                frame.env[node.name.value] = Value(Kind.FUNCTION, function.own, node=node)

    def _merge(self, frame: _Frame, before: dict[str, Value]) -> None:
        for key, value in before.items():
            now = frame.env.get(key, UNKNOWN)
            if now is not value:
                frame.env[key] = join(value, now)

    def _if(self, node: cst.If, frame: _Frame) -> None:
        self._eval(node.test, frame)
        before = dict(frame.env)
        guards = frame.guards
        depth = len(frame.loops)
        frame.guards = (*guards, Guard(node, True, depth))
        self._suite(node.body, frame)
        after_body = frame.env
        frame.env = dict(before)
        if node.orelse is not None:
            frame.guards = (*guards, Guard(node, False, depth))
            if isinstance(node.orelse, cst.If):
                self._if(node.orelse, frame)
            else:
                self._suite(node.orelse.body, frame)
        frame.guards = guards
        if leaves(node.body):
            return
        other = frame.env
        if node.orelse is not None and isinstance(node.orelse, cst.Else) and leaves(node.orelse.body):
            frame.env = after_body
            return
        merged = {}
        for key in after_body.keys() | other.keys():
            a, b = after_body.get(key), other.get(key)
            merged[key] = join(a, b) if a is not None and b is not None else (a or b or UNKNOWN)
        frame.env = merged

    def _for(self, node: cst.For, frame: _Frame) -> None:
        iterated = self._eval(node.iter, frame)
        element = self._element(node.iter, iterated, frame)
        if element.kind is Kind.UNKNOWN and self._is_batch_target(node.target, frame):
            element = BATCH
            self._mark_loader(node.iter, frame)
        self._bind(node.target, element, frame, node.iter)
        before = dict(frame.env)
        frame.loops = (*frame.loops, node)
        self._suite(node.body, frame)
        frame.loops = frame.loops[:-1]
        self._merge(frame, before)
        if node.orelse is not None:
            self._suite(node.orelse.body, frame)

    def _mark_loader(self, iterated: cst.BaseExpression, frame: _Frame) -> None:
        """A loop hands out things that are moved to a device as they come: the iterated thing feeds batches."""
        node = unwrap_iteration(iterated)
        if self.values.get(node, UNKNOWN).kind is Kind.UNKNOWN:
            value = Value(Kind.LOADER, element=BATCH, evidence="used")
            self.values[node] = value
            if (key := dotted(node)) is not None:
                frame.env[key] = value

    def _is_batch_target(self, target: cst.BaseAssignTargetExpression, frame: _Frame) -> bool:
        names = [n.value for n in walk(target) if isinstance(n, cst.Name)]
        return any(self._uses.get(frame.function, {}).get(n, set()) & {"cuda", "to"} for n in names)

    def _element(self, node: cst.BaseExpression, value: Value, frame: _Frame) -> Value:
        """What a `for` over this gives."""
        if isinstance(node, cst.Call):
            name = dotted(node.func) or ""
            last = name.rpartition(".")[2]
            args = [a.value for a in node.args if a.keyword is None and not a.star]
            if last == "enumerate" and args:
                inner = self._element(args[0], self.values.get(args[0], UNKNOWN), frame)
                return Value(Kind.TUPLE, items=(NUMBER, inner))
            if last == "zip":
                return Value(Kind.TUPLE, items=tuple(self._element(a, self.values.get(a, UNKNOWN), frame) for a in args))
            if last in _TRANSPARENT and args:
                return self._element(args[0], self.values.get(args[0], UNKNOWN), frame)
            if last in ("range", "trange"):
                return NUMBER
            if last == "items" and isinstance(node.func, cst.Attribute):
                base = self.values.get(node.func.value, UNKNOWN)
                return Value(Kind.TUPLE, items=(UNKNOWN, base.element or UNKNOWN))
            if last == "values" and isinstance(node.func, cst.Attribute):
                return self.values.get(node.func.value, UNKNOWN).element or UNKNOWN
        if value.kind is Kind.LOADER:
            return value.element or BATCH
        if value.is_tensor:
            return Value(Kind.TENSOR, graph=value.graph, device=value.device)
        if value.kind is Kind.BATCH:
            return value
        if value.kind is Kind.RANGE:
            return NUMBER
        if value.element is not None:
            return value.element
        if value.items:
            return _join_all(value.items)
        return UNKNOWN

    def _with(self, node: cst.With, frame: _Frame) -> None:
        outer = frame.grad
        for item in node.items:
            value = self._eval(item.item, frame)
            call = item.item if isinstance(item.item, cst.Call) else None
            target = call.func if call is not None else item.item
            name = self.names.qualify(target, frame.function)
            if name in knowledge.GRAD_ON or (
                name in knowledge.GRAD_SET and call is not None and call.args and literal(call.args[0].value) is True
            ):
                frame.grad = GradMode()
            elif call is not None or name is not None:
                frame.grad = frame.grad.or_off(self._disables(target, call, frame.function))
                if name is None and isinstance(target, cst.Attribute):
                    if self.values.get(target, UNKNOWN).origin.startswith(OWN):
                        frame.grad = frame.grad.or_off(self._method_disables(target, frame))
            if item.asname is not None:
                self._bind(item.asname.name, value, frame, item.item)
        frame.scopes = (*frame.scopes, node)
        self._suite(node.body, frame)
        frame.scopes = frame.scopes[:-1]
        frame.grad = outer

    def _method_disables(self, target: cst.Attribute, frame: _Frame) -> GradMode:
        function = self._own_callee(target, frame)
        return GradMode(function is not None and self._body_disables(function))

    def _small(self, node: cst.CSTNode, frame: _Frame) -> None:
        if isinstance(node, cst.Assign):
            value = self._eval(node.value, frame)
            for target in node.targets:
                self._bind(target.target, value, frame, node.value)
        elif isinstance(node, cst.AnnAssign):
            value = self._eval(node.value, frame) if node.value is not None else UNKNOWN
            if value.kind is Kind.UNKNOWN:
                value = self._annotation(node.annotation.annotation, frame.function)
            self._bind(node.target, value, frame, node.value or node.target)
        elif isinstance(node, cst.AugAssign):
            right = self._eval(node.value, frame)
            left = self._eval(node.target, frame)
            result = self._arithmetic(left, right, frame)
            if left.kind in (Kind.LIST, Kind.TUPLE) and right.kind is not Kind.TENSOR:
                result = left
            self._bind(node.target, result, frame, node.value)
        elif isinstance(node, cst.Expr):
            self._eval(node.value, frame)
        elif isinstance(node, cst.Return):
            frame.returns.append(self._eval(node.value, frame) if node.value is not None else Value(Kind.NONE))
        elif isinstance(node, cst.Assert):
            self._eval(node.test, frame)
        elif isinstance(node, cst.Raise) and node.exc is not None:
            self._eval(node.exc, frame)
        elif isinstance(node, cst.Del):
            pass

    def _bind(self, target: cst.CSTNode, value: Value, frame: _Frame, source: cst.CSTNode) -> None:
        if isinstance(target, (cst.Tuple, cst.List)):
            count = len(target.elements)
            for i, element in enumerate(target.elements):
                part = UNKNOWN
                if isinstance(element, cst.StarredElement):
                    part = Value(Kind.LIST)
                elif value.items is not None and len(value.items) == count:
                    part = value.items[i]
                elif value.kind is Kind.BATCH:
                    part = value
                elif value.is_tensor:
                    part = Value(Kind.TENSOR, graph=value.graph, device=value.device)
                elif value.element is not None:
                    part = value.element
                elif isinstance(source, (cst.Tuple, cst.List)) and len(source.elements) == count:
                    part = self.values.get(source.elements[i].value, UNKNOWN)
                self._bind(element.value, part, frame, source)
            return
        self.values[target] = value
        key = dotted(target)
        if key is None:
            if isinstance(target, cst.Subscript):
                base = self._eval(target.value, frame)
                for element in target.slice:
                    self._slice(element.slice, frame)
                name = dotted(target.value)
                if name is not None and base.kind in (Kind.DICT, Kind.LIST) and base.element is None:
                    frame.env[name] = base.but(element=value)
            elif isinstance(target, cst.Attribute):
                self._eval(target.value, frame)
                self._grad_assignment(target, value, frame)
            return
        frame.env[key] = value
        for known in [k for k in frame.env if k.startswith(key + ".")]:
            del frame.env[known]
        if isinstance(target, cst.Attribute):
            self._grad_assignment(target, value, frame)
            cls = frame.function.cls
            if cls is not None and frame.self_name and key.startswith(frame.self_name + "."):
                attribute = (cls.qualname, key.partition(".")[2])
                old = self.attributes.get(attribute)
                if value.kind is Kind.UNKNOWN and old is None:
                    return
                if old is None or old == value:
                    self.attributes[attribute] = value
                elif not self._collecting and old.kind is value.kind and value.kind is Kind.MODULE:
                    pass  # wrapped: self.net = DataParallel(self.net)
                else:
                    self.attributes[attribute] = join(old, value)

    def _grad_assignment(self, target: cst.Attribute, value: Value, frame: _Frame) -> None:
        if target.attr.value == "grad" and value.kind is Kind.NONE:
            self._emit(Effect.ZERO_GRAD, target, frame, subject="parameters")

    # -- events -----------------------------------------------------------------------------------------------------

    def _emit(self, effect: Effect, node: cst.CSTNode, frame: _Frame, **more: object) -> None:
        event = Event(
            effect,
            node,
            frame.function,
            loops=frame.loops,
            guards=frame.guards,
            grad=frame.grad,
            order=len(frame.summary.events),
            scopes=frame.scopes,
            **more,  # type: ignore[arg-type]
        )
        frame.summary.events.append(event)

    def _inline(self, callee: Function, call: cst.Call, frame: _Frame, bound: dict[str, str]) -> None:
        """Replay the effects of one of the file's own functions at the place where it is called."""
        seen: set[tuple[object, ...]] = set()
        for event in list(self.summary(callee).events):
            if event.effect in (Effect.SYNC, Effect.TRANSFER, Effect.PRINT):
                continue
            root, dot, rest = event.subject.partition(".")
            subject = bound[root] + dot + rest if root in bound else event.subject
            key = (event.effect, subject, event.guarded, bool(event.loops), event.target, event.grad.off)
            if key in seen:
                continue
            seen.add(key)
            self._emit_event(
                event.but(
                    node=call,
                    function=frame.function,
                    subject=subject,
                    loops=frame.loops,
                    guards=frame.guards,
                    grad=frame.grad.or_off(event.grad),
                    order=len(frame.summary.events),
                    via=event.via or callee,
                    origin=event.origin or event.node,
                    inner_loop=event.inner_loop or bool(event.loops),
                    inner_guards=event.guards + event.inner_guards,
                    scopes=frame.scopes,
                ),
                frame,
            )

    @staticmethod
    def _emit_event(event: Event, frame: _Frame) -> None:
        frame.summary.events.append(event)

    # -- expressions ------------------------------------------------------------------------------------------------

    def _eval(self, node: cst.CSTNode | None, frame: _Frame) -> Value:
        if node is None:
            return UNKNOWN
        handler = _HANDLERS.get(node.__class__)
        value = handler(self, node, frame) if handler is not None else self._other(node, frame)
        self.values[node] = value
        return value

    def _other(self, node: cst.CSTNode, frame: _Frame) -> Value:
        from torchlint.source import children

        for child in children(node):
            if isinstance(child, cst.BaseExpression):
                self._eval(child, frame)
            else:
                self._other(child, frame)
        return UNKNOWN

    def _name(self, node: cst.Name, frame: _Frame) -> Value:
        return self._lookup(node.value, frame)

    def _lookup(self, key: str, frame: _Frame) -> Value:
        if key in ("True", "False"):
            return NUMBER
        if key == "None":
            return Value(Kind.NONE)
        if key in frame.env:
            value = frame.env[key]
            return value if value.kind is not Kind.UNKNOWN else self._recover(key, value, frame)
        scope = frame.function.parent
        root = key.partition(".")[0]
        if root not in frame.function.local or isinstance(frame.function.node, cst.Module):
            while scope is not None:
                outer = self._frames.get(scope)
                if outer is not None and key in outer.env:
                    value = outer.env[key]
                    return value if value.kind is not Kind.UNKNOWN else self._recover(key, value, frame)
                if outer is not None and root in scope.local and scope.parent is not None:
                    break
                scope = scope.parent
        qualified = self.names.qualify_text(key, frame.function)
        if qualified is not None:
            own = qualified.removeprefix(OWN)
            if qualified.startswith(OWN) and own in self.names.classes:
                return Value(Kind.CLASS, qualified)
            if qualified.startswith(OWN) and own in self.names.functions:
                return Value(Kind.FUNCTION, qualified)
            return Value(Kind.UNKNOWN, qualified)
        return self._recover(key, UNKNOWN, frame)

    def _recover(self, key: str, value: Value, frame: _Frame) -> Value:
        """A value of unknown making, judged by what is done with it."""
        used = self._used_as(frame.function, key)
        if used.kind is Kind.UNKNOWN:
            return value
        return used.but(graph=value.graph, origin=value.origin)

    def _attribute(self, node: cst.Attribute, frame: _Frame) -> Value:
        return self.attribute_of(node, self._eval(node.value, frame), frame)

    def attribute_of(self, node: cst.Attribute, base: Value, frame: _Frame) -> Value:
        """The value of an attribute whose base has been evaluated."""
        key = dotted(node)
        attr = node.attr.value
        if key is not None and key in frame.env:
            value = frame.env[key]
            return value if value.kind is not Kind.UNKNOWN else self._recover(key, value, frame)
        if key is not None and frame.self_name and key.startswith(frame.self_name + "."):
            found = self._self_attribute(key.partition(".")[2], frame)
            if found is not None:
                return found
        if base.kind is Kind.MODULE and base.origin.startswith(OWN):
            if found := self._member(base.origin, attr):
                return found
        if base.is_tensor or base.kind is Kind.BATCH:
            return self._tensor_attribute(base, attr, node)
        if base.kind is Kind.MODULE:
            if attr == "module":
                return base
            if attr in ("weight", "bias"):
                return Value(Kind.PARAMETER, graph=Graph.ATTACHED)
            if attr in ("device",):
                return Value(Kind.DEVICE)
            return UNKNOWN
        if base.kind is Kind.OBJECT and base.origin.startswith(OWN):
            return self._member(base.origin, attr) or UNKNOWN
        if base.kind is Kind.LOADER and attr == "dataset":
            return Value(Kind.DATASET)
        if base.kind is Kind.LOADER and attr in ("sampler", "batch_sampler"):
            return Value(Kind.SAMPLER)
        if base.kind is Kind.NDARRAY:
            return Value(Kind.TUPLE, element=NUMBER) if attr == "shape" else NUMBER if attr in ("size", "ndim") else Value(Kind.NDARRAY)
        if key is not None:
            return self._lookup(key, frame)
        return UNKNOWN

    def _self_attribute(self, name: str, frame: _Frame) -> Value | None:
        cls = frame.function.cls
        while cls is None and frame.function.parent is not None and frame.function.parent.cls is not None:
            cls = frame.function.parent.cls
        if cls is None:
            return None
        for owner in self.names.mro(cls):
            if (value := self.attributes.get((owner.qualname, name))) is not None and value.kind is not Kind.UNKNOWN:
                return value
            self._missed.add((owner.qualname, name))
        if "." not in name and (method := self.names.method(cls, name)) is not None:
            if isinstance(method.node, cst.FunctionDef) and any(dotted(d.decorator) == "property" for d in method.node.decorators):
                return self.summary(method).returns
            return Value(Kind.FUNCTION, method.own, node=method.node)
        used = self._used_as(frame.function, f"{frame.self_name}.{name}") if frame.self_name else UNKNOWN
        return used if used.kind is not Kind.UNKNOWN else None

    def _member(self, origin: str, attr: str) -> Value | None:
        cls = self.names.classes.get(origin.removeprefix(OWN))
        if cls is None:
            return None
        for owner in self.names.mro(cls):
            if (value := self.attributes.get((owner.qualname, attr))) is not None:
                return value
            self._missed.add((owner.qualname, attr))
        method = self.names.method(cls, attr)
        return Value(Kind.FUNCTION, method.own, node=method.node) if method is not None else None

    def _tensor_attribute(self, base: Value, attr: str, node: cst.Attribute) -> Value:
        if attr == "shape":
            return Value(Kind.TUPLE, "shape", element=NUMBER) if base.is_tensor else UNKNOWN
        if attr in ("data", "grad"):
            return base.but(graph=Graph.DETACHED, kind=Kind.TENSOR, items=None, node=node)
        if attr in ("T", "mT", "H", "real", "imag"):
            return base
        if attr == "device":
            return Value(Kind.DEVICE)
        if attr in ("ndim", "requires_grad", "is_cuda", "is_leaf", "itemsize", "nbytes"):
            return NUMBER
        if base.kind is Kind.BATCH:
            return base
        return UNKNOWN

    def _call(self, node: cst.Call, frame: _Frame) -> Value:
        from torchlint.semantics.calls import evaluate_call

        return evaluate_call(self, node, frame)

    def _own_callee(self, func: cst.BaseExpression, frame: _Frame) -> Function | None:
        """The function of this file that a call expression reaches, if that is certain."""
        if isinstance(func, cst.Attribute):
            if isinstance(func.value, cst.Call) and dotted(func.value.func) == "super":
                cls = frame.function.cls
                if cls is not None:
                    for owner in list(self.names.mro(cls))[1:]:
                        if func.attr.value in owner.methods:
                            return owner.methods[func.attr.value]
                return None
            base = self.values.get(func.value) or self._eval(func.value, frame)
            if base.origin.startswith(OWN) and base.kind in (Kind.OBJECT, Kind.MODULE, Kind.DATASET, Kind.OPTIMIZER, Kind.CLASS):
                cls = self.names.classes.get(base.origin.removeprefix(OWN))
                if cls is not None and (method := self.names.method(cls, func.attr.value)) is not None:
                    return method
        value = self.values.get(func) or UNKNOWN
        if value.kind is Kind.FUNCTION and value.origin.startswith(OWN):
            return self.names.functions.get(value.origin.removeprefix(OWN))
        name = self.names.qualify(func, frame.function)
        if name is not None and name.startswith(OWN):
            return self.names.functions.get(name.removeprefix(OWN))
        return None

    def _subscript(self, node: cst.Subscript, frame: _Frame) -> Value:
        base = self._eval(node.value, frame)
        for element in node.slice:
            self._slice(element.slice, frame)
        if base.is_tensor:
            return Value(Kind.TENSOR, graph=base.graph, device=base.device)
        if base.kind is Kind.BATCH:
            return base
        index = node.slice[0].slice if len(node.slice) == 1 else None
        if isinstance(index, cst.Slice) and base.kind in (Kind.LIST, Kind.TUPLE):
            return base.but(items=None)
        if isinstance(index, cst.Index):
            key = literal(index.value)
            if base.items is not None:
                if base.keys is not None:
                    if key in base.keys:
                        return base.items[base.keys.index(key)]
                elif isinstance(key, int) and -len(base.items) <= key < len(base.items):
                    return base.items[key]
        if base.kind is Kind.NDARRAY:
            return Value(Kind.NDARRAY)
        if base.kind is Kind.DATASET:
            return BATCH
        if base.kind is Kind.MODULE:
            return Value(Kind.MODULE)
        return base.element or UNKNOWN

    def _slice(self, node: cst.CSTNode, frame: _Frame) -> None:
        if isinstance(node, cst.Index):
            self._eval(node.value, frame)
        elif isinstance(node, cst.Slice):
            for part in (node.lower, node.upper, node.step):
                if part is not None:
                    self._eval(part, frame)

    def _arithmetic(self, left: Value, right: Value, frame: _Frame) -> Value:
        kinds = (left.kind, right.kind)
        if left.is_tensor or right.is_tensor or Kind.BATCH in kinds:
            if Kind.NDARRAY in kinds:
                return UNKNOWN
            graph = Graph.DETACHED if frame.grad.off else join_graph((left, right))
            device = left.device if left.is_tensor and left.device == right.device else left.device or right.device
            return Value(Kind.TENSOR, graph=graph, device=device)
        if Kind.NDARRAY in kinds:
            return Value(Kind.NDARRAY)
        if left.kind is Kind.NUMBER and right.kind is Kind.NUMBER:
            return NUMBER
        if left.kind is right.kind and left.kind in (Kind.LIST, Kind.TUPLE, Kind.STRING):
            return left.but(items=None, element=left.element if left.element == right.element else None)
        return UNKNOWN

    def _binary(self, node: cst.BinaryOperation, frame: _Frame) -> Value:
        left = self._eval(node.left, frame)
        right = self._eval(node.right, frame)
        if left.kind is Kind.STRING and isinstance(node.operator, cst.Modulo):
            return Value(Kind.STRING)
        return self._arithmetic(left, right, frame)

    def _unary(self, node: cst.UnaryOperation, frame: _Frame) -> Value:
        value = self._eval(node.expression, frame)
        if isinstance(node.operator, cst.Not):
            return NUMBER
        return value.but(items=None, node=None) if value.kind in (Kind.TENSOR, Kind.NDARRAY, Kind.NUMBER) else UNKNOWN

    def _compare(self, node: cst.Comparison, frame: _Frame) -> Value:
        values = [self._eval(node.left, frame), *(self._eval(c.comparator, frame) for c in node.comparisons)]
        if len(node.comparisons) == 1 and not isinstance(node.comparisons[0].operator, (cst.Is, cst.IsNot, cst.In, cst.NotIn)):
            if any(v.is_tensor for v in values):
                return DETACHED
            if any(v.kind is Kind.NDARRAY for v in values):
                return Value(Kind.NDARRAY)
            if any(v.kind in (Kind.UNKNOWN, Kind.BATCH) for v in values):
                return Value(graph=Graph.DETACHED)
        return NUMBER

    def _boolean(self, node: cst.BooleanOperation, frame: _Frame) -> Value:
        return join(self._eval(node.left, frame), self._eval(node.right, frame))

    def _conditional(self, node: cst.IfExp, frame: _Frame) -> Value:
        self._eval(node.test, frame)
        return join(self._eval(node.body, frame), self._eval(node.orelse, frame))

    def _tuple(self, node: cst.Tuple | cst.List, frame: _Frame) -> Value:
        values = tuple(self._eval(e.value, frame) for e in node.elements)
        kind = Kind.TUPLE if isinstance(node, cst.Tuple) else Kind.LIST
        starred = any(isinstance(e, cst.StarredElement) for e in node.elements)
        element = _join_all(values) if values else None
        return Value(kind, graph=join_graph(values) if values else Graph.UNKNOWN, node=node, element=element, items=None if starred else values)

    def _dict(self, node: cst.Dict, frame: _Frame) -> Value:
        keys, values = [], []
        for element in node.elements:
            values.append(self._eval(element.value, frame))
            if isinstance(element, cst.DictElement):
                self._eval(element.key, frame)
                keys.append(literal(element.key))
            else:
                keys.append(...)
        whole = not any(k is ... for k in keys)
        return Value(
            Kind.DICT,
            node=node,
            element=_join_all(values) if values else None,
            items=tuple(values) if whole else None,
            keys=tuple(keys) if whole else None,
        )

    def _comprehension(self, node: cst.ListComp | cst.SetComp | cst.GeneratorExp | cst.DictComp, frame: _Frame) -> Value:
        saved = dict(frame.env)
        clause: cst.CompFor | None = node.for_in
        while clause is not None:
            iterated = self._eval(clause.iter, frame)
            self._bind(clause.target, self._element(clause.iter, iterated, frame), frame, clause.iter)
            for condition in clause.ifs:
                self._eval(condition.test, frame)
            clause = clause.inner_for_in
        if isinstance(node, cst.DictComp):
            self._eval(node.key, frame)
            element = self._eval(node.value, frame)
            kind = Kind.DICT
        else:
            element = self._eval(node.elt, frame)
            kind = {cst.ListComp: Kind.LIST, cst.SetComp: Kind.SET}.get(node.__class__, Kind.ITERATOR)
        frame.env = saved
        return Value(kind, graph=element.graph, node=node, element=element)

    def _lambda(self, node: cst.Lambda, frame: _Frame) -> Value:
        saved = dict(frame.env)
        for param in node.params.params:
            frame.env[param.name.value] = UNKNOWN
        quiet = _Frame(frame.function, frame.env, Summary(), frame.grad)
        self._eval(node.body, quiet)
        frame.env = saved
        return Value(Kind.FUNCTION, node=node)

    def _named(self, node: cst.NamedExpr, frame: _Frame) -> Value:
        value = self._eval(node.value, frame)
        self._bind(node.target, value, frame, node.value)
        return value

    def _await(self, node: cst.Await, frame: _Frame) -> Value:
        return self._eval(node.expression, frame)

    def _yield(self, node: cst.Yield, frame: _Frame) -> Value:
        value = node.value.item if isinstance(node.value, cst.From) else node.value
        self._eval(value, frame)
        return UNKNOWN

    def _number(self, node: cst.CSTNode, frame: _Frame) -> Value:
        return NUMBER

    def _string(self, node: cst.CSTNode, frame: _Frame) -> Value:
        if isinstance(node, cst.FormattedString):
            for part in node.parts:
                if isinstance(part, cst.FormattedStringExpression):
                    self._eval(part.expression, frame)
        return Value(Kind.STRING)


_HANDLERS = {
    cst.Name: Evaluator._name,
    cst.Attribute: Evaluator._attribute,
    cst.Call: Evaluator._call,
    cst.Subscript: Evaluator._subscript,
    cst.BinaryOperation: Evaluator._binary,
    cst.UnaryOperation: Evaluator._unary,
    cst.Comparison: Evaluator._compare,
    cst.BooleanOperation: Evaluator._boolean,
    cst.IfExp: Evaluator._conditional,
    cst.Tuple: Evaluator._tuple,
    cst.List: Evaluator._tuple,
    cst.Dict: Evaluator._dict,
    cst.ListComp: Evaluator._comprehension,
    cst.SetComp: Evaluator._comprehension,
    cst.GeneratorExp: Evaluator._comprehension,
    cst.DictComp: Evaluator._comprehension,
    cst.Lambda: Evaluator._lambda,
    cst.NamedExpr: Evaluator._named,
    cst.Await: Evaluator._await,
    cst.Yield: Evaluator._yield,
    cst.Integer: Evaluator._number,
    cst.Float: Evaluator._number,
    cst.Imaginary: Evaluator._number,
    cst.SimpleString: Evaluator._string,
    cst.ConcatenatedString: Evaluator._string,
    cst.FormattedString: Evaluator._string,
}

# Packages whose decorators and context managers are known to leave grad mode alone.
_FOREIGN = frozenset(
    """builtins functools contextlib typing dataclasses abc hydra click pytest unittest numba numpy tqdm wandb mlflow
    staticmethod classmethod property logging warnings threading multiprocessing time os sys pathlib io open tempfile
    zipfile tarfile h5py PIL cv2 matplotlib pandas tensorboardX line_profiler ray apex typer fire argparse rich beartype
    jaxtyping overrides tensorflow jax accelerate""".split()
)


def _join_all(values: Sequence[Value]) -> Value:
    if not values:
        return UNKNOWN
    result = values[0]
    for value in values[1:]:
        result = join(result, value)
    return result


def _not_a_definition(node: cst.CSTNode) -> bool:
    kind = node.__class__
    return kind is not cst.FunctionDef and kind is not cst.ClassDef


def leaves(suite: cst.BaseSuite) -> bool:
    """Whether the block always ends its iteration, function or program."""
    body = suite.body
    if not body:
        return False
    last: cst.CSTNode = body[-1]
    if isinstance(last, cst.SimpleStatementLine):
        last = last.body[-1]
    if isinstance(last, cst.Expr) and isinstance(last.value, cst.Call):
        return dotted(last.value.func) in ("sys.exit", "exit", "quit", "os._exit")
    return isinstance(last, (cst.Return, cst.Continue, cst.Break, cst.Raise))


def used_as(attrs: set[str]) -> Value:
    """The kind that a set of used attributes gives away, or UNKNOWN."""
    if not attrs:
        return UNKNOWN
    if "param_groups" in attrs or ("zero_grad" in attrs and "step" in attrs):
        return Value(Kind.OPTIMIZER, evidence="used")
    if {"scale", "step", "update"} <= attrs:
        return Value(Kind.SCALER, evidence="used")
    if attrs & {"parameters", "named_parameters", "named_modules", "modules", "children", "named_children", "requires_grad_"} or (
        attrs & {"eval", "train"} and attrs & {"()", "to", "cuda", "state_dict", "load_state_dict"}
    ) or {"()", "load_state_dict"} <= attrs:
        if "fit" not in attrs:
            return Value(Kind.MODULE, evidence="used")
    if attrs & {"batch_sampler", "collate_fn"} or ("dataset" in attrs and attrs & {"batch_size", "sampler"}):
        return Value(Kind.LOADER, element=BATCH, evidence="used")
    if attrs & knowledge.TENSOR_ONLY:
        return Value(Kind.TENSOR, evidence="used")
    return UNKNOWN


def unwrap_iteration(node: cst.BaseExpression) -> cst.BaseExpression:
    """`loader` out of `enumerate(tqdm(loader))`."""
    while isinstance(node, cst.Call) and node.args:
        name = (dotted(node.func) or "").rpartition(".")[2]
        if name not in _TRANSPARENT and name not in ("zip",):
            break
        node = node.args[0].value
    return node


def iter_events(summaries: Iterable[Summary]) -> Iterator[Event]:
    for summary in summaries:
        yield from summary.events
