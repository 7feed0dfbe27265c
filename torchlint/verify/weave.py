"""Puts the fixed version of each edited function beside the original, in the same scope of the same module.

    def train(...): original
    def _torchlint_fixed_0(...): fixed
    train = _torchlint_shadow(0, train, _torchlint_fixed_0)

Compiled that way the two share globals, closures, class cells and decorators. Line numbers of the original stay; those
of the fixed functions are shifted by `SHIFT`, so that a trace tells the two apart.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

SHIFT = 1_000_000
HOOK = "_torchlint_shadow"

# Running these twice has no effect outside the function; any other decorator may register what it gets.
_HARMLESS = {"no_grad", "inference_mode", "enable_grad", "staticmethod", "classmethod", "wraps", "override"}


@dataclass(frozen=True, slots=True)
class Edited:
    """A function that a fix edits: its dotted name and its lines (decorators included) on both sides, 1-based."""

    name: str
    before: tuple[int, int]
    after: tuple[int, int]
    unable: str | None = None  # why it cannot be run beside the original


@dataclass
class Weave:
    """`tree` is None where a change outside of functions was made; `reason` says where."""

    tree: ast.Module | None = None
    functions: list[Edited] = field(default_factory=list)
    imports: list[ast.stmt] = field(default_factory=list)
    reason: str | None = None


_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def weave(before: str, after: str) -> Weave:
    """Raises SyntaxError where either text does not parse."""
    result = Weave()
    old, new = ast.parse(before), ast.parse(after)
    result.imports = _added_imports(old, new)
    added = {id(statement) for statement in result.imports}
    rest = [s for s in new.body if id(s) not in added]
    body = _block(old.body, rest, "", result)
    if result.reason is not None:
        return result
    at = 0
    for at, statement in enumerate(body):
        if not _stays_first(statement, at):
            break
    imports = [copy.deepcopy(s) for s in result.imports]
    for statement in imports:
        line = body[at].lineno if body else 1
        _put_on(statement, line)
    old.body = [*body[:at], *imports, *body[at:]]
    result.tree = ast.fix_missing_locations(old)
    return result


def _stays_first(statement: ast.stmt, index: int) -> bool:
    docstring = index == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return docstring or (isinstance(statement, ast.ImportFrom) and statement.module == "__future__")


def _added_imports(old: ast.Module, new: ast.Module) -> list[ast.stmt]:
    known = {ast.dump(s) for s in old.body}
    return [s for s in new.body if isinstance(s, (ast.Import, ast.ImportFrom)) and ast.dump(s) not in known]


def _block(old: Sequence[ast.stmt], new: Sequence[ast.stmt], prefix: str, result: Weave) -> list[ast.stmt]:
    """The statements of `old` with the edited functions woven in; notes a reason where that cannot be done."""
    woven: list[ast.stmt] = []
    if len(old) != len(new):
        where = next((a.lineno for a, b in zip(old, new) if ast.dump(a) != ast.dump(b)), old[-1].lineno if old else 1)
        result.reason = f"module-level edit at line {where}"
        return list(old)
    for a, b in zip(old, new):
        if ast.dump(a) == ast.dump(b):
            woven.append(a)
        elif isinstance(a, _Function) and type(a) is type(b) and isinstance(b, _Function) and a.name == b.name:
            woven.extend(_function(a, b, prefix, result))
        elif isinstance(a, ast.ClassDef) and isinstance(b, ast.ClassDef) and _same_header(a, b):
            a.body = _block(a.body, b.body, f"{prefix}{a.name}.", result)
            woven.append(a)
        else:
            result.reason = f"module-level edit at line {a.lineno}"
            return list(old)
    return woven


def _same_header(a: ast.ClassDef, b: ast.ClassDef) -> bool:
    def header(node: ast.ClassDef) -> list[str]:
        return [node.name, *(ast.dump(n) for n in (*node.bases, *node.keywords, *node.decorator_list))]

    return header(a) == header(b)


def _function(
    a: ast.FunctionDef | ast.AsyncFunctionDef, b: ast.FunctionDef | ast.AsyncFunctionDef, prefix: str, result: Weave
) -> list[ast.stmt]:
    unable = _unable(a) or _unable(b)
    number = len(result.functions)
    result.functions.append(Edited(f"{prefix}{a.name}", _span(a), _span(b), unable))
    if unable:
        return [a]
    fixed = copy.deepcopy(b)
    fixed.name = f"_torchlint_fixed_{number}"
    ast.increment_lineno(fixed, SHIFT)
    call = ast.parse(f"{a.name} = {HOOK}({number}, {a.name}, {fixed.name})\ndel {fixed.name}").body
    for statement in call:
        _put_on(statement, a.end_lineno or a.lineno)
    return [a, fixed, *call]


def _put_on(statement: ast.stmt, line: int) -> None:
    for node in ast.walk(statement):
        if isinstance(node, (ast.stmt, ast.expr, ast.alias)):
            node.lineno = node.end_lineno = line


def _span(node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[int, int]:
    return min([node.lineno, *(d.lineno for d in node.decorator_list)]), node.end_lineno or node.lineno


def _unable(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    if isinstance(node, ast.AsyncFunctionDef):
        return "coroutine"
    for decorator in node.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
        if name not in _HARMLESS:
            return f"decorator @{ast.unparse(decorator)} would run twice"
    stack: list[ast.AST] = list(node.body)
    while stack:
        inner = stack.pop()
        if isinstance(inner, (ast.Yield, ast.YieldFrom)):
            return "generator function"
        if not isinstance(inner, (*_Function, ast.Lambda)):
            stack.extend(ast.iter_child_nodes(inner))
    return None


@dataclass(frozen=True, slots=True)
class Choice:
    """A function to be taken from a fixed text, with the imports that this text adds."""

    function: Edited
    after: str
    imports: Sequence[ast.stmt] = ()

    @property
    def lines(self) -> list[str]:
        start, end = self.function.after
        return self.after.splitlines(keepends=True)[start - 1 : end]


def merge(before: str, choices: Sequence[Choice]) -> str:
    """`before` with the chosen functions as they were fixed, and the new imports that those use."""
    result = before.splitlines(keepends=True)
    needed: dict[str, None] = {}
    for choice in choices:
        used = {n.id for n in ast.walk(ast.parse(_dedent("".join(choice.lines)))) if isinstance(n, ast.Name)}
        for statement in choice.imports:
            if isinstance(statement, (ast.Import, ast.ImportFrom)) and used & set(_bound(statement)):
                needed[ast.unparse(statement)] = None
    for choice in sorted(choices, key=lambda c: c.function.before, reverse=True):
        start, end = choice.function.before
        result[start - 1 : end] = choice.lines
    if needed:
        at = _import_line(ast.parse(before))
        newline = "\r\n" if before.count("\r\n") * 2 > before.count("\n") else "\n"
        result[at:at] = [statement + newline for statement in needed]
    return "".join(result)


def _dedent(text: str) -> str:
    """A function at any depth as a module: one `if` level takes up its indentation."""
    first = text.splitlines()[0]
    return "if True:\n" + text if first[:1].isspace() else text


def _bound(statement: ast.Import | ast.ImportFrom) -> list[str]:
    return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]


def _import_line(tree: ast.Module) -> int:
    """How many lines come before the place for a new import: behind the first block of imports."""
    line = 0
    for index, statement in enumerate(tree.body):
        if isinstance(statement, (ast.Import, ast.ImportFrom)) or _stays_first(statement, index):
            line = statement.end_lineno or statement.lineno
        else:
            break
    return line
