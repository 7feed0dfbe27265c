"""Options of the test run: `--bless` rewrites what fixtures generate; slow tests say so and can be left out."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bless",
        action="store_true",
        help="write the .out and .fixed.py files of fixtures/ from what torchlint does now; markers are never written",
    )


@pytest.fixture(scope="session")
def bless(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--bless"))
