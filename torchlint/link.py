"""The questions that findings leave open, answered from the whole project."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

import libcst as cst

from torchlint import notebook, syntax
from torchlint.config import Config
from torchlint.discover import DOCUMENTS
from torchlint.encoding import Undecodable, decode_file
from torchlint.outcome import Asked
from torchlint.semantics import Semantics
from torchlint.semantics.project import Project
from torchlint.skeleton import NeedsText, Skeleton
from torchlint.source import File


def _text(path: str) -> str:
    try:
        with open(path, "rb") as handle:
            return decode_file(path, handle.read()).text
    except (OSError, Undecodable):
        return ""


class Disk:
    """The project as it lies on disk; the language server puts the texts of its editor in front."""

    def text(self, path: str) -> str:
        """The text of a file, "" where it cannot be read."""
        return _text(path)

    def semantics(self, path: str, config: Config, bare: bool) -> Semantics | None:
        """The meaning of a file, None where it cannot be had; `bare` allows a tree without whitespace."""
        return meaning(path, self.text(path), config, bare)


def answers(
    questions: Iterable[Asked], files: Sequence[str], config: Config, sources: Disk | None = None
) -> set[Asked]:
    """The questions whose answer is yes. Files are parsed only where a question leads to them, and with whitespace only
    where an answer depends on it."""
    sources = sources or Disk()
    asked = sorted(set(questions), key=lambda q: (q[0], q[1].ask, q[1].subject))
    quick = Project(files, lambda path: sources.semantics(path, config, True), sources.text)
    full: Project | None = None
    yes: set[Asked] = set()
    for path, question in asked:
        try:
            answer = quick.answer(path, question)
        except NeedsText:
            full = full or Project(files, lambda path: sources.semantics(path, config, False), sources.text)
            answer = full.answer(path, question)
        if answer:
            yes.add((path, question))
    return yes


def meaning(path: str, text: str, config: Config, bare: bool) -> Semantics | None:
    """What a text means, None where that cannot be had."""
    if path.endswith(DOCUMENTS):
        from torchlint.documents import joined

        text = joined(path, text)
    if notebook.is_program(text):
        text = notebook.python(text).text
    tree = syntax.parsed(text) if text else None
    if isinstance(tree, syntax.Trouble):
        text = syntax.without_async(text) or ""
        tree = syntax.parsed(text) if text else None
    if isinstance(tree, syntax.Trouble) or not text:
        return None
    try:
        file = _parse(path, text, tree if bare else None)
    except (cst.ParserSyntaxError, RecursionError):
        return None
    return Semantics(file, config.grad_disabling, config.loader_names)


def _parse(path: str, text: str, tree: ast.Module | None) -> File:
    try:
        return File.parse(path, text) if tree is None else Skeleton(path, text, tree)
    except NeedsText:
        return File.parse(path, text)
