"""Findings as one HTML page: by rule with what was measured of its fix, and by file with code and the fix in short.

Filters work by CSS alone; the page runs nothing. Every text that comes from checked code is escaped.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from torchlint.diagnostic import Applicability, Diagnostic, Fix, Severity
from torchlint.page import document, drawing, figure, heading
from torchlint.report import ReportContext
from torchlint.report.frame import caret_columns, rows
from torchlint.report.gains import Gains
from torchlint.report.lines import Lines, Texts, place
from torchlint.report.patch import Change, hunks
from torchlint.report.summary import fixable, plural
from torchlint.report.terminal import clean, expand, shown_path
from torchlint.report.text import DIFF_LINES, behind_label, split_message

STYLE = """
h2 code, h3 code { font-size: .95em; } h3 a { text-decoration: none; } h3 a:hover { text-decoration: underline; }
.filter { display: flex; flex-wrap: wrap; gap: .45rem 1.2rem; align-items: center; margin: 1.5rem 0 0; padding: 0;
  border: 0; font-size: .9rem; min-width: 0; } .filter legend { color: var(--soft); padding: 0; margin-bottom: .3rem; }
.filter label { display: inline-flex; gap: .4rem; align-items: baseline; cursor: pointer; }
.rules { display: flex; flex-wrap: wrap; gap: .35rem .5rem; }
.rules input { position: absolute; opacity: 0; }
.rules label { border: 1px solid var(--line); border-radius: 99px; padding: .05rem .65rem; background: var(--card); }
.rules input:checked + label { border-color: var(--after); color: var(--after); font-weight: 600; }
.rules input:focus-visible + label { outline: 2px solid var(--after); outline-offset: 2px; }
.error { --tone: var(--bad); } .warning { --tone: var(--warn); } .info { --tone: var(--after); }
.badge { color: var(--tone); font-weight: 600; white-space: nowrap; }
.finding { border-left: 4px solid var(--tone); } .finding p { margin: .35rem 0 0; } .where { color: var(--soft); }
.file > h3 { margin: 1.6rem 0 .6rem; }
.finding p b, .rule p b { font-weight: 600; }
pre { margin: .7rem 0 0; padding: .6rem 0; overflow-x: auto; background: var(--paper); border: 1px solid var(--line);
  border-radius: 6px; font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; tab-size: 4; }
pre span { display: block; width: max-content; min-width: 100%; padding: 0 .8rem; }
pre i { display: inline-block; width: 3.2em; margin-right: 1em; text-align: right; color: var(--soft);
  font-style: normal; user-select: none; }
pre .hit { background: color-mix(in srgb, var(--tone) 9%, transparent); }
mark { background: color-mix(in srgb, var(--tone) 24%, transparent); color: inherit; border-radius: 2px;
  border-bottom: 2px solid var(--tone); }
pre .minus { background: color-mix(in srgb, var(--bad) 13%, transparent); }
pre .plus { background: color-mix(in srgb, var(--good) 15%, transparent); }
pre .remark { color: var(--soft); }
details { margin-top: .7rem; } summary { cursor: pointer; } summary b { font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem 2.5rem;
  margin-top: 1.75rem; } .charts figure { max-width: none; } svg a:hover text { text-decoration: underline; }
.places { margin: .5rem 0 0; padding: 0; list-style: none; columns: 18rem; font-size: .85rem; }
.places li { overflow-wrap: anywhere; break-inside: avoid; } .rule .plots { margin-top: .6rem; }
.sources { font-size: .85rem; color: var(--soft); margin-top: 2.5rem; } .sources li { overflow-wrap: anywhere; }
@media (max-width: 34rem) { main { padding: 1.5rem .8rem 3rem; } article { padding: .8rem .85rem; }
  pre i { width: 2.4em; margin-right: .6em; } pre span { padding: 0 .5rem; } }
