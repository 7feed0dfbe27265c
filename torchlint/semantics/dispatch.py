"""Which function evaluates which class of expression."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import libcst as cst

from torchlint.semantics import expressions
from torchlint.semantics.calls import evaluate_call
from torchlint.semantics.frames import Frame
from torchlint.semantics.kinds import Value

if TYPE_CHECKING:
    from torchlint.semantics.evaluate import Evaluator

HANDLERS: dict[type[cst.CSTNode], Callable[[Evaluator, Any, Frame], Value]] = {
    cst.Name: expressions.name_value,
    cst.Attribute: expressions.attribute,
    cst.Call: evaluate_call,
    cst.Subscript: expressions.subscript,
    cst.BinaryOperation: expressions.binary,
    cst.UnaryOperation: expressions.unary,
    cst.Comparison: expressions.comparison,
    cst.BooleanOperation: expressions.boolean,
    cst.IfExp: expressions.conditional,
    cst.Tuple: expressions.display,
    cst.List: expressions.display,
    cst.Dict: expressions.dictionary,
    cst.ListComp: expressions.comprehension,
    cst.SetComp: expressions.comprehension,
    cst.GeneratorExp: expressions.comprehension,
    cst.DictComp: expressions.comprehension,
    cst.Lambda: expressions.lambda_value,
    cst.NamedExpr: expressions.named,
    cst.Await: expressions.await_value,
    cst.Yield: expressions.yield_value,
    cst.Integer: expressions.number,
    cst.Float: expressions.number,
    cst.Imaginary: expressions.number,
    cst.SimpleString: expressions.string,
    cst.ConcatenatedString: expressions.string,
    cst.FormattedString: expressions.string,
}
