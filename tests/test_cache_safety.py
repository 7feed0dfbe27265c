"""cache under attack: files from a checkout, damage at every byte, links, clocks, and two runs at once."""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torchlint import cache
from torchlint.cache import MAGIC, Cache, digest
from torchlint.cli import main

Output = pytest.CaptureFixture[str]
NOTHING: cache.Outcome = ((), (), False)
BAD = "import torch\n\nx = torch.zeros(3).to('cuda')\n"  # TL401


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user of their own, so that keys are made and lost here only."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr(cache, "_secrets", {})
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("[tool.torchlint]\nselect = ['TL401']\n")
    (folder / "a.py").write_text(BAD)
    monkeypatch.chdir(folder)
    return folder


def found(capsys: Output) -> list[tuple[str, str]]:
    main(["check", ".", "--output-format", "json"])
    return [(d["filename"], d["code"]) for d in json.loads(capsys.readouterr().out)]


def stored(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != ".gitignore"]


def saved(folder: Path) -> Cache:
    store = Cache(str(folder), b"key")
    store.put("/a.py", 1, 1, b"c", NOTHING)
    store.save()
    return store


def test_the_key_is_ours_alone_and_outside_of_the_project(project: Path, home: Path, capsys: Output) -> None:
    found(capsys)
    (key,) = home.rglob("key")
    assert len(key.read_bytes()) == 32
    assert key.stat().st_mode & 0o777 == 0o600
    assert not any(key.read_bytes() in p.read_bytes() for p in project.rglob("*") if p.is_file())


