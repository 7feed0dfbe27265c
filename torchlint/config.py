"""`[tool.torchlint]` in pyproject.toml, or torchlint.toml, as one frozen `Config`; unknown keys are errors."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from torchlint.discover import DEFAULT_EXCLUDE
from torchlint.locate import ConfigError, Located

SEVERITIES = ("error", "warning", "info")
DEVICES = ("auto", "cuda", "cpu")


class BrokenToml(ConfigError):
    """The file is not TOML, so it says nothing: a check goes on with the defaults, a fix does not."""


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
    loader_names: tuple[str, ...] = ()
    grad_disabling: tuple[str, ...] = ()
    training_wrappers: tuple[str, ...] = ()
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # rule name → its options

    @property
    def excluded(self) -> tuple[str, ...]:
        return self.exclude + self.extend_exclude

    @property
    def project_names(self) -> dict[str, tuple[str, ...]]:
        """The project's own names that every rule may ask for, as they appear in `Context.options`."""
        return {
            "loader-names": self.loader_names,
            "grad-disabling": self.grad_disabling,
            "training-wrappers": self.training_wrappers,
        }

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
    "loader-names": _strings,
    "grad-disabling": _strings,
    "training-wrappers": _strings,
    "rules": _tables,
}


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the closest known name, or a list of all when none is close."""
    import difflib

    known = sorted(known)
    near = difflib.get_close_matches(name, known, 1, 0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known are {', '.join(known)}" if known else ""


def from_table(table: Mapping[str, Any], where: str, root: str) -> Config:
    """A Config from parsed settings. `where` names their source in errors."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(key, KEYS)}")
        try:
            values[key.replace("-", "_")] = KEYS[key](value)
        except TypeError as error:
            raise ConfigError(f"{where}: {key} must be {error}, not {value!r}") from error
    return Config(root=root, **values)


def parse_toml(path: str, data: bytes) -> dict[str, Any]:
    """The file's tables. Raises BrokenToml with the parser's place."""
    toml: Any = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        document: dict[str, Any] = toml.loads(data.decode("utf-8"))
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BrokenToml(f"{path}: not valid TOML: {error}") from error
    return document


_TORCH = re.compile(r"^\s*(?:torch|pytorch)(?![\w.-])\s*(?:\[[^\]]*\])?\s*\(?\s*([^;#)]*)", re.IGNORECASE)
_BOUND = re.compile(r"(?:>=|==|~=|\^)\s*v?(\d+)\.(\d+)")


def torch_floor(requirements: Iterable[str]) -> tuple[int, int] | None:
    """The oldest torch that a project's requirement lines allow, or None where they set no lower bound."""
    for line in requirements:
        match = _TORCH.match(line)
        bound = match and _BOUND.search(match[1])
        if bound:
            return int(bound[1]), int(bound[2])
    return None


def _requirements(document: Mapping[str, Any]) -> list[str]:
    project = document.get("project")
    found: list[str] = []
    if isinstance(project, dict):
        groups = [project.get("dependencies")]
        optional = project.get("optional-dependencies")
        if isinstance(optional, dict):
            groups += optional.values()
        found += [line for group in groups if isinstance(group, list) for line in group if isinstance(line, str)]
    tool = document.get("tool")
    poetry = tool.get("poetry") if isinstance(tool, dict) else None
    dependencies = poetry.get("dependencies") if isinstance(poetry, dict) else None
    if isinstance(dependencies, dict):
        for name, spec in dependencies.items():
            version = spec.get("version") if isinstance(spec, dict) else spec
            if isinstance(version, str):
                found.append(f"{name} {version}")
    return found


def section(path: str, data: bytes) -> dict[str, Any] | None:
    tool = parse_toml(path, data).get("tool")
    section = tool.get("torchlint") if isinstance(tool, dict) else None
    if section is not None and not isinstance(section, dict):
        raise ConfigError(f"{path}: tool.torchlint must be a table")
    return section


def load(found: Located) -> Config:
    """The settings that `locate` found, with the torch version of the project's dependencies where none is set."""
    if not found.path:
        config = Config(root=found.root)
    elif os.path.basename(found.path) == "pyproject.toml":
        config = from_table(section(found.path, found.data) or {}, f"{found.path}: [tool.torchlint]", found.root)
    else:
        document = parse_toml(found.path, found.data)
        tool = document.get("tool")
        if set(document) == {"tool"} and isinstance(tool, dict) and set(tool) == {"torchlint"}:
            document = tool["torchlint"]  # the pyproject spelling is understood in torchlint.toml too
        config = from_table(document, found.path, found.root)
    if config.torch_version is None and found.project:
        floor = torch_floor(_requirements(parse_toml(found.project, found.project_data)))
        config = replace(config, torch_version=floor)
    return config
