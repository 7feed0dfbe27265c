"""Files × workers to ordered results: what `check` and `fix` do over a tree; nothing is written here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torchlint import cache, pool
from torchlint.diagnostic import Diagnostic, Severity
from torchlint.discover import DOCUMENTS
from torchlint.outcome import Answers, Asked, Selection, Wanted, is_wanted, questions, settle, shown

if TYPE_CHECKING:
    from torchlint.config import Config
    from torchlint.encoding import Source
    from torchlint.link import Disk
    from torchlint.rule import Rule
    from torchlint.source import File
    from torchlint.suppress import Suppression


@dataclass
class Result:
    """What a check over a tree found. `problems` are lines for the user about what could not be read."""

    diagnostics: list[Diagnostic] = field(default_factory=list)
    checked: int = 0
    problems: list[str] = field(default_factory=list)
    answers: Answers = field(default_factory=Answers)

    @property
    def failed(self) -> bool:
        """Whether something went wrong that is not the checked code's quality: exit 2."""
        return bool(self.problems) or any(d.code in ("TL001", "TL002") for d in self.diagnostics)


def selection_of(rules: Sequence[Rule], chosen: Sequence[Rule], config: Config) -> Selection:
    """The chosen rules as names."""
    from torchlint.rule import severity_of

    active = {r.code: r.name for r in chosen}
    complete = all(r.code in active for r in rules if r.default)
    return Selection(active, complete, next((severity_of(r, config) for r in chosen if r.code == "TL003"), None))


def choose(rules: Sequence[Rule], config: Config) -> list[Rule]:
    """The selected rules. Raises UnknownRule for a selector of the settings that names none."""
    from torchlint.config import nearest
    from torchlint.locate import ConfigError
    from torchlint.rule import select

    for _, selectors in config.per_file_ignores:
        list(select(rules, selectors))
    list(select(rules, config.severity))
    for name, options in config.rules.items():
        rule = next((r for r in rules if name in (r.name, r.code)), None)
        if rule is None:
            raise ConfigError(f"[tool.torchlint.rules.{name}]: unknown rule{nearest(name, [r.name for r in rules])}")
        for option, value in options.items():
            if option not in rule.options:
                hint = nearest(option, rule.options) or "; this rule has no options"
                raise ConfigError(f"[tool.torchlint.rules.{name}]: unknown option {option!r}{hint}")
            default = rule.options[option]
            if not _same_type(value, default):
                raise ConfigError(f"[tool.torchlint.rules.{name}]: {option} must be {_kind(default)}, not {value!r}")
    wanted = {r.code for r in (select(rules, config.select) if config.select else rules) if config.select or r.default}
    # A group never switches on what is off by default; a full code, a name and ALL do.
    if config.select and "ALL" not in config.select:
        exact = {s.upper() for s in config.select} | set(config.select)
        wanted = {r.code for r in rules if r.code in wanted and (r.default or r.code in exact or r.name in exact)}
    wanted |= {r.code for r in select(rules, config.extend_select)}
    wanted -= {r.code for r in select(rules, config.ignore)}
    wanted |= {"TL001", "TL002"} - {r.code for r in select(rules, config.ignore)}
    return [r for r in rules if r.code in wanted]


def _kind(default: Any) -> str:
    """What an option takes, in the words of a settings file."""
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a string"}
    return kinds.get(type(default), "a list of strings")


def _same_type(value: Any, default: Any) -> bool:
    if isinstance(default, (list, tuple, set, frozenset)):
        return isinstance(value, list) and all(isinstance(v, str) for v in value)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, (int, float)):
        return isinstance(value, (int, float))
    return isinstance(value, type(default))


def load_chosen(codes: frozenset[str]) -> list[Rule]:
    from torchlint.catalogue import load

    return [r for r in load() if r.code in codes]


def read(path: str) -> Source:
    """A file's bytes, decoded. Raises OSError and `encoding.Undecodable`."""
    from torchlint.encoding import decode_file

    with open(path, "rb") as handle:
        return decode_file(path, handle.read())


