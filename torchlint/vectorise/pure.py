"""The names of operations that a row loop may consist of: those that only compute, those that write into a row."""

from __future__ import annotations

import re

# Functions and methods that compute from their arguments alone and whose result's shape does not depend on the values.
_PURE_NAMES = """
    abs neg relu clamp clip clamp_min clamp_max sqrt rsqrt floor ceil round trunc square sign float double half long int
    bool isnan isinf isfinite logical_not logical_and logical_or eq ne lt le gt ge add sub mul div clone detach
    contiguous exp exp2 expm1 log log2 log10 log1p sigmoid tanh sin cos tan asin acos atan atan2 sinh cosh erf erfc
    reciprocal pow softplus gelu silu elu selu leaky_relu logsigmoid sum mean prod amax amin argmax argmin all any std
    var norm max min median logsumexp softmax log_softmax cumsum cumprod flip normalize matmul mm mv bmm dot outer
    einsum tensordot cross squeeze unsqueeze reshape view flatten transpose permute t expand expand_as repeat to type
    type_as cpu cuda where maximum minimum stack cat cosine_similarity pairwise_distance cdist dist topk sort argsort
    kthvalue gather index_select tensor as_tensor zeros_like ones_like full_like zeros ones full item tolist size dim
    numel index roll diff tril triu trace diag diag_embed diagonal det inverse inv solve cholesky svd
    fft ifft lerp addcmul addcdiv fmod
    remainder cross_entropy nll_loss mse_loss l1_loss smooth_l1_loss binary_cross_entropy
    binary_cross_entropy_with_logits kl_div one_hot scatter scatter_add index_add masked_fill bincount histc square_
    movedim swapaxes
"""
PURE = frozenset(_PURE_NAMES.split())
# Classes of transforms that work on the last dimensions of a tensor: a batch takes them as one image does.
TAKES_BATCHES = re.compile(
    r"^torchvision\.transforms\.((v2|transforms)\.)?(Normalize|Grayscale|CenterCrop|Resize|ConvertImageDtype)$"
)
# Methods that write into the row they are called on.
_WRITES_NAMES = """
    copy_ fill_ zero_ add_ sub_ mul_ div_ pow_ clamp_ relu_ sigmoid_ tanh_ exp_ sqrt_ abs_ neg_ index_add_ index_copy_
    index_fill_ scatter_ scatter_add_ masked_fill_ addcmul_ addcdiv_ lerp_
"""
WRITES = frozenset(_WRITES_NAMES.split())
# The last names of what may take the list that a loop has gathered.
JOINS = frozenset(("stack", "cat", "tensor", "vstack", "hstack", "as_tensor", "mean", "array", "sum", "len"))
# Operations whose further arguments are Python numbers that say where or how large: one call has one of each.
SHAPING = frozenset(
    """roll repeat reshape view expand flatten transpose permute squeeze unsqueeze movedim swapaxes topk kthvalue narrow
    zeros ones full one_hot histc bincount diff tril triu""".split()
)
# What else a turn of light work may call: functions of Python, of torch, and methods of Python's own containers.
BUILTINS = frozenset("float int bool abs max min sum len range enumerate zip list tuple set dict round".split())
_LIGHT_NAMES = """
    nonzero masked_select numel unique LongTensor FloatTensor Tensor IntTensor BoolTensor ByteTensor logical_xor
    bitwise_and bitwise_or equal allclose dim new new_zeros new_ones new_tensor new_full data_ptr view_as type_as byte
    eye empty
"""
LIGHT = frozenset(_LIGHT_NAMES.split())
CONTAINER_METHODS = frozenset("append extend add remove index count get pop insert discard setdefault".split())
# What a function says that works on tensors.
SPEAKS_OF_TENSORS = re.compile(
    r"torch|[Tt]ensor|\bF\.|\.(?:size|shape|item|cuda|cpu|to|detach|numel|view|argmax|tolist|long|float|unique)\b"
)
# What stands between an entry and the number that it becomes, and leaves it one entry.
PASSING = frozenset(("cpu", "detach", "long", "int", "float", "double", "bool", "data"))
# Further operations that take any number of leading dimensions, or have a form that does.
_BATCHED_NAMES = """
    qr eigh symeig eigvalsh eig pinverse pinv lstsq matrix_power matrix_exp slogdet logdet lu cholesky_solve baddbmm
    addmm addmv addbmm ger outer inner kron vdot hypot heaviside nan_to_num nansum nanmean quantile mode cummax cummin
    logcumsumexp take take_along_dim narrow select vstack hstack dstack chunk split unbind unflatten rot90 fliplr flipud
    float_power sgn sinc deg2rad rad2deg xlogy logaddexp true_divide floor_divide multiply divide subtract negative
    count_nonzero searchsorted bucketize meshgrid tile mT aminmax std_mean var_mean numpy_T broadcast_to
    bitwise_not bitwise_xor greater less greater_equal less_equal not_equal isclose
"""
BATCHED = frozenset(_BATCHED_NAMES.split())
# Further operations whose other arguments say how large the result is.
SIZING = frozenset(
    """interpolate upsample pad unfold fold narrow select tile broadcast_to unflatten split chunk rot90
    repeat_interleave avg_pool1d avg_pool2d max_pool1d max_pool2d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_max_pool2d""".split()
)
# Operations whose result has as many entries as the values say.
UNEVEN = frozenset("nonzero masked_select unique unique_consecutive argwhere where bincount histc combinations".split())
# What makes one number, or one entry per row, of however many entries.
REDUCES = frozenset(
    "max min sum mean any all prod amax amin std var median logsumexp norm numel count_nonzero item nansum".split()
)
