"""How a run's own code gets into every Python process of a command, whatever starts it.

`python train.py` is started through `inject/launch.py`. A script that torchrun or a shell script starts is one of the
edited files too: the interpreter that was to run it, in which `inject/sitecustomize.py` has woken up, starts itself
anew through the launcher. Shell scripts set PYTHONPATH, and sitecustomize with it would be lost: the first `python` on
their PATH is one of ours that puts it back.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

INJECT = Path(__file__).with_name("inject")
_LAUNCH = str(INJECT / "launch.py")
_PYTHON = re.compile(r"python(\d+(\.\d+)?)?(\.exe)?")
_TAKES_VALUE = {"-W", "-X", "--check-hash-based-pycs"}
# Programs that start Python, and modules that do: they train nothing themselves.
_LAUNCHERS = ("torchrun", "accelerate", "deepspeed", "composer", "horovodrun", "fairscale", "lightning", "fabric")
_MODULES = ("torch.distributed", "accelerate.commands", "deepspeed.launcher", "lightning.fabric.cli")


def prepared(command: Sequence[str]) -> list[str]:
    """The command, a Python script started through our launcher so that its own text can be replaced in memory."""
    at = _script(command)
    return list(command) if at is None else [*command[:at], _LAUNCH, *command[at:]]


def _script(command: Sequence[str]) -> int | None:
    """The place of the script in `python [options] script [arguments]`; None for any other command."""
    if not command or not _PYTHON.fullmatch(os.path.basename(command[0])):
        return None
    at = 1
    while at < len(command):
        word = command[at]
        if word in ("-m", "-c", "-"):
            return None
        if not word.startswith("-"):
            return at
        at += 2 if word in _TAKES_VALUE else 1
    return None


def relaunch(edited: Container[str]) -> None:
    """Start this interpreter anew through our launcher if it is about to run one of the edited files (real paths)."""
    command = [sys.executable, *sys.orig_argv[1:]]
    at = _script(command)
    if at is not None and os.path.realpath(command[at]) in edited:
        os.execv(sys.executable, prepared(command))


UNWATCHED = (
    "none of the command's Python processes could be watched: give the line that starts Python itself "
    "(a script may take another interpreter, or start it with -I, -E or -S)"
)


def mark(folder: str) -> None:
    """Leave word that a Python process of the run has woken up with us in it."""
    with contextlib.suppress(OSError), open(os.path.join(folder, ".watched"), "w"):
        pass


def watched(folder: str) -> bool:
    """Whether one has."""
    return os.path.exists(os.path.join(folder, ".watched"))


def only_launches() -> bool:
    """Whether this process only starts others that train: torchrun and its like."""
    command = list(sys.orig_argv)
    at = _script(command)
    if at is not None:
        return os.path.basename(command[at]) in _LAUNCHERS
    return "-m" in command[:-1] and command[command.index("-m") + 1].startswith(_MODULES)


def rank() -> tuple[int, int]:
    """Which of how many ranks this process is, as launchers tell it by the environment."""
    return _number("RANK", 0), _number("WORLD_SIZE", 1)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else default


def surroundings(environment: Mapping[str, str], folder: str) -> dict[str, str]:
    """The environment in which all Python that is started wakes up our sitecustomize. Writes into `folder`."""
    path = environment.get("PATH", os.defpath)
    os.mkdir(folder)
    for name in sorted(_programs(path)):
        where = shutil.which(name, path=path)
        if where is not None:
            _write_shim(os.path.join(folder, name), where)
    python_path = os.pathsep.join(filter(None, [str(INJECT), environment.get("PYTHONPATH", "")]))
    return {**environment, "PATH": os.pathsep.join([folder, path]), "PYTHONPATH": python_path}


def _programs(path: str) -> set[str]:
    """The names under which Python and the launchers can be called by this PATH."""
    found: set[str] = set()
    for folder in path.split(os.pathsep):
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        found.update(n for n in names if n in _LAUNCHERS or n == "pytest" or _PYTHON.fullmatch(n))
    return found


def _write_shim(at: str, program: str) -> None:
    inject = shlex.quote(str(INJECT))
    with open(at, "w", encoding="utf-8") as file:
        file.write(
            "#!/bin/sh\n"
            f'PYTHONPATH={inject}"${{PYTHONPATH:+:$PYTHONPATH}}"\n'
            "export PYTHONPATH\n"
            f'exec {shlex.quote(os.path.abspath(program))} "$@"\n'
        )
    os.chmod(at, 0o755)
