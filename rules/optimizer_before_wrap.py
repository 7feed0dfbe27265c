"""An optimizer is made from parameters that are replaced before it steps.

## What it does
Reports `FullyShardedDataParallel(model)`, `fully_shard(model)`, `parallelize_module(model)`, `weight_norm(layer)`,
`get_peft_model(model)` and a new layer (`model.fc = nn.Linear(...)`) behind the line that makes the optimizer from that
model's parameters, where the same optimizer steps later on.

## Why is this bad
These put new `Parameter` objects in the place of the old ones (or freeze the old ones and add some). The optimizer
still holds the old ones: its steps change tensors that no forward uses, and the new parameters are never trained.
Nothing fails; the loss stays where it is, or sinks by what the rest of the model can do.

## Example
```python
optimizer = torch.optim.AdamW(model.parameters())
model = FullyShardedDataParallel(model)
```
Use instead:
```python
model = FullyShardedDataParallel(model)
optimizer = torch.optim.AdamW(model.parameters())
```
What keeps the `Parameter` objects is not reported: `DataParallel`, `DistributedDataParallel`, `.to(device)`, `.half()`,
`convert_sync_batchnorm`, pruning, spectral norm, FSDP with `use_orig_params=True`. Neither is code that makes the
optimizer again, or hands it the new parameters by `add_param_group`.

## Fix safety
No fix: what lies between the two lines decides what can be moved.

## Verified by
`id()` of the parameters before and after each of these calls (torch 2.13), which is how the two lists above were made.

## References
- https://pytorch.org/docs/stable/fsdp.html
- https://pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import dotted
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Effect, Event, Function, flow

RULE = Rule(
    "TL115",
    Category.TRAINING,
    Severity.ERROR,
    triggers=(
        r"\b(FSDP|FullyShardedDataParallel|fully_shard|parallelize_module|weight_norm|get_peft_model)\(",
        r"^[ \t]*(?!self\.\w+ *=)\w[\w.]*\.\w+ *= *(torch\.)?nn\.\w+\(",
    ),
    requires=(r"\bstep\(", r"parameters\(\)", r"optim|Optim|OPTIM"),
    since="0.2",
)

_NO_PARAMETERS = re.compile(r"(LU|ReLU6?|Identity|Dropout\w*|Flatten|Softmax|Sigmoid|Tanh|Pool\dd|Upsample)$")


@RULE.on
def in_function(node: cst.FunctionDef, context: Context) -> Iterator[Finding]:
    function = context.sem.names.function_of.get(node)
    if function is not None:
        yield from _check(function, context)


@RULE.on
def in_script(node: cst.Module, context: Context) -> Iterator[Finding]:
    yield from _check(context.sem.names.module, context)


def _check(function: Function, context: Context) -> Iterator[Finding]:
    events = context.sem.events(function)
    for at, replaced in enumerate(events):
        if replaced.effect is not Effect.REPLACE or not replaced.subject or _is_harmless(replaced):
            continue
        made = next((e for e in events[:at] if _holds(e, replaced)), None)
        if made is None or made.loops != replaced.loops or not flow.always_before(made.node, made, replaced):
            continue
        name = _bound_to(made, context)
        if name is None or _is_told(events[at:]) or not _steps(events[at:], made, name):
            continue
        yield Finding(
            flow.call_of(replaced),
            f"parameters of `{replaced.subject}` are replaced after `{name}` was made from them",
            "the optimizer steps the old ones, and the new ones are never trained",
            f"make `{name}` after this line",
        )


def _is_harmless(replaced: Event) -> bool:
    return replaced.detail == "layer" and _NO_PARAMETERS.search(replaced.value.origin) is not None


def _holds(made: Event, replaced: Event) -> bool:
    """Whether the event makes an optimizer from the parameters that are replaced later."""
    if made.effect is not Effect.MAKE or made.via is not None:
        return False
    subject = replaced.subject
    return any(o == subject or subject.startswith(o + ".") for o in flow.owners(made))


def _bound_to(made: Event, context: Context) -> str | None:
    """The name that the optimizer gets."""
    parent = context.file.parent(made.node)
    return dotted(parent.targets[0].target) if isinstance(parent, cst.Assign) and len(parent.targets) == 1 else None


def _is_told(following: Sequence[Event]) -> bool:
    """Whether an optimizer is made behind the replacement, or one is given more parameters."""
    return any(
        e.effect is Effect.MAKE or (e.effect is Effect.CALL and "param_group" in e.target.rpartition(".")[2])
        for e in following
    )


def _steps(following: Sequence[Event], made: Event, name: str) -> bool:
    return any(
        e.effect is Effect.STEP and (e.value.node is made.node or e.subject == name) and e.detail != "engine"
        for e in following
    )
