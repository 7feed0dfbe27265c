"""The `verify` verb: runs the cases of the selected rules on what the autofix really makes, and reports."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torchlint.catalogue import load
from torchlint.plugins import Asked, BadFolder
from torchlint.rule import Rule, UnknownRule, select

if TYPE_CHECKING:
    from torchlint.verify.verdict import CaseVerdict


def can_run() -> bool:
    """Whether this system can run code in a child of its own making; says so where it cannot."""
    if hasattr(os, "fork"):
        return True
    print(
        "torchlint: the verifier needs os.fork, which this system does not have; it runs on Linux and, with fewer "
        "walls around the code, on macOS. check and fix do not need it",
        file=sys.stderr,
    )
    return False


def fixtures_folder() -> Path:
    """Where the fixtures lie: beside the package in a wheel, at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "fixtures"
    return shipped if shipped.is_dir() else package.parent / "fixtures"


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="torchlint verify",
        description="Run each rule's code before and after its own fix and compare.",
        epilog="torchlint verify --run [PATH...] [--steps N] [--seed S] -- COMMAND... compares your own whole run with "
        "and without the fixes, step by step; nothing is written.",
    )
    result.add_argument("rules", nargs="*", metavar="RULE", help="codes, names or prefixes; default: all with a fix")
    result.add_argument(
        "--rules", dest="folders", action="append", default=[], metavar="DIR",
        help="the rules in this folder, by the cases in DIR/fixtures; runs their code",
    )  # fmt: skip
    result.add_argument("--device", choices=("cpu", "cuda", "auto"), default="cpu")
    result.add_argument("--size", type=_size, action="append", metavar="N", help="instead of the cases' own sizes")
    result.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts as JSON")
    result.add_argument("--html", type=Path, metavar="FILE", help="write a self-contained report")
    return result


def _size(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("a size is at least 1")
    return value


def main(argv: Sequence[str]) -> int:
    """Exit code 0: every case holds; 1: one does not; 2: it could not be run at all."""
    if not can_run():
        return 2
    if "--run" in (argv[: list(argv).index("--")] if "--" in argv else argv):
        from torchlint.verify.proving import compare_runs

        return compare_runs(argv)
    options = parser().parse_args(argv)
    if importlib.util.find_spec("torch") is None:
        print("torchlint verify runs code and needs torch: pip install 'torchlint[verify]'", file=sys.stderr)
        return 2
    try:
        with Asked(options.folders):
            return _verify(options)
    except (UnknownRule, BadFolder) as error:
        print(error, file=sys.stderr)
        return 2


def _verify(options: argparse.Namespace) -> int:
    """Raises UnknownRule."""
    rules = list(select(load(), options.rules or ["ALL"]))
    own = [Path(folder).absolute() / "fixtures" for folder in options.folders]
    if own and not options.rules:  # the folder's rules are meant
        rules = [rule for rule in rules if any((folder / _fixture(rule)).is_dir() for folder in own)]
    from torchlint.verify.cases import resolve_device

    device = resolve_device(options.device)
    if device == "cuda" and resolve_device("auto") != "cuda":
        print("--device cuda: torch sees no CUDA device here; use --device cpu", file=sys.stderr)
        return 2
    results: dict[str, list[CaseVerdict]] = {}
    for rule in rules:
        home = next((folder / _fixture(rule) for folder in own if (folder / _fixture(rule)).is_dir()), None)
        verdicts = verify(rule, device, options.size, home)
        if verdicts:
            results[f"{rule.code} {rule.name}"] = verdicts
            print(_progress(rule, verdicts), file=sys.stderr, flush=True)
    if not results:
        print("none of these rules has cases to run (fixtures/<rule>/run.py)", file=sys.stderr)
        return 2
    _report(results, device, options.json, options.html)
    return 0 if all(v.holds for group in results.values() for v in group) else 1


def verify(
    rule: Rule, device: str, sizes: Sequence[int] | None = None, folder: Path | None = None
) -> list[CaseVerdict]:
    """The verdicts on one rule's cases; empty where it has none. Never raises for what its fixture does."""
    from torchlint.config import Config
    from torchlint.fix import fix_text
    from torchlint.verify.cases import load_cases, run_module, verify_rule
    from torchlint.verify.ranks import verify_ranks
    from torchlint.verify.verdict import Behaviour, BehaviourVerdict, CaseVerdict

    folder = folder or fixtures_folder() / _fixture(rule)
    if not (folder / "run.py").is_file():
        return []
    try:
        before = (folder / "bad.py").read_text(encoding="utf-8")
        after = fix_text(str(folder / "bad.py"), before, [rule], Config(), unsafe=True).text
        verdicts = verify_rule(before, after, load_cases(folder), device=device, sizes=sizes)
        scripts = getattr(run_module(folder), "RANK_CASES", ())
        return [*verdicts, *verify_ranks(scripts, lambda text: _offered(rule, text))]
    except Exception as error:
        reason = f"the cases cannot be run: {type(error).__name__}: {error}"
        verdict = BehaviourVerdict(Behaviour.NOT_VERIFIABLE, reason)
        return [CaseVerdict("run.py", verdict, failures=(str(verdict),))]


def _fixture(rule: Rule) -> str:
    return rule.name.replace("-", "_")


def _offered(rule: Rule, text: str) -> str:
    """A script with the first fix that the rule offers for it, suggestions included."""
    from torchlint.check import check_text
    from torchlint.config import Config
    from torchlint.diagnostic import splice

    fixes = [d.fix for d in check_text("train.py", text, [rule], Config()) if d.fix is not None]
    return splice(text, fixes[0].edits) if fixes else text


def _progress(rule: Rule, verdicts: Sequence[CaseVerdict]) -> str:
    held = sum(v.holds for v in verdicts)
    return f"{rule.code} {rule.name}: {held} of {len(verdicts)} cases hold"


def _report(results: dict[str, list[CaseVerdict]], device: str, json_file: Path | None, html_file: Path | None) -> None:
    from torchlint.verify.page import render_page
    from torchlint.verify.table import document, machine_facts, render

    sys.stdout.write(render(results))
    facts = machine_facts(device)
    if json_file is not None:
        text = json.dumps(document(results, facts), indent=2, ensure_ascii=False)
        json_file.write_text(text + "\n", encoding="utf-8")
    if html_file is not None:
        html_file.write_text(render_page(results, facts), encoding="utf-8")
