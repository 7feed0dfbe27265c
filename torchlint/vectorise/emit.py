"""The batched code that replaces a row loop: templates where ranks are known, else `torch.vmap`."""

from __future__ import annotations

import io
import textwrap
import tokenize
from dataclasses import replace

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix
from torchlint.nodes import argument, children, dotted, find, literal, walk
from torchlint.semantics.display import few
from torchlint.semantics.kinds import Kind
from torchlint.semantics.model import Semantics
from torchlint.semantics.rows import RowLoop, definition_of, fresh_name, reads
from torchlint.spelling import same
from torchlint.vectorise.body import Body, Step, StepKind
from torchlint.vectorise.lift import Lifted, Lifter, NotLifted, row_rank, steady
from torchlint.vectorise.pure import TAKES_BATCHES
from torchlint.vectorise.purity import Purity

_FRESH = frozenset(f"torch.{n}{like}" for n in ("zeros", "ones", "empty", "full") for like in ("", "_like"))
# Functions that a vmapped function must not call: they leave the tensor, or their shape depends on values.
_NOT_MAPPED = frozenset(
    [
        "item",
        "tolist",
        "index",
        "float",
        "int",
        "bincount",
        "histc",
        "tensor",
        "as_tensor",
        "one_hot",
        "cuda",
        "cpu",
        "numpy",
    ]
)


def row_fix(body: Body, sem: Semantics) -> Fix | None:
    """The fix for a `for` statement, None where no template writes all of its steps."""
    loop = body.rows.node
    if not isinstance(loop, cst.For) or body.rows.axis != 0 or any(s.test is not None for s in body.steps):
        return None
    if not body.rows.whole or any(isinstance(s.value, cst.Call) and tuple_is_shared(s, loop) for s in body.steps):
        return None
    if outlives(body, sem):
        return None
    comments = comments_in(loop, sem)
    if comments is None:
        return None
    writer = _Writer(body.rows, sem)
    try:
        lines = [line for step in body.steps for line in writer.step(step, body)]
    except NotLifted:
        return None
    unit = [*comments, *lines]
    start, end = sem.file.line_start(loop), sem.file.line_end(loop)
    indent, newline = sem.file.indent(loop), sem.file.newline
    text = "".join(f"{indent}{line}{newline}" for line in unit)
    edits = (Edit(start, end, text), *writer.edits)
    safe = writer.exact and not writer.edits
    return Fix(edits, Applicability.SAFE if safe else Applicability.UNSAFE, f"replace the loop by {writer.means}")


def tuple_is_shared(step: Step, loop: cst.For) -> bool:
    """`values, places = f(row)`."""
    return any(a.value is step.value and isinstance(a.targets[0].target, cst.Tuple) for a in find(loop, cst.Assign))


def comprehension_fix(node: cst.ListComp | cst.GeneratorExp, rows: RowLoop, sem: Semantics) -> Fix | None:
    """`[row.item() for row in x]`, `torch.stack([f(row) for row in x])`, `sum(f(row) for row in x)`."""
    if rows.axis != 0 or not rows.whole:
        return None
    writer = _Writer(rows, sem)
    try:
        item = _item_of(node.elt)
        if item is not None and isinstance(node, cst.ListComp):
            code = writer.listed(item)
            means = "one `.tolist()`"
            applicability = Applicability.SAFE if writer.exact else Applicability.UNSAFE
            return Fix((sem.file.replace(node, code),), applicability, f"replace the loop by {means}")
        call = _call_around(node, sem)
        if call is None:
            return None
        name = sem.qualified(call.func) or dotted(call.func)
        if name == "torch.stack":
            code = writer.stacked(writer.value(node.elt), call)
        elif name == "sum" and len(call.args) == 1:
            code = f"{writer.value(node.elt).tight}.sum(dim=0)"
        else:
            return None
    except NotLifted:
        return None
    return Fix((sem.file.replace(call, code),), Applicability.UNSAFE, f"replace the loop by {writer.means}")


