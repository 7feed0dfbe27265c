"""The HTML report: one self-contained page with inline plots, readable in light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torchlint.verify.verdict import Behaviour, CaseVerdict, CostVerdict, MemoryVerdict, Point, Trend, human_bytes

_STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfb; --ink: #1b1d22; --soft: #5c626e; --line: #dcdfe5; --card: #fff;
  --good: #1a7f4b; --bad: #b3261e; --warn: #8a5a00; --before: #9aa3b2; --after: #2f6fdb; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171b; --ink: #e8eaee; --soft: #a0a7b4; --line: #30343c;
  --card: #1c1f25; --good: #5fc98f; --bad: #ff8a80; --warn: #e0b15a; --before: #6b7382; --after: #7aa7ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.55 system-ui, sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.1rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0; font-weight: 600; overflow-wrap: anywhere; }
p { margin: 0; }
.facts, .soft { color: var(--soft); }
.totals { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 1.25rem 0 0; padding: 0; list-style: none; }
.totals b { font-size: 1.35rem; font-variant-numeric: tabular-nums; margin-right: .35rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.15rem;
  margin: 0 0 1rem; }
.head { display: flex; flex-wrap: wrap; gap: .4rem .75rem; align-items: baseline; justify-content: space-between; }
.verdict { font-weight: 600; } .good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1rem 2rem;
  margin: .9rem 0 .4rem; }
figure { margin: 0; max-width: 28rem; } figcaption { color: var(--soft); font-size: .85rem; margin-bottom: .3rem; }
svg { width: 100%; height: auto; display: block; font: 11px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .soft { fill: var(--soft); }
dl { display: grid; grid-template-columns: 7rem 1fr; gap: .15rem .75rem; margin: .7rem 0 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin-top: 1.25rem; font-size: .9rem; }
a { color: var(--after); }
"""


def render_page(results: Mapping[str, Sequence[CaseVerdict]], facts: Mapping[str, Any]) -> str:
    """The whole page. Every text that came from code under test is escaped."""
    verdicts = [v for group in results.values() for v in group]
    held = sum(v.holds for v in verdicts)
    totals = [
        (held, f"of {len(verdicts)} cases hold"),
        (sum(v.behaviour.kind is Behaviour.BITWISE for v in verdicts), "bitwise equal"),
        (sum(v.cost.kind.value == "faster" for v in verdicts), "faster"),
        (sum(v.memory.kind is Trend.SAVES for v in verdicts), "save memory"),
        (sum(v.wrong_fix is not None and not v.wrong_fix.proven for v in verdicts), "wrong fixes refused"),
    ]
    described = ", ".join(f"{key} {value}" for key, value in facts.items())
    return page("torchlint verify", described, totals, {rule: map(_article, group) for rule, group in results.items()})


def page(title: str, described: str, totals: Sequence[tuple[int, str]], sections: Mapping[str, Iterable[str]]) -> str:
    """The frame of a report: a line of facts, figures, and under each heading its articles."""
    items = "".join(f"<li><b>{count}</b>{label}</li>" for count, label in totals)
    links = "".join(f'<a href="#r{i}">{html.escape(name)}</a>' for i, name in enumerate(sections))
    body = "".join(
        f'<h2 id="r{i}">{html.escape(name)}</h2>' + "".join(articles)
        for i, (name, articles) in enumerate(sections.items())
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main><h1>{title}</h1>"
        f'<p class="facts">{html.escape(described)}</p><ul class="totals">{items}</ul><nav>{links}</nav>{body}'
        "</main></body></html>\n"
    )


def article(title: str, verdict: str, tone: str, plots: Sequence[str], rows: Sequence[tuple[str, str]]) -> str:
    """One judged thing: its name, its verdict in the tone `good`, `warn` or `bad`, its plots and its facts."""
    listed = "".join(f"<dt>{label}</dt><dd>{html.escape(text)}</dd>" for label, text in rows)
    return (
        f'<article><div class="head"><h3>{html.escape(title)}</h3>'
        f'<p class="verdict {tone}">{html.escape(verdict)}</p></div>'
        f'<div class="plots">{"".join(plots)}</div><dl>{listed}</dl></article>'
    )


def _article(v: CaseVerdict) -> str:
    tone = "good" if v.holds else "warn" if v.behaviour.proven else "bad"
    plots = []
    timed = {size: cost for size, cost in v.speed.items() if cost.ratio is not None}
    if timed:
        plots.append(figure("Time before ÷ time after, 95 % interval, by size", speed_plot(timed)))
    plots += memory_figures(v.memory)
    rows = [("cost", str(v.cost)), ("memory", str(v.memory))]
    changed = ", ".join(f"{name} {a}→{b}" for name, (a, b) in v.counters.items() if a != b)
    if changed:
        rows.append(("counters", changed))
    if v.wrong_fix is not None:
        rows.append(("wrong fix", ("passes: " if v.wrong_fix.proven else "refused: ") + str(v.wrong_fix)))
    rows.append(("evidence", str(v.evidence)))
    rows.append(("sandbox", v.evidence.sandbox or "none"))
    rows.extend(("failed", failure) for failure in v.failures)
    return article(v.name, str(v.behaviour), tone, plots, rows)


def figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{svg}</figure>"


