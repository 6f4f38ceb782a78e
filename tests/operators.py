"""Operators and their forms: one line each, on a hidden value of three kinds, for laws that hold for all.

``OPERATORS`` maps a name to a function of the hidden value, of shape ``SHAPES[kind]`` for each row. ``LINEAR`` names
those that are linear in it.
"""

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

D = torch.float64
SHAPES = {"table": (8,), "sequence": (4, 6), "image": (4, 6, 6)}


@cache
def fixed(*shape, seed=1):
    """A constant; made before the network is captured."""
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def places(*values):
    return torch.tensor(values)


def grid(h):
    return F.affine_grid(
        torch.tensor([[0.8, 0.2, 0.1], [-0.1, 0.9, -0.1]], dtype=D).expand(len(h), 2, 3), h.shape, False
    )


# linear in h
_LINEAR = {
    "table": {
        "scatter_add": lambda h: torch.zeros(len(h), 3, dtype=D).scatter_add(1, places(0, 2, 2, 1, 0, 0, 1, 2).expand(len(h), 8), h),
        "index_add": lambda h: torch.zeros(len(h), 3, dtype=D).index_add(1, places(0, 2, 2, 1, 0, 0, 1, 2), h),
        "index_add, alpha": lambda h: h.index_add(1, places(3, 1), h[:, :2], alpha=-0.5),
        "index_put, accumulated": lambda h: torch.zeros(len(h), 3, dtype=D).index_put((torch.arange(len(h))[:, None], places(0, 1, 1, 2)), h[:, :4], accumulate=True),
        "index_put": lambda h: h.index_put((torch.arange(len(h))[:, None], places(0, 3)), h[:, 4:6]),
        "scatter": lambda h: h.scatter(1, places(0, 3).expand(len(h), 2), h[:, 4:6]),
        "scatter, of a constant": lambda h: torch.zeros(len(h), 9, dtype=D).scatter(1, places(8, 1, 3, 2, 0, 5, 4, 6).expand(len(h), 8), h),
        "scatter_reduce, sum": lambda h: h.scatter_reduce(1, places(0, 0, 1).expand(len(h), 3), h[:, 5:], "sum"),
        "scatter_reduce, mean": lambda h: h.scatter_reduce(1, places(0, 0, 1).expand(len(h), 3), h[:, 5:], "mean"),
        "index_reduce, mean": lambda h: torch.zeros_like(h).index_reduce(1, places(0, 0, 1), h[:, 5:], "mean", include_self=False),
        "index_copy": lambda h: h.index_copy(1, places(0, 3), h[:, 4:6]),
        "index_fill": lambda h: h.index_fill(1, places(0, 3), 0.0),
        "masked_scatter": lambda h: h.masked_scatter((places(0, 1, 0, 0, 1, 0, 0, 1) > 0).expand_as(h), h[:, 4:7] * 2.0),
        "masked_fill": lambda h: h.masked_fill(places(0, 1, 0, 0, 1, 0, 0, 1) > 0, 0.0),
        "select_scatter": lambda h: h.select_scatter(h[:, 3], 1, 5),
        "slice_scatter": lambda h: h.slice_scatter(h[:, :3], 1, 4, 7),
        "diagonal_scatter": lambda h: h.view(-1, 2, 4).diagonal_scatter(h[:, :2], 0, 1, 2),
        "index_select": lambda h: h.index_select(1, places(4, 4, 1)),
        "gather": lambda h: h.gather(1, places(4, 4, 1).expand(len(h), 3)),
        "take_along_dim": lambda h: torch.take_along_dim(h, places(4, 4, 1).expand(len(h), 3), 1),
        "masked_select": lambda h: h.t()[places(0, 1, 0, 0, 1, 0, 0, 1) > 0].t(),
        "cumsum": lambda h: h.cumsum(1),
        "cumsum, backwards": lambda h: h.flip(1).cumsum(1).flip(1),
        "diff": lambda h: h.diff(dim=1),
        "diff, twice": lambda h: h.diff(n=2, dim=1),
        "trapezoid": lambda h: torch.trapezoid(h, dx=0.3, dim=1)[:, None],
        "trapezoid, at places": lambda h: torch.trapezoid(h, torch.linspace(0, 2, 8, dtype=D) ** 2, dim=1)[:, None],
        "cumulative_trapezoid": lambda h: torch.cumulative_trapezoid(h, dx=0.3, dim=1),
        "gradient": lambda h: torch.gradient(h, dim=1)[0],
        "kron": lambda h: torch.kron(h, fixed(1, 3)),
        "outer": lambda h: torch.einsum("bi,j->bij", h, fixed(3)),
        "lerp, weight": lambda h: torch.lerp(h, h.flip(1), 0.3),
        "addcmul": lambda h: torch.addcmul(h, h.flip(1), fixed(8), value=0.5),
        "addcdiv": lambda h: torch.addcdiv(h, h.flip(1), fixed(8).abs() + 1, value=0.5),
        "addmv": lambda h: torch.addmv(h[:, 0], h, fixed(8))[:, None],
        "addr": lambda h: torch.addr(h.new_zeros(len(h), 3), h[:, 0], fixed(3)),
        "cov-like": lambda h: h - h.mean(1, keepdim=True),
        "nanmean": lambda h: h.nanmean(1, keepdim=True),
        "nansum": lambda h: h.nansum(1, keepdim=True),
        "neg": lambda h: torch.neg(h), "positive": lambda h: torch.positive(h), "rsub": lambda h: torch.rsub(h, h.flip(1), alpha=2),
        "nan_to_num": lambda h: torch.nan_to_num(h), "real": lambda h: torch.real(h),
        "where": lambda h: torch.where(places(0, 1, 0, 0, 1, 0, 0, 1) > 0, h, h.flip(1)),
        "cross": lambda h: torch.linalg.cross(h[:, :3], fixed(1, 3).expand(len(h), 3)),
        "linear, constant first": lambda h: F.linear(fixed(3, 8), h).t(),
        "bilinear, one constant": lambda h: F.bilinear(h, fixed(1, 5).expand(len(h), 5), fixed(3, 8, 5)),
        "bilinear, the other": lambda h: F.bilinear(fixed(1, 5).expand(len(h), 5), h, fixed(3, 5, 8)),
        "tensordot": lambda h: torch.tensordot(h.view(-1, 2, 4), fixed(4, 2, 3), ([1, 2], [1, 0])),
        "fft": lambda h: torch.view_as_real(torch.fft.rfft(h)),
        "combinations": lambda h: h[:, torch.combinations(torch.arange(5)).flatten()],
        "block_diag": lambda h: F.pad(h, (1, 2)), "hstack": lambda h: torch.hstack([h, h[:, :2]]),
        "vander": lambda h: torch.stack([h, 2 * h], -1).flatten(1), "unflatten": lambda h: h.unflatten(1, (2, 4)).transpose(1, 2),
        "baddbmm": lambda h: torch.baddbmm(h.view(-1, 2, 4), h.view(-1, 2, 4), fixed(1, 4, 4).expand(len(h), 4, 4), beta=0.5, alpha=2.0),
        "bmm": lambda h: torch.bmm(h.view(-1, 2, 4), fixed(1, 4, 3).expand(len(h), 4, 3)),
        "mv": lambda h: torch.mv(h, fixed(8))[:, None], "inner": lambda h: torch.inner(h, fixed(3, 8)), "vecdot": lambda h: torch.linalg.vecdot(h, fixed(8))[:, None],
        "chain_matmul": lambda h: torch.linalg.multi_dot([h, fixed(8, 3), fixed(3, 5)]),
        "solve": lambda h: torch.linalg.solve(fixed(8, 8), h.t()).t(),
        "solve_triangular": lambda h: torch.linalg.solve_triangular(fixed(8, 8).tril() + 4 * torch.eye(8, dtype=D), h.t(), upper=False).t(),
        "renorm of a constant": lambda h: h @ torch.renorm(fixed(8, 3), 2, 0, 1.0), "complex": lambda h: (torch.complex(h, h.flip(1)) * torch.complex(fixed(8), fixed(8, seed=2))).real,
        "unsqueeze": lambda h: h.unsqueeze(1).squeeze(1), "repeat": lambda h: h.repeat(1, 2), "tile": lambda h: torch.tile(h, (1, 2)),
        "repeat_interleave": lambda h: h.repeat_interleave(2, 1), "roll": lambda h: h.roll(3, 1), "flip": lambda h: h.flip(1), "fliplr": lambda h: torch.fliplr(h),
        "chunk": lambda h: h.chunk(3, 1)[1], "split": lambda h: h.split([3, 5], 1)[1], "tensor_split": lambda h: h.tensor_split(3, 1)[0],
        "unbind": lambda h: torch.stack(h.unbind(1)[::2], 1), "narrow": lambda h: h.narrow(1, 2, 3), "as_strided": lambda h: h[:, 1::3],
        "trunc-free": lambda h: h + 0.0 * h, "double twice": lambda h: h.to(torch.float64), "meshgrid": lambda h: torch.stack([h[:, i] for i in (3, 1, 4)], 1),
        "sparse": lambda h: torch.sparse.mm(fixed(5, 8).to_sparse(), h.t()).t(),
    },
    "sequence": {
        "scatter_add": lambda h: torch.zeros(len(h), 3, 6, dtype=D).scatter_add(1, places(0, 2, 2, 1)[:, None].expand(len(h), 4, 6), h),
        "index_add": lambda h: torch.zeros(len(h), 3, 6, dtype=D).index_add(1, places(0, 2, 2, 1), h),
        "cumsum": lambda h: h.cumsum(1), "tril": lambda h: h.tril(), "triu": lambda h: h.triu(1), "rot90": lambda h: h.rot90(1, (1, 2)), "transpose": lambda h: h.mT,
        "einsum, ellipsis": lambda h: torch.einsum("...ij,jk->...ik", h, fixed(6, 3)),
        "einsum, three": lambda h: torch.einsum("bij,jk,il->bkl", h, fixed(6, 3), fixed(4, 2)),
        "einsum, diagonal": lambda h: torch.einsum("bii->bi", h[:, :, :4]), "einsum, trace": lambda h: torch.einsum("bii->b", h[:, :, :4])[:, None],
        "einsum, sum": lambda h: torch.einsum("bij->bj", h), "einsum, no arrow": lambda h: torch.einsum("bij,jk", h, fixed(6, 3)),
        "adjacency": lambda h: fixed(4, 4).softmax(1) @ h, "diagonal": lambda h: h.diagonal(0, 1, 2), "diag_embed": lambda h: torch.diag_embed(h[:, 0]),
        "unfold": lambda h: h.unfold(1, 2, 1), "linear upsampling": lambda h: F.interpolate(h, scale_factor=2, mode="linear"),
        "nearest upsampling": lambda h: F.interpolate(h, size=9), "nearest-exact": lambda h: F.interpolate(h, size=9, mode="nearest-exact"), "area": lambda h: F.interpolate(h, size=4, mode="area"),
        "convolution": lambda h: F.conv1d(h, fixed(3, 4, 3)), "transposed convolution": lambda h: F.conv_transpose1d(h, fixed(4, 3, 3), stride=2),
        "same, even kernel": lambda h: F.conv1d(h, fixed(3, 4, 2), padding="same"), "same, even, dilated": lambda h: F.conv1d(h, fixed(3, 4, 4), padding="same", dilation=1),
        "average pool": lambda h: F.avg_pool1d(h, 2, padding=1), "adaptive": lambda h: F.adaptive_avg_pool1d(h, 4), "average pool, wide": lambda h: F.avg_pool1d(h, 3, 1),
        "trace": lambda h: h[:, :, :4].diagonal(dim1=1, dim2=2).sum(1, keepdim=True), "cross": lambda h: torch.linalg.cross(h[:, :, :3], fixed(1, 1, 3)), "movedim": lambda h: h.movedim(1, 2),
        "gather": lambda h: h.gather(1, places(1, 1, 0)[None, :, None].expand(len(h), 3, 6)), "bmm": lambda h: torch.bmm(fixed(1, 3, 4).expand(len(h), 3, 4), h),
        "addbmm-like": lambda h: torch.baddbmm(h[:, :, :3], h, fixed(1, 6, 3).expand(len(h), 6, 3)),
        "packed": lambda h: nn.utils.rnn.pad_packed_sequence(nn.utils.rnn.pack_padded_sequence(h, torch.tensor([4] * len(h)), batch_first=True), batch_first=True)[0],
        "circular": lambda h: F.pad(h, (1, 2), mode="circular"), "reflect": lambda h: F.pad(h, (1, 2), mode="reflect"), "replicate": lambda h: F.pad(h, (1, 2), mode="replicate"), "zeros": lambda h: F.pad(h, (1, 2)),
        "channel shuffle": lambda h: F.channel_shuffle(h[..., None], 2), "fold of columns": lambda h: F.fold(h.repeat(1, 1, 2)[:, :, :9], (4, 4), 2), "embedding bag": lambda h: h.mean(1),
    },
    "image": {
        "grid_sample": lambda h: F.grid_sample(h, grid(h), align_corners=False), "grid_sample, nearest": lambda h: F.grid_sample(h, grid(h), mode="nearest", align_corners=False),
        "grid_sample, bicubic": lambda h: F.grid_sample(h, grid(h), mode="bicubic", padding_mode="border", align_corners=True),
        "nearest": lambda h: F.interpolate(h, scale_factor=2), "nearest-exact": lambda h: F.interpolate(h, size=9, mode="nearest-exact"),
        "bilinear": lambda h: F.interpolate(h, scale_factor=2, mode="bilinear"), "bilinear, corners": lambda h: F.interpolate(h, size=9, mode="bilinear", align_corners=True),
        "bicubic": lambda h: F.interpolate(h, size=9, mode="bicubic"), "antialiased": lambda h: F.interpolate(h, size=4, mode="bilinear", antialias=True), "bicubic, antialiased": lambda h: F.interpolate(h, size=4, mode="bicubic", antialias=True),
        "area": lambda h: F.interpolate(h, size=4, mode="area"), "trilinear": lambda h: F.interpolate(h[:, None], size=(4, 9, 9), mode="trilinear"),
        "pixel shuffle": lambda h: F.pixel_shuffle(h, 2), "pixel unshuffle": lambda h: F.pixel_unshuffle(h, 2), "channel shuffle": lambda h: F.channel_shuffle(h, 2),
        "unfold": lambda h: F.unfold(h, 3, padding=1), "unfold and fold": lambda h: F.fold(F.unfold(h, 2, stride=2), (6, 6), 2, stride=2), "fold, overlapping": lambda h: F.fold(F.unfold(h, 3), (6, 6), 3),
        "convolution": lambda h: F.conv2d(h, fixed(6, 2, 3, 3), groups=2, stride=2), "transposed": lambda h: F.conv_transpose2d(h, fixed(4, 3, 3, 2), stride=2, output_padding=1),
        "same, even kernel": lambda h: F.conv2d(h, fixed(3, 4, 2, 4), padding="same"), "same, dilated": lambda h: F.conv2d(h, fixed(3, 4, 2, 2), padding="same", dilation=3), "conv_tbc": lambda h: F.conv2d(h, fixed(3, 4, 1, 1)),
        "average pool": lambda h: F.avg_pool2d(h, 3, 2, 1, count_include_pad=False), "average pool, ceil": lambda h: F.avg_pool2d(h, 4, 4, ceil_mode=True), "adaptive": lambda h: F.adaptive_avg_pool2d(h, 4),
        "batch norm": lambda h: F.batch_norm(h, fixed(4) * 0, fixed(4).abs() + 0.5, fixed(4)), "instance norm, running": lambda h: F.instance_norm(h, fixed(4) * 0, fixed(4).abs() + 0.5, fixed(4), None, use_input_stats=False),
        "roll": lambda h: h.roll((1, 2), (2, 3)), "flip": lambda h: h.flip((2, 3)), "rot90": lambda h: h.rot90(1, (2, 3)), "tril": lambda h: h.tril(-1), "circular": lambda h: F.pad(h, (1, 2, 2, 1), mode="circular"),
        "reflect": lambda h: F.pad(h, (1, 2, 2, 1), mode="reflect"), "replicate": lambda h: F.pad(h, (1, 2, 2, 1), mode="replicate"), "crop": lambda h: F.pad(h, (-1, 1, 2, -2)),
        "depth to space": lambda h: h.view(-1, 2, 2, 6, 6).permute(0, 3, 1, 4, 2).reshape(-1, 12, 12), "index": lambda h: h[:, :, places(0, 0, 3)][..., places(5, 1)], "index, two": lambda h: h[:, :, places(0, 0, 3), places(5, 1, 1)],
    },
}  # fmt: skip

