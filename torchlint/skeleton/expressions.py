"""Python's own expressions as libcst nodes without whitespace."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import libcst as cst

from torchlint.skeleton import nodes as bare
from torchlint.skeleton.missing import NeedsText
from torchlint.skeleton.nodes import Node


class Expressions:
    """Makes expressions, and remembers what each was made from."""

    def __init__(self) -> None:
        self.origin: dict[cst.CSTNode, ast.AST] = {}

    # -- expressions --------------------------------------------------------------------------------------------------

    def expression(self, node: ast.expr) -> Any:
        build = _EXPRESSIONS.get(node.__class__)
        if build is None:
            raise NeedsText(node.__class__.__name__)
        made = build(self, node)
        self.origin[made] = node
        return made

    def optional(self, node: ast.expr | None) -> Any:
        return self.expression(node) if node is not None else None

    def name(self, node: ast.Name) -> Node:
        made = bare.new(cst.Name)
        bare.set_name_value(made, node.id)
        return made

    def attribute(self, node: ast.Attribute) -> Node:
        made, attr = bare.new(cst.Attribute), bare.new(cst.Name)
        bare.set_name_value(attr, node.attr)
        bare.set_attribute_value(made, self.expression(node.value))
        bare.set_attribute_attr(made, attr)
        return made

    def call(self, node: ast.Call) -> Node:
        made = bare.new(cst.Call)
        bare.set_call_func(made, self.expression(node.func))
        bare.set_call_args(made, self.arguments(node.args, node.keywords))
        return made

    def arguments(self, args: list[ast.expr], keywords: list[ast.keyword]) -> list[Any]:
        result = []
        for arg in args:
            if arg.__class__ is ast.Starred:
                result.append(bare.arg(self.expression(arg.value), None, "*"))
            else:
                result.append(bare.arg(self.expression(arg), None, ""))
        for keyword in keywords:
            name = bare.name(keyword.arg) if keyword.arg is not None else None
            result.append(bare.arg(self.expression(keyword.value), name, "" if name is not None else "**"))
        if args and keywords and args[-1].__class__ is ast.Starred:  # `f(a=1, *rest)`
            nodes: list[ast.expr | ast.keyword] = [*args, *keywords]
            places = [(n.lineno, n.col_offset) for n in nodes]
            if places != sorted(places):
                result = [result[i] for i in sorted(range(len(result)), key=places.__getitem__)]
        return result

    def constant(self, node: ast.Constant) -> Node:
        value = node.value
        kind = value.__class__
        if kind is str:
            # Adjacent literals are one value, and a reader of values sees no difference.
            made = bare.new(cst.SimpleString)
            bare.set_string_value(made, repr(value))
            return made
        if value is None or kind is bool:
            return bare.name(str(value))
        if kind is int:
            made = bare.new(cst.Integer)
            bare.set_integer_value(made, repr(value))
        elif kind is float:
            made = bare.new(cst.Float)
            bare.set_float_value(made, repr(value) if value != float("inf") else "1e999")
        elif kind is bytes:
            made = bare.new(cst.SimpleString)
            bare.set_string_value(made, repr(value))
        elif value is ...:
            made = bare.new(cst.Ellipsis)
        else:
            made = bare.new(cst.Imaginary)
            bare.setter(cst.Imaginary, "value")(made, repr(value))
        return made

    def subscript(self, node: ast.Subscript) -> Node:
        inside = node.slice
        parts = [inside]
        if inside.__class__ is ast.Tuple and inside.elts and not self._parenthesised(inside):
            parts = inside.elts
        return bare.subscript(self.expression(node.value), [self._element(part) for part in parts])

    def _parenthesised(self, node: ast.Tuple) -> bool:
        first = node.elts[0]
        return (node.lineno, node.col_offset) != (first.lineno, first.col_offset)

    def _element(self, node: ast.expr) -> Node:
        if isinstance(node, ast.Slice):
            made = bare.slice_(self.optional(node.lower), self.optional(node.upper), self.optional(node.step))
        elif isinstance(node, ast.Starred):
            made = bare.index(self.expression(node.value), "*")
        else:
            made = bare.index(self.expression(node), None)
        self.origin[made] = node
        return bare.subscript_element(made)

    def binary(self, node: ast.BinOp) -> Node:
        return bare.binary(self.expression(node.left), bare.BINARY[node.op.__class__], self.expression(node.right))

    def unary(self, node: ast.UnaryOp) -> Node:
        return bare.unary(bare.UNARY[node.op.__class__], self.expression(node.operand))

    def boolean(self, node: ast.BoolOp) -> Node:
        operator = bare.BOOLEAN[node.op.__class__]
        made = self.expression(node.values[0])
        for i, value in enumerate(node.values[1:], 2):
            made = bare.boolean(made, operator, self.expression(value))
            if i < len(node.values):
                self.origin[made] = node
        return made

    def compare(self, node: ast.Compare) -> Node:
        targets = [
            bare.comparison_target(bare.COMPARISONS[op.__class__], self.expression(right))
            for op, right in zip(node.ops, node.comparators, strict=True)
        ]
        return bare.comparison(self.expression(node.left), targets)

    def if_exp(self, node: ast.IfExp) -> Node:
        return bare.if_exp(self.expression(node.test), self.expression(node.body), self.expression(node.orelse))

    def lambda_(self, node: ast.Lambda) -> Node:
        return bare.lambda_(self.parameters(node.args), self.expression(node.body))

    def _elements(self, nodes: list[ast.expr]) -> list[Any]:
        return [
            bare.starred_element(self.expression(n.value))
            if n.__class__ is ast.Starred
            else bare.element(self.expression(n))
            for n in nodes
        ]

    def tuple_(self, node: ast.Tuple) -> Node:
        return bare.tuple_(self._elements(node.elts))

    def list_(self, node: ast.List) -> Node:
        return bare.list_(self._elements(node.elts))

    def set_(self, node: ast.Set) -> Node:
        return bare.set_(self._elements(node.elts))

    def dict_(self, node: ast.Dict) -> Node:
        return bare.dict_(
            [
                bare.dict_element(self.expression(key), self.expression(value))
                if key is not None
                else bare.starred_dict_element(self.expression(value))
                for key, value in zip(node.keys, node.values, strict=True)
            ]
        )

    def list_comp(self, node: ast.ListComp) -> Node:
        return bare.list_comp(self.expression(node.elt), self._generators(node.generators))

    def set_comp(self, node: ast.SetComp) -> Node:
        return bare.set_comp(self.expression(node.elt), self._generators(node.generators))

    def generator(self, node: ast.GeneratorExp) -> Node:
        return bare.generator(self.expression(node.elt), self._generators(node.generators))

    def dict_comp(self, node: ast.DictComp) -> Node:
        key, value = self.expression(node.key), self.expression(node.value)
        return bare.dict_comp(key, value, self._generators(node.generators))

    def _generators(self, generators: list[ast.comprehension]) -> Any:
        made = None
        for one in reversed(generators):
            made = bare.comp_for(
                self.expression(one.target),
                self.expression(one.iter),
                [bare.comp_if(self.expression(test)) for test in one.ifs],
                made,
                bare.asynchronous(bool(one.is_async)),
            )
        return made

    def await_(self, node: ast.Await) -> Node:
        return bare.await_(self.expression(node.value))

    def yield_(self, node: ast.Yield) -> Node:
        return bare.yield_(self.optional(node.value))

    def yield_from(self, node: ast.YieldFrom) -> Node:
        return bare.yield_(bare.from_(self.expression(node.value)))

    def named(self, node: ast.NamedExpr) -> Node:
        return bare.named(self.expression(node.target), self.expression(node.value))

    def formatted(self, node: ast.JoinedStr) -> Node:
        return bare.formatted(self._parts(node), 'f"', '"')

    def _parts(self, node: ast.JoinedStr) -> list[Any]:
        parts: list[Any] = []
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                spec = self._parts(value.format_spec) if isinstance(value.format_spec, ast.JoinedStr) else None
                conversion = chr(value.conversion) if value.conversion > 0 else None
                parts.append(bare.formatted_expression(self.expression(value.value), conversion, spec))
            elif isinstance(value, ast.Constant):
                parts.append(bare.formatted_text(str(value.value)))
        return parts

    # -- parameters ---------------------------------------------------------------------------------------------------

    def parameters(self, args: ast.arguments) -> Node:
        plain = [*args.posonlyargs, *args.args]
        missing = len(plain) - len(args.defaults)
        made = [
            self._parameter(arg, "", args.defaults[i - missing] if i >= missing else None)
            for i, arg in enumerate(plain)
        ]
        count = len(args.posonlyargs)
        star: object = cst.MaybeSentinel.DEFAULT
        if args.vararg is not None:
            star = self._parameter(args.vararg, "*", None)
        elif args.kwonlyargs:
            star = bare.new(cst.ParamStar)
        return bare.parameters(
            made[count:],
            star,
            [self._parameter(arg, "", d) for arg, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)],
            self._parameter(args.kwarg, "**", None) if args.kwarg is not None else None,
            made[:count],
            bare.new(cst.ParamSlash) if count else cst.MaybeSentinel.DEFAULT,
        )

    def _parameter(self, arg: ast.arg, star: str, default: ast.expr | None) -> Node:
        annotation = bare.annotation(self.expression(arg.annotation)) if arg.annotation is not None else None
        made = bare.param(bare.name(arg.arg), annotation, self.optional(default), star)
        self.origin[made] = arg
        return made


_EXPRESSIONS: dict[type, Callable[[Expressions, Any], Any]] = {
    ast.Name: Expressions.name,
    ast.Attribute: Expressions.attribute,
    ast.Call: Expressions.call,
    ast.Constant: Expressions.constant,
    ast.Subscript: Expressions.subscript,
    ast.BinOp: Expressions.binary,
    ast.UnaryOp: Expressions.unary,
    ast.BoolOp: Expressions.boolean,
    ast.Compare: Expressions.compare,
    ast.IfExp: Expressions.if_exp,
    ast.Lambda: Expressions.lambda_,
    ast.Tuple: Expressions.tuple_,
    ast.List: Expressions.list_,
    ast.Set: Expressions.set_,
    ast.Dict: Expressions.dict_,
    ast.ListComp: Expressions.list_comp,
    ast.SetComp: Expressions.set_comp,
    ast.GeneratorExp: Expressions.generator,
    ast.DictComp: Expressions.dict_comp,
    ast.Await: Expressions.await_,
    ast.Yield: Expressions.yield_,
    ast.YieldFrom: Expressions.yield_from,
    ast.NamedExpr: Expressions.named,
    ast.JoinedStr: Expressions.formatted,
}
