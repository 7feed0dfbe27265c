"""In which mode code runs: train or eval, recording or not, by the file's own evidence and its own call sites."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.nodes import dotted
from torchlint.semantics.calls import bind_arguments
from torchlint.semantics.effects import Effect, Event, GradMode
from torchlint.semantics.loops import EvalRegion
from torchlint.semantics.names import OWN, Function

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics


def same_module(a: str, b: str) -> bool:
    """Whether two subjects may be the same module: equal, one inside the other, or one of them not known."""
    if not a or not b:
        return True
    a, b = a.removesuffix(".module"), b.removesuffix(".module")
    return a == b or a.startswith(b + ".") or b.startswith(a + ".")


def mode_at(sem: Semantics, function: Function, event: Event) -> tuple[str, tuple[Question, ...]]:
    """ "eval", "train" or "unknown": the mode of the event's module when it runs, by the file's own evidence.

    Looked for in the function above the event, then at all places in the file that call the function.
    """
    events = sem.events(function)
    found = last_mode(events, event) or _mode_of_wrapped(events, event) or _mode_of_alias(sem, function, event)
    if found:
        return found, ()
    return _mode_from_callers(sem, function, event.subject, frozenset(), {}), ()


def last_mode(events: list[Event], event: Event) -> str:
    result = ""
    for e in events:
        if e.order >= event.order:
            break
        if e.effect in (Effect.EVAL, Effect.TRAIN) and same_module(e.subject, event.subject):
            if e.detail == "conditional":
                result = "eval"  # model.train(phase == "train"): the user manages the mode
            else:
                result = "eval" if e.effect is Effect.EVAL else "train"
    return result


def _mode_of_wrapped(events: list[Event], event: Event) -> str:
    """The mode that was set of what the event's module is made of: `net = Wrapper(model)` after `model.eval()`."""
    return next((m for part in wrapped(event) if (m := last_mode(events, event.but(subject=part)))), "")


def wrapped(event: Event) -> list[str]:
    """What the event's module is made of: `model` of `net = Wrapper(model)`."""
    made = event.value.node
    return [text for arg in made.args if (text := dotted(arg.value))] if isinstance(made, cst.Call) else []


def _mode_of_alias(sem: Semantics, function: Function, event: Event) -> str:
    """The mode that was set of a parameter which callers bind to the event's own, global module: `val(net)` runs it."""
    events = sem.events(function)
    return next((m for name in aliases(sem, function, event) if (m := last_mode(events, event.but(subject=name)))), "")


def aliases(sem: Semantics, function: Function, event: Event) -> list[str]:
    """The parameters that a caller binds to the event's own, global module."""
    if event.subject.partition(".")[0] in function.local:
        return []
    sites = call_sites(sem, function)
    return [p for p in function.params if any(subject_at(function, s, p) == event.subject for s in sites)]


def _mode_from_callers(
    sem: Semantics, function: Function, subject: str, above: frozenset[str], known: dict[tuple[str, str, int], str]
) -> str:
    """What all places that call the function agree on. `known`: what was found out on other ways to the same
    caller, of which there may be thousands."""
    if function.qualname in above or len(above) > 8:
        return "unknown"
    key = function.qualname, subject, len(above)
    if key not in known:
        known[key] = _mode_at_callers(sem, function, subject, above | {function.qualname}, known)
    return known[key]


def _mode_at_callers(
    sem: Semantics, function: Function, subject: str, above: frozenset[str], known: dict[tuple[str, str, int], str]
) -> str:
    modes = set()
    for site in call_sites(sem, function):
        there = subject_at(function, site, subject)
        if there is None:
            return "unknown"
        mode = last_mode(sem.events(site.function), site.but(subject=there))
        modes.add(mode or _mode_from_callers(sem, site.function, there, above, known))
    if not modes:
        return "unknown"
    if modes == {"train", "eval"}:
        return "mixed"
    return modes.pop() if len(modes) == 1 else "unknown"


def subject_at(function: Function, site: Event, subject: str) -> str | None:
    """What a function's subject is called at a call site: the argument, the same attribute or global; None for
    locals."""
    root, dot, rest = subject.partition(".")
    if function.params and root == function.params[0] and function.is_method:
        return subject
    if root in function.params and isinstance(site.node, cst.Call):
        method = function.is_method and isinstance(site.node.func, cst.Attribute)
        arg = bind_arguments(function, site.node, method).get(root)
        text = dotted(arg.value) if arg is not None else None
        return text + dot + rest if text else ""
    return None if root in function.local else subject


def mode_after(events: list[Event], event: Event) -> str:
    """The mode set next behind the event, "" if none is."""
    for e in events:
        if e.order > event.order and e.effect in (Effect.EVAL, Effect.TRAIN) and same_module(e.subject, event.subject):
            return "eval" if e.effect is Effect.EVAL else "train"
    return ""


def call_sites(sem: Semantics, function: Function) -> list[Event]:
    """Where the file calls the function; for a method also where a base class calls it by the same name."""
    sites = list(sem.call_sites(function))
    if function.cls is not None:
        for base in list(sem.names.mro(function.cls))[1:]:
            twin = base.methods.get(function.name)
            if twin is not None:
                sites += sem.call_sites(twin)
            else:
                for method in base.methods.values():
                    for e in sem.events(method):
                        if e.effect is Effect.CALL and e.subject == f"self.{function.name}":
                            sites.append(e)
    return sites


