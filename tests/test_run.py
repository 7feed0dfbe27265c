"""run and pool: order, lost workers, atomic writes, cross-file questions."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine import SYNTAX, everything_concerns, rename_rule  # noqa: F401
from torchlint import pool, run
from torchlint.cache import digest
from torchlint.config import Config
from torchlint.outcome import Selection
from torchlint.session import Bar
from torchlint.write import write

RULES = [SYNTAX, rename_rule()]
SELECTION = Selection({r.code: r.name for r in RULES}, True, None)


@pytest.fixture(autouse=True)
def own_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "load_chosen", lambda codes: RULES)


def files(root: Path, count: int) -> list[str]:
    paths = []
    for number in range(count):
        path = root / f"f{number:03}.py"
        path.write_text("old\n" * (number % 7))
        paths.append(str(path))
    return paths


@pytest.mark.parametrize(("count", "jobs"), [(5, 0), (80, 1), (80, 3)])
def test_findings_come_in_path_order_whatever_the_workers(tmp_path: Path, count: int, jobs: int) -> None:
    paths = files(tmp_path, count)
    result = run.check(paths, Config(jobs=jobs), SELECTION, lambda: paths)
    assert [d.sort_key for d in result.diagnostics] == sorted(d.sort_key for d in result.diagnostics)
    assert len(result.diagnostics) == sum(n % 7 for n in range(count))
    assert not result.failed


def _killer(marker: str, always: bool) -> Callable[[str], str]:
    def one(path: str) -> str:
        if path.endswith("f040.py") and (always or not os.path.exists(marker)):
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return path

    return one


@pytest.mark.parametrize("always", [False, True])
def test_a_killed_worker_loses_nothing(tmp_path: Path, always: bool) -> None:
    paths = files(tmp_path, 80)
    sized = [(os.path.getsize(p), p) for p in paths]
    got = dict(pool.each(sized, _killer, (str(tmp_path / "marker"), always), 2))
    assert sorted(got) == paths
    lost = [p for p, result in got.items() if isinstance(result, pool.Lost)]
    assert lost == ([str(tmp_path / "f040.py")] if always else [])


def _endless() -> Callable[[str], str]:
    def one(path: str) -> str:
        if path.endswith("f040.py"):
            time.sleep(60)
        return path

    return one


def test_a_file_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SECONDS_PER_FILE", 1.0)
    sized = [(1, p) for p in files(tmp_path, 60)]
    got = dict(pool.each(sized, _endless, (), 2))
    assert len(got) == 60
    assert "took longer" in str(got[str(tmp_path / "f040.py")])


def test_a_large_file_is_given_up_in_a_small_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SECONDS_PER_FILE", 1.0)
    sized = [(pool.LARGE if p.endswith("f040.py") else 1, p) for p in files(tmp_path, 41)]
    got = dict(pool.each(sized, _endless, (), 1))
    assert len(got) == 41
    assert "took longer" in str(got[str(tmp_path / "f040.py")])


def test_one_unreadable_file_does_not_stop_the_rest(tmp_path: Path) -> None:
    paths = files(tmp_path, 3)
    gone = str(tmp_path / "gone.py")
    result = run.check([*paths, gone], Config(), SELECTION, lambda: paths)
    assert len(result.diagnostics) == 3
    assert result.problems == [f"{gone}: cannot be read: No such file or directory"]
    assert result.failed


def test_a_fix_that_fails_costs_its_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = files(tmp_path, 4)
    result = run.check(paths, Config(), SELECTION, lambda: paths)
    whole = run._fixed

    def one_breaks(path: str, *rest: object) -> run.Fixed:
        if path.endswith("f002.py"):
            raise KeyError("a rule's mistake")
        return whole(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "_fixed", one_breaks)
    fixed, problems = run.fix(result, Config(), SELECTION, unsafe=True)
    assert [Path(f.path).name for f in fixed] == ["f001.py", "f003.py"]
    assert len(problems) == 1
    assert "f002.py: not fixed: torchlint failed on it (KeyError" in problems[0]


def test_fix_gives_texts_and_writes_nothing(tmp_path: Path) -> None:
    paths = files(tmp_path, 3)
    result = run.check(paths, Config(), SELECTION, lambda: paths)
    fixed, problems = run.fix(result, Config(), SELECTION, False)
    assert [(f.text, len(f.applied)) for f in fixed] == [("new\n", 1), ("new\nnew\n", 2)]
    assert problems == []
    assert Path(paths[2]).read_text() == "old\nold\n"


def test_write_keeps_mode_encoding_and_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    data = b"\xef\xbb\xbfold = '\xc3\xa9'\r\n"
    path.write_bytes(data)
    path.chmod(0o751)
    assert write(str(path), digest(data), "new = 'é'\r\n", [str(tmp_path)]) is None
    assert path.read_bytes() == b"\xef\xbb\xbfnew = '\xc3\xa9'\r\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o751
    assert os.listdir(tmp_path) == ["a.py"]


def test_a_file_that_changed_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("mine\n")
    problem = write(str(path), digest(b"old\n"), "new\n", [str(tmp_path)])
    assert problem is not None
    assert "changed on disk" in problem
    assert path.read_text() == "mine\n"


def test_a_character_the_encoding_lacks_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    data = b"# coding: latin-1\nold\n"
    path.write_bytes(data)
    problem = write(str(path), digest(data), "# coding: latin-1\n'λ'\n", [str(tmp_path)])
    assert problem is not None
    assert "cannot express" in problem
    assert path.read_bytes() == data


def test_links_are_written_through_inside_the_paths_only(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    for folder in (inside, outside):
        (folder / "real.py").write_text("old\n")
    (inside / "near.py").symlink_to(inside / "real.py")
    (inside / "far.py").symlink_to(outside / "real.py")
    assert write(str(inside / "near.py"), digest(b"old\n"), "new\n", [str(inside)]) is None
    assert (inside / "near.py").is_symlink()
    assert (inside / "real.py").read_text() == "new\n"
    problem = write(str(inside / "far.py"), digest(b"old\n"), "new\n", [str(inside)])
    assert problem is not None
    assert "outside" in problem
    assert (outside / "real.py").read_text() == "old\n"


def test_long_expressions_get_the_depth_they_need() -> None:
    from torchlint.check import check_text

    found: list[int] = []
    text = "x = " + " + ".join(["old"] * 900) + "\n"
    if sys.version_info[:2] == (3, 12):  # its own parser takes no more than some 800 terms, and the file is TL001
        text = text.replace(" + old" * 300, "", 1)
        pool.with_deep_stack(lambda: found.append(len(check_text("a.py", text, RULES, Config()))))
        assert found == [600]
        return
    pool.with_deep_stack(lambda: found.append(len(check_text("a.py", text, RULES, Config()))))
    assert found == [900]


def test_interrupt_leaves_no_worker(tmp_path: Path) -> None:
    files(tmp_path, 60)
    script = (
        "import os, sys, time\n"
        "from torchlint import pool\n"
        "def make():\n"
        "    print(os.getpid(), flush=True)\n"
        "    return lambda path: time.sleep(30)\n"
        "try:\n"
        "    list(pool.each([(1, str(n)) for n in range(60)], make, (), 2))\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = [int(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_progress_goes_by_bytes(tmp_path: Path) -> None:
    sizes = [9_999] + [99] * 100
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.py").write_text("#" * size, encoding="utf-8")
    paths = [str(path) for path in tmp_path.iterdir()]
    told: list[tuple[int, int, float]] = []
    run.check(paths, Config(jobs=1), SELECTION, lambda: paths, progress=lambda *now: told.append(now))
    assert told[0] == (1, 101, 0.5)
    assert told[-1] == (101, 101, 1.0)
    assert told == sorted(told)


@pytest.mark.skipif(os.name == "nt", reason="has no pseudo-terminals")
@pytest.mark.parametrize(
    ("columns", "encoding", "term", "shown"),
    [
        (80, "utf-8", "xterm", "checking ███████████████░░░░░░░░░░░░░░░  50%   1/101 files"),
        (40, "utf-8", "xterm", "checking █████░░░░░░  50%   1/101 files"),
        (20, "ascii", "xterm", "checking  50%   1/1"),
        (60, "ascii", "xterm", "checking ###############---------------  50%   1/101 files"),
        (80, "utf-8", "dumb", ""),
    ],
)
def test_a_progress_bar_fits_its_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: int, encoding: str, term: str, shown: str
) -> None:
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    monkeypatch.setenv("TERM", term)
    with os.fdopen(theirs, "w", encoding=encoding) as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        bar = Bar("checking")
        monkeypatch.setattr(bar, "_began", time.monotonic() - 2)
        bar(1, 101, 0.5)
        print("END", file=terminal, flush=True)
        written = os.read(ours, 1000).decode()
    os.close(ours)
    line = written.partition("END")[0].removeprefix("\r").removesuffix("\x1b[K")
    assert line == shown
    assert len(line) < columns
