"""A list of parts and one `torch.cat` behind the loop, in place of a tensor that grows in every turn."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix
from torchlint.nodes import argument, dotted, find, literal, walk
from torchlint.semantics.kinds import Kind
from torchlint.semantics.model import Semantics
from torchlint.semantics.rows import bindings, bindings_in, fresh_name, is_read, reads
from torchlint.spelling import same
from torchlint.vectorise.growth import Growth, growth

_WITH_DIM = frozenset(("torch.cat", "torch.concat", "torch.concatenate"))


def list_fix(g: Growth, sem: Semantics) -> Fix | None:
    """Collect the parts in a list and join them once behind the loop. None where that cannot be written surely."""
    steps = _steps(g, sem)
    if steps is None or any(s.prepends or s.first is not g.first for s in steps) or not g.name.isidentifier():
        return None
    tail = {_tail(s, sem) for s in steps}
    if len(tail) != 1 or isinstance(g.first, cst.IfExp):
        return None
    arguments = tail.pop()
    if not _loop_keeps(g, sem) or sem.file.parent(g.loop) is None or _leaves_with_value(g, sem):
        return None
    if g.first is not None:
        return _guarded_fix(g, sem)
    parts = fresh_name(f"{g.name}_parts", sem)
    function = sem.file.code(g.call.func)
    edits: list[Edit] = []
    if _may_start_as_none(g, sem):
        return None
    edits.append(sem.file.insert_before(g.loop, f"{parts} = [{g.name}]"))
    for step in steps:
        edits.append(_append(step.node, step, parts, sem))
    edits.append(sem.file.insert_after(g.loop, f"{g.name} = {function}({parts}{arguments})"))
    proven = _starts_as_tensor(g, arguments, sem) and all(
        _is_fresh(p, g, sem) and not _is_slice(p, g) for s in steps for p in s.parts
    )
    proven = proven and not any(_under_with(s, g, sem) for s in steps)
    return Fix(tuple(edits), Applicability.SAFE if proven else Applicability.UNSAFE, _MESSAGE)


_MESSAGE = "collect the parts in a list and concatenate once behind the loop"


def _steps(g: Growth, sem: Semantics) -> list[Growth] | None:
    steps = []
    for assign in find(g.loop, cst.Assign):
        if len(assign.targets) == 1 and dotted(assign.targets[0].target) == g.name:
            step = growth(assign, sem)
            if step is not None:
                steps.append(step)
            elif g.first is None:
                return None
    return steps


def _tail(step: Growth, sem: Semantics) -> str:
    """The arguments of the cat call behind the tensors, as text with a leading comma."""
    rest = [a for a in step.call.args if a is not argument(step.call, "tensors", 0)]
    return "".join(
        f", {a.keyword.value}={sem.file.code(a.value)}" if a.keyword is not None else f", {sem.file.code(a.value)}"
        for a in rest
    )


def _append(at: cst.CSTNode, step: Growth, parts: str, sem: Semantics) -> Edit:
    codes = [_bare(p, sem) for p in step.parts]
    text = f"{parts}.append({codes[0]})" if len(codes) == 1 else f"{parts}.extend(({', '.join(codes)}))"
    return sem.file.replace(at, text)


def _bare(node: cst.BaseExpression, sem: Semantics) -> str:
    start, end = sem.file.caret(node)
    text = sem.file.text[start:end]
    return f"({text})" if isinstance(node, (cst.Tuple, cst.GeneratorExp)) and not text.startswith("(") else text


def _loop_keeps(g: Growth, sem: Semantics) -> bool:
    """Whether the cat's other arguments mean the same behind the loop as in it."""
    for arg in g.call.args:
        if arg is argument(g.call, "tensors", 0):
            continue
        if literal(arg.value) is ...:
            return False
    return True


