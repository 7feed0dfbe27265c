"""What methods give and do: tensors, modules, optimizers, schedulers, scalers, lists and dicts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.nodes import argument, dotted, find, literal
from torchlint.semantics import knowledge
from torchlint.semantics.effects import Effect
from torchlint.semantics.frames import Frame
from torchlint.semantics.kinds import UNKNOWN, Graph, Kind, Value, join_graph
from torchlint.spelling import spelled

if TYPE_CHECKING:
    from torchlint.semantics.evaluate import Evaluator

NUMBER = Value(Kind.NUMBER)
# Context managers of other packages (MONAI's `eval_mode`) that put the module which they are given into eval mode.
_EVALUATING = re.compile(r"\.(eval_mode|evaluating|evaluation_mode)$")
_TENSORISH = (Kind.TENSOR, Kind.PARAMETER, Kind.BATCH)


def device_text(node: cst.BaseExpression | None) -> str:
    """The text that stands for a device: "cpu", "cuda" or the expression's own text where it is a name."""
    if node is None:
        return ""
    value = literal(node)
    if isinstance(value, str):
        return value.partition(":")[0]
    if isinstance(value, int) and not isinstance(value, bool):
        return "cuda"
    if isinstance(node, cst.Call) and (dotted(node.func) or "").endswith("device") and node.args:
        return device_text(node.args[0].value)
    return dotted(node) or "?"


def enters_eval_mode(ev: Evaluator, call: cst.Call | None, name: str | None, frame: Frame) -> None:
    """Note the mode where a `with` statement sets it."""
    if call is not None and call.args and name is not None and _EVALUATING.search(name):
        module = call.args[0].value
        ev.emit(Effect.EVAL, call, frame, subject=dotted(module) or "", value=ev.values.get(module, UNKNOWN))


def evaluate_method(
    ev: Evaluator, func: cst.Attribute, receiver: Value, node: cst.Call, args: list[Value], frame: Frame
) -> Value | None:
    attr = func.attr.value
    subject = dotted(func.value) or subscript_text(func.value)
    kind = receiver.kind
    if attr == "backward" and kind not in (Kind.NDARRAY, Kind.STRING):
        text = subject
        if kind in (Kind.FRAMEWORK, Kind.MODULE, Kind.OPTIMIZER, Kind.SCALER) or (
            node.args and args[0].kind in _TENSORISH and kind is Kind.UNKNOWN
        ):
            text = dotted(node.args[0].value) or "" if node.args else subject
        ev.emit(Effect.BACKWARD, node, frame, subject=text, value=receiver, detail=spelled(func.value))
        return Value(Kind.NONE)
    if attr == "zero_grad":
        ev.emit(Effect.ZERO_GRAD, node, frame, subject=subject, value=receiver)
        return Value(Kind.NONE)
    if attr == "zero_" and isinstance(func.value, cst.Attribute):
        if ".grad" in "." + spelled(func.value):
            ev.emit(Effect.ZERO_GRAD, node, frame, subject="parameters")
            return receiver
    if attr == "step":
        return _step(ev, subject, receiver, node, args, frame)
    if attr in ("eval", "train") and kind not in (Kind.FRAMEWORK, Kind.STRING, Kind.NDARRAY, Kind.LIST, Kind.DICT):
        first = argument(node, "mode", 0)
        mode = literal(first.value) if first is not None else attr == "train"
        if attr == "eval" and node.args:
            return None
        if any(isinstance(loop, cst.For) and dotted(loop.target) == subject for loop in frame.loops):
            subject = ""  # each of several: `for net in nets: net.eval()`
        if attr == "train" and node.args and mode is ... and not _may_be_mode(node, receiver):
            return None
        if attr == "train" and node.args and mode is ...:
            ev.emit(Effect.TRAIN, node, frame, subject=subject, value=receiver, detail="conditional")
        elif isinstance(mode, bool) or first is None:
            ev.emit(Effect.TRAIN if mode else Effect.EVAL, node, frame, subject=subject, value=receiver)
        else:
            return None
        return receiver
    if attr == "unscale_":
        ev.emit(Effect.UNSCALE, node, frame, subject=subject, value=receiver)
        return UNKNOWN
    if attr == "update" and kind is Kind.SCALER:
        ev.emit(Effect.SCALER_UPDATE, node, frame, subject=subject, value=receiver)
        return UNKNOWN
    if attr in ("clip_grad_norm_", "clip_grad_value_") and kind is not Kind.TENSOR:
        ev.emit(Effect.CLIP, node, frame, subject=subject, value=receiver, detail="method")
        return Value(Kind.TENSOR)
    if attr == "autograd" or (attr == "grad" and subject.endswith("autograd")):
        ev.emit(Effect.GRAD, node, frame)
        return UNKNOWN
    if receiver.origin == "torch.load" and kind is Kind.UNKNOWN and attr in _KEEPING:
        if "()" in ev.uses.get(frame.function, {}).get(subject, ()):
            return receiver.but(kind=Kind.MODULE, evidence="used")
    if kind is Kind.UNKNOWN and attr in ("to", "cuda", "float", "half") and _of_class(func.value):
        return receiver  # `Net().cuda()` of another file's class: itself, as Modules give it
    if (
        receiver.is_tensor
        or kind is Kind.BATCH
        or (attr in ("cuda", "detach", "item", "unsqueeze") and kind is Kind.UNKNOWN and not _of_class(func.value))
    ):
        return _tensor_method(ev, attr, receiver, node, args, frame)
    if kind in (Kind.MODULE, Kind.LOSS_FN):
        return _module_method(ev, attr, receiver, subject, node, args, frame)
    if kind is Kind.NDARRAY:
        return Value(Kind.NDARRAY)
    if kind is Kind.STRING:
        return Value(Kind.LIST, element=Value(Kind.STRING)) if attr.startswith("split") else Value(Kind.STRING)
    if kind is Kind.LIST:
        if attr == "append" and args and (key := dotted(func.value)) is not None:
            element = args[0] if receiver.element is None else receiver.element
            grown = receiver.but(
                items=None,
                element=element if receiver.element in (None, args[0]) else None,
                graph=args[0].graph if args[0].graph is Graph.ATTACHED else receiver.graph,
            )
            ev.remember(frame, key, grown)
            return Value(Kind.NONE)
        if attr == "pop":
            return receiver.element or UNKNOWN
        return UNKNOWN
    if kind is Kind.DICT:
        if attr in ("get", "pop"):
            return receiver.element or UNKNOWN
        return UNKNOWN
    if kind is Kind.FRAMEWORK and attr in ("prepare", "setup") and args:
        kept = tuple(args)
        return kept[0] if len(kept) == 1 else Value(Kind.TUPLE, items=kept)
    return None


