"""What nobody should hand to a linter and everybody does: each costs one clear line, and the run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torchlint import run
from torchlint.cache import digest
from torchlint.cli import main
from torchlint.write import write

Output = pytest.CaptureFixture[str]

GOOD = "import torch\n\nx = torch.zeros(3).to('cuda')\n"  # TL401

NOT_PYTHON = {
    "python2": (b"import torch\nprint 'loss', loss\n", 2, "this is Python 2"),
    "python2_except": (b"try:\n    pass\nexcept IOError, e:\n    pass\n", 3, "this is Python 2"),
    "python2_backticks": (b"import torch\nprint_(`x`)\ny = `x`\n", 2, "this is Python 2"),
    "python2_unequal": (b"import torch\nif 1 <> 2:\n    pass\n", 2, "this is Python 2"),
    "python2_long": (b"import torch\nx = 10L\n", 2, "this is Python 2"),
    "python2_parameters": (b"import torch\ndef f((a, b)):\n    pass\n", 2, "this is Python 2"),
    "no_python2": (b"import torch\nThis is `x`, or 10 L\n", 2, "invalid syntax"),
    "python2_raise": (b"import torch\nraise ValueError, 'x'\n", 2, "this is Python 2"),
    "conflict": (b"import torch\n<<<<<<< HEAD\nx = 1\n=======\nx = 2\n>>>>>>> other\n", 2, "merge conflict marker"),
    "nul": (b"import torch\nx = '\0'\n", 2, "a NUL byte"),
    "utf16": ("import torch\n".encode("utf-16"), 1, "the file is UTF-16"),
    "magic": (b"import torch\n%matplotlib inline\n", 2, "notebook magic"),
    "shell": (b"!pip install torch\nimport torch\n", 1, "notebook magic"),
    "latin1": ("import torch\nx = 'é'\n".encode("latin-1"), 2, "declares no other encoding"),
    "wrong_cookie": ("# coding: ascii\nimport torch\nx = 'é'\n".encode(), 3, "not valid in the declared encoding"),
    "unknown_cookie": (b"# coding: klingon\nimport torch\n", 1, "does not know: klingon"),
    "hex_cookie": (b"# coding: hex\nimport torch\n", 1, "no encoding for source text"),
    "undefined_cookie": (b"# coding: undefined\nimport torch\n", 1, "no encoding for source text"),
    "template": (b"import torch\nclass {{ name }}:\n    pass\n", 2, "invalid syntax"),
    "half": (b"import torch\nx = (\n", 2, "never closed"),
    "tabs": (b"if x:\n\ty = 1\n        z = 1\n", 3, "inconsistent use of tabs"),
    "parentheses": (b"import torch\nx = " + b"(" * 3000 + b"1" + b")" * 3000 + b"\n", 2, "nested too deeply"),
    "blocks": (b"".join(b" " * i + b"if x:\n" for i in range(300)) + b" " * 300 + b"pass\n", 101, "nested too deeply"),
}

PYTHON = {
    "empty": b"",
    "blank": b"   \n\t\n",
    "mark": b"\xef\xbb\xbf",
    "sum": b"import torch\nx = " + b" + ".join([b"torch.ones(1)"] * 3000) + b"\n",
    "elif": b"import torch\ndef f(x):\n    if x == 0:\n        return torch.ones(1)\n"
    + b"".join(b"    elif x == %d:\n        return torch.ones(%d)\n" % (i, i) for i in range(2000)),
    "chain": b"import torch\nx = torch.ones(1)" + b".relu()" * 300 + b"\n",
    "attributes": b"import torch\nx = torch" + b".a" * 3000 + b"\n",
    "strings": b"import torch\nx = (" + b"\n'torch'" * 3000 + b")\n",
    "minus": b"import torch\nx = " + b"-" * 3000 + b"torch.ones(1)\n",
}


def findings(capsys: Output, *arguments: str) -> tuple[int, list[tuple[str, str, int, str]], list[str]]:
    """Exit code, (file, code, row, message) of each finding, and the lines about trouble."""
    code = main(["check", "--no-cache", "--output-format", "json", "--select", "ALL", "--ignore", "TL407", *arguments])
    out, err = capsys.readouterr()
    found = [
        (os.path.basename(d["filename"]), d["code"], d["location"]["row"], d["message"])
        for d in json.loads(out or "[]")
    ]
    return code, found, err.splitlines()


def test_what_is_not_python_costs_one_finding_each_and_the_rest_is_checked(tmp_path: Path, capsys: Output) -> None:
    for name, (data, _, _) in NOT_PYTHON.items():
        (tmp_path / f"{name}.py").write_bytes(data)
    (tmp_path / "good.py").write_text(GOOD)
    code, found, trouble = findings(capsys, str(tmp_path))
    assert code == 2
    assert trouble == []
    assert [f[:2] for f in found if f[0] == "good.py"] == [("good.py", "TL401")]
    broken = {f[0].removesuffix(".py"): f[1:] for f in found if f[0] != "good.py"}
    assert len(found) == 1 + len(NOT_PYTHON)
    assert broken.keys() == NOT_PYTHON.keys()
    for name, (_, row, says) in NOT_PYTHON.items():
        rule, at, message = broken[name]
        assert (rule, at) == ("TL001", row), name
        assert says in message
        assert "\n" not in message


@pytest.mark.parametrize("name", PYTHON)
def test_odd_but_valid_files_are_checked(tmp_path: Path, capsys: Output, name: str) -> None:
    (tmp_path / "odd.py").write_bytes(PYTHON[name])
    code, found, trouble = findings(capsys, str(tmp_path))
    assert code in (0, 1)
    assert [f for f in found if f[1] in ("TL001", "TL002")] == []
    assert trouble == []


def test_broken_files_are_never_rewritten(tmp_path: Path, capsys: Output) -> None:
    for name, (data, _, _) in NOT_PYTHON.items():
        (tmp_path / f"{name}.py").write_bytes(data)
    (tmp_path / "good.py").write_text(GOOD)
    assert main(["fix", "--apply", "--unsafe", "--no-cache", str(tmp_path)]) == 2
    for name, (data, _, _) in NOT_PYTHON.items():
        assert (tmp_path / f"{name}.py").read_bytes() == data
    assert "device='cuda'" in (tmp_path / "good.py").read_text()


def test_a_folder_without_python_is_no_trouble_but_gets_a_word(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "sub.py").mkdir()
    assert main(["check", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "No Python files found under the given paths.\n"


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins
    from typing import Any

    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "locked.py").write_text(GOOD)
    (tmp_path / "nothing.py").symlink_to("nowhere.py")
    (tmp_path / "circle.py").symlink_to("circle.py")
    (tmp_path / "up").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    genuine = builtins.open

    def guarded(file: Any, *rest: Any, **more: Any) -> Any:
        if str(file).endswith("locked.py"):
            raise PermissionError(13, "Permission denied")
        return genuine(file, *rest, **more)

    monkeypatch.setattr(builtins, "open", guarded)
    missing = str(tmp_path / "god.py")
    code, found, trouble = findings(capsys, str(tmp_path), missing, str(tmp_path / "pipe"))
    assert code == 2
    assert [f[:2] for f in found] == [("good.py", "TL401")]
    told = "\n".join(trouble)
    assert len(trouble) == 5
    assert "locked.py: cannot be read: Permission denied" in told
    assert "nothing.py: cannot be read: it links to nowhere.py, which does not exist" in told
    assert "circle.py: cannot be read: Too many levels of symbolic links" in told
    assert f"god.py: no such file or directory; did you mean {tmp_path / 'good.py'}?" in told
    assert "pipe: is neither a file nor a folder" in told


def test_our_own_failure_costs_one_file(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchlint import check

    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "worse.py").write_text(GOOD)
    genuine = check.check_text

    def failing(path: str, *rest: object, **more: object) -> object:
        if path.endswith("worse.py"):
            raise LookupError("never foreseen")
        return genuine(path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(check, "check_text", failing)
    code, found, _ = findings(capsys, str(tmp_path))
    assert code == 2
    assert [f[:2] for f in found] == [("good.py", "TL401"), ("worse.py", "TL002")]
    assert "never foreseen" in found[1][3]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("[tool.torchlint]\nselekt = ['TL1']\n", "did you mean"),
        ("[tool.torchlint]\nselect = ['TL999']\n", "TL999"),
        ("[tool.torchlint]\nselect = 3\n", "select"),
        ("[tool.torchlint\n", "default settings are used"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, capsys: Output, settings: str, says: str) -> None:
    (tmp_path / "pyproject.toml").write_text(settings)
    (tmp_path / "good.py").write_text(GOOD)
    assert main(["check", "--no-cache", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.splitlines()) == 1
    assert main(["fix", "--apply", str(tmp_path)]) == 2
    assert (tmp_path / "good.py").read_text() == GOOD


def test_a_file_that_changes_before_it_is_written_is_left_alone(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing, other = tmp_path / "a.py", tmp_path / "b.py"
    changing.write_text(GOOD)
    other.write_text(GOOD)
    genuine = run.fix

    def meanwhile(*arguments: object, **more: object) -> object:
        done = genuine(*arguments, **more)  # type: ignore[arg-type]
        changing.write_text("import torch  # edited meanwhile\n")
        return done

    monkeypatch.setattr(run, "fix", meanwhile)
    assert main(["fix", "--apply", "--no-cache", str(tmp_path)]) == 2
    assert "a.py: not written: it changed on disk" in capsys.readouterr().err
    assert changing.read_text() == "import torch  # edited meanwhile\n"
    assert "device='cuda'" in other.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.py", "b.py"]


def test_a_change_between_the_last_look_and_the_rename_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.py"
    path.write_text(GOOD)
    genuine = os.fsync

    def late(handle: int) -> None:
        genuine(handle)
        path.write_text("late = 1\n")

    monkeypatch.setattr(os, "fsync", late)
    problem = write(str(path), digest(GOOD.encode()), "new = 1\n", [str(tmp_path)])
    assert problem is not None
    assert "it changed on disk" in problem
    assert path.read_text() == "late = 1\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.py"]


def _children(pid: int) -> list[int]:
    """The processes that a process started, from /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
            except (OSError, IndexError):
                continue
    return found


