"""A copy of this checkout as git would hand it over, for tests that build it, install it or commit with it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "fixtures"


def environment(**more: str) -> dict[str, str]:
    """The environment of a started program: git asks nobody's settings, Python imports nothing from this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTHON", "PRE_COMMIT"))}
    git = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for role in ("AUTHOR", "COMMITTER"):
        git |= {f"GIT_{role}_NAME": "tests", f"GIT_{role}_EMAIL": "tests@example.org"}
    return kept | git | more


def git(folder: Path, *arguments: str) -> str:
    """Run git; what it printed. Raises CalledProcessError."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment(), check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def copy_to(target: Path) -> None:
    """Copy the files that git tracks or would track: what is being worked on, without build outputs and caches."""
    names = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, names):
        source = ROOT / name
        if source.is_file():  # not deleted in the working tree
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
