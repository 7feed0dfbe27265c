"""On which line of a TOML file each of our settings is written; the standard parser does not say.

A reading of lines, good enough to lead a person there: what it does not understand, it leaves out.
"""

from __future__ import annotations

import os
import re

_HEADER = re.compile(r"^\s*\[([^\[\]]+)\]\s*(?:#.*)?$")
_KEY = re.compile(r"""^\s*("[^"]*"|'[^']*'|[\w-]+)((?:\s*\.\s*(?:"[^"]*"|'[^']*'|[\w-]+))*)\s*=""")
_PART = re.compile(r""""([^"]*)"|'([^']*)'|([\w-]+)""")


def lines_of(path: str, data: bytes) -> dict[str, int]:
    """The lines on which the settings of a file are written, by key or `table.key`; what is not found is left out."""
    found: dict[str, int] = {}
    own = ["tool", "torchlint"]
    above: list[str] = []
    for row, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        header = _HEADER.match(line)
        if header:
            above = _parts(header[1])
        key = _KEY.match(line)
        key_path = above + _parts(key[1] + key[2]) if key else above if header else []
        if key_path[:2] == own:
            key_path = key_path[2:]
        elif os.path.basename(path) == "pyproject.toml":
            continue
        if key_path:
            found.setdefault(".".join(key_path[:2]), row)
            found.setdefault(key_path[0], row)
    return found


def _parts(dotted: str) -> list[str]:
    return ["".join(part) for part in _PART.findall(dotted)]
