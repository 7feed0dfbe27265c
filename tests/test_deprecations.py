"""The table of deprecations: what is rewritten is mined, old and new give the same, and versions are minded."""

import inspect
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from torchlint.catalogue import load
from torchlint.check import check_text
from torchlint.config import Config
from torchlint.diagnostic import Applicability, Diagnostic, splice
from torchlint.semantics.deprecations import rewrites
from torchlint.semantics.deprecations.table import table, torchaudio_for, torchvision_for

RULES = {r.code: r for r in load()}
HEAD = "import functorch\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn\n"


def found(code: str, text: str, version: tuple[int, int] | None = None) -> list[Diagnostic]:
    return check_text("code.py", HEAD + text, [RULES[code]], Config(torch_version=version))


def fixed(code: str, text: str) -> str:
    (finding,) = found(code, text)
    assert finding.fix is not None
    return splice(HEAD + text, finding.fix.edits).removeprefix(HEAD)


def test_whatever_is_rewritten_is_in_the_mined_table() -> None:
    names = [*rewrites.REWRITES, *rewrites.ATTRIBUTES, *rewrites.ADVICE, *rewrites.MOVED, "torch._six"]
    for name in names:
        row = table(name.partition(".")[0]).names[name]
        assert row.since or row.removed, name
    assert "torch.optim.lr_scheduler.StepLR(verbose)" in table("torch").arguments


def test_the_tables_say_where_they_come_from() -> None:
    folder = Path(rewrites.__file__).parent
    for package in ("torch", "torchvision"):
        mined = json.loads((folder / f"{package}.json").read_text(encoding="utf-8"))
        assert mined["version"] == mined["releases"][-1]
        assert len(mined["releases"]) > 10


def test_functorch_and_torchaudio_are_minded() -> None:
    call = "import torchaudio\nfunctorch.vmap(f)\ntorchaudio.info(path)"
    assert [d.row for d in found("TL010", call)] == [6, 7]
    assert found("TL010", call, (1, 13)) == []
    assert [d.row for d in found("TL010", call, (2, 8))] == [6]  # torchaudio 2.9 lacks `info`, 2.8 has it
    assert table("functorch").names["functorch.vmap"].since == (2, 0)
    assert table("torchaudio").names["torchaudio.info"].removed == (2, 9)
    assert [torchaudio_for(v) for v in (None, (1, 13), (2, 4))] == [None, (0, 13), (2, 4)]


def test_functorch_takes_what_torch_func_takes() -> None:
    torch = pytest.importorskip("torch")
    functorch = pytest.importorskip("functorch")
    for name, rewrite in rewrites.REWRITES.items():
        if name.startswith("functorch."):
            last = name.rpartition(".")[2]
            old = inspect.signature(getattr(functorch, last)).parameters.values()
            new = inspect.signature(getattr(torch.func, last)).parameters.values()
            assert rewrite.new == f"torch.func.{last}"
            assert [(p.name, p.kind, p.default) for p in old] == [(p.name, p.kind, p.default) for p in new]


def test_torchvision_versions_go_with_torch() -> None:
    assert [torchvision_for(v) for v in (None, (1, 7), (1, 13), (2, 0), (2, 6))] == [
        None,
        (0, 8),
        (0, 14),
        (0, 15),
        (0, 21),
    ]


A = "torch.tensor([[4.0, 1.0], [1.0, 3.0]])"
B = "torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]])"
IMAGE = "torch.arange(16.0).reshape(1, 1, 4, 4)"
CALLS = [
    "torch.range(1, 5)",
    "torch.range(0, 10, 3)",
    "torch.range(5, 1, -2)",
    "torch.range(0, len([1, 2, 3]) - 1)",
    "torch.range(1, 4, dtype=torch.int64)",
    f"torch.ger({A}[0], {A}[1])",
    f"torch.cholesky({A})",
    f"torch.cholesky({A}, True)",
    f"torch.cholesky({A}, upper=1 > 2)",
    f"torch.qr({B})",
    f"torch.qr({B}, some=False)",
    f"torch.qr({B}, some=not True)",
    f"torch.qr({B}, 1 > 2)",
    f"torch.chain_matmul({B}, {A}, {A})",
    f"torch.lu_solve({A}, *torch.linalg.lu_factor({A}))",
    f"torch.lu_solve({A}, torch.linalg.lu_factor({A})[0], torch.linalg.lu_factor({A})[1])",
    f"F.sigmoid({A})",
    f"F.tanh({A})",
    f"F.upsample({IMAGE}, scale_factor=2)",
    f"F.upsample({IMAGE}, None, 2, 'bilinear', True)",
    f"F.upsample_nearest({IMAGE}, (8, 8))",
    f"F.upsample_bilinear({IMAGE}, scale_factor=2)",
    f"nn.UpsamplingNearest2d(scale_factor=2)({IMAGE})",
    f"nn.UpsamplingBilinear2d((8, 8))({IMAGE})",
    f"nn.NLLLoss2d()(F.log_softmax({A}, dim=1), torch.tensor([0, 1]))",
    f"torch.nn.utils.stateless.functional_call(nn.Linear(2, 1, bias=False), {{'weight': {A}[:1]}}, ({B},))",
    "torch.cuda.memory_cached()",
    "torch.cuda.max_memory_cached()",
    "torch.has_mps",
    "torch.has_cuda",
    "torch.has_cudnn",
    "torch.has_mkldnn",
    f"torch.meshgrid({A}[0], {A}[1])",
    f"{A}.add_(2, {A})",
    f"{A}.sub_(2, {A})",
    f"{A}.addcmul_(2, {A}, {A})",
    f"{A}.addcdiv_(2, {A}, {A})",
    f"functorch.vmap(torch.sin)({A})",
    f"functorch.grad(torch.sum)({A})",
    f"functorch.grad_and_value(torch.sum)({A})",
    f"functorch.vjp(torch.sin, {A})[0]",
    f"functorch.jvp(torch.sin, ({A},), ({A},))",
    f"functorch.jacrev(torch.sin)({A})",
    f"functorch.jacfwd(torch.sin)({A})",
    f"functorch.hessian(lambda x: x.pow(3).sum())({A})",
    f"functorch.functionalize(torch.sin)({A})",
]


