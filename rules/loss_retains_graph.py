"""A sum or list of losses that keeps the autograd graph of every batch.

## What it does

Finds `total += loss`, `total = total + loss`, `losses.append(loss)`, `sums[key] += loss` and `self.total += loss` in a loop, where
the value carries a graph that nobody differentiates through the sum: `backward` runs on the loss itself, or, in an
evaluation loop that records, on nothing at all.

## Why is this bad

A loss is the end of a graph that holds what its backward pass needs. Adding it to a running total links the graphs of all
batches into one chain that lives as long as the total: memory grows with every step, and an epoch that fits at its
beginning may not fit at its end.

## Example

```python
total = 0.0
for images, labels in loader:
    loss = criterion(model(images), labels)
    loss.backward()
    optimizer.step()
    total += loss
print(f"{total / len(loader):.4f}")
```

Use instead:

```python
    total += loss.detach()   # no synchronisation; .item() where a Python number is wanted
```

Silent where the sum is differentiated or handed to code that may do so, for numbers and detached tensors, and where
nothing is recorded: under `no_grad`, in a function that all callers run without recording.

## Fix safety

`.detach()` is safe where the total is only turned into numbers, compared, or formatted with a format specification: the values are
the same. `.item()` (for totals that are printed as they are) and everything whose readers cannot all be seen is
unsafe, because the total then has another type or prints differently.

## Verified by

`fixtures/loss_retains_graph/run.py`: bitwise equal totals and parameters, fewer bytes alive.

## References

- <https://docs.pytorch.org/docs/stable/notes/faq.html#my-model-reports-cuda-runtime-error-2-out-of-memory>
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Question, Severity
from torchlint.rule import Category, Context, Finding, Rule, safe, unsafe
from torchlint.semantics import Effect, Event, Function, Graph, Kind
from torchlint.semantics.transfers import loader_value
from torchlint.source import dotted, find, literal, walk

RULE = Rule(
    "TL601",
    Category.MEMORY,
    Severity.WARNING,
    triggers=(r"\+=", r"\.append\s*\(", r"=\s*[\w.\[\]\"']+\s*\+"),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)

Loop = cst.For | cst.While
_NO_GRAPH = (Kind.NUMBER, Kind.NDARRAY, Kind.STRING, Kind.NONE, Kind.MODULE, Kind.FUNCTION, Kind.RANGE, Kind.DICT)
# Methods and attributes behind which a value no longer carries the graph.
_LEAVES_GRAPH = frozenset(("item", "detach", "data", "tolist", "numpy", "shape", "size", "device", "dtype", "grad_fn", "requires_grad"))
_SAME_GRAPH = frozenset("mean sum clone cpu cuda to view squeeze reshape float double half unsqueeze flatten abs sqrt".split())
_NUMBERS = frozenset(("item", "tolist"))


@dataclass(frozen=True)
class _Growth:
    """A statement that adds `added` to what `name` holds already."""

    at: cst.CSTNode
    name: str
    target: cst.BaseExpression
    added: cst.BaseExpression
    function: Function
    loops: tuple[Loop, ...]  # of the function, innermost first
    is_list: bool = False


@RULE.on
def check(node: cst.AugAssign | cst.Assign | cst.Call, ctx: Context) -> Iterator[Finding]:
    growth = _growth(node, ctx)
    if growth is None or not _may_carry(growth.added, ctx):
        return
    if not growth.is_list and _recording_off(growth.at, ctx):
        return
    trained = _differentiated_alone(growth, ctx)
    if trained is None:
        questions = _kept_in_evaluation(growth, ctx)
        if questions is None:
            return
    else:
        questions = ()
    yield _finding(growth, trained, questions, ctx)


def _finding(growth: _Growth, trained: Event | None, questions: tuple[Question, ...], ctx: Context) -> Finding:
    added = ctx.file.code(growth.added)
    verb = f"`{growth.name}` collects" if growth.is_list else f"`{growth.name}` sums up"
    fix = _fix(growth, trained, ctx)
    way = "`.item()`" if fix is not None and ".item()" in fix.message else "`.detach()`"
    return Finding(
        growth.at,
        f"{verb} `{added if len(added) < 40 else 'a loss'}` with its autograd graph",
        "the graphs of all batches stay alive, so memory grows with every step",
        f"add {way} to what is kept",
        fix,
        questions,
    )


# -- what grows -----------------------------------------------------------------------------------------------------


def _growth(node: cst.AugAssign | cst.Assign | cst.Call, ctx: Context) -> _Growth | None:
    found = _grown(node, ctx)
    if found is None:
        return None
    target, added, is_list = found
    name = dotted(target.value if isinstance(target, cst.Subscript) else target)
    if name is None:
        return None
    function = ctx.sem.function(node)
    loops = _loops(node, ctx)
    if not loops and not name.startswith("self."):
        return None
    return _Growth(node, name, target, added, function, loops, is_list)


def _grown(
    node: cst.AugAssign | cst.Assign | cst.Call, ctx: Context
) -> tuple[cst.BaseExpression, cst.BaseExpression, bool] | None:
    if isinstance(node, cst.AugAssign):
        if not isinstance(node.operator, cst.AddAssign) or ctx.sem.value(node.target).kind in (Kind.LIST, Kind.NDARRAY):
            return None
        return node.target, node.value, False
    if isinstance(node, cst.Call):
        func = node.func
        if not isinstance(func, cst.Attribute) or func.attr.value != "append" or len(node.args) != 1 or node.args[0].star:
            return None
        if ctx.sem.value(func.value).kind not in (Kind.LIST, Kind.UNKNOWN):
            return None
        return func.value, node.args[0].value, True
    if len(node.targets) != 1 or not isinstance(node.value, cst.BinaryOperation):
        return None
    target, value = node.targets[0].target, node.value
    if not isinstance(value.operator, cst.Add):
        return None
    for old, new in ((value.left, value.right), (value.right, value.left)):
        if old.deep_equals(target):
            return target, new, False
    return None


def _loops(node: cst.CSTNode, ctx: Context) -> tuple[Loop, ...]:
    loops: list[Loop] = []
    for ancestor in ctx.file.ancestors(node):
        if isinstance(ancestor, (cst.For, cst.While)):
            loops.append(ancestor)
        elif isinstance(ancestor, (cst.FunctionDef, cst.Lambda)):
            break
    return tuple(loops)


# -- what carries a graph -------------------------------------------------------------------------------------------


def _may_carry(node: cst.BaseExpression, ctx: Context) -> bool:
    """False where the added value certainly is a number or a tensor without graph."""
    value = ctx.sem.value(node)
    return value.kind not in _NO_GRAPH and value.graph is not Graph.DETACHED and bool(list(_carriers(node, ctx)))


def _carriers(node: cst.BaseExpression, ctx: Context) -> Iterator[cst.BaseExpression]:
    """The parts of a sum or product that may bring a graph: names, items, attributes, calls of unknown making."""
    if isinstance(node, cst.BinaryOperation):
        yield from _carriers(node.left, ctx)
        yield from _carriers(node.right, ctx)
        return
    if isinstance(node, cst.UnaryOperation):
        yield from _carriers(node.expression, ctx)
        return
    value = ctx.sem.value(node)
    if value.kind in _NO_GRAPH or value.graph is Graph.DETACHED or literal(node) is not ...:
        return
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value in ("len", "float", "int"):
        return
    if isinstance(node, (cst.Name, cst.Attribute, cst.Subscript)):
        if not (isinstance(node, cst.Attribute) and node.attr.value in _LEAVES_GRAPH):
            yield node
    elif isinstance(node, cst.Call):
        func = node.func
        if isinstance(func, cst.Attribute) and func.attr.value in _LEAVES_GRAPH:
            return
        yield node


def _base(node: cst.BaseExpression) -> str | None:
    """`loss` of `loss`, `loss.mean()`, `loss.to(device)`: the name whose graph the expression carries."""
    while isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value in _SAME_GRAPH:
        node = node.func.value
    if isinstance(node, cst.Subscript):
        return dotted(node.value)
    return dotted(node)


def _recording_off(node: cst.CSTNode, ctx: Context) -> bool:
    """Whether the statement stands under `with torch.no_grad()`: a sum made there has no graph."""
    for ancestor in ctx.file.ancestors(node):
        if isinstance(ancestor, cst.With):
            for item in ancestor.items:
                target = item.item.func if isinstance(item.item, cst.Call) else item.item
                if ctx.sem.qualified(target) in ("torch.no_grad", "torch.inference_mode", "torch.set_grad_enabled"):
                    return True
        elif isinstance(ancestor, cst.FunctionDef):
            return False
    return False


# -- the training case: backward on the loss itself -------------------------------------------------------------------


def _differentiated_alone(growth: _Growth, ctx: Context) -> Event | None:
    """The backward that runs on the added value in every turn and so uses its graph up, if there is one.

    What is summed up afterwards cannot be differentiated again, unless backward retains the graph.
    """
    backwards = [e for e in ctx.sem.events(growth.function, Effect.BACKWARD)]
    if not backwards or _differentiates(growth, ctx):
        return None
    bases = {b: c for c in _carriers(growth.added, ctx) if (b := _base(c)) is not None}
    scope = _accumulating_loop(growth, backwards, ctx)
    if scope is None:
        return None
    for event in backwards:
        if not (isinstance(scope, cst.FunctionDef) or event.within(scope)):
            continue
        differentiated = _differentiated(event)
        if event.subject and event.via is not None:
            differentiated = {event.subject}
        for base, carrier in bases.items():
            same = base in differentiated and not _rebound_between(base, event.node, growth.at, scope, ctx)
            part = ctx.sem.value(carrier).graph is Graph.ATTACHED and _derived({base}, scope, growth) & differentiated
            last = growth.is_list and _is_last_item(event, growth.name)
            if (same or part or last) and not (_retains(event) and _escapes(growth, ctx)):
                return event
        if growth.is_list and _is_last_item(event, growth.name) and not _escapes(growth, ctx):
            return event
    return None


def _accumulating_loop(growth: _Growth, backwards: list[Event], ctx: Context) -> Loop | cst.FunctionDef | None:
    """The loop over whose turns the value lives on: it runs backward and does not start the total anew."""
    for loop in growth.loops:
        if _starts_anew(growth, loop):
            return None
        if any(e.within(loop) for e in backwards):
            return loop
    node = growth.function.node
    if growth.name.startswith("self.") and isinstance(node, cst.FunctionDef) and not _starts_anew(growth, node):
        return node if growth.function.name != "__init__" else None
    return None


def _starts_anew(growth: _Growth, scope: cst.CSTNode) -> bool:
    """Whether the scope assigns the total something that does not build on it, or empties it."""
    for node in walk(scope, into=lambda n: not isinstance(n, cst.ClassDef)):
        if isinstance(node, cst.Assign) and node is not growth.at:
            if any(growth.name in _flat(t.target) for t in node.targets) and not _mentions(node.value, growth.name):
                return True
        elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
            if node.func.attr.value in ("clear", "pop", "popleft") and dotted(node.func.value) == growth.name:
                return True
        elif isinstance(node, cst.Del) and growth.name in _flat(node.target):
            return True
    return False


def _flat(target: cst.CSTNode) -> set[str]:
    if isinstance(target, (cst.Tuple, cst.List)):
        return {n for e in target.elements for n in _flat(e.value)}
    if isinstance(target, cst.Subscript):
        return _flat(target.value) if any(isinstance(e.slice, cst.Slice) for e in target.slice) else set()
    name = dotted(target)
    return {name} if name is not None else set()


def _mentions(node: cst.CSTNode, name: str) -> bool:
    return any(dotted(n) == name for n in walk(node) if isinstance(n, (cst.Name, cst.Attribute)))


def _differentiated(event: Event) -> set[str]:
    """The names whose graph a backward call runs through: its receiver's, or its argument's for `engine.backward(loss)`."""
    node = event.node
    if not isinstance(node, cst.Call):
        return {event.subject} if event.subject else set()
    names: set[str] = {event.subject} if event.subject else set()
    parts: list[cst.BaseExpression] = [a.value for a in node.args if a.keyword is None]
    if isinstance(node.func, cst.Attribute):
        parts.append(node.func.value)
    for part in parts:
        names |= _graph_names(part)
    return names


def _graph_names(node: cst.BaseExpression) -> set[str]:
    """Names in an expression, divisors and called functions left out."""
    if isinstance(node, cst.BinaryOperation):
        right = set() if isinstance(node.operator, (cst.Divide, cst.FloorDivide)) else _graph_names(node.right)
        return _graph_names(node.left) | right
    if isinstance(node, cst.Call):
        names = {n for a in node.args for n in _graph_names(a.value)}
        if isinstance(node.func, cst.Attribute):
            names |= _graph_names(node.func.value)
        return names
    if isinstance(node, cst.Subscript):
        return _graph_names(node.value)
    name = dotted(node)
    return {name} if name is not None else set()


def _is_last_item(event: Event, name: str) -> bool:
    """`losses[-1].backward()`: the list itself is kept, only its newest item is differentiated."""
    func = event.node.func if isinstance(event.node, cst.Call) else None
    if not isinstance(func, cst.Attribute) or not isinstance(func.value, cst.Subscript):
        return False
    index = func.value.slice[0].slice
    return dotted(func.value.value) == name and isinstance(index, cst.Index) and literal(index.value) == -1


def _retains(event: Event) -> bool:
    if not isinstance(event.node, cst.Call):
        return True
    given = [a for a in event.node.args if a.keyword is not None and a.keyword.value in ("retain_graph", "create_graph")]
    return any(literal(a.value) is not False for a in given)


def _rebound_between(name: str, one: cst.CSTNode, other: cst.CSTNode, scope: cst.CSTNode, ctx: Context) -> bool:
    """Whether the name gets another value between two places: `loss = reduce(loss)` after backward is not that loss."""
    first, last = sorted((ctx.file.caret(one)[0], ctx.file.caret(other)[0]))
    for node in find(scope, cst.AssignTarget):
        if name in _flat(node.target) and first < ctx.file.caret(node)[0] < last:
            return True
    return False


def _derived(names: set[str], scope: cst.CSTNode, growth: _Growth) -> set[str]:
    """Names in the scope that are computed from these with their graph, the total itself left out."""
    result = set(names)
    for _ in range(4):
        size = len(result)
        for node in walk(scope):
            if isinstance(node, cst.Assign) and node is not growth.at:
                if _graph_names(node.value) & result:
                    result |= {n for t in node.targets for n in _flat(t.target)}
            elif isinstance(node, cst.AugAssign) and node is not growth.at:
                if _graph_names(node.value) & result and (name := dotted(node.target)) is not None:
                    result.add(name)
            elif isinstance(node, cst.WithItem) and node.asname is not None:
                if isinstance(node.item, cst.Call) and _graph_names(node.item) & result:
                    result |= _flat(node.asname.name)
        if len(result) == size:
            break
    return result - {growth.name}


def _differentiates(growth: _Growth, ctx: Context) -> bool:
    """Whether anything made from the total is differentiated, in the function or, for an attribute, in its class."""
    functions = [growth.function]
    if growth.name.startswith("self.") and growth.function.cls is not None:
        functions = [m for c in ctx.sem.names.mro(growth.function.cls) for m in c.methods.values()]
    for function in functions:
        events = ctx.sem.events(function, Effect.BACKWARD, Effect.GRAD)
        if not events:
            continue
        made = _made_from(growth, function.node)
        for event in events:
            if growth.is_list and _is_last_item(event, growth.name):
                continue
            if _differentiated(event) & made:
                return True
    return False


def _made_from(growth: _Growth, scope: cst.CSTNode) -> set[str]:
    """The total, and the names that get it or something computed from it with its graph."""
    result = {growth.name}
    for _ in range(4):
        size = len(result)
        for node in walk(scope):
            if isinstance(node, cst.Assign) and any(_carried(n, node.value) for n in result):
                result |= {n for t in node.targets for n in _flat(t.target)}
            elif isinstance(node, cst.AugAssign) and any(_carried(n, node.value) for n in result):
                if (name := dotted(node.target)) is not None:
                    result.add(name)
            elif isinstance(node, (cst.For, cst.CompFor)) and any(_carried(n, node.iter) for n in result):
                result |= _flat(node.target)
        if len(result) == size:
            break
    return result


def _carried(name: str, node: cst.BaseExpression) -> bool:
    """Whether the expression's value may hold the graph of what the name holds."""
    return name in _graph_names_kept(node)