def _leaves_with_value(g: Growth, sem: Semantics) -> bool:
    """Whether the name may be looked at without passing the new line: a closure, a
    global, a handler or an else of the loop."""
    body = sem.function(g.loop).body
    for node in walk(body):
        if isinstance(node, (cst.Global, cst.Nonlocal)) and any(i.name.value == g.name for i in node.names):
            return True
        if isinstance(node, (cst.FunctionDef, cst.Lambda)) and any(reads(g.name, node, sem)):
            return True
    if g.loop.orelse is not None and any(reads(g.name, g.loop.orelse, sem)):
        return True
    return any(isinstance(a, (cst.Try, cst.TryStar)) for a in sem.file.ancestors(g.node))


def _guarded_fix(g: Growth, sem: Semantics) -> Fix | None:
    """`if first: a = new; b = other` / `else: a = cat([a, new]); b = cat([b, other])` as lists that are joined behind
    the loop. Each of the names has this fix."""
    steps = _steps_of_guard(g, sem)
    if not steps or not _starts_anew(g, steps, sem):
        return None
    if any(not _loop_keeps(s, sem) or _leaves_with_value(s, sem) or not s.name.isidentifier() for s in steps):
        return None
    lists = {s.name: fresh_name(f"{s.name}_parts", sem) for s in steps}
    if len(lists) != len(steps) or g.first is None:
        return None
    comments = [_comment(s.node, g.first, sem) for s in steps]
    if sem.file.code(g.first).count("#") != sum(comment.count("#") for comment in comments):
        return None  # what is said of the first turn has no place any more
    appends = [f"{lists[s.name]}.append({_bare(s.parts[0], sem)}){c}" for s, c in zip(steps, comments)]
    text = (sem.file.newline + sem.file.indent(g.first)).join(appends)
    joins = [f"{s.name} = {sem.file.code(s.call.func)}({lists[s.name]}{_tail(s, sem)})" for s in steps]
    edits = (
        sem.file.insert_before(g.loop, [f"{name} = []" for name in lists.values()]),
        sem.file.replace(g.first, text),
        sem.file.insert_after(
            g.loop, [f"if {lists[steps[0].name]}:", *(f"{sem.file.indent_unit}{join}" for join in joins)]
        ),
    )
    return Fix(edits, Applicability.UNSAFE, _MESSAGE)


def _steps_of_guard(g: Growth, sem: Semantics) -> list[Growth] | None:
    """The steps of the growing branch, where the other does nothing but set each name to what its step adds."""
    guard = g.first
    if not isinstance(guard, cst.If) or not isinstance(guard.orelse, cst.Else):
        return None
    if any(isinstance(p, cst.If) and p.orelse is guard for p in sem.file.ancestors(guard)):
        return None
    branches = [[_assign(s) for s in branch.body] for branch in (guard.body, guard.orelse.body)]
    grown, fresh = branches if any(a is g.node for a in branches[0]) else branches[::-1]
    if len(grown) != len(fresh):
        return None
    steps: list[Growth] = []
    for step in grown:
        found = growth(step, sem) if step is not None else None
        if found is None or found.prepends or found.first is not guard or found.loop is not g.loop:
            return None
        given = [
            a for a in fresh if a is not None and len(a.targets) == 1 and dotted(a.targets[0].target) == found.name
        ]
        if len(found.parts) != 1 or len(given) != 1 or not same(given[0].value, found.parts[0]):
            return None
        steps.append(found)
    return steps if len({s.name for s in steps}) == len(fresh) else None


def _assign(statement: cst.CSTNode) -> cst.Assign | None:
    small = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1 else None
    return small if isinstance(small, cst.Assign) else None


def _comment(node: cst.Assign, guard: cst.CSTNode, sem: Semantics) -> str:
    """The comment behind a statement, where the text of the guard holds it; behind the last one it stays as it is."""
    line = sem.file.statement(node)
    comment = line.trailing_whitespace.comment if isinstance(line, cst.SimpleStatementLine) else None
    if comment is None or sem.file.caret(node)[1] >= sem.file.caret(guard)[1]:
        return ""
    return f"  {comment.value}"


