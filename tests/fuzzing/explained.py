"""Differences that a rewrite may make, each with its reason. Whatever is not named here is a bug."""

from __future__ import annotations

# Reported once for a file, at the first place: another order gives another place.
ONCE_PER_FILE = frozenset(("TL407", "TL701"))

# (relation, rule) -> why its findings may differ
SAME_FILE: dict[tuple[str, str], str] = {
    ("locals renamed", "TL907"): "that a number counts epochs is only told by its name",
    ("locals renamed", "TL203"): "that data is held out of training is told by the name of its loader",
    ("locals renamed", "TL010"): "that unpacked numbers are those of a version is told by `major` and `minor` alone",
    ("functions under if True", "TL805"): "a forward that returns under an `if` may leave parameters out",
    ("functions under if True", "TL707"): "a forward that returns under an `if` may run other kernels each time",
    ("functions under if True", "TL501"): "a helper of several statements is put in place only where it returns once",
    ("loops under if True", "TL301"): "a `break` under an `if` need not end the first turn",
    ("locals renamed", "TL011"): "`[0]` is old on a loss alone, and untyped losses are only told by their names",
}

_EVIDENCE = "eval() or train() on a name says that it is a Module; handed to a helper, the name has no such evidence"
_IN_SIGHT = (
    "what is around the backward or step call itself decides: a `with`, a neighbouring call, the name it is called on"
)

# Rules that lose findings where a helper of the same file makes the call. All others must see through it.
NOT_THROUGH_HELPERS: dict[str, str] = {
    **dict.fromkeys(("TL201", "TL202", "TL203", "TL204", "TL307", "TL402", "TL403", "TL404", "TL906"), _EVIDENCE),
    **dict.fromkeys(("TL011", "TL106", "TL112", "TL116", "TL206", "TL601", "TL702", "TL804", "TL907"), _IN_SIGHT),
    "TL701": "where the optimizer's class came as an argument: `step()` in a helper is that of an unknown object",
    "TL103": "only for `scaler.step(optimizer)`: the helper's `scaler` has no evidence of being a GradScaler",
}

# A helper in another file is unknown while a file is read: what depends on what it does is not reported. Only the
# reverse is a bug, a finding that was not there. These may come up all the same:
NEW_BEHIND_ANOTHER_FILE: dict[str, str] = {
    "TL101": "in place of TL103, whose one clear per epoch is out of sight; both say that gradients add up",
    "TL801": "eval() on the wrapped model is out of sight, which said that it is not trained",
}

# (rule, fixture): one finding for an evaluation becomes one for each of its passes.
MORE_BEHIND_ANOTHER_FILE: dict[tuple[str, str], str] = {
    ("TL201", "eval_without_no_grad/bad_behind_training.py"): "where the evaluation begins is out of sight",
}
