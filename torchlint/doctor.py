"""`torchlint doctor`: what torchlint finds of itself and its surroundings, and what to do about what is broken."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torchlint import cache
from torchlint.options import Arguments
from torchlint.telling import harmless, tell

if TYPE_CHECKING:
    from torchlint.settings import Resolved

TROUBLE = 2
TORCH_SECONDS = 60.0
# The optional parts and the distributions that they need, as in pyproject.toml.
EXTRAS = {
    "verify": ("torch", "numpy"),
    "watch": ("watchfiles",),
    "server": ("pygls",),
}
_ASK_TORCH = """\
import json, torch
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
mps = getattr(torch.backends, "mps", None)
if mps is not None and mps.is_available():
    devices.append("mps")
print(json.dumps([torch.__version__, devices]))
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing looked at. `remedy` is the next step where it is `broken`, or a hint where it is not."""

    what: str
    text: str
    remedy: str = ""
    broken: bool = False


def main(arguments: Arguments) -> int:
    """Print every line; 2 if something is broken."""
    from torchlint.cli import color_wanted

    if len(arguments.paths) > 1:
        tell("doctor takes one PATH; settings may differ from file to file")
        return TROUBLE
    color = color_wanted(sys.stdout)
    broken = 0
    for line in examine(arguments):
        broken += line.broken
        mark = "!!" if line.broken else "ok" if not line.remedy else "--"
        style = {"!!": "\x1b[1;31m", "ok": "\x1b[32m", "--": "\x1b[2m"}[mark]
        print(f"{style}{mark}\x1b[0m" if color else mark, f"{line.what:<9}", harmless(line.text), flush=True)
        if line.remedy:
            print(f"{'':<13}{line.remedy}", flush=True)
    print("Nothing is broken." if not broken else f"{broken} thing{'s' * (broken != 1)} to repair.")
    return TROUBLE if broken else 0


def examine(arguments: Arguments) -> Iterator[Line]:
    """All that can be said about the folder or file that the command names, or the current folder."""
    yield from _versions()
    yield from _guarded("rules", lambda: _rules())
    yield from _guarded("settings", lambda: _settings(arguments))
    yield _torch()
    yield from _guarded("sandbox", lambda: [_sandbox()])
    yield from _extras()


def _guarded(what: str, look: Callable[[], list[Line]]) -> list[Line]:
    """A look that fails is itself a finding: the others go on."""
    try:
        return look()
    except Exception as error:
        return [Line(what, f"{type(error).__name__}: {error}", "please report this with the line above", True)]


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _versions() -> Iterator[Line]:
    import torchlint

    yield Line("torchlint", f"{torchlint.__version__} in {os.path.dirname(os.path.abspath(torchlint.__file__))}")
    yield Line("python", f"{platform.python_version()} at {sys.executable} on {platform.platform(terse=True)}")
    try:
        import libcst

        libcst.parse_module("x = 1\n")
        yield Line("libcst", _version("libcst") or "found")
    except Exception as error:
        yield Line("libcst", f"{type(error).__name__}: {error}", "pip install --force-reinstall 'libcst>=1.4'", True)


def _rules() -> list[Line]:
    """Every rule's module is imported, which a run does only for those that it needs."""
    from torchlint.catalogue import listing
    from torchlint.plugins import offers

    try:
        rules, troubles = listing()
        for rule in rules:
            rule.checks  # noqa: B018 (imports the module)
    except Exception as error:
        return [Line("rules", f"{type(error).__name__}: {error}", "the rule that it names cannot be imported", True)]
    lines = [Line("rules", f"{len(rules)}, {sum(r.default for r in rules)} of them on by default")]
    for label, module, home in offers():
        broken = [line for line in troubles if line.startswith(f"{label}: ")]
        if broken:
            lines += [Line("plugin", line, "correct, upgrade or uninstall it", True) for line in broken]
        else:
            lines.append(Line("plugin", f"{label.removeprefix('plugin ')}, {home or module}"))
    return lines


