"""Shapes and settings for which the GPU's fast kernels are not chosen.

## What it does

Finds in code that trains on a GPU

- a convolutional model over images of one size (MNIST, CIFAR, SVHN and the like) with no `cudnn.benchmark` in the
  project;
- a layer of `nn.Linear` or `nn.Embedding` whose constant width is no multiple of 8, in a file that computes in half
  precision;
- a convolutional model that is trained in half precision, with no `channels_last` in the project;
- a model of this file whose `forward` has no branches, trained in a script that compiles nothing.

## Why is this bad

cuDNN has several algorithms for each convolution. By default it picks one by rule of thumb; with `benchmark` it
measures them once per shape and keeps the fastest. Tensor cores work on tiles: a vocabulary of 50257 is computed with
slower kernels than one of 50304. In half precision cuDNN computes in channels-last order and converts inputs that are
not. `torch.compile` joins small kernels and leaves Python out.

## Example

```python
loader = DataLoader(CIFAR10("data", transform=transform), batch_size=128, shuffle=True)
with torch.autocast("cuda", dtype=torch.bfloat16):
    logits = nn.Linear(768, 50257).cuda()(hidden)
```

Use instead:

```python
torch.backends.cudnn.benchmark = True
loader = DataLoader(CIFAR10("data", transform=transform), batch_size=128, shuffle=True)
with torch.autocast("cuda", dtype=torch.bfloat16):
    logits = nn.Linear(768, 50304).cuda()(hidden)  # the last 47 are never asked for
```

Silent where `cudnn` (`channels_last`, `torch.compile`) is mentioned anywhere, for widths under 512, and in files that
load weights whose shapes are given.

Off by default: what is gained depends on the GPU, and is nothing for many models.

## Fix safety

No fix: another algorithm gives other bits, and another width another model.

## Verified by

Nothing is rewritten, so nothing is run.

## References

- <https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html>
- <https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication/index.html#requirements-tc>
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Question, Severity
from torchlint.nodes import argument, dotted, literal, walk
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Effect, Kind, LoaderCall
from torchlint.semantics.loading import dataset_value, loader_loops
from torchlint.semantics.names import OWN

# Who trains elsewhere than on a GPU, or feeds no batches and asks for no half precision, is not spoken to.
_REQUIRES = (r"\bcuda\b", r"DataLoader\b|\bautocast\b|\bbfloat16\b|\.half\(")

RULE = Rule(
    "TL707",
    Category.PRECISION,
    Severity.INFO,
    triggers=(
        r"DataLoader\b",
        r"\.step\(\s*\)",
        r"def forward\(",
        r"\bnn\.Linear\(|\bnn\.Embedding\(",
        r"[lL]oader\b.*:\s*(#.*)?$",
    ),
    requires=_REQUIRES,
    since="0.2",
    default=False,
)

_ONE_SIZE = re.compile(r"^torchvision\.datasets\.(CIFAR100?|\w*MNIST|SVHN|STL10|USPS|PCAM|FER2013)$")
_CONVOLVES = re.compile(
    r"\bConv2d\(|\btorchvision\.models\b|\bmodels\.(resnet|vgg|densenet|mobilenet|efficientnet)|\bresnet\d+\("
)
_COMPILES = re.compile(
    r"\bcompile\b|\bjit\b|\bexport\b|DataParallel|FullyShard|deepspeed|retain_graph|create_graph|register_\w*hook"
)
_HALF = re.compile(r"\bautocast\b|\bbfloat16\b|\.half\(")
_LOADS = re.compile(r"from_pretrained\(|load_state_dict\(")
_WIDE = 512  # narrower layers are not bound by their multiplication
_WIDTHS = {"torch.nn.Linear": (("in_features", 0), ("out_features", 1)), "torch.nn.Embedding": (("num_embeddings", 0),)}


@RULE.on
def check_cudnn(loader: LoaderCall, context: Context) -> Iterator[Finding]:
    text = context.file.text
    if "cudnn" in text or not _CONVOLVES.search(text) or not _ONE_SIZE.match(dataset_value(context.sem, loader).origin):
        return
    if _trains(loader, context):
        yield Finding(
            loader.node,
            "all images have one size, and cuDNN is not asked to find its fastest algorithms for it",
            "it chooses by rule of thumb",
            "set `torch.backends.cudnn.benchmark = True`, unless runs must be deterministic",
            unless=(Question("mentions", "cudnn"),),
        )


@RULE.on
def check_layout(loader: LoaderCall, context: Context) -> Iterator[Finding]:
    """Convolutions in half precision over images laid out channel by channel."""
    text = context.file.text
    if "channels_last" in text or not _CONVOLVES.search(text) or not re.search(r"\bautocast\b", text):
        return
    if _trains(loader, context):
        yield Finding(
            loader.node,
            "convolutions in half precision get their images channel by channel",
            "cuDNN's half-precision kernels take channels last, and convert what is not",
            "move model and images with `memory_format=torch.channels_last`",
            unless=(Question("mentions", "channels_last"),),
        )


@RULE.on
def check_compile(call: cst.Call, context: Context) -> Iterator[Finding]:
    """`model = Net().to(device)` in a script that trains it and compiles nothing."""
    text = context.file.text
    value = context.sem.value(call)
    if value.kind is not Kind.MODULE or not value.origin.startswith(OWN) or value.node is not call:
        return
    if _COMPILES.search(text) or not all(re.search(part, text) for part in _REQUIRES):
        return
    if context.torch_version is not None and context.torch_version < (2, 0):
        return
    cls, function = context.sem.class_of(value.origin), context.sem.function(call)
    forward = cls.methods.get("forward") if cls is not None else None
    if forward is None or any(isinstance(n, (cst.If, cst.While, cst.For, cst.Try)) for n in walk(forward.node)):
        return  # it may break the graph
    assign = context.file.parent(call)
    while isinstance(assign, (cst.Attribute, cst.Call)):
        assign = context.file.parent(assign)
    name = dotted(assign.targets[0].target) if isinstance(assign, cst.Assign) else None
    events = context.sem.events(function)
    forwards = [e for e in events if e.effect is Effect.FORWARD and e.subject == name and e.loops]
    if name and forwards and any(e.effect is Effect.STEP and e.loops for e in events):
        yield Finding(
            call,
            f"`{name}` is trained as Python runs it",
            "its `forward` has no branches, and `torch.compile` would join its kernels",
            f"try `{name} = torch.compile({name})` and measure: it pays for models of some size and many steps",
            unless=(Question("mentions", "torch.compile"),),
        )


def _trains(loader: LoaderCall, context: Context) -> bool:
    """Whether an optimizer steps in a loop over the loader."""
    for loop in loader_loops(context.sem):
        steps = context.sem.events(loop.function, Effect.STEP)
        if loop.loader is loader.node and any(step.within(loop.node) for step in steps):
            return True
    return False


@RULE.on
def check_widths(call: cst.Call, context: Context) -> Iterator[Finding]:
    widths = _WIDTHS.get(context.sem.qualified(call.func) or "", ())
    text = context.file.text
    if not widths or not _HALF.search(text) or _LOADS.search(text):
        return
    for name, position in widths:
        arg = argument(call, name, position)
        width = literal(arg.value) if arg is not None else None
        if arg is not None and isinstance(width, int) and width >= _WIDE and width % 8:
            yield Finding(
                arg.value,
                f"{width} is no multiple of 8",
                "in half precision such a multiplication takes slower kernels than the next wider one",
                f"make it {(width // 64 + 1) * 64}, a multiple of 64, where the extra entries do no harm",
            )
