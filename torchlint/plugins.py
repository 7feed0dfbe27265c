"""Rules from elsewhere: packages that offer the entry point `torchlint.rules`, and folders that the user names.

Rules are code. What is installed in the environment was put there by the user; a folder of rules is loaded only if the
user names it (`--rules DIR`, or absolute paths in TORCHLINT_RULES). What lies in a checked tree loads nothing.
This module is part of a run over unchanged files: it imports nothing heavy, and no plugin.
"""

from __future__ import annotations

import marshal
import os
import sys

TYPE_CHECKING = False  # typing itself takes longer to import than a warm run may
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from torchlint.rule import Rule

    # (what messages call it, its module, the folder or file that its source is in)
    Offer = tuple[str, str, str]

API = 1  # what a plugin may name as TORCHLINT_API; raised when rules written for the old one would break
GROUP = "torchlint.rules"
VARIABLE = "TORCHLINT_RULES"
_LOCAL = "torchlint_local_"


class BadFolder(ValueError):
    """A folder of rules that cannot be used; the message says why."""


class Asked:
    """Folders of rules for the time of one command, workers included (they inherit the environment)."""

    def __init__(self, folders: Sequence[str]) -> None:
        """Raises BadFolder."""
        for folder in folders:
            if not os.path.isdir(folder):
                raise BadFolder(f"--rules {folder}: no such folder")
        self._folders = [os.path.abspath(folder) for folder in folders]

    def __enter__(self) -> None:
        self._before = os.environ.get(VARIABLE)
        before = [self._before] if self._before else []
        if self._folders:
            os.environ[VARIABLE] = os.pathsep.join([*before, *self._folders])

    def __exit__(self, *error: object) -> None:
        if self._before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = self._before


def folders() -> tuple[list[str], list[str]]:
    """The folders of rules that the user named, and lines about those that cannot be used."""
    found: list[str] = []
    troubles: list[str] = []
    for folder in os.environ.get(VARIABLE, "").split(os.pathsep):
        if not folder or folder in found:
            continue
        if not os.path.isabs(folder):  # it would mean another folder in every checkout
            troubles.append(f"{VARIABLE}: {folder!r} is not absolute, so no rules are loaded from it")
        elif not os.path.isdir(folder):
            troubles.append(f"{VARIABLE}: {folder}: no such folder")
        else:
            found.append(folder)
    return found, troubles


def offers() -> list[Offer]:
    """All that rules may come from, installed packages first."""
    return _installed() + [(f"rules of {folder}", _LOCAL + _hex(folder), folder) for folder in folders()[0]]


def stamp() -> tuple[Any, ...]:
    """What changes when a plugin is installed, upgraded, removed or edited."""
    return tuple((*offer, tuple(_files(offer[2]))) for offer in offers())


def unasked(paths: Sequence[str], root: str) -> list[str]:
    """Of a project's `rule-paths`, those that the user did not ask for."""
    asked = {os.path.realpath(folder) for folder in folders()[0]}
    return [path for path in paths if os.path.realpath(os.path.join(root, path)) not in asked]


def reminder(paths: Sequence[str], root: str, where: str) -> str:
    """A line about rules that the project has and this run leaves out, "" if there are none."""
    left = unasked(paths, root)
    if not left:
        return ""
    options = " ".join(f"--rules {os.path.relpath(os.path.join(root, path))}" for path in left)
    return f"{where}: rules in {', '.join(left)} are not loaded, since they are code: to run them, pass {options}"


def import_module(name: str) -> Any:
    """A plugin's module. Raises whatever its import raises."""
    import importlib

    if name.startswith(_LOCAL):
        from types import ModuleType

        for _, package, folder in offers():
            if package.startswith(_LOCAL) and package not in sys.modules:
                module = ModuleType(package)
                module.__path__ = [folder]
                sys.modules[package] = module
    return importlib.import_module(name)


def rules_of(offer: Offer) -> tuple[list[tuple[str, Rule]], list[str]]:
    """The rules of a plugin with their modules, and a line for each thing that is wrong with it. Imports it."""
    label, package, _ = offer
    try:
        module = import_module(package)
    except (Exception, SystemExit) as error:
        return [], [f"{label}: cannot be imported: {_told(error)}"]
    wanted = getattr(module, "TORCHLINT_API", API)
    if wanted != API:
        newer = "torchlint" if isinstance(wanted, int) and wanted > API else "the plugin"
        return [], [f"{label}: is written for rule API {wanted!r}, and this torchlint has {API}: upgrade {newer}"]
    found: list[tuple[str, Rule]] = []
    troubles: list[str] = []
    for name in [package, *_submodules(package, module)]:
        try:
            rule = getattr(import_module(name), "RULE", None)
        except (Exception, SystemExit) as error:
            troubles.append(f"{label}: {_short(name)} cannot be imported: {_told(error)}")
            continue
        if rule is None:
            continue
        problem = _problem(rule)
        if problem:
            troubles.append(f"{label}: {_short(name)}: {problem}")
        else:
            found.append((name, rule))
    if not found and not troubles:
        troubles.append(f"{label}: holds no rule: no module of {_short(package)} has a RULE")
    return found, troubles