def _gone(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("verb", "sign"), [("check", signal.SIGINT), ("fix", signal.SIGINT), ("check", signal.SIGKILL)]
)
def test_an_interrupted_run_leaves_no_half_file_and_no_worker(tmp_path: Path, verb: str, sign: signal.Signals) -> None:
    body = "".join(f"def f{i}(model, loader):\n    return torch.zeros({i + 1}).to('cuda')\n\n" for i in range(150))
    for number in range(120):
        (tmp_path / f"m{number:03}.py").write_text("import torch\n\n" + body)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    command = [sys.executable, "-m", "torchlint", verb, "--no-cache", "--jobs", "2", str(tmp_path)]
    command += ["--apply", "--unsafe"] if verb == "fix" else []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    workers: list[int] = []
    began = time.monotonic()
    while len(workers) < 2 and process.poll() is None and time.monotonic() - began < 60:
        time.sleep(0.05)
        workers = _children(process.pid)
    assert len(workers) == 2, "the run ended before it could be interrupted"
    time.sleep(0.5)
    process.send_signal(sign)
    _, err = process.communicate(timeout=60)
    if sign is signal.SIGINT:
        assert process.returncode == 130
        assert err == "torchlint: interrupted; no file is half-written\n"
    until = time.monotonic() + 30
    while not all(_gone(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert all(_gone(pid) for pid in workers)
    after = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert after.keys() == before.keys(), "a temporary file was left behind"
    assert all(after[name].endswith(b"\n") and after[name].count(b"\n") == before[name].count(b"\n") for name in after)


@pytest.mark.slow
def test_a_generated_file_of_60000_lines_is_checked_in_bounded_time(tmp_path: Path, capsys: Output) -> None:
    rows = "".join(f"w{i} = torch.ones({i % 7})\n" for i in range(60_000))
    (tmp_path / "generated.py").write_text("import torch\n" + rows + "x = torch.ones(1).to('cuda')\n")
    began = time.process_time()
    code, found, trouble = findings(capsys, str(tmp_path))
    assert (code, [f[1] for f in found], trouble) == (0, ["TL401"], [])
    assert time.process_time() - began < 120  # 20 s where it was written; quadratic, it took ten minutes
