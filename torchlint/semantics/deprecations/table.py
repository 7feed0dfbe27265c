"""The mined table: which names are deprecated or gone, since when, and what torch itself says about them.

`benchmarks/mine_deprecations.py` writes the JSON files beside this module; they say which releases they come from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from torchlint.semantics.names import canonical

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Row:
    """One name. `since` is the first release that marks it, `removed` the first without it, `withdrawn` the first that
    no longer says that it is deprecated. `how`: see the mining script."""

    how: str
    since: Version | None
    removed: Version | None
    withdrawn: Version | None
    message: str


@dataclass(frozen=True, slots=True)
class Table:
    """What one package has deprecated, as of `version`."""

    version: Version
    names: dict[str, Row]
    arguments: dict[str, Row]
    weights: dict[str, dict[str, tuple[str, str]]]


def _version(text: str | None) -> Version | None:
    if text is None:
        return None
    major, _, minor = text.removeprefix("<=").partition(".")
    return int(major), int(minor)


@lru_cache(maxsize=4)
def table(package: str) -> Table:
    """The table of `torch`, `torchvision`, `torchaudio` or `functorch`; loaded when a rule first asks."""
    text = files(__package__ or "").joinpath(f"{package}.json").read_text(encoding="utf-8")
    mined: dict[str, Any] = json.loads(text)
    names: dict[str, Row] = {}
    for name, raw in mined["names"].items():
        row = _row(raw)
        for spelled in (name, *raw["also"]):
            names.setdefault(canonical(spelled), row)
    arguments: dict[str, Row] = {}
    for name, raw in mined["arguments"].items():
        owner, _, argument = name.partition("(")
        arguments[f"{canonical(owner)}({argument}"] = _row(raw)
    weights = {n: {o: (v[0], v[1]) for o, v in args.items()} for n, args in mined.get("weights", {}).items()}
    version = _version(mined["version"])
    assert version is not None
    return Table(version, names, arguments, weights)


def _row(raw: dict[str, Any]) -> Row:
    return Row(
        raw.get("how", "argument"),
        _version(raw["since"]),
        _version(raw["removed"]),
        _version(raw.get("withdrawn")),
        raw["message"],
    )


def torchvision_for(torch: Version | None) -> Version | None:
    """The torchvision that is released with a torch: 0.15 with 2.0, 0.8 with 1.7, and so on."""
    if torch is None:
        return None
    major, minor = torch
    return (0, 15 + minor) if major >= 2 else (0, minor + 1)


def torchaudio_for(torch: Version | None) -> Version | None:
    """The torchaudio that is released with a torch: 0.13 with 1.13, 2.1 with 2.1, and so on."""
    if torch is None:
        return None
    major, minor = torch
    return torch if major >= 2 else (0, minor)
