"""What a rule's page says beside its docstring: what was measured of its fix, and near-misses on which it is silent.

Both are made from committed files alone (torchlint/evidence.json, fixtures/<rule>/ok.py), so the same on every machine.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Sequence
from pathlib import Path

from torchlint import evidence
from torchlint.evidence import Evidence, Measurement, Timing
from torchlint.page import interval_plot
from torchlint.rule import Rule

_FIXTURES = Path(__file__).parents[1] / "fixtures"
_EXAMPLES = 6  # near-misses on a page
_LINES = 12  # of one near-miss, unless two more make it whole
_NO_REASON = re.compile(r"#\s*(expect:|noqa|type:|fmt:|torchlint:|pylint:)")
_COLOURS = {"faster": "after", "slower": "bad"}
_STAY = "&nbsp;"  # within one figure of a table: on a phone the table scrolls

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


# -- measured -----------------------------------------------------------------------------------------------------


def measured(rule: Rule) -> str:
    """The section on numbers; where there are none, it says so in a line."""
    return "\n## Measured\n\n" + _measured(rule, evidence.load().get(rule.code))


def _measured(rule: Rule, found: Evidence | None) -> str:
    if found is None or not found.verdicts:
        if not rule.fixes:
            return "Nothing: the rule has no fix to compare.\n"
        return "Nothing: no case of the rule runs its code before and after the fix.\n"
    verdicts = ", ".join(f"`{kind}` in {count}" for kind, count in sorted(found.verdicts.items()))
    count = sum(found.verdicts.values())
    cases = f"{count} case{'s' * (count != 1)}"
    text = f"Behaviour before and after the fix, in {cases} ([verdicts](../verifier.md#verdicts)): {verdicts}.\n"
    if found.gpu_only:
        text += "What it gains shows on a GPU only, and was not measured.\n"
    elif not found.measurements:
        text += "No change of time or memory is claimed.\n"
    if not found.measurements:
        return text
    return f"{text}\n{_plot(found.measurements)}{_table(found.measurements)}\n{_sources(found.measurements)}"


def _plot(measurements: Sequence[Measurement]) -> str:
    """Every case at its largest size, time and then memory. Lines of HTML, coloured by docs/site.css."""
    times, peaks = [], []
    for m in measurements:
        if m.timings:
            t = max(m.timings, key=lambda t: t.size)
            times.append((f"{m.name}, n = {t.size}" if t.size else m.name, t.ratio, t.low, t.high, _colour(t)))
        if m.peak and all(m.peak):
            ratio = m.peak[0] / m.peak[1]
            kind = "faster" if ratio > 1.05 else "slower" if ratio < 1 / 1.05 else ""
            peaks.append((m.name, ratio, ratio, ratio, _COLOURS.get(kind, "before")))
    return _figure(
        times,
        "time before divided by time after the fix, by case",
        "Time before ÷ time after with its 95 % interval, at the largest size: right of ×1 is faster",
    ) + _figure(
        peaks,
        "peak memory before divided by peak memory after the fix, by case",
        "Peak memory of tensors before ÷ after, counted and not timed: right of ×1 is less",
    )


def _figure(rows: Sequence[tuple[str, float, float, float, str]], label: str, caption: str) -> str:
    if not rows:
        return ""
    svg = interval_plot(rows, label, above=True)
    return f'<figure class="tl-plot"><figcaption>{caption}</figcaption>{svg}</figure>\n\n'


def _colour(timing: Timing) -> str:
    return _COLOURS.get(timing.kind, "before")


def _table(measurements: Sequence[Measurement]) -> str:
    lines = ["| Case | Time before ÷ after | Peak memory of tensors |", "| --- | --- | --- |"]
    for m in measurements:
        timings = "<br>".join(_timing(t) for t in m.timings) or "no claim"
        peak = f"{_bytes(m.peak[0])} → {_bytes(m.peak[1])}".replace(" ", _STAY) if m.peak else "no claim"
        lines.append(f"| {m.name.replace('|', chr(92) + '|')} | {timings} | {peak} |")
    return "\n".join(lines) + "\n"


def _timing(t: Timing) -> str:
    at = f"n = {t.size}: " if t.size else ""
    claim = "" if t.kind == "faster" else f", {t.kind}"
    return f"{at}×{_digits(t.ratio)} [{_digits(t.low)}, {_digits(t.high)}]".replace(" ", _STAY) + claim


def _digits(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"


def _bytes(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.1f} KiB" if count < 1 << 20 else f"{count / (1 << 20):.1f} MiB"


def _sources(measurements: Sequence[Measurement]) -> str:
    used = {m.source for m in measurements}
    machines: dict[str, list[str]] = {}
    for path, source in evidence.sources().items():
        if path in used:
            machines.setdefault(f"{source.device}, {source.machine}", []).append(f"`{path}`")
    listed = "; ".join(f"{machine} ({', '.join(paths)})" for machine, paths in machines.items())
    return (
        f"Measured on {listed}: torchlint's own cases and programs, not your code. n is the size of the case's input.\n"
    )


# -- silent -------------------------------------------------------------------------------------------------------


def silent(rule: Rule, fixtures: Path = _FIXTURES) -> str:
    """The section of near-misses: the first few of the rule's ok.py that say why they are fine."""
    file = fixtures / rule.name.replace("-", "_") / "ok.py"
    if not file.is_file():
        return ""
    text = file.read_text(encoding="utf-8")
    examples = near_misses(text)
    said = ast.get_docstring(ast.parse(text)) or ""
    rest = len(examples) - _EXAMPLES
    place = f"`fixtures/{file.parent.name}/ok.py`"
    more = f" {rest} more lie in {place}." if rest > 0 else f" They lie in {place}."
    head = "\n## Why these are silent\n\n" + (f"{said}\n\n" if said else "")
    shown = "".join(_block(code) for code in examples[:_EXAMPLES])
    return f"{head}Near-misses that the rule must not report.{more}\n{shown}"


