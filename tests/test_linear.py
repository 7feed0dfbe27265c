"""Regexes are linear: what decides whether a text is parsed never takes time that grows with the square of a line."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from torchlint import magics
from torchlint.catalogue import load
from torchlint.semantics import flow

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


NAMES = {name: value for name, value in vars(flow).items() if isinstance(value, re.Pattern)}
LINES = {name: value for name, value in vars(magics).items() if isinstance(value, re.Pattern)}


def seconds(work: Any) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@pytest.mark.parametrize("name", NAMES)
def test_names_are_judged_in_linear_time(name: str) -> None:
    compiled = NAMES[name]
    for pump in ("zero", "grad", "grad_zero_", "_step", "train_", "a", "_", "lr_"):
        text = (pump * LENGTH)[:LENGTH]
        assert seconds(lambda text=text: list(compiled.finditer(text))) < SECONDS, pump
        assert seconds(lambda text=text: flow.clears(text)) < SECONDS, pump


@pytest.mark.parametrize("name", LINES)
def test_lines_of_a_cell_are_judged_in_linear_time(name: str) -> None:
    compiled = LINES[name]
    for pump in (*ALPHABET, "?", "%", "*", "a*", "a.", "a[1]", "[1]", "a,", "\\\\", "? ", "?;", "pip ", '""""', "\n"):
        for head in ("", "a", "?", "a?", "=", "a[", "%%a", "%time", '"'):
            text = head + (pump * LENGTH)[:LENGTH] + "\0"
            # As magics.py uses it: asked at one place; what is searched for, wherever it may stand.
            assert seconds(lambda text=text: compiled.match(text)) < SECONDS, head + pump
            if name in ("_MAY_HOLD", "_NEWLINE", "_TOKEN"):
                assert seconds(lambda text=text: list(compiled.finditer(text))) < SECONDS, head + pump


@pytest.mark.parametrize("text", ["zero_grad", "resetGradients", "grads_to_none", "zero_the_grads", "clear_grad"])
def test_what_clears_is_known_by_its_name(text: str) -> None:
    assert flow.clears(text)


@pytest.mark.parametrize("text", ["grad", "zero", "gradient_step", "free_memory", "gra_none"])
def test_what_does_not_clear_is_known_by_its_name(text: str) -> None:
    assert not flow.clears(text)
