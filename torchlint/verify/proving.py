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
    from torchlint.verify.differential import Differential
    from torchlint.verify.userrun import UserRun
    from torchlint.verify.verdict import BehaviourVerdict

USAGE = "torchlint fix PATH... [--apply] --verify=run [--verify-timeout SECONDS] [--steps N] [--seed S] -- COMMAND..."


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
    whole: str | None = None  # the fixed file, where only all of it could be judged


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
        words, timeout, steps, seed = _options(own)
        return _Proving(words, command, timeout, steps, seed).run()
    except (UsageError, SetupError, ValueError) as error:
        return _trouble(str(error))


def compare_runs(argv: Sequence[str]) -> int:
    """`torchlint verify --run [PATH...] [--steps N] [--seed S] -- COMMAND...`: whole runs compared, nothing written."""
    from torchlint.options import UsageError
    from torchlint.session import SetupError

    own, command = _split(list(argv))
    if not command:
        return _trouble("verify --run needs the command that runs your code: torchlint verify --run -- python train.py")
    try:
        words, timeout, steps, seed = _options([word for word in own if word != "--run"])
        return _Proving(words or ["."], command, timeout, steps, seed).compare()
    except (UsageError, SetupError, ValueError) as error:
        return _trouble(str(error))


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _options(words: list[str]) -> tuple[list[str], float, int, int]:
    """The words for the ordinary `fix`, then the time limit of a run, the steps and the seed. Raises ValueError."""
    rest: list[str] = []
    numbers = {"--verify-timeout": 3600.0, "--steps": 8.0, "--seed": 0.0}
    queue = list(words)
    while queue:
        word = queue.pop(0)
        name, _, value = word.partition("=")
        if name == "--verify":
            if value not in ("", "run"):
                raise ValueError(f"unknown --verify={value}; known is run: {USAGE}")
        elif name in numbers:
            value = value or (queue.pop(0) if queue else "")
            try:
                numbers[name] = float(value)
            except ValueError:
                raise ValueError(f"{name} needs a number, not {value!r}") from None
        else:
            rest.append(word)
    return rest, numbers["--verify-timeout"], int(numbers["--steps"]), int(numbers["--seed"])


def _trouble(line: str) -> int:
    print(f"torchlint: {line}", file=sys.stderr)
    return 2


