"""Whether a text can concern a rule, and on which lines: the rules' triggers, matched at the speed of `str.find`.

Python's regular expressions try each position of a text. So each expression is first reduced to the literals one of
which must stand in any match (`\\.forward\\(` to `.forward(`): where none of them stands nothing is compiled
or matched, and elsewhere only the lines around them are.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable
from functools import cached_property, lru_cache


class Scan:
    """One text, asked for many expressions; each answer is worked out once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._holds: dict[str, bool] = {}
        self._rows: dict[str, frozenset[int]] = {}
        self._matches: dict[str, bool] = {}

    def matches(self, pattern: str) -> bool:
        """Whether the expression matches somewhere."""
        known = self._rows.get(pattern)
        if known is not None:
            return bool(known)
        found = self._matches.get(pattern)
        if found is None:
            found = self._can_match(pattern) and any(True for _ in self._find(pattern))
            self._matches[pattern] = found
        return found

    def any(self, patterns: Iterable[str]) -> bool:
        return any(map(self.matches, patterns))

    def rows(self, pattern: str) -> frozenset[int]:
        """The 0-based rows over which the matches reach."""
        found = self._rows.get(pattern)
        if found is None:
            found = self._rows[pattern] = frozenset(self._find(pattern)) if self._can_match(pattern) else frozenset()
        return found

    def _can_match(self, pattern: str) -> bool:
        needed = literals(pattern)
        if needed is not None:
            return any(map(self._has, needed))
        return not _within_word(pattern) or _compiled(pattern).search(self._vocabulary) is not None

    def _has(self, literal: str) -> bool:
        found = self._holds.get(literal)
        if found is None:
            found = self._holds[literal] = _longest_word(literal) in self._vocabulary and literal in self.text
        return found

    @cached_property
    def _words(self) -> list[str]:
        return list(set(_WORD.findall(self.text)))

    @cached_property
    def _vocabulary(self) -> str:
        """The text's words, each once: a sixth of the text, in which most literals' words already do not stand."""
        return "\n".join(self._words)

    @cached_property
    def _starts(self) -> list[int]:
        starts, at, find = [0], 0, self.text.find
        while (at := find("\n", at) + 1) > 0:
            starts.append(at)
        return starts

    def _find(self, pattern: str) -> Iterable[int]:
        compiled, starts, text = _compiled(pattern), self._starts, self.text
        needed = literals(pattern)
        if needed is None and _within_word(pattern):
            for word in filter(compiled.search, self._words):
                yield from self._rows_with(word)
        elif needed is None or _spans_lines(pattern):
            for match in compiled.finditer(text):
                yield from self._rows_of(match)
        elif re.sub(r"\\(\W)", r"\1", pattern) == "|".join(needed):
            for literal in filter(self._has, needed):
                yield from self._rows_with(literal)
        else:
            above, below = (0, 1) if _within_line(pattern) else (1, 3)
            for literal in filter(self._has, needed):
                for row in self._rows_with(literal):
                    end = starts[row + below] if row + below < len(starts) else len(text)
                    for match in compiled.finditer(text, starts[max(row - above, 0)], end):
                        yield from self._rows_of(match)

    def _rows_with(self, literal: str) -> Iterable[int]:
        """The rows on which a text without a line end begins, each once."""
        find, starts = self.text.find, self._starts
        at = find(literal)
        while at >= 0:
            row = bisect.bisect_right(starts, at)
            yield row - 1
            if row == len(starts):
                return
            at = find(literal, starts[row])

    def _rows_of(self, match: re.Match[str]) -> range:
        start, end = match.start(), max(match.end() - 1, match.start())
        first = bisect.bisect_right(self._starts, start) - 1
        return range(first, bisect.bisect_right(self._starts, end))


_WORD = re.compile(r"\w+")


@lru_cache(maxsize=4096)
def _longest_word(literal: str) -> str:
    return max(_WORD.findall(literal), key=len, default="")


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.MULTILINE)


