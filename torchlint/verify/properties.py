"""Properties of training code that a bug fix must restore: broken before, holding after.

Each has the signature of `Case.property`: `(entry, inputs) -> None | how it is broken`. Factories take parameters first
(`accumulation_scaled(4)`, `grad_mode_off("model")`). They watch the program from outside, by torch's own hooks.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast
from unittest import mock

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode

from torchlint.verify.walk import walk_state

Entry = Callable[..., Any]
Property = Callable[[Entry, dict[str, Any]], "str | None"]

TOLERANCE = 1e-4
_REDUCED_LOSSES = {
    "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "poisson_nll_loss",
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cosine_embedding_loss", "margin_ranking_loss",
    "hinge_embedding_loss", "soft_margin_loss", "triplet_margin_loss", "gaussian_nll_loss", "ctc_loss",
}  # fmt: skip


# -- gradients --------------------------------------------------------------------------------------------------------


class Ledger:
    """What each backward adds to each gradient, and whether an optimizer step sees exactly the sum of it."""

    def __init__(self) -> None:
        self.parameters: list[torch.Tensor] = []
        self.owed: dict[int, torch.Tensor] = {}
        self.others: dict[int, torch.Tensor] = {}  # of `owed`, what was there when another optimizer stepped last
        self.backwards = 0
        self.steps: list[float] = []  # relative deviation per step
        self.shares: list[float] = []  # backward root / reduced loss since the last step
        self.scales: list[float] = []  # sum of the shares at each step
        self.last_loss: float | None = None
        self.on_backward: Callable[[torch.Tensor], None] | None = None

    @contextlib.contextmanager
    def watching(self, inputs: Mapping[str, Any]) -> Iterator[None]:
        self.parameters = [
            v for _, v in walk_state(dict(inputs), "") if isinstance(v, torch.Tensor) and v.is_leaf and v.requires_grad
        ]
        real, construct = torch.autograd.backward, torch.optim.Optimizer.__init__

        def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
            root = tensors if isinstance(tensors, torch.Tensor) else next(iter(tensors))
            self.around(lambda: real(tensors, *args, **kwargs), root)

        def constructed(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            construct(optimizer, *args, **kwargs)
            self.follow(optimizer)

        before = register_optimizer_step_pre_hook(self.settle)
        try:
            with (
                mock.patch.object(torch.autograd, "backward", backward),
                mock.patch.object(torch.optim.Optimizer, "__init__", constructed),
                _LossWatch(self),
            ):
                yield
        finally:
            before.remove()

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Watch what an optimizer updates that is not watched yet."""
        known = {id(p) for p in self.parameters}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.parameters.extend(p for p in parameters if id(p) not in known)

    def around(self, backward: Callable[[], Any], root: torch.Tensor) -> None:
        """Run a backward and book what it adds."""
        if self.on_backward is not None:
            self.on_backward(root)
        earlier = [None if p.grad is None else p.grad.detach().clone() for p in self.parameters]
        backward()
        self.backwards += 1
        for parameter, old in zip(self.parameters, earlier):
            if parameter.grad is None:
                continue
            added = parameter.grad.detach().double() - (0 if old is None else old.double())
            key = id(parameter)
            self.owed[key] = self.owed[key] + added if key in self.owed else added
        value = float(root.detach()) if root.numel() == 1 else math.nan
        if self.last_loss:
            self.shares.append(value / self.last_loss)

    def settle(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Close the account of one step. One factor for all gradients is fair: clipping by norm and unscaling."""
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        since: list[tuple[torch.Tensor, torch.Tensor]] = []  # the same without what other optimizers' losses left
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                due, others = self.owed.pop(id(parameter), None), self.others.pop(id(parameter), None)
                grad = None if parameter.grad is None else parameter.grad.detach().double()
                if due is None and grad is None:
                    continue
                due = torch.zeros_like(cast(torch.Tensor, grad)) if due is None else due
                grad = torch.zeros_like(due) if grad is None else grad
                pairs.append((grad, due))
                since.append((grad, due if others is None else due - others))
        self.others.update(self.owed)
        off = _deviation(pairs)
        if off > TOLERANCE and any(bool(due.any()) for _, due in since):
            off = min(off, _deviation(since))  # a loop may clear them before its own backward, as GANs do
        self.steps.append(off)
        self.scales.append(sum(self.shares))
        self.shares.clear()


def _deviation(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """How far gradients are from what is due, but for one factor for all of them."""
    owed = sum(float(due.pow(2).sum()) for _, due in pairs)
    factor = sum(float((grad * due).sum()) for grad, due in pairs) / owed if owed else 0.0
    if factor > 0:
        off = sum(float((grad / factor - due).pow(2).sum()) for grad, due in pairs)
        return math.sqrt(off / owed)
    return math.inf if owed or any(bool(grad.any()) for grad, _ in pairs) else 0.0


class _LossWatch(TorchFunctionMode):
    """Notes the value of the last reduced loss, whichever function or module computed it."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if (
            getattr(func, "__name__", "") in _REDUCED_LOSSES
            and isinstance(result, torch.Tensor)
            and result.numel() == 1
        ):
            self._ledger.last_loss = float(result.detach())
        return result