class _Proving:
    """One command: all fixes at once, then rule by rule where that was not proven."""

    def __init__(self, words: list[str], command: list[str], timeout: float, steps: int, seed: int) -> None:
        self.words, self.command, self.timeout = words, command, timeout
        self.steps, self.seed = steps, seed
        self.notes: list[str] = []
        self.sandbox = ""

    def run(self) -> int:
        session, fixed = self._fixed([])
        if not fixed:
            print("Nothing to fix.", *self.notes)
            return session.finish(0)
        codes = tuple(sorted({d.code for one in fixed for d in one.applied}))
        proofs = self._prove(session, fixed)
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

    def compare(self) -> int:
        """All fixes in one differential run, then rule by rule where that was not proven; nothing is written."""
        session, fixed = self._fixed([])
        if not fixed:
            print("Nothing to fix.", *self.notes)
            return session.finish(0)
        codes = tuple(sorted({d.code for one in fixed for d in one.applied}))
        judged = self._differential({one.path: (session.source(one.path), one.text) for one in fixed})
        verdicts = [(codes, judged)]
        if not judged.verdict.proven and len(codes) > 1:
            for code in codes:
                alone, texts = self._fixed([f"--select={code}"])
                judged = self._differential({one.path: (alone.source(one.path), one.text) for one in texts})
                verdicts.append(((code,), judged))
        for rules, judged in verdicts:
            print(f"{', '.join(rules)}: {judged.verdict}; {judged.steps} steps compared")
        print(f"sandbox: {self.sandbox}")
        return session.finish(0 if verdicts[0][1].verdict.proven else 1)

    def _fixed(self, more: list[str]) -> tuple[Session, list[Fixed]]:
        """The files as all selected fixes make them: what a run proves need not be called safe beforehand."""
        from torchlint.options import parse
        from torchlint.session import Session

        session = Session(parse(["fix", *self.words, *more]))
        session.check()
        made = [one for one in session.fix(True) if one.applied]
        note = "notebooks are left out: a command does not load their code, so nothing of it can be compared"
        if any(one.path.endswith(".ipynb") for one in made) and note not in self.notes:
            self.notes.append(note)
        return session, [one for one in made if not one.path.endswith(".ipynb")]

    def _prove(self, session: Session, fixed: Sequence[Fixed]) -> list[Proof]:
        from torchlint.verify.userrun import verify_run

        files = {one.path: (session.source(one.path), one.text) for one in fixed}
        names = sorted({d.code for one in fixed for d in one.applied})
        print(f"torchlint: running the command to verify {', '.join(names)}", file=sys.stderr, flush=True)
        run = verify_run(files, self.command, timeout=self.timeout)
        self.sandbox = run.sandbox or self.sandbox
        if run.ended:
            self.notes.append(run.ended)
        whole = {path: files[path] for path in run.whole_files}
        judged = self._differential(whole) if whole else None
        return [proof for one in fixed for proof in _proofs(one, run, judged)]

    def _differential(self, files: dict[str, tuple[str, str]]) -> Differential:
        from torchlint.verify.differential import differential

        names = ", ".join(sorted(files))
        print(
            f"torchlint: comparing whole runs, for edits outside of functions in {names}", file=sys.stderr, flush=True
        )
        judged = differential(files, self.command, steps=self.steps, seed=self.seed, timeout=self.timeout)
        self.sandbox = judged.sandbox
        return judged

    def _write(self, session: Session, fixed: Sequence[Fixed], chosen: Sequence[Proof]) -> list[str]:
        """Put the proven functions into the files (with --apply) or show them; the paths that were written."""
        results = []
        for one in fixed:
            mine = [p for p in chosen if p.path == one.path]
            if not mine:
                continue
            whole = next((p.whole for p in mine if p.whole is not None), None)
            choices = [p.choice for p in mine if p.choice is not None]
            text = merge(session.source(one.path), choices) if whole is None else whole
            compile(text, one.path, "exec", dont_inherit=True)
            results.append(replace(one, text=text))
        if "--apply" in self.words:
            return [one.path for one in session.apply(results)]
        sys.stdout.write(session.diff(results, False))
        return []

    def _report(self, proofs: Sequence[Proof], chosen: Sequence[Proof], written: Sequence[str]) -> None:
        groups = (
            ("proven", chosen),
            ("proven alone, not together with the others: run again", _left_over(proofs, chosen)),
            ("not proven, not written", _guilty(proofs, chosen)),
        )
        for heading, group in groups:
            if group:
                print(f"{heading}:")
            for p in group:
                print(f"  {p.path}:{p.line} {p.function} [{', '.join(p.rules)}]")
                unit = "steps" if p.whole is not None else "calls"
                print(f"      {p.verdict}; {p.verified} of {p.calls} {unit} compared")
        done = f"written to {', '.join(written)}" if written else "nothing was written"
        print(f"{len(chosen)} proven; {done}")
        for note in dict.fromkeys(self.notes):
            print(f"torchlint: {note}", file=sys.stderr)
        if self.sandbox:
            print(f"sandbox: {self.sandbox}")


def _proofs(one: Fixed, run: UserRun, judged: Differential | None) -> list[Proof]:
    everything = tuple(sorted({d.code for d in one.applied}))
    if judged is not None and one.path in run.whole_files:
        line = min(d.row for d in one.applied)
        steps = judged.steps
        return [Proof(one.path, "<module>", line, everything, judged.verdict, steps, steps, None, one.text)]
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
    """One proven version per function, the one with the most rules; a whole file that is proven takes all of it."""
    best: dict[tuple[str, str], Proof] = {}
    for proof in proofs:
        if proof.verdict.proven:
            known = best.get((proof.path, proof.function))
            if known is None or len(proof.rules) > len(known.rules):
                best[proof.path, proof.function] = proof
    whole = {p.path: p for p in best.values() if p.whole is not None}
    kept = [p for p in best.values() if p.path not in whole or p is whole[p.path]]
    return sorted(kept, key=lambda p: (p.path, p.line))


def _left_over(proofs: Sequence[Proof], chosen: Sequence[Proof]) -> list[Proof]:
    """Proven, with a rule that no chosen version of that function or file holds."""
    taken = {(p.path, f, rule) for p in chosen for rule in p.rules for f in (p.function, "<module>")}
    return [
        p
        for p in proofs
        if p.verdict.proven and p not in chosen and any((p.path, p.function, rule) not in taken for rule in p.rules)
    ]


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
