"""`[tool.torchlint]` in pyproject.toml, or torchlint.toml, as one frozen `Config`; unknown keys are errors."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torchlint.discover import DEFAULT_EXCLUDE
from torchlint.locate import ConfigError, Located
from torchlint.toml import parse_toml

SEVERITIES = ("error", "warning", "info")
DEVICES = ("auto", "cuda", "cpu")


@dataclass(frozen=True)
class Config:
    """Everything that may change what a run reports. `root` is the folder that the project's paths are relative to."""

    root: str = "."
    select: tuple[str, ...] = ()  # empty: the rules that are on by default
    ignore: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    per_file_ignores: tuple[tuple[str, tuple[str, ...]], ...] = ()
    exclude: tuple[str, ...] = DEFAULT_EXCLUDE
    extend_exclude: tuple[str, ...] = ()
    severity: Mapping[str, str] = field(default_factory=dict)  # rule code or name → level
    torch_version: tuple[int, int] | None = None  # None: the newest
    target_device: str = "auto"
    jobs: int = 0  # 0: as many as there are cores for us
    cache_dir: str = ""
    rule_paths: tuple[str, ...] = ()  # where the project keeps rules; loaded only if the user says so
    docs: bool = False  # documents are searched for too
    docstrings: bool = False  # so are the examples in docstrings
    loader_names: tuple[str, ...] = ()
    grad_disabling: tuple[str, ...] = ()
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # rule name → its options

    @property
    def excluded(self) -> tuple[str, ...]:
        return self.exclude + self.extend_exclude

    def ignored_for(self, path: str) -> list[str]:
        """The selectors that `per-file-ignores` switches off for a path."""
        if not self.per_file_ignores:
            return []
        from torchlint.discover import Excluder

        full = os.path.abspath(path)
        found: list[str] = []
        for pattern, selectors in self.per_file_ignores:
            negated = pattern.startswith("!")
            parts = full.split(os.sep)
            matcher = Excluder((pattern.lstrip("!"),), os.path.abspath(self.root))
            hit = matcher(parts[-1], full) or any(part in matcher.names for part in parts)
            if hit != negated:
                found += selectors
        return found


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise TypeError("a list of strings")
    return tuple(value)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a string")
    return value


