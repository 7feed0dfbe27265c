"""Order questions about the events of a training loop: who clears whose gradients, what is guarded by what, what may
happen in calls that this file does not define.

Every function here answers from kinds, subjects and order; names only ever *silence*: a call that is spelled as if it
handled gradients is never held against the code around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.nodes import dotted, find, literal, walk
from torchlint.semantics.effects import Effect, Event
from torchlint.semantics.kinds import Kind
from torchlint.semantics.model import Semantics
from torchlint.semantics.names import OWN
from torchlint.spelling import spelled

_CLEARED = re.compile(r"zero|clear|reset|empty|clean|flush|discard|none|null|free|wipe")
_CLEARED_AFTER = re.compile(r"zero|clear|reset|none|clean")
_HANDLING = re.compile(
    r"grad|optim|backward|backprop|hook|callback|closure|fire_event|learn|(^|_)train(_|$)|(^|_)(train|fit|do|run|one|closure)_?step|^step"
    r"|update_(param|weight|model|net)",
    re.I,
)
_HARMLESS = re.compile(
    r"eval|valid|test|save|dump|log|plot|draw|show|print|info|debug|warn|acc(?!um)|metric|meter|loss|crit|sample|generat|checkpoint|ckpt|ema"
    r"|write|add_|append|extend|record|lr$|lr_|learning_rate|sched|summar|hist|infer|predict|track|progress|pbar|bar$|postfix|description|timer"
    r"|^update$|set_|requires_grad|clip|grad_norm|norm_grad|get_|^is_|^has_|state_dict|no_sync|autocast|freeze|no_grad|enable_grad|synchronize|barrier",
    re.I,
)
_LOOKING = frozenset(
    "add_histogram add_scalar add_scalars log info debug warning histogram isnan isfinite isinf log_value".split()
)
_MEASURES = frozenset("norm mean std var item max min any all".split())
# Libraries whose functions are known not to touch gradients: asking the project about them would find nothing.
_INERT = re.compile(
    r"^(torch|torchvision|torchaudio|torchtext|numpy|math|random|time|os|sys|re|json|copy|logging|collections|itertools"
    r"|functools|tqdm|wandb|tensorboard|tensorboardX|matplotlib|pandas|scipy|sklearn|PIL|cv2|einops|typing|pickle|shutil"
    r"|pathlib|datetime|gc|warnings|string|argparse|yaml|h5py|psutil|subprocess|glob|mlflow)\."
)


# -- parameters -------------------------------------------------------------------------------------------------------


def call_of(event: Event) -> cst.CSTNode:
    """The node at which the effect really happens: in the callee, if the event was replayed from one."""
    return event.origin if event.origin is not None else event.node


def has_closure(step: Event) -> bool:
    """Whether the step is given a closure, which clears and runs backward itself."""
    call = call_of(step)
    return step.detail != "scaler" and isinstance(call, cst.Call) and bool(call.args)


def owners(step: Event) -> frozenset[str]:
    """The modules (as dotted text) whose `.parameters()` the step's optimizer was built from, where that is known."""
    made = step.value.node
    if not isinstance(made, cst.Call):
        return frozenset()
    found = set()
    for call in find(made, cst.Call):
        if isinstance(call.func, cst.Attribute) and call.func.attr.value in ("parameters", "named_parameters"):
            name = dotted(call.func.value)
            if name is not None:
                found.add(_kept_as(name, made, step))
    return frozenset(found)


def _kept_as(name: str, made: cst.Call, step: Event) -> str:
    """`self.net` for the `net` of `self.net = net; self.opt = SGD(net.parameters())`, where another method steps."""
    cls = step.function.cls
    if cls is None or "." in name or not step.subject.startswith("self."):
        return name
    maker = next((m for m in cls.methods.values() if any(n is made for n in walk(m.node))), None)
    for assign in find(maker.node, cst.Assign) if maker is not None else ():
        value = assign.value
        while isinstance(value, cst.Call) and isinstance(value.func, cst.Attribute):
            value = value.func.value  # self.net = net.to(device)
        target = dotted(assign.targets[0].target)
        if dotted(value) == name and target is not None and target.startswith("self."):
            return target
    return name


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def surely_clears(clear: Event, step: Event) -> bool:
    """Whether the clear certainly drops the gradients that the step applies."""
    if not clear.subject or not step.subject:
        return False
    if clear.subject == step.subject:
        return True
    mine = owners(step)
    if clear.value.kind is Kind.OPTIMIZER:
        return bool(mine) and clear.value.node is step.value.node
    return bool(mine) and clear.value.kind is Kind.MODULE and all(_under(owner, clear.subject) for owner in mine)


