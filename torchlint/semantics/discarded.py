"""Forward passes whose graph nobody uses: every result loses it on the way to the host.

`samples = net(z)` and then only `samples.data.cpu()`, `save_image(samples)` or `samples.argmax(1).item()`: whatever the
function is called and in whatever mode the model is, such a pass was recorded for nothing. Every use of the result is
followed; one that is not understood, or that could keep the graph, ends the question.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import libcst as cst

from torchlint.nodes import dotted
from torchlint.semantics import knowledge
from torchlint.semantics.effects import Effect, Event
from torchlint.semantics.evaluation import gradient_words, may_evaluate, on_made_up_data, owner, runs_its_parts
from torchlint.semantics.kinds import Kind
from torchlint.semantics.modes import always_off
from torchlint.semantics.names import Function
from torchlint.semantics.origins import is_module
from torchlint.semantics.reaching import Definition

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

# Stretches of source of which a function with a discarded graph has one, as triggers for rules.
DISCARDS = (r"\.(?:cpu|numpy|item|tolist)\(", r"\b(?:save_image|make_grid|float|int)\(")
_HOST = frozenset(("cpu", "numpy", "item", "tolist"))
_CUTTING = frozenset(("detach", "argmax", "argmin", "argsort", "eq", "ne", "gt", "lt", "ge", "le", "nonzero"))
_PLAIN = frozenset(("size", "dim", "shape", "dtype", "device", "ndim", "is_cuda", "nelement", "numel", "ndimension"))
# What keeps the graph or does more with it than compute.
_KEEPING = frozenset(
    "backward register_hook retain_grad requires_grad_ requires_grad grad grad_fn log_prob rsample set_ append".split()
)
_IMAGES = frozenset(("torchvision.utils.save_image", "torchvision.utils.make_grid"))
_BUILTINS = frozenset(("zip", "enumerate", "list", "tuple", "reversed", "sum", "max", "min", "sorted", "iter", "next"))
_INDICES = frozenset(("max", "min", "topk", "sort", "kthvalue", "median", "mode"))
_WHOLE = frozenset(("Module", "Sequential", "DataParallel", "DistributedDataParallel"))  # of torch.nn: may be models
_LIBRARIES = ("torch.", "numpy.", "torchvision.", "torchmetrics.")
_STEPS = 120

Fate = Literal["host", "none", "kept"]


def discarded_passes(sem: Semantics) -> Iterator[tuple[Function, Event]]:
    """The forward passes of which surely no graph is used and something goes to the host, with their functions."""
    if _sets_grad_mode(sem):
        return
    for function in sem.functions:
        forwards = [e for e in sem.events(function, Effect.FORWARD) if e.via is None and not e.grad.off]
        if not forwards or not may_evaluate(sem, function) or always_off(sem, function):
            continue
        for event in forwards:
            if event.value.kind is Kind.MODULE and not _is_layer(event) and not _is_part(sem, function, event):
                if _asks_for_gradients(sem, function, event):
                    continue
                follower = _Follower(sem, function, numbers=not on_made_up_data(sem, [event]))
                if follower.fate(event.node) == "host" and not follower.differentiated:
                    yield function, event


def _asks_for_gradients(sem: Semantics, function: Function, event: Event) -> bool:
    """Whether the innermost loop, or the function, asks for gradients of an input: attacks and explanations."""
    near = [e for e in sem.events(function, Effect.GRAD, Effect.CALL) if not event.loops or e.within(event.loops[-1])]
    if any(e.via is None and (e.effect is Effect.GRAD or gradient_words(e.target)) for e in near):
        return True
    body = event.loops[-1].body if event.loops else function.body
    return any(n.attr.value in ("requires_grad_", "retain_grad") for n in sem.file.within(body, cst.Attribute))


def _sets_grad_mode(sem: Semantics) -> bool:
    """Whether a statement turns recording off for all that follows: `torch.set_grad_enabled(False)`."""
    return any(
        sem.qualified(call.func) in knowledge.GRAD_SET and isinstance(sem.file.parent(call), cst.Expr)
        for call in (sem.file.all(cst.Call) if "set_grad_enabled" in sem.file.text else ())
    )


def _is_layer(event: Event) -> bool:
    """Whether it is one layer of a library's, a metric or a compiled function, and no model."""
    origin = event.value.origin
    if origin.startswith("torch.nn."):
        return origin.rpartition(".")[2] not in _WHOLE
    return origin.startswith(("torchmetrics.", "ignite.metrics.", "monai.networks.layers.", "torch.compile"))


