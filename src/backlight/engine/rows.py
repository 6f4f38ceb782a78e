"""Which axis of each value counts the rows, and whether rows keep to themselves, read off the operators (one table).

The rows of the inputs are followed through the graph. Reshaping may merge them with other axes: an axis of size
outer · n · inner then holds at position i what belongs to row (i // inner) mod n. An operator that acts along such an
axis makes rows see each other; one that is not listed here leaves the question open, and a run decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from backlight.engine.graph import Graph, Node, Ref, references
from backlight.rules.maps import FIRST, Rows

__all__ = ["RowsFound", "follow_rows"]


class _Open(Exception):  # noqa: N818 - no error: the operator says nothing
    """Whether rows keep apart here is not known."""


class _Mixed(Exception):  # noqa: N818
    """The operator acts along the rows."""


@dataclass(frozen=True, slots=True)
class RowsFound:
    """What was found.

    Attributes
    ----------
    rows : list of Rows or None
        By node; ``None`` where there are none or where they are not known.
    apart : bool
        Whether it is proved that the explained output of a row depends on that row alone.
    mixing : str
        The first operator that acts along the rows, or that is not known; empty where rows are apart.
    """

    rows: list[Rows | None]
    apart: bool
    mixing: str


def follow_rows(graph: Graph, output: int, needed: set[int]) -> RowsFound:
    """Follow the rows from the inputs to every node that the output is computed from."""
    given = [graph.nodes[index].sizes for index in graph.inputs.values()]
    if all(sizes is None or not sizes or sizes[0] == 1 for sizes in given):
        # all there is belongs to the one row
        ones = [Rows(0, node.sizes[0]) if node.sizes and node.sizes[0] else None for node in graph.nodes]
        return RowsFound(list(ones), True, "")
    walk = _Walk(graph)
    mixing = ""
    for node in graph.nodes:
        if node.index in graph.inputs.values():
            walk.held[node.index] = FIRST if node.sizes else None
            continue
        if node.index not in needed or node.target is None:
            continue
        try:
            walk.held[node.index] = walk.follow(node)
        # beside the two: what an operator's arguments look like in another version of torch
        except (_Mixed, _Open, IndexError, TypeError, ValueError, RuntimeError, KeyError, AttributeError):
            walk.lost.add(node.index)
            mixing = mixing or f"{node.name} ({node.op})"
    found = [walk.held.get(node.index) for node in graph.nodes]
    rows = [one if isinstance(one, Rows) else None for one in found]
    apart = not mixing and rows[output] == FIRST
    return RowsFound(rows, apart, mixing or ("" if apart else graph.nodes[output].name))


class _Walk:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        # Rows; None: the same for all rows; a list of them: a tuple of values
        self.held: dict[int, Any] = {}
        self.lost: set[int] = set()
        self.numbers: dict[int, Any] = {}

    def rows(self, argument: Any) -> Rows | None:
        if not isinstance(argument, Ref):
            return None
        if argument.index in self.lost:
            raise _Open
        return self.held.get(argument.index)

    def sizes(self, argument: Ref) -> tuple[int, ...]:
        sizes = self.graph.nodes[argument.index].sizes
        if sizes is None:
            raise _Open
        return sizes

    def number(self, tree: Any) -> Any:
        """Arguments with the values of sizes in the place of references to them."""
        if isinstance(tree, Ref):
            return self.numbers[tree.index]
        if isinstance(tree, list | tuple):
            return [self.number(item) for item in tree]
        return tree

    def follow(self, node: Node) -> Any:
        if node.sizes is None and node.op == "sym_size":
            self.numbers[node.index] = self.sizes(node.args[0])[node.args[1]]
            return None
        if node.sizes is None and getattr(node.target, "__module__", "") in ("_operator", "math", "torch") and (
            node.op != "getitem"
        ):  # fmt: skip
            assert node.target is not None
            self.numbers[node.index] = node.target(*self.number(node.args))
            return None
        held = [ref for ref in references((node.args, node.kwargs)) if self.rows(ref) is not None]
        if not held or node.op in _SHAPES_ONLY:
            return None
        for family, how in _FAMILIES:
            if node.op in family:
                return how(self, node, held)
        raise _Open


How = Callable[[_Walk, Node, list[Ref]], Any]


def _axis(axis: int, axes: int) -> int:
    return axis % axes if axes else 0


def _argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _only(walk: _Walk, node: Node, held: list[Ref]) -> tuple[Rows, tuple[int, ...]]:
    """The rows and sizes of the first argument, which is the only one with rows."""
    first = node.args[0]
    if any(ref != first for ref in held):
        raise _Open
    found = walk.rows(first)
    assert found is not None
    return found, walk.sizes(first)


def _same(rows: Sequence[Rows]) -> Rows:
    if any(found != rows[0] for found in rows):
        raise _Mixed
    return rows[0]


def _broadcast(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    """Element by element, aligned at the last axis."""
    if node.sizes is None:
        raise _Open
    found = []
    for ref in held:
        rows, sizes = walk.rows(ref), walk.sizes(ref)
        assert rows is not None
        axis = rows.axis + len(node.sizes) - len(sizes)
        if node.sizes[axis] != sizes[rows.axis]:
            raise _Mixed
        found.append(rows._replace(axis=axis))
    return _same(found)


def _reshape(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    rows, sizes = _only(walk, node, held)
    if node.sizes is None:
        raise _Open
    # in running order, a row is at (position // stride) mod n, before and after
    stride = rows.inner * math.prod(sizes[rows.axis + 1 :])
    count = sizes[rows.axis] // (rows.outer * rows.inner)
    behind = 1
    for axis in range(len(node.sizes) - 1, -1, -1):
        size = node.sizes[axis]
        inner, rest = divmod(stride, behind)
        if size * behind > stride and not rest and size % (count * inner) == 0:
            return Rows(axis, size // (count * inner), inner)
        behind *= size
    raise _Open


def _view(walk: _Walk, node: Node, held: list[Ref]) -> Any:
    """The operator itself says where the axis goes, on an array without memory and a stride that no other axis has."""
    rows, sizes = _only(walk, node, held)
    strides = [3] * len(sizes)
    strides[rows.axis] = 7
    probe = torch.empty_strided(sizes, strides, device="meta")
    assert node.target is not None
    rest = [walk.number(argument) for argument in node.args[1:]]
    out = node.target(probe, *rest, **{name: walk.number(value) for name, value in node.kwargs.items()})

    def located(tensor: torch.Tensor) -> Rows:
        axes = [k for k, stride in enumerate(tensor.stride()) if stride == 7 and tensor.shape[k] == sizes[rows.axis]]
        if len(axes) != 1:
            raise _Mixed
        return rows._replace(axis=axes[0])

    return located(out) if isinstance(out, torch.Tensor) else [located(member) for member in out]


def _member(walk: _Walk, node: Node, held: list[Ref]) -> Any:
    found = walk.rows(node.args[0])
    return found[node.args[1]] if isinstance(found, list) else found


def _dims(walk: _Walk, node: Node, axes: int, position: int = 1, default: Any = None) -> set[int]:
    given = node.kwargs.get("dim", node.kwargs.get("dims", _argument(node, position, "dim", default)))
    given = walk.number(given)
    if given is None or given == []:
        return set(range(axes))
    return {_axis(dim, axes) for dim in (given if isinstance(given, list) else [given])}


def _reduce(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    rows, sizes = _only(walk, node, held)
    given = node.args[1] if len(node.args) > 1 else None
    if node.op in ("linalg_vector_norm", "norm", "kthvalue"):
        dims = _dims(walk, node, len(sizes), 2)
    elif isinstance(given, bool):
        raise _Open
    else:
        dims = _dims(walk, node, len(sizes))
    if rows.axis in dims:
        raise _Mixed
    keeps = node.kwargs.get("keepdim", any(argument is True for argument in node.args[2:]))
    if node.sizes is not None:
        keeps = len(node.sizes) == len(sizes)
    return rows if keeps else rows._replace(axis=rows.axis - sum(dim < rows.axis for dim in dims))


def _along(default: Any, position: int = 1) -> How:
    """Acts along an axis whose size may stay."""

    def how(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
        rows, sizes = _only(walk, node, held)
        if rows.axis in _dims(walk, node, len(sizes), position, default):
            raise _Mixed
        return rows

    return how


def _linear(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    rows, sizes = _only(walk, node, held)
    if rows.axis == len(sizes) - 1:
        raise _Mixed
    return rows


def _contracted(walk: _Walk, operands: list[tuple[Any, str]], out: str) -> Rows:
    found = []
    for argument, letters in operands:
        rows = walk.rows(argument)
        if rows is not None:
            found.append((letters[rows.axis], rows))
    letter, rows = found[0]
    if letter not in out or any(other != letter for other, _ in found):
        raise _Mixed
    axis = out.index(letter)
    return _same([one._replace(axis=axis) for _, one in found])


def _matmul(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    arguments = list(node.args)
    added = arguments.pop(0) if node.op in ("addmm", "baddbmm", "addmv") else None
    x, y = arguments[:2]
    before, after = len(walk.sizes(x)), len(walk.sizes(y))
    lead = "ABCDEFGH"
    if node.op in ("mv", "addmv") or after == 1:
        left, right, out = lead[: before - 1] + "k", "k", lead[: before - 1]
    elif before == 1:
        left, right, out = "k", lead[: after - 2] + "kj", lead[: after - 2] + "j"
    else:
        axes = max(before, after) - 2
        left, right = lead[axes - before + 2 : axes] + "ik", lead[axes - after + 2 : axes] + "kj"
        out = lead[:axes] + "ij"
    operands = [(x, left), (y, right)]
    if added is not None:
        operands.append((added, out[len(out) - len(walk.sizes(added)) :]))
    return _contracted(walk, operands, out)


def _einsum(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    equation, operands = node.args[0].replace(" ", ""), node.args[1]
    if "." in equation or "->" not in equation:
        raise _Open
    given, out = equation.split("->")
    return _contracted(walk, list(zip(operands, given.split(","), strict=True)), out)


def _convolution(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    rows, sizes = _only(walk, node, held)
    if rows.axis or len(sizes) != len(walk.sizes(node.args[1])):
        raise _Mixed
    return rows


def _by_sample(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    """Every position of the first axis for itself."""
    rows, sizes = _only(walk, node, held)
    if rows.axis or (node.sizes is not None and node.sizes[0] != sizes[0]):
        raise _Mixed
    return rows


def _pool(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    rows, sizes = _only(walk, node, held)
    spatial = next(int(k) for k in "123" if f"{k}d" in node.op)
    if rows.axis >= len(sizes) - spatial:
        raise _Mixed
    return rows


def _trailing_norm(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    rows, sizes = _only(walk, node, held)
    if rows.axis >= len(sizes) - len(node.args[1]):
        raise _Mixed
    return rows


def _attention(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    axes = len(walk.sizes(node.args[0]))
    found = []
    for ref in held:
        rows = walk.rows(ref)
        assert rows is not None
        rows = rows._replace(axis=rows.axis + axes - len(walk.sizes(ref)))
        if rows.axis >= axes - 2:
            raise _Mixed
        found.append(rows)
    return _same(found)


def _cat(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    found = [rows for ref in held if (rows := walk.rows(ref)) is not None]
    rows = _same(found)
    axes = len(walk.sizes(held[0]))
    if node.op == "stack":
        dim = _axis(_argument(node, 1, "dim", 0), axes + 1)
        return rows._replace(axis=rows.axis + (dim <= rows.axis))
    if rows.axis == _axis(_argument(node, 1, "dim", 0), axes):
        raise _Mixed
    return rows


def _pad(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    rows, sizes = _only(walk, node, held)
    if rows.axis >= len(sizes) - len(node.args[1]) // 2 and node.sizes != sizes:
        raise _Mixed
    return rows


def _index(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    rows, sizes = _only(walk, node, held)
    picks = list(node.args[1]) + [None] * (len(sizes) - len(node.args[1]))
    places = [k for k, pick in enumerate(picks) if pick is not None]
    if rows.axis in places:
        raise _Mixed
    if places != list(range(places[0], places[-1] + 1)):
        raise _Open
    wide = max(len(walk.sizes(picks[k])) for k in places)
    return rows if rows.axis < places[0] else rows._replace(axis=rows.axis - len(places) + wide)


def _gather(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    found = [rows for ref in held if (rows := walk.rows(ref)) is not None]
    rows = _same(found)
    first = walk.sizes(node.args[0])
    if rows.axis == _axis(node.args[1], len(first)) or any(len(walk.sizes(ref)) != len(first) for ref in held):
        raise _Mixed
    return rows


def _added_along(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    """Along an axis, at places that are the same for all rows."""
    rows = _same([rows for ref in held if (rows := walk.rows(ref)) is not None])
    if rows.axis == _axis(node.args[1], len(walk.sizes(held[0]))) or walk.rows(node.args[2]) is not None:
        raise _Mixed
    return rows


def _embedding(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    if held != [node.args[1]]:
        raise _Open
    rows = walk.rows(node.args[1])
    assert rows is not None
    return rows


def _repeat(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    rows, sizes = _only(walk, node, held)
    if node.sizes is None:
        raise _Open
    axis = rows.axis + len(node.sizes) - len(sizes)
    if node.sizes[axis] != sizes[rows.axis]:
        raise _Mixed
    return rows._replace(axis=axis)


def _scattered(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    """A part of the first argument along an axis is replaced by the second one."""
    sizes = walk.sizes(node.args[0])
    dim = _axis(_argument(node, 2, "dim", 0), len(sizes))
    found = []
    for ref in held:
        rows = walk.rows(ref)
        assert rows is not None
        inserted = node.op == "select_scatter" and ref == node.args[1]
        found.append(rows._replace(axis=rows.axis + (dim <= rows.axis)) if inserted else rows)
    rows = _same(found)
    if rows.axis == dim and node.sizes is not None and walk.sizes(node.args[1]) != sizes:
        raise _Mixed
    return rows


def _last_two(walk: _Walk, node: Node, held: list[Ref]) -> Rows:
    rows, sizes = _only(walk, node, held)
    if rows.axis >= len(sizes) - 2:
        raise _Mixed
    return rows


_SHAPES_ONLY = frozenset({
    "new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like", "zeros",
    "ones", "full", "arange", "empty", "sym_size",
})  # fmt: skip

_ELEMENTWISE = frozenset({
    "abs", "acos", "add", "addcdiv", "addcmul", "asin", "asinh", "atan", "atan2",
    "acosh", "atanh", "hypot", "logaddexp", "logaddexp2", "copysign", "erfinv", "logit", "rad2deg", "frac",
    "sgn", "sinc", "positive", "i0", "lgamma", "digamma", "bitwise_and", "bitwise_not",
    "bitwise_or", "bfloat16", "celu", "ceil", "clamp", "clamp_max", "clamp_min", "clip", "clone", "contiguous",
    "copy", "cos", "cosh", "deg2rad", "detach", "div", "double", "dropout", "elu", "eq", "erf", "erfc", "exp", "exp2",
    "expm1", "feature_dropout", "float", "floor", "floor_divide", "fmax", "fmin", "fmod", "ge", "gelu", "gt", "half",
    "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "heaviside", "isfinite", "isinf", "isnan", "le",
    "leaky_relu", "lerp", "lift_fresh", "lift_fresh_copy", "log", "log10", "log1p", "log2", "log_sigmoid",
    "log_sigmoid_forward", "logical_and", "logical_not", "logical_or", "logical_xor", "lt", "masked_fill", "maximum",
    "minimum", "mish", "mul", "multiply", "nan_to_num", "native_dropout", "ne", "neg", "pow", "reciprocal", "relu",
    "relu6", "remainder", "round", "rrelu", "rsqrt", "rsub", "selu", "sigmoid", "sign", "silu", "sin", "sinh",
    "softplus", "softshrink", "softsign", "sqrt", "square", "sub", "tan", "tanh", "threshold", "to", "_to_copy",
    "true_divide", "trunc", "type_as", "where", "xlogy", "_prelu_kernel", "prelu", "fill", "alias", "expand_as",
    "threshold_backward", "bernoulli", "special_expit", "special_erf",
    "batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm", "cudnn_batch_norm",
    "_batch_norm_no_update",
})  # fmt: skip

_VIEWS = frozenset({
    "permute", "transpose", "swapaxes", "movedim", "moveaxis", "t", "numpy_T", "mT", "select", "slice", "narrow",
    "expand", "unbind", "split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk",
    "unsafe_split_with_sizes", "unfold", "diagonal", "squeeze", "unsqueeze", "expand_copy", "view_copy",
})  # fmt: skip

_RESHAPES = frozenset({
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "ravel", "_reshape_copy", "_reshape_alias",
})  # fmt: skip

_REDUCTIONS = frozenset({
    "sum", "mean", "amax", "amin", "var", "std", "prod", "logsumexp", "norm", "linalg_vector_norm", "argmax", "argmin",
    "any", "all", "median", "max", "min", "nanmean", "nansum", "count_nonzero", "kthvalue",
})  # fmt: skip

_POOLS = frozenset(
    f"{kind}{k}d{tail}" for k in "123" for tail in ("", "_with_indices")
    for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "_adaptive_avg_pool",
                 "reflection_pad", "replication_pad")
)  # fmt: skip

_SAMPLEWISE = frozenset({
    "group_norm", "native_group_norm", "instance_norm", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "native_channel_shuffle", "im2col", "col2im", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
    "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_linear1d", "upsample_bicubic2d",
    "upsample_trilinear3d", "_upsample_bicubic2d_aa", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d", "max_unpool2d", "max_unpool3d", "lp_pool2d",
})  # fmt: skip

_FAMILIES: tuple[tuple[frozenset[str], How], ...] = (
    (_ELEMENTWISE, _broadcast), (_VIEWS, _view), (_RESHAPES, _reshape), (frozenset({"getitem"}), _member),
    (_REDUCTIONS, _reduce),
    (frozenset({"softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod",
                "logcumsumexp", "cummax", "cummin"}), _along(None)),
    (frozenset({"sort", "argsort", "glu", "mode"}), _along(-1)), (frozenset({"topk"}), _along(-1, 2)),
    (frozenset({"flip"}), _along(None)), (frozenset({"roll"}), _along(None, 2)),
    (frozenset({"tril", "triu"}), _last_two),
    (frozenset({"linear"}), _linear),
    (frozenset({"mm", "matmul", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot"}), _matmul),
    (frozenset({"einsum"}), _einsum),
    (frozenset({"conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d",
                "conv_transpose3d"}), _convolution),
    (_POOLS, _pool), (_SAMPLEWISE, _by_sample),
    (frozenset({"layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"}), _trailing_norm),
    (frozenset({"scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu",
                "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
                "_scaled_dot_product_cudnn_attention"}), _attention),
    (frozenset({"cat", "concat", "stack"}), _cat), (frozenset({"pad", "constant_pad_nd"}), _pad),
    (frozenset({"index"}), _index),
    (frozenset({"gather", "scatter", "scatter_add", "scatter_reduce"}), _gather),
    (frozenset({"index_add", "index_copy", "index_fill", "index_reduce"}), _added_along),
    (frozenset({"index_select"}), _along(None)), (frozenset({"repeat_interleave"}), _along(None, 2)),
    (frozenset({"embedding"}), _embedding), (frozenset({"repeat"}), _repeat),
    (frozenset({"slice_scatter", "select_scatter"}), _scattered),
)  # fmt: skip
