"""Pages whose figures a script writes: what stands between `<!-- figures: NAME -->` and `<!-- end -->`.

The words around the marks are by hand. A script names the page and gives, for each NAME, a function that makes the
text; with `--check` the page stays as it is, and the exit code says whether it is fresh.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
_BLOCK = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)


def results(name: str) -> dict[str, Any]:
    return dict(json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8")))


def table(head: list[str], rows: list[list[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def written(page: str, figures: Mapping[str, Callable[[], str]]) -> str:
    """The page with its figures; a NAME that is not among them belongs to another script."""
    return _BLOCK.sub(
        lambda m: m[1] + (figures[m[2]]() if m[2] in figures else m[0][len(m[1]) : -len(m[3])]) + m[3], page
    )


def fill(name: str, figures: Mapping[str, Callable[[], str]], check: bool = False) -> int:
    """Write the figures of a page of docs/; 1 if `check` and they are not what the page says."""
    path = DOCS / name
    old = path.read_text(encoding="utf-8")
    new = written(old, figures)
    if check:
        return int(old != new)
    path.write_text(new, encoding="utf-8", newline="\n")
    return 0
