"""A function, argument or import path that torch, torchvision, torchaudio or functorch has deprecated or removed.

## What it does

Reports uses of what a table says is deprecated or gone. The tables are mined from the sources of torch 1.0 to 2.13,
torchvision 0.7 to 0.29, torchaudio 0.5 to 2.11 and the functorch within torch
(`benchmarks/mine_deprecations.py`), among others

- functions with a successor: `torch.range`, `torch.cholesky`, `torch.qr`, `torch.symeig`, `F.upsample`, `F.sigmoid`,
  `transforms.Scale`, `functorch.vmap`, `torchaudio.info`
- arguments: `verbose=` of learning rate schedulers, `softmax` without `dim`, `torch.meshgrid` without `indexing`,
  `x.add_(alpha, y)`, `backward(retain_variables=…)`, `torch.stft` without `return_complex`, `scheduler.step(epoch)`;
  `scheduler.get_lr()` outside of `step`
- `torch.distributed.reduce_op`
- modules: `torch._six`, `torchvision.transforms.functional_tensor`, `torchvision.models.utils`

What the table holds without a reviewed entry for what to write instead is not reported: much of `torch.ao`, and
`torch.jit`, of which all goes and no call has a successor of its own.

## Why is this bad

Deprecated calls warn until a release removes them; then the program stops, often hours into a run. Some were deprecated
because they are easily got wrong: `torch.range` includes its end and gives floats.

## Example

```python
steps = torch.range(1, 10)
q, r = torch.qr(a, some=False)
```

Use instead:

```python
steps = torch.arange(1, 11, dtype=torch.get_default_dtype())
q, r = torch.linalg.qr(a, mode="complete")
```

Not reported: code in a `try` that catches a missing name, under a test of a version or of `hasattr`, and whatever the
project's oldest torch has no successor for.

## Fix safety

Safe where old and new give the same values, dtypes and shapes for whatever they are given, which
`tests/test_deprecations.py` runs. Unsafe where that depends on values (`torch.range(a, b)` with a `b` that is not an
integer), where the old call can no longer be run, and for scheduler messages that were asked for.

## Verified by

`fixtures/deprecated_api/run.py`, and old against new for every entry of the table that can still be run.

## References

- <https://github.com/pytorch/pytorch/releases>
- <https://docs.pytorch.org/docs/stable/generated/torch.range.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Edit, Fix, Severity
from torchlint.edits import add_argument, remove_argument, torch_name
from torchlint.nodes import argument, dotted, has_star, literal
from torchlint.rule import Category, Context, Finding, Rule, safe, unsafe
from torchlint.semantics.deprecations.rewrites import (
    ADVICE,
    ATTRIBUTES,
    MOVED,
    REWRITES,
    SCHEDULERS,
    SIX,
    WITHOUT_DIM,
    Rewrite,
    Writer,
)
from torchlint.semantics.deprecations.shims import minds_version
from torchlint.semantics.deprecations.table import Row, Table, Version, table, torchaudio_for, torchvision_for
from torchlint.semantics.kinds import Kind

_KNOWN = REWRITES.keys() | ATTRIBUTES.keys() | ADVICE.keys()


def _last(prefix: str) -> str:
    names = {n.rpartition(".")[2] for n in _KNOWN if n.rpartition(".")[0] == prefix}
    return "|".join(sorted(names))


_TORCH, _FUNCTIONAL = _last("torch"), _last("torch.nn.functional")
_FUNCTORCH, _AUDIO = _last("functorch"), _last("torchaudio")
_AUDIO_PARTS = "|".join(_last(f"torchaudio.{part}") for part in ("functional", "compliance.kaldi", "io"))
_ONE = r"(?:[^(),=]|\((?:[^()]|\([^()]*\))*\))*"  # an argument without keyword, brackets nested twice
_IMPORTS = (
    r"\bfrom\s+torch\._six\b",
    r"\bfrom\s+torchvision\.transforms\.functional_(?:tensor|pil)\b",
    r"\bfrom\s+torchvision\.models\.utils\b",
    r"\bfrom\s+torch\.autocast_mode\b",
    *(
        rf"\bfrom {module} import\s*(?:\([\w\s,]*|[\w ,]*)\b(?:{names})\b"
        for module, names in (
            (r"torch", _TORCH),
            (r"torch\.nn\.functional", _FUNCTIONAL),
            (r"torch\.nn\.utils\.stateless", "functional_call"),
            (r"torch\.nn\.utils(?:\.weight_norm)?", "weight_norm"),
            (r"torch\.nn", "NLLLoss2d|UpsamplingNearest2d|UpsamplingBilinear2d"),
            (r"torchvision\.transforms", "Scale|RandomSizedCrop"),
            (r"torch\.backends\.cuda", "sdp_kernel"),
            (r"functorch", _FUNCTORCH),
            (r"torchaudio", _AUDIO),
            (r"torchaudio\.[\w.]+", f"{_AUDIO_PARTS}|ComplexNorm"),
        )
    ),
)
_ATTRIBUTES = (
    rf"\bt\w*(?:\.{_TORCH})\b".replace("|", r"|\."),
    rf"\b[Ff]\w*(?:\.{_FUNCTIONAL})\b".replace("|", r"|\."),
    rf"\bf\w*(?:\.{_FUNCTORCH})\b".replace("|", r"|\."),
    rf"\bt\w*(?:\.{_AUDIO})\b".replace("|", r"|\."),
    rf"(?:\.{_AUDIO_PARTS})\b".replace("|", r"|\."),
    r"\.ComplexNorm\b",
    r"\.NLLLoss2d\b",
    r"\.Upsampling(?:Nearest|Bilinear)2d\s*\(",
    r"\bstateless\.functional_call\b",
    r"\.(?:max_)?memory_cached\b",
    r"\.weight_norm\b",
    r"\.reduce_op\.[A-Z]",
    r"\.impl_abstract\b",
    r"\.DistributedDataParallelCPU\b",
    r"\.Scale\s*\(",
    r"\.RandomSizedCrop\b",
    r"\.sdp_kernel\b",
    r"\.(?:all_reduce|all_gather|broadcast|reduce|reduce_scatter)_multigpu\b",
)
_CALLS = (
    r"\bt\w*\.meshgrid\s*\((?![^()]*indexing)",
    r"(?:LR|Plateau|Restarts)\s*\((?:[^()]|\([^()]*\))*\bverbose\s*=",
    rf"\b[Ff]\w*\.(?:log_softmax|softmax|softmin)\s*\({_ONE}\)",
    r"\b(?:Softmax|LogSoftmax|Softmin)\s*\(\s*\)",
    rf"(?:\.add_|\.sub_)\s*\({_ONE},{_ONE}\)",
    r"\bretain_variables\s*=",
    r"\.get_lr\s*\(\s*\)",
    r"\.step\s*\(\s*[\w(]",
    r"\bstft\s*\(",
    rf"\.(?:addcmul|addcdiv)_\s*\({_ONE},{_ONE},{_ONE}\)",
)

RULE = Rule(
    "TL010",
    Category.FILES,
    Severity.WARNING,
    triggers=(*_IMPORTS, *_ATTRIBUTES, *_CALLS),
    requires=(r"\b(?:func)?torch",),
    since="0.1",
    fixes=(Applicability.SAFE, Applicability.UNSAFE),
)

_LEGACY = {"add_": ("alpha", 2), "sub_": ("alpha", 2), "addcmul_": ("value", 3), "addcdiv_": ("value", 3)}


def _matches(patterns: tuple[str, ...], node: cst.CSTNode, ctx: Context) -> bool:
    """Whether the node's text is one that the triggers look for: what no trigger matches is not reported either."""
    text = ctx.file.code(node)
    return any(re.search(p, text, re.MULTILINE) for p in patterns)


