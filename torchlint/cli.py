"""Verbs to functions, outcomes to exit codes: 0 clean, 1 findings, 2 trouble. No logic of its own."""

from __future__ import annotations

import os
import sys

from torchlint.locate import ConfigError
from torchlint.options import OUTPUT_FORMATS, TEACHING, Arguments, UsageError, help_text, near, parse
from torchlint.telling import harmless, tell
from torchlint.warm import remember, reuse

TYPE_CHECKING = False  # typing itself takes longer to import than a warm run may
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TextIO

    from torchlint.diagnostic import Diagnostic
    from torchlint.narrow import Narrowing
    from torchlint.session import Session
    from torchlint.warm import Warm

CLEAN, FINDINGS, TROUBLE, INTERRUPTED = 0, 1, 2, 130

# Verbs whose `main(arguments)` lives in a module of their own, imported when they are called for.
ELSEWHERE: dict[str, str] = {
    "config": "torchlint.settings",
    "completion": "torchlint.completion",
    "doctor": "torchlint.doctor",
    "server": "torchlint.server",
    "report": "torchlint.publish",
}


class _Ended(KeyboardInterrupt):
    """A signal that asks this process to end. The argument is its number."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Without `argv` this is the whole process: signals are minded."""
    if argv is None:
        _mind_signals()
    try:
        code = _main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()  # a disk that is full must not go unnoticed
        return code
    except _Ended as end:
        print("torchlint: ended from outside; no file is half-written", file=sys.stderr)
        return 128 + int(end.args[0])
    except KeyboardInterrupt:
        print("torchlint: interrupted; no file is half-written", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`torchlint check | head`): nothing is left to say.
        _discard_output()
        return CLEAN
    except OSError as error:
        _discard_output()
        return _failed(error, f"the output cannot be written: {error.strerror or error}" if not error.filename else "")
    except Exception as error:
        if argv is not None:
            raise
        return _failed(error)


