"""Correct rewrites that the verifier must not call `different`: at least 30, each with 5 seeds and 3 sizes.

Run `python benchmarks/verifier/correct_rewrites.py` from the repository root; it writes correct_rewrites.json.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import nn


class Rewrite(NamedTuple):
    name: str
    inputs: str
    before: str
    after: str


def make_inputs(kind: str, seed: int, size: int) -> dict[str, Any]:
    if kind == "x":
        return {"x": torch.randn(size, 61)}
    if kind == "grad":
        return {"x": torch.randn(size, 61, requires_grad=True)}
    if kind == "vector":
        return {"x": torch.randn(size)}
    if kind == "x, y":
        return {"x": torch.randn(size, 24, requires_grad=True), "y": torch.randn(size, 24, requires_grad=True)}
    if kind == "x, w":
        return {"x": torch.randn(size, 64, requires_grad=True), "w": torch.randn(32, 64, requires_grad=True)}
    if kind == "points":
        return {"x": torch.randn(min(size, 40), 5), "y": torch.randn(min(size, 40) + 3, 5)}
    if kind == "matrices":
        shape = (size, 9, 9)
        return {"x": torch.randn(shape, requires_grad=True), "y": torch.randn(shape, requires_grad=True)}
    if kind == "logits, y":
        return {"logits": torch.randn(size, 10, requires_grad=True), "y": torch.randint(0, 10, (size,))}
    if kind == "binary":
        return {"logits": torch.randn(size, requires_grad=True), "y": torch.randint(0, 2, (size,)).float()}
    if kind == "attention":
        return {name: torch.randn(2, 3, size, 16, requires_grad=True) for name in ("q", "k", "v")}
    if kind == "arrays":
        return {"a": [row.numpy() for row in torch.randn(size, 6)]}
    if kind == "labels":
        return {"y": torch.randint(0, 10, (size,))}
    if kind == "images":
        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        head = nn.Linear(8 * 36, 4)
        return {"model": nn.Sequential(*model, head), "x": torch.randn(size % 32 + 2, 3, 6, 6)}
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = [(torch.randn(size + 1, 8), torch.randint(0, 3, (size + 1,))) for _ in range(3)]
    return {"model": model, "optimizer": optimizer, "batches": batches}


def train(loss: str, extra: str = "optimizer.zero_grad()") -> str:
    return f"""
for x, y in batches:
    {extra}
    z = model(x)
    loss = {loss}
    loss.backward()
    optimizer.step()
