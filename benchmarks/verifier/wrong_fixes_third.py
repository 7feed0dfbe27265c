"""Sixteen wrong fixes more, written after the comparator was frozen a third time (ff40459), again of new kinds.

`wrong_fixes.py` runs them; `wrong_fixes_third_frozen.json` holds what the frozen comparator said.
"""

from __future__ import annotations

from wrong_fixes_second import Row

FLAGS = """
was = {m: m.training for m in model.modules()}
model.eval()
with torch.no_grad():
    out = model(x)
for m, flag in was.items():
    m.training = flag
return out
"""
FROZEN = """
was = [p.requires_grad for p in model.parameters()]
for p in model.parameters():
    p.requires_grad_(False)
out = model(x)
for p, flag in zip(model.parameters(), was):
    p.requires_grad_(flag)
return out
"""
LOOP = """
model.train()
loss = torch.zeros(())
for x, y in batches:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
return loss.item()
"""
BY_ID = """
_sums = {}


def f(x):
    if id(x) not in _sums:
        _sums[id(x)] = x.sum(1)
    return _sums[id(x)].clone()
"""

THIRD: tuple[Row, ...] = (
    (
        "dropout also while evaluating",
        "model, x",
        "return F.dropout(x, 0.5, training=model.training)",
        "return F.dropout(x, 0.5)",
    ),
    ("negative numbers are halved to zero", "x, i", "return i // 2", "return torch.div(i, 2, rounding_mode='trunc')"),
    ("indices may no longer be negative", "x, i", "return x[i]", "return x.index_select(0, i)"),
    ("an epoch without batches fails", "train", LOOP, LOOP.replace("loss = torch.zeros(())\n", "")),
    (
        "gradients are set, not added",
        "grad",
        "(x * 2).sum().backward()\nreturn x.grad.sum().item()",
        "x.grad = torch.full_like(x, 2)\nreturn x.grad.sum().item()",
    ),
    (
        "frozen parameters are thawed",
        "model, x",
        FROZEN,
        FROZEN.replace("requires_grad_(flag)", "requires_grad_(True)"),
    ),
    (
        "a frozen layer is set to train mode",
        "model, x",
        FLAGS,
        FLAGS.replace("for m, flag in was.items():\n    m.training = flag", "model.train(was[model])"),
    ),
    (
        "the best weights are not copied",
        "model, x",
        "return {k: v.clone() for k, v in model.state_dict().items()}",
        "return dict(model.state_dict())",
    ),
    ("results are kept by the argument's address", "x", "return x.sum(1)", BY_ID.strip()),
    (
        "gradients stay off where it raises",
        "x",
        "with torch.no_grad():\n    return x.view(-1, 16) * 2",
        "was = torch.is_grad_enabled()\ntorch.set_grad_enabled(False)\nout = x.view(-1, 16) * 2\n"
        "torch.set_grad_enabled(was)\nreturn out",
    ),
    ("the sign is read from float32's bits", "x", "return x < 0", "return x.view(torch.int32) < 0"),
    (
        "warnings are silenced for good",
        "x",
        "return x * 2",
        "import warnings\nwarnings.filterwarnings('ignore')\nreturn x * 2",
    ),
    ("the directory is changed", "x", "return x * 2", "import os\nos.chdir('/')\nreturn x * 2"),
    (
        "an interrupt is no longer heard",
        "x",
        "return x * 2",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nreturn x * 2",
    ),
    (
        "the log is disabled",
        "x",
        "return x * 2",
        "import logging\nlogging.disable(logging.CRITICAL)\nreturn x * 2",
    ),
    (
        "the search for NaN is dropped",
        "x",
        "if not torch.isfinite(x).all():\n    raise FloatingPointError('diverged')\nreturn x * 2",
        "if torch.isinf(x).any():\n    raise FloatingPointError('diverged')\nreturn x * 2",
    ),
)