@pytest.mark.parametrize("call", CALLS)
def test_old_and_new_give_the_same(call: str) -> None:
    torch = pytest.importorskip("torch")
    findings = found("TL010", call)
    if "*torch" in call:
        assert findings[0].fix is None
        return
    new = fixed("TL010", call)
    assert new != call
    results: list[Any] = []
    for text in (call, new):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scope: dict[str, Any] = {}
            exec(HEAD, scope)
            results.append(eval(text, scope))
    old, now = (r if isinstance(r, (tuple, list)) else (r,) for r in results)
    assert len(old) == len(now)
    for a, b in zip(old, now, strict=True):
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
        else:
            assert a == b
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("error", DeprecationWarning)
        eval(new, scope)


def test_every_safe_rewrite_is_run() -> None:
    gone = ("torchvision.", "torch.library.impl_abstract", "torch.nn.parallel.DistributedDataParallelCPU")
    for name, rewrite in rewrites.REWRITES.items():
        if rewrite.safe and not name.startswith(gone):
            assert any(re.search(rf"\b{name.rpartition('.')[2]}\(", call) for call in CALLS), name


@pytest.mark.parametrize(
    ("call", "new"),
    [
        ("torch.range(0, n - 1)", "torch.arange(0, n, dtype=torch.get_default_dtype())"),
        ("torch.range(a, b or c)", "torch.arange(a, (b or c) + 1, dtype=torch.get_default_dtype())"),
        ("torch.range(n, 1, -1)", "torch.arange(n, 0, -1, dtype=torch.get_default_dtype())"),
        ("torch.qr(x, some=not f)", 'torch.linalg.qr(x, mode="complete" if f else "reduced")'),
        ("torch.qr(x, some=a and b)", 'torch.linalg.qr(x, mode="reduced" if (a and b) else "complete")'),
        ("torch.cholesky(x, upper=flag)", "torch.linalg.cholesky(x, upper=flag)"),
    ],
)
def test_the_real_arguments_are_kept(call: str, new: str) -> None:
    assert fixed("TL010", call) == new


def test_a_range_whose_values_are_unknown_is_not_safe() -> None:
    (finding,) = found("TL010", "torch.range(0, n)")
    assert finding.fix is not None
    assert finding.fix.applicability is Applicability.UNSAFE


@pytest.mark.parametrize(
    "call", ["torch.range(0, 1, 0.1)", "torch.range(0, n, 2)", "torch.range(5, 1)", "torch.range(*a)"]
)
def test_what_depends_on_values_has_no_fix(call: str) -> None:
    (finding,) = found("TL010", call)
    assert finding.fix is None


def test_an_imported_range_is_reported_where_it_is_imported() -> None:
    findings = found("TL010", "from torch import range\nx = range(1, 5)\n")
    assert [(d.row, d.fix) for d in findings] == [(5, None)]


def test_nothing_is_said_without_a_successor() -> None:
    assert found("TL010", "torch.qr(x)", (1, 7)) == []
    assert len(found("TL010", "torch.qr(x)", (1, 8))) == 1
    assert found("TL010", "torch.meshgrid(a, b)", (1, 9)) == []


def test_warnings_that_torch_took_back_are_not_repeated() -> None:
    assert found("TL010", "F.sigmoid(x)", (2, 0)) == []
    assert len(found("TL010", "F.sigmoid(x)", (1, 13))) == 1


@pytest.mark.parametrize(("version", "count"), [(None, 1), ((1, 12), 1), ((2, 5), 1), ((2, 6), 0), ((2, 13), 0)])
def test_weights_only_is_asked_for_below_its_default(version: tuple[int, int] | None, count: int) -> None:
    assert len(found("TL904", "torch.load(path)", version)) == count
    assert len(found("TL904", "torch.load(path, weights_only=False)", version)) == 1


def test_no_argument_is_written_that_torch_does_not_know() -> None:
    (finding,) = found("TL904", "torch.load(path)", (1, 12))
    assert finding.fix is None