_MODE = re.compile(r"train|mode|eval|phase|flag|was|^is_|test|update", re.IGNORECASE)


def _may_be_mode(node: cst.Call, receiver: Value) -> bool:
    """Whether `train(x)` sets a mode, and is no trainer's `train(loader)`: a name of something is all that is known."""
    if receiver.kind is Kind.MODULE:
        return True
    text = dotted(node.args[0].value)
    return len(node.args) == 1 and (text is None or _MODE.search(text.rpartition(".")[2]) is not None)


def _of_class(node: cst.BaseExpression) -> bool:
    """Whether the thing is made by a call of what is named like a class: `Net(args)`, and no `Variable(x)`."""
    name = (dotted(node.func) or "").rpartition(".")[2] if isinstance(node, cst.Call) else ""
    return name[:1].isupper() and not name.isupper() and name != "Variable" and not name.endswith("Tensor")


def _step(
    ev: Evaluator, subject: str, receiver: Value, node: cst.Call, args: list[Value], frame: Frame
) -> Value | None:
    kind = receiver.kind
    if kind is Kind.SCALER or (args and args[0].kind is Kind.OPTIMIZER and kind is not Kind.FRAMEWORK):
        ev.emit(
            Effect.STEP,
            node,
            frame,
            subject=dotted(node.args[0].value) or "" if node.args else "",
            value=args[0] if args else UNKNOWN,
            detail="scaler",
        )
        return UNKNOWN
    if kind is Kind.OPTIMIZER:
        ev.emit(Effect.STEP, node, frame, subject=subject, value=receiver)
        return UNKNOWN
    if kind is Kind.SCHEDULER:
        ev.emit(Effect.SCHEDULER_STEP, node, frame, subject=subject, value=receiver)
        return UNKNOWN
    if kind in (Kind.FRAMEWORK, Kind.MODULE):
        ev.emit(Effect.STEP, node, frame, subject=subject, value=receiver, detail="engine")
        return UNKNOWN
    last = subject.rpartition(".")[2].lower()
    if kind in (Kind.UNKNOWN, Kind.OBJECT):
        if "sched" in last or last.startswith("lr"):
            ev.emit(Effect.SCHEDULER_STEP, node, frame, subject=subject, value=receiver)
            return UNKNOWN
        if ("optim" in last or last.startswith("opt") or last.endswith("opt")) and len(args) <= 1:
            ev.emit(Effect.STEP, node, frame, subject=subject, value=receiver, detail="spelled")
            return UNKNOWN
        if subject and not args and _built_from_parameters(receiver.node):
            ev.emit(Effect.STEP, node, frame, subject=subject, value=receiver.but(kind=Kind.OPTIMIZER))
            return UNKNOWN
    return None


