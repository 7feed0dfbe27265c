"""Stretches that a turn takes, `i * k : (i + 1) * k`: whether they are as long in every turn, and follow one another.

Bounds are worked out with the counter at a few turns, and with a number of its own for everything that turns share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import libcst as cst

from torchlint.nodes import literal
from torchlint.spelling import spelled

Counts = Callable[[cst.BaseExpression], "bool | None"]
_TURNS = (3, 8, 29)


def are_steady(part: cst.Slice, places: Mapping[str, cst.BaseExpression], counts: Counts) -> bool:
    """Whether the stretch has one length. `places`: what names were given; `counts`: whether a name counts turns."""
    lengths = set[int]()
    for turn in _TURNS:
        lower, upper = (_worked_out(bound, turn, places, counts) for bound in (part.lower, part.upper))
        if lower is None or upper is None:
            return False
        lengths.add(upper - lower)
    return len(lengths) == 1


def follow(part: cst.Slice, places: Mapping[str, cst.BaseExpression], counts: Counts) -> bool:
    """Whether the stretch of each turn begins where that of the turn before ends."""
    end = _worked_out(part.upper, _TURNS[0], places, counts)
    return end is not None and end == _worked_out(part.lower, _TURNS[0] + 1, places, counts)


def _worked_out(
    node: cst.BaseExpression | None, turn: int, places: Mapping[str, cst.BaseExpression], counts: Counts
) -> int | None:
    if node is None:
        return None
    number = literal(node)
    if isinstance(number, int):
        return number
    if isinstance(node, cst.Name) and node.value in places:
        others = {name: given for name, given in places.items() if name != node.value}
        return _worked_out(places[node.value], turn, others, counts)
    if isinstance(node, cst.BinaryOperation):
        left, right = (_worked_out(side, turn, places, counts) for side in (node.left, node.right))
        if left is None or right is None:
            return None
        if isinstance(node.operator, cst.Add):
            return left + right
        if isinstance(node.operator, cst.Subtract):
            return left - right
        return left * right if isinstance(node.operator, cst.Multiply) else None
    counting = counts(node)
    if counting is None:
        return None
    text = sum(ord(letter) * (k + 1) for k, letter in enumerate(spelled(node)))
    return turn + text % 7 if counting else 1009 + 7919 * text
