"""Whether a model that is wrapped for several GPUs is trained there, and which other files have to say so.

A wrap alone is no evidence: inference, feature extraction and checkpoint conversion wrap models too. A model is trained
if a backward pass is reached with it: in the function around the wrap, in one that it calls, in the class that keeps
the model, or in the caller that gets it returned. What lies in another file becomes a question.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import libcst as cst

from torchlint.diagnostic import Question
from torchlint.migrate.script import Script
from torchlint.nodes import dotted, walk, walk_scope

# Asks the project: "no file that uses this name runs backward".
NOT_TRAINED = "not-trained"
_TRAINER = re.compile(r"train(?!ing_data|_?loader|_?set)|fit$|solver|learner", re.I)
# Libraries that take a model and distribute it themselves.
_FRAMEWORKS = (
    "transformers",
    "pytorch_lightning",
    "lightning",
    "accelerate",
    "fastai",
    "skorch",
    "catalyst",
    "allennlp",
)


@dataclass(frozen=True)
class Trained:
    """The wrapped model is trained, unless one of the questions is answered with yes."""

    name: str  # the model as the script calls it, "" if it has no name
    unless: tuple[Question, ...] = ()


def trained(script: Script, wrap: cst.Call) -> Trained | None:
    """Evidence that the wrapped model is trained, or None."""
    if script.replicates or _is_test(script, wrap):
        return None
    value = _outermost(script, wrap)
    if value is None:
        return None
    target = _bound(script, value)
    name = (dotted(target) if target is not None else None) or ""
    whole = _whole_of(name)
    if target is not None and name and _frozen(script, target):
        return None
    shown = name or _argument_name(wrap)
    owner = script.owner(wrap)
    if owner is not None:
        if script.trains(owner):
            return Trained(shown)
        if _is_helper(script, wrap, value, whole):
            return None
        return Trained(shown, (Question(NOT_TRAINED, f"~.{owner.name.value}"),))
    scope = script.scope(wrap)
    if script.trains(scope) if isinstance(scope, cst.FunctionDef) else _module_trains(script):
        return Trained(shown)
    if isinstance(scope, cst.FunctionDef) and _returned(script, scope, value, whole):
        return _by_callers(script, scope, shown, _is_helper(script, wrap, value, whole))
    trainer = _handed_to(script, scope, whole) if name else None
    return Trained(shown, (Question(NOT_TRAINED, trainer),)) if trainer else None


def _is_test(script: Script, wrap: cst.Call) -> bool:
    file = os.path.basename(script.file.path)
    if not (file.startswith("test_") or file.endswith("_test.py")):
        return False
    return any(
        isinstance(a, cst.FunctionDef) and a.name.value.lower().startswith("test") for a in script.file.ancestors(wrap)
    )


def _outermost(script: Script, wrap: cst.Call) -> cst.Call | None:
    """The wrap with the calls chained behind it (`.cuda()`); None if the chain freezes the model."""
    outer = wrap
    while True:
        attribute = script.file.parent(outer)
        call = script.file.parent(attribute) if isinstance(attribute, cst.Attribute) else None
        if not isinstance(attribute, cst.Attribute) or not isinstance(call, cst.Call) or call.func is not attribute:
            return outer
        if attribute.attr.value in ("eval", "requires_grad_"):
            return None
        outer = call


def _bound(script: Script, value: cst.CSTNode) -> cst.BaseExpression | None:
    parent = script.file.parent(value)
    return parent.targets[0].target if isinstance(parent, cst.Assign) and len(parent.targets) == 1 else None


def _whole_of(name: str) -> str:
    """The model of which a wrapped part is one: `model` of `model.encoder`."""
    return name if name.startswith("self.") else name.partition(".")[0]


def _argument_name(wrap: cst.Call) -> str:
    return (dotted(wrap.args[0].value) or "") if wrap.args else ""


def _frozen(script: Script, target: cst.BaseExpression) -> bool:
    """Only ever put into eval mode, its parameters never asked for: a teacher, a metric, a feature extractor; or a
    part of such a model."""
    part, whole = "", target
    while isinstance(whole, cst.Attribute) and _whole_of(dotted(whole) or "") != dotted(whole):
        part, whole = f".{whole.attr.value}{part}", whole.value
    return any(_only_evaluated(script.methods_on(whole, p)) for p in {"", part})


def _only_evaluated(methods: set[str]) -> bool:
    return "eval" in methods and not methods & {"train", "parameters", "named_parameters", "zero_grad"}


def _module_trains(script: Script) -> bool:
    """Whether code at the top level reaches a backward pass."""
    for node in walk_scope(script.file.tree):
        if isinstance(node, cst.Call):
            function = script.callee(node)
            if script.optimises and (script.is_backward(node) or (function is not None and script.trains(function))):
                return True
            made = script.classes.get((script.qualified(node.func) or "").removeprefix("~."))
            if made is not None and script.trains(made):
                return True
    return False


def _returned(script: Script, scope: cst.FunctionDef, value: cst.CSTNode, name: str) -> bool:
    for node in walk_scope(scope.body):
        if isinstance(node, cst.Return) and node.value is not None:
            if any(n is value or (name and dotted(n) == name) for n in walk(node.value)):
                return True
    return False


def _is_helper(script: Script, wrap: cst.Call, value: cst.CSTNode, name: str) -> bool:
    """A function that wraps what it is given and returns it serves inference as well as training."""
    function = script.scope(wrap)
    if not isinstance(function, cst.FunctionDef) or not _returned(script, function, value, name) or not wrap.args:
        return False
    given = _whole_of(dotted(wrap.args[0].value) or "")
    return any(p.name.value == given for p in function.params.params)


def _by_callers(script: Script, function: cst.FunctionDef, shown: str, helper: bool) -> Trained | None:
    for site in script.call_sites.get(function, []):
        target = _bound(script, site)
        if target is not None and _frozen(script, target):
            continue
        scope = script.scope(site)
        if script.trains(scope) if isinstance(scope, cst.FunctionDef) else _module_trains(script):
            return Trained(shown)
    asked = _outermost_maker(script, function) if helper else function
    return Trained(shown, (Question(NOT_TRAINED, f"~.{asked.name.value}"),)) if asked is not None else None


def _outermost_maker(script: Script, helper: cst.FunctionDef) -> cst.FunctionDef | None:
    """The function of this file that hands the helper's model on to other files: `define_G`, which returns
    `init_net(net)`, or the helper itself where nothing here calls it."""
    for _ in range(3):
        sites = script.call_sites.get(helper, [])
        scopes = [script.scope(site) for site in sites]
        makers = [
            s
            for s, site in zip(scopes, sites)
            if isinstance(s, cst.FunctionDef)
            and _returned(script, s, site, _whole_of(dotted(_bound(script, site)) or ""))
        ]
        if not sites:
            return helper
        if not makers:
            return None
        helper = makers[0]
    return None


def _handed_to(script: Script, scope: cst.CSTNode, name: str) -> str | None:
    """The function or class of another file that gets the model to train it: with an optimizer, or by its name."""
    for node in walk_scope(scope):
        if not (isinstance(node, cst.Call) and any(dotted(a.value) == name for a in node.args)):
            continue
        target = script.qualified(node.func) or _from_star(script, node.func)
        if target is None or target.startswith(("~.", "torch.")) or target.partition(".")[0] in _FRAMEWORKS:
            continue
        optimizer = any(
            (script.qualified(o.func) or "").startswith("torch.optim.")
            for a in node.args
            for o in script.origins(a.value)
            if isinstance(o, cst.Call)
        )
        if optimizer or _TRAINER.search(target.rpartition(".")[2]):
            return target
    return None


def _from_star(script: Script, func: cst.BaseExpression) -> str | None:
    """A name that nothing here binds, in a file with `from module import *`."""
    stars = any(isinstance(n, cst.ImportFrom) and isinstance(n.names, cst.ImportStar) for n in script.nodes)
    return func.value if stars and isinstance(func, cst.Name) and not script.assigned(func) else None
