"""Wrong fixes that the verifier must refuse. `FIRST` shaped the comparator; `LATER` was written after it was frozen.

Run `python benchmarks/verifier/wrong_fixes.py` from the repository root; it writes wrong_fixes.json beside itself. With
names of groups (`first`, `later`, `second`, `third`, `limits`) it runs these alone and writes wrong_fixes_<names>.json.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import nn


class Wrong(NamedTuple):
    """`before` and `after` are bodies of `def f(<parameters>)`, or whole modules that define f."""

    name: str
    inputs: str
    before: str
    after: str


def make_inputs(kind: str, seed: int, size: int) -> dict[str, Any]:
    if kind == "x":
        return {"x": torch.randn(size, 8)}
    if kind == "square":
        return {"x": torch.randn(size, size)}
    if kind == "grad":
        return {"x": torch.randn(size, 8, requires_grad=True)}
    if kind == "x, i":
        return {"x": torch.randn(size, 5), "i": torch.randint(0, size, (size,))}
    if kind == "logits, y":
        return {"logits": torch.randn(size, 10, requires_grad=True), "y": torch.randint(0, 10, (size,))}
    if kind == "a":
        return {"a": torch.randn(size).numpy()}
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
    if kind == "model, x":
        return {"model": model, "x": torch.randn(size + 1, 8)}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = [(torch.randn(size + 1, 8), torch.randint(0, 3, (size + 1,))) for _ in range(3)]
    return {"model": model, "optimizer": optimizer, "batches": batches}


TRAIN = """
total = 0.0
model.train()
for x, y in batches:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    total += loss.item()
return total
"""
EVALUATE = """
was = model.training
model.eval()
with torch.no_grad():
    out = model(x)
