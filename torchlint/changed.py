"""`--diff-base REF`: the lines that changed since a branch left another one, as git tells them.

A finding counts if a changed line lies in its range, or if lines were taken out between two lines of its range. Where
its fix would write is not asked: many fixes add an import, and a touched import would bring up the whole file.
"""

from __future__ import annotations

import bisect
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torchlint.diagnostic import Diagnostic

_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
# A checkout's own settings must neither run a program nor change what is printed.
_SETTINGS = ("core.fsmonitor=false", "diff.relative=false", "core.quotePath=false", "safe.bareRepository=explicit")
_PLAIN = ("--no-color", "--no-ext-diff", "--no-textconv", "--ignore-submodules=all", "-M")
_TROUBLE = ("TL001", "TL002")


class DiffError(ValueError):
    """git cannot tell what changed; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Changed rows of a text, and the rows behind which some were taken out; both sorted."""

    rows: tuple[int, ...]
    cuts: tuple[int, ...] = ()

    def touch(self, first: int, last: int) -> bool:
        """Whether a range of rows, both ends included, is touched."""
        at, cut = bisect.bisect_left(self.rows, first), bisect.bisect_left(self.cuts, first)
        return (at < len(self.rows) and self.rows[at] <= last) or (cut < len(self.cuts) and self.cuts[cut] < last)


