"""Checks for the editor: the same as `torchlint check FILE`, with the texts of open buffers in front of the disk.

Everything here runs on the one thread of `Worker`, so nothing is locked.
"""

from __future__ import annotations

import ast
import gc
import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import libcst as cst

from torchlint import fix, notebook, run, syntax
from torchlint.config import Config
from torchlint.diagnostic import Diagnostic
from torchlint.documents import add_ignores
from torchlint.encoding import Source, Undecodable, decode_file
from torchlint.link import Disk, meaning
from torchlint.locate import ConfigError
from torchlint.nearest import Nearest
from torchlint.outcome import Answers
from torchlint.pool import with_deep_stack
from torchlint.regrow import Tree
from torchlint.rule import UnknownRule
from torchlint.session import Project

if TYPE_CHECKING:
    from torchlint.semantics import Semantics

Result = TypeVar("Result")
_SAMPLE = b"""\
import torch


def validate(model: torch.nn.Module, loader):
    model.eval()
    for x in loader:
        print(model(x))
"""
IDLE = 0.3  # seconds without a job after which garbage is collected: meanwhile nothing can be sent to the editor
JOBS_KEPT = 50  # jobs after which it is collected all the same
TREES = 8  # documents whose trees are kept
MEANINGS = 64  # files besides the checked one whose trees are kept


class Worker:
    """One thread that does what it is given, in order. A daemon, so that a long check holds up no exit."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="torchlint-checks", daemon=True).start()

    def submit(self, job: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()
        self._waiting.put((future, job))
        return future

    def _work(self) -> None:
        frozen, done = False, 0
        while True:
            try:
                future, job = self._waiting.get(timeout=IDLE if done else None)
            except queue.Empty:
                done = self._collect()
                if not frozen:
                    gc.freeze()  # torchlint itself: no later collection need look at it
                    frozen = True
                continue
            if not future.set_running_or_notify_cancel():
                continue  # outdated before it began
            gc.disable()  # trees are many objects; they are collected when nobody waits for what was found
            try:
                result = job()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            finally:
                del future, job
            done += 1
            if done == JOBS_KEPT:
                done = self._collect()

    @staticmethod
    def _collect() -> int:
        gc.collect()
        gc.enable()
        return 0


@dataclass(frozen=True)
class Checked:
    """What a check found. `revision` is that of the document, `program` the text that findings' offsets go into.

    `problem` says why the settings could not be used as they are; with `project` None nothing was checked. `sound` is
    what is known of single fixes: editors ask for the same ones whenever the cursor moves.
    """

    revision: int
    program: str = ""
    diagnostics: tuple[Diagnostic, ...] = ()
    answers: Answers = field(default_factory=Answers)
    project: Project | None = None
    problem: str = ""
    sound: dict[Diagnostic, bool] = field(default_factory=dict)


class Sources(Disk):
    """The project's files: open buffers as they are in the editor, others as they lie on disk, read once."""

    def __init__(self) -> None:
        self.buffers: Mapping[str, str] = {}
        self._texts: dict[str, tuple[int, int, str]] = {}
        self._meanings: OrderedDict[tuple[str, bool], tuple[str, Config, Semantics | None]] = OrderedDict()

    def text(self, path: str) -> str:
        if path in self.buffers:
            return self.buffers[path]
        try:
            info = os.stat(path)
        except OSError:
            return ""
        known = self._texts.get(path)
        if known is None or known[:2] != (info.st_mtime_ns, info.st_size):
            known = self._texts[path] = (info.st_mtime_ns, info.st_size, super().text(path))
        return known[2]

    def semantics(self, path: str, config: Config, bare: bool) -> Semantics | None:
        text, key = self.text(path), (path, bare)
        known = self._meanings.get(key)
        if known is None or known[0] != text or known[1] is not config:
            known = self._meanings[key] = (text, config, meaning(path, text, config, bare))
        self._meanings.move_to_end(key)
        while len(self._meanings) > MEANINGS:
            self._meanings.popitem(last=False)
        return known[2]


