"""A tree that grew along with its text is the tree of that text, and what is found in it is what is found anew."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import libcst as cst
import pytest

from torchlint import run
from torchlint.catalogue import load
from torchlint.check import check_text
from torchlint.config import Config
from torchlint.positions import Index
from torchlint.regrow import Tree
from torchlint.semantics import Semantics
from torchlint.semantics.reaching import Reaching
from torchlint.server.checking import Checker

ROOT = Path(__file__).parents[1]
FIXTURES = sorted(p for p in (ROOT / "fixtures").rglob("bad.py") if p.parent.name != "syntax_error")
EXAMPLE = ROOT / "docs" / "example" / "train.py"
RULES = load()
TYPED = (
    "value = 1", "# a comment", "    x", "pass", "if x:", "else:", "        return y", "    # deep", "@decorator",
    "def g():", "'''", "\n", "    ", "\t", "(", ")", "x = (1,\n  2)", "for i in range(3): pass", ";", "\\", "try:",
    ":", "    pass\n", "é", "#\n", "\n\n# c\n\n", "loss.backward()", "optimizer.zero_grad()",
)  # fmt: skip


def edited(text: str, chance: random.Random) -> str:
    """The text after something that people do: type, paste, delete, indent, comment, move a line."""
    lines = text.split("\n")
    row, at, kind = chance.randrange(len(lines)), chance.randrange(len(text) + 1), chance.randrange(7)
    indent = lines[row][: len(lines[row]) - len(lines[row].lstrip())]
    if kind == 0:
        return text[:at] + chance.choice(TYPED) + text[at:]
    if kind == 1:
        return text[:at] + text[at + chance.choice((1, 1, 2, 5, 40)) :]
    if kind == 2:
        lines.insert(row, indent + chance.choice(TYPED))
    elif kind == 3:
        del lines[row : row + chance.choice((1, 1, 1, 2, 3, 10))]
    elif kind == 4:
        lines[row] = chance.choice(("    ", "  ", "")) + lines[row].strip()
    elif kind == 5:
        lines[row] += chance.choice(("  # note", *TYPED))
    else:
        other = chance.randrange(len(lines))
        lines[row], lines[other] = lines[other], lines[row]
    return "\n".join(lines)


def parses(text: str) -> bool:
    try:
        compile(text, "x.py", "exec", 0x400, True)
        cst.parse_module(text)
    except (SyntaxError, ValueError, cst.ParserSyntaxError):
        return False
    return True


def versions(text: str, chance: random.Random, count: int) -> Iterator[str]:
    """What a text becomes edit by edit; those that do not parse are passed over, as a tree passes over them."""
    for _ in range(count):
        new = edited(text, chance)
        if parses(new):
            text = new
            yield text


def nodes(tree: cst.CSTNode) -> Iterator[cst.CSTNode]:
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        stack += node.children


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize("path", FIXTURES, ids=lambda p: p.parent.name)
def test_the_tree_and_its_places_are_those_of_the_text(path: Path) -> None:
    tree = Tree.planted("x.py", path.read_text())
    for text in versions(path.read_text(), random.Random(path.parent.name), 25):
        found = tree.regrown(text) if tree is not None else None
        whole = Tree.planted("x.py", text)
        if found is None:
            tree = whole
            continue
        assert whole is not None
        assert found.tree.deep_equals(whole.tree), text
        for mine, theirs in zip(nodes(found.tree), nodes(whole.tree), strict=True):
            assert places(found.index, mine) == places(whole.index, theirs), (text, theirs)
        tree = found


def places(index: Index, node: cst.CSTNode) -> tuple[object, ...]:
    return index.full.get(node), index.caret.get(node), index.indent.get(node)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def f():\n    a\n    b\n", "def f():\n    a = 1\n    b\n"),  # a statement among others
        ("def f():\n    a\n    b\n", "def f():\n    a\n    b = 1\n"),  # the last one of a file
        ('"""Doc."""\nimport a\n', '# new\n"""Doc."""\nimport a\n'),  # above all
        ("if a:\n    b\nelse:\n    c\n    d\n", "if a:\n    b\nelse:\n    c = 1\n    d\n"),
        ("try:\n    a\nexcept E:\n    b\n    c\n", "try:\n    a\nexcept E:\n    b\n    new\n    c\n"),
        ("class A:\n    def f(self):\n        a\n\n    def g(self):\n        b\n",) * 2,
        ("for a in b:\n    c\n    # about d\n    d\n", "for a in b:\n    c\n    # of d\n    d\n"),
    ],
)
def test_what_is_typed_most_does_grow(old: str, new: str) -> None:
    planted = Tree.planted("x.py", old)
    assert planted is not None
    grown = planted.regrown(new)
    assert grown is not None
    assert grown.tree.deep_equals(cst.parse_module(new))


@pytest.mark.parametrize("text", ["a\\\n  = 1\n\\\nb\n", "x\fy\n", "a\rb\n"])
def test_texts_that_libcst_does_not_give_back_have_no_such_tree(text: str) -> None:
    assert Tree.planted("x.py", text) is None


def test_only_the_edited_statement_is_new() -> None:
    planted = Tree.planted("x.py", EXAMPLE.read_text())
    assert planted is not None
    grown = planted.regrown(EXAMPLE.read_text().replace("correct = 0", "correct = 00"))
    assert grown is not None
    before = set(map(id, nodes(planted.tree)))
    new = [n for n in nodes(grown.tree) if id(n) not in before]
    assert len(new) < len(before) / 20


def test_what_follows_from_a_function_alone_is_kept_until_it_is_edited() -> None:
    text = "def f(x):\n    y = x\n    return y\n\n\ndef g(x):\n    return x\n"
    planted = Tree.planted("x.py", text)
    assert planted is not None
    before = {name: reaching(planted, name) for name in "fg"}
    grown = planted.regrown(text.replace("return x", "return 1"))
    assert grown is not None
    assert reaching(grown, "f") is before["f"]
    assert reaching(grown, "g") is not before["g"]
    assert len(grown.kept) == 2, "what belongs to no node of the tree is let go of"


def reaching(tree: Tree, name: str) -> Reaching:
    sem = Semantics(tree)
    return sem.reaching(sem.names.functions[name])


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize("number", range(4))
def test_an_editor_is_told_what_a_check_from_scratch_finds(number: int, tmp_path: Path) -> None:
    path = str(tmp_path / "train.py")
    config = Config()
    chosen = run.choose(RULES, config)
    checker = Checker()
    seen = set()
    for text in (EXAMPLE.read_text(), *versions(EXAMPLE.read_text(), random.Random(number), 30)):
        told = [d for d in checker.check(path, text.encode(), 0, {}).diagnostics if d.code != "TL003"]
        assert told == [d for d in check_text(path, text, chosen, config) if not d.unless or d in told], text
        seen |= {d.code for d in told}
    assert seen
