"""Coverage-guided fuzzing of everything that reads bytes, with atheris.

    python benchmarks/fuzz_atheris.py [--seconds N] [--seed N] [--only TARGET…] [--out FILE]

Each target runs in a process of its own for that long, from the fixtures as its corpus. A target fails on any exception
but those that it promises. Counts go to results/fuzz.json under "atheris". atheris is no dependency of the project:
`pip install atheris` (it has wheels for some Pythons only).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE / "results" / "fuzz.json"
SEEDS = ("*/bad.py", "*/ok.py")


def expect(holds: bool) -> None:
    """What a target promises beyond not failing."""
    if not holds:
        raise AssertionError("a promise is broken")


def decoder(data: bytes) -> None:
    """Bytes to text and back; what cannot be decoded says where."""
    from torchlint.encoding import Undecodable, decode

    try:
        source = decode(data)
    except Undecodable as error:
        expect(error.row >= 1 <= error.column)
        return
    if source.exact:
        expect(source.encode(source.text) == data)


def parser(data: bytes) -> None:
    """Text to a syntax tree or one line of trouble, and all rules on what parses."""
    from torchlint import prefilter, syntax
    from torchlint.triggers import Scan

    text = "import torch\n" + data.decode("utf-8", "replace")
    found = syntax.parsed(text)
    if isinstance(found, syntax.Trouble):
        expect(bool(found.message) and "\n" not in found.message and found.row >= 1)
    elif found is not None:
        prefilter.Layout("f.py", Scan(text), found)


def suppressions(data: bytes) -> None:
    """Directives lie in the text, and cutting one out leaves the rest."""
    from torchlint.suppress import scan

    text = "x = 1  # torchlint: ignore" + data.decode("utf-8", "replace")
    for one in scan(text):
        expect(0 <= one.start <= one.end <= len(text))
        expect(one.cut[0] <= one.cut[1] and one.first <= one.last)


def config(data: bytes) -> None:
    """Settings are read, or refused in words."""
    from torchlint.config import from_table, parse_toml
    from torchlint.locate import ConfigError
    from torchlint.toml import BrokenToml

    try:
        table = parse_toml("torchlint.toml", data)
        from_table(table, "torchlint.toml", ".")
    except (ConfigError, BrokenToml) as error:
        expect(bool(str(error)))


def notebook(data: bytes) -> None:
    """Cells to a program and back; what is no notebook is refused in words."""
    from torchlint import notebook as cells
    from torchlint.encoding import Undecodable

    try:
        source = cells.decode(data)
    except Undecodable as error:
        expect(bool(error.message))
        return
    cells.python(source.text)
    if source.exact:
        expect(source.encode(source.text) == data)


def baseline(data: bytes) -> None:
    """Accepted findings are read from JSON, or refused in words of one line."""
    from torchlint.baseline import BaselineError, parsed

    try:
        found = parsed("baseline.json", data)
    except BaselineError as error:
        expect(bool(str(error)) and "\n" not in str(error))
        return
    expect(all(entry.path and entry.code and entry.fingerprint for entry in found.entries))


def signed(data: bytes) -> None:
    """Nothing is taken for a result of the verifier's but what was signed; what was signed comes back."""
    from torchlint.verify.channel import Forged, seal, sign, unsealed, verified

    key = "ab" * 32
    try:
        verified(data.decode("utf-8", "replace"), key)
        raise AssertionError("a result is believed without its key")
    except Forged:
        pass
    expect(unsealed(seal(data, key), key) == data)
    text = data.decode("latin-1")
    expect(verified(sign([text], key), key) == [text])


TARGETS: dict[str, Callable[[bytes], None]] = {
    "decoder": decoder, "parser": parser, "suppressions": suppressions, "config": config, "notebook": notebook,
    "baseline": baseline, "signed": signed,
}  # fmt: skip