_OTHER = {
    "table": {
        "logsumexp": lambda h: h.logsumexp(1, keepdim=True), "logsumexp, table": lambda h: h.view(-1, 2, 4).logsumexp(2), "softmin": lambda h: F.softmin(h, 1), "softmax": lambda h: h.softmax(1), "log_softmax": lambda h: h.log_softmax(1),
        "cosine, constant": lambda h: F.cosine_similarity(h[:, None], fixed(3, 8), -1), "cosine, signals": lambda h: F.cosine_similarity(h[:, :4], h[:, 4:])[:, None],
        "pairwise_distance": lambda h: F.pairwise_distance(h[:, :4], h[:, 4:])[:, None], "pairwise_distance, constant": lambda h: F.pairwise_distance(h, fixed(8))[:, None], "pairwise_distance, 1": lambda h: F.pairwise_distance(h[:, :4], h[:, 4:], p=1)[:, None],
        "cdist": lambda h: torch.cdist(h, fixed(3, 8)), "cdist, 1": lambda h: torch.cdist(h, fixed(3, 8), 1.0), "cdist, signals": lambda h: torch.cdist(h.view(-1, 2, 4), h.view(-1, 2, 4).roll(1, 2)).flatten(1),
        "bilinear": lambda h: F.bilinear(h, h.flip(1), fixed(3, 8, 8)), "outer, signals": lambda h: torch.einsum("bi,bj->bij", h, h[:, :3]), "einsum, square": lambda h: torch.einsum("bi,bi->b", h, h)[:, None], "einsum, three signals": lambda h: torch.einsum("bi,bi,bi->b", h, h.flip(1), h)[:, None],
        "vector_norm": lambda h: torch.linalg.vector_norm(h, dim=1, keepdim=True), "norm, 1": lambda h: h.norm(1, dim=1, keepdim=True), "norm, 3": lambda h: h.norm(3, dim=1, keepdim=True), "norm, inf": lambda h: h.norm(float("inf"), dim=1, keepdim=True), "matrix norm": lambda h: torch.linalg.matrix_norm(h.view(-1, 2, 4))[:, None],
        "std": lambda h: h.std(1, keepdim=True), "var": lambda h: h.var(1, keepdim=True), "std_mean": lambda h: torch.cat(torch.std_mean(h, 1, keepdim=True), 1), "var_mean": lambda h: torch.cat(torch.var_mean(h, 1, keepdim=True), 1),
        "prod": lambda h: h.prod(1, keepdim=True), "cumprod": lambda h: h.cumprod(1), "logcumsumexp": lambda h: h.logcumsumexp(1), "cummax": lambda h: h.cummax(1).values, "cummin": lambda h: h.cummin(1).values,
        "renorm": lambda h: h.renorm(2, 0, 1.0), "normalize": lambda h: F.normalize(h), "normalize, 1": lambda h: F.normalize(h, 1.0), "glu": lambda h: F.glu(h), "cross, signals": lambda h: torch.linalg.cross(h[:, :3], h[:, 3:6]), "dist": lambda h: (h - fixed(8)).norm(dim=1, keepdim=True), "vecdot, signals": lambda h: torch.linalg.vecdot(h, h.flip(1))[:, None],
        "clamp": lambda h: h.clamp(-0.5, 0.7), "clamp above zero": lambda h: h.clamp(0.2, 0.7), "clamp by tensors": lambda h: torch.clamp(h, fixed(8) - 1, fixed(8) + 1), "clamp by signals": lambda h: torch.clamp(h, h.flip(1) - 1), "where": lambda h: torch.where(h > 0, h, 0.3 * h.flip(1)), "where, constant": lambda h: torch.where(h > 0, h, torch.tensor(0.4, dtype=D)), "lerp, signal": lambda h: torch.lerp(h, h.flip(1), torch.sigmoid(h)), "lerp, constant": lambda h: torch.lerp(h, fixed(8), 0.3),
        "hypot": lambda h: torch.hypot(h, h.flip(1)), "atan2": lambda h: torch.atan2(h, h.flip(1) + 3), "copysign": lambda h: torch.copysign(h, fixed(8)), "fmod": lambda h: torch.fmod(h, 0.7), "remainder": lambda h: torch.remainder(h, 0.7), "floor": lambda h: h + h.floor(), "round": lambda h: h + h.round(), "frac": lambda h: h.frac(), "sign": lambda h: h + h.sign(), "heaviside": lambda h: h + (h > 0).double(), "bucketize": lambda h: h + torch.bucketize(h, fixed(4).sort().values).double(),
        "logaddexp": lambda h: torch.logaddexp(h, h.flip(1)), "logaddexp2": lambda h: torch.logaddexp2(h, h.flip(1)), "xlogy": lambda h: torch.xlogy(h, h.abs() + 1), "logit": lambda h: torch.logit(h.sigmoid()), "polynomial": lambda h: h**3 + 2 * h**2 - h, "pow, signal": lambda h: (h.abs() + 1) ** h, "pow, base": lambda h: 2.0**h, "pow, negative": lambda h: (h.abs() + 1) ** -0.5, "pow, odd root": lambda h: (h.abs() + 0.1) ** 0.3, "rsqrt": lambda h: h * (h.square().mean(1, keepdim=True) + 1e-3).rsqrt(), "divided": lambda h: h / (h.abs().sum(1, keepdim=True) + 1), "over": lambda h: 1.0 / (h.abs() + 1), "divided by itself": lambda h: h / (h + 5), "floor division": lambda h: h + torch.div(h, 0.5, rounding_mode="floor"),
        **{name: (lambda f: lambda h: f(h))(getattr(torch, name)) for name in ("abs", "asinh", "atan", "ceil", "cos", "cosh", "deg2rad", "erf", "erfc", "exp", "exp2", "expm1", "rad2deg", "reciprocal", "relu", "sigmoid", "sin", "sinc", "sinh", "square", "tan", "tanh", "trunc", "i0", "digamma")},
        **{name: (lambda f: lambda h: f(h.abs() + 0.1))(getattr(torch, name)) for name in ("sqrt", "log", "log10", "log1p", "log2", "lgamma")}, "acosh": lambda h: torch.acosh(h.abs() + 1.1), "acos": lambda h: torch.acos(h.tanh()), "asin": lambda h: torch.asin(h.tanh()), "atanh": lambda h: torch.atanh(h.tanh() * 0.9), "erfinv": lambda h: torch.erfinv(h.tanh() * 0.9),
        **{name: (lambda f: lambda h: f(h))(getattr(F, name)) for name in ("celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish", "relu6", "rrelu", "selu", "silu", "softplus", "softshrink", "softsign", "tanhshrink")},
        "gelu, tanh": lambda h: F.gelu(h, approximate="tanh"), "softplus, beta": lambda h: F.softplus(h, 2.0, 1.0), "elu, alpha": lambda h: F.elu(h, 0.4), "threshold": lambda h: F.threshold(h, 0.1, 0.0), "prelu": lambda h: F.prelu(h, fixed(8).abs()),
        "maximum": lambda h: torch.maximum(h, h.flip(1)), "minimum, constant": lambda h: torch.minimum(h, fixed(8)), "fmax": lambda h: torch.fmax(h, h.flip(1)), "amax": lambda h: h.amax(1, keepdim=True), "aminmax": lambda h: torch.stack(torch.aminmax(h, dim=1), 1), "max and where": lambda h: h.max(1, keepdim=True).values, "sort": lambda h: h.sort(1).values, "sort, descending": lambda h: h.sort(1, descending=True)[0], "argsort": lambda h: h.gather(1, h.argsort(1)), "topk": lambda h: h.topk(3).values, "topk, scattered": lambda h: torch.zeros_like(h).scatter(1, h.topk(3).indices, h.topk(3).values), "median": lambda h: h.median(1, keepdim=True).values, "kthvalue": lambda h: h.kthvalue(3, 1, keepdim=True).values, "quantile": lambda h: h.quantile(0.3, 1, keepdim=True), "mode": lambda h: h.mode(1, keepdim=True).values, "msort": lambda h: h.t().msort().t(),
        "scatter_reduce, amax": lambda h: h.scatter_reduce(1, places(0, 0, 1).expand(len(h), 3), h[:, 5:], "amax"), "scatter_reduce, prod": lambda h: h.scatter_reduce(1, places(0, 0, 1).expand(len(h), 3), h[:, 5:], "prod"), "index_reduce, amax": lambda h: h.index_reduce(1, places(0, 0, 1), h[:, 5:], "amax"), "index_add, constant": lambda h: fixed(1, 8).expand(len(h), 8).index_add(1, places(3, 1), h[:, :2]), "masked_scatter, constant": lambda h: h.masked_scatter((places(0, 1, 0, 0, 1, 0, 0, 1) > 0).expand_as(h), fixed(40)), "index_copy, constant": lambda h: h.index_copy(1, places(0, 3), fixed(1, 2).expand(len(h), 2)), "scatter_add, constant": lambda h: fixed(1, 3).expand(len(h), 3).scatter_add(1, places(0, 2, 2, 1, 0, 0, 1, 2).expand(len(h), 8), h), "index_put, constant": lambda h: h.index_put((torch.arange(len(h))[:, None], places(0, 3)), torch.tensor(0.7, dtype=D)),
        "addcmul, signals": lambda h: torch.addcmul(h, h, h.flip(1)), "addcmul, three": lambda h: torch.addcmul(h.roll(1, 1), h.roll(2, 1), h.flip(1), value=0.3), "addcdiv, signals": lambda h: torch.addcdiv(h, h.roll(1, 1), h.flip(1).abs() + 1), "addcmul, constant": lambda h: torch.addcmul(fixed(8), h, fixed(8, seed=3)), "baddbmm, signals": lambda h: torch.baddbmm(h.view(-1, 2, 4)[:, :, :2], h.view(-1, 2, 4), h.view(-1, 4, 2)), "baddbmm, constant": lambda h: torch.baddbmm(fixed(1, 2, 3), h.view(-1, 2, 4), fixed(1, 4, 3).expand(len(h), 4, 3)), "complex modulus": lambda h: torch.fft.rfft(h).abs(), "det": lambda h: torch.linalg.det(h[:, :4].view(-1, 2, 2))[:, None], "inverse": lambda h: torch.linalg.inv(h[:, :4].view(-1, 2, 2) + 4 * torch.eye(2, dtype=D)), "gaussian": lambda h: torch.exp(-torch.cdist(h, fixed(3, 8)) ** 2), "gumbel-free": lambda h: F.one_hot(h.argmax(1), 8) * h, "layer_norm": lambda h: F.layer_norm(h, (8,), fixed(8), fixed(8)), "rms_norm": lambda h: F.rms_norm(h, (8,), fixed(8)), "group_norm": lambda h: F.group_norm(h[..., None], 2, fixed(4, seed=5).repeat(2)), "weight norm": lambda h: F.linear(h, torch._weight_norm(fixed(3, 8), fixed(3, 1), 0)), "multi margin": lambda h: (h.softmax(1) * h).sum(1, keepdim=True),
    },
    "sequence": {
        "attention": lambda h: F.scaled_dot_product_attention(h, h, h), "causal": lambda h: F.scaled_dot_product_attention(h, h.flip(1), h, is_causal=True), "attention by hand": lambda h: (h @ h.mT / 6**0.5).softmax(-1) @ h, "self product": lambda h: h @ h.mT, "einsum": lambda h: torch.einsum("bid,bjd->bij", h, h), "max pool": lambda h: F.max_pool1d(h, 2), "adaptive max": lambda h: F.adaptive_max_pool1d(h, 3), "lp pool": lambda h: F.lp_pool1d(h.abs(), 2, 2), "instance norm": lambda h: F.instance_norm(h), "logsumexp": lambda h: h.logsumexp((1, 2))[:, None], "var, two axes": lambda h: h.var((1, 2))[:, None], "cosine": lambda h: F.cosine_similarity(h[:, :, None], h[:, None], -1), "cdist": lambda h: torch.cdist(h, h.flip(1)), "local response": lambda h: F.local_response_norm(h, 2), "softmax pooled": lambda h: (h.softmax(1) * h).sum(1), "segment max": lambda h: torch.segment_reduce(h.movedim(1, 0).contiguous(), "max", lengths=torch.tensor([1, 3]), axis=0).movedim(0, 1), "linear interpolation of a product": lambda h: F.interpolate(h * h, size=3, mode="linear"),
    },
    "image": {
        "max pool": lambda h: F.max_pool2d(h, 3, 2, 1), "max pool, dilated": lambda h: F.max_pool2d(h, 2, dilation=2), "max pool, ceil": lambda h: F.max_pool2d(h, 4, 4, ceil_mode=True), "adaptive max": lambda h: F.adaptive_max_pool2d(h, 4), "unpool": lambda h: F.max_unpool2d(*F.max_pool2d(h, 2, return_indices=True), 2), "fractional": lambda h: F.max_pool3d(h[:, None], 2), "lp pool": lambda h: F.lp_pool2d(h.abs(), 2, 2), "instance norm": lambda h: F.instance_norm(h, weight=fixed(4), bias=fixed(4)), "group norm": lambda h: F.group_norm(h, 2, fixed(4), fixed(4)), "local response": lambda h: F.local_response_norm(h, 3), "grid of a signal": lambda h: F.grid_sample(h, h[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False), "border of ones": lambda h: F.pad(h, (1, 1), value=1.0), "instance norm, running, shift": lambda h: F.instance_norm(h, fixed(4), fixed(4).abs() + 0.5, fixed(4), fixed(4), use_input_stats=False), "squeeze": lambda h: h * torch.sigmoid(h.mean((2, 3), keepdim=True)), "softmax over pixels": lambda h: h.flatten(2).softmax(2), "soft argmax": lambda h: h.flatten(2).softmax(2) @ fixed(36, 2), "cosine": lambda h: F.cosine_similarity(h, fixed(1, 4, 1, 1)), "bilinear pooling": lambda h: torch.einsum("bchw,bdhw->bcd", h, h), "gram": lambda h: h.flatten(2) @ h.flatten(2).mT, "generalised mean": lambda h: h.clamp(min=1e-3).pow(3).mean((2, 3)).pow(1 / 3), "channel norm": lambda h: h / (h.norm(dim=1, keepdim=True) + 1e-6), "swish pool": lambda h: F.avg_pool2d(F.silu(h), 2),
    },
}  # fmt: skip

OPERATORS = {f"{kind}: {name}": (kind, function) for group in (_LINEAR, _OTHER) for kind, some in group.items() for name, function in some.items()}  # fmt: skip
LINEAR = frozenset(f"{kind}: {name}" for kind, some in _LINEAR.items() for name in some)


class Around(nn.Module):
    """A layer, the operator, a layer; with a bias only where asked for."""

    def __init__(self, name, bias=True):
        super().__init__()
        kind, self.function = OPERATORS[name]
        shape = SHAPES[kind]
        self.a = nn.Linear(5, torch.Size(shape).numel(), bias=bias)
        self.shape = shape
        probe = self.function(torch.randn(2, *shape, dtype=D, generator=torch.Generator().manual_seed(0)))
        self.o = nn.Linear(probe[0].numel(), 2, bias=bias)

    def forward(self, x):
        return self.o(self.function(self.a(x).unflatten(1, self.shape)).flatten(1))


def around(name, bias=True, seed=0):
    """The network around an operator, and its inputs."""
    torch.manual_seed(seed)
    net = Around(name, bias).double().eval()
    return net, torch.randn(4, 5, dtype=D)