def checker(config: Config, selection: Selection) -> Callable[[str], Any]:
    """Made once per worker: path → ("ok", stamp, size, digest, outcome) or ("unreadable", why)."""
    rules = load_chosen(frozenset(selection.active))

    def one(path: str) -> tuple[Any, ...]:
        try:
            since = cache.horizon()
            info = os.stat(path)
            with open(path, "rb") as handle:
                data = handle.read()
        except OSError as error:
            return ("unreadable", f"{path}: cannot be read: {error.strerror or error}")
        return (
            "ok",
            cache.stamp(info, since),
            info.st_size,
            cache.digest(data),
            outcome(path, data, rules, config, selection),
        )

    return one


def checkers(settings: Sequence[tuple[Config, Selection]], owner: Mapping[str, int]) -> Callable[[str], Any]:
    """A `checker` for files that differ in their settings: `owner` says which of them are a path's."""
    made: dict[int, Callable[[str], Any]] = {}

    def one(path: str) -> Any:
        index = owner[path]
        if index not in made:
            made[index] = checker(*settings[index])
        return made[index](path)

    return one


def outcome(
    path: str,
    data: bytes,
    rules: Sequence[Rule],
    config: Config,
    selection: Selection,
    tree: Callable[[str], File | None] | None = None,
) -> cache.Outcome:
    """What is found in a file's bytes: final where no question is open, else with the suppressions still to apply.

    `tree` gives the tree of their text, where the caller has it.
    """
    from torchlint.check import check_text
    from torchlint.encoding import Undecodable, decode_file
    from torchlint.syntax import Trouble
    from torchlint.trouble import crash, syntax_error

    try:
        text = decode_file(path, data).text
        found = check_text(path, text, rules, config, tree=tree and tree(text))
        suppressions = _suppressions(path, text, config)
    except Undecodable as error:
        trouble = Trouble(error.message, error.row, error.column)
        return ((cache.pack(syntax_error(path, data.decode("latin-1"), trouble)),), (), False)
    except Exception as error:
        # Ours, not the file's: it may cost this file its result, never the others theirs.
        return ((cache.pack(crash(path, "torchlint", None, error)),), (), False)
    if any(d.unless for d in found):
        return (tuple(map(cache.pack, found)), tuple(map(cache.pack_suppression, suppressions)), True)
    kept = shown(path, found, suppressions, Answers(), selection)
    return (tuple(map(cache.pack, kept)), (), False)


def _suppressions(path: str, text: str, config: Config) -> list[Suppression]:
    if config.docstrings or path.endswith(DOCUMENTS):
        from torchlint.documents import suppressions

        return suppressions(path, text, config.docstrings)
    from torchlint.suppress import scan

    return scan(text)


def check(
    files: Sequence[str],
    config: Config,
    selection: Selection,
    project: Callable[[], Sequence[str]],
    store: cache.Cache | None = None,
    progress: pool.Progress | None = None,
) -> Result:
    """Check files, reusing what `store` knows of them; findings come in path order, linked and suppressed.

    `project` gives the files that open questions are asked of; it is called only if there are any.
    """
    return check_parts([Part(files, config, selection, store)], project, progress)[0]


@dataclass(frozen=True)
class Part:
    """Files that share their settings, and the cache that knows them under these."""

    files: Sequence[str]
    config: Config
    selection: Selection
    store: cache.Cache | None


