"""The edits that fixes are made of: arguments, imports, `with` blocks, decorators.

Each returns `Edit`s over the file's text. Names that a fix writes must resolve where it writes them: ask `torch_name`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import libcst as cst

from torchlint.diagnostic import Edit
from torchlint.semantics import Semantics
from torchlint.source import File, argument, dotted, find


def set_argument(file: File, call: cst.Call, name: str, value: str, position: int | None = None) -> Edit:
    """Give a call a keyword argument, or replace the one it has (found by keyword, or at that position)."""
    old = argument(call, name, position)
    if old is not None:
        return Edit(*file.span(old.value), value)
    return add_argument(file, call, f"{name}={value}")


def add_argument(file: File, call: cst.Call, text: str) -> Edit:
    """Append an argument in the call's own layout: on a line of its own where the others stand on theirs."""
    starred = next((a for a in call.args if a.star == "**"), None)
    if starred is not None:
        start, _ = file.span(starred)
        between = _leading(file, call, starred)
        return Edit(start, start, f"{text},{between}")
    if not call.args:
        end = file.caret(call)[1] - 1
        return Edit(end, end, text)
    last = call.args[-1]
    end = file.span(last.value)[1]
    if isinstance(last.comma, cst.Comma):
        start, stop = file.span(last)
        code = file.text[start:stop]
        comma = start + code.rindex(",") if "#" not in code else _comma_after(file, last)
        trailing = file.text[comma + 1 : file.caret(call)[1] - 1]
        if "\n" in trailing or "\r" in trailing:
            indent = _indent_of_row(file, file.lines.locate(_arg_start(file, last))[0])
            line_end = _line_end(file, comma)
            return Edit(line_end, line_end, f"{file.newline}{indent}{text},")
        return Edit(comma + 1, comma + 1, f" {text},")
    return Edit(end, end, f",{_leading(file, call, last)}{text}")


def _arg_start(file: File, arg: cst.Arg) -> int:
    return file.span(arg)[0]


def _comma_after(file: File, arg: cst.Arg) -> int:
    """Offset of the comma behind an argument, comments between skipped."""
    position = file.span(arg.value)[1]
    text = file.text
    while text[position] != ",":
        if text[position] == "#":
            position = _line_end(file, position)
        else:
            position += 1
    return position


def _line_end(file: File, offset: int) -> int:
    """Offset of the newline that ends the line of `offset`."""
    match = re.compile(r"\r?\n|\r").search(file.text, offset)
    return match.start() if match else len(file.text)


def _indent_of_row(file: File, row: int) -> str:
    start = file.lines.starts[row]
    match = re.compile(r"[ \t]*").match(file.text, start)
    return match[0] if match else ""


def _leading(file: File, call: cst.Call, arg: cst.Arg) -> str:
    """What to put between a new neighbour and this argument: a line break and indent if it begins its line."""
    start = _arg_start(file, arg)
    row, column = file.lines.locate(start)
    indent = _indent_of_row(file, row)
    if len(indent) == column and file.lines.locate(file.caret(call)[0])[0] != row:
        return file.newline + indent
    return " "


def remove_argument(file: File, call: cst.Call, arg: cst.Arg) -> Edit:
    """Take an argument out, with its comma and, if it was alone on its line, with the line."""
    index = next(i for i, a in enumerate(call.args) if a is arg)
    start, end = file.span(arg)
    if index + 1 < len(call.args):
        return Edit(start, file.span(call.args[index + 1])[0], "")
    if index:
        return Edit(file.span(call.args[index - 1].value)[1], file.span(arg.value)[1], "")
    return Edit(start, end, "")


