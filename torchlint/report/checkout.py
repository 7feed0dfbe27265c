"""Paths as CI systems want them: from the top of the checkout, whichever folder of it the job stands in."""

from __future__ import annotations

import os

# GitHub Actions, GitLab.
_TOPS = ("GITHUB_WORKSPACE", "CI_PROJECT_DIR")


def top(root: str) -> str:
    """The checkout that a CI system says `root` lies in, else `root` itself."""
    for name in _TOPS:
        folder = os.environ.get(name, "")
        if folder and _below(root, folder):
            return folder
    return root


def _below(path: str, folder: str) -> bool:
    try:
        return not os.path.relpath(path, folder).startswith(os.pardir)
    except ValueError:  # another drive
        return False


def from_top(path: str, root: str) -> str:
    """A path that is relative to `root`, relative to the checkout's top; with slashes. May begin with `../`."""
    try:
        return os.path.relpath(os.path.join(root, path), top(root)).replace(os.sep, "/")
    except ValueError:
        return path.replace(os.sep, "/")
