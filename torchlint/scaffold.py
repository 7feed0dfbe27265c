"""`torchlint new-rule NAME`: the rule file and the fixture folder of a new rule, ready to be filled in."""

from __future__ import annotations

import re
from pathlib import Path

from torchlint.catalogue import load
from torchlint.rule import Category, Rule

# Away from the planned codes of the last group; the author moves the rule to where it belongs.
_FREE = [f"TL9{n}" for n in range(50, 100)]

_RULE = '''"""One line that says what is wrong.

## What it does
What is found, and where the rule stays silent although it looks alike.

## Why is this bad
What it costs, with a number that was measured.

## Example
```python
torch.{function}(x)
```
Use instead:
```python
x
```

## Fix safety
There is no fix. (Safe: same behaviour, comments kept, proven by `fixtures/{folder}/run.py`. Unsafe: everything else.)

## Verified by
What running it before and after shows.

## References
- <https://docs.pytorch.org/docs/stable/>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.rule import Category, Context, Finding, Rule

RULE = Rule(
    "{code}",
    Category.{category},
    Severity.WARNING,
    triggers=(r"\\b{function}\\(",),
    since="{since}",
)


@RULE.on
def check(call: cst.Call, context: Context) -> Iterator[Finding]:
    if context.sem.qualified(call.func) == "torch.{function}":
        yield Finding(
            call,
            "`torch.{function}` is called",
            "say here what that costs",
            "say here what to write instead",
        )
'''

_BAD = '''"""Each line that a finding starts on carries a marker, written by hand."""

import torch


def first_case(x):
    return torch.{function}(x)  # expect: {code}
'''

_OK = '''"""Near-misses, each with a word on why it is fine."""

import torch


def another_object(tensors, x):
    return tensors.{function}(x), torch.clone(x)  # not torch's
'''


def new_rule(name: str, root: Path, own: Path | None = None, code: str = "") -> list[Path]:
    """Write the files of a rule with this kebab-case name; their paths.

    `root` is a torchlint checkout. A team's rule goes into the folder `own` of its repository, its fixtures into
    `own/fixtures`. Raises ValueError for a name or code that cannot be one or is taken; nothing is overwritten.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ValueError(f"{name!r} is no rule name: write it in lower case with dashes, such as item-in-loop")
    if own is None and not ((root / "rules").is_dir() and (root / "fixtures").is_dir()):
        raise ValueError(
            f"{root} is no torchlint checkout; for a rule of your own pass a folder: "
            f"torchlint new-rule {name} --rules tools/lint"
        )
    rules = load()
    folder = name.replace("-", "_")
    where = own or root / "rules"
    fixtures = (own or root) / "fixtures" / folder
    rule_file = where / f"{folder}.py"
    if rule_file.exists() or fixtures.exists() or any(rule.name == name for rule in rules):
        raise ValueError(f"there is already a rule {name}")
    code = _own_code(code, rules, where) if own else code or free_code(rules, where)
    values = {
        "code": code,
        "category": "TRAINING" if own else list(Category)[int(code[2])].name,
        "folder": folder,
        "function": folder,
        "since": _since(),
    }
    where.mkdir(parents=True, exist_ok=True)
    fixtures.mkdir(parents=True)
    written = []
    for path, template in ((rule_file, _RULE), (fixtures / "bad.py", _BAD), (fixtures / "ok.py", _OK)):
        path.write_text(template.format_map(values), encoding="utf-8", newline="\n")
        written.append(path)
    return written


def free_code(rules: list[Rule], folder: Path) -> str:
    """The first free code that neither a loaded rule nor a rule file in `folder` uses."""
    taken = {rule.code for rule in rules}
    for path in folder.glob("*.py"):
        taken.update(re.findall(r"\bTL\d{3}\b", path.read_text(encoding="utf-8")))
    return next(code for code in _FREE if code not in taken)


def _own_code(code: str, rules: list[Rule], folder: Path) -> str:
    """The code of a team's rule: as asked for, or the next one after those in the folder. Raises ValueError."""
    taken = {rule.code for rule in rules} | _codes(folder)
    if not code:
        last = max(_codes(folder), default="OWN000")
        code = f"{last[:-3]}{int(last[-3:]) + 1:03d}"
    if not re.fullmatch(r"[A-Z]+\d{3}", code) or code.startswith("TL"):
        raise ValueError(f"{code!r} is no code for it: write letters and three digits, such as ACME001 (TL is ours)")
    if code in taken:
        raise ValueError(f"there is already a rule {code}")
    return code


def _codes(folder: Path) -> set[str]:
    """The codes that the rule files in a folder give."""
    found: set[str] = set()
    for path in folder.glob("*.py"):
        found.update(re.findall(r"\bRule\(\s*[\"']([A-Z]+\d{3})[\"']", path.read_text(encoding="utf-8")))
    return found


def _since() -> str:
    from torchlint import __version__

    return ".".join(__version__.split(".")[:2])
