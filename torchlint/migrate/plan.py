"""What the steps of a migration share: the script, the edits so far, what later steps must know of earlier ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import libcst as cst

from torchlint.diagnostic import Edit, splice
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
    wrapped_behind: dict[tuple[cst.CSTNode, str], Edit] = field(default_factory=dict)  # by `if` and condition
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
        # Copied import lines often bring it in under that very name.
        self.has_dist = any(
            isinstance(n, cst.ImportAlias) and self.script.file.code(n).strip(" ,") == "torch.distributed as dist"
            for n in self.script.nodes
        )
        self.dist = "torch.distributed" if "dist" in self.words and not self.has_dist else "dist"
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

    def within(self, node: cst.CSTNode) -> list[Edit]:
        """The edits so far that lie in the node's text."""
        start, end = self.file.span(node)
        return [e for e in self.edits if start <= e.start and e.end <= end]

    def rewritten(self, node: cst.CSTNode) -> str:
        """The node's text with the edits so far."""
        start, end = self.file.span(node)
        moved = [Edit(e.start - start, e.end - start, e.text) for e in self.within(node)]
        return splice(self.file.text[start:end], moved)

    def rewrite(self, node: cst.CSTNode, new: str) -> None:
        """A new text for a node; `new` has taken up the edits so far."""
        for edit in self.within(node):
            self.edits.remove(edit)
        self.edits.append(self.file.replace(node, new))


def value_of(arg: cst.Arg | None) -> cst.BaseExpression | None:
    """The argument's expression, None where there is no argument."""
    return arg.value if arg is not None else None


def downloads(call: cst.Call) -> bool:
    """Whether the call fetches a dataset if it is not there yet."""
    arg = argument(call, "download")
    return arg is not None and literal(arg.value) is True