def _block(code: str) -> str:
    fence = "````" if "```" in code else "```"
    return f"\n{fence}python\n{code}\n{fence}\n"


def near_misses(text: str) -> list[str]:
    """Definitions of a module, each cut to a few lines around the docstring or comment that says why it is fine.

    Where none says why, all of them, after the statements above them.
    """
    lines = text.splitlines()
    module = ast.parse(text)
    definitions = [d for d in module.body if isinstance(d, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    comments = _comments(text)
    with_reason = [_definition(lines, comments, d) for d in definitions]
    found = ["\n".join(_cut(lines, span, reason)) for span, reason in with_reason if reason]
    if found:
        return found
    above = _statements(lines, module, definitions[0].lineno if definitions else len(lines) + 1)
    return above + ["\n".join(_cut(lines, span, span[0])) for span, _ in with_reason]


def _definition(lines: Sequence[str], comments: Sequence[int], node: Definition) -> tuple[tuple[int, int, int], int]:
    """Where a definition starts, its signature ends, and it ends; and the line of its reason, 0 if there is none."""
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    last = node.end_lineno or first
    while first - 1 in comments and lines[first - 2].startswith("#"):
        first -= 1  # a comment right above belongs to it
    signature = max(first, min(node.body[0].lineno - 1, first + 4))
    if ast.get_docstring(node):
        return (first, signature, last), first
    return (first, signature, last), next((at for at in comments if first <= at <= last), 0)


def _statements(lines: Sequence[str], module: ast.Module, before: int) -> list[str]:
    """What stands at the top of a module beside its docstring and imports, as one example."""
    left_out = (ast.Import, ast.ImportFrom)
    told = [s for s in module.body[1:] if s.lineno < before and not isinstance(s, left_out)]
    kept = [line for s in told for line in lines[s.lineno - 1 : s.end_lineno]]
    return ["\n".join(kept[:_LINES])] if kept else []


def _comments(text: str) -> list[int]:
    """The lines with a comment that is meant for people."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [t.start[0] for t in tokens if t.type == tokenize.COMMENT and not _NO_REASON.match(t.string)]


def _cut(lines: Sequence[str], span: tuple[int, int, int], reason: int) -> list[str]:
    """The lines of a definition, numbered from 1; of a long one its head and the lines around the reason."""
    first, signature, last = span
    if last - first < _LINES + 2:
        return list(lines[first - 1 : last])
    if reason - first < _LINES - 2:
        return _strip(lines[first - 1 : first + _LINES - 2])
    head = lines[first - 1 : signature]
    end = min(last, reason + 2)
    around = _strip(lines[end - (_LINES - len(head) - 2) : end], end == last)
    return [*head, f"{_margin(around[0])}...", *around]


def _strip(lines: Sequence[str], whole: bool = False) -> list[str]:
    """Without blank lines at either end; where more would follow, without a header at the end, and with an ellipsis."""
    kept = list(lines)
    while kept and not kept[0].strip():
        kept.pop(0)
    while kept and not whole and (not kept[-1].strip() or kept[-1].endswith(":")):
        kept.pop()
    return kept if whole else [*kept, f"{_margin(kept[-1])}..."]


def _margin(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]
