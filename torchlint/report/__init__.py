"""The output formats by name. A format's module is imported when it is first used: a quiet run pays for none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from torchlint.diagnostic import Diagnostic
from torchlint.options import OUTPUT_FORMATS


@dataclass(frozen=True, slots=True)
class ReportContext:
    """What a report may use besides the findings.

    `root` is the absolute directory that the findings' paths are relative to. `source(path)` gives a file's decoded
    text as it was checked, without BOM, or "" where it has none. `width` is the number of columns to wrap at; 0 never
    wraps. `statistics` asks for counts per rule in place of the findings. `checked` is the number of files read.
    `quiet` leaves out the sums below what is for people.
    """

    root: str
    source: Callable[[str], str]
    color: bool
    width: int
    statistics: bool
    checked: int
    quiet: bool = False


Format = Callable[[Sequence[Diagnostic], ReportContext], str]


def _lazy(name: str) -> Format:
    def render(diagnostics: Sequence[Diagnostic], context: ReportContext) -> str:
        module = import_module("torchlint.report.statistics" if context.statistics else f"torchlint.report.{name}")
        text: str = (
            module.render(diagnostics, context, name) if context.statistics else module.render(diagnostics, context)
        )
        return text

    return render


# Each renders all findings of a run, in the order given, as text that ends with a newline.
FORMATS: dict[str, Format] = {name: _lazy(name) for name in OUTPUT_FORMATS}
