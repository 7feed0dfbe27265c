"""The command line as data: which options each verb takes, and what to say about one it does not.

Parsed by hand, because importing argparse costs as much as a whole run over unchanged files.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself takes longer to import than a warm run may
if TYPE_CHECKING:
    from collections.abc import Iterable


class Option:
    """`value` is the placeholder of the option's argument, empty for a flag."""

    __slots__ = ("help", "value")

    def __init__(self, value: str, help: str) -> None:
        self.value = value
        self.help = help


OUTPUT_FORMATS = ("text", "concise", "json", "github", "sarif", "gitlab", "junit", "rdjson")
SELECTION = {
    "--select": Option("RULES", "only these rules: codes, names, prefixes (TL2), or ALL"),
    "--ignore": Option("RULES", "all but these rules"),
    "--extend-select": Option("RULES", "these rules besides the selected ones"),
    "--rules": Option("DIR", "also the rules in this folder; runs their code"),
    "--exclude": Option("PATTERNS", "also leave out files and folders that match"),
    "--docs": Option("", "also the Python in .md and .rst files"),
    "--docstrings": Option("", "also the examples in docstrings"),
    "--config": Option("FILE", "read settings from this file only"),
    "--jobs": Option("N", "worker processes (default: one per core)"),
    "--no-cache": Option("", "neither read nor write .torchlint_cache"),
    "--show-files": Option("", "list the files that would be read, and stop"),
    "--quiet": Option("", "print findings only (also -q)"),
}
VERBS: dict[str, tuple[str, str, dict[str, Option]]] = {
    "check": (
        "PATH...",
        "report findings; exit 1 if there are any",
        {
            "--output-format": Option("FORMAT", ", ".join(OUTPUT_FORMATS[:-1]) + " or " + OUTPUT_FORMATS[-1]),
            "--output-file": Option("FILE", "write the findings there, and one line about them to the terminal"),
            "--baseline": Option("FILE", "show and count only findings that are not in this file"),
            "--write-baseline": Option("FILE", "accept today's findings: write them to this file"),
            "--diff-base": Option("REF", "only findings on lines changed since HEAD left REF (needs git)"),
            "--statistics": Option("", "count findings per rule"),
            "--diff": Option("", "print the fixes as a diff, safe ones or with --unsafe all"),
            "--unsafe": Option("", "with --diff: the unsafe fixes too"),
            "--add-ignore": Option("", "write a `# torchlint: ignore[...]` behind every finding"),
            "--exit-zero": Option("", "exit 0 even with findings"),
            "--watch": Option("", "check again after every change, until Ctrl-C (needs torchlint[watch])"),
            "--stdin-filename": Option("NAME", "check standard input (PATH is -) as this file"),
            **SELECTION,
        },
    ),
    "fix": (
        "PATH...",
        "show the diff of every fix; with --apply, write the safe ones",
        {
            "--apply": Option("", "write the fixes"),
            "--unsafe": Option("", "the unsafe fixes too: those that change numerics, randomness or training"),
            "--diff": Option("", "print the diff (the default without --apply)"),
            "--verify": Option(
                "run",
                "only fixes proven by running your code; `-- COMMAND...` comes last "
                "(also --min-verdict, --steps, --seed, --json, --html)",
            ),
            "--baseline": Option("FILE", "only findings that are not in this file"),
            "--diff-base": Option("REF", "only findings on lines changed since HEAD left REF (needs git)"),
            "--exit-zero": Option("", "exit 0 even if findings are left"),
            "--stdin-filename": Option("NAME", "fix standard input (PATH is -) to standard output"),
            **SELECTION,
        },
    ),
    # Parsed by verify/command.py; here for completion and the hints of `parse`.
    "verify": (
        "RULE...",
        "run rules' cases before and after their fix, or with --run your own command (needs torch)",
        {
            "--device": Option("cpu|cuda|auto", "where the cases run"),
            "--size": Option("N", "instead of the cases' own sizes"),
            "--json": Option("FILE", "write the verdicts as JSON"),
            "--html": Option("FILE", "write a self-contained report"),
            "--rules": Option("DIR", "the rules in this folder, by the cases in DIR/fixtures; runs their code"),
            "--run": Option("", "compare whole runs of the command after `--` with and without fixes"),
        },
    ),
    "config": (
        "[PATH]",
        "print the settings that hold for a path, and where each comes from",
        {
            "--output-format": Option("FORMAT", "text (TOML with comments) or json"),
            "--schema": Option("", "print the JSON schema of [tool.torchlint] instead"),
            **{
                name: SELECTION[name]
                for name in (
                    "--select",
                    "--ignore",
                    "--extend-select",
                    "--rules",
                    "--exclude",
                    "--docs",
                    "--docstrings",
                    "--config",
                )
            },
            "--jobs": SELECTION["--jobs"],
        },
    ),
    "rule": ("CODE|NAME", "explain a rule", {"--all": Option("", "list all rules"), "--rules": SELECTION["--rules"]}),
    "report": (
        "PATH...",
        "write the findings as one HTML page, with what was measured of the fixes",
        {
            "--html": Option("FILE", "the page to write"),
            **{name: option for name, option in SELECTION.items() if name != "--show-files"},
        },
    ),
    "server": (
        "",
        "be a language server for editors, over standard input and output (needs torchlint[server])",
        {"--stdio": Option("", "the only way there is; some editors ask for it"), "--rules": SELECTION["--rules"]},
    ),
    "doctor": (
        "[PATH]",
        "show versions, cache, torch, sandbox and extras, and what is broken",
        {"--rules": SELECTION["--rules"]},
    ),
    "completion": ("bash|zsh|fish", "print a completion script for a shell", {}),
    "new-rule": (
        "NAME",
        "write the skeleton of a rule and its fixtures",
        {
            "--rules": Option("DIR", "into this folder of your own repository"),
            "--code": Option("CODE", "letters and three digits, such as ACME001; default: the next one of DIR"),
        },
    ),
}
_SHORT = {"-q": "--quiet", "-j": "--jobs", "-h": "--help", "-V": "--version"}

