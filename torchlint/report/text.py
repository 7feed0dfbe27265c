"""The default format: each finding under the code that it is about, with why it matters and what a fix would write."""

from __future__ import annotations

from collections.abc import Sequence

from torchlint.diagnostic import Applicability, Diagnostic, Fix, Severity
from torchlint.report import ReportContext
from torchlint.report.frame import CONTEXT_LINES, caret_columns, rows
from torchlint.report.lines import Texts, place
from torchlint.report.patch import Change, hunks
from torchlint.report.summary import remedy, tally
from torchlint.report.terminal import (
    BOLD,
    BOLD_BLUE,
    BOLD_CYAN,
    BOLD_GREEN,
    BOLD_RED,
    BOLD_YELLOW,
    CYAN,
    DIM,
    GREEN,
    RED,
    Paint,
    char_width,
    clean,
    expand,
    shown_path,
    wrap,
)

DIFF_LINES = 12  # a longer diff is cut: `--diff` shows all of it

_SEVERITY_STYLE = {Severity.ERROR: BOLD_RED, Severity.WARNING: BOLD_YELLOW, Severity.INFO: BOLD_CYAN}
_FIX_LABEL = {
    Applicability.SAFE: ("safe fix", BOLD_GREEN),
    Applicability.UNSAFE: ("unsafe fix (--unsafe)", BOLD_YELLOW),
    Applicability.SUGGESTION: ("suggestion", BOLD_CYAN),
}


def split_message(message: str) -> tuple[str, str, str]:
    """`what: why; do` → its three parts; a message of another shape is all `what`."""
    what, colon, rest = message.partition(": ")
    why, semicolon, do = rest.rpartition("; ")
    return (what, why, do) if colon and semicolon else (message, "", "")


def behind_label(message: str) -> str:
    """What a fix does, as it goes on behind `safe fix:` or the like."""
    return message[0].lower() + message[1:] if message[1:2].islower() else message


def render(diagnostics: Sequence[Diagnostic], context: ReportContext) -> str:
    paint = Paint(context.color)
    texts = Texts(context.source)
    blocks: list[str] = []
    for d in diagnostics:
        blocks.append(_Block(d, texts, paint, context.width).render())
    if not context.quiet:
        closing = tally(diagnostics, context.checked)
        fixes = remedy(diagnostics)
        style = BOLD if diagnostics else BOLD_GREEN
        told = [paint(line, style) for line in wrap(closing, context.width, "", "")]
        blocks.append("\n".join([*told, *(wrap(fixes, context.width, "", "") if fixes else ())]))
    return "\n\n".join(blocks) + "\n"


