"""What every fixture is held to; each check raises AssertionError with a message that says what to do."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import libcst as cst

from torchlint.diagnostic import Diagnostic
from torchlint.prefilter import concerns
from torchlint.report.concise import line as concise_line
from torchlint.report.terminal import Paint
from torchlint.report.text import split_message
from torchlint.rule import Rule
from torchlint.testing import engine
from torchlint.testing.case import Case, cases

_BLESS = "TORCHLINT_BLESS=1"  # for those who have no option of pytest for it


def rule_of(case: Case) -> Rule:
    rule = engine.rules().get(case.rule_name)
    assert rule is not None, f"fixtures/{case.path.parent.name} belongs to no rule: there is no {case.rule_name}"
    return rule


def found(case: Case, files: Mapping[str, bytes] | None = None) -> list[Diagnostic]:
    """The findings of the folder's own rule."""
    rule = rule_of(case)
    diagnostics = engine.check(case, files or case.files, rule)
    crashes = [d.message for d in diagnostics if d.code == "TL002" != rule.code]
    assert not crashes, crashes[0]
    return [d for d in diagnostics if d.code == rule.code]


def places(diagnostics: list[Diagnostic]) -> Counter[tuple[str, int]]:
    return Counter((d.path, d.row) for d in diagnostics)


def shown(counter: Counter[tuple[str, int]]) -> list[str]:
    return [f"{file}:{row}" + (f" ({n} times)" if n > 1 else "") for (file, row), n in sorted(counter.items())]


# -- where findings are ---------------------------------------------------------


def findings_are_where_the_markers_say(case: Case) -> None:
    code = rule_of(case).code
    actual = places(found(case))
    expected = case.places("expect", code=code)
    todo_ok = case.places("todo-ok", code=code)
    todo_expect = case.places("todo-expect", code=code)

    if case.bad:
        assert expected, f"{case.id} has no `# expect: {code}` marker"
    else:
        assert not expected, f"{case.id} expects findings at {shown(expected)}: that belongs into a bad file"
    gone = todo_ok - actual
    assert not gone, f"no longer reported, take away `# todo-ok: {code}` at {shown(gone)}"
    solved = todo_expect & (actual - expected - todo_ok)
    assert not solved, f"found now, make `# todo-expect: {code}` an `# expect: {code}` at {shown(solved)}"
    missed = expected + todo_ok - actual
    extra = actual - expected - todo_ok
    assert not missed, f"{code} is expected and not found at {shown(missed)}"
    assert not extra, f"{code} is found and not expected at {shown(extra)}"


def markers_name_other_rules_truly(case: Case) -> None:
    """A marker may name a second rule for the reader's sake; then that rule finds something there."""
    own = rule_of(case).code
    by_code = {rule.code: rule for rule in engine.rules().values()}
    for code in sorted({m.code for m in case.markers} - {own}):
        assert code in by_code, f"{case.id} names {code}, which is no rule"
        actual = places([d for d in engine.check(case, case.files, by_code[code]) if d.code == code])
        missed = case.places("expect", code=code) - actual
        assert not missed, f"{code} is expected and not found at {shown(missed)}"


# -- what is written about them ---------------------------------------------------------


def rendered(diagnostics: list[Diagnostic]) -> str:
    """The findings as bad.out keeps them: the concise line's place, then each part of the message, then the fix."""
    out = []
    for d in diagnostics:
        what, why, do = split_message(d.message)
        head = concise_line(d, Paint(False)).removesuffix(d.message)
        out.append(f"{head}{what}")
        if why:
            out += [f"    why: {why}", f"    help: {do}"]
        if d.severity is not rule_severity(d):
            out.append(f"    severity: {d.severity.value}")
        if d.fix:
            out.append(f"    {d.fix.applicability.value} fix: {d.fix.message}")
    return "\n".join(out) + "\n"


def rule_severity(d: Diagnostic) -> object:
    rule = engine.rules().get(d.name)
    return rule.severity if rule else d.severity


def output_is_as_blessed(case: Case, bless: bool = False) -> None:
    text = rendered(found(case))
    if bless:
        case.out_file.write_text(text, encoding="utf-8")
    assert case.out_file.is_file(), f"{case.out_file.name} is missing: run again with --bless or {_BLESS}"
    assert text == case.out_file.read_text(encoding="utf-8")


# -- what fixes make of them ---------------------------------------------------------


