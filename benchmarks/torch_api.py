"""Whether the sources of a torch have every name that the verifier uses: `python benchmarks/torch_api.py FOLDER`.

FOLDER is the `torch` folder of an unpacked wheel; wheels for macOS hold the same Python files and are small. Nothing of
it is imported. Names that a package re-exports by a star are looked for by text in its folder.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

VERIFY = Path(__file__).parent.parent / "torchlint" / "verify"


def used() -> set[str]:
    """The dotted names of torch in the verifier's sources, through imports and aliases."""
    names: set[str] = set()
    for file in VERIFY.glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        alias: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for a in node.names:
                    if a.name.split(".")[0] == "torch":
                        alias[a.asname or "torch"] = a.name if a.asname else "torch"
                        names.add(a.name)
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "torch":
                for a in node.names:
                    alias[a.asname or a.name] = f"{node.module}.{a.name}"
                    names.add(f"{node.module}.{a.name}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and (name := _dotted(node, alias)):
                names.add(name)
    return names


def _dotted(node: ast.expr, alias: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value, alias)
        return f"{owner}.{node.attr}" if owner else ""
    return alias.get(node.id, "") if isinstance(node, ast.Name) else ""


def has(torch: Path, name: str) -> bool:
    """Whether a name is a module of the folder, or a word in the module that should have it."""
    place, rest = torch, name.split(".")[1:]
    while rest and place.is_dir():
        if (place / rest[0]).is_dir():
            place = place / rest.pop(0)
        elif (place / f"{rest[0]}.py").exists():
            place = place / f"{rest.pop(0)}.py"
        else:
            break
    if not rest:
        return True
    files = [place] if place.is_file() else sorted(place.glob("*.py*"))  # torch._C has stubs only
    if place == torch:
        files += [torch / "_C" / "__init__.pyi", torch / "_C" / "_VariableFunctions.pyi"]
    elif place.is_dir():
        files += sorted(place.glob("modules/*.py"))
    word = re.compile(rf"\b{re.escape(rest[0])}\b")
    return any(word.search(f.read_text(encoding="utf-8", errors="replace")) for f in files if f.exists())


def main() -> int:
    torch = Path(sys.argv[1])
    names = sorted(used())
    missing = [name for name in names if not has(torch, name)]
    print(f"{len(names)} names, {len(missing)} not there", *missing, sep="\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