class Trees:
    """The trees of the documents that findings were looked for in last: of one that has some, they are needed again.

    A tree grows along with its text, which costs a fraction of parsing it. What is found in it is what is found without
    it: the other ways to a finding only leave out what cannot hold one.
    """

    def __init__(self) -> None:
        self._trees: OrderedDict[str, Tree | None] = OrderedDict()

    def wanted(self, path: str) -> Callable[[str], Tree | None] | None:
        """What gives the tree of a document's text, where the document is known to need one."""
        return (lambda text: self.tree(path, text)) if path in self._trees else None

    def tree(self, path: str, text: str) -> Tree | None:
        """None for a text that is no Python, or one of which libcst keeps too little."""
        if not isinstance(syntax.parsed(text), ast.Module):
            return None
        known = self._trees.get(path)
        found = known.regrown(text) if known is not None else None
        if found is None:
            try:
                found = Tree.planted(path, text)
            except (cst.ParserSyntaxError, RecursionError):
                return None
        self._trees[path] = found
        self._trees.move_to_end(path)
        return found

    def found(self, path: str, any_finding: bool) -> None:
        """Whether the last check of a document had findings."""
        if not any_finding:
            self._trees.pop(path, None)
        elif path not in self._trees:
            self._trees[path] = None
            while len(self._trees) > TREES:
                self._trees.popitem(last=False)


class Checker:
    """Checks and fixes documents under the settings nearest to each."""

    def __init__(self) -> None:
        self._sources = Sources()
        self._trees = Trees()
        self.nearest = Nearest()

    def warm_up(self) -> None:
        """Load the rules and the parser before the first document needs them."""
        from torchlint.catalogue import load

        config = Config()
        rules = load()
        selection = run.selection_of(rules, run.choose(rules, config), config)
        run.check_bytes("warm_up.py", _SAMPLE, config, selection, list)

    def check(self, path: str, data: bytes, revision: int, buffers: Mapping[str, str]) -> Checked:
        """Check a document that would be saved as `data`."""
        try:
            project = self.nearest.project(path)
        except (ConfigError, UnknownRule) as error:
            return Checked(revision, problem=f"{error}; files under these settings are not checked")
        problem = f"{project.broken}; the default settings are used" if project.broken else ""
        config = project.config
        try:
            program = decode_file(path, data).text
        except Undecodable:
            program = ""
        if self.nearest.excludes(path, project):
            return Checked(revision, program, project=project, problem=problem)
        self._sources.buffers = {**buffers, path: program}
        result = run.check_bytes(
            path,
            data,
            config,
            project.selection,
            lambda: self.nearest.files(path, project),
            self._sources,
            None if notebook.is_program(program) else self._trees.wanted(path),
        )
        self._trees.found(path, any(d.code not in ("TL001", "TL003") for d in result.diagnostics))
        return Checked(revision, program, tuple(result.diagnostics), result.answers, project, problem)

    def prepare(self, path: str, text: str) -> None:
        """Have the tree of a document at hand before it changes, where its next check will want one."""
        tree = self._trees.wanted(path)
        if tree is not None and not notebook.is_program(text):

            def work() -> None:
                tree(text)

            with_deep_stack(work)

    def fixed(self, path: str, data: bytes, checked: Checked) -> tuple[str, tuple[str, ...]] | None:
        """The program with every safe fix made, and lines on what was not; None where nothing can be fixed."""
        project = checked.project
        if project is None or project.broken:
            return None
        try:
            source: Source = decode_file(path, data)
        except Undecodable:
            return None
        done = run.fix_source(path, source, project.config, project.selection, False, checked.answers)
        return done.text, done.notes

    @staticmethod
    def alone(path: str, checked: Checked, diagnostic: Diagnostic) -> bool:
        """Whether the fix of one finding leaves a file that parses and compiles."""
        docstrings = checked.project is not None and checked.project.config.docstrings
        if diagnostic not in checked.sound:

            def work() -> None:
                checked.sound[diagnostic] = fix.alone(path, checked.program, diagnostic, docstrings) is not None

            with_deep_stack(work)
        return checked.sound[diagnostic]

    @staticmethod
    def silenced(path: str, checked: Checked, diagnostic: Diagnostic) -> str:
        """The program with an ignore comment for one finding."""
        docstrings = checked.project is not None and checked.project.config.docstrings
        return add_ignores(path, checked.program, [diagnostic], docstrings)
