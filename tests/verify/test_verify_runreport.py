"""The report of a run: the same facts on the terminal, in JSON and on the page; the plot of a divergence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import torchlint.verify  # noqa: E402
from torchlint.verify.compare import deviation  # noqa: E402
from torchlint.verify.observe import Observation, leaf  # noqa: E402
from torchlint.verify.page import divergence_plot  # noqa: E402
from torchlint.verify.proving import accepts  # noqa: E402
from torchlint.verify.runreport import RunReport  # noqa: E402
from torchlint.verify.search import Judged, Search, Step  # noqa: E402
from torchlint.verify.verdict import (  # noqa: E402
    Behaviour,
    BehaviourVerdict,
    Cost,
    CostVerdict,
    MemoryVerdict,
    Point,
    Speed,
    Trend,
)

COST = Cost(
    CostVerdict(Speed.FASTER, 2.0, 1.5, 2.5), MemoryVerdict(Trend.SAVES, (2048, 1024), (10, 0)), {"ops": (5, 3)}
)
CURVE = (Point(1, 0.0, 0.0), Point(2, 1e-3, 1e-7), Point(3, 0.5, 1e-6))


def report() -> RunReport:
    search = Search("train.py", ("<b>",), 7, frozenset({"TL501", "TL104"}), accepts("intended"))
    search.accepted = [Step(("TL501",), Judged(BehaviourVerdict(Behaviour.BITWISE), 3, 9, cost=COST))]
    refused = BehaviourVerdict(Behaviour.DIFFERENT, "step 2: loss 1: value 1 → 2")
    search.refused = [Step(("TL104",), Judged(refused, 3, 3, "steps", curve=CURVE), frozenset({"TL501"}))]
    return RunReport([search], ("train.py",), ("a note",), ("walls",), 4, 1.5, ["python", "train.py"])


def test_the_terminal() -> None:
    text = report().text(whole=False)
    assert "TL501  equivalent-bitwise; 3 of 9 calls compared; faster ×2 [1.5, 2.5]; memory saves" in text
    assert "TL104  different(step 2: loss 1: value 1 → 2); 3 steps compared" in text
    assert "1 of 2 fixes proven; written to train.py; the command was run 4 times, 1.5 s in all" in text
    assert "sandbox: walls" in text


def test_a_refused_fix_that_is_meant_to_change_something_is_left_to_the_user() -> None:
    note = "TL104 in train.py:7 <b> is meant to change what is computed"
    assert note in report().text(whole=False)
    assert any(told.startswith(note) for told in json.loads(report().json())["notes"])
    equal = report()
    equal.searches[0].refused = [Step(("TL501",), equal.searches[0].refused[0].judged)]
    assert "meant to change" not in equal.text(whole=False)


def test_a_proven_fix_that_is_slower_here_is_said_to_be() -> None:
    one = report()
    slower = Cost(CostVerdict(Speed.SLOWER, 0.5, 0.4, 0.6))
    one.searches[0].accepted = [Step(("TL501",), Judged(BehaviourVerdict(Behaviour.BITWISE), 3, 9, cost=slower))]
    assert "note: proven, and slower on the data of this run: TL501 in train.py:7 <b>" in one.text(whole=False)


def test_the_json_keeps_to_its_schema() -> None:
    document = json.loads(report().json())
    jsonschema = pytest.importorskip("jsonschema")
    schema = Path(torchlint.verify.__file__).with_name("run_schema.json")
    jsonschema.validate(document, json.loads(schema.read_text("utf-8")))
    (unit,) = document["units"]
    assert unit["refused"][0]["on_top_of"] == ["TL501"]
    assert unit["refused"][0]["curve"][2] == {"step": 3, "fixed": 0.5, "nudged": 1e-6}


def test_the_page() -> None:
    page = report().html()
    assert "train.py:7 &lt;b&gt;" in page
    assert page.count("<polyline") == 2
    assert "1e-" in divergence_plot(CURVE)
    assert page.count("<svg") == 3  # time and memory of the proven one, the divergence of the other
    assert "<dt>note</dt><dd>a note</dd>" in page
    assert "<dt>sandbox</dt><dd>walls</dd>" in page
    assert "<script" not in page


def test_only_short_curves_have_markers() -> None:
    assert "<circle" in divergence_plot(CURVE)
    assert "<circle" not in divergence_plot([Point(i, 1e-3, 1e-7) for i in range(1, 100)])


def test_a_gradient_that_is_zero_but_for_rounding_is_no_deviation() -> None:
    def record(small: float, large: float) -> Observation:
        values = {"gradient 0.0": torch.full((4,), small), "gradient 0.1": torch.full((4,), large)}
        return Observation({path: leaf(value) for path, value in values.items()})

    assert deviation(record(1e-10, 1.0), record(-1e-10, 1.0)) < 1e-9
    assert deviation(record(0.0, 1.0), record(0.0, 1.1)) == pytest.approx(0.1, rel=1e-3)
    assert deviation(record(0.0, 1.0), Observation()) == 1.0
    assert deviation(record(0.0, 1.0), record(0.0, 1.0)) == 0.0
