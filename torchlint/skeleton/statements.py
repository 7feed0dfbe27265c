"""Python's own statements as libcst nodes without whitespace."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Sequence
from typing import Any

import libcst as cst

from torchlint.skeleton import nodes as bare
from torchlint.skeleton.expressions import Expressions
from torchlint.skeleton.missing import NeedsText
from torchlint.skeleton.nodes import Node


class Statements(Expressions):
    """Makes statements. `lines` is the text that they come from, `emptied` the functions that get `...` for a body."""

    def __init__(self, lines: list[str], emptied: Collection[ast.AST]) -> None:
        super().__init__()
        self._source = lines
        self._emptied = {id(node) for node in emptied}

    # -- statements ---------------------------------------------------------------------------------------------------

    def statements(self, body: Sequence[ast.stmt]) -> list[Node]:
        result: list[Node] = []
        line: list[Node] = []
        last_row = 0
        for node in body:
            build = _SIMPLE.get(node.__class__)
            if build is None:
                compound = _COMPOUND.get(node.__class__)
                if compound is None:
                    raise NeedsText(node.__class__.__name__)
                statement = compound(self, node)
                self.origin[statement] = node
                result.append(statement)
                last_row = 0
                continue
            small = build(self, node)
            self.origin[small] = node
            if node.lineno == last_row:
                line.append(small)
            else:
                line = [small]
                holder = bare.new(cst.SimpleStatementLine)
                bare.set_line_body(holder, line)
                result.append(holder)
            last_row = node.end_lineno or node.lineno
        return result

    def _suite(self, body: Sequence[ast.stmt]) -> Node:
        first = body[0]
        if first.__class__ in _SIMPLE and self._source[first.lineno - 1][: first.col_offset].strip():
            suite = bare.new(cst.SimpleStatementSuite)
            smalls = []
            for node in body:
                small = _SIMPLE[node.__class__](self, node)
                self.origin[small] = node
                smalls.append(small)
            bare.set_suite_body(suite, smalls)
            return suite
        block = bare.new(cst.IndentedBlock)
        bare.set_block_body(block, self.statements(body))
        return block

    def _else(self, body: Sequence[ast.stmt]) -> Node:
        return bare.else_(self._suite(body)) if body else None

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Node:
        if getattr(node, "type_params", None):
            raise NeedsText("type parameters")
        if id(node) in self._emptied:
            dots = bare.line([bare.expr(bare.new(cst.Ellipsis))])
            body: cst.CSTNode = bare.new(cst.IndentedBlock)
            bare.set_block_body(body, [dots])
        else:
            body = self._suite(node.body)
        return bare.function(
            bare.name(node.name),
            self.parameters(node.args),
            body,
            [bare.decorator(self.expression(d)) for d in node.decorator_list],
            bare.annotation(self.expression(node.returns)) if node.returns is not None else None,
            bare.asynchronous(node.__class__ is ast.AsyncFunctionDef),
            None,
        )

    def class_(self, node: ast.ClassDef) -> Node:
        if getattr(node, "type_params", None):
            raise NeedsText("type parameters")
        arguments = self.arguments(node.bases, node.keywords)
        return bare.class_(
            bare.name(node.name),
            self._suite(node.body),
            [a for a in arguments if a.keyword is None and a.star != "**"],
            [a for a in arguments if a.keyword is not None or a.star == "**"],
            [bare.decorator(self.expression(d)) for d in node.decorator_list],
            None,
        )

    def if_(self, node: ast.If) -> Node:
        orelse: cst.CSTNode | None = None
        if node.orelse:
            first = node.orelse[0]
            if first.__class__ is ast.If and self._source[first.lineno - 1].startswith("elif", first.col_offset):
                orelse = self.if_(first)
                self.origin[orelse] = first
            else:
                orelse = self._else(node.orelse)
        return bare.if_(self.expression(node.test), self._suite(node.body), orelse)

    def for_(self, node: ast.For | ast.AsyncFor) -> Node:
        return bare.for_(
            self.expression(node.target),
            self.expression(node.iter),
            self._suite(node.body),
            self._else(node.orelse),
            bare.asynchronous(node.__class__ is ast.AsyncFor),
        )

    def while_(self, node: ast.While) -> Node:
        return bare.while_(self.expression(node.test), self._suite(node.body), self._else(node.orelse))

    def with_(self, node: ast.With | ast.AsyncWith) -> Node:
        items = []
        for item in node.items:
            bound = item.optional_vars
            asname = bare.asname(self.expression(bound)) if bound is not None else None
            items.append(bare.with_item(self.expression(item.context_expr), asname))
        return bare.with_(items, self._suite(node.body), bare.asynchronous(node.__class__ is ast.AsyncWith))

    def try_(self, node: ast.Try) -> Node:
        starred = node.__class__ is not ast.Try
        make = bare.star_handler if starred else bare.handler
        handlers = []
        for handler in node.handlers:
            name = bare.asname(bare.name(handler.name)) if handler.name else None
            kind = self.expression(handler.type) if handler.type is not None else None
            made = make(self._suite(handler.body), kind, name)
            self.origin[made] = handler
            handlers.append(made)
        final = bare.finally_(self._suite(node.finalbody)) if node.finalbody else None
        body = self._suite(node.body)
        return (bare.try_star if starred else bare.try_)(body, handlers, self._else(node.orelse), final)

    # -- small statements ---------------------------------------------------------------------------------------------

    def expr(self, node: ast.Expr) -> Node:
        return bare.expr(self.expression(node.value))

    def assign(self, node: ast.Assign) -> Node:
        return bare.assign(
            [bare.target(self.expression(target)) for target in node.targets], self.expression(node.value)
        )

    def aug_assign(self, node: ast.AugAssign) -> Node:
        return bare.aug_assign(
            self.expression(node.target), bare.AUGMENTED[node.op.__class__], self.expression(node.value)
        )

    def ann_assign(self, node: ast.AnnAssign) -> Node:
        return bare.ann_assign(
            self.expression(node.target), bare.annotation(self.expression(node.annotation)), self.optional(node.value)
        )

    def return_(self, node: ast.Return) -> Node:
        return bare.return_(self.optional(node.value))

    def raise_(self, node: ast.Raise) -> Node:
        cause = bare.from_(self.expression(node.cause)) if node.cause is not None else None
        return bare.raise_(self.optional(node.exc), cause)

    def assert_(self, node: ast.Assert) -> Node:
        return bare.assertion(self.expression(node.test), self.optional(node.msg))

    def delete(self, node: ast.Delete) -> Node:
        if len(node.targets) == 1:
            return bare.del_(self.expression(node.targets[0]))
        return bare.del_(bare.tuple_([bare.element(self.expression(t)) for t in node.targets]))

    def global_(self, node: ast.Global) -> Node:
        return bare.global_([bare.name_item(bare.name(name)) for name in node.names])

    def nonlocal_(self, node: ast.Nonlocal) -> Node:
        return bare.nonlocal_([bare.name_item(bare.name(name)) for name in node.names])

    def import_(self, node: ast.Import) -> Node:
        return bare.import_([bare.alias(alias) for alias in node.names])

    def import_from(self, node: ast.ImportFrom) -> Node:
        names: object
        names = bare.new(cst.ImportStar) if node.names[0].name == "*" else [bare.alias(alias) for alias in node.names]
        dots = [bare.new(cst.Dot) for _ in range(node.level)]
        return bare.import_from(bare.dotted(node.module) if node.module else None, names, dots)

    def pass_(self, node: ast.Pass) -> Node:
        return bare.new(cst.Pass)

    def break_(self, node: ast.Break) -> Node:
        return bare.new(cst.Break)

    def continue_(self, node: ast.Continue) -> Node:
        return bare.new(cst.Continue)


_SIMPLE: dict[type, Callable[[Statements, Any], Any]] = {
    ast.Expr: Statements.expr,
    ast.Assign: Statements.assign,
    ast.AugAssign: Statements.aug_assign,
    ast.AnnAssign: Statements.ann_assign,
    ast.Return: Statements.return_,
    ast.Raise: Statements.raise_,
    ast.Assert: Statements.assert_,
    ast.Delete: Statements.delete,
    ast.Global: Statements.global_,
    ast.Nonlocal: Statements.nonlocal_,
    ast.Import: Statements.import_,
    ast.ImportFrom: Statements.import_from,
    ast.Pass: Statements.pass_,
    ast.Break: Statements.break_,
    ast.Continue: Statements.continue_,
}
_COMPOUND: dict[type, Callable[[Statements, Any], Any]] = {
    ast.FunctionDef: Statements.function,
    ast.AsyncFunctionDef: Statements.function,
    ast.ClassDef: Statements.class_,
    ast.If: Statements.if_,
    ast.For: Statements.for_,
    ast.AsyncFor: Statements.for_,
    ast.While: Statements.while_,
    ast.With: Statements.with_,
    ast.AsyncWith: Statements.with_,
    ast.Try: Statements.try_,
}
if hasattr(ast, "TryStar"):  # Python 3.11
    _COMPOUND[ast.TryStar] = Statements.try_
