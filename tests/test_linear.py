"""Regexes are linear: what decides whether a text is parsed never takes time that grows with the square of a line."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from torchlint.catalogue import load

try:
    from re import _parser as parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_parse as parser

LENGTH = 16_000
SECONDS = 1.5  # linear ones take some milliseconds, quadratic ones ten seconds
ALPHABET = " \ta.(,=\"'\\#"


def sample(item: tuple[Any, Any]) -> str:
    """A text that one element of a parsed regex matches."""
    operator, argument = str(item[0]), item[1]
    if operator == "LITERAL":
        return chr(argument)
    if operator == "IN":
        for kind, value in argument:
            if str(kind) == "LITERAL":
                return chr(value)
            if str(kind) == "RANGE":
                return chr(value[0])
            if str(kind) == "CATEGORY":
                return {"CATEGORY_SPACE": " ", "CATEGORY_DIGIT": "1"}.get(str(value), "a")
        return "a"
    if operator in ("NOT_LITERAL", "ANY"):
        return "a"
    if operator.endswith("REPEAT"):
        return "".join(map(sample, argument[2])) * max(int(argument[0]), 1)
    if operator == "SUBPATTERN":
        return "".join(map(sample, argument[-1]))
    if operator == "BRANCH":
        return "".join(map(sample, argument[1][0]))
    return ""


def pumps(regex: str) -> set[str]:
    """Texts that, repeated, keep a regex busy: its alternatives, alone and with what may stand behind them."""
    found: set[str] = set(ALPHABET)
    stack = [list(parser.parse(regex))]
    while stack:
        items = stack.pop()
        whole = "".join(map(sample, items))
        found |= {whole, whole[:-1], *(sample(item) for item in items[:6])}
        for item in items:
            operator, argument = str(item[0]), item[1]
            if operator == "BRANCH":
                stack += [list(branch) for branch in argument[1]]
            elif operator == "SUBPATTERN":
                stack.append(list(argument[-1]))
    return {text for text in found if text}


REGEXES = sorted({regex for rule in load() for regex in (*rule.triggers, *rule.requires)})


@pytest.mark.slow
@pytest.mark.parametrize("regex", REGEXES)
def test_triggers_are_linear(regex: str) -> None:
    compiled = re.compile(regex)
    for pump in pumps(regex):
        for more in ("", "a", "o"):
            text = ((pump + more) * LENGTH)[:LENGTH] + "\0"
            began = time.process_time()
            for _ in compiled.finditer(text):
                pass
            assert time.process_time() - began < SECONDS, f"{regex} on {pump + more!r} repeated"
