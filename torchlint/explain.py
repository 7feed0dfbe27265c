"""`torchlint rule`: a rule's page, which is its docstring, and the list of all rules."""

from __future__ import annotations

from collections.abc import Sequence

from torchlint.catalogue import load
from torchlint.rule import Rule, select


def explain(selectors: Sequence[str]) -> str:
    """The pages of the named rules. Raises UnknownRule."""
    return "\n".join(_page(rule) for rule in select(load(), selectors))


def _page(rule: Rule) -> str:
    fixes = ", ".join(a.value for a in rule.fixes) or "none"
    default = "on by default" if rule.default else "off by default"
    facts = (rule.category.value, rule.severity.value, default, f"fixes: {fixes}", f"since {rule.since}")
    head = f"# {rule.name} ({rule.code})\n\n{' · '.join(facts)}\n"
    options = "".join(f"- `{name}` (default {value!r})\n" for name, value in rule.options.items())
    return f"{head}\n{rule.doc.strip()}\n" + (f"\n## Options\n{options}" if options else "")


def listing() -> str:
    """One line per rule."""
    rules = load()
    width = max((len(r.name) for r in rules), default=0)
    lines = []
    for rule in rules:
        note = "" if rule.default else " (off by default)"
        lines.append(f"{rule.code}  {rule.name:<{width}}  {rule.summary}{note}\n")
    return "".join(lines)
