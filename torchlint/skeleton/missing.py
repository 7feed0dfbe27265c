"""What happens where a skeleton is asked for what it leaves out."""

from __future__ import annotations

from dataclasses import fields
from typing import NoReturn

import libcst as cst


class NeedsText(BaseException):
    """The skeleton cannot answer: a libcst tree with whitespace is needed. No `except Exception` may swallow it."""


def _unset(node: cst.CSTNode, name: str) -> NoReturn:
    """Reading a field that a skeleton leaves open. A full tree has all its fields, and never comes here."""
    if name in _field_names(node.__class__):
        raise NeedsText(name)
    raise AttributeError(f"{node.__class__.__name__!r} object has no attribute {name!r}")


def _field_names(cls: type) -> frozenset[str]:
    found = _known_fields.get(cls)
    if found is None:
        found = _known_fields[cls] = frozenset(f.name for f in fields(cls))
    return found


_known_fields: dict[type, frozenset[str]] = {}
cst.CSTNode.__getattr__ = _unset  # type: ignore[attr-defined]
