"""The operators that a program from a file may call: functions of tensors and numbers in the namespace ``aten``.

A name that is not here is refused. Left out on purpose: what reads or writes files (``from_file``), what hands out
memory that was not written (``empty``, ``resize_``, ``as_strided``, ``set_``), random numbers, sparse and quantised
tensors, and every private operator but those that exported programs are full of.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["aten", "symbolic"]

_NAMES = """
abs absolute acos acosh adaptive_avg_pool1d _adaptive_avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool3d
adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv
addr adjoint affine_grid_generator alias all alpha_dropout amax amin aminmax any arange arccos arccosh arcsin arcsinh
arctan arctan2 arctanh argmax argmin argsort asin asinh _assert_async _assert_scalar _assert_tensor_metadata atan
atan2 atanh atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bilinear bitwise_and
bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor block_diag bmm broadcast_tensors
broadcast_to bucketize cat cdist ceil celu chain_matmul channel_shuffle chunk clamp clamp_max clamp_min clip clone
col2im column_stack complex concat concatenate conj constant_pad_nd contiguous conv1d conv2d conv3d conv_tbc
conv_transpose1d conv_transpose2d conv_transpose3d convolution copy cos cosh cosine_similarity count_nonzero cross
cummax cummin cumprod cumsum deg2rad detach diag diag_embed diagonal diagonal_scatter diff digamma div divide dot
dropout dsplit dstack einsum elu embedding _embedding_bag embedding_bag eq erf erfc erfinv exp exp2 expand expand_as
expm1 eye feature_alpha_dropout feature_dropout fft_fft fft_fft2 fft_fftn fft_fftshift fft_hfft fft_ifft fft_ifft2
fft_ifftn fft_ifftshift fft_ihfft fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn fill fix flatten flip
fliplr flipud float_power floor floor_divide fmax fmin fmod frac frobenius_norm full full_like _fused_rms_norm gather
ge gelu glu greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell gt hardshrink
hardsigmoid hardswish hardtanh heaviside hsplit hstack huber_loss hypot i0 im2col imag index index_add index_copy
index_fill index_put index_reduce index_select inner instance_norm inverse isclose isfinite isinf isnan isneginf
isposinf item kron kthvalue l1_loss layer_norm ldexp le leaky_relu lerp less less_equal lgamma lift_fresh
lift_fresh_copy linalg_cholesky linalg_cross linalg_det linalg_inv linalg_matmul linalg_matrix_exp linalg_norm
linalg_pinv linalg_solve linalg_vecdot linalg_vector_norm linear linspace _local_scalar_dense log log10 log1p log2
log_sigmoid _log_softmax log_softmax logaddexp logaddexp2 logcumsumexp logical_and logical_not logical_or logical_xor
logit logsumexp lstm lstm_cell lt masked_fill masked_scatter matmul matrix_power max max_pool1d
max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices maximum mean median
meshgrid min minimum mish mm moveaxis movedim mse_loss msort mT mul multiply mv nan_to_num nanmean nansum narrow
native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training native_dropout native_group_norm
native_layer_norm ne neg negative new_full new_ones new_zeros nonzero norm not_equal nuclear_norm numpy_T one_hot ones
ones_like outer pad pairwise_distance permute pixel_shuffle pixel_unshuffle polar positive pow prelu prod rad2deg
ravel real reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder repeat repeat_interleave
replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resolve_conj resolve_neg rms_norm rnn_relu
rnn_relu_cell rnn_tanh rnn_tanh_cell roll rot90 round rsqrt rsub scalar_tensor scaled_dot_product_attention
_scaled_dot_product_flash_attention_for_cpu scatter scatter_add scatter_reduce searchsorted select select_scatter selu
sgn _shape_as_tensor sigmoid sign silu sin sinc sinh slice slice_scatter smooth_l1_loss _softmax softmax softplus
softshrink sort special_erf special_erfc special_exp2 special_expit special_expm1 special_log1p special_log_softmax
special_logit special_logsumexp special_ndtr special_sinc special_softmax special_xlogy split split_with_sizes sqrt
square squeeze stack std std_mean sub subtract sum swapaxes swapdims sym_constrain_range sym_constrain_range_for_size
sym_numel sym_size sym_stride t take take_along_dim tan tanh tensor_split tensordot threshold tile to _to_copy topk
trace transpose tril tril_indices triu triu_indices true_divide trunc type_as unbind unflatten unfold unsafe_chunk
_unsafe_index unsafe_split unsafe_split_with_sizes _unsafe_view unsqueeze upsample_bicubic2d _upsample_bicubic2d_aa
upsample_bilinear2d _upsample_bilinear2d_aa upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
_upsample_nearest_exact1d _upsample_nearest_exact2d upsample_trilinear3d var var_mean vdot view view_as
view_as_complex view_as_real vsplit vstack _weight_norm _weight_norm_interface where xlogy zeros zeros_like
"""
# Python's own names of the logical ones
_ATEN = frozenset([*_NAMES.split(), "__and__", "__or__", "__xor__", "__lshift__", "__rshift__"])

_SYMBOLIC: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{one.__name__}": one
        for one in (
            operator.eq, operator.ne, operator.le, operator.ge, operator.lt, operator.gt, operator.neg, operator.pos,
            operator.mul, operator.add, operator.sub, operator.floordiv, operator.mod, operator.truediv,
            operator.and_, operator.or_,
        )
    },
    "math.trunc": math.trunc, "math.ceil": math.ceil, "math.floor": math.floor, "torch.sym_not": torch.sym_not,
    "torch.sym_int": torch.sym_int, "torch.sym_float": torch.sym_float, "torch.sym_ite": torch.sym_ite,
    "torch.sym_max": torch.sym_max, "torch.sym_min": torch.sym_min,
}  # fmt: skip
_TARGET = re.compile(r"torch\.ops\.aten\.([A-Za-z_0-9]+)\.([A-Za-z_0-9]+)")


def symbolic(target: str) -> Callable[..., Any] | None:
    """A function of sizes, by its name in the file."""
    return _SYMBOLIC.get(target)


def aten(target: str) -> Any:
    """An operator by its name in the file, ``torch.ops.aten.linear.default``; ``None`` for any other.

    The overload is looked up among those of the operator, so that no attribute of any object can be named.
    """
    match = _TARGET.fullmatch(target)
    if match is None:
        return None
    name, overload = match.groups()
    if name not in _ATEN and not (name.endswith("_") and name[:-1] in _ATEN):
        return None
    packet = getattr(torch.ops.aten, name, None)
    if packet is None or overload not in packet.overloads():
        return None
    found = getattr(packet, overload)
    # such a one writes into memory that is given to it
    return None if any(argument.is_out for argument in found._schema.arguments) else found
