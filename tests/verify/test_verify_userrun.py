"""Tier 2: the user's own run decides; bad programs end with the right reason, in bounded time, with nothing changed."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torchlint.verify.sandbox import landlock_version  # noqa: E402
from torchlint.verify.shadow import MADE_INSIDE, Limits  # noqa: E402
from torchlint.verify.situation import situation  # noqa: E402
from torchlint.verify.units import changed, compose  # noqa: E402
from torchlint.verify.userrun import FunctionVerdict, UserRun, verify_run  # noqa: E402
from torchlint.verify.verdict import Behaviour  # noqa: E402
from torchlint.verify.weave import weave  # noqa: E402

PROGRAM = """\
import torch
from torch import nn
import torch.nn.functional as F

def rows(x):
    out = []
    for i in range(x.shape[0]):
        out.append(torch.softmax(x[i], dim=0))
    return torch.stack(out)

class Trainer:
    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def step(self, x, y):
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def test(self, x):
        return rows(self.model(x)).sum().item()

def main():
    trainer = Trainer()
    for i in range(4):
        trainer.step(torch.randn(6, 4), torch.randint(0, 3, (6,)))
        print(i, trainer.test(torch.randn(5, 4)))
        torch.save(trainer.model.state_dict(), "last.pt")

if __name__ == "__main__":
    main()
"""
SOFTMAX = ("    return torch.stack(out)", "    return torch.softmax(x, dim=1)")
QUICK = Limits(calls=2, child_seconds=30)


def run(tmp_path: Path, *edits: tuple[str, str], program: str = PROGRAM, timeout: float = 60) -> UserRun:
    path = tmp_path / "train.py"
    path.write_text(program)
    after = program
    for old, new in edits:
        assert old in after
        after = after.replace(old, new)
    command = [sys.executable, "train.py"]
    return verify_run({str(path): (program, after)}, command, limits=QUICK, timeout=timeout, cwd=str(tmp_path))


def only(result: UserRun) -> FunctionVerdict:
    (verdict,) = result.functions
    return verdict


def tree(path: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(path.rglob("*")) if p.is_file()}


def test_functions_are_judged_one_by_one(tmp_path: Path) -> None:
    result = run(
        tmp_path,
        SOFTMAX,
        ("        return loss.item()", "        self.optimizer.zero_grad()\n        return loss.item()"),
        ("        return rows(", "        self.model.eval()\n        return rows("),
    )
    assert result.ended == ""
    kinds = {v.function.name: v.verdict.kind for v in result.functions}
    assert kinds == {
        "rows": Behaviour.BITWISE,
        "Trainer.step": Behaviour.INTENDED,
        "Trainer.test": Behaviour.DIFFERENT,
    }
    assert all(v.calls >= v.verified == 2 for v in result.functions)


LATE = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.0)

    def forward(self, x):
        x = self.drop(x)
        return x * 2

net = Net()
for epoch in range(10):
    net.train()
    for i in range(10):
        net(torch.ones(4))
    net.eval()
    net(torch.ones(3 if epoch else 4))
"""


@pytest.mark.parametrize(
    "fixed", ["x * 2 if self.training else x * 3", "x * (3 if x.shape[0] == 3 else 2)"], ids=["mode", "shape"]
)
def test_a_call_in_another_situation_is_compared_however_late(tmp_path: Path, fixed: str) -> None:
    """The first calls are all alike, and equal."""
    (verdict,) = run(tmp_path, ("x * 2", fixed), program=LATE).functions
    assert verdict.verdict.kind is Behaviour.DIFFERENT
    assert verdict.calls > QUICK.calls