def _graph_names_kept(node: cst.BaseExpression) -> set[str]:
    if isinstance(node, cst.Call):
        func = node.func
        if isinstance(func, cst.Attribute) and func.attr.value in _LEAVES_GRAPH:
            return set()
        if isinstance(func, cst.Name) and func.value in ("float", "int", "len", "str", "print", "round", "isinstance"):
            return set()
        names = {n for a in node.args for n in _graph_names_kept(a.value)}
        if isinstance(func, cst.Attribute):
            names |= _graph_names_kept(func.value)
        return names
    if isinstance(node, cst.Attribute) and node.attr.value in _LEAVES_GRAPH:
        return set()
    if isinstance(node, (cst.Name, cst.Attribute)):
        name = dotted(node)
        return {name} if name is not None else _graph_names_kept(node.value) if isinstance(node, cst.Attribute) else set()
    names = set()
    if isinstance(node, (cst.FormattedString, cst.Comparison, cst.Lambda)):
        return names
    for child in node.children:
        for part in walk(child):
            if isinstance(part, cst.BaseExpression):
                names |= _graph_names_kept(part)
                break
    return names


# -- the evaluation case: nothing is differentiated ---------------------------------------------------------------------


def _kept_in_evaluation(growth: _Growth, ctx: Context) -> tuple[Question, ...] | None:
    """The questions under which a loop over data keeps graphs that nothing uses; None where it does not."""
    sem, function = ctx.sem, growth.function
    if sem.value(growth.added).graph is not Graph.ATTACHED or not growth.loops:
        return None
    loop = growth.loops[0]
    if not isinstance(loop, cst.For) or loader_value(sem, loop.iter) is None or _starts_anew(growth, loop):
        return None
    if sem.events(function, Effect.BACKWARD, Effect.GRAD) or _escapes(growth, ctx) or growth.name.startswith("self."):
        return None
    inside = [e for e in sem.events(function, Effect.LOSS, Effect.FORWARD) if e.within(loop)]
    if not any(e.effect is Effect.LOSS for e in inside) or any(e.grad.off for e in inside):
        return None
    sites = sem.call_sites(function)
    if sites and all(s.grad.off for s in sites):
        return None
    questions = {q: None for e in inside for q in e.grad.unless}
    if isinstance(function.node, cst.FunctionDef):
        questions[Question("callers-disable-grad", function.own)] = None
    return tuple(questions)


