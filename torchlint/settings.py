"""`torchlint config [PATH]`: the settings that hold for a path, each with the file and line, or option, it comes from.

The text is TOML itself, with the origins as comments, so that it can be pasted into a pyproject.toml.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchlint import cache
from torchlint.config import KEYS, Config, layers
from torchlint.locate import Located
from torchlint.options import Arguments, near
from torchlint.report.terminal import escaped
from torchlint.telling import harmless, tell
from torchlint.toml_lines import lines_of

if TYPE_CHECKING:
    from torchlint.pins import Pin

TROUBLE = 2
DEFAULT = "default"
OPTIONS = {
    "select": "--select",
    "ignore": "--ignore",
    "extend-select": "--extend-select",
    "extend-exclude": "--exclude",
    "docs": "--docs",
    "docstrings": "--docstrings",
    "jobs": "--jobs",
}
# What a default means that cannot be written down as a value.
UNSET = {
    "select": "the rules that are on by default",
    "torch-version": "the newest, since nothing sets it and no dependency tells it",
    "cache-dir": f"{cache.FOLDER} in the project's folder",
}


def main(arguments: Arguments) -> int:
    """Print the settings, or with --schema the JSON schema of the table."""
    form = arguments.text("--output-format") or "text"
    if form not in ("text", "json"):
        hint = near(form, ("text", "json")) or "; known are text, json"
        return _trouble(f"unknown output format {form!r}{hint}")
    if arguments.flag("--schema"):
        from torchlint.schema import text

        sys.stdout.write(text())
        return 0
    if len(arguments.paths) > 1:
        return _trouble("config takes one PATH; settings may differ from file to file")
    path = arguments.paths[0] if arguments.paths else "."
    if not os.path.exists(path):
        from torchlint.discover import nearest_path

        return _trouble(f"{path}: no such file or directory{nearest_path(path)}")
    from torchlint.session import SetupError

    try:
        resolved = Resolved(path, arguments)
    except SetupError as error:
        return _trouble(str(error))
    sys.stdout.write(resolved.json() if form == "json" else resolved.toml())
    return 0


def _trouble(line: str) -> int:
    tell(line)
    return TROUBLE


class Resolved:
    """The settings of a path with their origins. Raises SetupError for settings that cannot be used."""

    def __init__(self, path: str, arguments: Arguments) -> None:
        from torchlint.catalogue import load as load_rules
        from torchlint.locate import ConfigError, locate
        from torchlint.pins import find
        from torchlint.rule import UnknownRule
        from torchlint.session import Project, SetupError

        self.path = path
        self._arguments = arguments
        try:
            self.located: Located = locate([path], arguments.text("--config"))
            self.known = load_rules()
            project = Project(arguments, self.located, self.known)
        except (ConfigError, UnknownRule) as error:
            raise SetupError(str(error)) from error
        if project.broken:
            raise SetupError(project.broken)
        self.config: Config = project.config
        self.codes = sorted(project.selection.active)
        self.layers = layers(self.located)
        self._lines = [lines_of(layer.path, layer.data) for layer in self.layers]
        self.pin: Pin | None = None
        if not self._set("torch-version"):
            self.pin = find(self.located.hints)

    # -- origins --------------------------------------------------------------------------------------------------

    def _set(self, key: str) -> list[int]:
        """The layers that set a key."""
        return [i for i, layer in enumerate(self.layers) if key in layer.table]

    def origin(self, key: str) -> str:
        """Where a setting comes from: options first, then the nearest files, or `default`."""
        found = [OPTIONS[key]] if key in OPTIONS and self._arguments.flag(OPTIONS[key]) else []
        if found and found[0] in ("--select", "--jobs", "--docs", "--docstrings"):
            return found[0]
        setting = self._set(key)
        several = key.startswith("extend-")  # the files' lists add up
        found += [self._at(i, key) for i in (setting if several else setting[:1])]
        if key == "torch-version" and self.pin is not None:
            found.append(f"{_short(self.pin.where)}, the oldest torch that the project allows")
        return ", ".join(found) or DEFAULT

    def entry(self, key: str, name: str) -> str:
        """Where one entry of a table comes from."""
        at = next(i for i in self._set(key) if name in self.layers[i].table[key])
        return self._at(at, f"{key}.{name}", key)

    def _at(self, layer: int, *keys: str) -> str:
        line = next((self._lines[layer][key] for key in keys if key in self._lines[layer]), 0)
        path = _short(self.layers[layer].path)
        return f"{path}:{line}" if line else path

    # -- what is printed ------------------------------------------------------------------------------------------

    def values(self) -> dict[str, Any]:
        """The settings as they would be written, defaults included; tables and unset ones may be empty."""
        plain = {key: getattr(self.config, key.replace("-", "_")) for key in KEYS}
        version = self.config.torch_version
        plain["torch-version"] = f"{version[0]}.{version[1]}" if version else ""
        return {
            key: dict(value) if key == "per-file-ignores" else list(value) if isinstance(value, tuple) else value
            for key, value in plain.items()
        }

    @property
    def cache(self) -> str:
        return os.path.join(self.config.root, self.config.cache_dir or cache.FOLDER)

    def toml(self) -> str:
        """Plain settings first, then the tables, as TOML demands."""
        known, on = len(self.known), len(self.codes)
        lines = [
            f"# {harmless(self.path)}: project {harmless(self.config.root)}, {on} of {known} rules on, "
            f"cache {_short(self.cache)}",
            *(f"# settings: {_short(layer.path)}" if not i else f"#  extends: {_short(layer.path)}"
              for i, layer in enumerate(self.layers)),
        ]  # fmt: skip
        if not self.layers:
            lines.append("# settings: none found; put [tool.torchlint] into pyproject.toml")
        lines += ["", "[tool.torchlint]"]
        tables: list[str] = []
        for key, value in self.values().items():
            if isinstance(value, dict):
                tables += self._table(key, value)
            elif key in UNSET and not value:
                lines.append(f"# {key}: {UNSET[key]}")
            else:
                lines.append(f"{key} = {_toml(value)}  # {self.origin(key)}")
        return "\n".join(lines + tables) + "\n"

    def _table(self, key: str, value: Mapping[str, Any]) -> list[str]:
        if not value:
            return []
        if key == "rules":
            lines = []
            for name, options in value.items():
                lines += ["", f"[tool.torchlint.rules.{_name(name)}]  # {self.entry(key, name)}"]
                lines += [f"{_name(option)} = {_toml(v)}" for option, v in options.items()]
            return lines
        entries = [f"{_name(name)} = {_toml(v)}  # {self.entry(key, name)}" for name, v in value.items()]
        return ["", f"[tool.torchlint.{key}]", *entries]

    def json(self) -> str:
        settings = {key: {"value": v, "source": self.origin(key)} for key, v in self.values().items()}
        version = self.values()["torch-version"]
        document = {
            "path": self.path,
            "root": self.config.root,
            "cache": self.cache,
            "files": [layer.path for layer in self.layers],
            "settings": settings,
            "torch": {"version": version or None, "source": self.origin("torch-version")},
            "rules": {"known": len(self.known), "on": len(self.codes), "codes": self.codes},
        }
        return json.dumps(document, indent=2) + "\n"


def _short(path: str) -> str:
    """A path as it is written from here, where it lies here, on one line."""
    relative = os.path.relpath(path)
    return harmless(path if relative.startswith(os.pardir) else relative)


def _name(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key) else _toml(key)


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        lines = [""]
        for item in map(_toml, value):
            if lines[-1] and len(lines[-1]) + len(item) > 80:
                lines.append("")
            lines[-1] += f"{item}, "
        whole = lines[0].rstrip(", ") if len(lines) == 1 else "".join(f"\n    {line.rstrip()}" for line in lines) + "\n"
        return f"[{whole}]"
    return escaped(json.dumps(value, ensure_ascii=False))
