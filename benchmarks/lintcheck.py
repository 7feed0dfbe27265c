"""Check pinned packages, keep what was found, and show how the findings of two states differ.

    python benchmarks/lintcheck.py run FOLDER… [--out FILE] [--jobs N] [--select RULES]
    python benchmarks/lintcheck.py compare OLD NEW
    python benchmarks/lintcheck.py precision JUDGED [--findings FILE]

`run` checks each FOLDER (one unzipped package, its version in a VERSIONS.tsv beside the folders) by itself, as its
users would, and writes a file with the versions, a table of counts, and each finding on a line of its own. `compare`
takes two such files or two commits: of a commit, the checked-in results/lintcheck.json is taken. Lines are compared by
package, file, rule and message, so that findings which only moved are not told as new. `precision` reads judgements
made by hand (JUDGED/TLxxx.tsv: package, place, verdict, reason; the verdict is true, false,
unsure, or mended: false when it was judged, and not reported any more) and writes docs/precision.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VERDICTS = ("true", "false", "mended", "unsure")
OUT = Path(__file__).parent / "results" / "lintcheck.json"


def versions(folder: Path) -> dict[str, str]:
    table = folder.parent / "VERSIONS.tsv"
    if not table.exists():
        return {}
    rows = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    return {row[0]: row[1] for row in rows}


def check(folder: Path, jobs: str, select: str) -> tuple[list[dict[str, Any]], float]:
    """The findings in one package, and the CPU seconds that they took."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "torchlint", "check", ".", "--no-cache", "--output-format", "json", "--exit-zero"]
    command += ["--jobs", jobs, *(["--select", select] if select else [])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)
    except ValueError:
        raise SystemExit(f"{folder.name}: torchlint failed:\n{done.stderr[-2000:]}") from None
    return found, seconds


def run(folders: list[Path], jobs: str, select: str) -> dict[str, Any]:
    packages: dict[str, Any] = {}
    lines: list[str] = []
    counts: dict[str, Counter[str]] = {}
    for folder in folders:
        found, seconds = check(folder, jobs, select)
        files = sum(1 for _ in folder.rglob("*.py"))
        version = versions(folder).get(folder.name, "")
        packages[folder.name] = {
            "version": version, "files": files, "findings": len(found), "cpu_seconds": round(seconds, 1)
        }  # fmt: skip
        for one in found:
            counts.setdefault(one["code"], Counter())[folder.name] += 1
            path = one["filename"].removeprefix(str(folder) + "/").removeprefix("./")
            lines.append(f"{folder.name}\t{path}:{one['location']['row']}\t{one['code']}\t{one['message']}")
        print(f"{folder.name}: {files} files, {len(found)} findings, {seconds:.0f} s CPU", flush=True)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "files": sum(p["files"] for p in packages.values()),
        "packages": packages,
        "rules": {code: dict(sorted(c.items())) for code, c in sorted(counts.items())},
        "findings": sorted(lines),
    }


def load(source: str) -> dict[str, Any]:
    """A result file, or the one that a commit holds."""
    if Path(source).is_file():
        text = Path(source).read_text()
    else:
        place = f"{source}:{OUT.relative_to(ROOT).as_posix()}"
        text = subprocess.run(["git", "show", place], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    result: dict[str, Any] = json.loads(text)
    return result


def identity(line: str) -> tuple[str, ...]:
    """What makes a finding the same one after its lines have moved."""
    package, place, code, message = line.split("\t", 3)
    return package, place.rpartition(":")[0], code, message


def compare(old: dict[str, Any], new: dict[str, Any]) -> int:
    """Print what is gone and what is new; the number of such findings."""
    before, after = Counter(map(identity, old["findings"])), Counter(map(identity, new["findings"]))
    changes = 0
    for sign, difference in (("-", before - after), ("+", after - before)):
        per_rule: Counter[str] = Counter()
        for key, count in sorted(difference.items()):
            changes += count
            per_rule[key[2]] += count
            print(sign, *key, sep="\t")
        if per_rule:
            print(f"{sign} in all: " + ", ".join(f"{code} {n}" for code, n in sorted(per_rule.items())))
    print(f"{changes} findings differ")
    return changes


def precision(folder: Path, found: dict[str, Any] | None) -> str:
    """docs/precision.md: what was judged by hand, rule by rule."""
    sys.path.insert(0, str(ROOT))
    from torchlint.catalogue import load as load_rules

    rows, silent = [], []
    for rule in load_rules():
        judged: Counter[str] = Counter()
        places: set[tuple[str, str]] = set()
        table = folder / f"{rule.code}.tsv"
        for line in table.read_text().splitlines() if table.exists() else ():
            parts = line.split("\t")
            if len(parts) >= 3 and parts[2] in VERDICTS and (parts[0], parts[1]) not in places:
                places.add((parts[0], parts[1]))
                judged[parts[2]] += 1
        if not judged:
            silent.append(f"| {rule.code} | {rule.name} | {_planted(rule.code)} |")
        first = judged["true"] + judged["false"] + judged["mended"]
        now = judged["true"] + judged["false"]
        shares = " | ".join(f"{judged['true'] / n:.2f}" if n else "" for n in (first, now))
        count = sum(found["rules"].get(rule.code, {}).values()) if found else 0
        rows.append(
            f"| {rule.code} | {rule.name} | {'on' if rule.default else 'off'} | {rule.severity.value} | {count or ''} "
            f"| {judged['true'] or ''} | {judged['false'] or ''} | {judged['mended'] or ''} | {judged['unsure'] or ''} "
            f"| {shares} |"
        )
    text = (Path(__file__).parent / "precision.head.md").read_text()
    if found:
        names = ", ".join(f"{name} {p['version']}".strip() for name, p in found["packages"].items())
        text = text.replace("{packages}", f"{len(found['packages'])} packages, {found['files']:,} files: {names}")
    tail = (Path(__file__).parent / "precision.tail.md").read_text()
    return text + "\n".join(rows) + "\n" + tail + "\n".join(silent) + "\n"


def _planted(code: str) -> str:
    """How many of the mistakes that were planted for the rule it found, as results/recall.json has it."""
    families = json.loads((OUT.parent / "recall.json").read_text())["families"].values()
    mine = [f for f in families if code in f["rules"]]
    if not mine:
        return "none"
    found, planted, projects = (sum(f[key] for f in mine) for key in ("found", "planted", "projects"))
    return f"{found} of {planted} ({projects} project{'' if projects == 1 else 's'})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument("folders", nargs="+", type=Path)
    running.add_argument("--out", type=Path, default=OUT)
    running.add_argument("--jobs", default="")
    running.add_argument("--select", default="")
    comparing = verbs.add_parser("compare")
    comparing.add_argument("old")
    comparing.add_argument("new")
    judging = verbs.add_parser("precision")
    judging.add_argument("judged", type=Path)
    judging.add_argument("--findings", default=str(OUT))
    args = parser.parse_args()
    if args.verb == "compare":
        return 1 if compare(load(args.old), load(args.new)) else 0
    if args.verb == "precision":
        found = load(args.findings) if Path(args.findings).exists() else None
        (ROOT / "docs" / "precision.md").write_text(precision(args.judged, found))
        return 0
    result = run([folder.resolve() for folder in args.folders], args.jobs or "2", args.select)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
