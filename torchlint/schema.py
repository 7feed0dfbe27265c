"""The JSON schema of `[tool.torchlint]`, made from the keys that `config` takes and the options that rules have.

`python -m torchlint.schema` writes it to torchlint/schema.json, which editors may be given; `--check` says whether
that file is what it would write.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchlint.catalogue import own
from torchlint.config import DEVICES, KEYS, SEVERITIES
from torchlint.rule import Rule

FILE = Path(__file__).with_name("schema.json")
_STRINGS = {"type": "array", "items": {"type": "string"}}
_SELECTORS = {"type": "array", "items": {"$ref": "#/definitions/selector"}}
_FORMS: dict[str, dict[str, Any]] = {
    "extend": {"type": "string", "description": "Another file with settings; what is not set here is taken from it."},
    "select": {**_SELECTORS, "description": "Only these rules. Without it: the rules that are on by default."},
    "ignore": {**_SELECTORS, "description": "Not these rules."},
    "extend-select": {**_SELECTORS, "description": "These rules besides the selected ones."},
    "per-file-ignores": {
        "type": "object",
        "additionalProperties": _SELECTORS,
        "description": "Rules that are off for the files that a pattern matches; `!pattern` is all other files.",
    },
    "exclude": {**_STRINGS, "description": "Files and folders that are not searched, in place of the default ones."},
    "extend-exclude": {**_STRINGS, "description": "Files and folders that are not searched, besides `exclude`."},
    "severity": {
        "type": "object",
        "propertyNames": {"$ref": "#/definitions/selector"},
        "additionalProperties": {"enum": list(SEVERITIES)},
        "description": "The level of rules: findings of level info do not fail a run.",
    },
    "torch-version": {
        "type": "string",
        "pattern": r"^\d+\.\d+(\.\d+)*$",
        "description": "The oldest torch that the code must run on. Without it: what the dependencies allow.",
    },
    "target-device": {"enum": list(DEVICES), "description": "Where the code trains."},
    "jobs": {"type": "integer", "minimum": 0, "description": "Worker processes; 0 is one per core."},
    "cache-dir": {"type": "string", "description": "Where results are kept, from the project's folder."},
    "rule-paths": {
        **_STRINGS,
        "description": "Folders of the project's own rules. They are code: only `--rules DIR` loads them.",
    },
    "docs": {"type": "boolean", "description": "Also search for .md and .rst files, and check the Python in them."},
    "docstrings": {"type": "boolean", "description": "Also check the examples in docstrings."},
    "loader-names": {
        **_STRINGS,
        "description": "Functions and classes that give a DataLoader, such as mylib.make_loader.",
    },
    "grad-disabling": {
        **_STRINGS,
        "description": "Decorators and context managers that switch autograd off, such as mylib.frozen.",
    },
}


def schema() -> dict[str, Any]:
    """The schema of the table's content: `[tool.torchlint]`, or the whole of a torchlint.toml."""
    rules = own()
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": "Written by `python -m torchlint.schema`",
        "title": "torchlint settings",
        "description": "[tool.torchlint] in pyproject.toml, or torchlint.toml",
        "type": "object",
        "additionalProperties": False,
        "properties": {**{key: _FORMS[key] for key in ("extend", *KEYS) if key != "rules"}, "rules": _options(rules)},
        "definitions": {"selector": _selector(rules)},
    }


def _selector(rules: Sequence[Rule]) -> dict[str, Any]:
    """What names rules: the known codes and names help an editor to complete, any other prefix is taken too."""
    known = sorted({r.code for r in rules} | {r.name for r in rules} | {r.code[:-2] for r in rules})
    return {
        "anyOf": [{"enum": ["ALL", *known]}, {"type": "string", "minLength": 1}],
        "description": "A rule's code or name, a prefix of codes such as TL2, or ALL.",
    }


def _options(rules: Sequence[Rule]) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for rule in rules:
        if rule.options:
            options = {name: _like(default) for name, default in rule.options.items()}
            tables[rule.name] = {
                "type": "object",
                "additionalProperties": False,
                "properties": options,
                "description": rule.summary,
            }
            tables[rule.code] = {"$ref": f"#/properties/rules/properties/{rule.name}"}
    return {
        "type": "object",
        "propertyNames": {"enum": sorted({name for rule in rules for name in (rule.code, rule.name)})},
        "properties": tables,
        "additionalProperties": {"type": "object", "maxProperties": 0, "description": "This rule has no options."},
        "description": "Options of single rules, by name or code.",
    }


def _like(default: Any) -> dict[str, Any]:
    """The schema of an option, by its default; `run.choose` accepts the same."""
    if isinstance(default, bool):
        return {"type": "boolean", "default": default}
    if isinstance(default, (int, float)):
        return {"type": "number", "default": default}
    if isinstance(default, str):
        return {"type": "string", "default": default}
    return {**_STRINGS, "default": list(default)}


def text() -> str:
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write or check the file beside this module."""
    if arguments == ["--check"]:
        if FILE.is_file() and FILE.read_text(encoding="utf-8") == text():
            return 0
        print(f"{FILE.name} is not what config and rules say: run `python -m torchlint.schema`", file=sys.stderr)
        return 1
    if arguments:
        print("usage: python -m torchlint.schema [--check]", file=sys.stderr)
        return 2
    written = text()
    if not FILE.is_file() or FILE.read_text(encoding="utf-8") != written:
        FILE.write_text(written, encoding="utf-8", newline="\n")
        print(FILE)  # to be committed
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
