"""The files of a run, parted by the settings that lie nearest to them: a monorepo's parts each keep their own.

Imported only where a run has more than one such part, so a run over one project pays nothing for it.
"""

from __future__ import annotations

import os

from torchlint import locate
from torchlint.discover import Excluder
from torchlint.locate import ConfigError, Located

TYPE_CHECKING = False  # typing itself takes longer to import than a warm run may
if TYPE_CHECKING:
    from collections.abc import Iterable


class Part:
    """Files that share their settings, or the reason why theirs cannot be used."""

    __slots__ = ("error", "files", "located")

    def __init__(self, located: Located, error: ConfigError | None = None) -> None:
        self.located = located
        self.error = error
        self.files: list[str] = []


def parted(files: list[str], marked: set[str], top: Located) -> list[Part]:
    """The files by their settings, `top`'s part first, the others by folder. `marked` are the folders to look into."""
    parts: dict[object, Part] = {top.key: Part(top)}
    by_folder: dict[str, Part] = {top.start: parts[top.key]}
    for path in files:
        folder = os.path.dirname(os.path.abspath(path))
        if folder not in by_folder:
            _resolve(folder, marked, top, parts, by_folder)
        by_folder[folder].files.append(path)
    first, *others = parts.values()
    return [first, *sorted((p for p in others if p.files), key=lambda p: (p.located.start, p.located.root))]


def _resolve(
    folder: str, marked: set[str], top: Located, parts: dict[object, Part], by_folder: dict[str, Part]
) -> None:
    above = []
    while folder not in by_folder:
        above.append(folder)
        parent = os.path.dirname(folder)
        if folder in marked:
            try:
                located = locate.below(folder, top)
                part = parts.setdefault(located.key, Part(located))
            except ConfigError as error:
                part = parts.setdefault(folder, Part(top, error))
            by_folder[folder] = part
        elif parent == folder:  # a named file that lies elsewhere
            by_folder[folder] = by_folder[top.start]
        else:
            folder = parent
    for inner in above:
        by_folder[inner] = by_folder[folder]


def kept(
    files: list[str], excluded: tuple[str, ...], root: str, named: Iterable[str], applied: tuple[str, ...]
) -> list[str]:
    """The files that a part's own `exclude` leaves; what a command names is always kept.

    `applied` are the patterns that the search has left out already; those that are no paths mean the same anywhere.
    """
    excluded = tuple(p for p in excluded if p not in applied or "/" in p.rstrip("/"))
    if not excluded:
        return files
    excluder = Excluder(excluded, os.path.abspath(root))
    known = {os.path.normpath(path) for path in named}
    out: dict[str, bool] = {os.path.abspath(root): False}

    def is_out(path: str) -> bool:
        if path not in out:
            parent, name = os.path.split(path)
            out[path] = parent != path and (is_out(parent) or excluder(name, path))
        return out[path]

    return [path for path in files if path in known or not is_out(os.path.abspath(path))]
