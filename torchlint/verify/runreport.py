"""What a run of the user's own command showed, fix by fix: for the terminal, as JSON (`run_schema.json`), as a page."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from torchlint.verify.search import Search, Step
from torchlint.verify.verdict import Behaviour, Speed, Trend, as_json

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class RunReport:
    """`runs` is how often the command was run, `seconds` how long all of it took."""

    searches: Sequence[Search]
    written: tuple[str, ...]
    notes: tuple[str, ...]
    sandbox: tuple[str, ...]
    runs: int
    seconds: float
    command: Sequence[str]

    @property
    def proven(self) -> int:
        return sum(len(step.rules) for search in self.searches for step in search.accepted)

    @property
    def total(self) -> int:
        return self.proven + sum(len(step.rules) for search in self.searches for step in search.refused)

    def text(self, *, whole: bool, width: int = 120) -> str:
        """The report for a terminal; `whole` for `verify --run`, which never writes."""
        lines: list[str] = []
        for heading, groups in (
            ("proven:", [(search, search.accepted) for search in self.searches]),
            ("not proven, not written:", [(search, search.refused) for search in self.searches]),
        ):
            if any(steps for _, steps in groups):
                lines.append("not proven:" if whole and heading.startswith("not") else heading)
            for search, steps in groups:
                if steps:
                    lines.append(f"  {place(search)}")
                for step in steps:
                    lines += textwrap.wrap(_line(step), width, initial_indent="    ", subsequent_indent=" " * 12)
        done = f"written to {', '.join(self.written)}" if self.written else "nothing was written"
        times = f"the command was run {self.runs} time{'s' * (self.runs != 1)}, {self.seconds:.1f} s in all"
        lines.append(f"{self.proven} of {self.total} fixes proven; {done}; {times}")
        lines += [f"note: {note}" for note in self._told()]
        lines += [f"sandbox: {sandbox}" for sandbox in self.sandbox]
        return "\n".join(lines) + "\n"

    def _told(self) -> list[str]:
        return [*self._meant(), *self._slower(), *self.notes]

    def _meant(self) -> list[str]:
        """Which refused fixes are to change what is computed, by their rules' own cases: the user must judge them."""
        from torchlint.evidence import load

        meant = {code for code, evidence in load().items() if Behaviour.INTENDED.value in evidence.verdicts}
        return [
            f"{', '.join(sorted(set(step.rules) & meant))} in {place(search)} is meant to change what is computed, and "
            "this run alone cannot tell a right change from a wrong one: read the fix and decide "
            f"(`torchlint fix {shlex.quote(search.path)} --select {','.join(step.rules)}` shows it)"
            for search in self.searches
            for step in search.refused
            if meant & set(step.rules) and step.judged.verdict.kind is Behaviour.DIFFERENT
        ]

    def _slower(self) -> list[str]:
        """What is proven to do the same and took longer on this run's data: whether to keep it is the user's choice."""
        return [
            f"proven, and slower on the data of this run: {'+'.join(step.rules)} in {place(search)}"
            for search in self.searches
            for step in search.accepted
            if step.judged.cost is not None and step.judged.cost.speed.kind is Speed.SLOWER
        ]

    def json(self) -> str:
        from torchlint.verify.cases import resolve_device
        from torchlint.verify.table import machine_facts

        units = [
            {"path": search.path, "names": list(search.names), "line": search.line,
             "proven": [_step(step) for step in search.accepted], "refused": [_step(step) for step in search.refused]}
            for search in self.searches
        ]  # fmt: skip
        document = {
            "version": SCHEMA_VERSION, "machine": machine_facts(resolve_device("auto")), "command": list(self.command),
            "runs": self.runs, "seconds": self.seconds, "units": units, "written": list(self.written),
            "notes": self._told(), "sandbox": list(self.sandbox),
        }  # fmt: skip
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    def html(self) -> str:
        from torchlint.verify.cases import resolve_device
        from torchlint.verify.page import page
        from torchlint.verify.table import machine_facts

        steps = [step for search in self.searches for step in (*search.accepted, *search.refused)]
        totals = [
            (self.proven, f"of {self.total} fixes proven"),
            (sum(step.judged.verdict.kind is Behaviour.BITWISE for step in steps), "bitwise equal"),
            (sum(step.judged.verdict.kind is Behaviour.INTENDED for step in steps), "intended changes confirmed"),
            (sum(step.judged.verdict.kind is Behaviour.DIFFERENT for step in steps), "different"),
            (self.runs, "runs of the command"),
        ]
        facts = ", ".join(f"{key} {value}" for key, value in machine_facts(resolve_device("auto")).items())
        sections = {
            place(search): [
                *(_article(step, "good") for step in search.accepted),
                *(_article(step, "bad") for step in search.refused),
            ]
            for search in self.searches
        }
        remarks = [("written", path) for path in self.written]
        remarks += [("note", note) for note in self._told()] + [("sandbox", sandbox) for sandbox in self.sandbox]
        return page("torchlint verify", f"{shlex.join(self.command)} · {facts}", totals, sections, remarks)


def place(search: Search) -> str:
    """The file, line and names of a unit, as the reports call it."""
    return f"{search.path}:{search.line} {', '.join(search.names)}"


def _compared(step: Step) -> str:
    judged = step.judged
    if not judged.of:
        return "nothing compared"
    if judged.unit == "calls":
        return f"{judged.compared} of {judged.of} calls compared"
    return f"{judged.compared} steps compared"


def _line(step: Step) -> str:
    text = f"{'+'.join(step.rules)}  {step.judged.verdict}; {_compared(step)}"
    cost = str(step.judged.cost) if step.judged.cost else ""
    return f"{text}; {cost}" if cost else text


def _step(step: Step) -> dict[str, object]:
    judged = step.judged
    return {
        "rules": list(step.rules), "on_top_of": sorted(step.base), "verdict": as_json(judged.verdict),
        "compared": judged.compared, "of": judged.of, "unit": judged.unit, "cost": as_json(judged.cost),
        "curve": as_json(judged.curve), "summary": str(judged.verdict),
    }  # fmt: skip


def _article(step: Step, tone: str) -> str:
    from torchlint.page import figure
    from torchlint.verify.page import article, divergence_plot, memory_figures, speed_plot

    judged = step.judged
    plots = []
    if judged.curve:
        plots.append(figure("Deviation from the original by step, and of runs nudged by 1 ulp",
                            divergence_plot(judged.curve)))  # fmt: skip
    rows = [("evidence", _compared(step))]
    if step.base:
        rows.append(("on top of", ", ".join(sorted(step.base))))
    if judged.cost is not None:
        plots += memory_figures(judged.cost.memory)
        if judged.cost.speed.kind is not Speed.NOT_MEASURED:
            rows.append(("time", str(judged.cost.speed)))
            if judged.cost.speed.ratio is not None:
                timing = speed_plot({"time": judged.cost.speed})
                plots.insert(0, figure("Time before ÷ time after, 95 % interval", timing))
        if judged.cost.memory.kind is not Trend.NOT_MEASURED:
            rows.append(("memory", str(judged.cost.memory)))
        changed = ", ".join(f"{name} {a}→{b}" for name, (a, b) in judged.cost.counters.items() if a != b)
        if changed:
            rows.append(("counters", changed))
    rows += [("difference", str(difference)) for difference in judged.verdict.differences[:5]]
    return article(", ".join(step.rules), str(judged.verdict), tone, plots, rows)
