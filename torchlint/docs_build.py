"""`python -m torchlint.docs_build`: the rule pages under docs/rules/, from docstrings, measurements and fixtures.

What else is generated is written along with them: torchlint/schema.json and torchlint/evidence.json.

With `--check` nothing is written; stale pages are named and the exit code is 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from torchlint import docs_evidence, evidence, schema
from torchlint.catalogue import own
from torchlint.explain import explain
from torchlint.rule import Rule

_FOLDER = Path("docs") / "rules"
_GENERATED = (
    "<!-- Written by `python -m torchlint.docs_build` from the rules' docstrings and fixtures and "
    "torchlint/evidence.json: edit those. -->\n\n"
)


def pages() -> dict[str, str]:
    """File name → content of every page, index included."""
    rules = own()
    result = {_file(rule): _GENERATED + _verbatim(_page(rule)) for rule in rules}
    result["index.md"] = _GENERATED + _index(rules)
    return result


def _page(rule: Rule) -> str:
    return explain([rule.code]) + docs_evidence.measured(rule) + docs_evidence.silent(rule)


def _file(rule: Rule) -> str:
    return f"{rule.code}-{rule.name}.md"


def _verbatim(page: str) -> str:
    return "\n".join(line.rstrip() for line in page.splitlines()) + "\n"


def _index(rules: Sequence[Rule]) -> str:
    lines = [
        "# Rules",
        "",
        "Fixes: **safe** fixes change no behaviour, **unsafe** ones may (every bug fix does) and need `--unsafe`, a",
        "**suggestion** is shown and never applied.",
        "",
    ]
    ordered = sorted(rules, key=lambda r: r.code)
    for category, group in groupby(ordered, key=lambda r: r.category):
        lines += [
            f"## {category.value.capitalize()}",
            "",
            "| Code | Name | Finds | Fixes |",
            "| --- | --- | --- | --- |",
        ]
        for rule in group:
            fixes = ", ".join(a.value for a in rule.fixes) or "none"
            note = "" if rule.default else " (off by default)"
            lines.append(f"| {rule.code} | [{rule.name}]({_file(rule)}) | {rule.summary.rstrip('.')}{note} | {fixes} |")
        lines.append("")
    return "\n".join(lines)


def stale(folder: Path) -> list[str]:
    """The names of pages that are missing, out of date, or belong to no rule."""
    wanted = pages()
    present = {p.name: p.read_text(encoding="utf-8") for p in folder.glob("*.md")} if folder.is_dir() else {}
    return sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))


def write(folder: Path) -> list[str]:
    """Bring the folder up to date; the names of the pages that changed."""
    wanted = pages()
    changed = stale(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in changed:
        if name in wanted:
            (folder / name).write_text(wanted[name], encoding="utf-8", newline="\n")
        else:
            (folder / name).unlink()
    return changed


def main(arguments: Sequence[str]) -> int:
    """Write or check the pages below the current folder."""
    if arguments == ["--check"]:
        names = stale(_FOLDER)
        for name in names:
            print(f"{_FOLDER / name} is not what the rules say: run `python -m torchlint.docs_build`", file=sys.stderr)
        return 1 if names or schema.main(arguments) or evidence.main(arguments) else 0
    if arguments:
        print("usage: python -m torchlint.docs_build [--check]", file=sys.stderr)
        return 2
    failed = schema.main([]) or evidence.main([])  # first: the pages quote the evidence
    for name in write(_FOLDER):
        print(_FOLDER / name)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
