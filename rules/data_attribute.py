"""`x.data`: a tensor's memory without its history.

## What it does

Reports `x.data` of what certainly is a tensor, read or changed in place. Off by default: in five packages it found 106
places, most of them in functions that initialise weights, where nothing goes wrong.

## Why is this bad

`x.data` is from before torch 0.4. It shares memory with `x` behind autograd's back: a change in place that a later
backward would have refused gives wrong gradients instead.

## Example

```python
top = output.data.max(1)[1]
for p in critic.parameters():
    p.data.clamp_(-0.01, 0.01)
```

Use instead:

```python
top = output.detach().max(1)[1]
for p in critic.parameters():
    with torch.no_grad():
        p.clamp_(-0.01, 0.01)
```

Not reported: `x.data = y`, which exchanges the memory of `x`, and the `data` of what may be no tensor.

## Fix safety

Unsafe: autograd now sees the change, and backward refuses what it could not get right. `x.data` becomes `x.detach()`; a
statement that changes `x.data` changes `x` under `with torch.no_grad():`.

## Verified by

`fixtures/data_attribute/run.py`: the same values, read and changed.

## References

- <https://pytorch.org/blog/pytorch-0_4_0-migration-guide/>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import torch_name
from torchlint.nodes import literal
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics.deprecations.shims import minds_version
from torchlint.semantics.kinds import Kind

_BEHIND = r"(?:\.[a-z]\w*\(|\s*(?:[\[),#]|$))"  # not an assignment, nor another attribute that is no call

RULE = Rule(
    "TL020",
    Category.FILES,
    Severity.INFO,
    triggers=(r"(?<!utils)\.data" + _BEHIND,),
    requires=(r"\btorch",),
    since="0.2",
    default=False,
    fixes=(Applicability.UNSAFE,),
)

_IS_BEHIND = re.compile(_BEHIND, re.MULTILINE)


@RULE.on
def check(node: cst.Attribute, ctx: Context) -> Iterator[Finding]:
    """`x.data`, where `x` certainly is a tensor."""
    file, parent = ctx.file, ctx.file.parent(node)
    if node.attr.value != "data":
        return
    value = ctx.sem.value(node.value)
    if value.kind not in (Kind.TENSOR, Kind.PARAMETER) or value.evidence == "used":
        return
    if isinstance(parent, (cst.AssignTarget, cst.AugAssign)) or not _IS_BEHIND.match(file.text, file.span(node)[1]):
        return
    if isinstance(parent, cst.Subscript) and literal(getattr(parent.slice[0].slice, "value", parent)) == 0:
        return  # an item: TL011's
    if ctx.sem.qualified(node) is not None or minds_version(ctx.sem, node):
        return
    text = file.code(node.value)
    call = file.parent(parent) if isinstance(parent, cst.Attribute) else None
    if isinstance(parent, cst.Attribute) and isinstance(call, cst.Call) and re.search(r"[a-z]_$", parent.attr.value):
        yield Finding(
            node,
            f"`{text}.data` is changed behind autograd's back",
            "where a graph needs the old values, backward computes wrong gradients and says nothing",
            f"change `{text}` itself under `torch.no_grad()`",
            _in_no_grad(node, call, ctx),
        )
        return
    yield Finding(
        node,
        f"`{text}.data` is `{text}` without its history",
        "a change in place of either is not noticed by autograd",
        f"write `{text}.detach()`",
        unsafe("Detach it", Edit(*file.span(node), f"{text}.detach()")),
    )


def _in_no_grad(node: cst.Attribute, call: cst.Call, ctx: Context) -> Fix | None:
    file = ctx.file
    line = file.statement(call)
    alone = isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1 and file.parent(call) is line.body[0]
    if not alone or not isinstance(file.parent(line), (cst.IndentedBlock, cst.Module)) or "\n" in file.code(call):
        return None
    no_grad, imports = torch_name(file, ctx.sem, "torch.no_grad", node)
    start, end = file.caret(call)
    dot = file.span(node.value)[1]
    text = file.text[start:dot] + file.text[file.span(node)[1] : end]
    indent = file.indent(line)
    # From the start of the line: where another fix indents it, this one waits.
    new = f"{indent}with {no_grad}():{file.newline}{indent}    {text}"
    return unsafe("Change it without recording", Edit(file.line_start(line), end, new), *imports)
