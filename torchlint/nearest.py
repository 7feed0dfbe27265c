"""The settings nearest to single files, and the projects around these, kept between files: for editors and flake8."""

from __future__ import annotations

import time
from typing import Any

from torchlint import warm
from torchlint.locate import locate
from torchlint.options import Arguments
from torchlint.projects import kept
from torchlint.session import Project

LISTING_SECONDS = 10.0  # how long a project's list of files is believed


class Nearest:
    """Settings are looked up anew each time (a fraction of a millisecond), so a change of them holds at once."""

    def __init__(self) -> None:
        self._projects: dict[Any, Project] = {}
        self._listings: dict[str, tuple[float, list[str]]] = {}
        self._arguments = Arguments("check")
        self._arguments.add("--no-cache", "")

    def project(self, path: str) -> Project:
        """The settings that hold for a file. Raises ConfigError and UnknownRule."""
        from torchlint.catalogue import load

        located = locate([path])
        known = self._projects.get(located.key)
        if known is None:
            known = self._projects[located.key] = Project(self._arguments, located, load())
        return known

    @staticmethod
    def excludes(path: str, project: Project) -> bool:
        """Whether the settings leave a file out, which `check` does unless it is named."""
        return not kept([path], project.config.excluded, project.config.root, (), ())

    def files(self, path: str, project: Project) -> list[str]:
        """The files that the open questions of one are asked of."""
        root = project.config.root
        now = time.monotonic()
        listed, files = self._listings.get(root, (-LISTING_SECONDS, []))
        if now - listed > LISTING_SECONDS or path not in files:
            files = warm.project_files([path], [project.setup])
            if project.located.marked:
                self._listings[root] = (now, files)
        return files

    def forget_files(self) -> None:
        """Files came or went: list the projects anew."""
        self._listings.clear()
