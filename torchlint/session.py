"""One command's run: its settings, its files, what was found, what was fixed. The verbs of `cli` are its methods."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torchlint import cache, plugins, run, warm
from torchlint.config import Config, load, written_at
from torchlint.diagnostic import Applicability, Diagnostic
from torchlint.discover import discover
from torchlint.locate import ConfigError, Located, between, locate
from torchlint.options import Arguments
from torchlint.outcome import Wanted, wanted
from torchlint.telling import tell
from torchlint.toml import BrokenToml
from torchlint.write import write

if TYPE_CHECKING:
    from torchlint.encoding import Source
    from torchlint.narrow import Narrowing
    from torchlint.rule import Rule

TROUBLE = 2


class SetupError(ValueError):
    """The command cannot start; the message says what to change."""


def _told(error: BaseException) -> str:
    """An exception as one line with the place of its innermost frame."""
    import traceback

    place = traceback.extract_tb(error.__traceback__)[-1]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    place = frames[-1] if frames else place
    return f"{type(error).__name__}: {error} at {place.filename}:{place.lineno}"


class Project:
    """The files of a run that share their settings, and what was found in them."""

    def __init__(self, arguments: Arguments, located: Located, rules: list[Rule]) -> None:
        """Raises ConfigError and UnknownRule."""
        from torchlint.rule import UnknownRule

        self.located = located
        self.broken = ""
        try:
            config = load(located)
        except BrokenToml as error:
            self.broken = str(error)
            config = Config(root=located.root)
        self.config = _with_options(config, arguments)
        if config.rule_paths:
            line = plugins.reminder(config.rule_paths, config.root, located.path)
            if line:
                tell(line)
        try:
            chosen = run.choose(rules, self.config)
        except (ConfigError, UnknownRule):
            try:
                run.choose(rules, config)
            except UnknownRule as error:  # it stands in the file, not in the options
                raise ConfigError(f"{written_at(located, error.selector)}: {error}") from error
            except ConfigError as error:
                raise ConfigError(f"{located.path}: {error}") from error
            raise
        self.selection = run.selection_of(rules, chosen, self.config)
        self.setup = {
            "root": self.config.root,
            "marked": located.marked,
            "excluded": self.config.excluded,
            "docs": self.config.docs,
            "selection": self.selection.pack(),
        }
        self.store = None if self.broken else warm.open_store(arguments, located)
        self.files: list[str] = []
        self.result = run.Result()


def _with_options(config: Config, arguments: Arguments) -> Config:
    """The settings with what the command line says."""
    jobs = arguments.text("--jobs")
    if jobs and not jobs.isdigit():
        raise ConfigError(f"--jobs needs a number, not {jobs!r}")
    return replace(
        config,
        select=tuple(arguments.many("--select")) or config.select,
        ignore=config.ignore + tuple(arguments.many("--ignore")),
        extend_select=config.extend_select + tuple(arguments.many("--extend-select")),
        extend_exclude=config.extend_exclude + tuple(arguments.many("--exclude")),
        jobs=int(jobs) if jobs else config.jobs,
        # A command loads none of these, so that its runs would prove nothing of them.
        docs=(config.docs or arguments.flag("--docs")) and not arguments.flag("--verify"),
        docstrings=(config.docstrings or arguments.flag("--docstrings")) and not arguments.flag("--verify"),
    )


def _narrowing(arguments: Arguments) -> Narrowing | None:
    """What `--baseline` and `--diff-base` of a fix ask for. Raises SetupError."""
    if not any(arguments.flag(name) for name in ("--baseline", "--diff-base")):
        return None
    from torchlint.narrow import NarrowError, Narrowing

    try:
        return Narrowing(arguments)
    except NarrowError as error:
        raise SetupError(str(error)) from error


class Session:
    """Holds what the steps of one command share.

    `config` and `selection` are those of the folder that all paths share; `project_of` gives a file's own.
    """

    def __init__(self, arguments: Arguments) -> None:
        from torchlint.rule import UnknownRule

        self.problems: list[str] = []
        self.stdin: Source | None = None
        self._arguments = arguments
        self._sources: dict[str, str] = {}
        if arguments.verb == "fix":
            _narrowing(arguments)  # what cannot be used is said before anything is read
        from_stdin = arguments.paths == ["-"]
        paths = [arguments.text("--stdin-filename") or "<stdin>"] if from_stdin else arguments.paths
        try:
            located = locate([p for p in paths if from_stdin or os.path.exists(p)], arguments.text("--config"))
            rules, troubles = self._load_rules()
            self.problems += troubles
            main = Project(arguments, located, rules)
        except (ConfigError, UnknownRule) as error:
            raise SetupError(str(error)) from error
        self.config, self.selection, self.broken_config = main.config, main.selection, main.broken
        self.projects = [main]
        if main.broken:
            self.problems.append(f"{main.broken}; the default settings are used")
        if from_stdin:
            self.files = main.files = paths
            self._read_stdin(paths[0])
        else:
            marked: set[str] = set()
            main.files, problems = discover(
                arguments.paths, self.config.excluded, self.config.root, marked, self.config.docs
            )
            self.problems += problems
            marked = (marked | between(arguments.paths, located.start)) - {located.start}
            if marked and not located.explicit:
                self._divide(main, marked, rules)
            self.files = sorted(path for project in self.projects for path in project.files)
        if troubles:  # said again by every run: none of these is one over unchanged files
            for project in self.projects:
                project.store = None
        self._owners = {path: project for project in self.projects for path in project.files}
        self._everything: list[str] | None = None
        self._expected: Counter[str] = Counter()  # per file, the fixes that the check found
        self.result = run.Result()
        self._wanted: Wanted | None = None

    def _divide(self, main: Project, marked: set[str], rules: list[Rule]) -> None:
        """Give the files below a folder with settings of its own to a project of their own."""
        from torchlint.projects import kept, parted
        from torchlint.rule import UnknownRule

        first, *others = parted(main.files, marked, main.located)
        main.files = first.files
        for part in others:
            try:
                if part.error is not None:
                    raise part.error
                project = Project(self._arguments, part.located, rules)
            except (ConfigError, UnknownRule) as error:
                count = f"{len(part.files)} file{'s' * (len(part.files) != 1)}"
                self.problems.append(f"{error}; {count} under these settings not checked")
                continue
            if project.broken:
                self.problems.append(f"{project.broken}; the default settings are used below this folder")
            excluded, root = project.config.excluded, project.config.root
            project.files = part.files
            if root != main.config.root:
                project.files = kept(part.files, excluded, root, self._arguments.paths, main.config.excluded)
            self.projects.append(project)

    def project_of(self, path: str) -> Project:
        """The settings that hold for one of the files."""
        return self._owners.get(path, self.projects[0])

    def active(self, path: str) -> frozenset[str]:
        """The codes of the rules that a file is checked by."""
        return self.project_of(path).selection.codes

    @staticmethod
    def _load_rules() -> tuple[list[Rule], list[str]]:
        from torchlint.catalogue import listing

        try:
            return listing()
        except Exception as error:
            raise SetupError(f"a rule cannot be loaded, so nothing was checked: {_told(error)}") from error

    def _read_stdin(self, name: str) -> None:
        from torchlint.encoding import Undecodable, decode_file

        self._stdin_data = sys.stdin.buffer.read()
        try:
            self.stdin = decode_file(name, self._stdin_data)
            self._sources[name] = self.stdin.text
        except Undecodable:
            self._sources[name] = ""

    # -- steps ----------------------------------------------------------------------------------------------------

    def check(self) -> list[Diagnostic]:
        """Find everything; the findings in path order."""
        if self._arguments.paths == ["-"]:
            self.result = run.check_bytes(self.files[0], self._stdin_data, self.config, self.selection, self._asked)
            self.projects[0].result = self.result
        else:
            bar = Bar("checking")
            parts = [run.Part(one.files, one.config, one.selection, one.store) for one in self.projects]
            for one, result in zip(self.projects, run.check_parts(parts, self._asked, bar)):
                one.result = result
                if one.store is not None:
                    one.store.setup = one.setup
                    one.store.save()
            self.result = run.joined([one.result for one in self.projects])
        self.problems += self.result.problems
        return self.result.diagnostics

    def narrow(self) -> Narrowing | None:
        """Leave out what `--baseline` and `--diff-base` leave out: the rest alone is fixed. Raises SetupError."""
        narrowing = _narrowing(self._arguments)
        if narrowing is None:
            return None
        found = self.result.diagnostics
        try:
            left = narrowing(found, self.files, self.active, self.source, not self.problems)
        except ValueError as error:
            raise SetupError(str(error)) from error
        self.result.diagnostics = left
        for project in self.projects:
            project.result.diagnostics = [d for d in left if self.project_of(d.path) is project]
        self._wanted = wanted(left, self.source)
        return narrowing

    def _asked(self) -> list[str]:
        """The files that open questions are asked of: those of every project of the run."""
        if self._everything is None:
            self._everything = warm.project_files(self.files, [one.setup for one in self.projects])
        return self._everything

    def fix(self, unsafe: bool) -> list[run.Fixed]:
        """The files as they would be after their fixes; nothing is written."""
        self._expected = Counter(d.path for d in self.result.diagnostics if run.applies(d, unsafe))
        if self.stdin is not None:
            fixed = [
                run.fix_source(self.files[0], self.stdin, self.config, self.selection, unsafe, self.result.answers)
            ]
        else:
            fixed = []
            for one in self.projects:
                if one.broken:
                    continue  # said when the settings were read: nothing is fixed under settings that cannot be
                more, problems = run.fix(one.result, one.config, one.selection, unsafe, Bar("fixing"), self._wanted)
                fixed += more
                self.problems += problems
            fixed.sort(key=lambda one: one.path)
        for done in fixed:
            self.problems += done.notes
        return fixed

    def apply(self, fixed: Sequence[run.Fixed]) -> list[run.Fixed]:
        """Write fixed files; those that were written."""
        done = []
        for one in fixed:
            if not one.applied:
                continue
            problem = write(one.path, one.content, one.text, self._arguments.paths)
            if problem is None:
                done.append(one)
            else:
                self.problems.append(problem)
        return done

    def left_after(self, done: Sequence[run.Fixed]) -> list[Diagnostic]:
        """The findings that remain: those of untouched files, and those of the written ones checked again."""
        again = {one.path for one in done}
        if not again:
            return self.result.diagnostics
        self._sources.clear()
        self._everything = None
        left = [d for d in self.result.diagnostics if d.path not in again]
        for project in self.projects:
            mine = sorted(again & set(project.files))
            left += run.check(mine, project.config, project.selection, self._asked).diagnostics if mine else []
        self.result.diagnostics = sorted(left, key=lambda d: d.sort_key)
        self.narrow()
        return self.result.diagnostics

    def add_ignores(self) -> tuple[int, int]:
        """Write ignore comments behind every finding; how many files and findings."""
        from torchlint.documents import add_ignores
        from torchlint.encoding import Undecodable

        by_path: dict[str, list[Diagnostic]] = {}
        for diagnostic in self.check():
            by_path.setdefault(diagnostic.path, []).append(diagnostic)
        files = findings = 0
        for path, diagnostics in by_path.items():
            try:
                source = run.read(path)
            except (OSError, Undecodable):
                continue  # reported by the check
            text = add_ignores(path, source.text, diagnostics, self.project_of(path).config.docstrings)
            if text == source.text:
                continue
            problem = write(path, cache.digest(source.data), text, self._arguments.paths)
            if problem is not None:
                self.problems.append(problem)
                continue
            files += 1
            findings += sum(d.code not in ("TL001", "TL002", "TL003") for d in diagnostics)
        return files, findings

    # -- words ----------------------------------------------------------------------------------------------------

    def source(self, path: str) -> str:
        """A file's text as it was checked, "" where it has none."""
        from torchlint.encoding import Undecodable

        if path not in self._sources:
            try:
                self._sources[path] = run.read(path).text
            except (OSError, Undecodable):
                self._sources[path] = ""
        return self._sources[path]

    def encode_stdin(self, text: str) -> bytes:
        assert self.stdin is not None
        return self.stdin.encode(text)

    def diff(self, fixed: Sequence[run.Fixed], color: bool) -> str:
        """The unified diff of all fixed files."""
        from torchlint.unified import unified

        out: list[str] = []
        for one in fixed:
            before, after = self.source(one.path), one.text
            if one.path.endswith(".ipynb"):
                from torchlint.notebook import sections

                new = sections(after)
                out += [unified(f"{one.path}:cell {n}", old, new[n], color) for n, old in sections(before).items()]
            else:
                out.append(unified(one.path, before, after, color))
        return "".join(out)

    def outlook(self, unsafe: bool) -> str:
        """What `fix --apply` would do, after a diff."""
        safe = self._fixable(Applicability.SAFE)
        more = self._fixable(Applicability.UNSAFE)
        if not safe and not more:
            return "Nothing to fix." if self.files else "No Python files found under the given paths."
        parts = []
        if safe:
            parts.append(f"{safe} safe (write with --apply)")
        if more:
            parts.append(f"{more} unsafe (write with --apply --unsafe)")
        return f"Fixes shown: {', '.join(parts)}. Nothing was written."

    def _fixable(self, kind: Applicability) -> int:
        return sum(d.fix is not None and d.fix.applicability is kind for d in self.result.diagnostics)

    def summary(self, done: Sequence[run.Fixed], left: Sequence[Diagnostic]) -> str:
        """What was written and what is left, with how to see it."""
        count = sum(len(one.applied) for one in done)
        files = f"{len(done)} file{'s' * (len(done) != 1)}"
        lines = [f"Fixed {count} finding{'s' * (count != 1)} in {files}" if done else "Nothing was fixed"]
        further = sum(max(0, len(one.applied) - self._expected[one.path]) for one in done)
        if further:
            lines[0] += f"; {further} of them came up when others were fixed"
        lines[0] += "."
        if left:
            unsafe = 0 if self._arguments.flag("--unsafe") else self._fixable(Applicability.UNSAFE)
            hint = f", {unsafe} fixable with --unsafe" if unsafe else ""
            lines.append(f"{len(left)} finding{'s' * (len(left) != 1)} left{hint}: see `torchlint check`.")
        return "\n".join(lines) + "\n"

    def finish(self, code: int) -> int:
        """Print what went wrong, one line each; the exit code of the run."""
        for line in self.problems:
            tell(line)
        return TROUBLE if self.problems or self.result.failed else code


