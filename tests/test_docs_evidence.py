"""What the rule pages say of measurements and of near-misses, beside the rules' docstrings."""

import textwrap

from torchlint.docs_evidence import measured, near_misses
from torchlint.evidence import load
from torchlint.testing.engine import rules


def test_a_near_miss_is_told_with_its_reason() -> None:
    text = textwrap.dedent(
        """
        import torch


        # above it
        def first(x):
            return x


        def no_reason(x):
            return x  # noqa: RET


        def second(x):
            '''In a docstring.'''
        """
    )
    assert near_misses(text) == [
        "# above it\ndef first(x):\n    return x",
        "def second(x):\n    '''In a docstring.'''",
    ]


def test_a_long_one_is_cut_around_its_reason() -> None:
    body = "".join(f"    x += {i}\n" for i in range(40))
    (early,) = near_misses(f"def f(x):\n    x = 0  # early\n{body}")
    (late,) = near_misses(f"def f(x):\n{body}    return x  # late\n")
    assert "# early" in early
    assert "# late" in late
    assert early.endswith("    ...")
    assert not late.endswith("...")
    assert late.startswith("def f(x):\n    ...\n    x += ")
    assert max(early.count("\n"), late.count("\n")) <= 12


def test_without_reasons_the_statements_and_definitions_are_shown() -> None:
    assert near_misses('"""Why."""\nimport torch\n\ntorch.x = 1\n\n\ndef f():\n    pass\n') == [
        "torch.x = 1",
        "def f():\n    pass",
    ]


def test_every_page_says_what_was_measured_or_that_nothing_was() -> None:
    evidence = load()
    for rule in rules().values():
        page = measured(rule)
        found = evidence.get(rule.code)
        timed = found is not None and any(m.timings for m in found.measurements)
        weighed = found is not None and any(m.peak and all(m.peak) for m in found.measurements)
        assert page.count("<svg") == timed + weighed
        assert page.startswith("\n## Measured\n\n")
        assert timed or "| Case |" in page or len(page.strip().splitlines()) <= 4
