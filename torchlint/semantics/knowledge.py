"""What is known about torch and the libraries around it: which call makes what, which method keeps what.

Tables only. Names are canonical (see `names.canonical`). Source: torch 2.13 documentation and signatures.
"""

from __future__ import annotations

import re

from torchlint.semantics.kinds import Graph, Kind, Value

T = Kind.TENSOR

GRAD_OFF = {"torch.no_grad", "torch.inference_mode"}
GRAD_SET = {"torch.set_grad_enabled"}
GRAD_ON = {"torch.enable_grad"}

# torch.* functions that do not return a tensor.
_NOT_TENSOR = frozenset(
    """no_grad inference_mode enable_grad set_grad_enabled device load save manual_seed seed initial_seed compile
    is_tensor is_floating_point is_complex is_storage is_grad_enabled is_nonzero numel get_rng_state set_rng_state
    get_num_threads set_num_threads set_default_dtype get_default_dtype set_default_tensor_type set_default_device
    set_printoptions set_float32_matmul_precision get_float32_matmul_precision use_deterministic_algorithms finfo iinfo
    Size dtype Generator jit vmap func promote_types result_type can_cast broadcast_shapes autocast
    are_deterministic_algorithms_enabled set_num_interop_threads typename memory_format layout no_op script trace
    get_device_module is_autocast_enabled ops hub utils nn optim cuda distributed backends""".split()
)
# torch.* functions that return several tensors.
_TUPLES = frozenset(
    """split chunk unbind tensor_split meshgrid broadcast_tensors sort topk kthvalue mode svd qr eig symeig unique
    unique_consecutive slogdet lu frexp var_mean std_mean cummax cummin aminmax where_indices""".split()
)
# Factories: the result is on the CPU unless `device=` says otherwise, and carries no graph.
FACTORIES = frozenset(
    f"torch.{n}"
    for n in """zeros ones empty full rand randn randint randperm arange range linspace logspace eye tensor as_tensor
    from_numpy Tensor FloatTensor DoubleTensor HalfTensor LongTensor IntTensor ShortTensor ByteTensor BoolTensor
    empty_strided tril_indices triu_indices hann_window hamming_window normal bernoulli multinomial""".split()
)
LIKE = frozenset(f"torch.{n}_like" for n in "zeros ones empty full rand randn randint".split())
# Reductions of a pair with `dim`: tensors alone without.
DIM_PAIRS = frozenset(("max", "min", "median", "nanmedian", "mode"))

_MODULE_PACKAGES = re.compile(
    r"^(torchvision\.models\.|timm\.(create_model|models\.)|segmentation_models_pytorch\.|monai\.networks\.(nets|blocks|layers)\."
    r"|torch_geometric\.nn\.|dgl\.nn\.|open_clip\.create_model|efficientnet_pytorch\.|pretrainedmodels\.|torch\.hub\.load$"
    r"|torch\.jit\.(script|trace|load)$|torch\.compile$)"
)
LOADERS = re.compile(
    r"^(torch\.utils\.data\.DataLoader|torch_geometric\.(data|loader)\.\w*Loader|dgl\.dataloading\.\w*DataLoader|monai\.data\.(\w*DataLoader)"
    r"|torchtext\.data\.\w*Iterator|torchdata\.\w*DataLoader\w*)$"
)
_DATASETS = re.compile(
    r"^(torchvision\.datasets\.|torch\.utils\.data\.(\w*Dataset|Subset|random_split)|torch_geometric\.datasets\.)"
)
_SAMPLERS = re.compile(r"^torch\.utils\.data\.(\w*Sampler|sampler\.\w*Sampler)$")
_FRAMEWORKS = re.compile(
    r"^(accelerate\.Accelerator|lightning(\.\w+)*\.(Trainer|Fabric)|pytorch_lightning\.(\w+\.)*(Trainer|Fabric)|lightning_fabric\.Fabric|deepspeed\.\w+"
    r"|transformers\.(\w*Trainer)|ignite\.engine\.\w+|composer\.Trainer|fastai\.\S+|skorch\.\S+|catalyst\.\S+|horovod\.\S+|colossalai\.\S+)$"
)
_OPTIMIZERS = re.compile(
    r"^(torch\.optim\.(?!lr_scheduler|swa_utils)[A-Z]\w*|torch_optimizer\.[A-Z]\w*|apex\.optimizers\.\w+|transformers\.(AdamW|Adafactor)|transformers\.optimization\.(AdamW|Adafactor)"
    r"|timm\.optim\.\w+(\.\w+)?|bitsandbytes\.optim\.\w+|torch\.distributed\.optim\.\w+)$"
)
_SCALERS = {
    "torch.cuda.amp.GradScaler",
    "torch.amp.GradScaler",
    "torch.cuda.amp.grad_scaler.GradScaler",
    "torch.amp.grad_scaler.GradScaler",
}

