"""A tensor made from a Python list of numpy arrays, element by element.

## What it does

Finds `torch.tensor(arrays)`, `torch.as_tensor(arrays)` and the typed constructors (`torch.FloatTensor(arrays)`) where
the list holds numpy arrays: a list display, a comprehension, or a list that is filled by `append`.

## Why is this bad

A list is read as nested Python sequences: every single number is taken out of its array, converted and checked.
PyTorch itself warns that this "is extremely slow". `np.array` copies whole blocks of memory, and the tensor is made
from them in one more copy.

## Example

```python
batch = torch.tensor([np.load(path) for path in paths])
```

Use instead:

```python
batch = torch.tensor(np.array([np.load(path) for path in paths]))
```

`torch.from_numpy(np.stack(arrays))` saves the second copy.

## Fix safety

Safe where the result's type is stated or the list has items for certain. Unsafe elsewhere: of an empty list numpy makes
float64, torch float32.

## Verified by

`fixtures/tensor_from_array_list/run.py`: bitwise equal tensors in less time.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.from_numpy.html>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import ensure_import
from torchlint.nodes import argument, dotted
from torchlint.rule import Category, Context, Finding, Rule, safe, unsafe
from torchlint.semantics import Kind, Value
from torchlint.semantics.rows import bindings_in

RULE = Rule(
    "TL505",
    Category.VECTORISATION,
    Severity.WARNING,
    triggers=(r"\b(?:tensor|as_tensor|[A-Z]\w*Tensor|Tensor)\(\s*(?:\[|[A-Za-z_]\w*\s*[,)])",),
    requires=(r"numpy",),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)

_UNTYPED = frozenset(("torch.tensor", "torch.as_tensor"))
_TYPED = frozenset(f"torch.{n}Tensor" for n in ("", "Float", "Double", "Half", "Long", "Int", "Short", "Byte", "Bool"))
# What surely makes an array; a reduction may give a number.
_ARRAYS = frozenset(
    """array asarray zeros ones empty full zeros_like ones_like full_like load arange linspace stack concatenate vstack
    hstack eye rand randn normal uniform randint repeat tile transpose reshape copy flip loadtxt ascontiguousarray"""
    .split()
)  # fmt: skip


@RULE.on
def check(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    name = ctx.sem.qualified(call.func) or ""
    if (name not in _UNTYPED and name not in _TYPED) or not call.args or call.args[0].keyword or call.args[0].star:
        return
    given = call.args[0].value
    if (name in _TYPED and len(call.args) != 1) or not _holds_arrays(given, ctx):
        return
    text = ctx.file.code(given)
    yield Finding(
        call,
        f"`{ctx.file.code(call.func)}` reads {f'`{text}`' if len(text) < 40 else 'the list'} number by number",
        "a list of numpy arrays is taken apart into Python numbers",
        "make one array of it first, with `np.array` or `np.stack`",
        _fix(call, name, ctx),
    )


def _holds_arrays(node: cst.BaseExpression, ctx: Context) -> bool:
    """Whether the expression is a list, all of whose items are numpy arrays for certain."""
    value = ctx.sem.value(node)
    if value.kind is not Kind.LIST:
        return False
    if isinstance(node, cst.List):
        return bool(node.elements) and all(_is_array(e.value, ctx) for e in node.elements)
    if isinstance(node, cst.ListComp):
        return _is_array(node.elt, ctx)
    if not isinstance(node, cst.Name):
        return False
    function = ctx.sem.function(node)
    made = bindings_in(node.value, function, ctx.sem)
    if node.value in function.params or len(made) != 1 or not isinstance(made[0], cst.Assign):
        return False
    start = made[0].value
    if not isinstance(start, cst.List) or start.elements:
        return (
            isinstance(start, (cst.List, cst.ListComp))
            and not _added(node.value, ctx, node)
            and _holds_arrays(start, ctx)
        )
    added = _added(node.value, ctx, node)
    return bool(added) and all(a is not None and _is_array(a, ctx) for a in added)


def _added(name: str, ctx: Context, at: cst.CSTNode) -> list[cst.BaseExpression | None]:
    """What the function puts into the list: the items appended, None for anything else."""
    found: list[cst.BaseExpression | None] = []
    for call in ctx.file.within(ctx.sem.function(at).body, cst.Call):
        if isinstance(call.func, cst.Attribute) and dotted(call.func.value) == name:
            is_append = call.func.attr.value == "append" and len(call.args) == 1
            found.append(call.args[0].value if is_append else None)
    return found


def _is_array(node: cst.BaseExpression, ctx: Context) -> bool:
    value: Value = ctx.sem.value(node)
    if value.kind is not Kind.NDARRAY:
        return False
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "numpy":
        return ctx.sem.value(node.func.value).is_tensor
    if isinstance(node, cst.Subscript):  # an item of an array may be a number
        return False
    if value.origin.startswith("numpy.random.") and not _is_sized(value):
        return False
    return value.origin.startswith("numpy.") and value.origin.rpartition(".")[2] in _ARRAYS


def _is_sized(value: Value) -> bool:
    """Whether numbers are drawn for a shape: `np.random.uniform(low, high)` gives one number."""
    call = value.node
    if not isinstance(call, cst.Call):
        return True
    if value.origin in ("numpy.random.rand", "numpy.random.randn"):
        return bool(call.args)
    return argument(call, "size", 2) is not None


def _fix(call: cst.Call, name: str, ctx: Context) -> Fix:
    given = call.args[0].value
    alias, edits = _numpy(ctx, call)
    start, end = ctx.file.span(given)
    edits = (Edit(start, start, f"{alias}.array("), Edit(end, end, ")"), *edits)
    typed = name in _TYPED or argument(call, "dtype") is not None
    sure = typed or (isinstance(given, cst.List) and bool(given.elements))
    return (safe if sure else unsafe)("make one array of the list first", *edits)


def _numpy(ctx: Context, at: cst.CSTNode) -> tuple[str, tuple[Edit, ...]]:
    """What numpy is called here, and the import it takes if it has no name."""
    function = ctx.sem.function(at)
    for alias, target in ctx.sem.names.imports.items():
        if target == "numpy" and ctx.sem.names.qualify_text(alias, function) == "numpy":
            return alias, ()
    return "numpy", (ensure_import(ctx.file, "numpy"),)
