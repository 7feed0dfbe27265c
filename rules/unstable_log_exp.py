"""A logarithm or exponential written out where a stable function computes the same.

## What it does

Reports, for tensors:

| written out | instead |
| --- | --- |
| `torch.log(F.softmax(x, dim))` | `F.log_softmax(x, dim)` |
| `torch.log(torch.sigmoid(x))`, `torch.log(1 - torch.sigmoid(x))` | `F.logsigmoid(x)`, `F.logsigmoid(-x)` |
| `torch.log(torch.exp(x).sum(dim))` | `torch.logsumexp(x, dim)` |
| `torch.exp(x) / torch.exp(x).sum(dim, keepdim=True)` | `torch.softmax(x, dim)` |
| `torch.log(1 + torch.exp(x))` | `F.softplus(x)` |
| `1 / (1 + torch.exp(-x))` | `torch.sigmoid(x)` |
| `torch.log(1 + x)`, `torch.exp(x) - 1` (with `small = true`) | `torch.log1p(x)`, `torch.expm1(x)` |
| `((x - y) ** 2).mean()` | `F.mse_loss(x, y)` |
| `-F.log_softmax(x, 1).gather(1, y.unsqueeze(1)).mean()` | `F.cross_entropy(x, y)` |
| `-(F.one_hot(y, n) * F.log_softmax(x, 1)).sum(1).mean()` | `F.cross_entropy(x, y)` |
| `-(probs * F.log_softmax(x, 1)).sum(1).mean()` | `F.cross_entropy(x, probs)` |

The losses are reported as info: their values are right.

## Why is this bad

`exp` overflows at 89 in float32 and at 12 in float16, and softmax and sigmoid round to 0 from about 104 and 17 on: the
logarithm is then infinite and the gradient NaN, and one NaN ends a training. The functions on the right are exact in
those cases, and one kernel instead of three. `log(1 + x)` and `exp(x) - 1` lose the digits of a small `x`: most code
takes them of lengths and counts, so they are reported (as info) only with the option `small`. Unit tests are left
alone: what a test expects is written out on purpose.

A loss that is written out takes any two shapes that broadcast: predictions of shape `[n, 1]` and targets of shape `[n]`
give the mean over all `n * n` pairs, and the model learns the targets' average. `F.mse_loss` warns of that, and
`F.cross_entropy` raises. They also are one call each for what else are three to five, with results kept in between.

## Example

```python
loss = -(target * torch.log(F.softmax(logits, dim=1))).sum(1).mean()
```

Use instead:

```python
loss = -(target * F.log_softmax(logits, dim=1)).sum(1).mean()
```

Silent where the author has seen to it: an epsilon or clamp inside the logarithm, a maximum that is subtracted before
`exp`; where what goes into `exp` is a difference or negative, as in a Gaussian's weights; for `log(1 - x)` of anything
but a sigmoid; for squared differences from a number or an average, and for those that are meant to be broadcast; for
log-probabilities that are weighted afterwards, as in policy gradients.

## Fix safety

Unsafe: results differ in the last bits, and by far where the written-out form overflows or rounds. Where the parts
stand in statements of their own, the finding has no fix. For losses of tensors whose shapes and kinds are not known the
call is shown and never written.

## Verified by

`fixtures/unstable_log_exp/run.py`: values and gradients compared with float64, for small and for large inputs.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.log_softmax.html>
- <https://docs.pytorch.org/docs/stable/generated/torch.logsumexp.html>
- <https://docs.pytorch.org/docs/stable/generated/torch.log1p.html>
- <https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.mse_loss.html>
- <https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import torch_name
from torchlint.nodes import dotted
from torchlint.rule import Category, Context, Finding, Rule, suggestion, unsafe
from torchlint.semantics.made import Scope
from torchlint.semantics.outputs import End, Outputs, same_activation
from torchlint.semantics.pointwise import constant, is_tensor, operation, reduced
from torchlint.semantics.unit_tests import holds_unit_tests
from torchlint.semantics.written_losses import cross_entropy, mean_squares

# A difference, squared, and the mean of it.
_SQUARES = (
    r"(?:\*\* ?2(?:\.0?)?\)|\.pow\(2(?:\.0?)?\)\)?|square\([^\n]{0,200}\))\.mean\(\)"
    r"|\bmean\([^\n]{0,200} - [^\n]{0,200}(?:\*\* ?2|pow\(|square\()|\bmean\([^\n]{0,80}(?:pow|square)\("
)

RULE = Rule(
    "TL508",
    Category.VECTORISATION,
    Severity.WARNING,
    triggers=(
        r"\btorch\.log\(|\.log\(\)|(?<![\w.])log\(",
        r"\bexp\([^\n]*-\s*1(?:\.0?)?\b",
        r"/[^\n]{0,200}\bsum\([^\n]{0,200}keepdim",
        r"\b1(?:\.0?)?\s*/[^\n]*exp\(",
        _SQUARES,
        r"log_softmax\(",
    ),
    requires=(rf"[sS]oftmax\(|[sS]igmoid\(|\bexp\(|\blog\(\(?1|\+ ?1(?:\.0?)?\)|{_SQUARES}",),
    since="0.1",
    fixes=(Applicability.UNSAFE, Applicability.SUGGESTION),
    options={"small": False},
)

# What is counted is never small.
_COUNTS = re.compile(r"deg|count|num|freq|hist|arange|idx|index|len|rank|step|long\(|size", re.I)
_OVERFLOWS = "exp overflows for large inputs, which makes the result inf and the gradient NaN"
_ROUNDS = "the inner function rounds to 0 for large inputs, where the log is -inf and the gradient NaN"
_BROADCASTS = "a target of another shape is broadcast without a word, and each step is a kernel of its own"
_STEPS = "each step is a kernel of its own with a result of its own, and the target's shape and range are not checked"
_DIGITS = "the digits of a small value are lost when 1 is added or taken away"


@RULE.on
def check_log(call: cst.Call, context: Context) -> Iterator[Finding]:
    """The logarithm of something that has a stable form."""
    log = operation(call, context.sem)
    if log is None or log.name != "log" or holds_unit_tests(context.sem):
        return  # what a test expects is written out on purpose
    inner = log.operand
    shifted = _one_and(inner, context)
    if shifted is not None:
        yield from _log_of_shifted(call, *shifted, context)
        return
    total = reduced(inner, "sum", context.sem)
    exp = operation(total.operand, context.sem) if total is not None else None
    if total is not None and exp is not None and exp.name == "exp":
        if not _is_bounded(exp.operand, context):
            text = _logsumexp(exp.operand, total.text, context) if total.text is not None else None
            yield _finding(call, "torch.logsumexp", _OVERFLOWS, text, context)
        return
    yield from _log_of_activation(call, inner, context)


@RULE.on
def check_arithmetic(node: cst.BinaryOperation, context: Context) -> Iterator[Finding]:
    """`exp(x) - 1`, and the quotients that are softmax and sigmoid."""
    if context.options["small"] and isinstance(node.operator, cst.Subtract) and constant(node.right) == 1:
        exp = operation(node.left, context.sem)
        if exp is not None and exp.name == "exp":
            yield _finding(node, "torch.expm1", _DIGITS, (exp.operand, ""), context, Severity.INFO)
    if not isinstance(node.operator, cst.Divide) or holds_unit_tests(context.sem):
        return
    if constant(node.left) == 1:
        other = _one_and(node.right, context)
        exp = operation(other[0], context.sem) if other is not None and not other[1] else None
        if exp is not None and exp.name == "exp" and isinstance(exp.operand, cst.UnaryOperation):
            if isinstance(exp.operand.operator, cst.Minus):
                yield _finding(node, "torch.sigmoid", _OVERFLOWS, (exp.operand.expression, ""), context)
        return
    yield from _quotient(node, context)


@RULE.on
def check_mean_squares(call: cst.Call, context: Context) -> Iterator[Finding]:
    """The mean of squared differences."""
    found = mean_squares(call, context.sem)
    if found is None or _is_expected(call, context):
        return
    arguments = [context.file.code(n) for n in (found.left, found.right)]
    yield _loss(call, "the mean squared error", "mse_loss", _BROADCASTS, arguments, found.same_shape, context)


@RULE.on
def check_cross_entropy(node: cst.UnaryOperation | cst.Call, context: Context) -> Iterator[Finding]:
    """Minus the target's log-probability."""
    found = cross_entropy(node, context.sem)
    if found is None or _is_part_of_more(node, context) or _is_expected(node, context):
        return
    if found.soft and context.torch_version is not None and context.torch_version < (1, 10):
        return  # probabilities as a target came with 1.10
    arguments: list[str] = []
    if found.scores is not None and found.target is not None and found.dim == 1:
        arguments = [context.file.code(n) for n in (found.scores, found.target)]
        if found.reduction != "mean":
            arguments.append(f'reduction="{found.reduction}"')
    yield _loss(node, "the cross-entropy", "cross_entropy", _STEPS, arguments, found.certain, context)


