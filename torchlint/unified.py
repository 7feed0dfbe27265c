"""A fixed file as a unified diff that `git apply` and `patch` take."""

from __future__ import annotations

import difflib
import re

from torchlint.telling import harmless, harmless_code

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+")
_STYLES = {"---": "1", "+++": "1", "@@": "36", "-": "31", "+": "32"}


def unified(path: str, before: str, after: str, color: bool) -> str:
    """The diff between two texts of a file, "" where they are the same. In colour it is for eyes only, else exact."""
    if before == after:
        return ""
    name = harmless(path.lstrip("/"))
    lines = difflib.unified_diff(_LINE.findall(before), _LINE.findall(after), f"a/{name}", f"b/{name}")
    out = []
    for line in lines:
        body = line.rstrip("\r\n")
        ending = line[len(body) :] or "\n\\ No newline at end of file\n"
        style = next((s for prefix, s in _STYLES.items() if body.startswith(prefix)), "") if color else ""
        body = harmless_code(body) if color else body
        out.append(f"\x1b[{style}m{body}\x1b[0m{ending}" if style else body + ending)
    return "".join(out)
