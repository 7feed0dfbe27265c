"""A small rule of the tests' own, so that the engine is tested apart from the catalogue."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst
import pytest

from torchlint import prefilter
from torchlint.diagnostic import Applicability, Edit, Severity
from torchlint.rule import Category, Context, Finding, Rule, safe, suggestion, unsafe


@pytest.fixture(autouse=True)
def everything_concerns(monkeypatch: pytest.MonkeyPatch) -> None:
    """These rules are not about PyTorch, and neither are the texts that they are tested on."""
    monkeypatch.setattr(prefilter, "concerns", lambda text: True)


def rename_rule(code: str = "TL901", name: str = "old-name", **more: object) -> Rule:
    """`old` becomes `new` (safe), `risky` becomes `tame` (unsafe), `idea` is suggested, `broken` breaks the file."""
    rule = Rule(
        code,
        Category.TRAINING,
        Severity.WARNING,
        triggers=("",),
        since="0.1",
        fixes=(Applicability.SAFE, Applicability.UNSAFE, Applicability.SUGGESTION),
        name=name,
        **more,  # type: ignore[arg-type]
    )

    @rule.on
    def check(node: cst.Name, context: Context) -> Iterator[Finding]:
        makers = {
            "old": (safe, "new"),
            "risky": (unsafe, "tame"),
            "idea": (suggestion, "plan"),
            "broken": (safe, "1 2"),
        }
        if node.value in makers:
            make, text = makers[node.value]
            fix = make(f"write {text}", context.file.replace(node, text))
            yield Finding(node, f"`{node.value}` is used", "it is gone", "use another", fix)

    return rule


def crashing_rule() -> Rule:
    rule = Rule("TL902", Category.TRAINING, Severity.WARNING, triggers=("",), since="0.1", name="engine")

    @rule.on
    def check(node: cst.Module, context: Context) -> Iterator[Finding]:
        raise KeyError("loss")
        yield

    return rule


def importing_rule() -> Rule:
    """Each call of `f` wants the same import: the edit is shared."""
    rule = Rule("TL903", Category.TRAINING, Severity.WARNING, triggers=("",), since="0.1", name="wants-import")

    @rule.on
    def check(node: cst.Call, context: Context) -> Iterator[Finding]:
        if isinstance(node.func, cst.Name) and node.func.value == "f":
            fix = safe("import", Edit(0, 0, "import g\n"), context.file.replace(node.func, "g.f"))
            yield Finding(node, "`f` is bare", "it hides", "qualify it", fix)

    return rule


def engine_rule(code: str, name: str) -> Rule:
    return Rule(code, Category.FILES, Severity.ERROR, triggers=(), since="0.1", name=name)


SYNTAX = engine_rule("TL001", "syntax-error")
