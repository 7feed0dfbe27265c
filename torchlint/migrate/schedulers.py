"""Schedulers that look at a number: every process must give them the same one, or their learning rates part."""

from __future__ import annotations

import libcst as cst

from torchlint.migrate.epochs import NotUnderstood
from torchlint.migrate.plan import Step
from torchlint.nodes import argument, has_star

_PLATEAU = "torch.optim.lr_scheduler.ReduceLROnPlateau"


class Schedulers(Step):
    def run(self) -> None:
        made = [c for c in self.script.calls if (self.script.qualified(c.func) or "") == _PLATEAU]
        if not made:
            return
        stepped = [c for c in self.script.calls if self.steps(c, made)]
        if not stepped:
            raise NotUnderstood("ReduceLROnPlateau must be stepped with the same number in every process")
        for call in stepped:
            self.share(call)

    def steps(self, call: cst.Call, made: list[cst.Call]) -> bool:
        if not isinstance(call.func, cst.Attribute) or call.func.attr.value != "step":
            return False
        return any(origin in made for origin in self.script.origins(call.func.value))

    def share(self, call: cst.Call) -> None:
        """`scheduler.step(loss)`, in every epoch of every process, gets the mean of their losses."""
        metric = argument(call, "metrics", 0)
        guard = self.file.enclosing(call, (cst.If, cst.Try, cst.FunctionDef, cst.For, cst.While))
        if metric is None or has_star(call) or (isinstance(guard, (cst.If, cst.Try)) and not self.is_main_block(guard)):
            raise NotUnderstood("ReduceLROnPlateau must be stepped with the same number in every process")
        self.anchors.append(call)
        self.plan.helpers.add("mean")
        self.edits.append(self.file.replace(metric.value, f"mean_of_processes({self.file.code(metric.value)})"))

    def is_main_block(self, node: cst.CSTNode) -> bool:
        return isinstance(node, cst.If) and self.is_main_guard(node)
