"""Whether a file holds unit tests, by where it lies and what is in it: evaluation scripts are called tests, too."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchlint.semantics.model import Semantics

_IN_TESTS = re.compile(r"(^|/)(tests?|testing)/|(^|/)conftest\.py$")
_NAMED_TEST = re.compile(r"(^|/)(test_[^/]*|[^/]*_test)\.py$")
_FRAMEWORK = re.compile(r"\b(pytest|unittest|TestCase|torch\.testing)\b")
_SCRIPT = re.compile(r"^if\s+__name__\s*==|\bArgumentParser\(", re.MULTILINE)


def holds_unit_tests(sem: Semantics) -> bool:
    """A file in a tests folder, or one named `test_x.py` that pytest or unittest would find tests in.

    `test_net.py` and `test_2d.py` of training repositories are scripts that evaluate a model.
    """
    return sem.once(_holds)


def _holds(sem: Semantics) -> bool:
    path = sem.file.path.replace("\\", "/")
    if _IN_TESTS.search(path):
        return True
    if not _NAMED_TEST.search(path):
        return False
    return sem.file.mentions(_FRAMEWORK) or not sem.file.mentions(_SCRIPT)
