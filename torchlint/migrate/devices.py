"""The GPU that a script picks becomes this process's own; `"cuda"` and `.cuda()` mean it already after `set_device`."""

from __future__ import annotations

import re

import libcst as cst

from torchlint.migrate.epochs import NotUnderstood
from torchlint.migrate.plan import Step
from torchlint.nodes import dotted, has_star, literal, walk

_THIS_GPU = 'f"cuda:{LOCAL_RANK}"'


class Devices(Step):
    def run(self) -> None:
        picked: dict[str, cst.CSTNode] = {}
        for node in self.script.nodes:
            self.device(node, picked)
        if len(picked) > 1:
            raise NotUnderstood(f"the script picks several GPUs ({', '.join(sorted(picked))})")
        for code, index in picked.items():
            if self.varies(index):
                raise NotUnderstood(f"`{code}` may pick several GPUs")
            self.plan.cautions.append(f"{code} picks no GPU any more, CUDA_VISIBLE_DEVICES does")

    def device(self, node: cst.CSTNode, picked: dict[str, cst.CSTNode]) -> None:
        if isinstance(node, cst.SimpleString) and isinstance(value := node.evaluated_value, str):
            if value == "cuda:0":
                self.edits.append(self.file.replace(node, _THIS_GPU))
            elif re.fullmatch(r"cuda:[1-9]\d*", value):
                raise NotUnderstood(f"the GPU {value} is written down")
            elif re.fullmatch(r"cuda:(%[ds]|\{\w*\})?", value):
                self.spelled(self.file.parent(node), node, picked)
        elif isinstance(node, cst.FormattedString) and self.file.code(node).lstrip("fFrR'\"").startswith("cuda:"):
            parts = node.parts
            if len(parts) != 2 or not isinstance(parts[1], cst.FormattedStringExpression):
                raise NotUnderstood(f"`{self.file.code(node)}` picks a GPU")
            self.pick(node, parts[1].expression, _THIS_GPU, picked)
        elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.args:
            arg = self.index(node, node.func.attr.value)
            if arg is not None:
                self.pick(arg, arg, "LOCAL_RANK", picked)

    def index(self, call: cst.Call, method: str) -> cst.BaseExpression | None:
        """The argument of a call that names the GPU by a number, not by a string or an object."""
        name, arg, last = self.script.qualified(call.func), call.args[0], call.args[-1].value
        if name == "torch.device":
            return last if len(call.args) == 2 or isinstance(last, cst.Integer) else None
        value = arg.value if arg.keyword is None or arg.keyword.value == "device" else None
        if name == "torch.cuda.set_device":  # a "cuda:…" is seen to
            return value if isinstance(value, (cst.Name, cst.Attribute, cst.Subscript, cst.Integer)) else None
        if method == "to":
            return value if isinstance(value, cst.Integer) else None
        if method != "cuda" or value is None or any(literal(value) is constant for constant in (True, False, None)):
            return None
        return None if any(self.is_device(made) for made in self.script.origins(value)) else value

    def is_device(self, made: cst.CSTNode) -> bool:
        """A torch.device or its name, where the GPU is picked already."""
        if isinstance(made, cst.Call):
            return self.script.qualified(made.func) == "torch.device"
        return isinstance(made, (cst.SimpleString, cst.FormattedString, cst.BinaryOperation))

    def spelled(self, around: cst.CSTNode | None, string: cst.SimpleString, picked: dict[str, cst.CSTNode]) -> None:
        """`"cuda:" + str(gpu)`, `"cuda:%d" % gpu`, `"cuda:{}".format(gpu)`."""
        call = self.file.parent(around) if isinstance(around, cst.Attribute) and around.attr.value == "format" else None
        if isinstance(around, cst.BinaryOperation) and around.left is string:
            if isinstance(around.operator, (cst.Add, cst.Modulo)):
                return self.pick(around, around.right, _THIS_GPU, picked)
        elif isinstance(call, cst.Call) and len(call.args) == 1 and not has_star(call):
            return self.pick(call, call.args[0].value, _THIS_GPU, picked)
        raise NotUnderstood(f"`{self.file.code(string)}` picks a GPU")

    def pick(self, node: cst.CSTNode, index: cst.CSTNode, new: str, picked: dict[str, cst.CSTNode]) -> None:
        """The GPU that the script's options name is this process's own now."""
        while isinstance(index, cst.Call) and dotted(index.func) in ("str", "int") and len(index.args) == 1:
            index = index.args[0].value
        if literal(index) == 0:
            self.edits.append(self.file.replace(node, new))
            return
        whole = index
        while isinstance(whole, cst.Subscript) and isinstance(first := whole.slice[0].slice, cst.Index):
            if literal(first.value) != 0:
                break
            whole = whole.value
        if dotted(whole) is None:
            raise NotUnderstood(f"`{self.file.code(node)}` picks a GPU")
        picked.setdefault(self.file.code(index), whole)
        self.edits.append(self.file.replace(node, new))

    def varies(self, index: cst.CSTNode) -> bool:
        """Whether what names the GPU may be another one each time: counted in a loop, or handed in by several calls."""
        name = (dotted(index) or "").partition(".")[0]
        for node in self.script.nodes:
            if isinstance(node, (cst.For, cst.CompFor)) and any(dotted(n) == name for n in walk(node.target)):
                return True
            if isinstance(node, cst.FunctionDef) and dotted(index) == name:
                if any(p.name.value == name for p in node.params.params):
                    return len(self.script.call_sites.get(node, [])) != 1
        return False
