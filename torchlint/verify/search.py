"""Which fixes of one function are proven: all together, else each alone, then joined step by step.

A fix that restores a property (cleared gradients, say) makes everything after it different on purpose, and would hide a
wrong fix beside it. So such fixes are never judged in company: each is added to what is already proven, and the text
with it is compared with the text without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torchlint.verify.verdict import Behaviour, BehaviourVerdict, Cost, Point

Rules = frozenset[str]
NONE: Rules = frozenset()


@dataclass(frozen=True, slots=True)
class Judged:
    """What running showed of one change. `of` calls or steps were made, `compared` of them were compared."""

    verdict: BehaviourVerdict
    compared: int = 0
    of: int = 0
    unit: str = "calls"
    cost: Cost | None = None
    curve: tuple[Point, ...] = ()
    complete: bool = True  # whether every edited statement was executed


UNSEEN = Judged(BehaviourVerdict(Behaviour.NOT_VERIFIABLE, "not looked at"))


@dataclass(frozen=True, slots=True)
class Step:
    """Rules that were judged together, on top of `base`, and how."""

    rules: tuple[str, ...]
    judged: Judged
    base: Rules = NONE


@dataclass
class Search:
    """The questions to ask of one unit (`names` of one file), and what the answers add up to.

    `asks` are the sets of rules to be compared with `base` next; none means that the search is over. Then the rules in
    `base` are proven, `accepted` says by what, and `refused` holds the verdicts on all others.
    """

    path: str
    names: tuple[str, ...]
    line: int
    rules: Rules
    accepts: Callable[[BehaviourVerdict], bool]
    base: Rules = NONE
    accepted: list[Step] = field(default_factory=list)
    refused: list[Step] = field(default_factory=list)
    asks: list[Rules] = field(default_factory=list)
    _phase: str = "alone"
    _alone: dict[str, Judged] = field(default_factory=dict)
    _rest: list[str] = field(default_factory=list)
    _together: Judged = UNSEEN

    def __post_init__(self) -> None:
        self.asks = [self.rules, *(frozenset({rule}) for rule in sorted(self.rules))]
        if len(self.rules) == 1:
            self.asks = [self.rules]

    def tell(self, answers: Mapping[Rules, Judged]) -> None:
        """Take in the answers to `asks`. An answer may be missing where an earlier one made it needless."""
        self.asks = []
        getattr(self, f"_after_{self._phase}")(answers)

    def enough(self, answers: Mapping[Rules, Judged]) -> bool:
        """Whether the answers so far make the other questions needless (each may cost a whole run)."""
        if self._phase == "alone":
            whole = answers.get(self.rules, UNSEEN)
            return self.accepts(whole.verdict) and whole.verdict.equivalent and whole.complete
        return any(self.accepts(judged.verdict) for judged in answers.values())

    def _after_alone(self, answers: Mapping[Rules, Judged]) -> None:
        whole = self._together = answers[self.rules]
        # Where a statement was not executed, the fix of one rule would pass on the evidence of another.
        if len(self.rules) == 1 or (self.accepts(whole.verdict) and whole.verdict.equivalent and whole.complete):
            self._settle(self.rules, whole, self.accepts(whole.verdict))
            return
        self._alone = {rule: answers.get(frozenset({rule}), UNSEEN) for rule in sorted(self.rules)}
        good = [rule for rule, judged in self._alone.items() if self.accepts(judged.verdict)]
        equal = [rule for rule in good if self._alone[rule].verdict.equivalent]
        self._rest = [r for r in good if r not in equal] + [r for r in sorted(self.rules) if r not in good]
        if not good and self.accepts(whole.verdict):
            self._phase, self.asks = "needed", [self.rules - {rule} for rule in sorted(self.rules)]
        elif len(equal) > 1:
            self._phase, self.asks = "joined", [frozenset(equal)]
        else:
            for rule in equal or good[:1]:
                self._take(rule, self._alone[rule])
            self._go_on()

    def _after_needed(self, answers: Mapping[Rules, Judged]) -> None:
        """No fix is proven alone, all together are: proven if none can be left out, since each then does its part."""
        if any(self.accepts(judged.verdict) for judged in answers.values()):
            self._go_on()
        else:
            self._settle(self.rules, self._together, True)

    def _after_joined(self, answers: Mapping[Rules, Judged]) -> None:
        (rules,) = answers
        judged = answers[rules]
        if self.accepts(judged.verdict) and judged.verdict.equivalent:
            self._settle(rules, judged, True)
        else:
            first, *others = sorted(rules)
            self._take(first, self._alone[first])
            self._rest = others + self._rest
        self._go_on()

    def _after_chain(self, answers: Mapping[Rules, Judged]) -> None:
        for rule in list(self._rest):
            judged = answers.get(self.base | {rule}, UNSEEN)
            if self.accepts(judged.verdict):
                self._take(rule, judged)
                self._go_on()
                return
        for rule in self._rest:
            self.refused.append(Step((rule,), answers.get(self.base | {rule}, UNSEEN), self.base))

    def _go_on(self) -> None:
        """Add what is left to what is proven, one by one; without reason to hope, the verdicts alone stand."""
        hope = any(self.accepts(self._alone[rule].verdict) for rule in self._rest)
        changed = any(not step.judged.verdict.equivalent for step in self.accepted)
        if self._rest and self.base and (hope or changed):
            self._phase, self.asks = "chain", [self.base | {rule} for rule in self._rest]
        else:
            self.refused += [Step((rule,), self._alone[rule]) for rule in self._rest]

    def _take(self, rule: str, judged: Judged) -> None:
        self.accepted.append(Step((rule,), judged, self.base))
        self.base |= {rule}
        if rule in self._rest:
            self._rest.remove(rule)

    def _settle(self, rules: Rules, judged: Judged, good: bool) -> None:
        step = Step(tuple(sorted(rules)), judged, self.base)
        (self.accepted if good else self.refused).append(step)
        if good:
            self.base |= rules
