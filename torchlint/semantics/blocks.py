"""What can be read off syntax alone: whether a block always leaves, and what an iteration really goes over."""

from __future__ import annotations

import libcst as cst

from torchlint.nodes import dotted, find, walk

# Wrappers that hand on what they iterate over.
TRANSPARENT = frozenset(
    (
        "enumerate",
        "zip",
        "reversed",
        "iter",
        "list",
        "tuple",
        "sorted",
        "islice",
        "cycle",
        "chain",
        "tqdm",
        "tqdm_notebook",
        "log_every",
        "trange",
        "progress_bar",
        "prefetch",
        "track",
    )
)


def leaves(suite: cst.BaseSuite) -> bool:
    """Whether the block always ends its iteration, function or program."""
    body = suite.body
    if not body:
        return False
    last: cst.CSTNode = body[-1]
    if isinstance(last, cst.SimpleStatementLine):
        last = last.body[-1]
    if isinstance(last, cst.Expr) and isinstance(last.value, cst.Call):
        return dotted(last.value.func) in ("sys.exit", "exit", "quit", "os._exit")
    if isinstance(last, cst.If) and always(last):
        return leaves(last.body)
    return isinstance(last, (cst.Return, cst.Continue, cst.Break, cst.Raise))


def always(node: cst.CSTNode) -> bool:
    """Whether the node is an `if True:` (or of another constant that holds): it decides nothing."""
    if not isinstance(node, cst.If):
        return False
    test = node.test
    return (isinstance(test, cst.Name) and test.value == "True") or (
        isinstance(test, cst.Integer) and test.value == "1"
    )


def statements(suite: cst.BaseSuite) -> list[cst.BaseStatement]:
    """The statements of an indented block, with those under an `if True:` among them; none of a one-line suite."""
    found: list[cst.BaseStatement] = []
    for statement in suite.body if isinstance(suite, cst.IndentedBlock) else ():
        if isinstance(statement, cst.If) and always(statement) and isinstance(statement.body, cst.IndentedBlock):
            found += statements(statement.body)
        else:
            found.append(statement)
    return found


def unwrap_iteration(node: cst.BaseExpression) -> cst.BaseExpression:
    """`loader` out of `enumerate(tqdm(loader))`."""
    while isinstance(node, cst.Call) and node.args:
        name = (dotted(node.func) or "").rpartition(".")[2]
        if name not in TRANSPARENT and name not in ("zip",):
            break
        node = node.args[0].value
    return node


def taken_apart(suite: cst.BaseSuite, names: set[str]) -> set[str]:
    """The names that the block's own statements bind to items of those: `x, y = batch`, `(t.to(d) for t in batch)`."""
    found: set[str] = set()
    for line in suite.body:
        for small in line.body if isinstance(line, cst.SimpleStatementLine) else ():
            if not isinstance(small, cst.Assign):
                continue
            value = small.value.value if isinstance(small.value, cst.Subscript) else small.value
            if isinstance(value, cst.Name):
                taken = [t.target for t in small.targets] if value.value in names else []
            else:
                taken = [c.target for c in find(value, cst.CompFor) if dotted(c.iter) in names]
            found |= {n.value for target in taken for n in walk(target) if isinstance(n, cst.Name)}
    return found


def asks_for_main(node: cst.If) -> bool:
    """Whether an `if` looks at `__name__`: what it guards runs in a script and not on import."""
    return any(isinstance(n, cst.Name) and n.value == "__name__" for n in walk(node.test))


def is_numbered(target: cst.CSTNode) -> bool:
    """Whether a target reads `i, (x, y)`: the first name counts what the second takes apart."""
    if not isinstance(target, cst.Tuple) or len(target.elements) != 2:
        return False
    return isinstance(target.elements[0].value, cst.Name) and isinstance(target.elements[1].value, cst.Tuple)
