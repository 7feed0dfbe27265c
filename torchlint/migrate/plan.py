"""What the steps of a migration share: the script, the edits so far, what later steps must know of earlier ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import libcst as cst

from torchlint.diagnostic import Edit
from torchlint.migrate.script import DATA_PARALLEL, Script
from torchlint.nodes import argument, literal


@dataclass(eq=False)
class Plan:
    """A migration in the making."""

    script: Script
    edits: list[Edit] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    anchors: list[cst.CSTNode] = field(default_factory=list)  # what needs the process group
    helpers: set[str] = field(default_factory=set)  # functions that the script gains, see `text`
    sampler_needed: bool = False
    rescaled: bool = False

    def __post_init__(self) -> None:
        parent = self.script.file.parent
        self.words = {
            n.value
            for n in self.script.nodes
            if isinstance(n, cst.Name)
            and not (isinstance(p := parent(n), cst.Attribute) and p.attr is n)
            and not (isinstance(p, cst.Arg) and p.keyword is n)
        }
        self.dist = "torch.distributed" if "dist" in self.words else "dist"
        self.wraps = [c for c in self.script.calls if self.script.qualified(c.func) == DATA_PARALLEL]


class Step(ABC):
    """One part of the rewrite. It adds to the plan or raises `NotUnderstood`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.script = plan.script
        self.file = plan.script.file
        self.edits = plan.edits
        self.anchors = plan.anchors
        self.words = plan.words
        self.dist = plan.dist
        self.wraps = plan.wraps

    @abstractmethod
    def run(self) -> None:
        """Note this part's edits in the plan."""

    def is_main_guard(self, node: cst.If) -> bool:
        return self.file.code(node.test).replace("'", '"') in ('__name__ == "__main__"', '"__main__" == __name__')

    def edited(self, node: cst.CSTNode) -> bool:
        start, end = self.file.span(node)
        return any(e.start < end and start < e.end for e in self.edits)


def value_of(arg: cst.Arg | None) -> cst.BaseExpression | None:
    """The argument's expression, None where there is no argument."""
    return arg.value if arg is not None else None


def downloads(call: cst.Call) -> bool:
    """Whether the call fetches a dataset if it is not there yet."""
    arg = argument(call, "download")
    return arg is not None and literal(arg.value) is True
