"""How deprecated calls are written today: reviewed by hand, each checked by running old and new.

What is deprecated, and since when, is mined (see `table`); an entry here only says what to write instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import libcst as cst

from torchlint.nodes import literal
from torchlint.semantics.kinds import Kind
from torchlint.semantics.model import Semantics

Version = tuple[int, int]


@dataclass(frozen=True)
class Writer:
    """What builders of new arguments may ask: the file's text, values, and how a name of torch is spelled here."""

    sem: Semantics
    name: Callable[[str], str]

    def code(self, node: cst.CSTNode) -> str:
        return self.sem.file.code(node)

    def operand(self, node: cst.BaseExpression) -> str:
        """The text of an expression that an operator is put beside."""
        text = self.code(node)
        bare = isinstance(node, (cst.Name, cst.Attribute, cst.Call, cst.Subscript, cst.Integer, cst.Float))
        return text if bare or node.lpar else f"({text})"


@dataclass(frozen=True)
class Arguments:
    """The new arguments; `exact` if values, dtype and shape are the same for whatever the old call was given."""

    text: str
    exact: bool = True


Builder = Callable[[cst.Call, Writer], "Arguments | None"]


@dataclass(frozen=True)
class Rewrite:
    """`new` is the name to call; `build` makes its arguments, which stay as they are without it.

    `available`: the first version that has `new` in this form. `quiet`: torch's documentation asks for it, and calling
    the old name warns of nothing.
    """

    new: str
    available: Version = (1, 0)
    build: Builder | None = None
    safe: bool = True
    quiet: bool = False
    positional: int | None = None  # more positional arguments than this mean something else