def note_losses(ledger: Ledger) -> None:
    """Let the ledger know of every reduced loss of this process, for good: modules call these functions too."""

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if isinstance(result, torch.Tensor) and result.numel() == 1:
                ledger.last_loss = float(result.detach())
            return result

        return call

    for name in _REDUCED_LOSSES:
        setattr(torch.nn.functional, name, noted(getattr(torch.nn.functional, name)))


def gradient_ledger(entry: Entry, inputs: dict[str, Any]) -> str | None:
    """At every optimizer step the gradient is the sum of what backward added since that optimizer's last step.

    Or that sum times one factor for all parameters, as clipping by norm and unscaling make it; so a factor is not seen.

    Broken by gradients that are never cleared, cleared between backward and step, or cleared for each micro-batch.
    Blind to a missing division by the number of micro-batches: see `accumulation_scaled`.
    """
    ledger = Ledger()
    with ledger.watching(inputs):
        entry(**inputs)
    if not ledger.steps:
        return "no optimizer step was made"
    bad = [deviation for deviation in ledger.steps if not deviation <= TOLERANCE]
    if not bad:
        return None
    steps = f"{len(bad)} of {len(ledger.steps)} steps"
    return f"{steps} use a gradient that is not what backward added (off by {max(bad):.2g})"


def accumulation_scaled(entry: Entry, inputs: dict[str, Any]) -> str | None:
    """The shares with which the micro-batches' losses enter a step add up to one (each `loss / N`), the ledger holding.

    A ragged last group may add up to less.
    """
    ledger = Ledger()
    with ledger.watching(inputs):
        entry(**inputs)
    if not ledger.steps:
        return "no optimizer step was made"
    return unbooked(ledger.steps) or misweighed(ledger.scales)


def unbooked(steps: Sequence[float]) -> str | None:
    """How the ledger is broken, by the deviation of each step."""
    bad = [deviation for deviation in steps if not deviation <= TOLERANCE]
    return f"{len(bad)} of {len(steps)} steps use a gradient that is not what backward added" if bad else None


def misweighed(scales: Sequence[float]) -> str | None:
    """How the shares of the micro-batches' losses in each step do not add up to one."""
    if not any(scales):
        return "no backward of a reduced loss was seen"
    off = [s for s in scales[:-1] or scales if abs(s - 1) > 1e-3]
    off += [s for s in scales[-1:] if s > 1 + 1e-3 and len(scales) > 1]
    if off:
        return f"{len(off)} of {len(scales)} steps weigh the micro-batches' losses with {off[0]:.4g} in all, not 1"
    return None