def _escapes(growth: _Growth, ctx: Context) -> bool:
    """Whether the total may get, with its graph, where it cannot be followed: returned, yielded, or handed to a call."""
    scope = growth.function.node
    made = _made_from(growth, scope)
    for node in walk(scope):
        if isinstance(node, (cst.Return, cst.Yield)):
            value = node.value.item if isinstance(node.value, cst.From) else node.value
            if value is not None and _graph_names_kept(value) & made:
                return True
        elif isinstance(node, cst.Call) and not _reports(node, ctx):
            if any(_graph_names_kept(a.value) & made for a in node.args):
                return True
    return False


def _reports(call: cst.Call, ctx: Context) -> bool:
    """Whether a call only looks at its arguments: prints, formats, logs, or collects them as the growth itself does."""
    if isinstance(call.func, cst.Attribute) and call.func.attr.value in _LOOKING:
        return True
    name = ctx.sem.qualified(call.func) or dotted(call.func) or ""
    return name in _LOOKING_BUILTINS or name.partition(".")[0] in ("numpy", "math", "torch", "logging", "wandb", "mlflow")


_LOOKING = frozenset(
    """format append write add_scalar add_scalars info debug warning log set_postfix set_postfix_str set_description log_metric
    log_metrics join extend update""".split()
)
_LOOKING_BUILTINS = frozenset("print str repr len float int round sum min max abs sorted list tuple enumerate zip format isinstance".split())


