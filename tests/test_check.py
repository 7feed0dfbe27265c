"""check: positions, severities, crashes, texts that are not Python, and decoding."""

from __future__ import annotations

import codecs

import pytest

from tests.engine import SYNTAX, crashing_rule, everything_concerns, rename_rule  # noqa: F401
from torchlint.check import check_text
from torchlint.config import Config
from torchlint.diagnostic import Severity
from torchlint.encoding import Undecodable, decode

RULES = [SYNTAX, rename_rule()]


def test_positions_count_characters_from_one() -> None:
    text = "é = '😀'; old\r\n\tx = old.y\r\n".replace("\t", "")
    first, second = check_text("a.py", text, RULES, Config())
    assert (first.row, first.column, first.end_row, first.end_column) == (1, 10, 1, 13)
    assert text[second.start : second.end] == "old"
    assert (second.row, second.column) == (2, 5)
    assert first.message == "`old` is used: it is gone; use another"


def test_a_crashing_rule_is_named_and_the_others_go_on() -> None:
    found = check_text("a.py", "old\n", [crashing_rule(), *RULES], Config())
    assert [d.code for d in found] == ["TL002", "TL901"]
    assert "engine (TL902)" in found[0].message
    assert "KeyError: 'loss' at engine.py:" in found[0].message
    assert "\n" not in found[0].message


def test_severity_of_the_settings_wins_the_exact_code_most() -> None:
    config = Config(severity={"TL9": "info", "TL901": "error"})
    assert check_text("a.py", "old\n", RULES, config)[0].severity is Severity.ERROR
    assert check_text("a.py", "old\n", RULES, Config(severity={"TL9": "info"}))[0].severity is Severity.INFO


@pytest.mark.parametrize(("pattern", "count"), [("gen/*.py", 0), ("gen", 0), ("other/*", 1), ("!gen/*", 1)])
def test_per_file_ignores(pattern: str, count: int, tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = Config(root=str(tmp_path), per_file_ignores=((pattern, ("TL9",)),))
    path = str(tmp_path / "gen" / "a.py")
    assert len(check_text(path, "old\n", RULES, config)) == count


@pytest.mark.parametrize(
    ("text", "row", "says"),
    [
        ("import torch\nprint 'x'\n", 2, "Python 2"),
        ("x = 1\n<<<<<<< HEAD\ny = 2\n=======\ny = 3\n>>>>>>> b\n", 2, "merge conflict"),
        ("x = 'a\0b'\n", 1, "NUL byte"),
        ("%matplotlib inline\nx = 1\n", 1, "notebook magic"),
        ("!pip install torch\n", 1, "notebook magic"),
        ("def f(:\n    pass\n", 1, "invalid syntax"),
        ("x = 1\n  y = 2\n", 2, "unexpected indent"),
        ("x = (\n", 1, "never closed"),
        ("x = " + "(" * 3000 + ")" * 3000 + "\n", 1, "nested too deeply"),
        ("x = " + "[" * 3000 + "\n", 1, "nested too deeply"),
    ],
)
def test_what_is_not_python_is_one_clear_line(text: str, row: int, says: str) -> None:
    (found,) = check_text("a.py", text, RULES, Config())
    assert (found.code, found.row) == ("TL001", row)
    assert says in found.message
    assert "\n" not in found.message


def test_the_old_argument_async_hides_nothing_else() -> None:
    text = "old.cuda(async=True)\nnew.cuda(async=old)\n"
    syntax, first, second = sorted(check_text("a.py", text, RULES, Config()), key=lambda d: (d.code, d.start))
    assert "`non_blocking`" in syntax.message
    assert (syntax.row, syntax.column) == (1, 10)
    assert [text[d.start : d.end] for d in (first, second)] == ["old", "old"]
    assert first.fix is None  # what cannot be parsed cannot be proven to parse afterwards


def test_a_file_that_is_broken_elsewhere_too_is_one_finding() -> None:
    (only,) = check_text("a.py", "old.cuda(async=True)\nprint 'old'\n", RULES, Config())
    assert only.code == "TL001"


def test_syntax_of_a_later_python_is_no_error() -> None:
    assert [d.code for d in check_text("a.py", "type X[T = int] = list[T]\nold\n", RULES, Config())] == ["TL901"]


def test_empty_text_is_clean() -> None:
    assert check_text("a.py", "", RULES, Config()) == []


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"x = '\xc3\xa9'\r\n", "x = 'é'\r\n"),
        (codecs.BOM_UTF8 + b"x = 1\n", "x = 1\n"),
        (b"# -*- coding: latin-1 -*-\nx = '\xe9'\n", "# -*- coding: latin-1 -*-\nx = 'é'\n"),
        (b"#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\nx = '\x80'\n", None),
        (b"x = 'coding: nonsense'\n", "x = 'coding: nonsense'\n"),
        (b"", ""),
    ],
)
def test_decoding_gives_the_same_bytes_back(data: bytes, text: str | None) -> None:
    source = decode(data)
    assert source.exact
    assert text is None or source.text == text


@pytest.mark.parametrize(
    ("data", "says", "row"),
    [
        (b"x = 1\ny = '\xff'\n", "not UTF-8", 2),
        (b"# coding: nosuch\nx = 1\n", "does not know", 1),
        (b"# coding: ascii\nx = '\xe9'\n", "declared encoding", 2),
        (codecs.BOM_UTF8 + b"# coding: latin-1\n", "byte order mark", 1),
        (codecs.BOM_UTF16_LE + "x = 1\n".encode("utf-16-le"), "the file is UTF-16", 1),
    ],
)
def test_undecodable_bytes_say_where(data: bytes, says: str, row: int) -> None:
    with pytest.raises(Undecodable, match=says) as caught:
        decode(data)
    assert caught.value.row == row
