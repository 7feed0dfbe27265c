"""What a fixture folder holds: the cases of a rule, and the markers in them that say where findings are expected.

A case is a file (`bad.py`, `bad_amp.py`, `ok.py`, …) or, for what spans files, a folder (`bad_project/`, `ok_callers/`)
whose files are checked together. Markers are written by hand and never generated:

    loss.backward()  # expect: TL101             a finding starts on this line
    # expect-next: TL101, TL101                  two start on the next line, which has no room for a comment
    loss.backward()  # todo-expect: TL101        one should, but the rule does not see it yet
    loss.backward()  # todo-ok: TL101            one does and should not

A `todo-` marker fails once its limit is gone. A case may bring settings in a `torchlint.toml` beside it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_MARKER = re.compile(r"#\s*(expect|expect-next|todo-expect|todo-ok):\s*([A-Z]+\d+(?:\s*,\s*[A-Z]+\d+)*)")

Place = tuple[str, int]  # (file inside the case, 1-based row)


@dataclass(frozen=True, slots=True)
class Marker:
    kind: str  # "expect", "todo-expect" or "todo-ok"
    code: str
    file: str
    row: int
    marked_row: int  # the row that holds the comment


def markers(file: str, text: str) -> list[Marker]:
    """The markers of one file. Comments are found by pattern, because some fixtures hold no valid Python."""
    found = []
    for row, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        for match in _MARKER.finditer(line):
            kind, codes = match.groups()
            at = row + 1 if kind == "expect-next" else row
            for code in re.split(r"\s*,\s*", codes):
                found.append(Marker(kind.removesuffix("-next"), code, file, at, row))
    return found


@dataclass(frozen=True)
class Case:
    """One case: `path` is its file or folder."""

    rule_name: str  # kebab-case, as the folder is named
    path: Path

    @property
    def bad(self) -> bool:
        return self.path.name.startswith("bad")

    @property
    def id(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @cached_property
    def files(self) -> dict[str, bytes]:
        """The case's Python files: relative path → content."""
        if self.path.is_file():
            return {self.path.name: self.path.read_bytes()}
        return {p.relative_to(self.path).as_posix(): p.read_bytes() for p in sorted(self.path.rglob("*.py"))}

    @cached_property
    def texts(self) -> dict[str, str]:
        return {name: data.decode("utf-8", "replace") for name, data in self.files.items()}

    @cached_property
    def markers(self) -> list[Marker]:
        return [m for name, text in self.texts.items() for m in markers(name, text)]

    def places(self, *kinds: str, code: str) -> Counter[Place]:
        """How many findings of `code` the markers of these kinds name, by place."""
        return Counter((m.file, m.row) for m in self.markers if m.kind in kinds and m.code == code)

    @property
    def settings(self) -> Path | None:
        """The `torchlint.toml` of the case's own folder, else of the fixture folder."""
        for folder in (self.path, self.path.parent):
            if (folder / "torchlint.toml").is_file():
                return folder / "torchlint.toml"
        return None

    # -- what `--bless` writes --------------------------------------------------------------------------------------

    @property
    def stem(self) -> Path:
        return self.path.with_suffix("") if self.path.is_file() else self.path

    @property
    def out_file(self) -> Path:
        return self.stem.with_name(self.stem.name + ".out")

    def fixed_file(self, name: str) -> Path:
        """Where the fixed text of one of the case's files is kept."""
        if self.path.is_file():
            return self.stem.with_name(self.stem.name + ".fixed.py")
        return self.stem.with_name(self.stem.name + ".fixed") / name


def rule_folders(fixtures: Path) -> list[Path]:
    return sorted(p for p in fixtures.iterdir() if p.is_dir() and p.name != "__pycache__")


def cases(folder: Path) -> list[Case]:
    name = folder.name.replace("_", "-")
    found = []
    for path in sorted(folder.iterdir()):
        if not re.match(r"(bad|ok)(_|\.|$)", path.name) or ".fixed" in path.name:
            continue
        if path.suffix == ".py" or path.is_dir():
            found.append(Case(name, path))
    return found


def all_cases(fixtures: Path) -> list[Case]:
    return [case for folder in rule_folders(fixtures) for case in cases(folder)]
