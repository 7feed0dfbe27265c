"""`torchlint completion bash|zsh|fish`: a script that completes verbs, options and rules, made from `options.VERBS`."""

from __future__ import annotations

import sys
from collections.abc import Callable

from torchlint.catalogue import load
from torchlint.options import VERBS, Arguments, Option, near

TROUBLE = 2
# Values of options and arguments, by their placeholders; what is not here is completed as a file.
_RULES = ("RULES", "RULE...", "CODE|NAME")
_NOTHING = ("N", "NAME", "PATTERNS", "REF", "SECONDS")


def main(arguments: Arguments) -> int:
    """Print the script for one shell."""
    if len(arguments.paths) != 1 or arguments.paths[0] not in SHELLS:
        named = arguments.paths[0] if arguments.paths else ""
        hint = near(named, SHELLS) if named else ""
        what = f"does not know the shell {named!r}{hint}" if named else "needs a shell"
        print(f"torchlint: completion {what}; known are {', '.join(SHELLS)}", file=sys.stderr)
        return TROUBLE
    sys.stdout.write(SHELLS[arguments.paths[0]]())
    return 0


def _formats(verb: str) -> list[str]:
    from torchlint.report import FORMATS

    return sorted(FORMATS) if verb == "check" else ["json", "text"]


def _words(verb: str, placeholder: str) -> list[str] | None:
    """The words that a placeholder stands for, None where they are files."""
    if placeholder == "FORMAT":
        return _formats(verb)
    if placeholder in _NOTHING:
        return []
    if "|" in placeholder and placeholder not in _RULES:
        return placeholder.split("|")
    return [placeholder] if placeholder.islower() else None


def _help(option: Option) -> str:
    return option.help.replace("`", "")


def bash() -> str:
    lines = [
        "# Completion of torchlint for bash. Load it with: source <(torchlint completion bash)",
        "_torchlint() {",
        '    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" verb="${COMP_WORDS[1]}"',
        "    local words= before=",
        f"    local rules={_quoted(' '.join(_rules()))}",
        "    COMPREPLY=()",
        '    if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev="${COMP_WORDS[COMP_CWORD-2]}"; fi',
        "    if (( COMP_CWORD == 1 )); then",
        f'        COMPREPLY=($(compgen -W {_quoted(" ".join([*VERBS, "--help", "--version"]))} -- "$cur"))',
        "        return",
        "    fi",
        '    case "$verb $prev" in',
    ]
    for verb, (_, _, options) in VERBS.items():
        for name, option in options.items():
            if option.value:
                lines.append(f'        "{verb} {name}") {_bash_value(verb, option.value)} ;;')
    lines += ["        *)", '            case "$verb" in']
    for verb, (placeholder, _, options) in VERBS.items():
        flags = " ".join([*options, "--help"])
        subject = (
            "$rules"
            if placeholder in _RULES
            else " ".join(_words(verb, placeholder) or [])
            if "|" in placeholder
            else ""
        )
        lines.append(
            f'                {verb}) if [[ $cur == -* ]]; then words="{flags}"; else words="{subject}"; fi ;;'
        )
    lines += [
        "            esac ;;",
        "    esac",
        "    # Without words bash completes file names (complete -o default).",
        '    [[ -n $words ]] && COMPREPLY=($(compgen -P "$before" -W "$words" -- "$cur"))',
        "    return 0",
        "}",
        "complete -o default -F _torchlint torchlint",
    ]
    return "\n".join(lines) + "\n"


def _bash_value(verb: str, placeholder: str) -> str:
    if placeholder == "RULES":  # a list with commas: what stands before the last is kept
        return 'words="$rules"; if [[ $cur == *,* ]]; then before="${cur%,*},"; cur="${cur##*,}"; fi'
    words = _words(verb, placeholder)
    if words is None:
        return "return"
    return f'words="{" ".join(words)}"' if words else "compopt +o default; return"