class Sleeping:
    """Stands for something that is made when it is first asked for anything."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(name)


def test_what_a_call_is_told_apart_by() -> None:
    x, net = torch.ones(4, 3), torch.nn.Linear(3, 3)
    first = situation((net, x), {"weights": [x, None]})
    assert first == situation((net, x + 1), {"weights": [x, None]})
    with torch.no_grad():
        assert first.mode != situation((net, x), {"weights": [x, None]}).mode
    assert first.mode != situation((net, x.double()), {"weights": [x, None]}).mode
    assert first.mode != situation((net, x), {"weights": [x, x]}).mode
    assert first.mode != situation((net.eval(), x), {"weights": [x, None]}).mode
    assert situation((Sleeping(),), {}) == situation((Sleeping(),), {})
    shorter = situation((net.train(), x[:3]), {"weights": [x, None]})
    assert shorter.mode == first.mode
    assert shorter.shape != first.shape


def test_a_program_is_ended_when_nothing_is_asked_of_it_any_more(tmp_path: Path) -> None:
    endless = PROGRAM.replace("range(4)", "range(10**9)")
    assert endless != PROGRAM
    started = time.monotonic()
    result = run(tmp_path, SOFTMAX, program=endless, timeout=600)
    assert (result.ended, only(result).verdict.kind, only(result).verified) == ("", Behaviour.BITWISE, 2)
    assert time.monotonic() - started < 500
    # One who catches everything is asked once.
    stubborn = endless.replace(
        "        trainer.step(",
        "        try: rows(torch.ones(2, 2))\n        except BaseException: break\n        trainer.step(",
    )
    result = run(tmp_path, SOFTMAX, program=stubborn, timeout=600)
    assert (result.ended, only(result).verdict.kind) == ("", Behaviour.BITWISE)


MADE_INSIDE_PROGRAM = PROGRAM.replace("def main():", "def main(log=None):").replace(
    "        print(", "        (log or []).append("
)


def test_a_model_that_lives_and_dies_in_the_call_is_not_compared_by_calls(tmp_path: Path) -> None:
    """It returns nothing and prints nothing: that nothing differs from nothing is no proof."""
    result = run(tmp_path, ("range(4)", "range(3)"), program=MADE_INSIDE_PROGRAM)
    assert (only(result).verdict.kind, only(result).verdict.detail) == (Behaviour.NOT_VERIFIABLE, MADE_INSIDE)


NET = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        nn.init.constant(self.fc.bias, 1.0)


"""


def test_the_init_of_a_module_is_compared(tmp_path: Path) -> None:
    program = PROGRAM.replace("class Trainer:", NET + "class Trainer:")
    program = program.replace("    trainer = Trainer()", "    Net()\n    trainer = Trainer()")
    right = run(tmp_path, ("nn.init.constant(", "nn.init.constant_("), program=program)
    assert only(right).verdict.kind is Behaviour.BITWISE
    wrong = run(
        tmp_path, ("nn.init.constant(self.fc.bias, 1.0)", "nn.init.constant_(self.fc.bias, 2.0)"), program=program
    )
    assert only(wrong).verdict.kind is Behaviour.DIFFERENT


LISTED = """\
import torch
from torch import nn

class Stack(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = [nn.Linear(width, width) for _ in range(3)]
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)

Stack(4)(torch.ones(2, 4))
"""


@pytest.mark.parametrize(
    ("layers", "kind", "detail"),
    [
        ("nn.ModuleList([nn.Linear(width, width) for _ in range(3)])", Behaviour.INTENDED, "before: 3 layers of Stack"),
        ("nn.ModuleList([nn.Linear(width, width) for _ in range(2)])", Behaviour.DIFFERENT, "self."),
        ("[]", Behaviour.DIFFERENT, "self."),
    ],
)  # fmt: skip
def test_layers_that_were_missing_are_registered_all_of_them(
    tmp_path: Path, layers: str, kind: Behaviour, detail: str
) -> None:
    edit = ("[nn.Linear(width, width) for _ in range(3)]", layers)
    verdict = only(run(tmp_path, edit, program=LISTED)).verdict
    assert verdict.kind is kind, verdict
    assert detail in verdict.detail


