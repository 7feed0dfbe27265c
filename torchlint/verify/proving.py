"""`fix --apply --verify=run -- CMD` and `verify --run -- CMD`: the fixes that the user's own run proves."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torchlint.discover import DOCUMENTS
from torchlint.telling import tell

if TYPE_CHECKING:
    from torchlint.run import Fixed
    from torchlint.verify.search import Rules, Search
    from torchlint.verify.verdict import BehaviourVerdict

USAGE = (
    "torchlint fix PATH... [--apply] --verify=run [--min-verdict bitwise|tolerance|intended] "
    "[--verify-timeout SECONDS] [--steps N] [--seed S] [--json FILE] [--html FILE] -- COMMAND..."
)
RUN_USAGE = (
    "torchlint verify --run [PATH...] [--fixes RULES] [--min-verdict bitwise|tolerance|intended] "
    "[--verify-timeout SECONDS] [--steps N] [--seed S] [--json FILE] [--html FILE] -- COMMAND..."
)
# What each level of --min-verdict takes, best first; a level takes all before it too.
LEVELS = ("bitwise", "tolerance", "intended")
LEFT_OUT = "notebooks and documents are left out: a command does not load their code, so nothing of it can be compared"


@dataclass(frozen=True, slots=True)
class Settings:
    """How the command is run and what counts as proven."""

    timeout: float = 3600.0
    steps: int = 8
    seed: int = 0
    least: str = "intended"
    json: Path | None = None
    html: Path | None = None


def accepts(least: str) -> Callable[[BehaviourVerdict], bool]:
    """Whether a verdict is good enough for `--min-verdict`. Raises ValueError for an unknown level."""
    from torchlint.verify.verdict import Behaviour

    if least not in LEVELS:
        raise ValueError(f"unknown --min-verdict {least!r}; known are {', '.join(LEVELS)}")
    kinds = {Behaviour.BITWISE}
    if least != "bitwise":
        kinds |= {Behaviour.TOLERANCE, Behaviour.EXCEPT}
    if least == "intended":
        kinds.add(Behaviour.INTENDED)
    return lambda verdict: verdict.proven and verdict.kind in kinds


def main(argv: Sequence[str]) -> int:
    """Exit code 0: every fix was proven (and, with --apply, written); 1: some were not; 2: it could not be run."""
    return _main(argv, USAGE, whole=False)


def compare_runs(argv: Sequence[str]) -> int:
    """`torchlint verify --run`: whole runs compared, fix by fix where that is needed; nothing is written."""
    return _main([word for word in argv if word != "--run"], RUN_USAGE, whole=True)


def _main(argv: Sequence[str], usage: str, *, whole: bool) -> int:
    from torchlint.options import UsageError, parse
    from torchlint.plugins import Asked
    from torchlint.session import SetupError

    own, command = _split(list(argv))
    if {"--help", "-h"} & set(own):
        print(usage)
        return 0
    from torchlint.verify.command import can_run

    if not can_run():
        return 2
    if not command:
        return _trouble(f"--{'run' if whole else 'verify=run'} needs the command that runs your code: {usage}")
    if importlib.util.find_spec("torch") is None:
        return _trouble("verifying runs code and needs torch: pip install 'torchlint[verify]'")
    try:
        words, settings = _options(own, usage)
        if whole:
            words = words or ["."]
        with Asked(parse(["fix", *words]).many("--rules")):
            return _Proving(words, command, settings, whole=whole).run()
    except (UsageError, SetupError, ValueError) as error:
        return _trouble(str(error))


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _options(words: list[str], usage: str) -> tuple[list[str], Settings]:
    """The words for the ordinary `fix`, and the verifier's own settings. Raises ValueError."""
    rest: list[str] = []
    numbers = {"--verify-timeout": 3600.0, "--steps": 8.0, "--seed": 0.0}
    texts = {"--min-verdict": "intended", "--json": "", "--html": "", "--fixes": ""}
    queue = list(words)
    while queue:
        word = queue.pop(0)
        name, _, value = word.partition("=")
        if name == "--verify":
            if value not in ("", "run"):
                raise ValueError(f"unknown --verify={value}; known is run: {usage}")
        elif name in numbers or name in texts:
            value = value or (queue.pop(0) if queue else "")
            if name in texts:
                if not value:
                    raise ValueError(f"{name} needs a value: {usage}")
                texts[name] = value
                continue
            try:
                numbers[name] = float(value)
            except ValueError:
                raise ValueError(f"{name} needs a number, not {value!r}") from None
        else:
            rest.append(word)
    if texts["--fixes"]:
        rest.append(f"--select={texts['--fixes']}")
    json, html = (Path(texts[name]).absolute() if texts[name] else None for name in ("--json", "--html"))
    accepts(texts["--min-verdict"])
    return rest, Settings(
        numbers["--verify-timeout"], max(1, int(numbers["--steps"])), int(numbers["--seed"]), texts["--min-verdict"],
        json, html,
    )  # fmt: skip


