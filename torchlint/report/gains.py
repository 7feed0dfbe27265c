"""What was measured of a rule's fix, in words and one plot; where nothing was, that is said."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torchlint.evidence import Evidence, Measurement, Source, Timing
from torchlint.page import figure, interval_plot
from torchlint.report.summary import plural

_PLOTTED = 6  # cases in a plot, those of the greatest and the smallest effect among them
_FELT = 4096  # bytes: below a page of memory nobody feels what a fix saves or costs
_PROVEN = {
    "equivalent-bitwise": "bitwise the same",
    "equivalent-within-tolerance": "the same within tolerance",
    "equivalent-except": "the same but where the original fails",
    "intended-change-confirmed": "changed as the rule says",
}


@dataclass(frozen=True)
class Gains:
    """The evidence by rule code, and the files that it is from with the machines it was taken on."""

    evidence: Mapping[str, Evidence]
    sources: Mapping[str, Source]

    def of(self, code: str) -> str:
        """A rule's part of the page."""
        found = self.evidence.get(code)
        if found is None or not found.verdicts:
            return '<p class="soft"><b>Measured:</b> nothing; this rule has no fix with a case that runs.</p>'
        proven = ", ".join(f"{n} {_PROVEN.get(kind, kind)}" for kind, n in sorted(found.verdicts.items()))
        cases = f"{plural(sum(found.verdicts.values()), 'case')} run before and after the fix: {proven}"
        parts = [part for part in (_time(found), _memory(found)) if part]
        if found.gpu_only:
            parts.append("what it gains shows on a GPU only, where it was not measured")
        if not parts:
            parts.append("nothing about time or memory")
        # The first source is the rules' own cases, which every verdict is from.
        used = [i == 1 or any(m.source == s for m in found.measurements) for i, s in enumerate(self.sources, 1)]
        marks = ", ".join(str(i) for i, is_used in enumerate(used, 1) if is_used)
        devices = ", ".join(sorted({s.device for s, is_used in zip(self.sources.values(), used) if is_used}))
        measured = "; ".join(parts)
        plot = _plot(found.measurements)
        cases = f'<p class="soft">{html.escape(cases)}.<sup>{marks}</sup></p>'
        return f"<p><b>Measured ({html.escape(devices)}):</b> {html.escape(measured)}.</p>{cases}{plot}"

    def footnote(self, codes: Iterable[str]) -> str:
        """Where the numbers come from, if there are any."""
        if not any(code in self.evidence for code in codes):
            return ""
        listed = "".join(
            f"<li><code>{html.escape(path)}</code>: {html.escape(f'{source.machine}, {source.device}')}</li>"
            for path, source in self.sources.items()
        )
        return (
            '<div class="sources"><p>The numbers are of torchlint’s own cases and programs, not of this code, '
            "none an estimate. <code>torchlint fix --apply --verify=run</code> measures on your run. Sources:</p>"
            f"<ol>{listed}</ol></div>"
        )


def _largest(measurement: Measurement) -> Timing:
    return max(measurement.timings, key=lambda t: t.size)


def _time(found: Evidence) -> str:
    """How the time changed at each case's largest size, and where it got worse."""
    timed = [_largest(m) for m in found.measurements if m.timings]
    if not timed:
        return ""
    faster = sorted(t.ratio for t in timed if t.kind == "faster")
    if not faster:
        return f"no faster in {plural(len(timed), 'measured place')}"
    span = _times(faster[0]) if len(faster) == 1 else f"{_times(faster[0])} to {_times(faster[-1])}"
    text = f"{span} faster in {len(faster)} of {plural(len(timed), 'measured place')} (at their largest size)"
    slower = [min(t.ratio for t in m.timings) for m in found.measurements if any(t.kind == "slower" for t in m.timings)]
    if slower:
        text += f"; slower in {len(slower)} of them at some size, at worst {_times(min(slower))}"
    unclear = sum(t.kind == "inconclusive" for t in timed)
    return text + (f"; inconclusive in {unclear}" if unclear else "")


def _times(ratio: float) -> str:
    return f"×{ratio:.2f}" if ratio < 10 else f"×{ratio:.0f}"


def _memory(found: Evidence) -> str:
    """The greatest saving and the greatest cost of peak tensor memory, where either can be felt."""
    peaks = [m.peak for m in found.measurements if m.peak is not None and abs(m.peak[0] - m.peak[1]) >= _FELT]
    saves = max((p for p in peaks if p[1] < p[0]), key=lambda p: p[0] - p[1], default=None)
    costs = max((p for p in peaks if p[1] > p[0]), key=lambda p: p[1] - p[0], default=None)
    parts = [f"peak tensor memory {_bytes(p[0])} → {_bytes(p[1])}" for p in (saves, costs) if p is not None]
    return " in one place, ".join(parts) + (" in another" if len(parts) == 2 else "")


def _bytes(count: int) -> str:
    return f"{count / 1024:.1f} KiB" if count < 1 << 20 else f"{count / (1 << 20):.1f} MiB"


def _plot(measurements: Iterable[Measurement]) -> str:
    """Each measured place at its largest size."""
    timed = sorted((m for m in measurements if m.timings), key=lambda m: -_largest(m).ratio)
    if len(timed) > _PLOTTED:
        timed = [*timed[: _PLOTTED - 2], *timed[-2:]]
    if not timed:
        return ""
    colours = {"faster": "good", "slower": "bad"}
    data = []
    for m in timed:
        t = _largest(m)
        name = f"{m.name}, n={t.size}" if t.size else m.name
        data.append((name, t.ratio, t.low, t.high, colours.get(t.kind, "soft")))
    plot = interval_plot(data, "time before divided by time after, by measured place", above=True)
    return f'<div class="plots">{figure("Time before ÷ time after, 95 % interval", plot)}</div>'