def may_clear(clear: Event, step: Event, steps: Iterable[Event]) -> bool:
    """Whether the clear could drop the gradients that the step applies. False only where it certainly is another's.

    A clear is another's if it names an optimizer that takes steps of its own here and shares no module with this one,
    or a module whose parameters went to another optimizer and not to this one.
    """
    if clear.subject in ("", "parameters", step.subject) or not step.subject:
        return True
    if _indexed(clear) or _indexed(step) or _loop_variable(clear) or _loop_variable(step):
        return True
    mine = owners(step)
    others = [s for s in steps if s.subject and s.subject != step.subject]
    if any(s.subject == clear.subject for s in others):
        return bool(mine & owners(clear)) or _same_object(clear, step)
    for other in others:
        if clear.value.kind is Kind.OPTIMIZER:
            break
        theirs = owners(other)
        if mine and theirs and any(_related(clear.subject, t) for t in theirs):
            return any(_related(clear.subject, m) for m in mine)
    return True


def _related(a: str, b: str) -> bool:
    return _under(a, b) or _under(b, a)


def _same_object(a: Event, b: Event) -> bool:
    return a.value.node is not None and a.value.node is b.value.node


def _indexed(event: Event) -> bool:
    return "[" in event.subject


def _loop_variable(event: Event) -> bool:
    """Whether the subject is bound by a loop around the event: `for optimizer in optimizers: optimizer.step()`."""
    root = event.subject.partition(".")[0]
    return any(isinstance(loop, cst.For) and root in bound_names(loop.target) for loop in event.loops)


def bound_names(target: cst.CSTNode) -> set[str]:
    """Plain names at or under an assignment target."""
    return {n.value for n in walk(target) if isinstance(n, cst.Name)}


def assigned_in(loop: cst.For | cst.While) -> set[str]:
    """Dotted names that one turn of the loop binds or increments, the loop's own target included."""
    found = bound_names(loop.target) if isinstance(loop, cst.For) else set()
    for node in walk(loop.body):
        if isinstance(node, (cst.AssignTarget, cst.AugAssign, cst.AnnAssign, cst.NamedExpr)):
            name = dotted(node.target)
            found |= {name} if name is not None else bound_names(node.target)
        elif isinstance(node, cst.For):
            found |= bound_names(node.target)
    return found


# -- gradients outside of events --------------------------------------------------------------------------------------


