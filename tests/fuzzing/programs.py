"""Training programs of which is known what is wrong with them, and that nothing else is.

A `Training`, `Evaluation` or `Rows` says how a piece of code is built; `render` writes it, with `# expect: TLxxx` on
each line where a rule must find something. The rules of `JUDGED` must find exactly that. What the pieces are made of
(names, imports, where the code stands, what clears the gradients) must not matter, and varies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hypothesis import strategies as st

JUDGED = frozenset(
    ("TL101", "TL102", "TL103", "TL104", "TL105", "TL106", "TL201", "TL301", "TL501", "TL601", "TL801"),
)

# Words for things; none of them says what it is. None has a capital: a parameter spelled like a class may be the class.
WORDS = ("alpha", "beta", "gamma", "delta", "kappa", "größe", "_x9", "thing", "wert", "данные", "t", "l1", "obj", "ω")


class Writer:
    """Lines with indentation."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def __call__(self, line: str = "", *expected: str) -> None:
        marker = f"  # expect: {', '.join(expected)}" if expected else ""
        self.lines.append("    " * self.depth + line + marker if line else "")

    @contextmanager
    def block(self, header: str, *expected: str) -> Iterator[None]:
        self(header, *expected)
        self.depth += 1
        yield
        self.depth -= 1

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


@dataclass(frozen=True)
class Imports:
    """How the modules of PyTorch are called in the file."""

    lines: tuple[str, ...]
    torch: str
    nn: str
    F: str
    optim: str
    DataLoader: str


IMPORTS = (
    Imports(("import torch", "from torch import nn", "import torch.nn.functional as F",
             "from torch.utils.data import DataLoader"),
            "torch", "nn", "F", "torch.optim", "DataLoader"),
    Imports(("import torch as th", "import torch.nn as N", "from torch.utils.data import DataLoader as DL"),
            "th", "N", "N.functional", "th.optim", "DL"),
    Imports(("import torch", "import torch.utils.data"),
            "torch", "torch.nn", "torch.nn.functional", "torch.optim", "torch.utils.data.DataLoader"),
    Imports(("import torch", "import torch.nn", "from torch import optim as O", "from torch.nn import functional as Fn",
             "from torch.utils import data as td"),
            "torch", "torch.nn", "Fn", "O", "td.DataLoader"),
)  # fmt: skip

CLEARS = ("before", "after", "module", "parameters", "helper", "elsewhere", "none", "outer", "between")