# -- fix ----------------------------------------------------------------------------------------------------------------


def _fix(growth: _Growth, trained: Event | None, ctx: Context) -> Fix | None:
    if trained is not None and growth.is_list and _is_last_item(trained, growth.name):
        return None  # the kept item is the one that is differentiated
    carriers = [c for c in _carriers(growth.added, ctx) if _has_graph(c, growth, trained, ctx)]
    if not carriers:
        return None
    way, build = _way(growth, trained, ctx)
    edits = [Edit(ctx.file.span(c)[1], ctx.file.span(c)[1], way) for c in carriers]
    return build(f"keep the value without its graph: `{way}`", *edits)


def _has_graph(node: cst.BaseExpression, growth: _Growth, trained: Event | None, ctx: Context) -> bool:
    if ctx.sem.value(node).graph is Graph.ATTACHED:
        return True
    return trained is not None and _base(node) in (_differentiated(trained) | {trained.subject})


def _way(growth: _Growth, trained: Event | None, ctx: Context):  # type: ignore[no-untyped-def]
    """What to write behind the value, and how sure it is: `.detach()` where tensors are wanted or nothing changes."""
    readers = _readers(growth, ctx)
    if readers is not None and all(_is_exact(r, ctx) for r in readers):
        return ".detach()", safe
    scalar = trained is not None and isinstance(trained.node, cst.Call) and not trained.node.args
    tensor = ctx.sem.value(growth.target).origin.startswith("torch.") or _started_as_tensor(growth, ctx)
    wants_tensor = readers is None or any(_wants_tensor(r, ctx) for r in readers)
    return (".item()" if scalar and not tensor and not wants_tensor else ".detach()"), unsafe


