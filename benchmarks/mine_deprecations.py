"""Write the tables of what torch, torchvision, torchaudio and functorch have deprecated and removed, mined from them.

    python benchmarks/mine_deprecations.py [PACKAGE…] --earlier FOLDER [--packages FOLDER] [--out FOLDER]

The newest release is the one that is installed beside this Python (nothing of it is imported or run), or lies unpacked
in a subfolder of --packages. FOLDER holds earlier releases, unpacked wheels named `<version>` (torch) or
`<package>-<version>`: the first of them that marks a name says since when it is deprecated, the first that lacks it, or
only raises in its place, since when it is gone. A mark is `@deprecated`, a warning about deprecation that a function
gives in any call or for one of its arguments, an alias made by a function that warns, or a sentence of the docs.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import importlib.util
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Version = tuple[int, int]

OUT = Path(__file__).parent.parent / "torchlint" / "semantics" / "deprecations"
PACKAGES = {
    "torch": ("torch", "functorch"),
    "torchvision": ("torchvision",),
    "torchaudio": ("torchaudio",),
    "functorch": ("functorch", "torch/_functorch"),  # its names live in the second, out of the first table's sight
}
# Parts of a path that users do not import from, or that are about others' deprecations.
_PRIVATE = re.compile(
    r"(^|/)(testing|_?test\w*|prototype|onnx|_(?!linalg_utils|torch_docs|six|utils|api|jit_internal)\w+)/"
)
_WORD = re.compile(r"deprecat|will be removed|has been removed|is removed", re.I)
_DOCUMENTED = re.compile(
    r"^\.\. deprecated::|(?:this|the) (?:function|class|method|module|api|namespace|package|location)(?: is| has been)"
    r"(?: now)?(?: in the process of being)? deprecated|(?::\w+:)?`~?[\w.]+` is(?: now)? deprecated (?:in favor|and)",
    re.I | re.M,
)
# What is not public by its name and was used by everybody all the same.
_KNOWN = ("torch._six",)


@dataclass
class Mark:
    """How a name, or one argument of it, is marked in one release."""

    how: str  # "decorator", "warns", "raises", "alias", "documented"
    message: str


@dataclass
class Release:
    """What one release defines (`names`, with their parameters) and what of it is marked."""

    version: Version
    names: dict[str, tuple[str, ...] | None] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)
    arguments: dict[tuple[str, str], Mark] = field(default_factory=dict)
    exports: dict[str, set[str]] = field(default_factory=dict)  # where a definition is importable from, too
    weights: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)


# -- one release ----------------------------------------------------------------------------------------------------


def read(root: Path, packages: tuple[str, ...], version: Version) -> Release:
    """Everything that one unpacked release says."""
    release = Release(version)
    stars: list[tuple[str, str]] = []
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            relative = path.relative_to(root).as_posix()
            if _PRIVATE.search(relative.removeprefix(package)):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    tree = ast.parse(path.read_text(encoding="utf-8"))
                except (SyntaxError, UnicodeDecodeError):
                    continue
            module = relative.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            _Module(release, module, relative.endswith("__init__.py"), stars).read(tree)
    for module, source in stars:
        for name in [n for n in release.names if n.rpartition(".")[0] == source]:
            if not name.rpartition(".")[2].startswith("_"):
                release.exports.setdefault(name, set()).add(f"{module}.{name.rpartition('.')[2]}")
    return release


class _Module:
    def __init__(self, release: Release, module: str, is_package: bool, stars: list[tuple[str, str]]) -> None:
        self.release, self.module, self.stars = release, module, stars
        self.package = module if is_package else module.rpartition(".")[0]

    def read(self, tree: ast.Module) -> None:
        self.release.names[self.module] = None
        self._documented(self.module, ast.get_docstring(tree))
        for node in _statements(tree.body):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                self._definition(node, self.module)
            elif isinstance(node, ast.ImportFrom):
                self._import(node)
            elif isinstance(node, ast.Assign):
                self._assign(node)
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                self._add_docstr(node.value)

    def _import(self, node: ast.ImportFrom) -> None:
        parts = self.package.split(".")
        base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
        source = ".".join(filter(None, (base, node.module or "")))
        for alias in node.names:
            if alias.name == "*":
                self.stars.append((self.module, source))
            else:
                exported = f"{self.module}.{alias.asname or alias.name}"
                self.release.exports.setdefault(f"{source}.{alias.name}", set()).add(exported)

    def _assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            if not isinstance(target, ast.Name):
                continue
            name = f"{self.module}.{target.id}"
            self.release.names.setdefault(name, None)
            value = node.value
            if isinstance(value, ast.Call) and "deprecate" in ast.unparse(value.func) and value.args:
                if isinstance(value.args[0], ast.Name):
                    new = f"{self.module}.{value.args[0].id}"
                    self.release.marks[name] = Mark("alias", f"`{name}` is deprecated in favor of `{new}`")
            if "deprecated" in target.id and isinstance(value, ast.Dict):
                for key, new_value in zip(value.keys, value.values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(key.value, str):
                        old = f"{self.module}.{key.value}"
                        message = f"`{old}` is deprecated, please use `{ast.unparse(new_value)}()`"
                        self.release.names[old] = None
                        self.release.marks[old] = Mark("alias", message)

    def _add_docstr(self, call: ast.Call) -> None:
        """`add_docstr(torch.range, r\"\"\"…\"\"\")`: functions that are written in C++."""
        if ast.unparse(call.func).rpartition(".")[2] != "add_docstr" or len(call.args) != 2:
            return
        name = ast.unparse(call.args[0])
        text = "".join(
            n.value for n in ast.walk(call.args[1]) if isinstance(n, ast.Constant) and isinstance(n.value, str)
        )
        self.release.names.setdefault(name, None)
        self._documented(name, text)

    def _documented(self, name: str, text: str | None) -> None:
        if text and (match := _DOCUMENTED.search(text)) and name not in self.release.marks:
            sentence = re.split(r"(?<=\w\.)\s", text[match.start() :].replace(".. deprecated::", ""), maxsplit=1)[0]
            self.release.marks[name] = Mark("documented", " ".join(sentence.split())[:300])

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, owner: str) -> None:
        name = f"{owner}.{node.name}"
        if node.name.startswith("__") and node.name not in ("__init__", "__new__"):
            return
        constructor = node.name in ("__init__", "__new__")
        described = owner if constructor else name
        if isinstance(node, ast.ClassDef):
            self.release.names.setdefault(name, None)
            self._decorators(node, name)
            for child in node.body:
                if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    self._definition(child, name)
        else:
            args = node.args
            self.release.names[described] = tuple(a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)) + (
                ("**",) if args.kwarg else ()
            )
            self._decorators(node, described)
            self._body(node, described)
        self._documented(described, ast.get_docstring(node))

    def _decorators(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, name: str) -> None:
        if any(ast.unparse(decorator).rpartition(".")[2] == "overload" for decorator in node.decorator_list):
            return  # one form of a call that has others
        for decorator in node.decorator_list:
            if not isinstance(decorator, ast.Call):
                continue
            called = ast.unparse(decorator.func).rpartition(".")[2]
            if called in ("deprecated", "_deprecated", "dropping_support", "dropping_class_support"):
                self.release.marks.setdefault(name, Mark("decorator", _text(decorator)))
            elif called == "handle_legacy_interface":
                old_to_new = self.release.weights.setdefault(name, {})
                for keyword in decorator.keywords:
                    if isinstance(keyword.value, ast.Tuple) and isinstance(keyword.value.elts[0], ast.Constant):
                        default = keyword.value.elts[1]
                        enum = ast.unparse(default) if isinstance(default, ast.Attribute) else ""
                        old_to_new[str(keyword.value.elts[0].value)] = (str(keyword.arg), enum)

    def _body(self, node: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> None:
        parameters = {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)} - {"self"}
        for statement in node.body:
            text = _warning(statement)
            if text is not None and _WORD.search(text):
                self.release.marks.setdefault(name, Mark("warns", text))
            elif isinstance(statement, ast.Raise) and re.search(r"deprecat|removed", ast.unparse(statement)):
                raised = statement.exc
                self.release.marks[name] = Mark("raises", _text(raised) if isinstance(raised, ast.Call) else "")
            elif isinstance(statement, ast.If):
                tested = {n.id for n in ast.walk(statement.test) if isinstance(n, ast.Name)} & parameters
                texts = [t for s in statement.body if (t := _warning(s)) is not None and _WORD.search(t)]
                if len(tested) == 1 and texts:
                    self.release.arguments.setdefault((name, tested.pop()), Mark("warns", texts[0]))


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The module's statements, those under `if` and `try` included."""
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try)):
            yield from _statements(node.body)
            yield from _statements(node.orelse)