def _built_from_parameters(made: cst.CSTNode | None) -> bool:
    """Whether a call's first argument holds a model's parameters: `make([p for p in net.parameters() if
    p.requires_grad])`."""
    if not isinstance(made, cst.Call) or not made.args:
        return False
    return any(gives_parameters(call) for call in find(made.args[0].value, cst.Call))


_KEEPING = frozenset(
    (
        "to",
        "cuda",
        "cpu",
        "half",
        "float",
        "double",
        "bfloat16",
        "type",
        "requires_grad_",
        "apply",
        "share_memory",
        "xpu",
        "npu",
    )
)


def _module_method(
    ev: Evaluator, attr: str, receiver: Value, subject: str, node: cst.Call, args: list[Value], frame: Frame
) -> Value | None:
    if attr in _KEEPING:
        if attr in ("to", "cuda"):
            device = argument(node, "device", 0)
            return receiver.but(
                device="cuda" if attr == "cuda" else device_text(device.value) if device is not None else ""
            )
        return receiver
    if attr == "forward":
        ev.emit(Effect.FORWARD, node, frame, subject=subject, value=receiver, detail="forward")
        return Value(Kind.BATCH, receiver.origin, graph=Graph.DETACHED if frame.grad.off else Graph.ATTACHED, node=node)
    if attr in ("parameters", "buffers"):
        return Value(Kind.ITERATOR, element=Value(Kind.PARAMETER, graph=Graph.ATTACHED))
    if attr == "named_parameters":
        return Value(
            Kind.ITERATOR,
            element=Value(Kind.TUPLE, items=(Value(Kind.STRING), Value(Kind.PARAMETER, graph=Graph.ATTACHED))),
        )
    if attr in ("modules", "children"):
        return Value(Kind.ITERATOR, element=Value(Kind.MODULE))
    if attr == "state_dict":
        return Value(Kind.DICT, "state_dict", element=Value(Kind.TENSOR, graph=Graph.DETACHED))
    if attr in (
        "load_state_dict",
        "register_buffer",
        "add_module",
        "named_modules",
        "named_children",
        "register_forward_hook",
    ):
        return UNKNOWN
    ev.emit(
        Effect.CALL,
        node,
        frame,
        target=f"{receiver.origin or '?'}.{attr}",
        subject=f"{subject}.{attr}",
        value=receiver,
        detail="module method",
    )
    return Value(graph=Graph.DETACHED if frame.grad.off else Graph.UNKNOWN, node=node)