def bound(call: cst.Call, names: Sequence[str]) -> dict[str, cst.BaseExpression] | None:
    """The arguments by parameter; None where stars or unknown keywords hide what is what."""
    found: dict[str, cst.BaseExpression] = {}
    for position, arg in enumerate(call.args):
        if arg.star or (arg.keyword is None and position >= len(names)):
            return None
        name = arg.keyword.value if arg.keyword is not None else names[position]
        if name not in names or name in found:
            return None
        found[name] = arg.value
    return found


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _range(call: cst.Call, writer: Writer) -> Arguments | None:
    """`range` includes its end and gives floats; `arange` does neither."""
    given = bound(call, ("start", "end", "step", "out", "dtype", "layout", "device", "requires_grad"))
    if given is None or "out" in given or not {"start", "end"} <= set(given):
        return None
    step = literal(given["step"]) if "step" in given else 1
    start, end = literal(given["start"]), literal(given["end"])
    if type(step) is not int or step == 0 or isinstance(start, float) or isinstance(end, float):
        return None
    whole = type(start) is int or writer.sem.value(given["start"]).kind is Kind.NUMBER
    if type(start) is int and type(end) is int:
        if (end - start) * step < 0:
            return None  # an error before, an empty tensor afterwards
        behind = str(start + (end - start) // step * step + (1 if step > 0 else -1))
    elif step in (1, -1):
        behind = _next(given["end"], step, writer)
    else:
        return None  # how far to go depends on values
    exact = whole and type(start) is int and type(end) is int
    dtype = writer.code(given["dtype"]) if "dtype" in given else f"{writer.name('torch.get_default_dtype')}()"
    rest = (f"{k}={writer.code(given[k])}" for k in ("layout", "device", "requires_grad") if k in given)
    stride = writer.code(given["step"]) if "step" in given and step != 1 else ""
    return Arguments(_joined(writer.code(given["start"]), behind, stride, f"dtype={dtype}", *rest), exact)


def _next(end: cst.BaseExpression, step: int, writer: Writer) -> str:
    """`end + 1`, written as `n` for `n - 1`."""
    if isinstance(end, cst.BinaryOperation) and literal(end.right) == 1 and not end.lpar:
        if isinstance(end.operator, cst.Subtract if step > 0 else cst.Add):
            return writer.code(end.left)
    value = literal(end)
    if type(value) is int:
        return str(value + step)
    return f"{writer.operand(end)} {'+' if step > 0 else '-'} 1"


def _cholesky(call: cst.Call, writer: Writer) -> Arguments | None:
    given = bound(call, ("input", "upper", "out"))
    if given is None or "input" not in given:
        return None
    upper = given.get("upper")
    said = "" if upper is None or literal(upper) is False else f"upper={writer.code(upper)}"
    out = f"out={writer.code(given['out'])}" if "out" in given else ""
    return Arguments(_joined(writer.code(given["input"]), said, out))


def _qr(call: cst.Call, writer: Writer) -> Arguments | None:
    given = bound(call, ("input", "some"))
    if given is None or "input" not in given:
        return None
    some = given.get("some")
    mode = ""
    if some is not None and literal(some) is False:
        mode = 'mode="complete"'
    elif isinstance(some, cst.UnaryOperation) and isinstance(some.operator, cst.Not):
        mode = f'mode="complete" if {writer.operand(some.expression)} else "reduced"'
    elif some is not None and literal(some) is not True:
        mode = f'mode="reduced" if {writer.operand(some)} else "complete"'
    return Arguments(_joined(writer.code(given["input"]), mode))


def full_matrices(some: cst.BaseExpression | None, writer: Writer) -> str:
    """`torch.svd(some=…)` as `torch.linalg.svd` says it."""
    if some is None or literal(some) is True:
        return "False"
    if literal(some) is False:
        return "True"
    if isinstance(some, cst.UnaryOperation) and isinstance(some.operator, cst.Not):
        return writer.code(some.expression)
    return f"not {writer.operand(some)}"


def _chain(call: cst.Call, writer: Writer) -> Arguments | None:
    if not call.args or any(a.keyword is not None for a in call.args):
        return None
    return Arguments(f"[{', '.join(a.star + writer.code(a.value) for a in call.args)}]")


def _lu_solve(call: cst.Call, writer: Writer) -> Arguments | None:
    given = bound(call, ("b", "LU_data", "LU_pivots"))
    if given is None or len(given) != 3:
        return None
    return Arguments(", ".join(writer.code(given[name]) for name in ("LU_data", "LU_pivots", "b")))


def _with(*extra: str) -> Builder:
    """The same arguments and these behind them."""

    def build(call: cst.Call, writer: Writer) -> Arguments | None:
        if any(a.star == "**" for a in call.args):
            return None
        given = {a.keyword.value for a in call.args if a.keyword is not None}
        if given & {text.partition("=")[0] for text in extra}:
            return None
        return Arguments(_joined(*(_argument(a, writer) for a in call.args), *extra))

    return build


def _argument(arg: cst.Arg, writer: Writer) -> str:
    text = arg.star + writer.code(arg.value)
    return f"{arg.keyword.value}={text}" if arg.keyword is not None else text


_DTYPES = {"HalfTensor": "float16", "FloatTensor": "float32", "DoubleTensor": "float64", "BFloat16Tensor": "bfloat16"}


def _default_dtype(call: cst.Call, writer: Writer) -> Arguments | None:
    given = bound(call, ("t",))
    if given is None or "t" not in given:
        return None
    said = literal(given["t"])
    name = said if isinstance(said, str) else writer.sem.qualified(given["t"]) or ""
    module, _, kind = name.rpartition(".")
    return Arguments(writer.name(f"torch.{_DTYPES[kind]}")) if module == "torch" and kind in _DTYPES else None


def _nothing(call: cst.Call, writer: Writer) -> Arguments | None:
    return Arguments("") if not call.args else None


F = "torch.nn.functional."
REWRITES: dict[str, Rewrite] = {
    "torch.range": Rewrite("torch.arange", build=_range),
    "torch.ger": Rewrite("torch.outer", (1, 7), quiet=True),
    "torch.cholesky": Rewrite("torch.linalg.cholesky", (1, 10), _cholesky),
    "torch.qr": Rewrite("torch.linalg.qr", (1, 8), _qr),
    "torch.chain_matmul": Rewrite("torch.linalg.multi_dot", (1, 8), _chain),
    "torch.lu_solve": Rewrite("torch.linalg.lu_solve", (1, 13), _lu_solve),
    "torch.set_default_tensor_type": Rewrite("torch.set_default_dtype", (1, 0), _default_dtype, safe=False),
    "torch.set_deterministic": Rewrite("torch.use_deterministic_algorithms", (1, 8), safe=False),
    "torch.is_deterministic": Rewrite("torch.are_deterministic_algorithms_enabled", (1, 8), _nothing, safe=False),
    F + "sigmoid": Rewrite("torch.sigmoid", positional=1),
    F + "tanh": Rewrite("torch.tanh", positional=1),
    F + "upsample": Rewrite(F + "interpolate"),
    F + "upsample_nearest": Rewrite(F + "interpolate", positional=3),
    F + "upsample_bilinear": Rewrite(
        F + "interpolate", build=_with('mode="bilinear"', "align_corners=True"), positional=3
    ),
    "torch.nn.NLLLoss2d": Rewrite("torch.nn.NLLLoss"),
    "torch.nn.UpsamplingNearest2d": Rewrite("torch.nn.Upsample", quiet=True, positional=2),
    "torch.nn.UpsamplingBilinear2d": Rewrite(
        "torch.nn.Upsample", build=_with('mode="bilinear"', "align_corners=True"), quiet=True, positional=2
    ),
    "torch.nn.utils.stateless.functional_call": Rewrite("torch.func.functional_call", (2, 0)),
    "torch.cuda.memory_cached": Rewrite("torch.cuda.memory_reserved", (1, 4)),
    "torch.cuda.max_memory_cached": Rewrite("torch.cuda.max_memory_reserved", (1, 4)),
    "torch.library.impl_abstract": Rewrite("torch.library.register_fake", (2, 4)),
    "torch.nn.parallel.DistributedDataParallelCPU": Rewrite("torch.nn.parallel.DistributedDataParallel"),
    "torchaudio.compliance.kaldi.resample_waveform": Rewrite(
        "torchaudio.functional.resample", positional=3, safe=False, available=(1, 9)
    ),
    "torchaudio.functional.create_fb_matrix": Rewrite(
        "torchaudio.functional.melscale_fbanks", safe=False, available=(1, 10)
    ),
    "torchvision.transforms.Scale": Rewrite("torchvision.transforms.Resize", safe=False),
    "torchvision.transforms.RandomSizedCrop": Rewrite("torchvision.transforms.RandomResizedCrop", safe=False),
}

# functorch's names warn and hand on to those of torch.func.
_FUNC = "functionalize grad grad_and_value hessian jacfwd jacrev jvp vjp vmap"
REWRITES |= {f"functorch.{name}": Rewrite(f"torch.func.{name}", (2, 0)) for name in _FUNC.split()}

# Reading these is deprecated; the call that tells the same.
ATTRIBUTES: dict[str, Rewrite] = {
    "torch.has_mps": Rewrite("torch.backends.mps.is_built()", (1, 12)),
    "torch.has_cuda": Rewrite("torch.backends.cuda.is_built()", (1, 6)),
    "torch.has_cudnn": Rewrite("torch.backends.cudnn.is_available()"),
    "torch.has_mkldnn": Rewrite("torch.backends.mkldnn.is_available()"),
}

# Gone, or going, and what to do is a matter of more than one call.
ADVICE: dict[str, str] = {
    "torch.svd": "call `torch.linalg.svd`, which gives V transposed, with `full_matrices` for `some`",
    "torch.lstsq": "call `torch.linalg.lstsq(A, B).solution`: the arguments change places",
    "torch.eig": "call `torch.linalg.eig`, which gives complex tensors",
    "torch.symeig": "call `torch.linalg.eigh` or `eigvalsh` with `UPLO`, whose default is the lower triangle",
    "torch.solve": "call `torch.linalg.solve(A, B)`: the arguments change places, and there is one result",
    "torch.matrix_rank": "call `torch.linalg.matrix_rank`, with `hermitian` for `symmetric`",
    "torch.triangular_solve": "call `torch.linalg.solve_triangular(A, b, upper=…)`: one result, arguments exchanged",
    "torch.rfft": "call `torch.fft.rfft` or `rfft2`, which give complex tensors",
    "torch.irfft": "call `torch.fft.irfft` or `irfft2`, which take complex tensors",
    "torch.ifft": "call `torch.fft.ifft`, which takes and gives complex tensors",
    "torch.gels": "call `torch.linalg.lstsq(A, B).solution`: the arguments change places",
    "torch.gesv": "call `torch.linalg.solve(A, B)`: the arguments change places, and there is one result",
    "torch.potrf": "call `torch.linalg.cholesky`, whose default is the lower triangle",
    "torch.potrs": "call `torch.cholesky_solve`, whose default is the lower triangle",
    "torch.potri": "call `torch.cholesky_inverse`, whose default is the lower triangle",
    "torch.trtrs": "call `torch.linalg.solve_triangular(A, b, upper=…)`: one result, arguments exchanged",
    "torch.btrifact": "call `torch.linalg.lu_factor`",
    "torch.btrisolve": "call `torch.linalg.lu_solve(LU, pivots, b)`",
    "torch.btriunpack": "call `torch.lu_unpack`",
    "functorch.make_functional": "call `torch.func.functional_call(model, dict(model.named_parameters()), args)`",
    "functorch.make_functional_with_buffers": "call `torch.func.functional_call(model, (parameters, buffers), args)`",
    "functorch.combine_state_for_ensemble": "call `torch.func.stack_module_state` and `functional_call`",
    "torchaudio.set_audio_backend": "leave it out: since torchaudio 2.1 each call of `load` or `save` takes `backend=`",
    "torchaudio.get_audio_backend": "leave it out: since torchaudio 2.1 each call of `load` or `save` takes `backend=`",
    "torchaudio.list_audio_backends": "ask TorchCodec, which does the decoding now",
    "torchaudio.info": "ask `torchcodec.decoders.AudioDecoder(file).metadata`",
    "torchaudio.io.StreamReader": "use `torchcodec.decoders.AudioDecoder` or `VideoDecoder`",
    "torchaudio.io.StreamWriter": "use `torchcodec.encoders.AudioEncoder` or `VideoEncoder`",
    "torchaudio.functional.istft": "call `torch.istft`, which takes complex tensors",
    "torchaudio.functional.magphase": "take `abs()` and `angle()` of the complex tensor",
    "torchaudio.functional.complex_norm": "take `abs()` of the complex tensor",
    "torchaudio.functional.angle": "take `angle()` of the complex tensor",
    "torchaudio.transforms.ComplexNorm": "take `abs()` of the complex tensor",
    "torchaudio.functional.apply_codec": "encode and decode with TorchCodec",
    "torch.nn.utils.weight_norm": "use `torch.nn.utils.parametrizations.weight_norm`; the keys of checkpoints change",
    "torch.backends.cuda.sdp_kernel": "use `torch.nn.attention.sdpa_kernel` with a list of backends",
}

# Modules that are gone: where their names live.
MOVED: dict[str, str] = {
    "torchvision.transforms.functional_tensor": "torchvision.transforms.functional",
    "torchvision.transforms.functional_pil": "torchvision.transforms.functional",
    "torchvision.models.utils": "torch.hub",
    "torch.autocast_mode": "torch.amp",
}
SIX: dict[str, str] = {
    "container_abcs": "import collections.abc as {}",
    "inf": "from math import inf as {}",
    "nan": "from math import nan as {}",
    "string_classes": "{} = (str, bytes)",
    "int_classes": "{} = int",
    "queue": "import queue as {}",
}
SCHEDULERS = "torch.optim.lr_scheduler."
# Without `dim` they choose one by the number of dimensions: 0 for 0, 1 and 3 of them, else 1.
WITHOUT_DIM = {F + "softmax": 1, F + "log_softmax": 1, F + "softmin": 1} | {
    f"torch.nn.{name}": 0 for name in ("Softmax", "LogSoftmax", "Softmin")
}