def _settings(arguments: Arguments) -> list[Line]:
    from torchlint.session import SetupError
    from torchlint.settings import Resolved

    path = arguments.paths[0] if arguments.paths else "."
    if not os.path.exists(path):
        return [Line("settings", f"{path}: no such file or directory", "name a folder or file that exists", True)]
    try:
        resolved = Resolved(path, arguments)
    except SetupError as error:
        return [Line("settings", str(error), "correct it; `torchlint config --schema` says what is allowed", True)]
    files = ", extends ".join(layer.path for layer in resolved.layers)
    on = f"{len(resolved.codes)} rules on"
    version = resolved.config.torch_version
    target = f"torch >= {version[0]}.{version[1]}" if version else "the newest torch"
    text = f"{files or f'none for {path}: defaults'}; {on}, for {target} ({resolved.origin('torch-version')})"
    return [Line("settings", text), _cache(resolved)]


def _cache(resolved: Resolved) -> Line:
    """Whether results can be kept, and whether those that are can be read."""
    folder = Path(resolved.cache)
    if not folder.exists():
        return Line("cache", f"{folder}: not there yet")
    if not folder.is_dir():
        return Line("cache", f"{folder} is not a folder", "remove it, or set cache-dir", True)
    try:
        files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != ".gitignore"]
        size = sum(path.stat().st_size for path in files)
        damaged = [path.name for path in files if not cache.sound(path.read_bytes(), path.name, cache.secret())]
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        step = "make it writable, or set cache-dir, or use --no-cache"
        return Line("cache", f"{folder}: {error.strerror or error}", step, True)
    text = f"{folder}: {len(files)} file{'s' * (len(files) != 1)}, {size / 1024:.0f} KiB"
    if damaged:
        text += f", {len(damaged)} of an older torchlint or damaged"
        return Line("cache", text, "those count as empty; they go when newer ones take their place, or may be deleted")
    return Line("cache", text)


def _torch() -> Line:
    """Asked of another process, so that a torch that crashes or hangs does not take this one with it."""
    verifying = "checking needs no torch; verifying does: pip install 'torchlint[verify]'"
    if importlib.util.find_spec("torch") is None:
        return Line("torch", "not installed", verifying)
    repair = "verifying will not work until `python -c 'import torch'` does"
    with tempfile.TemporaryDirectory() as empty:  # a torch.py in the current folder is not meant
        try:
            done = subprocess.run(
                [sys.executable, "-c", _ASK_TORCH],
                cwd=empty, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TORCH_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Line("torch", f"importing it took longer than {TORCH_SECONDS:.0f} s", repair, True)
    try:
        version, devices = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        return Line("torch", f"cannot be imported: {lines[-1]}", repair, True)
    return Line("torch", f"{version}, devices: {', '.join(['cpu', *devices])}")


def _sandbox() -> Line:
    if os.name != "posix":
        return Line("sandbox", "not on this system", "verifying runs your code unconfined here")
    from torchlint.verify.sandbox import Isolation, run_forked

    with tempfile.TemporaryDirectory() as project:
        outcome = run_forked(_isolation, seconds=20, project=project)
    if outcome.reason is not None:
        return Line("sandbox", outcome.reason, "verifying may not work here; please report this", True)
    found: Isolation = outcome.value
    missing = f"not given by this system: {', '.join(found.missing)}; verifying runs without" if found.missing else ""
    return Line("sandbox", ", ".join(found.active), missing)


def _isolation(isolation: object) -> object:
    return isolation


def _extras() -> Iterator[Line]:
    for extra, needed in EXTRAS.items():
        absent = [name for name in needed if not _version(name)]
        if absent:
            yield Line(extra, f"not installed: {', '.join(absent)}", f"pip install 'torchlint[{extra}]' if you want it")
        else:
            yield Line(extra, ", ".join(f"{name} {_version(name)}" for name in needed))
