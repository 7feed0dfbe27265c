"""What no rewrite gets around: other processes already there, batches split otherwise, losses over whole batches."""

from __future__ import annotations

import re

import libcst as cst

from torchlint.migrate import text
from torchlint.migrate.epochs import NotUnderstood
from torchlint.migrate.plan import Step, value_of
from torchlint.nodes import argument, dotted, has_star, literal, walk

# Losses that compare the samples of a batch with each other. A spelling is enough to leave a script alone.
_COMPARES = re.compile(
    r"(contrast|sup_?con|triplet|npair|barlow|vicreg|batch_?hard)\w*(loss|criteri)|nt_?xent|info_?nce|batch_?hard|_miner",
    re.I,
)
_LOSS = re.compile(r"loss|criteri", re.I)


class Obstacles(Step):
    def run(self) -> None:
        taken = sorted(self.words.intersection(text.DEFINES))
        if taken:
            raise NotUnderstood(f"the name {taken[0]} is already used")
        for node in self.script.nodes:
            if isinstance(node, (cst.Import, cst.ImportFrom)) and self.distributes(node):
                raise NotUnderstood("the script has a torch.distributed branch of its own")
        for wrap in self.wraps:
            self.wrapped(wrap)
        for call in self.script.calls:
            self.compares(call)
            if self.script.qualified(call.func) == "torch.autograd.grad":
                raise NotUnderstood(
                    f"line {self.file.row(call)} takes gradients with torch.autograd.grad, which DDP does not average"
                )
        for loop in self.script.training_loops():
            for node in walk(loop.body):
                if isinstance(node, cst.Call) and (dotted(node.func) or "").endswith(".module"):
                    raise NotUnderstood(
                        f"line {self.file.row(node)} runs the model past its wrapper, where gradients are not averaged"
                    )

    def distributes(self, line: cst.Import | cst.ImportFrom) -> bool:
        """Whether the line brings in torch.distributed for something: copied import lines often do not."""
        if "torch.distributed" not in self.file.code(line):
            return False
        if isinstance(line, cst.ImportFrom):
            return True
        used = (n for n in self.script.nodes if isinstance(n, cst.Attribute) and not self.imported(n))
        return any((self.script.qualified(n) or "").startswith("torch.distributed.") for n in used)

    def imported(self, node: cst.CSTNode) -> bool:
        return isinstance(self.file.statement(node), cst.SimpleStatementLine) and any(
            isinstance(a, (cst.Import, cst.ImportFrom)) for a in self.file.ancestors(node)
        )

    def wrapped(self, wrap: cst.Call) -> None:
        owner = self.script.owner(wrap)
        if owner is not None:
            raise NotUnderstood(f"the class {owner.name.value} wraps the model, and classes are not followed")
        dim = argument(wrap, "dim", 3)
        if has_star(wrap) or (dim is not None and literal(dim.value) != 0):
            raise NotUnderstood("the batch is split along another dimension than the first")
        model = value_of(argument(wrap, "module", 0))
        if model is None:
            raise NotUnderstood("the wrapped model is not a plain argument")
        if _LOSS.search((dotted(model) or "").rpartition(".")[2]):
            raise NotUnderstood(f"line {self.file.row(wrap)} wraps a loss, which DDP does not take without parameters")

    def compares(self, call: cst.Call) -> None:
        name = self.script.qualified(call.func) or dotted(call.func) or ""
        last = name.rpartition(".")[2]
        if _COMPARES.search(last) and not name.startswith("torch."):
            raise NotUnderstood(
                f"line {self.file.row(call)}: {last} compares the samples of a batch with each other, "
                "and a process has only its share of them"
            )
