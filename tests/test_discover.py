"""discover: what is read, what git and the project leave out, and what cannot trap the walk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from torchlint.discover import DEFAULT_EXCLUDE, discover


def tree(root: Path, *files: str) -> None:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def names(root: Path, exclude: tuple[str, ...] = DEFAULT_EXCLUDE) -> list[str]:
    found, problems = discover([str(root)], exclude, str(root))
    assert problems == []
    return [os.path.relpath(f, root) for f in found]


def test_python_files_in_order_without_default_excludes(tmp_path: Path) -> None:
    tree(tmp_path, "b.py", "a/z.py", "a.py", "c.txt", "d.pyi", ".venv/x.py", "build/y.py", "n.ipynb", "m.ipynb_")
    assert names(tmp_path) == ["a.py", "a/z.py", "b.py", "n.ipynb"]


def test_gitignore_nested_and_negated(tmp_path: Path) -> None:
    tree(tmp_path, ".git/HEAD", "gen/a.py", "gen/keep.py", "out/b.py", "sub/tmp_1.py", "sub/c.py", "sub/deep/tmp_2.py")
    (tmp_path / ".gitignore").write_text("# c\n/gen/*\n!gen/keep.py\nout/\n")
    (tmp_path / "sub" / ".gitignore").write_text("tmp_*\n!tmp_2.py\n")
    assert names(tmp_path) == ["gen/keep.py", "sub/c.py", "sub/deep/tmp_2.py"]


def test_gitignore_above_the_path_counts(tmp_path: Path) -> None:
    tree(tmp_path, ".git/HEAD", "src/a.py", "src/skip.py")
    (tmp_path / ".gitignore").write_text("skip.py\n")
    found, _ = discover([str(tmp_path / "src")])
    assert [os.path.basename(f) for f in found] == ["a.py"]


def test_exclude_patterns(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", "x/b_pb2.py", "x/y/c.py", "docs/d.py")
    assert names(tmp_path, ("*_pb2.py", "x/y", "docs")) == ["a.py"]


def test_a_named_file_is_always_taken_once(tmp_path: Path) -> None:
    tree(tmp_path, "build/a.py", "script")
    a, script = str(tmp_path / "build" / "a.py"), str(tmp_path / "script")
    assert discover([a, script, a])[0] == [a, script]


def test_link_loops_end(tmp_path: Path) -> None:
    tree(tmp_path, "pkg/a.py")
    (tmp_path / "pkg" / "loop").symlink_to(tmp_path / "pkg")
    assert names(tmp_path) == ["pkg/a.py"]


def test_a_link_to_nothing_is_said_but_not_the_lock_of_an_editor(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", "folder/b.py")
    (tmp_path / "linked.py").symlink_to(tmp_path / "folder")
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere.py")
    (tmp_path / ".#a.py").symlink_to("someone@host.1234")
    found, problems = discover([str(tmp_path)])
    assert [os.path.relpath(f, tmp_path) for f in found] == ["a.py", "folder/b.py"]
    assert len(problems) == 1
    assert "dangling.py: cannot be read: it links to" in problems[0]


def test_missing_paths_are_said_with_the_nearest(tmp_path: Path) -> None:
    tree(tmp_path, "train.py")
    found, problems = discover([str(tmp_path / "trian.py"), str(tmp_path)])
    assert len(found) == 1
    assert problems == [f"{tmp_path}/trian.py: no such file or directory; did you mean {tmp_path}/train.py?"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_folder_is_said(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", "locked/b.py")
    (tmp_path / "locked").chmod(0)
    found, problems = discover([str(tmp_path)])
    (tmp_path / "locked").chmod(0o755)
    assert len(found) == 1
    assert "cannot be read" in problems[0]


def test_relative_paths_stay_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "pkg/a.py")
    monkeypatch.chdir(tmp_path)
    assert discover(["."])[0] == ["pkg/a.py"]
    assert discover(["./pkg/"])[0] == ["pkg/a.py"]


def test_a_file_named_in_several_ways_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "src/a.py", "src/b.py")
    monkeypatch.chdir(tmp_path)
    paths = ["src/a.py", "./src/a.py", str(tmp_path / "src"), f"../{tmp_path.name}/src/b.py"]
    assert discover(paths)[0] == sorted(["src/a.py", str(tmp_path / "src" / "b.py")])
