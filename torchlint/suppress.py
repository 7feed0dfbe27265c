"""Comments that silence findings, the report of those that silence nothing, and `--add-ignore`, which writes them.

`# torchlint: ignore[TL201] why` and `# noqa: TL201` act on the statement that they stand behind (on its first or its
last line, or on the very line of the finding); `# torchlint: ignore-file[TL201]` acts on the whole file.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torchlint.diagnostic import Applicability, Diagnostic, Edit, Fix, Severity

_DIRECTIVE = re.compile(
    r"""\#\s*(?:
        torchlint:\s*(?P<kind>ignore-file|ignore)\b(?:\[(?P<list>[^\]]*)\])?(?P<reason>[^#]*)
      | noqa\b(?:[ \t]*:[ \t]*(?P<codes>[A-Z][A-Z]*[0-9]+(?:[ \t,]+[A-Z]+[0-9]+)*))?
    )""",
    re.VERBOSE | re.IGNORECASE,
)
QUICK = re.compile(r"#\s*torchlint:\s*ignore|#\s*noqa\b", re.IGNORECASE)
_CODE = re.compile(r"[A-Z]+[0-9]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Suppression:
    """One directive. `first`, `last`: the rows of the statement that it stands behind. Offsets are those of the text.

    `cut`: what to remove to be rid of it. `codes`: where its list stands, for taking single codes out.
    """

    kind: str  # "ignore", "ignore-file" or "noqa"
    selectors: tuple[str, ...]  # empty: everything
    row: int
    column: int
    start: int
    end: int
    first: int
    last: int
    alone: bool
    cut: tuple[int, int]
    codes: tuple[int, int]
    cell: int | None = None  # of a notebook, then rows are those of the cell

    def covers(self, diagnostic: Diagnostic) -> bool:
        """Whether the directive acts on the place of a finding."""
        if self.kind == "ignore-file":
            return True
        if self.cell != diagnostic.cell:
            return False
        if self.row == diagnostic.row:
            return True
        return self.first <= diagnostic.row <= self.last and self.row in (self.first, self.last)


def _matches(selector: str, code: str, name: str) -> bool:
    return selector == name or code.startswith(selector.upper())


def scan(text: str) -> list[Suppression]:
    """Every directive in the comments of a text; none where the text cannot be tokenized."""
    if not QUICK.search(text) or not any(map(_concerns, _DIRECTIVE.finditer(text))):
        return []  # most files have none, or only other tools' codes, and need not be tokenized
    from torchlint import notebook

    found = _directives(_python(text))
    if notebook.is_program(text):
        found = _in_cells(text, found)
    return [s for s in found if s.kind != "noqa" or not s.selectors or _may_be_ours(s.selectors)]


def _python(text: str) -> str:
    """A text that the tokenizer takes, of the same length: that of a notebook has magics."""
    from torchlint import notebook

    return notebook.python(text).text if notebook.is_program(text) else text


def _in_cells(text: str, found: Iterable[Suppression]) -> list[Suppression]:
    """Directives with the rows of their cell, those in magics left out."""
    from torchlint import notebook

    places, frozen = notebook.Places(text), notebook.python(text).frozen
    result: list[Suppression] = []
    for s in found:
        if not any(start <= s.start < end for start, end in frozen):
            cell, row = places(s.row)
            result.append(replace(s, row=row, first=places(s.first)[1], last=places(s.last)[1], cell=cell))
    return result


def _concerns(directive: re.Match[str]) -> bool:
    return bool(directive["kind"] or not directive["codes"] or _may_be_ours(_CODE.findall(directive["codes"])))


def _may_be_ours(selectors: Iterable[str]) -> bool:
    """Codes of other tools never match a rule; this keeps `# noqa: F401` from being carried along."""
    return any(
        not re.match(r"(?:[EWFCBIDNSQ]|UP|PL|ANN|ARG|BLE|COM|DTZ|ERA|PTH|RET|RUF|SIM|TRY)\d", s) for s in selectors
    )


def _rows(text: str) -> tuple[list[tuple[int, int, str]], list[tuple[int, int]]]:
    """Comments as (row, column, text), and the first and last row of every statement line."""
    import io
    import tokenize

    comments: list[tuple[int, int, str]] = []
    logical: list[tuple[int, int]] = []
    first = 0
    skip = {tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING}
    try:
        for token in tokenize.generate_tokens(io.StringIO(text, newline="").readline):
            if token.type == tokenize.COMMENT:
                comments.append((token.start[0], token.start[1], token.string))
            elif token.type == tokenize.NEWLINE:
                logical.append((first or token.start[0], token.start[0]))
                first = 0
            elif token.type not in skip and not first:
                first = token.start[0]
    except (tokenize.TokenError, SyntaxError, IndexError):
        return [], []
    return comments, logical


def _statements(logical: Sequence[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    return {row: lines for lines in logical for row in range(lines[0], lines[1] + 1)}


def _starts(text: str) -> list[int]:
    return [0, *(m.end() for m in re.finditer(r"\r\n|\n|\r", text))]


def _directives(text: str) -> list[Suppression]:
    comments, logical = _rows(text)
    statements, starts = _statements(logical), _starts(text)
    found: list[Suppression] = []
    for row, column, comment in comments:
        for match in _DIRECTIVE.finditer(comment):
            base = starts[row - 1] + column
            kind = (match["kind"] or "noqa").lower()
            if kind == "noqa":
                selectors = tuple(_CODE.findall(match["codes"] or ""))
                listed = match.span("codes")
            else:
                if match["list"] is not None and not match["list"].strip():
                    continue  # an empty list silences nothing
                selectors = tuple(s.strip() for s in (match["list"] or "").split(",") if s.strip())
                listed = match.span("list")
            start, end = base + match.start(), base + match.end()
            first, last = statements.get(row, (row, row))
            found.append(
                Suppression(
                    kind,
                    selectors,
                    row,
                    column + match.start() + 1,
                    start,
                    end if kind == "noqa" else base + len(comment[: match.end()].rstrip()),
                    first,
                    last,
                    row not in statements,
                    _cut(text, start, end),
                    (base + listed[0], base + listed[1]),
                )
            )
    return found


def _cut(text: str, start: int, end: int) -> tuple[int, int]:
    """What goes with a directive: the blanks around it, and the whole line where nothing else is on it."""
    stop = end
    while stop < len(text) and text[stop] in " \t":
        stop += 1
    if stop < len(text) and text[stop] not in "\r\n":
        return start, stop  # another comment follows and takes its place
    while start and text[start - 1] in " \t":
        start -= 1
    if start == 0 or text[start - 1] in "\r\n":
        newline = re.compile(r"\r\n|\n|\r").match(text, stop)
        return start, newline.end() if newline else stop
    return start, stop


def apply(
    path: str,
    diagnostics: Iterable[Diagnostic],
    suppressions: Sequence[Suppression],
    active: Mapping[str, str],
    unused: Severity | None = Severity.WARNING,
    complete: bool = True,
) -> list[Diagnostic]:
    """The findings that stay, in order, with a TL003 for each directive of ours that silenced none.

    `active` maps the codes of the selected rules to their names. `unused` is TL003's severity, None when it is not
    selected. `complete` says that no default rule is switched off; only then is a bare `ignore` known to be unused.
    """
    diagnostics = list(diagnostics)
    if not suppressions:
        return diagnostics
    used: set[tuple[int, str]] = set()
    kept: list[Diagnostic] = []
    for diagnostic in diagnostics:
        hit = False
        for number, suppression in enumerate(suppressions):
            if not suppression.covers(diagnostic):
                continue
            for selector in suppression.selectors or ("",):
                if not selector or _matches(selector, diagnostic.code, diagnostic.name):
                    used.add((number, selector))
                    hit = True
        if not hit:
            kept.append(diagnostic)
    if unused is not None and not any(d.code in ("TL001", "TL002") for d in diagnostics):
        for number, suppression in enumerate(suppressions):
            found = _unused(path, suppression, {s for n, s in used if n == number}, active, unused, complete)
            if found is not None:
                kept.append(found)
    return sorted(kept, key=lambda d: d.sort_key)


def _unused(
    path: str, suppression: Suppression, used: set[str], active: Mapping[str, str], severity: Severity, complete: bool
) -> Diagnostic | None:
    if not suppression.selectors:
        if suppression.kind == "noqa" or used or not complete:
            return None
        stale: list[str] = []
        what = "this comment matches no finding"
    else:
        stale = [
            s
            for s in suppression.selectors
            if s not in used
            and any(_matches(s, c, n) for c, n in active.items())
            and not _matches(s, "TL003", "unused-suppression")
        ]
        if not stale:
            return None
        what = f"{', '.join(stale)} in this comment matches no finding"
    kept = [s for s in suppression.selectors if s not in stale]
    edit = Edit(*suppression.codes, ", ".join(kept)) if kept else Edit(*suppression.cut, "")
    why = "it would hide the next mistake here"
    if suppression.alone and suppression.kind != "ignore-file":
        why = "it stands on a line of its own, and only acts on a statement that it stands behind"
    end_column = suppression.column + suppression.end - suppression.start
    return Diagnostic(
        "TL003", "unused-suppression", severity, f"{what}: {why}; remove it", path, suppression.row, suppression.column,
        suppression.row, end_column, suppression.start, suppression.end,
        Fix((edit,), Applicability.SAFE, "Remove the unused suppression"), cell=suppression.cell,
    )  # fmt: skip


def add_ignores(text: str, diagnostics: Iterable[Diagnostic], reason: str = "") -> str:
    """The text with an ignore comment behind every statement that holds one of the findings."""
    plain = _python(text)
    _, logical = _rows(plain)
    statements, starts = _statements(logical), _starts(text)
    wanted: dict[int, set[str]] = {}
    for diagnostic in diagnostics:
        row = bisect.bisect_right(starts, diagnostic.start)  # not its own row, which may be that of a cell
        if diagnostic.code not in ("TL001", "TL002", "TL003") and row in statements:
            wanted.setdefault(statements[row][1], set()).add(diagnostic.code)
    present = {s.row: s for s in _directives(plain) if s.kind == "ignore" and s.selectors}
    edits: list[Edit] = []
    for row, codes in sorted(wanted.items()):
        old = present.get(row)
        if old is not None:
            merged = [*old.selectors, *sorted(codes - set(old.selectors))]
            edits.append(Edit(*old.codes, ", ".join(merged)))
            continue
        end = starts[row] if row < len(starts) else len(text)
        line = text[starts[row - 1] : end]
        at = starts[row - 1] + len(line.rstrip())
        edits.append(Edit(at, at, f"  # torchlint: ignore[{', '.join(sorted(codes))}]{' ' + reason if reason else ''}"))
    for edit in reversed(edits):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text