def _common(a: str, b: str) -> int:
    """How many characters two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


class _Block:
    """One finding. Knows the width of the gutter, which frame and diff share."""

    def __init__(self, d: Diagnostic, texts: Texts, paint: Paint, columns: int) -> None:
        self.d = d
        self.lines = lines = texts.lines(d.path, d.cell)
        self.paint = paint
        self.columns = columns
        self.framed = bool(lines.text) and d.row <= len(lines)
        self.hunks: list[list[Change]] = []
        for cell, fix in texts.parts(d) if self.framed else ():
            found = hunks(fix, texts.lines(d.path, cell))
            if found and (cell != d.cell or self.hunks):
                found[0].insert(0, Change("…", 0, f"cell {cell}"))
            self.hunks += found
        last = min(d.row + CONTEXT_LINES, len(lines))
        self.gutter = len(str(max([last, *(change.row for hunk in self.hunks for change in hunk)])))

    def render(self) -> str:
        what, why, do = split_message(clean(self.d.message))
        out = self.headline(what)
        bar = self.rail("|")
        if self.framed:
            out += [bar, *self.frame(), bar]
        if why:
            out += self.note("why", why, BOLD)
            out += self.note("help", do, BOLD_CYAN)
        if self.d.fix:
            out += self.fix(self.d.fix)
        return "\n".join(out)

    def headline(self, what: str) -> list[str]:
        d, paint = self.d, self.paint
        style = _SEVERITY_STYLE[d.severity]
        plain = f"{d.severity.value}[{d.code}] {d.name}: "
        first, *more = wrap(what, self.columns, plain, "  ")
        first = paint(f"{d.severity.value}[{d.code}]", style) + paint(
            f" {d.name}: {first[len(plain) :]}".rstrip(), BOLD
        )
        arrow = paint(" " * self.gutter + "-->", BOLD_BLUE)
        return [first, *(paint(m, BOLD) for m in more), f"{arrow} {shown_path(d.path)}:{place(d)}"]

    def rail(self, mark: str, number: object = "", style: str = BOLD_BLUE) -> str:
        return self.paint(f"{number:>{self.gutter}} {mark}", style)

    def note(self, label: str, text: str, style: str) -> list[str]:
        lead = " " * self.gutter + " = "
        first, *more = wrap(text, self.columns, f"{lead}{label}: ", " " * len(f"{lead}{label}: "))
        head = self.paint(lead, BOLD_BLUE) + self.paint(label, style)
        return [head + first[len(lead) + len(label) :], *more]

    # -- the code frame ---------------------------------------------------------------------------------------------

    def frame(self) -> list[str]:
        d = self.d
        start, stop = caret_columns(d, self.lines)
        crop = self.crop(start, stop)
        out: list[str] = []
        texts = {row: expand(self.lines.line(row))[0] for row in rows(d, self.lines)}
        together = not any(text[:crop].strip() for text in texts.values())  # only indentation is cut, so of all alike
        for row, text in texts.items():
            out.append(f"{self.rail('|', row)} {self.cropped(text, crop if together or row == d.row else 0)}".rstrip())
            if row == d.row:
                count = min(stop - start, crop + self.room - start) if self.room else stop - start
                carets = self.paint("^" * count, _SEVERITY_STYLE[d.severity])
                out.append(f"{self.rail('|')} {' ' * (start - crop)}{carets}")
        return out

    def crop(self, start: int, stop: int) -> int:
        """The first column to show, so that the carets are seen where lines are longer than the terminal is wide."""
        room = self.room
        if not room or stop < room or (stop - start >= room - 8 and start < room // 2):
            return 0
        return max(0, min(start - 4, stop - room + 4))

    @property
    def room(self) -> int:
        return max(20, self.columns - self.gutter - 4) if self.columns > 0 else 0

    def cropped(self, text: str, first: int) -> str:
        """The columns of `text` from `first` on that fit; what is left out is marked with an ellipsis."""
        room = self.room
        if not first and not (room and len(text) * 2 > room):
            return text
        out: list[str] = []
        column = 0
        for char in text:
            if room and column - first + char_width(char) > room:
                out[-1] = "…"
                break
            if column >= first:
                out.append(char)
            column += char_width(char)
        if first and out:
            out[0] = "…" if text[:first].strip() else out[0]
        return "".join(out)

    # -- the fix ----------------------------------------------------------------------------------------------------

    def fix(self, fix: Fix) -> list[str]:
        label, style = _FIX_LABEL[fix.applicability]
        out = self.note(label, clean(behind_label(fix.message)), style)
        left = DIFF_LINES
        if self.hunks:
            out.append(self.rail("|"))
        for i, hunk in enumerate(self.hunks):
            if i and left > 0:
                out.append(self.paint(" " * self.gutter + " :", DIM))
            shown = hunk[: max(left, 0)]
            out += [self.changed(change, first) for change, first in zip(shown, self.first_columns(shown))]
            left -= len(hunk)
        if left < 0:
            more = "1 more line" if left == -1 else f"{-left} more lines"
            out.append(self.paint(f"{' ' * self.gutter} … {more}", DIM))
        return out

    def first_columns(self, hunk: Sequence[Change]) -> list[int]:
        """The first column to show of each changed line: where only indentation is cut, the same for all."""
        firsts = [self.first_difference(hunk, at) for at in range(len(hunk))]
        most = max(firsts, default=0)
        blank = not any(expand(change.text)[0][:most].strip() for change in hunk)
        return [most] * len(hunk) if blank else firsts

    def first_difference(self, hunk: Sequence[Change], at: int) -> int:
        """The first column to show of a changed line: where the line is too long, what changed in it is seen."""
        change, room = hunk[at], self.room - 2
        others = [other.text for other in hunk if {change.sign, other.sign} == {"-", "+"}]
        if room <= 0 or len(change.text) <= room or not others:
            return 0
        same = max(_common(change.text, other) for other in others)
        _, columns = expand(change.text)
        return max(0, columns[same] - room // 2)

    def changed(self, change: Change, first: int) -> str:
        if change.sign == "…":
            return self.paint(f"{' ' * self.gutter} … {change.text}", DIM)
        text, _ = expand(change.text)
        style = {"-": RED, "+": GREEN, "~": CYAN}.get(change.sign, DIM)
        number = self.paint(f"{change.row:>{self.gutter}}", DIM)
        return f"{number} {self.paint(f'{change.sign} {self.cropped(text, first)}'.rstrip(), style)}"
