"""Stretches of code, and what the text of their file says to all of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from functools import cached_property

from torchlint.shapes.syntax_tree import bindings, descend
from torchlint.vectorise.pure import JOINS, PURE

_FROM_TORCH = re.compile(r"\bfrom\s+torch[\w.]*\s+import\s*(\([^)]*\)|(?:[^\n\\]|\\.)*)", re.DOTALL)
_RENAMED = re.compile(r"\b(\w+)\s+as\s+(\w+)")
_LOSS = re.compile(r"Loss\b|_loss\b|cross_entropy|kl_div")
# Attributes that are made, annotated, handed on or looked into somewhere: `self.net = …`, `self.net.eval()`.
_HELD = re.compile(r"\.(\w+)(?=\s*(?:[,:)\]][^=]{0,160})?=(?!=)|\s*[.\[])")
_FACTORY_NAMES = """
    zeros ones full eye empty arange range tril_indices triu_indices linspace logspace hann_window hamming_window
    blackman_window bartlett_window kaiser_window rand randn randint randperm normal tensor Tensor FloatTensor
    DoubleTensor HalfTensor LongTensor IntTensor ShortTensor ByteTensor BoolTensor
"""
_WORD = re.compile(r"\w+")
_IMPORTS = re.compile(r"^[ \t]*(?:from\s+[\w.]+\s+)?import\s+(\([^)]*\)|(?:[^\n\\]|\\.)*)", re.MULTILINE | re.DOTALL)
FACTORIES = frozenset(_FACTORY_NAMES.split())


class Whole:
    """What the text of a file says to all of its stretches."""

    def __init__(self, text: str, stretches: Callable[[], Sequence[Code]] = tuple) -> None:
        self.text = text
        self.stretches = stretches  # all the stretches of the file

    @cached_property
    def stretches_by_name(self) -> dict[str, list[Code]]:
        found: dict[str, list[Code]] = {}
        for code in self.stretches():
            for node in code.roots:
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    found.setdefault(node.name, []).append(code)
        return found

    @cached_property
    def _from_torch(self) -> list[str]:
        return _FROM_TORCH.findall(self.text) if "from torch" in self.text else []

    @cached_property
    def renamed(self) -> bool:
        """Whether names of torch may go by other names here, so that spelling says nothing."""
        return any(
            a != b and (a in PURE or a in JOINS or a in FACTORIES)
            for names in self._from_torch
            for a, b in _RENAMED.findall(names)
        )

    @cached_property
    def functions(self) -> frozenset[str]:
        return frozenset(re.findall(r"\bdef\s+(\w+)", self.text))

    @cached_property
    def callable(self) -> frozenset[str]:
        """The names of functions that the file defines or takes from torch."""
        return self.functions.union(*(re.findall(r"\w+", names) for names in self._from_torch))

    @cached_property
    def imported(self) -> frozenset[str]:
        """The names that the file's imports bind."""
        found: set[str] = set()
        for line in _IMPORTS.findall(self.text):
            found.update(_WORD.findall(line))
        return frozenset(found)

    @cached_property
    def held(self) -> frozenset[str]:
        """The attributes that hold something, as far as the text shows."""
        return frozenset(_HELD.findall(self.text))

    @cached_property
    def has_loss(self) -> bool:
        return _LOSS.search(self.text) is not None

    @cached_property
    def has_transform(self) -> bool:
        return "torchvision" in self.text

    @cached_property
    def trains(self) -> bool:
        return "backward" in self.text


class Code:
    """A stretch of code: a function, or what lies outside of all functions of a file."""

    names: dict[str, bool]  # name → whether it is certainly no tensor; filled by `plain`, which asks for many

    def __init__(self, roots: list[ast.AST], text: str, whole: Whole) -> None:
        self.roots = roots
        self.text = text
        self.whole = whole
        self.names = {}
        self.may_run: bool | None = None  # whether something that could be a module is called; filled by `forwards`

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(descend(self.roots))

    @cached_property
    def bindings(self) -> dict[str, list[ast.AST | None]]:
        """Name → what it is bound to: an expression, an annotation's `ast.arg`, None for what cannot be told."""
        return bindings(self.nodes)
