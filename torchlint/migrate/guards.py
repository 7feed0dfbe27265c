"""The condition under which a script wraps its model: processes that skip the wrap would drift apart."""

from __future__ import annotations

import re
from collections.abc import Sequence

import libcst as cst

from torchlint.migrate.epochs import NotUnderstood
from torchlint.migrate.plan import Step
from torchlint.nodes import dotted, walk
from torchlint.source import File

MOVES = ("cuda", "to", "half", "float", "double", "bfloat16")
_GPU_COUNT = re.compile(r"device_count\(\)|n_?gpus?\b|num_gpus?\b|ngpus?\b|gpu_ids|device_ids|multi_gpu", re.I)
_ENDS = ("exit", "quit", "sys.exit", "os._exit", "os.abort")
# Calls in a condition that every process answers alike.
_PURE = ("len", "int", "str", "bool", "isinstance", "hasattr", "getattr")


class Guards(Step):
    name: str | None  # what the wrapped model is called
    moved: bool  # whether moves are chained behind the wrap
    behind: cst.If | None  # the `if` behind which the wrap comes to stand

    def guard(self, statement: cst.CSTNode) -> cst.If | None:
        """The `if` whose branch the wrap stands in, None where all branches wrap or there is none."""
        block = self.file.parent(statement)
        guard = self.file.parent(block) if block is not None else None
        branch = guard
        if isinstance(guard, cst.Else):
            guard = self.file.parent(guard)
        if not isinstance(guard, cst.If):
            if isinstance(guard, (cst.For, cst.While, cst.With, cst.Try, cst.ExceptHandler)):
                raise NotUnderstood("the model is wrapped inside a loop, with or try statement")
            return None
        if self.is_main_guard(guard):
            return None
        assert branch is not None
        if self.wraps_always(guard) or self.makes(branch):
            return self.guard(guard)
        return guard

    def wraps_always(self, node: cst.If | cst.Else) -> bool:
        inside = {id(n) for n in walk(node.body)}
        if not any(id(w) in inside for w in self.wraps) and not self.ends(node.body):
            return False
        if isinstance(node, cst.Else):
            return True
        return node.orelse is not None and self.wraps_always(node.orelse)

    def ends(self, block: cst.BaseSuite) -> bool:
        """Whether the branch raises or exits, so that nothing after it runs."""
        last = block.body[-1]
        small = last.body[-1] if isinstance(last, cst.SimpleStatementLine) else last
        if isinstance(small, cst.Expr) and isinstance(small.value, cst.Call):
            return dotted(small.value.func) in _ENDS
        return isinstance(small, cst.Raise)

    def makes(self, branch: cst.CSTNode) -> bool:
        """Whether the model is made in this branch alone: outside it there is none to wrap."""
        inside = {id(n) for n in walk(branch)}
        made = [
            v
            for n in walk(branch)
            if isinstance(n, cst.Name) and n.value == self.name
            for v, _ in self.script.assigned(n)
        ]
        return bool(made) and all(id(v) in inside for v in made)

    def place(self, statement: cst.CSTNode) -> None:
        """Notes behind which `if` the wrap has to stand: one that does more than to wrap."""
        self.behind = None
        guard = self.guard(statement)
        if guard is None:
            return
        outer = self.guard(guard)
        if outer is not None:
            body = outer.body.body if isinstance(outer.body, cst.IndentedBlock) else ()
            after = body[body.index(guard) + 1 :] if guard in body else None
            if after is None or guard.orelse is not None or self.guard(outer) is not None:
                raise NotUnderstood("the model is wrapped under nested conditions")
            if not all(self.moves(s) or not self.names(s) for s in after):
                raise NotUnderstood("the model is wrapped under nested conditions and needed in there")
            self.behind = outer
        elif guard.orelse is None and not _GPU_COUNT.search(self.file.code(guard.test)):
            if self.moved or len(guard.body.body) > 1:
                self.behind = guard

    def under_guard(self, guard: cst.If, line: cst.CSTNode, outer: cst.CSTNode, inner: str, moves: str) -> None:
        """A wrap under a condition: processes that skip it would drift apart, so more than one process always wraps."""
        world = f"{self.dist}.get_world_size() > 1"
        if isinstance(self.file.parent(guard), cst.If) or isinstance(self.file.parent(self.behind or guard), cst.If):
            raise NotUnderstood("the model is wrapped in one branch of several")
        test = self.rewritten(guard.test)
        if not isinstance(guard.body, cst.IndentedBlock) or line not in guard.body.body:
            raise NotUnderstood("the model is wrapped in one branch of several")
        self.anchors.append(self.behind or guard)
        others = [s for s in guard.body.body if s is not line]
        counts = bool(_GPU_COUNT.search(test)) and not self.unwrapped_later()
        if not counts:
            self.pure(guard.test)
        if self.behind is not None and self.behind is not guard and not counts:
            self.pure(self.behind.test)
            test = f"({self.rewritten(self.behind.test)}) and ({test})"
        either = world if counts else f"{self.bracketed(test, guard.test)} or {world}"
        if self.behind is None:
            if any(self.names(s) and not self.moves(s) for s in others if self.file.row(s) > self.file.row(line)):
                raise NotUnderstood(f"what happens to the model under `if {test}` differs from the other branch")
            if guard.orelse is not None and not counts and not self.alike(guard, others):
                raise NotUnderstood(f"the branches of `if {test}`, one of which wraps the model, differ in more")
            self.rewrite(guard.test, either)
            self.rewrite(outer, f"distributed({inner}{moves})")
            return
        self.move_behind(guard, line, outer, inner, moves, either)

    def bracketed(self, test: str, node: cst.BaseExpression) -> str:
        plain = not isinstance(node, (cst.BooleanOperation, cst.IfExp)) and not test.startswith("(")
        return test if plain else f"({test})"

    def move_behind(
        self, guard: cst.If, line: cst.CSTNode, outer: cst.CSTNode, inner: str, moves: str, either: str
    ) -> None:
        """The model is moved where it was, and wrapped behind the `if`."""
        assert self.behind is not None
        if self.name is None or any(self.names(s) and not self.moves(s) for s in self.later(guard, line)):
            test = self.file.code(guard.test)
            raise NotUnderstood(f"what happens to the model under `if {test}` differs from the other branch")
        own = [s for s in guard.body.body if s is not line]
        start, end = self.file.caret(line)
        at, till = self.file.span(outer)
        rewritten = self.file.text[start:at] + f"distributed({self.name})" + self.file.text[till:end]
        if moves or inner != self.name:
            self.rewrite(outer, f"{inner}{moves}")
        else:
            gone = line if own or guard is self.behind else guard
            for edit in self.within(gone):
                self.edits.remove(edit)
            self.edits.append(self.file.delete(gone))
        lines = [f"if {either}:", self.file.indent_unit + rewritten]
        before = self.plan.wrapped_behind.get((self.behind, either))
        if before is not None:  # the next model under the same condition
            self.edits.remove(before)
            indent = self.file.indent(self.behind)
            lines = [*(line.removeprefix(indent) for line in before.text.splitlines()), lines[1]]
        edit = self.file.insert_after(self.behind, lines)
        self.plan.wrapped_behind[self.behind, either] = edit
        self.edits.append(edit)

    def later(self, guard: cst.If, line: cst.CSTNode) -> list[cst.BaseStatement | cst.BaseSmallStatement]:
        return [s for s in guard.body.body if self.file.row(s) > self.file.row(line)]

    def alike(self, guard: cst.If, others: Sequence[cst.CSTNode]) -> bool:
        """Whether the branches differ in the wrap alone."""
        if not isinstance(guard.orelse, cst.Else):
            return False
        return all(self.moves(s) or self.tells(s) for s in (*others, *guard.orelse.body.body))

    def tells(self, statement: cst.CSTNode) -> bool:
        """`pass`, a print, a log line."""
        small = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) else None
        if isinstance(small, cst.Expr) and isinstance(small.value, cst.Call):
            func = dotted(small.value.func) or ""
            return func == "print" or func.rpartition(".")[2] in ("info", "debug", "warning", "warn")
        return isinstance(small, cst.Pass)

    def moves(self, statement: cst.CSTNode) -> bool:
        """`model.cuda()`, `model = model.to(device)`."""
        if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
            return False
        small = statement.body[0]
        if isinstance(small, cst.Assign) and [dotted(t.target) for t in small.targets] != [self.name]:
            return False
        value = small.value if isinstance(small, (cst.Expr, cst.Assign)) else None
        called = isinstance(value, cst.Call) and isinstance(value.func, cst.Attribute)
        while isinstance(value, cst.Call) and isinstance(value.func, cst.Attribute) and value.func.attr.value in MOVES:
            value = value.func.value
        return called and dotted(value) == self.name

    def names(self, statement: cst.CSTNode) -> bool:
        return self.name is None or any(dotted(n) == self.name for n in walk(statement))

    def pure(self, test: cst.BaseExpression) -> None:
        """The condition is asked again or along with another: it may only ask."""
        for node in walk(test):
            name = (dotted(node.func) or "?") if isinstance(node, cst.Call) else "len"
            if name.partition(".")[0] != "torch" and name not in _PURE:
                raise NotUnderstood(f"the model is wrapped only if {self.file.code(test)}")

    def unwrapped_later(self) -> bool:
        """Whether `.module` is asked for elsewhere, on another condition than that it is there."""
        for node in self.script.nodes:
            if isinstance(node, cst.Attribute) and node.attr.value == "module":
                tests = [a.test for a in self.file.ancestors(node) if isinstance(a, (cst.If, cst.IfExp))]
                tried = any(isinstance(a, cst.Try) for a in self.file.ancestors(node))
                if not tried and not any("hasattr" in (c := self.file.code(t)) or "isinstance" in c for t in tests):
                    return True
        return False

    def chosen(self, wrap: cst.Call) -> cst.IfExp | None:
        """`DataParallel(model) if several else model`."""
        for ancestor in self.file.ancestors(wrap):
            if isinstance(ancestor, cst.BaseStatement):
                break
            if isinstance(ancestor, (cst.BooleanOperation, cst.Lambda, cst.BaseComp)):
                raise NotUnderstood("the model is wrapped inside an expression")
            if isinstance(ancestor, cst.IfExp):
                if not any(n is wrap for n in walk(ancestor.body)):
                    raise NotUnderstood("the model is wrapped inside an expression")
                return ancestor
        return None

    def in_expression(self, choice: cst.IfExp) -> None:
        world = f"{self.dist}.get_world_size() > 1"
        if _GPU_COUNT.search(self.file.code(choice.test)) and not self.unwrapped_later():
            self.rewrite(choice.test, world)
            return
        self.pure(choice.test)
        self.rewrite(choice.test, f"{self.bracketed(self.rewritten(choice.test), choice.test)} or {world}")


def exclusive(file: File, one: cst.CSTNode, other: cst.CSTNode) -> bool:
    """Whether the nodes stand in different branches of an `if`."""
    around = set(file.ancestors(other))
    for ancestor in file.ancestors(one):
        parent = file.parent(ancestor)
        if isinstance(parent, cst.If) and parent.orelse is ancestor and parent.body in around:
            return True
    return False
