"""completion: the scripts are run by the shells themselves and asked for completions."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from torchlint.cli import main
from torchlint.completion import SHELLS
from torchlint.options import VERBS

BASH = """\
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
_torchlint
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for shell, make in SHELLS.items():
        (folder / f"c.{shell}").write_text(make())
    return folder


def ask_bash(scripts: Path, *words: str) -> list[str]:
    command = ["bash", "--norc", "-c", BASH, "bash", str(scripts / "c.bash"), "torchlint", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


CASES = [
    (["che"], ["check"]),
    (["co"], ["config", "completion"]),
    (["check", "--output-format", "sar"], ["sarif"]),
    (["check", "--output-format", "=", "conc"], ["concise"]),
    (["config", "--output-format", ""], ["json", "text"]),
    (["check", "--sel"], ["--select"]),
    (["rule", "eval-without-no"], ["eval-without-no-grad"]),
    (["completion", "z"], ["zsh"]),
    (["verify", "--device", "cu"], ["cuda"]),
    (["fix", "--qui"], ["--quiet"]),
    (["check", "src"], []),
]


@pytest.mark.parametrize(("words", "expected"), CASES, ids=[" ".join(words) for words, _ in CASES])
def test_bash(scripts: Path, words: list[str], expected: list[str]) -> None:
    assert ask_bash(scripts, *words) == expected


def test_bash_completes_every_verb_option_and_the_last_of_several_rules(scripts: Path) -> None:
    assert set(VERBS) <= set(ask_bash(scripts, ""))
    for verb, (_, _, options) in VERBS.items():
        assert set(ask_bash(scripts, verb, "--")) == {*options, "--help"}
    assert "TL1,TL201" in ask_bash(scripts, "check", "--select", "TL1,TL20")
    assert {"ALL", "TL201", "eval-without-no-grad"} <= set(ask_bash(scripts, "check", "--ignore", ""))


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_loads_it(scripts: Path) -> None:
    load = f"autoload -U compinit && compinit -u -D && source {scripts / 'c.zsh'} && print $_comps[torchlint]"
    done = subprocess.run(["zsh", "-f", "-c", load], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "_torchlint"
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("torchlint che", {"check"}),
        ("torchlint check --output-format conc", {"concise"}),
        ("torchlint rule TL201", {"TL201"}),
        ("torchlint check --select TL1,TL201", {"TL1,TL201"}),
        ("torchlint completion z", {"zsh"}),
        ("torchlint check --sel", {"--select"}),
    ],
)
def test_fish(scripts: Path, line: str, expected: set[str]) -> None:
    code = f"source {scripts / 'c.fish'}; complete -C '{line}'"
    done = subprocess.run(["fish", "--no-config", "-c", code], capture_output=True, text=True, check=True)
    assert {found.split("\t")[0] for found in done.stdout.splitlines()} == expected
    assert done.stderr == ""


def test_an_unknown_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bsh"]) == 2
    assert "did you mean bash?; known are bash, zsh, fish" in capsys.readouterr().err
    assert main(["completion"]) == 2
    assert "needs a shell" in capsys.readouterr().err