@lru_cache(maxsize=4096)
def _spans_lines(pattern: str) -> bool:
    """Whether a match may go over many lines: a dot takes newlines, or a class that leaves out some characters does."""
    if "(?s" in pattern or r"[\s\S]" in pattern or r"[\S\s]" in pattern:
        return True
    return any("\\n" not in inside for inside in re.findall(r"(?<!\\)\[\^((?:\\.|[^\]\\])*)", pattern))


_CLOSED = re.compile(r"\[\^(?:\\.|[^\]\\])*?\\[ns](?:\\.|[^\]\\])*\]")


@lru_cache(maxsize=4096)
def _within_line(pattern: str) -> bool:
    """Whether no match reaches over a line end, as far as can be told: nothing in it matches one."""
    return re.search(r"\[\^|\\[nsSWD]|\n|\(\?[a-z]*s", _CLOSED.sub("", pattern)) is None


_WORDY = re.compile(r"(?:\(\?i?:|[()|?*+{},]|\\[wd]|\w)*")


@lru_cache(maxsize=4096)
def _within_word(pattern: str) -> bool:
    """Whether every match lies within one word: then it is found among the text's words, each once, too."""
    return _WORDY.fullmatch(pattern) is not None


@lru_cache(maxsize=4096)
def literals(pattern: str) -> tuple[str, ...] | None:
    """Texts of which every match holds at least one, as long as can be told; None where nothing can be told."""
    if re.match(r"\(\?[aiLmsux]+\)", pattern):
        return None
    found, _ = _alternatives(pattern, 0)
    return found


_CLASSES = frozenset("sSwWdDbBAZ")
_OPTIONAL = frozenset("?*{")


def _alternatives(pattern: str, at: int) -> tuple[tuple[str, ...] | None, int]:
    """The literals of `a|b|c` up to the end or the closing parenthesis, and where that is."""
    together: tuple[str, ...] | None = ()
    while True:
        best, at = _sequence(pattern, at)
        together = None if together is None or best is None else together + best
        if at >= len(pattern) or pattern[at] == ")":
            return together, at
        at += 1  # the bar


def _group(pattern: str, at: int) -> tuple[tuple[str, ...] | None, int]:
    """The literals of a group in parentheses, and the place behind it. Looking around and flags say nothing."""
    plain, inside = True, at + 1
    if pattern.startswith("?P<", inside):
        inside = pattern.index(">", inside) + 1
    elif pattern.startswith("?:", inside):
        inside += 2
    elif pattern.startswith("?", inside):
        plain = False
        inside += 3 if pattern.startswith("?<", inside) else 2
        if pattern[inside - 1] not in "=!":
            inside = pattern.index(":", inside) + 1
    found, end = _alternatives(pattern, inside)
    return found if plain else None, end + 1


def _sequence(pattern: str, at: int) -> tuple[tuple[str, ...] | None, int]:
    """The best literals of one alternative, and the place of the bar or parenthesis that ends it."""
    best: tuple[str, ...] | None = None
    run = ""

    def keep(candidate: tuple[str, ...] | None) -> None:
        nonlocal best
        if candidate and min(map(len, candidate)) > (min(map(len, best)) if best else 0):
            best = candidate

    while at < len(pattern) and pattern[at] not in "|)":
        char = pattern[at]
        candidate: tuple[str, ...] | None = None
        literal = ""
        if char == "\\":
            literal = "" if pattern[at + 1] in _CLASSES else pattern[at + 1]
            at += 2
        elif char == "[":
            at += 2 if pattern[at + 1] == "^" else 1
            at += pattern[at] == "]"
            while pattern[at] != "]":
                at += 2 if pattern[at] == "\\" else 1
            at += 1
        elif char == "(":
            candidate, at = _group(pattern, at)
        else:
            literal = "" if char in ".^$" else char
            at += 1
        repeat = pattern[at] if at < len(pattern) else ""
        optional = repeat in _OPTIONAL if repeat else False
        if optional or repeat == "+":
            at = pattern.index("}", at) + 1 if repeat == "{" else at + 1
            at += at < len(pattern) and pattern[at] == "?"
        if literal and not optional:
            run += literal
            if repeat != "+":
                continue
        keep((run,) if run else None)
        run = literal if literal and repeat == "+" else ""
        if not optional:
            keep(candidate)
    keep((run,) if run else None)
    return best, at
