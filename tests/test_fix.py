"""fix: rounds, sharing, waiting, and taking back what breaks a file."""

from __future__ import annotations

import libcst as cst
import pytest

from tests.engine import everything_concerns, importing_rule, rename_rule  # noqa: F401
from torchlint.catalogue import load
from torchlint.config import Config
from torchlint.diagnostic import Applicability, Diagnostic, Edit, Fix, Severity
from torchlint.fix import accept, fix_text
from torchlint.rule import Context, Finding, safe


def diagnostic(start: int, *edits: Edit) -> Diagnostic:
    fix = Fix(edits, Applicability.SAFE, "m")
    return Diagnostic("TL901", "n", Severity.ERROR, f"m{start}", "a.py", 1, start + 1, 1, 2, start, start + 1, fix)


def test_safe_unsafe_and_suggestions() -> None:
    text = "old\nrisky\nidea  # why\n"
    assert fix_text("a.py", text, [rename_rule()], Config(), unsafe=False).text == "new\nrisky\nidea  # why\n"
    both = fix_text("a.py", text, [rename_rule()], Config(), unsafe=True)
    assert both.text == "new\ntame\nidea  # why\n"
    assert len(both.applied) == 2


def test_shared_edits_are_made_once() -> None:
    result = fix_text("a.py", "f(1)\nf(2)\n", [importing_rule()], Config(), unsafe=False)
    assert result.text == "import g\ng.f(1)\ng.f(2)\n"
    assert result.rounds == 1


def test_touching_fixes_wait() -> None:
    first, second, far = diagnostic(0, Edit(0, 2, "x")), diagnostic(1, Edit(2, 4, "y")), diagnostic(9, Edit(9, 9, "z"))
    assert accept([far, second, first]) == [first, far]


INDENTED_TWICE = """\
import torch

model = torch.nn.Linear(3, 2)
model.load_state_dict(torch.load("a.pt", weights_only=True))
model.eval()
seen = torch.zeros(1)
for x, y in torch.load("b.pt"):
    out = model(x)
    seen.data.add_(1)
    print((out.argmax(1) == y).sum().item())
"""


def test_a_fix_that_adds_a_line_waits_for_one_that_indents_it() -> None:
    rules = [rule for rule in load() if rule.code in ("TL201", "TL020")]
    result = fix_text("a.py", INDENTED_TWICE, rules, Config(), unsafe=True)
    assert not result.notes
    assert "            seen.add_(1)\n" in result.text
    assert {d.code for d in result.applied} == {"TL201", "TL020"}


def test_a_fix_that_overlaps_itself_is_never_made() -> None:
    assert accept([diagnostic(0, Edit(0, 5, ""), Edit(3, 6, ""))]) == []


def test_a_fix_is_atomic() -> None:
    first = diagnostic(0, Edit(0, 2, "x"))
    second = diagnostic(1, Edit(1, 3, "y"), Edit(20, 21, "z"))
    assert accept([first, second]) == [first]


def test_what_breaks_the_file_is_undone_and_named() -> None:
    result = fix_text("a.py", "old\nbroken\nold\n", [rename_rule()], Config(), unsafe=False)
    assert result.text == "new\nbroken\nnew\n"
    assert [d.row for d in result.undone] == [2]
    assert any("old-name (TL901)" in note for note in result.notes)


@pytest.mark.parametrize("text", ["old\rx = 1\r", "\fold\n"])
def test_texts_that_do_not_round_trip_are_left_alone(text: str) -> None:
    result = fix_text("a.py", text, [rename_rule()], Config(), unsafe=True)
    assert result.text == text
    assert len(result.notes) == 1


def test_resolve_has_the_last_word() -> None:
    result = fix_text("a.py", "old\n", [rename_rule()], Config(), unsafe=False, resolve=lambda text, found: [])
    assert result.text == "old\n"


def test_two_rules_that_undo_each_other_stop() -> None:
    back = rename_rule("TL904", "new-name")
    back.checks[:] = []

    @back.on
    def check(node: cst.Name, context: Context):  # type: ignore[no-untyped-def]
        if node.value == "new":
            yield Finding(node, "a", "b", "c", safe("m", context.file.replace(node, "old")))

    result = fix_text("a.py", "old\n", [rename_rule(), back], Config(), unsafe=False)
    assert any("undo each other" in note for note in result.notes)
    assert result.text in ("old\n", "new\n")


def test_crlf_and_everything_else_stay() -> None:
    text = "x = 1  \r\nold\t# c\r\n\r\n"
    assert fix_text("a.py", text, [rename_rule()], Config(), unsafe=False).text == text.replace("old", "new")