@pytest.mark.parametrize("forged", ["whole", "unkeyed", "foreign"])
def test_a_cache_that_came_with_a_checkout_is_never_unmarshalled(
    tmp_path: Path, forged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = saved(tmp_path / "c")
    name = os.path.basename(store.path)
    evil = b"\xe9\xff\xff\xff\x7f" * 20  # what marshal may answer with a crash
    if forged == "whole":
        data = evil
    elif forged == "unkeyed":
        data = MAGIC + digest(evil) + evil
    else:
        data = MAGIC + digest(evil, b"\1" * 32 + name.encode()) + evil  # by somebody else's key
    Path(store.path).write_bytes(data)
    monkeypatch.setattr(marshal, "loads", lambda _: pytest.fail("bytes were read that nobody vouches for"))
    assert Cache(str(tmp_path / "c"), b"key").lookup("/a.py", 1, 1) is None


def test_a_cache_of_ours_under_another_name_counts_for_nothing(tmp_path: Path) -> None:
    store = saved(tmp_path / "c")
    os.replace(store.path, Cache(str(tmp_path / "c"), b"other").path)
    assert Cache(str(tmp_path / "c"), b"other").lookup("/a.py", 1, 1) is None


def test_every_cut_and_many_flips_count_as_empty(tmp_path: Path) -> None:
    store = saved(tmp_path / "c")
    path = Path(store.path)
    data = path.read_bytes()
    rng = random.Random(0)
    damaged = [data[:cut] for cut in range(len(data))]
    for _ in range(300):
        at, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        damaged.append(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
    damaged += [data + b"\0", data * 2]
    for bad in damaged:
        path.write_bytes(bad)
        assert Cache(str(tmp_path / "c"), b"key").lookup("/a.py", 1, 1) is None
    saved(tmp_path / "c")
    assert Cache(str(tmp_path / "c"), b"key").lookup("/a.py", 1, 1) == NOTHING


def test_a_damaged_cache_heals_and_costs_no_finding(project: Path, capsys: Output) -> None:
    first = found(capsys)
    assert [code for _, code in first] == ["TL401"]
    (path,) = stored(project / ".torchlint_cache")
    whole = path.read_bytes()
    for cut in (0, 10, len(MAGIC) + 16, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert found(capsys) == first
        assert len(path.read_bytes()) > cut, "the cache was not written anew"
        assert found(capsys) == first


@pytest.mark.parametrize("key", [b"", b"short", b"\0" * 33, None])
def test_a_key_that_is_none_is_made_anew(tmp_path: Path, home: Path, key: bytes | None) -> None:
    path = home / "torchlint" / "key"
    path.parent.mkdir()
    path.write_bytes(b"x" * 32 if key is None else key)
    path.chmod(0o644 if key is None else 0o600)  # others can read it: no secret
    assert saved(tmp_path / "c").path
    assert path.read_bytes() != key
    assert path.stat().st_mode & 0o777 == 0o600
    assert Cache(str(tmp_path / "c"), b"key").lookup("/a.py", 1, 1) == NOTHING


def test_without_a_place_for_the_key_there_is_no_cache(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [code for _, code in found(capsys)] == ["TL401"]
    assert not (project / ".torchlint_cache").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # would lie in the project
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert [code for _, code in found(capsys)] == ["TL401"]
    assert not (project / "relative").exists()


def test_a_linked_cache_folder_is_not_followed(project: Path, tmp_path: Path, capsys: Output) -> None:
    target = tmp_path / "documents"
    target.mkdir()
    (target / "letter").write_text("dear")
    (project / ".torchlint_cache").symlink_to(target)
    assert [code for _, code in found(capsys)] == ["TL401"]
    assert [p.name for p in target.iterdir()] == ["letter"]


@pytest.mark.parametrize("value", ["..", "../elsewhere", "/tmp/elsewhere", "link/inner", "."])
def test_settings_cannot_lead_the_cache_out_of_the_project(
    project: Path, tmp_path: Path, value: str, capsys: Output
) -> None:
    (tmp_path / "outside").mkdir()
    (project / "link").symlink_to(tmp_path / "outside")
    (project / "pyproject.toml").write_text(f"[tool.torchlint]\ncache-dir = {value!r}\n")
    assert main(["check", "."]) == 2
    assert "cache-dir leads out of the project's folder" in capsys.readouterr().err
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_cache_folder_with_other_things_keeps_them_and_stays_visible(project: Path, capsys: Output) -> None:
    (project / "pyproject.toml").write_text("[tool.torchlint]\nselect = ['TL401']\ncache-dir = 'data'\n")
    data = project / "data"
    data.mkdir()
    names = [f"{number:032x}" for number in range(60)]  # files that are named by their MD5
    for name in [*names, "letter"]:
        (data / name).write_text("precious")
    assert [code for _, code in found(capsys)] == ["TL401"]
    for name in [*names, "letter"]:
        assert (data / name).read_text() == "precious"
    assert not (data / ".gitignore").exists()
    assert len(stored(data)) == 62


def test_old_files_go_and_so_does_what_killed_runs_left(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    for number in range(60):
        Cache(str(folder), b"%d" % number).put("/a.py", 1, 1, b"c", NOTHING)
        store = Cache(str(folder), b"%d" % number)
        store.put("/a.py", 1, 1, b"c", NOTHING)
        store.save()
    assert len(stored(folder)) == 40
    left = [folder / f"{'0' * 32}.{'1' * 8}.tmp", folder / f"{'2' * 32}.{'3' * 8}.tmp"]
    for path in left:
        path.write_bytes(MAGIC[:5])
    hour_ago = time.time() - 3600
    os.utime(left[0], (hour_ago, hour_ago))
    saved(folder)
    assert not left[0].exists()
    assert left[1].exists(), "another run may be writing it"


def test_a_change_that_keeps_time_and_size_is_seen(project: Path, capsys: Output) -> None:
    path = project / "a.py"
    before = path.stat()
    time.sleep(2.1)  # its time is old enough to be believed
    assert [code for _, code in found(capsys)] == ["TL401"]
    path.write_text(BAD.replace(".to('cuda')", " " * 11))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_size == before.st_size
    assert found(capsys) == []


@pytest.mark.parametrize("ahead", [0, 3600])
def test_a_time_that_is_too_new_is_not_believed(
    project: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """A second change within the file system's granule, or while the clock goes backwards, leaves the same time."""
    fixed = time.time_ns() + ahead * 10**9
    monkeypatch.setattr(cache, "changed_at", lambda info: fixed)
    path = project / "a.py"
    assert [code for _, code in found(capsys)] == ["TL401"]
    path.write_text(BAD.replace(".to('cuda')", " " * 11))
    assert found(capsys) == []
    path.write_text(BAD)
    assert [code for _, code in found(capsys)] == ["TL401"]


def test_a_caller_that_changes_at_once_is_asked_again(
    project: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "pyproject.toml").write_text("")
    (project / "a.py").write_text(
        "import torch\n\ndef validate(model, loader):\n    model.eval()\n    hits = 0\n    for x, y in loader:\n"
        "        hits += (model(x).argmax(1) == y).sum().item()\n    return hits\n"
    )
    call = "from a import validate\nimport torch\nwith torch.{}():\n    validate(torch.nn.Linear(1, 1), [])\n"
    caller = project / "main.py"
    caller.write_text(call.format("enable_grad"))
    now = time.time_ns()
    monkeypatch.setattr(cache, "changed_at", lambda info: now)
    assert [code for _, code in found(capsys)] == ["TL201"]
    changed = call.format("no_grad").replace("():", "():    ")
    assert len(changed) == caller.stat().st_size
    caller.write_text(changed)
    assert found(capsys) == []


RACE = """
import sys, json, io, contextlib
from torchlint.cli import main
seen = set()
for _ in range(int(sys.argv[1])):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["check", ".", "--output-format", "json", *sys.argv[2:]])
    seen.add((code, err.getvalue(), tuple((d["filename"], d["code"]) for d in json.loads(out.getvalue()))))
print(json.dumps(sorted(seen)))
"""


def test_runs_at_the_same_time_share_one_cache(project: Path) -> None:
    for number in range(8):
        (project / f"m{number}.py").write_text(BAD * (number % 3))
    alone = subprocess.run(
        [sys.executable, "-c", RACE, "1", "--no-cache"], capture_output=True, text=True, check=True, env=_environment()
    ).stdout
    runs = [
        subprocess.Popen([sys.executable, "-c", RACE, "15"], stdout=subprocess.PIPE, text=True, env=_environment())
        for _ in range(3)
    ]
    # Meanwhile the cache is cut, removed and made anew.
    folder = project / ".torchlint_cache"
    rng = random.Random(0)
    while any(run.poll() is None for run in runs):
        for path in folder.glob("*") if folder.exists() else ():
            with contextlib.suppress(OSError):
                if rng.random() < 0.3:
                    path.unlink()
                elif path.name != ".gitignore":
                    os.truncate(path, rng.randrange(200))
        time.sleep(0.02)
    for run in runs:
        out, _ = run.communicate()
        assert run.returncode == 0
        assert json.loads(out) == json.loads(alone)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
