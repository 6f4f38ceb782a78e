"""Operators without weights that move values, add them up, or pick the largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from backlight.engine.graph import Node, Ref
from backlight.engine.operators.registry import Context, operator
from backlight.engine.operators.spellings import sum_of_products
from backlight.engine.operators.whole import lookup, whole
from backlight.engine.steps import (
    DEFAULTS,
    LedgerRecorder,
    LinearSite,
    Messages,
    Parts,
    Site,
    Step,
    Transposed,
    Values,
    fill,
)
from backlight.rules import Elementwise, Facts, Message, Rule, SoftmaxShare, as_gradient, relevance

__all__ = ["MOVES", "SUMS"]

MOVES = frozenset({
    "as_strided", "cat", "channel_shuffle", "chunk", "col2im", "concat", "diagonal", "diag_embed", "expand",
    "expand_as", "flatten", "flip", "gather", "im2col", "index", "index_select", "masked_fill", "movedim", "narrow",
    "native_channel_shuffle", "permute", "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d",
    "reflection_pad3d", "repeat", "repeat_interleave", "replication_pad1d", "replication_pad2d", "replication_pad3d",
    "reshape", "roll", "select", "slice", "split", "split_with_sizes", "squeeze", "stack", "swapaxes", "t", "to",
    "_to_copy", "transpose", "tril", "triu", "type_as", "unbind", "unflatten", "unfold", "unsqueeze",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "view", "_unsafe_view", "where", "pad",
    "constant_pad_nd", "slice_scatter", "select_scatter", "tensor_split", "unsafe_split", "unsafe_chunk",
    "_reshape_copy", "view_copy", "numpy_T", "mT", "moveaxis", "ravel", "_reshape_alias", "rot90", "take",
    "take_along_dim", "atleast_1d", "atleast_2d", "atleast_3d", "float", "double", "half", "bfloat16",
    "index_put", "index_fill", "masked_scatter", "scatter", "fill", "unsafe_split_with_sizes", "column_stack", "hstack",
    "vstack", "expand_copy", "max_unpool2d", "max_unpool3d", "index_copy", "diagonal_scatter", "tile", "fliplr",
    "flipud", "positive", "nan_to_num", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d", "dstack", "adjoint", "mH", "H", "swapdims", "real", "conj", "resolve_conj",
    "resolve_neg",
})  # fmt: skip

# of several carriers, some constants: what is moved beside them leaves nothing with them, unless they are not zero
_MIXES_CONSTANTS = frozenset({
    "cat", "concat", "stack", "where", "masked_fill", "pad", "constant_pad_nd", "slice_scatter", "select_scatter",
    "column_stack", "hstack", "vstack", "index_put", "index_fill", "masked_scatter", "scatter", "fill",
    "index_copy", "diagonal_scatter", "max_unpool2d", "max_unpool3d", "diag_embed", "tril", "triu", "col2im",
})  # fmt: skip

SUMS = frozenset({
    "add", "sub", "rsub", "neg", "sum", "mean", "cumsum", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "_adaptive_avg_pool3d", "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_linear1d",
    "upsample_bicubic2d", "_upsample_bicubic2d_aa", "upsample_trilinear3d", "nanmean", "nansum", "diff", "trapezoid",
    "trapz", "cumulative_trapezoid", "gradient", "scatter_add", "index_add", "trace",
})  # fmt: skip

# what is added to may be a constant
_ADDED_TO = frozenset({"scatter_add", "index_add", "scatter_reduce", "index_reduce"})

_MAXIMA = frozenset({
    "maximum", "minimum", "amax", "amin", "max", "min", "topk", "sort", "median", "kthvalue", "fmax", "fmin", "cummax",
    "cummin", "mode", "msort", "nanmedian", "aminmax",
})  # fmt: skip

_POOLS = frozenset({
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
})  # fmt: skip


@operator(*MOVES)
def move(node: Node, context: Context) -> Site | None:
    if (found := lookup(node, context) or whole(node, context)) is not None:
        return found
    carriers = context.carriers(node)
    if node.op in _SHAPES and len(carriers) == 1:
        return _Reshape(node, carriers, "move", None)
    return Transposed(node, carriers, "move", None, leaks=node.op in _MIXES_CONSTANTS and not _alone(node))


@operator("reshape_as", "view_as")
def reshaped_as(node: Node, context: Context) -> Site | None:
    """Of the second argument only the shape counts."""
    source = node.args[0]
    return Transposed(node, (source.index,), "move", None) if context.carries(source) else None


def _alone(node: Node) -> bool:
    """Whether a joining operator joins a single value. Padding never is: a rule may give relevance to its zeros."""
    return node.op in ("cat", "concat", "stack", "column_stack", "hstack", "vstack") and len(node.inputs) < 2


@operator(*SUMS)
def add(node: Node, context: Context) -> Site | None:
    if (found := whole(node, context)) is not None:
        return found
    if (found := sum_of_products(node, context)) is not None:
        return found
    carriers = context.carriers(node)
    binary = node.op in ("add", "sub", "rsub")
    constant = binary and len(carriers) < 2
    if constant and (shifted := _shift(node, context)) is not None:
        return shifted
    if node.op == "add" and len(set(carriers)) == 2 and "alpha" not in node.kwargs:
        # as many rows too: a mean of all rows is one row, which is added to each
        given = [context.graph.nodes[index] for index in carriers]
        if all((one.shape, one.rows, one.sizes) == (node.shape, node.rows, node.sizes) for one in given):
            return _Addition(node, carriers, "sum", DEFAULTS["sum"])
    constant |= node.op in _ADDED_TO and len(carriers) < sum(isinstance(a, Ref) for a in node.args)
    return Transposed(node, carriers, "sum", DEFAULTS["sum"], leaks=constant)


def _shift(node: Node, context: Context) -> Site | None:
    """A sum or difference with a constant of the same shape, as an elementwise layer: the constant is its bias."""
    x, y = node.args[:2]
    alpha = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
    signal_first = context.carries(x)
    signal, other = (x, y) if signal_first else (y, x)
    constant = context.constant(other) if isinstance(other, Ref) else other
    source = context.node(signal)
    if constant is None or isinstance(alpha, Ref) or source.shape != node.shape:
        return None
    dtype = node.dtype or torch.get_default_dtype()
    bias = constant.double() if isinstance(constant, Tensor) else torch.tensor(constant, dtype=torch.float64)
    # add: x + α y; sub: x − α y; rsub: y − α x
    signs = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[node.op]
    weight, factor = signs if signal_first else signs[::-1]
    one = torch.tensor(weight, dtype=dtype, device=context.device)
    layer = Elementwise(one, (factor * bias).to(context.device, dtype))
    return LinearSite(node, (signal.index,), "scale", DEFAULTS["scale"], layer=layer)


@operator(*_MAXIMA)
def maximum(node: Node, context: Context) -> Site | None:
    carriers = context.carriers(node)
    given = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, Ref)]
    mixed = node.op in ("maximum", "minimum", "fmax", "fmin", "clamp") and len(carriers) < len(given)
    return Transposed(node, carriers, "maximum", DEFAULTS["maximum"], leaks=mixed)


@operator(*_POOLS)
def pool(node: Node, context: Context) -> Site | None:
    return _Pool(node, context.carriers(node), "pool", DEFAULTS["pool"])


# -- a change of shape -------------------------------------------------------------------------------------------------

_SHAPES = frozenset({"view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "ravel"})


@dataclass(slots=True)
class _Reshape(Site):
    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        return _ReshapeStep(self.node, self.carriers, self.node.index, "moves")


@dataclass(slots=True)
class _ReshapeStep(Step):
    def forward(self, values: Values) -> tuple[Any, Any]:
        assert self.node.target is not None
        return (
            self.node.target(*fill(self.node.args, values), **fill(self.node.kwargs, values)),
            values[self.carriers[0]].shape,
        )

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        gradient, direct = message
        return (
            Message(
                None if gradient is None else gradient.reshape(gradient.shape[0], *record),
                None if direct is None else direct.reshape(direct.shape[0], *record),
            ),
        )


# -- x + y of one shape ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Addition(Transposed):
    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        plain = super(_Addition, self).bind(rule, facts)
        if plain.rule != "Proportional()":
            return plain
        return _AdditionStep(self.node, self.carriers, self.node.index, plain.rule)


@dataclass(slots=True)
class _AdditionStep(Step):
    def forward(self, values: Values) -> tuple[Any, Any]:
        x, y = (values[index] for index in self.carriers)
        out = x + y
        return out, out

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        book.undefined(self, record, message)
        sent = Message(as_gradient(record, message))
        return (sent, sent)


# -- one member of a tuple ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Member(Site):
    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        return _MemberStep(self.node, self.carriers, self.node.index, "moves")


@dataclass(slots=True)
class _MemberStep(Step):
    def forward(self, values: Values) -> tuple[Any, Any]:
        return values[self.carriers[0]][self.node.args[1]], None

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        return (Parts({self.node.args[1]: message}),)


@operator("getitem")
def member(node: Node, context: Context) -> Site | None:
    return _Member(node, (node.args[0].index,), "move", None)


# -- max pooling -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Pool(Transposed):
    def fits(self, rule: Rule) -> bool:
        if isinstance(rule, SoftmaxShare):
            return self.node.op in ("max_pool2d", "max_pool2d_with_indices")
        return self.role in rule.fits

    def emits_direct(self, rule: Rule | None) -> bool:
        return isinstance(rule, SoftmaxShare)

    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        if isinstance(rule, SoftmaxShare):
            return _SoftmaxPoolStep(self.node, self.carriers, self.node.index, repr(rule), rule.beta)
        return super(_Pool, self).bind(rule, facts)


@dataclass(slots=True)
class _SoftmaxPoolStep(Step):
    beta: float

    def forward(self, values: Values) -> tuple[Any, Any]:
        assert self.node.target is not None
        x = values[self.carriers[0]]
        y = self.node.target(*fill(self.node.args, values), **fill(self.node.kwargs, values))
        y = y[0] if isinstance(y, tuple) else y
        return y, (x, y)

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        x, y = record
        kernel, stride, padding, dilation, _ = _window(self.node)
        low = torch.finfo(x.dtype).min
        padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]), value=low)
        _, channels, height, width = padded.shape
        # rounding up (ceil_mode) reaches beyond the padding
        height = max(height, (y.shape[2] - 1) * stride[0] + dilation[0] * (kernel[0] - 1) + 1)
        width = max(width, (y.shape[3] - 1) * stride[1] + dilation[1] * (kernel[1] - 1) + 1)
        padded = F.pad(padded, (0, width - padded.shape[3], 0, height - padded.shape[2]), value=low)
        options = {"kernel_size": kernel, "stride": stride, "dilation": dilation}
        windows = F.unfold(padded, **options).unflatten(1, (channels, -1))[..., : y.shape[2] * y.shape[3]]
        share = torch.softmax(self.beta * windows, 2).masked_fill_(windows == low, 0.0)
        share = share / share.sum(2, keepdim=True)
        incoming = relevance(y, message)
        lead = incoming.shape[:2]
        parts = share * incoming.flatten(3).unsqueeze(3)
        folded = F.fold(parts.flatten(0, 1).flatten(1, 2), (height, width), **options)
        top, left = padding
        cut = folded[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        return (Message(direct=cut.unflatten(0, lead)),)


def _window(node: Node) -> tuple[Any, ...]:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    given: dict[str, Any] = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)

    def two(value: Any) -> tuple[int, int]:
        return (value[0], value[-1]) if isinstance(value, Sequence) else (value, value)

    kernel = two(given["kernel_size"])
    return (
        kernel, two(given.get("stride") or kernel), two(given.get("padding", 0)), two(given.get("dilation", 1)),
        bool(given.get("ceil_mode", False)),
    )  # fmt: skip
