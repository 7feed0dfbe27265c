"""A checkout that means harm: nothing in it is imported, run or waited for, and no name in it acts on a screen."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from torchlint.cli import main

Output = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[1]
BAD = "import torch\n\nx = torch.zeros(3).to('cuda')\n"  # TL401
WIRE = "open({trap!r} + '/wire', 'a').write(__file__ + '\\n')\nraise SystemExit(99)\n"  # needs no module

# What Python, its tools or we ourselves might be led to import.
MODULES = (
    "conftest.py", "sitecustomize.py", "usercustomize.py", "setup.py", "noxfile.py", "__init__.py", "__main__.py",
    "libcst/__init__.py", "pathspec/__init__.py", "pathspec.py", "tomllib.py", "tomli.py", "ast.py", "re.py", "json.py",
    "typing.py", "tokenize.py", "argparse.py", "dataclasses.py", "concurrent/futures.py", "multiprocessing/__init__.py",
    "torch/__init__.py", "numpy/__init__.py", "rules/__init__.py", "rules/evil.py", "torchlint_plugin.py", "plugin.py",
    "encodings/evil.py", "evil.py", "pydantic.py", "yaml.py", "attr.py", "readline.py", "_blake2.py", "marshal.py",
)  # fmt: skip
SETTINGS = """\
[build-system]
requires = ["evil"]
build-backend = "evil"
backend-path = ["."]

[project]
name = "evil"
version = "1"
dynamic = ["readme"]

[project.entry-points."torchlint.rules"]
evil = "evil"

