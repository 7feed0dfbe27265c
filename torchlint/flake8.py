"""torchlint's findings inside flake8, for projects that stay there: flake8 loads this, and nothing of it is imported.

flake8 selects, counts and prints by its own settings; which rules look, and what they are told, is said by the
torchlint settings nearest to the file. Both kinds of comment silence: `# noqa: TL201`, `# torchlint: ignore[TL201]`.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Sequence
from typing import ClassVar

from torchlint import __version__, run
from torchlint.encoding import encoded
from torchlint.locate import ConfigError
from torchlint.nearest import Nearest
from torchlint.rule import UnknownRule

_NEAREST = Nearest()


class Plugin:
    """The findings in one file. flake8 gives what the parameters of `__init__` name; it does not run us on a file that
    does not parse, which it reports as E999."""

    name: ClassVar[str] = "torchlint"
    version: ClassVar[str] = __version__

    def __init__(self, tree: ast.AST, filename: str, lines: Sequence[str]) -> None:
        self._path = os.path.abspath("stdin.py" if filename in ("-", "stdin") else filename)
        self._text = "".join(lines)

    def run(self) -> Iterator[tuple[int, int, str, type[Plugin]]]:
        """(row from 1, column from 0, "TL201 message", this class) for every finding."""
        try:
            project = _NEAREST.project(self._path)
        except (ConfigError, UnknownRule) as error:
            # An exception would look like a bug of ours; these are settings for the user to mend.
            yield 1, 0, f"TL002 this file was not checked: {error}", type(self)
            return
        if project.broken:
            yield 1, 0, f"TL002 the default settings are used: {project.broken}", type(self)
        if _NEAREST.excludes(self._path, project):
            return
        config, selection = project.config, project.selection
        result = run.check_bytes(
            self._path, encoded(self._text), config, selection, lambda: _NEAREST.files(self._path, project)
        )
        for d in result.diagnostics:
            yield d.row, d.column - 1, f"{d.code} {d.message}", type(self)
