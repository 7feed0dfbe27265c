"""Damage to source text: what editors, merges and version control do to files, and newer syntax than the fixtures have.

A mutation takes bytes and a random generator and gives other bytes, mostly still Python, often not.
"""

from __future__ import annotations

import ast
import random
import re
import warnings
from collections.abc import Callable

Mutation = Callable[[str, random.Random], str]

# Statements of every syntax that Python 3.8 to 3.14 added; what this Python does not know must be told in one line.
NEW_SYNTAX = (
    "type Pair[T] = tuple[T, T]",
    "def first[T: (int, str), *Ts, **P](x: T, *rest: *Ts) -> T: return x",
    "class Box[T]:\n    item: T",
    "type Alias[T = int] = list[T]",
    "def spread(*args: *tuple[int, ...]): return args",
    "print(f'{f'{1 + 1}'}')",
    'print(f"{"nested" + "quotes"}")',
    "print(f'{x!r:>{width}}')",
    "t'{name} is {value!r:>4}'",
    "try:\n    pass\nexcept ValueError, TypeError:\n    pass",
    "try:\n    pass\nexcept* ValueError:\n    pass",
    "match point:\n    case [0, *rest] if (n := len(rest)) > 1: pass\n    case {'k': v, **more}: pass",
    "match point:\n    case P(x=0) | None as p: pass\n    case _: pass",
    "while (chunk := read()): use(chunk)",
    "def only(a, /, b, *, c=1): return (y := a) + b",
    "with (open('a') as a, open('b') as b): pass",
    "x[*idx] = y[a:b, *c]",
    "async def go():\n    async for x in y: await x\n    return [z async for z in w if await z]",
    "lambda *a, k=(yield_ := 1), **kw: (a, k, kw)",
    "assert (x := 1), f'{x=}'",
    "@(decorators := [print])[0]\ndef decorated(): ...",
    "global loss",
    "del (model), [optimizer]",
    "loss: torch.Tensor",
    "for x.y, *z[0] in loader: loss.backward()",
    "x = yield",
    "return",
)
_ODD = ("\x0c", "\x0b", "\x85", "\u2028", "\u00a0", "\ufeff", "\x1c", "\t", "\\\n", ";", "\x00", "\r", "\x1a", "\ud800")
_LETTERS = ("é", "变量", "ℵ", "ſ", "𝔩", "ª", "Ⅷ", "ﬁ")  # some are other names after NFKC
_TOKEN = re.compile(r"\w+|[^\w\s]+|\s+")


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)


def _some_lines(lines: list[str], rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(lines))
    return start, min(len(lines), start + rng.choice((1, 1, 2, 5, 20)))


def delete_lines(text: str, rng: random.Random) -> str:
    lines = text.splitlines(True) or [""]
    start, end = _some_lines(lines, rng)
    return "".join(lines[:start] + lines[end:])


def duplicate_lines(text: str, rng: random.Random) -> str:
    lines = text.splitlines(True) or [""]
    start, end = _some_lines(lines, rng)
    at = rng.choice((end, rng.randrange(len(lines) + 1)))
    return "".join(lines[:at] + lines[start:end] + lines[at:])


def reindent_lines(text: str, rng: random.Random) -> str:
    lines = text.splitlines(True) or [""]
    start, end = _some_lines(lines, rng)
    change = rng.choice(("    ", "  ", "\t", " ", None))
    for at in range(start, end):
        lines[at] = change + lines[at] if change is not None else lines[at].removeprefix("    ")
    return "".join(lines)