# -- names ----------------------------------------------------------------------------------------------------------


@RULE.on
def check_name(node: cst.Attribute, ctx: Context) -> Iterator[Finding]:
    if node.attr.value not in _LAST and not node.attr.value.endswith("_multigpu"):
        return
    name = ctx.sem.qualified(node)
    if name is None or (name not in _KNOWN and not name.endswith("_multigpu")):
        return
    parent = ctx.file.parent(node)
    shown: cst.CSTNode = parent if isinstance(parent, cst.Call) and parent.func is node else node
    if not _matches(_ATTRIBUTES, shown, ctx) or isinstance(parent, (cst.AssignTarget, cst.Attribute, cst.Del)):
        return
    told = _told(name, ctx)
    if told is None or minds_version(ctx.sem, node):
        return
    (what, why), severity = told
    rewrite = REWRITES.get(name) or ATTRIBUTES.get(name)
    fix = _rewritten(node, name, rewrite, ctx) if rewrite is not None else None
    if rewrite is not None:
        do = f"write `{_spelled(rewrite.new, node, name, ctx)[0]}`"
    else:
        do = ADVICE.get(name, "call the function without `_multigpu`, one GPU per process")
    yield Finding(shown, f"`{dotted(node) or name}` {what}", why, do, fix, severity=severity)


