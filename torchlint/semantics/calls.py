"""What a call gives and does: the evaluator's cases for constructors, torch functions, methods and own functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import argument, dotted, literal
from torchlint.semantics import knowledge
from torchlint.semantics.effects import Effect, Event, GradMode
from torchlint.semantics.expressions import attribute_of, own_callee
from torchlint.semantics.frames import Frame
from torchlint.semantics.kinds import UNKNOWN, Graph, Kind, Value, join, join_graph
from torchlint.semantics.methods import device_text, evaluate_method, gives_parameters, parameters_of
from torchlint.semantics.names import OWN, Class, Function
from torchlint.semantics.origins import instance
from torchlint.spelling import spelled

if TYPE_CHECKING:
    from torchlint.semantics.evaluate import Evaluator

NUMBER = Value(Kind.NUMBER)
_TENSORISH = (Kind.TENSOR, Kind.PARAMETER, Kind.BATCH)
_WRAPPERS = frozenset(
    (
        "DataParallel",
        "DistributedDataParallel",
        "FullyShardedDataParallel",
        "DDP",
        "compile",
        "convert_sync_batchnorm",
        "script",
        "trace",
        "convert_model",
        "auto_model",
        "fully_shard",
    )
)


def evaluate_call(ev: Evaluator, node: cst.Call, frame: Frame) -> Value:
    """The value of a call; its effects are put into the frame's summary in the order in which they happen."""
    func = node.func
    receiver = UNKNOWN
    if isinstance(func, cst.Attribute):
        receiver = ev.eval(func.value, frame)
        callee = ev.values[func] = attribute_of(ev, func, receiver, frame)
    else:
        callee = ev.eval(func, frame)
    if callee.kind is Kind.UNKNOWN and callee.origin == "torch.load" and isinstance(callee.node, cst.Call):
        callee = callee.but(kind=Kind.MODULE, evidence="used")  # what was saved whole, and can be called
    args = [ev.eval(a.value, frame) for a in node.args]
    ev.function_at[node] = frame.function

    own = own_callee(ev, func, frame)
    name = ev.names.qualify(func, frame.function)
    _closures(ev, node, args, name, frame)
    if own is not None and not _is_autograd(ev, own):
        return _own_function(ev, own, node, args, receiver, frame)
    if name is not None:
        if name.startswith(OWN):
            cls = ev.names.classes.get(name.removeprefix(OWN))
            if cls is not None:
                return _construct(ev, cls, node, args, frame)
        value = _external(ev, name, node, args, frame)
        if value is not None:
            return value
    submodule = receiver.kind is Kind.MODULE and callee.kind in (Kind.MODULE, Kind.LOSS_FN)
    if isinstance(func, cst.Attribute) and not submodule:
        value = evaluate_method(ev, func, receiver, node, args, frame)
        if value is not None:
            return value
    if callee.kind in (Kind.MODULE, Kind.LOSS_FN):
        return _forward(ev, node, callee, dotted(func) or "", args, frame)
    if isinstance(func, cst.Name):
        value = _builtin(ev, func.value, node, args, frame)
        if value is not None and func.value not in frame.function.local:
            return value
    _unknown_call(ev, node, name, func, receiver, frame)
    return _unknown_result(node, name, args, frame)


def _unknown_call(
    ev: Evaluator, node: cst.Call, name: str | None, func: cst.BaseExpression, receiver: Value, frame: Frame
) -> None:
    target = name or ""
    if not target and isinstance(func, cst.Attribute):
        if receiver.kind in (Kind.NUMBER, Kind.STRING, Kind.LIST, Kind.DICT, Kind.TUPLE, Kind.NDARRAY, Kind.SET):
            return
        target = f"{receiver.origin or '?'}.{func.attr.value}"
    ev.emit(Effect.CALL, node, frame, target=target or "?." + (dotted(func) or ""), subject=dotted(func) or "")


def _unknown_result(node: cst.Call, name: str | None, args: list[Value], frame: Frame) -> Value:
    """A call of something unknown: nothing is known of the result but that it may carry its arguments' graph."""
    if name is not None and name.rpartition(".")[2].startswith("create_optimizer"):
        return Value(Kind.OPTIMIZER, name, evidence="used")
    last = (name or dotted(node.func) or "").rpartition(".")[2]
    first = node.args[0].value if node.args else None
    if last[:1].isupper() and gives_parameters(first):
        return Value(Kind.OPTIMIZER, name or "", node=node)
    if frame.grad.off:
        return Value(graph=Graph.DETACHED, origin=name or "")
    return Value(graph=Graph.UNKNOWN, origin=name or "", node=node)


def _is_autograd(ev: Evaluator, own: Function) -> bool:
    return own.cls is not None and any(knowledge.AUTOGRAD_FUNCTION.match(r) for r in ev.names.roots(own.cls))


