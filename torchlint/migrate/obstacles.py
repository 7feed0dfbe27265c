"""What no rewrite gets around: other processes already there, batches split otherwise, files that all would write."""

from __future__ import annotations

import builtins
import re
import sys

import libcst as cst

from torchlint.migrate import text
from torchlint.migrate.epochs import NotUnderstood
from torchlint.migrate.plan import Step, value_of
from torchlint.source import argument, dotted, has_star, literal

_SAVING = re.compile(r"save|write|dump|logger$|visuali[sz]e|plot|checkpoint", re.I)
_BUILTINS = frozenset(dir(builtins))
# Calls that write files or reach services, once per process: two processes would write over each other.
_WRITERS = re.compile(
    r"^(wandb\.|mlflow\.|neptune\.|comet_ml\.|visdom\.|torch\.utils\.tensorboard\.|tensorboardX\.|logging\.(FileHandler|basicConfig)"
    r"|shutil\.|os\.(remove|rename|replace|unlink)$|(json|pickle|yaml)\.dump$|csv\.writer$|numpy\.(save\w*)$|joblib\.dump$"
    r"|torchvision\.utils\.save_image$|matplotlib\.pyplot\.savefig$)"
)


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
            mode = literal(value_of(argument(call, "mode", 1)))
            return isinstance(mode, str) and any(c in mode for c in "wax+")
        return isinstance(call.func, cst.Attribute) and call.func.attr.value in ("savefig", "to_csv", "write_text")
