"""Systems that this was not written on: what they lack is said in one line, and the rest works."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from torchlint import cli, pool

CODE = "import torch\n\n\ndef f(model: torch.nn.Module, x):\n    return model.forward(x)\n"


@pytest.mark.parametrize("arguments", [["verify", "TL111"], ["verify", "--run", "--", "python", "train.py"]])
def test_the_verifier_says_that_it_needs_fork(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(os, "fork")
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "os.fork" in said


def test_check_and_fix_need_nothing_of_unix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: no fork, no affinity, no signal masks, no SIGHUP."""
    for module, name in ((os, "fork"), (os, "sched_getaffinity"), (signal, "pthread_sigmask"), (signal, "SIGHUP")):
        monkeypatch.delattr(module, name)
    file = tmp_path / "a.py"
    file.write_text(CODE, encoding="utf-8")
    assert pool.cores() >= 1
    assert cli.main(["check", str(file), "--no-cache"]) == 1
    assert cli.main(["fix", str(file), "--apply", "--unsafe", "--no-cache"]) == 0
    assert "model(x)" in file.read_text(encoding="utf-8")


def test_a_console_of_another_encoding_is_no_trouble(tmp_path: Path) -> None:
    """cp1252 has neither the report's lines nor the file's letters."""
    import subprocess

    file = tmp_path / "a.py"
    file.write_text(CODE.replace("model", "größe_данные"), encoding="utf-8")
    for encoding in ("cp1252", "ascii"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
        command = [sys.executable, "-m", "torchlint", "check", str(file), "--no-cache"]
        done = subprocess.run(command, capture_output=True, env=environment, timeout=120)
        assert done.returncode == 1, done.stderr.decode("ascii", "replace")
        assert b"TL111" in done.stdout
