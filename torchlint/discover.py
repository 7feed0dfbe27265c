"""Which files a run reads: .py files, .ipynb notebooks and, where they are wanted, documents that may hold Python,
without what git ignores and what the project excludes.

A file that is named is always taken. Directory links are not followed, so a loop of links cannot trap the walk.
"""

from __future__ import annotations

import os
import stat

from torchlint.locate import MARKS

DEFAULT_EXCLUDE = (
    ".bzr", ".direnv", ".eggs", ".git", ".git-rewrite", ".hg", ".ipynb_checkpoints", ".mypy_cache", ".nox", ".pants.d",
    ".pyenv", ".pytest_cache", ".pytype", ".ruff_cache", ".svn", ".torchlint_cache", ".tox", ".venv", ".vscode",
    "__pycache__", "__pypackages__", "_build", "buck-out", "build", "dist", "node_modules", "site-packages", "venv",
)  # fmt: skip

CODE = (".py", ".ipynb")
DOCUMENTS = (".md", ".markdown", ".mdx", ".qmd", ".rst")


class Excluder:
    """Matches the exclude patterns: a bare name anywhere, a glob on the name, or a path from the root."""

    def __init__(self, patterns: tuple[str, ...], root: str) -> None:
        self.names = {p.rstrip("/") for p in patterns if "/" not in p.rstrip("/") and not _is_glob(p)}
        globs = [p.rstrip("/") for p in patterns if p.rstrip("/") not in self.names]
        self.root = root.rstrip(os.sep) + os.sep
        self._globs = None
        if globs:
            import fnmatch
            import re

            self._globs = re.compile(
                "|".join(fnmatch.translate(g.removeprefix("./").replace("**/", "*")) for g in globs)
            )

    def __call__(self, name: str, path: str) -> bool:
        if name in self.names:
            return True
        if self._globs is None:
            return False
        if self._globs.match(name):
            return True
        full = os.path.abspath(path)
        relative = full[len(self.root) :] if full.startswith(self.root) else full
        return bool(self._globs.match(relative.replace(os.sep, "/")) or self._globs.match(full))


def _is_glob(pattern: str) -> bool:
    return any(c in pattern for c in "*?[")


class Ignores:
    """The patterns of one .gitignore file; `verdict` is True (ignored), False (kept by `!`), or None (says nothing)."""

    def __init__(self, directory: str, lines: list[str]) -> None:
        import re

        from pathspec import GitIgnoreSpec

        self.prefix = directory.rstrip(os.sep) + os.sep
        # Neighbouring patterns of the same sense become one expression: a .gitignore of 150 lines costs one match.
        groups: list[tuple[bool, list[str]]] = []
        for line in lines:
            try:
                patterns = list(GitIgnoreSpec.from_lines([line]).patterns)
            except ValueError:
                continue  # git, too, passes over a line that it cannot read
            for pattern in patterns:
                if pattern.include is None or pattern.regex is None:
                    continue
                source = re.sub(r"\(\?P<\w+>", "(?:", pattern.regex.pattern)
                if not groups or groups[-1][0] != pattern.include:
                    groups.append((pattern.include, []))
                groups[-1][1].append(source)
        self._groups = [(sense, re.compile("|".join(sources))) for sense, sources in reversed(groups)]

    def verdict(self, full: str) -> bool | None:
        relative = full[len(self.prefix) :].replace(os.sep, "/")
        for sense, expression in self._groups:
            if expression.match(relative):
                return sense
        return None


def _read_ignores(path: str, directory: str) -> list[Ignores]:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a named pipe would never end
            return []
        with open(path, encoding="utf-8", errors="replace") as handle:
            lines = handle.read().splitlines()
    except OSError:
        return []
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    return [Ignores(directory, lines)] if lines else []


def _ignores_above(directory: str) -> list[Ignores]:
    """The .gitignore files that rule over a directory from above, outermost first; none outside a git checkout."""
    chain = []
    current = directory
    while not os.path.exists(os.path.join(current, ".git")):
        parent = os.path.dirname(current)
        if parent == current:
            return []
        chain.append(parent)
        current = parent
    result = _read_ignores(os.path.join(current, ".git", "info", "exclude"), current)
    for above in reversed(chain):
        result += _read_ignores(os.path.join(above, ".gitignore"), above)
    return result


