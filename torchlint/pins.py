"""The torch version that a project asks for, read from the texts that declare or lock its dependencies.

Nothing is run and nothing is guessed: a lower bound or a pin counts, everything else says nothing. The first file that
gives one wins: pyproject.toml, setup.cfg, setup.py, requirements*.txt, environment.yml, then uv.lock and poetry.lock.
"""

from __future__ import annotations

import ast
import configparser
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchlint.locate import LOCKS
from torchlint.toml import BrokenToml, parse_toml

Version = tuple[int, int]

_TORCH = re.compile(r"^\s*(?:torch|pytorch)(?![\w.-])\s*(?:\[[^\]]*\])?\s*\(?\s*([^;#)]*)", re.IGNORECASE)
_BOUND = re.compile(r"(?:>=|==|~=|\^)\s*v?(\d+)\.(\d+)")
_CONDA = re.compile(r"^\s*-\s*[\"']?(?:[\w-]+::)?((?:torch|pytorch)(?![\w.-])[^\"'#]*)")
_CONDA_PIN = re.compile(r"(?<![<>=!~])=(?!=)")  # `pytorch=2.1` is conda's pin


@dataclass(frozen=True, slots=True)
class Pin:
    """The oldest torch that a project allows, and the file and line that say so (0 where the line is not known)."""

    version: Version
    path: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line}" if self.line else self.path


def torch_floor(requirements: Iterable[str]) -> Version | None:
    """The oldest torch that a project's requirement lines allow, or None where they set no lower bound."""
    for line in requirements:
        match = _TORCH.match(line)
        bound = match and _BOUND.search(match[1])
        if bound:
            return int(bound[1]), int(bound[2])
    return None


def find(hints: Sequence[tuple[str, bytes]]) -> Pin | None:
    """The first of the files that names a bound. Raises BrokenToml for a pyproject.toml that is none."""
    for path, data in hints:
        name = os.path.basename(path)
        read = _READERS.get(name, _READERS["requirements.txt"])
        try:
            lines = list(read(path, data))
        except BrokenToml:
            if name == "pyproject.toml":
                raise
            continue
        except (SyntaxError, ValueError, RecursionError, configparser.Error):
            continue
        for line in lines:
            version = torch_floor([line])
            if version is not None:
                return Pin(version, path, _row(name, data, version))
    return None


def _row(name: str, data: bytes, version: Version) -> int:
    """The line that names torch and the version, 0 where none does or the file is not all here."""
    if name in LOCKS:
        return 0
    wanted = re.compile(rf"torch.*(?<![\d.]){version[0]}\.{version[1]}(?!\d)", re.IGNORECASE)
    lines = data.decode("utf-8", "replace").splitlines()
    return next((row for row, line in enumerate(lines, 1) if wanted.search(line)), 0)


def _pyproject(path: str, data: bytes) -> Iterator[str]:
    document = parse_toml(path, data)
    project = document.get("project")
    if isinstance(project, dict):
        yield from _flat([project.get("dependencies"), project.get("optional-dependencies")])
    yield from _flat(document.get("dependency-groups"))
    tool = document.get("tool")
    poetry = tool.get("poetry") if isinstance(tool, dict) else None
    dependencies = poetry.get("dependencies") if isinstance(poetry, dict) else None
    if isinstance(dependencies, dict):
        for name, spec in dependencies.items():
            version = spec.get("version") if isinstance(spec, dict) else spec
            if isinstance(version, str):
                # A bare version is poetry's pin.
                yield f"{name} =={version}" if version[:1].isdigit() else f"{name} {version}"


def _flat(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _flat(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, (str, list, Mapping)):
                yield from _flat(item)


def _requirements(path: str, data: bytes) -> list[str]:
    return data.decode("utf-8").splitlines()


def _setup_cfg(path: str, data: bytes) -> Iterator[str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(data.decode("utf-8"))
    yield from parser.get("options", "install_requires", fallback="").splitlines()
    if parser.has_section("options.extras_require"):
        for lines in dict(parser["options.extras_require"]).values():
            yield from lines.splitlines()


def _setup_py(path: str, data: bytes) -> Iterator[str]:
    """The strings written in `install_requires` and `extras_require` of a call, or in a list that is named there."""
    tree = ast.parse(data)
    named = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        for keyword in node.keywords:
            if keyword.arg in ("install_requires", "extras_require"):
                value = keyword.value
                value = named.get(value.id, value) if isinstance(value, ast.Name) else value
                yield from _literals(value)


def _literals(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, (ast.List, ast.Tuple)):
        for item in node.elts:
            yield from _literals(item)
    elif isinstance(node, ast.Dict):
        for item in node.values:
            yield from _literals(item)


def _environment(path: str, data: bytes) -> Iterator[str]:
    """The entries of a conda environment, those of its pip part included, line by line."""
    for line in data.decode("utf-8").splitlines():
        match = _CONDA.match(line)
        if match:
            yield _CONDA_PIN.sub("==", match[1])


def _lock(path: str, data: bytes) -> list[str]:
    """The lowest of the locked versions: a lock may hold one per platform."""
    versions = re.findall(rb'name = "torch"\s*\nversion = "(\d+)\.(\d+)([^"]*)"', data)
    if not versions:
        return []
    major, minor, rest = min(versions, key=lambda v: (int(v[0]), int(v[1])))
    return [f"torch =={major.decode()}.{minor.decode()}{rest.decode()}"]


_READERS: dict[str, Callable[[str, bytes], Iterable[str]]] = {
    "pyproject.toml": _pyproject,
    "setup.cfg": _setup_cfg,
    "setup.py": _setup_py,
    "requirements.txt": _requirements,
    "environment.yml": _environment,
    "environment.yaml": _environment,
    "uv.lock": _lock,
    "poetry.lock": _lock,
}
