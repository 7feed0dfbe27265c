"""A backward pass that autocast spoils: float16 gradients without a scaler, or the backward itself under autocast.

## What it does
Reports a training loop whose forward runs under float16 autocast and whose `loss.backward()` is not scaled, in a file
that knows no gradient scaler. Reports, as information, a `backward()` inside the `with torch.autocast(...)` block.

## Why is this bad
float16 holds nothing below 6e-8, and many gradients are smaller: they become zero, and those layers stop learning,
quietly. A `GradScaler` multiplies the loss so that they fit, and divides the gradients again before the step. bfloat16
has the range of float32 and needs none.
A backward under autocast runs its own operations by autocast's choice of precision too, beyond the precisions that the
forward chose; PyTorch's documentation advises against it.

## Example
```python
with torch.autocast("cuda", dtype=torch.float16):
    loss = loss_fn(model(x), y)
    loss.backward()
optimizer.step()
```
Use instead:
```python
scaler = torch.amp.GradScaler("cuda")  # once, before the loop
with torch.autocast("cuda", dtype=torch.float16):
    loss = loss_fn(model(x), y)
scaler.scale(loss).backward()
scaler.step(optimizer)
scaler.update()
```
Autocast that may be off (`enabled=use_amp`), bfloat16, losses that are multiplied by hand, frameworks that scale by
themselves, and forwards without gradients are not reported.

## Fix safety
Unsafe: gradients change. The scaler is made before the outermost loop of the function, the backward and the step go
through it, and gradients are unscaled before they are clipped. Loops with several backwards or steps get no fix. A
backward under autocast moves out of the block with what follows it there, where no forward does.

## Verified by
Gradients that float16 cannot hold: zero before, those of float32 after (on the CPU's own float16 autocast). The
autocast state that a hook sees during the backward.

## References
- https://pytorch.org/docs/stable/amp.html
- https://pytorch.org/docs/stable/notes/amp_examples.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import torch_name
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, Event, TrainingLoop, flow
from torchlint.semantics.autocast import Autocast, autocast_around

RULE = Rule(
    "TL702",
    Category.PRECISION,
    Severity.WARNING,
    triggers=(r"autocast",),
    requires=(r"\bautocast\(", r"\.backward\(\)", r"\bstep\("),
    since="0.2",
    fixes=(Applicability.UNSAFE,),
)

# Whoever names one of these scales, or has it done.
_SCALING = re.compile(
    r"(?<!standard)(?<!minmax)(?<!robust)scaler|loss_?scal|scale_loss|\.scale\(|accelerat|fabric|deepspeed|\bapex\b|lightning",
    re.I,
)


@RULE.on
def check(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    for backward in loop.of(Effect.BACKWARD):
        call = flow.call_of(backward)
        if backward.via is not None or not isinstance(call, cst.Call) or call.args:
            continue
        inside = autocast_around(context.sem, backward)
        if inside is not None:
            yield Finding(
                call,
                f"`{context.file.code(call)}` runs under autocast",
                "the backward's own operations are cast too, beyond what the forward chose",
                "end the autocast block before it",
                fix=_outside(backward, inside, loop, context),
                severity=Severity.INFO,
            )
        region = _half_forward(backward, loop, context)
        if region is not None and not context.file.mentions(_SCALING):
            yield Finding(
                call,
                f"`{context.file.code(call)}` is not scaled, and the forward runs in float16",
                "gradients below 6e-8 become zero, and their layers stop learning",
                "use `torch.amp.GradScaler`, or autocast to bfloat16",
                fix=_scale(backward, region, loop, context) if inside is None else None,
            )


def _half_forward(backward: Event, loop: TrainingLoop, context: Context) -> Autocast | None:
    """The float16 region in which the loop's own forward runs, autograd recording, if all of its forwards do."""
    if "*" in backward.detail:
        return None
    before = loop.events[: loop.events.index(backward)]
    forwards = [e for e in before if _is_forward(e, before) and not e.grad.off and not e.grad.unless]
    regions = [autocast_around(context.sem, e) for e in forwards]
    if not regions or any(r is None or not r.half for r in regions):
        return None
    if any(e.detail == "engine" for e in loop.of(Effect.STEP)):
        return None
    return regions[0]


def _is_forward(event: Event, before: Sequence[Event]) -> bool:
    """Whether a module is called, or something that the function was given and that nothing else is known of."""
    if event.effect is Effect.CALL and event.target.startswith("?."):
        return event.subject in event.function.params and not any(e.effect is Effect.FORWARD for e in before)
    return event.effect is Effect.FORWARD


def _scale(backward: Event, region: Autocast, loop: TrainingLoop, context: Context) -> Fix | None:
    sem, file = context.sem, context.file
    steps = loop.of(Effect.STEP)
    if isinstance(loop.node, cst.FunctionDef) or len(steps) != 1 or len(loop.of(Effect.BACKWARD)) != 1:
        return None
    step, clips = steps[0], loop.of(Effect.CLIP)
    lines = [flow.lone_line(sem, e) for e in (backward, step)]
    stepped = flow.call_of(step)
    if any(line is None for line in lines) or step.via is not None or not isinstance(stepped, cst.Call) or stepped.args:
        return None
    if (
        any(c.via is not None or c.inner_loop for c in clips)
        or len(clips) > 1
        or flow.handles_grad(loop.events, loop.node)
    ):
        return None
    name = flow.optimizer_text(sem, step)
    outermost = loop.outer[-1] if loop.outer else loop.node
    torch, imports = torch_name(file, sem, "torch.amp.GradScaler", outermost)
    newer = context.torch_version is None or context.torch_version >= (2, 3)
    made = f"{torch}({region.device})" if newer else torch.replace(".amp.", ".cuda.amp.") + "()"
    edits = [
        file.insert_before(outermost, f"scaler = {made}"),
        file.replace(flow.call_of(backward), f"scaler.scale({backward.detail}).backward()"),
        file.replace(stepped, f"scaler.step({name})"),
        file.insert_after(file.statement(stepped), "scaler.update()"),
        *imports,
    ]
    if clips:
        line = flow.line_of(sem, flow.call_of(clips[0]))
        if line is None:
            return None
        edits.append(file.insert_before(line, f"scaler.unscale_({name})"))
    return unsafe("Scale the loss", *edits)


def _outside(backward: Event, inside: Autocast, loop: TrainingLoop, context: Context) -> Fix | None:
    """Take the backward and what follows it out of the block, one level to the left."""
    file, body = context.file, inside.node.body
    line = flow.lone_line(context.sem, backward)
    if line is None or file.parent(line) is not body or not isinstance(body, cst.IndentedBlock):
        return None
    at = next(i for i, s in enumerate(body.body) if s is line)
    tail = body.body[at:]
    after = loop.events[loop.events.index(backward) + 1 :]
    if at == 0 or any(e.effect in (Effect.FORWARD, Effect.LOSS) and inside.node in e.scopes for e in after):
        return None
    if not all(isinstance(s, cst.SimpleStatementLine) and "\n" not in file.code(s) for s in tail):
        return None
    unit = file.indent(line).removeprefix(file.indent(inside.node))
    start, end = file.lines.locate(file.line_start(line))[0], file.lines.locate(file.caret(tail[-1])[0])[0]
    starts = [file.lines.starts[row] for row in range(start, end + 1)]
    deep = file.indent(line)
    edits = [Edit(s, s + len(unit), "") for s in starts if file.text.startswith(deep, s)]
    return unsafe("End the autocast block before the backward", *edits) if unit else None
