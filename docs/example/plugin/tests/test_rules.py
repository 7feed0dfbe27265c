"""The rules against their fixtures."""

from pathlib import Path

import pytest
from torchlint.testing import Suite

HERE = Path(__file__).parents[1]
SUITE = Suite(HERE / "acme_lint" / "rules", HERE / "fixtures")


@pytest.mark.parametrize("check", SUITE.checks(), ids=str)
def test_rules(check):
    check()
