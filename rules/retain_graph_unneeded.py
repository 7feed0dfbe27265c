"""`backward(retain_graph=True)` on a graph that nothing uses again.

## What it does

Finds `loss.backward(retain_graph=True)` in a training loop where it is the turn's last use of that graph: no other
`backward` or `autograd.grad` follows, and everything that the loss is made of is computed anew in the next turn.

Silent where a second loss shares the graph, where a state is carried from one turn to the next (recurrent networks,
modules that write their own attributes), where an input from in front of the loop may carry a graph itself, and with
`create_graph`.

## Why is this bad

`backward` frees what the forward pass saved as it goes. With `retain_graph=True` all of it stays until the last
reference to the loss is gone, which is usually in the next forward pass: two graphs are alive at the peak. It also
hides the error that PyTorch raises when a graph is used twice by mistake.

## Example

```python
for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward(retain_graph=True)
    optimizer.step()
```

Use instead:

```python
    loss.backward()
```

## Fix safety

Unsafe: where a module out of sight keeps a graph between two calls, `backward` raises without the argument (and says
so).

## Verified by

`fixtures/retain_graph_unneeded/run.py`: bitwise equal losses, gradients and parameters, and fewer
bytes alive at the peak.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.Tensor.backward.html>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Question, Severity
from torchlint.edits import remove_argument
from torchlint.nodes import argument, literal, walk
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, Event, TrainingLoop
from torchlint.semantics.turns import Turn

RULE = Rule(
    "TL602",
    Category.MEMORY,
    Severity.WARNING,
    triggers=(r"\bretain_graph\s*=\s*True", r"\.backward\([^\n,]+,\s*True"),
    requires=(r"\bstep\(",),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)


@RULE.on
def check(loop: TrainingLoop, ctx: Context) -> Iterator[Finding]:
    if isinstance(loop.node, cst.FunctionDef):
        return
    for event in loop.of(Effect.BACKWARD):
        call = event.node
        if event.via is not None or not isinstance(call, cst.Call) or not isinstance(call.func, cst.Attribute):
            continue
        kept = argument(call, "retain_graph", 1)
        if kept is None or literal(kept.value) is not True or argument(call, "create_graph", 2) is not None:
            continue
        if event.loops[-1:] != (loop.node,) or _used_again(event, loop) or _leaves(loop):
            continue
        turn = Turn(loop.node, loop.function, ctx.sem)
        if not turn.begins(call.func.value) or not turn.forward:
            continue
        name = ctx.file.code(call.func.value)
        yield Finding(
            call,
            f"`{name if len(name) < 40 else 'the loss'}` keeps its graph behind `backward`, and nothing uses it again",
            "what the forward pass saved stays alive into the next one",
            "leave `retain_graph=True` out",
            unsafe("let backward free the graph", remove_argument(ctx.file, call, kept)),
            _may_differentiate(event, loop),
        )


def _used_again(event: Event, loop: TrainingLoop) -> bool:
    """Whether gradients are asked for again behind the call, in this turn or when the loop is done."""
    later = [e for e in loop.events if e.order > event.order and not _excludes(event, e)]
    return any(e.effect in (Effect.BACKWARD, Effect.GRAD) for e in (*later, *loop.after) if e is not event)


def _excludes(one: Event, other: Event) -> bool:
    """Whether the two stand in different branches of the same `if`."""
    return any(a.node is b.node and a.taken is not b.taken for a in one.guards for b in other.guards)


def _leaves(loop: TrainingLoop) -> bool:
    """Whether the loop hands values out as it goes (`yield`): a caller may differentiate them."""
    return any(isinstance(n, cst.Yield) for n in walk(loop.node))


def _may_differentiate(event: Event, loop: TrainingLoop) -> tuple[Question, ...]:
    """Functions of other files that are called behind it with something in hand, and may run backward themselves."""
    later = [e for e in loop.events if e.effect is Effect.CALL and e.order > event.order]
    given = (e for e in later if isinstance(e.node, cst.Call) and e.node.args and not e.target.startswith("?"))
    return tuple(dict.fromkeys(Question("runs-backward", e.target) for e in given if e.target))
