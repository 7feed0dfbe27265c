"""The data: each process takes its share of every training batch, in an order that changes with the epoch."""

from __future__ import annotations

import libcst as cst

from torchlint.diagnostic import Edit
from torchlint.migrate import epochs
from torchlint.migrate.epochs import NotUnderstood
from torchlint.migrate.plan import Step, downloads, value_of
from torchlint.migrate.script import LOADER, PASSES_ITEMS
from torchlint.nodes import argument, dotted, has_star, literal, walk, walk_scope

# Calls that take a batch size for the shape of a tensor.
_SHAPED = frozenset(
    "view reshape expand repeat zeros ones empty full rand randn randint normal init_hidden FloatTensor LongTensor "
    "Tensor".split()
)


class Shares(Step):
    def run(self) -> None:
        self.epochs(self.loaders())

    def loaders(self) -> list[tuple[cst.For, cst.BaseExpression]]:
        """Give each training loader a sampler; returns the loops over them with the loader's name there."""
        loops: list[tuple[cst.For, cst.BaseExpression]] = []
        done: set[cst.CSTNode] = set()
        for loop in self.script.training_loops():
            expr = self.script.iterated(loop)
            made = self.made(expr) if expr is not None else []
            if not isinstance(loop, cst.For) or expr is None or not made:
                raise NotUnderstood(f"the training loop at line {self.file.row(loop)} is no loop over a DataLoader")
            for origin in made:
                if not (isinstance(origin, cst.Call) and self.script.qualified(origin.func) == LOADER):
                    raise self.unknown(loop, expr, origin)
                if origin not in done:
                    done.add(origin)
                    self.loader(origin)
            self.agree(loop)
            loops.append((loop, expr))
        if not loops:
            raise NotUnderstood("another file goes over the batches, and set_epoch and saving on rank 0 belong there")
        self.lengths(done)
        self.sizes(done)
        return loops

    def unknown(self, loop: cst.For, expr: cst.BaseExpression, origin: cst.BaseExpression) -> NotUnderstood:
        """What stands where a DataLoader was looked for."""
        code, func = self.file.code(expr), dotted(origin.func) if isinstance(origin, cst.Call) else None
        if func is not None and func.rpartition(".")[2] in ("range", "arange", "trange", "count"):
            return NotUnderstood(
                f"the training loop at line {self.file.row(loop)} counts steps, not a loader's batches"
            )
        if func is not None and not (self.script.qualified(origin) or "").startswith("~."):
            return NotUnderstood(f"`{code}` comes from {func}, where its loader has to get the sampler")
        return NotUnderstood(f"how `{code}` is made is not seen, and its loader has to get the sampler")

    def made(self, expr: cst.BaseExpression) -> list[cst.BaseExpression]:
        """What made the loader, wrappers such as `loader = tqdm(loader)` taken off."""
        found: list[cst.BaseExpression] = []
        latest = self.latest(expr)
        for origin in [latest] if latest is not None else self.script.origins(expr):
            wraps = isinstance(origin, cst.Call) and (dotted(origin.func) or "").rpartition(".")[2] in PASSES_ITEMS
            inner = origin.args[0].value if isinstance(origin, cst.Call) and wraps and origin.args else None
            if isinstance(inner, cst.Name) and inner.value == dotted(expr):
                found += self.script.handed(inner) or [origin]
            else:
                found.append(origin)
        return found

    def latest(self, expr: cst.BaseExpression) -> cst.Call | None:
        """The loader made of a dataset of the same name, `data = DataLoader(data)`, once it is there."""
        values = [value for value, _ in self.script.assigned(expr)]
        last = max(values, key=self.file.row, default=None)
        if not isinstance(last, cst.Call) or len(values) < 2 or self.script.qualified(last.func) != LOADER:
            return None
        data, scope = argument(last, "dataset", 0), self.script.scope(last)
        if data is None or dotted(data.value) is None or dotted(data.value) != dotted(expr):
            return None
        block = self.file.parent(self.file.statement(last))
        straight = block is scope or (block is not None and self.file.parent(block) is scope)
        return (
            last
            if straight and self.script.scope(expr) is scope and self.file.row(expr) > self.file.row(last)
            else None
        )

    def loader(self, call: cst.Call) -> None:
        """`shuffle` moves into a DistributedSampler; the batch is divided among the processes."""
        sampler = argument(call, "sampler", 3)
        if sampler is not None and (sampler.keyword is None or not self.is_none(sampler.value)):
            raise NotUnderstood(
                f"the loader at line {self.file.row(call)} draws with a sampler of its own, "
                "which has to hand each process its share"
            )
        if has_star(call) or argument(call, "batch_sampler", 4):
            raise NotUnderstood(f"the loader at line {self.file.row(call)} has a batch sampler or unpacked arguments")
        batch = argument(call, "batch_size", 1)
        data = argument(call, "dataset", 0)
        if batch is None or data is None or literal(batch.value) == 1:
            raise NotUnderstood("batches of one cannot be divided among processes")
        self.refuse_iterable(data.value)
        self.anchors.append(call)
        self.plan.sampler_needed = True
        divided = self.file.code(batch.value)
        if not isinstance(batch.value, (cst.Name, cst.Attribute, cst.Integer, cst.Call, cst.Subscript)):
            divided = f"({divided})"
        name = self.dataset_name(call, data)
        shuffle = argument(call, "shuffle", 2)
        given = self.file.code(shuffle.value) if shuffle is not None else "False"
        if sampler is not None:
            self.in_place_of_none(call, sampler, shuffle, name, divided)
            return
        drawn = f"sampler=DistributedSampler({name}, shuffle={given})"
        share = f"{divided} // {self.dist}.get_world_size()"
        last = call.args[-1]
        if shuffle is None and last is batch:
            share += f", {drawn}"
        self.edits.append(self.file.replace(batch.value, share))
        if shuffle is None:
            if last is not batch:
                end = self.file.span(last.value)[1]
                self.edits.append(Edit(end, end, f", {drawn}"))
            return
        following = call.args[list(call.args).index(shuffle) + 1 :]
        if shuffle.keyword is None and any(a.keyword is None for a in following):
            raise NotUnderstood(f"the loader at line {self.file.row(call)} has too many positional arguments")
        start = self.file.caret(shuffle.keyword)[0] if shuffle.keyword is not None else self.file.span(shuffle.value)[0]
        self.edits.append(Edit(start, self.file.span(shuffle.value)[1], drawn))

    def is_none(self, expr: cst.BaseExpression) -> bool:
        return all(literal(made) is None for made in self.script.origins(expr))

    def in_place_of_none(
        self, call: cst.Call, sampler: cst.Arg, shuffle: cst.Arg | None, data: str, divided: str
    ) -> None:
        """`shuffle=(sampler is None), sampler=sampler` with a sampler that is always None."""
        given = "False"
        if shuffle is not None:
            if shuffle.keyword is None or shuffle is call.args[-1]:
                raise NotUnderstood(f"the loader at line {self.file.row(call)} has too many positional arguments")
            test = shuffle.value
            asks = isinstance(test, (cst.Comparison, cst.UnaryOperation)) and any(
                dotted(n) == (dotted(sampler.value) or "?") for n in walk(test)
            )
            given = "True" if asks else self.file.code(test)
            self.drop_argument(call, shuffle)
        batch = value_of(argument(call, "batch_size", 1))
        assert batch is not None
        self.edits.append(self.file.replace(batch, f"{divided} // {self.dist}.get_world_size()"))
        self.edits.append(self.file.replace(sampler.value, f"DistributedSampler({data}, shuffle={given})"))

    def drop_argument(self, call: cst.Call, arg: cst.Arg) -> None:
        """Takes out an argument that others follow, and leaves those where they stand."""
        text = self.file.text
        start = self.file.caret(arg)[0]
        end = self.file.caret(call.args[list(call.args).index(arg) + 1])[0]
        gap = text[start:end]
        if "#" in gap:
            raise NotUnderstood(f"the loader at line {self.file.row(call)} has a comment between its arguments")
        line = text[:start].rpartition("\n")[2]
        if "\n" in gap and line.strip():  # the last one on its line
            end = start + len(gap.rstrip())
            start -= len(line) - len(line.rstrip())
        self.edits.append(Edit(start, end, ""))

    def refuse_iterable(self, data: cst.BaseExpression) -> None:
        for origin in self.script.origins(data):
            name = self.script.qualified(origin.func) if isinstance(origin, cst.Call) else None
            for node in self.script.nodes:
                if isinstance(node, cst.ClassDef) and name == f"~.{node.name.value}":
                    if any((dotted(b.value) or "").endswith("IterableDataset") for b in node.bases):
                        raise NotUnderstood("an IterableDataset has to shard itself")

    def dataset_name(self, call: cst.Call, data: cst.Arg) -> str:
        """A name for the loader's dataset, which the sampler needs too; a dataset made in place gets one."""
        if isinstance(data.value, (cst.Name, cst.Attribute)):
            return self.file.code(data.value)
        statement = self.file.statement(call)
        if not isinstance(statement, cst.SimpleStatementLine) or not isinstance(
            self.file.parent(statement), (cst.IndentedBlock, cst.Module)
        ):
            raise NotUnderstood("the training set is made inside an expression")
        name = "train_dataset"
        while name in self.words:
            name += "_"
        self.words.add(name)
        if any(isinstance(n, cst.Call) and downloads(n) for n in walk(data.value)):
            raise NotUnderstood("the training set is downloaded inside an expression")
        self.edits.append(self.file.insert_before(statement, f"{name} = {self.file.code(data.value)}"))
        self.edits.append(self.file.replace(data.value, name))
        return name

    def agree(self, loop: cst.For) -> None:
        """Processes wait for each other in backward, so none may leave or skip a turn on its own."""
        index: set[str] = set()
        if isinstance(loop.target, cst.Tuple) and loop.target.elements:
            index.add(dotted(loop.target.elements[0].value) or "")
        for node in walk_scope(loop.body):
            if isinstance(node, (cst.Break, cst.Continue, cst.Return)):
                guard = self.file.enclosing(node, cst.If)
                names = {n.value for n in walk(guard.test) if isinstance(n, cst.Name)} if guard is not None else set()
                if not names & index:
                    raise NotUnderstood(f"line {self.file.row(node)} may leave or skip a step in one process only")

    def lengths(self, loaders: set[cst.CSTNode]) -> None:
        """`len(loader.dataset)` counts everybody's samples; a process sees `len(loader.sampler)`."""
        for call in self.script.calls:
            if dotted(call.func) == "len" and len(call.args) == 1:
                what = call.args[0].value
                if isinstance(what, cst.Attribute) and what.attr.value == "dataset":
                    made = self.script.origins(what.value)
                    if made and all(m in loaders for m in made):
                        self.edits.append(self.file.replace(what.attr, "sampler"))

    def sizes(self, loaders: set[cst.CSTNode]) -> None:
        """A batch is smaller now: what divides by its size, or makes tensors of its size, may mean either."""
        batches = [value_of(argument(c, "batch_size", 1)) for c in loaders if isinstance(c, cst.Call)]
        named = {dotted(b) for b in batches} - {None}
        for node in self.script.nodes:
            if isinstance(node, cst.Attribute) and node.attr.value == "batch_size":
                made = self.script.origins(node.value)
                if made and any(m in loaders for m in made):
                    self.size(node)
            elif isinstance(node, cst.Call) and (dotted(node.func) or "").rpartition(".")[2] in _SHAPED:
                if any(dotted(a.value) in named for a in node.args if a.keyword is None):
                    raise NotUnderstood(f"line {self.file.row(node)} makes a tensor of the whole batch's size")
            elif isinstance(node, (cst.BinaryOperation, cst.AugAssign)) and self.divides(node, named):
                raise NotUnderstood(f"line {self.file.row(node)} divides a loss by the whole batch's size")

    def size(self, node: cst.Attribute) -> None:
        """`steps = len(files) / loader.batch_size` counts the batches of all processes."""
        outer: cst.CSTNode | None = self.file.parent(node)
        while isinstance(outer, cst.Arg) or (isinstance(outer, cst.Call) and dotted(outer.func) in ("float", "int")):
            outer = self.file.parent(outer)
        if not (isinstance(outer, cst.BinaryOperation) and isinstance(outer.operator, (cst.Divide, cst.FloorDivide))):
            raise NotUnderstood(f"line {self.file.row(node)} uses the batch size of a loader, which is a share now")
        if any(n is node for n in walk(outer.left)) or self.within(outer.left):
            raise NotUnderstood(f"line {self.file.row(node)} uses the batch size of a loader, which is a share now")
        whole = f"{self.file.code(node)} * {self.dist}.get_world_size()"
        alone = isinstance(self.file.parent(node), cst.Arg)
        self.edits.append(self.file.replace(node, whole if alone else f"({whole})"))

    def divides(self, node: cst.BinaryOperation | cst.AugAssign, named: set[str | None]) -> bool:
        """Whether what backward starts from is divided by the batch size: a sum that the script makes a mean itself."""
        right = node.right if isinstance(node, cst.BinaryOperation) else node.value
        if not isinstance(node.operator, (cst.Divide, cst.DivideAssign)) or dotted(right) not in named:
            return False
        around = self.file.enclosing(node, (cst.For, cst.While, cst.FunctionDef))
        body = around.body if isinstance(around, (cst.For, cst.While, cst.FunctionDef)) else self.file.tree
        line = self.file.statement(node)
        backward = [c for c in walk(body) if isinstance(c, cst.Call) and self.script.is_backward(c)]
        if any(c in backward for c in walk(line)):
            return True
        losses = {n.value for c in backward for n in walk(c.func) if isinstance(n, cst.Name)}
        for inner in walk(body):
            if isinstance(inner, (cst.Assign, cst.AugAssign)) and losses & self.bound(inner):
                losses |= {n.value for n in walk(inner.value) if isinstance(n, cst.Name)}
        return any(losses & self.bound(n) for n in walk(line) if isinstance(n, (cst.Assign, cst.AugAssign)))

    @staticmethod
    def bound(line: cst.Assign | cst.AugAssign) -> set[str]:
        targets = [t.target for t in line.targets] if isinstance(line, cst.Assign) else [line.target]
        return {n.value for target in targets for n in walk(target) if isinstance(n, cst.Name)}

    def epochs(self, loops: list[tuple[cst.For, cst.BaseExpression]]) -> None:
        """`set_epoch` at the top of each epoch loop, so that every epoch is shuffled anew."""
        for loop, expr in loops:
            around = self.script.loops_around(loop)
            function = self.script.scope(loop)
            if not around and isinstance(function, cst.FunctionDef) and not self.script.call_sites.get(function):
                raise NotUnderstood("the training function is called from another file")
            for epoch_loop, via in around:
                leaving = epochs.leaves_early(self.script, epoch_loop)
                if leaving is not None:
                    raise NotUnderstood(f"line {self.file.row(leaving)} may end training early in one process only")
                self.edits += epochs.set_epoch(self.script, epoch_loop, via, expr)