def _closures(ev: Evaluator, node: cst.Call, args: list[Value], name: str | None, frame: Frame) -> None:
    """Own functions handed to a call: `optimizer.step(closure)` runs it, others may."""
    for value in args:
        if value.kind is Kind.FUNCTION and value.origin.startswith(OWN):
            function = ev.names.functions.get(value.origin.removeprefix(OWN))
            if function is None:
                continue
            ev.callbacks.setdefault(function, []).append((name or dotted(node.func) or "", node))
            if isinstance(node.func, cst.Attribute) and node.func.attr.value == "step":
                ev.inline(function, node, frame, {})


def bind_arguments(function: Function, node: cst.Call, bound_method: bool) -> dict[str, cst.Arg]:
    """Parameter name → argument, as far as positions are certain."""
    names = list(function.params)
    if bound_method and names:
        names = names[1:]
    result: dict[str, cst.Arg] = {}
    position = 0
    for arg in node.args:
        if arg.star:
            break
        if arg.keyword is not None:
            result[arg.keyword.value] = arg
        elif position < len(names):
            result[names[position]] = arg
            position += 1
    return result


def _own_function(
    ev: Evaluator, own: Function, node: cst.Call, args: list[Value], receiver: Value, frame: Frame
) -> Value:
    func = node.func
    bound_method = own.is_method and isinstance(func, cst.Attribute) and receiver.kind is not Kind.CLASS
    mapping = bind_arguments(own, node, bound_method)
    values = {id(a): v for a, v in zip(node.args, args)}
    names: dict[str, str] = {}
    for param, arg in mapping.items():
        value = values[id(arg)]
        if ev.collecting:
            known = ev.arguments.get((own, param))
            ev.arguments[own, param] = value if known is None else join(known, value)
        text = dotted(arg.value)
        names[param] = text if text is not None else ""
    if bound_method and isinstance(func, cst.Attribute):
        base = dotted(func.value)
        if isinstance(func.value, cst.Call):
            base = frame.self_name or ""
        names[own.params[0]] = base or ""
    ev.call_sites.setdefault(own, []).append(_site(ev, node, own, frame))
    summary = ev.summary(own)
    ev.inline(own, node, frame, names)
    if own.name in ("zero_grad", "reset_grad", "clear_grad") and not any(
        e.effect is Effect.ZERO_GRAD for e in summary.events
    ):
        ev.emit(Effect.ZERO_GRAD, node, frame, subject="parameters")
    if receiver.kind is Kind.MODULE and own.name == "forward":
        ev.emit(
            Effect.FORWARD,
            node,
            frame,
            subject=(dotted(func.value) or "") if isinstance(func, cst.Attribute) else "",
            value=receiver,
            detail="forward",
        )
    returns = summary.returns
    if receiver.kind is Kind.MODULE and own.name == "forward" and not summary.events:
        if returns.kind in (Kind.NONE, Kind.UNKNOWN):
            returns = Value(Kind.TENSOR, graph=Graph.ATTACHED)  # an abstract one, or one that is not looked at
    if (summary.grad.off or frame.grad.off) and returns.kind in (*_TENSORISH, Kind.UNKNOWN):
        returns = returns.but(graph=Graph.DETACHED)
    if returns.kind is Kind.LOADER:
        return returns  # what matters of a loader is the call that made it
    return returns.but(node=node) if returns.kind is not Kind.UNKNOWN else returns.but(origin=own.own)


def _site(ev: Evaluator, node: cst.Call, own: Function, frame: Frame) -> Event:
    return Event(
        Effect.CALL, node, frame.function, loops=frame.loops, guards=frame.guards, grad=frame.grad,
        order=len(frame.summary.events), scopes=frame.scopes, target=own.own,
    )  # fmt: skip


def _construct(ev: Evaluator, cls: Class, node: cst.Call, args: list[Value], frame: Frame) -> Value:
    init = ev.names.method(cls, "__init__")
    if init is not None:
        mapping = bind_arguments(init, node, True)
        values = {id(a): v for a, v in zip(node.args, args)}
        if ev.collecting:
            for param, arg in mapping.items():
                known = ev.arguments.get((init, param))
                ev.arguments[init, param] = values[id(arg)] if known is None else join(known, values[id(arg)])
        ev.call_sites.setdefault(init, []).append(_site(ev, node, init, frame))
    return instance(ev, cls).but(node=node)


