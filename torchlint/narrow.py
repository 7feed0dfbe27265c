"""What a check leaves out once its findings are known (`--diff-base`, `--baseline`), and the writing of a baseline."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torchlint import baseline, changed, output
from torchlint.options import Arguments
from torchlint.report.summary import plural
from torchlint.telling import harmless

if TYPE_CHECKING:
    from torchlint.diagnostic import Diagnostic

OPTIONS = ("--baseline", "--write-baseline", "--diff-base")
_SHOWN = 10  # fixed entries that are named


class NarrowError(ValueError):
    """These options cannot be used; the message says why."""


class Narrowing:
    """Made before the check, so that a mistyped file or revision is said at once. Raises NarrowError."""

    def __init__(self, arguments: Arguments) -> None:
        self.remarks: list[str] = []
        self._target = arguments.text("--write-baseline")
        self._accepted: baseline.Baseline | None = None
        self._changes: changed.Changes | None = None
        self._ref = arguments.text("--diff-base")
        _refuse(arguments)
        try:
            if arguments.flag("--baseline"):
                self._accepted = baseline.read(arguments.text("--baseline"))
            elif self._target:
                new = not os.path.lexists(self._target)
                self._accepted = baseline.Baseline(self._target, ()) if new else baseline.read(self._target)
            if arguments.flag("--diff-base"):
                self._changes = changed.Changes(self._ref, arguments.paths)
        except (baseline.BaselineError, changed.DiffError) as error:
            raise NarrowError(str(error)) from error

    def __call__(
        self,
        found: list[Diagnostic],
        files: Sequence[str],
        active: Callable[[str], frozenset[str]],
        source: Callable[[str], str],
        complete: bool,
    ) -> list[Diagnostic]:
        """The findings that are left; `remarks` then says what became of the others. Raises NarrowError.

        Where a run is not `complete` (a file could not be read), what was not found may still be there.
        """
        scope = baseline.Scope(files, active)
        if self._target:
            return self._write(found, source, scope, complete)
        if self._accepted is not None:
            found = self._compare(self._accepted, found, source, scope, complete)
        if self._changes is not None:
            try:
                left = changed.on_changed_lines(found, self._changes, source)
            except changed.DiffError as error:
                raise NarrowError(str(error)) from error
            if len(left) < len(found):
                count = plural(len(found) - len(left), "finding")
                self.remarks.append(f"{count} on lines not changed since {self._ref} hidden")
            found = left
        return found

    def _compare(
        self,
        accepted: baseline.Baseline,
        found: list[Diagnostic],
        source: Callable[[str], str],
        scope: baseline.Scope,
        complete: bool,
    ) -> list[Diagnostic]:
        comparison = accepted.compare(found, source, scope)
        name = accepted.path
        if comparison.hidden:
            self.remarks.append(f"{plural(comparison.hidden, 'finding')} in the baseline {name} hidden")
        self.remarks += [f"{old} is now {new}: its entries hold there" for old, new in comparison.renamed]
        if comparison.fixed and complete:
            one = len(comparison.fixed) == 1
            entries, them = ("1 entry", "it") if one else (f"{len(comparison.fixed)} entries", "them")
            self.remarks.append(f"{entries} of {name} fixed; take {them} out with --write-baseline {name}:")
            self.remarks += [f"  {e.path}: {e.code} {e.message}" for e in comparison.fixed[:_SHOWN]]
            if len(comparison.fixed) > _SHOWN:
                self.remarks.append(f"  and {len(comparison.fixed) - _SHOWN} more")
        return comparison.new

    def _write(
        self, found: list[Diagnostic], source: Callable[[str], str], scope: baseline.Scope, complete: bool
    ) -> list[Diagnostic]:
        assert self._accepted is not None
        if not complete:
            self.remarks.append(f"{self._target} not written: not everything could be checked")
            return found
        old = {entry.key for entry in self._accepted.entries}
        updated = self._accepted.updated(found, source, scope)
        new = {entry.key for entry in updated.entries}
        problem = output.put(self._target, updated.text())
        if problem is not None:
            raise NarrowError(problem)
        changes = f" ({len(new - old)} added, {len(old - new)} removed)" if old else ""
        self.remarks.append(f"Wrote {self._target}: {plural(len(new), 'finding')}{changes}")
        return [d for d in found if d.code in ("TL001", "TL002")]

    def told(self) -> str:
        """What there is to say, a line each."""
        return "".join(f"{harmless(line)}\n" for line in self.remarks)


def _refuse(arguments: Arguments) -> None:
    """Options that contradict each other. Raises NarrowError."""
    given = [name for name in OPTIONS if arguments.flag(name)]
    for name in given:
        if not arguments.text(name):
            raise NarrowError(f"{name} needs a name")
        for other in ("--diff", "--add-ignore", "--show-files"):
            if arguments.flag(other) and (other != "--diff" or arguments.verb == "check"):
                raise NarrowError(f"{name} cannot be used with {other}")
    if len(given) > 1 and "--write-baseline" in given:
        others = " and ".join(name for name in given if name != "--write-baseline")
        raise NarrowError(f"--write-baseline takes all findings: leave out {others}")
    if "-" in arguments.paths and ("--diff-base" in given or arguments.verb == "fix"):
        raise NarrowError(f"{given[0]} reads files, not standard input")