def _starts_anew(g: Growth, steps: list[Growth], sem: Semantics) -> bool:
    """Whether the branch that sets the names is taken in the first turn of the loop, whenever it runs, and no other."""
    if not isinstance(g.first, cst.If):
        return False
    start = sem.file.caret(g.loop)[0]
    asked = next((s for s in steps if _asks_for_none(g.first.test, s.name)), None)
    if asked is None and not _asks_for_zero(g.first.test, g):
        return False
    if asked is None and sem.file.parent(g.first) is g.loop.body and next(find(g.loop, cst.Continue), None) is None:
        return True
    # The fix leaves the name alone when no turn comes to the guard; it must not hold anything in front of the loop.
    around = [a for a in sem.file.ancestors(g.loop) if isinstance(a, (cst.For, cst.While))]
    for step in steps if asked is None else [asked]:
        before = [b for b in bindings_in(step.name, sem.function(g.loop), sem) if sem.file.caret(b)[0] < start]
        if step.name in sem.function(g.loop).params or not all(
            isinstance(b, cst.Assign) and dotted(b.value) == "None" for b in before
        ):
            return False
        if not all(any(a is loop for b in before for a in sem.file.ancestors(b)) for loop in around):
            return False
    return True


def _sides(test: cst.BaseExpression, kind: type[cst.BaseCompOp]) -> tuple[cst.BaseExpression, ...]:
    if not isinstance(test, cst.Comparison) or len(test.comparisons) != 1:
        return ()
    return (test.left, test.comparisons[0].comparator) if isinstance(test.comparisons[0].operator, kind) else ()


def _asks_for_none(test: cst.BaseExpression, name: str) -> bool:
    """`name is None`."""
    return {dotted(side) for side in _sides(test, cst.Is) or _sides(test, cst.Equal)} == {name, "None"}


def _asks_for_zero(test: cst.BaseExpression, g: Growth) -> bool:
    """`i == 0`, for the counter of an enumerate or range that starts at 0."""
    sides = _sides(test, cst.Equal)
    counted = [dotted(side) for side in sides if literal(side) != 0]
    if len(counted) != 1 or not isinstance(g.loop, cst.For):
        return False
    counter, source = g.loop.target, g.loop.iter
    if isinstance(counter, cst.Tuple):
        counter = counter.elements[0].value  # type: ignore[assignment]
        wanted = "enumerate"
    else:
        wanted = "range"
    return (
        isinstance(source, cst.Call)
        and dotted(source.func) == wanted
        and len(source.args) == 1
        and dotted(counter) is not None
        and dotted(counter) == counted[0]
    )


def _may_start_as_none(g: Growth, sem: Semantics) -> bool:
    """Whether the name was ever set to None: a loop without turns would then join None."""
    made = bindings_in(g.name, sem.function(g.loop), sem)
    return any(isinstance(b, cst.Assign) and dotted(b.value) == "None" for b in made)


def _starts_as_tensor(g: Growth, arguments: str, sem: Semantics) -> bool:
    """Whether the name surely holds a tensor in front of the loop, and one that `cat` alone
    accepts when no turn is run."""
    if sem.qualified(g.call.func) not in _WITH_DIM or g.name in sem.function(g.loop).params:
        return False
    start = sem.file.caret(g.loop)[0]
    before = [b for b in bindings_in(g.name, sem.function(g.loop), sem) if sem.file.caret(b)[0] < start]
    if not before or not all(isinstance(b, cst.Assign) for b in before):
        return False
    block = sem.file.parent(sem.file.statement(before[-1]))
    if not any(block is a for a in sem.file.ancestors(g.loop)):
        return False  # set in one branch only
    value = sem.value(before[-1].value) if isinstance(before[-1], cst.Assign) else None
    if value is None or value.kind is not Kind.TENSOR or not isinstance(before[-1], cst.Assign):
        return False
    # An empty 1-d start joins along dimension 0 only when nothing was added to it.
    dims = _rank_of_factory(before[-1].value)
    return (
        arguments in ("", ", 0", ", dim=0", ", -1", ", dim=-1")
        if dims is None
        else dims > 0 and not _beyond(arguments, dims)
    )


