"""What no rewrite gets around: other processes already there, batches split otherwise."""

from __future__ import annotations

import libcst as cst

from torchlint.migrate import text
from torchlint.migrate.epochs import NotUnderstood
from torchlint.migrate.plan import Step
from torchlint.nodes import argument, has_star, literal


class Obstacles(Step):
    def run(self) -> None:
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
