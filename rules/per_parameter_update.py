"""Parameters that are updated one by one: gradient descent by hand, averages of weights, soft target updates.

## What it does

Finds loops over `model.parameters()`, alone or zipped with those of a second model, whose body does nothing but update
the parameter in place, from its gradient (`p -= lr * p.grad`) or from its twin (`t.mul_(tau).add_(p, alpha=1 - tau)`).

Silent where the loop does anything else, where parameters are only copied, and in optimizers, which have their own
lists of parameters.

## Why is this bad

Each line launches a kernel for every parameter: some hundreds of tiny launches per step, in which a GPU mostly waits
for Python. `torch._foreach_*` functions, which all optimizers of torch use on a GPU, do the same in a handful.

## Example

```python
with torch.no_grad():
    for t, p in zip(target.parameters(), model.parameters()):
        t.mul_(tau).add_(p, alpha=1 - tau)
```

Use instead:

```python
with torch.no_grad():
    torch._foreach_lerp_(list(target.parameters()), list(model.parameters()), 1 - tau)
```

`torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(tau))` is the public form; for gradient
descent take `torch.optim.SGD`. A note, because the time is lost where launches are what is waited for: on a GPU.

## Fix safety

Nothing is rewritten: which form fits, the author knows.

## Verified by

`tests/test_batched_advice.py`: the forms advised give the loop's parameters, up to rounding.

## References

- <https://docs.pytorch.org/docs/stable/optim.html#weight-averaging-swa-and-ema>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import dotted, find, walk
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Kind
from torchlint.semantics.blocks import statements

RULE = Rule(
    "TL506",
    Category.VECTORISATION,
    Severity.INFO,
    triggers=(r"\bfor\b[^\n]*\bin\b[^\n]*\.parameters\(",),
    since="0.1",
)

_UPDATES = frozenset("add_ sub_ mul_ div_ lerp_ addcmul_ addcdiv_ copy_".split())


@RULE.on
def check(node: cst.For, ctx: Context) -> Iterator[Finding]:
    names = _parameters(node, ctx)
    if not names or not isinstance(node.body, cst.IndentedBlock):
        return
    sources: set[str] = set()
    for line in statements(node.body):
        if not isinstance(line, cst.SimpleStatementLine) or len(line.body) != 1:
            return
        found = _update(line.body[0], names)
        if found is None:
            return
        sources |= found
    if "grad" in sources:
        what, do = "parameters are moved along their gradients one by one", "use `torch.optim.SGD`"
    elif sources:
        what = "one model's parameters are averaged into another's one by one"
        do = "use `torch._foreach_lerp_` or `swa_utils.AveragedModel` with `get_ema_multi_avg_fn`"
    else:
        return
    yield Finding(node, what, "every parameter costs kernel launches of its own, hundreds per step", do)


def _parameters(node: cst.For, ctx: Context) -> tuple[str, ...]:
    """The names that the loop binds to parameters of models; none where it walks anything else."""
    walked, target = node.iter, node.target
    if isinstance(walked, cst.Call) and dotted(walked.func) == "zip" and isinstance(target, cst.Tuple):
        pairs = list(zip(target.elements, walked.args))
        if len(target.elements) != 2 or len(walked.args) != 2:
            return ()
        names = tuple(e.value.value for e, a in pairs if isinstance(e.value, cst.Name) and _of_model(a.value, ctx))
        return names if len(names) == 2 else ()
    return (target.value,) if isinstance(target, cst.Name) and _of_model(walked, ctx) else ()


def _of_model(node: cst.BaseExpression, ctx: Context) -> bool:
    if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute) or node.args:
        return False
    return node.func.attr.value == "parameters" and ctx.sem.value(node.func.value).kind is Kind.MODULE


def _update(node: cst.BaseSmallStatement, names: tuple[str, ...]) -> set[str] | None:
    """Where the statement's in-place update of a parameter comes from ("grad", the twin's name); None for any other."""
    if isinstance(node, cst.AugAssign) and isinstance(node.operator, (cst.AddAssign, cst.SubtractAssign)):
        return _sources(node.value, names, _root(node.target)) if _root(node.target) in names else None
    if isinstance(node, cst.Assign) and len(node.targets) == 1 and _is_data(node.targets[0].target):
        root = _root(node.targets[0].target)
        return _sources(node.value, names, root) if root in names and _computes(node.value) else None
    if not isinstance(node, cst.Expr) or not isinstance(node.value, cst.Call):
        return None
    chain, found = node.value, set[str]()
    current: cst.BaseExpression = chain
    copies = 0
    while isinstance(current, cst.Call) and isinstance(current.func, cst.Attribute):
        if current.func.attr.value not in _UPDATES:
            return None
        copies += current.func.attr.value == "copy_" and not any(_computes(a.value) for a in current.args)
        for arg in current.args:
            found |= _sources(arg.value, names, "")
        current = current.func.value
    root = _root(current)
    return None if root not in names or copies else found - {root}


def _is_data(node: cst.BaseExpression) -> bool:
    return isinstance(node, cst.Attribute) and node.attr.value == "data"


def _root(node: cst.BaseExpression) -> str:
    """`p` for `p` and `p.data`, else nothing."""
    name = dotted(node.value) if isinstance(node, cst.Attribute) and node.attr.value == "data" else dotted(node)
    return name if name is not None and "." not in name else ""


def _computes(node: cst.BaseExpression) -> bool:
    return any(isinstance(n, (cst.BinaryOperation, cst.Call)) for n in walk(node))


def _sources(node: cst.BaseExpression, names: tuple[str, ...], root: str) -> set[str]:
    """The other parameter in an expression, and "grad" where the parameter's gradient is read."""
    found = {n.value for n in find(node, cst.Name) if n.value in names and n.value != root}
    grads = {
        n.value.value for n in find(node, cst.Attribute) if n.attr.value == "grad" and isinstance(n.value, cst.Name)
    }
    return {"grad"} if grads & set(names) else found
