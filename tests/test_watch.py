"""--watch: a real process is told of real changes, and ends by an interrupt."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_cache import EVALUATE
from torchlint import watch
from torchlint.cli import main

CLEAN = "import torch\n"


class Watching:
    """`torchlint check --watch` in a process of its own, its output line by line."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        code = f"import sys; sys.path[:0] = {sys.path!r}; from torchlint.cli import main; sys.exit(main())"
        command = [sys.executable, "-I", "-c", code, "check", "--watch", *arguments]
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def until(self, text: str, seconds: float = 30) -> str:
        """What is printed up to the line that holds a text."""
        seen = ""
        deadline = time.monotonic() + seconds
        while text not in seen:
            assert time.monotonic() < deadline, f"no {text!r} within {seconds} s in:\n{seen}"
            with contextlib.suppress(queue.Empty):
                seen += self._lines.get(timeout=0.2)
        return seen


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("[tool.torchlint]\nselect = ['TL201']\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text(EVALUATE)
    return tmp_path


@pytest.fixture
def watching(project: Path) -> Iterator[Watching]:
    process = Watching(project, "src", "--output-format", "concise")
    yield process
    if process.process.poll() is None:
        process.process.kill()
    process.process.wait()


def test_changes_are_checked_and_an_interrupt_ends(project: Path, watching: Watching) -> None:
    source = project / "src" / "a.py"
    assert "a.py:7" in watching.until("Ctrl-C ends")
    saved = project / "src" / "a.py.new"
    saved.write_text(CLEAN)
    os.replace(saved, source)  # as editors save
    assert "All clear" in watching.until("Ctrl-C ends")
    (project / "src" / "b.py").write_text(EVALUATE)
    assert "b.py:7" in watching.until("Ctrl-C ends")
    (project / "pyproject.toml").write_text("[tool.torchlint]\nslect = []\n")
    assert "unknown key 'slect'" in watching.until("Ctrl-C ends")
    (project / "pyproject.toml").write_text("[tool.torchlint]\nignore = ['TL201']\n")
    assert "All clear" in watching.until("Ctrl-C ends")
    watching.process.send_signal(signal.SIGINT)
    assert watching.process.wait(20) == 130
    assert "Traceback" not in "".join(watching._lines.queue)


def test_without_watchfiles(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(watch.importlib.util, "find_spec", lambda name: None)
    assert main(["check", str(project), "--watch"]) == 2
    assert capsys.readouterr().err == "torchlint: --watch needs watchfiles: pip install 'torchlint[watch]'\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["."], "--watch cannot be used with --diff"), (["-"], "--watch cannot"), ([], "--watch cannot")],
)
def test_what_cannot_be_watched(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *arguments, "--watch", "--diff"]) == 2
    assert says in capsys.readouterr().err


def test_no_more_watches(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import watchfiles

    def refuse(*_: object, **__: object) -> None:
        raise OSError("OS file watch limit reached.")

    monkeypatch.setattr(watchfiles, "watch", refuse)
    assert main(["check", str(project), "--watch"]) == 2
    assert f"{project} cannot be watched: OS file watch limit reached.; on Linux, raise" in capsys.readouterr().err


def test_a_path_that_does_not_exist_ends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "nope"), "--watch"]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "matters"),
    [
        ("/p/a.py", True),
        ("/p/n.ipynb", True),
        ("/p/base.toml", True),
        ("/p/requirements-dev.txt", True),
        ("/p/.gitignore", True),
        ("/p/notes.txt", False),
        ("/p/.venv/lib/x.py", False),
        ("/p/.torchlint_cache/x.toml", False),
        ("/p/__pycache__/a.py", False),
    ],
)
def test_what_matters(path: str, matters: bool) -> None:
    from watchfiles import Change

    assert watch.concerns(Change.modified, path) is matters