def check_parts(
    parts: Sequence[Part], project: Callable[[], Sequence[str]], progress: pool.Progress | None = None
) -> list[Result]:
    """The result of each part, as of `check`; the workers are shared, so that many small parts keep them busy too."""
    results = [Result(checked=len(part.files)) for part in parts]
    outcomes: list[dict[str, cache.Outcome]] = [{} for _ in parts]
    owner: dict[str, int] = {}
    todo: list[tuple[int, str]] = []
    since = cache.horizon()
    for index, part in enumerate(parts):
        for path in part.files:
            try:
                info = os.stat(path)
            except OSError as error:
                results[index].problems.append(f"{path}: cannot be read: {error.strerror or error}")
                continue
            known = part.store and part.store.lookup(path, cache.stamp(info, since), info.st_size)
            if known:
                outcomes[index][path] = known
            else:
                owner[path] = index
                todo.append((info.st_size, path))
    settings = [(part.config, part.selection) for part in parts]
    jobs = parts[0].config.jobs
    if len(parts) == 1:
        work = pool.followed(todo, checker, settings[0], jobs, progress)
    else:
        work = pool.followed(todo, checkers, (settings, owner), jobs, progress)
    for path, got in work:
        index = owner[path]
        if isinstance(got, pool.Lost):
            outcomes[index][path] = ((cache.pack(_lost(path, got)),), (), False)
        elif got[0] == "unreadable":
            results[index].problems.append(got[1])
        else:
            _, stamp, size, content, found = got
            outcomes[index][path] = found
            store = parts[index].store
            if store is not None:
                store.put(path, stamp, size, content, found)
    around = _Around(project)
    for part, result, found in zip(parts, results, outcomes):
        result.problems.sort()
        _settle(result, found, part.config, part.selection, around, part.store)
    return results


class _Around:
    """The project around the checked files, looked at when the first question is asked of it."""

    def __init__(self, project: Callable[[], Sequence[str]]) -> None:
        self._project = project

    @cached_property
    def files(self) -> list[str]:
        return list(self._project())

    @cached_property
    def state(self) -> tuple[bytes, tuple[tuple[str, bytes], ...]]:
        return cache.fingerprint(self.files), cache.recent(self.files)


def joined(results: Sequence[Result]) -> Result:
    """The results of projects that were checked apart, as one, in path order."""
    if len(results) == 1:
        return results[0]
    whole = Result()
    for one in results:
        whole.diagnostics += one.diagnostics
        whole.checked += one.checked
        whole.problems += one.problems
        whole.answers.asked |= one.answers.asked
        whole.answers.yes |= one.answers.yes
    whole.diagnostics.sort(key=lambda d: d.path)
    whole.problems.sort()
    return whole


def check_bytes(
    path: str,
    data: bytes,
    config: Config,
    selection: Selection,
    project: Callable[[], Sequence[str]],
    sources: Disk | None = None,
    tree: Callable[[str], File | None] | None = None,
) -> Result:
    """Check bytes that are not (yet) in a file, as an editor sends them. `sources` reads the rest of the project.

    `tree` gives the tree of a text, or None where it has none.
    """
    result = Result(checked=1)
    outcomes: dict[str, cache.Outcome] = {}

    def work() -> None:
        rules = load_chosen(frozenset(selection.active))
        outcomes[path] = outcome(path, data, rules, config, selection, tree)

    pool.with_deep_stack(work)
    _settle(result, outcomes, config, selection, _Around(project), None, sources)
    return result


def _settle(
    result: Result,
    outcomes: dict[str, cache.Outcome],
    config: Config,
    selection: Selection,
    around: _Around,
    store: cache.Cache | None,
    sources: Disk | None = None,
) -> None:
    asked = questions(outcomes)
    if asked:
        state = around.state
        if store is not None and store.answers is not None and cache.holds(store.answers[0], around.files):
            result.answers = Answers.unpack(store.answers[1])
        if not asked <= result.answers.asked:
            result.answers = Answers(asked, link(asked, around.files, config, sources))
        if store is not None:
            store.answers = (state, result.answers.pack())
    result.diagnostics = settle(outcomes, result.answers, selection)


def _lost(path: str, lost: pool.Lost) -> Diagnostic:
    message = f"this file {lost}, so it was not checked: exclude it, or report it with the file"
    return Diagnostic("TL001", "syntax-error", Severity.ERROR, message, path, 1, 1, 1, 1, 0, 0)


def link(asked: set[Asked], project: Sequence[str], config: Config, sources: Disk | None = None) -> set[Asked]:
    """The one place where a run asks across files: the questions that are answered with yes."""
    yes: set[Asked] = set()

    def work() -> None:
        from torchlint.link import answers

        yes.update(answers(asked, project, config, sources))

    pool.with_deep_stack(work)
    return yes


