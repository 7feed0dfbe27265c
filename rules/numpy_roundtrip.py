"""A tensor leaves the GPU for numpy and comes back, for something that torch does, too.

## What it does

Reports `torch.from_numpy(np.argmax(t.cpu().numpy(), axis=1)).to(device)` and its like in the methods of a Module and in
training loops: a tensor becomes an array, nothing but numpy functions with a twin in torch is done to it, and the
result becomes a tensor again.

## Why is this bad

`.cpu()` makes the CPU wait until the GPU is done, the work runs on one CPU thread, and the way back is another copy.
The graph is cut, too: no gradient gets past it.

## Example

```python
index = np.argsort(scores.detach().cpu().numpy(), axis=1)
order = torch.from_numpy(index).to(device)
```

Use instead:

```python
order = torch.argsort(scores.detach(), dim=1)
```

Nothing is said where something without a twin takes part (scipy, OpenCV, a function of the project, numpy's random
numbers), or where nothing says that the tensor may lie on a GPU.

## Fix safety

Unsafe: numpy and torch differ in which of several equal maxima they name and in the order in which they sum. The fix
is made where every step has a plain twin (`argmax`, `argsort`, `flip`, elementwise functions, sums along an axis,
changes of dtype) and nothing else reads the arrays.

## Verified by

`fixtures/numpy_roundtrip/run.py`: the same weights after training, the same outputs.

## References

- <https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html#avoid-unnecessary-cpu-gpu-synchronization>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.nodes import argument, dotted, find, walk
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, Function, Kind
from torchlint.semantics.knowledge import AUTOGRAD_FUNCTION, MODULE_BASES
from torchlint.semantics.syncs import uses_gpu
from torchlint.vectorise.from_numpy import FromNumpy, Untranslated, conversion

RULE = Rule(
    "TL408",
    Category.DEVICE,
    Severity.WARNING,
    triggers=(r"\.numpy\(",),
    requires=(r"\.numpy\(", r"from_numpy\(|[Tt]ensor\(|as_tensor\(", r"cuda|device"),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

_BACK = frozenset(
    f"torch.{n}" for n in "from_numpy tensor as_tensor Tensor FloatTensor LongTensor DoubleTensor IntTensor".split()
)
# numpy functions of which torch has one by the same or nearly the same name.
_TWINS = frozenset(
    """
    abs absolute add all any arange argmax argmin argsort array asarray ascontiguousarray broadcast_to ceil
    clip concatenate copy cos cosh count_nonzero cross cumprod cumsum diag diff divide dot einsum equal exp
    expand_dims eye flip floor full full_like hstack isnan linspace log log10 log1p log2 logical_and
    logical_not logical_or matmul max maximum mean min minimum moveaxis multiply nonzero ones ones_like outer
    power prod ravel repeat reshape roll round sign sin sinh sort split sqrt square squeeze stack std subtract
    sum swapaxes take tan tanh tile transpose tril triu var vstack where zeros zeros_like float32 float64
    int64 int32
    """.split()
)
_METHODS = frozenset(
    """
    argmax argmin argsort astype clip copy cumsum dot flatten max mean min prod ravel repeat reshape round
    squeeze std sum swapaxes transpose var numpy cpu detach item tolist
    """.split()
)
_LONGEST = 12  # how many steps a value is followed back


@RULE.on
def check(call: cst.Call, context: Context) -> Iterator[Finding]:
    if context.sem.qualified(call.func) not in _BACK or not call.args or call.args[0].star:
        return
    if not uses_gpu(context.sem):
        return
    function = context.sem.function(call)
    if not _is_hot(call, function, context):
        return
    start = _start(call.args[0].value, function, context)
    if start is None:
        return
    yield Finding(
        call,
        f"`{' '.join(context.file.code(start).split())}` takes a detour through numpy and comes back as a tensor",
        "the CPU waits for the GPU, computes alone, and copies the result back; the graph is cut",
        "stay in torch, which has these functions, too",
        _fix(call, function, context),
    )


def _fix(call: cst.Call, function: Function, context: Context) -> Fix | None:
    """The same in torch, where each step is a call with a plain twin; the arrays' names go."""
    file, gone = context.file, dict[str, cst.Assign]()

    def inline(name: str) -> cst.BaseExpression | None:
        assign = _only_for(name, call, function, context)
        if assign is None:
            return None
        gone[name] = assign
        return assign.value

    def is_exit(node: cst.BaseExpression) -> bool:
        return _is_exit(node, context, [])

    start, end = file.span(call)
    try:
        tensor = FromNumpy(context.sem, is_exit, inline).text(call.args[0].value)
        text = conversion(call, context.sem.qualified(call.func) or "", tensor, context.sem)
    except Untranslated:
        return None
    first = min((file.span(a)[0] for a in gone.values()), default=start)
    if "#" in file.text[start:end] or _rebound(text.partition(".")[0], first, call, function, context):
        return None
    return unsafe("Stay in torch", Edit(start, end, text), *(file.delete(a) for a in gone.values()))