def _ignores(value: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if not isinstance(value, dict):
        raise TypeError("a table of path pattern = list of rules")
    return tuple((pattern, _strings(selectors)) for pattern, selectors in value.items())


def _severity(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or any(v not in SEVERITIES for v in value.values()):
        raise TypeError('a table of rule = "error", "warning" or "info"')
    return dict(value)


def _device(value: Any) -> str:
    if value not in DEVICES:
        raise TypeError('"auto", "cuda" or "cpu"')
    return str(value)


def _jobs(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError("a number of processes, 0 for one per core")
    return value


def _version(value: Any) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)\.(\d+)(\.\d+)*", value) if isinstance(value, str) else None
    if match is None:
        raise TypeError('a version such as "2.4"')
    return int(match[1]), int(match[2])


def _tables(value: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values()):
        raise TypeError("tables of options, one per rule name")
    return {name: dict(options) for name, options in value.items()}


KEYS: dict[str, Callable[[Any], Any]] = {
    "select": _strings,
    "ignore": _strings,
    "extend-select": _strings,
    "per-file-ignores": _ignores,
    "exclude": _strings,
    "extend-exclude": _strings,
    "severity": _severity,
    "torch-version": _version,
    "target-device": _device,
    "jobs": _jobs,
    "cache-dir": _string,
    "rule-paths": _strings,
    "docs": _switch,
    "docstrings": _switch,
    "loader-names": _strings,
    "grad-disabling": _strings,
    "rules": _tables,
}


ADDING = ("extend-select", "extend-exclude")  # lists to which an extending file adds


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the closest known name, or a list of all when none is close."""
    import difflib

    known = sorted(known)
    near = difflib.get_close_matches(name, known, 1, 0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known are {', '.join(known)}" if known else ""


class SettingError(ConfigError):
    """One setting that cannot be used."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


def from_table(table: Mapping[str, Any], where: str, root: str) -> Config:
    """A Config from parsed settings. `where` names their source in errors."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key == "extend":
            continue  # the file that it names was found with this one
        if key not in KEYS:
            hint = nearest(key, [*KEYS, "extend"])
            if key == "torchlint":
                hint = "; in this file the settings stand at the top, in no table"
            raise SettingError(f"{where}: unknown key {key!r}{hint}", key)
        try:
            values[key.replace("-", "_")] = KEYS[key](value)
        except TypeError as error:
            raise SettingError(f"{where}: {key} must be {error}, not {value!r}", key) from error
    return Config(root=root, **values)


def section(path: str, data: bytes) -> dict[str, Any] | None:
    """The table `tool.torchlint` of a pyproject.toml."""
    document = parse_toml(path, data)
    if isinstance(document.get("torchlint"), dict):
        raise ConfigError(f"{path}: [torchlint] is not read in this file: write [tool.torchlint]")
    tool = document.get("tool")
    section = tool.get("torchlint") if isinstance(tool, dict) else None
    if section is not None and not isinstance(section, dict):
        raise ConfigError(f"{path}: tool.torchlint must be a table")
    return section


@dataclass(frozen=True)
class Layer:
    """One file's settings. `where` names it in errors."""

    path: str
    where: str
    data: bytes
    table: Mapping[str, Any]


def layers(found: Located) -> list[Layer]:
    """The settings that `locate` found, the file's own first, then those that it extends."""
    if not found.path:
        return []
    result = [_layer(path, data) for path, data in [(found.path, found.data), *found.bases]]
    for layer, base in zip(result, [*result[1:], None]):
        extend = layer.table.get("extend")
        if extend is not None and (base is None or not isinstance(extend, str)):
            raise ConfigError(f'{layer.where}: extend must be a path, written as extend = "..." on a line of its own')
    return result


def _layer(path: str, data: bytes) -> Layer:
    if os.path.basename(path) == "pyproject.toml":
        return Layer(path, f"{path}: [tool.torchlint]", data, section(path, data) or {})
    document = parse_toml(path, data)
    tool = document.get("tool")
    if set(document) == {"tool"} and isinstance(tool, dict) and set(tool) == {"torchlint"}:
        document = tool["torchlint"]  # the pyproject spelling is understood in torchlint.toml too
    return Layer(path, path, data, document)


def written_at(found: Located, word: str) -> str:
    """The file and line, of those that hold the settings, on which a word is written."""
    exact = rb"(?<![\w-])" + re.escape(word.encode()) + rb"(?![\w-])"
    pattern = re.compile(exact if word else rb"''|\"\"")
    for path, data in [(found.path, found.data), *found.bases]:
        for row, line in enumerate(data.splitlines(), 1):
            if pattern.search(line.partition(b"#")[0]):
                return f"{path}:{row}"
    return found.path


def load(found: Located) -> Config:
    """The settings that `locate` found, with the torch version of the project's dependencies where none is set.

    Of extended files, lists that `extend-` something add up, tables are joined entry by entry, and anything else is
    taken from the file that is nearest to the code.
    """
    config = Config(root=found.root)
    for layer in reversed(layers(found)):
        try:
            own = from_table(layer.table, layer.where, found.root)
        except SettingError as error:
            from torchlint.toml_lines import lines_of

            line = lines_of(layer.path, layer.data).get(error.key)
            if line is None:
                raise
            raise ConfigError(str(error).replace(layer.path, f"{layer.path}:{line}", 1)) from error
        config = _over(config, own, layer.table)
    if found.project and found.project != found.path:
        parse_toml(found.project, found.project_data)  # the project's own file: that it is broken must be said
    if config.torch_version is None:
        from torchlint.pins import find

        pin = find(found.hints)
        config = replace(config, torch_version=pin.version if pin else None)
    return config


def _over(base: Config, own: Config, table: Mapping[str, Any]) -> Config:
    """`base` with what a nearer file sets."""
    values: dict[str, Any] = {}
    for key in table:
        if key == "extend":
            continue
        name = key.replace("-", "_")
        before, value = getattr(base, name), getattr(own, name)
        if key in ADDING:
            value = (*before, *value)
        elif key == "per-file-ignores":
            value = (*((p, s) for p, s in before if p not in dict(value)), *value)
        elif isinstance(value, Mapping):
            value = {**before, **value}
        values[name] = value
    return replace(base, root=own.root, **values)
