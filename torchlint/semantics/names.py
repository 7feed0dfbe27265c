"""Which thing a name means: imports and aliases, the file's own functions and classes, and who shadows whom.

Qualified names: `torch.nn.Linear` for what was imported, `.utils.reset` for a relative import, `~.Net.forward` for the
file's own definitions. Names that are assigned in a function hide module-level ones inside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import libcst as cst

from torchlint.nodes import dotted, walk_scope

OWN = "~."

_MODULES = re.compile(r"^torch\.nn\.modules\.\w+\.([A-Z]\w*)$")
_OPTIM = re.compile(r"^torch\.optim\.[a-z]\w*\.([A-Z]\w*)$")
_EXACT = {
    "torch.nn.parallel.DataParallel": "torch.nn.DataParallel",
    "torch.nn.parallel.data_parallel.DataParallel": "torch.nn.DataParallel",
    "torch.nn.parallel.distributed.DistributedDataParallel": "torch.nn.parallel.DistributedDataParallel",
    "torch.autograd.grad_mode.no_grad": "torch.no_grad",
    "torch.autograd.no_grad": "torch.no_grad",
    "torch.autograd.set_grad_enabled": "torch.set_grad_enabled",
    "torch.autograd.grad_mode.set_grad_enabled": "torch.set_grad_enabled",
    "torch.autograd.inference_mode": "torch.inference_mode",
    "torch.autograd.grad_mode.inference_mode": "torch.inference_mode",
    "torch.autograd.enable_grad": "torch.enable_grad",
    "torch.autograd.variable.Variable": "torch.autograd.Variable",
    "torch.utils.data.dataloader.DataLoader": "torch.utils.data.DataLoader",
    "torch.utils.data.distributed.DistributedSampler": "torch.utils.data.DistributedSampler",
    "torch.utils.data.dataset.Dataset": "torch.utils.data.Dataset",
    "torch.nn.functional.torch": "torch",
}


def is_class_name(name: str) -> bool:
    """Whether the last part of a qualified name is written as classes are."""
    return name.rpartition(".")[2][:1].isupper()


def canonical(name: str) -> str:
    """The public path of a torch name that was reached through a private or older one."""
    if not name.startswith("torch."):
        return name
    if found := _EXACT.get(name):
        return found
    if match := _MODULES.match(name):
        return f"torch.nn.{match[1]}"
    if (match := _OPTIM.match(name)) and not name.startswith("torch.optim.lr_scheduler"):
        return f"torch.optim.{match[1]}"
    return name


@dataclass(eq=False)
class Function:
    """A function or method of the file; the module's top level is one too (`node` is the Module, name "")."""

    node: cst.FunctionDef | cst.Module = field(repr=False)
    name: str
    qualname: str  # "f", "Net.forward", "outer.inner"; "" for the module
    cls: Class | None = field(default=None, repr=False)
    parent: Function | None = field(default=None, repr=False)
    params: list[str] = field(default_factory=list)
    local: set[str] = field(default_factory=set)
    imports: dict[str, str] = field(default_factory=dict)

    @property
    def own(self) -> str:
        return OWN + self.qualname

    @property
    def body(self) -> cst.BaseSuite | cst.Module:
        return self.node if isinstance(self.node, cst.Module) else self.node.body

    @cached_property
    def is_method(self) -> bool:
        return self.cls is not None and self.parent is not None and bool(self.params) and not self.is_static

    @cached_property
    def is_static(self) -> bool:
        return isinstance(self.node, cst.FunctionDef) and any(
            dotted(d.decorator) == "staticmethod" for d in self.node.decorators
        )


@dataclass(eq=False)
class Class:
    """A class of the file."""

    node: cst.ClassDef = field(repr=False)
    qualname: str
    bases: list[str] = field(default_factory=list)  # qualified where possible, else as written
    methods: dict[str, Function] = field(default_factory=dict)

    @property
    def own(self) -> str:
        return OWN + self.qualname


