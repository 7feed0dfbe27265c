"""Triggers reduced to literals must let through all that the full expressions match."""

from __future__ import annotations

import re

import pytest

from torchlint.catalogue import load
from torchlint.triggers import Scan, literals

PATTERNS = sorted({p for rule in load() for p in (*rule.triggers, *rule.requires)})


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"\.forward\(", (".forward(",)),
        (r"\b(?:cat|stack)\s*\(", ("cat", "stack")),
        (r"a|bc", ("a", "bc")),
        (r"colou?r", ("colo",)),
        (r"x+yz", ("xyz",)),
        (r"x{2,3}yz", ("yz",)),
        (r"(?=look)a", ("a",)),
        (r"(?<!\.)ahead", ("ahead",)),
        (r"(?i:model)_eval", ("_eval",)),
        (r"(?P<name>ab|cd)e", ("ab", "cd")),
        (r"[]a]b", ("b",)),
        (r"(?:ab)?cd", ("cd",)),
        (r"\w+", None),
        (r"a|\d", None),
        (r"(?i)model", None),
    ],
)
def test_literals(pattern: str, expected: tuple[str, ...] | None) -> None:
    assert literals(pattern) == expected


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_match_of_a_rules_pattern_is_on_a_row_it_gives(pattern: str) -> None:
    for rule in load():
        text = rule.doc  # prose and code about everything that rules look for
        rows = Scan(text).rows(pattern)
        for match in re.finditer(pattern, text, re.MULTILINE):
            first, last = text.count("\n", 0, match.start()), text.count("\n", 0, match.end())
            assert rows & set(range(first, last + 1)), (pattern, match)
        assert Scan(text).matches(pattern) == bool(rows)


def test_a_dot_that_takes_newlines_is_matched_over_the_whole_text() -> None:
    assert Scan("first(\n" + "\n" * 50 + "last)").matches(r"(?s:first\(.*last\))")


def test_a_match_over_two_lines_is_seen() -> None:
    assert Scan("x\n.to\n(device)\n").matches(r"\.to\s*\(")
    assert not Scan("x.to_sparse()").matches(r"\.to\s*\(")