# Calls behind which a module holds other Parameter objects than before (or more, with the old ones frozen), so that an
# optimizer that was made earlier holds the wrong ones. DataParallel, DDP, SyncBatchNorm's conversion, pruning, spectral
# norm, `.half()` and `.to(device)` keep them, and so does FSDP with use_orig_params=True (tried with torch 2.13).
REPLACES_PARAMETERS = frozenset(
    """torch.distributed.fsdp.FullyShardedDataParallel torch.distributed.fsdp.fully_shard
    torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel
    torch.distributed._composable.fsdp.fully_shard torch.distributed._composable.fully_shard
    fairscale.nn.FullyShardedDataParallel fairscale.nn.data_parallel.FullyShardedDataParallel
    torch.distributed.tensor.parallel.parallelize_module torch.nn.utils.weight_norm
    torch.nn.utils.parametrizations.weight_norm peft.get_peft_model""".split()
)

# Progress bars and iterators that give what they are given, item by item.
PASSES_ON = re.compile(
    r"^(?:tqdm(?:\.\w+)*\.tqdm(?:_notebook)?|rich\.progress\.track|fastprogress(?:\.\w+)*\.progress_bar"
    r"|itertools\.(?:islice|cycle))$"
)
# What code says that has thought about the precision of its matrix products, or leaves it to something that does.
PRECISION_WORDS = re.compile(
    r"autocast|float32_matmul_precision|allow_tf32|fp32_precision|\.half\(|bfloat16|float16|float64|\.double\(|mixed_precision"
    r"|GradScaler|\bamp\b|\bfp16\b|accelerat|fabric|deepspeed|lightning|use_deterministic_algorithms",
    re.I,
)

# Base classes whose subclasses own the training loop: their hooks run with the grad and train mode set by the
# framework.
FRAMEWORK_BASES = re.compile(
    r"(^|\.)(LightningModule|LightningLite|Fabric|ComposerModel|HuggingFaceModel|NeuralNet\w*|Learner|Callback|pl\.LightningModule|L\.LightningModule"
    r"|LightningDataModule|TrainerCallback|Metric)$"
)
LIGHTNING_EVAL_HOOKS = frozenset(
    """validation_step test_step predict_step validation_epoch_end test_epoch_end on_validation_epoch_end
    on_test_epoch_end
    on_validation_end on_test_end on_validation_start on_validation_epoch_start on_test_epoch_start
    on_validation_batch_end
    on_test_batch_end on_predict_epoch_end on_sanity_check_end validation_step_end test_step_end""".split()
)

MODULE_BASES = re.compile(
    r"^(torch\.nn\.[A-Z]\w*|torch\.jit\.ScriptModule|(pytorch_lightning|lightning|L|pl)(\.\w+)*\.LightningModule|transformers\.(\w+\.)*PreTrainedModel|torch_geometric\.nn\.(\w+\.)*\w+"
    r"|torchvision\.models\.(\w+\.)*[A-Z]\w*|transformers\.(\w+\.)*\w+(Model|For\w+))$"
)
DATASET_BASES = re.compile(
    r"^(torch\.utils\.data\.\w*Dataset|torchvision\.datasets\.(\w+\.)*\w+|torch_geometric\.data\.\w*Dataset)$"
)
OPTIMIZER_BASES = re.compile(r"^torch\.optim\.(optimizer\.)?[A-Z]\w*$")
AUTOGRAD_FUNCTION = re.compile(r"^torch\.autograd\.(function\.)?(\w*Function)$")

# Methods that only a tensor has (numpy arrays, lists and modules do not): calling one is evidence.
TENSOR_ONLY = frozenset(
    """backward detach detach_ unsqueeze unsqueeze_ expand expand_as contiguous numel masked_fill masked_fill_
    masked_select
    requires_grad_ new_zeros new_ones new_tensor new_empty new_full index_select scatter_ scatter_add_ index_add_
    permute
    log_softmax softmax sigmoid bmm matmul size view view_as narrow topk is_cuda clamp clamp_ argmax_ scatter gather
    zero_ fill_ copy_
    pin_memory is_contiguous type_as tolist_ sub_ add_ mul_ div_ normal_ uniform_ nelement storage data_ptr chunk unbind
    register_hook retain_grad cumsum_ mm addmm norm_ eq ne lt gt le ge""".split()
) - frozenset(["zero_", "argmax_", "tolist_", "cumsum_", "norm_", "view", "size", "gather", "scatter"])
# Shared with numpy or others: not evidence alone.

