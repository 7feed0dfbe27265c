"""suppress: which comments silence what, which are reported as unused, and --add-ignore."""

from __future__ import annotations

import pytest

from tests.engine import everything_concerns, rename_rule  # noqa: F401
from torchlint.check import check_text
from torchlint.config import Config
from torchlint.diagnostic import Diagnostic, splice
from torchlint.suppress import add_ignores, apply, scan

RULE = rename_rule()
ACTIVE = {"TL901": "old-name", "TL902": "other", "TL003": "unused-suppression"}


def run(text: str) -> list[Diagnostic]:
    return apply("a.py", check_text("a.py", text, [RULE], Config()), scan(text), ACTIVE)


@pytest.mark.parametrize(
    "text",
    [
        "old  # torchlint: ignore[TL901] because\n",
        "old  # torchlint: ignore[old-name]\n",
        "old  # torchlint: ignore[TL9]\n",
        "old  # torchlint: ignore\n",
        "old  # torchlint:ignore[TL901]\n",
        "old  # noqa: TL901\n",
        "old  # noqa: E501, TL901\n",
        "old  # noqa: E501 TL901 and a reason\n",
        "old  # noqa\n",
        "old  # NOQA\n",
        "old  # type: ignore  # torchlint: ignore[TL901]\n",
        "f(  # torchlint: ignore[TL901]\n    1,\n    old,\n)\n",
        "f(\n    1,\n    old,\n)  # torchlint: ignore[TL901]\n",
        "f(\n    1,\n    old,  # torchlint: ignore[TL901]\n)\n",
        "if old:  # torchlint: ignore[TL901]\n    x = 1\n",
        "x = 1 + \\\n    old  # torchlint: ignore[TL901]\n",
        "old\n# torchlint: ignore-file[TL901]\n",
        "# torchlint: ignore-file\nold\n",
        "old  # torchlint: ignore[TL901]\r\nx = 1\r\n",
    ],
)
def test_silenced(text: str) -> None:
    assert run(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "old; '# torchlint: ignore[TL901]'\n",
        '"""\n# torchlint: ignore-file[TL901]\n"""\nold\n',
        "old  # noqa: E501\n",
        "old\nx = 1  # noqa\n",
        "old  # torchlint: ignore[]\n",
        "f(\n    old,\n    1,  # noqa: E501\n)\n",
    ],
)
def test_not_silenced(text: str) -> None:
    assert [d.code for d in run(text)] == ["TL901"]


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        ("x = 1  # torchlint: ignore[TL901] because of this\n", "x = 1\n"),
        ("x = 1  # torchlint: ignore\n", "x = 1\n"),
        ("old  # torchlint: ignore[TL901, TL902]\n", "old  # torchlint: ignore[TL901]\n"),
        ("x = 1  # noqa: E501, TL901\n", "x = 1  # noqa: E501\n"),
        ("x = 1  # noqa: TL901\n", "x = 1\n"),
        ("x = 1  # torchlint: ignore[TL901]  # type: ignore\n", "x = 1  # type: ignore\n"),
        ("# torchlint: ignore-file[TL901]\nx = 1\n", "x = 1\n"),
        ("# torchlint: ignore[TL901]\nx = 1\n", "x = 1\n"),
        ("x = 1  # torchlint: ignore[TL901]\r\ny = 2\r\n", "x = 1\r\ny = 2\r\n"),
        ("x = 1  # torchlint: ignore[TL901]", "x = 1"),
    ],
)
def test_unused_ones_are_reported_and_removed(text: str, fixed: str) -> None:
    (found,) = [d for d in run(text) if d.code == "TL003"]
    assert found.fix is not None
    assert splice(text, found.fix.edits) == fixed
    assert [d for d in run(fixed) if d.code == "TL003"] == []


@pytest.mark.parametrize("text", ["x = 1  # noqa\n", "x = 1  # noqa: F401\n", "x = 1  # torchlint: ignore[TL777]\n"])
def test_what_is_not_ours_to_judge_stays(text: str) -> None:
    assert run(text) == []


def test_a_bare_ignore_is_only_judged_when_every_default_rule_ran() -> None:
    text = "x = 1  # torchlint: ignore\n"
    assert apply("a.py", [], scan(text), ACTIVE, complete=False) == []


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("old\n", "old  # torchlint: ignore[TL901]\n"),
        ("old  # why\r\n", "old  # why  # torchlint: ignore[TL901]\r\n"),
        ("f(\n    old,\n)\n", "f(\n    old,\n)  # torchlint: ignore[TL901]\n"),
        ("old  # torchlint: ignore[TL902] x", "old  # torchlint: ignore[TL902, TL901] x"),
        ("old", "old  # torchlint: ignore[TL901]"),
    ],
)
def test_add_ignore(text: str, written: str) -> None:
    found = check_text("a.py", text, [RULE], Config())
    assert add_ignores(text, found) == written
    assert [d.code for d in run(written) if d.code != "TL003"] == []
