"""What must hold for any bytes that are checked and fixed as a file."""

from __future__ import annotations

import io
import re
import tokenize
import traceback
import warnings
from collections import Counter
from functools import cache

import libcst as cst

from fuzzing.project import rules
from torchlint import cache as outcomes
from torchlint import run, syntax
from torchlint.check import check_text
from torchlint.config import Config
from torchlint.diagnostic import Diagnostic
from torchlint.encoding import Undecodable, decode
from torchlint.fix import FixResult, fix_text, fixable
from torchlint.outcome import Answers, Selection, shown
from torchlint.pool import with_deep_stack
from torchlint.suppress import scan

SETTINGS = Config(jobs=1)
_DIRECTIVE = re.compile(r"#\s*(torchlint:|noqa)", re.I)


@cache
def selection() -> Selection:
    return run.selection_of(rules(), rules(), SETTINGS)


def breaches(data: bytes, stats: Counter[str] | None = None) -> list[str]:
    """Everything that does not hold for the bytes, as lines; `stats` counts what was met on the way."""
    found: list[str] = []

    def work() -> None:
        try:
            found.extend(_breaches(data, Counter() if stats is None else stats))
        except Exception:
            found.append("crash: " + traceback.format_exc(limit=-4))

    with_deep_stack(work)
    return found


def _breaches(data: bytes, stats: Counter[str]) -> list[str]:
    packed, _, _ = run.outcome("f.py", data, rules(), SETTINGS, selection())
    diagnostics = [outcomes.unpack("f.py", p) for p in packed]
    lines = [f"crashed rule: {d.message}" for d in diagnostics if d.code == "TL002"]
    try:
        source = decode(data)
    except Undecodable:
        stats["undecodable"] += 1
        return lines
    text = source.text
    lines += _places(text, diagnostics)
    syntax_errors = [d for d in diagnostics if d.code == "TL001"]
    stats["findings"] += len(diagnostics) - len(syntax_errors)
    if syntax_errors:
        stats["not Python"] += 1
        if compiles(text) and syntax.examine(text) is None:
            if parses(text):
                lines.append(f"valid Python, yet: {syntax_errors[0].message}")
            else:
                stats["valid Python that libcst cannot read"] += 1
        return lines
    stats["Python"] += 1
    plain, back = (check_text("f.py", text, order, SETTINGS) for order in (rules(), rules()[::-1]))
    if plain != back:
        lines.append("the order of the rules changes the findings")
    for unsafe in (False, True):
        lines += _fixes(text, unsafe, stats)
    return lines


def _places(text: str, diagnostics: list[Diagnostic]) -> list[str]:
    """Rows and columns must name the offsets that they stand for."""
    lines = []
    starts = [0, *(m.end() for m in re.finditer(r"\r\n|\n|\r", text))]
    for d in diagnostics:
        if not 0 <= d.start <= d.end <= len(text):
            lines.append(f"{d.code}: offsets {d.start}..{d.end} of {len(text)}")
        elif d.code not in ("TL001", "TL002"):
            if not (0 < d.row <= len(starts)) or starts[d.row - 1] + d.column - 1 != d.start:
                lines.append(f"{d.code}: {d.row}:{d.column} is not offset {d.start}")
    return lines


def compiles(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "f.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def parses(text: str) -> bool:
    try:
        cst.parse_module(text)
    except (cst.ParserSyntaxError, RecursionError):
        return False
    return True


def comments(text: str) -> Counter[str]:
    """Every comment but suppressions, which TL003 may remove."""
    found: Counter[str] = Counter()
    try:
        for token in tokenize.generate_tokens(io.StringIO(text, newline="").readline):
            if token.type == tokenize.COMMENT and not _DIRECTIVE.search(token.string):
                found[token.string.strip()] += 1
    except (tokenize.TokenError, SyntaxError):
        return Counter()
    return found


def _fixed(text: str, unsafe: bool, backwards: bool = False) -> FixResult:
    order = rules()[::-1] if backwards else rules()

    def resolve(current: str, found: list[Diagnostic]) -> list[Diagnostic]:
        return shown("f.py", [d for d in found if not d.unless], scan(current), Answers(), selection())

    return fix_text("f.py", text, order, SETTINGS, unsafe=unsafe, resolve=resolve)


def _fixes(text: str, unsafe: bool, stats: Counter[str]) -> list[str]:
    kind = "unsafe fix" if unsafe else "safe fix"
    done = _fixed(text, unsafe)
    if fixable(text) is not None:
        stats["refused"] += 1
        return [f"{kind}: a file that must not be written was changed"] if done.text != text else []
    lines = [f"{kind}: {note}" for note in done.notes]
    if done.text == text:
        return lines
    stats["fixed files"] += 1
    stats["fixes"] += len(done.applied)
    if not parses(done.text):
        lines.append(f"{kind}: does not parse")
    if compiles(text) and not compiles(done.text):
        lines.append(f"{kind}: does not compile")
    lost = comments(text) - comments(done.text)
    if lost and comments(done.text):
        lines.append(f"{kind}: lost {sorted(lost)}")
    again = _fixed(done.text, unsafe)
    if again.text != done.text:
        lines.append(f"{kind}: a second run still fixes {sorted({d.code for d in again.applied})}")
    if _fixed(text, unsafe, backwards=True).text != done.text:
        lines.append(f"{kind}: the order of the rules changes the text")
    if done.rounds == 1:
        lines += _untouched(text, done, kind)
    return lines


def _untouched(text: str, done: FixResult, kind: str) -> list[str]:
    """The lines that no edit of the one round touches stand in the result as they were, in the same order."""
    rows = re.split(r"(?<=\n)", text)
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row))
    touched: set[int] = set()
    for d in done.applied:
        for edit in d.fix.edits if d.fix is not None else ():
            touched.update(
                n
                for n in range(len(rows))
                if starts[n] <= edit.end and edit.start < starts[n + 1] + (edit.start == edit.end)
            )
    remaining = iter(re.split(r"(?<=\n)", done.text))
    for number, row in enumerate(rows):
        if number not in touched and row not in remaining:
            return [f"{kind}: line {number + 1} changed and no edit touches it: {row!r}"]
    return []