"""


NLL = "F.nll_loss(torch.log(torch.softmax(z, 1)), y)"
REWRITES = (
    Rewrite(
        "elementwise rows",
        "x",
        "out = torch.empty_like(x)\nfor i in range(x.shape[0]):\n    out[i] = torch.tanh(torch.exp(-x[i]))\nreturn out",
        "return torch.tanh(torch.exp(-x))",
    ),
    Rewrite(
        "elementwise rows with gradient",
        "grad",
        "return torch.stack([torch.sigmoid(r) * r for r in x])",
        "return torch.sigmoid(x) * x",
    ),
    Rewrite(
        "softmax rows", "grad", "return torch.stack([torch.softmax(r, 0) for r in x])", "return torch.softmax(x, 1)"
    ),
    Rewrite(
        "norm rows", "grad", "return torch.stack([r.norm() for r in x])", "return torch.linalg.vector_norm(x, dim=1)"
    ),
    Rewrite("matmul rows", "x, w", "return torch.stack([w @ x[i] for i in range(x.shape[0])])", "return x @ w.T"),
    Rewrite("dot rows", "x, y", "return torch.stack([torch.dot(a, b) for a, b in zip(x, y)])", "return (x * y).sum(1)"),
    Rewrite(
        "matrix products", "matrices", "return torch.stack([a @ b for a, b in zip(x, y)])", "return torch.bmm(x, y)"
    ),
    Rewrite(
        "running sum of rows",
        "grad",
        "t = torch.zeros(x.shape[1])\nfor i in range(x.shape[0]):\n    t = t + x[i]\nreturn t",
        "return x.sum(0)",
    ),
    Rewrite("builtin sum", "vector", "return sum(x)", "return x.sum()"),
    Rewrite(
        "vmap",
        "grad",
        "return torch.stack([torch.logsumexp(r, 0) + r.var() / r.norm() for r in x])",
        "return torch.vmap(lambda r: torch.logsumexp(r, 0) + r.var() / r.norm())(x)",
    ),
    Rewrite(
        "pairwise distances by broadcasting",
        "points",
        "d = torch.zeros(len(x), len(y))\nfor i in range(len(x)):\n    for j in range(len(y)):\n"
        "        d[i, j] = ((x[i] - y[j]) ** 2).sum().sqrt()\nreturn d",
        "return ((x[:, None] - y[None]) ** 2).sum(-1).sqrt()",
    ),
    Rewrite(
        "pairwise distances by cdist",
        "points",
        "return torch.stack([((r - y) ** 2).sum(1).sqrt() for r in x])",
        "return torch.cdist(x, y, compute_mode='donot_use_mm_for_euclid_dist')",
    ),
    Rewrite(
        "normalised rows",
        "grad",
        "return torch.stack([(r - r.mean()) / (r.std() + 1e-5) for r in x])",
        "return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)",
    ),
    Rewrite(
        "cat in a loop",
        "grad",
        "out = torch.empty(0)\nfor r in x:\n    out = torch.cat([out, r * 2])\nreturn out",
        "parts = [torch.empty(0)]\nfor r in x:\n    parts.append(r * 2)\nreturn torch.cat(parts)",
    ),
    Rewrite("log of softmax", "grad", "return torch.log(torch.softmax(x, 1))", "return torch.log_softmax(x, 1)"),
    Rewrite(
        "nll of log softmax",
        "logits, y",
        "return F.nll_loss(torch.log_softmax(logits, 1), y)",
        "return F.cross_entropy(logits, y)",
    ),
    Rewrite(
        "hand-written cross entropy",
        "logits, y",
        "p = torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)\n"
        "return -torch.log(p[torch.arange(len(y)), y]).mean()",
        "return F.cross_entropy(logits, y)",
    ),
    Rewrite(
        "margin by gather",
        "logits, y",
        "out = torch.empty(len(y))\nfor i in range(len(y)):\n    out[i] = logits[i][y[i]]\nreturn out",
        "return logits.gather(1, y[:, None]).squeeze(1)",
    ),
    Rewrite(
        "sigmoid and BCE",
        "binary",
        "return F.binary_cross_entropy(torch.sigmoid(logits), y)",
        "return F.binary_cross_entropy_with_logits(logits, y)",
    ),
    Rewrite("hand-written sigmoid", "grad", "return 1 / (1 + torch.exp(-x))", "return torch.sigmoid(x)"),
    Rewrite("log(1 + x)", "x", "return torch.log(1 + x.abs() * 1e-3)", "return torch.log1p(x.abs() * 1e-3)"),
    Rewrite("exp(x) - 1", "x", "return torch.exp(x * 1e-3) - 1", "return torch.expm1(x * 1e-3)"),
    Rewrite("log of sum of exp", "grad", "return torch.log(torch.exp(x).sum(1))", "return torch.logsumexp(x, 1)"),
    Rewrite("hand-written MSE", "x, y", "return ((x - y) ** 2).mean()", "return F.mse_loss(x, y)"),
    Rewrite("sum over count", "grad", "return x.sum() / x.numel()", "return x.mean()"),
    Rewrite(
        "masked by index", "vector", "o = x.clone()\no[x < 0] = 0.0\nreturn o", "return torch.where(x < 0, 0.0, x)"
    ),
    Rewrite(
        "one hot",
        "labels",
        "o = torch.zeros(len(y), 10)\nfor i in range(len(y)):\n    o[i, y[i]] = 1\nreturn o",
        "return F.one_hot(y, 10).float()",
    ),
    Rewrite(
        "stack of arrays",
        "arrays",
        "return torch.stack([torch.tensor(r) for r in a])",
        "import numpy\nreturn torch.from_numpy(numpy.stack(a))",
    ),
    Rewrite(
        "items summed once",
        "x",
        "t = 0.0\nfor r in x:\n    t += r.sum().item()\nreturn t",
        "return torch.stack([r.sum() for r in x]).double().sum().item()",
    ),
    Rewrite(
        "attention",
        "attention",
        "w = torch.softmax(q @ k.transpose(-2, -1) / 4.0, -1)\nreturn w @ v",
        "return F.scaled_dot_product_attention(q, k, v)",
    ),
    Rewrite(
        "evaluation without graph",
        "images",
        "model.eval()\nreturn model(x).sum().item()",
        "model.eval()\nwith torch.no_grad():\n    return model(x).sum().item()",
    ),
    Rewrite("training, cross entropy", "train", train(NLL), train("F.cross_entropy(z, y)")),
    Rewrite(
        "training, cleared after the step",
        "train",
        train("F.cross_entropy(z, y)"),
        train("F.cross_entropy(z, y)")
        .replace("    optimizer.zero_grad()\n", "")
        .replace("    loss.backward()", "    optimizer.zero_grad()\n    loss.backward()"),
    ),
    Rewrite(
        "training, logsumexp",
        "train",
        train(NLL),
        train("(torch.logsumexp(z, 1) - z.gather(1, y[:, None]).squeeze(1)).mean()"),
    ),
)


def main() -> int:
    from suite import judge_pair, write

    rows = []
    for rewrite in REWRITES:
        verdict = judge_pair(
            rewrite.before,
            rewrite.after,
            lambda seed, device, size, kind=rewrite.inputs: make_inputs(kind, seed, size),
            seeds=(0, 1, 2, 3, 4),
            boundary=False,
        )
        rows.append({"name": rewrite.name, "kind": verdict.kind.value, "verdict": str(verdict)})
        print(f"{rewrite.name:40} {str(verdict)[:150]}", flush=True)
    kinds = Counter(row["kind"] for row in rows)
    print(f"{len(rows)} rewrites × 5 seeds × 3 sizes: {dict(kinds)}")
    write(
        "correct_rewrites",
        {"rewrites": len(rows), "seeds": 5, "sizes": [7, 64, 200], "kinds": dict(kinds), "rows": rows},
    )
    return 1 if kinds["different"] or kinds["not-verifiable"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
