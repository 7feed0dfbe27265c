"""The questions that findings leave open, answered from the whole project."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torchlint import notebook, syntax
from torchlint.config import Config
from torchlint.encoding import Undecodable, decode_file
from torchlint.outcome import Asked
from torchlint.semantics import Semantics
from torchlint.semantics.project import Project
from torchlint.source import File


def _text(path: str) -> str:
    try:
        with open(path, "rb") as handle:
            return decode_file(path, handle.read()).text
    except (OSError, Undecodable):
        return ""


def answers(questions: Iterable[Asked], files: Sequence[str], config: Config) -> set[Asked]:
    """The questions whose answer is yes. Files are parsed only where a question leads to them."""
    import libcst as cst

    def load(path: str) -> Semantics | None:
        text = _text(path)
        if notebook.is_program(text):
            text = notebook.python(text).text
        if not text or syntax.examine(text) is not None:
            return None
        try:
            return Semantics(File.parse(path, text), config.grad_disabling, config.loader_names)
        except (cst.ParserSyntaxError, RecursionError):
            return None

    project = Project(files, load, _text)
    asked = sorted(set(questions), key=lambda q: (q[0], q[1].ask, q[1].subject))
    return {(path, question) for path, question in asked if project.answer(path, question)}
