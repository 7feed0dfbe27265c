"""Functions in which a model may run: where nothing that could be a module is called, nothing is evaluated."""

from __future__ import annotations

import ast
import builtins
import re

from torchlint.shapes.code import Code, Whole

_SETS_MODE = re.compile(r"\.eval\(|\.train\(\s*(?:mode\s*=\s*)?False|\.load_state_dict\(")
_NUMBERS = re.compile(r"\.(?:item|argmax|numpy|tolist|topk|cpu)\s*\(|\b(?:save_image|make_grid|float|int)\s*\(")
_LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.comprehension)
_SETATTR = re.compile(r"setattr|add_module|register_module|__dict__")
# What modules, tensors and Python's own objects have for methods; running a model is none of these.
_METHODS = frozenset(
    """eval train to cuda cpu float half double bfloat16 parameters named_parameters buffers named_buffers modules
    named_modules children named_children state_dict load_state_dict requires_grad_ zero_grad register_buffer
    register_parameter add_module register_forward_hook register_forward_pre_hook apply_
    item detach clone view reshape permute transpose contiguous unsqueeze squeeze expand repeat sum mean max min abs exp
    log sqrt pow softmax argmax argmin size dim numel numpy tolist backward type new_zeros new_ones fill_ zero_ copy_
    log_softmax sigmoid chunk split unbind flatten topk sort gather scatter_ masked_fill masked_fill_ clamp clamp_
    info debug warning warning_once error exception save load step write flush close exists mkdir read_text write_text
    is_file is_dir parse_args add_argument""".split()
).union(dir(list), dir(dict), dir(str), dir(set), dir(object))


def forwards(code: Code) -> bool:
    """Whether a model may run here, in an own function that is called here, or, where a mode is set, in the file."""
    whole = code.whole
    if not any(_may_run(other) for other in whole.stretches()):
        return False
    return _SETS_MODE.search(code.text) is not None or (_goes_over_data(code) and _reaches(code))


def _goes_over_data(code: Code) -> bool:
    """What a function that sets no mode must do to evaluate: loop, or turn results into numbers or pictures."""
    return _NUMBERS.search(code.text) is not None or any(isinstance(node, _LOOPS) for node in code.nodes)


def _reaches(code: Code) -> bool:
    """Whether a model may run in the stretch or in one that it may, by name, get to."""
    named = code.whole.stretches_by_name
    seen: set[int] = set()
    queue = [code]
    while queue:
        current = queue.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if _may_run(current):
            return True
        for node in current.nodes:
            if isinstance(node, ast.Attribute):
                queue += named.get(node.attr, ())
            elif isinstance(node, ast.Name):
                queue += named.get(node.id, ())
    return False


def _may_run(code: Code) -> bool:
    if code.may_run is None:
        code.may_run = any(isinstance(node, ast.Call) and may_be_module(node.func, code) for node in code.nodes)
    return code.may_run


def may_be_module(func: ast.expr, code: Code) -> bool:
    """Whether what is called could be a module: nothing says that it is a function or a method of something else."""
    whole = code.whole
    if isinstance(func, ast.Name):
        return func.id in code.bindings or not (
            func.id in whole.functions or func.id in whole.imported or func.id in _BUILTINS
        )
    if not isinstance(func, ast.Attribute):
        return True
    if func.attr in _METHODS:
        return False
    if not isinstance(func.value, ast.Name):
        return True
    if func.value.id in ("self", "cls"):
        return func.attr not in whole.functions and (func.attr in whole.held or _by_name(whole))
    return func.value.id not in whole.imported or func.value.id in code.bindings


_BUILTINS = frozenset(dir(builtins))


def _by_name(whole: Whole) -> bool:
    """Whether attributes get their names from texts."""
    return _SETATTR.search(whole.text) is not None
