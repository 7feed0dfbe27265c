"""docs/plugins.md and the plugin in docs/example: what they show is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from checkout import ROOT

from torchlint.cli import main
from torchlint.testing import Suite

PLUGIN = ROOT / "docs" / "example" / "plugin"
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_tutorial_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rule, bad, test = SNIPPETS
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHLINT_BLESS", "1")
    assert main(["new-rule", "old-norm", "--rules", "tools/lint", "--code", "ACME001"]) == 0
    (tmp_path / "tools/lint/old_norm.py").write_text(rule)
    (tmp_path / "tools/lint/fixtures/old_norm/bad.py").write_text(bad)
    namespace: dict[str, object] = {}
    exec(compile(test, "test_rules.py", "exec"), namespace)
    names = []
    for check in Suite("tools/lint").checks():
        namespace["test_rules"](check)  # type: ignore[operator]
        names.append(str(check))
    assert "old_norm/bad.py:findings" in names
    assert "vector_norm(x)" in (tmp_path / "tools/lint/fixtures/old_norm/bad.fixed.py").read_text()
    capsys.readouterr()
    assert main(["check", "tools/lint/fixtures", "--rules", "tools/lint", "--jobs", "1"]) == 1
    assert "ACME001" in capsys.readouterr().out


def test_a_suite_sees_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "fixtures" / "old_norm").mkdir(parents=True)
    (tmp_path / "old_norm.py").write_text(SNIPPETS[0])
    (tmp_path / "fixtures/old_norm/bad.py").write_text(SNIPPETS[1].replace("  # expect: ACME001", ""))
    (findings,) = (c for c in Suite(tmp_path).checks() if str(c) == "old_norm/bad.py:findings")
    with pytest.raises(AssertionError, match="no `# expect"):
        findings()


@pytest.mark.parametrize("check", Suite(PLUGIN / "acme_lint" / "rules", PLUGIN / "fixtures").checks(), ids=str)
def test_the_sample_plugin_by_path(check: object) -> None:
    check()  # type: ignore[operator]


@pytest.mark.slow
def test_the_sample_plugin_installed(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TORCHLINT"))}

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    source = tmp_path / "source"
    subprocess.run(["cp", "-r", PLUGIN, source], check=True)
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source)
    assert built.returncode == 0, built.stdout + built.stderr
    venv.create(tmp_path / "env", with_pip=True, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    (wheel,) = tmp_path.glob("*.whl")
    done = run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    assert done.returncode == 0, done.stderr
    # torchlint itself and what it needs, as this run has them
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    paths = [str(ROOT), *(p for p in sys.path if p.endswith("site-packages"))]
    (site / "outer.pth").write_text("\n".join(paths) + "\n")
    (tmp_path / "a.py").write_text("import torch\n\n\ndef f(x):\n    return torch.norm(x)\n")
    for _ in range(2):
        found = run(python, "-m", "torchlint", "check", "a.py")
        assert found.returncode == 1, found.stdout + found.stderr
        assert "ACME001" in found.stdout
    assert "plugin     acme (acme_lint 1.0)" in re.sub(
        r" {2,}", "     ", run(python, "-m", "torchlint", "doctor").stdout
    )
    assert run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "acme-lint").returncode == 0
    assert run(python, "-m", "torchlint", "check", "a.py").returncode == 0
