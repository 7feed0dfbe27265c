"""Runs the user's command until the searches are answered: tier 2 where calls can be compared, else tier 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torchlint.telling import tell
from torchlint.verify.differential import Runs
from torchlint.verify.judge import lost_graph
from torchlint.verify.search import Judged, Rules, Search
from torchlint.verify.shadow import CUDA_IS_UP, MADE_INSIDE, MEETS_RANKS, USED_UP, Limits
from torchlint.verify.units import MODULE, compose
from torchlint.verify.userrun import FunctionVerdict, verify_run
from torchlint.verify.verdict import Behaviour, BehaviourVerdict, Cost

NOTHING = Judged(BehaviourVerdict(Behaviour.NOT_VERIFIABLE, "it changes nothing here by itself"))
IDLE = Judged(BehaviourVerdict(Behaviour.NOT_VERIFIABLE, "the command runs no line of this file"))

Text = Callable[[str, Rules], str]  # a file as the fixes of these rules make it


class Prover:
    """`text` gives the fixed texts; `runs` makes whole runs; each call of `answer` runs the command at least once."""

    def __init__(
        self, text: Text, command: Sequence[str], runs: Runs, limits: Limits, *, whole: bool, timeout: float
    ) -> None:
        self.text, self.command, self.runs, self.limits = text, command, runs, limits
        self.timeout = timeout
        self.only_whole = whole
        self.notes: dict[str, None] = {}
        self.sandbox: dict[str, None] = {}
        self.count = 0  # runs of the command for tier 2; `runs` counts its own
        self._entered: dict[str, bool] = {}  # files of which it is known whether the command runs any line
        self._whole: set[tuple[str, tuple[str, ...]]] = set()  # the units that calls cannot tell

    def solve(self, searches: Sequence[Search]) -> None:
        """Ask until no search has a question left."""
        self.runs.texts = {search.path: self.text(search.path, frozenset()) for search in searches}
        while True:
            waiting = [search for search in searches if search.asks]
            if not waiting:
                break
            by_call = [search for search in waiting if not self._needs_whole(search)]
            if by_call:
                for search, answers in self._by_call(by_call):
                    if answers is not None:
                        search.tell(answers)
            by_run = [search for search in waiting if search.asks and self._needs_whole(search)]
            idle = self._idle({search.path for search in by_run})
            for search in by_run:
                search.tell(dict.fromkeys(search.asks, IDLE) if search.path in idle else self._by_run(search))

    def _needs_whole(self, search: Search) -> bool:
        several = len(search.names) > 1 or MODULE in search.names
        return self.only_whole or several or (search.path, search.names) in self._whole

    def _part(self, search: Search, rules: Rules) -> str:
        """The file with nothing but this unit as the rules make it."""
        if not rules:
            return self.text(search.path, rules)
        return compose(self.text(search.path, frozenset()), [(search.names, self.text(search.path, rules))])

    # -- tier 2 -------------------------------------------------------------------------------------------------------

    def _by_call(self, searches: Sequence[Search]) -> list[tuple[Search, dict[Rules, Judged] | None]]:
        """One run for all questions; None for a search whose unit only whole runs can judge."""
        files: dict[str, tuple[str, ...]] = {}
        places: dict[tuple[str, str, int], tuple[Search, Rules]] = {}
        answers: dict[int, dict[Rules, Judged]] = {id(search): {} for search in searches}
        for path in sorted({search.path for search in searches}):
            mine = [search for search in searches if search.path == path]
            before = self._composed(path, [(search, search.base) for search in mine])
            asked = {id(search): self._different(search, answers[id(search)]) for search in mine}
            variants = []
            for k in range(max(map(len, asked.values()))):
                chosen = []
                for search in mine:
                    rules = asked[id(search)][k] if k < len(asked[id(search)]) else search.base
                    chosen.append((search, rules))
                    if k < len(asked[id(search)]):
                        places[path, search.names[0], k] = search, rules
                variants.append(self._composed(path, chosen))
            if variants:
                files[path] = (before, *variants)
        if files:
            self._tell(f"running the command to compare the calls of {_count(places, 'edited function')}")
            self.count += 1
            run = verify_run(files, self.command, limits=self.limits, timeout=self.timeout, shown=self.count == 1)
            self.sandbox[run.sandbox] = None
            if run.ended:
                self.notes[run.ended] = None
            for found in run.functions:
                search, rules = places[found.path, found.function.name, found.function.variant]
                answers[id(search)][rules] = _judged(found)
                if _out_of_reach(found):
                    self._whole.add((search.path, search.names))
            for path in run.whole_files:
                self._whole.update((s.path, s.names) for s in searches if s.path == path)
        return [(s, None if (s.path, s.names) in self._whole else answers[id(s)]) for s in searches]

    def _different(self, search: Search, answers: dict[Rules, Judged]) -> list[Rules]:
        """The asked sets that change the unit at all; the others are answered."""
        base = self._part(search, search.base)
        for rules in search.asks:
            if self._part(search, rules) == base:
                answers[rules] = NOTHING
        return [rules for rules in search.asks if rules not in answers]

    def _composed(self, path: str, chosen: Sequence[tuple[Search, Rules]]) -> str:
        parts = [(search.names, self.text(path, rules)) for search, rules in chosen if rules]
        return compose(self.text(path, frozenset()), parts)

    # -- tier 3 -------------------------------------------------------------------------------------------------------

    def _idle(self, paths: set[str]) -> set[str]:
        """The files that the command never enters: one run tells, where each would take several for nothing."""
        unknown = sorted(paths - self._entered.keys())
        if len(unknown) > 1:
            self._tell(f"running the command to see which of {len(unknown)} files it uses")
            idle = self.runs.idle({path: self.text(path, frozenset()) for path in unknown})
            self._entered.update((path, path not in idle) for path in unknown)
        return {path for path in paths if not self._entered.get(path, True)}

    def _by_run(self, search: Search) -> dict[Rules, Judged]:
        """Whole runs, one question after the other, as far as the search needs them."""
        answers: dict[Rules, Judged] = {}
        before = self._part(search, search.base)
        for rules in self._different(search, answers):
            names = ", ".join(sorted(rules - search.base))
            self._tell(f"comparing whole runs for {names} in {search.path} ({', '.join(search.names)})")
            judged = self.runs.judge({search.path: (before, self._part(search, rules))})
            self.sandbox[judged.sandbox] = None
            cost = Cost(counters={"RSS bytes per step": judged.growth}) if judged.growth else None
            answers[rules] = Judged(
                judged.verdict, judged.steps, judged.steps, "steps", cost, judged.curve, judged.complete
            )
            if search.enough(answers):
                break
        return answers

    @staticmethod
    def _tell(line: str) -> None:
        tell(line)


def _count(places: Mapping[tuple[str, str, int], object], what: str) -> str:
    number = len({(path, name) for path, name, _ in places})
    return f"{number} {what}{'s' * (number != 1)}"


def _judged(found: FunctionVerdict) -> Judged:
    return Judged(found.verdict, found.verified, found.calls, "calls", found.cost, complete=found.complete)


def _out_of_reach(found: FunctionVerdict) -> bool:
    """Whether only tier 2 cannot tell: a whole run may."""
    if found.function.unable or found.verdict.detail in (CUDA_IS_UP, USED_UP, MADE_INSIDE, MEETS_RANKS):
        return True
    # A result without its graph is the same number: whether anyone misses the graph shows in the run as a whole.
    return lost_graph(found.verdict.differences)