def every_batch_counts(entry: Entry, inputs: dict[str, Any]) -> str | None:
    """No gradient is left over: after the last backward comes a step that uses it."""
    ledger = Ledger()
    with ledger.watching(inputs):
        entry(**inputs)
    if not ledger.steps:
        return "no optimizer step was made"
    return unused(ledger)


def unused(ledger: Ledger) -> str | None:
    """Whether something is still owed at the end."""
    left = sum(float(owed.abs().sum()) for owed in ledger.owed.values())
    return "gradients of the last micro-batches are never used by a step" if left > 0 else None


def has_parameters(module: torch.nn.Module) -> bool:
    """A module without parameters (a loss, an activation) has no mode that matters to training."""
    return any(True for _ in module.parameters())


def in_eval_mode(forwards: Sequence[tuple[bool, bool]]) -> bool:
    """Whether the last recorded forward before a backward ran in eval mode; of (grad mode, training flag) pairs."""
    recorded = [training for grad, training in forwards if grad]
    return bool(recorded) and not recorded[-1]


def stuck(late: Sequence[bool]) -> str | None:
    """How training goes on in eval mode; by backward."""
    return f"{sum(late)} of {len(late)} training steps run in eval mode" if any(late) else None


def skips_a_rate(early: int) -> str | None:
    """How a scheduler that steps ahead of the first optimizer step skips the first value of its schedule."""
    return f"{early} scheduler steps come before the first optimizer step" if early else None


def unregistered(modules: Iterable[torch.nn.Module]) -> str | None:
    """How layers are kept in plain lists, tuples or dicts, where no optimizer, checkpoint or `.to()` meets them."""
    for root in modules:
        known = {id(m) for m in root.modules()}
        for module in root.modules():
            for name, value in vars(module).items():
                if not isinstance(value, (list, tuple, dict)):
                    continue
                kept = value.values() if isinstance(value, dict) else value
                lost = [m for m in kept if isinstance(m, torch.nn.Module) and id(m) not in known and has_parameters(m)]
                if lost:
                    where = f"{type(module).__name__}.{name}"
                    return f"{len(lost)} layers of {where} are missing from parameters() and state_dict()"
    return None


