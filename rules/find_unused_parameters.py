"""DistributedDataParallel looks for unused parameters, and the model uses all of them.

## What it does

Finds `DistributedDataParallel(model, find_unused_parameters=True)` where the model's class is in sight and its
`forward` runs every layer in every call: no branch but `if self.norm is not None:` around the use of that very layer,
no early return, one result.

## Why is this bad

DDP then walks the autograd graph in every step to find what was not used. With nothing to find that is lost time, and
DDP itself warns about it in the first step.

## Example

```python
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 1)

    def forward(self, x):
        return self.second(self.first(x))

model = DistributedDataParallel(Net().to(rank), device_ids=[rank], find_unused_parameters=True)
```

Use instead:

```python
model = DistributedDataParallel(Net().to(rank), device_ids=[rank])
```

Silent where the flag is not the constant True, where a layer comes from elsewhere or stands under an `if`, and where
`forward` returns several things, of which the loss may use some.

## Fix safety

No fix: where a loss leaves part of the model out on purpose, DDP needs the flag.

## Verified by

Nothing is rewritten, so nothing is run.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import argument, children, dotted, find, literal, walk_scope
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Class, Function, Kind, Semantics

RULE = Rule(
    "TL805",
    Category.DISTRIBUTED,
    Severity.WARNING,
    triggers=(r"\bfind_unused_parameters\b", r"def forward\(", r"def __init__\("),
    requires=(r"\bfind_unused_parameters\b", r"def forward\("),
    since="0.2",
)

_DDP = "torch.nn.parallel.DistributedDataParallel"
_LAYER = re.compile(r"^torch\.nn\.(?!Module$|parallel\.|functional\.|init\.|utils\.|ModuleDict$)[A-Z]\w*$")
_CONDITIONAL = (cst.If, cst.IfExp, cst.While, cst.Try, cst.Lambda, cst.BooleanOperation, cst.Match)


@RULE.on
def check(call: cst.Call, context: Context) -> Iterator[Finding]:
    flag, model = argument(call, "find_unused_parameters"), argument(call, "module", 0)
    if flag is None or model is None or literal(flag.value) is not True:
        return
    sem = context.sem
    if sem.qualified(call.func) != _DDP:
        return
    cls = sem.class_of(sem.value(model.value).origin)
    if cls is None or not uses_all(sem, cls, ()):
        return
    yield Finding(
        flag.value,
        f"`find_unused_parameters=True`, and `{cls.node.name.value}.forward` uses every layer",
        "the graph is searched for unused parameters in every step, and there are none",
        "leave the argument out",
    )


def uses_all(sem: Semantics, cls: Class, above: tuple[Class, ...]) -> bool:
    """Whether every call of the Module certainly uses every layer that it makes, down to torch's own."""
    init, forward = cls.methods.get("__init__"), cls.methods.get("forward")
    if cls in above or init is None or forward is None or set(sem.names.roots(cls)) != {"torch.nn.Module"}:
        return False
    if len(sem.names.mro(cls)) > 1:
        return False
    returns = [node for node in walk_scope(forward.body) if isinstance(node, cst.Return)]
    if len(returns) != 1 or isinstance(returns[0].value, (cst.Tuple, cst.Dict)):
        return False
    layers = _layers(sem, init, (*above, cls))
    return layers is not None and layers != set() and layers <= set(_used(forward, forward.body))


def _layers(sem: Semantics, init: Function, above: tuple[Class, ...]) -> set[str] | None:
    """The names of what the constructor makes; None where one of them is not known to be used as a whole."""
    found: set[str] = set()
    for node in walk_scope(init.body):
        targets = [t.target for t in node.targets] if isinstance(node, cst.Assign) else []
        names = [t.attr.value for t in targets if isinstance(t, cst.Attribute) and dotted(t.value) == init.params[0]]
        if not isinstance(node, cst.Assign) or not names:
            continue
        value = sem.value(node.value)
        own = sem.class_of(value.origin)
        if value.kind is Kind.MODULE and (
            _LAYER.match(value.origin) or (own is not None and uses_all(sem, own, above))
        ):
            # What a container is filled with must be torch's own, too.
            if any(
                part is not node.value and not _LAYER.match(sem.value(part).origin)
                for part in find(node.value, cst.Call)
            ):
                return None
            found.update(names)
        elif value.kind not in (Kind.NUMBER, Kind.STRING, Kind.NONE) and not isinstance(node.value, cst.Name):
            return None
    return found


def _used(forward: Function, body: cst.CSTNode) -> Iterator[str]:
    """The attributes of `self` that every run of the body reads."""
    stack: list[cst.CSTNode] = [body]
    while stack:
        node = stack.pop()
        if isinstance(node, cst.If) and node.orelse is None and (layer := _asks_for(forward, node.test)):
            # `if self.norm is not None: x = self.norm(x)` uses the layer wherever there is one.
            if layer in _used(forward, node.body):
                yield layer
            continue
        if isinstance(node, _CONDITIONAL):
            continue
        if isinstance(node, cst.Attribute) and (name := _own(forward, node)):
            yield name
        stack += children(node)


def _own(forward: Function, node: cst.Attribute) -> str:
    return node.attr.value if dotted(node.value) == forward.params[0] else ""


def _asks_for(forward: Function, test: cst.BaseExpression) -> str:
    """The attribute of `self` of which a test asks only whether it is there."""
    if isinstance(test, cst.Comparison) and len(test.comparisons) == 1:
        there = test.comparisons[0]
        if isinstance(there.operator, cst.IsNot) and literal(there.comparator) is None:
            test = test.left
    return _own(forward, test) if isinstance(test, cst.Attribute) else ""
