"""The tree without whitespace says what libcst's own tree of the same text says."""

from __future__ import annotations

import ast
from pathlib import Path

import libcst as cst
import pytest

import torchlint
from torchlint.nodes import find
from torchlint.skeleton import NeedsText, Skeleton
from torchlint.source import File
from torchlint.spelling import same, spelled

ROOT = Path(torchlint.__file__).parents[1]
REAL = sorted(
    p
    for folder in ("torchlint", "rules", "tests", "fixtures", "benchmarks")
    for p in (ROOT / folder).rglob("*.py")
    if p.parent.name != "syntax_error"
)
FORMS = """
import a, b.c as d
from . import e
from ..f.g import (h, i as j)
from k import *
def f(a, b: int = 1, /, c=2, *args: str, d, e=3, **kw) -> None: return
async def g(*, a):
    async with a as b, c: await d
    async for x in y: pass
    else: return [z async for z in x if z if y]
@decorated(1, *a, k=2, **b)
class C(Base, metaclass=M):
    x: int
    y: "str" = 1
if a: b; c
elif d:
    e
else:
    if f:
        g
try:
    pass
except (A, B) as e:
    raise X from e
except C: raise
else: x
finally:
    del a, b.c, d[0]
x = y = (1, *z)
x += 1; y @= 2; z //= -3
a[1], a[1:2], a[::3], a[:, 0], a[(1, 2)], a[...], a[b:=1]
f(*a, b=1, **c); f(b=1, *a); f(x for x in y)
not a and b or c and d and (e or f)
a < b <= c != d is not e not in g
lambda x, *y, z=1: (yield)
{**a, 'b': 1, **c}; {1, *a}; {k: v for k, v in a for b in c}; {x for x in y}
x if y else z; ~x ** -2; 1.5j, 1e400, 0x1f, 1_000; b'a' b'b'; 'a' "b"; f"{a!r:>{w}} {b}" 'c'
global q
assert a, b
while x:
    break
else:
    continue_ = 1
with (a as b, c): pass
"""


def difference(full: cst.CSTNode, bare: cst.CSTNode) -> str:
    """Empty if the two say the same, else where they first do not (strings are compared by value)."""
    mine = [n for n in find(full, cst.CSTNode) if not isinstance(n, _STRINGS)]
    theirs = [n for n in find(bare, cst.CSTNode) if not isinstance(n, _STRINGS)]
    for one, other in zip(mine, theirs, strict=False):
        if one.__class__ is not other.__class__:
            return f"{one.__class__.__name__} became {other.__class__.__name__}"
    return "" if len(mine) == len(theirs) else f"{len(mine)} nodes became {len(theirs)}"


# Adjacent literals are one node in a skeleton, and what an f-string is made of is told apart less finely.
_STRINGS = (
    cst.SimpleString,
    cst.ConcatenatedString,
    cst.FormattedString,
    cst.FormattedStringText,
    cst.FormattedStringExpression,
)


@pytest.mark.parametrize("path", REAL, ids=lambda p: str(p.relative_to(ROOT)))
def test_real_files_keep_their_structure(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    if any(isinstance(n, ast.Match) for n in ast.walk(tree)):
        with pytest.raises(NeedsText):
            Skeleton(str(path), text, tree)
        return
    full, bare = File.parse(str(path), text), Skeleton(str(path), text, tree)
    assert difference(full.tree, bare.tree) == ""


def test_every_form_of_statement_and_expression() -> None:
    full = cst.parse_module(FORMS)
    bare = Skeleton("x.py", FORMS, ast.parse(FORMS)).tree
    assert difference(full, bare) == ""
    for one, other in zip(full.body, bare.body, strict=True):
        assert same(one, other) or list(find(one, cst.ConcatenatedString)), cst.Module([one]).code


def test_it_knows_places_and_refuses_whitespace() -> None:
    text = "import torch\nxé = torch.ones(2)\ny = f(  xé )\n"
    file = Skeleton("x.py", text, ast.parse(text))
    calls = list(find(file.tree, cst.Call))
    assert [file.code(c) for c in calls] == ["torch.ones(2)", "f(  xé )"]
    assert [file.row(c) for c in calls] == [2, 3]
    for question in (
        lambda: calls[0].lpar,
        lambda: file.span(calls[0]),
        lambda: file.replace(calls[0], "x"),
        lambda: file.tree.code,
        lambda: file.newline,
    ):
        with pytest.raises(NeedsText):
            question()
    assert getattr(calls[0], "no_such_field", None) is None


def test_emptied_functions_have_no_body() -> None:
    text = "def f():\n    return secret\n"
    tree = ast.parse(text)
    assert not any(n.value == "secret" for n in find(Skeleton("x.py", text, tree, tree.body).tree, cst.Name))


@pytest.mark.parametrize(
    "text",
    ["a.b.c", 'opts["g"]', "f(x, *y, k=1, **z)", "x[1:2, ::3]", "(a + b)", "not x", "(a is not b)", "[1, (2, 3)]"],
)
def test_spelled_is_the_expression(text: str) -> None:
    assert spelled(cst.parse_expression(text)).replace("not  ", "not ") == text


def test_same_looks_past_layout() -> None:
    one, other = cst.parse_expression("f( x [0],'a' )"), cst.parse_expression('(f(x[0], "a"))')
    assert same(one, other)
    assert not same(one, cst.parse_expression("f(x[1], 'a')"))
    assert not same(cst.parse_expression("a + b"), cst.parse_expression("a - b"))