def _call_around(node: cst.CSTNode, sem: Semantics) -> cst.Call | None:
    arg = sem.file.parent(node)
    call = sem.file.parent(arg) if isinstance(arg, cst.Arg) else None
    return call if isinstance(call, cst.Call) and call.args and call.args[0] is arg else None


class _Writer:
    """Writes the steps of one loop. `exact`: everything so far gives the rows' results bit for bit, on every input."""

    def __init__(self, rows: RowLoop, sem: Semantics) -> None:
        self.rows = rows
        self.sem = sem
        self.exact = len(rows.rows) < 2
        self.means = "whole-tensor operations"
        self.edits: list[Edit] = []
        self.lifter = Lifter(
            sem,
            [(rows.index, rows.length)],
            {name: (tensor, 0) for name, tensor in rows.rows.items()},
            lambda tensor, axis: self.aligned(tensor),
        )

    def aligned(self, tensor: cst.BaseExpression) -> bool:
        """Whether the tensor has exactly one row per turn."""
        over = self.rows.over
        fixed = isinstance(over, cst.Name) and steady(over.value, over, self.sem)
        if same(tensor, over):
            # `range(x.shape[0])` asks at the loop; `range(n)` asked earlier, and `x` may be another tensor by now.
            return fixed or not self.rows.length.isidentifier()
        if not isinstance(tensor, cst.Name) or not fixed:
            return False
        found = definition_of(tensor.value, tensor, self.sem)
        if (
            found is None
            or not isinstance(found[0], cst.Name)
            or not isinstance(found[1], cst.Call)
            or not found[1].args
        ):
            return False
        call, name = found[1], self.sem.qualified(found[1].func) or ""
        first = call.args[0].value
        if name.startswith("torch.") and name.endswith("_like"):
            return same(first, self.rows.over)
        if name in _FRESH:
            if isinstance(first, (cst.Tuple, cst.List)):
                first = first.elements[0].value
            return self.sem.file.code(first) == self.rows.length
        return False

    def step(self, step: Step, body: Body) -> list[str]:
        if step.kind is StepKind.TEMPORARY and isinstance(step.target, cst.Name):
            name = step.target.value
            if not self.lifter.depends(step.value):
                return [f"{name} = {self.sem.file.code(step.value)}"]
            lifted = self.lifter.lift(step.value)
            self.lifter.temporaries[name] = replace(lifted, code=name, atom=True)
            return [f"{name} = {lifted.code}"]
        if step.kind is StepKind.ACCUMULATE:
            self.exact = False
            target, total = self.sem.file.code(step.target), f"{self.value(step.value).tight}.sum(dim=0)"
            if isinstance(step.node, cst.Assign):
                return [f"{target} = {target} + {total}"]  # a new tensor, as the turns made it
            return [f"{target} {step.operator} {total}"]
        if step.kind is StepKind.STORE and isinstance(step.target, cst.Subscript):
            return [self.store(step.target, step)]
        if step.kind is StepKind.APPEND and isinstance(step.target, cst.Name):
            return self.append(step.target, step, body)
        raise NotLifted("a method that writes into the row")

    def value(self, node: cst.BaseExpression) -> Lifted:
        """The value for all rows, by template or by vmap."""
        if not self.lifter.depends(node):
            raise NotLifted("a value that all turns share")
        try:
            lifted = self.lifter.lift(node)
            self.exact = self.exact and lifted.exact
            return lifted
        except NotLifted:
            return self.mapped(node)

    def store(self, target: cst.Subscript, step: Step) -> str:
        out = target.value
        if len(target.slice) != 1 or not isinstance(out, cst.Name) or not self.sem.value(out).is_tensor:
            raise NotLifted("a write into part of a row")
        if not self._is_fresh(out, step):
            self.exact = False
        rank = row_rank(out, self.sem)
        lifted: Lifted | None
        try:
            lifted = self.lifter.lift(step.value) if self.lifter.depends(step.value) else None
        except NotLifted:
            lifted = None
        if lifted is None or not lifted.batched or lifted.rank is None or lifted.rank != rank:
            lifted = self.mapped(step.value, out)
        self.exact = self.exact and lifted.exact
        index = ":" if self.aligned(out) else f":{self.rows.length}"
        return f"{out.value}[{index}] {step.operator} {lifted.code}"

    def _is_fresh(self, out: cst.Name, step: Step) -> bool:
        """Whether nothing that the turn reads can share memory with the tensor it writes."""
        found = definition_of(out.value, out, self.sem)
        if found is None or not isinstance(found[0], cst.Name) or not isinstance(found[1], cst.Call):
            return False
        if (self.sem.qualified(found[1].func) or "") not in _FRESH:
            return False
        for n in find(step.value, cst.Name):
            source = definition_of(n.value, n, self.sem)
            if (
                source is not None
                and any(m.value == out.value for m in find(source[1], cst.Name))
                and n.value != out.value
            ):
                return False
        return True

    def append(self, out: cst.Name, step: Step, body: Body) -> list[str]:
        item = _item_of(step.value)
        if item is not None:
            if self.sem.value(out).kind is not Kind.LIST or len(body.sinks) != 1:
                raise NotLifted("an owner that is not known to be a list")
            self.means = "one `.tolist()`"
            return [f"{out.value}.extend({self.listed(item)})"]
        call = self._stack_call(out, body)
        value = self.value(step.value)
        self.edits.append(self.sem.file.replace(call, self.stacked(value, call)))
        self.exact = False
        return []

    def _stack_call(self, out: cst.Name, body: Body) -> cst.Call:
        """The `torch.stack(out)` in the statement behind the loop, the list's only use; its `out = []` goes."""
        loop = body.rows.node
        block = self.sem.file.parent(loop)
        if not isinstance(block, (cst.IndentedBlock, cst.Module)) or not isinstance(loop, cst.For):
            raise NotLifted("a loop in a one-line block")
        statements = list(block.body)
        at = next(i for i, s in enumerate(statements) if s is loop)
        if at + 1 >= len(statements):
            raise NotLifted("a list that is used elsewhere")
        inside = {id(n) for n in walk(loop)}
        uses = [n for n in reads(out.value, self.sem.function(loop).body, self.sem) if id(n) not in inside]
        behind = {id(n) for n in walk(statements[at + 1])}
        made = [s for s in statements[:at] if self._makes_empty_list(s, out.value)]
        call = _call_around(uses[0], self.sem) if uses else None
        after = sem_end = self.sem.file.caret(statements[at + 1])[1]
        rebinds = isinstance(statements[at + 1], cst.SimpleStatementLine) and any(
            isinstance(a, cst.Assign) and any(dotted(t.target) == out.value for t in a.targets)
            for a in find(statements[at + 1], cst.Assign)
        )
        if rebinds:
            uses = [n for n in uses if self.sem.file.caret(n)[0] < sem_end]
        if call is None or len(uses) != 1 or id(uses[0]) not in behind or len(made) != 1 or after < 0:
            raise NotLifted("a list that is used elsewhere")
        if self.sem.qualified(call.func) != "torch.stack":
            raise NotLifted("a list that is not stacked")
        self.edits.append(self.sem.file.delete(made[0]))
        return call

    def _makes_empty_list(self, statement: cst.CSTNode, name: str) -> bool:
        if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
            return False
        small = statement.body[0]
        if not isinstance(small, cst.Assign) or len(small.targets) != 1 or dotted(small.targets[0].target) != name:
            return False
        value = small.value
        return (isinstance(value, cst.List) and not value.elements) or (
            isinstance(value, cst.Call) and dotted(value.func) == "list" and not value.args
        )

    def stacked(self, value: Lifted, call: cst.Call) -> str:
        dim = argument(call, "dim", 1)
        where = 0 if dim is None else literal(dim.value)
        if not isinstance(where, int) or where < 0 or len(call.args) > (1 if dim is None else 2):
            raise NotLifted("a stacking dimension that is not written out")
        return value.code if where == 0 else f"{value.tight}.movedim(0, {where}).contiguous()"

    def listed(self, item: cst.BaseExpression) -> str:
        """`.tolist()` of what gave one `.item()` per row. Each row has one element, so flattening keeps the order."""
        if not self.lifter.depends(item):
            raise NotLifted("a value that all turns share")
        lifted = self.lifter.lift(item)
        self.exact = self.exact and lifted.exact
        flat = lifted.tight if lifted.rank == ("", 0) else f"{lifted.tight}.flatten()"
        return f"{flat}.tolist()"

    def mapped(self, node: cst.BaseExpression, out: cst.Name | None = None) -> Lifted:
        """`torch.vmap(lambda x_row: …)(x)`. With `out`, each result is expanded to the row that it is written into."""
        if self.sem.names.imports.get("torch") != "torch":
            raise NotLifted("torch is not imported under its own name")
        if any(isinstance(n, cst.Call) and cannot_be_mapped(n, self.sem) for n in walk(node)):
            raise NotLifted("a call that vmap cannot batch")
        loop = self.rows.node
        if isinstance(loop, cst.For) and few(loop.iter):
            raise NotLifted("a handful of turns, which vmap would make slower")
        if out is not None and _may_lead_with_one(node):
            raise NotLifted("a leading dimension of one, which a write drops and `expand_as` does not")
        parameters: dict[str, str] = {}  # whole tensor → name of its row
        text = self._with_row_names(node, parameters)
        if out is not None:
            row = self._parameter(out, parameters)
            text = f"({text}).expand_as({row})"
        self.means = "`torch.vmap` over the rows"
        self.exact = False
        code = f"torch.vmap(lambda {', '.join(parameters.values())}: {text})({', '.join(parameters)})"
        return Lifted(code, True, exact=False)

    def _parameter(self, tensor: cst.BaseExpression, parameters: dict[str, str]) -> str:
        code = self.lifter._whole(tensor, 0).code
        base = (
            tensor.value
            if isinstance(tensor, cst.Name)
            else tensor.attr.value
            if isinstance(tensor, cst.Attribute)
            else "item"
        )
        return parameters.setdefault(code, fresh_name(f"{base}_row", self.sem))

    def _with_row_names(self, node: cst.BaseExpression, parameters: dict[str, str]) -> str:
        """The expression's text, every `x[i]` and every name of a row replaced by the lambda's parameter."""
        file = self.sem.file
        start, end = file.caret(node)
        edits: list[tuple[int, int, str]] = []
        pending: list[cst.CSTNode] = [node]
        while pending:
            n = pending.pop()
            if isinstance(n, cst.Subscript) and self._is_row(n):
                row = self._parameter(n.value, parameters)
                rest = ", ".join(self._index(e.slice, parameters) for e in n.slice[1:])
                edits.append((*file.caret(n), f"{row}[{rest}]" if rest else row))
                continue
            if isinstance(n, cst.Name) and n.value in self.lifter.rows and is_variable(n, self.sem):
                edits.append((*file.caret(n), self._parameter(self.lifter.rows[n.value][0], parameters)))
                continue
            if isinstance(n, cst.Name) and is_variable(n, self.sem):
                if n.value in self.lifter.counters or n.value in self.lifter.temporaries:
                    raise NotLifted("the counter or an intermediate result is a value")
            pending += children(n)
        text = file.text[start:end]
        for a, b, new in sorted(edits, reverse=True):
            text = text[: a - start] + new + text[b - start :]
        if "\n" in text or "#" in text:
            text = " ".join(line.strip() for line in text.splitlines()) if "#" not in text else text
        if "\n" in text or not parameters:
            raise NotLifted("an expression with comments inside")
        return text

    def _index(self, index: cst.BaseSlice, parameters: dict[str, str]) -> str:
        """The text of a further index of a row, which may itself be taken from a row: `x[i, order[i]]`."""
        if isinstance(index, cst.Index):
            return self._with_row_names(index.value, parameters)
        if any(n.value == self.rows.index for n in find(index, cst.Name)):
            raise NotLifted("a stretch that differs from row to row")
        return self.sem.file.code(index)

    def _is_row(self, node: cst.Subscript) -> bool:
        first = node.slice[0].slice
        return (
            isinstance(first, cst.Index)
            and isinstance(first.value, cst.Name)
            and first.value.value == self.rows.index != ""
        )