def test_no_file_is_changed(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    (tmp_path / "last.pt").write_bytes(b"precious")
    before = tree(tmp_path)
    result = run(tmp_path, SOFTMAX)
    assert only(result).verdict.kind is Behaviour.BITWISE
    if "changes no file" not in result.sandbox:
        pytest.skip(f"no overlay here: {result.sandbox}")
    assert tree(tmp_path) == before


def test_module_level_edits_are_said_to_be_out_of_reach(tmp_path: Path) -> None:
    result = run(tmp_path, ("import torch\n", "import torch\ntorch.manual_seed(1)\n"))
    assert not result.functions
    assert "module-level edit" in next(iter(result.whole_files.values()))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (("        trainer.step(", "        raise SystemExit(3)\n        trainer.step("), "exit code 3"),
        (("    trainer = Trainer()", "    import sys; sys.exit(0)"), "never called"),
        (("    out = []", "    input()\n    out = []"), "crash in the original: EOFError"),
        (("    out = []", "    import os; os._exit(7)"), "ended itself with code 7"),
        (("    out = []", "    while True: pass"), "timeout"),
        (("    out = []", "    import os; out = [torch.full((3,), os.urandom(1)[0] / 7)]"), "nondeterministic"),
        (("    out = []", "    torch.empty(10**14)"), "crash in the original"),
        (("    out = []", "    torch.zeros(3, device='cuda')"), "crash in the original"),
        (("    out = []", "    open('/etc/torchlint-test', 'w')\n    out = []"), "external write"),
        (("def rows(x):", "def unused(x):"), "never called"),
    ],
)
def test_bad_programs_end_with_a_reason(tmp_path: Path, edit: tuple[str, str], reason: str) -> None:
    if reason == "external write" and not landlock_version():
        pytest.skip("no Landlock on this kernel")
    program = PROGRAM.replace(*edit)
    if "unused" in program:
        program = program.replace("return rows(self.model(x))", "return (self.model(x))")
    started = time.monotonic()
    result = run(tmp_path, SOFTMAX, program=program, timeout=20)
    verdict = only(result)
    text = f"{verdict.verdict} {result.ended}"
    assert reason in text, text
    if reason != "exit code 3":
        assert verdict.verdict.kind is Behaviour.NOT_VERIFIABLE
    assert time.monotonic() - started < 60
    assert not os.path.exists("/etc/torchlint-test")


def test_a_program_may_delete_and_change_directory(tmp_path: Path) -> None:
    program = PROGRAM.replace(
        "    out = []",
        "    import os, shutil\n    shutil.rmtree('data', ignore_errors=True)\n    os.chdir('/')\n    out = []",
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.bin").write_bytes(b"a")
    result = run(tmp_path, SOFTMAX, program=program)
    if "changes no file" not in result.sandbox:
        pytest.skip(f"no overlay here: {result.sandbox}")
    assert (tmp_path / "data" / "a.bin").read_bytes() == b"a"
    assert only(result).verdict.kind in (Behaviour.BITWISE, Behaviour.NOT_VERIFIABLE)


def test_workers_and_spawn(tmp_path: Path) -> None:
    program = PROGRAM.replace(
        "    trainer = Trainer()",
        "    from torch.utils.data import DataLoader\n"
        "    data = torch.randn(8, 4)\n"
        "    for batch in DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context='spawn'):\n"
        "        rows(batch)\n"
        "    trainer = Trainer()",
    )
    result = run(tmp_path, SOFTMAX, program=program)
    assert result.ended == ""
    assert only(result).verdict.kind is Behaviour.BITWISE


def test_merging_takes_the_proven_functions_and_their_imports() -> None:
    before = '"""Doc."""\nimport os\n\n\ndef f(x):\n    return x\n\n\nclass A:\n    def g(self):\n        return 1\n'
    after = before.replace("import os\n", "import os\nimport torch\n").replace("return x", "return torch.relu(x)")
    after = after.replace("return 1", "return 2")
    assert changed(before, after) == {"f", "A.g"}
    assert compose(before, [(["f", "A.g"], after)]) == after
    assert compose(before, [(["A.g"], after)]) == before.replace("return 1", "return 2")


WITH_IMPORT = """\
import torch
from torch.autograd import Variable
import os


def a(x):
    return Variable(x) * 2


def b(x):
    return Variable(x) * 3
"""


def test_an_import_goes_with_the_last_function_that_used_it() -> None:
    after = WITH_IMPORT.replace("Variable(x)", "x").replace("from torch.autograd import Variable\n", "")
    assert changed(WITH_IMPORT, after) == {"a", "b"}
    assert changed(WITH_IMPORT, WITH_IMPORT.replace("import os\n", "")) == {"<module>"}
    one = WITH_IMPORT.replace("Variable(x) * 2", "x * 2")
    assert compose(WITH_IMPORT, [(("a",), after)]) == one
    assert compose(WITH_IMPORT, [(("a",), after), (("b",), after)]) == after
    assert [f.name for f in weave(WITH_IMPORT, after, one).functions] == ["a", "a", "b"]
    other = after.replace("import torch\n", "import torch\nfrom mine import Variable\n")
    assert changed(WITH_IMPORT, other) == {"a", "b", "<module>"}  # the same name for something else