def _trouble(line: str) -> int:
    tell(line)
    return 2


class _Proving:
    """One command: units are searched for what is proven of them, then the proven parts are put together."""

    def __init__(self, words: list[str], command: list[str], settings: Settings, *, whole: bool) -> None:
        self.words, self.command, self.settings, self.whole = words, command, settings, whole
        self._texts: dict[tuple[str, Rules], str] = {}

    def run(self) -> int:
        from torchlint.options import parse
        from torchlint.session import Session
        from torchlint.verify.differential import Runs
        from torchlint.verify.prover import Prover
        from torchlint.verify.runreport import RunReport
        from torchlint.verify.shadow import Limits

        started = time.monotonic()
        self.session = Session(parse(["fix", "--verify=run", "--no-cache", *self.words]))
        self.session.check()
        narrowing = self.session.narrow()
        if narrowing is not None:
            sys.stderr.write(narrowing.told())
        # What a run proves need not be called safe beforehand.
        made = [one for one in self.session.fix(True) if one.applied]
        self.fixed = [one for one in made if not one.path.endswith((".ipynb", *DOCUMENTS))]
        notes = [LEFT_OUT] if len(self.fixed) < len(made) else []
        if not self.fixed:
            print("Nothing to fix.", *notes)
            return self.session.finish(0)
        searches = [search for one in self.fixed for search in self._searches(one)]
        settings = self.settings
        runs = Runs(self.command, steps=settings.steps, seed=settings.seed, timeout=settings.timeout)
        prover = Prover(self._text, self.command, runs, Limits(), whole=self.whole, timeout=settings.timeout)
        prover.solve(searches)
        written = [] if self.whole else self._write(searches)
        report = RunReport(
            searches, tuple(written), (*notes, *prover.notes), tuple(filter(None, prover.sandbox)),
            prover.count + runs.count, round(time.monotonic() - started, 2), self.command,
        )  # fmt: skip
        sys.stdout.write(report.text(whole=self.whole))
        if settings.json is not None:
            settings.json.write_text(report.json(), encoding="utf-8")
        if settings.html is not None:
            settings.html.write_text(report.html(), encoding="utf-8")
        return self.session.finish(1 if any(search.refused for search in searches) else 0)

    # -- what there is to prove ---------------------------------------------------------------------------------------

    def _text(self, path: str, rules: Rules) -> str:
        """A file as the fixes of these rules alone make it."""
        from torchlint import run

        if not rules:
            return self.session.source(path)
        if (path, rules) not in self._texts:
            project = self.session.project_of(path)
            active = {code: name for code, name in project.selection.active.items() if code in rules}
            selection = replace(project.selection, active=active, complete=False, unused=None)
            answers = self.session.result.answers
            one = run.fix_source(path, run.read(path), project.config, selection, True, answers)
            self._texts[path, rules] = one.text
        return self._texts[path, rules]

    def _searches(self, one: Fixed) -> list[Search]:
        from torchlint.verify.search import Search
        from torchlint.verify.units import Splice, changed, groups, starting_line, touched

        before = self.session.source(one.path)
        by_rule = {}
        for code in sorted({d.code for d in one.applied}):
            by_rule[code] = changed(before, self._text(one.path, frozenset({code})))
        fixes = [
            [Splice(edit.start, edit.end, edit.text) for edit in d.fix.edits]
            for d in self.session.result.diagnostics
            if d.path == one.path and d.fix is not None and d.code in by_rule
        ]
        names = set().union(*by_rule.values())
        good_enough = accepts(self.settings.least)
        return [
            Search(
                one.path, group, starting_line(before, group),
                frozenset(code for code, places in by_rule.items() if places & set(group)), good_enough,
            )
            for group in groups(names, touched(before, fixes))
        ]  # fmt: skip

    # -- what is written ----------------------------------------------------------------------------------------------

    def _write(self, searches: Sequence[Search]) -> list[str]:
        """Put the proven parts into the files (with --apply) or show them; the paths that were written."""
        from torchlint.verify.units import compose

        results = []
        for one in self.fixed:
            mine = [search for search in searches if search.path == one.path and search.base]
            if not mine:
                continue
            parts = [(search.names, self._text(one.path, search.base)) for search in mine]
            text = compose(self.session.source(one.path), parts)
            compile(text, one.path, "exec", dont_inherit=True)
            results.append(replace(one, text=text))
        if "--apply" in self.words:
            return [one.path for one in self.session.apply(results)]
        sys.stdout.write(self.session.diff(results, False))
        return []