def _started_as_tensor(growth: _Growth, ctx: Context) -> bool:
    return any(
        ctx.sem.value(n.value).is_tensor
        for n in find(growth.function.node, cst.Assign)
        if n is not growth.at and any(growth.name in _flat(t.target) for t in n.targets)
    )


def _readers(growth: _Growth, ctx: Context) -> list[cst.CSTNode] | None:
    """Every place that reads the total, None where not all can be seen (attributes, globals)."""
    if "." in growth.name or any(
        isinstance(n, (cst.Global, cst.Nonlocal)) and any(i.name.value == growth.name for i in n.names)
        for n in walk(growth.function.node)
    ):
        return None
    own = set(walk(growth.at))
    return [
        n
        for n in find(growth.function.node, cst.Name)
        if n.value == growth.name and n not in own and not _is_written(n, ctx)
    ]


def _is_written(node: cst.Name, ctx: Context) -> bool:
    parent = ctx.file.parent(node)
    return isinstance(parent, cst.AssignTarget) or (isinstance(parent, cst.Arg) and parent.keyword is node)


def _is_exact(node: cst.CSTNode, ctx: Context) -> bool:
    """Whether a reader gets the very same value from a tensor without graph: it ends in a number or a comparison."""
    current, parent = node, ctx.file.parent(node)
    while isinstance(parent, (cst.BinaryOperation, cst.Subscript, cst.UnaryOperation, cst.Index, cst.SubscriptElement)):
        current, parent = parent, ctx.file.parent(parent)
    if isinstance(parent, cst.FormattedStringExpression):
        return parent.format_spec is not None and bool(parent.format_spec)
    if isinstance(parent, cst.Comparison):
        return True
    if isinstance(parent, cst.Attribute):
        return parent.attr.value in _NUMBERS or parent.attr.value in ("detach", "data")
    if isinstance(parent, cst.Arg):
        call = ctx.file.parent(parent)
        return isinstance(call, cst.Call) and dotted(call.func) in ("float", "int", "len")
    return isinstance(parent, (cst.AugAssign, cst.AssignTarget)) and current is not getattr(parent, "value", None)


def _wants_tensor(node: cst.CSTNode, ctx: Context) -> bool:
    """Whether a reader uses a method or function of tensors on the total or its items."""
    current, parent = node, ctx.file.parent(node)
    while isinstance(parent, (cst.BinaryOperation, cst.Subscript)):
        current, parent = parent, ctx.file.parent(parent)
    if isinstance(parent, cst.Attribute) and parent.value is current:
        return parent.attr.value not in ("append", "clear", "extend", "pop")
    if isinstance(parent, cst.Arg):
        call = ctx.file.parent(parent)
        name = (ctx.sem.qualified(call.func) or "") if isinstance(call, cst.Call) else ""
        return name.startswith("torch.")
    return False