@dataclass(frozen=True)
class Training:
    """A training loop. `clear`: what clears the gradients, and where."""

    clear: str
    accumulate: bool  # the step is taken in every n-th turn
    scaled: bool  # … and the loss is divided by n, a name of its own: dividing by it anywhere in a file silences TL106
    step_first: bool  # the step stands ahead of backward
    epochs: bool
    shape: str  # function, method, script, closure
    kept: str  # what is kept of the loss: nothing, item, graph, list, numbers
    counted: bool  # enumerate
    evidence: str  # how it is known what optimizer and model are: made, annotated
    loss_form: str  # functional, module
    moved: bool  # batches go to the GPU
    pinned: bool
    parallel: bool
    under_true: bool
    names: tuple[str, ...]  # six words

    def render(self, write: Writer, use: Imports, number: int) -> None:
        model, opt, loader, x, y, loss = self.names
        if self.clear == "helper":
            with write.block(f"def wipe{number}(first, second):"):
                write("second.zero_grad()")
            write()
            write()
        if self.shape == "script":
            write("data = load()")
            self._setup(write, use, number, model, opt, loader, "data", made=True)
            self._loop(write, use, number, model, opt, loader, x, y, loss)
            write()
            write()
            return
        annotated = f"{model}: {use.nn}.Module, {opt}: {use.optim}.Optimizer"
        given = annotated if self.evidence == "annotated" else f"{model}: {use.nn}.Module"
        if self.shape == "method":
            with write.block(f"class Work{number}:"):
                with write.block(f"def __init__(self, {model}: {use.nn}.Module):"):
                    write(f"self.{model} = {model}")
                    # A clear of `self.model` is not seen to be one of an optimizer made from the parameter `model`.
                    owner = f"self.{model}" if self.clear == "module" else model
                    write(f"self.{opt} = {use.optim}.SGD({owner}.parameters(), lr=0.1)")
                write()
                with write.block(f"def run(self, data, n{number}):"):
                    self._setup(write, use, number, f"self.{model}", "", loader, "data", made=False)
                    self._loop(write, use, number, f"self.{model}", f"self.{opt}", loader, x, y, loss)
        elif self.shape == "closure":
            with write.block(f"def outer{number}({given}, data, n{number}):"):
                self._setup(write, use, number, model, opt, loader, "data", made=self.evidence == "made")
                write()
                with write.block("def inner():"):
                    self._loop(write, use, number, model, opt, loader, x, y, loss)
                write()
                write("return inner()")
        else:
            with write.block(f"def train{number}({given}, data, n{number}):"):
                self._setup(write, use, number, model, opt, loader, "data", made=self.evidence == "made")
                self._loop(write, use, number, model, opt, loader, x, y, loss)
        write()
        write()

    def _setup(
        self, write: Writer, use: Imports, number: int, model: str, opt: str, loader: str, data: str, made: bool
    ) -> None:
        if self.shape == "script":
            write(f"{model} = {use.nn}.Linear(3, 2)")
            write(f"n{number} = 4")
        pin = ", pin_memory=True" if self.pinned else ""
        wrong = ["TL301"] if self.moved and not self.pinned else []
        write(f"{loader} = {use.DataLoader}({data}, batch_size=8{pin})", *wrong)
        if self.parallel:
            write(f"{model} = {use.nn}.DataParallel({model})", "TL801")
        if made:
            write(f"{opt} = {use.optim}.SGD({model}.parameters(), lr=0.1)")

    def _loop(
        self, write: Writer, use: Imports, number: int, model: str, opt: str, loader: str, x: str, y: str, loss: str
    ) -> None:
        total = f"sum{number}"
        write(f"{total} = {'[]' if self.kept in ('list', 'numbers') else '0.0'}")
        if self.loss_form == "module":
            write(f"measure = {use.nn}.MSELoss()")
        if self.clear in ("after",) or (self.clear == "helper" and self.accumulate):
            write(f"{opt}.zero_grad()")
        if self.epochs:
            with write.block("for _ in range(3):"):
                if self.clear == "outer":
                    write(f"{opt}.zero_grad()", "TL103")
                self._turns(write, use, number, model, opt, loader, x, y, loss, total)
        else:
            self._turns(write, use, number, model, opt, loader, x, y, loss, total)
        write(f"print({'len(' + total + ')' if self.kept in ('list', 'numbers') else total})")

    def _turns(
        self, write: Writer, use: Imports, number: int, model: str, opt: str, loader: str, x: str, y: str, loss: str,
        total: str,
    ) -> None:  # fmt: skip
        header = f"for i, ({x}, {y}) in enumerate({loader}):" if self.counted else f"for {x}, {y} in {loader}:"
        with write.block(header):
            if self.under_true:
                with write.block("if True:"):
                    self._turn(write, use, number, model, opt, x, y, loss, total)
            else:
                self._turn(write, use, number, model, opt, x, y, loss, total)

    def _turn(
        self, write: Writer, use: Imports, number: int, model: str, opt: str, x: str, y: str, loss: str, total: str
    ) -> None:
        if self.moved:
            write(f"{x} = {x}.cuda()")
            write(f"{y} = {y}.cuda()")
        self._clear_ahead(write, number, model, opt)
        out = f"{model}({x})"
        made = f"measure({out}, {y})" if self.loss_form == "module" else f"{use.F}.mse_loss({out}, {y})"
        write(f"{loss} = {made}{f' / n{number}' if self.accumulate and self.scaled else ''}")
        if self.step_first:
            write(f"{opt}.step()", "TL105")
        wrong = []
        if self.clear == "none":
            wrong.append("TL101")
        if self.accumulate and not self.scaled:
            wrong.append("TL106")
        write(f"{loss}.backward()", *wrong)
        if not self.step_first:
            if self.clear == "between":
                write(f"{opt}.zero_grad()", "TL104")
            if self.accumulate:
                with write.block(f"if (i + 1) % n{number} == 0:"):
                    self._step(write, number, opt)
            else:
                self._step(write, number, opt)
        self._keep(write, loss, total)

    def _clear_ahead(self, write: Writer, number: int, model: str, opt: str) -> None:
        early = ["TL102"] if self.accumulate else []
        if self.clear == "before":
            write(f"{opt}.zero_grad()", *early)
        elif self.clear == "module":
            # Whether an optimizer that was handed in goes over this model, nobody can know.
            known = self.shape in ("script", "method") or self.evidence == "made"
            write(f"{model}.zero_grad()", *(early if known else []))
        elif self.clear == "parameters":
            with write.block(f"for p in {model}.parameters():"):
                write("p.grad = None")
        elif self.clear == "helper" and not self.accumulate:
            write(f"wipe{number}(None, {opt})")
        elif self.clear == "elsewhere":
            write(f"wipe({opt})")

    def _step(self, write: Writer, number: int, opt: str) -> None:
        write(f"{opt}.step()")
        if self.clear == "after":
            write(f"{opt}.zero_grad()")
        elif self.clear == "helper" and self.accumulate:
            write(f"wipe{number}(None, {opt})")

    def _keep(self, write: Writer, loss: str, total: str) -> None:
        if self.kept == "item":
            write(f"{total} += {loss}.item()")
        elif self.kept == "graph":
            write(f"{total} += {loss}", "TL601")
        elif self.kept == "list":
            write(f"{total}.append({loss})", "TL601")
        elif self.kept == "numbers":
            write(f"{total}.append({loss}.detach())")