[tool.pytest.ini_options]
addopts = "-p evil"
"""


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    folder = tmp_path / "sprung"
    folder.mkdir()
    return folder


@pytest.fixture
def tree(tmp_path: Path, trap: Path) -> Path:
    folder = tmp_path / "checkout"
    for name in MODULES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(WIRE.format(trap=str(trap)))
    (folder / "pyproject.toml").write_text(SETTINGS)
    (folder / "setup.cfg").write_text(
        "[options]\ninstall_requires = torch>=2\n[metadata]\nversion = attr: evil.VERSION\n"
    )
    (folder / "evil.pth").write_text(f"import sys; open({str(trap)!r} + '/pth', 'w')\n")
    info = folder / "evil-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[torchlint.rules]\nevil = evil\n[pytest11]\nevil = evil\n")
    (folder / "train.py").write_text(BAD)
    (folder / "cookie.py").write_text("# coding: evil\nimport torch\n")
    (folder / "main.py").write_text("from evil import *\nfrom .evil import x\nimport torch, evil\n" + BAD)
    return folder


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """What pip makes of an entry point."""
    path = tmp_path / "bin" / "torchlint"
    path.parent.mkdir()
    path.write_text("import sys\nfrom torchlint.cli import main\nsys.exit(main())\n")
    return path


def run(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(p for p in sys.path if p and Path(p) != ROOT / "tests")
    environment = {**os.environ, "PYTHONPATH": paths, "TORCHLINT_TREE": str(tree)}
    return subprocess.run(
        [sys.executable, *command], cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=120,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


VERBS = (
    ["check", ".", "--no-cache", "--select", "ALL"], ["check", "."], ["check", "."],
    ["check", ".", "--output-format", "sarif"], ["check", ".", "--diff"], ["fix", "."], ["config", "."],
    ["rule", "--all"], ["fix", ".", "--apply", "--unsafe"],
)  # fmt: skip


def ways(script: Path, tree: Path, trap: Path, how: str) -> list[str]:
    if how == "script":
        return [str(script)]
    if how == "-m":  # a `torchlint` in the current folder would be found before any line of ours is run
        return ["-m", "torchlint"]
    package = tree / "torchlint"
    package.mkdir()
    for name in ("__init__.py", "__main__.py", "cli.py"):
        (package / name).write_text(WIRE.format(trap=str(trap)))
    return [str(script)] if how == "script beside a torchlint" else ["-P", "-m", "torchlint"]


@pytest.mark.parametrize("how", ["script", "script beside a torchlint", "-m", "-P -m"])
def test_nothing_of_a_checkout_is_imported_or_run(tree: Path, trap: Path, script: Path, how: str) -> None:
    if how.startswith("-P") and sys.version_info < (3, 11):
        pytest.skip("-P came with Python 3.11")
    command = ways(script, tree, trap, how)
    if how == "-m":
        for name in ("re.py", "typing.py", "ast.py", "json.py", "tokenize.py", "dataclasses.py", "argparse.py"):
            # What the interpreter itself may look for in the current folder before it comes to us.
            (tree / name).unlink(missing_ok=True)
    codes = []
    for arguments in VERBS:
        done = run(tree, *command, *arguments)
        codes.append(done.returncode)
        assert not list(trap.iterdir()), f"{arguments}: {[p.read_text() for p in trap.iterdir()]} {done.stderr}"
        assert "Traceback" not in done.stderr
    assert codes[0] == 2  # cookie.py cannot be read
    assert "device='cuda'" in (tree / "train.py").read_text()


def test_the_wires_work(tree: Path, trap: Path) -> None:
    done = run(tree, "-c", "import evil")
    assert list(trap.iterdir()), done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_nothing_in_a_checkout_is_waited_for(tree: Path, script: Path, kind: str) -> None:
    names = (
        "pyproject.toml", ".gitignore", "torchlint.toml", "requirements.txt", "uv.lock", "setup.cfg",
        "pipe.py", "pipe.ipynb", "sub/.gitignore", "sub/pyproject.toml", ".torchlint_cache", "environment.yml",
        ".git/info/exclude",
    )  # fmt: skip
    for name in names:
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
    done = run(tree, str(script), "check", ".", "--select", "TL401", "--output-format", "json")
    assert [d["code"] for d in json.loads(done.stdout)].count("TL401") == 2
    assert "Traceback" not in done.stderr


# -- what is shown -----------------------------------------------------------------------------------------------------

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u2066\u200f\x7f\x08"
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
NAME = f"a{ESCAPES}\n::error file=x,line=1::owned\r%0A::b,c<script>.py"
SOURCE = (
    f"import torch\n\nx = torch.zeros(3).to('cuda')  # {ESCAPES} <script>alert(1)</script>\n"
    f"def validate(mod\u00e9l_, loader):\n    s = '{ESCAPES.replace(chr(27), chr(92) + 'x1b')}'\n"
)


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "screen"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("[tool.torchlint]\nselect = ['TL401']\n")
    (folder / NAME).write_text(SOURCE)
    (folder / f"broken{ESCAPES}.py").write_text(f"import torch\nx = (  # {ESCAPES}\n")
    (folder / f"cookie{ESCAPES}.py").write_text("# coding: \u202eevil\x1b[2J\nimport torch\n")
    (folder / os.fsdecode(b"bytes\xff\x1b.py")).write_text(BAD)
    (folder / f"gone{ESCAPES}.py").symlink_to(f"nowhere{ESCAPES}")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("form", ["text", "concise", "github", "json", "sarif", "gitlab", "junit", "rdjson"])
@pytest.mark.parametrize("color", ["0", "1"])
def test_no_report_acts_on_the_screen(
    screen: Path, capsys: Output, form: str, color: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if color == "1":
        monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["check", ".", "--output-format", form, "--no-cache"]) == 2
    out, err = capsys.readouterr()
    assert out.count("TL401") >= 2
    for text in (re.sub(r"\x1b\[[\d;]*m", "", out), err):
        assert not FORBIDDEN.search(text), repr(FORBIDDEN.search(text))
    lines = out.splitlines()
    assert not any(line.startswith("::error file=x") for line in [*lines, *err.splitlines()])
    if form == "github":
        assert all(line.startswith("::") for line in lines)
        assert len(lines) == 3


def test_lines_about_trouble_and_lists_of_files_do_not_act_on_the_screen(screen: Path, capsys: Output) -> None:
    main(["check", ".", "--show-files"])
    main(["check", f"missing{ESCAPES}.py"])
    main(["check", ".", "--select", f"TL{ESCAPES}"])
    main(["check", ".", f"--odd{ESCAPES}"])
    main([f"verb{ESCAPES}"])
    main(["rule", f"rule{ESCAPES}"])
    (screen / "pyproject.toml").write_text(f"[tool.torchlint]\n'sel{ESCAPES}ect' = 1\n".replace("\x1b", "\\x1b"))
    main(["check", "."])
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not FORBIDDEN.search(text), repr(text[max(0, FORBIDDEN.search(text).start() - 80) :][:160])  # type: ignore[union-attr]


@pytest.mark.parametrize("color", ["FORCE_COLOR", "NO_COLOR"])
def test_a_diff_on_a_terminal_does_not_act_on_it(screen: Path, color: str) -> None:
    pty = pytest.importorskip("pty")
    master, terminal = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), color: "1", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "torchlint", "fix", NAME, "--no-cache"], cwd=screen, env=environment, stdout=terminal,
        stderr=terminal, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(terminal)
    out = b""
    while True:
        try:
            more = os.read(master, 65536)
        except OSError:
            break
        out += more
        if not more:
            break
    assert process.wait() in (0, 1)
    text = re.sub(r"\x1b\[[\d;]*m", "", out.decode()).replace("\r\n", "\n")
    assert "device='cuda'" in text
    assert not FORBIDDEN.search(text), repr(text)


def test_a_diff_for_a_program_is_exact(screen: Path, capsys: Output) -> None:
    main(["fix", NAME, "--no-cache"])
    assert f"# {ESCAPES} <script>" in capsys.readouterr().out
