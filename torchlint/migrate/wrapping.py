"""The model: `DataParallel(model)` becomes one replica per process, on its GPU before it is wrapped."""

from __future__ import annotations

import re
from collections.abc import Sequence

import libcst as cst

from torchlint.migrate.epochs import NotUnderstood
from torchlint.migrate.plan import Step, value_of
from torchlint.migrate.script import DATA_PARALLEL
from torchlint.nodes import argument, dotted, literal, walk

_MOVES = ("cuda", "to", "half", "float", "double", "bfloat16")
_GPU_COUNT = re.compile(r"device_count\(\)|n_?gpus?\b|num_gpus?\b|ngpus?\b|gpu_ids|device_ids|multi_gpu", re.I)
_FIRST_GPU = re.compile(r"""(["'])cuda:0\1""")


class Wrapping(Step):
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
        target = self.target(statement)
        if target is not None:
            moves += self.moves_later(statement, target)
        inner = self.file.code(model)
        if moves and not isinstance(model, (cst.Name, cst.Attribute, cst.Call, cst.Subscript)):
            inner = f"({inner})"
        moved = inner + "".join(dict.fromkeys(moves))
        if self.only_if:
            if len(moves) != 1 or not isinstance(model, cst.Name):
                raise NotUnderstood(f"the model is moved only if {self.only_if}")
            moved = f"{moved} if {self.only_if} else {inner}"
        new = f"distributed({moved})"
        guard = self.guard(statement)
        if guard is None:
            self.edits.append(self.file.replace(outer, new))
            return
        self.under_guard(guard, statement, target, outer, new)

    def moves_on(self, wrap: cst.Call) -> tuple[list[str], cst.Call]:
        """`.cuda()` and `.to(device)` chained behind the wrap: the parameters must be in place before DDP sees them."""
        moves: list[str] = []
        outer = wrap
        while True:
            attribute = self.file.parent(outer)
            call = self.file.parent(attribute) if isinstance(attribute, cst.Attribute) else None
            if not isinstance(attribute, cst.Attribute) or not isinstance(call, cst.Call) or call.func is not attribute:
                return moves, outer
            if attribute.attr.value not in _MOVES:
                return moves, outer
            moves.append(self.move_text(call))
            outer = call

    def move_text(self, call: cst.Call) -> str:
        assert isinstance(call.func, cst.Attribute)
        args = ", ".join(self.moved_arg(a) for a in call.args)
        return f".{call.func.attr.value}({args})"

    def moved_arg(self, arg: cst.Arg) -> str:
        code = self.file.code(arg).strip().rstrip(",")
        return "LOCAL_RANK" if literal(arg.value) == 0 else _FIRST_GPU.sub('f"cuda:{LOCAL_RANK}"', code)

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
            if not (isinstance(call.func, cst.Attribute) and call.func.attr.value in _MOVES):
                continue
            if dotted(call.func.value) != target or self.script.scope(call) is not scope or self.file.row(call) <= row:
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
        self.only_if = _FIRST_GPU.sub('f"cuda:{LOCAL_RANK}"', self.file.code(guard.test))

    def guard(self, statement: cst.CSTNode) -> cst.If | None:
        """The `if` whose branch the wrap stands in, None where all branches wrap or there is none."""
        block = self.file.parent(statement)
        guard = self.file.parent(block) if block is not None else None
        if isinstance(guard, cst.Else):
            guard = self.file.parent(guard)
        if not isinstance(guard, cst.If):
            if isinstance(guard, (cst.For, cst.While, cst.With, cst.Try, cst.ExceptHandler)):
                raise NotUnderstood("the model is wrapped inside a loop, with or try statement")
            return None
        if self.is_main_guard(guard):
            return None
        if self.wraps_always(guard):
            return self.guard(guard)
        return guard

    def wraps_always(self, node: cst.If | cst.Else) -> bool:
        inside = {id(n) for n in walk(node.body)}
        if not any(id(w) in inside for w in self.wraps):
            return False
        if isinstance(node, cst.Else):
            return True
        return node.orelse is not None and self.wraps_always(node.orelse)

    def under_guard(self, guard: cst.If, line: cst.CSTNode, target: str | None, outer: cst.CSTNode, new: str) -> None:
        """A wrap under a condition: processes that skip it would drift apart, so more than one process always wraps."""
        world = f"{self.dist}.get_world_size() > 1"
        if self.guard(guard) is not None or isinstance(self.file.parent(guard), cst.If):
            raise NotUnderstood("the model is wrapped under nested conditions")
        test = self.file.code(guard.test)
        if not isinstance(guard.body, cst.IndentedBlock) or line not in guard.body.body:
            raise NotUnderstood("the model is wrapped in one branch of several")
        self.anchors.append(guard)
        others = [s for s in guard.body.body if s is not line]
        if _GPU_COUNT.search(test) and not self.depends(others, line, target):
            self.edits.append(self.file.replace(guard.test, world))
            self.edits.append(self.file.replace(outer, new))
            return
        if guard.orelse is not None:
            raise NotUnderstood("the unwrapped model has a branch of its own")
        if any(
            isinstance(n, cst.Call) and (dotted(n.func) or "").partition(".")[0] != "torch" for n in walk(guard.test)
        ):
            raise NotUnderstood(f"the model is wrapped only if {test}")
        test = _FIRST_GPU.sub('f"cuda:{LOCAL_RANK}"', test)
        wrapping = (
            f"if ({test}) or {world}:" if isinstance(guard.test, cst.BooleanOperation) else f"if {test} or {world}:"
        )
        if not others:
            self.edits.append(self.file.replace(guard.test, wrapping.removeprefix("if ").removesuffix(":")))
            self.edits.append(self.file.replace(outer, new))
            return
        if self.depends(others, line, target) or target is None:
            raise NotUnderstood(f"what happens to the model under `if {test}` differs from the other branch")
        start, end = self.file.caret(line)
        at, till = self.file.span(outer)
        rewritten = self.file.text[start:at] + new + self.file.text[till:end]
        self.edits.append(self.file.delete(line))
        self.edits.append(self.file.insert_after(guard, [wrapping, self.file.indent_unit + rewritten]))

    def depends(self, others: Sequence[cst.BaseStatement], line: cst.CSTNode, target: str | None) -> bool:
        """Whether a statement behind the wrap needs the wrapped model, moves aside (they are folded into the wrap)."""
        if target is None:
            return True
        row = self.file.row(line)
        for other in others:
            if self.file.row(other) > row:
                for node in walk(other):
                    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
                        if node.func.attr.value in _MOVES and dotted(node.func.value) == target:
                            break
                    if dotted(node) == target:
                        return True
        return False
