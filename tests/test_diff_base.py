"""changed: the findings that a reviewer of a branch is asked about, asked of real repositories."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from checkout import git
from test_ci_formats import notebook

from torchlint.cli import main

Output = pytest.CaptureFixture[str]
HEAD = "import torch\n\n"
OLD = "x = torch.range(0, 3)\n"
NEW = "y = torch.range(0, 4)\n"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """main has one commit; the branch `work` is checked out."""
    folder = tmp_path / "repository"
    (folder / "src").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("[tool.torchlint]\nselect = ['TL0']\n")
    (folder / "src" / "a.py").write_text(HEAD + OLD + "# end\n" * 30)
    (folder / "b.py").write_text(HEAD + OLD)
    git(folder, "init", "-q", "-b", "main")
    commit(folder)
    git(folder, "checkout", "-q", "-b", "work")
    monkeypatch.chdir(folder)
    return folder


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "x")


def found(capsys: Output, *paths: str, base: str = "main") -> list[str]:
    code = main(["check", *(paths or (".",)), "--diff-base", base, "--output-format", "concise"])
    out, err = capsys.readouterr()
    assert err == ""
    places = [line.partition(": TL")[0] for line in out.splitlines() if ": TL" in line]
    result = [place.rpartition(":")[0] for place in places]
    assert code == (1 if result else 0)
    return result


def test_only_changed_lines_count(repository: Path, capsys: Output) -> None:
    assert found(capsys) == []
    (repository / "src" / "a.py").write_text("import os\n" + HEAD + OLD + NEW + "# end\n" * 30)
    assert found(capsys) == ["src/a.py:5"]  # not committed, warm or cold
    commit(repository)
    assert found(capsys) == ["src/a.py:5"]
    assert found(capsys, base="HEAD") == []
    assert main(["check", ".", "--diff-base", "main"]) == 1
    assert capsys.readouterr().out.endswith("2 findings on lines not changed since main hidden\n")


def test_what_the_other_branch_did_meanwhile_is_not_ours(repository: Path, capsys: Output) -> None:
    (repository / "c.py").write_text(HEAD + NEW)
    commit(repository)
    git(repository, "checkout", "-q", "main")
    (repository / "b.py").write_text(HEAD + OLD.replace("3", "9"))
    commit(repository)
    git(repository, "checkout", "-q", "work")
    assert found(capsys) == ["c.py:3"]


def test_new_files_are_changed_from_top_to_bottom(repository: Path, capsys: Output) -> None:
    (repository / ".gitignore").write_text("ignored.py\n")
    for name in ("untracked.py", "ignored.py", "staged.py"):
        (repository / name).write_text(HEAD + NEW)
    git(repository, "add", "staged.py")
    assert found(capsys, ".", "ignored.py") == ["ignored.py:3", "staged.py:3", "untracked.py:3"]


def test_renamed_files_keep_their_lines(repository: Path, capsys: Output) -> None:
    git(repository, "mv", "src/a.py", "src/c.py")
    assert found(capsys) == []
    with (repository / "src" / "c.py").open("a") as file:
        file.write(NEW)
    assert found(capsys) == ["src/c.py:34"]


def test_from_a_folder_below_and_from_elsewhere(
    repository: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "src" / "a.py").write_text(HEAD + NEW + OLD)
    git(repository, "config", "diff.relative", "true")
    monkeypatch.chdir(repository / "src")
    assert found(capsys) == ["a.py:3"]
    assert found(capsys, "..") == ["../src/a.py:3"]
    monkeypatch.chdir("/")
    assert found(capsys, str(repository)) == [f"{repository}/src/a.py:3"]
    link = repository.parent / "link"
    link.symlink_to(repository)
    assert found(capsys, str(link)) == [f"{link}/src/a.py:3"]


def test_a_line_taken_out_of_a_range_touches_it(repository: Path, capsys: Output) -> None:
    call = "x = torch.range(\n    0,\n    # why\n    3,\n)\n"
    (repository / "b.py").write_text(HEAD + call + "# more\n")
    git(repository, "checkout", "-q", "main")
    commit(repository)
    (repository / "b.py").write_text(HEAD + call)
    assert found(capsys, "b.py", base="HEAD") == []
    (repository / "b.py").write_text((HEAD + call).replace("    # why\n", ""))
    assert found(capsys, "b.py", base="HEAD") == ["b.py:3"]


def test_odd_names_and_content(repository: Path, capsys: Output) -> None:
    names = ["a b.py", 'q"uote.py', "-x.py", "new\nline.py", ":(glob)x.py", os.fsdecode(b"\xff.py")]
    text = HEAD + "s = '''\n-- b\n++ b/x\n@@ -1 +1 @@\n'''\n" + OLD
    for name in names:
        (repository / name).write_text(text)
    commit(repository)
    for name in names:
        (repository / name).write_text(text.replace("++ b/x", "++ c\n@@ -1 +9 @@") + NEW.rstrip())
    code = main(["check", ".", "--diff-base", "HEAD", "--output-format", "concise"])
    out = capsys.readouterr().out
    assert code == 1
    assert out.count(":10:5: TL010") == len(names)
    assert out.count("TL010") == len(names)


def test_notebooks_by_the_lines_of_their_cells(repository: Path, capsys: Output) -> None:
    notebook(repository / "n.ipynb", [HEAD, OLD])
    commit(repository)
    text = (repository / "n.ipynb").read_text()
    (repository / "n.ipynb").write_text(text.replace('"execution_count": null', '"execution_count": 7'))
    assert found(capsys, base="HEAD") == []
    notebook(repository / "n.ipynb", [HEAD, NEW, OLD])
    assert found(capsys, base="HEAD") == ["n.ipynb:cell 2:1"]
    notebook(repository / "m.ipynb", [HEAD, NEW])
    assert len(found(capsys, base="HEAD")) == 2


def test_what_cannot_be_parsed_is_told_where_something_changed(repository: Path, capsys: Output) -> None:
    (repository / "py2.py").write_text("print 'x'\n")
    commit(repository)
    assert main(["check", ".", "--diff-base", "HEAD", "--output-format", "concise"]) == 0
    (repository / "py2.py").write_text("print 'x'\nprint 'y'\n")
    assert main(["check", ".", "--diff-base", "HEAD", "--output-format", "concise"]) == 2
    assert "py2.py:1" in capsys.readouterr().out


def test_submodules_are_asked_themselves(repository: Path, capsys: Output) -> None:
    module = repository.parent / "module"
    module.mkdir()
    git(module, "init", "-q", "-b", "main")
    (module / "m.py").write_text(HEAD + OLD)
    commit(module)
    git(repository, "-c", "protocol.file.allow=always", "submodule", "-q", "add", str(module), "sub")
    commit(repository)
    assert found(capsys, base="HEAD") == []


def test_nothing_in_the_repository_is_run(repository: Path, capsys: Output) -> None:
    trap = repository.parent / "sprung"
    for key in ("core.fsmonitor", "diff.external", "core.pager", "diff.x.textconv", "diff.x.command"):
        git(repository, "config", key, f"touch {trap}; false")
    (repository / ".gitattributes").write_text("*.py diff=x\n")
    (repository / "b.py").write_text(HEAD + NEW)
    assert found(capsys) == ["b.py:3"]
    assert not trap.exists()


@pytest.mark.parametrize(
    ("ref", "says"),
    [("nope", "no commit 'nope'"), ("--output=x", "no commit"), ("", "needs a name"), ("a\x1b[2Jb", "no commit"),
     ("main:b.py", "no commit"), ("orphan", "unrelated")],
)  # fmt: skip
def test_revisions_that_cannot_be_used(repository: Path, capsys: Output, ref: str, says: str) -> None:
    git(repository, "checkout", "-q", "--orphan", "orphan")
    commit(repository)
    git(repository, "commit", "-q", "--amend", "-m", "other")
    git(repository, "checkout", "-q", "work")
    assert main(["check", ".", f"--diff-base={ref}"]) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert out == ""


def test_a_shallow_clone_is_explained(repository: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "c.py").write_text(NEW)
    commit(repository)
    git(repository.parent, "clone", "-q", "--depth=1", "--no-single-branch", repository.as_uri(), "shallow")
    monkeypatch.chdir(repository.parent / "shallow")
    for ref in ("origin/main", "main"):
        assert main(["check", ".", "--diff-base", ref]) == 2
        err = capsys.readouterr().err
        assert "this clone is shallow: fetch the whole history" in err
        assert err.count("\n") == 1


def test_without_a_repository_or_git(
    repository: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert main(["check", str(tmp_path / "plain"), "--diff-base", "main"]) == 2
    assert "needs a git repository" in capsys.readouterr().err
    git(tmp_path / "plain", "init", "-q")
    assert main(["check", str(tmp_path / "plain"), "--diff-base", "HEAD"]) == 2
    assert "no commit" in capsys.readouterr().err
    assert main(["check", "-", "--diff-base", "main"]) == 2
    assert "standard input" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["check", ".", "--diff-base", "main"]) == 2
    err = capsys.readouterr().err
    assert "needs git, which cannot be started" in err
    assert err.count("\n") == 1


def test_together_with_a_baseline(repository: Path, capsys: Output) -> None:
    (repository / "b.py").write_text(HEAD + OLD + NEW)
    assert main(["check", "b.py", "--write-baseline", "base.json"]) == 0
    (repository / "b.py").write_text(HEAD + OLD + NEW + "z = torch.range(0, 5)\n")
    capsys.readouterr()
    assert found(capsys, ".", "--baseline", "base.json") == ["b.py:5"]


def test_only_changed_lines_are_fixed(repository: Path, capsys: Output) -> None:
    again = "z = torch.range(0, 5)\n"
    (repository / "src" / "a.py").write_text("import os\n" + HEAD + OLD + NEW + again + "# end\n" * 30)
    (repository / "b.py").write_text(HEAD + OLD + "\n")
    assert main(["fix", ".", "--diff-base", "main", "--apply", "--unsafe"]) == 0
    out, err = capsys.readouterr()
    assert out == "Fixed 2 findings in 1 file.\n"
    assert err == "2 findings on lines not changed since main hidden\n"
    text = (repository / "src" / "a.py").read_text()
    assert OLD in text
    assert text.count("torch.arange(") == 2
    assert (repository / "b.py").read_text() == HEAD + OLD + "\n"
    commit(repository)
    assert main(["fix", ".", "--diff-base", "HEAD"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "Nothing to fix." in err
    assert main(["fix", ".", "--diff-base", "no-such", "--apply"]) == 2
    assert "git knows no commit 'no-such'" in capsys.readouterr().err
    assert main(["fix", "-", "--baseline", "b.json"]) == 2


def test_what_a_baseline_accepts_is_not_fixed(repository: Path, capsys: Output) -> None:
    assert main(["check", ".", "--write-baseline", "base.json", "-q"]) == 0
    (repository / "b.py").write_text("import os\n" + HEAD + OLD + NEW)
    assert main(["fix", ".", "--baseline", "base.json", "--unsafe", "--apply", "-q"]) == 0
    assert OLD in (repository / "b.py").read_text()
    assert NEW not in (repository / "b.py").read_text()
    assert OLD in (repository / "src" / "a.py").read_text()
    capsys.readouterr()