TEACHING = """\
torchlint finds mistakes and waste in PyTorch training, and fixes what it can.

  torchlint check src/            report findings (exit 1 if there are any)
  torchlint fix src/              show every fix as a diff, write nothing
  torchlint fix src/ --apply      write the safe fixes (--unsafe for the rest)
  torchlint fix src/ --apply --verify=run -- python train.py
                                  write only the fixes that your own run proves
  torchlint verify TL201          run a rule's cases before and after its fix
  torchlint rule TL201            explain a rule; --all lists them
  torchlint report src/ --html findings.html
                                  one page: findings, fixes, measured gains
  torchlint config                the settings that hold here, and their origin
  torchlint doctor                what is installed, what is broken

Silence one line with `# torchlint: ignore[TL201] why`.
Settings live in [tool.torchlint] of pyproject.toml.
`verify` and `--verify=run` need torch: pip install 'torchlint[verify]'.
`torchlint VERB --help` lists the options of a verb.
"""


class UsageError(ValueError):
    """What is wrong with the command line, and the nearest thing that is right."""


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the closest known word, "" when none is close."""
    import difflib

    close = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f"; did you mean {close[0]}?" if close else ""


class Arguments:
    """A parsed command line. Flags read as True, lists as lists, absent options as "" / False / []."""

    __slots__ = ("_values", "paths", "verb")

    def __init__(self, verb: str) -> None:
        self.verb = verb
        self.paths: list[str] = []
        self._values: dict[str, list[str]] = {}

    def add(self, name: str, value: str) -> None:
        self._values.setdefault(name, []).append(value)

    def without(self, name: str) -> Arguments:
        """The same command line, that option left out."""
        other = Arguments(self.verb)
        other.paths = self.paths
        other._values = {key: values for key, values in self._values.items() if key != name}
        return other

    def flag(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str) -> str:
        return self._values[name][-1] if name in self._values else ""

    def many(self, name: str) -> list[str]:
        return [part.strip() for value in self._values.get(name, []) for part in value.split(",") if part.strip()]


def parse(argv: list[str]) -> Arguments:
    """Raises UsageError. `--help` and `--version` become the verbs "help" and "version"."""
    if not argv:
        return Arguments("teach")
    first = _SHORT.get(argv[0], argv[0])
    if first in ("--help", "help"):
        if argv[1:2] and argv[1] in VERBS:
            arguments = Arguments("help")
            arguments.paths = [argv[1]]
            return arguments
        return Arguments("teach")
    if first == "--version":
        return Arguments("version")
    if first not in VERBS:
        from torchlint import meant

        raise UsageError(f"unknown command {first!r}{meant.verb(first, argv)}")
    known = VERBS[first][2]
    arguments = Arguments(first)
    rest = argv[1:]
    while rest:
        word = rest.pop(0)
        if word == "--":
            arguments.paths += rest
            break
        if not word.startswith("-") or word == "-":
            arguments.paths.append(word)
            continue
        if word.startswith("-j") and word[2:].isdigit():
            word = f"--jobs={word[2:]}"
        name, has_value, value = word.partition("=")
        name = _SHORT.get(name, name)
        if name == "--help":
            arguments.verb, arguments.paths = "help", [first]
            return arguments
        if name == "--version":
            return Arguments("version")
        option = known.get(name)
        if option is None:
            from torchlint import meant

            raise UsageError(f"{first}: unknown option {name}{meant.option(first, name, known)}")
        if not option.value:
            if has_value:
                raise UsageError(f"{first}: {name} takes no value")
            arguments.add(name, "")
            continue
        if not has_value:
            if not rest:
                raise UsageError(f"{first}: {name} needs {option.value}")
            value = rest.pop(0)
        arguments.add(name, value)
    return arguments


def help_text(verb: str, width: int = 0) -> str:
    """The options of one verb, wrapped at a width of columns; 0 never wraps."""
    from torchlint.report.terminal import wrap

    placeholder, summary, options = VERBS[verb]
    usage = f"torchlint {verb} {placeholder}".rstrip()
    lines = [*wrap(f"{usage}: {summary}", width, "", "  "), ""]
    for name, option in options.items():
        left = f"  {name} {option.value}".rstrip()
        lines += wrap(option.help, width, f"{left:<27} ", " " * 28)
    return "\n".join([*lines, ""])
