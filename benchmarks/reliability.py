"""Write the figures of docs/reliability.md from the result files: `python benchmarks/reliability.py [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Callable

from figures import fill, results, table


def real_files() -> str:
    data = results("fifty_thousand")
    total = data["total"]
    troubles = [name for name, p in data["packages"].items() if "trouble" in p]
    rows = [
        ["packages", f"{total['packages']:,}"],
        ["files", f"{total['files']:,}"],
        ["lines", f"{total['lines']:,}"],
        ["files that are no Python 3 (TL001)", f"{total['not_python']:,}"],
        ["findings of all rules", f"{total['findings']:,}"],
        ["fixes written (`--unsafe`) / files", f"{total['fixed']:,} / {total['files_fixed']:,}"],
        ["breaches", f"{total['breaches']:,}"],
        ["most memory of a package's process", f"{total['peak_mib']:,} MiB"],
        ["packages without a result", ", ".join(troubles) or "none"],
    ]
    made = ", ".join(f"{name} {value}" for name, value in data["with"].items())
    return table(["", ""], rows) + f"\nWith {made}.\n"


def by_size() -> str:
    rows = []
    for name, bucket in results("fifty_thousand")["by_size"].items():
        low = int(name.split()[1])
        rows.append(
            [f"{low:,}", f"{bucket['files']:,}", round(bucket["ms"] / bucket["files"], 1), bucket["longest_ms"]]
        )
    return table(["bytes, from", "files", "check, mean ms", "longest ms"], rows)


def slowest() -> str:
    rows: list[list[object]] = []
    for s in results("fifty_thousand")["slowest"]:
        place = f"{s['package']}: {s['file'].rpartition('/')[2]}"
        rows.append([place, f"{s['bytes']:,}", s["check"], s["fix"], round(s["check"] * 1e6 / max(s["bytes"], 1), 1)])
    return table(["file", "bytes", "check s", "fix s", "check µs/byte"], rows)


def fuzzing() -> str:
    data = results("fuzz")
    rows: list[list[object]] = []
    for group, counts in data["fuzz"]["counts"].items():
        if group != "relations, explained":
            rows += [[group, what, f"{number:,}"] for what, number in counts.items()]
    seeds = ", ".join(map(str, data["fuzz"]["seeds"]))
    text = f"Seeds {seeds}, {data['fuzz']['minutes']:g} minutes each, {data['fuzz']['texts']} texts, "
    text += ", ".join(f"{name} {value}" for name, value in data["fuzz"]["with"].items()) + ".\n\n"
    text += table(["kind", "what", "count"], rows) + "\n"
    text += f"Breaches: {len(data['fuzz']['breaches'])}.\n\n"
    for line, count in data["fuzz"]["breaches"]:
        text += f"- {count} times: `{line[:160]}`\n"
    runs = [
        [name, f"{r['runs']:,}", r["edges"], r["seconds"], len(r["crashes"])]
        for name, r in data.get("atheris", {}).items()
        if isinstance(r, dict)
    ]
    return text + "\n" + table(["atheris target", "runs", "edges", "seconds", "crashes"], runs)


FIGURES: dict[str, Callable[[], str]] = {
    "real-files": real_files, "by-size": by_size, "slowest": slowest, "fuzzing": fuzzing,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(fill("reliability.md", FIGURES, check="--check" in sys.argv))
