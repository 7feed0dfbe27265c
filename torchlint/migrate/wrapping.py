"""The model: `DataParallel(model)` becomes one replica per process, on its GPU before it is wrapped."""

from __future__ import annotations

import libcst as cst

from torchlint.migrate.epochs import NotUnderstood
from torchlint.migrate.guards import MOVES, Guards, exclusive
from torchlint.migrate.plan import value_of
from torchlint.migrate.script import DATA_PARALLEL
from torchlint.nodes import argument, dotted, walk

# What a model is asked for that DistributedDataParallel answers as the model itself does.
_ANSWERED = frozenset(
    "parameters named_parameters buffers named_buffers modules named_modules children named_children state_dict "
    "load_state_dict train eval zero_grad apply requires_grad_ training forward".split()
)


class Wrapping(Guards):
    def run(self) -> None:
        for wrap in self.wraps:
            self.anchors.append(wrap)
            self.wrap(wrap)
        for call in self.script.calls:
            if dotted(call.func) == "isinstance" and len(call.args) == 2:
                for node in walk(call.args[1]):
                    if self.script.qualified(node) == DATA_PARALLEL and dotted(node):
                        self.edits.append(self.file.replace(node, "DistributedDataParallel"))

    def wrap(self, wrap: cst.Call) -> None:
        model = value_of(argument(wrap, "module", 0))
        if model is None:
            raise NotUnderstood("the wrapped model is not a plain argument")
        self.only_if = ""  # the condition under which the model is moved behind the wrap
        moves, outer = self.moves_on(wrap)
        statement = self.file.statement(wrap)
        inner = self.rewritten(model)
        self.name = self.target(statement)
        self.moved = bool(moves)
        choice = self.chosen(wrap)
        whole = self.whole(model)
        if whole is not None:
            if choice is not None or not isinstance(statement, cst.SimpleStatementLine):
                raise NotUnderstood("the model is wrapped inside an expression")
            inner = self.name = whole
        if choice is not None:
            self.in_expression(choice)
        self.place(statement)
        if self.name is not None:
            moves += self.moves_later(statement, self.name)
        if not moves:
            self.moved_elsewhere(wrap, model, statement)
        if moves and not isinstance(model, (cst.Name, cst.Attribute, cst.Call, cst.Subscript)):
            inner = f"({inner})"
        moved = "".join(dict.fromkeys(moves))
        if self.only_if:
            if len(moves) != 1 or not (whole or isinstance(model, cst.Name)):
                raise NotUnderstood(f"the model is moved only if {self.only_if}")
            moved = f"{moved} if {self.only_if} else {inner}"
        if whole is not None and isinstance(statement, cst.SimpleStatementLine):
            assigned = statement.body[0]
            assert isinstance(assigned, cst.Assign)
            self.edits.append(self.file.replace(assigned.targets[0].target, whole))
        guard = self.guard(statement)
        if guard is None:
            self.rewrite(outer, f"distributed({inner}{moved})")
            return
        self.under_guard(guard, statement, outer, inner, moved)

    def whole(self, model: cst.BaseExpression) -> str | None:
        """The model of which only a part is wrapped: all of it has to be, or processes would drift apart in the rest.

        None where the wrapped model is no part: `args.model` is one, in a namespace.
        """
        item = model
        while isinstance(model, cst.Subscript):
            model = model.value
        if not isinstance(model, cst.Attribute) or (dotted(model) or "self").startswith("self."):
            return None
        used = self.script.methods_on(model.value)
        if not used & {"parameters", "named_parameters", "train", "eval", "state_dict", "zero_grad", "cuda"}:
            return None
        part, name = dotted(model), dotted(model.value)
        reached = any(
            isinstance(n, cst.Attribute) and (dotted(n) or "").endswith(f".{model.attr.value}.module")
            for n in self.script.nodes
        )
        strange = used - _ANSWERED - {*MOVES, "cpu"}
        if item is not model or part != self.name or not isinstance(model.value, cst.Name) or reached or strange:
            raise NotUnderstood(
                f"only {part} is wrapped: the rest of {name} would learn in each process by itself, so wrap {name}"
            )
        self.plan.cautions.append(
            f"all of {name} is wrapped, not only {part}: "
            f"its checkpoints say module.{model.attr.value} where they said {model.attr.value}.module"
        )
        return name

    def moves_on(self, wrap: cst.Call) -> tuple[list[str], cst.Call]:
        """`.cuda()` and `.to(device)` chained behind the wrap: the parameters must be in place before DDP sees them."""
        moves: list[str] = []
        outer = wrap
        while True:
            attribute = self.file.parent(outer)
            call = self.file.parent(attribute) if isinstance(attribute, cst.Attribute) else None
            if not isinstance(attribute, cst.Attribute) or not isinstance(call, cst.Call) or call.func is not attribute:
                return moves, outer
            if attribute.attr.value not in MOVES:
                return moves, outer
            moves.append(self.move_text(call))
            outer = call

    def moved_elsewhere(self, wrap: cst.Call, model: cst.BaseExpression, statement: cst.CSTNode) -> None:
        """DDP has to see the parameters where they stay: a move in another function comes too late."""
        row, scope = self.file.row(wrap), self.script.scope(wrap)
        for made in [model, *(value for value, _ in self.script.assigned(model))]:
            if self.file.row(made) <= row and any(_is_move(n) for n in walk(made)):
                return
        target = next((n for n in walk(statement) if dotted(n) == self.name), None)
        if not isinstance(target, (cst.Name, cst.Attribute)):
            return
        for call in self.script.calls:
            receiver = call.func.value if isinstance(call.func, cst.Attribute) and _is_move(call) else None
            if receiver is None or self.behind in (around := list(self.file.ancestors(call))):
                continue
            if self.script.scope(call) is scope and dotted(receiver) == dotted(model) and self.file.row(call) < row:
                return
            loop = next((a for a in around if isinstance(a, cst.For) and dotted(a.target) == dotted(receiver)), None)
            held = loop is not None and any(dotted(n) == self.name for n in walk(loop.iter))
            if held or (self.script.scope(call) is not scope and self.script.same(receiver, target)):
                raise NotUnderstood(f"the model is moved after it is wrapped (line {self.file.row(call)})")

    def move_text(self, call: cst.Call) -> str:
        assert isinstance(call.func, cst.Attribute)
        args = ", ".join(self.rewritten(a).strip().rstrip(",") for a in call.args)
        return f".{call.func.attr.value}({args})"

    def target(self, statement: cst.CSTNode) -> str | None:
        if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1:
            small = statement.body[0]
            if isinstance(small, cst.Assign) and len(small.targets) == 1:
                return dotted(small.targets[0].target)
        return None

    def moves_later(self, statement: cst.CSTNode, target: str) -> list[str]:
        """Moves of the wrapped model further down in its function; their arguments must exist at the wrap already."""
        moves = []
        row = self.file.row(statement)
        scope = self.script.scope(statement)
        for call in self.script.calls:
            if not (isinstance(call.func, cst.Attribute) and call.func.attr.value in MOVES):
                continue
            if dotted(call.func.value) != target or self.script.scope(call) is not scope or self.file.row(call) <= row:
                continue
            if exclusive(self.file, call, statement) or any(a is self.behind for a in self.file.ancestors(call)):
                continue
            for arg in call.args:
                for name in (n for n in walk(arg.value) if isinstance(n, cst.Name)):
                    made = [self.file.row(v) for v, _ in self.script.assigned(name)]
                    if made and min(made) > row:
                        raise NotUnderstood(f"the model is moved to {name.value}, which is made after the wrap")
            moves.append(self.move_text(call))
            self.condition(call, statement)
        return moves

    def condition(self, move: cst.Call, wrap: cst.CSTNode) -> None:
        """Notes the `if` around a later move, which does not hold for the wrap itself."""
        shared = set(self.file.ancestors(wrap))
        own = [
            a
            for a in self.file.ancestors(move)
            if isinstance(a, (cst.If, cst.Else, cst.For, cst.While)) and a not in shared
        ]
        if not own:
            return
        guard = own[0]
        if len(own) > 1 or not isinstance(guard, cst.If) or guard.orelse is not None:
            raise NotUnderstood("the model is moved under nested conditions")
        for name in (n for n in walk(guard.test) if isinstance(n, cst.Name)):
            made = [self.file.row(v) for v, _ in self.script.assigned(name)]
            if made and min(made) > self.file.row(wrap):
                raise NotUnderstood(f"the model is moved only if {name.value}, which is made after the wrap")
        self.only_if = self.rewritten(guard.test)


def _is_move(node: cst.CSTNode) -> bool:
    return (
        isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value in ("cuda", "to")
    )