def _problem(rule: Any) -> str:
    """Why something cannot be a rule of a plugin, "" if it can."""
    import re

    from torchlint.rule import Rule

    if not isinstance(rule, Rule):
        return f"RULE is no torchlint.rule.Rule but of type {type(rule).__name__}"
    if rule.code.startswith("TL"):
        return f"code {rule.code}: TL codes are torchlint's own, take other letters"
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", rule.name):
        return f"name {rule.name!r} is not lower case with dashes"
    if not rule.checks:
        return "has no check: decorate a function with @RULE.on"
    if not rule.triggers:
        return "has no triggers, so no text would ever be looked at"
    try:
        for pattern in (*rule.triggers, *rule.requires):
            re.compile(pattern)
    except (re.error, TypeError) as error:
        return f"trigger {pattern!r} is no regular expression: {error}"
    return ""


def _submodules(package: str, module: Any) -> Iterator[str]:
    for folder in getattr(module, "__path__", ()):
        for name in sorted(os.listdir(folder)):
            stem = name[:-3]
            if name.endswith(".py") and stem.isidentifier() and not stem.startswith(("_", "test_", "conftest")):
                yield f"{package}.{stem}"


def _short(module: str) -> str:
    """A module as its author knows it."""
    return f"{module.rpartition('.')[2]}.py" if module.startswith(_LOCAL) and "." in module else module


def _told(error: BaseException) -> str:
    """An exception as one line, with the place in the plugin that it came from."""
    import traceback

    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    ours = os.path.dirname(os.path.abspath(__file__))
    theirs = [f for f in frames if not os.path.abspath(f.filename).startswith(ours + os.sep)]
    place = f" at {theirs[-1].filename}:{theirs[-1].lineno}" if theirs else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f" at {error.filename}:{error.lineno}"
    return f"{type(error).__name__}: {error}".partition("\n")[0] + place


# -- what is installed ------------------------------------------------------------------------------------------------


def _installed() -> list[Offer]:
    """What installed packages offer; looked up anew when something was installed or removed."""
    state = [(folder, os.stat(folder).st_mtime_ns) for folder in _site_folders() if os.path.isdir(folder)]
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(here, "__pycache__", f"plugins.{sys.implementation.cache_tag}")
    try:
        with open(path, "rb") as handle:
            kept, found = marshal.loads(handle.read())
        if kept == state:
            return list(found)
    except (OSError, ValueError, EOFError, TypeError):
        pass
    found = sorted(offer for folder, _ in state for offer in _offered(folder))
    if not sys.dont_write_bytecode:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(f"{path}.{os.getpid()}", "wb") as handle:
                handle.write(marshal.dumps((state, found)))
            os.replace(f"{path}.{os.getpid()}", path)
        except OSError:
            pass  # an installation that cannot be written to looks every time
    return found


def _site_folders() -> list[str]:
    """Where installers put packages. A folder of the checkout counts only as part of the environment that runs us."""
    prefixes = tuple(os.path.realpath(p) + os.sep for p in {sys.prefix, sys.base_prefix})
    here = os.path.realpath(os.getcwd()) + os.sep
    result = []
    for folder in sys.path:
        if os.path.basename(folder) in ("site-packages", "dist-packages") and folder not in result:
            real = os.path.realpath(folder)
            if real.startswith(prefixes) or not real.startswith(here):
                result.append(folder)
    return result


def _offered(folder: str) -> Iterator[Offer]:
    """The offers of one folder's packages. By hand: importlib.metadata takes longer than a run."""
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".dist-info"):
            continue
        try:
            with open(os.path.join(folder, name, "entry_points.txt"), encoding="utf-8", errors="replace") as handle:
                text = handle.read()
        except OSError:
            continue
        if GROUP not in text:
            continue
        group = ""
        for line in map(str.strip, text.splitlines()):
            if line.startswith("["):
                group = line.strip("[] ")
            elif group == GROUP and "=" in line and not line.startswith(("#", ";")):
                key, _, value = line.partition("=")
                module = value.partition("[")[0].partition(":")[0].strip()
                package = name[: -len(".dist-info")].replace("-", " ")
                yield f"plugin {key.strip()} ({package})", module, _home(module)


def _home(module: str) -> str:
    """Where the source of a module's top-level package lies; nothing is imported."""
    from importlib.util import find_spec

    try:
        spec = find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return ""
    if spec is None:
        return ""
    inside = list(spec.submodule_search_locations or ())
    return inside[0] if inside else spec.origin or ""


def _files(home: str) -> Iterator[tuple[str, int, int]]:
    paths = [home] if home.endswith(".py") else []
    if not paths:
        for folder, inner, names in os.walk(home):
            inner[:] = sorted(n for n in inner if n != "__pycache__" and not n.startswith("."))
            paths += [os.path.join(folder, name) for name in sorted(names) if name.endswith(".py")]
    for path in paths:
        try:
            info = os.stat(path)
        except OSError:
            continue
        yield path, info.st_mtime_ns, info.st_size


def _hex(text: str) -> str:
    from _blake2 import blake2b

    return str(blake2b(os.fsencode(text), digest_size=6).hexdigest())