def zsh() -> str:
    lines = [
        "#compdef torchlint",
        "# Completion of torchlint for zsh. Save it as _torchlint in a folder of $fpath, or load it after compinit:",
        "# source <(torchlint completion zsh)",
        "_torchlint_rules() {",
        "    local -a rules=(",
        *(f"        {_quoted(f'{rule.code}:{rule.name}')}" for rule in load()),
        f"        {' '.join(sorted(rule.name for rule in load()))} ALL",
        "    )",
        "    _describe rule rules",
        "}",
        "_torchlint() {",
        "    local context state line",
        "    typeset -A opt_args",
        "    _arguments -C '1: :->verb' '*:: :->rest'",
        "    case $state in",
        "        verb)",
        "            local -a verbs=(",
        *(f"                {_quoted(f'{verb}:{_colons(about)}')}" for verb, (_, about, _) in VERBS.items()),
        "            )",
        "            _describe command verbs ;;",
        "        rest)",
        "            case $words[1] in",
    ]
    for verb, (placeholder, _, options) in VERBS.items():
        lines.append(f"                {verb}) _arguments \\")
        for name, option in options.items():
            about = _help(option).replace("[", "\\[").replace("]", "\\]")
            value = f"=[{about}]:{option.value}:{_zsh_value(verb, option.value)}" if option.value else f"[{about}]"
            lines.append(f"                    {_quoted(f'{name}{value}')} \\")
        lines.append(f"                    {_quoted(f'*: :{_zsh_value(verb, placeholder)}')} ;;")
    lines += [
        "            esac ;;",
        "    esac",
        "}",
        'if [[ "$funcstack[1]" == _torchlint ]]; then _torchlint "$@"; else compdef _torchlint torchlint; fi',
    ]
    return "\n".join(lines) + "\n"


def _zsh_value(verb: str, placeholder: str) -> str:
    if placeholder in _RULES:
        return "_sequence _torchlint_rules" if placeholder == "RULES" else "_torchlint_rules"
    words = _words(verb, placeholder)
    return "_files" if words is None else f"({' '.join(words)})" if words else " "


def _colons(text: str) -> str:
    return text.replace(":", "\\:").replace("`", "")


def fish() -> str:
    lines = [
        "# Completion of torchlint for fish. Save it as ~/.config/fish/completions/torchlint.fish, or load it with:",
        "# torchlint completion fish | source",
        "complete -c torchlint -f",
        "function __torchlint_rules",
        *(f"    echo {_quoted(f'{rule.code}')}\\t{_quoted(rule.name)}" for rule in load()),
        *(f"    echo {_quoted(rule.name)}\\t{_quoted(rule.code)}" for rule in load()),
        "    echo ALL",
        "end",
    ]
    for verb, (_, about, _) in VERBS.items():
        lines.append(f"complete -c torchlint -n __fish_use_subcommand -a {verb} -d {_quoted(about.replace('`', ''))}")
    for verb, (placeholder, _, options) in VERBS.items():
        when = f"complete -c torchlint -n '__fish_seen_subcommand_from {verb}'"
        lines.append(f"{when}{_fish_value(verb, placeholder, argument=True)}")
        for name, option in options.items():
            value = _fish_value(verb, option.value, argument=False) if option.value else ""
            lines.append(f"{when} -l {name[2:]}{value} -d {_quoted(_help(option))}")
    return "\n".join(lines) + "\n"


def _fish_value(verb: str, placeholder: str, *, argument: bool) -> str:
    required = "" if argument else " -x"
    if placeholder in _RULES:
        listing = "__torchlint_rules" if placeholder != "RULES" else "__fish_complete_list , __torchlint_rules"
        return f"{required} -a '({listing})'"
    words = _words(verb, placeholder)
    if words is None:
        return " -F" if argument else " -r -F"
    return f"{required} -a {_quoted(' '.join(words))}"


def _rules() -> list[str]:
    rules = load()
    return ["ALL", *(rule.code for rule in rules), *(rule.name for rule in rules)]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


SHELLS: dict[str, Callable[[], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
