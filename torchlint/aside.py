"""Functions that their names put beside training: they evaluate, show, store, convert."""

from __future__ import annotations

import re

_ASIDE = re.compile(
    r"^_*(test|eval|valid|infer|predict|sampl|generat|decod|plot|draw|show|sav|load|writ|print|vis|export|convert|collate"
    r"|preproc|post|recogni|index_|set_|detect|demo|search|beam|summar|render|track|benchmark|profile|explain|report|_)|numpy"
)


def is_aside(name: str) -> bool:
    """Whether a function's name says that it is no part of a training step."""
    return _ASIDE.search(name) is not None
