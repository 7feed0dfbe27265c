"""The semantic model of one file (being written)."""
from __future__ import annotations
import libcst as cst
from torchlint.semantics.kinds import UNKNOWN, Value
from torchlint.source import File


class Semantics:
    def __init__(self, file: File) -> None:
        self.file = file

    def value(self, node: cst.CSTNode) -> Value:
        """What is known about an expression; UNKNOWN where nothing is."""
        return UNKNOWN

    def qualified(self, node: cst.CSTNode) -> str | None:
        """The import-resolved name of a name or attribute chain: `torch.nn.functional.relu`, `~.Net` for own definitions."""
        return None
