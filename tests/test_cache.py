"""cache: the same answers warm as cold, nothing loaded for them, and no harm from a damaged file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchlint import cache, prefilter, warm
from torchlint.cache import Cache, pack, unpack
from torchlint.diagnostic import Applicability, Diagnostic, Edit, Fix, Question, Severity

EVALUATE = """\
import torch

def validate(model, loader):
    model.eval()
    hits = 0
    for x, y in loader:
        hits += (model(x).argmax(1) == y).sum().item()
    return hits
"""


def diagnostic() -> Diagnostic:
    fix = Fix((Edit(0, 1, "é"),), Applicability.UNSAFE, "m")
    questions = (Question("disables-grad", "~.f"),)
    return Diagnostic("TL901", "n", Severity.INFO, "m", "a.py", 1, 2, 3, 4, 5, 6, fix, questions)


def test_a_finding_survives_packing() -> None:
    assert unpack("a.py", pack(diagnostic())) == diagnostic()


def test_outcomes_by_time_and_by_content(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_bytes(b"x\n")
    store = Cache(str(tmp_path / "c"), b"key")
    outcome = ((pack(diagnostic()),), (), False)
    store.put(str(path), 5, 2, cache.digest(b"x\n"), outcome)
    store.save()
    again = Cache(str(tmp_path / "c"), b"key")
    assert again.lookup(str(path), 5, 2) == outcome
    assert again.lookup(str(path), 6, 2) == outcome  # touched, same bytes
    assert again.lookup(str(path), 5, 3) is None
    path.write_bytes(b"y\n")
    assert again.lookup(str(path), 7, 2) is None
    assert Cache(str(tmp_path / "c"), b"other").lookup(str(path), 5, 2) is None
    assert (tmp_path / "c" / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("damage", [b"", b"garbage", b"\0" * 64, None])
def test_a_damaged_cache_counts_as_empty(tmp_path: Path, damage: bytes | None) -> None:
    store = Cache(str(tmp_path), b"key")
    store.put("/a.py", 1, 1, b"c", ((), (), False))
    store.save()
    data = Path(store.path).read_bytes()
    Path(store.path).write_bytes(data[:-3] if damage is None else damage)
    healed = Cache(str(tmp_path), b"key")
    assert healed.lookup("/a.py", 1, 1) is None
    healed.put("/a.py", 1, 1, b"c", ((), (), False))
    healed.save()
    assert Cache(str(tmp_path), b"key").lookup("/a.py", 1, 1) is not None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Cache(str(tmp_path / "file"), b"key")
    store.put("/a.py", 1, 1, b"c", ((), (), False))
    store.save()


def run(folder: Path, *arguments: str, modules: bool = False) -> tuple[int, str]:
    code = (
        "import sys; from torchlint.cli import main; code = main(sys.argv[1:]); "
        "print(sorted({'libcst', 'ast', 'torchlint.rule', 'torchlint.rules', 'typing', 're'} & set(sys.modules)))"
        if modules
        else "import sys; from torchlint.cli import main; code = main(sys.argv[1:])"
    )
    command = [sys.executable, "-I", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}; sys.exit(code)"]
    command += arguments
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_warm_equals_cold_and_loads_nothing(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "a.py").write_text(EVALUATE)
    (tmp_path / "b.py").write_text("x = 1\n")
    arguments = ("check", ".", "--output-format", "concise")
    cold = run(tmp_path, *arguments)
    assert cold[0] == 1
    assert "TL201" in cold[1]
    assert run(tmp_path, *arguments) == cold
    code, output = run(tmp_path, *arguments, modules=True)
    assert code == 1
    assert "libcst" not in output
    assert "'torchlint.rule'" not in output
    assert run(tmp_path, *arguments, "--no-cache") == cold
    run(tmp_path, "check", "b.py")
    code, output = run(tmp_path, "check", "b.py", modules=True)
    assert code == 0
    assert "All clear: 1 file checked." in output
    for module in ("libcst", "'ast'", "torchlint.rule"):
        assert module not in output


def test_the_same_report_is_not_made_twice(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(EVALUATE)
    (tmp_path / "b.py").write_text("x = 1\n")
    both = ("check", "a.py", "b.py")
    cold = run(tmp_path, *both)
    assert cold[0] == 1
    assert "TL201" in cold[1]
    code, text = run(tmp_path, *both, modules=True)
    assert (code, text) == (1, cold[1] + "[]\n")  # no module that a finding or a report is made with
    # What was kept of one run is not another's.
    assert run(tmp_path, *both, "--exit-zero") == (0, cold[1])
    assert run(tmp_path, *both) == cold
    assert run(tmp_path, *both, "--output-format", "concise")[1] != cold[1]
    assert run(tmp_path, *both, "--statistics")[1] != cold[1]
    alone = run(tmp_path, "check", "a.py")[1]
    assert alone != cold[1]
    assert run(tmp_path, "check", "a.py")[1] == alone
    # The same finding at the same place, among other lines.
    (tmp_path / "a.py").write_text(EVALUATE.replace("hits = 0\n", "hits = 1\n"))
    changed = run(tmp_path, *both)[1]
    assert changed == cold[1].replace("hits = 0\n", "hits = 1\n") != cold[1]
    assert run(tmp_path, *both)[1] == changed


def test_a_new_file_that_is_not_about_torch_loads_no_rule(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "a.py").write_text("x = 1\n")
    run(tmp_path, "check", "a.py")
    (tmp_path / "b.py").write_text("x = 2\n")
    code, output = run(tmp_path, "check", "b.py", modules=True)
    assert code == 0
    assert "libcst" not in output
    (tmp_path / "c.py").write_text("x = (\n")
    assert run(tmp_path, "check", "c.py")[0] == 2


def test_the_words_of_the_quick_look_are_those_of_the_prefilter() -> None:
    for word in warm.WORDS[:2]:
        assert prefilter.concerns(f"import {word.decode()}")
    assert not prefilter.concerns("import numpy as np")


def test_a_change_in_a_caller_reaches_a_cached_finding(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "engine.py").write_text(EVALUATE)
    main = tmp_path / "main.py"
    main.write_text("from engine import validate\nimport torch\nvalidate(torch.nn.Linear(1, 1), [])\n")
    assert run(tmp_path, "check", ".")[0] == 1
    assert run(tmp_path, "check", ".")[0] == 1
    main.write_text(
        "from engine import validate\nimport torch\nwith torch.no_grad():\n    validate(torch.nn.Linear(1, 1), [])\n"
    )
    assert run(tmp_path, "check", ".")[0] == 0
    assert run(tmp_path, "check", ".")[0] == 0
    assert run(tmp_path, "check", "engine.py")[0] == 0  # the project answers, though only one file is checked
    assert os.path.isdir(tmp_path / ".torchlint_cache")
