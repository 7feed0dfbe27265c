"""The verifier's HTML report: verdicts with their plots, on a page of `torchlint.page`."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torchlint.page import document, drawing, figure, heading, interval_plot
from torchlint.verify.verdict import Behaviour, CaseVerdict, CostVerdict, MemoryVerdict, Point, Trend, human_bytes

_MOST_MARKED = 40  # points of a curve: more of them would run into each other


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


def page(
    title: str,
    described: str,
    totals: Sequence[tuple[int, str]],
    sections: Mapping[str, Iterable[str]],
    remarks: Sequence[tuple[str, str]] = (),
) -> str:
    """The frame of a report: a line of facts, figures, remarks with their labels, under each heading its articles."""
    links = "".join(f'<a href="#r{i}">{html.escape(name)}</a>' for i, name in enumerate(sections))
    body = "".join(
        f'<h2 id="r{i}">{html.escape(name)}</h2>' + "".join(articles)
        for i, (name, articles) in enumerate(sections.items())
    )
    return document(title, f"{heading(title, described, totals)}{_listed(remarks)}<nav>{links}</nav>{body}")


def article(title: str, verdict: str, tone: str, plots: Sequence[str], rows: Sequence[tuple[str, str]]) -> str:
    """One judged thing: its name, its verdict in the tone `good`, `warn` or `bad`, its plots and its facts."""
    return (
        f'<article><div class="head"><h3>{html.escape(title)}</h3>'
        f'<p class="verdict {tone}">{html.escape(verdict)}</p></div>'
        f'<div class="plots">{"".join(plots)}</div>{_listed(rows)}</article>'
    )


def _listed(rows: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{label}</dt><dd>{html.escape(text)}</dd>" for label, text in rows) + "</dl>"


def _article(v: CaseVerdict) -> str:
    tone = "good" if v.holds else "warn" if v.behaviour.proven else "bad"
    plots = []
    timed = {size: cost for size, cost in v.speed.items() if cost.ratio is not None}
    if timed:
        named = {f"n={size}": cost for size, cost in sorted(timed.items())}
        plots.append(figure("Time before ÷ time after, 95 % interval, by size", speed_plot(named)))
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


def speed_plot(timed: Mapping[str, CostVerdict]) -> str:
    """Speedups with their intervals, by name."""
    colours = {"faster": "good", "slower": "bad"}
    rows = [
        (name, cost.ratio or 1.0, cost.low or 1.0, cost.high or 1.0, colours.get(cost.kind.value, "soft"))
        for name, cost in timed.items()
    ]
    return interval_plot(rows, "speedup with its interval")


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
    return drawing(width, y, parts, "tensor bytes before and after")


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
        label = "0" if 10.0**exponent <= floor else f"1e{exponent}" if exponent else "1"
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
        if len(series) <= _MOST_MARKED:
            parts += [f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" r="3" fill="var(--{colour})"/>' for s, v in series]
        parts.append(f'<text x="{width - right + 8}" y="{y(series[-1][1]) + 4:.1f}">{name}</text>')
    return drawing(width, height, parts, "deviation from the original by step")
