"""`torch.vmap` along any dimension, for turns that gather or add up what they compute from slices of tensors.

The turn becomes a function of its slices: a lambda where it is one expression, a function with its name where it has
intermediate results. What it gives for all turns is stacked along the dimension that `torch.stack` names, taken apart
again for `torch.cat` and for lists, or summed.
"""

from __future__ import annotations

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix
from torchlint.nodes import argument, children, dotted, find, literal
from torchlint.semantics.certain import surely_tensor
from torchlint.semantics.display import few
from torchlint.semantics.kinds import Kind
from torchlint.semantics.model import Semantics
from torchlint.semantics.rows import RowLoop, fresh_name
from torchlint.spelling import same
from torchlint.vectorise.body import Body, Step, StepKind
from torchlint.vectorise.by_entry import is_compiled
from torchlint.vectorise.emit import cannot_be_mapped, comments_in, is_variable, outlives, tuple_is_shared
from torchlint.vectorise.lift import NotLifted, steady

_MESSAGE = "replace the loop by `torch.vmap` over the {}"


def mapped_loop(body: Body, sem: Semantics) -> Fix | None:
    """The fix for a `for` statement whose turns append to lists and add to totals."""
    loop, rows = body.rows.node, body.rows
    if not isinstance(loop, cst.For) or any(s.test is not None for s in body.steps) or outlives(body, sem):
        return None
    if few(loop.iter):
        return None  # vmap is slower than a handful of turns
    kinds = (StepKind.TEMPORARY, StepKind.APPEND, StepKind.ACCUMULATE)
    comments = comments_in(loop, sem)
    if comments is None or not all(
        isinstance(s.target, cst.Name) and s.kind in kinds and not tuple_is_shared(s, loop) for s in body.steps
    ):
        return None
    receivers = [s.target.value for s in body.sinks if isinstance(s.target, cst.Name)]
    if len(set(receivers)) != len(receivers) or len(body.sinks) > 2:
        return None
    if all(step.kind is StepKind.APPEND and _only_reshapes(step.value) for step in body.steps):
        return None
    turn = _Turn(rows, sem)
    turn.temporaries = {s.target.value for s in body.of(StepKind.TEMPORARY) if isinstance(s.target, cst.Name)}
    said = [_comment(step.node, sem) for step in body.steps]
    keeps = bool(turn.temporaries) and [comment.strip() for comment in said if comment] == comments
    try:
        lines = [
            f"{sem.file.code(step.target)} = {turn.text(step.value)}{comment if keeps else ''}"
            for step, comment in zip(body.steps, said)
            if step.kind is StepKind.TEMPORARY
        ]
        values = [turn.text(step.value) for step in body.sinks]
        if any(s.kind is StepKind.APPEND and sem.value(s.target).kind is not Kind.LIST for s in body.sinks):
            return None
        *ahead, call = turn.call(values, lines)
    except NotLifted:
        return None
    names = [call]
    if len(values) == 2:
        names = [fresh_name(f"all_{name}", sem) for name in receivers]
        ahead.append(f"{', '.join(names)} = {call}")
    unit = [*([] if keeps else comments), *ahead]
    for step, name in zip(body.sinks, names):
        unit.append(_received(step, name, sem) + (_comment(step.node, sem) if keeps else ""))
    start, end = sem.file.line_start(loop), sem.file.line_end(loop)
    indent, newline = sem.file.indent(loop), sem.file.newline
    text = "".join(f"{indent}{line}{newline}" if line else newline for line in unit)
    return Fix((Edit(start, end, text),), Applicability.UNSAFE, _MESSAGE.format("rows" if rows.axis == 0 else "slices"))


def _comment(node: cst.CSTNode, sem: Semantics) -> str:
    """What is said behind a statement, with two spaces ahead of it."""
    line = sem.file.statement(node)
    comment = line.trailing_whitespace.comment if isinstance(line, cst.SimpleStatementLine) else None
    return "" if comment is None else f"  {comment.value}"


def _received(step: Step, given: str, sem: Semantics) -> str:
    """The line that hands what all turns give to the list or the total."""
    target = sem.file.code(step.target)
    if step.kind is StepKind.APPEND:
        return f"{target}.extend({given})"
    if isinstance(step.node, cst.Assign):
        return f"{target} = {target} + {given}.sum(dim=0)"  # a new tensor, as the turns made it
    return f"{target} {step.operator} {given}.sum(dim=0)"


