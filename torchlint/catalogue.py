"""All rules, listed without importing them: a rule's module is loaded when a file first has one of its triggers.

What a rule says of itself is kept beside its compiled code (`__pycache__`), as Python keeps that: data only, checked
against the sizes and times of the rules' sources, and written anew when these changed.
"""

from __future__ import annotations

import contextlib
import importlib
import marshal
import os
import sys
from collections.abc import Sequence
from typing import Any

import torchlint
from torchlint import plugins
from torchlint.diagnostic import Applicability, Severity
from torchlint.rule import Category, Rule


class _Listed(Rule):
    """A rule whose module is imported on first need."""

    @property
    def checks(self) -> list[Any]:  # type: ignore[override]
        return self._own().checks

    @property
    def doc(self) -> str:  # type: ignore[override]
        return self._own().doc

    @property
    def looks(self) -> bool:
        return bool(self.__dict__["looks_"])

    def _own(self) -> Rule:
        name = self.__dict__["module"]
        if self.__dict__.get("plugin"):
            module = plugins.import_module(name)
        else:
            module = importlib.import_module(f"torchlint.rules.{name}")
        rule: Rule = module.RULE
        return rule


def load() -> list[Rule]:
    """All rules, by code, those of plugins among them. What is wrong with plugins, `listing` tells."""
    return listing()[0]


def listing() -> tuple[list[Rule], list[str]]:
    """All rules, by code, and a line for each thing that is wrong with a plugin; what is right with it is used."""
    rules = own()
    more, troubles = _of_plugins(rules)
    return sorted([*rules, *more], key=lambda r: r.code), troubles


def own() -> list[Rule]:
    """Torchlint's rules, by code. A module that cannot be imported raises: a linter must not silently check less."""
    import torchlint.rules as package

    folders = list(package.__path__)
    stamp = _stamp(folders)
    path = os.path.join(folders[0], "__pycache__", f"catalogue.{sys.implementation.cache_tag}")
    listing = _read(path, stamp)
    if listing is None:
        modules = {name: importlib.import_module(f"torchlint.rules.{name}") for name in _modules(stamp)}
        rules = {
            name: module.RULE for name, module in modules.items() if isinstance(getattr(module, "RULE", None), Rule)
        }
        _write(path, stamp, [_pack(name, rule) for name, rule in rules.items()])
        found = list(rules.values())
    else:
        found = [_unpack(entry) for entry in listing]
    return sorted(found, key=lambda r: r.code)


def _of_plugins(rules: Sequence[Rule]) -> tuple[list[Rule], list[str]]:
    """The rules of plugins beside torchlint's own."""
    troubles = plugins.folders()[1]
    offers = plugins.offers()
    if not offers:
        return [], troubles
    stamp = [torchlint.__version__, plugins.API, plugins.stamp()]
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(here, "__pycache__", f"catalogue-plugins.{sys.implementation.cache_tag}")
    listing = _read(path, stamp)
    if listing is not None:
        return [_unpack(entry) for entry in listing], troubles
    taken = {word: "torchlint" for rule in rules for word in (rule.code, rule.name)}
    found: list[Rule] = []
    packed: list[dict[str, Any]] = []
    for offer in offers:
        theirs, wrong = plugins.rules_of(offer)
        troubles += wrong
        for module, rule in theirs:
            clash = next((word for word in (rule.code, rule.name) if word in taken), None)
            if clash is not None:
                line = f"{offer[0]}: {rule.code} {rule.name}: {clash} is taken by {taken[clash]}; it is left out"
                troubles.append(line)
                continue
            taken[rule.code] = taken[rule.name] = offer[0]
            found.append(rule)
            packed.append({**_pack(module, rule), "plugin": offer[0]})
    if not troubles:  # a plugin may work next time without a change of its own
        _write(path, stamp, packed)
    return found, troubles


def _stamp(folders: Sequence[str]) -> list[Any]:
    """What tells one state of the rules from another."""
    files: list[tuple[str, int, int]] = []
    for folder in folders:
        with os.scandir(folder) as entries:
            files += sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries if e.name.endswith(".py"))
    return [torchlint.__version__, *files]


def _modules(stamp: list[Any]) -> list[str]:
    return [entry[0].removesuffix(".py") for entry in stamp[1:] if entry[0] != "__init__.py"]


def _pack(module: str, rule: Rule) -> dict[str, Any]:
    return {
        "module": module,
        "looks_": bool(rule.checks),
        "code": rule.code,
        "name": rule.name,
        "category": rule.category.value,
        "severity": rule.severity.value,
        "triggers": rule.triggers,
        "since": rule.since,
        "fixes": tuple(f.value for f in rule.fixes),
        "default": rule.default,
        "options": dict(rule.options),
        "requires": rule.requires,
        "shapes": rule.shapes,
    }


def _unpack(entry: dict[str, Any]) -> Rule:
    rule: Rule = object.__new__(_Listed)
    rule.__dict__.update(
        entry,
        category=Category(entry["category"]),
        severity=Severity(entry["severity"]),
        fixes=tuple(map(Applicability, entry["fixes"])),
    )
    return rule


def _read(path: str, stamp: list[Any]) -> list[dict[str, Any]] | None:
    try:
        with open(path, "rb") as handle:
            kept, listing = marshal.loads(handle.read())
    except (OSError, ValueError, EOFError, TypeError):
        return None
    return listing if kept == stamp else None


def _write(path: str, stamp: list[Any], listing: list[dict[str, Any]]) -> None:
    """Best effort: an installation that cannot be written to imports its rules every time."""
    if sys.dont_write_bytecode:
        return
    with contextlib.suppress(OSError, ValueError):
        data = marshal.dumps((stamp, listing))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(f"{path}.{os.getpid()}", "wb") as handle:
            handle.write(data)
        os.replace(f"{path}.{os.getpid()}", path)
