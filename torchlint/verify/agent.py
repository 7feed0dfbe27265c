"""What runs inside the user's process during a verified run: it compiles the edited files with all versions in them.

Started by `inject/sitecustomize.py`. It writes no bytecode, changes no file, and leaves every other module alone.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import runpy
import sys
from dataclasses import replace
from types import CodeType
from typing import Any

from torchlint.verify import clock, launching, tamper
from torchlint.verify.lines import edited_lines, evidence_lines
from torchlint.verify.shadow import Limits, Shadow, install, shifted
from torchlint.verify.weave import weave

_MEETING = 10.0  # seconds
_plan: dict[str, Any] = {}


def start(plan_path: str, *, woken: bool = False) -> None:
    """Read the plan and put the loaders in place. `woken`: by sitecustomize, before the interpreter does anything."""
    with open(plan_path, encoding="utf-8") as file:
        _plan.update(json.load(file))
    if woken:
        launching.mark(_plan["out"])
        launching.relaunch(_plan.get("files") or _plan.get("texts", {}))
    clock.install(os.getcwd())
    if _plan.get("mode") == "record":
        _start_recording()
        return
    limits, alone = Limits(**_plan["limits"]), launching.rank()[1] == 1
    if not alone:  # a call that waits for the other ranks waits for ever in a fork
        limits = replace(limits, child_seconds=min(limits.child_seconds, _MEETING))
    shadows: dict[str, list[Shadow]] = {}
    for path, texts in _plan["files"].items():
        woven = weave(texts["before"], *texts["variants"])
        edited = [edited_lines(texts["before"], after) for after in texts["variants"]]
        shadows[path] = []
        for function in woven.functions:
            old, new = edited[function.variant]
            text = texts["variants"][function.variant]
            before = {line for line in old if function.before[0] <= line <= function.before[1]}
            after = {line for line in new if function.after[0] <= line <= function.after[1]}
            statements = [
                *evidence_lines(texts["before"], before),
                *(shifted(lines, function.variant) for lines in evidence_lines(text, after)),
            ]
            shadows[path].append(Shadow(path, function, statements, _plan["out"], limits, key=_plan["key"]))
    install(shadows, stop=_plan.get("stop", False) and alone)
    _patch_loaders()


def _start_recording() -> None:
    """Substitute the texts, and watch the first process only: what it starts is its own business, unless to start
    others is all that it does."""
    _patch_loaders()
    if launching.only_launches():
        return
    rank, ranks = launching.rank()
    if os.environ.setdefault("TORCHLINT_VERIFY_MAIN", str(os.getpid())) != str(os.getpid()):
        return
    import contextlib
    import importlib

    with contextlib.suppress(ImportError):
        importlib.import_module("numpy.random")
    clock.freeze()
    if rank:
        _equal_itself(_plan["seed"] + rank)
        return
    from torchlint.verify.recorder import Recorder

    lines: set[str] = set()
    Recorder(
        _plan["out"], keep=_plan["keep"], steps=_plan["steps"], most=_plan["most"], seconds=_plan["seconds"],
        seed=_plan["seed"], nudge=_plan["nudge"], lines=lines, hints=_plan["hints"], key=_plan["key"], alone=ranks == 1,
    )  # fmt: skip
    tamper.remember()  # with what the recorder has put around torch's functions
    if _plan["trace"]:
        _trace(lines)


def _equal_itself(seed: int) -> None:
    """For a rank that is not watched, and takes part in what the watched one computes."""
    import torch

    from torchlint.verify.surroundings import seed_all

    seed_all(seed)
    torch.set_num_threads(1)


def _trace(lines: set[str]) -> None:
    def local(frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            lines.add(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        return local

    def enter(frame: Any, event: str, argument: Any) -> Any:
        return local if frame.f_code.co_filename in _plan["texts"] else None

    sys.settrace(enter)


def _compile(path: str) -> CodeType | None:
    """The woven code of an edited file; None for any other file, or if it changed since the plan was made."""
    real = os.path.realpath(path)
    if _plan.get("mode") == "record":
        text = _plan["texts"].get(real)
        return None if text is None else compile(text, real, "exec", dont_inherit=True)
    texts = _plan["files"].get(real)
    if texts is None:
        return None
    tamper.remember()  # before the first line of the file: what it replaces will be noticed
    woven = weave(texts["before"], *texts["variants"])
    if woven.tree is None:
        return None
    return compile(woven.tree, real, "exec", dont_inherit=True)


def _patch_loaders() -> None:
    loader: Any = importlib.machinery.SourceFileLoader
    get_code = loader.get_code

    def woven_code(self: Any, fullname: str) -> CodeType | None:
        # get_code and not get_data: bytecode of the woven text must neither be read nor written.
        found = _compile(self.path)
        result: CodeType | None = found if found is not None else get_code(self, fullname)
        return result

    loader.get_code = woven_code
    module: Any = runpy
    from_file = module._get_code_from_file

    def woven_from_file(*arguments: Any) -> Any:
        found = _compile(arguments[-1])
        if found is None:
            return from_file(*arguments)
        return (found, arguments[-1]) if sys.version_info < (3, 12) else found

    module._get_code_from_file = woven_from_file


def main_code(script: str) -> CodeType:
    """The code of a script that is to run as `__main__`. Raises what opening or compiling it raises."""
    if _plan.get("files"):
        tamper.remember()  # before the script's first line, whatever it is that it imports first
    found = _compile(script)
    if found is not None:
        return found
    with open(script, "rb") as file:
        return compile(file.read(), script, "exec", dont_inherit=True)