def corpus(name: str, folder: Path) -> None:
    """What each target starts from."""
    root = HERE.parent
    seeds = [p.read_bytes() for pattern in SEEDS for p in sorted((root / "fixtures").glob(pattern))[:30]]
    if name == "config":
        seeds = [p.read_bytes() for p in sorted((root / "fixtures").rglob("torchlint.toml"))]
        seeds.append(
            b'[tool.torchlint]\nselect = ["TL1"]\nper-file-ignores = { "a" = ["TL201"] }\nseverity = {TL101="info"}\n'
        )
    elif name == "notebook":
        cell = {
            "cell_type": "code",
            "source": ["%matplotlib inline\n", "import torch\n"],
            "metadata": {},
            "outputs": [],
        }
        whole = {"cells": [cell, {**cell, "source": "x = 1"}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        seeds = [json.dumps(whole).encode(), json.dumps(whole, indent=1).encode()]
    elif name == "baseline":
        one = {"path": "a.py", "code": "TL201", "line": "x", "fingerprint": "0123", "message": "m"}
        seeds = [json.dumps({"torchlint-baseline": 1, "findings": found}).encode() for found in ([], [one], [one, one])]
    elif name == "signed":
        seeds = [json.dumps({"body": body, "mac": "00" * 64}).encode() for body in ("{}", "[1]")] + [b"[", b"{}"]
    elif name == "suppressions":
        seeds = [b"[TL201] why\n", b"-file[TL1, TL2]\n", b"\n# noqa: TL201, E501  # noqa\n", *seeds]
    for number, data in enumerate(seeds):
        (folder / str(number)).write_bytes(data)


def fuzz(name: str, seconds: int, seed: int, folder: str) -> None:
    """Run one target in this process; libFuzzer ends it."""
    import atheris

    sys.path.insert(0, str(HERE.parent))
    with atheris.instrument_imports(include=["torchlint"]):
        import torchlint.baseline
        import torchlint.config
        import torchlint.encoding
        import torchlint.notebook
        import torchlint.prefilter
        import torchlint.suppress
        import torchlint.syntax
        import torchlint.verify.channel  # noqa: F401
    flags = [f"-max_total_time={seconds}", f"-seed={seed}", "-max_len=4096", "-rss_limit_mb=4096", "-timeout=60"]
    atheris.Setup([sys.argv[0], *flags, f"-artifact_prefix={folder}/crash-", f"{folder}/corpus"], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=int, default=120)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--only", nargs="*", choices=TARGETS, default=list(TARGETS))
    arguments.add_argument("--out", type=Path, default=OUT)
    arguments.add_argument("--target", nargs=2, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.target:
        fuzz(args.target[0], args.seconds, args.seed, args.target[1])
        return 0
    results: dict[str, dict[str, object]] = {}
    for name in args.only:
        with tempfile.TemporaryDirectory(prefix="torchlint-atheris-") as folder:
            (Path(folder) / "corpus").mkdir()
            corpus(name, Path(folder) / "corpus")
            command = [sys.executable, __file__, "--seconds", str(args.seconds), "--seed", str(args.seed)]
            done = subprocess.run(
                [*command, "--target", name, folder], capture_output=True, text=True, errors="replace"
            )
            runs = re.findall(r"Done (\d+) runs", done.stderr) or re.findall(r"^#(\d+)", done.stderr, re.M)
            covered = re.findall(r"cov: (\d+)", done.stderr)
            crashes = [p.read_bytes() for p in sorted(Path(folder).glob("crash-*"))]
            results[name] = {
                "runs": int(runs[-1]) if runs else 0,
                "edges": int(covered[-1]) if covered else 0,
                "seconds": args.seconds,
                "crashes": [repr(c[:300]) for c in crashes],
            }
            print(name, results[name], flush=True)
            if crashes or not runs:
                print(done.stderr[-3000:], flush=True)
    old = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    merged = {**old.get("atheris", {}), **results, "seed": args.seed}
    args.out.write_text(json.dumps({**old, "atheris": merged}, indent=1) + "\n", encoding="utf-8")
    return 1 if any(r["crashes"] or not r["runs"] for r in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
