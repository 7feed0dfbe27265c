"""What a rule is, how rules are loaded, and how a selection of them is made.

A rule is one module in `rules/`: its docstring is its public page, `RULE` says what it is, and each function under
`@RULE.on` checks one kind of thing. The annotation of the function's first parameter is the subscription: a libcst node
class (called for every such node) or a semantic object such as `TrainingLoop` (called for every one recognised).
"""

from __future__ import annotations

import enum
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torchlint.diagnostic import Applicability, Edit, Fix, Question, Severity

if TYPE_CHECKING:
    import libcst as cst

    from torchlint.config import Config
    from torchlint.semantics import Semantics
    from torchlint.source import File
    from torchlint.triggers import Scan


class Category(str, enum.Enum):
    """The groups of the catalogue; the first digit of a code says which."""

    FILES = "files"
    TRAINING = "training loop"
    EVALUATION = "evaluation"
    DATA = "data loading"
    DEVICE = "device and synchronisation"
    VECTORISATION = "vectorisation"
    MEMORY = "memory and graph"
    PRECISION = "precision, kernels, compile"
    DISTRIBUTED = "distributed"
    REPRODUCIBILITY = "reproducibility, checkpoints, security"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule yields. The shown message reads `{what}: {why}; {do}`.

    `at` is the node under the carets. `fix` is None where nothing can be written. `unless` holds questions to other
    files: the finding falls if any is answered with yes. `severity` overrides the rule's own.
    """

    at: cst.CSTNode
    what: str
    why: str
    do: str
    fix: Fix | None = None
    unless: tuple[Question, ...] = ()
    severity: Severity | None = None

    @property
    def message(self) -> str:
        return f"{self.what}: {self.why}; {self.do}"


@dataclass(frozen=True)
class Context:
    """What a check may look at besides its subject."""

    file: File
    sem: Semantics
    options: Mapping[str, Any] = field(default_factory=dict)
    target_device: str = "auto"  # "auto", "cuda" or "cpu": [tool.torchlint] target-device
    torch_version: tuple[int, int] | None = None  # None: the newest


Check = Callable[[Any, Context], Iterable[Finding]]


@dataclass(eq=False)
class Rule:
    """A rule's metadata and its checks.

    `triggers` are regular expressions; a stretch of source that none of them matches cannot hold a finding of this
    rule. They decide what is parsed at all, so the more selective the faster. `fixes` lists the classes of fix that it
    may offer, empty if it never does. `requires` are regular expressions that must each match somewhere in the file,
    `shapes` forms of code (see `torchlint.shapes`) of which the stretch must have one.
    """

    code: str
    category: Category
    severity: Severity
    triggers: tuple[str, ...]
    since: str
    fixes: tuple[Applicability, ...] = ()
    default: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)  # option name → default value
    name: str = ""
    doc: str = ""
    requires: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    checks: list[tuple[type, Check]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.name:
            caller = sys._getframe(2)  # the dataclass's own __init__ lies between
            self.name = caller.f_globals["__name__"].rpartition(".")[2].replace("_", "-")
            self.doc = caller.f_globals.get("__doc__") or ""
        if not re.fullmatch(r"[A-Z]+\d{3}", self.code):
            raise ValueError(f"rule code {self.code!r} is not letters and three digits")

    def on(self, check: Check) -> Check:
        """Register a check for the class that its first parameter is annotated with (a union registers for each)."""
        first = check.__code__.co_varnames[0]
        subject = typing.get_type_hints(check)[first]
        for kind in typing.get_args(subject) or (subject,):
            self.checks.append((kind, check))
        return check

    def may_find(self, scan: Scan) -> bool:
        """Whether the triggers allow for a finding in this text."""
        return all(map(scan.matches, self.requires)) and scan.any(self.triggers)

    @property
    def looks(self) -> bool:
        """Whether the rule looks at files itself; those about files as such are reported by the engine."""
        return bool(self.checks)

    @property
    def summary(self) -> str:
        return self.doc.strip().partition("\n")[0]


def severity_of(rule: Rule, settings: Config) -> Severity:
    """The rule's level after the project's `severity` table, where a code or name wins over a prefix."""
    best, level = -1, rule.severity
    for selector, chosen in settings.severity.items():
        if selector == rule.name or selector.upper() == rule.code:
            return Severity(chosen)
        if rule.code.startswith(selector.upper()) and len(selector) > best:
            best, level = len(selector), Severity(chosen)
    return level


def safe(message: str, *edits: Edit) -> Fix:
    """A fix that changes no behaviour (proven by the rule's run.py)."""
    return Fix(tuple(edits), Applicability.SAFE, message)


def unsafe(message: str, *edits: Edit) -> Fix:
    """A fix that may change numerics, randomness, memory or training itself, as every bug fix does."""
    return Fix(tuple(edits), Applicability.UNSAFE, message)


def suggestion(message: str, *edits: Edit) -> Fix:
    """An edit that is shown and never applied."""
    return Fix(tuple(edits), Applicability.SUGGESTION, message)


class UnknownRule(ValueError):
    """A selector that names no rule; the message holds the nearest ones."""

    def __init__(self, message: str, selector: str = "") -> None:
        super().__init__(message)
        self.selector = selector


def select(rules: Iterable[Rule], selectors: Iterable[str]) -> Iterator[Rule]:
    """The rules that a selector names: a code, a name, a prefix of codes (`TL1`), or `ALL`. Raises UnknownRule."""
    rules = list(rules)
    wanted: set[str] = set()
    for selector in selectors:
        if selector == "ALL":
            wanted.update(r.code for r in rules)
            continue
        hits = {r.code for r in rules if r.name == selector or r.code.startswith(selector.upper())}
        if not hits or not selector:
            import difflib

            names = [n for r in rules for n in (r.code, r.name)]
            near = difflib.get_close_matches(selector, names, 2, 0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else "; `torchlint rule --all` lists them"
            raise UnknownRule(f"unknown rule {selector!r}{hint}", selector)
        wanted |= hits
    return (r for r in rules if r.code in wanted)
