"""`torchlint fix PATH --apply --verify=run -- CMD`: writes the fixes that the user's own run proves, and no others."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torchlint.verify.weave import Choice, Edited, merge

if TYPE_CHECKING:
    from torchlint.run import Fixed
    from torchlint.session import Session
    from torchlint.verify.userrun import UserRun
    from torchlint.verify.verdict import BehaviourVerdict

USAGE = "torchlint fix PATH... [--apply] --verify=run [--verify-timeout SECONDS] -- COMMAND..."


@dataclass(frozen=True, slots=True)
class Proof:
    """One edited function under one set of rules, with its verdict and the text it would be taken from."""

    path: str
    function: str
    line: int
    rules: tuple[str, ...]
    verdict: BehaviourVerdict
    calls: int
    verified: int
    choice: Choice | None


def main(argv: Sequence[str]) -> int:
    """Exit code 0: every fix was proven (and, with --apply, written); 1: some were not; 2: it could not be run."""
    from torchlint.options import UsageError
    from torchlint.session import SetupError

    own, command = _split(list(argv))
    if not command:
        return _trouble(f"--verify=run needs the command that runs your code: {USAGE}")
    if importlib.util.find_spec("torch") is None:
        return _trouble("--verify=run runs code and needs torch: pip install 'torchlint[verify]'")
    try:
        words, timeout = _options(own)
        return _Proving(words, command, timeout).run()
    except (UsageError, SetupError, ValueError) as error:
        return _trouble(str(error))


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _options(words: list[str]) -> tuple[list[str], float]:
    """The words for the ordinary `fix`, and the time limit of a run. Raises ValueError."""
    rest: list[str] = []
    timeout = 3600.0
    queue = list(words)
    while queue:
        word = queue.pop(0)
        name, _, value = word.partition("=")
        if name == "--verify":
            if value not in ("", "run"):
                raise ValueError(f"unknown --verify={value}; known is run: {USAGE}")
        elif name == "--verify-timeout":
            timeout = float(value or (queue.pop(0) if queue else ""))
        else:
            rest.append(word)
    return rest, timeout


def _trouble(line: str) -> int:
    print(f"torchlint: {line}", file=sys.stderr)
    return 2


class _Proving:
    """One command: all fixes at once, then rule by rule where that was not proven."""

    def __init__(self, words: list[str], command: list[str], timeout: float) -> None:
        self.words, self.command, self.timeout = words, command, timeout
        self.notes: list[str] = []
        self.sandbox = ""

    def run(self) -> int:
        session, fixed = self._fixed([])
        if not fixed:
            print("Nothing to fix.")
            return session.finish(0)
        by_rules = {tuple(sorted({d.code for one in fixed for d in one.applied})): (session, fixed)}
        proofs = self._prove(session, fixed)
        (codes,) = by_rules
        open_paths = {p.path for p in proofs if not p.verdict.proven}
        if len(codes) > 1 and open_paths:
            for code in codes:
                alone, texts = self._fixed([f"--select={code}"])
                texts = [one for one in texts if one.path in open_paths]
                if texts:
                    proofs += self._prove(alone, texts)
        chosen = _choose(proofs)
        written = self._write(session, fixed, chosen)
        self._report(proofs, chosen, written)
        refused = {(p.path, p.function) for p in proofs} - {(p.path, p.function) for p in chosen}
        partly = {(p.path, p.function) for p in _guilty(proofs, chosen)}
        return session.finish(1 if refused or partly else 0)

    def _fixed(self, more: list[str]) -> tuple[Session, list[Fixed]]:
        """The files as all selected fixes make them: what a run proves need not be called safe beforehand."""
        from torchlint.options import parse
        from torchlint.session import Session

        session = Session(parse(["fix", *self.words, *more]))
        session.check()
        return session, [one for one in session.fix(True) if one.applied]

    def _prove(self, session: Session, fixed: Sequence[Fixed]) -> list[Proof]:
        from torchlint.verify.userrun import verify_run

        files = {one.path: (session.source(one.path), one.text) for one in fixed}
        names = sorted({d.code for one in fixed for d in one.applied})
        print(f"torchlint: running the command to verify {', '.join(names)}", file=sys.stderr, flush=True)
        run = verify_run(files, self.command, timeout=self.timeout)
        self.sandbox = run.sandbox or self.sandbox
        if run.ended:
            self.notes.append(run.ended)
        return [proof for one in fixed for proof in _proofs(one, run)]

    def _write(self, session: Session, fixed: Sequence[Fixed], chosen: Sequence[Proof]) -> list[str]:
        """Put the proven functions into the files (with --apply) or show them; the paths that were written."""
        results = []
        for one in fixed:
            choices = [p.choice for p in chosen if p.path == one.path and p.choice is not None]
            if not choices:
                continue
            text = merge(session.source(one.path), choices)
            compile(text, one.path, "exec", dont_inherit=True)
            results.append(replace(one, text=text))
        if "--apply" in self.words:
            return [one.path for one in session.apply(results)]
        sys.stdout.write(session.diff(results, False))
        return []

    def _report(self, proofs: Sequence[Proof], chosen: Sequence[Proof], written: Sequence[str]) -> None:
        for heading, group in (("proven", chosen), ("not proven, not written", _guilty(proofs, chosen))):
            if group:
                print(f"{heading}:")
            for p in group:
                print(f"  {p.path}:{p.line} {p.function} [{', '.join(p.rules)}]")
                print(f"      {p.verdict}; {p.verified} of {p.calls} calls compared")
        count = len({(p.path, p.function) for p in chosen})
        done = f"written to {', '.join(written)}" if written else "nothing was written"
        print(f"{count} function{'s' * (count != 1)} proven; {done}")
        for note in dict.fromkeys(self.notes):
            print(f"torchlint: {note}", file=sys.stderr)
        if self.sandbox:
            print(f"sandbox: {self.sandbox}")


def _proofs(one: Fixed, run: UserRun) -> list[Proof]:
    from torchlint.verify.verdict import Behaviour, BehaviourVerdict

    everything = tuple(sorted({d.code for d in one.applied}))
    if one.path in run.whole_files:
        reason = f"{run.whole_files[one.path]}: only edits inside functions can be compared call by call"
        verdict = BehaviourVerdict(Behaviour.NOT_VERIFIABLE, reason)
        line = min(d.row for d in one.applied)
        return [Proof(one.path, "<module>", line, everything, verdict, 0, 0, None)]
    woven = run.weaves[one.path]
    return [
        Proof(
            one.path, f.function.name, f.function.before[0], _rules_in(one, f.function) or everything,
            f.verdict, f.calls, f.verified, Choice(f.function, one.text, tuple(woven.imports)),
        )
        for f in run.functions
        if f.path == one.path
    ]  # fmt: skip


def _rules_in(one: Fixed, function: Edited) -> tuple[str, ...]:
    """The rules whose findings lie in the function (by the rows of the first round, which are the file's own)."""
    return tuple(sorted({d.code for d in one.applied if function.before[0] <= d.row <= function.before[1]}))


def _choose(proofs: Sequence[Proof]) -> list[Proof]:
    """One proven version per function: the one with the most rules; functions inside a chosen one are left out."""
    best: dict[tuple[str, str], Proof] = {}
    for proof in proofs:
        if proof.verdict.proven and proof.choice is not None:
            known = best.get((proof.path, proof.function))
            if known is None or len(proof.rules) > len(known.rules):
                best[proof.path, proof.function] = proof
    return sorted(best.values(), key=lambda p: (p.path, p.line))


def _guilty(proofs: Sequence[Proof], chosen: Sequence[Proof]) -> list[Proof]:
    """For each function and rule that no chosen version holds, the verdict with the fewest rules: the closest blame."""
    taken = {(p.path, p.function, rule) for p in chosen for rule in p.rules}
    blame: dict[tuple[str, str, str], Proof] = {}
    for proof in proofs:
        if proof.verdict.proven:
            continue
        for rule in proof.rules:
            key = (proof.path, proof.function, rule)
            if key not in taken and (key not in blame or len(proof.rules) < len(blame[key].rules)):
                blame[key] = proof
    return sorted(dict.fromkeys(blame.values()), key=lambda p: (p.path, p.line, p.rules))