def is_variable(node: cst.Name, sem: Semantics) -> bool:
    """Whether the name is neither an attribute's nor a keyword's."""
    parent = sem.file.parent(node)
    return not (isinstance(parent, cst.Attribute) and parent.attr is node) and not (
        isinstance(parent, cst.Arg) and parent.keyword is node
    )


_ADD_DIMENSIONS = frozenset(
    """unsqueeze keepdim keepdims view view_as reshape reshape_as expand expand_as repeat tile stack vstack row_stack
    atleast_2d atleast_3d unflatten None""".split()
)


def _may_lead_with_one(node: cst.CSTNode) -> bool:
    """Whether the value may have more dimensions than the row, the first of one element: `model(x[i].unsqueeze(0))`."""
    return any(n.value in _ADD_DIMENSIONS for n in find(node, cst.Name))


def cannot_be_mapped(call: cst.Call, sem: Semantics) -> bool:
    """Whether `torch.vmap` has no rule for a call, or it leaves tensors."""
    if isinstance(call.func, cst.Name) and call.func.value in ("max", "min", "sum"):
        return True  # Python's own compare elements one by one
    name = sem.qualified(call.func) or dotted(call.func) or ""
    last = call.func.attr.value if isinstance(call.func, cst.Attribute) else name
    return (
        last in _NOT_MAPPED
        or sem.callee(call) is not None
        or (held := sem.value(call.func)).kind is Kind.LOSS_FN
        or TAKES_BATCHES.match(held.origin) is not None
    )