def _forward(ev: Evaluator, node: cst.Call, callee: Value, subject: str, args: list[Value], frame: Frame) -> Value:
    if callee.kind is Kind.LOSS_FN:
        ev.emit(Effect.LOSS, node, frame, subject=subject, value=callee)
        if callee.origin.startswith("torch.nn."):
            _compared(node, args, frame)
        graph = Graph.DETACHED if frame.grad.off else join_graph(args)
        return Value(Kind.TENSOR, callee.origin, graph=graph, node=node)
    if callee.evidence == "annotated" and subject[:1].isupper() and "." not in subject:
        return Value(Kind.MODULE, node=node)  # `Model: type[nn.Module]`, annotated as its instances are
    ev.emit(Effect.FORWARD, node, frame, subject=subject or spelled(node.func), value=callee)
    graph = Graph.DETACHED if frame.grad.off else Graph.ATTACHED
    if callee.origin.startswith("torch.nn.") and callee.origin.rpartition(".")[2] not in (
        "Sequential",
        "Module",
        "ModuleList",
        "DataParallel",
        "LSTM",
        "GRU",
        "RNN",
        "MultiheadAttention",
        "Transformer",
    ):
        return Value(Kind.TENSOR, callee.origin, graph=graph, node=node)
    return Value(Kind.BATCH, callee.origin, graph=graph, node=node)


def _compared(node: cst.Call, args: list[Value], frame: Frame) -> None:
    """What torch's own losses compare are tensors, also where a model's output or a batch could have been more."""
    for arg, value in zip(node.args[:2], args):
        if (
            isinstance(arg.value, cst.Name)
            and value.kind in (Kind.BATCH, Kind.UNKNOWN)
            and arg.value.value in frame.env
        ):
            frame.env[arg.value.value] = value.but(kind=Kind.TENSOR)


def _external(ev: Evaluator, name: str, node: cst.Call, args: list[Value], frame: Frame) -> Value | None:
    """A call of an imported name that the tables know; None if they do not."""
    if name in ("torch.autograd.backward",):
        ev.emit(Effect.BACKWARD, node, frame, subject=dotted(node.args[0].value) or "" if node.args else "")
        return Value(Kind.NONE)
    if name in (
        "torch.autograd.grad",
        "torch.distributed.autograd.backward",  # keeps the gradients in its context, and adds to none
        "torch.func.grad",
        "torch.autograd.functional.jacobian",
        "torch.autograd.functional.hessian",
        "torch.func.jacrev",
        "torch.func.vjp",
        "torch.func.jvp",
    ):
        ev.emit(Effect.GRAD, node, frame)
    if name in knowledge.GRAD_SET:
        mode = argument(node, "mode", 0)
        if mode is not None:
            _set_grad(ev, literal(mode.value), frame)
        return Value(Kind.CONTEXT, name)
    last = name.rpartition(".")[2]
    if knowledge.PASSES_ON.match(name) and node.args and node.args[0].keyword is None and not node.args[0].star:
        first = args[0]  # a progress bar hands on the items of what it is given, as they are
        return first if not name.startswith("itertools.") else Value(Kind.ITERATOR, node=node, element=first.element)
    if name.startswith("torch.nn.utils.clip_grad"):
        ev.emit(Effect.CLIP, node, frame, subject=parameters_of(node.args[0].value if node.args else None))
        return Value(Kind.TENSOR, name, graph=Graph.DETACHED)
    if name in knowledge.REPLACES_PARAMETERS and node.args and not _keeps_parameters(node):
        ev.emit(Effect.REPLACE, node, frame, subject=dotted(node.args[0].value) or "", detail=last)
    if last in _WRAPPERS and args and (args[0].kind is Kind.MODULE or name.startswith("torch.")):
        if args[0].kind is Kind.MODULE or last in (
            "DataParallel",
            "DistributedDataParallel",
            "FullyShardedDataParallel",
        ):
            inner = args[0].origin if args[0].kind is Kind.MODULE else ""
            return Value(Kind.MODULE, inner or name, node=node)
    if last in ("prepare", "auto_dataloader", "initialize") and args:
        return None
    if knowledge.is_loss_function(name):
        ev.emit(Effect.LOSS, node, frame, subject=name, value=Value(Kind.LOSS_FN, name))
        _compared(node, args, frame)
    if name == "torch.utils.data.random_split":
        return Value(Kind.TUPLE, name, element=Value(Kind.DATASET, name))
    value = knowledge.made_by(name)
    if value is None and name in ev.loader_names:
        value = Value(Kind.LOADER, name, element=knowledge.BATCH)
    if value is None:
        return None
    value = value.but(node=node)
    if value.kind is Kind.OPTIMIZER:
        ev.emit(Effect.MAKE, node, frame, value=value)
    if value.kind is Kind.TENSOR:
        if name in knowledge.LIKE or name in knowledge.FACTORIES:
            device = argument(node, "device")
            requires = argument(node, "requires_grad")
            place = (
                device_text(device.value)
                if device is not None
                else (args[0].device if name in knowledge.LIKE and args else "cpu")
            )
            if name in ("torch.as_tensor", "torch.from_numpy") and args and args[0].is_tensor and device is None:
                place = args[0].device
            graph = Graph.ATTACHED if requires is not None and literal(requires.value) is not False else Graph.DETACHED
            return value.but(device=place, graph=graph)
        if name == "torch.autograd.Variable":
            requires = argument(node, "requires_grad")
            graph = (
                Graph.ATTACHED
                if requires is not None and literal(requires.value) is True
                else args[0].graph
                if args
                else Graph.UNKNOWN
            )
            return value.but(graph=graph, device=args[0].device if args else "")
        if last in knowledge.DIM_PAIRS and name.count(".") == 1 and (len(node.args) > 1):
            second = args[1] if len(args) > 1 else UNKNOWN
            if not second.is_tensor:
                return Value(
                    Kind.TUPLE,
                    name,
                    items=(Value(Kind.TENSOR, graph=join_graph(args)), Value(Kind.TENSOR, graph=Graph.DETACHED)),
                )
        graph = Graph.DETACHED if frame.grad.off or last in knowledge.DETACHING else join_graph(args)
        first = next((a for a in args if a.is_tensor), UNKNOWN)
        return value.but(graph=graph, device=first.device)
    if value.kind is Kind.TUPLE and value.element is not None and value.element.kind is Kind.TENSOR:
        graph = Graph.DETACHED if frame.grad.off else join_graph(args)
        return value.but(element=value.element.but(graph=graph))
    return value


