"""Python in documents and docstrings: found, placed in the document, and fixed without touching the rest."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.engine import SYNTAX, everything_concerns, importing_rule, rename_rule  # noqa: F401
from torchlint import cli, documents, prose
from torchlint.check import check_text
from torchlint.config import Config
from torchlint.encoding import decode_file
from torchlint.fix import fix_text

DOCSTRINGS = Config(docstrings=True)


def found(path: str, text: str) -> list[tuple[int, int]]:
    """The rows and columns at which `old` is found."""
    return [(d.row, d.column) for d in check_text(path, text, [rename_rule(), SYNTAX], DOCSTRINGS)]


def fixed(path: str, text: str, *rules: object, unsafe: bool = True) -> str:
    result = fix_text(path, text, list(rules) or [rename_rule()], DOCSTRINGS, unsafe=unsafe)  # type: ignore[arg-type]
    assert result.notes == []
    return result.text


def run(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    exit_code = cli.main(argv)
    out, err = capsys.readouterr()
    return exit_code, out, err


# -- where Python stands ----------------------------------------------------------------------------------------------

MARKDOWN = {
    "fence": "# A\n\nold\n\n```python\nx = 1\nold\n```\n",
    "tildes": "~~~ py\nx = old\n```\n~~~\n".replace("```\n", ""),
    "title": '```python title="a.py"\nold\n```\n',
    "braces": "```{.python .numberLines}\nold\n```\n",
    "quarto": "```{python}\nold\n```\n",
    "myst": "```{code-block} python\n:linenos:\n\nold\n```\n",
    "myst with a header": "```{code-cell} ipython3\n---\ntags: [a]\n---\nold\n```\n",
    "upper case": "```Python3\nold\n```\n",
    "in a list": "1. a\n\n   ```python\n   if x:\n       old\n   ```\n",
    "on the list's line": "- ```python\n  old\n  ```\n",
    "in a quote": "> text\n>\n> ```python\n> if x:\n>     old\n> ```\n",
    "tabs": "\t```python\n\tif x:\n\t\told\n\t```\n",
    "session": "```pycon\n>>> x = (1,\n... old)\nold\n>>> y\n```\n",
    "session without a name": "```\n>>> old\nold\n```\n",
    "never closed": "```python\nold\n",
    "at the end": "```python\nold",
    "magics": "```ipython\n!pip install old\n%time old\n```\n",
    "a longer fence": "````python\ns = '''\n```\n'''\nold\n````\n",
    "CRLF": "# A\r\n\r\n```python\r\nold\r\n```\r\n",
}
PLACES = {
    "fence": [(7, 1)], "tildes": [(2, 5)], "in a list": [(5, 8)], "in a quote": [(5, 7)], "tabs": [(3, 3)],
    "on the list's line": [(2, 3)], "session": [(3, 5)], "session without a name": [(2, 5)], "myst": [(4, 1)],
    "myst with a header": [(5, 1)], "magics": [(3, 7)], "a longer fence": [(5, 1)], "CRLF": [(4, 1)],
}  # fmt: skip


@pytest.mark.parametrize("name", MARKDOWN)
def test_markdown(name: str) -> None:
    text = MARKDOWN[name]
    assert found("a.md", text) == PLACES.get(name, [(2, 1)])
    row, column = found("a.md", text)[0]
    lines = text.splitlines(keepends=True)
    line = lines[row - 1]
    assert line[column - 1 :].startswith("old")
    lines[row - 1] = line[: column - 1] + "new" + line[column + 2 :]
    assert fixed("a.md", text) == "".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        "old\n", "    old\n", "`old`\n", "```\nold\n```\n", "```bash\nold\n```\n", "```pytb\nold\n```\n",
        "````md\n```python\nold\n```\n````\n", "```python\nprint 'old'\n```\n", "```python\nold = (\n```\n",
        "```python\n```\n", "```python\n\n```\n", "``` python `x`\nold\n```\n", "> ```python\nold\n", ">>> old\n",
        "```{note}\nold\n```\n", "```python\n%%bash\nold\n```\n", "```python\n\ufdd0old\n```\n", "",
    ],
)  # fmt: skip
def test_what_is_no_python_is_passed_over(text: str) -> None:
    assert found("a.md", text) == []


def test_restructured_text() -> None:
    text = (
        "Title\n=====\n\nold::\n\n    old\n\n.. code-block:: python\n   :linenos:\n   :caption: old\n\n   if x:\n"
        "       old\n\n.. code-block:: bash\n\n   old\n   >>> old\n\n.. note::\n\n   .. code:: python3\n\n      old\n\n"
        "   >>> old\n   old\n\n.. code::\n\n   old\n\n.. math::\n\n   old::\n\n      old\n\nold::\n\nold\n"
    )
    assert found("a.rst", text) == [(6, 5), (13, 8), (24, 7), (26, 8), (31, 4)]
    assert fixed("a.rst", text).count("new") == 5


DOCSTRING = '''\
import torch


class A:
    """Example::

        old

    .. code-block:: python

        x = 1  # é
        old

    ```python
    old
    ```
    """

    def f(self):
        r"""Old.

        Examples:
            >>> é = 1; old
            >>> for i in x:
            ...     old
            old
            >>> print "old"
            >>> old
        """
        "old"
        return """>>> old"""

    def g(self):
        """>>> s = "\\n"; old"""

    def h(self):
        ">>> old"

    def i(self):
        """>>> old
        """ """>>> old"""
'''


def test_docstrings_if_they_are_wanted() -> None:
    places = [(7, 9), (12, 9), (15, 5), (23, 24), (25, 21), (28, 17), (37, 14)]
    assert found("a.py", DOCSTRING) == places
    assert check_text("a.py", DOCSTRING, [rename_rule(), SYNTAX], Config()) == []
    lines = DOCSTRING.splitlines(keepends=True)
    for row, column in places:
        lines[row - 1] = lines[row - 1][: column - 1] + "new" + lines[row - 1][column + 2 :]
    assert fixed("a.py", DOCSTRING) == "".join(lines)


def test_a_document_is_one_program_until_it_begins_anew() -> None:
    def block(code: str) -> str:
        return f"```python\n{code}\n```\n\n"

    text = block("import torch") + block("from torch import nn") + block("x = 1") + block("import torch\ny = 1")
    assert [p.text.count("#\ufdd0") for p in documents.programs("a.md", text, False)] == [3, 1]
    imported = "```python\nimport torch\n```\n\n```python\nx = torch.load('a.pt')\n```\n"
    from torchlint.catalogue import load

    rules = [r for r in load() if r.code == "TL904"]
    assert [(d.row, d.column) for d in check_text("a.md", imported, rules, Config())] == [(6, 5)]


def test_where_code_is_left_out_nothing_is_known() -> None:
    for body in ("for x in y:\n    ...\n    old", "def f():\n    # ...\n    old", "f(n=..., m=old)"):
        assert found("a.md", f"```python\n{body}\n```\n") == []
    for body in ("old[..., 0]", "x: tuple[int, ...] = old", "...\nold", "old  # ... and more"):
        assert len(found("a.md", f"```python\n{body}\n```\n")) == 1


# -- writing ----------------------------------------------------------------------------------------------------------


def test_added_lines_take_indentation_and_prompts() -> None:
    for text, after in {
        "1. a\n   ```python\n   f(1)\n   ```\n": "1. a\n   ```python\n   import g\n   g.f(1)\n   ```\n",
        "> ```py\n> f(1)\n> ```\n": "> ```py\n> import g\n> g.f(1)\n> ```\n",
        "```pycon\n>>> f(1)\n2\n```\n": "```pycon\n>>> import g\n>>> g.f(1)\n2\n```\n",
        "```python\r\nf(1)\r\n```": "```python\r\nimport g\r\ng.f(1)\r\n```",
        "```python\nf(1)": "```python\nimport g\ng.f(1)",
    }.items():
        assert fixed("a.md", text, importing_rule()).replace("import g\r\n", "import g\n") == after.replace(
            "import g\r\n", "import g\n"
        )


EVALUATION = """\
```pycon
>>> import torch
>>> @decorated
... def validate(model: torch.nn.Module, loader):
...     model.eval()
...     for x in loader:
...         print(model(x))
...
>>> validate(model, loader)
```
"""


def test_a_decorator_goes_into_a_session() -> None:
    from torchlint.catalogue import load

    after = fixed("a.md", EVALUATION, *[r for r in load() if r.code == "TL201"])
    assert after.splitlines()[2:5] == [
        ">>> @decorated",
        "... @torch.no_grad()",
        "... def validate(model: torch.nn.Module, loader):",
    ]
    assert after.count("\n") == EVALUATION.count("\n") + 1


def test_no_fix_that_breaks_a_block_or_writes_into_what_is_not_there() -> None:
    broken = "```python\nbroken\n```\n"
    result = fix_text("a.md", broken, [rename_rule()], Config(), unsafe=True)
    assert result.text == broken
    assert len(result.undone) == 1
    docstring = '"""M.\n\n>>> f(1)\n"""\nimport h\n'
    result = fix_text("a.py", docstring, [importing_rule()], DOCSTRINGS, unsafe=True)
    assert result.text == docstring, "the import would be the module's"


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf```python\nold\n```\n", b"\xe9\n```python\nold  # \xe9\n```\n"])
def test_bytes_outside_stay(data: bytes) -> None:
    source = decode_file("a.md", data)
    assert source.exact
    assert source.encode(fixed("a.md", source.text)) == data.replace(b"old", b"new")


# -- hostile documents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "```python\n" * 20_000, "> " * 50_000 + "```python\nold\n", "x" * 1_000_000 + "\n```python\nold\n```\n",
        "`" * 500_000 + "\n" + "~" * 500_000 + "x\n", " " * 500_000 + "x\n", "- " * 200_000 + "\n", "a::\n\n" * 30_000,
        "".join(f"{' ' * i}a::\n" for i in range(1_000)), "```python\n" + "(" * 100_000 + "\n```\n",
        ".. code::\n" * 30_000, ">>> old\r" * 10_000, "1) " * 100_000 + "```\n",
    ],
    ids=range(12),
)  # fmt: skip
def test_documents_made_to_be_slow(text: str) -> None:
    began = time.process_time()
    for markup in (False, True):
        list(prose.blocks(text, fences=True, markup=markup))
    assert time.process_time() - began < 2
    if len(text) < 300_000:
        found("a.md", text)


# -- through the command line -----------------------------------------------------------------------------------------

LOAD = "import torch\nx = torch.load('a.pt')\n"
README = f"# A\n\n```python\n{LOAD}```\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "guide.rst").write_text("A\n\n.. code:: python\n\n    import torch\n    x = torch.load('a.pt')\n")
    (tmp_path / "a.py").write_text(f'"""M.\n\n>>> x = torch.load("a.pt")\n"""\n{LOAD}')
    return tmp_path


def test_documents_are_searched_only_if_asked_for(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def concise(*options: str) -> list[str]:
        _, out, err = run(["check", ".", "--output-format", "concise", "-q", *options], capsys)
        assert err == ""
        return sorted(line.partition(": TL")[0] for line in out.splitlines() if ": TL" in line)

    for _ in range(2):  # the second time from the cache
        assert concise() == ["a.py:6:5"]
        assert concise("--docs") == ["README.md:5:5", "a.py:6:5", "guide.rst:6:9"]
        assert concise("--docstrings") == ["a.py:3:9", "a.py:6:5"]
    (project / "torchlint.toml").write_text("docs = true\ndocstrings = true\n")
    assert concise() == ["README.md:5:5", "a.py:3:9", "a.py:6:5", "guide.rst:6:9"]
    assert concise("--exclude", "*.md,a.py") == ["guide.rst:6:9"]


def test_a_named_document_is_read(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(["check", "README.md", "--output-format", "sarif"], capsys)
    result = json.loads(out)["runs"][0]["results"][0]
    assert result["locations"][0]["physicalLocation"]["region"]["startLine"] == 5
    assert result["fixes"]
    _, out, _ = run(["check", "README.md", "--output-format", "github"], capsys)
    assert "file=README.md,line=5,endLine=5,col=5" in out
    run(["fix", "README.md", "--apply", "--unsafe"], capsys)
    assert (project / "README.md").read_text() == README.replace("'a.pt'", "'a.pt', weights_only=True")


def test_comments_in_a_block_silence_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(["check", ".", "--docs", "--docstrings", "--add-ignore"], capsys)
    assert "4 findings into 3 files" in out
    assert "'a.pt')  # torchlint: ignore[TL904]\n```" in (project / "README.md").read_text()
    assert '>>> x = torch.load("a.pt")  # torchlint: ignore[TL904]\n"""' in (project / "a.py").read_text()
    code, out, _ = run(["check", ".", "--docs", "--docstrings"], capsys)
    assert code == 0
    assert "All clear" in out
    text = README.replace("import torch\n", "import torch  # torchlint: ignore[TL904]\n")
    (project / "README.md").write_text(text)
    _, out, _ = run(["check", "README.md", "--output-format", "concise"], capsys)
    assert "README.md:4:15: TL003" in out
    run(["fix", "README.md", "--apply"], capsys)
    assert (project / "README.md").read_text() == README
    (project / "a.py").write_text(f'"""M.\n\n>>> x = 1  # torchlint: ignore-file\n"""\n{LOAD}')
    _, out, _ = run(["check", "a.py", "--docstrings", "--output-format", "concise"], capsys)
    assert "a.py:6:5: TL904" in out


