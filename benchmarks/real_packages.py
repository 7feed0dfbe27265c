"""Check and fix whole packages that nobody here wrote, and prove that nothing was lost, broken or skipped on the way.

    python benchmarks/real_packages.py FOLDER… [--jobs N] [--out FILE] [--diffs FOLDER]

Each FOLDER holds one unzipped package. It is copied; `check` and `fix --apply --unsafe` run over the copy with all
rules, then a second fix. What must hold for every file is in `Audit`; each breach is printed, and any makes the exit
code 1. Figures go to results/real_packages.json, where a package that is run again replaces its earlier entry. Versions
are read from a VERSIONS.tsv (name, version) beside the folders. Undefined names are ruff's (F821, F405): it must be
installed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import tokenize
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import libcst as cst

from torchlint import __version__, cache, run
from torchlint.diagnostic import Diagnostic
from torchlint.encoding import Undecodable, decode
from torchlint.options import parse
from torchlint.session import Session
from torchlint.unified import unified

OUT = Path(__file__).parent / "results" / "real_packages.json"


def text_of(data: bytes) -> str | None:
    try:
        return decode(data).text
    except Undecodable:
        return None


def compiles(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "<file>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def parses(text: str) -> bool:
    try:
        cst.parse_module(text)
    except (cst.ParserSyntaxError, RecursionError):
        return False
    return True


def comments(text: str) -> Counter[str]:
    """Each comment of a text with how often it is there."""
    found: Counter[str] = Counter()
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                found[token.string.rstrip()] += 1
    except (tokenize.TokenError, SyntaxError):  # of newer syntax: the comments up to there count
        pass
    return found


def undefined(folder: Path) -> dict[str, Counter[str]]:
    """Names that nothing defines, by file relative to the folder, as ruff sees them."""
    beside = Path(sys.executable).parent / "ruff"
    command = [str(beside) if beside.exists() else "ruff", "check", "--isolated", "--no-cache", "--ignore-noqa"]
    command += ["--select", "F821,F405", "--output-format", "json", "--exit-zero", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    names: dict[str, Counter[str]] = {}
    for item in json.loads(done.stdout):
        if item["code"] in ("F821", "F405"):
            place = os.path.relpath(item["filename"], folder.resolve())
            names.setdefault(place, Counter())[item["message"]] += 1
    return names


class Audit:
    """What must hold for one package; `breaches` says where it does not."""

    def __init__(self, name: str, original: Path, copy: Path) -> None:
        self.name = name
        self.original = original
        self.copy = copy
        self.breaches: list[str] = []

    def breach(self, place: str | Path, what: str) -> None:
        self.breaches.append(f"{self.name}: {place}: {what}")

    def check(self, session: Session, found: list[Diagnostic]) -> dict[str, int]:
        """No crash, no false syntax error, and a result for every file there is; counts of what was not Python."""
        for path in session.files:
            store = session.project_of(path).store  # a folder within with settings of its own has its own
            assert store is not None
            info = os.stat(path)
            if store.lookup(path, cache.stamp(info, cache.horizon()), info.st_size) is None:
                self.breach(path, "was found but has no result")
        for problem in session.problems:
            self.breach("run", problem)
        broken = 0
        for d in found:
            if d.code == "TL002":
                self.breach(f"{d.path}:{d.row}", d.message)
            elif d.code == "TL001":
                text = text_of(Path(d.path).read_bytes())
                broken += 1
                if d.cell is None and text is not None and compiles(text):  # a notebook as such is a Python literal
                    self.breach(f"{d.path}:{d.row}", f"is valid Python, yet: {d.message}")
        there = {str(p) for p in self.copy.rglob("*.py") if p.is_file()}
        return {"not_python": broken, "excluded": len(there - set(session.files))}

    def fixed(self, changed: set[str], written: set[str]) -> None:
        """Only what was written has changed, and it parses, compiles and keeps its comments and names."""
        for path in sorted(changed - written):
            self.breach(path, "changed although nothing was fixed in it")
        for path in sorted(written):
            place = os.path.relpath(path, self.copy)
            old = text_of((self.original / place).read_bytes())
            new = text_of(Path(path).read_bytes())
            if old is None or new is None:
                self.breach(place, "was fixed but cannot be decoded")
                continue
            if not parses(new):
                self.breach(place, "does not parse after the fix")
            if compiles(old) and not compiles(new):
                self.breach(place, "does not compile after the fix")
            lost = comments(old) - comments(new)
            for comment in lost:
                self.breach(place, f"lost the comment {comment!r}")

    def names(self, before: dict[str, Counter[str]], after: dict[str, Counter[str]]) -> None:
        for place, found in after.items():
            for message in found - before.get(place, Counter()):
                self.breach(place, f"after the fix: {message}")

    def settled(self, again: list[run.Fixed]) -> None:
        for one in again:
            for d in one.applied:
                self.breach(f"{one.path}:{d.row}", f"a second run still fixes {d.code} {d.message[:80]}")
            if one.notes:
                self.breach(one.path, f"second run: {'; '.join(one.notes)}")


def digests(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def examine(package: Path, scratch: Path, jobs: str, diffs: Path | None) -> tuple[dict[str, Any], list[str]]:
    """One package's figures and breaches."""
    copy = scratch / package.name
    shutil.copytree(package, copy, symlinks=True)
    audit = Audit(package.name, package, copy)
    before, names = digests(copy), undefined(copy)
    command = ["fix", str(copy), "--apply", "--unsafe", "--select", "ALL", "--jobs", jobs]
    start = time.perf_counter()
    session = Session(parse(command))
    found = session.check()
    checked = time.perf_counter()
    counts = audit.check(session, found)
    began = time.perf_counter()
    done = session.fix(unsafe=True)
    if diffs is not None:
        diffs.mkdir(parents=True, exist_ok=True)
        texts = [unified(one.path, session.source(one.path), one.text, False) for one in done if one.applied]
        (diffs / f"{package.name}.diff").write_text("".join(texts), encoding="utf-8")
    for one in done:
        for note in one.notes:
            audit.breach(one.path, note)
    written = session.apply(done)
    seconds = time.perf_counter() - began
    for one in done:
        if one.applied and one not in written:
            audit.breach(one.path, "was fixed but not written")
    after = {path: value for path, value in digests(copy).items() if ".torchlint_cache" not in path}
    for path in before.keys() - after.keys():
        audit.breach(path, "is gone")
    for path in after.keys() - before.keys():
        audit.breach(path, "was left behind")
    changed = {path for path in after if before.get(path) != after[path]}
    audit.fixed(changed, {one.path for one in written})
    audit.names(names, undefined(copy))
    again = Session(parse(command))
    again.check()
    audit.settled(again.fix(unsafe=True))
    lines = sum(Path(path).read_bytes().count(b"\n") for path in session.files)
    figures = {
        "files": len(session.files),
        "lines": lines,
        **counts,
        "findings": dict(sorted(Counter(d.code for d in found).items())),
        "fixed": dict(sorted(Counter(d.code for one in written for d in one.applied).items())),
        "files_fixed": len(written),
        "check_seconds": round(checked - start, 1),
        "fix_seconds": round(seconds, 1),
        "breaches": len(audit.breaches),
    }
    shutil.rmtree(copy)
    return figures, audit.breaches


