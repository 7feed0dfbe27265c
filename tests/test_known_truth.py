"""Generated programs of which is known what is wrong: the rules find that, where it is, and nothing else."""

from __future__ import annotations

from collections import Counter

from fuzzing.programs import IMPORTS, JUDGED, Piece, Program, evaluations, programs, rows, trainings
from fuzzing.project import findings
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from torchlint.testing.case import markers

# The same programs in every run; `benchmarks/fuzz.py` draws others.
SETTINGS = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def judged(program: Program) -> None:
    """Fails with the program's text where findings and truth differ."""
    files = program.files
    text = files["program.py"]
    compile(text, "program.py", "exec")
    expected = Counter((m.code, m.row) for m in markers("program.py", text))
    found = Counter((d.code, d.row) for d in findings(files) if d.path == "program.py" and d.code in JUDGED)
    assert found == expected, f"missed {expected - found}, false {found - expected} in\n{text}"


def test_every_way_to_clear_is_drawn() -> None:
    """The strategies reach every rule that is judged: no rule is silent because nothing asks for it."""
    asked: set[str] = set()

    @settings(SETTINGS, max_examples=200, phases=(Phase.generate,))
    @given(programs)
    def draw(program: Program) -> None:
        asked.update(m.code for m in markers("program.py", program.files["program.py"]))

    draw()
    assert asked == JUDGED


@settings(SETTINGS, max_examples=120)
@given(st.one_of(trainings(), evaluations, rows), st.sampled_from(IMPORTS), st.booleans())
def test_one_piece(piece: Piece, use: object, noise: bool) -> None:
    judged(Program(use, (piece,), noise))  # type: ignore[arg-type]


@settings(SETTINGS, max_examples=40)
@given(programs)
def test_pieces_beside_each_other(program: Program) -> None:
    judged(program)