def _warning(node: ast.stmt) -> str | None:
    """The text of `warnings.warn(…)`, None for other statements."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = ast.unparse(node.value.func)
        if called in ("warnings.warn", "warn", "_warn", "logger.warning", "warn_deprecated"):
            return _text(node.value) or called
    return None


def _text(call: ast.Call) -> str:
    parts = [
        n.value
        for a in call.args
        for n in ast.walk(a)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and " " in n.value.strip()
    ]
    return " ".join(" ".join(parts).split())[:300]


# -- all releases ---------------------------------------------------------------------------------------------------


def public(name: str) -> bool:
    return name.startswith(_KNOWN) or not any(part.startswith("_") for part in name.split("."))


def spellings(release: Release, name: str) -> list[str]:
    """The names by which users reach a definition, shortest first; its own name if there is no public one."""
    own, found, queue = name, {name}, [name]
    while queue:
        for other in release.exports.get(queue.pop(), ()):
            if other not in found:
                found.add(other)
                queue.append(other)
    return sorted(filter(public, found), key=lambda n: (n.count("."), len(n), n)) or [own]


def rows(releases: list[Release]) -> dict[str, dict[str, object]]:
    """One row per name that is marked in any release or gone from the newest."""
    marked = [{s for name in r.marks for s in spellings(r, name)} for r in releases]
    reachable = [set(r.names) | {e for alias in r.exports.values() for e in alias} for r in releases]
    table: dict[str, dict[str, object]] = {}
    for at, release in enumerate(releases):
        for name, mark in release.marks.items():
            first, *others = spellings(release, name)
            if not public(first) and mark.how != "raises":
                continue
            row = table.setdefault(first, {"how": mark.how, "since": None, "removed": None, "message": "", "also": []})
            if mark.how == "raises":
                row["removed"] = row["removed"] or _text_of(release.version)
            else:
                row["since"] = row["since"] or _text_of(release.version, earliest=at == 0)
                row["how"] = mark.how
            row["message"] = mark.message or row["message"]
            row["also"] = sorted({*row["also"], *filter(public, others)})  # type: ignore[misc]
    for first, row in table.items():
        if stated := re.search(r"(?:as of|since)(?: PyTorch| version)* v?(\d+)\.(\d+)", str(row["message"])):
            known = min((int(stated[1]), int(stated[2])), _version_of(row["since"]))  # what torch says itself
            row["since"] = _text_of(known)
        last = max((i for i, names in enumerate(reachable) if first in names), default=None)
        if row["removed"] is None and last is not None and last + 1 < len(releases):
            row["removed"] = _text_of(releases[last + 1].version)
        names = {first, *row["also"]}  # type: ignore[misc]
        if row["removed"] is None and not names & marked[-1]:
            # The mark was taken back: torch no longer says it.
            last = max(i for i, marks in enumerate(marked) if names & marks)
            row["withdrawn"] = _text_of(releases[last + 1].version)
    for at, names in enumerate(reachable[:-1]):
        for name in names - reachable[-1]:
            if public(name) and name not in table and name.count(".") < 4 and _offered(name, releases[at]):
                last = max(i for i, names in enumerate(reachable) if name in names)  # some come back before they go
                gone = releases[last + 1].version
                table[name] = {"how": "gone", "since": None, "removed": _text_of(gone), "message": "", "also": []}
    return table


def _version_of(text: object) -> Version:
    if not isinstance(text, str):
        return (99, 0)
    major, _, minor = text.removeprefix("<=").partition(".")
    return int(major), int(minor)


def _offered(name: str, release: Release) -> bool:
    """Whether a name was meant for users: defined by its module, or a function of C++ with docs."""
    return name in release.names


def _text_of(version: Version, earliest: bool = False) -> str:
    return f"{'<=' if earliest else ''}{version[0]}.{version[1]}"


def argument_rows(releases: list[Release]) -> dict[str, dict[str, object]]:
    """`name(argument)` for each argument that is warned about, or that the newest signature lacks."""
    table: dict[str, dict[str, object]] = {}
    newest = releases[-1]
    for at, release in enumerate(releases):
        for (name, argument), mark in release.arguments.items():
            first = spellings(release, name)[0]
            if public(first):
                row = table.setdefault(
                    f"{first}({argument})",
                    {"since": _text_of(release.version, earliest=at == 0), "removed": None, "message": mark.message},
                )
                row["message"] = mark.message
        for name, parameters in release.names.items():
            now = newest.names.get(name)
            if parameters is None or now is None or "**" in now:
                continue
            for argument in set(parameters) - set(now) - {"self", "**", "cls"}:
                first = spellings(release, name)[0]
                if public(first) and not argument.startswith("_"):
                    row = table.setdefault(f"{first}({argument})", {"since": None, "removed": None, "message": ""})
                    gone = (r.version for r in releases[at:] if argument not in (r.names.get(name) or (argument,)))
                    row["removed"] = row["removed"] or _text_of(next(gone, newest.version))
    return table


def weight_rows(release: Release) -> dict[str, dict[str, list[str]]]:
    """torchvision's model builders: old argument → new argument and what True stood for."""
    return {
        spellings(release, name)[0]: {old: list(new) for old, new in sorted(arguments.items())}
        for name, arguments in sorted(release.weights.items())
        if public(name.rpartition(".")[2])
    }