def fixed_text_is_as_blessed(case: Case, bless: bool = False) -> None:
    fixed = engine.fix(case, case.files, rule_of(case), engine.ALL_FIXES)
    for name, text in fixed.items():
        path = case.fixed_file(name)
        changed = text != case.files[name]
        if bless and changed:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
        elif bless:
            path.unlink(missing_ok=True)
        if changed:
            assert path.is_file(), f"{path.name} is missing: run again with --bless or {_BLESS}"
            assert text.decode() == path.read_text(encoding="utf-8")
        else:
            assert not path.exists(), f"{path.name} exists, but nothing in {name} is fixed: bless, or remove it"


def fixed_text_compiles(case: Case) -> None:
    fixed = engine.fix(case, case.files, rule_of(case), engine.ALL_FIXES)
    for name, text in fixed.items():
        if text != case.files[name]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                compile(text, name, "exec")


def a_second_fix_changes_nothing(case: Case) -> None:
    rule = rule_of(case)
    for applicabilities in (engine.SAFE, engine.ALL_FIXES):
        once = engine.fix(case, case.files, rule, applicabilities)
        assert engine.fix(case, once, rule, applicabilities) == once
        left = [d for d in found(case, once) if d.fix and d.fix.applicability in applicabilities]
        assert not left, f"still fixable after a fix: {shown(places(left))}"


def fixes_keep_every_comment(case: Case) -> None:
    fixed = engine.fix(case, case.files, rule_of(case), engine.ALL_FIXES)
    for name, text in fixed.items():
        if text != case.files[name]:
            missing = comments(case.files[name]) - comments(text)
            lost = {
                c for c in missing if not re.search(r"# (torchlint: ignore|noqa)", c)
            }  # what TL003 is there to remove
            assert not lost, f"lost from {name}: {sorted(lost)}"


def comments(text: bytes) -> Counter[str]:
    found: Counter[str] = Counter()

    class Collector(cst.CSTVisitor):
        def visit_Comment(self, node: cst.Comment) -> None:
            found[node.value] += 1

    cst.parse_module(text).visit(Collector())
    return found


def declared_fixes_are_the_observed_ones(folder: Path) -> None:
    bad = [case for case in cases(folder) if case.bad]
    assert bad, f"{folder.name} has no bad.py"
    assert any(not case.bad for case in cases(folder)), f"{folder.name} has no ok.py"
    observed = {d.fix.applicability for case in bad for d in found(case) if d.fix}
    rule = rule_of(bad[0])
    assert observed <= set(rule.fixes), f"{rule.code} offers fixes that it does not declare"
    assert set(rule.fixes) <= observed, f"{rule.code} declares fixes that no fixture shows"


# -- variants of the same text ---------------------------------------------------------


def ignore_comments_silence_each_finding(case: Case) -> None:
    code = rule_of(case).code
    if code in ("TL001", "TL003"):
        return  # there are no comments in what is not Python, and none that excuse an idle comment
    rows = {(m.file, m.row) for m in case.markers if m.kind in ("expect", "todo-ok") and m.code == code}
    unsilenceable: set[tuple[str, int]] = set()
    files = {}
    for name, text in case.texts.items():
        lines = re.split(r"(?<=\n)", text)
        for file, row in rows:
            if file == name:
                body = lines[row - 1].rstrip("\r\n")
                if body.endswith("\\"):  # no comment can stand behind a continuation
                    unsilenceable.add((file, row))
                else:
                    lines[row - 1] = f"{body}  # torchlint: ignore[{code}] tested\n"
        files[name] = "".join(lines).encode()
    left = [d for d in found(case, files) if (d.path, d.row) not in unsilenceable]
    assert not left, f"not silenced by `# torchlint: ignore[{code}]`: {shown(places(left))}"


def crlf(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def bom(data: bytes) -> bytes:
    return b"\xef\xbb\xbf" + data.removeprefix(b"\xef\xbb\xbf")


def newlines_and_byte_order_mark_change_nothing(case: Case, variant: Callable[[bytes], bytes]) -> None:
    files = {name: variant(data) for name, data in case.files.items()}

    def key(d: Diagnostic) -> tuple[object, ...]:
        return d.path, d.row, d.column, d.end_row, d.end_column, d.code, d.severity, d.message, d.fix and d.fix.message

    assert [key(d) for d in found(case, files)] == [key(d) for d in found(case)]
    rule = rule_of(case)
    plain = engine.fix(case, case.files, rule, engine.ALL_FIXES)
    fixed = engine.fix(case, files, rule, engine.ALL_FIXES)
    assert fixed == {name: variant(data) for name, data in plain.items()}


def prefilter_changes_nothing(case: Case) -> None:
    rule = rule_of(case)
    for name in case.files:
        # A text that never names PyTorch is passed over by design, whatever a whole reading would see in it.
        if rule.checks and concerns(case.texts[name]):
            whole = engine.check_alone(case, name, rule, prefilter=False)
            assert engine.check_alone(case, name, rule, prefilter=True) == whole