class Changes:
    """What differs between the working tree and the commit where HEAD left REF. Raises DiffError."""

    def __init__(self, ref: str, paths: Sequence[str]) -> None:
        self._folder = _folder(paths)
        self._top = os.path.realpath(os.fsdecode(self._ask("rev-parse", "--show-toplevel").rstrip(b"\r\n")))
        self._base = self._merge_base(ref)
        self._old: dict[str, str] = {}  # path → what it was called; both relative to the top
        self._whole: set[str] = set()
        self._read_names()
        self._tracked: set[str] | None = None
        self._modules: tuple[str, ...] = ()
        self._known: dict[str, Lines | None] = {}

    # -- git ------------------------------------------------------------------------------------------------------

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", "GIT_LITERAL_PATHSPECS": "1"}
        try:
            return subprocess.run(
                ["git", *settings, *arguments], cwd=self._folder, env=environment, stdin=subprocess.DEVNULL,
                capture_output=True, check=False,
            )  # fmt: skip
        except OSError as error:
            raise DiffError(f"--diff-base needs git, which cannot be started: {error.strerror or error}") from error

    def _ask(self, *arguments: str) -> bytes:
        done = self._run(*arguments)
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0].removeprefix("fatal: ")
            if said.startswith("not a git repository"):
                raise DiffError(f"--diff-base needs a git repository, and {self._folder} is in none")
            raise DiffError(f"--diff-base: git {arguments[0]} failed: {said or f'exit code {done.returncode}'}")
        return done.stdout

    def _merge_base(self, ref: str) -> str:
        shallow = self._ask("rev-parse", "--is-shallow-repository").strip() == b"true"
        more = "; this clone is shallow: fetch the whole history (`git fetch --unshallow`, in GitHub's checkout action `fetch-depth: 0`)"  # noqa: E501
        commit = self._commit(ref)
        if not commit:
            hint = more if shallow else "; fetch it first, or name it as `git branch -a` does (origin/main)"
            raise DiffError(f"--diff-base: git knows no commit {ref!r}{hint}")
        head = self._commit("HEAD")
        if not head:
            raise DiffError("--diff-base: this repository has no commit yet")
        done = self._run("merge-base", commit, head)
        base = done.stdout.decode("ascii", "replace").strip()
        if done.returncode != 0 or not base:
            why = more if shallow else ": their histories are unrelated"
            raise DiffError(f"--diff-base: {ref} and HEAD have no common commit{why}")
        return base

    def _commit(self, ref: str) -> str:
        if not ref or ref.startswith("-") or "\0" in ref:
            return ""
        done = self._run("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        return done.stdout.decode("ascii", "replace").strip() if done.returncode == 0 else ""

    def _read_names(self) -> None:
        fields = self._ask("diff", "--name-status", "-z", *_PLAIN, self._base).split(b"\0")
        at = 0
        while at + 1 < len(fields):
            status, name = fields[at][:1], os.fsdecode(fields[at + 1])
            at += 2
            if status in (b"R", b"C"):
                self._old[os.fsdecode(fields[at])] = name
                at += 1
            elif status == b"M":
                self._old[name] = name
            elif status != b"D":
                self._whole.add(name)

    # -- lines ----------------------------------------------------------------------------------------------------

    def changed(self, path: str) -> Lines | None:
        """The changed lines of a file in the working tree, None for all of them: git has not had it before."""
        if path not in self._known:
            self._known[path] = self._look_up(self._name(path))
        return self._known[path]

    def _name(self, path: str) -> str:
        """Relative to the top, with slashes; "" for what lies outside."""
        folder, base = os.path.split(path)
        full = os.path.join(os.path.realpath(folder or "."), base)
        try:
            name = os.path.relpath(full, self._top).replace(os.sep, "/")
        except ValueError:  # another drive
            return ""
        return "" if name.startswith("../") else name

    def _look_up(self, name: str) -> Lines | None:
        if not name or name in self._whole:
            return None
        if name not in self._old:
            return Lines(()) if self._is_tracked(name) else None
        names = sorted({self._old[name], name})
        patch = self._ask(
            "-C", self._top, "diff", "-U0", "--inter-hunk-context=0", "--text", *_PLAIN, self._base, "--", *names
        )
        return _hunks(patch)

    def _is_tracked(self, name: str) -> bool:
        if self._tracked is None:
            listed = self._ask("-C", self._top, "ls-files", "-s", "-z").split(b"\0")
            pairs = [entry.split(b"\t", 1) for entry in listed if entry]
            self._tracked = {os.fsdecode(path) for _, path in pairs}
            # A submodule is a repository of its own: what changed in it is asked there.
            self._modules = tuple(os.fsdecode(path) + "/" for about, path in pairs if about.startswith(b"160000"))
        return name in self._tracked or name.startswith(self._modules)

    def before(self, path: str) -> bytes | None:
        """The file's bytes as they were, None where it did not exist."""
        old = self._old.get(self._name(path))
        if old is None:
            return None
        done = self._run("cat-file", "blob", f"{self._base}:{old}")
        return done.stdout if done.returncode == 0 else None


def _folder(paths: Sequence[str]) -> str:
    """Where git is asked: the folder that the paths share."""
    tops = [os.path.abspath(path) for path in paths if os.path.exists(path)] or [os.getcwd()]
    try:
        start = os.path.commonpath(tops)
    except ValueError:  # different drives
        start = tops[0]
    return start if os.path.isdir(start) else os.path.dirname(start)


def _hunks(patch: bytes) -> Lines:
    """The new rows of one file's patch without context."""
    rows: list[int] = []
    cuts: list[int] = []
    lines = iter(patch.split(b"\n"))
    for line in lines:
        hunk = _HUNK.match(line)
        if hunk is None:
            continue
        old, start, new = int(hunk[1] or 1), int(hunk[2]), int(hunk[3] or 1)
        if new:
            rows += range(start, start + new)
        else:
            cuts.append(start)
        left = old + new
        while left > 0:  # the content may look like a header
            left -= not next(lines, b"").startswith(b"\\")
    return Lines(tuple(rows), tuple(cuts))


# -- findings -------------------------------------------------------------------------------------------------------


def on_changed_lines(found: Iterable[Diagnostic], changes: Changes, source: Callable[[str], str]) -> list[Diagnostic]:
    """The findings that a reviewer of the change is asked about, in their order.

    A file that cannot be read or that a rule failed on is told if anything in it changed: such a finding stands where
    the trouble shows, not where it was made.
    """
    notebooks: dict[str, dict[int, Lines] | None] = {}
    result = []
    for d in found:
        lines = changes.changed(d.path)
        if lines is not None and d.code in _TROUBLE:
            if not lines.rows and not lines.cuts:
                continue
        elif lines is not None and d.cell is not None:
            if d.path not in notebooks:
                notebooks[d.path] = _cells(changes.before(d.path), source(d.path)) if lines.rows or lines.cuts else {}
            cells = notebooks[d.path]
            if cells is not None and not cells.get(d.cell, Lines(())).touch(d.row, d.end_row):
                continue
        elif lines is not None and not lines.touch(d.row, d.end_row):
            continue
        result.append(d)
    return result


def _cells(before: bytes | None, text: str) -> dict[int, Lines] | None:
    """The changed lines of each cell of a notebook, None for all: outputs and counters that differ are no change."""
    from difflib import SequenceMatcher

    from torchlint.encoding import Undecodable, decode_file
    from torchlint.notebook import sections
    from torchlint.report.lines import split_lines

    try:
        old_text = decode_file("before.ipynb", before).text if before is not None else None
    except Undecodable:
        old_text = None
    if old_text is None:
        return None
    old = [line for part in sections(old_text).values() for line in split_lines(part)]
    new = [(cell, row, line) for cell, part in sections(text).items() for row, line in enumerate(split_lines(part), 1)]
    rows: dict[int, list[int]] = {}
    cuts: dict[int, list[int]] = {}
    matcher = SequenceMatcher(None, old, [line for _, _, line in new], autojunk=False)
    for tag, _, _, start, end in matcher.get_opcodes():
        if tag == "delete" and start > 0:
            cell, row, _ = new[start - 1]
            cuts.setdefault(cell, []).append(row)
        elif tag != "equal":
            for cell, row, _ in new[start:end]:
                rows.setdefault(cell, []).append(row)
    return {n: Lines(tuple(rows.get(n, ())), tuple(cuts.get(n, ()))) for n in {*rows, *cuts}}