# Functions of torch and torch.nn.functional whose first argument is a tensor: they refuse arrays, lists and numbers.
TAKES_TENSOR = frozenset(
    """softmax log_softmax sigmoid tanh relu gelu exp log sqrt abs sum mean max min argmax argmin norm sort topk cumsum
    matmul mm bmm clamp transpose unsqueeze squeeze flatten reshape permute chunk split unbind sign floor round pow
    cross_entropy nll_loss mse_loss l1_loss smooth_l1_loss kl_div binary_cross_entropy binary_cross_entropy_with_logits
    one_hot normalize cosine_similarity interpolate grid_sample conv1d conv2d linear embedding layer_norm dropout
    max_pool2d avg_pool2d adaptive_avg_pool2d softplus logsigmoid leaky_relu std var median nonzero isnan isinf
    zeros_like ones_like rand_like randn_like empty_like full_like""".split()
)

# Methods that no tensor has: a name on which one is called stands for something else at least once (in a notebook one
# name often serves several cells).
NOT_TENSOR = frozenset("copy astype tobytes tofile append extend keys items get update".split())

# Tensor methods and attributes that leave Python objects or lose the graph.
TO_NUMBER = frozenset(
    """
        item numel nelement dim ndimension is_contiguous is_floating_point is_complex get_device
        element_size data_ptr stride storage_offset is_shared is_pinned tolist __len__
        """.split()
)
DETACHING = frozenset(
    """
        detach detach_ argmax argmin argsort eq ne lt gt le ge long int bool byte short nonzero equal isnan
        isinf isfinite bincount sign round floor ceil bernoulli multinomial any all logical_and logical_or
        logical_not unique eq_ searchsorted bucketize histc histogram
        """.split()
)
TUPLE_METHODS = frozenset("split chunk unbind sort topk kthvalue svd qr eig unique_consecutive tensor_split".split())

SYNCING = frozenset(("item", "tolist", "cpu", "numpy", "nonzero", "is_nonzero"))


def made_by(name: str) -> Value | None:
    """What a call of this qualified name returns, as far as torch and friends are known; None if they are not."""
    if name.startswith("torch."):
        return _torch(name)
    if name.startswith(("numpy.", "cupy.")):
        return Value(Kind.NDARRAY, name)
    if LOADERS.match(name):
        return Value(Kind.LOADER, name, element=BATCH)
    if _OPTIMIZERS.match(name):
        return Value(Kind.OPTIMIZER, name)
    if _DATASETS.match(name):
        return Value(Kind.DATASET, name)
    if _FRAMEWORKS.match(name):
        return Value(Kind.FRAMEWORK, name)
    if _MODULE_PACKAGES.match(name):
        return Value(Kind.MODULE, name)
    if name.endswith((".from_pretrained", ".from_config")) and re.search(
        r"(Model|For[A-Z]\w+|Net|UNet\w*|VAE|AutoencoderKL)\.from_(pretrained|config)$", name
    ):
        return Value(Kind.MODULE, name)
    if TORCH_SCHEDULERS.match(name):
        return Value(Kind.SCHEDULER, name)
    if name in ("apex.parallel.DistributedDataParallel",):
        return Value(Kind.MODULE, name)
    return None


# Functions of other packages that make schedulers of PyTorch.
TORCH_SCHEDULERS = re.compile(r"^transformers\.(optimization\.)?get_\w*schedule\w*$")
BATCH = Value(Kind.BATCH, graph=Graph.DETACHED)


