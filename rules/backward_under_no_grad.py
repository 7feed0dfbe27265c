"""`backward()` on what was computed while autograd was off.

## What it does

Reports `loss.backward()` where the forward pass and the loss were both computed under `torch.no_grad()` or
`torch.inference_mode()`, by a `with` around them or by the function's decorator.

## Why is this bad

There is no graph to go back through: `backward()` raises "element 0 of tensors does not require grad", at the latest in
the first step of a run that was meant to train.

## Example

```python
@torch.no_grad()
def finetune(model, loader, optimizer):
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
```

Use instead: train without the decorator, or open `with torch.enable_grad():` around the forward pass and the loss.

Nothing is said where only `backward()` itself stands under `no_grad`, which is allowed, and where something in the
region turns recording on again.

## Fix safety

There is no fix: where recording has to begin is the author's choice.

## Verified by

`fixtures/backward_under_no_grad/`: bad.py is reported, its near-misses in ok.py are not.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.no_grad.html>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import dotted, find
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Effect, Event, Graph

RULE = Rule(
    "TL206",
    Category.EVALUATION,
    Severity.ERROR,
    triggers=(r"\.backward\(",),
    requires=(r"\.backward\(", r"no_grad|inference_mode"),
    since="0.1",
)


@RULE.on
def check(call: cst.Call, context: Context) -> Iterator[Finding]:
    func = call.func
    if not isinstance(func, cst.Attribute) or func.attr.value != "backward" or call.args:
        return
    sem = context.sem
    function = sem.function(call)
    events = sem.events(function)
    event = next((e for e in events if e.effect is Effect.BACKWARD and e.node is call), None)
    if event is None or not event.grad.off or event.value.graph is not Graph.DETACHED:
        return
    name = dotted(func.value)
    if name is None or not _made_without_graph(name, event, events):
        return
    if any((sem.qualified(c.func) or "") in _ON for c in find(function.node, cst.Call)):
        return
    yield Finding(
        call,
        f"`{name}` was computed while autograd was off",
        "there is no graph to go back through, so `backward()` raises",
        "compute it outside of `no_grad`, or under `with torch.enable_grad():`",
    )


_ON = frozenset(("torch.enable_grad", "torch.set_grad_enabled"))


def _made_without_graph(name: str, event: Event, events: list[Event]) -> bool:
    """Whether the loss and every forward pass ahead of it in the function ran with recording off."""
    ahead = [e for e in events if e.order < event.order and e.effect in (Effect.FORWARD, Effect.LOSS)]
    return bool(ahead) and all(e.grad.off for e in ahead)
