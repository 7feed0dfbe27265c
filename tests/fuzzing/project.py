"""The findings of a few files, checked together as a real run checks them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from torchlint import run
from torchlint.catalogue import load
from torchlint.config import Config
from torchlint.diagnostic import Diagnostic
from torchlint.rule import Rule


@cache
def rules() -> tuple[Rule, ...]:
    return tuple(load())


def findings(files: Mapping[str, str | bytes], codes: frozenset[str] | None = None) -> list[Diagnostic]:
    """What all rules (or those of `codes`) find in the files, by name relative to their folder."""
    chosen = [r for r in rules() if codes is None or r.code in codes]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
        paths = [str(root / name) for name in files]
        settings = Config(root=str(root), jobs=1)
        result = run.check(paths, settings, run.selection_of(rules(), chosen, settings), lambda: paths)
        assert not result.problems, result.problems
        return [replace(d, path=Path(d.path).relative_to(root).as_posix()) for d in result.diagnostics]