def speed_plot(timed: Mapping[int, CostVerdict]) -> str:
    """Speedup with its interval per size, on a logarithmic axis with a line at ×1."""
    width, left, right, row = 360, 64, 78, 26
    sizes = sorted(timed)
    height = row * len(sizes) + 26
    lows = [min(timed[s].low or 1, 1.0) for s in sizes]
    highs = [max(timed[s].high or 1, 1.0) for s in sizes]
    start, end = math.log10(min(lows)) - 0.03, math.log10(max(highs)) + 0.03
    span = max(end - start, 0.1)

    def x(value: float) -> float:
        return left + (math.log10(value) - start) / span * (width - left - right)

    parts = []
    for tick in _ticks(start, end):
        parts.append(
            f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 20}" '
            f'stroke="var(--{"soft" if tick == 1 else "line"})"/>'
            f'<text class="soft" x="{x(tick):.1f}" y="{height - 6}" text-anchor="middle">×{tick:g}</text>'
        )
    for i, size in enumerate(sizes):
        cost, y = timed[size], 16 + i * row
        value, low, high = cost.ratio or 1.0, cost.low or 1.0, cost.high or 1.0
        colour = {"faster": "good", "slower": "bad"}.get(cost.kind.value, "soft")
        parts.append(
            f'<text class="soft" x="{left - 10}" y="{y + 4}" text-anchor="end">n={size}</text>'
            f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}" stroke="var(--{colour})" stroke-width="2"/>'
            f'<circle cx="{x(value):.1f}" cy="{y}" r="4.5" fill="var(--{colour})"/>'
            f'<text x="{width - right + 10}" y="{y + 4}">×{value:.3g}</text>'
        )
    return _svg(width, height, parts, "speedup per size")


def _ticks(start: float, end: float) -> list[float]:
    """Round numbers between the exponents: the finest series that gives at most five."""
    decades = range(math.floor(start) - 1, math.ceil(end) + 1)
    for series in ((1, 1.1, 1.2, 1.5, 2, 3, 5, 7), (1, 1.5, 2, 3, 5), (1, 2, 5), (1,)):
        ticks = [a * 10.0**e for e in decades for a in series if start <= math.log10(a * 10.0**e) <= end]
        if len(ticks) <= 5:
            return ticks or [1.0]
    return ticks[:: len(ticks) // 5 + 1]


def memory_figures(memory: MemoryVerdict) -> list[str]:
    """The plot of a memory verdict, where there is anything to see."""
    if memory.kind is Trend.SAME or memory.peak is None or memory.saved is None:
        return []
    return [figure("Tensor bytes, before (grey) and after (blue)", memory_plot(memory.peak, memory.saved))]


def memory_plot(peak: tuple[int, int], saved: tuple[int, int]) -> str:
    """Four bars on one scale: peak and saved bytes, before and after."""
    width, left, right, bar = 360, 64, 78, 13
    top = max(*peak, *saved, 1)
    parts = []
    y = 6
    for label, pair in (("peak", peak), ("saved", saved)):
        parts.append(f'<text class="soft" x="{left - 10}" y="{y + bar + 5}" text-anchor="end">{label}</text>')
        for value, colour in zip(pair, ("before", "after")):
            length = max(value / top * (width - left - right), 1.0 if value else 0.0)
            parts.append(
                f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar}" rx="2" fill="var(--{colour})"/>'
                f'<text x="{width - right + 10}" y="{y + bar - 2}">{human_bytes(value)}</text>'
            )
            y += bar + 2
        y += 10
    return _svg(width, y, parts, "tensor bytes before and after")


def divergence_plot(points: Sequence[Point]) -> str:
    """Relative deviation from the original by step, on a logarithmic axis: the fix, and 1-ulp nudges below it."""
    width, height, left, right, top, bottom = 360, 150, 52, 62, 10, 26
    floor = 1e-17
    values = [max(v, floor) for p in points for v in (p.fixed, p.nudged)]
    low, high = math.floor(math.log10(min(values))), max(math.ceil(math.log10(max(values))), 0)
    last = max(points[-1].step, 2)

    def x(step: int) -> float:
        return left + (step - 1) / (last - 1) * (width - left - right)

    def y(value: float) -> float:
        return top + (high - math.log10(max(value, floor))) / max(high - low, 1) * (height - top - bottom)

    parts = []
    for exponent in sorted({low, (low + high) // 2, high}):
        label = "0" if 10.0**exponent <= floor else f"1e{exponent}"
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{y(10.0**exponent):.1f}" y2="{y(10.0**exponent):.1f}" '
            f'stroke="var(--line)"/><text class="soft" x="{left - 8}" y="{y(10.0**exponent) + 4:.1f}" '
            f'text-anchor="end">{label}</text>'
        )
    for step in (1, last):
        parts.append(f'<text class="soft" x="{x(step):.1f}" y="{height - 8}" text-anchor="middle">step {step}</text>')
    for name, colour, series in (
        ("1 ulp", "before", [(p.step, p.nudged) for p in points]), ("fixed", "bad", [(p.step, p.fixed) for p in points])
    ):  # fmt: skip
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in series)
        parts.append(f'<polyline points="{path}" fill="none" stroke="var(--{colour})" stroke-width="2"/>')
        parts += [f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" r="3" fill="var(--{colour})"/>' for s, v in series]
        parts.append(f'<text x="{width - right + 8}" y="{y(series[-1][1]) + 4:.1f}">{name}</text>')
    return _svg(width, height, parts, "deviation from the original by step")


def _svg(width: int, height: int, parts: Sequence[str], label: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
