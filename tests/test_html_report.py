"""`torchlint report`: one page that runs nothing, escapes everything, and takes its numbers from benchmarks/ alone."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.test_cache import EVALUATE
from torchlint import evidence
from torchlint.cli import main
from torchlint.diagnostic import Applicability, Diagnostic, Edit, Fix, Severity
from torchlint.evidence import Evidence, Measurement, Source, Timing
from torchlint.report import ReportContext
from torchlint.report.gains import Gains
from torchlint.report.page import render

ROOT = Path(__file__).parents[1]
VOID = {"meta", "input", "line", "circle", "rect"}
NASTY = "x = '<script>alert(1)</script>' & \"</pre>\"  # \u202e\x1b[31m"


class Balanced(HTMLParser):
    """Collects tags with their attributes; fails where one is closed that is not open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def finding(path: str, code: str, severity: Severity, fix: Fix | None = None) -> Diagnostic:
    message = "`<b>` is <wrong>: it costs & hurts; write `</article>`"
    return Diagnostic(code, "bad-<thing>", severity, message, path, 1, 5, 1, 14, 4, 13, fix, url="https://x/?a&b")


def page(*found: Diagnostic, gains: Gains | None = None) -> str:
    context = ReportContext("/", lambda path: NASTY + "\n", False, 0, False, 3)
    return render(list(found), context, gains or Gains({}, {}), "<facts>")


@pytest.fixture
def nasty() -> str:
    fix = Fix((Edit(0, 1, "<y>"),), Applicability.UNSAFE, "write `<y>`")
    return page(
        finding("a<b>.py", "TL101", Severity.ERROR, fix),
        finding("a<b>.py", "TL102", Severity.WARNING),
        finding("c.py", "TL102", Severity.INFO),
    )


def test_everything_is_escaped_and_closed(nasty: str) -> None:
    tags = Balanced(nasty).tags
    assert not any(tag in ("script", "b>", "thing", "wrong", "y") for tag, _ in tags)
    assert "<facts>" not in nasty
    assert "alert(1)" in nasty
    assert "\u202e" not in nasty
    assert "\x1b" not in nasty
    assert "a&lt;b&gt;.py" in nasty


def test_it_loads_and_runs_nothing(nasty: str) -> None:
    tags = Balanced(nasty).tags
    policy = next(a["content"] for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    sheet = nasty.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    for tag, attributes in tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "form")
        assert not {"style", "src", "srcset", "onclick"} & set(attributes)
    assert "url(" not in sheet
    assert "@import" not in sheet


def test_links_inside_the_page_lead_somewhere(nasty: str) -> None:
    tags = Balanced(nasty).tags
    ids = [a["id"] for _, a in tags if a.get("id")]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for _, a in tags if (a.get("href") or "").startswith("#")}  # type: ignore[index]
    labels = {a["for"] for tag, a in tags if tag == "label" and a.get("for")}
    assert targets | labels <= set(ids)
    assert {"f0", "f1", "f2", "TL101", "TL102"} <= targets


def test_filters_are_rules_of_style(nasty: str) -> None:
    assert "body:has(#only-TL101:checked) :is(.finding,.rule,.file):not(.TL101) { display: none; }" in nasty
    assert "body:has(#show-error:not(:checked)):has(#show-warning:not(:checked)) :is(.only-error-warning)" in nasty
    assert "body:has(#show-info:not(:checked)) :is(.only-info,.finding.info)" in nasty
    assert 'class="file TL101 TL102 only-error-warning"' in nasty
    assert 'class="rule TL102 only-info-warning"' in nasty


def test_a_rule_counts_each_severity_and_says_where_its_reason_holds(nasty: str) -> None:
    assert '<span class="badge warning">1 warning</span>, <span class="badge info">1 info</span>' in nasty
    one = finding("a.py", "TL010", Severity.WARNING)
    other = replace(one, path="b.py", message="it is so: another reason; do that")
    assert "<p><b>Why, at 2 of 3:</b> it costs" in page(one, replace(one, path="c.py"), other)
    assert "<p><b>Why:</b> it costs" in page(one, replace(one, path="c.py"))


