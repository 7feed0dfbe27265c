"""The GitHub Action: its file, and its shell steps run as a runner would, installed from a copy of this checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import ROOT, copy_to, environment

ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: dict[str, dict[str, Any]] = {step["name"]: step for step in ACTION["runs"]["steps"]}
SHELL = [step for step in STEPS.values() if "run" in step]
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
OLD, NEW = "x = torch.range(0, 3)\n", "y = torch.range(0, 4)\n"


def test_the_file_is_a_composite_action() -> None:
    assert ACTION["runs"]["using"] == "composite"
    assert {"name", "description", "inputs", "runs"} <= ACTION.keys()
    for name, given in ACTION["inputs"].items():
        assert given.keys() <= {"description", "default", "required"}, name
        assert given["description"].endswith("."), name
        assert isinstance(given["default"], str), f"{name}: what is no text becomes one"
    for name, step in STEPS.items():
        assert step.keys() <= {"name", "id", "shell", "run", "env", "if", "uses", "with", "working-directory"}, name
        assert ("run" in step) != ("uses" in step), name
        assert "run" not in step or step.get("shell") == "bash", f"{name}: composite steps name their shell"


def test_every_input_is_used_and_known() -> None:
    used = set(re.findall(r"inputs\.([\w-]+)", json.dumps(ACTION["runs"])))
    assert used == ACTION["inputs"].keys()


def test_no_input_is_part_of_a_script() -> None:
    for step in SHELL:
        assert not EXPRESSION.search(step["run"]), f"{step['name']}: an input could run commands"


class Runner:
    """As much of GitHub's runner as the shell steps need."""

    def __init__(self, folder: Path, project: Path) -> None:
        self.project = project
        self.temp = folder / "temp"
        self.temp.mkdir()
        self.action = folder / "action"
        self.output = folder / "output"

    def step(self, name: str, **inputs: str) -> subprocess.CompletedProcess[str]:
        step = STEPS[name]
        values = {f"inputs.{key}": given["default"] for key, given in ACTION["inputs"].items()}
        values |= {f"inputs.{key.replace('_', '-')}": value for key, value in inputs.items()}
        values["github.action_path"] = str(self.action)

        def fill(text: str) -> str:
            return EXPRESSION.sub(lambda match: values[match[1]], text)

        given = {key: fill(value) for key, value in step.get("env", {}).items()}
        self.output.write_text("")
        env = environment(**given, RUNNER_TEMP=str(self.temp), GITHUB_OUTPUT=str(self.output))
        # What `shell: bash` stands for.
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        folder = self.project / fill(step.get("working-directory", "."))
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "a.py").write_text("import torch\n\n" + OLD)
    (folder / "clean.py").write_text("import torch\n")
    return folder


@pytest.fixture
def runner(tmp_path: Path, project: Path) -> Runner:
    """With torchlint as it lies here in place of an installed one."""
    runner = Runner(tmp_path, project)
    script = runner.temp / "torchlint-venv" / "bin" / "torchlint"
    script.parent.mkdir(parents=True)
    paths = os.pathsep.join(p for p in sys.path if p)
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{paths}" exec "{sys.executable}" -m torchlint "$@"\n')
    script.chmod(0o755)
    return runner


def test_findings_become_annotations_and_the_exit_code(runner: Runner) -> None:
    done = runner.step("Check")
    assert done.returncode == 1
    assert done.stdout.startswith("::warning title=torchlint (TL010 ")
    assert runner.output.read_text() == "exit-code=1\n"
    done = runner.step("Check", paths="clean.py", args="--select TL0 -q")
    assert (done.returncode, done.stdout) == (0, "")
    assert runner.output.read_text() == "exit-code=0\n"
    assert runner.step("Check", paths="missing.py").returncode == 2


def test_sarif_is_written_beside(runner: Runner, project: Path) -> None:
    done = runner.step("Check", sarif_file="out dir.sarif", working_directory="src", args="\n--select\nTL010\n")
    assert done.returncode == 1
    assert done.stdout.count("::warning") == 1
    (run,) = json.loads((project / "src" / "out dir.sarif").read_text())["runs"]
    assert [result["ruleId"] for result in run["results"]] == ["TL010"]


def test_inputs_are_words_and_no_commands(runner: Runner, project: Path) -> None:
    evil = "$(touch trap) `touch trap` ; touch trap * && touch trap"
    for inputs in ({"paths": evil}, {"args": f"--select {evil}"}, {"sarif_file": evil}):
        done = runner.step("Check", **inputs)
        assert done.returncode in (1, 2)
        assert not (project / "trap").exists()


@pytest.mark.slow
def test_it_installs_itself_from_its_own_checkout(tmp_path: Path, project: Path) -> None:
    runner = Runner(tmp_path, project)
    runner.action.mkdir()
    copy_to(runner.action)
    done = runner.step("Install torchlint", python=sys.executable)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("torchlint ")
    assert runner.step("Check").stdout.count("::warning") == 1
