"""From what was found in each file to what is shown: open questions answered, suppressed findings dropped."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torchlint import cache
from torchlint.diagnostic import Diagnostic, Question, Severity

if TYPE_CHECKING:
    from torchlint.suppress import Suppression

Asked = tuple[str, Question]  # the asking file, absolute, and what it wants to know
Wanted = frozenset[tuple[Any, ...]]  # the findings that alone are to be fixed, by place and by line


@dataclass
class Answers:
    """The questions that a run asked across files, and those that were answered with yes."""

    asked: set[Asked] = field(default_factory=set)
    yes: set[Asked] = field(default_factory=set)

    def decided(self, diagnostics: list[Diagnostic]) -> list[Diagnostic]:
        """The findings that hang on no question which was not asked."""
        return [d for d in diagnostics if all((os.path.abspath(d.path), q) in self.asked for q in d.unless)]

    def pack(self) -> tuple[Any, ...]:
        return tuple(sorted((path, q.ask, q.subject, (path, q) in self.yes) for path, q in self.asked))

    @classmethod
    def unpack(cls, packed: Any) -> Answers:
        pairs = [((path, Question(ask, subject)), yes) for path, ask, subject, yes in packed]
        return cls({asked for asked, _ in pairs}, {asked for asked, yes in pairs if yes})


@dataclass(frozen=True)
class Selection:
    """The rules of a run, as names only: enough to apply suppressions and to tell a worker what to load."""

    active: dict[str, str]  # code → name
    complete: bool  # no default rule is switched off
    unused: Severity | None  # TL003's level, None when it is not selected

    @property
    def codes(self) -> frozenset[str]:
        return frozenset(self.active) | ({"TL003"} if self.unused is not None else frozenset())

    def pack(self) -> tuple[Any, ...]:
        return (self.active, self.complete, self.unused and self.unused.value)

    @classmethod
    def unpack(cls, packed: Any) -> Selection:
        active, complete, unused = packed
        return cls(active, complete, unused and Severity(unused))


def questions(outcomes: Mapping[str, cache.Outcome]) -> set[Asked]:
    """What the findings of conditional outcomes want to know."""
    return {
        (os.path.abspath(path), question)
        for path, (packed, _, conditional) in outcomes.items()
        if conditional
        for p in packed
        for question in cache.unpack(path, p).unless
    }


def linked(diagnostics: list[Diagnostic], answers: Answers) -> list[Diagnostic]:
    """The findings none of whose questions was answered with yes."""
    if not answers.yes:
        return diagnostics
    return [d for d in diagnostics if not any((os.path.abspath(d.path), q) in answers.yes for q in d.unless)]


def shown(
    path: str, found: list[Diagnostic], suppressions: list[Suppression], answers: Answers, selection: Selection
) -> list[Diagnostic]:
    """One file's findings after linking and suppression."""
    from torchlint.suppress import apply

    return apply(path, linked(found, answers), suppressions, selection.active, selection.unused, selection.complete)


def settle(outcomes: Mapping[str, cache.Outcome], answers: Answers, selection: Selection) -> list[Diagnostic]:
    """All findings that are shown, in path order."""
    result: list[Diagnostic] = []
    for path in sorted(outcomes):
        packed, suppressions, conditional = outcomes[path]
        found = [cache.unpack(path, p) for p in packed]
        if conditional:
            found = shown(path, found, [cache.unpack_suppression(s) for s in suppressions], answers, selection)
        result += found
    return result


def wanted(found: Sequence[Diagnostic], source: Callable[[str], str]) -> Wanted:
    """These findings, to be known again."""
    return frozenset(key for d in found for key in (_place(d), _line(d, source(d.path))))


def is_wanted(d: Diagnostic, text: str, original: str, only: Wanted) -> bool:
    """Whether a finding is one of those, by its place or, once a fix has moved the lines, by its own line."""
    return (_place(d) if text == original else _line(d, text)) in only


def _place(d: Diagnostic) -> tuple[Any, ...]:
    return os.path.abspath(d.path), d.code, d.message, d.cell, d.row, d.column


def _line(d: Diagnostic, text: str) -> tuple[Any, ...]:
    start = text.rfind("\n", 0, d.start) + 1
    return os.path.abspath(d.path), d.code, d.message, text[start:].partition("\n")[0].strip()
