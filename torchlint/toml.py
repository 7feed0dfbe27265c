"""TOML to tables, with errors that name the file and the place."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from torchlint.locate import ConfigError


class BrokenToml(ConfigError):
    """The file is not TOML, so it says nothing: a check goes on with the defaults, a fix does not."""


def parse_toml(path: str, data: bytes) -> dict[str, Any]:
    """The file's tables. Raises BrokenToml with the parser's place."""
    toml: Any = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        document: dict[str, Any] = toml.loads(data.decode("utf-8"))
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BrokenToml(f"{path}: not valid TOML: {error}") from error
    return document