def _torch(name: str) -> Value | None:
    last = name.rpartition(".")[2]
    if name.startswith("torch.nn.functional."):
        return Value(T, name)
    if name.startswith("torch.nn."):
        return _torch_nn(name, last)
    if _OPTIMIZERS.match(name):
        return Value(Kind.OPTIMIZER, name)
    if name.startswith("torch.optim.lr_scheduler."):
        return Value(Kind.SCHEDULER, name)
    if LOADERS.match(name):
        return Value(Kind.LOADER, name, element=BATCH)
    if _SAMPLERS.match(name):
        return Value(Kind.SAMPLER, name)
    if name == "torch.utils.data.random_split":
        return Value(Kind.TUPLE, name, element=Value(Kind.DATASET, name))
    if _DATASETS.match(name):
        return Value(Kind.DATASET, name)
    if name in _SCALERS:
        return Value(Kind.SCALER, name)
    if _MODULE_PACKAGES.match(name):
        return Value(Kind.MODULE, name)
    if name in ("torch.device", "torch.accelerator.current_accelerator"):
        return Value(Kind.DEVICE, name)
    if name == "torch.autograd.Variable":
        return Value(T, name)
    if name == "torch.autograd.grad":
        return Value(Kind.TUPLE, name, element=Value(T, name))
    if name.startswith("torch.cuda.") and last in (
        "is_available",
        "device_count",
        "current_device",
        "memory_allocated",
        "max_memory_allocated",
    ):
        return Value(Kind.NUMBER, name)
    if name in FACTORIES:
        return Value(T, name, graph=Graph.DETACHED)
    parts = name.split(".")
    if (len(parts) == 2 and last not in _NOT_TENSOR and not last.startswith(("is_", "get_", "set_"))) or (
        len(parts) == 3 and parts[1] in ("linalg", "fft", "special")
    ):
        if last in _TUPLES:
            return Value(Kind.TUPLE, name, element=Value(T, name))
        if last[0].islower():
            return Value(T, name)
    return None


def _torch_nn(name: str, last: str) -> Value | None:
    parts = name.split(".")
    if last == "Parameter":
        return Value(Kind.PARAMETER, name, graph=Graph.ATTACHED)
    if last in ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"):
        return Value(Kind.MODULE, name)
    if len(parts) == 3 and last[0].isupper():
        if last.endswith("Loss"):
            return Value(Kind.LOSS_FN, name)
        if last not in ("Module", "ParameterList", "ParameterDict", "UninitializedParameter", "Buffer"):
            return Value(Kind.MODULE, name)
        if last == "Module":
            return Value(Kind.MODULE, name)
    if name.startswith("torch.nn.utils.") and last in ("clip_grad_norm_", "clip_grad_norm"):
        return Value(T, name, graph=Graph.DETACHED)
    if name.startswith("torch.nn.utils.rnn."):
        return Value(Kind.TUPLE, name, element=Value(T, name)) if last == "pad_packed_sequence" else Value(T, name)
    if name.startswith("torch.nn.init."):
        return Value(T, name)
    if name.startswith("torch.nn.utils.") and last in ("weight_norm", "spectral_norm"):
        return Value(Kind.MODULE, name)
    return None


def is_loss_function(name: str) -> bool:
    """Whether the qualified name is a functional loss."""
    return name.startswith("torch.nn.functional.") and (
        name.endswith("_loss")
        or name.rpartition(".")[2]
        in ("cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div")
    )


_ANNOTATIONS = {
    "torch.Tensor": Value(T, "torch.Tensor", evidence="annotated"),
    "torch.FloatTensor": Value(T, "torch.FloatTensor", evidence="annotated"),
    "torch.LongTensor": Value(T, "torch.LongTensor", evidence="annotated"),
    "torch.BoolTensor": Value(T, "torch.BoolTensor", evidence="annotated"),
    "torch.nn.Parameter": Value(Kind.PARAMETER, "torch.nn.Parameter", graph=Graph.ATTACHED, evidence="annotated"),
    "torch.nn.Module": Value(Kind.MODULE, "torch.nn.Module", evidence="annotated"),
    "torch.optim.Optimizer": Value(Kind.OPTIMIZER, "torch.optim.Optimizer", evidence="annotated"),
    "torch.utils.data.DataLoader": Value(
        Kind.LOADER, "torch.utils.data.DataLoader", element=BATCH, evidence="annotated"
    ),
    "torch.utils.data.Dataset": Value(Kind.DATASET, "torch.utils.data.Dataset", evidence="annotated"),
    "torch.device": Value(Kind.DEVICE, "torch.device", evidence="annotated"),
    "numpy.ndarray": Value(Kind.NDARRAY, "numpy.ndarray", evidence="annotated"),
    "int": Value(Kind.NUMBER, evidence="annotated"),
    "float": Value(Kind.NUMBER, evidence="annotated"),
    "bool": Value(Kind.NUMBER, evidence="annotated"),
    "str": Value(Kind.STRING, evidence="annotated"),
    "list": Value(Kind.LIST, evidence="annotated"),
    "List": Value(Kind.LIST, evidence="annotated"),
    "dict": Value(Kind.DICT, evidence="annotated"),
}


def annotated(name: str) -> Value | None:
    """The value kind that an annotation of this qualified name promises."""
    if found := _ANNOTATIONS.get(name):
        return found
    value = made_by(name) if name.startswith(("torch.", "numpy.")) and name.rpartition(".")[2][:1].isupper() else None
    if value is not None and value.kind is not T:
        return value
    return None