def test_standard_input_baseline_and_diff_base(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torchlint", "fix", "--apply", "--unsafe", "--stdin-filename", "x.md", "-"],
        input=README, capture_output=True, text=True, check=False, cwd=project,
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.stdout == README.replace("'a.pt'", "'a.pt', weights_only=True"), done.stderr
    run(["check", ".", "--docs", "--write-baseline", "b.json"], capsys)
    (project / "README.md").write_text("moved\n" + README)
    code, out, _ = run(["check", ".", "--docs", "--baseline", "b.json"], capsys)
    assert code == 0
    assert "Nothing new" in out
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *command], check=True, cwd=project)
    (project / "README.md").write_text(README.replace("# A", "# B") + "\n```python\ny = torch.load('b.pt')\n```\n")
    _, out, _ = run(["check", ".", "--docs", "--diff-base", "HEAD", "--output-format", "concise"], capsys)
    assert [line.partition(": TL")[0] for line in out.splitlines() if ": TL" in line] == ["README.md:9:5"]


def test_questions_across_files_and_the_verifier(project: Path) -> None:
    from torchlint.options import parse
    from torchlint.session import Session

    session = Session(parse(["check", ".", "--docs", "--docstrings", "--no-cache"]))
    assert "README.md" in session.files
    assert session.config.docstrings
    session = Session(parse(["fix", ".", "--docs", "--docstrings", "--no-cache", "--verify=run"]))
    assert session.files == ["a.py"]
    assert not session.config.docstrings