def _item_of(node: cst.BaseExpression) -> cst.BaseExpression | None:
    """`e` of `e.item()`."""
    if (
        isinstance(node, cst.Call)
        and isinstance(node.func, cst.Attribute)
        and node.func.attr.value == "item"
        and not node.args
    ):
        return node.func.value
    return None


def outlives(body: Body, sem: Semantics) -> bool:
    """Whether the counter, a row or an intermediate result is read outside the loop, where the last turn left it."""
    loop = body.rows.node
    names = body.rows.bound | {s.target.value for s in body.of(StepKind.TEMPORARY) if isinstance(s.target, cst.Name)}
    scope = sem.function(loop).body
    inside = {id(n) for n in walk(loop)}
    for name in names:
        for use in reads(name, scope, sem):
            if id(use) in inside:
                continue
            own = any(
                isinstance(a, (cst.For, cst.ListComp, cst.GeneratorExp, cst.SetComp, cst.DictComp))
                and a is not loop
                and _binds(a, name)
                for a in sem.file.ancestors(use)
            )
            if not own and sem.file.caret(use)[0] > sem.file.caret(loop)[0]:
                return True
    return False


def _binds(node: cst.CSTNode, name: str) -> bool:
    holders = [node] if isinstance(node, cst.For) else list(find(node, cst.CompFor))
    return any(n.value == name for h in holders for n in find(h.target, cst.Name))


def comments_in(loop: cst.For, sem: Semantics) -> list[str] | None:
    """The comments among the loop's lines; None if they cannot be told from the text."""
    text = sem.file.text[sem.file.line_start(loop) : sem.file.line_end(loop)]
    if "#" not in text:
        return []
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(textwrap.dedent(text)).readline))
    except (tokenize.TokenError, SyntaxError):
        return None
    return [t.string for t in tokens if t.type == tokenize.COMMENT]


def elements_are_work(node: cst.ListComp | cst.GeneratorExp, rows: RowLoop, sem: Semantics) -> bool:
    """Whether a comprehension computes something from each row, purely (a bare `x[i]` only splits the tensor)."""
    judge = Purity(rows, set(), sem)
    return judge.is_pure(node.elt) and judge.rows_seen and judge.work_seen
