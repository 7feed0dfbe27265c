"""A Module that is pickled whole instead of its state_dict.

## What it does

Reports `torch.save` of a Module, alone or as a value of a dictionary.

## Why is this bad

The pickle holds the module's class by name, not its code. Rename or move the class, or load the file where the project
is not installed, and it cannot be read. Since torch 2.6 `torch.load` refuses such files unless `weights_only=False`
allows them to run any code.

## Example

```python
torch.save(model, "model.pt")
torch.save({"net": net, "epoch": epoch}, path)
```

Use instead:

```python
torch.save(model.state_dict(), "model.pt")
torch.save({"net": net.state_dict(), "epoch": epoch}, path)
```

Not reported: scripted and traced modules, copies through a buffer in memory, and what tests save.

## Fix safety

A suggestion that is never applied: whoever loads the file has to build the model first.

## Verified by

`fixtures/save_whole_module/`: bad.py is reported, its near-misses in ok.py are not. Nothing is applied or run.

## References

- <https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Severity
from torchlint.nodes import argument, dotted, find
from torchlint.rule import Category, Context, Finding, Rule, suggestion
from torchlint.semantics.kinds import Kind
from torchlint.semantics.unit_tests import holds_unit_tests

RULE = Rule(
    "TL906",
    Category.REPRODUCIBILITY,
    Severity.WARNING,
    triggers=(r"\bt\w*\.save\s*\(",),
    since="0.1",
    fixes=(Applicability.SUGGESTION,),
)

_SCRIPTED = re.compile(r"^torch\.jit\.|^torch\.compile$|ScriptModule|^torch\.export")
_OF_MODULES = "eval|train|parameters|named_parameters|state_dict|load_state_dict|modules|children|cuda"


@RULE.on
def check(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    if ctx.sem.qualified(call.func) != "torch.save" or not (dotted(call.func) or "").startswith("t"):
        return
    saved, target = argument(call, "obj", 0), argument(call, "f", 1)
    if saved is None or target is None or holds_unit_tests(ctx.sem) or _is_buffer(target.value, ctx):
        return
    values = [saved.value]
    if isinstance(saved.value, cst.Name):
        values += _assigned(saved.value, ctx)
    for value in values:
        if isinstance(value, cst.Dict):
            values += [e.value for e in value.elements if isinstance(e, cst.DictElement)]
        elif _is_module(value, ctx):
            text = ctx.file.code(value)
            end = ctx.file.caret(value)[1]
            yield Finding(
                value,
                f"the Module `{text}` is pickled whole",
                "the file is bound to where its class is defined, and torch 2.6 refuses to load it",
                f"save `{text}.state_dict()`",
                suggestion("Save the state_dict", Edit(end, end, ".state_dict()")),
            )


def _assigned(name: cst.Name, ctx: Context) -> Iterator[cst.BaseExpression]:
    """The dictionaries that the name stands for in this function."""
    for node in find(ctx.sem.function(name).body, cst.Assign):
        if isinstance(node.value, cst.Dict) and any(dotted(t.target) == name.value for t in node.targets):
            yield node.value


def _is_module(node: cst.BaseExpression, ctx: Context) -> bool:
    if not isinstance(node, (cst.Name, cst.Attribute)):
        return False
    value = ctx.sem.value(node)
    if value.kind not in (Kind.MODULE, Kind.UNKNOWN) or _SCRIPTED.search(value.origin):
        return False
    # That it is called like one may stand in a method which is not read for this; that it has parameters is enough.
    methods = _OF_MODULES if value.kind is Kind.MODULE else "parameters|named_parameters"
    used = rf"(?<![\w.]){re.escape(ctx.file.code(node))}(?:\.module)?\.(?:{methods})\s*\("
    return value.origin.startswith("torch.nn.") or re.search(used, ctx.file.text) is not None


def _is_buffer(node: cst.BaseExpression, ctx: Context) -> bool:
    if isinstance(node, cst.Call):
        return (dotted(node.func) or "").rpartition(".")[2] == "BytesIO"
    name = dotted(node)
    return name is not None and (
        "buf" in name.lower()
        or any(
            isinstance(n.func, (cst.Attribute, cst.Name)) and (dotted(n.func) or "").endswith("BytesIO")
            for n in find(ctx.sem.function(node).body, cst.Call)
        )
    )