def torch_name(file: File, sem: Semantics, name: str, at: cst.CSTNode) -> tuple[str, tuple[Edit, ...]]:
    """How to write a torch name (`torch.no_grad`) at a node, and the import that must be added for it, if any.

    Uses `import torch` (under its alias) where the module has it at its top and nothing hides it; adds it otherwise.
    """
    module, _, _ = name.partition(".")
    function = sem.function(at)
    for alias, target in sem.names.imports.items():
        if target == module and sem.names.qualify_text(alias, function) == module and _at_top(file, alias):
            return alias + name[len(module) :], ()
    return name, (ensure_import(file, module),)


def _at_top(file: File, alias: str) -> bool:
    """Whether a top-level import statement binds the alias (not one inside a function or an `if`)."""
    for line in file.tree.body:
        if isinstance(line, cst.SimpleStatementLine):
            for small in line.body:
                if isinstance(small, cst.Import):
                    for item in small.names:
                        if item.asname is not None:
                            if isinstance(item.asname.name, cst.Name) and item.asname.name.value == alias:
                                return True
                        elif (dotted(item.name) or "").partition(".")[0] == alias:
                            return True
    return False


def ensure_import(file: File, module: str, *, names: Sequence[str] = ()) -> Edit:
    """`import module`, or `from module import names`, after the file's last leading import (docstring and
    `from __future__` respected)."""
    text = f"from {module} import {', '.join(names)}" if names else f"import {module}"
    anchor: cst.CSTNode | None = None
    for i, line in enumerate(file.tree.body):
        if not isinstance(line, cst.SimpleStatementLine):
            break
        small = line.body[0]
        if isinstance(small, cst.ImportFrom) and dotted(small.module) == "__future__":
            anchor = line
        elif isinstance(small, (cst.Import, cst.ImportFrom)):
            return Edit(file.line_start(line), file.line_start(line), text + file.newline)
        elif (
            i == 0
            and isinstance(small, cst.Expr)
            and isinstance(small.value, (cst.SimpleString, cst.ConcatenatedString))
        ):
            anchor = line
        else:
            break
    if anchor is not None:
        end = file.line_end(anchor)
        return Edit(end, end, file.newline + text + file.newline)
    first = file.tree.body[0]
    start = file.line_start(first)
    return Edit(start, start, text + file.newline + file.newline)


def wrap_in_with(file: File, statements: Sequence[cst.CSTNode], context: str) -> tuple[Edit, ...]:
    """Put statements under `with context:`, one level deeper, comments and multi-line strings kept."""
    return file.reindent(statements, f"with {context}:")


def move_after(file: File, line: cst.SimpleStatementLine, target: cst.CSTNode) -> tuple[Edit, Edit]:
    """Put a one-statement line, with the comment behind it, below another statement and at that one's indentation."""
    start, end = file.line_start(line), file.line_end(line)
    code_start, code_end = file.caret(line)
    text = file.text[code_start:code_end] + file.text[code_end:end].rstrip()
    parent = file.parent(line)
    alone = isinstance(parent, cst.IndentedBlock) and len(parent.body) == 1
    left = file.indent(line) + "pass" + file.newline if alone else ""
    return Edit(start, end, left), file.insert_after(target, text)


def move_before(file: File, line: cst.SimpleStatementLine, target: cst.CSTNode) -> tuple[Edit, Edit]:
    """Put a one-statement line, with the comment behind it, above another statement and at that one's indentation."""
    taken, put = move_after(file, line, target)
    text = put.text.lstrip().rstrip("\r\n")
    return taken, file.insert_before(target, text)


def add_decorator(file: File, function: cst.FunctionDef, decorator: str) -> Edit:
    """`@decorator` directly above `def`, below the decorators that are there (`@staticmethod`, `@property` …)."""
    start, _ = file.caret(function)
    row, _ = file.lines.locate(start)
    line = file.lines.starts[row]
    return Edit(line, line, file.indent(function) + "@" + decorator + file.newline)


def binds(node: cst.CSTNode, name: str) -> bool:
    """Whether anything at or under the node assigns the plain name."""
    return any(isinstance(t.target, cst.Name) and t.target.value == name for t in find(node, cst.AssignTarget))
