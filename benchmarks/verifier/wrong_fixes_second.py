"""Nineteen more wrong fixes, written after the comparator was frozen a second time (b3fc17e), each of a new kind.

`wrong_fixes.py` runs them; `wrong_fixes_second_frozen.json` holds what the frozen comparator said of all nineteen.
`LIMITS` is what is still not seen: gradients of gradients are never taken, as few fused kernels have them.
"""

from __future__ import annotations

Row = tuple[str, str, str, str]  # as `Wrong` in wrong_fixes.py

STEPS = """
for x, y in batches:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
return float(loss)
"""
TWICE = """
class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 2 * x


def f(x):
    return Square.apply(x)
"""

ODD: tuple[Row, ...] = (
    ("halves are rounded up", "x", "return x.round()", "return (x + 0.5).floor()"),
    (
        "two results share one piece of memory",
        "x",
        "return [torch.zeros(3) for _ in range(2)]",
        "return list(torch.zeros(1, 3).expand(2, 3).unbind())",
    ),
    ("a tuple instead of a list", "x", "return [x + 1, x + 2]", "return x + 1, x + 2"),
    ("a generator yields other values", "x", "return (r.sum() for r in x)", "return (r.mean() for r in x)"),
    ("the optimizer's state is dropped", "train", STEPS, "optimizer.state.clear()" + STEPS),
    ("hooks of the model are not called", "model, x", "return model(x)", "return model.forward(x)"),
    (
        "an argument is written to and put back",
        "x",
        "return (x * 2).sum()",
        "x.mul_(2)\nout = x.sum()\nx.div_(2)\nreturn out",
    ),
    (
        "a timer changes the model afterwards",
        "model, x",
        "return model(x)",
        "import threading\nt = threading.Timer(1.5, lambda: model[0].weight.data.mul_(2))\nt.daemon = True\nt.start()\n"
        "return model(x)",
    ),
    ("denormal numbers are flushed", "x", "return x * 2", "torch.set_flush_denormal(True)\nreturn x * 2"),
    (
        "the argument is kept in a default value",
        "x",
        "return x * 2",
        "def f(x, kept=[]):\n    kept.append(x)\n    return x * 2",
    ),
    (
        "a line of the log is dropped",
        "x",
        "import logging\nlogging.getLogger('train').warning('loss %.4f', x.mean())\nreturn x * 2",
        "return x * 2",
    ),
    ("a checkpoint is not written", "x", "torch.save(x, 'last.pt')\nreturn x * 2", "return x * 2"),
    (
        "memory is taken for contiguous",
        "x",
        "return x.flatten().clone()",
        "return torch.as_strided(x, (x.numel(),), (1,), x.storage_offset()).clone()",
    ),
    ("a number becomes a tensor of float32", "x", "return x * 0.5", "return x * torch.tensor([0.5])"),
    (
        "the returned function keeps another value",
        "x",
        "m = x.mean(0)\nreturn lambda y: y - m",
        "m = x.sum(0)\nreturn lambda y: y - m",
    ),
    (
        "the variance by cancellation",
        "x",
        "return x.var(0, unbiased=False)",
        "return (x * x).mean(0) - x.mean(0) ** 2",
    ),
    (
        "parameters are replaced by equal ones",
        "model, x",
        "return model(x)",
        "model[0].weight = nn.Parameter(model[0].weight.detach().clone())\nreturn model(x)",
    ),
    (
        "a variable of the environment is left set",
        "x",
        "return x * 2",
        "import os\nos.environ['OMP_PROC_BIND'] = 'true'\nreturn x * 2",
    ),
)


LIMITS: tuple[Row, ...] = (("the result cannot be differentiated twice", "grad", "return x * x", TWICE.strip()),)
