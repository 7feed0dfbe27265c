"""A model is trained on CUDA in full float32, and nothing says that it has to be.

## What it does
Reports a training loop in a file that uses CUDA, where nothing in the project chooses a precision: no autocast, no
half or double precision, no TF32 setting, no framework that sets one. Off by default: float32 may be what is wanted.

## Why is this bad
Since PyTorch 1.12 matrix products of float32 tensors do not use the tensor cores of Ampere and newer GPUs, unless asked
to. `torch.set_float32_matmul_precision("high")` lets them compute in TF32 (10 bits of mantissa for the factors, sums
in float32), at several times the rate for large products.

## Example
```python
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x.cuda()), y.cuda()).backward()
    optimizer.step()
```
Use instead:
```python
torch.set_float32_matmul_precision("high")
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x.cuda()), y.cuda()).backward()
    optimizer.step()
```
With the project option `target-device = "cpu"` nothing is reported.

## Fix safety
Unsafe: products are rounded to fewer bits on GPUs that have TF32. The line goes in front of the outermost loop, and
holds for the whole process from there on. Convolutions use TF32 already.

## Verified by
The setting that is in force when the model's forward runs. The speed-up needs a GPU and is not claimed.

## References
- https://pytorch.org/docs/stable/generated/torch.set_float32_matmul_precision.html
- https://pytorch.org/docs/stable/notes/cuda.html#tf32-on-ampere
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Question, Severity
from torchlint.edits import torch_name
from torchlint.rule import Category, Context, Finding, Rule, unsafe
from torchlint.semantics import Effect, TrainingLoop, flow
from torchlint.semantics.knowledge import PRECISION_WORDS

RULE = Rule(
    "TL701",
    Category.PRECISION,
    Severity.INFO,
    triggers=(r"\.backward\(",),
    requires=(r"\bcuda\b", r"\bstep\(", r"\.backward\("),
    since="0.2",
    fixes=(Applicability.UNSAFE,),
    default=False,
)

# Asking whether a device is CUDA, as the fix of TL301 does, says nothing of where the script runs.
_ON_CUDA = re.compile(r"\.cuda\(|(?<!\.type == )[\"']cuda")


@RULE.on
def check(loop: TrainingLoop, context: Context) -> Iterator[Finding]:
    text = context.file.text
    if context.target_device == "cpu" or not _ON_CUDA.search(text) or PRECISION_WORDS.search(text):
        return
    if context.torch_version is not None and context.torch_version < (1, 12):
        return  # TF32 was the default
    if isinstance(loop.node, cst.FunctionDef) or any(e.detail == "engine" for e in loop.of(Effect.STEP)):
        return
    first = next(context.sem.objects(TrainingLoop))
    if first is not loop:
        return  # one setting serves them all
    outermost = loop.outer[-1] if loop.outer else loop.node
    name, imports = torch_name(context.file, context.sem, "torch.set_float32_matmul_precision", outermost)
    line = context.file.insert_before(outermost, f'{name}("high")')
    yield Finding(
        flow.call_of(loop.of(Effect.BACKWARD)[0]),
        "training on CUDA multiplies matrices in full float32",
        "tensor cores stay unused",
        'set `torch.set_float32_matmul_precision("high")`, or use autocast',
        fix=unsafe("Allow TF32", line, *imports),
        unless=(Question("sets-precision", "~."),),
    )
