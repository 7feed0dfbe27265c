"""What numpy makes of a tensor that visits it, written with torch's own functions."""

from __future__ import annotations

from collections.abc import Callable

import libcst as cst

from torchlint.nodes import literal
from torchlint.semantics.model import Semantics

Inline = Callable[[str], "cst.BaseExpression | None"]

# numpy function or method → the method of a tensor, for those that take one tensor and, at most, an axis.
_ALONG = {name: name for name in "argmax argmin argsort cumsum cumprod squeeze sum mean prod any all".split()} | {
    "expand_dims": "unsqueeze",
    "flip": "flip",
}
_PLAIN = {n: n for n in "abs exp log log2 log10 log1p sqrt square sin cos tan tanh floor ceil sign isnan".split()} | {
    "ravel": "flatten",
    "absolute": "abs",
}
_DTYPES = {n: f"torch.{n}" for n in "float32 float64 float16 int64 int32 int16 int8 uint8".split()} | {
    "bool_": "torch.bool"
}
_SAME = frozenset(("copy", "ascontiguousarray", "asarray", "array"))


class Untranslated(Exception):
    """torch has no twin of it that is known here."""


class FromNumpy:
    """Translates one expression. `exits` are the calls `t.cpu().numpy()`; `inline` gives what a name stands for."""

    def __init__(self, sem: Semantics, is_exit: Callable[[cst.BaseExpression], bool], inline: Inline) -> None:
        self._sem, self._is_exit, self._inline = sem, is_exit, inline
        self._torch = next((a for a, target in sem.names.imports.items() if target == "torch"), "")

    def text(self, node: cst.BaseExpression) -> str:
        """The expression as torch says it. Raises Untranslated."""
        if isinstance(node, cst.Call):
            return self._tensor(node) if self._is_exit(node) else self._call(node)
        if isinstance(node, cst.Name) and (meant := self._inline(node.value)) is not None:
            return self.text(meant)
        raise Untranslated

    def _tensor(self, exit_call: cst.Call) -> str:
        """`t.detach()` of `t.detach().cpu().numpy()`."""
        parts: list[str] = []
        node: cst.BaseExpression = exit_call
        while True:
            if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and not node.args:
                name, node = node.func.attr.value, node.func.value
                if name == "detach":
                    parts.append(name)
                elif name not in ("cpu", "numpy"):
                    raise Untranslated
            elif isinstance(node, cst.Attribute) and node.attr.value == "data":
                parts.append("detach")
                node = node.value
            else:
                break
        if not isinstance(node, (cst.Name, cst.Attribute, cst.Call, cst.Subscript)):
            raise Untranslated
        return self._sem.file.code(node) + (".detach()" if parts else "")

    def _call(self, call: cst.Call) -> str:
        name = self._sem.qualified(call.func) or ""
        if name.startswith("numpy."):
            function, arguments = name.removeprefix("numpy."), list(call.args)
            if not arguments or arguments[0].keyword is not None or arguments[0].star:
                raise Untranslated
            return self._applied(function, self.text(arguments[0].value), arguments[1:])
        if isinstance(call.func, cst.Attribute):
            method = call.func.attr.value
            if method == "astype" and len(call.args) == 1:
                return f"{self.text(call.func.value)}.to({self._dtype(call.args[0].value)})"
            return self._applied(method, self.text(call.func.value), list(call.args))
        raise Untranslated

    def _applied(self, function: str, tensor: str, rest: list[cst.Arg]) -> str:
        if function in _SAME and not rest:
            return tensor
        if function in _PLAIN and not rest:
            return f"{tensor}.{_PLAIN[function]}()"
        if function in _ALONG and len(rest) <= 1:
            return f"{tensor}.{_ALONG[function]}({self._axis(function, rest)})"
        raise Untranslated

    def _axis(self, function: str, rest: list[cst.Arg]) -> str:
        if not rest:
            if function in ("cumsum", "cumprod", "flip", "expand_dims"):
                raise Untranslated  # numpy takes all axes at once, or needs one
            return ""
        if rest[0].star or (rest[0].keyword is not None and rest[0].keyword.value != "axis"):
            raise Untranslated
        axis = literal(rest[0].value)
        if not isinstance(axis, int) or isinstance(axis, bool):
            raise Untranslated
        return f"({axis},)" if function == "flip" else f"dim={axis}"

    def _dtype(self, node: cst.BaseExpression) -> str:
        name = (self._sem.qualified(node) or "").removeprefix("numpy.")
        if name not in _DTYPES or not self._torch:
            raise Untranslated
        return _DTYPES[name].replace("torch", self._torch, 1)


def conversion(call: cst.Call, name: str, tensor: str, sem: Semantics) -> str:
    """The call that made a tensor of the array again, as what it does to one: nothing, a dtype, a place.

    Raises Untranslated.
    """
    kinds = {"FloatTensor": "float", "LongTensor": "long", "DoubleTensor": "double", "IntTensor": "int"}
    last = name.rpartition(".")[2]
    if last in kinds:
        return f"{tensor}.{kinds[last]}()"
    if last == "Tensor":
        return f"{tensor}.float()"
    given = {a.keyword.value: sem.file.code(a.value) for a in call.args[1:] if a.keyword is not None}
    if len(given) != len(call.args) - 1 or not set(given) <= {"dtype", "device"}:
        raise Untranslated
    moves = [f"{key}={given[key]}" for key in ("device", "dtype") if key in given]
    return f"{tensor}.to({', '.join(moves)})" if moves else tensor