def mapped_comprehension(node: cst.ListComp | cst.GeneratorExp, rows: RowLoop, sem: Semantics) -> Fix | None:
    """`torch.stack([f(x[:, i]) for i in range(n)], dim=1)`, `torch.cat([…])`, `sum(…)`."""
    inside: cst.CSTNode = node
    arg = sem.file.parent(node)
    call = sem.file.parent(arg) if isinstance(arg, cst.Arg) else None
    if isinstance(call, cst.Call) and dotted(call.func) in ("tuple", "list") and len(call.args) == 1:
        inside = call
        arg = sem.file.parent(call)
        call = sem.file.parent(arg) if isinstance(arg, cst.Arg) else None
    if not isinstance(call, cst.Call) or not call.args or call.args[0] is not arg:
        return None
    name = sem.qualified(call.func) or dotted(call.func)
    if _only_reshapes(node.elt):
        return None
    turn = _Turn(rows, sem)
    try:
        text = turn.text(node.elt)
        if name == "torch.stack":
            dim = argument(call, "dim", 1)
            where = 0 if dim is None else literal(dim.value)
            if not isinstance(where, int) or isinstance(where, bool) or len(call.args) > (1 if dim is None else 2):
                return None
            mapped = turn.call([text], [], where)[0]
            in_order = not where and not any(axis for _, axis in turn.slices)
            edit = sem.file.replace(call, mapped if in_order else f"{mapped}.contiguous()")  # as `stack` gives it
        elif name == "torch.cat":
            edit = sem.file.replace(inside, f"tuple({turn.call([text], [])[0]})")
        elif name == "sum" and len(call.args) == 1:
            edit = sem.file.replace(call, f"{turn.call([text], [])[0]}.sum(dim=0)")
        else:
            return None
    except NotLifted:
        return None
    return Fix((edit,), Applicability.UNSAFE, _MESSAGE.format("rows" if rows.axis == 0 else "slices"))


def _on_one_line(text: str) -> str:
    """An expression that brackets hold together, without its line breaks."""
    joined = ""
    for line in (line.strip() for line in text.splitlines()):
        close = not joined or joined[-1] in "([{" or line[:1] in (")", "]", "}", ".")
        joined += line if close else f" {line}"
    return joined


def _only_reshapes(node: cst.BaseExpression) -> bool:
    """Whether nothing is computed: a list of views is cheap."""
    works = next(find(node, cst.BinaryOperation), None) or next(find(node, cst.Comparison), None)
    names = [(dotted(c.func) or "").rpartition(".")[2] for c in find(node, cst.Call)]
    names = [c.func.attr.value for c in find(node, cst.Call) if isinstance(c.func, cst.Attribute)] or names
    return works is None and all(name in _VIEWS for name in names)


_SCOPES = (cst.FunctionDef, cst.ClassDef, cst.Lambda)
_VIEWS = frozenset("flatten view reshape unsqueeze squeeze detach clone contiguous float to expand".split())