# -- the forms ------------------------------------------------------------------------------------------------------


def _log_of_shifted(call: cst.Call, other: cst.BaseExpression, minus: bool, context: Context) -> Iterator[Finding]:
    """log(1 + exp(x)), log(1 - sigmoid(x)), log(1 + x)."""
    inner = operation(other, context.sem)
    if inner is not None and inner.name == "exp" and not minus:
        if _is_magnitude(inner.operand, context):
            return
        yield _finding(call, "torch.nn.functional.softplus", _OVERFLOWS, (inner.operand, ""), context)
    elif inner is not None and inner.name == "sigmoid" and minus:
        yield _finding(call, "torch.nn.functional.logsigmoid", _ROUNDS, (inner.operand, "-"), context)
    elif minus:
        ends = Outputs().ends(other, Scope(context.sem, context.sem.function(call)))
        if same_activation(ends) == "sigmoid":
            yield _finding(call, "torch.nn.functional.logsigmoid", _ROUNDS, None, context)
    elif context.options["small"] and is_tensor(other, context.sem) and not _COUNTS.search(context.file.code(other)):
        yield _finding(call, "torch.log1p", _DIGITS, (other, ""), context, Severity.INFO)


def _log_of_activation(call: cst.Call, inner: cst.BaseExpression, context: Context) -> Iterator[Finding]:
    ends = Outputs().ends(inner, Scope(context.sem, context.sem.function(call)))
    activation = same_activation(ends)
    if activation not in ("softmax", "sigmoid"):
        return
    stable = "torch.nn.functional." + {"softmax": "log_softmax", "sigmoid": "logsigmoid"}[activation]
    fix = None
    if len(ends) == 1 and ends[0].node is inner and isinstance(inner, cst.Call):
        fix = _log_form(call, inner, ends[0], activation, context)
    yield _finding(call, stable, _ROUNDS, None, context, fix=fix)