def bodies(events: Iterable[Event], node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The loop (or function) and every function of this file in which one of the events really happens."""
    yield node
    seen: set[int] = set()
    for event in events:
        if event.via is not None and id(event.via) not in seen:
            seen.add(id(event.via))
            yield event.via.node


def handles_grad(events: Iterable[Event], node: cst.CSTNode) -> bool:
    """Whether the code reads or writes `.grad` itself: then who clears what is beyond events. Looking at gradients (to
    log them, to ask for their norm or whether there are any) is neither."""
    for body in bodies(events, node):
        for n in walk(body, into=_may_use_grad):
            if isinstance(n, cst.Attribute) and n.attr.value in ("grad", "_grad", "main_grad") and not _is_autograd(n):
                return True
    return False


def _may_use_grad(node: cst.CSTNode) -> bool:
    """False for what only looks at values: `writer.add_histogram(name, p.grad)`, `p.grad.norm()`, `p.grad is None`."""
    if isinstance(node, cst.Comparison):
        return not any(isinstance(c.operator, (cst.Is, cst.IsNot)) for c in node.comparisons)
    if not isinstance(node, cst.Call):
        return True
    if isinstance(node.func, cst.Attribute):
        name = node.func.attr.value
        return name not in _LOOKING and not (name in _MEASURES and _grad_in(node.func.value))
    return dotted(node.func) != "print"


def writes_grad(events: Iterable[Event], node: cst.CSTNode) -> bool:
    """Whether `.grad` is assigned, deleted or changed in place: `p.grad = g`, `del p.grad`, `p.grad.mul_(0)`."""
    for body in bodies(events, node):
        for n in walk(body):
            if isinstance(n, (cst.AssignTarget, cst.AugAssign, cst.AnnAssign)):
                targets: list[cst.CSTNode] = [n.target]
            elif isinstance(n, cst.Del):
                targets = [n.target]
            elif isinstance(n, cst.Call):
                if isinstance(n.func, cst.Attribute) and n.func.attr.value.endswith("_") and _grad_in(n.func.value):
                    return True
                if dotted(n.func) in ("setattr", "delattr") and any(literal(a.value) == "grad" for a in n.args):
                    return True
                continue
            else:
                continue
            if any(_grad_in(t) for t in targets):
                return True
    return False


def _grad_in(node: cst.CSTNode) -> bool:
    return any(
        isinstance(n, cst.Attribute) and n.attr.value in ("grad", "_grad", "main_grad") and not _is_autograd(n)
        for n in walk(node)
    )


def _is_autograd(node: cst.Attribute) -> bool:
    return (dotted(node.value) or "").rpartition(".")[2] in ("autograd", "func", "functional", "jax")


def clears(name: str) -> bool:
    """Whether a name is spelled like what clears gradients: `zero_grad`, `resetGradients`, `grads_to_none`."""
    name = name.lower()
    at = name.find("grad")
    if at < 0:
        return False
    cleared = _CLEARED.search(name)
    before = cleared is not None and name.find("grad", cleared.end()) >= 0
    return before or _CLEARED_AFTER.search(name, at + 4) is not None


def mentions_clearing(events: Sequence[Event], node: cst.CSTNode) -> bool:
    """Whether some name that is no recognised clear is spelled like one: `zero_grad=True`, `opt.clear_gradients()`."""
    known = {id(call_of(e)) for e in events if e.effect is Effect.ZERO_GRAD}
    for body in bodies(events, node):
        skipped: set[int] = set()
        for n in walk(body):
            if isinstance(n, cst.Call) and id(n) in known and isinstance(n.func, cst.Attribute):
                skipped.add(id(n.func.attr))
            elif isinstance(n, cst.Name) and id(n) not in skipped and clears(n.value):
                return True
    return False


# -- calls of things that this file does not define -------------------------------------------------------------------


@dataclass(frozen=True)
class Strangers:
    """What calls into the unknown could do. `opaque`: one of them may have the effect and nobody can be asked."""

    questions: tuple[Question, ...] = ()
    opaque: bool = False


def strangers(sem: Semantics, events: Iterable[Event], ask: str, named: frozenset[str]) -> Strangers:
    """Whether calls among the events may have an effect (`ask`: "zeroes-gradients", "runs-backward", …).

    A call of something that other files define becomes a question. A method of an unknown object is opaque if its name
    sounds like gradient handling or if it is handed one of the `named` things (the optimizer, the model, the loss).
    """
    questions: list[Question] = []
    opaque = False
    for event in events:
        if event.effect is not Effect.CALL or _inert(event):
            continue
        last = event.target.rpartition(".")[2]
        harmless = bool(_HARMLESS.search(last)) and not clears(last)
        if not event.target.startswith("?"):
            question = Question(ask, event.target)
            if question not in questions:
                questions.append(question)
            if not event.target.startswith(OWN):
                continue
        if harmless or (last == "step" and _is_environment(sem, event)):
            continue
        if _HANDLING.search(last) or _holds(sem, call_of(event), named):
            opaque = True
    return Strangers(tuple(questions), opaque)


def _is_environment(sem: Semantics, event: Event) -> bool:
    """Whether an unknown `step` is that of a world to act in: it is given an action and gives four or five things back,
    and what has it is reset elsewhere."""
    call = call_of(event)
    if not isinstance(call, cst.Call) or not call.args or not isinstance(call.func, cst.Attribute):
        return False
    parent = sem.file.parent(call)
    if not isinstance(parent, cst.Assign) or not isinstance(parent.targets[0].target, cst.Tuple):
        return False
    name = dotted(call.func.value)
    return (
        name is not None
        and len(parent.targets[0].target.elements) in (4, 5)
        and re.search(rf"\b{re.escape(name)}\.reset\(", sem.file.text) is not None
    )


def _inert(event: Event) -> bool:
    return _INERT.match(event.target) is not None


def _holds(sem: Semantics, call: cst.CSTNode, named: frozenset[str]) -> bool:
    """Whether the call is handed a model, an optimizer, or one of the named things."""
    if not isinstance(call, cst.Call):
        return False
    for arg in call.args:
        if sem.value(arg.value).kind in (Kind.OPTIMIZER, Kind.MODULE, Kind.SCALER):
            return True
        name = dotted(arg.value)
        if name is not None and (name in named or name == "self"):
            return True
    return False


def parts(events: Iterable[Event]) -> frozenset[str]:
    """What gradients hang on: the losses, the models, the optimizers, as dotted text."""
    wanted = (Effect.BACKWARD, Effect.FORWARD, Effect.STEP)
    return frozenset(e.subject for e in events if e.effect in wanted and e.subject)


# -- guards -----------------------------------------------------------------------------------------------------------


def guard_keys(loop: cst.CSTNode, event: Event) -> frozenset[tuple[int, bool]]:
    """The guards between the loop and the event, comparable."""
    return frozenset((id(g.node), g.taken) for g in event.guards_in(loop))


def always_before(loop: cst.CSTNode, earlier: Event, later: Event) -> bool:
    """Whether the earlier event has run whenever the later one runs: its guards are among the later one's, or ask the
    same of what the loop does not change."""
    missing = guard_keys(loop, earlier) - guard_keys(loop, later)
    if not missing:
        return True
    changed = assigned_in(loop) if isinstance(loop, (cst.For, cst.While)) else None
    mine = {(spelled(g.test), g.taken) for g in later.guards_in(loop)}
    return changed is not None and all(
        (spelled(g.test), g.taken) in mine
        and not any(dotted(n) in changed or isinstance(n, cst.Call) for n in walk(g.test))
        for g in earlier.guards_in(loop)
        if (id(g.node), g.taken) in missing
    )


# -- statements -------------------------------------------------------------------------------------------------------


def line_of(sem: Semantics, node: cst.CSTNode) -> cst.SimpleStatementLine | None:
    """The statement line that holds the node; None where it shares a line with a compound statement's header."""
    for ancestor in sem.file.ancestors(node):
        if isinstance(ancestor, cst.SimpleStatementLine):
            return ancestor
        if isinstance(ancestor, (cst.BaseCompoundStatement, cst.SimpleStatementSuite)):
            return None
    return None


def lone_line(sem: Semantics, event: Event) -> cst.SimpleStatementLine | None:
    """The line whose only content is the call that makes the event (`optimizer.step()`), so that it can be moved."""
    call = call_of(event)
    line = line_of(sem, call)
    if line is None or len(line.body) != 1:
        return None
    small = line.body[0]
    return line if isinstance(small, cst.Expr) and small.value is call else None


def optimizer_text(sem: Semantics, step: Event) -> str | None:
    """How the step's own call names its optimizer: `opt` of `opt.step()` and of `scaler.step(opt)`."""
    call = call_of(step)
    if not isinstance(call, cst.Call):
        return None
    if step.detail == "scaler":
        return sem.file.code(call.args[0].value) if call.args and not call.args[0].star else None
    return sem.file.code(call.func.value) if isinstance(call.func, cst.Attribute) else None


def distributed_autograd(sem: Semantics, events: Iterable[Event]) -> bool:
    """Whether gradients live in a `torch.distributed.autograd` context, which starts empty each time."""
    for event in events:
        call = call_of(event)
        if event.effect is Effect.BACKWARD and isinstance(call, cst.Call):
            if (sem.qualified(call.func) or "").startswith("torch.distributed.autograd"):
                return True
    return False