def calls_by_name(sem: Semantics) -> dict[str, list[Event]]:
    """What a file's functions call of other files, by the last part of its name."""
    found: dict[str, list[Event]] = {}
    for function in sem.functions:
        for event in sem.events(function, Effect.CALL):
            if event.via is None:
                found.setdefault(event.target.rpartition(".")[2], []).append(event)
    return found


def always_off(sem: Semantics, function: Function) -> bool:
    """Whether every known call of the function happens with recording off."""
    seen: set[str] = set()
    waiting = [function]
    while waiting:
        current = waiting.pop()
        if current.qualname in seen or sem.summary(current).grad.off:
            continue
        seen.add(current.qualname)
        sites = call_sites(sem, current)
        if not sites:
            return False
        waiting += [s.function for s in sites if not s.grad.off]
    return True


def grad_mode(sem: Semantics, region: EvalRegion) -> GradMode:
    """Recording in the region, judged by what is around it, its function and the function's callers in this file."""
    first = region.forwards[0]
    if first.grad.off or always_off(sem, region.function):
        return GradMode(True)
    return first.grad


def loads_weights(sem: Semantics, subject: str) -> bool:
    """Whether the file loads the module's weights: `model.load_state_dict(torch.load(path))`."""
    for call in sem.file.all(cst.Call):
        if isinstance(call.func, cst.Attribute) and call.func.attr.value == "load_state_dict" and call.args:
            if (dotted(call.func.value) or "").removesuffix(".module") == subject.removesuffix(".module"):
                return True
    return False


def trained_here(sem: Semantics, function: Function, event: Event, *, by_name: bool = False) -> bool:
    """Whether the file trains the event's module and never puts it (by that name) into eval mode.

    What a helper puts into eval mode may be the module under another name, unless all go `by_name`.
    """
    last = event.subject.rpartition(".")[2]
    trained = False
    for other in sem.functions:
        events = sem.events(other)
        for e in events:
            if e.effect is Effect.EVAL and (
                not e.subject or e.subject.rpartition(".")[2] == last or (e.via is not None and not by_name)
            ):
                return False
        if any(e.effect is Effect.BACKWARD for e in events) and any(
            e.effect is Effect.FORWARD and e.subject.rpartition(".")[2] == last and not e.grad.off for e in events
        ):
            trained = True
    return trained


_HANDS_ON = frozenset("to cuda cpu half float train eval".split())


def classes_elsewhere(
    sem: Semantics, subject: str, function: Function | None = None, depth: int = 0
) -> tuple[str, ...]:
    """The classes of other files that the module of that name is made of: `Net` of `model = Net().to(device)`.

    Those of the modules that it is given follow: `Net(encoder)`. A parameter of the function is what its calls give.
    """
    for assign in sem.file.all(cst.Assign):
        if not any(dotted(t.target) == subject for t in assign.targets):
            continue
        made: cst.BaseExpression = assign.value
        while isinstance(made, cst.Call) and isinstance(made.func, cst.Attribute) and made.func.attr.value in _HANDS_ON:
            made = made.func.value
        name = sem.qualified(made.func) if isinstance(made, cst.Call) else None
        if name is not None and not name.startswith((OWN, "torch.")) and isinstance(made, cst.Call) and depth < 4:
            given = (dotted(a.value) for a in made.args)
            return (name, *(c for g in given if g is not None for c in classes_elsewhere(sem, g, None, depth + 1)))
    found: dict[str, None] = {}
    if function is not None and subject in function.params and depth < 4:
        for site in sem.call_sites(function):
            if isinstance(site.node, cst.Call) and (name := subject_at(function, site, subject)):
                found.update(dict.fromkeys(classes_elsewhere(sem, name, site.function, depth + 1)))
    return tuple(found)


def arrives_in_eval_mode(sem: Semantics, subject: str) -> bool:
    """Whether the file loads a module of that name with `from_pretrained`, which hands it out in eval mode, and calls
    `train()` nowhere."""
    name = re.escape(subject.rpartition(".")[2])
    if not name or not re.search(rf"\b{name}\s*=\s*[\w.]+\.from_pretrained\(", sem.file.text):
        return False
    return not any(e.effect is Effect.TRAIN for f in sem.functions for e in sem.events(f))


# A mode is set, or something trains, which may leave the module in either mode.
_SETS_MODES = re.compile(r"\.eval\(|\.train\(|\.backward\(|\.fit\(|trainer\b", re.IGNORECASE)


def only_loaded(sem: Semantics, event: Event) -> bool:
    """Whether the file makes the event's module of a class of the project, loads its weights, and never sets a mode nor
    trains anything.

    A new module is in train mode.
    """
    if sem.file.mentions(_SETS_MODES):
        return False
    own = sem.class_of(event.value.origin) is not None and not event.value.evidence
    if not own and not classes_elsewhere(sem, event.subject, event.function):
        return False
    sites = call_sites(sem, event.function) if event.subject in event.function.params else []
    names = {event.subject, *(subject_at(event.function, s, event.subject) or "" for s in sites)}
    return not event.subject.startswith("self.") and any(n and loads_weights(sem, n) for n in names)


def handed_to(event: Event, subject: str) -> bool:
    """Whether the event calls something outside the file that gets hold of the module, as an argument or as `self`."""
    if event.effect is not Effect.CALL or event.target.startswith(("?", "torch.", "numpy.")):
        return False
    if event.target.startswith(OWN):
        return True
    root = subject.partition(".")[0]
    call = event.origin or event.node
    if not isinstance(call, cst.Call):
        return False
    return any((dotted(a.value) or "").partition(".")[0] == root for a in call.args)
