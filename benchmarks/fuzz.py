"""Fuzz torchlint for as long as wanted: generated programs of known truth, rewrites that change nothing, damaged files.

    python benchmarks/fuzz.py [--seed N…] [--minutes M] [--real FOLDER…] [--out FILE]

The same seed gives the same programs and the same damage; each seed runs for that many minutes. `--real` adds the .py
files of folders (a fixed sample of them) to the fixtures, as what is rewritten and damaged. Counts go to
results/fuzz.json; each breach is printed with what reproduces it, and any makes the exit code 1. The tests run a small
fixed part of the same.
"""

from __future__ import annotations

import argparse
import ast
import json
import platform
import random
import re
import sys
import time
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent)]

import hypothesis  # noqa: E402
import test_known_truth  # noqa: E402
from fuzzing import explained  # noqa: E402
from fuzzing.mutations import mutated  # noqa: E402
from fuzzing.programs import Program, programs  # noqa: E402
from fuzzing.project import findings, rules  # noqa: E402
from fuzzing.properties import breaches  # noqa: E402
from fuzzing.relations import SAME_PLACES, Rewritten, extracting, moving  # noqa: E402

from torchlint import __version__  # noqa: E402

OUT = HERE / "results" / "fuzz.json"
REAL_FILES = 400  # of all folders together
METHODS = ("step", "zero_grad", "backward", "eval", "train")


class Run:
    def __init__(self) -> None:
        self.seed = 0
        self.counts: dict[str, Counter[str]] = {}
        self.breaches: list[str] = []
        self.slow: list[tuple[float, str]] = []

    def count(self, group: str, what: str, number: int = 1) -> None:
        self.counts.setdefault(group, Counter())[what] += number

    def breach(self, line: str) -> None:
        self.breaches.append(line)
        print(line[:2000], flush=True)


def texts(folders: list[Path], seed: int) -> dict[str, str]:
    """Name -> text of every fixture and of a sample of the folders' files."""
    fixtures = HERE.parent / "fixtures"
    files = [(f"{p.parent.name}/{p.name}", p) for p in sorted(fixtures.rglob("*.py"))]
    real = sorted((p for folder in folders for p in folder.rglob("*.py") if p.stat().st_size < 60_000), key=str)
    rng = random.Random(seed)
    files += [(str(p), p) for p in rng.sample(real, min(REAL_FILES, len(real)))]
    found = {}
    for name, path in files:
        text = path.read_bytes().decode("utf-8", "replace")
        if "\ufffd" not in text:
            found[name] = text
    return found