def versions_beside(folders: list[Path]) -> dict[str, str]:
    known: dict[str, str] = {}
    for table in {folder.resolve().parent / "VERSIONS.tsv" for folder in folders}:
        if table.exists():
            rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()[1:]]
            known |= {row[0]: row[1] for row in rows if len(row) > 1}
    return known


def save(out: Path, packages: dict[str, dict[str, Any]]) -> None:
    """Merge into the results of earlier runs, with sums over all."""
    merged = json.loads(out.read_text(encoding="utf-8"))["packages"] if out.exists() else {}
    merged = dict(sorted({**merged, **packages}.items()))
    sums = ("files", "lines", "not_python", "excluded", "files_fixed", "check_seconds", "fix_seconds", "breaches")
    total: dict[str, Any] = {key: round(sum(p[key] for p in merged.values()), 1) for key in sums}
    for key in ("findings", "fixed"):
        counted: Counter[str] = Counter()
        for one in merged.values():
            counted.update(one[key])
        total[key] = dict(sorted(counted.items()))
    tools = {"torchlint": __version__, "python": platform.python_version(), "libcst": version("libcst")}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"with": tools, "total": total, "packages": merged}, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--jobs", default="1")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--diffs", type=Path, help="keep the diff of each package's fixes here")
    args = parser.parse_args()
    known = versions_beside(args.folders)
    failed = False
    print(
        f"{'package':28}{'files':>7}{'lines':>10}{'findings':>10}{'fixed':>7}{'check s':>9}{'fix s':>7}{'breaches':>10}"
    )
    for folder in args.folders:
        with tempfile.TemporaryDirectory(prefix="torchlint-packages-") as scratch:
            figures, breaches = examine(folder.resolve(), Path(scratch).resolve(), args.jobs, args.diffs)
        found, fixed = sum(figures["findings"].values()), sum(figures["fixed"].values())
        print(
            f"{folder.name:28}{figures['files']:7}{figures['lines']:10}{found:10}{fixed:7}"
            f"{figures['check_seconds']:9}{figures['fix_seconds']:7}{figures['breaches']:10}",
            flush=True,
        )
        for line in breaches:
            print(f"    {line}", flush=True)
        failed |= bool(breaches)
        save(args.out, {folder.name: {"version": known.get(folder.name, ""), **figures}})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
