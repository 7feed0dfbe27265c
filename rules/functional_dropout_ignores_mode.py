"""Dropout called as a function in a Module, without being told whether the Module trains.

## What it does

Reports, in the methods of an `nn.Module`:

- `F.dropout(x, p)` (also `dropout1d`, `dropout2d`, `dropout3d`) and `F.multi_head_attention_forward(…)` without
  `training=`, whose default is True: they drop in evaluation, too
- `F.scaled_dot_product_attention(…, dropout_p=p)` and the functions of `flash_attn`, which know no mode at all, with a
  rate that is the same in both modes
- `F.alpha_dropout(x, p)` and `F.feature_alpha_dropout(x, p)` without `training=`, whose default is False: they never
  drop

## Why is this bad

`model.eval()` reaches modules, not functions. With dropout left on, every evaluation is random and worse than the model
is, and a deployed model answers the same question differently each time. Nothing warns, because training looks right.

## Example

```python
class Block(nn.Module):
    def forward(self, x):
        x = F.dropout(self.proj(x), self.p)
        return F.scaled_dot_product_attention(x, x, x, dropout_p=self.p)
```

Use instead:

```python
class Block(nn.Module):
    def forward(self, x):
        x = F.dropout(self.proj(x), self.p, training=self.training)
        return F.scaled_dot_product_attention(x, x, x, dropout_p=self.p if self.training else 0.0)
```

Not reported: an explicit `training=True`, code under a test of the mode or of a flag, a rate that was chosen by mode or
that a caller passes in, and Modules whose name or text says that dropout is always on (Monte Carlo dropout, Tacotron's
prenet).

## Fix safety

Unsafe: evaluation results change, which is the point. Training is the same, but for `alpha_dropout`, which begins to
drop.

## Verified by

`fixtures/functional_dropout_ignores_mode/run.py`: in eval mode two calls give the same result, in train mode they
differ.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.dropout.html>
- <https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Severity
from torchlint.edits import add_argument
from torchlint.nodes import argument, dotted, find, has_star, literal
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Class, Function
from torchlint.semantics.modes import call_sites
from torchlint.semantics.origins import is_module

RULE = Rule(
    "TL205",
    Category.EVALUATION,
    Severity.WARNING,
    triggers=(
        # A call that says nothing of `training` between its parentheses; `self.dropout(…)` is a module's.
        r"dropout(?<!self\.dropout)(?<!self\._dropout)(?:(?<=\Wdropout)|(?<=\W_dropout)|(?<=alpha_dropout))"
        r"[123]?d?\s*\((?!(?:[^()]|\([^()]*\))*training)",
        r"\bscaled_dot_product_attention\s*\(",
        r"flash_attn\w*_func\s*\(",
        r"\bmulti_head_attention_forward\s*\(",
    ),
    requires=(r"\bclass\b",),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

_FUNCTIONAL = "torch.nn.functional."
_ON = {_FUNCTIONAL + name: 2 for name in ("dropout", "dropout1d", "dropout2d", "dropout3d")}
_OFF = {_FUNCTIONAL + name: 2 for name in ("alpha_dropout", "feature_alpha_dropout")}
_ATTENTION = {_FUNCTIONAL + "multi_head_attention_forward": 13}
_RATED = re.compile(r"^(torch\.nn\.functional\.scaled_dot_product_attention|flash_attn(\.\w+)*\.flash_attn\w*_func)$")
_POSITION_OF_P = {_FUNCTIONAL + "scaled_dot_product_attention": 4}
# A test, a rate or a name that has to do with the mode or with a choice of the user's.
_MODE = re.compile(r"train|eval|infer|test|mode|stochastic|sampl|\bmc|_mc|is_grad_enabled|predict|deterministic", re.I)
# Dropout that is meant to stay on, or that runs in training only.
_MEANT = re.compile(r"monte|mc_?drop|bayes|uncertain|always|prenet|pre_net|stochastic|ensembl|augment|perturb", re.I)
_TRAINING_ONLY = re.compile(r"train|(^|_)loss|augment|corrupt|perturb|noise|mask_input|sample")


@RULE.on
def check(call: cst.Call, context: Context) -> Iterator[Finding]:
    name = context.sem.qualified(call.func) or ""
    if (dotted(call.func) or "").rpartition(".")[2] != name.rpartition(".")[2]:
        return  # by another name it matches no trigger
    default = True if name in _ON or name in _ATTENTION else False if name in _OFF else None
    if default is None and not _RATED.match(name):
        return
    place = _method(call, context)
    if place is None or _chosen(call, place[0], context):
        return
    if default is None:
        yield from _rate(call, name, *place, context)
        return
    position = {**_ON, **_OFF, **_ATTENTION}[name]
    p = argument(call, "dropout_p" if name in _ATTENTION else "p", 10 if name in _ATTENTION else 1)
    if has_star(call) or argument(call, "training", position) is not None or "training" in context.file.code(call):
        return
    if p is not None and not _may_drop(p.value, *place, context):
        return
    short = dotted(call.func) or name
    if default:
        what, why = f"`{short}` drops in eval mode, too", "its `training` is True by default, so evaluation is random"
    else:
        what, why = f"`{short}` never drops", "its `training` is False by default, so it does nothing"
    given = f"training={place[0].params[0]}.training"
    yield Finding(
        call,
        what,
        why,
        f"pass `{given}`",
        unsafe("let dropout follow the mode", add_argument(context.file, call, given)),
    )


def _rate(call: cst.Call, name: str, method: Function, cls: Class, context: Context) -> Iterator[Finding]:
    """A function that has a rate and no mode: the rate must be 0 in evaluation."""
    p = argument(call, "dropout_p", _POSITION_OF_P.get(name))
    if p is None or not _may_drop(p.value, method, cls, context):
        return
    rate = context.file.code(p.value)
    mode = f"{method.params[0]}.training"
    inside = f"({rate})" if isinstance(p.value, (cst.IfExp, cst.Lambda)) else rate
    start, end = context.file.span(p.value)
    given = f"{inside} if {mode} else 0.0"
    yield Finding(
        p,
        f"`{dotted(call.func) or name}` drops with rate `{rate}` in eval mode, too",
        "it knows no mode, so evaluation is random",
        f"pass `{given}`",
        unsafe("drop in training only", Edit(start, end, given)),
    )


# -- where it stands ------------------------------------------------------------------------------------------------


def _method(call: cst.Call, context: Context) -> tuple[Function, Class] | None:
    """The method of a Module in which the call stands (or the function nested in it), and its class."""
    names = context.sem.names
    function: Function | None = context.sem.function(call)
    while function is not None and not function.is_method:
        function = function.parent
    if function is None or function.cls is None or not is_module(context.sem.names, function.cls):
        return None
    decorators = function.node.decorators if isinstance(function.node, cst.FunctionDef) else ()
    if any(dotted(d.decorator) == "classmethod" for d in decorators):
        return None
    if _TRAINING_ONLY.search(function.name) or _MEANT.search(function.name):
        return None
    for cls in names.mro(function.cls):
        if _MEANT.search(cls.qualname) or "train" in cls.methods:  # a train() of its own may do anything
            return None
    return function, function.cls


def _chosen(call: cst.Call, method: Function, context: Context) -> bool:
    """Whether somebody decided here: a test of the mode or of some flag around the call or ahead of it, a comment."""
    file = context.file
    row = file.row(call) - 1
    line = file.text[file.lines.starts[row] : file.line_end(call)]
    above = file.text[file.lines.starts[max(row - 1, 0)] : file.lines.starts[row]]
    if _MEANT.search(line) or ("#" in above and _MEANT.search(above)):
        return True
    node: cst.CSTNode = call
    for ancestor in file.ancestors(call):
        if isinstance(ancestor, (cst.If, cst.IfExp)) and node is not ancestor.test:
            if _MODE.search(file.code(ancestor.test)):
                return True
        if ancestor is method.node:
            break
        if isinstance(ancestor, cst.IndentedBlock) and _left_by_mode(ancestor, node, context):
            return True
        node = ancestor
    return isinstance(method.node, cst.FunctionDef) and _only_trained(method, context)


def _left_by_mode(block: cst.IndentedBlock, before: cst.CSTNode, context: Context) -> bool:
    """Whether an `if not self.training: return …` stands ahead in the block."""
    for statement in block.body:
        if statement is before:
            return False
        if isinstance(statement, cst.If) and _MODE.search(context.file.code(statement.test)):
            if any(True for _ in find(statement.body, cst.Return)):
                return True
    return False


def _only_trained(method: Function, context: Context) -> bool:
    """Whether all calls of the method in this file stand under a test of the mode."""
    sites = call_sites(context.sem, method)
    return bool(sites) and all(
        any(_MODE.search(context.file.code(guard.test)) for guard in site.guards)
        or _TRAINING_ONLY.search(site.function.name)
        for site in sites
    )


# -- the rate -------------------------------------------------------------------------------------------------------


def _may_drop(rate: cst.BaseExpression, method: Function, cls: Class, context: Context) -> bool:
    """Whether the rate is above 0 and nobody chose it by mode: False for what a caller passes in."""
    if literal(rate) in (0, 0.0, None):
        return False
    code = context.file.code(rate)
    if _MODE.search(code):
        return False
    text = dotted(rate)
    if isinstance(rate, cst.Name):
        return _local_rate(rate.value, method, cls, context)
    if text is not None and text.startswith(method.params[0] + ".") and text.count(".") == 1:
        return _attribute_rate(text, cls, context)
    return text is not None or isinstance(literal(rate), (int, float)) or isinstance(rate, cst.BinaryOperation)


def _local_rate(name: str, method: Function, cls: Class, context: Context) -> bool:
    """A local name that nobody gave by mode, and that only plain assignments bind."""
    if name in method.params:
        return False
    assigned = [
        n for n in context.file.within(method.node, cst.Assign) if any(dotted(t.target) == name for t in n.targets)
    ]
    if any(dotted(n.target) == name for n in context.file.within(method.node, cst.AugAssign)):
        return False
    for node in assigned:
        guards = [a for a in context.file.ancestors(node) if isinstance(a, (cst.If, cst.IfExp))]
        if any(_MODE.search(context.file.code(g.test)) for g in guards):
            return False
    return any(_may_drop(node.value, method, cls, context) for node in assigned)


def _attribute_rate(text: str, cls: Class, context: Context) -> bool:
    """An attribute that only the constructor sets, and not to 0."""
    zero = False
    for owner in context.sem.names.mro(cls):
        for method in owner.methods.values():
            for node in context.file.within(method.node, cst.Assign):
                if any(dotted(t.target) == text for t in node.targets):
                    if method.name not in ("__init__", "reset_parameters", "setup"):
                        return False
                    zero = literal(node.value) in (0, 0.0)
    return not zero