class Bar:
    """A progress bar on a terminal, for what takes longer than a second; as long as the work is, by bytes."""

    LONGEST, SHORTEST = 30, 5  # characters; where the shortest has no room, there are only numbers

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown = 0.0
        self._began = time.monotonic()
        self._on = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def __call__(self, done: int, total: int, share: float) -> None:
        """`done` of `total` files, which hold that share of all bytes, are worked off."""
        if not self._on:
            return
        now = time.monotonic()
        if done == total:
            if self._shown:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        elif now - self._began > 1 and now - self._shown > 0.1:
            self._shown = now
            print(f"\r{self._line(done, total, share)}\x1b[K", end="", file=sys.stderr, flush=True)

    def _line(self, done: int, total: int, share: float) -> str:
        counts = f"{int(100 * share):3}% {done:{len(str(total))}}/{total} files"
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80  # 0 where nobody has told it
        room = min(columns - len(self._what) - len(counts) - 3, self.LONGEST)
        if room < self.SHORTEST:
            return f"{self._what} {counts}"[: columns - 1]  # a line that wraps could not be written over
        full, empty = ("█", "░") if "utf" in (sys.stderr.encoding or "").lower() else ("#", "-")
        filled = int(room * share)
        return f"{self._what} {full * filled}{empty * (room - filled)} {counts}"
