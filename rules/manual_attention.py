"""Attention is written out step by step where one fused kernel does it all.

## What it does

Reports the whole chain `softmax(q @ k.transpose(-2, -1) * scale, dim=-1) @ v`, with or without masks, scale and
dropout, nested or in statements, where nothing else reads the weights.

## Why is this bad

Written out, the scores and the weights of all pairs of positions are stored for the backward pass: memory grows with
the square of the length, several times over. `F.scaled_dot_product_attention` computes the same in one call; on a GPU
its flash kernels never store the matrix, and run several times as fast.

## Example

```python
scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
weights = self.dropout(F.softmax(scores.masked_fill(mask == 0, float("-inf")), dim=-1))
out = weights @ v
```

Use instead:

```python
out = F.scaled_dot_product_attention(
    q, k, v, attn_mask=mask != 0, dropout_p=self.dropout.p if self.training else 0.0
)
```

Severity is info: the code is right. Silent where the weights are returned, kept or looked at, where the file knows a
fused attention already, and for a torch older than 2.0.

## Fix safety

Unsafe: results differ in the last bits, dropout draws other numbers, and a row whose every position is masked may
differ. No fix for masks under a condition, for masks filled with a finite number, and for scales that may be tensors.

## Verified by

`fixtures/manual_attention/run.py`: outputs and gradients of both forms compared, masked and not; time and memory.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import torch_name
from torchlint.nodes import argument, dotted, literal, walk
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Kind
from torchlint.semantics.attention import Attention, Mask, attention, product
from torchlint.semantics.made import Scope, Tracer

RULE = Rule(
    "TL704",
    Category.PRECISION,
    Severity.INFO,
    triggers=(r"(?<!\w)[sS]oftmax\(",),
    requires=(r"\.transpose\(|\.mT\b", r"(?<!\w)softmax\(", r" @ |matmul\(|bmm\("),
    shapes=("attention",),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

_FUSED = re.compile(
    r"scaled_dot_product_attention|flash_attn|xformers|memory_efficient_attention|sdpa|flex_attention", re.I
)
# The width of a head by its name, where its square root is taken: no tensor is meant.
_WIDTH = re.compile(r"dim|size|width|d_k|d_head|head|embed|hidden|channels", re.I)


@RULE.on
def check(node: cst.BinaryOperation | cst.Call, context: Context) -> Iterator[Finding]:
    if product(node, context.sem) is None or context.file.mentions(_FUSED):
        return
    if context.torch_version is not None and context.torch_version < (2, 0):
        return
    found = attention(node, context.sem)
    if found is None:
        return
    yield Finding(
        node,
        "attention is written out",
        "scores and weights of all pairs of positions are computed and stored one after the other",
        "use `F.scaled_dot_product_attention`",
        _fix(found, context),
    )


def _fix(found: Attention, context: Context) -> Fix | None:
    """The call in the place of the last product, and the statements before it gone."""
    file = context.file
    if found.query is None or found.key is None or not _stand_together(found, context):
        return None
    mask, scale, rate = _mask(found.masks, context), _scale(found, context), _rate(found, context)
    if mask is None or scale is None or rate is None:
        return None
    if scale and context.torch_version is not None and context.torch_version < (2, 1):
        return None
    arguments = [file.code(n) for n in (found.query, found.key, found.value)]
    name, edits = _written(found.product, context)
    text = f"{name}({', '.join([*arguments, *(a for a in (mask, rate, scale) if a)])})"
    if "\n" in text or "#" in text:
        return None
    removed = [file.delete(s) for s in found.statements]
    return unsafe("call the fused attention", Edit(*file.span(found.product), text), *removed, *edits)


def _written(at: cst.CSTNode, context: Context) -> tuple[str, tuple[Edit, ...]]:
    names, function = context.sem.names, context.sem.function(at)
    for alias, target in names.imports.items():
        if target == "torch.nn.functional" and names.qualify_text(alias, function) == target:
            return f"{alias}.scaled_dot_product_attention", ()
    return torch_name(context.file, context.sem, "torch.nn.functional.scaled_dot_product_attention", at)


def _stand_together(found: Attention, context: Context) -> bool:
    """Whether all steps are statements of one block, and what they read is not given anew on the way."""
    if not found.statements:
        return True
    file = context.file
    last = file.statement(found.product)
    lines = [file.statement(s) for s in found.statements]
    block = file.parent(last)
    if any(file.parent(line) is not block or len(getattr(line, "body", ())) != 1 for line in lines):
        return False
    end = file.caret(last)[0]
    own = {id(s) for s in found.statements}
    every = context.sem.reaching(context.sem.function(found.product)).every
    for line in lines:
        read = {n.value for n in walk(line) if isinstance(n, cst.Name)}
        for statement in (d.statement for name in read for d in every.get(name, ())):
            if statement is not None and id(statement) not in own:
                if file.caret(line)[0] < file.caret(statement)[0] < end:
                    return False  # what the line reads means something else at the end
    return True


def _mask(masks: list[Mask], context: Context) -> str | None:
    """`attn_mask=…`, "" without a mask, None where it cannot be said in one argument."""
    if not masks:
        return ""
    if len(masks) > 1 or masks[0].optional:
        return None
    mask, file = masks[0], context.file
    if mask.kind == "add":
        value = context.sem.value(mask.node)
        return (
            f"attn_mask={file.code(mask.node)}" if value.kind in (Kind.TENSOR, Kind.UNKNOWN, Kind.PARAMETER) else None
        )
    if mask.fill is None or not _is_minus_infinity(mask.fill, context):
        return None
    node = mask.node
    if isinstance(node, cst.Comparison) and len(node.comparisons) == 1:
        if isinstance(node.comparisons[0].operator, cst.Equal):
            return f"attn_mask={file.code(node.left)} != {file.code(node.comparisons[0].comparator)}"
    if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.BitInvert):
        return f"attn_mask={file.code(node.expression)}"
    plain = isinstance(node, (cst.Name, cst.Attribute, cst.Subscript, cst.Call)) or bool(node.lpar)
    return f"attn_mask=~{file.code(node)}" if plain else f"attn_mask=~({file.code(node)})"


def _is_minus_infinity(node: cst.BaseExpression, context: Context) -> bool:
    code = context.file.code(node).replace(" ", "").replace('"', "'")
    return code in ("float('-inf')", "-float('inf')", "-torch.inf", "-math.inf", "-np.inf", "-inf", "-numpy.inf")


def _scale(found: Attention, context: Context) -> str | None:
    """`scale=…`, "" for the usual one (one over the root of the query's width), None where it may be a tensor."""
    if found.scale is None:
        return "scale=1.0"
    code = context.file.code(found.scale)
    if found.divided and _is_root_of_width(found, context):
        return ""
    if context.sem.value(found.scale).kind is not Kind.NUMBER and not _is_number(found.scale, context):
        return None
    if not found.divided:
        return f"scale={code}"
    atom = isinstance(found.scale, (cst.Name, cst.Attribute, cst.Call, cst.Integer, cst.Float)) or found.scale.lpar
    return f"scale=1 / {code}" if atom else f"scale=1 / ({code})"


def _is_root_of_width(found: Attention, context: Context) -> bool:
    """Whether the scores are divided by `math.sqrt(q.size(-1))` of the very query or key."""
    call = found.scale
    if not isinstance(call, cst.Call) or context.sem.qualified(call.func) != "math.sqrt" or len(call.args) != 1:
        return False
    width = context.file.code(call.args[0].value).replace(" ", "")
    return any(
        width == context.file.code(n) + form
        for n in (found.query, found.key)
        if n is not None
        for form in (".size(-1)", ".shape[-1]")
    )


def _is_number(node: cst.BaseExpression, context: Context) -> bool:
    """Whether the scale certainly is a Python number: a root by math, a power of a number, an attribute set to one."""
    if isinstance(node, cst.Call):
        return (context.sem.qualified(node.func) or "").startswith("math.")
    if isinstance(node, (cst.Integer, cst.Float)) or context.sem.value(node).kind is Kind.NUMBER:
        return True
    if isinstance(node, cst.BinaryOperation):
        root = isinstance(node.operator, cst.Power) and isinstance(literal(node.right), float)
        if root and _WIDTH.search(context.file.code(node.left)):
            return True
        return _is_number(node.left, context) and _is_number(node.right, context)
    if isinstance(node, cst.UnaryOperation):
        return _is_number(node.expression, context)
    known = Tracer().definitions(node, Scope(context.sem, context.sem.function(node)))
    return bool(known) and all(
        d.kind == "value" and d.node is not None and not isinstance(d.node, cst.Name) and _is_number(d.node, context)
        for d, _ in known
    )


def _rate(found: Attention, context: Context) -> str | None:
    """`dropout_p=…` that follows the mode, "" without dropout."""
    call = found.rate
    if call is None:
        return ""
    function = context.sem.function(call)
    if context.sem.qualified(call.func) is None:
        if not function.is_method:
            return None
        return f"dropout_p={dotted(call.func)}.p if {function.params[0]}.training else 0.0"
    p, training = argument(call, "p", 1), argument(call, "training", 2)
    if p is None or training is None or isinstance(p.value, cst.IfExp):
        return None
    rate, mode = context.file.code(p.value), context.file.code(training.value)
    if literal(training.value) is True:
        return f"dropout_p={rate}"
    return "" if literal(training.value) is False else f"dropout_p={rate} if {mode} else 0.0"
