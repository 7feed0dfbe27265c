"""Check and fix fifty thousand real files: no crash, no hang, bounded memory, time that grows with a file's size alone.

    python benchmarks/fifty_thousand.py [NAME…] [--minutes M] [--have FOLDER] [--again] [--list]

The packages and versions are in fifty_thousand.tsv. Each is downloaded as a wheel by pip (nothing is built or run),
unpacked into a scratch folder, audited as `real_packages.py` audits (check with all rules, `fix --apply --unsafe` on
the copy, a second fix), with the time of every file and the commit of this checkout beside the figures, and deleted.
`--have FOLDER` takes packages that lie unpacked there at that version. Packages already in
results/fifty_thousand.json at the listed version are passed over, so the run can be stopped and resumed; `--minutes`
starts no package after that long. Exit code 1 if anything that must hold does not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

from torchlint import __version__

HERE = Path(__file__).parent
LIST = HERE / "fifty_thousand.tsv"
OUT = HERE / "results" / "fifty_thousand.json"
OURS = ("torchlint", "rules")  # what decides the figures
KEPT = 40  # slowest files kept of each package; the result lists the slowest 20 of all
LIMIT = 3600  # seconds for one package: whatever takes longer hangs
BUCKETS = (0, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 10**12)  # characters
PYTHON2 = {
    "python2": ["--python-version", "27", "--implementation", "py", "--abi", "none", "--platform", "any"],
    "python2-binary": [
        "--python-version", "27", "--implementation", "cp", "--abi", "cp27mu", "--platform", "manylinux1_x86_64",
    ],
}  # fmt: skip


def wanted() -> list[tuple[str, str, str]]:
    """(name, version, kind) of every package on the list; what follows an @ in a name tells two versions apart."""
    rows = [line.split("\t") for line in LIST.read_text(encoding="utf-8").splitlines()[1:] if line]
    return [(name, number, kind) for name, number, kind in rows]


# -- one package, in a process of its own --------------------------------------------------------------------------


def _timed(make: Callable[..., Callable[[str], Any]], seconds: dict[str, float]) -> Callable[..., Callable[[str], Any]]:
    """`run.checker` or `run.fixer` with the CPU seconds of each file added up."""

    def made(*arguments: Any) -> Callable[[str], Any]:
        one = make(*arguments)

        def measured(path: str) -> Any:
            start = time.thread_time()
            result = one(path)
            seconds[path] = seconds.get(path, 0.0) + time.thread_time() - start
            return result

        return measured

    return made


def examine(folder: Path) -> dict[str, Any]:
    """One unpacked package's figures: the audit, times by size, the slowest files, the most memory."""
    import real_packages

    from torchlint import run

    checked: dict[str, float] = {}
    fixed: dict[str, float] = {}
    first: dict[str, float] = {}
    run.checker = _timed(run.checker, checked)
    run.fixer = _timed(run.fixer, fixed)
    with tempfile.TemporaryDirectory(prefix="torchlint-fifty-") as scratch:
        root = Path(scratch).resolve()
        original = real_packages.Audit.check

        def check(audit: real_packages.Audit, *arguments: Any) -> dict[str, int]:
            first.update(checked)  # the second check reads only the files that were written
            return original(audit, *arguments)

        real_packages.Audit.check = check  # type: ignore[method-assign]
        figures, breaches = real_packages.examine(folder, root, "1", None)
    times = []
    for path, seconds in first.items():
        place = os.path.relpath(path, root / folder.name)
        times.append((seconds, (folder / place).stat().st_size, place, fixed.get(path, 0.0)))
    times.sort(reverse=True)
    buckets: dict[str, list[float]] = {}
    for seconds, size, _, _ in times:
        low = max(b for b in BUCKETS if b <= size)
        buckets.setdefault(str(low), []).append(seconds)
    return {
        **figures,
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "said": breaches,
        "characters": sum(t[1] for t in times),
        "buckets": {
            low: {"files": len(s), "seconds": round(sum(s), 3), "longest": round(max(s), 3)}
            for low, s in buckets.items()
        },
        "slowest": [
            {"file": place, "bytes": size, "check": round(seconds, 2), "fix": round(more, 2)}
            for seconds, size, place, more in times[:KEPT]
        ],
    }


# -- where packages come from --------------------------------------------------------------------------------------


def obtain(name: str, number: str, kind: str, into: Path, have: Path | None) -> Path:
    """The folder with the package's sources. Raises CalledProcessError where pip cannot get it."""
    target = into / name
    if kind == "standard-library":
        shutil.copytree(sysconfig.get_paths()["stdlib"], target, ignore=shutil.ignore_patterns("site-packages"))
        return target
    if kind == "installed":
        installed = Path(str(distribution(name).locate_file(name)))
        for file in installed.rglob("*.py"):
            (target / file.relative_to(installed)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / file.relative_to(installed))
        return target
    if have is not None and (have / name).is_dir() and _versions(have).get(name) == number:
        return have / name
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run(
        [*command, *PYTHON2.get(kind, []), "--dest", str(into), f"{name.partition('@')[0]}=={number}"], check=True
    )
    wheel = next(into.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.endswith((".py", ".ipynb")):
                archive.extract(member, target)
    wheel.unlink()
    target.mkdir(exist_ok=True)
    return target


def _versions(have: Path) -> dict[str, str]:
    table = have / "VERSIONS.tsv"
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()[1:]] if table.exists() else []
    return {row[0]: row[1] for row in rows if len(row) > 1}


