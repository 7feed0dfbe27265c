"""A model is trained under `nn.DataParallel`, one process for all GPUs.

## What it does
Reports `nn.DataParallel(model)` where the model is trained: a backward pass is reached with it in the same function, in
one that it calls, in the class that keeps the model, or in a caller that gets it returned, this file or another one.
Inference on several GPUs, frozen feature extractors, checkpoint conversion, `isinstance` checks, and the fallback
branch of a script that uses DistributedDataParallel are not reported.

## Why is this bad
In every step one Python process copies the model to each GPU, scatters the batch, runs all replicas in threads under
one interpreter lock, and gathers outputs and gradients on the first GPU, which fills up before the others. PyTorch's
own documentation recommends DistributedDataParallel instead, on a single machine too: one process per GPU, gradients
averaged while backward still runs.

## Example
```python
model = nn.DataParallel(model).cuda()
loader = DataLoader(train_set, batch_size=256, shuffle=True)
for epoch in range(epochs):
    for x, y in loader:
        ...
torch.save(model.module.state_dict(), "model.pt")
```
Use instead, started by `torchrun --nproc_per_node=gpu train.py`:
```python
setup_distributed()
model = distributed(model.cuda())
sampler = DistributedSampler(train_set, shuffle=True)
loader = DataLoader(train_set, batch_size=256 // dist.get_world_size(), sampler=sampler)
for epoch in range(epochs):
    sampler.set_epoch(epoch)
    for x, y in loader:
        ...
save_on_main(model.module.state_dict(), "model.pt")
dist.barrier()
dist.destroy_process_group()
```

## Fix safety
Unsafe, and it changes the whole script: process group, sampler, `set_epoch`, device of this process; printing, saving
and writing by the first process only (`open`, log files, copies, `wandb`, and writers and loggers that are only ever
told things); a ReduceLROnPlateau gets the mean of all processes' numbers. The new script runs without torchrun too, as
one process on one GPU. The global batch stays what it was; batch sizes that the number of processes does not divide are
rounded down. With a mean loss, the gradients are those of the single process. A GPU that an option names becomes this
process's own: `CUDA_VISIBLE_DEVICES` chooses now. Where only a part of the model was wrapped, all of it is, or the rest
would learn in each process by itself. What differs by design: a summed loss steps 1/world_size as far (the fix is then
only a suggestion), BatchNorm and dropout act per process, the last ragged batch is padded with repeated samples, and
printed training metrics are those of the first process's share. Parameters that take no part in the loss make DDP stop
with an error that says so. Losses that compare the samples of a batch with each other (contrastive, triplet) are left
alone: a process has only its share of them. So are scripts that divide the loss by the batch size or make tensors of it
themselves, and a script whose shape is not understood, and the message says why.

## Verified by
Running migrated scripts in several shapes alone, under torchrun with one process and with two (gloo on CPU), and
comparing the parameters after training with the original's: `benchmarks/ddp_migration.py` and
`tests/test_ddp_migration.py`. `torchlint verify TL801` starts one and two processes too, compares the parameters after
each step, and names what makes two differ from one (summed loss, BatchNorm, dropout, ragged batch): it takes the cause
out of both sides, which must make them equal. A difference without such a cause is a fault.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.DataParallel.html
- https://pytorch.org/docs/stable/notes/cuda.html#use-nn-parallel-distributeddataparallel-instead-of-multiprocessing-or-nn-dataparallel
- https://pytorch.org/docs/stable/elastic/run.html
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Applicability, Severity
from torchlint.migrate import Script, to_ddp, trained
from torchlint.rule import Category, Context, Finding, Rule, suggestion, unsafe

RULE = Rule(
    "TL801",
    Category.DISTRIBUTED,
    Severity.WARNING,
    triggers=(r"\bDataParallel\b",),
    since="0.1",
    fixes=(Applicability.UNSAFE, Applicability.SUGGESTION),
)


@RULE.on
def check(call: cst.Call, ctx: Context) -> Iterator[Finding]:
    if ctx.sem.qualified(call.func) != "torch.nn.DataParallel":
        return
    script = Script.whole(ctx.sem)
    wrap = next((w for w in script.made_by("torch.nn.DataParallel") if script.file.twin(w, ctx.file) is call), None)
    training = trained(script, wrap) if wrap is not None else None
    if training is None:
        return
    migration = to_ddp(script)
    plan = "use DistributedDataParallel, one process per GPU started by torchrun"
    fix = None
    if migration.refused:
        plan += f", with a DistributedSampler, set_epoch and saving on rank 0 (by hand here: {migration.refused})"
    else:
        message = "; ".join(("Run one process per GPU under DistributedDataParallel", *migration.cautions))
        fix = (suggestion if migration.rescaled else unsafe)(message, *migration.edits)
    yield Finding(
        call,
        f"`{training.name}` is trained under nn.DataParallel" if training.name else "Training under nn.DataParallel",
        "one process drives all GPUs and copies the model to each of them in every step",
        plan,
        fix,
        training.unless,
    )
