"""What only some processes do: tests of the rank around a place, around the calls that lead there, in decorators.

`one_process` is certain and may make a finding. `only_some` and `may_mind_rank` are suspicious and only ever silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.nodes import dotted, literal, walk, walk_scope
from torchlint.semantics.blocks import leaves
from torchlint.semantics.names import Function
from torchlint.semantics.processes import Processes

# What a test may say when it lets only some processes through.
_PROCESS_WORDS = re.compile(
    r"rank|is_?(main|master|primary|chief|leader|root|head|logg|first|save)|main_?(proc|thread|node)|master|primary|chief"
    r"|proc(ess)?_?(id|index|num)|proc_id|first_?worker|\bgpu\b|\bgpu_?(id|idx|index)\b|device_?(id|idx)|should_(log|save)"
    r"|logger|writer|coordinator|distribut|\bddp|world_?size|torchrun|slurm",
    re.I,
)
_PLAIN_DECORATORS = frozenset(("staticmethod", "classmethod", "property", "abstractmethod", "override"))


def tests_around(p: Processes, node: cst.CSTNode) -> Iterator[tuple[cst.BaseExpression, bool]]:
    """The tests that decide whether the node runs, with whether they let it run by being true.

    Early exits (`if rank != 0: return`) in front of the node count too.
    """
    inner: cst.CSTNode = node
    for outer in p.file.ancestors(node):
        if isinstance(outer, (cst.If, cst.IfExp)) and inner is not outer.test:
            yield outer.test, inner is outer.body
        elif isinstance(outer, (cst.IndentedBlock, cst.Module)):
            for statement in outer.body:
                if statement is inner:
                    break
                if isinstance(statement, cst.If) and leaves(statement.body):
                    yield statement.test, False
        if isinstance(outer, (cst.FunctionDef, cst.ClassDef)):
            return
        inner = outer


def one_process(p: Processes, test: cst.BaseExpression, taken: bool, function: Function) -> bool:
    """Whether the test, being `taken`, certainly singles out one process: `rank == 0`, `not rank`."""
    if isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
        if p.is_rank(test.expression, function):
            return taken
        return one_process(p, test.expression, not taken, function)
    if isinstance(test, cst.BooleanOperation):
        decides = cst.And if taken else cst.Or
        return isinstance(test.operator, decides) and any(
            one_process(p, side, taken, function) for side in (test.left, test.right)
        )
    if isinstance(test, cst.Comparison) and len(test.comparisons) == 1:
        operator, other = test.comparisons[0].operator, test.comparisons[0].comparator
        sides = (test.left, other), (other, test.left)
        if isinstance(operator, cst.Equal if taken else cst.NotEqual):
            return any(p.is_rank(a, function) and literal(b) == 0 for a, b in sides)
        if isinstance(operator, cst.GreaterThan if not taken else cst.LessThan):
            return p.is_rank(test.left, function) and literal(other) == (1 if taken else 0)
    return _own_test(p, test, taken, function)


def _own_test(p: Processes, test: cst.BaseExpression, taken: bool, function: Function) -> bool:
    """`is_main_process()` of this file, or a name that such a comparison was assigned to."""
    if isinstance(test, cst.Call):
        own = p.sem.callee(test)
        if own is None:
            return False
        given = [n.value for n in walk_scope(own.body) if isinstance(n, cst.Return)]
        return len(given) == 1 and given[0] is not None and one_process(p, given[0], taken, own)
    if isinstance(test, cst.Name):
        made = p.values(test.value, function)
        return len(made) == 1 and not isinstance(made[0], cst.Name) and one_process(p, made[0], taken, function)
    return False


def may_mind_rank(p: Processes, test: cst.BaseExpression, function: Function, depth: int = 0) -> bool:
    """Whether a test might tell processes apart: by what it says, or by what its names were made from."""
    if _PROCESS_WORDS.search(p.file.code(test)):
        return True
    for node in walk(test):
        if isinstance(node, cst.Call):
            own = p.sem.callee(node)
            if own is not None and _PROCESS_WORDS.search(p.file.code(own.node)):
                return True
        if not isinstance(node, cst.Name) or depth >= 3:
            continue
        if p.is_rank(node, function) or p.is_world_size(node, function):
            return True
        for value in p.values(node.value, function):
            if may_mind_rank(p, value, function, depth + 1) or any(
                may_mind_rank(p, outer, function, 3) for outer, _ in tests_around(p, value)
            ):
                return True
        if any(may_mind_rank(p, v, caller, depth + 1) for v, caller in p.passed(node.value, function)):
            return True
    return False


def only_some(p: Processes, node: cst.CSTNode, function: Function, depth: int = 0) -> bool:
    """Whether the node might run in some processes only: a test around it, or around a call of its function."""
    if any(may_mind_rank(p, test, function) for test, _ in tests_around(p, node)):
        return True
    for outer in p.file.ancestors(node):
        if isinstance(outer, (cst.FunctionDef, cst.ClassDef)):
            break
        if isinstance(outer, cst.With) and any(_PROCESS_WORDS.search(p.file.code(i.item)) for i in outer.items):
            return True
    if isinstance(function.node, cst.FunctionDef):
        if any(_may_pick(p, d.decorator, function) for d in function.node.decorators):
            return True
    return depth < 4 and any(
        only_some(p, call, caller, depth + 1) for call, caller in p.callers.get(function, ()) if caller is not function
    )


def _may_pick(p: Processes, decorator: cst.BaseExpression, function: Function) -> bool:
    """Whether a decorator might run its function in some processes only, for all that its name and body say."""
    if isinstance(decorator, cst.Call):
        decorator = decorator.func
    name = p.sem.names.qualify(decorator, function) or dotted(decorator) or ""
    own = p.sem.names.functions.get(name.removeprefix("~."))
    if own is not None:
        return _PROCESS_WORDS.search(p.file.code(own.node)) is not None
    return not name.startswith(("torch.", "functools.", "typing.")) and name not in _PLAIN_DECORATORS


def in_one_process(p: Processes, node: cst.CSTNode, function: Function, depth: int = 0) -> bool:
    """Whether the node certainly runs in one process only: by tests around it or around all its calls."""
    if any(one_process(p, test, taken, function) for test, taken in tests_around(p, node)):
        return True
    sites = [(call, caller) for call, caller in p.callers.get(function, ()) if caller is not function]
    return depth < 4 and bool(sites) and all(in_one_process(p, call, caller, depth + 1) for call, caller in sites)