def _quotient(node: cst.BinaryOperation, context: Context) -> Iterator[Finding]:
    """exp(x) / exp(x).sum(dim, keepdim=True): softmax, also where exp(x) has a name."""
    total = reduced(node.right, "sum", context.sem)
    if total is None or not total.keepdim:
        return
    left, right = context.file.code(node.left), context.file.code(total.operand)
    if left != right:
        return
    exp = operation(node.left, context.sem)
    if exp is None and isinstance(node.left, cst.Name):
        scope = Scope(context.sem, context.sem.function(node))
        known = Outputs().definitions(node.left, scope)
        if len(known) == 1 and known[0][0].kind == "value" and known[0][0].node is not None:
            exp = operation(known[0][0].node, context.sem)
            if exp is not None and exp.name == "exp" and not _is_bounded(exp.operand, context):
                yield _finding(node, "torch.softmax", _OVERFLOWS, None, context)
        return
    if exp is not None and exp.name == "exp" and not _is_bounded(exp.operand, context) and total.dim is not None:
        text = f"{context.file.code(exp.operand)}, dim={total.dim}"
        yield _finding(node, "torch.softmax", _OVERFLOWS, text, context)


def _one_and(node: cst.BaseExpression, context: Context) -> tuple[cst.BaseExpression, bool] | None:
    """The x of `1 + x`, `x + 1` (and False) or of `1 - x` (and True)."""
    if not isinstance(node, cst.BinaryOperation):
        return None
    if isinstance(node.operator, cst.Add):
        if constant(node.left) == 1:
            return node.right, False
        return (node.left, False) if constant(node.right) == 1 else None
    if isinstance(node.operator, cst.Subtract) and constant(node.left) == 1:
        return node.right, True
    return None


def _is_bounded(node: cst.BaseExpression, context: Context) -> bool:
    """Whether exp of it does not overflow for all that is written: a difference (`x - x.max()`) or something negative,
    here or where the name got it."""
    if isinstance(node, cst.Name):
        scope = Scope(context.sem, context.sem.function(node))
        known = [d.node for d, _ in Outputs().definitions(node, scope) if d.kind == "value" and not d.path]
        return any(n is not None and not isinstance(n, cst.Name) and _is_bounded(n, context) for n in known)
    if isinstance(node, cst.BinaryOperation) and not isinstance(node.operator, cst.Subtract):
        return _is_bounded(node.left, context) if not isinstance(node.left, cst.Name) else False
    if isinstance(node, cst.UnaryOperation):
        return isinstance(node.operator, cst.Minus)
    return isinstance(node, cst.BinaryOperation)


def _is_magnitude(node: cst.BaseExpression, context: Context) -> bool:
    """Whether it is minus something that is never negative: `log(1 + exp(-|x|))` is the stable form of softplus."""
    if not isinstance(node, cst.UnaryOperation) or not isinstance(node.operator, cst.Minus):
        return False
    inner = operation(node.expression, context.sem)
    if inner is not None:
        return inner.name in ("abs", "square", "exp")
    return isinstance(node.expression, cst.BinaryOperation) and isinstance(node.expression.operator, cst.Power)


# -- what is written instead ----------------------------------------------------------------------------------------


