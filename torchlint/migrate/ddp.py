"""From `nn.DataParallel` to one process per GPU, for a whole script whose shape is understood.

The plan is made in steps (`_Plan`), each of which either notes its edits or raises `NotUnderstood` with the reason. What
comes out runs on its own as one process, and under torchrun as many, with the same global batch: every process takes
its share of each batch, so mean losses give the gradients that the single process had.
"""

from __future__ import annotations

import builtins
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import libcst as cst

from torchlint.diagnostic import Edit
from torchlint.migrate import epochs, text
from torchlint.migrate.epochs import NotUnderstood
from torchlint.migrate.script import DATA_PARALLEL, LOADER, Scope, Script
from torchlint.source import argument, dotted, has_star, literal, walk, walk_scope

_MOVES = ("cuda", "to", "half", "float", "double", "bfloat16")
_GPU_COUNT = re.compile(r"device_count\(\)|n_?gpus?\b|num_gpus?\b|ngpus?\b|gpu_ids|device_ids|multi_gpu", re.I)
_SAVING = re.compile(r"save|write|dump|logger$|visuali[sz]e|plot|checkpoint", re.I)
_BUILTINS = frozenset(dir(builtins))
# Calls that write files or reach services, once per process: two processes would write over each other.
_WRITERS = re.compile(
    r"^(wandb\.|mlflow\.|neptune\.|comet_ml\.|visdom\.|torch\.utils\.tensorboard\.|tensorboardX\.|logging\.(FileHandler|basicConfig)"
    r"|shutil\.|os\.(remove|rename|replace|unlink)$|(json|pickle|yaml)\.dump$|csv\.writer$|numpy\.(save\w*)$|joblib\.dump$"
    r"|torchvision\.utils\.save_image$|matplotlib\.pyplot\.savefig$)"
)
_FIRST_GPU = re.compile(r"""(["'])cuda:0\1""")
_BARS = ("tqdm.tqdm", "tqdm.trange", "tqdm.auto.tqdm", "tqdm.auto.trange", "tqdm.notebook.tqdm", "tqdm.std.tqdm")


@dataclass(frozen=True)
class Migration:
    """The edits, or the reasons why there are none. `cautions` tell what changes by design in this script."""

    edits: tuple[Edit, ...] = ()
    refused: str = ""
    cautions: tuple[str, ...] = ()
    rescaled: bool = False  # a summed loss: the learning rate has to be chosen anew


def to_ddp(script: Script) -> Migration:
    """Edits that make the script run under torchrun and alone, or the reason why it is not understood."""
    plan = _Plan(script)
    try:
        plan.make()
    except NotUnderstood as reason:
        return Migration(refused=str(reason))
    return Migration(_merged(plan.edits), "", tuple(plan.cautions), plan.rescaled)