def _rank_of_factory(value: cst.BaseExpression) -> int | None:
    """The number of sizes that a call such as `torch.zeros(2, n)` spells out."""
    if not isinstance(value, cst.Call) or (dotted(value.func) or "").rpartition(".")[2] not in (
        "empty",
        "zeros",
        "ones",
        "rand",
        "randn",
    ):
        return None
    sizes = [a for a in value.args if a.keyword is None]
    if any(a.star for a in sizes):
        return None
    if len(sizes) == 1:
        only = sizes[0].value
        return (
            len(only.elements)
            if isinstance(only, (cst.Tuple, cst.List))
            else 1
            if isinstance(literal(only), int)
            else None
        )
    return len(sizes) or None


def _beyond(arguments: str, dims: int) -> bool:
    text = arguments.rpartition("=")[2].strip(", ")
    return text.lstrip("-").isdigit() and not -dims <= int(text) < dims


_RETURNS_SHARED = ("torch.from_numpy", "torch.as_tensor", "torch.frombuffer", "torch.asarray")


def _is_fresh(part: cst.BaseExpression, g: Growth, sem: Semantics) -> bool:
    """Whether what a turn adds stays what it is until the loop ends: nothing in the loop writes
    into what it is made of."""
    roots, pending = set(), [part]
    while pending:
        for n in walk(pending.pop()):
            if isinstance(n, cst.Call) and sem.qualified(n.func) in _RETURNS_SHARED:
                return False
            if isinstance(n, cst.Name) and n.value not in roots and is_read(n, sem):
                roots.add(n.value)
                pending += [b.value for b in bindings(n.value, g.loop) if isinstance(b, cst.Assign)]
    return not roots & written_into(g.loop)


def _is_slice(part: cst.BaseExpression, g: Growth, depth: int = 0) -> bool:
    """Whether the part may be a small view of a large tensor, which a list would keep alive until the loop ends."""
    while isinstance(part, cst.Call) and isinstance(part.func, cst.Attribute):
        if part.func.attr.value in ("select", "narrow", "chunk", "split", "unbind", "expand"):
            return True
        if part.func.attr.value not in (
            "unsqueeze",
            "squeeze",
            "view",
            "reshape",
            "detach",
            "to",
            "cpu",
            "t",
            "transpose",
            "permute",
            "flatten",
            "contiguous",
        ):
            return False
        part = part.func.value
    if isinstance(part, cst.Name) and depth < 5:
        return any(_is_slice(b.value, g, depth + 1) for b in bindings(part.value, g.loop) if isinstance(b, cst.Assign))
    return isinstance(part, (cst.Subscript, cst.Attribute))


def _under_with(step: Growth, g: Growth, sem: Semantics) -> bool:
    """Whether the join would leave a `with` (no_grad, autocast, a stream) that stands inside the loop."""
    for ancestor in sem.file.ancestors(step.node):
        if ancestor is g.loop:
            return False
        if isinstance(ancestor, cst.With):
            return True
    return False


def written_into(node: cst.CSTNode) -> set[str]:
    """Root names of everything that the code changes in place: item assignments, `+=`, `x.add_()`, `out=`."""
    result: set[str] = set()
    for n in walk(node):
        target: cst.CSTNode | None = None
        if (isinstance(n, cst.AssignTarget) and isinstance(n.target, cst.Subscript)) or isinstance(n, cst.AugAssign):
            target = n.target
        elif isinstance(n, cst.Call) and isinstance(n.func, cst.Attribute):
            if n.func.attr.value.endswith("_") and not n.func.attr.value.endswith("__"):
                target = n.func.value
        elif isinstance(n, cst.Arg) and n.keyword is not None and n.keyword.value == "out":
            target = n.value
        if target is not None:
            result.update(m.value for m in _roots(target))
    return result


def _roots(node: cst.CSTNode) -> Iterator[cst.Name]:
    while isinstance(node, (cst.Attribute, cst.Subscript)):
        node = node.value
    if isinstance(node, cst.Name):
        yield node
    elif isinstance(node, cst.Call):
        yield from _roots(node.func)
