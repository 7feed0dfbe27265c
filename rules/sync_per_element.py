"""A loop that fetches a GPU tensor's elements one by one.

## What it does

Reports `.item()`, `.cpu()`, `.tolist()`, `.numpy()` and `float(t[i])` on the elements of a tensor that was moved to a
GPU or that a model computed, inside a loop or comprehension over those elements: `[x.item() for x in t]`,
`for i in range(n): … t[i].item()`.

## Why is this bad

Each of them makes the CPU wait until the GPU has done everything that was queued, launches an indexing kernel and
copies a few bytes: some ten microseconds per element, during which the GPU does nothing else. `t.tolist()` waits and
copies once.

## Example

```python
for i in range(len(labels)):
    confusion[labels[i].item(), predicted[i].item()] += 1
scores = [x.item() for x in losses]
```

Use instead:

```python
labels_list, predicted_list = labels.tolist(), predicted.tolist()
for i in range(len(labels)):
    confusion[labels_list[i], predicted_list[i]] += 1
scores = losses.tolist()
```

Said as info where nothing is trained: in evaluation it costs time, too, but once. Nothing is said of tensors that were
moved to the CPU before the loop, of batches that were never moved off it, of elements that are read under a condition
only, of lists, and of files that never mention a GPU.

## Fix safety

Unsafe: the values are the same, but the tensor is read once, ahead of the loop, and its elements become Python numbers.
The fix is offered where the elements are used in no other way and the loop does not touch the tensor. It writes
`t.flatten().tolist()`, since `.item()` also reads elements of shape `(1,)`.

## Verified by

`fixtures/sync_per_element/run.py`: equal results, fewer synchronisations counted on remapped CUDA code.

## References

- <https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html#avoid-unnecessary-cpu-gpu-synchronization>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.nodes import dotted, walk
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, Function
from torchlint.semantics.display import draws, in_text
from torchlint.semantics.elements import ElementSync, element_syncs
from torchlint.semantics.measuring import may_evaluate_name
from torchlint.semantics.syncs import GPU, measures, reached_every_turn

RULE = Rule(
    "TL402",
    Category.DEVICE,
    Severity.WARNING,
    triggers=(r"\.item\(", r"\.cpu\(", r"\.tolist\(", r"\.numpy\(", r"\b(?:float|int)\(\w+\["),
    requires=(GPU, r"\bfor\b"),
    shapes=("element-syncs",),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

_TESTS = re.compile(r"(^|/)tests?/")


@RULE.on
def check(function: cst.FunctionDef | cst.Module, context: Context) -> Iterator[Finding]:
    names = context.sem.names
    own = names.module if isinstance(function, cst.Module) else names.function_of.get(function)
    if own is None or measures(own, context.file.path) or _TESTS.search(context.file.path):
        return
    groups: dict[tuple[int, str], list[ElementSync]] = {}
    for sync in element_syncs(context.sem, own):
        if draws(sync.loop) or in_text(sync.event.node, context.file):
            continue
        groups.setdefault((id(sync.loop), context.file.code(sync.tensor)), []).append(sync)
    for (_, text), syncs in groups.items():
        if not any(reached_every_turn(context.sem, s.event.node, s.loop) for s in syncs):
            continue  # for the few elements that are printed, say
        code = " ".join(context.file.code(syncs[0].event.node).split())
        yield Finding(
            syncs[0].event.node,
            f"`{code}` waits for the GPU once for every element of `{text if len(text) < 40 else 'a tensor'}`",
            "each wait drains the GPU's queue, and one copy of all elements would wait once",
            "read all elements at once ahead of the loop, with `.tolist()`",
            _fix(syncs, text, own, context),
            severity=None if _trains(own, context) else Severity.INFO,
        )


def _trains(function: Function, context: Context) -> bool:
    """Whether the function takes part in training: it differentiates, or something that does calls it in a loop."""
    sem = context.sem
    if may_evaluate_name(function.name):
        return False
    callers = {site.function for site in sem.call_sites(function) if not site.grad.off}
    return any(
        e.effect in (Effect.BACKWARD, Effect.GRAD)
        for f in (function, *callers)
        if not may_evaluate_name(f.name)
        for e in sem.events(f)
    )


# -- fix ----------------------------------------------------------------------------------------------------------


def _fix(syncs: list[ElementSync], text: str, function: Function, context: Context) -> Fix | None:
    if any(s.event.detail not in ("item", "float", "int") for s in syncs) or "\n" in text:
        return None
    if syncs[0].index:
        return _hoisted(syncs, text, function, context)
    return _iterated(syncs[0], context)


def _iterated(sync: ElementSync, context: Context) -> Fix | None:
    """`for x in t` with nothing but `x.item()` in it goes over `t.flatten().tolist()`."""
    file, loop = context.file, sync.loop
    inside = _turns(loop, context)
    if inside is None or not isinstance(loop.target, cst.Name) or loop.iter is not sync.tensor:
        return None
    if not isinstance(sync.tensor, (cst.Name, cst.Attribute, cst.Call, cst.Subscript)) or sync.tensor.lpar:
        return None
    tensor = dotted(sync.tensor)
    edits: list[Edit] = []
    for root in inside:
        for node in walk(root):
            if tensor is not None and dotted(node) == tensor:
                return None
            if isinstance(node, cst.Name) and node.value == sync.name:
                use = _use(node, context)
                if use is None:
                    return None
                if isinstance(use, cst.Call) and isinstance(use.func, cst.Attribute):
                    edits.append(file.replace(use, sync.name))
    owner = file.parent(loop)
    if isinstance(owner, cst.ListComp) and not owner.for_in.ifs and edits and owner.elt is sync.event.node:
        code = file.code(owner)
        if "#" not in code and "\n" not in code:
            return unsafe(
                "read all elements at once", file.replace(owner, f"{file.code(sync.tensor)}.flatten().tolist()")
            )
    end = file.span(sync.tensor)[1]
    return unsafe("read all elements at once", Edit(end, end, ".flatten().tolist()"), *edits)


def _turns(loop: cst.For | cst.CompFor, context: Context) -> list[cst.CSTNode] | None:
    """What runs once per element; None for nested clauses, whose names are harder to follow."""
    if isinstance(loop, cst.For):
        return [loop.body] if loop.orelse is None else None
    owner = context.file.parent(loop)
    if loop.inner_for_in is not None or not isinstance(owner, (cst.ListComp, cst.SetComp, cst.GeneratorExp)):
        return None
    return [owner.elt, *loop.ifs]


def _use(name: cst.Name, context: Context) -> cst.Call | None:
    """The call that fetches the element, `x.item()` or `float(x)`; None for any other use of it."""
    parent = context.file.parent(name)
    if isinstance(parent, cst.Attribute) and parent.value is name and parent.attr.value == "item":
        call = context.file.parent(parent)
        if isinstance(call, cst.Call) and call.func is parent and not call.args:
            return call
    if isinstance(parent, cst.Arg):
        call = context.file.parent(parent)
        if isinstance(call, cst.Call) and dotted(call.func) in ("float", "int") and len(call.args) == 1:
            return call
    return None


def _hoisted(syncs: list[ElementSync], text: str, function: Function, context: Context) -> Fix | None:
    """`t[i].item()` in a loop that touches `t` in no other way becomes `t_list[i]`, read ahead of the loop."""
    file, sync = context.file, syncs[0]
    if not isinstance(sync.tensor, cst.Name) or not isinstance(sync.loop, cst.For):
        return None
    edits: list[Edit] = []
    fresh = f"{text}_list"
    if fresh in function.local or fresh in context.sem.names.module.local:
        return None
    for node in walk(sync.loop):
        if not isinstance(node, cst.Name) or node.value != text:
            continue
        item = file.parent(node)
        if _in_header(item, sync.loop, context):
            continue
        if not isinstance(item, cst.Subscript) or item.value is not node or file.code(item) != f"{text}[{sync.name}]":
            return None
        attribute = file.parent(item)
        call = file.parent(attribute) if attribute is not None else None
        if isinstance(attribute, cst.Attribute) and isinstance(call, cst.Call) and call.func is attribute:
            if attribute.attr.value != "item" or call.args:
                return None
            edits.append(file.replace(call, f"{fresh}[{sync.name}]"))
        elif isinstance(attribute, cst.Arg) and isinstance(call, cst.Call) and dotted(call.func) in ("float", "int"):
            edits.append(file.replace(item, f"{fresh}[{sync.name}]"))
        else:
            return None
    before = file.insert_before(sync.loop, f"{fresh} = {text}.flatten().tolist()")
    return unsafe("read all elements ahead of the loop", before, *edits)


def _in_header(node: cst.CSTNode | None, loop: cst.For, context: Context) -> bool:
    """Whether the node belongs to what the loop goes over: `range(len(t))` reads no element."""
    while node is not None and node is not loop:
        if node is loop.iter:
            return True
        node = context.file.parent(node)
    return False
