"""What IPython adds to Python (magics, shell lines, help with `?`), turned into Python of the same length.

Only the cells of notebooks go through here, and only those that are not plain Python already.
"""

from __future__ import annotations

import re
import warnings
from typing import NamedTuple

_ONLY_AST = 0x400  # ast.PyCF_ONLY_AST, without the import

# Cell magics whose body runs as the notebook's own code. Under any other (%%bash, %%html, %%writefile, %%python, which
# starts a process of its own) the cell is not part of the program.
_RUNS_HERE = frozenset(
    (
        "capture", "debug", "heat", "ipytest", "lprun", "memit", "memray_flamegraph", "mprun", "prun", "pyinstrument",
        "scalene", "snakeviz", "time", "timeit", "wandb",
    )
)  # fmt: skip
_CELL_MAGIC = re.compile(r"%%(\w+)[^\r\n]*(?:\r\n|\n|\r)?")
_MAY_HOLD = re.compile(
    r"^[ \t]*[%!?,;/]|=[ \t]*[!%]|\?[ \t]*(?:;[ \t]*)?\r?$|^[ \t]*(?:pip|conda|mamba|cd|ls|ll|cat|cp|mv|rm|mkdir)",
    re.MULTILINE,
)
_ESCAPE = re.compile(r"[ \t]*(?=[%!?]|[,;/][A-Za-z_])")
_ASSIGNED = re.compile(r"[ \t]*[A-Za-z_][\w.\[\]'\", \t*]*=[ \t]*(?=[!%]\S)")
_HELP = re.compile(r"[ \t]*(?=%{0,2}(?!\d)[\w*]+(?:\.[\w*]+|\[-?\d+\])*\?{1,2}[ \t]*(?:;[ \t]*)?$)")
# Commands that IPython runs without % where no variable has their name.
_AUTOMAGIC = re.compile(r"[ \t]*(?=(?:pip3?|conda|mamba|cd|ls|ll|cat|cp|mv|rm|mkdir|rmdir)[ \t]+[-\w./~\"'$])")
_TIMED = re.compile(r"%time[ \t]+(?=[^\s-])")
_NEWLINE = re.compile(r"[\r\n]")
_TOKEN = re.compile(
    r"""(?P<string>\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\(?:\r\n|.)|[^"\\\r\n])*"|'(?:\\(?:\r\n|.)|[^'\\\r\n])*')
      | \#[^\r\n]*
      | \\(?:\r\n|\n|\r)
      | (?P<newline>\r\n|\n|\r)
      | (?P<open>[(\[{])
      | (?P<close>[)\]}])""",
    re.VERBOSE | re.DOTALL,
)


class Neutral(NamedTuple):
    """Python of the same length as the source of a cell, and the stretches that stand for something else."""

    text: str
    frozen: tuple[tuple[int, int], ...]


def foreign(source: str) -> bool:
    """Whether a cell starts with a magic under which the rest is not the notebook's Python."""
    match = _CELL_MAGIC.match(source.lstrip())
    return match is not None and match[1] not in _RUNS_HERE


def neutral(source: str) -> Neutral:
    """A cell as Python that can be parsed, if its magics are all that keeps it from being so."""
    if not _MAY_HOLD.search(source) or _parses(source):
        return Neutral(source, ())
    out = list(source)
    frozen: list[tuple[int, int]] = []
    position = len(source) - len(source.lstrip())
    while match := _CELL_MAGIC.match(source, position):
        out[position] = "#"
        frozen.append((0, match.end()))
        position = match.end()
    while position < len(source):
        start, end = position, _line_end(source, position)
        at = _magic(source, start, end)
        if at is None:
            position = _logical_end(source, position)
            continue
        end = _continued(source, end)
        frozen.append(_hide(source, out, start, at, end))
        position = _after_newline(source, end)
    return Neutral("".join(out), tuple(frozen))


def _magic(source: str, start: int, end: int) -> int | None:
    """Where on a line the part begins that is no Python; None where it is Python."""
    for pattern in (_ESCAPE, _ASSIGNED):
        match = pattern.match(source, start, end)
        if match:
            return match.end()
    match = _HELP.match(source, start, end)
    if match:
        return match.end()
    match = _AUTOMAGIC.match(source, start, end)
    return match.end() if match and not _parses(source[match.end() : end]) else None


def _hide(source: str, out: list[str], start: int, at: int, end: int) -> tuple[int, int]:
    """Overwrite a magic with what Python takes for a comment, or for a name that nothing is known of."""
    timed = _TIMED.match(source, at, end)
    if timed and _parses(source[timed.end() : end]):
        # `%time f(x)` runs f(x) here: it stays, behind a statement that does nothing.
        out[at : timed.end()] = "_;".ljust(timed.end() - at)
        return at, timed.end()
    if at == start:
        out[at] = "#"
    else:
        out[at : min(at + 2, end)] = "_#"[: min(2, end - at)]
    for match in re.finditer(r"[\r\n][ \t]*([^\s])", source[at:end]):
        out[at + match.start(1)] = "#"
    return at, end


def _continued(source: str, end: int) -> int:
    """The end of a line that goes on behind a backslash."""
    while source[end - 1 : end] == "\\" and end < len(source):
        end = _line_end(source, _after_newline(source, end))
    return end


def _line_end(source: str, at: int) -> int:
    match = _NEWLINE.search(source, at)
    return match.start() if match else len(source)


def _after_newline(source: str, at: int) -> int:
    return at + (2 if source.startswith("\r\n", at) else 1)


def _logical_end(source: str, position: int) -> int:
    """Behind the newline that ends the statement line which starts at an offset."""
    depth = 0
    for match in _TOKEN.finditer(source, position):
        if match["open"]:
            depth += 1
        elif match["close"]:
            depth -= 1
        elif match["newline"] and depth <= 0:
            return match.end()
    return len(source)


def _parses(source: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "<cell>", "exec", _ONLY_AST, True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
