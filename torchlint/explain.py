"""`torchlint rule`: a rule's page, which is its docstring, and the list of all rules."""

from __future__ import annotations

from collections.abc import Sequence

from torchlint.catalogue import load
from torchlint.report.terminal import BOLD, BOLD_CYAN, Paint, wrap
from torchlint.rule import Rule, select


def explain(selectors: Sequence[str]) -> str:
    """The pages of the named rules, as Markdown. Raises UnknownRule."""
    return "\n".join(_page(rule) for rule in select(load(), selectors))


def for_terminal(page: str, width: int, paint: Paint) -> str:
    """A page as it is read on a screen of so many columns: paragraphs wrapped, headings painted, code as it is."""
    shown: list[str] = []
    paragraph: list[str] = []
    code = False

    def end_paragraph() -> None:
        if paragraph:
            indent = "  " if paragraph[0].startswith(("- ", "* ")) else ""
            shown.extend(wrap(" ".join(map(str.strip, paragraph)), width, "", indent))
            paragraph.clear()

    for line in page.split("\n"):
        fence = line.startswith("```")
        if code or fence or line.startswith(("#", "|")) or not line.strip():
            end_paragraph()
            shown.append(paint(line, BOLD_CYAN if line.startswith("# ") else BOLD) if _is_heading(line, code) else line)
            code ^= fence
            continue
        if line.startswith(("- ", "* ")):
            end_paragraph()
        paragraph.append(line)
    end_paragraph()
    return "\n".join(shown)


def _is_heading(line: str, code: bool) -> bool:
    return line.startswith("#") and not code


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