def _mind_signals() -> None:
    import _signal  # type: ignore[import-not-found]  # `signal` itself builds enums, which takes longer than a warm run may

    def end(number: int, frame: object) -> None:
        raise _Ended(number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(_signal, name, None)
        if number is not None and _signal.getsignal(number) == _signal.SIG_DFL:  # nohup has it ignored
            _signal.signal(number, end)


def _discard_output() -> None:
    """What could not be written must not be tried again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(error: BaseException, told: str = "") -> int:
    """One line about what went wrong in torchlint itself; a run that failed never looks like one with findings."""
    if not told:
        import traceback

        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        told = f"torchlint itself failed: {what} at {place.filename}:{place.lineno}; please report this"
    return _trouble(told)


def _main(argv: list[str]) -> int:
    if argv[:1] == ["verify"]:
        from torchlint.verify.command import main as verify

        return verify(argv[1:])
    if argv[:1] == ["fix"] and any(word.partition("=")[0] == "--verify" for word in argv):
        from torchlint.verify.proving import main as prove

        return prove(argv[1:])
    try:
        arguments = parse(argv)
    except UsageError as error:
        return _trouble(str(error))
    if arguments.flag("--rules") and arguments.verb != "new-rule":
        from torchlint.plugins import Asked, BadFolder

        try:
            with Asked(arguments.many("--rules")):
                return _call(arguments)
        except BadFolder as error:
            return _trouble(str(error))
    return _call(arguments)


def _call(arguments: Arguments) -> int:
    if arguments.verb in ELSEWHERE:
        from importlib import import_module

        return int(import_module(ELSEWHERE[arguments.verb]).main(arguments))
    verbs: dict[str, Callable[[Arguments], int]] = {
        "teach": lambda _: _say(TEACHING),
        "help": lambda a: _say(help_text(a.paths[0], _width(sys.stdout))),
        "version": _version,
        "check": _check,
        "fix": _fix,
        "rule": _rule,
        "new-rule": _new_rule,
    }
    return verbs[arguments.verb](arguments)


def _say(text: str) -> int:
    sys.stdout.write(text)
    return CLEAN


def _trouble(line: str) -> int:
    tell(line)
    return TROUBLE


def _version(_: Arguments) -> int:
    from torchlint import __version__

    return _say(f"torchlint {__version__}\n")


def color_wanted(stream: TextIO) -> bool:
    """Colour on a terminal only; NO_COLOR switches it off and FORCE_COLOR on, whatever the stream is."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _width(stream: TextIO) -> int:
    if not stream.isatty():
        return 0
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except OSError:
        return 80


def _open(arguments: Arguments) -> Session | int:
    """The session of a check or fix, or the exit code where the command line or the settings cannot be used."""
    from torchlint.session import Session, SetupError

    if not arguments.paths:
        return _trouble(f"{arguments.verb} needs paths, such as `torchlint {arguments.verb} .`")
    if "-" in arguments.paths and len(arguments.paths) > 1:
        return _trouble("- (standard input) cannot be mixed with other paths")
    try:
        return Session(arguments)
    except SetupError as error:
        return _trouble(str(error))


def _check(arguments: Arguments) -> int:
    form = arguments.text("--output-format") or "text"
    if form not in OUTPUT_FORMATS:
        hint = near(form, OUTPUT_FORMATS) or "; known are " + ", ".join(OUTPUT_FORMATS)
        return _trouble(f"unknown output format {form!r}{hint}")
    if arguments.flag("--statistics") and form in ("gitlab", "junit", "rdjson"):
        return _trouble(f"--statistics has no {form} format; use json")
    if arguments.flag("--output-file") and not arguments.text("--output-file"):
        return _trouble("--output-file needs a name")
    if arguments.flag("--watch"):
        from torchlint.watch import watch

        return watch(arguments, _check)
    narrowing = None
    if any(arguments.flag(name) for name in ("--baseline", "--write-baseline", "--diff-base")):
        from torchlint.narrow import NarrowError, Narrowing

        try:
            narrowing = Narrowing(arguments)
        except NarrowError as error:
            return _trouble(str(error))
    writes = any(arguments.flag(name) for name in ("--show-files", "--add-ignore", "--diff"))
    if not writes and arguments.paths and "-" not in arguments.paths:
        try:
            known = reuse(arguments)
        except ConfigError as error:
            return _trouble(str(error))
        if known is not None:
            to_screen = narrowing is None and not arguments.flag("--output-file")
            again = known.printed(_view(form, arguments)) if to_screen else None
            if again is not None:
                _write(again[0])
                return _ended(again[1], known.problems)
            return _show(form, arguments, known.check(), known, _source, narrowing)
    session = _open(arguments)
    if isinstance(session, int):
        return session
    if arguments.flag("--show-files"):
        return session.finish(_say("".join(f"{harmless(path)}\n" for path in session.files)))
    if arguments.flag("--add-ignore"):
        return _add_ignore(arguments, session)
    found = session.check()
    if arguments.flag("--diff"):
        return _diff(arguments, session)
    return _show(form, arguments, found, session, session.source, narrowing)


def _show(
    form: str,
    arguments: Arguments,
    found: list[Diagnostic],
    run: Session | Warm,
    source: Callable[[str], str],
    narrowing: Narrowing | None,
) -> int:
    """Report what a check found; the exit code."""
    files, problems, text = run.files, run.problems, ""
    if narrowing is not None:
        from torchlint.narrow import NarrowError

        try:
            found = narrowing(found, files, run.active, source, not problems)
        except NarrowError as error:
            return _trouble(str(error))
    for_people = form in ("text", "concise")
    target = arguments.text("--output-file")
    if target or found or not (for_people or form == "github") or arguments.flag("--statistics"):
        text = _report(form, arguments, len(files), found, source)
        if target:
            problem = _put(target, text, arguments, found, len(files))
            if problem is not None:
                return _trouble(problem)
        else:
            _write(text)
    elif not arguments.flag("--quiet") and for_people:
        if files and not arguments.flag("--write-baseline"):  # what that does is told below
            verdict = "All clear" if narrowing is None else "Nothing new"
            _say(f"{verdict}: {len(files)} file{'s' * (len(files) != 1)} checked.\n")
        elif not files and not problems:
            _say("No Python files found under the given paths.\n")
    if narrowing is not None and not arguments.flag("--quiet"):
        # Where a program reads the findings, this goes to the person beside it.
        (sys.stdout if for_people or target else sys.stderr).write(narrowing.told())
    broken = any(d.code in ("TL001", "TL002") for d in found)
    code = TROUBLE if broken else _code(arguments, found)
    if found and narrowing is None and not target and for_people:
        remember(arguments, files, _view(form, arguments), text, code)
    return _ended(code, problems)


def _ended(code: int, problems: list[str]) -> int:
    """The exit code of a check, once it has been told what could not be read."""
    for line in problems:
        tell(line)
    return TROUBLE if problems else code


def _view(form: str, arguments: Arguments) -> tuple[object, ...]:
    """What a report for people and its exit code hang on, besides the findings and what they are about."""
    flags = [arguments.flag(name) for name in ("--statistics", "--quiet", "--exit-zero")]
    return (form, color_wanted(sys.stdout), _width(sys.stdout), *flags, os.getcwd())


def _source(path: str) -> str:
    """A file's text, "" where it has none."""
    from torchlint.encoding import Undecodable, decode_file

    try:
        with open(path, "rb") as handle:
            return decode_file(path, handle.read()).text
    except (OSError, Undecodable):
        return ""


def _code(arguments: Arguments, found: Sequence[Any]) -> int:
    if arguments.flag("--exit-zero"):
        return CLEAN
    return FINDINGS if any(d.severity.value != "info" for d in found) else CLEAN


def _report(
    form: str, arguments: Arguments, checked: int, found: Sequence[Diagnostic], source: Callable[[str], str]
) -> str:
    """The findings as text."""
    from torchlint.report import FORMATS, ReportContext

    target = arguments.text("--output-file")
    context = ReportContext(
        os.getcwd(),
        source,
        not target and color_wanted(sys.stdout) and form in ("text", "concise"),
        0 if target else _width(sys.stdout),
        arguments.flag("--statistics"),
        checked,
        arguments.flag("--quiet"),
    )
    return FORMATS[form](found, context)


def _put(target: str, text: str, arguments: Arguments, found: Sequence[Diagnostic], checked: int) -> str | None:
    """Write a report to a file; a line saying why if that could not be done."""
    from torchlint.output import put
    from torchlint.report.summary import tally

    problem = put(target, text)
    if problem is None and not arguments.flag("--quiet"):
        _say(f"Wrote {harmless(target)}: {tally(found, checked)}\n")
    return problem


def _write(text: str) -> None:
    """Print text that may hold characters which the terminal's encoding cannot show."""
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _write_diff(session: Session, fixed: Sequence[Any]) -> None:
    """Exact where a program reads it, harmless where a person does."""
    color = color_wanted(sys.stdout)
    text = session.diff(fixed, color)
    if sys.stdout.isatty() and not color:
        from torchlint.telling import harmless_code

        text = harmless_code(text)
    _write(text)


def _add_ignore(arguments: Arguments, session: Session) -> int:
    written, count = session.add_ignores()
    if not arguments.flag("--quiet"):
        findings, files = f"finding{'s' * (count != 1)}", f"file{'s' * (written != 1)}"
        told = f"Wrote ignore comments for {count} {findings} into {written} {files}.\n"
        _say(told if count else "No findings to silence.\n")
    return session.finish(CLEAN)


def _diff(arguments: Arguments, session: Session) -> int:
    fixed = session.fix(arguments.flag("--unsafe") or (arguments.verb == "fix" and not arguments.flag("--apply")))
    _write_diff(session, fixed)
    return session.finish(CLEAN if arguments.flag("--exit-zero") or not any(f.applied for f in fixed) else FINDINGS)


def _fix(arguments: Arguments) -> int:
    from torchlint.session import SetupError

    try:
        return _fix_what_is_wanted(arguments)
    except SetupError as error:
        return _trouble(str(error))


def _fix_what_is_wanted(arguments: Arguments) -> int:
    session = _open(arguments)
    if isinstance(session, int):
        return session
    if session.broken_config:
        return _trouble(f"{session.broken_config}; nothing is fixed under settings that cannot be read")
    if arguments.flag("--show-files"):
        return session.finish(_say("".join(f"{harmless(path)}\n" for path in session.files)))
    session.check()
    narrowing = session.narrow()
    if narrowing is not None and not arguments.flag("--quiet"):
        sys.stderr.write(narrowing.told())
    if session.stdin is not None:
        return session.finish(_fix_stdin(arguments, session))
    if not arguments.flag("--apply"):
        code = _diff(arguments, session)
        if not arguments.flag("--quiet"):
            print(session.outlook(arguments.flag("--unsafe")), file=sys.stderr)
        return code
    fixed = session.fix(arguments.flag("--unsafe"))
    if arguments.flag("--diff"):
        _write_diff(session, fixed)
    done = session.apply(fixed)
    left = session.left_after(done)
    if not arguments.flag("--quiet"):
        _say(session.summary(done, left))
    return session.finish(_code(arguments, left))


def _fix_stdin(arguments: Arguments, session: Session) -> int:
    fixed = session.fix(arguments.flag("--unsafe"))
    text = fixed[0].text if fixed else session.source(session.files[0])
    if arguments.flag("--diff") or not arguments.flag("--apply"):
        _write_diff(session, fixed)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(session.encode_stdin(text))
    return CLEAN


def _rule(arguments: Arguments) -> int:
    from torchlint.catalogue import listing as load
    from torchlint.explain import explain, for_terminal, listing
    from torchlint.report.terminal import Paint
    from torchlint.rule import UnknownRule

    troubles = load()[1]
    for line in troubles:
        tell(line)
    if arguments.flag("--all") or not arguments.paths:
        _write(listing())
    else:
        try:
            page, width = explain(arguments.paths), _width(sys.stdout)
            _write(for_terminal(page, width, Paint(color_wanted(sys.stdout))) if width else page)
        except UnknownRule as error:
            return _trouble(str(error))
    return TROUBLE if troubles else CLEAN


def _new_rule(arguments: Arguments) -> int:
    from pathlib import Path

    from torchlint.scaffold import new_rule

    if len(arguments.paths) != 1:
        return _trouble("new-rule needs one NAME, such as `torchlint new-rule item-in-loop`")
    try:
        folder, code = arguments.text("--rules"), arguments.text("--code")
        for path in new_rule(arguments.paths[0], Path.cwd(), Path(folder) if folder else None, code):
            _say(f"{path}\n")
    except (ValueError, OSError) as error:
        return _trouble(str(error))
    return CLEAN