@dataclass(frozen=True)
class Evaluation:
    """A loop that only runs forward. `off`: what keeps autograd from recording."""

    off: str  # nothing, with, decorator, inference, caller, set
    names: tuple[str, ...]

    def render(self, write: Writer, use: Imports, number: int) -> None:
        model, _, loader, x, y, _ = self.names
        decorator = {"decorator": f"@{use.torch}.no_grad()", "inference": f"@{use.torch}.inference_mode()"}.get(
            self.off
        )
        if decorator:
            write(decorator)
        with write.block(f"def test{number}({model}: {use.nn}.Module, {loader}: {use.DataLoader}):"):
            write(f"{model}.eval()")
            write("hits = 0")
            if self.off == "with":
                with write.block(f"with {use.torch}.no_grad():"):
                    self._loop(write, model, loader, x, y)
            else:
                if self.off == "set":
                    write(f"{use.torch}.set_grad_enabled(False)")
                self._loop(write, model, loader, x, y)
            write("return hits")
        write()
        write()
        if self.off == "caller":
            with write.block(f"def report{number}(first, second):"), write.block(f"with {use.torch}.no_grad():"):
                write(f"print(test{number}(first, second))")
            write()
            write()

    def _loop(self, write: Writer, model: str, loader: str, x: str, y: str) -> None:
        with write.block(f"for {x}, {y} in {loader}:"):
            wrong = ["TL201"] if self.off == "nothing" else []
            write(f"hits += ({model}({x}).argmax(1) == {y}).sum().item()", *wrong)