class _Turn:
    """Writes a turn as a function of the slices that it reads. `slices`: tensor and dimension → name of its slice."""

    def __init__(self, rows: RowLoop, sem: Semantics) -> None:
        self.rows = rows
        self.sem = sem
        self.temporaries: set[str] = set()
        self.slices: dict[tuple[str, int], str] = {}

    def call(self, values: list[str], lines: list[str], where: int = 0) -> list[str]:
        """The lines ahead of the call, and the call itself last."""
        if not self.slices or self.sem.names.imports.get("torch") != "torch":
            raise NotLifted("no slices, or torch is not imported under its own name")
        if is_compiled(self.rows.node, self.sem) or isinstance(
            self.sem.file.enclosing(self.rows.node, _SCOPES), cst.ClassDef
        ):
            raise NotLifted("a compiled function, or the body of a class")
        parameters, result = ", ".join(self.slices.values()), ", ".join(values)
        function = f"lambda {parameters}: {result}"
        ahead: list[str] = []
        if lines or len(values) > 1:
            function = fresh_name("one_turn", self.sem)
            unit = self.sem.file.indent_unit
            ahead = [
                f"def {function}({parameters}):",
                *(f"{unit}{line}" for line in lines),
                f"{unit}return {result}",
                "",
            ]
        axes = [axis for _, axis in self.slices]
        dims = f", in_dims={axes[0] if len(set(axes)) == 1 else tuple(axes)}" if any(axes) else ""
        dims += f", out_dims={where}" if where else ""
        return [*ahead, f"torch.vmap({function}{dims})({', '.join(code for code, _ in self.slices)})"]

    def text(self, node: cst.BaseExpression) -> str:
        """The expression on one line, with the names of slices in place of the slices. Raises NotLifted."""
        file = self.sem.file
        start, end = file.caret(node)
        edits: list[tuple[int, int, str]] = []
        pending: list[cst.CSTNode] = [node]
        while pending:
            n = pending.pop()
            if isinstance(n, cst.Subscript) and (found := self._slice(n)) is not None:
                edits.append((*file.caret(n), found))
                continue
            if isinstance(n, cst.Subscript) and any(self._varies(e) for e in n.slice):
                raise NotLifted("entries that the turn chooses")
            if isinstance(n, (cst.IfExp, cst.BooleanOperation, cst.Lambda, cst.ListComp, cst.GeneratorExp)):
                raise NotLifted("a choice, or a loop")
            if isinstance(n, cst.Call) and cannot_be_mapped(n, self.sem):
                raise NotLifted("a call that vmap cannot batch")
            if isinstance(n, cst.Name) and is_variable(n, self.sem):
                if n.value in self.rows.rows:
                    edits.append((*file.caret(n), self._row(n.value)))
                elif n.value == self.rows.index:
                    raise NotLifted("the counter is a value")
            pending += reversed(children(n))
        text = file.text[start:end]
        for a, b, new in sorted(edits, reverse=True):
            text = text[: a - start] + new + text[b - start :]
        if "#" in text:
            raise NotLifted("an expression with comments inside")
        if "\\" in text or isinstance(node, cst.Tuple):
            raise NotLifted("lines joined by hand, or several values")
        return _on_one_line(text)

    def _varies(self, node: cst.CSTNode) -> bool:
        names = self.temporaries | self.rows.bound
        return any(n.value in names for n in find(node, cst.Name))

    def _row(self, name: str) -> str:
        source = self.rows.rows[name]
        apart = isinstance(source, cst.Call) and (dotted(source.func) or "").endswith("unbind")
        if len(self.rows.rows) != 1 or not (apart or self.rows.whole) or self._varies(self.rows.over):
            raise NotLifted("rows of several tensors, or stretches")
        if not surely_tensor(self.rows.over, self.sem):
            raise NotLifted("what is walked is not known to be a tensor")
        return self._named(self.rows.over, self.rows.axis, self._code(self.rows.over))

    def _slice(self, node: cst.Subscript) -> str | None:
        """`x[:, i, 0]` as the slice's name with what is left of the indices."""
        parts = [e.slice for e in node.slice]
        places = [
            k
            for k, part in enumerate(parts)
            if isinstance(part, cst.Index) and isinstance(part.value, cst.Name) and part.value.value == self.rows.index
        ]
        if not self.rows.index or len(places) != 1 or self._varies(node.value):
            return None
        at = places[0]
        rest = [e for k, e in enumerate(node.slice) if k != at]
        if any(self._varies(e) for e in rest) or any(self._is_new_axis(e.slice) for e in rest):
            raise NotLifted("indices that differ from turn to turn, or new dimensions")
        if not surely_tensor(node.value, self.sem):
            raise NotLifted("what is indexed is not known to be a tensor")
        dots = [k for k, p in enumerate(parts) if isinstance(p, cst.Index) and isinstance(p.value, cst.Ellipsis)]
        axis = at if not dots or dots[0] > at else at - len(parts)
        name = self._named(node.value, axis, self._whole(node.value, axis))
        texts = [self.sem.file.code(e.slice) for e in rest]
        while texts and texts[-1] in (":", "..."):
            texts.pop()
        return f"{name}[{', '.join(texts)}]" if texts else name

    def _is_new_axis(self, part: cst.BaseSlice) -> bool:
        if isinstance(part, cst.Slice):
            return False
        value = part.value if isinstance(part, cst.Index) else None
        return not (isinstance(value, cst.Ellipsis) or isinstance(literal(value) if value is not None else None, int))

    def _whole(self, tensor: cst.BaseExpression, axis: int) -> str:
        """The tensor, cut to as many slices as there are turns."""
        code, over = self._code(tensor), self.rows.over
        fixed = not self.rows.length.isidentifier() or (
            isinstance(over, cst.Name) and steady(over.value, over, self.sem)
        )
        if self.rows.whole and same(tensor, over) and axis == self.rows.axis and fixed:
            return code
        behind = [f":{self.rows.length}", *[":"] * (-1 - axis)] if axis < 0 else [*[":"] * axis, f":{self.rows.length}"]
        return f"{code}[{', '.join(['...', *behind] if axis < 0 else behind)}]"

    def _code(self, tensor: cst.BaseExpression) -> str:
        code = self.sem.file.code(tensor)
        if not isinstance(tensor, (cst.Name, cst.Attribute, cst.Subscript)) or "\n" in code:
            raise NotLifted("a tensor without a name")
        return code

    def _named(self, tensor: cst.BaseExpression, axis: int, code: str) -> str:
        if (code, axis) not in self.slices:
            base = tensor.value if isinstance(tensor, cst.Name) else "slice"
            base = tensor.attr.value if isinstance(tensor, cst.Attribute) else base
            name = fresh_name(f"{base}_slice" if axis else f"{base}_row", self.sem)
            taken = set(self.slices.values())
            self.slices[code, axis] = name if name not in taken else f"{name}_{len(taken) + 1}"
        return self.slices[code, axis]