def _is_part(sem: Semantics, function: Function, event: Event) -> bool:
    """Whether a model's own method runs something that is not the whole model: its callers decide about recording."""
    cls = owner(function)
    if cls is not None and is_module(sem.names, cls) and sem.names.method(cls, "forward") is not None:
        return not function.params or event.subject != function.params[0] or event.detail == "forward"
    return runs_its_parts(sem, function, event)


class _Follower:
    """What becomes of a value that carries a graph, in one function. `numbers`: whether reading one counts."""

    def __init__(self, sem: Semantics, function: Function, *, numbers: bool) -> None:
        self._sem = sem
        self._host = _HOST if numbers else frozenset(("cpu", "numpy"))
        self._function = function
        self._left = _STEPS
        self.differentiated = False  # `backward()` is called on what has lost its graph: a mistake, and no evaluation
        # Own functions that run backward, and where the function trains, those of other files that may.
        trains = sem.events(function, Effect.ZERO_GRAD, Effect.STEP)
        runs = sem.events(function, Effect.BACKWARD, *((Effect.CALL,) if trains else ()))
        self._differentiating = {e.node for e in runs if not e.target.startswith(_LIBRARIES)}
        self._seen: set[cst.CSTNode] = set()

    def fate(self, node: cst.CSTNode) -> Fate:
        """`host` if its values are read and its graph is dropped, `none` if neither matters, `kept` otherwise."""
        self._left -= 1
        if self._left < 0:
            return "kept"
        if node in self._seen:
            return "none"  # a loop leads back to it
        self._seen.add(node)
        parent = self._sem.file.parent(node)
        if isinstance(parent, cst.Attribute):
            return self._attribute(parent)
        if isinstance(parent, cst.Arg):
            return self._argument(parent)
        if isinstance(parent, (cst.Assign, cst.AnnAssign, cst.AugAssign)) and parent.value is node:
            return self._assigned(parent, node)
        if isinstance(parent, cst.Subscript) and parent.value is node:
            return "none" if self._indices(parent) else self.fate(parent)
        if isinstance(parent, (cst.Comparison, cst.ComparisonTarget)):
            return "none"
        if isinstance(parent, (cst.BinaryOperation, cst.UnaryOperation, cst.StarredElement, cst.IfExp)):
            return self.fate(parent)
        if isinstance(parent, (cst.List, cst.Tuple, cst.ListComp, cst.GeneratorExp, cst.Element)):
            return self.fate(parent)
        if isinstance(parent, (cst.For, cst.CompFor)) and parent.iter is node:
            return self._uses(node, "loop")
        if isinstance(parent, (cst.Expr, cst.Del)):
            return "none"
        return "kept"

    def _attribute(self, node: cst.Attribute) -> Fate:
        name = node.attr.value
        if name in _PLAIN:
            return "none"
        if name in _KEEPING:
            return "kept"
        parent = self._sem.file.parent(node)
        call = parent if isinstance(parent, cst.Call) and parent.func is node else None
        if name == "data" or (call is not None and name in _CUTTING):
            return "host" if self._read_by_host(call or node) else "none"
        if call is None:
            return self.fate(node)
        if name in ("item", "tolist"):
            return "host" if name in self._host else "none"
        if name == "numpy":
            return "kept"  # that fails on what has a graph: nothing is recorded here
        if name.endswith("_") and isinstance(self._sem.file.parent(call), cst.Expr):
            return "kept"
        return self.fate(call)

    def _argument(self, node: cst.Arg) -> Fate:
        call = self._sem.file.parent(node)
        if not isinstance(call, cst.Call):
            return "kept"
        name = self._sem.qualified(call.func) or ""
        if name in _IMAGES:
            return "host"
        last = name.rpartition(".")[2]
        if name.startswith(("torch.", "numpy.")):
            if last in _CUTTING:
                return "host" if self._read_by_host(call) else "none"
            return "kept" if name.startswith(("torch.autograd.", "torch.save")) else self.fate(call)
        builtin = call.func.value if isinstance(call.func, cst.Name) else ""
        if builtin in ("float", "int", "len"):
            return "none" if builtin == "len" or "item" not in self._host else "host"
        if builtin in _BUILTINS or (dotted(call.func) or "").rpartition(".")[2] == "tqdm":
            return self.fate(call)
        kind = self._sem.value(call.func).kind
        if kind in (Kind.LOSS_FN, Kind.MODULE):
            return self.fate(call)
        if isinstance(call.func, cst.Attribute) and self._sem.value(call.func.value).is_tensor:
            return "kept" if call.func.attr.value in _KEEPING or call.func.attr.value.endswith("_") else self.fate(call)
        return "kept"

    def _assigned(self, node: cst.Assign | cst.AnnAssign | cst.AugAssign, value: cst.CSTNode) -> Fate:
        targets = [t.target for t in node.targets] if isinstance(node, cst.Assign) else [node.target]
        names = set()
        for target in targets:
            parts = [e.value for e in target.elements] if isinstance(target, (cst.Tuple, cst.List)) else [target]
            if not all(isinstance(part, cst.Name) for part in parts):
                return "kept"
            names |= {part.value for part in parts if isinstance(part, cst.Name)}
        if self._seen_outside(names):
            return "kept"
        return self._uses(value, "value")

    def _seen_outside(self, names: set[str]) -> bool:
        """Whether some other function reads a variable of that name, which may be this one."""
        function = self._function
        if isinstance(function.node, cst.Module):
            inner = [f for f in self._sem.functions if f is not function and not names & set(f.local)]
        else:
            if self._sem.file.within(function.node, cst.Global):
                return True
            inner = [f for f in self._sem.functions if f.parent is function]
        return any(n.value in names for f in inner for n in self._sem.file.within(f.node, cst.Name))

    def _uses(self, value: cst.CSTNode, kind: Literal["value", "loop"]) -> Fate:
        """What becomes of the names that are bound to the value, or to its items."""
        reaching = self._sem.reaching(self._function)
        result: Fate = "none"
        for use, definitions in reaching.uses.items():
            carriers = [d for d in definitions if _carries(d, value, kind)]
            if not carriers or self._is_store(use):
                continue
            if all(_is_index(d) for d in carriers):
                fate: Fate = "host" if self._read_by_host(use) else "none"
            else:
                fate = self.fate(use)
            if fate == "kept":
                return "kept"
            if fate == "host":
                result = "host"
        return result

    def _read_by_host(self, node: cst.CSTNode) -> bool:
        """Whether values without a graph are asked for: `.cpu()`, `.item()`, `save_image(…)`, at once or by a name."""
        self._left -= 1
        parent = self._sem.file.parent(node)
        if self._left < 0 or parent is None:
            return False
        if isinstance(parent, cst.Attribute):
            call = self._sem.file.parent(parent)
            if not isinstance(call, cst.Call) or call.func is not parent:
                return self._read_by_host(parent)
            self.differentiated = self.differentiated or parent.attr.value == "backward"
            return parent.attr.value in self._host or self._read_by_host(call)
        if isinstance(parent, cst.Arg):
            call = self._sem.file.parent(parent)
            name = self._sem.qualified(call.func) or "" if isinstance(call, cst.Call) else ""
            self.differentiated = self.differentiated or call in self._differentiating
            return name in _IMAGES or (name.startswith("torch.") and call is not None and self._read_by_host(call))
        if isinstance(parent, (cst.Subscript, cst.BinaryOperation, cst.Comparison, cst.ComparisonTarget)):
            return self._read_by_host(parent)
        if isinstance(parent, (cst.Assign, cst.AugAssign)) and parent.value is node:
            uses = self._sem.reaching(self._function).uses.items()
            carried = [use for use, found in uses if any(_carries(d, node, "value") for d in found)]
            return True in [self._read_by_host(use) for use in carried]  # all of them looked at, for `backward()`
        return False

    def _is_store(self, use: cst.CSTNode) -> bool:
        """Whether the place is the target of `x += y` or `x[i] = y`, and no reading of its own."""
        parent = self._sem.file.parent(use)
        while isinstance(parent, cst.Subscript) and parent.value is use:
            use, parent = parent, self._sem.file.parent(parent)
        return isinstance(parent, (cst.AugAssign, cst.AssignTarget)) and parent.target is use

    def _indices(self, node: cst.Subscript) -> bool:
        """`x.max(1)[1]`, `torch.topk(x, 5)[1]`: positions, which have no graph."""
        call = node.value
        if not isinstance(call, cst.Call) or len(node.slice) != 1 or not isinstance(node.slice[0].slice, cst.Index):
            return False
        name = call.func.attr.value if isinstance(call.func, cst.Attribute) else ""
        number = node.slice[0].slice.value
        return name in _INDICES and isinstance(number, cst.Integer) and number.value == "1"


def _carries(definition: Definition, value: cst.CSTNode, kind: str) -> bool:
    if definition.node is value and definition.kind in (kind, "changed", "grown"):
        return True
    return any(_carries(before, value, kind) for before in definition.before)


def _is_index(definition: Definition) -> bool:
    """The second of `values, positions = torch.max(x, 1)`."""
    call = definition.node
    if definition.path != (1,) or not isinstance(call, cst.Call) or not isinstance(call.func, cst.Attribute):
        return False
    return call.func.attr.value in _INDICES
