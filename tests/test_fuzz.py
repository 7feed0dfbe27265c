"""Damaged files: nothing crashes, and fixes keep their promises. A small fixed part of `benchmarks/fuzz.py`."""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path

import pytest
from checkout import FIXTURES
from fuzzing.mutations import MUTATIONS, NEW_SYNTAX, long_line, mutated
from fuzzing.properties import breaches, compiles

SMALL = [p for p in sorted(FIXTURES.glob("*/bad*.py")) if p.stat().st_size < 2500 and p.parent.name != "syntax_error"]
STANDARD = Path(sysconfig.get_paths()["stdlib"])


def cases(count: int) -> list[tuple[str, bytes]]:
    found = []
    for number in range(count):
        rng = random.Random(f"tests-{number}")
        path = rng.choice(SMALL)
        found.append((f"{number} of {path.parent.name}/{path.name}", mutated(path.read_text(encoding="utf-8"), rng)))
    return found


def test_damaged_fixtures() -> None:
    lines = [f"{name}: {line}" for name, data in cases(20) for line in breaches(data)]
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize("mutation", sorted({m for m in MUTATIONS if m is not long_line}, key=lambda m: m.__name__))
def test_every_kind_of_damage_changes_something(mutation: object) -> None:
    text = SMALL[0].read_text(encoding="utf-8")
    made = {mutation(text, random.Random(n)) for n in range(12)}  # type: ignore[operator]
    assert made - {text}


@pytest.mark.parametrize("statement", NEW_SYNTAX, ids=lambda s: s.split("\n")[0][:30])
def test_syntax_of_every_python(statement: str) -> None:
    """What is newer than the running Python or libcst is told in one line; everything else is read."""
    body = "".join(f"    {line}\n" for line in statement.split("\n"))
    text = f"import torch\n\n\ndef f(model: torch.nn.Module, x):\n{body}    return model.forward(x)\n"
    assert not breaches(text.encode())
    if compiles(text):
        assert not breaches(f"import torch\n{statement}\n".encode())


def standard_files(folder: str, count: int) -> list[Path]:
    """Evenly spread files of a folder of the standard library, none where it is not installed."""
    files = sorted((STANDARD / folder).rglob("*.py"), key=str)
    return files[:: max(1, len(files) // count)][:count]


@pytest.mark.parametrize(("folder", "count"), [("test", 25), ("lib2to3/tests/data", 12), ("asyncio", 5)])
def test_the_standard_library(folder: str, count: int) -> None:
    """Odd encodings, Python 2 and syntax at its limits; every file is made to concern PyTorch."""
    lines = []
    for path in standard_files(folder, count):
        data = path.read_bytes()
        if len(data) < 40_000:
            lines += [f"{path}: {line}" for line in breaches(data) + breaches(data + b"\n# import torch\n")]
    assert not lines, "\n".join(lines)
