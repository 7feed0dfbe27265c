"""Puts fixed versions of each edited function beside the original, in the same scope of the same module.

    def train(...): original
    def _torchlint_fixed_0(...): fixed
    train = _torchlint_shadow([0], train, [_torchlint_fixed_0])

Compiled that way they share globals, closures, class cells and decorators. Line numbers of the original stay; those of
the fixed functions are shifted by a multiple of `SHIFT`, so that a trace tells them apart.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

from torchlint.verify.units import Definition, added_imports, removed_imports, span, stays_first

SHIFT = 1_000_000
HOOK = "_torchlint_shadow"

# Running these twice has no effect outside the function; any other decorator may register what it gets.
_HARMLESS = {"no_grad", "inference_mode", "enable_grad", "staticmethod", "classmethod", "wraps", "override"}


@dataclass(frozen=True, slots=True)
class Edited:
    """A function that a variant edits: its dotted name and its lines (decorators included) on both sides, 1-based."""

    name: str
    before: tuple[int, int]
    after: tuple[int, int]
    unable: str | None = None  # why it cannot be run beside the original
    variant: int = 0


@dataclass
class Weave:
    """`tree` is None where a change outside of functions was made; `reason` says where."""

    tree: ast.Module | None = None
    functions: list[Edited] = field(default_factory=list)
    reason: str | None = None


_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def weave(before: str, *variants: str) -> Weave:
    """Raises SyntaxError where a text does not parse."""
    result = Weave()
    old = ast.parse(before)
    imports: dict[str, ast.stmt] = {}
    texts = [ast.parse(text) for text in variants]
    # An import that a variant no longer needs does no harm beside it.
    removed = {ast.dump(s) for new in texts for s in removed_imports(old, new)} if variants else set()
    kept = [s for s in old.body if ast.dump(s) not in removed]
    bodies = []
    for new in texts:
        added = added_imports(old, new)
        imports.update((ast.dump(s), s) for s in added)
        ids = {id(s) for s in added}
        bodies.append([s for s in new.body if id(s) not in ids and ast.dump(s) not in removed])
    body = _block(kept, bodies, "", result)
    if result.reason is not None:
        return result
    body = _put_back(body, old.body, removed)
    at = 0
    for at, statement in enumerate(body):
        if not stays_first(statement, at):
            break
    first = [copy.deepcopy(s) for s in imports.values()]
    for statement in first:
        _put_on(statement, body[at].lineno if body else 1)
    old.body = [*body[:at], *first, *body[at:]]
    result.tree = ast.fix_missing_locations(old)
    return result


def _put_back(body: list[ast.stmt], old: Sequence[ast.stmt], removed: set[str]) -> list[ast.stmt]:
    """The woven statements with the imports that were left aside, each where it was."""
    result = list(body)
    for index in reversed(range(len(old))):
        if ast.dump(old[index]) in removed:
            following = old[index + 1] if index + 1 < len(old) else None
            at = next((i for i, s in enumerate(result) if s is following), len(result))
            result.insert(at, old[index])
    return result


def _block(
    old: Sequence[ast.stmt], variants: Sequence[Sequence[ast.stmt]], prefix: str, result: Weave
) -> list[ast.stmt]:
    """The statements of `old` with the edited functions woven in; notes a reason where that cannot be done."""
    woven: list[ast.stmt] = []
    for new in variants:
        if len(old) != len(new):
            pairs = zip(old, new)
            end = old[-1].lineno if old else 1
            where = next((a.lineno for a, b in pairs if ast.dump(a) != ast.dump(b)), end)
            result.reason = f"module-level edit at line {where}"
            return list(old)
    for index, a in enumerate(old):
        mine = [new[index] for new in variants]
        differing = [ast.dump(a) != ast.dump(b) for b in mine]
        if not any(differing):
            woven.append(a)
        elif isinstance(a, _Function) and all(isinstance(b, type(a)) and b.name == a.name for b in mine):
            edited = [b if differs and isinstance(b, _Function) else None for b, differs in zip(mine, differing)]
            woven.extend(_function(a, edited, prefix, result))
        elif isinstance(a, ast.ClassDef) and all(isinstance(b, ast.ClassDef) and _same_header(a, b) for b in mine):
            bodies = [b.body for b in mine if isinstance(b, ast.ClassDef)]
            a.body = _block(a.body, bodies, f"{prefix}{a.name}.", result)
            woven.append(a)
        else:
            blocks = _inner(a, mine)
            if blocks is None:
                result.reason = f"module-level edit at line {a.lineno}"
                return list(old)
            for name, inner in blocks.items():
                setattr(a, name, _block(getattr(a, name), inner, prefix, result))
            woven.append(a)
    return woven


def _inner(a: ast.stmt, others: Sequence[ast.stmt]) -> dict[str, list[list[ast.stmt]]] | None:
    """The blocks of an `if` or `try` whose headers agree in all versions; None for any other statement."""
    if not isinstance(a, (ast.If, ast.Try)) or any(type(b) is not type(a) for b in others):
        return None

    def header(node: ast.stmt) -> list[str]:
        parts = [node.test] if isinstance(node, ast.If) else getattr(node, "handlers", [])
        return [ast.dump(part) for part in parts]

    if any(header(a) != header(b) for b in others):
        return None
    names = ("body", "orelse") if isinstance(a, ast.If) else ("body", "orelse", "finalbody")
    return {name: [getattr(b, name) for b in others] for name in names}


def _same_header(a: ast.ClassDef, b: ast.ClassDef) -> bool:
    def header(node: ast.ClassDef) -> list[str]:
        return [node.name, *(ast.dump(n) for n in (*node.bases, *node.keywords, *node.decorator_list))]

    return header(a) == header(b)


def _function(a: Definition, variants: Sequence[Definition | None], prefix: str, result: Weave) -> list[ast.stmt]:
    numbers, names = [], []
    woven: list[ast.stmt] = [a]
    for variant, b in enumerate(variants):
        if b is None:
            continue
        unable = _unable(a) or _unable(b)
        number = len(result.functions)
        result.functions.append(Edited(f"{prefix}{a.name}", span(a), span(b), unable, variant))
        if unable:
            continue
        fixed = copy.deepcopy(b)
        fixed.name = f"_torchlint_fixed_{number}"
        ast.increment_lineno(fixed, SHIFT * (variant + 1))
        woven.append(fixed)
        numbers.append(number)
        names.append(fixed.name)
    if names:
        listed = ", ".join(names)
        for statement in ast.parse(f"{a.name} = {HOOK}({numbers}, {a.name}, [{listed}])\ndel {listed}").body:
            _put_on(statement, a.end_lineno or a.lineno)
            woven.append(statement)
    return woven


def _put_on(statement: ast.stmt, line: int) -> None:
    for node in ast.walk(statement):
        if isinstance(node, (ast.stmt, ast.expr, ast.alias)):
            node.lineno = node.end_lineno = line


def _unable(node: Definition) -> str | None:
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
