"""Whether a decorator or a context manager turns recording off: torch's own, the file's, or a question to another
file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.nodes import argument, dotted, literal, walk
from torchlint.semantics import knowledge
from torchlint.semantics.effects import GradMode
from torchlint.semantics.expressions import own_callee
from torchlint.semantics.frames import Frame
from torchlint.semantics.names import OWN, Function

if TYPE_CHECKING:
    from torchlint.semantics.evaluate import Evaluator

# Packages whose decorators and context managers are known to leave grad mode alone.
_FOREIGN = frozenset(
    """builtins functools contextlib typing dataclasses abc hydra click pytest unittest numba numpy tqdm wandb mlflow
    staticmethod classmethod property logging warnings threading multiprocessing time os sys pathlib io open tempfile
    zipfile tarfile h5py PIL cv2 matplotlib pandas tensorboardX line_profiler ray apex typer fire argparse rich beartype
    jaxtyping overrides tensorflow jax accelerate""".split()
)


def decorated(ev: Evaluator, function: Function) -> GradMode:
    mode = GradMode()
    if isinstance(function.node, cst.FunctionDef):
        for decorator in function.node.decorators:
            target = decorator.decorator
            call = target if isinstance(target, cst.Call) else None
            mode = mode.or_off(disables(ev, call.func if call else target, call, function))
    return mode


def disables(ev: Evaluator, target: cst.BaseExpression, call: cst.Call | None, function: Function) -> GradMode:
    """The grad mode under a decorator or a with item."""
    name = ev.names.qualify(target, function)
    if name is None:
        if isinstance(target, cst.Call):
            return disables(ev, target.func, target, function)
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
    if name in ev.grad_disabling or last in ("no_grad", "inference_mode", "no_grad_wrapper"):
        return GradMode(True)
    own = name.removeprefix(OWN)
    if name.startswith(OWN):
        if own in ev.names.functions:
            return GradMode(body_disables(ev, ev.names.functions[own]))
        if own in ev.names.classes:
            cls = ev.names.classes[own]
            enter = ev.names.method(cls, "__enter__") or ev.names.method(cls, "__call__")
            return GradMode(enter is not None and body_disables(ev, enter))
        return GradMode()
    if name.partition(".")[0] in _FOREIGN or name.startswith("torch."):
        return GradMode()
    return GradMode(unless=(Question("disables-grad", name),))


def body_disables(ev: Evaluator, function: Function) -> bool:
    """Whether a decorator or context manager of this file turns recording off somewhere in its body."""
    for node in walk(function.node):
        if isinstance(node, (cst.Name, cst.Attribute)):
            name = ev.names.qualify(node, function)
            if name in knowledge.GRAD_OFF or name in knowledge.GRAD_SET:
                return True
    return False


def method_disables(ev: Evaluator, target: cst.Attribute, frame: Frame) -> GradMode:
    function = own_callee(ev, target, frame)
    return GradMode(function is not None and body_disables(ev, function))
