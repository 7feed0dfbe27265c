"""Compare the diagnostics with the prefilter on and off, file by file, on real code.

    python benchmarks/prefilter_invariance.py FOLDER… [--sample N] [--seed S]

Without it: every rule looks at the whole libcst tree of every file, whatever its triggers, shapes and `requires` say.
Prints each difference and a summary line; exits 1 if there is any difference. Questions to other files are compared as
they are asked, not answered.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

import libcst as cst

from torchlint import prefilter, syntax
from torchlint.apply import everything
from torchlint.catalogue import load
from torchlint.check import check_text
from torchlint.config import Config
from torchlint.diagnostic import Diagnostic
from torchlint.encoding import Undecodable, decode
from torchlint.rule import Rule
from torchlint.source import File


def differences(path: str, text: str, rules: list[Rule]) -> tuple[list[Diagnostic], list[Diagnostic], float, float]:
    """(only with, only without the prefilter, seconds with, seconds without)."""
    start = time.process_time()
    thin = check_text(path, text, rules, Config())
    middle = time.process_time()
    full: list[Diagnostic] = []
    if prefilter.concerns(text) and syntax.examine(text) is None:
        try:
            full = everything(File.parse(path, text), rules, Config())
        except cst.ParserSyntaxError:
            full = thin
    else:
        full = thin
    end = time.process_time()
    return [d for d in thin if d not in full], [d for d in full if d not in thin], middle - start, end - middle


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--sample", type=int, help="check only that many files, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.setrecursionlimit(10_000)
    files = sorted(f for folder in args.folders for f in folder.rglob("*.py"))
    if args.sample and args.sample < len(files):
        files = sorted(random.Random(args.seed).sample(files, args.sample))
    rules = load()
    wrong = found = 0
    with_it = without = 0.0
    for file in files:
        try:
            text = decode(file.read_bytes()).text
        except (Undecodable, OSError):
            continue
        only_thin, only_full, a, b = differences(str(file), text, rules)
        with_it, without = with_it + a, without + b
        found += len(only_full)
        for sign, items in (("+", only_thin), ("-", only_full)):
            for d in items:
                wrong += 1
                print(f"{sign} {d.path}:{d.row} {d.code} {d.message[:80]} {[q.subject for q in d.unless][:4]}")
    print(f"{len(files)} files, {wrong} differences; CPU {with_it:.1f} s with, {without:.1f} s without the prefilter")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
