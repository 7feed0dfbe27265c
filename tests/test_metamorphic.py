"""What says the same is judged the same: rewrites of the fixtures that change nothing must not change the findings."""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from checkout import FIXTURES
from fuzzing import explained
from fuzzing.project import findings
from fuzzing.relations import SAME_PLACES, Rewritten, extracting, moving

from torchlint.diagnostic import Diagnostic
from torchlint.testing.case import all_cases

FILES = [
    c.path
    for c in all_cases(FIXTURES)
    if c.path.is_file() and c.rule_name not in ("syntax-error", "unused-suppression")
]
METHODS = ("step", "zero_grad", "backward", "eval", "train")
Place = tuple[str, int]


def readable(path: Path) -> str | None:
    """The text of a fixture that the rewrites can take apart: Python, with plain newlines."""
    text = path.read_text(encoding="utf-8")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except SyntaxError:
        return None
    return None if "\r" in text or "\f" in text else text


TEXTS = {f"{p.parent.name}/{p.name}": text for p in FILES if (text := readable(p)) is not None}


@cache
def before(name: str) -> list[Diagnostic]:
    return findings({"module.py": TEXTS[name]})


def places(found: list[Diagnostic], rows: dict[int, int] | None = None) -> Counter[Place]:
    at = {d: 0 if d.code in explained.ONCE_PER_FILE else rows.get(d.row, 0) if rows else d.row for d in found}
    return Counter((d.code, at[d]) for d in found)


def rewritten(name: str, new: Rewritten | None) -> Rewritten | None:
    if new is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(new.text, name, "exec", dont_inherit=True)
    return new


def differences(relation: str, name: str) -> list[str]:
    """What a rewrite changes and should not, as lines."""
    new = rewritten(name, SAME_PLACES[relation](TEXTS[name]))
    if new is None:
        return []
    old = {d.row: d for d in before(name)}
    after = findings({"module.py": new.text})
    expected, found = places(before(name), new.rows), places(after)
    lines = [f"lost: {name}:{row} {code}" for code, row in (expected - found).elements()]
    lines += [f"new: {name}:{row} {code}" for code, row in (found - expected).elements()]
    # A fix may be withheld where a rewrite hides what it needs; it may never get safer or riskier.
    back = {new: old for old, new in (new.rows or {}).items()}
    for d in after:
        was = old.get(back.get(d.row, 0))
        if was is not None and was.code == d.code and was.fix and d.fix and was.column == d.column:
            if was.fix.applicability is not d.fix.applicability and d.fix.applicability.value != "suggestion":
                lines.append(f"another kind of fix: {name}:{d.row} {d.code}")
    return [line for line in lines if (relation, line.split()[-1]) not in explained.SAME_FILE]


@pytest.mark.parametrize("relation", SAME_PLACES)
def test_findings_stay(relation: str) -> None:
    lines = [line for name in TEXTS for line in differences(relation, name)]
    assert not lines, "\n".join(lines)


def moved(name: str, method: str) -> tuple[Counter[str], Counter[str], Counter[str]] | None:
    """Findings by rule: before, with the calls in helpers of the file, with the helpers in another file."""
    here = rewritten(name, extracting(method)(TEXTS[name]))
    there = rewritten(name, moving(method)(TEXTS[name]))
    if here is None or there is None:
        return None
    one = Counter(d.code for d in findings({"module.py": here.text}))
    other = Counter(d.code for d in findings({"module.py": there.text, **there.others}))
    return Counter(d.code for d in before(name)), one, other


@pytest.mark.parametrize("method", METHODS)
def test_helpers_are_seen_through(method: str) -> None:
    lines = []
    for name in TEXTS:
        counts = moved(name, method)
        if counts is None:
            continue
        plain, helped, elsewhere = counts
        lines += [f"new behind a helper: {name} {code}" for code in helped - plain]
        lines += [
            f"lost behind a helper: {name} {code}"
            for code in plain - helped
            if code not in explained.NOT_THROUGH_HELPERS
        ]
        lines += [
            f"new behind another file's helper: {name} {code}"
            for code in elsewhere - plain
            if code not in explained.NEW_BEHIND_ANOTHER_FILE and (code, name) not in explained.MORE_BEHIND_ANOTHER_FILE
        ]
    assert not lines, "\n".join(lines)