@RULE.on
def check_reduce_op(node: cst.Attribute, ctx: Context) -> Iterator[Finding]:
    """`torch.distributed.reduce_op.SUM`, whose every reading warns."""
    owner = node.value
    if not isinstance(owner, cst.Attribute) or owner.attr.value != "reduce_op":
        return
    if ctx.sem.qualified(owner) != "torch.distributed.reduce_op" or minds_version(ctx.sem, node):
        return
    yield Finding(
        node,
        f"`{dotted(owner)}` is deprecated",
        "each reading warns that it will be removed",
        f"write `{dotted(owner.value)}.ReduceOp.{node.attr.value}`",
        safe("Name the class", Edit(*ctx.file.span(owner.attr), "ReduceOp")),
    )


_LAST = frozenset(n.rpartition(".")[2] for n in _KNOWN)


def _told(name: str, ctx: Context) -> tuple[tuple[str, str], Severity | None] | None:
    """What is wrong with a name for the project's torch: (what, why) and a severity; None if nothing is."""
    package = name.partition(".")[0]
    mined, version = _mined(package, ctx)
    row = mined.names.get(name)
    if row is None:
        return None
    rewrite = REWRITES.get(name) or ATTRIBUTES.get(name)
    if rewrite is not None and ctx.torch_version is not None and ctx.torch_version < rewrite.available:
        return None
    first = row.since or row.removed
    if rewrite is None and version is not None and first is not None and version < first:
        return None
    if row.withdrawn is not None:
        if version is not None and version >= row.withdrawn:
            return None
        return (
            "is a name of old torch",
            f"{package} before {_text(row.withdrawn)} warns of it in each run",
        ), Severity.INFO
    quiet = (rewrite is not None and rewrite.quiet) or name == "torch.svd"
    return _state(row, package, quiet), Severity.INFO if quiet else None


def _mined(package: str, ctx: Context) -> tuple[Table, Version | None]:
    version = _RELEASED_WITH[package](ctx.torch_version) if package in _RELEASED_WITH else ctx.torch_version
    return table(package), version


_RELEASED_WITH = {"torchvision": torchvision_for, "torchaudio": torchaudio_for}


def _state(row: Row, package: str, quiet: bool) -> tuple[str, str]:
    if row.removed is not None:
        return "is gone", f"{package} {_text(row.removed)} and later raise an error here"
    since = f" since {package} {_text(row.since)}" if row.since is not None and row.since > (1, 0) else ""
    return f"is deprecated{since}", f"{package} {'documents' if quiet else 'warns'} that it will be removed"


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def _spelled(new: str, node: cst.Attribute, name: str, ctx: Context) -> tuple[str, tuple[Edit, ...]]:
    """How to write the new name here: beside the old one if it lives in the same module."""
    if new.rpartition(".")[0] == name.rpartition(".")[0]:
        return f"{dotted(node.value)}.{new.rpartition('.')[2]}", ()
    return torch_name(ctx.file, ctx.sem, new, node)