def test_nothing_found() -> None:
    clean = page()
    assert "Nothing was found" in clean
    Balanced(clean)


def numbers(text: str) -> Iterator[str]:
    for sup in re.findall(r"<p[^>]*><b>Measured[^<]*</b> (.*?)</p>", text):
        yield html.unescape(sup)


def test_what_was_measured_is_said_and_what_was_not() -> None:
    slow = (Timing(7, "slower", 0.5, 0.4, 0.6), Timing(64, "faster", 12.3, 12.0, 12.9))
    places = (
        Measurement("rows & <columns>", "b/cases.json", slow, (100_000, 50_000)),
        Measurement("small", "b/cases.json", (Timing(7, "inconclusive", 1.1, 0.9, 1.3),), (10, 5)),
    )
    known = {
        "TL101": Evidence({"equivalent-bitwise": 2}, places, False),
        "TL102": Evidence({"intended-change-confirmed": 1}, (), False),
        "TL103": Evidence({"equivalent-bitwise": 1}, (), True),
    }
    gains = Gains(known, {"b/cases.json": Source("torch 9", "cpu")})
    found = [finding("a.py", code, Severity.ERROR) for code in ("TL101", "TL102", "TL103", "TL104")]
    text = page(*found, gains=gains)
    Balanced(text)
    assert list(numbers(text)) == [
        "×12 faster in 1 of 2 measured places (at their largest size); slower in 1 of them at some size, "
        "at worst ×0.50; inconclusive in 1; peak tensor memory 97.7 KiB → 48.8 KiB.",
        "nothing about time or memory.",
        "what it gains shows on a GPU only, where it was not measured.",
        "nothing; this rule has no fix with a case that runs.",
    ]
    assert text.count("<b>Measured (cpu):</b>") == 3
    assert "rows &amp; &lt;columns&gt;, n=64" in text
    assert "b/cases.json</code>: torch 9, cpu" in text


def test_the_shipped_evidence_is_what_benchmarks_say() -> None:
    written = evidence.FILE.read_text(encoding="utf-8")
    assert written == evidence.text(ROOT), "run `python -m torchlint.evidence`"
    for source in evidence.sources():
        assert (ROOT / source).is_file()


def test_evidence_says_no_more_than_its_source() -> None:
    cases = json.loads((ROOT / evidence.CASES).read_text(encoding="utf-8"))
    rows = {(rule["rule"].split()[0], case["name"]): case for rule in cases["rules"] for case in rule["cases"]}
    shown = [(code, m) for code, e in evidence.load().items() for m in e.measurements if m.source == evidence.CASES]
    assert len(shown) > 20
    for code, measured in shown:
        case = rows[code, measured.name]
        assert case["holds"]
        for timing in measured.timings:
            cost = case["speed"][str(timing.size)]
            assert (timing.kind, timing.ratio) == (cost["kind"], round(cost["ratio"], 3))


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.py").write_text(EVALUATE)
    monkeypatch.chdir(tmp_path)
    assert main(["report", ".", "--html", "out.html"]) == 0
    assert capsys.readouterr().out.startswith("Wrote out.html: 1 finding (1 warning) in 1 file\n")
    first = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "eval-without-no-grad" in first
    assert evidence.CASES in first
    assert main(["report", ".", "--html", "out.html", "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "out.html").read_text(encoding="utf-8") == first


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "needs paths"),
        (["."], "needs --html FILE"),
        (["-", "--html", "x"], "not standard input"),
        ([".", "--html", "no/such/x.html"], "cannot be written"),
        (["nope", "--html", "x.html"], "no such file"),
        ([".", "--html", "x.html", "--select", "TL999"], "unknown rule"),
    ],
)
def test_trouble(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    assert says in capsys.readouterr().err