def _only_for(name: str, call: cst.Call, function: Function, context: Context) -> cst.Assign | None:
    """The statement that binds the name, if nothing but this conversion reads it."""
    made = [n for n in walk(function.body) if isinstance(n, cst.Assign) and dotted(n.targets[0].target) == name]
    reads = [n for n in find(function.body, cst.Name) if n.value == name and _is_read(n, context)]
    if len(made) != 1 or len(made[0].targets) != 1 or len(reads) != 2 or name in function.params:
        return None  # its binding, and one use
    line = context.file.parent(made[0])
    alone = isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1
    together = context.file.parent(line) if line is not None else None
    return made[0] if alone and together is context.file.parent(context.file.statement(call)) else None


def _rebound(name: str, first: int, call: cst.Call, function: Function, context: Context) -> bool:
    """Whether the tensor's name is bound anew behind the place and before the statement of the call."""
    last = context.file.span(context.file.statement(call))[0]
    targets = (n for n in walk(function.body) if isinstance(n, (cst.AssignTarget, cst.AugAssign)))
    return any(dotted(n.target) == name and first < context.file.span(n)[0] < last for n in targets)


def _is_hot(call: cst.Call, function: Function, context: Context) -> bool:
    """Whether the place is in a Module's computation or in a loop that trains."""
    cls = function.cls
    if cls is not None and function.name not in ("__init__", "predict", "load", "save", "generate", "inference"):
        roots = context.sem.names.roots(cls)
        if any(MODULE_BASES.match(r) or AUTOGRAD_FUNCTION.match(r) for r in roots):
            return "eval" not in function.name and "test" not in function.name
    loops = [a for a in context.file.ancestors(call) if isinstance(a, (cst.For, cst.While))]
    backwards = context.sem.events(function, Effect.BACKWARD)
    return any(e.within(loop) for e in backwards for loop in loops[:1])


def _start(node: cst.BaseExpression, function: Function, context: Context) -> cst.Call | None:
    """The `t.cpu().numpy()` from which the array was computed by nothing that torch lacks; None otherwise."""
    found: list[cst.Call] = []
    wanted: list[cst.BaseExpression] = [node]
    seen: set[str] = set()
    for _ in range(_LONGEST):
        if not wanted:
            break
        if not _followed(wanted.pop(), function, context, found, wanted, seen):
            return None
    return found[0] if found and not wanted else None


def _followed(
    node: cst.BaseExpression,
    function: Function,
    context: Context,
    found: list[cst.Call],
    wanted: list[cst.BaseExpression],
    seen: set[str],
) -> bool:
    """Look at one expression; names in it that arrays were bound to are wanted next. False where torch has no twin."""
    if _is_exit(node, context, found):
        return True
    for part in walk(node, into=lambda n: n not in found and not _is_exit(n, context, found)):
        if part in found:
            continue
        if isinstance(part, cst.Call):
            if not _has_twin(part, context):
                return False
        elif isinstance(part, (cst.ListComp, cst.Lambda, cst.GeneratorExp, cst.DictComp, cst.SetComp, cst.Await)):
            return False
        elif isinstance(part, cst.Name) and part.value in function.local and part.value not in seen:
            if _is_read(part, context) and context.sem.value(part).kind in (Kind.NDARRAY, Kind.UNKNOWN):
                seen.add(part.value)
                bound = _bound(part.value, function)
                if bound is None:
                    return False
                wanted.extend(bound)
    return True


def _is_exit(node: cst.CSTNode, context: Context, found: list[cst.Call]) -> bool:
    """Whether this is the `.numpy()` of a tensor that may lie on a GPU; it is noted."""
    if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute) or node.func.attr.value != "numpy":
        return False
    if any(isinstance(n, cst.Attribute) and n.attr.value == "cpu" for n in walk(node.func)):
        found.append(node)
        return True
    return False


def _has_twin(call: cst.Call, context: Context) -> bool:
    name = context.sem.qualified(call.func) or ""
    if name.startswith("numpy."):
        return name.count(".") == 1 and name.rpartition(".")[2] in _TWINS and argument(call, "where") is None
    if isinstance(call.func, cst.Attribute):
        return call.func.attr.value in _METHODS or (dotted(call.func) or "").endswith((".to", ".cuda", ".size"))
    return dotted(call.func) in ("float", "int", "len", "max", "min")


def _is_read(name: cst.Name, context: Context) -> bool:
    """Whether the name is a value here, not an attribute, a keyword or a dtype's module."""
    parent = context.file.parent(name)
    if isinstance(parent, cst.Attribute):
        return parent.value is name
    return not (isinstance(parent, cst.Arg) and parent.keyword is name)


def _bound(name: str, function: Function) -> list[cst.BaseExpression] | None:
    """What plain assignments bind a name to; None where it is a parameter, a loop's name or written into."""
    if name in function.params:
        return None
    values: list[cst.BaseExpression] = []
    for node in walk(function.body):
        if isinstance(node, cst.Assign):
            for target in node.targets:
                if dotted(target.target) == name:
                    values.append(node.value)
                elif any(isinstance(n, cst.Name) and n.value == name for n in walk(target.target)):
                    return None
        elif isinstance(node, (cst.AugAssign, cst.For, cst.CompFor, cst.NamedExpr)):
            if any(n.value == name for n in find(node.target, cst.Name)):
                return None
    return values if len(values) == 1 else None
