"""A tokenizer, transform or data file that is made anew for every item.

## What it does

Finds calls, in what runs for each item of a dataset class, that make an expensive object which does not depend on the
item: tokenizers and models from `from_pretrained`, torchaudio's transforms, tables read from one file; as a note, also
pipelines of image transforms and archives that are opened.

## Why is this bad

`__getitem__` runs once per item and epoch. Loading a tokenizer takes up to seconds, a spectrogram's filter bank or a
table of labels milliseconds, and the result is the same each time.

## Example

```python
class Reviews(Dataset):
    def __init__(self, texts):
        self.texts = texts

    def __getitem__(self, i):
        tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")
        return tokenizer(self.texts[i])
```

Use instead:

```python
class Reviews(Dataset):
    def __init__(self, texts):
        self.texts = texts
        self.tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")

    def __getitem__(self, i):
        return self.tokenizer(self.texts[i])
```

Silent where an argument is made from the item or its index, where the result is kept (`if self.file is None:`, which is
how archives are opened once per worker), and under conditions.

## Fix safety

Unsafe: the object is made when the dataset is, from the attributes as they are then, and goes to the workers with it.
Offered where `__init__` is in the same class and all that the call names is there already. Not offered for tables,
which the item may change, nor for open files (h5py, lmdb), which workers must not share: open them on the first access.

## Verified by

`fixtures/constructor_in_getitem/run.py`: bitwise the same items, and the object is made once.

## References

- <https://docs.pytorch.org/docs/stable/data.html#map-style-datasets>
- <https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Severity
from torchlint.nodes import argument, dotted, find, walk, walk_scope
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Function
from torchlint.semantics.blocks import always
from torchlint.semantics.datasets import DatasetClass, item_functions
from torchlint.semantics.flow import bound_names

RULE = Rule(
    "TL310",
    Category.DATA,
    Severity.WARNING,
    triggers=(
        r"def __(init|getitem|getitems|len)__\b",
        r"from_pretrained\(|\btransforms\.|\bT\.|\bA\.|\bread_\w+\(|\bFile\(|lmdb|np\.load\(|torch\.load\(|Compose\(|spacy|tiktoken",
    ),
    requires=(r"__getitem__", r"Dataset\b"),
    since="0.2",
    fixes=(Applicability.UNSAFE,),
)

_MADE = re.compile(
    r"^(torchaudio\.transforms\.[A-Z]\w+|transformers\.\w+\.from_pretrained|tokenizers\.Tokenizer\.from_\w+"
    r"|sentencepiece\.SentencePieceProcessor|spacy\.load|tiktoken\.(get_encoding|encoding_for_model)|timm\.create_model)$"
)
_PIPELINE = re.compile(r"^(torchvision\.transforms\.(v2\.)?|albumentations\.|monai\.transforms\.)Compose$")
_TRANSFORM = re.compile(r"^(torchvision\.transforms|albumentations|monai\.transforms)\.(\w+\.)*[A-Z]\w+$")
_FILES = re.compile(r"^(h5py\.File|lmdb\.open|zarr\.open|netCDF4\.Dataset|zipfile\.ZipFile|tarfile\.open)$")
_READ = re.compile(
    r"^(pandas\.read_\w+|numpy\.(load|loadtxt|genfromtxt)|torch\.load|json\.load|pickle\.load|scipy\.io\.loadmat)$"
)


@RULE.on
def check(dataset: DatasetClass, ctx: Context) -> Iterator[Finding]:
    for function in item_functions(ctx.sem, dataset):
        if function.name == "__iter__":
            continue  # runs once per epoch
        local = function.local - {function.params[0]} if function.is_method else function.local
        inside: set[cst.CSTNode] = set()
        for call in find(function.body, cst.Call):
            name = ctx.sem.qualified(call.func) or ""
            kind = next((k for k, p in _KINDS if p.match(name)), None)
            if kind is None or call in inside or not _same_each_time(call, local, function, ctx):
                continue
            inside.update(find(call, cst.Call))
            yield Finding(
                call,
                f"`{dotted(call.func)}(...)` runs for every item of `{dataset.name}`",
                f"it gives the same {kind} each time",
                "open it once, on the first access of each worker" if kind == "file" else "make it once, in `__init__`",
                _fix(call, function, dataset, ctx) if kind in ("object", "pipeline") else None,
                severity=Severity.INFO if kind in ("pipeline", "file") else None,
            )


_KINDS = (("object", _MADE), ("pipeline", _PIPELINE), ("file", _FILES), ("table", _READ))


def _same_each_time(call: cst.Call, local: set[str], function: Function, ctx: Context) -> bool:
    """Whether nothing in the call comes from the item, and the call runs for each item, its result kept nowhere."""
    if argument(call, "mmap_mode") is not None or (
        not call.args and not _PIPELINE.match(ctx.sem.qualified(call.func) or "")
    ):
        return False  # a memory map is opened in no time
    if _PIPELINE.match(ctx.sem.qualified(call.func) or "") and not any(
        True for given in call.args for _ in find(given, cst.Call)
    ):
        return False  # nothing is made but a list of what is there
    for node in walk(call):
        if isinstance(node, cst.Name) and node.value in local and not _is_label(node, ctx):
            return False
        if isinstance(node, (cst.Lambda, cst.Await, cst.Yield, cst.NamedExpr)):
            return False
        if isinstance(node, cst.Call) and node is not call and _draws(node, ctx):
            return False
    for ancestor in ctx.file.ancestors(call):
        if ancestor is function.node:
            return True
        if isinstance(
            ancestor,
            (cst.If, cst.IfExp, cst.Try, cst.For, cst.While, cst.Lambda, cst.FunctionDef, cst.BooleanOperation),
        ) and not always(ancestor):
            return False
        if isinstance(ancestor, cst.Assign) and any(isinstance(t.target, cst.Attribute) for t in ancestor.targets):
            return False
    return True


def _is_label(node: cst.Name, ctx: Context) -> bool:
    """Whether the name is an attribute's or a keyword's and stands for no value."""
    parent = ctx.file.parent(node)
    return (isinstance(parent, cst.Attribute) and parent.attr is node) or (
        isinstance(parent, cst.Arg) and parent.keyword is node
    )


def _draws(call: cst.Call, ctx: Context) -> bool:
    """Whether an argument is drawn or asked for anew: anything but another constructor of the same sort."""
    name = ctx.sem.qualified(call.func) or ""
    return not (_MADE.match(name) or _TRANSFORM.match(name) or name.startswith(("os.path.", "pathlib.Path")))


# -- fix ----------------------------------------------------------------------------------------------------------


def _fix(call: cst.Call, function: Function, dataset: DatasetClass, ctx: Context) -> Fix | None:
    """The call at the end of `__init__`, under the name that its result has; its item's line reads the attribute."""
    init = dataset.init
    if init is None or not isinstance(init.node, cst.FunctionDef) or not isinstance(init.node.body, cst.IndentedBlock):
        return None
    if not init.params or not function.params or init.params[0] != function.params[0]:
        return None
    me = function.params[0]
    statement = ctx.file.statement(call)
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1 or "#" in ctx.file.code(call):
        return None
    small = statement.body[0]
    bound = small.value is call and len(small.targets) == 1 if isinstance(small, cst.Assign) else False
    target = small.targets[0].target if isinstance(small, cst.Assign) and bound else None
    name = target.value if isinstance(target, cst.Name) else (dotted(call.func) or "").rpartition(".")[2].lower()
    last = init.node.body.body[-1]
    if name in _attributes(dataset, ctx) or name in dataset.cls.methods or not _resolves(call, function, init, me, ctx):
        return None
    if any(isinstance(n, cst.Return) for n in walk_scope(init.body)) or not isinstance(last, cst.SimpleStatementLine):
        return None
    if "\n" in ctx.file.code(call):
        return None
    made = ctx.file.insert_after(last, f"{me}.{name} = {ctx.file.code(call)}")
    return unsafe("Make it once", made, ctx.file.replace(call, f"{me}.{name}"))


def _attributes(dataset: DatasetClass, ctx: Context) -> set[str]:
    """The attributes that the class and its ancestors here ask or set on themselves."""
    return {
        n.attr.value
        for cls in ctx.sem.names.mro(dataset.cls)
        for n in walk(cls.node)
        if isinstance(n, cst.Attribute) and isinstance(n.value, cst.Name)
    }


def _resolves(call: cst.Call, function: Function, init: Function, me: str, ctx: Context) -> bool:
    """Whether all names of the call mean the same at the end of `__init__`: the module's, and attributes set there."""
    set_there = {dotted(n.target) for n in walk_scope(init.body) if isinstance(n, cst.AssignTarget)} | {
        f"{me}.{b}" for n in walk_scope(init.body) if isinstance(n, cst.AssignTarget) for b in bound_names(n.target)
    }
    for node in walk(call):
        if isinstance(node, cst.Attribute) and isinstance(node.value, cst.Name) and node.value.value == me:
            if f"{me}.{node.attr.value}" not in set_there:
                return False
        elif isinstance(node, cst.Name) and node.value != me and not _is_label(node, ctx):
            if node.value in init.local | init.imports.keys() | function.imports.keys():
                return False
    return True
