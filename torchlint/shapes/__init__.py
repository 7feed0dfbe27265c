"""Forms of code that some rules cannot do without, told from Python's own syntax tree before libcst is asked for one.

A rule names the forms in `Rule.shapes`: a function that matches a trigger but has none of them cannot hold a finding.
Each test here asks for less than the rule does and never for more, so it may only save work.
"""

from __future__ import annotations

from collections.abc import Callable

from torchlint.shapes.code import Code, Whole
from torchlint.shapes.entries import by_entry
from torchlint.shapes.forwards import forwards
from torchlint.shapes.growth import cat_growth, growth
from torchlint.shapes.handed import step_or_handed_wait
from torchlint.shapes.moved import made_then_moved
from torchlint.shapes.rows import pairs, row_loop, scatter
from torchlint.shapes.spelled import attention, builtin_over_tensor, plain_containers
from torchlint.shapes.turns import element_syncs, moves_in_loop, slice_calls
from torchlint.shapes.work import turns_work

__all__ = ["Code", "Whole", "has"]


def has(code: Code, shape: str) -> bool:
    """Whether the code may hold what a rule of this shape looks for. Raises KeyError for an unknown shape."""
    return _TESTS[shape](code) or (shape in _SPELLED and code.whole.renamed)


_TESTS: dict[str, Callable[[Code], bool]] = {
    "row-loop": row_loop,
    "by-entry": by_entry,
    "turns-work": turns_work,
    "pairs": pairs,
    "scatter": scatter,
    "cat-growth": cat_growth,
    "growth": growth,
    "made-then-moved": made_then_moved,
    "forwards": forwards,
    "element-syncs": element_syncs,
    "moves-in-loop": moves_in_loop,
    "slice-calls": slice_calls,
    "builtin-over-tensor": builtin_over_tensor,
    "attention": attention,
    "plain-containers": plain_containers,
    "step-or-handed-wait": step_or_handed_wait,
}
# Those that look at the names of torch's functions.
_SPELLED = ("row-loop", "by-entry", "turns-work", "made-then-moved")