class Names:
    """Definitions and imports of one module, and `qualify`."""

    def __init__(self, tree: cst.Module) -> None:
        self.imports: dict[str, str] = {}
        self.stars: list[str] = []
        self.functions: dict[str, Function] = {}
        self.classes: dict[str, Class] = {}
        self.module = Function(tree, "", "")
        self.function_of: dict[cst.FunctionDef, Function] = {}
        self._qualified: dict[tuple[Function | None, str], str | None] = {}
        self._mros: dict[Class, list[Class]] = {}
        self._roots: dict[Class, list[str]] = {}
        self._collect(tree, self.module, None, "")
        for cls in self.classes.values():
            cls.bases = [
                self.qualify(a.value, self.module) or dotted(a.value) or ""
                for a in cls.node.bases
                if not a.star
            ]  # fmt: skip

    def _collect(self, scope: cst.CSTNode, function: Function, cls: Class | None, prefix: str) -> None:
        body = scope if isinstance(scope, cst.Module) else scope.body  # type: ignore[attr-defined]
        for node in walk_scope(body):
            if node.__class__ not in _BINDING:
                continue
            if isinstance(node, cst.FunctionDef):
                self._function(node, function, cls, prefix)
                if cls is None:
                    function.local.add(node.name.value)
            elif isinstance(node, cst.ClassDef):
                qualname = prefix + node.name.value
                info = self.classes[qualname] = Class(node, qualname)
                if cls is None:
                    function.local.add(node.name.value)
                self._collect(node, function, info, qualname + ".")
            elif isinstance(node, (cst.Import, cst.ImportFrom)):
                self._import(node, function)
            elif cls is None:
                function.local.update(_bound(node))

    def _function(self, node: cst.FunctionDef, parent: Function, cls: Class | None, prefix: str) -> None:
        qualname = prefix + node.name.value
        params = [p.name.value for p in parameters(node)]
        function = Function(node, node.name.value, qualname, cls, parent, params, set(params))
        if cls is not None:
            cls.methods.setdefault(node.name.value, function)
        self.functions[qualname] = function
        self.function_of[node] = function
        self._collect(node, function, None, qualname + ".")

    def _import(self, node: cst.Import | cst.ImportFrom, function: Function) -> None:
        table = self.imports if function is self.module or function.parent is None else function.imports
        if isinstance(node, cst.Import):
            for alias in node.names:
                name = dotted(alias.name) or ""
                if alias.asname is not None and isinstance(alias.asname.name, cst.Name):
                    table[alias.asname.name.value] = name
                else:
                    root = name.partition(".")[0]
                    table.setdefault(root, root)
            return
        module = "." * len(node.relative) + (dotted(node.module) or "" if node.module is not None else "")
        if isinstance(node.names, cst.ImportStar):
            self.stars.append(module)
            return
        for alias in node.names:
            name = dotted(alias.name) or ""
            bound = name
            if alias.asname is not None and isinstance(alias.asname.name, cst.Name):
                bound = alias.asname.name.value
            joined = module + name if module.endswith(".") else f"{module}.{name}"
            table[bound] = canonical(joined)

    @cached_property
    def roots_of_names(self) -> frozenset[str]:
        """The first parts that a qualified name can have in the source; any other name is a value everywhere."""
        inner = (f.imports for f in self.functions.values() if f.imports)
        own = (name.rpartition(".")[2] for table in (self.functions, self.classes) for name in table)
        return frozenset().union(self.imports, own, *inner)

    def qualify(self, node: cst.CSTNode | None, function: Function | None) -> str | None:
        """The qualified name of a name or attribute chain as seen inside `function`; None for values."""
        text = dotted(node)
        return None if text is None else self.qualify_text(text, function)

    def qualify_text(self, text: str, function: Function | None) -> str | None:
        key = (function, text)
        try:
            return self._qualified[key]
        except KeyError:
            found = self._qualified[key] = self._qualify(text, function)
            return found

    def _qualify(self, text: str, function: Function | None) -> str | None:
        root, dot, rest = text.partition(".")
        scope = function
        while scope is not None and scope.parent is not None:
            if root in scope.imports:
                return canonical(scope.imports[root] + dot + rest)
            inner = f"{scope.qualname}.{root}"
            if inner in self.functions or inner in self.classes:
                return OWN + inner + dot + rest
            if root in scope.local:
                return None
            scope = scope.parent
        if root in self.imports:
            return canonical(self.imports[root] + dot + rest)
        if root in self.functions or root in self.classes:
            return OWN + text
        if dot and self.stars and root in _BROUGHT and root not in self.module.local:
            if any(s.partition(".")[0] not in ("typing", "math") for s in self.stars):
                return canonical(_BROUGHT[root] + dot + rest)  # `from utils import *` brings what utils imports
        if root not in self.module.local and self.stars and not dot and not root.startswith("_"):
            for star in self.stars:
                if star in STAR_NAMES and root in STAR_NAMES[star]:
                    return canonical(f"{star}.{root}")
            rest_of = [s for s in self.stars if s.partition(".")[0] not in ("torch", "typing", "math")]
            if len(rest_of) == 1 and root not in _BUILTINS:
                star = rest_of[0]
                return star + root if star.endswith(".") else f"{star}.{root}"
        return None

    def mro(self, cls: Class) -> Sequence[Class]:
        """The class and those of its ancestors that this file defines, nearest first."""
        found = self._mros.get(cls)
        if found is None:
            found = self._mros[cls] = list(self._ancestry(cls))
        return found

    def _ancestry(self, cls: Class) -> Iterator[Class]:
        seen: set[str] = set()
        queue = [cls]
        while queue:
            current = queue.pop(0)
            if current.qualname in seen:
                continue
            seen.add(current.qualname)
            yield current
            queue.extend(
                self.classes[b.removeprefix(OWN)] for b in current.bases if b.removeprefix(OWN) in self.classes
            )

    def roots(self, cls: Class) -> Sequence[str]:
        """Qualified names of the bases that this file does not define, of the class and its ancestors here."""
        found = self._roots.get(cls)
        if found is None:
            found = self._roots[cls] = [
                b for c in self.mro(cls) for b in c.bases if b and b.removeprefix(OWN) not in self.classes
            ]
        return found

    def method(self, cls: Class, name: str) -> Function | None:
        for current in self.mro(cls):
            if name in current.methods:
                return current.methods[name]
        return None


