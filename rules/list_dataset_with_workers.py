"""A list of Python objects that every worker process ends up with a copy of.

## What it does

Finds dataset classes that read a whole file of records into a Python list or dict in `__init__` (`json.load`,
`pickle.load`, `csv`, a comprehension over the lines of a file), index it in `__getitem__`, and are loaded by workers.

## Why is this bad

Forked workers share the parent's memory until somebody writes to it, and looking at a Python object writes: its
reference count changes. So each worker copies the list's pages bit by bit, and memory grows in the first epoch to the
list's size times the number of workers, until the machine kills the run. An array is one object with one count.

## Example

```python
class Records(Dataset):
    def __init__(self, path):
        self.records = [json.loads(line) for line in open(path)]

    def __getitem__(self, i):
        return self.records[i]


loader = DataLoader(Records("train.jsonl"), num_workers=8)
```

Use instead:

```python
class Records(Dataset):
    def __init__(self, path):
        lines = [line.encode() for line in open(path)]
        self.data = np.frombuffer(b"".join(lines), dtype=np.uint8)
        self.ends = np.cumsum([len(line) for line in lines])

    def __getitem__(self, i):
        start = self.ends[i - 1] if i else 0
        return json.loads(self.data[start : self.ends[i]].tobytes())
```

A note: it matters for lists of gigabytes, and how large the file is the source does not say. Silent for lists of paths
(`os.listdir`, `glob`), for arrays, tables, tensors and memory maps, and for loaders without workers.

## Fix safety

No fix: how the records are best packed depends on what is in them.

## Verified by

Nothing is rewritten, so nothing is run: how much memory it costs depends on the data.

## References

- <https://github.com/pytorch/pytorch/issues/13246>
- <https://ppwwyyxx.com/blog/2022/Demystify-RAM-Usage-in-Multiprocess-DataLoader/>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import dotted, walk_scope
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import LoaderCall
from torchlint.semantics.datasets import DatasetClass, called_name, item_functions
from torchlint.semantics.loading import dataset_value, works_in_processes

RULE = Rule(
    "TL308",
    Category.DATA,
    Severity.INFO,
    triggers=(r"DataLoader\b", r"def __(init|getitem|getitems|len)__\b"),
    requires=(
        r"\bDataLoader\s*\(|\bDataLoader\s+as\b",
        r"num_workers",
        r"__getitem__",
        r"json\.load|pickle\.load|csv\.|open\(",
    ),
    since="0.2",
)

_RECORDS = frozenset(
    ("json.load", "pickle.load", "ujson.load", "orjson.loads", "jsonlines.open", "csv.reader", "csv.DictReader")
)
_LINES = frozenset(("readlines", "splitlines"))


@RULE.on
def check(dataset: DatasetClass, ctx: Context) -> Iterator[Finding]:
    if dataset.init is None or not dataset.init.is_method:
        return
    loaders = [v for v in ctx.sem.objects(LoaderCall) if dataset_value(ctx.sem, v).origin == dataset.cls.own]
    if not any(works_in_processes(ctx.sem, loader) for loader in loaders):
        return
    me = dataset.init.params[0]
    for node in walk_scope(dataset.init.body):
        if not isinstance(node, cst.Assign) or len(node.targets) != 1:
            continue
        name = dotted(node.targets[0].target) or ""
        if not name.startswith(f"{me}.") or not _reads_records(node.value, ctx) or not _indexed(name, dataset, ctx):
            continue
        if any(n is not node and _assigns(n, name) for n in walk_scope(dataset.init.body)):
            continue  # made into something else, perhaps an array
        yield Finding(
            node,
            f"`{dataset.name}` keeps all records of a file as Python objects in `{name}`",
            "each worker process copies them bit by bit, as their reference counts change",
            "keep large data in an array or a tensor, or in a file that is mapped",
        )


def _reads_records(node: cst.BaseExpression, ctx: Context) -> bool:
    """Whether the value is what a file of records holds, as lists and dicts."""
    if isinstance(node, cst.Call):
        if called_name(ctx.sem, node) in _RECORDS:
            return True
        if called_name(ctx.sem, node) in ("list", "tuple") and node.args:
            return _reads_records(node.args[0].value, ctx)
        return isinstance(node.func, cst.Attribute) and node.func.attr.value in _LINES
    if isinstance(node, cst.ListComp):
        source = node.for_in.iter
        if isinstance(source, cst.Call) and called_name(ctx.sem, source) == "open":
            return True
        return _reads_records(source, ctx)
    return False


def _indexed(name: str, dataset: DatasetClass, ctx: Context) -> bool:
    """Whether an item is taken out of the attribute."""
    return any(
        isinstance(n, cst.Subscript) and dotted(n.value) == name
        for function in item_functions(ctx.sem, dataset)
        for n in walk_scope(function.body)
    )


def _assigns(node: cst.CSTNode, name: str) -> bool:
    return isinstance(node, cst.Assign) and any(dotted(t.target) == name for t in node.targets)
