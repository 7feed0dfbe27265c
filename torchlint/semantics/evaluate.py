"""The evaluator: one pass over each function that finds what its expressions are and what its calls do.

It executes statements abstractly: names carry `Value`s, branches join, calls of the file's own functions are answered
by the callee's summary (its events and what it returns), everything else by the tables in `knowledge`. It never guesses
from spelling; where two readings remain it says UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import libcst as cst

from torchlint.nodes import dotted, literal, walk
from torchlint.semantics import expressions, knowledge
from torchlint.semantics.assigned import attribute_assigned
from torchlint.semantics.attempts import handle, meet
from torchlint.semantics.blocks import always, is_numbered, leaves, taken_apart, unwrap_iteration
from torchlint.semantics.dispatch import HANDLERS
from torchlint.semantics.effects import Effect, Event, GradMode, Guard, Replay
from torchlint.semantics.expressions import arithmetic, element_of, other, slice_value
from torchlint.semantics.frames import Frame, Summary
from torchlint.semantics.grad import decorated, disables, method_disables
from torchlint.semantics.kinds import UNKNOWN, Kind, Value, join, join_all
from torchlint.semantics.methods import enters_eval_mode
from torchlint.semantics.names import OWN, Function, Names
from torchlint.semantics.origins import annotation, collect_uses, initial_values, used
from torchlint.semantics.revision import Reads

BATCH = knowledge.BATCH
NUMBER = Value(Kind.NUMBER)
_MAX_DEPTH = 24


class Evaluator:
    """Evaluates every function of a module, and again those of which call sites or other methods taught more."""

    def __init__(self, names: Names, grad_disabling: Sequence[str] = (), loader_names: Sequence[str] = ()) -> None:
        self.names = names
        self.grad_disabling = set(grad_disabling)
        self.loader_names = set(loader_names)
        self.values: dict[cst.CSTNode, Value] = {}
        self.function_at: dict[cst.Call, Function] = {}
        self.summaries: dict[Function, Summary] = {}
        self.attributes: dict[tuple[str, str], Value] = {}  # (class, attribute) → value
        self.arguments: dict[tuple[Function, str], Value] = {}  # (function, parameter) → join over the call sites
        self.call_sites: dict[Function, list[Event]] = {}
        self.callbacks: dict[Function, list[tuple[str, cst.Call]]] = {}  # function → (callee, call) it is given to
        self.uses: dict[Function, dict[str, set[str]]] = {}
        self.class_uses: dict[str, dict[str, set[str]]] = {}
        self.by_use: dict[tuple[Function, str], Value] = {}  # (function, name) → what its uses say
        self._depth = 0
        self.collecting = True
        self.unknown_parameters: set[tuple[Function, str]] = set()
        self.missed: set[tuple[str, str]] = set()
        self.reads = Reads()
        self.frames: dict[Function, Frame] = {}
        self._owners: set[str] = set()  # names of which some frame knows an attribute
        collect_uses(self)

    # -- running ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._run_all()
        if self._learned():
            again = self.reads.outdated(self.attributes, self.arguments, self.names.functions.values())
            for function in again:
                self.summaries.pop(function, None)
            for sites in self.call_sites.values():
                sites[:] = [site for site in sites if site.function not in again]
            for handed in self.callbacks.values():
                handed[:] = [(name, call) for name, call in handed if self.function_at[call] not in again]
            self.collecting = False
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
        """Whether a second pass could know more: parameters got values, or attributes were read before they were
        set."""
        return any(
            self.arguments[key].kind is not Kind.UNKNOWN and key in self.unknown_parameters for key in self.arguments
        ) or (any(key in self.missed for key in self.attributes) or bool(self.reads.given_others(self.arguments)))

    def summary(self, function: Function) -> Summary:
        """The function's summary; an unfinished one (recursion) is empty so far."""
        self.reads.summary(function)
        found = self.summaries.get(function)
        if found is not None:
            return found
        summary = self.summaries[function] = Summary()
        if self._depth > _MAX_DEPTH:
            return summary
        self._depth += 1
        self.reads.running.append(function)
        try:
            grad = decorated(self, function)
            summary.grad = grad
            env = initial_values(self, function)
            frame = self.frames[function] = Frame(function, env, summary, grad)
            if isinstance(function.node, cst.Module):
                self._block(function.node.body, frame)
            else:
                self._suite(function.node.body, frame)
            summary.returns = join_all(frame.returns)
        finally:
            self._depth -= 1
            self.reads.running.pop()
        summary.done = True
        return summary

    # -- statements -------------------------------------------------------------------------------------------------

    def _suite(self, suite: cst.BaseSuite, frame: Frame) -> None:
        if isinstance(suite, cst.IndentedBlock):
            self._block(suite.body, frame)
        elif isinstance(suite, cst.SimpleStatementSuite):
            for small in suite.body:
                self._small(small, frame)

    def _block(self, body: Sequence[cst.CSTNode], frame: Frame) -> None:
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

    def _compound(self, node: cst.CSTNode, frame: Frame) -> None:
        if isinstance(node, cst.If):
            self._if(node, frame)
        elif isinstance(node, cst.For):
            self._for(node, frame)
        elif isinstance(node, cst.While):
            self.eval(node.test, frame)
            before = dict(frame.env)
            frame.loops = (*frame.loops, node)
            expressions.tested(self, node.test, frame)
            self._suite(node.body, frame)
            frame.loops = frame.loops[:-1]
            meet(frame, before)
            if node.orelse is not None:
                self._suite(node.orelse.body, frame)
        elif isinstance(node, cst.With):
            self._with(node, frame)
        elif isinstance(node, (cst.Try, cst.TryStar)):
            start = dict(frame.env)
            self._suite(node.body, frame)
            for handler in node.handlers:
                handle(frame, start, partial(self._suite, handler.body))
            for part in (node.orelse, node.finalbody):
                if part is not None:
                    self._suite(part.body, frame)
        elif isinstance(node, cst.Match):
            self.eval(node.subject, frame)
            for case in node.cases:
                before = dict(frame.env)
                self._suite(case.body, frame)
                meet(frame, before)
        elif isinstance(node, cst.ClassDef):
            for item in node.body.body:
                if isinstance(item, cst.SimpleStatementLine):
                    for small in item.body:
                        if isinstance(small, (cst.Assign, cst.AnnAssign)) and small.value is not None:
                            self.eval(small.value, frame)
        elif isinstance(node, cst.FunctionDef):
            function = self.names.function_of.get(node)
            if function is not None:
                frame.env[node.name.value] = Value(Kind.FUNCTION, function.own, node=node)

    def _if(self, node: cst.If, frame: Frame) -> None:
        self.eval(node.test, frame)
        expressions.tested(self, node.test, frame)
        if always(node):
            self._suite(node.body, frame)
            return
        before = dict(frame.env)
        guards = frame.guards
        depth = len(frame.loops)
        frame.guards = (*guards, Guard(node, True, depth))
        expressions.narrow(self, node.test, frame)
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
        merged = {**after_body, **other}
        for key, value in after_body.items():
            if (second := merged[key]) is not value:
                merged[key] = join(value, second)
        frame.env = merged

    def _for(self, node: cst.For, frame: Frame) -> None:
        iterated = self.eval(node.iter, frame)
        element = element_of(self, node.iter, iterated, frame)
        if element.kind is Kind.UNKNOWN and self._is_batch_target(node.target, frame, node.body):
            element = Value(Kind.TUPLE, items=(UNKNOWN, BATCH)) if is_numbered(node.target) else BATCH
            self._mark_loader(node.iter, frame)
        elif self._is_numbered_batch(node, element, frame):
            element = element.but(items=(NUMBER, BATCH))
            self._mark_loader(node.iter, frame)
        self.bind(node.target, element, frame, node.iter)
        before = dict(frame.env)
        frame.loops = (*frame.loops, node)
        self._suite(node.body, frame)
        frame.loops = frame.loops[:-1]
        meet(frame, before)
        if node.orelse is not None:
            self._suite(node.orelse.body, frame)

    def _mark_loader(self, iterated: cst.BaseExpression, frame: Frame) -> None:
        """A loop hands out things that are moved to a device as they come: the iterated thing feeds batches."""
        node = unwrap_iteration(iterated)
        if (known := self.values.get(node, UNKNOWN)).kind is Kind.UNKNOWN:
            value = Value(Kind.LOADER, known.origin, node=known.node, element=BATCH, evidence="used")
            self.values[node] = value
            if (key := dotted(node)) is not None:
                self.remember(frame, key, value)

    def _is_numbered_batch(self, node: cst.For, element: Value, frame: Frame) -> bool:
        """Whether `for i, (x, y) in enumerate(thing)` hands out things that are moved to a device as they come."""
        items, target = element.items, node.target
        return (
            items is not None
            and len(items) == 2
            and items[0] == NUMBER
            and items[1].kind is Kind.UNKNOWN
            and isinstance(target, cst.Tuple)
            and len(target.elements) == 2
            and self._is_batch_target(target.elements[1].value, frame, node.body)
        )

    def _is_batch_target(self, target: cst.CSTNode, frame: Frame, body: cst.BaseSuite) -> bool:
        """Whether what the loop binds, or what its body takes apart from that at once, is moved to a device."""
        names = {n.value for n in walk(target) if isinstance(n, cst.Name)}
        uses = self.uses.get(frame.function, {})
        return any(uses.get(n, set()) & {"cuda", "to"} for n in names | taken_apart(body, names))

    def _with(self, node: cst.With, frame: Frame) -> None:
        outer = frame.grad
        for item in node.items:
            value = self.eval(item.item, frame)
            if isinstance(item.item, cst.IfExp):  # `with nullcontext() if training else torch.no_grad():`
                for part in (item.item.body, item.item.orelse):
                    if isinstance(part, cst.Call):
                        frame.grad = frame.grad.or_off(disables(self, part.func, part, frame.function))
            call = item.item if isinstance(item.item, cst.Call) else None
            target = call.func if call is not None else item.item
            name = self.names.qualify(target, frame.function)
            if name in knowledge.GRAD_ON or (
                name in knowledge.GRAD_SET and call is not None and call.args and literal(call.args[0].value) is True
            ):
                frame.grad = GradMode()
            elif call is not None or name is not None:
                frame.grad = frame.grad.or_off(disables(self, target, call, frame.function))
                if name is None and isinstance(target, cst.Attribute):
                    if self.values.get(target, UNKNOWN).origin.startswith(OWN):
                        frame.grad = frame.grad.or_off(method_disables(self, target, frame))
            enters_eval_mode(self, call, name, frame)
            if item.asname is not None:
                self.bind(item.asname.name, value, frame, item.item)
        frame.scopes = (*frame.scopes, node)
        self._suite(node.body, frame)
        frame.scopes = frame.scopes[:-1]
        frame.grad = outer

    def _small(self, node: cst.CSTNode, frame: Frame) -> None:
        if isinstance(node, cst.Assign):
            value = self.eval(node.value, frame)
            for target in node.targets:
                self.bind(target.target, value, frame, node.value)
        elif isinstance(node, cst.AnnAssign):
            value = self.eval(node.value, frame) if node.value is not None else UNKNOWN
            if value.kind is Kind.UNKNOWN:
                value = annotation(self, node.annotation.annotation, frame.function)
            self.bind(node.target, value, frame, node.value or node.target)
        elif isinstance(node, cst.AugAssign):
            right = self.eval(node.value, frame)
            left = self.eval(node.target, frame)
            result = arithmetic(self, left, right, frame)
            if left.kind in (Kind.LIST, Kind.TUPLE) and right.kind is not Kind.TENSOR:
                result = left
            self.bind(node.target, result, frame, node.value)
        elif isinstance(node, cst.Expr):
            self.eval(node.value, frame)
        elif isinstance(node, cst.Return):
            frame.returns.append(self.eval(node.value, frame) if node.value is not None else Value(Kind.NONE))
        elif isinstance(node, cst.Assert):
            self.eval(node.test, frame)
            expressions.tested(self, node.test, frame)
        elif isinstance(node, cst.Raise) and node.exc is not None:
            self.eval(node.exc, frame)
        elif isinstance(node, cst.Del):
            pass

    def bind(self, target: cst.CSTNode, value: Value, frame: Frame, source: cst.CSTNode) -> None:
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
                self.bind(element.value, part, frame, source)
            return
        self.values[target] = value
        key = dotted(target)
        if key is None:
            if isinstance(target, cst.Subscript):
                base = self.eval(target.value, frame)
                for part_of in target.slice:
                    slice_value(self, part_of.slice, frame)
                name = dotted(target.value)
                if name is not None and base.kind in (Kind.DICT, Kind.LIST):
                    self.remember(frame, name, expressions.stored(base, value))
            elif isinstance(target, cst.Attribute):
                self.eval(target.value, frame)
                attribute_assigned(self, target, value, frame, source)
            return
        self.remember(frame, key, value)
        if key in self._owners:
            for known in [k for k in frame.env if k.startswith(key + ".")]:
                del frame.env[known]
        if isinstance(target, cst.Attribute):
            attribute_assigned(self, target, value, frame, source)
            cls = frame.function.cls
            if cls is not None and frame.self_name and key.startswith(frame.self_name + "."):
                attribute = (cls.qualname, key.partition(".")[2])
                old = self.attributes.get(attribute)
                if value.kind is Kind.UNKNOWN and old is None:
                    self.reads.left(attribute)
                    return
                if old is None or old == value:
                    self.attributes[attribute] = value
                elif not self.collecting and old.kind is value.kind and value.kind is Kind.MODULE:
                    pass  # wrapped: self.net = DataParallel(self.net)
                else:
                    self.attributes[attribute] = join(old, value)

    def remember(self, frame: Frame, key: str, value: Value) -> None:
        """Let a name or an attribute path have a value from here on."""
        frame.env[key] = value
        while "." in key:
            key = key.rpartition(".")[0]
            self._owners.add(key)

    # -- events -----------------------------------------------------------------------------------------------------

    def emit(self, effect: Effect, node: cst.CSTNode, frame: Frame, **more: object) -> None:
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

    def inline(self, callee: Function, call: cst.Call, frame: Frame, bound: dict[str, str]) -> None:
        """Replay the effects of one of the file's own functions at the place where it is called."""
        replay = Replay()
        for event in list(self.summary(callee).events):
            if event.effect in (Effect.SYNC, Effect.TRANSFER, Effect.PRINT):
                continue
            root, dot, rest = event.subject.partition(".")
            subject = bound[root] + dot + rest if root in bound else event.subject
            if not replay.adds(event, subject):
                continue
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
    def _emit_event(event: Event, frame: Frame) -> None:
        frame.summary.events.append(event)

    # -- expressions ------------------------------------------------------------------------------------------------

    def eval(self, node: cst.CSTNode | None, frame: Frame) -> Value:
        if node is None:
            return UNKNOWN
        handler = HANDLERS.get(node.__class__)
        value = handler(self, node, frame) if handler is not None else other(self, node, frame)
        self.values[node] = value
        return value

    def lookup(self, key: str, frame: Frame) -> Value:
        if key in ("True", "False"):
            return NUMBER
        if key == "None":
            return Value(Kind.NONE)
        if key in frame.env:
            value = frame.env[key]
            return value if value.kind is not Kind.UNKNOWN else self.recover(key, value, frame)
        scope = frame.function.parent
        root = key.partition(".")[0]
        if root not in frame.function.local or isinstance(frame.function.node, cst.Module):
            while scope is not None:
                outer = self.frames.get(scope)
                if outer is not None and key in outer.env:
                    value = outer.env[key]
                    return value if value.kind is not Kind.UNKNOWN else self.recover(key, value, frame)
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
        return self.recover(key, UNKNOWN, frame)

    def recover(self, key: str, value: Value, frame: Frame) -> Value:
        """A value of unknown making, judged by what is done with it."""
        by_use = used(self, frame.function, key)
        if by_use.kind is Kind.UNKNOWN:
            return value
        return by_use.but(graph=value.graph, origin=value.origin)