def plain(text: str) -> bool:
    """Whether the rewrites can take a text apart: Python with plain newlines."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "x.py", "exec", dont_inherit=True)
            ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return "\r" not in text and "\f" not in text


# -- the three kinds -----------------------------------------------------------------------------------------------


def truth(run: Run, number: int, examples: int = 40) -> None:
    """A batch of generated programs, drawn from its own seed."""

    @hypothesis.seed(run.seed * 1_000_003 + number)
    @hypothesis.settings(
        test_known_truth.SETTINGS,
        derandomize=False,
        max_examples=examples,
        print_blob=False,
        report_multiple_bugs=False,
    )
    @hypothesis.given(programs)
    def judge(program: Program) -> None:
        run.count("programs", "judged")
        run.count("programs", "pieces", len(program.pieces))
        test_known_truth.judged(program)

    try:
        judge()
    except AssertionError as error:
        run.breach(f"truth: seed {run.seed}, batch {number}: {error}")


def compiled(new: Rewritten | None) -> Rewritten | None:
    """The rewrite, None where it is no longer Python: a `nonlocal` without its binding."""
    return new if new is not None and plain(new.text) else None


def relation(run: Run, name: str, text: str) -> None:
    """Every rewrite of one text."""
    before = findings({"module.py": text})
    for title, rewrite in SAME_PLACES.items():
        new = compiled(rewrite(text))
        if new is None:
            continue
        after = Counter((d.code, at(d.code, d.row)) for d in findings({"module.py": new.text}))
        rows = new.rows or {}
        expected = Counter((d.code, at(d.code, rows.get(d.row, 0))) for d in before)
        run.count("relations", title)
        back = {v: k for k, v in rows.items()}
        for sign, difference in (("lost", expected - after), ("new", after - expected)):
            for code, row in difference.elements():
                reason = explained.SAME_FILE.get((title, code))
                if reason is None:
                    run.breach(f"relation: {title}: {name}:{back.get(row, row)} {sign} {code}")
                else:
                    run.count("relations, explained", f"{title}, {code}: {reason}")
    for method in METHODS:
        helped(run, name, text, method, Counter(d.code for d in before))


def at(code: str, row: int) -> int:
    return 0 if code in explained.ONCE_PER_FILE else row


def helped(run: Run, name: str, text: str, method: str, before: Counter[str]) -> None:
    """Calls of a method put into helpers, of the file and of another one."""
    here, there = compiled(extracting(method)(text)), compiled(moving(method)(text))
    if here is None or there is None:
        return
    after = Counter(d.code for d in findings({"module.py": here.text}))
    far = Counter(d.code for d in findings({"module.py": there.text, **there.others}))
    run.count("relations", f"helpers for {method}()", 2)
    for code in after - before:
        run.breach(f"relation: helper for {method}: {name} new {code}")
    for code in before - after:
        if code in explained.NOT_THROUGH_HELPERS:
            run.count("relations, explained", f"helper for {method}, {code}: {explained.NOT_THROUGH_HELPERS[code]}")
        else:
            run.breach(f"relation: helper for {method}: {name} lost {code}")
    for code in far - before:
        known = explained.MORE_BEHIND_ANOTHER_FILE.get((code, name)) or explained.NEW_BEHIND_ANOTHER_FILE.get(code)
        if known:
            run.count("relations, explained", f"far helper, {code}: {known}")
        else:
            run.breach(f"relation: far helper for {method}: {name} new {code}")


def damage(run: Run, number: int, names: list[str], known: dict[str, str]) -> None:
    """One damaged file."""
    rng = random.Random(f"{run.seed}-{number}")
    name = rng.choice(names)
    data = mutated(known[name], rng)
    start = time.process_time()
    stats: Counter[str] = Counter()
    for line in breaches(data, stats):
        run.breach(f"damage {run.seed}-{number} of {name}: {line}")
    run.count("damage", "files")
    for what, count in stats.items():
        run.count("damage", what, count)
    run.slow.append((round(time.process_time() - start, 2), f"damage {run.seed}-{number} of {name}, {len(data)} bytes"))
    run.slow = sorted(run.slow, reverse=True)[:10]


def one_seed(run: Run, minutes: float, known: dict[str, str]) -> set[str]:
    """All three kinds by turns, for that long; the names of the texts that there were to damage and rewrite."""
    began, names, damaged = time.monotonic(), sorted(known), 0
    queue = [name for name in names if plain(known[name])]
    random.Random(run.seed).shuffle(queue)
    batch = 0
    while time.monotonic() - began < minutes * 60:
        batch += 1
        truth(run, batch)
        for _ in range(30):
            damaged += 1
            damage(run, damaged, names, known)
        for name in (queue.pop() for _ in range(min(6, len(queue)))):
            relation(run, name, known[name])
            run.count("relations", "texts rewritten")
    return set(names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[1])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--real", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    run, used = Run(), set[str]()
    for run.seed in args.seed:
        used |= one_seed(run, args.minutes, texts(args.real, run.seed))
    result = {
        "with": {
            "torchlint": __version__,
            "rules": len(rules()),
            "python": platform.python_version(),
            "libcst": version("libcst"),
            "hypothesis": version("hypothesis"),
        },
        "seeds": args.seed,
        "minutes": args.minutes,
        "texts": len(used),
        "counts": {group: dict(sorted(counts.items())) for group, counts in sorted(run.counts.items())},
        "longest": [
            {"cpu_seconds": seconds, "what": re.sub(r"(/[\w.+-]+)+/(?=\w)", "", what)} for seconds, what in run.slow
        ],
        "breaches": sorted(
            Counter(re.sub(r"(/[\w.+-]+)+/(?=\w)", "", b.partition("\n")[0]) for b in run.breaches).items()
        ),
    }
    old = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    args.out.write_text(json.dumps({**old, "fuzz": result}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["counts"], indent=1))
    return 1 if run.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