def survey(entry: Entry, inputs: dict[str, Any]) -> dict[str, str | None]:
    """All that the fixes of training bugs restore, from one call: how each property is broken, None where it holds.

    A property that the call says nothing about is left out. Models and optimizers may be made inside the call.
    """
    ledger = Ledger()
    forwards: list[tuple[bool, bool]] = []  # grad mode and training flag, since the last backward
    evaluated: list[bool] = []
    late: list[bool] = []
    depth = 0

    def enter(module: torch.nn.Module, *_: Any) -> None:
        nonlocal depth
        if not depth and has_parameters(module):
            forwards.append((torch.is_grad_enabled(), module.training))
            if any(True for _ in module.children()):
                evaluated.append(module.training)
        depth += 1

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    def passed(_: torch.Tensor) -> None:
        late.append(in_eval_mode(forwards))
        forwards.clear()

    ledger.on_backward = passed
    modules = [m for v in inputs.values() if isinstance(v, torch.nn.Module) for m in v.modules()]
    flags = [m.training for m in modules]
    hooks = [
        torch.nn.modules.module.register_module_forward_pre_hook(enter),
        torch.nn.modules.module.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        with ledger.watching(inputs):
            entry(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[str, str | None] = {}
    if ledger.steps:
        found["ledger"] = unbooked(ledger.steps)
        if any(ledger.scales):
            found["scale"] = found["ledger"] or misweighed(ledger.scales)
        found["tail"] = unused(ledger)
    if late:
        found["train mode"] = stuck(late)
    elif evaluated:
        training = sum(evaluated)
        changed = sum(m.training != flag for m, flag in zip(modules, flags))
        found["eval mode"] = f"{training} of {len(evaluated)} forwards run in training mode" if training else None
        if changed and not training:
            found["eval mode"] = f"the training flag of {changed} modules is left changed"
    given = [v for v in (*inputs.values(), *inputs.get("args", ())) if isinstance(v, torch.nn.Module)]
    if given:
        found["registered"] = unregistered(m for m in given if "_modules" in vars(m))
    return found


# -- modes ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _forwards(inputs: Mapping[str, Any]) -> Iterator[list[tuple[bool, bool]]]:
    """(grad mode, training flag) of each forward of an outermost module among the inputs."""
    seen: list[tuple[bool, bool]] = []

    def hook(module: torch.nn.Module, *_: Any) -> None:
        seen.append((torch.is_grad_enabled(), module.training))

    modules = [v for v in inputs.values() if isinstance(v, torch.nn.Module) and any(True for _ in v.children())]
    modules = modules or [v for v in inputs.values() if isinstance(v, torch.nn.Module)]
    handles = [m.register_forward_pre_hook(hook) for m in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def grad_mode_off(entry: Entry, inputs: dict[str, Any]) -> str | None:
    """Every forward of the models among the inputs runs without recording a graph, and grad mode is back on after."""
    with _forwards(inputs) as seen, torch.enable_grad():
        entry(**inputs)
        if not torch.is_grad_enabled():
            return "grad mode is left off"
    if not seen:
        return "no forward was seen"
    recording = sum(grad for grad, _ in seen)
    return f"{recording} of {len(seen)} forwards record a graph" if recording else None


def eval_mode_in_region(entry: Entry, inputs: dict[str, Any]) -> str | None:
    """Every forward of the models runs in eval mode, and each module's training flag is afterwards what it was."""
    modules = [m for v in inputs.values() if isinstance(v, torch.nn.Module) for m in v.modules()]
    flags = [m.training for m in modules]
    ledger = Ledger()
    with _forwards(inputs) as seen, ledger.watching({}):
        entry(**inputs)
    if not seen or ledger.backwards:
        return "no evaluation was seen"
    training = sum(mode for _, mode in seen)
    if training:
        return f"{training} of {len(seen)} forwards run in training mode"
    changed = sum(m.training != flag for m, flag in zip(modules, flags))
    return f"the training flag of {changed} modules is left changed" if changed else None


def train_mode_restored(entry: Entry, inputs: dict[str, Any]) -> str | None:
    """Every backward follows a forward in training mode: evaluation inside the loop does not leave eval mode on."""
    late: list[bool] = []
    with _forwards(inputs) as seen:
        real = torch.autograd.backward

        def backward(*args: Any, **kwargs: Any) -> None:
            recorded = [mode for grad, mode in seen if grad]
            late.append(bool(recorded) and not recorded[-1])
            seen.clear()
            real(*args, **kwargs)

        with mock.patch.object(torch.autograd, "backward", backward):
            entry(**inputs)
    if not late:
        return "no backward was seen"
    return f"{sum(late)} of {len(late)} training steps run in eval mode" if any(late) else None


# -- data in parallel -------------------------------------------------------------------------------------------------


def shards_disjoint(shards: Sequence[Sequence[Any]], whole: Sequence[Any]) -> str | None:
    """The ranks' shards cover the data and overlap only in the padding that makes them equally long."""
    counts: dict[Any, int] = {}
    for shard in shards:
        for item in shard:
            counts[item] = counts.get(item, 0) + 1
    lost = [item for item in whole if item not in counts]
    if lost:
        return f"{len(lost)} of {len(whole)} samples are on no rank"
    if len({len(shard) for shard in shards}) > 1:
        return f"shards differ in length: {[len(shard) for shard in shards]}"
    padding = sum(counts.values()) - len(whole)
    if padding >= len(shards):
        return f"ranks share {padding} samples: each trains on its neighbours' data"
    return None


def ranks_equal(states: Sequence[Mapping[str, torch.Tensor]]) -> str | None:
    """All ranks hold the same parameters, to the last bit."""
    first = states[0]
    for rank, state in enumerate(states[1:], 1):
        for name, tensor in first.items():
            if name not in state or not torch.equal(tensor, state[name]):
                return f"rank {rank} differs from rank 0 in {name}"
    return None