def _rewritten(node: cst.Attribute, name: str, rewrite: Rewrite, ctx: Context) -> Fix | None:
    file = ctx.file
    call = file.parent(node)
    new, imports = _spelled(rewrite.new, node, name, ctx)
    start, end = file.span(node)
    edits: list[Edit] = [*imports]
    exact = rewrite.safe
    if not isinstance(call, cst.Call) or call.func is not node:
        if rewrite.build is not None or name in _ONLY_CALLED:
            return None  # given to somebody who calls it with arguments unknown
        edits.append(Edit(start, end, new))
    elif rewrite.build is None:
        if rewrite.positional is not None and (len(call.args) > rewrite.positional or has_star(call)):
            return None
        edits.append(Edit(start, end, new))
    else:

        def named(wanted: str) -> str:
            spelled, more = torch_name(file, ctx.sem, wanted, node)
            edits.extend(more)
            return spelled

        arguments = rewrite.build(call, Writer(ctx.sem, named))
        end = file.caret(call)[1]
        if arguments is None or "#" in file.text[start:end]:
            return None
        exact = exact and arguments.exact
        edits.append(Edit(start, end, f"{new}({arguments.text})"))
    return (safe if exact else unsafe)(f"Call {rewrite.new} instead", *dict.fromkeys(edits))


_ONLY_CALLED = frozenset(
    n for n, r in REWRITES.items() if r.positional is not None and n.endswith(("nearest", "bilinear"))
)


# -- arguments ------------------------------------------------------------------------------------------------------


