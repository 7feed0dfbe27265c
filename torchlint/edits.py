"""The edits that fixes are made of: arguments, imports, `with` blocks, decorators.

Each returns `Edit`s over the file's text. Names that a fix writes must resolve where it writes them: ask `torch_name`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import libcst as cst

from torchlint.diagnostic import Edit
from torchlint.nodes import argument, dotted, find, walk
from torchlint.semantics import Semantics
from torchlint.semantics.lossflow import LossInput
from torchlint.semantics.outputs import End
from torchlint.semantics.reaching import Reaching
from torchlint.source import File


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
    at = file.insert_after(target, "")
    first = file.newline if at.end == len(file.text) and not file.text.endswith(("\n", "\r")) else ""
    text = _at_indent(file, line, file.indent(target))
    return _taken_out(file, line), Edit(at.start, at.end, first + text + ("" if first else file.newline))


def move_before(file: File, line: cst.SimpleStatementLine, target: cst.CSTNode) -> tuple[Edit, Edit]:
    """Put a one-statement line, with the comment behind it, above another statement and at that one's indentation."""
    start = file.line_start(target)
    return _taken_out(file, line), Edit(start, start, _at_indent(file, line, file.indent(target)) + file.newline)


def _taken_out(file: File, line: cst.SimpleStatementLine) -> Edit:
    parent = file.parent(line)
    alone = isinstance(parent, cst.IndentedBlock) and len(parent.body) == 1
    left = file.indent(line) + "pass" + file.newline if alone else ""
    return Edit(file.line_start(line), file.line_end(line), left)


def _at_indent(file: File, line: cst.SimpleStatementLine, indent: str) -> str:
    """The line's text at another indentation; rows behind the first one follow, unless a string lies across them."""
    code_start, code_end = file.caret(line)
    text = file.text[code_start:code_end] + file.text[code_end : file.line_end(line)].rstrip()
    first, *rest = re.split(r"\r\n|\n|\r", text)
    old = file.indent(line)
    strings = (cst.SimpleString, cst.FormattedString)
    if not any(isinstance(n, strings) and "\n" in file.code(n) for n in walk(line)):
        rest = [indent + row.removeprefix(old) if row.startswith(old) else row for row in rest]
    return file.newline.join([indent + first, *rest])


def add_decorator(file: File, function: cst.FunctionDef, decorator: str) -> Edit:
    """`@decorator` directly above `def`, below the decorators that are there (`@staticmethod`, `@property` …)."""
    start, _ = file.caret(function)
    row, _ = file.lines.locate(start)
    line = file.lines.starts[row]
    return Edit(line, line, file.indent(function) + "@" + decorator + file.newline)


def binds(node: cst.CSTNode, name: str) -> bool:
    """Whether anything at or under the node assigns the plain name."""
    return any(isinstance(t.target, cst.Name) and t.target.value == name for t in find(node, cst.AssignTarget))


def unapply(file: File, call: cst.Call, kept: cst.BaseExpression) -> Edit | None:
    """Put what a call was given in the call's place: `F.softmax(x, dim=1)` → `x`; the whole statement goes where it
    would become `x = x`. None where a comment would be lost."""
    start, end = file.span(call)
    inner_start, inner_end = file.span(kept)
    if "#" in file.text[start:inner_start] + file.text[inner_end:end]:
        return None
    text = file.text[inner_start:inner_end]
    parent = file.parent(call)
    if isinstance(parent, cst.Assign) and len(parent.targets) == 1 and file.code(parent.targets[0].target) == text:
        line = file.parent(parent)
        return file.delete(parent) if isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1 else None
    stands_alone = isinstance(parent, (cst.Assign, cst.Return, cst.Arg)) and "\n" not in text
    if not stands_alone and not (isinstance(kept, _ATOMS) and "\n" not in text) and not kept.lpar:
        text = f"({text})"
    return Edit(start, end, text)


_ATOMS = (cst.Name, cst.Attribute, cst.Subscript, cst.Call, cst.List, cst.Dict)


def remove_item(file: File, item: cst.Arg | cst.Element) -> Edit | None:
    """Take an argument or list element out: with its lines if it has them for itself, else with a comma. None where a
    comment would be lost."""
    start, end = file.span(item.value)
    first, last = file.lines.locate(start)[0], file.lines.locate(end)[0]
    line_start, line_end = file.lines.starts[first], _line_end(file, end)
    if not file.text[line_start:start].strip() and file.text[end:line_end].strip() in ("", ","):
        following = file.lines.starts[last + 1] if last + 1 < len(file.lines.starts) else len(file.text)
        return Edit(line_start, following, "")
    if not file.text[line_start:start].strip() and (behind := re.match(r",?[ \t]*(?=#)", file.text[end:line_end])):
        return Edit(start, end + len(behind[0]), "")  # the comment stays on a line of its own
    parent = file.parent(item)
    if isinstance(item, cst.Arg) and isinstance(parent, cst.Call):
        edit = remove_argument(file, parent, item)
    elif isinstance(parent, (cst.List, cst.Tuple)):
        items = list(parent.elements)
        index = next(i for i, e in enumerate(items) if e is item)
        edit = Edit(file.span(items[index - 1].value)[1] if index else file.span(item)[0], end, "")
    else:
        return None
    return None if "#" in file.text[edit.start : edit.end] else edit