def parameters(node: cst.FunctionDef) -> Iterator[cst.Param]:
    """All parameters in order, `*args` and `**kwargs` included."""
    p = node.params
    yield from p.posonly_params
    yield from p.params
    if isinstance(p.star_arg, cst.Param):
        yield p.star_arg
    yield from p.kwonly_params
    if p.star_kwarg is not None:
        yield p.star_kwarg


_TARGETED = (cst.AnnAssign, cst.AugAssign, cst.NamedExpr, cst.For)
_BINDING = frozenset(
    (
        cst.FunctionDef,
        cst.ClassDef,
        cst.Import,
        cst.ImportFrom,
        cst.AssignTarget,
        *_TARGETED,
        cst.WithItem,
        cst.ExceptHandler,
    )
)


def _bound(node: cst.CSTNode) -> Iterator[str]:
    """Names that this node itself binds."""
    if isinstance(node, (cst.AssignTarget, *_TARGETED)):
        yield from _targets(node.target)
    elif isinstance(node, cst.WithItem) and node.asname is not None:
        yield from _targets(node.asname.name)
    elif isinstance(node, cst.ExceptHandler) and node.name is not None:
        yield from _targets(node.name.name)


def _targets(node: cst.CSTNode) -> Iterator[str]:
    if isinstance(node, cst.Name):
        yield node.value
    elif isinstance(node, (cst.Tuple, cst.List)):
        for element in node.elements:
            yield from _targets(element.value)


# Modules that everybody calls so: where nothing in the file binds the name, a star import did.
_BROUGHT = {"torch": "torch", "nn": "torch.nn", "F": "torch.nn.functional", "np": "numpy"}
# What `from torch import *` and friends bring in, as far as rules care.
STAR_NAMES: dict[str, frozenset[str]] = {
    "torch": frozenset(
        """
            nn optim tensor zeros ones randn rand randint arange eye empty full stack cat no_grad inference_mode
            device load save sigmoid softmax
            """.split()
    ),
    "torch.nn": frozenset(
        """
            Module Linear Conv1d Conv2d Conv3d BatchNorm1d BatchNorm2d BatchNorm3d Dropout Embedding LSTM GRU
            Sequential ModuleList CrossEntropyLoss MSELoss BCELoss BCEWithLogitsLoss NLLLoss L1Loss DataParallel
            Parameter ReLU Softmax Sigmoid functional
            """.split()
    ),
    "torch.optim": frozenset("SGD Adam AdamW Adagrad RMSprop LBFGS lr_scheduler".split()),
    "torch.utils.data": frozenset(
        "DataLoader Dataset TensorDataset Subset random_split DistributedSampler Sampler".split()
    ),
}
_BUILTINS = frozenset(dir(__builtins__) if not isinstance(__builtins__, dict) else __builtins__)