@RULE.on
def check_arguments(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    last = call.func.attr.value if isinstance(call.func, cst.Attribute) else dotted(call.func) or ""
    found: Iterator[Finding] = iter(())
    if last == "meshgrid":
        found = _meshgrid(call, ctx)
    elif last in _LEGACY:
        found = _legacy_signature(call, last, ctx)
    elif last == "backward":
        found = _retained(call, ctx)
    elif last == "get_lr":
        found = _last_rate(call, ctx)
    elif last == "step":
        found = _stepped_to(call, ctx)
    elif last == "stft":
        found = _real_stft(call, ctx)
    elif last.lower() in ("softmax", "log_softmax", "logsoftmax", "softmin"):
        found = _without_dim(call, ctx)
    elif last.endswith(("LR", "Plateau", "Restarts")):
        found = _verbose(call, ctx)
    for finding in found:
        if _matches(_CALLS, call, ctx) and not minds_version(ctx.sem, call):
            yield finding


def _meshgrid(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    if (
        ctx.sem.qualified(call.func) != "torch.meshgrid"
        or argument(call, "indexing") is not None
        or has_star(call, "**")
    ):
        return
    branches = (a for a in ctx.file.ancestors(call) if isinstance(a, cst.If))
    if any("indexing" in ctx.file.code(branch) for branch in branches):
        return  # the other branch is for a torch that knows it
    if ctx.torch_version is None or ctx.torch_version >= (1, 10):
        yield Finding(
            call,
            f"`{dotted(call.func)}` without `indexing`",
            "torch warns of it: the default is to change from that of matrices to that of numpy",
            'pass `indexing="ij"`, which is what it does today',
            safe("Say which indexing is meant", add_argument(ctx.file, call, 'indexing="ij"')),
        )


def _retained(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    given = argument(call, "retain_variables")
    if given is not None and given.keyword is not None:
        yield Finding(
            given,
            "`backward` has no `retain_variables`",
            "torch 0.2 renamed it, and later ones raise a TypeError here",
            "write `retain_graph=`, if the graph is needed again at all",
            safe("Call it by its name", Edit(*ctx.file.span(given.keyword), "retain_graph")),
        )


def _last_rate(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    """`scheduler.get_lr()` is for `step` alone: elsewhere it computes the next rate from the current one."""
    owner = call.func.value if isinstance(call.func, cst.Attribute) else call
    if ctx.sem.value(owner).kind is not Kind.SCHEDULER or not ctx.sem.value(owner).origin.startswith(SCHEDULERS):
        return
    if ctx.torch_version is not None and ctx.torch_version < (1, 4):
        return
    name = call.func.attr if isinstance(call.func, cst.Attribute) else call
    yield Finding(
        call,
        "`get_lr` is what the scheduler's `step` calls",
        "torch 1.4 and later warn, and for several schedulers the rate is not the one in use",
        "call `get_last_lr()`",
        unsafe("Ask for the rate in use", Edit(*ctx.file.span(name), "get_last_lr")),
    )


def _stepped_to(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    """`scheduler.step(epoch)`: a step is one step."""
    owner = ctx.sem.value(call.func.value) if isinstance(call.func, cst.Attribute) else None
    if owner is None or owner.kind is not Kind.SCHEDULER or not owner.origin.startswith(SCHEDULERS):
        return
    kind = owner.origin.removeprefix(SCHEDULERS)
    given = argument(call, "epoch", 0)
    if kind in _STEPPED_TO or given is None or len(call.args) != 1 or given.star or literal(given.value) is None:
        return
    if ctx.torch_version is not None and ctx.torch_version < (1, 4):
        return
    yield Finding(
        call,
        f"`step` of `{kind}` is given an epoch",
        "torch 1.4 and later warn that it will be removed, and compute the rate by another formula where there is one",
        "call `step()` once after each epoch",
        unsafe("Take one step", Edit(*ctx.file.span(given), "")),
    )


# Their argument is a metric, or a place between two restarts; nobody has deprecated that.
_STEPPED_TO = frozenset(("ReduceLROnPlateau", "CosineAnnealingWarmRestarts"))


def _real_stft(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    if ctx.sem.qualified(call.func) != "torch.stft" or has_star(call):
        return
    if argument(call, "return_complex", 9) is not None or (ctx.torch_version or (2, 0)) < (1, 8):
        return
    if any(isinstance(a, cst.If) and "return_complex" in ctx.file.code(a) for a in ctx.file.ancestors(call)):
        return  # the other branch is for a torch that knows it
    view, imports = torch_name(ctx.file, ctx.sem, "torch.view_as_real", call)
    start, end = ctx.file.span(call)
    added = add_argument(ctx.file, call, "return_complex=True")
    yield Finding(
        call,
        f"`{dotted(call.func)}` without `return_complex`",
        "torch 2.0 and later raise a RuntimeError here for real input",
        "pass `return_complex=True`, and take `torch.view_as_real` of it where the two parts are wanted",
        unsafe("See the complex result as real", Edit(start, start, f"{view}("), added, Edit(end, end, ")"), *imports),
    )


def _verbose(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    name = ctx.sem.qualified(call.func) or ""
    given = argument(call, "verbose")
    if given is None or not name.startswith(SCHEDULERS) or f"{name}(verbose)" not in table("torch").arguments:
        return
    row = table("torch").arguments[f"{name}(verbose)"]
    if ctx.torch_version is not None and ctx.torch_version < (2, 2):
        return
    kind = safe if literal(given.value) is False else unsafe
    yield Finding(
        given,
        f"`{name.rpartition('.')[2]}` has no `verbose` any more",
        f"torch {_text(row.removed or (2, 7))} and later raise a TypeError here",
        "leave it out and print `scheduler.get_last_lr()` where it matters",
        kind("Leave verbose out", remove_argument(ctx.file, call, given)),
    )


def _without_dim(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    name = ctx.sem.qualified(call.func) or ""
    if name not in WITHOUT_DIM or len(call.args) != WITHOUT_DIM[name] or has_star(call):
        return
    if any(a.keyword is not None and a.keyword.value == "dim" for a in call.args):
        return
    yield Finding(
        call,
        f"`{dotted(call.func)}` without `dim`",
        "torch warns and takes dim 0 for inputs of 1 or 3 dimensions, dim 1 for others",
        "pass `dim=`, often -1",
    )


def _legacy_signature(call: cst.Call, method: str, ctx: Context) -> Iterator[Finding]:
    """`x.add_(alpha, y)`: the number goes behind, by name."""
    keyword, count = _LEGACY[method]
    if len(call.args) != count or any(a.keyword is not None or a.star for a in call.args):
        return
    owner = call.func.value if isinstance(call.func, cst.Attribute) else call.func
    value = ctx.sem.value(owner)
    if value.kind.value not in ("unknown", "tensor", "parameter") or ctx.sem.qualified(call.func):
        return
    file = ctx.file
    number, *tensors = (a.value for a in call.args)
    text = f"{', '.join(file.code(t) for t in tensors)}, {keyword}={file.code(number)}"

    def fix() -> Fix | None:
        start, end = file.span(call.args[0])[0], file.span(call.args[-1])[1]
        if "#" in file.text[start:end]:
            return None
        return safe("Name the factor", Edit(start, end, text))

    yield Finding(
        call,
        f"`{method}` with the factor in front",
        "torch 1.5 and later warn of this form and will remove it",
        f"write `{method}({text})`" if len(text) < 60 else f"pass the factor behind, as `{keyword}=`",
        fix(),
    )


# -- imports --------------------------------------------------------------------------------------------------------


@RULE.on
def check_import(node: cst.ImportFrom, ctx: Context) -> Iterator[Finding]:
    module = dotted(node.module) or ""
    if node.relative or not module.startswith(("torch", "functorch")) or isinstance(node.names, cst.ImportStar):
        return
    if not _matches(_IMPORTS, node, ctx) or minds_version(ctx.sem, node):
        return
    if module in MOVED or module == "torch._six":
        yield from _moved(node, module, ctx)
        return
    for alias in node.names:
        name = f"{module}.{dotted(alias.name)}"
        told = _told(name, ctx) if name in _KNOWN else None
        if told is None:
            continue
        (what, why), severity = told
        rewrite = REWRITES.get(name)
        fix = None
        if rewrite is not None and rewrite.build is None and name not in _ONLY_CALLED:
            fix = _renamed(node, alias, name, rewrite, ctx)
        do = ADVICE.get(name) or (f"call `{rewrite.new}`" if rewrite is not None else "read the release notes")
        yield Finding(alias, f"`{name}` {what}", why, do, fix, severity=severity)


def _renamed(node: cst.ImportFrom, alias: cst.ImportAlias, name: str, rewrite: Rewrite, ctx: Context) -> Fix | None:
    """`from m import old` → `from m import new as old`, where both live in one module or nothing else is imported."""
    module, _, new = rewrite.new.rpartition(".")
    file = ctx.file
    asname = alias.asname.name if alias.asname is not None else alias.name
    bound = asname.value if isinstance(asname, cst.Name) else ""
    text = new if bound == new else f"{new} as {bound}"
    kind = safe if rewrite.safe and rewrite.positional is None else unsafe
    edits = [Edit(file.span(alias.name)[0], file.caret(alias)[1], text)]
    if module != name.rpartition(".")[0]:
        if isinstance(node.names, cst.ImportStar) or len(node.names) != 1 or node.module is None:
            return None
        edits.append(Edit(*file.span(node.module), module))
    return kind(f"Import {rewrite.new} instead", *edits) if bound else None


def _moved(node: cst.ImportFrom, module: str, ctx: Context) -> Iterator[Finding]:
    package = module.partition(".")[0]
    mined, _ = _mined(package, ctx)
    row = mined.names.get(module)
    if row is None or row.removed is None or isinstance(node.names, cst.ImportStar):
        return
    why = f"{package} {_text(row.removed)} and later raise an ImportError here"
    if module in MOVED:
        fix = None
        if node.module is not None:
            fix = unsafe(f"Import from {MOVED[module]}", Edit(*ctx.file.span(node.module), MOVED[module]))
        yield Finding(node, f"`{module}` is gone", why, f"import from `{MOVED[module]}`", fix)
        return
    lines: list[str] = []
    for alias in node.names:
        asname = alias.asname.name if alias.asname is not None else alias.name
        template = SIX.get(dotted(alias.name) or "")
        if template is None or not isinstance(asname, cst.Name):
            lines = []
            break
        lines.append(re.sub(r"\b(\w+) as \1$", r"\1", template.format(asname.value)))
    fix = None
    if lines and "#" not in ctx.file.code(node):
        start, end = ctx.file.caret(node)
        between = ctx.file.newline + ctx.file.indent(node)
        fix = unsafe("Import what it stood for", Edit(start, end, between.join(lines)))
    yield Finding(node, f"`{module}` is gone", why, "import from the standard library what it stood for", fix)
