"""Plant mistakes into real code by mechanical mutation, and ask whether the rule that is meant for each reports it.

    python benchmarks/recall.py FOLDER… [--sample N] [--minutes N] [--family NAME]… [--out FILE] [--misses FILE]

Each FOLDER is one project. A mutation deletes, swaps or replaces what correct code has (`with torch.no_grad():`,
`zero_grad()`, `.item()`, …) in one file; where the right rule then says more in that file than before, that is a hit.
Nothing is written: the mutated text is checked in memory, and what its rules ask of the other
files is asked of the project as it lies. The sample is drawn with a fixed seed, at most three places per project and
family.

Not every mutation is a mistake: a model that its caller put into eval mode needs no `eval()` of its own, and a script
without a CUDA device no pinned memory. Recall told here is therefore a lower bound; `--misses` lists what to read.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst

from torchlint.catalogue import load
from torchlint.check import check_text
from torchlint.config import Config
from torchlint.link import Disk, answers

OUT = Path(__file__).parent / "results" / "recall.json"
PER_PROJECT = 3
PER_FILE = 2
CONFIG = Config()

Swap = tuple[cst.CSTNode, "cst.CSTNode | cst.FlattenSentinel[cst.BaseStatement] | cst.RemovalSentinel"]


@dataclass(frozen=True)
class Around:
    """What a place lies in: text and name of the function (of the module where there is none), and the whole text."""

    node: cst.CSTNode
    name: str
    code: str
    file: str
    loops: int


@dataclass(frozen=True)
class Family:
    """`needs` must match the file's text; `plant` yields the replacements that make one mistake at a node."""

    codes: tuple[str, ...]
    needs: str
    plant: Callable[[cst.CSTNode, Around], Iterator[list[Swap]]]


@dataclass(frozen=True)
class Planted:
    family: str
    path: str
    text: str
    row: int


# -- what the mutations look at ---------------------------------------------------------------------------------------

_EVALUATES = re.compile(r"(^|_)(eval\w*|test\w*|val\w*|infer\w*|predict\w*)", re.IGNORECASE)
_MODEL = re.compile(r"\b(self\.)?(model|net|network|\w+_model|model_\w+|classifier|module|netG|generator)\(")
_PASS = cst.SimpleStatementLine([cst.Expr(cst.Ellipsis())])


def spelled(node: cst.CSTNode) -> str:
    if isinstance(node, cst.Name):
        return node.value
    if isinstance(node, cst.Attribute):
        return f"{spelled(node.value)}.{node.attr.value}"
    return cst.Module([]).code_for_node(node)


def call_of(node: cst.CSTNode) -> str:
    """`optimizer.step` for the statement `optimizer.step()`, and nothing for any other."""
    if isinstance(node, cst.SimpleStatementLine) and len(node.body) == 1:
        only = node.body[0]
        if isinstance(only, cst.Expr) and isinstance(only.value, cst.Call):
            return spelled(only.value.func)
    return ""


def gone(statement: cst.CSTNode) -> Swap:
    """The statement's line is kept, so that rows are the same before and after."""
    assert isinstance(statement, cst.SimpleStatementLine)
    return statement, _PASS.with_changes(leading_lines=statement.leading_lines)


def below(node: cst.CSTNode, kind: type[cst.CSTNode]) -> Iterator[cst.CSTNode]:
    if isinstance(node, kind):
        yield node
    for child in node.children:
        yield from below(child, kind)


def pairs(node: cst.CSTNode) -> Iterator[tuple[cst.SimpleStatementLine, cst.SimpleStatementLine]]:
    """Neighbouring statements of a block that both are one line."""
    if isinstance(node, cst.IndentedBlock):
        for first, second in zip(node.body, node.body[1:], strict=False):
            if isinstance(first, cst.SimpleStatementLine) and isinstance(second, cst.SimpleStatementLine):
                yield first, second


def exchanged(first: cst.SimpleStatementLine, second: cst.SimpleStatementLine) -> list[Swap]:
    return [(first, first.with_changes(body=second.body)), (second, second.with_changes(body=first.body))]


# -- the mistakes -----------------------------------------------------------------------------------------------------