def _keeps_parameters(node: cst.Call) -> bool:
    """Whether FSDP is told to hold the original Parameter objects, or may be."""
    keeps = argument(node, "use_orig_params")
    return any(a.star == "**" for a in node.args) or (keeps is not None and literal(keeps.value) is not False)


def _set_grad(ev: Evaluator, mode: object, frame: Frame) -> None:
    """`torch.set_grad_enabled(…)` as a statement holds from here on; as a with item `_with` has the last word."""
    frame.grad = GradMode(mode is not True)


def _builtin(ev: Evaluator, name: str, node: cst.Call, args: list[Value], frame: Frame) -> Value | None:
    first = args[0] if args else UNKNOWN
    if name in ("float", "int", "bool"):
        if first.is_tensor:
            ev.emit(Effect.SYNC, node, frame, subject=spelled(node.args[0].value), value=first, detail=name)
        return NUMBER
    if name in ("len", "round", "hash", "id", "ord", "isinstance", "hasattr", "callable", "issubclass"):
        return NUMBER
    if name in ("str", "repr", "format"):
        return Value(Kind.STRING)
    if name == "range":
        return Value(Kind.RANGE, node=node, element=NUMBER)
    if name == "print":
        ev.emit(Effect.PRINT, node, frame)
        for arg, value in zip(node.args, args):
            if value.is_tensor:
                ev.emit(Effect.SYNC, arg.value, frame, value=value, detail="print")
        return Value(Kind.NONE)
    if name in ("list", "tuple", "sorted", "reversed", "iter"):
        kind = {"tuple": Kind.TUPLE, "iter": Kind.ITERATOR}.get(name, Kind.LIST)
        element = first.element
        if first.is_tensor:
            element = Value(Kind.TENSOR, graph=first.graph, device=first.device)
        if first.kind is Kind.LOADER:
            element = first.element
        return Value(kind, node=node, element=element)
    if name in ("dict", "OrderedDict", "defaultdict"):
        return _dict_call(node, args)
    if name in ("set", "frozenset"):
        return Value(Kind.SET)
    if name == "enumerate" and first.element is not None:
        return Value(Kind.ITERATOR, node=node, element=Value(Kind.TUPLE, items=(NUMBER, first.element)))
    if name in ("enumerate", "zip", "map", "filter"):
        return Value(Kind.ITERATOR, node=node)
    if name == "next":
        return first.element or UNKNOWN
    if name in ("sum", "max", "min", "abs", "pow"):
        if first.is_tensor:
            return Value(Kind.TENSOR, graph=first.graph)
        if name == "sum":
            element = first.element or UNKNOWN
            return (
                Value(Kind.TENSOR, graph=element.graph)
                if element.is_tensor
                else element
                if element.kind is Kind.NUMBER
                else Value(graph=element.graph)
            )
        if args and all(a.kind is Kind.NUMBER for a in args):
            return NUMBER
        return first.element or UNKNOWN
    if name in ("getattr", "vars", "type", "open", "input", "super"):
        return UNKNOWN
    if name in ("tqdm", "trange"):
        return first
    return None


def _dict_call(node: cst.Call, args: list[Value]) -> Value:
    if node.args and all(a.keyword is not None for a in node.args):
        keys = tuple(a.keyword.value for a in node.args if a.keyword is not None)
        return Value(Kind.DICT, node=node, items=tuple(args), keys=keys)
    return Value(Kind.DICT, node=node)