@dataclass(frozen=True)
class Rows:
    """A loop over rows. `work`: what a turn does."""

    work: str
    names: tuple[str, ...]

    def render(self, write: Writer, use: Imports, number: int) -> None:
        x, out, i, *_ = self.names
        tensor = f"{use.torch}.Tensor" if self.work != "numbers" else "list"
        with write.block(f"def rows{number}({x}: {tensor}):"):
            if self.work == "numbers":
                write(f"{out} = [0.0] * len({x})")
                with write.block(f"for {i} in range(len({x})):"):
                    write(f"{out}[{i}] = {x}[{i}] * 2 + 1")
            else:
                write(f"{out} = {use.torch}.zeros_like({x})")
                first = "1, " if self.work == "recurrence" else ""
                wrong = ["TL501"] if self.work == "independent" else []
                with write.block(f"for {i} in range({first}{x}.shape[0]):", *wrong):
                    if self.work == "recurrence":
                        write(f"{out}[{i}] = {out}[{i} - 1] + {x}[{i}]")
                    elif self.work == "random":
                        write(f"{out}[{i}] = {x}[{i}] + {use.torch}.rand(())")
                    elif self.work == "early":
                        with write.block(f"if {i} > 3:"):
                            write("break")
                        write(f"{out}[{i}] = {x}[{i}] * 2 + 1")
                    else:
                        write(f"{out}[{i}] = {x}[{i}] * 2 + 1")
            write(f"return {out}")
        write()
        write()


Piece = Training | Evaluation | Rows


@dataclass(frozen=True)
class Program:
    use: Imports
    pieces: tuple[Piece, ...]
    noise: bool

    @property
    def files(self) -> dict[str, str]:
        """Name -> text."""
        write = Writer()
        for line in self.use.lines:
            write(line)
        elsewhere = any(isinstance(p, Training) and p.clear == "elsewhere" for p in self.pieces)
        if elsewhere:
            write("from tools import wipe")
        write("from source import load")
        write()
        write()
        for number, piece in enumerate(self.pieces):
            if self.noise:
                with write.block(f"def other{number}(value, *rest, key=None):"):
                    write("# nothing to see")
                    write("return [value, *rest] if key is None else {key: value}")
                write()
                write()
            piece.render(write, self.use, number)
        files = {"program.py": write.text}
        if elsewhere:
            files["tools.py"] = "import torch\n\n\ndef wipe(what):\n    what.zero_grad(set_to_none=True)\n"
        return files


_words = st.permutations(WORDS).map(lambda words: tuple(words[:6]))


@st.composite
def trainings(draw: st.DrawFn) -> Training:
    clear = draw(st.sampled_from(CLEARS))
    accumulate = clear not in ("parameters", "elsewhere", "outer", "between") and draw(st.booleans())
    step_first = clear == "before" and not accumulate and draw(st.booleans())
    shape = draw(st.sampled_from(("function", "method", "script", "closure")))
    return Training(
        clear=clear,
        accumulate=accumulate,
        scaled=draw(st.booleans()),
        step_first=step_first,
        epochs=clear == "outer" or draw(st.booleans()),
        shape=shape,
        kept=draw(st.sampled_from(("nothing", "item", "graph", "list", "numbers"))),
        counted=accumulate or draw(st.booleans()),
        evidence=draw(st.sampled_from(("made", "annotated"))),
        loss_form=draw(st.sampled_from(("functional", "module"))),
        moved=draw(st.booleans()),
        pinned=draw(st.booleans()),
        parallel=shape == "function" and draw(st.booleans()),
        under_true=draw(st.booleans()),
        names=draw(_words),
    )


evaluations = st.builds(
    Evaluation,
    off=st.sampled_from(("nothing", "with", "decorator", "inference", "caller", "set")),
    names=_words,
)
rows = st.builds(Rows, work=st.sampled_from(("independent", "recurrence", "random", "early", "numbers")), names=_words)
programs = st.builds(
    Program,
    use=st.sampled_from(IMPORTS),
    pieces=st.lists(st.one_of(trainings(), evaluations, rows), min_size=1, max_size=3).map(tuple),
    noise=st.booleans(),
)