def _installed(package: str, folder: Path | None) -> tuple[Path, Version] | None:
    """Where the newest release of a package lies, and which it is."""
    if folder is not None and (folder / package / package / "version.py").exists():
        root = folder / package
        text = (root / package / "version.py").read_text()
    else:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            return None
        distribution = "torch" if package == "functorch" else package
        root, text = Path(spec.origin).parent.parent, importlib.metadata.version(distribution)
    match = re.search(r"(\d+)\.(\d+)", text)
    return (root, (int(match[1]), int(match[2]))) if match else None


def mine(package: str, earlier: Path | None, folder: Path | None = None) -> dict[str, object] | None:
    """The table of one package; None where it is not installed."""
    newest = _installed(package, folder)
    if newest is None:
        return None
    found: list[tuple[Version, Path]] = []
    for path in sorted(earlier.iterdir()) if earlier is not None else ():
        match = re.fullmatch(r"(?:(\w+)-)?(\d+)\.(\d+)(?:\.\d+)*", path.name)
        if match and (match[1] or "torch") == package and path.is_dir():
            found.append(((int(match[2]), int(match[3])), path))
    found = sorted(f for f in found if f[0] < newest[1])
    releases = [read(path, PACKAGES[package], version) for version, path in found]
    releases.append(read(newest[0], PACKAGES[package], newest[1]))
    result: dict[str, object] = {
        "version": _text_of(newest[1]),
        "releases": [_text_of(r.version) for r in releases],
        "names": dict(sorted(rows(releases).items())),
        "arguments": dict(sorted(argument_rows(releases).items())),
    }
    if package == "torchvision":
        result["weights"] = weight_rows(releases[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", nargs="*", metavar="PACKAGE", help="only these tables")
    parser.add_argument("--earlier", type=Path, required=True)
    parser.add_argument("--packages", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    for package in options.package or PACKAGES:
        table = mine(package, options.earlier, options.packages)
        if table is None:
            print(f"{package}: not installed, its table is left as it is")
            continue
        text = json.dumps(table, indent=0, ensure_ascii=False)
        (options.out / f"{package}.json").write_text(text + "\n", encoding="utf-8")
        print(f"{package} {table['version']}: {len(table['names'])} names, {len(table['arguments'])} arguments")  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
