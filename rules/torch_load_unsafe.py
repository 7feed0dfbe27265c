"""A checkpoint file that may run code when it is loaded.

## What it does

Reports `torch.load` calls

- with `weights_only=False`
- without `weights_only` where the project may run with torch before 2.6, which takes it for False.
  Where nothing says which torch the project needs (neither `torch-version` nor its dependencies), this is a note
- without `weights_only` of a whole pickled model, which torch 2.6 and later refuse to load

## Why is this bad

A checkpoint is a pickle, and a pickle is a program. Whoever can write the file, or stands between you and the place
that you downloaded it from, runs their code with your rights. With `weights_only=True` only tensors and plain
containers are rebuilt, and anything else is an error.

## Example

```python
state = torch.load(args.resume, weights_only=False)
```

Use instead:

```python
state = torch.load(args.resume, weights_only=True)
```

Not reported: files that the same function saved before, buffers in memory, calls whose `weights_only` is an expression
or may come with `**kwargs`, retries after a `TypeError` of an old torch, code that asks for the version or names the
classes that a safe load may make (`safe_globals`), and what tests load.

## Fix safety

Unsafe: a file that holds more than tensors and plain containers is refused afterwards. There is no fix for whole
pickled models, whose files have to be written anew, nor where the project allows for torch before 1.13, which does not
know the argument.

## Verified by

`fixtures/torch_load_unsafe/run.py`: a checkpoint with a payload runs it before the fix and is refused after it, and a
plain checkpoint is loaded all the same.

## References

- <https://docs.pytorch.org/docs/stable/generated/torch.load.html>
- <https://docs.pytorch.org/docs/stable/notes/serialization.html#weights-only>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Severity
from torchlint.edits import set_argument
from torchlint.nodes import argument, dotted, find, has_star, literal
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics.deprecations.shims import minds_version
from torchlint.semantics.kinds import Kind
from torchlint.semantics.unit_tests import holds_unit_tests
from torchlint.spelling import same

RULE = Rule(
    "TL904",
    Category.REPRODUCIBILITY,
    Severity.WARNING,
    triggers=(r"\bt\w*\.load\b", r"(?<!def )(?<![\w.])load\("),
    requires=(r"\bimport\s+torch\b|\bfrom\s+torch\s+import\b|\btorch\.load\b",),
    since="0.1",
    fixes=(Applicability.UNSAFE,),
)

_SAFE_DEFAULT = (2, 6)
_ADD_GLOBALS = "torch.serialization.add_safe_globals"
_KNOWS_ARGUMENT = (1, 13)
_OF_MODULES = frozenset(("parameters", "named_parameters", "state_dict", "eval", "train", "modules", "load_state_dict"))
_WRAPPERS = frozenset(
    ("torch.nn.DataParallel", "torch.nn.parallel.DataParallel", "torch.nn.parallel.DistributedDataParallel")
)


@RULE.on
def check(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    partial = False
    if ctx.sem.qualified(call.func) != "torch.load":
        partial = ctx.sem.qualified(call.func) == "functools.partial" and bool(call.args)
        if not partial or ctx.sem.qualified(call.args[0].value) != "torch.load":
            return
    given = argument(call, "weights_only")
    short = dotted(call.args[0].value if partial else call.func) or "torch.load"
    if given is not None:
        own = _own_file(call, ctx, partial) or holds_unit_tests(ctx.sem) or minds_version(ctx.sem, call)
        if literal(given.value) is False and not own:
            yield Finding(
                call,
                f"`{short}` with `weights_only=False`",
                "whoever wrote or replaced the file runs code of theirs here",
                _instead(whole := _is_whole(call, ctx)),
                None if whole else _fix(call, ctx),
            )
    elif not partial and not has_star(call, "**"):
        yield from _default(call, short, ctx)


def _default(call: cst.Call, short: str, ctx: Context) -> Iterator[Finding]:
    version = ctx.torch_version
    whole = _is_whole(call, ctx)
    if _in_memory(call, ctx) or (holds_unit_tests(ctx.sem) and not whole) or minds_version(ctx.sem, call):
        return
    if _allows_classes(ctx) and not (version is not None and version < _SAFE_DEFAULT):
        return
    if whole:
        old = version is not None and version < _SAFE_DEFAULT
        yield Finding(
            call,
            f"`{short}` of a whole pickled model",
            "whoever wrote the file runs code of theirs here" if old else "torch 2.6 and later refuse to load it",
            _instead(whole),
        )
    elif version is None:
        yield Finding(
            call,
            f"`{short}` leaves `weights_only` to the installed torch",
            "before torch 2.6 whoever wrote the file runs code of theirs here",
            _instead(whole),
            _fix(call, ctx),
            severity=Severity.INFO,
        )
    elif version < _SAFE_DEFAULT:
        yield Finding(
            call,
            f"`{short}` without `weights_only`",
            f"torch {version[0]}.{version[1]} unpickles all there is: whoever wrote the file runs code of theirs here",
            _instead(whole)
            if version >= _KNOWS_ARGUMENT
            else "ask for torch 1.13 or later and pass `weights_only=True`",
            _fix(call, ctx),
        )


def _instead(whole: bool) -> str:
    return "save `state_dict()` and load it with `weights_only=True`" if whole else "pass `weights_only=True`"


def _fix(call: cst.Call, ctx: Context) -> Fix | None:
    if ctx.torch_version is not None and ctx.torch_version < _KNOWS_ARGUMENT:
        return None
    if argument(call, "pickle_module") is not None:
        return None
    return unsafe("Load tensors and plain containers only", set_argument(ctx.file, call, "weights_only", "True"))


# -- what is loaded -------------------------------------------------------------------------------------------------


def _saves(call: cst.Call, ctx: Context) -> Iterator[cst.Call]:
    """The `torch.save` calls of the same function that write what this call reads."""
    source = argument(call, "f", 0)
    if source is None:
        return
    for other in find(ctx.sem.function(call).body, cst.Call):
        if ctx.sem.qualified(other.func) == "torch.save":
            target = argument(other, "f", 1)
            if target is not None and same(target.value, source.value):
                yield other


def _allows_classes(ctx: Context) -> bool:
    """Whether the file names classes that a safe load may make: it counts on the safe default of torch 2.6."""
    return any(
        (ctx.sem.qualified(c.func) or "").startswith(("torch.serialization.safe_globals", _ADD_GLOBALS))
        for c in ctx.file.all(cst.Call)
    )


def _own_file(call: cst.Call, ctx: Context, partial: bool) -> bool:
    return not partial and any(True for _ in _saves(call, ctx))


def _in_memory(call: cst.Call, ctx: Context) -> bool:
    """Whether the call reads a buffer that the function has just written."""
    source = argument(call, "f", 0)
    if source is None or not isinstance(source.value, cst.Name):
        return False
    if not any(True for _ in _saves(call, ctx)):
        return False
    name = source.value.value
    for node in find(ctx.sem.function(call).body, cst.Call):
        if (ctx.sem.qualified(node.func) or "") in (
            "io.BytesIO",
            "tempfile.TemporaryFile",
            "tempfile.NamedTemporaryFile",
        ):
            parent = ctx.file.parent(node)
            if isinstance(parent, cst.Assign) and any(dotted(t.target) == name for t in parent.targets):
                return True
            if isinstance(parent, cst.WithItem) and parent.asname is not None and dotted(parent.asname.name) == name:
                return True
    return False


def _is_whole(call: cst.Call, ctx: Context) -> bool:
    """Whether the file holds a Module: it is used as one, or one was saved there."""
    parent = ctx.file.parent(call)
    if isinstance(parent, cst.Attribute):
        return parent.attr.value in _OF_MODULES
    for save in _saves(call, ctx):
        saved = argument(save, "obj", 0)
        if saved is not None and ctx.sem.value(saved.value).kind is Kind.MODULE:
            return True
    if not isinstance(parent, cst.Assign) or not isinstance(parent.targets[0].target, cst.Name):
        return False
    return any(
        _is_module_use(use, ctx)
        for use, known in ctx.sem.reaching(ctx.sem.function(call)).uses.items()
        if len(known) == 1 and known[0].node is call and not known[0].path
    )


def _is_module_use(use: cst.CSTNode, ctx: Context) -> bool:
    """`model.eval()`, `nn.DataParallel(model)`."""
    parent = ctx.file.parent(use)
    above = ctx.file.parent(parent) if parent is not None else None
    if not isinstance(above, cst.Call):
        return False
    if isinstance(parent, cst.Attribute):
        return above.func is parent and parent.attr.value in _OF_MODULES
    wraps = isinstance(parent, cst.Arg) and bool(above.args) and above.args[0] is parent
    return wraps and ctx.sem.qualified(above.func) in _WRAPPERS
