"""Which statements a fix edits, and which of them a run really executed: missing evidence is never a pass."""

from __future__ import annotations

import ast
import contextlib
import difflib
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any


def edited_lines(before: str, after: str) -> tuple[set[int], set[int]]:
    """The 1-based lines of `before` that the fix changes or removes, and those of `after` that it changed or added."""
    a, b = before.splitlines(), after.splitlines()
    old: set[int] = set()
    new: set[int] = set()
    for tag, a1, a2, b1, b2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag != "equal":
            old.update(i + 1 for i in range(a1, a2) if _is_code(a[i]))
            new.update(i + 1 for i in range(b1, b2) if _is_code(b[i]))
    return old, new


def _is_code(line: str) -> bool:
    line = line.strip()
    return bool(line) and not line.startswith("#")


def evidence_lines(text: str, edited: set[int], *, module_level: bool = False) -> list[set[int]]:
    """For each edited statement the lines of which one must be executed during the call to count as run.

    A decorator counts as run when the body below it runs. Imports and other module-level lines take effect when the
    module is loaded and are no evidence by themselves: they are left out, or with `module_level` only the imports are.
    """
    wanted: list[set[int]] = []
    seen: set[tuple[int, int]] = set()

    def visit(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                header = set(
                    range(min([child.lineno, *(d.lineno for d in child.decorator_list)]), child.body[0].lineno)
                )
                body = set(range(child.body[0].lineno, (child.end_lineno or child.lineno) + 1))
                if header & edited:
                    wanted.append(body)
                visit(child, True)
            elif isinstance(child, ast.stmt):
                blocks = [s for name in ("body", "orelse", "finalbody", "handlers") for s in getattr(child, name, [])]
                last = min((s.lineno for s in blocks), default=(child.end_lineno or child.lineno) + 1)
                own = set(range(child.lineno, max(last, child.lineno + 1)))
                key = (child.lineno, last)
                import_only = isinstance(child, (ast.Import, ast.ImportFrom))
                if inside and own & edited and key not in seen and not import_only:
                    seen.add(key)
                    wanted.append(own)
                visit(child, inside)
            else:
                visit(child, inside)

    visit(ast.parse(text), module_level)
    return wanted


@contextlib.contextmanager
def traced(filename: str) -> Iterator[set[int]]:
    """Collects the executed lines of the code compiled under `filename`, in this thread."""
    lines: set[int] = set()

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            lines.add(frame.f_lineno)
        return local

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        return local if frame.f_code.co_filename == filename else None

    previous = sys.gettrace()
    sys.settrace(enter)
    try:
        yield lines
    finally:
        sys.settrace(previous)
