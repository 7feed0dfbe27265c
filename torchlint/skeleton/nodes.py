"""Making libcst nodes of the fields that carry meaning, and no others: the bricks of a `Skeleton`.

The nodes are libcst's own classes. Their other fields (blanks, commas, parentheses) stay unset; each function here is
named after the class that it makes and takes that class's fields in order.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import libcst as cst

Node = Any  # a node of the class that the maker's name says; typing each of its fields would say it twice

new: Any = object.__new__


def setter(cls: type, name: str) -> Callable[[Any, object], None]:
    """What sets a field of a frozen node, at the cost of setting one of an ordinary object."""
    found: Callable[[Any, object], None] = getattr(cls, name).__set__
    return found


def _maker(cls: type[cst.CSTNode], *names: str) -> Callable[..., Any]:
    """A function that makes a node of this class from the values of these fields; written out, because it is hot."""
    values = [f"v{i}" for i in range(len(names))]
    lines = [f"def make({', '.join(values)}):", "    node = new(cls)"]
    lines += [f"    set{v}(node, {v})" for v in values]
    scope: dict[str, Any] = {"new": object.__new__, "cls": cls}
    scope.update((f"set{v}", setter(cls, name)) for v, name in zip(values, names, strict=True))
    exec("\n".join([*lines, "    return node"]), scope)
    made: Callable[..., Any] = scope["make"]
    return made


set_line_body = setter(cst.SimpleStatementLine, "body")
set_suite_body = setter(cst.SimpleStatementSuite, "body")
set_block_body = setter(cst.IndentedBlock, "body")
set_name_value = setter(cst.Name, "value")
set_attribute_value = setter(cst.Attribute, "value")
set_attribute_attr = setter(cst.Attribute, "attr")
set_call_func = setter(cst.Call, "func")
set_call_args = setter(cst.Call, "args")
set_string_value = setter(cst.SimpleString, "value")
set_integer_value = setter(cst.Integer, "value")
set_float_value = setter(cst.Float, "value")

module = _maker(cst.Module, "body")
name = _maker(cst.Name, "value")
arg = _maker(cst.Arg, "value", "keyword", "star")
function = _maker(cst.FunctionDef, "name", "params", "body", "decorators", "returns", "asynchronous", "type_parameters")
class_ = _maker(cst.ClassDef, "name", "body", "bases", "keywords", "decorators", "type_parameters")
decorator = _maker(cst.Decorator, "decorator")
annotation = _maker(cst.Annotation, "annotation")
parameters = _maker(
    cst.Parameters, "params", "star_arg", "kwonly_params", "star_kwarg", "posonly_params", "posonly_ind"
)
param = _maker(cst.Param, "name", "annotation", "default", "star")
if_ = _maker(cst.If, "test", "body", "orelse")
else_ = _maker(cst.Else, "body")
for_ = _maker(cst.For, "target", "iter", "body", "orelse", "asynchronous")
while_ = _maker(cst.While, "test", "body", "orelse")
with_ = _maker(cst.With, "items", "body", "asynchronous")
with_item = _maker(cst.WithItem, "item", "asname")
asname = _maker(cst.AsName, "name")
try_ = _maker(cst.Try, "body", "handlers", "orelse", "finalbody")
try_star = _maker(cst.TryStar, "body", "handlers", "orelse", "finalbody")
handler = _maker(cst.ExceptHandler, "body", "type", "name")
star_handler = _maker(cst.ExceptStarHandler, "body", "type", "name")
finally_ = _maker(cst.Finally, "body")
line = _maker(cst.SimpleStatementLine, "body")
expr = _maker(cst.Expr, "value")
assign = _maker(cst.Assign, "targets", "value")
target = _maker(cst.AssignTarget, "target")
aug_assign = _maker(cst.AugAssign, "target", "operator", "value")
ann_assign = _maker(cst.AnnAssign, "target", "annotation", "value")
return_ = _maker(cst.Return, "value")
raise_ = _maker(cst.Raise, "exc", "cause")
from_ = _maker(cst.From, "item")
assertion = _maker(cst.Assert, "test", "msg")
del_ = _maker(cst.Del, "target")
global_ = _maker(cst.Global, "names")
nonlocal_ = _maker(cst.Nonlocal, "names")
name_item = _maker(cst.NameItem, "name")
import_ = _maker(cst.Import, "names")
import_from = _maker(cst.ImportFrom, "module", "names", "relative")
import_alias = _maker(cst.ImportAlias, "name", "asname")
attribute = _maker(cst.Attribute, "value", "attr")
subscript = _maker(cst.Subscript, "value", "slice")
subscript_element = _maker(cst.SubscriptElement, "slice")
index = _maker(cst.Index, "value", "star")
slice_ = _maker(cst.Slice, "lower", "upper", "step")
binary = _maker(cst.BinaryOperation, "left", "operator", "right")
unary = _maker(cst.UnaryOperation, "operator", "expression")
boolean = _maker(cst.BooleanOperation, "left", "operator", "right")
comparison = _maker(cst.Comparison, "left", "comparisons")
comparison_target = _maker(cst.ComparisonTarget, "operator", "comparator")
if_exp = _maker(cst.IfExp, "test", "body", "orelse")
lambda_ = _maker(cst.Lambda, "params", "body")
tuple_ = _maker(cst.Tuple, "elements")
list_ = _maker(cst.List, "elements")
set_ = _maker(cst.Set, "elements")
dict_ = _maker(cst.Dict, "elements")
element = _maker(cst.Element, "value")
starred_element = _maker(cst.StarredElement, "value")
dict_element = _maker(cst.DictElement, "key", "value")
starred_dict_element = _maker(cst.StarredDictElement, "value")
list_comp = _maker(cst.ListComp, "elt", "for_in")
set_comp = _maker(cst.SetComp, "elt", "for_in")
generator = _maker(cst.GeneratorExp, "elt", "for_in")
dict_comp = _maker(cst.DictComp, "key", "value", "for_in")
comp_for = _maker(cst.CompFor, "target", "iter", "ifs", "inner_for_in", "asynchronous")
comp_if = _maker(cst.CompIf, "test")
await_ = _maker(cst.Await, "expression")
yield_ = _maker(cst.Yield, "value")
named = _maker(cst.NamedExpr, "target", "value")
formatted = _maker(cst.FormattedString, "parts", "start", "end")
formatted_expression = _maker(cst.FormattedStringExpression, "expression", "conversion", "format_spec")
formatted_text = _maker(cst.FormattedStringText, "value")


def asynchronous(yes: bool) -> Node:
    return new(cst.Asynchronous) if yes else None


def dotted(path: str) -> Node:
    first, *rest = path.split(".")
    made = name(first)
    for part in rest:
        made = attribute(made, name(part))
    return made


def alias(made_from: ast.alias) -> Node:
    return import_alias(dotted(made_from.name), asname(name(made_from.asname)) if made_from.asname else None)


# Operators carry no children and no state: one node of each serves all places.
BINARY: dict[type, Any] = {
    ast.Add: new(cst.Add),
    ast.Sub: new(cst.Subtract),
    ast.Mult: new(cst.Multiply),
    ast.Div: new(cst.Divide),
    ast.FloorDiv: new(cst.FloorDivide),
    ast.Mod: new(cst.Modulo),
    ast.Pow: new(cst.Power),
    ast.MatMult: new(cst.MatrixMultiply),
    ast.BitAnd: new(cst.BitAnd),
    ast.BitOr: new(cst.BitOr),
    ast.BitXor: new(cst.BitXor),
    ast.LShift: new(cst.LeftShift),
    ast.RShift: new(cst.RightShift),
}
AUGMENTED: dict[type, Any] = {
    ast.Add: new(cst.AddAssign),
    ast.Sub: new(cst.SubtractAssign),
    ast.Mult: new(cst.MultiplyAssign),
    ast.Div: new(cst.DivideAssign),
    ast.FloorDiv: new(cst.FloorDivideAssign),
    ast.Mod: new(cst.ModuloAssign),
    ast.Pow: new(cst.PowerAssign),
    ast.MatMult: new(cst.MatrixMultiplyAssign),
    ast.BitAnd: new(cst.BitAndAssign),
    ast.BitOr: new(cst.BitOrAssign),
    ast.BitXor: new(cst.BitXorAssign),
    ast.LShift: new(cst.LeftShiftAssign),
    ast.RShift: new(cst.RightShiftAssign),
}
UNARY: dict[type, Any] = {
    ast.Not: new(cst.Not),
    ast.USub: new(cst.Minus),
    ast.UAdd: new(cst.Plus),
    ast.Invert: new(cst.BitInvert),
}
BOOLEAN: dict[type, Any] = {ast.And: new(cst.And), ast.Or: new(cst.Or)}
COMPARISONS: dict[type, Any] = {
    ast.Eq: new(cst.Equal),
    ast.NotEq: new(cst.NotEqual),
    ast.Lt: new(cst.LessThan),
    ast.LtE: new(cst.LessThanEqual),
    ast.Gt: new(cst.GreaterThan),
    ast.GtE: new(cst.GreaterThanEqual),
    ast.Is: new(cst.Is),
    ast.IsNot: new(cst.IsNot),
    ast.In: new(cst.In),
    ast.NotIn: new(cst.NotIn),
}
