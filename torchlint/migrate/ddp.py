"""From `nn.DataParallel` to one process per GPU, for a whole script whose shape is understood.

The plan is made in steps, each of which either notes its edits or raises `NotUnderstood` with the reason. What comes
out runs on its own as one process, and under torchrun as many, with the same global batch: every process takes
its share of each batch, so mean losses give the gradients that the single process had.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import libcst as cst

from torchlint.diagnostic import Edit
from torchlint.migrate import text
from torchlint.migrate.devices import Devices
from torchlint.migrate.effects import Effects
from torchlint.migrate.epochs import NotUnderstood
from torchlint.migrate.obstacles import Obstacles
from torchlint.migrate.plan import Plan, Step
from torchlint.migrate.schedulers import Schedulers
from torchlint.migrate.script import DATA_PARALLEL, Scope, Script
from torchlint.migrate.shares import Shares
from torchlint.migrate.wrapping import Wrapping
from torchlint.migrate.writers import Writers
from torchlint.nodes import literal, walk


@dataclass(frozen=True)
class Migration:
    """The edits, or the reasons why there are none. `cautions` tell what changes by design in this script."""

    edits: tuple[Edit, ...] = ()
    refused: str = ""
    cautions: tuple[str, ...] = ()
    rescaled: bool = False  # a summed loss: the learning rate has to be chosen anew


def to_ddp(script: Script) -> Migration:
    """Edits that make the script run under torchrun and alone, or the reason why it is not understood."""
    plan = Plan(script)
    try:
        for step in (Obstacles, Devices, Wrapping, Shares, Effects, Writers, Schedulers, Frame):
            step(plan).run()
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


class Frame(Step):
    """Start and end of the process group, the functions and imports that the script gains, how to launch it."""

    def run(self) -> None:
        inside = self.edits[:]
        self.edits.clear()
        self.start_and_end(self.entry())
        start = self.edits[:]
        self.edits.clear()
        self.preamble()
        self.edits += start + inside

    def entry(self) -> _Entry:
        """Where the process group starts: before the first statement that needs it, in the code that runs first."""
        scopes = {self.script.scope(a) for a in self.anchors}
        for scope in list(scopes):
            if isinstance(scope, cst.FunctionDef) and self.script.owner(scope) is not None:
                raise NotUnderstood("training is spread over a class")
        if any(isinstance(s, cst.Module) for s in scopes):
            guards = {self.main_block(a) for a in self.anchors if isinstance(self.script.scope(a), cst.Module)}
            block = guards.pop() if len(guards) == 1 else None
            if block is None:
                return _Entry(self.file.tree.body)
            if not isinstance(block.body, cst.IndentedBlock):
                raise NotUnderstood("the __main__ block stands on one line")
            return _Entry(block.body.body)
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
            if len(sites) == 1 and top and scopes <= self.reached(function) and self.alone(function, scopes):
                mains.append((function, top[0]))
        if len(mains) != 1:
            return self.entry_block(scopes)
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

    def alone(self, main: cst.FunctionDef, scopes: set[Scope]) -> bool:
        """Whether nothing but the main function leads to what needs the process group."""
        inside = self.reached(main)
        for function, sites in self.script.call_sites.items():
            if self.reached(function) & scopes:
                callers = {self.script.scope(s) for s in sites}
                if function is not main and not callers <= inside:
                    return False
        return True

    def entry_block(self, scopes: set[Scope]) -> _Entry:
        """Several functions, or one that is called several times, from the top level."""
        blocks: set[cst.If | None] = set()
        covered: set[Scope] = set()
        for function, sites in self.script.call_sites.items():
            reached = self.reached(function) & scopes
            if reached and all(isinstance(self.script.scope(s), cst.Module) for s in sites):
                covered |= reached
                blocks |= {self.main_block(s) for s in sites}
        if covered != scopes or len(blocks) != 1:
            raise NotUnderstood("no one function starts the training")
        block = blocks.pop()
        if block is None:
            return _Entry(self.file.tree.body)
        if not isinstance(block.body, cst.IndentedBlock):
            raise NotUnderstood("the __main__ block stands on one line")
        return _Entry(block.body.body)

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
        # A process that fails while it exits makes torchrun end the others: the first must have saved by then.
        end = [f"{self.dist}.barrier()", f"{self.dist}.destroy_process_group()"]
        last = entry.call if entry.call is not None else entry.body[-1]
        self.edits.append(self.file.insert_after(last, ["", *end] if entry.body is self.file.tree.body else end))

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

    # -- imports, helpers, how to launch ------------------------------------------------------------------------------

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
        self.launch_line()  # above the imports that come next
        self.standard_imports(imports)
        lines = self.import_lines()
        body = text.SETUP
        if self.plan.helpers & {"print", "save", "main"}:
            body += text.IS_MAIN
        body += text.PRINT if "print" in self.plan.helpers else ""
        body += text.SAVE if "save" in self.plan.helpers else ""
        body += text.OPEN if "open" in self.plan.helpers else ""
        body += text.UNHEARD if "unheard" in self.plan.helpers else ""
        body += text.MEAN if "mean" in self.plan.helpers else ""
        body += text.MAIN_FIRST if "first" in self.plan.helpers else ""
        body = body.format(dist=self.dist, ddp="DistributedDataParallel").rstrip("\n")
        body = body.replace("    ", self.file.indent_unit)
        following = list(tree.body[tree.body.index(imports[-1]) + 1 :])
        blank = following and isinstance(following[0], (cst.FunctionDef, cst.ClassDef))
        self.edits.append(self.file.insert_after(imports[-1], [*lines, *body.split("\n"), *([] if blank else [""])]))

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
            f"import {m}"
            for m in ("contextlib", "os")
            if m not in bound and (m == "os" or "first" in self.plan.helpers)
        ]
        first = next((i for i in imports if "__future__" not in self.file.code(i)), imports[0])
        if missing:
            word = re.split(r"\W", self.file.code(first).split()[1])[0]
            gap = [] if word in sys.stdlib_module_names else [""]
            self.edits.append(self.file.insert_before(first, [*missing, *gap]))
        self.needs_torch = "torch" not in bound and not any(b.startswith("torch.") and " as " not in b for b in bound)

    def import_lines(self) -> list[str]:
        lines = ["import torch"] if self.needs_torch else []
        if not self.plan.has_dist:
            lines.append("import torch.distributed" if self.dist != "dist" else "import torch.distributed as dist")
        lines.append("from torch.nn.parallel import DistributedDataParallel")
        if self.plan.sampler_needed:
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

    def visible_gpus(self) -> int:
        """How many GPUs the script leaves visible to itself, 0 where it does not say: torchrun sees them all."""
        for node in self.script.nodes:
            if isinstance(node, cst.Assign) and len(node.targets) == 1:
                target, value = self.file.code(node.targets[0].target), literal(node.value)
                if isinstance(value, str) and re.fullmatch(r"(os\.)?environ\[.CUDA_VISIBLE_DEVICES.\]", target):
                    return len([device for device in value.split(",") if device.strip()])
        return 0

    def launch_line(self) -> None:
        line = text.LAUNCH.format(processes=self.visible_gpus() or "gpu", script=os.path.basename(self.file.path))
        first = self.file.tree.body[0]
        small = first.body[0] if isinstance(first, cst.SimpleStatementLine) else None
        if isinstance(small, cst.Expr) and isinstance(small.value, cst.SimpleString):
            code = self.file.code(small.value)
            if code.endswith(('"""', "'''")):
                end = self.file.span(small.value)[1] - 3
                tail = self.file.newline if "\n" in code else ""
                gap = self.file.newline if code[:-3].endswith("\n") else self.file.newline * 2
                self.edits.append(Edit(end, end, gap + line + (tail or self.file.newline)))
                return
        at = self.file.line_start(first)
        self.edits.append(Edit(at, at, f"# {line}{self.file.newline}"))