@media print { .filter { display: none; } article { break-inside: avoid; } details > * { display: block; } }
"""
_CHART_ROWS = 12  # what is left is summed up in one bar
_FIX = {
    Applicability.SAFE: ("safe fix", "torchlint fix --apply"),
    Applicability.UNSAFE: ("unsafe fix", "torchlint fix --apply --unsafe"),
    Applicability.SUGGESTION: ("suggestion", ""),
}
_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


def render(diagnostics: Sequence[Diagnostic], context: ReportContext, gains: Gains, described: str) -> str:
    """The whole page; `described` is its line of facts."""
    texts = Texts(context.source)
    by_rule = _by_rule(diagnostics)
    anchors = {id(d): f"f{i}" for i, d in enumerate(diagnostics)}
    totals = [
        (len(diagnostics), "finding" if len(diagnostics) == 1 else "findings"),
        *((n, _noun(s, n)) for s in Severity if (n := sum(d.severity is s for d in diagnostics))),
        (fixable(diagnostics, Applicability.SAFE), "with a safe fix"),
        (fixable(diagnostics, Applicability.UNSAFE), "with an unsafe one"),
    ]
    body = [heading("torchlint report", described, totals)]
    if diagnostics:
        body += [
            _filters(by_rule),
            _charts(diagnostics, by_rule, anchors),
            '<h2 id="rules">By rule</h2>',
            *(_rule(found, gains, anchors) for found in by_rule),
            '<h2 id="files">By file</h2>',
            *(_file(path, list(found), texts, anchors) for path, found in groupby(diagnostics, key=lambda d: d.path)),
            gains.footnote(sorted({d.code for d in diagnostics})),
        ]
    else:
        body.append("<h2>Nothing was found</h2>")
    return document("torchlint report", "".join(body), STYLE + _switches(diagnostics, by_rule))


def _by_rule(diagnostics: Iterable[Diagnostic]) -> list[list[Diagnostic]]:
    """The findings of each rule; the gravest rules first, then those that were found most."""
    groups: dict[str, list[Diagnostic]] = {}
    for d in diagnostics:
        groups.setdefault(d.code, []).append(d)
    return sorted(groups.values(), key=lambda g: (min(_ORDER[d.severity] for d in g), -len(g), g[0].code))


def _noun(severity: Severity, count: int = 2) -> str:
    return severity.value if severity is Severity.INFO or count == 1 else f"{severity.value}s"


def _only(found: Iterable[Diagnostic]) -> str:
    """The class of what holds findings of these severities alone."""
    return "only-" + "-".join(sorted({d.severity.value for d in found}))


def _escaped(text: str) -> str:
    return html.escape(clean(text))


def _prose(text: str) -> str:
    """A message with its `code` set as such."""
    parts = _escaped(text).split("`")
    if len(parts) % 2 == 0:
        return "`".join(parts)
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


# -- filters --------------------------------------------------------------------------------------------------------


def _filters(by_rule: Sequence[list[Diagnostic]]) -> str:
    present = sorted({d.severity for group in by_rule for d in group}, key=_ORDER.__getitem__)
    boxes = "".join(
        f'<label class="{s.value}"><input type="checkbox" id="show-{s.value}" checked>'
        f'<span class="badge">{_noun(s)}</span></label>'
        for s in present
    )
    radios = '<input type="radio" name="rule" id="only-all" checked><label for="only-all">all rules</label>' + "".join(
        f'<span><input type="radio" name="rule" id="only-{g[0].code}"><label for="only-{g[0].code}" '
        f'title="{_escaped(g[0].name)}">{g[0].code} · {len(g)}</label></span>'
        for g in by_rule
    )
    return (
        f'<fieldset class="filter"><legend>Show</legend>{boxes}</fieldset>'
        f'<fieldset class="filter"><legend>Only the rule</legend><div class="rules">{radios}</div></fieldset>'
    )


def _switches(diagnostics: Sequence[Diagnostic], by_rule: Sequence[list[Diagnostic]]) -> str:
    """The style rules by which the filters hide what they leave out, and files and rules of which nothing is left."""
    lines = []
    for group in by_rule:
        code = group[0].code
        lines.append(f"body:has(#only-{code}:checked) :is(.finding,.rule,.file):not(.{code}) {{ display: none; }}")
    kinds = {frozenset(d.severity for d in found) for _, found in groupby(diagnostics, key=lambda d: d.path)}
    kinds |= {frozenset(d.severity for d in group) for group in by_rule}
    kinds |= {frozenset([s]) for s in Severity}
    for kind in sorted(kinds, key=lambda k: sorted(s.value for s in k)):
        names = sorted(s.value for s in kind)
        off = "".join(f":has(#show-{name}:not(:checked))" for name in names)
        hidden = f".only-{'-'.join(names)}" + (f",.finding.{names[0]}" if len(names) == 1 else "")
        lines.append(f"body{off} :is({hidden}) {{ display: none; }}")
    return "\n".join(lines) + "\n"


# -- charts ---------------------------------------------------------------------------------------------------------


def _charts(diagnostics: Sequence[Diagnostic], by_rule: Sequence[list[Diagnostic]], anchors: dict[int, str]) -> str:
    rules = [(f"{g[0].code} {g[0].name}", f"#{g[0].code}", g) for g in by_rule]
    files = [
        (shown_path(path), f"#{anchors[id(group[0])]}", group)
        for path, group in ((path, list(found)) for path, found in groupby(diagnostics, key=lambda d: d.path))
    ]
    files.sort(key=lambda row: (-len(row[2]), row[0]))
    rules.sort(key=lambda row: -len(row[2]))
    by = [("Findings by rule", "findings by rule", rules), ("Findings by file", "findings by file", files)]
    return '<div class="charts">' + "".join(figure(title, _bars(data, label)) for title, label, data in by) + "</div>"


def _bars(data: Sequence[tuple[str, str, list[Diagnostic]]], label: str) -> str:
    """A bar for each name, its parts coloured by severity; the names stand above and lead to what they name."""
    shown, rest = data[:_CHART_ROWS], data[_CHART_ROWS:]
    width, row = 420, 31
    top = max(len(found) for _, _, found in data)
    top = max(top, sum(len(found) for _, _, found in rest)) if rest else top
    parts = []
    for i, (name, link, found) in enumerate(shown):
        short = name if len(name) <= 58 else f"…{name[-57:]}"
        parts.append(
            f'<a href="{link}"><text x="0" y="{i * row + 11}" font-size="12">{_escaped(short)}</text></a>'
            + _bar(found, i * row + 16, width - 40, top)
        )
    if rest:
        y = len(shown) * row
        parts.append(f'<text class="soft" x="0" y="{y + 11}" font-size="12">{len(rest)} more</text>')
        parts.append(_bar([d for _, _, found in rest for d in found], y + 16, width - 40, top))
    return drawing(width, row * (len(shown) + bool(rest)), parts, label)


def _bar(found: Sequence[Diagnostic], y: int, width: int, top: int) -> str:
    x, out = 0.0, ""
    for severity, colour in ((Severity.ERROR, "bad"), (Severity.WARNING, "warn"), (Severity.INFO, "after")):
        length = sum(d.severity is severity for d in found) / top * width
        if length:
            out += f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="8" fill="var(--{colour})"/>'
            x += length
    return out + f'<text x="{x + 6:.1f}" y="{y + 8}" font-size="12">{len(found)}</text>'


# -- by rule --------------------------------------------------------------------------------------------------------


def _rule(found: list[Diagnostic], gains: Gains, anchors: dict[int, str]) -> str:
    first = found[0]
    name = f"<code>{first.code}</code> {_escaped(first.name)}"
    if first.url:
        name = f'<a href="{html.escape(first.url)}">{name}</a>'
    (why, do), often = Counter(split_message(d.message)[1:] for d in found).most_common(1)[0]
    at = "" if often == len(found) else f", at {often} of {len(found)}"  # the rule has other reasons, too
    why = f"<p><b>Why{at}:</b> {_prose(why)}</p><p><b>Instead:</b> {_prose(do)}</p>" if why else ""
    badges = ", ".join(
        f'<span class="badge {s.value}">{n} {_noun(s, n)}</span>'
        for s in Severity
        if (n := sum(d.severity is s for d in found))
    )
    fixes = ", ".join(
        f"{n} {_FIX[kind][0]}{'es' * (n != 1) if kind is not Applicability.SUGGESTION else 's' * (n != 1)}"
        for kind in Applicability
        if (n := fixable(found, kind))
    )
    places = "".join(
        f'<li><a href="#{anchors[id(d)]}">{_escaped(shown_path(d.path))}:{place(d)}</a></li>' for d in found
    )
    return (
        f'<article class="rule {first.code} {_only(found)}" id="{first.code}"><div class="head"><h3>{name}</h3>'
        f"<p>{badges}</p></div>{why}{gains.of(first.code)}"
        f"<details><summary>{plural(len(found), 'place')}{f', {fixes}' if fixes else ', no fix'}</summary>"
        f'<ul class="places">{places}</ul></details></article>'
    )


# -- by file --------------------------------------------------------------------------------------------------------


def _file(path: str, found: list[Diagnostic], texts: Texts, anchors: dict[int, str]) -> str:
    codes = " ".join(sorted({d.code for d in found}))
    return (
        f'<section class="file {codes} {_only(found)}"><h3 class="where">{_escaped(shown_path(path))} · '
        f"{plural(len(found), 'finding')}</h3>{''.join(_finding(d, texts, anchors[id(d)]) for d in found)}</section>"
    )


def _finding(d: Diagnostic, texts: Texts, anchor: str) -> str:
    what, why, do = split_message(d.message)
    lines = texts.lines(d.path, d.cell)
    more = f"<p><b>Why:</b> {_prose(why)}</p><p><b>Help:</b> {_prose(do)}</p>" if why else ""
    return (
        f'<article class="finding {d.code} {d.severity.value}" id="{anchor}"><div class="head"><h3>{_prose(what)}</h3>'
        f'<p><span class="badge">{d.severity.value}</span> <a href="#{d.code}"><code>{d.code}</code></a> '
        f'<span class="where">{place(d)}</span></p></div>'
        f"{_frame(d, lines)}{more}{_fix(d, d.fix, texts) if d.fix else ''}</article>"
    )


def _frame(d: Diagnostic, lines: Lines) -> str:
    out = []
    for row in rows(d, lines):
        text, _ = expand(lines.line(row))
        if row != d.row:
            out.append(f"<span><i>{row}</i>{html.escape(text)}</span>")
            continue
        start, stop = caret_columns(d, lines)
        marked = f"{html.escape(text[:start])}<mark>{html.escape(text[start:stop])}</mark>{html.escape(text[stop:])}"
        out.append(f'<span class="hit"><i>{row}</i>{marked}</span>')
    return f'<pre tabindex="0">{"".join(out)}</pre>' if out else ""


def _fix(d: Diagnostic, fix: Fix, texts: Texts) -> str:
    label, command = _FIX[fix.applicability]
    changes: list[Change] = []
    for cell, part in texts.parts(d):
        found = hunks(part, texts.lines(d.path, cell))
        if found and cell != d.cell:
            changes.append(Change("…", 0, f"cell {cell}"))
        for i, hunk in enumerate(found):
            changes += [Change("…", 0, "")] * bool(i) + hunk
    shown = "".join(map(_changed, changes[:DIFF_LINES]))
    if len(changes) > DIFF_LINES:
        shown += _changed(Change("…", 0, f"{plural(len(changes) - DIFF_LINES, 'more line')}"))
    how = f' <span class="soft">({command})</span>' if command else ""
    diff = f'<pre tabindex="0">{shown}</pre>' if shown else ""
    return f"<details open><summary><b>{label}</b>: {_prose(behind_label(fix.message))}{how}</summary>{diff}</details>"


def _changed(change: Change) -> str:
    text, _ = expand(change.text)
    style = {"-": "minus", "+": "plus", "…": "remark"}.get(change.sign, "")
    number = f"{change.row} " if change.row and change.sign != "…" else ""
    return f'<span class="{style}"><i>{number}{change.sign}</i>{html.escape(text)}</span>'
