"""Write the figures of docs/reliability.md from the result files: `python benchmarks/reliability.py [--check]`.

Only the text between `<!-- figures: NAME -->` and `<!-- end -->` is written; the words around it are by hand. NAME is
one of `FIGURES`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "reliability.md"
_BLOCK = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)


def results(name: str) -> dict[str, Any]:
    return dict(json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8")))


def table(head: list[str], rows: list[list[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


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
    text = f"Seed {data['fuzz']['seed']}, {data['fuzz']['minutes']:g} minutes, {data['fuzz']['texts']} texts, "
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


def written(page: str) -> str:
    """The page with its figures; a name that is not known here belongs to another script."""
    return _BLOCK.sub(
        lambda m: m[1] + (FIGURES[m[2]]() if m[2] in FIGURES else m[0][len(m[1]) : -len(m[3])]) + m[3], page
    )


def main() -> int:
    old = PAGE.read_text(encoding="utf-8")
    new = written(old)
    if "--check" in sys.argv:
        return int(old != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
