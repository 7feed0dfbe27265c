"""Whether a text is Python at all, said in one line that names the place and the likely reason.

Also the guard in front of libcst, whose parser overflows the C stack on nesting that CPython's own parser refuses.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ast

MAX_CHARACTERS = 8_000_000
MAX_BRACKETS = 200  # as deep as CPython's tokenizer goes
_ONLY_AST = 0x400  # ast.PyCF_ONLY_AST, without the import


class Trouble(NamedTuple):
    """Why a text cannot be checked, and where (1-based)."""

    message: str
    row: int = 1
    column: int = 1


TOO_DEEP = Trouble("nested too deeply to be parsed: the file was not checked; break up its deepest expression or block")

_CONFLICT = re.compile(r"^(<{7}|={7}|>{7}|\|{7})(?= |$|\r)", re.MULTILINE)
_MAGIC = re.compile(r"^[ \t]*(%{1,2}[A-Za-z]\w*|![A-Za-z]\S*)", re.MULTILINE)
_PRINT = re.compile(r"^[ \t]*(print|exec)[ \t]+[^\s=(.,)\]:]")
_PYTHON2 = re.compile(r"^[ \t]*(?:raise[ \t]+\w+[ \t]*,|except[ \t]+[\w.]+[ \t]*,[ \t]*\w+[ \t]*:)")
# `x`, a <> b, ur"x", 10L: what no Python 3 takes, wherever it stands in a line.
_PYTHON2_WITHIN = re.compile(r"[=(,+%][ \t]*`[^`\n]+`|[\w)\]][ \t]*<>[ \t]*[\w(\[]|\b[uU][rR]['\"]|(?<![\w.])\d+L\b")

# The argument of `.cuda(async=True)` before torch 0.4; Python 3.7 made the word a keyword.
_ASYNC = re.compile(r"\basync(?=[ \t]*=(?!=))")
_STAND_IN = "asynk"

_PYTHON2_SIGNS = (_PRINT, _PYTHON2, _PYTHON2_WITHIN)
_PYTHON2_MESSAGES = ("Missing parentheses in call", "parameters cannot be parenthesized")


def first_line(message: str) -> str:
    return message.strip().partition("\n")[0]


def examine(text: str) -> Trouble | None:
    """None for a text that can be parsed; newer syntax than this Python's is left for libcst to judge."""
    found = parsed(text)
    return found if isinstance(found, Trouble) else None


def parsed(text: str) -> ast.Module | Trouble | None:
    """The syntax tree of a text, or what is wrong with it; None where its syntax is newer than this Python."""
    if len(text) > MAX_CHARACTERS:
        return Trouble(
            f"{len(text):,} characters are more than torchlint reads ({MAX_CHARACTERS:,}): the file was not checked"
        )
    if "\0" in text:
        at = text.index("\0")
        row = text.count("\n", 0, at) + 1
        return Trouble(
            "a NUL byte is not allowed in Python source; is this a binary file, or UTF-16?",
            row,
            at - text.rfind("\n", 0, at),
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree: ast.Module = compile(text, "<file>", "exec", _ONLY_AST, True)
    except SyntaxError as error:
        return _explain(text, error)
    except (RecursionError, MemoryError):
        return TOO_DEEP
    except ValueError as error:  # an integer literal of too many digits, a lone surrogate
        return Trouble(f"cannot be parsed: {first_line(str(error))}")
    return tree


def without_async(text: str) -> str | None:
    """A text of the same length that can be parsed, with another word for the argument `async`; None if there is none.

    Old training scripts hold nothing else that is no Python today, and everything else in them can be checked.
    """
    new = _ASYNC.sub(_STAND_IN, text)
    return new if new != text and not isinstance(parsed(new), Trouble) else None


def with_async(text: str) -> str:
    """What is said of such a text, in the words of the author."""
    return text.replace(_STAND_IN, "async")


def _explain(text: str, error: SyntaxError) -> Trouble | None:
    lines = text.splitlines()
    row, column = error.lineno or 1, max(error.offset or 1, 1)
    message = first_line(error.msg or "invalid syntax")
    if "too many nested" in message or "too many levels" in message or _deepest(text) > MAX_BRACKETS:
        return Trouble(TOO_DEEP.message, row, column)
    line = lines[row - 1] if 0 < row <= len(lines) else ""
    conflict = _CONFLICT.search(text)
    if conflict and conflict[1] != "=" * 7:
        where = text.count("\n", 0, conflict.start()) + 1
        return Trouble(f"merge conflict marker {conflict[1]!r}: resolve the conflict first", where, 1)
    if any(told in message for told in _PYTHON2_MESSAGES) or any(sign.search(line) for sign in _PYTHON2_SIGNS):
        return Trouble(
            f"this is Python 2 ({line.strip()[:60]!r}): torchlint reads Python 3, try 2to3 first", row, column
        )
    magic = _MAGIC.match(line)
    if magic:
        return Trouble(
            f"{magic[1]!r} is a notebook magic, not Python: comment it out or use get_ipython()", row, column
        )
    if _newer_syntax(text):
        return None
    old = _ASYNC.search(line)
    if old:
        return Trouble(
            "`async` is a keyword since Python 3.7, so this file cannot run: torch calls the argument `non_blocking`",
            row,
            old.start() + 1,
        )
    return Trouble(message, row, column)


def _deepest(text: str) -> int:
    """How deep brackets nest, strings and comments not told apart: never too low for code that nests."""
    depth = deepest = 0
    for character in re.findall(r"[()\[\]{}]", text):
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif depth:
            depth -= 1
    return deepest


def _newer_syntax(text: str) -> bool:
    """Whether libcst accepts what this Python refused: syntax of a later Python is no error."""
    import libcst

    try:
        libcst.parse_module(text)
    except (libcst.ParserSyntaxError, RecursionError):
        return False
    return True
