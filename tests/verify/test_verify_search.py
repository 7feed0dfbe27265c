"""Which fixes of one unit are proven, without running anything: the search is told made-up verdicts."""

from __future__ import annotations

import pytest

from torchlint.verify.proving import accepts
from torchlint.verify.search import Judged, Rules, Search
from torchlint.verify.units import MODULE, Splice, changed, compose, groups, touched
from torchlint.verify.verdict import Behaviour, BehaviourVerdict

EQUAL, INTENDED = Behaviour.BITWISE, Behaviour.INTENDED
DIFFERENT, UNKNOWN = Behaviour.DIFFERENT, Behaviour.NOT_VERIFIABLE


def solve(kinds: dict[str, Behaviour], pairs: dict[str, Behaviour] | None = None, least: str = "intended") -> Search:
    """Run a search over rules A, B, …: `kinds` says how each is alone, `pairs` how named sets are on top of others.

    A set without an entry is as bad as the worst rule that it adds; an intended rule makes any company intended.
    """
    pairs = pairs or {}

    def answer(base: Rules, asked: Rules) -> Judged:
        name = f"{''.join(sorted(base))}>{''.join(sorted(asked))}"
        added = [kinds[rule] for rule in asked - base]
        kind = pairs.get(name, INTENDED if INTENDED in added else max(added, key=list(Behaviour).index))
        return Judged(BehaviourVerdict(kind, name))

    search = Search("a.py", ("f",), 1, frozenset(kinds), accepts(least))
    for _ in range(20):
        if not search.asks:
            return search
        search.tell({asked: answer(search.base, asked) for asked in search.asks})
    raise AssertionError("the search does not end")


@pytest.mark.parametrize(
    ("kinds", "pairs", "proven"),
    [
        ({"A": EQUAL}, {}, "A"),
        ({"A": DIFFERENT}, {}, ""),
        ({"A": EQUAL, "B": EQUAL}, {}, "AB"),
        ({"A": EQUAL, "B": DIFFERENT}, {}, "A"),
        ({"A": INTENDED, "B": DIFFERENT}, {}, "A"),  # together they look intended
        ({"A": INTENDED, "B": EQUAL, "C": DIFFERENT}, {}, "AB"),
        ({"A": INTENDED, "B": INTENDED}, {}, "AB"),
        ({"A": EQUAL, "B": EQUAL}, {">AB": DIFFERENT, "A>AB": DIFFERENT}, "A"),  # each is right, both together are not
        ({"A": INTENDED, "B": DIFFERENT}, {"A>AB": INTENDED}, "AB"),  # B makes sense only after A
        ({"A": DIFFERENT, "B": DIFFERENT}, {">AB": INTENDED}, "AB"),  # neither can be left out
        ({"A": DIFFERENT, "B": DIFFERENT, "C": DIFFERENT}, {">ABC": INTENDED, ">AB": INTENDED}, ""),  # C can
        ({"A": UNKNOWN, "B": EQUAL}, {}, "B"),
    ],
)
def test_what_is_proven(kinds: dict[str, Behaviour], pairs: dict[str, Behaviour], proven: str) -> None:
    search = solve(kinds, pairs)
    assert "".join(sorted(search.base)) == proven
    told = [rule for step in (*search.accepted, *search.refused) for rule in step.rules]
    assert sorted(told) == sorted(kinds), "every rule gets a verdict, once"


def test_a_fix_does_not_pass_on_the_evidence_of_another() -> None:
    """Together they are equal, but not every edited statement was executed: each has to show its own."""
    search = Search("a.py", ("f",), 1, frozenset({"A", "B"}), accepts("intended"))
    equal, unseen = BehaviourVerdict(EQUAL), BehaviourVerdict(UNKNOWN, "edited line never executed")
    a, b = frozenset({"A"}), frozenset({"B"})
    search.tell({a | b: Judged(equal, complete=False), a: Judged(equal), b: Judged(unseen)})
    assert search.base == a
    assert [step.rules for step in search.refused] == [("B",)]


@pytest.mark.parametrize(
    ("least", "kind", "taken"),
    [
        ("bitwise", Behaviour.BITWISE, True),
        ("bitwise", Behaviour.TOLERANCE, False),
        ("tolerance", Behaviour.TOLERANCE, True),
        ("tolerance", INTENDED, False),
        ("intended", INTENDED, True),
        ("intended", DIFFERENT, False),
        ("intended", UNKNOWN, False),
    ],
)
def test_the_least_verdict(least: str, kind: Behaviour, taken: bool) -> None:
    assert accepts(least)(BehaviourVerdict(kind)) is taken
    assert bool(solve({"A": kind}, least=least).base) is taken


def test_an_unknown_least_verdict() -> None:
    with pytest.raises(ValueError, match="known are bitwise, tolerance, intended"):
        accepts("good")


TEXT = """\
import os


def f(x):
    return x


class A:
    @property
    def g(self):
        return 1


for i in range(3):
    f(i)
"""


def test_what_a_fix_changes() -> None:
    assert changed(TEXT, TEXT.replace("return x", "return +x")) == {"f"}
    assert changed(TEXT, TEXT.replace("return 1", "return 2").replace("f(i)", "f(-i)")) == {"A.g", MODULE}
    assert changed(TEXT, TEXT.replace("import os\n", "import os\nimport torch\n")) == set()
    assert changed(TEXT, TEXT.replace("class A:", "class A(object):")) == {MODULE}


def test_parts_are_put_together() -> None:
    one = TEXT.replace("import os\n", "import os\nimport math\n").replace("return x", "return math.sqrt(x)")
    two = TEXT.replace("f(i)", "f(-i)").replace("return 1", "return 2")
    both = compose(TEXT, [(["f"], one), ([MODULE], two)])
    assert "math.sqrt" in both
    assert "import math" in both
    assert "f(-i)" in both
    assert "return 1" in both  # A.g was not asked for
    assert compose(TEXT, []) == TEXT
    assert compose(TEXT, [(["A.g"], one)]) == TEXT


def test_fixes_that_edit_two_places_are_judged_together() -> None:
    at = TEXT.index("return x")
    loop = TEXT.index("f(i)")
    places = touched(TEXT, [[Splice(at, at + 8, "y"), Splice(loop, loop + 1, "g")], [Splice(0, 0, "import a\n")]])
    assert places == [{"f", MODULE}, set()]
    assert groups({"f", "A.g", MODULE}, places) == [("<module>", "f"), ("A.g",)]
