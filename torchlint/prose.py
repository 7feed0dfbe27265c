"""Where Python stands in prose: fenced blocks of Markdown, code directives and literal blocks of reStructuredText, and
doctest prompts, in documents and in docstrings.

One pass over the lines. What a block holds is not judged here; a fence that is never closed reaches to the end, as
CommonMark has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r|\Z)")
_LANGUAGES = frozenset(("python", "python3", "py", "py3", "pycon", "ipython", "ipython3"))
# A list marker or a quote may stand before a fence; the lines below it are indented or quoted likewise.
_FENCE = re.compile(r"(?P<lead>[ \t]*(?:(?:[-*+]|\d{1,9}[.)]|>)[ \t]+|>)*)(?P<fence>`{3,}|~{3,})(?P<info>[^\r\n]*)")
_INFO = re.compile(r"[{.\s]*(\w*)")
_MYST = re.compile(r"\s*\{(?:code-block|code|code-cell|sourcecode|testcode|doctest)\}\s*(\w*)")
_DIRECTIVE = re.compile(r"(?P<lead>[ \t]*)\.\.[ \t]+(?P<name>[\w-]+)::[ \t]*(?P<language>[^\s]*)")
_CODE = frozenset(("code-block", "code", "sourcecode", "testcode", "testsetup", "doctest", "jupyter-execute"))
# Directives whose content is neither prose nor Python.
_OPAQUE = frozenset(("raw", "math", "parsed-literal", "graphviz", "mermaid", "highlight", "prompt", "testoutput"))
_OPTION = re.compile(r"[ \t]*:[\w-]+:")
_PROMPT = re.compile(r"(?P<lead>[ \t]*)>>>(?: |(?=[\r\n]|\Z))")
_CONTINUED = re.compile(r"(?P<lead>[ \t]*)(?:>>>|\.\.\.)(?: |(?=[\r\n]|\Z))")
_BLANKS = re.compile(r"[ \t]*")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of code in a document: `code` is the offset behind its indentation, quote marks or prompt."""

    start: int
    code: int
    end: int


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring lines of a document that are code together. With `prompts` each of them has `>>>` or `...`."""

    lines: tuple[Line, ...]
    prompts: bool


def blocks(text: str, start: int = 0, end: int | None = None, *, fences: bool, markup: bool) -> Iterator[Block]:
    """The blocks of `text[start:end]` in order: those in `fences`, and those of reStructuredText `markup`."""
    yield from _Reader(text, start, len(text) if end is None else end, fences, markup).blocks()


class _Reader:
    def __init__(self, text: str, start: int, end: int, fences: bool, markup: bool) -> None:
        self._text = text
        self._fences = fences
        self._markup = markup
        self._spans = [m.span() for m in _LINE.finditer(text, start, end) if m.start() < m.end()]

    def blocks(self) -> Iterator[Block]:
        at = 0
        while at < len(self._spans):
            found, at = self._next(at)
            yield from found

    def _next(self, at: int) -> tuple[list[Block], int]:
        """The blocks that begin on a line, and the line behind them."""
        text, (start, end) = self._text, self._spans[at]
        fence = _FENCE.match(text, start, end) if self._fences else None
        if fence and not (fence["fence"][0] == "`" and "`" in fence["info"]):
            return self._fenced(at, fence)
        if not self._markup:
            return [], at + 1
        directive = _DIRECTIVE.match(text, start, end)
        if directive:
            return self._directive(at, directive)
        prompt = _PROMPT.match(text, start, end)
        if prompt:
            return self._prompted(at, at + 1, len(self._spans))
        if at + 1 < len(self._spans) and self._is_blank(at + 1) and text[start:end].rstrip().endswith("::"):
            below = self._below(at, at + 1)
            return self._code(at + 1, below), below
        return [], at + 1

    def _is_blank(self, row: int) -> bool:
        return not self._text[slice(*self._spans[row])].strip()

    def _fenced(self, at: int, fence: re.Match[str]) -> tuple[list[Block], int]:
        text, spans = self._text, self._spans
        mark, quotes = fence["fence"], fence["lead"].count(">")
        closing = re.compile(rf"[ \t]*{mark[0]}{{{len(mark)},}}[ \t]*(?:\r|\n|\Z)")
        quoted = re.compile(rf"[ \t]*(?:>[ \t]?){{{quotes}}}")
        insides: list[int] = []
        row = at + 1
        while row < len(spans):
            inside = quoted.match(text, *spans[row]) if quotes else None
            if quotes and inside is None:
                break  # the quote has ended, and the fence with it
            begin = inside.end() if inside else spans[row][0]
            row += 1
            if closing.match(text, begin, spans[row - 1][1]):
                break
            insides.append(begin)
        myst = _MYST.match(fence["info"])
        info = myst or _INFO.match(fence["info"])
        language = info[1].lower() if info else ""
        first = at + 1
        if myst:
            language = language or "python"
            skipped = self._options(first, first + len(insides))
            insides, first = insides[skipped - first :], skipped
        last = first + len(insides)
        if language in _LANGUAGES or (not language and self._begins_with_prompt(first, last, insides)):
            return self._code(first, last, insides), row
        return [], row

    def _options(self, row: int, last: int) -> int:
        """The row behind the options of a directive."""
        text, spans = self._text, self._spans
        if row < last and text[slice(*spans[row])].strip() == "---":
            closing = (r + 1 for r in range(row + 1, last) if text[slice(*spans[r])].strip() == "---")
            return next(closing, row)
        while row < last and _OPTION.match(text, *spans[row]):
            row += 1
        return row

    def _directive(self, at: int, directive: re.Match[str]) -> tuple[list[Block], int]:
        name, language = directive["name"].lower(), directive["language"].lower()
        if name not in _CODE and name not in _OPAQUE:
            return [], at + 1  # a note or the like: what is in it is read as prose
        below = self._below(at, at + 1)
        foreign = language and language not in _LANGUAGES and not name.startswith(("test", "doctest"))
        if foreign or name in _OPAQUE:
            return [], below
        return self._code(self._options(at + 1, below), below), below

    def _below(self, at: int, row: int) -> int:
        """The row behind the lines from `row` that are blank or indented more than the line `at`."""
        width = self._width(at)
        last = row
        while row < len(self._spans):
            if self._is_blank(row):
                row += 1
                continue
            if self._width(row) <= width:
                break
            row += 1
            last = row
        return last

    def _width(self, row: int) -> int:
        """The indentation of a line. The first one of a docstring stands behind its quotes."""
        start, end = self._spans[row]
        begin = start if row else self._text.rfind("\n", 0, start) + 1
        lead = _BLANKS.match(self._text, begin, end)
        return len(lead[0].expandtabs()) if lead else 0

    def _begins_with_prompt(self, first: int, last: int, insides: Sequence[int]) -> bool:
        for row, inside in zip(range(first, last), insides):
            if self._text[inside : self._spans[row][1]].strip():
                return _PROMPT.match(self._text, inside, self._spans[row][1]) is not None
        return False

    def _code(self, first: int, last: int, insides: Sequence[int] | None = None) -> list[Block]:
        """The block, or with prompts the blocks, of the lines `first` up to `last`; `insides` is behind quote marks."""
        text, spans = self._text, self._spans
        begins = list(insides) if insides is not None else [spans[row][0] for row in range(first, last)]
        while begins and not text[begins[-1] : spans[first + len(begins) - 1][1]].strip():
            begins.pop()
        while begins and not text[begins[0] : spans[first][1]].strip():
            begins.pop(0)
            first += 1
        if not begins:
            return []
        last = first + len(begins)
        if _PROMPT.match(text, begins[0], spans[first][1]):
            found: list[Block] = []
            row = first
            while row < last:
                more, row = self._prompted(row, row + 1, last, begins[row - first :])
                found += more
            return found
        full = [(b, spans[first + i][1]) for i, b in enumerate(begins)]
        leads = [m[0] for b, e in full if text[b:e].strip() and (m := _BLANKS.match(text, b, e))]
        low, high = min(leads), max(leads)
        cut = next((i for i, (a, b) in enumerate(zip(low, high)) if a != b), len(low))
        lines = []
        for row, (begin, end) in zip(range(first, last), full):
            content = begin + len(text[begin:end].rstrip("\r\n"))
            lines.append(Line(spans[row][0], min(begin + cut, content), end))
        return [Block(tuple(lines), False)]

    def _prompted(self, at: int, row: int, last: int, insides: Sequence[int] | None = None) -> tuple[list[Block], int]:
        """The run of prompts that begins on the line `at`, if one does, and the line behind it."""
        text, spans = self._text, self._spans
        begin = insides[0] if insides is not None else spans[at][0]
        first = _PROMPT.match(text, begin, spans[at][1])
        if first is None:
            return [], row
        lines = [Line(spans[at][0], first.end(), spans[at][1])]
        while row < last:
            begin = insides[row - at] if insides is not None else spans[row][0]
            more = _CONTINUED.match(text, begin, spans[row][1])
            if more is None or more["lead"] != first["lead"]:
                break
            lines.append(Line(spans[row][0], more.end(), spans[row][1]))
            row += 1
        return [Block(tuple(lines), True)], row