def no_grad_dropped(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if ".backward(" in around.code or not (_EVALUATES.search(around.name) or ".eval()" in around.code):
        return
    if isinstance(node, cst.With) and len(node.items) == 1 and isinstance(node.body, cst.IndentedBlock):
        body = spelled(node.body)
        if not re.search(r"\b(no_grad|inference_mode)\(\)$", spelled(node.items[0].item)) or not _MODEL.search(body):
            return
        if around.loops or re.search(r"^\s*for ", body, re.MULTILINE):
            first = node.body.body[0]
            kept = [*node.leading_lines, cst.EmptyLine(indent=False), *getattr(first, "leading_lines", ())]
            yield [(node, cst.FlattenSentinel([first.with_changes(leading_lines=kept), *node.body.body[1:]]))]


def no_grad_decorator_dropped(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if isinstance(node, cst.FunctionDef) and _EVALUATES.search(node.name.value):
        code = spelled(node)
        marks = [d for d in node.decorators if re.search(r"\b(no_grad|inference_mode)\(\)", spelled(d))]
        if marks and _MODEL.search(code) and re.search(r"^\s*for ", code, re.MULTILINE):
            left = [d for d in node.decorators if d not in marks]
            lines = [*node.leading_lines, *(cst.EmptyLine(indent=False) for _ in marks)]
            yield [(node, node.with_changes(decorators=left, leading_lines=lines))]


def eval_dropped(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    recorded_off = re.search(r"\b(no_grad|inference_mode)\b", around.code)
    if recorded_off and "for " in around.code and ".backward(" not in around.code:
        match = re.fullmatch(r"((?:self\.)?\w+)\.eval", call_of(node))
        if match and re.search(rf"{re.escape(match[1])}\(", around.code):
            yield [gone(node)]


def train_dropped(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if around.loops and re.fullmatch(r"(self\.)?\w+\.train", call_of(node)) and ".backward(" in around.code:
        if ".eval()" in around.code:
            yield [gone(node)]


def zero_grad_dropped(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if isinstance(node, cst.For) and not around.loops:
        code = spelled(node)
        if all(re.search(word, code) for word in (r"\.backward\(", r"\.step\(", r"\.zero_grad\(")):
            cleared = [s for s in below(around.node, cst.SimpleStatementLine) if call_of(s).endswith(".zero_grad")]
            if cleared and spelled(around.node).count(".zero_grad(") == len(cleared):
                yield [gone(s) for s in cleared]


def zero_grad_every_turn(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if isinstance(node, cst.For) and isinstance(node.body.body[0], cst.SimpleStatementLine):
        for inner in node.body.body:
            if isinstance(inner, cst.If) and "%" in spelled(inner.test) and "else" not in spelled(inner):
                body = [s for s in inner.body.body if isinstance(s, cst.SimpleStatementLine)]
                cleared = [s for s in body if call_of(s).endswith(".zero_grad")]
                before = spelled(node).partition(spelled(inner.test))[0]
                if cleared and ".step(" in spelled(inner.body) and ".backward(" in before:
                    first = node.body.body[0]
                    then = cst.Semicolon(whitespace_after=cst.SimpleWhitespace(" "))
                    statement = cleared[0].body[0].with_changes(semicolon=then)
                    yield [(first, first.with_changes(body=[statement, *first.body]))]


def scaling_dropped(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if not isinstance(node, cst.SimpleStatementLine) or ".backward(" not in around.code:
        return
    code = spelled(node).strip()
    match = re.fullmatch(r"(\w*loss\w*) = \1 / ([\w.]+)", code) or re.fullmatch(r"(\w*loss\w*) /= ([\w.]+)", code)
    if match and re.search(rf"% *\(?{re.escape(match[2])}\b", around.code):
        yield [gone(node)]


def pin_memory_dropped(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if isinstance(node, cst.Call) and re.search(r"(^|\.)DataLoader$", spelled(node.func)):
        pinned = [a for a in node.args if a.keyword and a.keyword.value == "pin_memory"]
        if pinned and spelled(pinned[0].value) != "False" and re.search(r"\.cuda\(|\.to\(", around.file):
            yield [(pinned[0], cst.RemoveFromParent())] if len(node.args) > 1 else []


def set_epoch_dropped(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if around.loops and re.search(r"sampler\w*\.set_epoch$", call_of(node)):
        yield [gone(node)]


def ddp_to_dataparallel(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if isinstance(node, cst.Call) and re.search(r"(^|\.)(DistributedDataParallel|DDP)$", spelled(node.func)):
        if node.args and node.args[0].keyword is None:
            func = cst.parse_expression("torch.nn.DataParallel")
            yield [
                (node, node.with_changes(func=func, args=[node.args[0].with_changes(comma=cst.MaybeSentinel.DEFAULT)]))
            ]


def graph_kept(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    grows = isinstance(node, cst.AugAssign) and isinstance(node.operator, cst.AddAssign)
    appends = isinstance(node, cst.Call) and spelled(node.func).endswith(".append")
    if around.loops and (grows or appends) and ".backward(" in around.code:
        for call in below(node, cst.Call):
            match = re.fullmatch(r"(\w*loss\w*)\.(item|detach)\(\)", spelled(call))
            if match and re.search(rf"\b{match[1]}\b[^\n]*\.backward\(", around.code):
                yield [(call, cst.Name(match[1]))]


def softmax_added(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if isinstance(node, cst.Call) and len(node.args) >= 2 and isinstance(node.args[0].value, cst.Name):
        name, given = spelled(node.func), node.args[0].value.value
        losses = re.findall(r"([\w.]+) *= *(?:torch\.)?(?:nn\.)?CrossEntropyLoss\(", around.file)
        if name in losses or re.fullmatch(r"(F|nn\.functional)\.cross_entropy", name):
            first = node.args[0]
            made = cst.parse_expression(f"torch.softmax({given}, dim=1)")
            yield [(first, first.with_changes(value=made))]


def clipped_after_step(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    for first, second in pairs(node):
        if re.search(r"clip_grad_(norm|value)_$", call_of(first)) and re.search(r"opt\w*\.step$", call_of(second)):
            yield exchanged(first, second)


def scheduler_first(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    for first, second in pairs(node):
        if re.search(r"opt\w*\.step$", call_of(first)) and re.search(r"(scheduler|sched)\w*\.step$", call_of(second)):
            yield exchanged(first, second)


def step_first(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    for first, second in pairs(node):
        if call_of(first).endswith(".backward") and re.search(r"opt\w*\.step$", call_of(second)) and around.loops:
            yield exchanged(first, second)


def cleared_after_backward(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    for first, second in pairs(node):
        if call_of(first).endswith(".zero_grad") and call_of(second).endswith(".backward") and around.loops:
            if re.search(r"\.backward\(.*\.step\(", around.code, re.DOTALL):
                yield exchanged(first, second)


def graph_retained(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if isinstance(node, cst.Call) and re.search(r"loss\w*\.backward$", spelled(node.func)) and not node.args:
        if around.loops and around.code.count(".backward(") == 1:
            yield [(node, node.with_changes(args=[cst.Arg(cst.Name("True"), cst.Name("retain_graph"))]))]


def plain_list(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if (
        isinstance(node, cst.Assign)
        and isinstance(node.value, cst.Call)
        and spelled(node.targets[0]).startswith("self.")
    ):
        call = node.value
        if re.search(r"(^|\.)ModuleList$", spelled(call.func)) and len(call.args) == 1:
            if isinstance(call.args[0].value, (cst.List, cst.ListComp)):
                yield [(call, call.args[0].value)]


def super_dropped(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if around.name == "__init__" and isinstance(node, cst.SimpleStatementLine):
        if re.fullmatch(r"super\([^)]*\)\.__init__\(\)", spelled(node).strip()) and re.search(
            r"= nn\.\w+\(", around.code
        ):
            yield [gone(node)]


def prefixed(line: cst.SimpleStatementLine, code: str) -> Swap:
    """The line with a statement in front, on the same row."""
    statement = cst.parse_statement(code)
    assert isinstance(statement, cst.SimpleStatementLine)
    then = cst.Semicolon(whitespace_after=cst.SimpleWhitespace(" "))
    return line, line.with_changes(body=[statement.body[0].with_changes(semicolon=then), *line.body])


def training_loop(node: cst.CSTNode) -> cst.SimpleStatementLine | None:
    """The first line of a loop over batches that trains."""
    if isinstance(node, cst.For) and isinstance(node.body, cst.IndentedBlock):
        first, code = node.body.body[0], spelled(node)
        inner = any(isinstance(n, cst.For) for n in node.body.body)
        if not inner and re.search(r"\.backward\(", code) and re.search(r"opt\w*\.step\(", code):
            return first if isinstance(first, cst.SimpleStatementLine) else None
    return None


def cleared_per_epoch(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if not around.loops or training_loop(node) is None or not isinstance(node, cst.For):
        return
    if isinstance(node.body, cst.IndentedBlock):
        cleared = [s for s in node.body.body if call_of(s).endswith(".zero_grad")]
        if len(cleared) == 1 and spelled(node).count(".zero_grad(") == 1:
            left = [s for s in node.body.body if s is not cleared[0]]
            inner = node.with_changes(body=node.body.with_changes(body=left))
            first = cst.ensure_type(cleared[0], cst.SimpleStatementLine).with_changes(leading_lines=node.leading_lines)
            yield [(node, cst.FlattenSentinel([first, inner.with_changes(leading_lines=())]))]


def optimizer_in_loop(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    first = training_loop(node)
    if first is not None:
        made = re.search(
            r"^ *(opt\w* = (?:torch\.)?optim\.\w+\(\w+\.parameters\(\)[^()\n]*\))$", around.code, re.MULTILINE
        )
        if made is not None:
            yield [prefixed(first, made[1])]


def compiled_in_loop(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    first = training_loop(node)
    if first is not None and re.search(r"^import torch$", around.file, re.MULTILINE):
        if re.search(r"\bmodel\(", spelled(node)):
            yield [prefixed(first, "model = torch.compile(model)")]


def saved_every_batch(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    first = training_loop(node)
    if first is not None and re.search(r"^import torch$", around.file, re.MULTILINE):
        if re.search(r"\bmodel\(", spelled(node)):
            yield [prefixed(first, "torch.save(model.state_dict(), 'last.pt')")]


def recording_off(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if isinstance(node, cst.FunctionDef) and not node.decorators and isinstance(node.body, cst.IndentedBlock):
        if any(training_loop(n) is not None for n in below(node, cst.For)):
            yield [(node, node.with_changes(decorators=[cst.Decorator(cst.parse_expression("torch.no_grad()"))]))]


def backward_in_autocast(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if isinstance(node, cst.IndentedBlock):
        for first, second in zip(node.body, node.body[1:], strict=False):
            if isinstance(first, cst.With) and re.search(r"\bautocast\(", spelled(first.items[0].item)):
                if isinstance(second, cst.SimpleStatementLine) and call_of(second).endswith(".backward"):
                    if isinstance(first.body, cst.IndentedBlock):
                        body = first.body.with_changes(body=[*first.body.body, second])
                        yield [(first, first.with_changes(body=body)), gone(second)]


def loader_argument(node: cst.CSTNode, name: str) -> cst.Arg | None:
    if isinstance(node, cst.Call) and re.search(r"(^|\.)DataLoader$", spelled(node.func)):
        return next((a for a in node.args if a.keyword is not None and a.keyword.value == name), None)
    return None


def shuffle_and_sampler(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    sampler = loader_argument(node, "sampler")
    if isinstance(node, cst.Call) and sampler is not None and "ampler" in spelled(sampler.value):
        shuffle = loader_argument(node, "shuffle")
        if shuffle is None:
            yield [(node, node.with_changes(args=[*node.args, cst.Arg(cst.Name("True"), cst.Name("shuffle"))]))]
        else:
            yield [(shuffle, shuffle.with_changes(value=cst.Name("True")))]


def sampler_dropped(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    sampler = loader_argument(node, "sampler")
    if sampler is not None and re.search(r"\btrain|\bsampler$", spelled(sampler.value)):
        if re.search(r"DistributedDataParallel\(|\bDDP\(", around.code):
            yield [(sampler, cst.RemoveFromParent())]


def shuffle_dropped(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    shuffle = loader_argument(node, "shuffle")
    if shuffle is not None and spelled(shuffle.value) == "True" and re.search(r"\.backward\(", around.code):
        yield [(shuffle, cst.RemoveFromParent())]


def moved_in_dataset(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if around.name == "__getitem__" and isinstance(node, cst.Return) and isinstance(node.value, cst.Tuple):
        first = node.value.elements[0]
        if isinstance(first.value, cst.Name) and re.search(
            rf"\b{first.value.value} = .*(tensor|from_numpy)\(", around.code
        ):
            yield [(first, first.with_changes(value=cst.parse_expression(f"{first.value.value}.cuda()")))]


def unused_parameters(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if isinstance(node, cst.Call) and re.search(r"(^|\.)(DistributedDataParallel|DDP)$", spelled(node.func)):
        if node.args and "find_unused_parameters" not in spelled(node) and around.code.count("model") > 1:
            added = cst.Arg(cst.Name("True"), cst.Name("find_unused_parameters"))
            yield [(node, node.with_changes(args=[*node.args, added]))]


def address_dropped(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if isinstance(node, cst.FunctionDef) and "init_process_group(" in spelled(node):
        set_here = [
            s
            for s in below(node, cst.SimpleStatementLine)
            if re.match(r"os\.environ\[.MASTER_(ADDR|PORT).\]", spelled(s).strip())
        ]
        if set_here and "mp.spawn(" in around.file:
            yield [gone(s) for s in set_here]


def zeros_kept(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if isinstance(node, cst.Call) and re.search(r"opt\w*\.zero_grad$", spelled(node.func)) and not node.args:
        yield [(node, node.with_changes(args=[cst.Arg(cst.Name("False"), cst.Name("set_to_none"))]))]


def anomalies_watched(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    first = training_loop(node)
    if first is not None and re.search(r"^import torch$", around.file, re.MULTILINE):
        watched = cst.ensure_type(
            cst.parse_statement("torch.autograd.set_detect_anomaly(True)"), cst.SimpleStatementLine
        )  # the rule wants it as a line of its own
        yield [(first, cst.FlattenSentinel([watched, first]))]


def benchmark_on(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if isinstance(node, cst.Assign) and spelled(node.targets[0].target).endswith("cudnn.benchmark"):
        if spelled(node.value) == "False" and re.search(r"cudnn\.deterministic = True", around.code):
            yield [(node, node.with_changes(value=cst.Name("True")))]


def seed_dropped(node: cst.CSTNode, around: Around) -> Iterator[list[Swap]]:
    if call_of(node) == "np.random.seed" and "torch.manual_seed(" in around.code and ".backward(" in around.file:
        if re.search(r"\bnp\.random\.(rand|randn|randint|choice|shuffle|permutation|uniform|normal)\(", around.file):
            yield [gone(node)]


FAMILIES = {
    "no_grad-dropped": Family(("TL201",), r"no_grad\(|inference_mode\(", no_grad_dropped),
    "no_grad-decorator-dropped": Family(("TL201",), r"no_grad\(|inference_mode\(", no_grad_decorator_dropped),
    "eval-dropped": Family(("TL203",), r"\.eval\(\)", eval_dropped),
    "train-dropped": Family(("TL204",), r"\.eval\(\)", train_dropped),
    "zero_grad-dropped": Family(("TL101",), r"\.zero_grad\(", zero_grad_dropped),
    "zero_grad-every-turn": Family(("TL102",), r"\.zero_grad\(", zero_grad_every_turn),
    "scaling-dropped": Family(("TL106",), r"\.backward\(", scaling_dropped),
    "step-before-backward": Family(("TL101", "TL104", "TL105"), r"\.backward\(", step_first),
    "cleared-after-backward": Family(("TL104",), r"\.zero_grad\(", cleared_after_backward),
    "clipped-after-step": Family(("TL112",), r"clip_grad_", clipped_after_step),
    "scheduler-first": Family(("TL113",), r"\.step\(", scheduler_first),
    "softmax-added": Family(("TL108",), r"cross_entropy|CrossEntropyLoss", softmax_added),
    "graph-kept": Family(("TL601",), r"\.(item|detach)\(\)", graph_kept),
    "graph-retained": Family(("TL602",), r"\.backward\(", graph_retained),
    "pin_memory-dropped": Family(("TL301",), r"pin_memory", pin_memory_dropped),
    "set_epoch-dropped": Family(("TL803",), r"DistributedSampler", set_epoch_dropped),
    "DDP-to-DataParallel": Family(("TL801",), r"^import torch$", ddp_to_dataparallel),
    "ModuleList-to-list": Family(("TL117",), r"ModuleList", plain_list),
    "super-init-dropped": Family(("TL118",), r"__init__\(\)", super_dropped),
    "cleared-per-epoch": Family(("TL103",), r"\.zero_grad\(", cleared_per_epoch),
    "optimizer-in-loop": Family(("TL114",), r"optim\.\w+\(", optimizer_in_loop),
    "compiled-in-loop": Family(("TL706",), r"\.backward\(", compiled_in_loop),
    "saved-every-batch": Family(("TL606",), r"\.backward\(", saved_every_batch),
    "recording-off": Family(("TL206",), r"^import torch$", recording_off),
    "backward-in-autocast": Family(("TL702",), r"autocast\(", backward_in_autocast),
    "shuffle-and-sampler": Family(("TL306",), r"\bsampler=", shuffle_and_sampler),
    "sampler-dropped": Family(("TL802",), r"DistributedSampler", sampler_dropped),
    "shuffle-dropped": Family(("TL305",), r"shuffle=True", shuffle_dropped),
    "moved-in-dataset": Family(("TL309",), r"def __getitem__", moved_in_dataset),
    "unused-parameters": Family(("TL805",), r"DistributedDataParallel|DDP", unused_parameters),
    "address-dropped": Family(("TL811",), r"MASTER_ADDR", address_dropped),
    "zeros-kept": Family(("TL604",), r"\.zero_grad\(", zeros_kept),
    "anomalies-watched": Family(("TL603",), r"\.backward\(", anomalies_watched),
    "benchmark-on": Family(("TL903",), r"cudnn\.deterministic", benchmark_on),
    "seed-dropped": Family(("TL901",), r"np\.random\.seed\(", seed_dropped),
}


# -- planting ---------------------------------------------------------------------------------------------------------


class Finder(cst.CSTVisitor):
    """Every mistake that could be planted in one file."""

    def __init__(self, text: str, module: cst.Module, families: dict[str, Family]) -> None:
        super().__init__()
        self.found: list[tuple[str, list[Swap]]] = []
        self._families = families
        self._around = [Around(module, "", text, text, 0)]

    def on_visit(self, node: cst.CSTNode) -> bool:
        around = self._around[-1]
        for name, family in self._families.items():
            self.found += [(name, swaps) for swaps in family.plant(node, around) if swaps]
        if isinstance(node, cst.FunctionDef):
            self._around.append(Around(node, node.name.value, spelled(node), around.file, 0))
        elif isinstance(node, (cst.For, cst.While)):
            self._around.append(Around(around.node, around.name, around.code, around.file, around.loops + 1))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, (cst.FunctionDef, cst.For, cst.While)):
            self._around.pop()


class Planter(cst.CSTTransformer):
    def __init__(self, swaps: list[Swap]) -> None:
        super().__init__()
        self._swaps = dict(swaps)

    def on_leave(self, original_node: cst.CSTNode, updated_node: cst.CSTNode) -> cst.CSTNode:  # type: ignore[override]
        return self._swaps.get(original_node, updated_node)  # type: ignore[return-value]


def planted(path: str, text: str, families: dict[str, Family]) -> Iterator[Planted]:
    """The texts with one mistake each; those that do not compile are left out."""
    fitting = {n: f for n, f in families.items() if re.search(f.needs, text, re.MULTILINE)}
    if not fitting:
        return
    try:
        module = cst.parse_module(text)
    except cst.ParserSyntaxError:
        return
    finder = Finder(text, module, fitting)
    module.visit(finder)
    lines = text.splitlines()
    some = Counter[str]()
    for family, swaps in finder.found:
        some[family] += 1
        if some[family] > PER_FILE:
            continue
        mutated = module.visit(Planter(swaps)).code
        after = mutated.splitlines()
        changed = [i for i, (a, b) in enumerate(zip(lines, after, strict=False), 1) if a != b]
        if changed:
            try:
                compile(mutated, path, "exec")
            except SyntaxError:
                continue
            yield Planted(family, path, mutated, changed[0])


def sources(folder: Path) -> list[Path]:
    """The project's modules without its tests: what is wrong in a test is often meant."""
    tests = re.compile(r"(^|/)(tests?|testing)/|(^|/)test_")
    return [f for f in sorted(folder.rglob("*.py")) if not tests.search(f.relative_to(folder).as_posix())]


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return ""


def sample(folder: Path, families: dict[str, Family], chance: random.Random) -> list[Planted]:
    """At most PER_PROJECT places of each family in a project, those of its files that come first in a drawn order."""
    files = sources(folder)
    chance.shuffle(files)
    here: dict[str, list[Planted]] = {name: [] for name in families}
    for file in files:
        wanted = {name: family for name, family in families.items() if len(here[name]) < PER_PROJECT}
        for one in planted(str(file.relative_to(folder)), read(file), wanted):
            here[one.family].append(one)
    return [one for found in here.values() for one in found[:PER_PROJECT]]


# -- asking -----------------------------------------------------------------------------------------------------------


class Overlay(Disk):
    """The project as it lies, with one text in the place of a file's own."""

    def __init__(self, path: str, text: str) -> None:
        self._path, self._text = path, text

    def text(self, path: str) -> str:
        return self._text if path == self._path else super().text(path)


class Asker:
    """Asks whether planted mistakes are found, one project at a time."""

    def __init__(self, folder: Path, families: dict[str, Family]) -> None:
        self._folder = folder
        self._files = [str(file) for file in sorted(folder.rglob("*.py"))]
        self._families = families
        self._rules = {rule.code: rule for rule in load()}
        self._before: dict[tuple[str, str], int] = {}

    def hit(self, one: Planted) -> bool:
        """Whether one of the family's rules says more in the file than it did before."""
        path = str(self._folder / one.path)
        for code in self._families[one.family].codes:
            if (path, code) not in self._before:
                self._before[path, code] = self._count(path, read(Path(path)), code)
            if self._count(path, one.text, code) > self._before[path, code]:
                return True
        return False

    def _count(self, path: str, text: str, code: str) -> int:
        found = check_text(path, text, [self._rules[code]], CONFIG)
        asked = {(path, question) for d in found for question in d.unless}
        yes = answers(asked, self._files, CONFIG, Overlay(path, text)) if asked else set()
        return sum(not any((path, question) in yes for question in d.unless) for d in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--sample", type=int, default=60, help="places per family (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="begin no further project after that")
    parser.add_argument("--family", action="append", choices=sorted(FAMILIES))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--misses", type=Path, help="write what was not found as family, path and row")
    options = parser.parse_args()
    families = {n: f for n, f in FAMILIES.items() if not options.family or n in options.family}
    started = time.monotonic()
    chance = random.Random(20)
    folders = [folder.resolve() for folder in options.folders]
    chance.shuffle(folders)
    total, hits, where = Counter[str](), Counter[str](), defaultdict[str, set[str]](set)
    misses: list[str] = []
    done = 0
    for folder in folders:
        if options.minutes and time.monotonic() - started > 60 * options.minutes:
            break  # the order was drawn: what is done by now is a sample, too
        done += 1
        asker = Asker(folder, families)
        for one in sample(folder, {n: f for n, f in families.items() if total[n] < options.sample}, chance):
            hit = asker.hit(one)
            total[one.family] += 1
            hits[one.family] += hit
            where[one.family].add(folder.name)
            if not hit:
                misses.append(f"{one.family}\t{folder / one.path}\t{one.row}")
        print(f"{folder.name}: {sum(hits.values())} of {sum(total.values())} so far", file=sys.stderr, flush=True)
    report = {
        name: {"rules": families[name].codes, "planted": total[name], "found": hits[name], "projects": len(where[name])}
        for name in families
        if total[name]
    }
    told = {
        "folders": done,
        "seconds": round(time.monotonic() - started),
        "sample": options.sample,
        "families": report,
    }
    options.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if options.misses:
        options.misses.write_text("".join(f"{line}\n" for line in sorted(misses)), encoding="utf-8")
    print(f"{'mistake':<28}{'rules':<20}{'planted':>8}{'found':>7}{'recall':>8}{'projects':>10}")
    for name in report:
        share = f"{hits[name] / total[name]:.2f}"
        rules = ",".join(families[name].codes)
        print(f"{name:<28}{rules:<20}{total[name]:>8}{hits[name]:>7}{share:>8}{len(where[name]):>10}")


if __name__ == "__main__":
    main()
