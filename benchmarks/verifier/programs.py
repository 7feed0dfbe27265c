"""Five training programs with planted mistakes and one planted wrong fix each: exactly the good fixes may be written.

Run `python benchmarks/verifier/programs.py [NAME...]` from the repository root; it writes programs.json (named ones
are made anew, the others stay). On a copy of
each program it runs `torchlint fix . --apply --verify=run -- python SCRIPT` by torchlint's own command line, with one
wrong rule of `programs/wrong_rules/` loaded beside the real ones. What is checked:

- the findings lie exactly on the lines marked `# good: CODE` and `# wrong: CODE`;
- the wrong rule's fix alone does change the program (it was there to be written);
- the tree afterwards is byte for byte what `torchlint fix . --apply --unsafe` writes with the good rules alone;
- the command leaves no file of the program's own behind (checkpoints, images, bytecode).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from suite import HERE, write

PROGRAMS = {
    "cnn_classifier": ("train.py", "BAD001"),
    "lstm_language_model": ("main.py", "BAD002"),
    "gan": ("gan.py", "BAD003"),
    "transformer_accumulation": ("train.py", "BAD004"),
    "segmentation": ("train.py", "BAD005"),
}
MARK = re.compile(r"# (good|wrong): ([A-Z]+\d+(?:, [A-Z]+\d+)*)")


def torchlint(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "wrong_rules_cli.py"), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text("utf-8") for p in sorted(folder.rglob("*")) if p.is_file()}


def marked(folder: Path, kind: str) -> set[tuple[str, int, str]]:
    found = set()
    for path, text in tree(folder).items():
        for row, line in enumerate(text.splitlines(), 1):
            match = MARK.search(line)
            if match and match[1] == kind:
                found |= {(path, row, code) for code in match[2].split(", ")}
    return found


def findings(folder: Path, select: str, marks: set[tuple[str, int, str]]) -> set[tuple[str, int, str]]:
    """The findings that have a fix, each by the line of its mark or else by its first line."""
    done = torchlint(folder, "check", ".", "--no-cache", "--jobs=1", f"--select={select}", "--output-format=json")
    found = set()
    for d in json.loads(done.stdout):
        if d["fix"] and d["fix"]["applicability"] != "suggestion":
            path = str(Path(d["filename"]).relative_to(folder))
            rows = range(d["location"]["row"], d["end_location"]["row"] + 1)
            row = next((row for row in rows if (path, row, d["code"]) in marks), rows[0])
            found.add((path, row, d["code"]))
    return found


def copy(name: str, at: Path) -> Path:
    shutil.copytree(HERE / "programs" / name, at, ignore=shutil.ignore_patterns("__pycache__", ".torchlint_cache"))
    return at


def bare_seconds(name: str, script: str, work: Path) -> float:
    times = []
    for i in range(3):
        folder = copy(name, work / f"bare{i}")
        started = time.monotonic()
        subprocess.run([sys.executable, script], cwd=folder, capture_output=True, check=True)
        times.append(time.monotonic() - started)
    return sorted(times)[1]


def trial(name: str, script: str, wrong: str, work: Path) -> dict[str, Any]:
    original = copy(name, work / "original")
    good = marked(original, "good")
    planted = marked(original, "wrong")
    rules = ",".join(sorted({code for _, _, code in good}))
    problems = []
    found = findings(original, f"{rules},{wrong}", good | planted)
    if found != good | planted:
        problems.append(
            f"marked, not found: {sorted((good | planted) - found)}; found: {sorted(found - good - planted)}"
        )

    expected = copy(name, work / "expected")
    torchlint(expected, "fix", ".", "--apply", "--unsafe", "--no-cache", "--jobs=1", f"--select={rules}")
    spoiled = copy(name, work / "spoiled")
    torchlint(spoiled, "fix", ".", "--apply", "--no-cache", "--jobs=1", f"--select={wrong}")
    if tree(spoiled) == tree(original):
        problems.append("the wrong fix changes nothing")

    bare = bare_seconds(name, script, work)
    folder = copy(name, work / "verified")
    report = work / "report.json"
    started = time.monotonic()
    done = torchlint(
        folder, "fix", ".", "--apply", "--no-cache", "--jobs=1", f"--select={rules},{wrong}", "--verify=run",
        f"--json={report}", f"--html={work / 'report.html'}", "--", sys.executable, script,
    )  # fmt: skip
    seconds = time.monotonic() - started
    if done.returncode != 1:  # 1: something was not proven
        problems.append(f"exit code {done.returncode}: {done.stderr[-400:]}")
    after = tree(folder)
    for path, text in tree(expected).items():
        if after.pop(path, None) != text:
            problems.append(f"{path} is not what the good fixes alone make of it")
    if after:
        problems.append(f"files were left behind: {sorted(after)}")
    subprocess.run([sys.executable, script], cwd=folder, capture_output=True, check=True)
    document = json.loads(report.read_text("utf-8"))
    if sys.stdout.isatty() or problems:
        print(done.stdout)
    return {
        "exactly the good fixes were written": not problems,
        "problems": problems,
        "good": sorted(f"{path}:{row} {code}" for path, row, code in good),
        "wrong": sorted(f"{path}:{row} {code}" for path, row, code in planted),
        "units": [
            {
                "place": f"{unit['path']}:{unit['line']} {', '.join(unit['names'])}",
                "proven": {"+".join(s["rules"]): said(s) for s in unit["proven"]},
                "refused": {"+".join(s["rules"]): said(s) for s in unit["refused"]},
            }
            for unit in document["units"]
        ],
        "runs of the command": document["runs"],
        "seconds bare": round(bare, 2),
        "seconds verified": round(seconds, 2),
        "overhead": f"×{seconds / bare:.1f} of one run, ×{seconds / bare / document['runs']:.1f} per run made",
        "sandbox": document["sandbox"],
    }


def said(step: dict[str, Any]) -> str:
    cost = step["cost"] or {}
    parts = [step["summary"], f"{step['compared']} {step['unit']}"]
    speed = cost.get("speed") or {}
    if speed.get("ratio") is not None:
        parts.append(f"{speed['kind']} ×{speed['ratio']:.2f} [{speed['low']:.2f}, {speed['high']:.2f}]")
    memory = cost.get("memory") or {}
    if memory.get("kind") in ("saves", "costs"):
        parts.append(f"{memory['kind']} memory: peak {memory['peak']}, saved {memory['saved']}")
    return "; ".join(parts)


def main() -> int:
    names = sys.argv[1:] or list(PROGRAMS)
    path = HERE / "programs.json"
    result = json.loads(path.read_text("utf-8"))["programs"] if path.exists() else {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="torchlint-programs-") as folder:
            result[name] = trial(name, *PROGRAMS[name], Path(folder))
        one = result[name]
        print(name, "ok" if not one["problems"] else one["problems"], one["overhead"], flush=True)
        write("programs", {"programs": result})
    return 0 if all(not result[name]["problems"] for name in names) else 1


if __name__ == "__main__":
    raise SystemExit(main())