def _finding(
    node: cst.BaseExpression,
    stable: str,
    why: str,
    given: tuple[cst.BaseExpression, str] | str | None,
    context: Context,
    severity: Severity | None = None,
    fix: Fix | None = None,
) -> Finding:
    """`given`: the stable function's operand with a sign, or the text of all its arguments; None writes nothing."""
    name, edits = _written(stable, node, context)
    if given is not None and "#" not in context.file.code(node):
        text = given if isinstance(given, str) else _signed(*given, context)
        fix = unsafe(f"write `{name}`", Edit(*context.file.span(node), f"{name}({text})"), *edits)
    code = context.file.code(node)
    shown = code if len(code) < 50 and "\n" not in code else f"{stable.rpartition('.')[2]}, written out,"
    return Finding(
        node,
        f"`{shown}` is not stable" if shown is code else f"{shown} is not stable",
        why,
        f"use `{name}`",
        fix,
        severity=severity,
    )


def _loss(
    node: cst.BaseExpression,
    what: str,
    name: str,
    why: str,
    arguments: list[str],
    certain: bool,
    context: Context,
) -> Finding:
    """`arguments`: those of the loss function; none where it cannot be called in this one place."""
    written, edits = _written(f"torch.nn.functional.{name}", node, context)
    fix = None
    if arguments and "#" not in context.file.code(node):
        edit = Edit(*context.file.span(node), f"{written}({', '.join(arguments)})")
        fix = (unsafe if certain else suggestion)(f"call `{written}`", edit, *edits)
    return Finding(node, f"{what} is written out", why, f"use `{written}`", fix, severity=Severity.INFO)


def _is_expected(node: cst.BaseExpression, context: Context) -> bool:
    """Whether it is what another result is compared with."""
    if holds_unit_tests(context.sem):
        return True
    line = context.file.parent(node)
    if not isinstance(line, cst.Assign) or not isinstance(line.targets[0].target, cst.Name):
        return False
    name = re.escape(line.targets[0].target.value)
    return re.search(rf"\b(?:allclose|assert_close|isclose|equal)\([^\n]*\b{name}\b", context.file.text) is not None


def _is_part_of_more(node: cst.BaseExpression, context: Context) -> bool:
    """Whether the expression around it is a cross-entropy too, or weights the log-probabilities."""
    above: cst.CSTNode | None = context.file.parent(node)
    while isinstance(above, (cst.Attribute, cst.Arg)):
        above = context.file.parent(above)
    if isinstance(above, cst.BinaryOperation):
        return isinstance(above.operator, cst.Multiply)
    return isinstance(above, (cst.UnaryOperation, cst.Call)) and cross_entropy(above, context.sem) is not None


def _written(stable: str, at: cst.CSTNode, context: Context) -> tuple[str, tuple[Edit, ...]]:
    """The function's name as the file would write it: by an alias of torch.nn.functional, if it has one."""
    module, _, last = stable.rpartition(".")
    function = context.sem.function(at)
    for alias, target in context.sem.names.imports.items():
        if target == module and context.sem.names.qualify_text(alias, function) == module:
            return f"{alias}.{last}", ()
    return torch_name(context.file, context.sem, stable, at)


def _signed(operand: cst.BaseExpression, sign: str, context: Context) -> str:
    code = context.file.code(operand)
    simple = isinstance(operand, (cst.Name, cst.Attribute, cst.Subscript, cst.Call)) or bool(operand.lpar)
    return sign + code if simple or not sign else f"{sign}({code})"


def _logsumexp(operand: cst.BaseExpression, arguments: str, context: Context) -> str:
    return f"{context.file.code(operand)}, {arguments}"


def _log_form(log: cst.Call, inner: cst.Call, end: End, activation: str, context: Context) -> Fix | None:
    """The fix for a log around an activation's call: `F.softmax` → `F.log_softmax`, arguments kept."""
    file = context.file
    if "#" in file.code(log) or end.given is None:
        return None
    if activation == "sigmoid":
        if context.sem.qualified(inner.func) is None and not _is_method(inner):
            return None
        name, edits = _written("torch.nn.functional.logsigmoid", log, context)
        return unsafe(f"write `{name}`", Edit(*file.span(log), f"{name}({file.code(end.given)})"), *edits)
    if not isinstance(inner.func, cst.Attribute) or inner.func.attr.value != "softmax" or dotted(inner.func) == "self":
        return None
    if context.sem.qualified(inner.func) is None and not _is_method(inner):
        return None
    start, end_of = file.span(inner)
    at, behind = file.span(inner.func.attr)
    text = file.text[start:at] + "log_softmax" + file.text[behind:end_of]
    return unsafe("write `log_softmax`", Edit(*file.span(log), text))


def _is_method(call: cst.Call) -> bool:
    return isinstance(call.func, cst.Attribute) and dotted(call.func.value) != "self"
