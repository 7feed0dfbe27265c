"""Positions, edits and the walker: what every rule and fix stands on."""

from __future__ import annotations

from pathlib import Path

import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider

from torchlint.diagnostic import Edit, splice
from torchlint.nodes import argument, children, dotted, find, literal, walk
from torchlint.source import File

TEXT = '''"""Doc."""
import torch  # the library


@torch.no_grad()
def f(a, *, b=(1, 2)):  # header
    # lead
    for i in range(a.shape[0]):
        x = (a[i] + b)  # trail
        s = """
  data
"""
    # foot
    return x


class A: pass
'''


def test_carets_agree_with_libcst() -> None:
    file = File.parse("x.py", TEXT)
    positions = MetadataWrapper(file.tree, unsafe_skip_copy=True).resolve(PositionProvider)
    wrong = []
    for node, span in positions.items():
        start, end = file.caret(node)
        row, column = file.lines.locate(start)
        end_row, end_column = file.lines.locate(end)
        here = (row + 1, column, end_row + 1, end_column)
        if here != (span.start.line, span.start.column, span.end.line, span.end.column):
            wrong.append(type(node).__name__)
    assert not wrong


def test_walk_meets_every_expression_and_statement() -> None:
    tree = cst.parse_module(TEXT)
    met = set(map(id, walk(tree)))

    missing: list[str] = []

    class Collect(cst.CSTVisitor):
        def on_visit(self, node: cst.CSTNode) -> bool:
            if isinstance(node, (cst.BaseExpression, cst.BaseStatement, cst.BaseSmallStatement)):
                if id(node) not in met:
                    missing.append(type(node).__name__)
            return True

    tree.visit(Collect())
    assert missing == []


def test_children_come_in_source_order_of_a_call() -> None:
    call = cst.parse_expression("f(a, key=b)(*c)")
    assert [type(c).__name__ for c in children(call)] == ["Call", "Arg"]


def test_wrapping_moves_lines_but_not_string_contents() -> None:
    file = File.parse("x.py", TEXT)
    loop = next(find(file.tree, cst.For))
    fixed = splice(TEXT, file.reindent([loop], "with torch.no_grad():"))
    assert "    with torch.no_grad():\n        for i in range(a.shape[0]):\n" in fixed
    assert "\n  data\n" in fixed
    compile(fixed, "x.py", "exec")


def test_insertions_keep_the_last_line_without_newline() -> None:
    file = File.parse("x.py", "a = 1")
    fixed = splice(file.text, [file.insert_after(file.tree.body[0], "b = 2")])
    assert fixed == "a = 1\nb = 2"


def test_deleting_the_only_statement_leaves_pass_and_the_comment() -> None:
    file = File.parse("x.py", "if x:\n    y()  # why\n")
    call = next(find(file.tree, cst.Call))
    assert splice(file.text, [file.delete(call)]) == "if x:\n    pass  # why\n"


def test_positions_of_a_sparse_tree_point_into_the_full_text() -> None:
    full = "def f():\n    return 1\n\ndef g(x):\n    return x.eval()\n"
    sparse = "def f():\n    ...\n\ndef g(x):\n    return x.eval()\n"
    file = File("x.py", full, cst.parse_module(sparse), sparse)
    call = next(find(file.tree, cst.Call))
    start, end = file.caret(call)
    assert full[start:end] == "x.eval()"
    assert file.row(call) == 5


def test_splice_shares_equal_edits_and_refuses_overlaps() -> None:
    assert splice("abc", [Edit(0, 0, "x"), Edit(0, 0, "x"), Edit(1, 2, "")]) == "xac"
    with pytest.raises(ValueError, match="overlap"):
        splice("abc", [Edit(0, 2, ""), Edit(1, 3, "")])


@pytest.mark.parametrize(
    ("code", "value"),
    [("1", 1), ("-1.5", -1.5), ("'a'", "a"), ("None", None), ("(1, 'b')", (1, "b")), ("x", ...), ("(1, x)", ...)],
)
def test_literal(code: str, value: object) -> None:
    assert literal(cst.parse_expression(code)) == value


def test_argument_finds_by_keyword_and_position() -> None:
    call = cst.parse_expression("f(a, *rest, c, k=d)")
    assert isinstance(call, cst.Call)
    assert argument(call, "x", 0) is call.args[0]
    assert argument(call, "y", 2) is None  # behind *rest positions are not certain
    assert argument(call, "k") is call.args[3]


def test_dotted() -> None:
    assert dotted(cst.parse_expression("a.b.c")) == "a.b.c"
    assert dotted(cst.parse_expression("a().b")) is None


def test_form_feeds_ahead_of_statements_move_nothing() -> None:
    """libcst leaves them out of what it gives back; places and edits are those of the text all the same."""
    text = "import torch\n\fx = 1\n\f\fdef f(m):\n    return m.forward(1)\n\f\ny = 2\n"
    file = File.parse("a.py", text)
    call = next(find(file.tree, cst.Call))
    start, end = file.span(call)
    assert text[start:end] == "m.forward(1)"
    function = next(find(file.tree, cst.FunctionDef))
    assert text[slice(*file.caret(function))].startswith("def f(m)")
    assign = next(find(file.tree, cst.Assign))
    assert splice(text, {file.replace(assign.value, "22")}) == text.replace("1", "22", 1)


def test_within_is_what_a_walk_finds() -> None:
    text = Path(__file__).read_text()
    file = File.parse("source.py", text)
    for node in file.nodes[::7]:
        for kind in (cst.Name, cst.Call, cst.Return, cst.FunctionDef):
            assert file.within(node, kind) == list(find(node, kind))