def discover(
    paths: list[str],
    exclude: tuple[str, ...] = DEFAULT_EXCLUDE,
    root: str | None = None,
    marked: set[str] | None = None,
    docs: bool = False,
) -> tuple[list[str], list[str]]:
    """The files to read, in path order, and one line for each path that could not be read.

    Directories are searched for `.py` and `.ipynb` files, with `docs` for documents too; other files are taken as they
    are named. The absolute paths of the searched folders that may hold settings are added to `marked`.
    """
    excluded = Excluder(exclude, os.path.abspath(root or os.getcwd()))
    found: dict[str, None] = {}
    problems: list[str] = []
    endings = CODE + DOCUMENTS if docs else CODE
    for path in paths:
        path = os.path.normpath(path)
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            problems.append(_trouble(path, error))
            continue
        if stat.S_ISDIR(mode):
            _search(path, excluded, endings, found, problems, set() if marked is None else marked)
        elif not stat.S_ISREG(mode):
            problems.append(f"{path}: is neither a file nor a folder; standard input is read from -")
        else:
            found[path] = None
    if len(paths) > 1 and any(p.startswith("..") or os.path.isabs(p) for p in paths):
        # One file may have been reached by two spellings: the first one named stands.
        found = dict.fromkeys({os.path.abspath(path): path for path in reversed(found)}.values())
    return sorted(found), problems


def _trouble(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        if os.path.islink(path):
            return f"{path}: cannot be read: it links to {os.readlink(path)}, which does not exist"
        return f"{path}: no such file or directory{nearest_path(path)}"
    return f"{path}: cannot be read: {error.strerror or error}"


def nearest_path(path: str) -> str:
    """`; did you mean X?` for a path that does not exist, "" where nothing beside it has such a name."""
    import difflib

    parent, name = os.path.split(path)
    try:
        near = difflib.get_close_matches(name, os.listdir(parent or "."), 1, 0.6)
    except OSError:
        return ""
    return f"; did you mean {os.path.join(parent, near[0])}?" if near else ""


def _search(
    top: str,
    excluded: Excluder,
    endings: tuple[str, ...],
    found: dict[str, None],
    problems: list[str],
    marked: set[str],
) -> None:
    absolute = os.path.abspath(top)
    stack = [(top, absolute, tuple(_ignores_above(absolute)))]
    while stack:
        directory, full, ignores = stack.pop()
        try:
            with os.scandir(directory) as scan:
                entries = list(scan)
        except OSError as error:
            problems.append(_trouble(directory, error))
            continue
        prefix = "" if directory == "." else directory.rstrip(os.sep) + os.sep
        above = full.rstrip(os.sep) + os.sep
        if any(e.name == ".gitignore" for e in entries):
            ignores += tuple(_read_ignores(above + ".gitignore", full))
        for entry in entries:
            name = entry.name
            try:
                is_directory = entry.is_dir(follow_symlinks=False)
            except OSError as error:
                problems.append(_trouble(prefix + name, error))
                continue
            if not is_directory and not name.endswith(endings):
                if name in MARKS:
                    marked.add(full)
                continue
            if excluded(name, above + name):
                continue
            if ignores and _ignored(ignores, above + name + ("/" if is_directory else "")):
                continue
            if is_directory:
                stack.append((prefix + name, above + name, ignores))
                continue
            try:
                if entry.is_file():
                    found[prefix + name] = None
                elif entry.is_symlink() and not name.startswith(".#"):  # those are the locks of an editor
                    entry.stat()  # says why where the link leads nowhere; a link to a folder is not followed
            except OSError as error:
                problems.append(_trouble(prefix + name, error))


def _ignored(ignores: tuple[Ignores, ...], full: str) -> bool:
    for one in reversed(ignores):
        verdict = one.verdict(full)
        if verdict is not None:
            return verdict
    return False
