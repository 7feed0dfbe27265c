"""Two texts of a file compared: as a unified diff that `git apply` and `patch` take, and as small edits."""

from __future__ import annotations

import difflib
import re

from torchlint.diagnostic import Edit
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


def edits_between(before: str, after: str) -> tuple[Edit, ...]:
    """Small edits that make one text of the other, so that cursors and folds in what stays are kept."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    starts = [0]
    for line in old:
        starts.append(starts[-1] + len(line))
    found: list[Edit] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            found.append(_trimmed(before, starts[a], starts[b], "".join(new[c:d])))
    return tuple(found)


def _trimmed(text: str, start: int, end: int, new: str) -> Edit:
    """An edit without the characters that it would write as they were, pairs of \\r\\n left whole."""
    old = text[start:end]
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    if head and old[head - 1] == "\r":
        head -= 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    if tail and old[len(old) - tail] == "\n" and text[end - tail - 1 : end - tail] == "\r":
        tail -= 1
    return Edit(start + head, end - tail, new[head : len(new) - tail])