def _merged(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """One insertion for each place, in the order in which the plan made them; equal replacements once."""
    inserted: dict[int, str] = {}
    for edit in edits:
        if edit.start == edit.end:
            inserted[edit.start] = inserted.get(edit.start, "") + edit.text
    replaced = {e for e in edits if e.start != e.end}
    return tuple(sorted([*replaced, *(Edit(at, at, new) for at, new in inserted.items())]))


@dataclass(eq=False)
class _Entry:
    """Where the run starts: the statements of the module, of its `__main__` block or of its main function."""

    body: Sequence[cst.BaseStatement]
    call: cst.BaseStatement | None = None  # the statement that runs the main function
    function: cst.FunctionDef | None = None


@dataclass(eq=False)
class _Plan:
    script: Script
    edits: list[Edit] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    anchors: list[cst.CSTNode] = field(default_factory=list)  # what needs the process group
    helpers: set[str] = field(default_factory=set)
    sampler_needed: bool = False
    rescaled: bool = False

    def make(self) -> None:
        self.file = self.script.file
        self.words = {n.value for n in self.script.nodes if isinstance(n, cst.Name)}
        self.dist = "torch.distributed" if "dist" in self.words else "dist"
        self.wraps = [c for c in self.script.calls if self.script.qualified(c.func) == DATA_PARALLEL]
        self.refuse_foreign()
        self.models()
        loops = self.loaders()
        self.epochs(loops)
        self.outputs()
        self.devices()
        self.downloads()
        self.checks()
        inside, self.edits = self.edits, []
        self.start_and_end(self.entry())
        start, self.edits = self.edits, []
        self.preamble()
        self.edits += start + inside

    # -- what stands in the way ---------------------------------------------------------------------------------------

    def refuse_foreign(self) -> None:
        taken = sorted(self.words.intersection(text.DEFINES))
        if taken:
            raise NotUnderstood(f"the name {taken[0]} is already used")
        for node in self.script.nodes:
            if isinstance(node, (cst.Import, cst.ImportFrom)) and "torch.distributed" in self.file.code(node):
                raise NotUnderstood("the script has a torch.distributed branch of its own")
        for wrap in self.wraps:
            if self.script.owner(wrap) is not None:
                raise NotUnderstood("the model is wrapped inside a class")
            dim = argument(wrap, "dim", 3)
            if has_star(wrap) or (dim is not None and literal(dim.value) != 0):
                raise NotUnderstood("the batch is split along another dimension than the first")
            if not wrap.args:
                raise NotUnderstood("the wrapped model is not a plain argument")
        for call in self.script.calls:
            name = self.script.qualified(call.func) or ""
            if name.endswith("ReduceLROnPlateau"):
                raise NotUnderstood("ReduceLROnPlateau must be stepped with the same number in every process")
            if _WRITERS.match(name) or name.endswith("SummaryWriter") or self.writes_file(call):
                raise NotUnderstood(f"every process would write with {dotted(call.func)} (line {self.file.row(call)})")
            if self.is_foreign(call, name) and _SAVING.search(name.rpartition(".")[2]):
                raise NotUnderstood(f"{dotted(call.func)} of another file may write from every process")

    def is_foreign(self, call: cst.Call, name: str) -> bool:
        """Whether the call runs code of the project that is not in this file."""
        root = name.lstrip(".").partition(".")[0]
        if not name:
            return (
                isinstance(call.func, cst.Name)
                and not self.script.assigned(call.func)
                and call.func.value not in _BUILTINS
            )
        return (
            not name.startswith("~.") and root not in sys.stdlib_module_names and root not in ("torch", "torchvision")
        )

    def writes_file(self, call: cst.Call) -> bool:
        if dotted(call.func) == "open":
            mode = literal(_value(argument(call, "mode", 1)))
            return isinstance(mode, str) and any(c in mode for c in "wax+")
        return isinstance(call.func, cst.Attribute) and call.func.attr.value in ("savefig", "to_csv", "write_text")

    # -- the model ----------------------------------------------------------------------------------------------------

    def models(self) -> None:
        for wrap in self.wraps:
            self.anchors.append(wrap)
            self.wrap(wrap)
        for call in self.script.calls:
            if dotted(call.func) == "isinstance" and len(call.args) == 2:
                for node in walk(call.args[1]):
                    if self.script.qualified(node) == DATA_PARALLEL and dotted(node):
                        self.edits.append(self.file.replace(node, "DistributedDataParallel"))

    def wrap(self, wrap: cst.Call) -> None:
        model = _value(argument(wrap, "module", 0))
        if model is None:
            raise NotUnderstood("the wrapped model is not a plain argument")
        moves, outer = self.moves_on(wrap)
        statement = self.file.statement(wrap)
        target = self.target(statement)
        if target is not None:
            moves += self.moves_later(statement, target)
        inner = self.file.code(model)
        if moves and not isinstance(model, (cst.Name, cst.Attribute, cst.Call, cst.Subscript)):
            inner = f"({inner})"
        new = f"distributed({inner}{''.join(dict.fromkeys(moves))})"
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
        """Moves of the wrapped model further down in the same function; their arguments must already exist at the wrap."""
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
        return moves

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

    def is_main_guard(self, node: cst.If) -> bool:
        return self.file.code(node.test).replace("'", '"') in ('__name__ == "__main__"', '"__main__" == __name__')

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

    # -- the data -----------------------------------------------------------------------------------------------------

    def loaders(self) -> list[tuple[cst.For, cst.BaseExpression]]:
        """Give each training loader a sampler; returns the loops over them with the loader's name there."""
        loops: list[tuple[cst.For, cst.BaseExpression]] = []
        done: set[cst.CSTNode] = set()
        for loop in self.script.training_loops():
            expr = self.script.iterated(loop)
            made = self.script.origins(expr) if expr is not None else []
            if not isinstance(loop, cst.For) or expr is None or not made:
                raise NotUnderstood(f"the training loop at line {self.file.row(loop)} is no loop over a DataLoader")
            for origin in made:
                if not (isinstance(origin, cst.Call) and self.script.qualified(origin.func) == LOADER):
                    raise NotUnderstood(f"where `{self.file.code(expr)}` is made is not in this file")
                if origin not in done:
                    done.add(origin)
                    self.loader(origin)
            self.agree(loop)
            loops.append((loop, expr))
        if not loops:
            raise NotUnderstood("the training loop is in another file")
        self.lengths(done)
        return loops

    def loader(self, call: cst.Call) -> None:
        """`shuffle` moves into a DistributedSampler; the batch is divided among the processes."""
        if has_star(call) or argument(call, "sampler", 3) or argument(call, "batch_sampler", 4):
            raise NotUnderstood(f"the loader at line {self.file.row(call)} has a sampler or unpacked arguments")
        batch = argument(call, "batch_size", 1)
        data = argument(call, "dataset", 0)
        if batch is None or data is None or literal(batch.value) == 1:
            raise NotUnderstood("batches of one cannot be divided among processes")
        self.refuse_iterable(data.value)
        self.anchors.append(call)
        self.sampler_needed = True
        divided = self.file.code(batch.value)
        if not isinstance(batch.value, (cst.Name, cst.Attribute, cst.Integer, cst.Call, cst.Subscript)):
            divided = f"({divided})"
        self.edits.append(self.file.replace(batch.value, f"{divided} // {self.dist}.get_world_size()"))
        name = self.dataset_name(call, data)
        shuffle = argument(call, "shuffle", 2)
        given = self.file.code(shuffle.value) if shuffle is not None else "False"
        sampler = f"sampler=DistributedSampler({name}, shuffle={given})"
        if shuffle is None:
            end = self.file.span(call.args[-1].value)[1]
            if call.args[-1] is batch:
                self.edits[-1] = Edit(self.edits[-1].start, end, f"{self.edits[-1].text}, {sampler}")
            else:
                self.edits.append(Edit(end, end, f", {sampler}"))
            return
        following = call.args[list(call.args).index(shuffle) + 1 :]
        if shuffle.keyword is None and any(a.keyword is None for a in following):
            raise NotUnderstood(f"the loader at line {self.file.row(call)} has too many positional arguments")
        start = self.file.caret(shuffle.keyword)[0] if shuffle.keyword is not None else self.file.span(shuffle.value)[0]
        self.edits.append(Edit(start, self.file.span(shuffle.value)[1], sampler))

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
        if any(isinstance(n, cst.Call) and _downloads(n) for n in walk(data.value)):
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

    def epochs(self, loops: list[tuple[cst.For, cst.BaseExpression]]) -> None:
        """`set_epoch` at the top of each epoch loop, so that every epoch is shuffled anew."""
        for loop, expr in loops:
            around = self.script.loops_around(loop)
            if not around and not isinstance(self.script.scope(loop), cst.Module):
                if not self.script.call_sites.get(self.script.scope(loop)):  # type: ignore[call-overload]
                    raise NotUnderstood("the training function is called from another file")
            for epoch_loop, via in around:
                leaving = epochs.leaves_early(self.script, epoch_loop)
                if leaving is not None:
                    raise NotUnderstood(f"line {self.file.row(leaving)} may end training early in one process only")
                self.edits += epochs.set_epoch(self.script, epoch_loop, via, expr)

    # -- what is printed, saved, downloaded ----------------------------------------------------------------------------

    def outputs(self) -> None:
        for call in self.script.calls:
            name = self.script.qualified(call.func) or ""
            if dotted(call.func) == "print" and not self.script.assigned(call.func):
                self.helpers.add("print")
                self.edits.append(self.file.replace(call.func, "print_on_main"))
            elif name == "torch.save":
                self.helpers.add("save")
                self.edits.append(self.file.replace(call.func, "save_on_main"))
            elif name in ("os.mkdir", "os.makedirs") and argument(call, "exist_ok") is None and len(call.args) == 1:
                self.edits.append(self.file.replace(call.func, "os.makedirs"))
                end = self.file.span(call.args[0].value)[1]
                self.edits.append(Edit(end, end, ", exist_ok=True"))
            elif name in _BARS and argument(call, "disable") is None and call.args and not has_star(call):
                self.helpers.add("main")
                end = self.file.span(call.args[-1].value)[1]
                self.edits.append(Edit(end, end, ", disable=not is_main()"))

    def devices(self) -> None:
        """A fixed GPU becomes this process's; `"cuda"` and `.cuda()` already mean it after `set_device`."""
        for node in self.script.nodes:
            if isinstance(node, cst.SimpleString) and isinstance(value := node.evaluated_value, str):
                if value == "cuda:0" and not self.edited(node):
                    self.edits.append(self.file.replace(node, 'f"cuda:{LOCAL_RANK}"'))
                elif re.fullmatch(r"cuda:[1-9]\d*", value):
                    raise NotUnderstood(f"the GPU {value} is written down")
            elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and len(node.args) == 1:
                if self.script.qualified(node.func) == "torch.cuda.set_device":
                    raise NotUnderstood("the script sets its CUDA device itself")
                value_ = literal(node.args[0].value)
                if node.func.attr.value in ("cuda", "to") and value_ == 0 and value_ is not False:
                    if not self.edited(node.args[0].value):
                        self.edits.append(self.file.replace(node.args[0].value, "LOCAL_RANK"))
                elif node.func.attr.value == "cuda" and value_ is ... and not self.edited(node):
                    raise NotUnderstood(f"`{self.file.code(node)}` picks a GPU")

    def edited(self, node: cst.CSTNode) -> bool:
        start, end = self.file.span(node)
        return any(e.start < end and start < e.end for e in self.edits)

    def downloads(self) -> None:
        for call in self.script.calls:
            if not _downloads(call):
                continue
            statement = self.file.statement(call)
            if not isinstance(statement, cst.SimpleStatementLine) or self.file.parent(statement) is None:
                raise NotUnderstood("a dataset is downloaded inside an expression")
            if any(n in self.wraps or self.script.qualified(getattr(n, "func", n)) == LOADER for n in walk(statement)):
                raise NotUnderstood("a dataset is downloaded inside an expression")
            self.helpers.add("first")
            self.anchors.append(call)
            self.edits.extend(self.file.reindent([statement], "with main_process_first():"))

    def checks(self) -> None:
        """What differs from the single process by design, told and not hidden."""
        for call in self.script.calls:
            name = self.script.qualified(call.func) or ""
            if literal(_value(argument(call, "reduction"))) == "sum" and name.startswith("torch.nn."):
                self.rescaled = True
                self.cautions.append(
                    "DDP averages gradients over processes, so a loss with reduction='sum' steps 1/world_size as far"
                )
            if re.match(r"torch\.nn\.BatchNorm\dd$", name):
                self.cautions.append("BatchNorm sees each process's share of the batch, as it did each GPU's")
            if re.match(r"torch\.nn\.Dropout\w*$", name):
                self.cautions.append("each process draws its own dropout masks")
        self.cautions[:] = list(dict.fromkeys(self.cautions))

    # -- start and end -------------------------------------------------------------------------------------------------

    def entry(self) -> _Entry:
        """Where the process group starts: before the first statement that needs it, in the code that runs first."""
        scopes = {self.script.scope(a) for a in self.anchors}
        for scope in list(scopes):
            if isinstance(scope, cst.FunctionDef) and self.script.owner(scope) is not None:
                raise NotUnderstood("training is spread over a class")
        if any(isinstance(s, cst.Module) for s in scopes):
            guards = {self.main_block(a) for a in self.anchors if isinstance(self.script.scope(a), cst.Module)}
            block = guards.pop() if len(guards) == 1 else None
            return _Entry(block.body.body if block is not None else self.file.tree.body)
        return self.entry_function(scopes)

    def main_block(self, node: cst.CSTNode) -> cst.If | None:
        for ancestor in self.file.ancestors(node):
            if isinstance(ancestor, cst.If) and self.is_main_guard(ancestor):
                return ancestor
        return None

    def entry_function(self, scopes: set[Scope]) -> _Entry:
        mains = []
        for function, sites in self.script.call_sites.items():
            top = [s for s in sites if isinstance(self.script.scope(s), cst.Module)]
            if len(sites) == 1 and top and scopes <= self.reached(function):
                mains.append((function, top[0]))
        if len(mains) != 1:
            raise NotUnderstood("no one function starts the training")
        function, site = mains[0]
        statement = self.file.statement(site)
        whole = isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1
        small = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) else None
        direct = isinstance(small, (cst.Expr, cst.Assign)) and small.value is site
        if not whole or not direct or not isinstance(self.file.parent(statement), (cst.IndentedBlock, cst.Module)):
            raise NotUnderstood("the main function is not called by a statement of its own")
        if not isinstance(function.body, cst.IndentedBlock):
            raise NotUnderstood("the main function stands on one line")
        return _Entry(function.body.body, statement, function)

    def reached(self, function: cst.FunctionDef) -> set[Scope]:
        found: set[Scope] = set()
        queue: list[cst.FunctionDef] = [function]
        while queue:
            current = queue.pop()
            if current not in found:
                found.add(current)
                for node in walk(current.body):
                    callee = self.script.callee(node) if isinstance(node, cst.Call) else None
                    if callee is not None:
                        queue.append(callee)
        return found

    def start_and_end(self, entry: _Entry) -> None:
        needs = {self.script.scope(a) for a in self.anchors if isinstance(self.script.scope(a), cst.FunctionDef)}
        anchors = {id(a) for a in self.anchors}
        first = next((s for s in entry.body if self.touches(s, anchors, needs)), None)
        if first is None:
            raise NotUnderstood("no statement starts the training")
        self.start = first
        self.edits.append(self.file.insert_before(first, "setup_distributed()"))
        end = f"{self.dist}.destroy_process_group()"
        last = entry.call if entry.call is not None else entry.body[-1]
        self.edits.append(self.file.insert_after(last, ["", end] if entry.body is self.file.tree.body else end))

    def touches(self, statement: cst.CSTNode, anchors: set[int], needs: set[Scope]) -> bool:
        """Whether running the statement may need the process group or put something on a GPU."""
        if isinstance(statement, (cst.FunctionDef, cst.ClassDef)):
            return False
        for node in walk(statement):
            if id(node) in anchors:
                return True
            if isinstance(node, cst.Call):
                function = self.script.callee(node)
                if function is not None and self.reached(function) & needs:
                    return True
                if isinstance(node.func, cst.Attribute) and node.func.attr.value in ("cuda", "to"):
                    return True
                if self.script.qualified(node.func) == "torch.device":
                    return True
        return False

    # -- imports, helpers, how to launch --------------------------------------------------------------------------------

    def preamble(self) -> None:
        tree = self.file.tree
        imports: list[cst.SimpleStatementLine] = []
        for statement in tree.body:
            if isinstance(statement, cst.SimpleStatementLine) and isinstance(
                statement.body[0], (cst.Import, cst.ImportFrom)
            ):
                imports.append(statement)
            elif statement is self.start or isinstance(statement, (cst.FunctionDef, cst.ClassDef)):
                break
        if not imports:
            raise NotUnderstood("the script's imports are not at its top")
        self.standard_imports(imports)
        lines = self.import_lines()
        body = text.SETUP
        if self.helpers & {"print", "save", "main"}:
            body += text.IS_MAIN
        body += text.PRINT if "print" in self.helpers else ""
        body += text.SAVE if "save" in self.helpers else ""
        body += text.MAIN_FIRST if "first" in self.helpers else ""
        body = body.format(dist=self.dist, ddp="DistributedDataParallel").rstrip("\n")
        body = body.replace("    ", self.file.indent_unit)
        following = list(tree.body[tree.body.index(imports[-1]) + 1 :])
        blank = following and isinstance(following[0], (cst.FunctionDef, cst.ClassDef))
        self.edits.append(self.file.insert_after(imports[-1], [*lines, *body.split("\n"), *([] if blank else [""])]))
        self.launch_line()

    def standard_imports(self, imports: list[cst.SimpleStatementLine]) -> None:
        """`os` and the like go above the first import, as import sorters have it."""
        bound = {
            self.file.code(alias).strip().rstrip(",")
            for line in imports
            for small in line.body
            if isinstance(small, cst.Import)
            for alias in small.names
        }
        missing = [
            f"import {m}" for m in ("contextlib", "os") if m not in bound and (m == "os" or "first" in self.helpers)
        ]
        first = next((i for i in imports if "__future__" not in self.file.code(i)), imports[0])
        if missing:
            word = self.file.code(first).split()[1].partition(".")[0]
            gap = [] if word in sys.stdlib_module_names else [""]
            self.edits.append(self.file.insert_before(first, [*missing, *gap]))
        self.needs_torch = "torch" not in bound and not any(b.startswith("torch.") and " as " not in b for b in bound)

    def import_lines(self) -> list[str]:
        lines = ["import torch"] if self.needs_torch else []
        lines.append("import torch.distributed" if self.dist != "dist" else "import torch.distributed as dist")
        lines.append("from torch.nn.parallel import DistributedDataParallel")
        if self.sampler_needed:
            lines.append("from torch.utils.data.distributed import DistributedSampler")
        self.drop_data_parallel_import()
        return lines

    def drop_data_parallel_import(self) -> None:
        """`from torch.nn import DataParallel` has no use left; its line goes if nothing else is on it."""
        for node in self.script.nodes:
            if not isinstance(node, cst.ImportFrom) or isinstance(node.names, cst.ImportStar):
                continue
            for alias in node.names:
                bound = alias.asname.name if alias.asname is not None else alias.name
                if isinstance(bound, cst.Name) and self.script.qualified(bound) == DATA_PARALLEL:
                    if len(node.names) == 1:
                        self.edits.append(self.file.replace(node, "import torch.nn.parallel"))
                    else:
                        rest = [self.file.code(a).strip().rstrip(",") for a in node.names if a is not alias]
                        if "#" not in self.file.code(node):
                            module = self.file.code(node).partition(" import ")[0]
                            self.edits.append(self.file.replace(node, f"{module} import {', '.join(rest)}"))

    def launch_line(self) -> None:
        line = text.LAUNCH.format(script=os.path.basename(self.file.path))
        first = self.file.tree.body[0]
        small = first.body[0] if isinstance(first, cst.SimpleStatementLine) else None
        if isinstance(small, cst.Expr) and isinstance(small.value, cst.SimpleString):
            code = self.file.code(small.value)
            if code.endswith('"""') or code.endswith("'''"):
                end = self.file.span(small.value)[1] - 3
                tail = self.file.newline if "\n" in code else ""
                gap = self.file.newline if code[:-3].endswith("\n") else self.file.newline * 2
                self.edits.append(Edit(end, end, gap + line + (tail or self.file.newline)))
                return
        at = self.file.line_start(first)
        self.edits.append(Edit(at, at, f"# {line}{self.file.newline}"))


def _value(arg: cst.Arg | None) -> cst.BaseExpression | None:
    return arg.value if arg is not None else None


def _downloads(call: cst.Call) -> bool:
    arg = argument(call, "download")
    return arg is not None and literal(arg.value) is True
