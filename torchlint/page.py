"""What every HTML page of torchlint is made of: one self-contained frame, readable in light and dark, and inline plots.

Pages load nothing and run nothing: their content security policy allows their own style sheet alone.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
from collections.abc import Sequence

STYLE = """
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
p { margin: 0; } code { overflow-wrap: anywhere; }
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
svg .over { paint-order: stroke; stroke: var(--card); stroke-width: 5px; }
dl { display: grid; grid-template-columns: 7rem 1fr; gap: .15rem .75rem; margin: .7rem 0 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin-top: 1.25rem; font-size: .9rem; }
a { color: var(--after); }
"""


def document(title: str, body: str, style: str = "") -> str:
    """The whole page around a body whose texts are escaped already. `style` comes after the common style sheet."""
    sheet = STYLE + style
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{sheet}</style></head><body><main>{body}</main></body></html>\n"
    )


def heading(title: str, described: str, totals: Sequence[tuple[int, str]]) -> str:
    """The name of the page, a line of facts, and its figures."""
    items = "".join(f"<li><b>{count}</b>{html.escape(label)}</li>" for count, label in totals)
    return f'<h1>{html.escape(title)}</h1><p class="facts">{html.escape(described)}</p><ul class="totals">{items}</ul>'


def figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{svg}</figure>"


def drawing(width: int, height: int, parts: Sequence[str], label: str) -> str:
    """An SVG of these parts; `label` says to those who cannot see it what it shows."""
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg>'


def ticks(start: float, end: float) -> list[float]:
    """Round numbers between two exponents of ten: the finest series that gives at most five."""
    decades = range(math.floor(start) - 1, math.ceil(end) + 1)
    for series in ((1, 1.1, 1.2, 1.5, 2, 3, 5, 7), (1, 1.5, 2, 3, 5), (1, 2, 5), (1,)):
        found = [a * 10.0**e for e in decades for a in series if start <= math.log10(a * 10.0**e) <= end]
        if len(found) <= 5:
            return found or [1.0]
    return found[:: len(found) // 5 + 1]


def interval_plot(
    rows: Sequence[tuple[str, float, float, float, str]], label: str, *, left: int = 64, above: bool = False
) -> str:
    """Ratios with their intervals on a logarithmic axis with a line at x1: (name, value, low, high, colour) per row.

    Names stand in a margin of `left`, or, for long ones, above their intervals.
    """
    width, right, row, first = 360, 78, 40 if above else 26, 28 if above else 16
    left = 8 if above else left
    height = row * len(rows) + 26
    start = math.log10(min(1.0, *(low for _, _, low, _, _ in rows))) - 0.03
    end = math.log10(max(1.0, *(high for _, _, _, high, _ in rows))) + 0.03
    span = max(end - start, 0.1)

    def x(value: float) -> float:
        return left + (math.log10(value) - start) / span * (width - left - right)

    parts = []
    shown: list[float] = []
    for tick in sorted(ticks(start, end), key=lambda t: t != 1):  # the line at x1 stays, others where there is room
        if any(abs(x(tick) - x(other)) < 32 for other in shown):
            continue
        shown.append(tick)
        parts.append(
            f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 20}" '
            f'stroke="var(--{"soft" if tick == 1 else "line"})"/>'
            f'<text class="soft" x="{x(tick):.1f}" y="{height - 6}" text-anchor="middle">×{tick:g}</text>'
        )
    for i, (name, value, low, high, colour) in enumerate(rows):
        y = first + i * row
        at = f'x="{left}" y="{y - 14}"' if above else f'x="{left - 10}" y="{y + 4}" text-anchor="end"'
        parts.append(
            f'<text class="soft{" over" * above}" {at}>{html.escape(name)}</text>'
            f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}" stroke="var(--{colour})" stroke-width="2"/>'
            f'<circle cx="{x(value):.1f}" cy="{y}" r="4.5" fill="var(--{colour})"/>'
            f'<text x="{width - right + 10}" y="{y + 4}">×{value:.3g}</text>'
        )
    return drawing(width, height, parts, label)