# -- all of them ---------------------------------------------------------------------------------------------------


def load() -> dict[str, Any]:
    return dict(json.loads(OUT.read_text(encoding="utf-8"))["packages"]) if OUT.exists() else {}


def save(packages: dict[str, Any]) -> None:
    """The result file: what each package gave, sums, times by size and the slowest files of all."""
    listed = {name for name, _, _ in wanted()}
    packages = {name: p for name, p in sorted(packages.items()) if name in listed}
    good = [p for p in packages.values() if "files" in p]
    sums = ("files", "lines", "characters", "not_python", "files_fixed", "check_seconds", "fix_seconds", "breaches")
    total: dict[str, Any] = {key: round(sum(p[key] for p in good), 1) for key in sums}
    for key in ("findings", "fixed"):
        total[key] = sum(n for p in good for n in p[key].values())
    total["packages"] = len(good)
    total["peak_mib"] = max((p["peak_mib"] for p in good), default=0)
    by_size: dict[int, Counter[str]] = {}
    longest: Counter[int] = Counter()
    for p in good:
        for low, bucket in p["buckets"].items():
            by_size.setdefault(int(low), Counter()).update(files=bucket["files"], ms=round(bucket["seconds"] * 1000))
            longest[int(low)] = max(longest[int(low)], round(bucket["longest"] * 1000))
    slowest = [{"package": name, **s} for name, p in packages.items() for s in p.get("slowest", ())]
    slowest.sort(key=lambda s: -(s["check"] + s["fix"]))
    data = {
        "with": {"torchlint": __version__, "python": platform.python_version(), "libcst": version("libcst")},
        "total": total,
        "by_size": {
            f"from {low} bytes": {**count, "longest_ms": longest[low]} for low, count in sorted(by_size.items())
        },
        "slowest": slowest[:20],
        "packages": {name: {**p, "slowest": p.get("slowest", [])[:20]} for name, p in packages.items()},
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def commit() -> str:
    """The last commit that changed torchlint or a rule, with a + where their files differ from it."""
    git = ["git", "-C", str(HERE.parent)]
    last = subprocess.run([*git, "log", "-1", "--format=%h", "--", *OURS], capture_output=True, text=True, check=True)
    edited = subprocess.run([*git, "status", "--porcelain", "--", *OURS], capture_output=True, text=True, check=True)
    return last.stdout.strip() + ("+" if edited.stdout else "")


def one(name: str, number: str, kind: str, have: Path | None) -> dict[str, Any]:
    """A package in a process of its own; what went wrong if it gave no figures."""
    with tempfile.TemporaryDirectory(prefix="torchlint-fifty-") as scratch:
        root = Path(scratch).resolve()
        try:
            folder = obtain(name, number, kind, root, have)
        except (subprocess.CalledProcessError, OSError, zipfile.BadZipFile, StopIteration) as error:
            return {"version": number, "trouble": f"could not be had: {type(error).__name__}"}
        command = [sys.executable, __file__, "--examine", str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "PYTHONFAULTHANDLER": "1"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment)
        except subprocess.TimeoutExpired:
            return {"version": number, "trouble": f"hangs: not done after {LIMIT} s"}
        if done.returncode:
            return {"version": number, "trouble": f"died with {done.returncode}: {done.stderr[-1500:]}"}
        return {"version": number, "kind": kind, "commit": commit(), **json.loads(done.stdout.splitlines()[-1])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only these packages of the list")
    parser.add_argument("--minutes", type=float, default=600.0, help="start no package after that long")
    parser.add_argument("--have", type=Path, help="a folder of unpacked packages with a VERSIONS.tsv")
    parser.add_argument("--again", action="store_true", help="run packages whose results are there already")
    parser.add_argument("--list", action="store_true", help="say what is left to run")
    parser.add_argument("--examine", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.examine:
        print(json.dumps(examine(args.examine)))
        return 0
    packages = load()
    todo = [
        row
        for row in wanted()
        if (not args.names or row[0] in args.names)
        and (args.again or "files" not in packages.get(row[0], {}) or packages[row[0]]["version"] != row[1])
    ]
    if args.list:
        print(*(f"{name}=={number}" for name, number, _ in todo), sep="\n")
        return 0
    began, wrong = time.monotonic(), False
    for name, number, kind in todo:
        if time.monotonic() - began > args.minutes * 60:
            print("time is up; run again to go on")
            break
        result = one(name, number, kind, args.have)
        packages = {**load(), name: result}
        save(packages)
        said = [result["trouble"]] if "trouble" in result else result["said"]
        if "files" in result:
            print(
                f"{name:30}{result['files']:7} files{result['lines']:9} lines"
                f"{sum(result['findings'].values()):6} findings{sum(result['fixed'].values()):6} fixed"
                f"{result['check_seconds']:8} s{result['peak_mib']:6} MiB{len(said):4} breaches",
                flush=True,
            )
        for line in said:
            print(f"    {line}", flush=True)
        wrong |= bool(said)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