def without_activation(file: File, end: End, given: LossInput | None = None) -> Edit | None:
    """What takes an activation off the value that a loss gets: its call or layer goes, or, where others read the
    result, too, the loss gets what the activation was applied to. None where neither can be done."""
    node = end.node
    if node is None:
        return None
    if end.layer:
        return _without_layer(file, node)
    parent = file.parent(node)
    if isinstance(parent, cst.Expr):
        return file.delete(parent)  # x.sigmoid_()
    if not isinstance(node, cst.Call) or end.given is None or end.scope is None:
        return None
    if isinstance(parent, (cst.Assign, cst.AnnAssign)):
        target = parent.targets[0].target if isinstance(parent, cst.Assign) else parent.target
        if not isinstance(target, cst.Name):
            return None
        reading = [
            use
            for use, definitions in Reaching(end.scope.function).uses.items()
            if any(d.node is node for d in definitions)
        ]
        if len(reading) > 1:
            return _give_instead(file, end.given, reading, given)
    return unapply(file, node, end.given)


def _without_layer(file: File, node: cst.BaseExpression) -> Edit | None:
    item = file.parent(node)
    if isinstance(item, cst.Element) and isinstance(file.parent(item), cst.Tuple):
        pair = file.parent(file.parent(item) or item)
        return remove_item(file, pair) if isinstance(pair, cst.Element) else None  # OrderedDict([("name", layer)])
    if isinstance(item, cst.Arg):
        call = file.parent(item)
        statement = file.parent(call) if call is not None else None
        return file.delete(statement) if isinstance(statement, cst.Expr) else remove_item(file, item)
    return remove_item(file, item) if isinstance(item, cst.Element) else None


def _give_instead(
    file: File, before: cst.BaseExpression, reading: Sequence[cst.CSTNode], given: LossInput | None
) -> Edit | None:
    """Let the loss read the name that the activation was applied to, where it still means the same."""
    if given is None or not isinstance(before, cst.Name) or not given.direct:
        return None
    inside = set(walk(given.argument))
    at_loss = [use for use in reading if use in inside]
    if len(at_loss) != 1:
        return None
    first, last = file.caret(before)[1], file.caret(at_loss[0])[0]
    statements = [d.statement for d in Reaching(given.function).every.get(before.value, ())]
    if any(s is not None and first <= file.caret(s)[0] <= last for s in statements) or last < first:
        return None
    return Edit(*file.span(at_loss[0]), before.value)


def unwrap_with(file: File, node: cst.With) -> tuple[Edit, ...]:
    """Take a one-line `with` header away and bring its body one level back, comments kept; nothing where a string goes
    over several lines (its blanks are data) or the layout is another."""
    header, body = file.lines.locate(file.caret(node.items[-1])[1])[0], node.body
    if not isinstance(body, cst.IndentedBlock) or file.lines.locate(file.caret(node)[0])[0] != header:
        return ()
    strings = (cst.SimpleString, cst.FormattedString)
    if isinstance(node.lpar, cst.LeftParen) or any(isinstance(n, strings) and "\n" in file.code(n) for n in walk(body)):
        return ()
    indent, inner = file.indent(node), file.indent(body.body[0])
    start, end = file.line_start(node), file.line_end(node.items[-1])
    comment = file.text[file.caret(node.items[-1])[1] : end].partition("#")
    edits = [Edit(start, end, f"{indent}#{comment[2]}" if comment[1] else "")]
    last = file.lines.locate(max(file.caret(body.body[-1])[1] - 1, 0))[0]
    for row in range(header + 1, last + 1):
        at = file.lines.starts[row]
        if file.text.startswith(inner, at):
            edits.append(Edit(at + len(indent), at + len(inner), ""))
    return tuple(edits)


def remove_imported(file: File, node: cst.ImportFrom, alias: cst.ImportAlias) -> Edit | None:
    """Take one name out of `from m import …`, with the whole statement if it is the only one. None where a comment
    would be lost or the statement shares its line."""
    names = [] if isinstance(node.names, cst.ImportStar) else list(node.names)
    if len(names) == 1:
        line = file.parent(node)
        return file.delete(node) if isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1 else None
    index = next(i for i, other in enumerate(names) if other is alias)
    start, end = file.span(alias.name)[0], file.caret(alias)[1]
    if index + 1 < len(names):
        end = file.span(names[index + 1].name)[0]
    else:
        start = file.caret(names[index - 1])[1]
    return None if "#" in file.text[start:end] else Edit(start, end, "")