def fixer(
    config: Config, selection: Selection, unsafe: bool, answers: Answers, only: Wanted | None
) -> Callable[[str], Any]:
    """Made once per worker: path → ("ok", old digest, new text, what was fixed, notes) or ("unreadable", why).

    `only` are the findings to be fixed, None for all.
    """
    from torchlint.encoding import Undecodable

    rules = load_chosen(frozenset(selection.active))

    def one(path: str) -> tuple[Any, ...]:
        try:
            source = read(path)
        except OSError as error:
            return ("unreadable", f"{path}: cannot be read: {error.strerror or error}")
        except Undecodable as error:
            return ("unreadable", f"{path}: {error.message}")
        try:
            done = _fixed(path, source, rules, config, selection, unsafe, answers, only)
        except Exception as error:  # ours, not the file's: the others are fixed all the same
            told = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            return ("unreadable", f"{path}: not fixed: torchlint failed on it ({told}); please report this")
        return ("ok", done.content, done.text, tuple(map(cache.pack, done.applied)), done.notes)

    return one


@dataclass(frozen=True)
class Fixed:
    """One file after its fixes, not yet written. `content` is the digest of the bytes that were read."""

    path: str
    content: bytes
    text: str
    applied: tuple[Diagnostic, ...]
    notes: tuple[str, ...]


def _fixed(
    path: str,
    source: Source,
    rules: Sequence[Rule],
    config: Config,
    selection: Selection,
    unsafe: bool,
    answers: Answers,
    only: Wanted | None = None,
) -> Fixed:
    from torchlint.fix import fix_text

    def resolve(text: str, found: list[Diagnostic]) -> list[Diagnostic]:
        # A fix may bring up a question that was not asked: what hangs on it waits for the next run.
        left = shown(path, answers.decided(found), _suppressions(path, text, config), answers, selection)
        return left if only is None else [d for d in left if is_wanted(d, text, source.text, only)]

    content = cache.digest(source.data)
    if not source.exact:
        return Fixed(
            path, content, source.text, (), (f"{path}: not fixed: its encoding does not give the same bytes back",)
        )
    done = fix_text(path, source.text, rules, config, unsafe=unsafe, resolve=resolve)
    return Fixed(path, content, done.text, tuple(done.applied), tuple(done.notes))


def fix_source(
    path: str, source: Source, config: Config, selection: Selection, unsafe: bool, answers: Answers
) -> Fixed:
    """Fix a text that is not (yet) in a file."""
    done: list[Fixed] = []

    def work() -> None:
        rules = load_chosen(frozenset(selection.active))
        done.append(_fixed(path, source, rules, config, selection, unsafe, answers))

    pool.with_deep_stack(work)
    return done[0]


def applies(d: Diagnostic, unsafe: bool) -> bool:
    """Whether `fix` makes the finding's fix."""
    from torchlint.diagnostic import Applicability

    allowed = (Applicability.SAFE, Applicability.UNSAFE) if unsafe else (Applicability.SAFE,)
    return d.fix is not None and d.fix.applicability in allowed


def fix(
    result: Result,
    config: Config,
    selection: Selection,
    unsafe: bool,
    progress: pool.Progress | None = None,
    only: Wanted | None = None,
) -> tuple[list[Fixed], list[str]]:
    """The fixed texts of the files in which a check found something to fix, and lines about what went wrong."""
    paths = sorted({d.path for d in result.diagnostics if applies(d, unsafe)})
    todo: list[tuple[int, str]] = []
    fixed: list[Fixed] = []
    problems: list[str] = []
    for path in paths:
        if os.path.exists(path):
            todo.append((os.path.getsize(path), path))
        else:
            problems.append(f"{path}: not fixed: it is gone since it was checked")
    arguments = (config, selection, unsafe, result.answers, only)
    for path, got in pool.followed(todo, fixer, arguments, config.jobs, progress):
        if isinstance(got, pool.Lost):
            problems.append(f"{path}: fixing it {got}; nothing was written")
        elif got[0] == "unreadable":
            problems.append(got[1])
        else:
            _, content, text, applied, notes = got
            fixed.append(Fixed(path, content, text, tuple(cache.unpack(path, a) for a in applied), notes))
    return sorted(fixed, key=lambda f: f.path), sorted(problems)