def to_tabs(text: str, rng: random.Random) -> str:
    return re.sub(r"^(?: {4})+", lambda m: "\t" * (len(m[0]) // 4), text, flags=re.M)


def splice_tokens(text: str, rng: random.Random) -> str:
    tokens = _tokens(text) or [""]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, other = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        how = rng.randrange(4)
        if how == 0:
            tokens[at] = ""
        elif how == 1:
            tokens[at] += tokens[other]
        elif how == 2:
            tokens[at], tokens[other] = tokens[other], tokens[at]
        else:
            tokens[at] = tokens[other]
    return "".join(tokens)


def odd_newlines(text: str, rng: random.Random) -> str:
    """Some or all newlines as Windows, old Macs or nobody writes them."""
    new, share = rng.choice(("\r\n", "\r\n", "\r", "\n\x0c", "\x0c\n", "\n\r\n", " \\\n")), rng.choice((1.0, 0.3, 0.02))
    return re.sub(r"\r\n|\n", lambda m: new if rng.random() < share else m[0], text)


def odd_characters(text: str, rng: random.Random) -> str:
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(len(text) + 1)
        if rng.random() < 0.5:
            at = text.rfind("\n", 0, at) + 1
        text = text[:at] + rng.choice(_ODD) + text[at:]
    return text


def unicode_names(text: str, rng: random.Random) -> str:
    """A name that occurs in the text gets letters that are no ASCII, everywhere."""
    names = sorted(set(re.findall(r"\b[a-z_]\w{0,20}\b", text)))
    if not names:
        return text
    name, letter = rng.choice(names), rng.choice(_LETTERS)
    return re.sub(rf"\b{name}\b", name + letter, text)


def new_syntax(text: str, rng: random.Random) -> str:
    """A statement of newer syntax, at a place where a statement may stand."""
    lines = text.splitlines(True) or [""]
    at = rng.randrange(len(lines))
    indent = re.match(r"[ \t]*", lines[at])
    assert indent is not None
    statement = "".join(indent[0] + line + "\n" for line in rng.choice(NEW_SYNTAX).split("\n"))
    return "".join([*lines[:at], statement, *lines[at:]])


def long_line(text: str, rng: random.Random) -> str:
    terms = rng.choice((100, 700))  # libcst itself takes quadratic time in the depth of a sum
    return text + f"\nlong = {' + '.join(['loss'] * terms)}\nlist_ = [{', '.join(['model(x)'] * terms)}]\n"


# -- changes to the syntax tree that leave it one ------------------------------------------------------------------


def _parsed(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _spans(text: str, nodes: list[ast.AST]) -> list[tuple[int, int]]:
    """Offsets of nodes in the text; none for one whose place cannot be told."""
    starts = [0]
    for line in re.split(r"(?<=\n)|(?<=\r)(?!\n)", text):
        starts.append(starts[-1] + len(line))
    found = []
    for node in nodes:
        first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", 0) or 0
        if 0 < first < len(starts) and 0 < last < len(starts):
            line, end_line = text[starts[first - 1] : starts[first]], text[starts[last - 1] : starts[last]]
            begin = len(line.encode("utf-8", "replace")[: node.col_offset].decode("utf-8", "replace"))  # type: ignore[attr-defined]
            end = len(end_line.encode("utf-8", "replace")[: node.end_col_offset].decode("utf-8", "replace"))  # type: ignore[attr-defined]
            found.append((starts[first - 1] + begin, starts[last - 1] + end))
    return found


def other_expression(text: str, rng: random.Random) -> str:
    """Expressions in the place of others of the same text: what rules must expect anywhere."""
    for _ in range(rng.choice((1, 2, 4))):
        tree = _parsed(text)
        nodes: list[ast.AST] = [n for n in ast.walk(tree) if isinstance(n, ast.expr)] if tree is not None else []
        if len(nodes) < 2:
            return text
        places = _spans(text, rng.sample(nodes, 2))
        if len(places) == 2:
            (start, end), (a, b) = places
            text = (
                f"{text[:start]}({text[a:b]}){text[end:]}"
                if rng.random() < 0.6
                else text[:start] + text[a:b] + text[end:]
            )
    return text


def other_statement(text: str, rng: random.Random) -> str:
    """A statement taken out, doubled, moved, or put under a compound statement."""
    tree = _parsed(text)
    nodes: list[ast.AST] = [n for n in ast.walk(tree) if isinstance(n, ast.stmt)] if tree is not None else []
    if len(nodes) < 2:
        return text
    places = _spans(text, rng.sample(nodes, 2))
    if len(places) < 2:
        return text
    (start, end), (a, b) = places
    line = text.rfind("\n", 0, start) + 1
    indent = text[line:start]
    if indent.strip():
        return text
    how = rng.randrange(4)
    if how == 0:
        return text[:start] + "pass" + text[end:]
    if how == 1:
        return text[:end] + "\n" + indent + text[start:end] + text[end:]
    other = text[a:b]
    own = " " * (a - text.rfind("\n", 0, a) - 1)
    if how == 2:
        other = "\n".join(indent + part.removeprefix(own) for part in other.split("\n")).strip()
        return text[:start] + other + text[end:]
    header = rng.choice(
        ("if loss:", "for x in loader:", "while True:", "with torch.no_grad():", "try:", "def f(x):", "class C:")
    )
    inner = text[start:end].replace("\n", "\n    ")
    tail = f"\n{indent}finally:\n{indent}    pass" if header == "try:" else ""
    return f"{text[:start]}{header}\n{indent}    {inner}{tail}{text[end:]}"


MUTATIONS: tuple[Mutation, ...] = (
    delete_lines, duplicate_lines, reindent_lines, to_tabs, splice_tokens, odd_newlines, odd_characters, unicode_names,
    new_syntax, long_line, other_expression, other_expression, other_expression, other_statement, other_statement,
    other_statement,
)  # fmt: skip


def mutated(text: str, rng: random.Random) -> bytes:
    """The text after one to three mutations, encoded; sometimes with a byte order mark, a coding comment, bad bytes."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        text = rng.choice(MUTATIONS)(text, rng)
    how = rng.random()
    if how < 0.03:
        return b"\xef\xbb\xbf" + text.encode("utf-8", "replace")
    if how < 0.06:
        return b"# -*- coding: latin-1 -*-\n" + text.encode("latin-1", "replace")
    data = text.encode("utf-8", "surrogatepass" if how < 0.1 else "replace")
    if how > 0.97 and data:
        at = rng.randrange(len(data))
        data = data[:at] + bytes([rng.randrange(256)]) + data[at:]
    return data