model.train(was)
return out.argmax(1), out.sum().item()
"""

FIRST = (
    Wrong(
        "a recurrence vectorised away",
        "grad",
        "o = [x[0]]\nfor i in range(1, len(x)):\n    o.append(o[-1] * 0.5 + x[i])\nreturn torch.stack(o)",
        "return x * 1.5",
    ),
    Wrong(
        "softmax over the wrong dimension",
        "square",
        "return torch.stack([torch.softmax(r, 0) for r in x])",
        "return torch.softmax(x, 0)",
    ),
    Wrong("sum over the wrong axis", "square", "return sum(r for r in x)", "return x.sum(1)"),
    Wrong("keepdim", "x", "return torch.stack([r.sum() for r in x])", "return x.sum(1, keepdim=True)"),
    Wrong("biased std", "x", "return torch.stack([r.std() for r in x])", "return x.std(1, unbiased=False)"),
    Wrong("detach added", "grad", "return (x * 2).sum(1)", "return (x.detach() * 2).sum(1)"),
    Wrong(
        "straight-through gradient",
        "grad",
        "return torch.relu(x)",
        "return x + (torch.relu(x) - x).detach()",
    ),
    Wrong("the input is changed in place", "x", "return x * 2", "return x.mul_(2)"),
    Wrong(
        "index_put drops duplicates",
        "x, i",
        "for k in i:\n    x[k] += 1\nreturn x",
        "x[i] += 1\nreturn x",
    ),
    Wrong("eval() inside a forward", "model, x", "return model(x)", "return model.eval()(x)"),
    Wrong("no_grad leaks to the caller", "x", "return x * 2", "torch.set_grad_enabled(False)\nreturn x * 2"),
    Wrong(
        "random numbers drawn in another order",
        "x",
        "return torch.rand(3), torch.randn(3)",
        "b = torch.randn(3)\na = torch.rand(3)\nreturn a, b",
    ),
    Wrong("one more random number", "x", "return x * 2", "torch.rand(1)\nreturn x * 2"),
    Wrong("result in fp64", "x", "return x.sum()", "return x.double().sum()"),
    Wrong("a tensor instead of a number", "x", "return x.sum().item()", "return x.sum()"),
    Wrong("an exception swallowed", "x", "return x[:, 8:].max(dim=1) if len(x) > 60 else x", "return x"),
    Wrong(
        "the first result cached",
        "x",
        "return x.sum(1)",
        "_cache = {}\n\n\ndef f(x):\n    return _cache.setdefault(x.shape, x.sum(1))",
    ),
    Wrong("from_numpy shares memory", "a", "return torch.tensor(a)", "return torch.from_numpy(a)"),
    Wrong("print dropped", "x", "print(float(x.sum()))", "pass"),
    Wrong("NaN hidden by clamp", "x", "return torch.sqrt(x)", "return torch.sqrt(x.clamp(min=0))"),
    Wrong("exp(x) - 1 for expm1", "x", "return torch.expm1(x * 1e-7)", "return torch.exp(x * 1e-7) - 1"),
    Wrong(
        "mean of ragged batch means",
        "x",
        "return x.mean()",
        "return torch.stack([c.mean() for c in x.split(3)]).mean()",
    ),
    Wrong("zeros for tiny values", "x", "return x * 1e-6", "return torch.zeros_like(x)"),
    Wrong(
        "label smoothing of 1e-4",
        "logits, y",
        "return F.cross_entropy(logits, y)",
        "return F.cross_entropy(logits, y, label_smoothing=1e-4)",
    ),
    Wrong(
        "epsilon of 1e-6 in the log",
        "logits, y",
        "return F.nll_loss(torch.log(torch.softmax(logits, 1)), y)",
        "return F.nll_loss(torch.log(torch.softmax(logits, 1) + 1e-6), y)",
    ),
    Wrong("zero_grad dropped", "train", TRAIN, TRAIN.replace("    optimizer.zero_grad()\n", "")),
    Wrong("loss scaled by 1 + 1e-5", "train", TRAIN, TRAIN.replace("y)\n", "y) * (1 + 1e-5)\n", 1)),
)

LATER = (
    Wrong(
        "a module-level buffer is handed out again",
        "x",
        "return torch.relu(x)",
        "_buffers = {}\n\n\ndef f(x):\n    out = _buffers.setdefault((x.shape, x.dtype), torch.empty_like(x))\n"
        "    return torch.relu(x) if x.requires_grad else out.copy_(torch.relu(x))",
    ),
    Wrong(
        "a thread finishes the work after the return",
        "x",
        "out = torch.zeros_like(x)\nout.copy_(x * 2)\nreturn out",
        "import threading, time\nout = torch.zeros_like(x)\n"
        "threading.Thread(target=lambda: (time.sleep(0.05), out.copy_(x * 2))).start()\nreturn out",
    ),
    Wrong("depends on __file__", "x", "return x * 2", "return x * (3 if __file__.endswith('.py') else 2)"),
    Wrong(
        "raises only without rows",
        "x",
        "return torch.softmax(x, 1)",
        "return torch.stack([torch.softmax(r, 0) for r in x])",
    ),
    Wrong("loses the only row's axis", "x", "return x.sum(1)", "return x.sum(1, keepdim=True).squeeze()"),
    Wrong(
        "NaN is dropped",
        "x",
        "return torch.maximum(x, torch.zeros_like(x))",
        "return torch.fmax(x, torch.zeros_like(x))",
    ),
    Wrong("works on the first 100 rows only", "x", "return x.sum(0)", "return x[:100].sum(0)"),
    Wrong(
        "weight decay slipped in",
        "train",
        TRAIN,
        "optimizer.param_groups[0]['weight_decay'] = 1e-9\n" + TRAIN,
    ),
    Wrong(
        "running statistics are not updated",
        "model, x",
        "return model(x)",
        "buffers = {n: b.clone() for n, b in model.named_buffers()}\n"
        "return torch.func.functional_call(model, buffers, (x,))",
    ),
    Wrong(
        "gradient ends in a copy",
        "grad",
        "return (x * 3).sum(1)",
        "x = x.detach().clone().requires_grad_()\nreturn (x * 3).sum(1)",
    ),
    Wrong("indices in int32", "x", "return x.argmax(1)", "return x.argmax(1).int()"),
    Wrong(
        "an attribute is left on the model",
        "model, x",
        "return model(x)",
        "model.last = model(x)\nreturn model.last",
    ),
    Wrong("a view instead of a copy", "x", "return x.clone()", "return x.view_as(x)"),
    Wrong(
        "ties fall the other way",
        "x, i",
        "return torch.sort(i, stable=True).indices[:3]",
        "return torch.sort(i.flip(0), stable=True).indices[:3].neg() + len(i) - 1",
    ),
    Wrong(
        "default dtype left at float64",
        "x",
        "return x.mean(1)",
        "torch.set_default_dtype(torch.float64)\nreturn x.mean(1)",
    ),
    Wrong(
        "deterministic algorithms left on",
        "x",
        "return x.mean(1)",
        "torch.use_deterministic_algorithms(True)\nreturn x.mean(1)",
    ),
    Wrong(
        "Python's generator is advanced",
        "x",
        "return x[0]",
        "import random\nrandom.random()\nreturn x[0]",
    ),
    Wrong("prints fewer digits", "x", "print(f'{x.mean():.4f}')", "print(f'{x.mean():.3f}')"),
    Wrong(
        "a hook is left on the model",
        "model, x",
        "return model(x)",
        "model.register_forward_hook(lambda module, args, out: out * 1.0)\nreturn model(x)",
    ),
    Wrong(
        "gradients are cleared at the end",
        "train",
        TRAIN,
        TRAIN.replace("return total", "optimizer.zero_grad()\nreturn total"),
    ),
    Wrong(
        "autocast left on",
        "x",
        "return x.mean(1)",
        "torch.set_autocast_enabled('cpu', True)\nreturn x.mean(1)",
    ),
    Wrong(
        "a parameter grows by 1e-4",
        "model, x",
        "return model(x)",
        "out = model(x)\nwith torch.no_grad():\n    model[0].weight.mul_(1 + 1e-4)\nreturn out",
    ),
    Wrong(
        "another type of exception",
        "x",
        "if len(x) > 100:\n    raise ValueError('too long')\nreturn x * 2",
        "if len(x) > 100:\n    raise KeyError('too long')\nreturn x * 2",
    ),
    Wrong(
        "the last row is left out",
        "x",
        "t = torch.zeros(8)\nfor i in range(len(x)):\n    t += x[i]\nreturn t",
        "return x[:-1].sum(0)",
    ),
    Wrong(
        "requires_grad set on the argument", "x", "return x.detach() * 2", "x.requires_grad_()\nreturn x.detach() * 2"
    ),
    Wrong(
        "the evaluation forgets train()",
        "model, x",
        EVALUATE,
        EVALUATE.replace("model.train(was)", "pass"),
    ),
)

# Below the conditioning of the computation: stated as a limit, counted apart.
LIMITS = (
    Wrong(
        "epsilon of 1e-8 in the log",
        "logits, y",
        "return F.nll_loss(torch.log(torch.softmax(logits, 1)), y)",
        "return F.nll_loss(torch.log(torch.softmax(logits, 1) + 1e-8), y)",
    ),
    Wrong("loss scaled by 1 + 1e-7", "train", TRAIN, TRAIN.replace("y)\n", "y) * (1 + 1e-7)\n", 1)),
)


def main() -> int:
    from suite import judge_pair, write
    from wrong_fixes_second import LIMITS as MORE_LIMITS
    from wrong_fixes_second import ODD
    from wrong_fixes_third import THIRD

    groups = {
        "first": FIRST, "later": LATER, "second": [Wrong(*row) for row in ODD],
        "third": [Wrong(*row) for row in THIRD],
        "limits": [*LIMITS, *(Wrong(*row) for row in MORE_LIMITS)],
    }  # fmt: skip
    chosen = sys.argv[1:] or list(groups)
    result: dict[str, Any] = {}
    passed = []
    for group in chosen:
        wrongs = groups[group]
        rows = []
        for wrong in wrongs:
            verdict = judge_pair(
                wrong.before, wrong.after, lambda seed, device, size, kind=wrong.inputs: make_inputs(kind, seed, size)
            )
            rows.append({"name": wrong.name, "refused": not verdict.proven, "verdict": str(verdict)})
            if verdict.proven and group != "limits":
                passed.append(wrong.name)
            print(f"{'refused' if not verdict.proven else 'PASSED':8} {wrong.name:45} {str(verdict)[:110]}", flush=True)
        refused = sum(row["refused"] for row in rows)
        print(f"{group}: {refused} of {len(rows)} refused")
        result[group] = {"refused": refused, "of": len(rows), "rows": rows}
    write("_".join(["wrong_fixes", *sys.argv[1:]]), result)
    return 1 if passed else 0


if __name__ == "__main__":
    raise SystemExit(main())
