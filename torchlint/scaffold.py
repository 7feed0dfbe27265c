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


def new_rule(name: str, root: Path) -> list[Path]:
    """Write the files of a rule with this kebab-case name below a checkout's root; their paths.

    Raises ValueError for a name that cannot be one or is taken, and outside of a checkout; nothing is overwritten.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ValueError(f"{name!r} is no rule name: write it in lower case with dashes, such as item-in-loop")
    if not (root / "rules").is_dir() or not (root / "fixtures").is_dir():
        raise ValueError(f"{root} has no rules/ and fixtures/: run this at the root of a torchlint checkout")
    rules = load()
    folder = name.replace("-", "_")
    rule_file, fixtures = root / "rules" / f"{folder}.py", root / "fixtures" / folder
    if rule_file.exists() or fixtures.exists() or any(rule.name == name for rule in rules):
        raise ValueError(f"there is already a rule {name}")
    code = free_code(rules, root / "rules")
    values = {
        "code": code,
        "category": list(Category)[int(code[2])].name,
        "folder": folder,
        "function": folder,
        "since": _since(),
    }
    fixtures.mkdir()
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


def _since() -> str:
    from torchlint import __version__

    return ".".join(__version__.split(".")[:2])