def _tensor_method(ev: Evaluator, attr: str, receiver: Value, node: cst.Call, args: list[Value], frame: Frame) -> Value:
    subject = _receiver_text(node.func.value) if isinstance(node.func, cst.Attribute) else ""
    if attr in ("to", "cuda"):
        device = argument(node, "device", 0)
        target = "cuda" if attr == "cuda" else device_text(device.value) if device is not None else "?"
        if _is_dtype(target):
            return receiver.but(
                kind=Kind.TENSOR if receiver.kind is Kind.UNKNOWN else receiver.kind, node=node, items=None
            )
        ev.emit(Effect.TRANSFER, node, frame, subject=subject, value=receiver, detail=target)
        return receiver.but(
            kind=Kind.TENSOR if receiver.kind is Kind.UNKNOWN else receiver.kind, device=target, node=node, items=None
        )
    if attr in knowledge.SYNCING:
        ev.emit(Effect.SYNC, node, frame, subject=subject, value=receiver, detail=attr)
    if attr == "item":
        return NUMBER
    if attr == "tolist":
        return Value(Kind.LIST, element=NUMBER)
    if attr == "numpy":
        return Value(Kind.NDARRAY)
    if attr == "size":
        return NUMBER if node.args else Value(Kind.TUPLE, "shape", element=NUMBER)
    if attr in knowledge.TO_NUMBER:
        return NUMBER
    if attr in ("detach", "detach_"):
        return receiver.but(graph=Graph.DETACHED, node=node, items=None)
    if attr in (
        "clone",
        "cpu",
        "contiguous",
        "requires_grad_",
        "float",
        "half",
        "double",
        "bfloat16",
        "pin_memory",
        "type",
        "type_as",
    ):
        graph = Graph.ATTACHED if attr == "requires_grad_" else receiver.graph
        kind = Kind.TENSOR if receiver.kind in (Kind.UNKNOWN, Kind.PARAMETER) or attr != "cpu" else receiver.kind
        lies = "cpu" if attr == "cpu" else receiver.device
        if attr == "type" and node.args and (dotted(node.args[0].value) or "").startswith("torch.cuda."):
            lies = "cuda"
        return receiver.but(kind=kind, device=lies, graph=graph, node=node, items=None)
    if attr in knowledge.TUPLE_METHODS:
        return Value(Kind.TUPLE, element=Value(Kind.TENSOR, graph=receiver.graph, device=receiver.device))
    if attr in knowledge.DIM_PAIRS and node.args and not (args and args[0].is_tensor):
        return Value(
            Kind.TUPLE,
            items=(
                Value(Kind.TENSOR, graph=receiver.graph, device=receiver.device),
                Value(Kind.TENSOR, graph=Graph.DETACHED, device=receiver.device),
            ),
        )
    if receiver.kind is Kind.BATCH and attr in ("items", "keys", "values", "get", "pop"):
        if attr == "items":
            return Value(Kind.ITERATOR, element=Value(Kind.TUPLE, items=(Value(Kind.STRING), receiver)))
        return receiver if attr != "keys" else UNKNOWN
    if receiver.kind is Kind.BATCH and attr not in knowledge.TENSOR_ONLY and attr not in _COMMON:
        return UNKNOWN
    graph = Graph.DETACHED if frame.grad.off or attr in knowledge.DETACHING else join_graph([receiver, *args])
    if attr.startswith("new_"):
        graph = Graph.DETACHED
    return Value(Kind.TENSOR, graph=graph, device=receiver.device, node=node)


def _is_dtype(text: str) -> bool:
    """Whether the first argument of `.to` is a dtype, as far as its text says."""
    return (
        text.rpartition(".")[2] == "dtype"
        or re.fullmatch(r"torch\.(b?float|u?int|complex|half|double|long|bool)\w*", text) is not None
    )


# Methods shared with numpy that on a batch's tensor still give a tensor.
_COMMON = frozenset(
    """
    sum mean std var max min abs exp log sqrt view reshape transpose squeeze flatten t repeat pow add
    sub mul div norm round long int bool size dim argmax argmin data softmax eq gather scatter
    index_select any all cumsum prod dot mm
    """.split()
)


def subscript_text(node: cst.CSTNode) -> str:
    """A stable text for `opts["g"]`, `self.opts[i]`: the subject of a call on an item."""
    return spelled(node) if isinstance(node, cst.Subscript) else ""


def _receiver_text(node: cst.BaseExpression, longest: int = 40) -> str:
    """The text of what a method is called on, "" behind so long a chain that writing out each of its links would cost
    more than everything else."""
    inner = node
    for _ in range(longest):
        if isinstance(inner, cst.Call):
            inner = inner.func
        elif isinstance(inner, (cst.Attribute, cst.Subscript)):
            inner = inner.value
        else:
            return spelled(node)
    return ""


def gives_parameters(node: cst.BaseExpression | None) -> bool:
    return (
        isinstance(node, cst.Call)
        and isinstance(node.func, cst.Attribute)
        and node.func.attr.value in ("parameters", "get_parameters")
    )


def parameters_of(node: cst.BaseExpression | None) -> str:
    """Whose parameters an expression hands on: `net` of `net.parameters()`, `opt` of `opt.param_groups[0]["params"]`,
    the name itself of a list of them; "" where that is more than one thing or not known."""
    if node is None:
        return ""
    if isinstance(node, cst.Call) and gives_parameters(node) and isinstance(node.func, cst.Attribute):
        return dotted(node.func.value) or ""
    inner = node
    while isinstance(inner, cst.Subscript):
        inner = inner.value
    if isinstance(inner, cst.Attribute) and inner.attr.value == "param_groups":
        return dotted(inner.value) or ""
    if isinstance(node, (cst.Call, cst.ListComp, cst.GeneratorExp)):
        owners = {
            dotted(c.func.value)
            for c in find(node, cst.Call)
            if isinstance(c.func, cst.Attribute) and gives_parameters(c)
        }
        return (owners.pop() or "") if len(owners) == 1 else ""
    return dotted(node) or ""
