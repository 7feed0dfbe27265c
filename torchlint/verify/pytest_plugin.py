"""`pytest --torchlint-verify[=PATH]`: judges torchlint's fixes by the calls that the tests make.

Every edited function that the tests call is forked, original and fixed, from the same state. Nothing is written.
Without the option this module does nothing, and neither it nor what it imports is heavy.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torchlint.verify.userrun import UserRun

_state: dict[str, Any] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("torchlint")
    group.addoption(
        "--torchlint-verify",
        metavar="PATH",
        nargs="?",
        const=".",
        default=None,
        help="judge torchlint's fixes of PATH (default: .) by the calls that the tests make; nothing is written",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before any conftest imports the code under test: the loaders must be in place by then."""
    path = getattr(early_config.known_args_namespace, "torchlint_verify", None)
    if path is None:
        return
    from torchlint.discover import DOCUMENTS
    from torchlint.options import parse
    from torchlint.session import Session
    from torchlint.verify import agent
    from torchlint.verify.userrun import planned

    session = Session(parse(["fix", "--verify=run", "--no-cache", path]))
    session.check()
    made = [one for one in session.fix(True) if one.applied and not one.path.endswith((".ipynb", *DOCUMENTS))]
    files = {one.path: (session.source(one.path), one.text) for one in made}
    run, plan = planned(files, None)
    out = tempfile.mkdtemp(prefix="torchlint-verdicts-")
    plan_path = os.path.join(out, ".plan")
    with open(plan_path, "w", encoding="utf-8") as file:
        json.dump({**plan, "out": out}, file)
    agent.start(plan_path)
    found = [(d.path, d.row, d.code) for d in session.result.diagnostics if d.fix is not None]
    _state.update(run=run, out=out, found=found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _state:
        return
    from torchlint.verify.userrun import gather

    run: UserRun = _state["run"]
    gather(run, _state["out"])
    terminalreporter.section("torchlint verify")
    for path, why in sorted(run.whole_files.items()):
        terminalreporter.write_line(f"{path}: not-verifiable({why})")
    for f in run.functions:
        first, last = f.function.before
        codes = {code for path, row, code in _state["found"] if path == f.path and first <= row <= last}
        place = f"{f.path}:{first} {f.function.name}"
        compared = f"; {f.verified} of {f.calls} calls compared" if f.calls else ""
        terminalreporter.write_line(f"{place}: {'+'.join(sorted(codes))}  {f.verdict}{compared}")
    if not run.functions and not run.whole_files:
        terminalreporter.write_line("no fixes to judge")


def pytest_unconfigure() -> None:
    if _state:
        shutil.rmtree(_state.pop("out"), ignore_errors=True)
        _state.clear()
