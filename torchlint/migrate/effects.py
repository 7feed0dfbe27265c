"""What a script does besides computing: it prints, saves and downloads, once and not once per process."""

from __future__ import annotations

import re

import libcst as cst

from torchlint.diagnostic import Edit
from torchlint.migrate.epochs import NotUnderstood
from torchlint.migrate.plan import Step, downloads, value_of
from torchlint.migrate.script import LOADER
from torchlint.nodes import argument, dotted, has_star, literal, walk

_BARS = ("tqdm.tqdm", "tqdm.trange", "tqdm.auto.tqdm", "tqdm.auto.trange", "tqdm.notebook.tqdm", "tqdm.std.tqdm")


class Effects(Step):
    def run(self) -> None:
        self.outputs()
        self.downloads()
        self.checks()

    def outputs(self) -> None:
        for call in self.script.calls:
            name = self.script.qualified(call.func) or ""
            if dotted(call.func) == "print" and not self.script.assigned(call.func):
                self.plan.helpers.add("print")
                self.edits.append(self.file.replace(call.func, "print_on_main"))
            elif name == "torch.save":
                self.plan.helpers.add("save")
                self.edits.append(self.file.replace(call.func, "save_on_main"))
            elif name in ("os.mkdir", "os.makedirs") and argument(call, "exist_ok") is None and len(call.args) == 1:
                self.edits.append(self.file.replace(call.func, "os.makedirs"))
                end = self.file.span(call.args[0].value)[1]
                self.edits.append(Edit(end, end, ", exist_ok=True"))
            elif name in _BARS and argument(call, "disable") is None and call.args and not has_star(call):
                self.plan.helpers.add("main")
                end = self.file.span(call.args[-1].value)[1]
                self.edits.append(Edit(end, end, ", disable=not is_main()"))

    def downloads(self) -> None:
        for call in self.script.calls:
            if not downloads(call):
                continue
            statement = self.file.statement(call)
            if not isinstance(statement, cst.SimpleStatementLine) or self.file.parent(statement) is None:
                raise NotUnderstood("a dataset is downloaded inside an expression")
            if any(n in self.wraps or self.script.qualified(getattr(n, "func", n)) == LOADER for n in walk(statement)):
                raise NotUnderstood("a dataset is downloaded inside an expression")
            self.plan.helpers.add("first")
            self.anchors.append(call)
            self.edits.extend(self.file.reindent([statement], "with main_process_first():"))

    def checks(self) -> None:
        """What differs from the single process by design, told and not hidden."""
        for call in self.script.calls:
            name = self.script.qualified(call.func) or ""
            if literal(value_of(argument(call, "reduction"))) == "sum" and name.startswith("torch.nn."):
                self.plan.rescaled = True
                self.plan.cautions.append(
                    "DDP averages gradients over processes, so a loss with reduction='sum' steps 1/world_size as far"
                )
            if re.match(r"torch\.nn\.BatchNorm\dd$", name):
                self.plan.cautions.append("BatchNorm sees each process's share of the batch, as it did each GPU's")
            if re.match(r"torch\.nn\.Dropout\w*$", name):
                self.plan.cautions.append("each process draws its own dropout masks")
        self.plan.cautions[:] = list(dict.fromkeys(self.plan.cautions))
