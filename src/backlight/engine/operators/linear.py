"""Layers with constant weights: fully connected, convolutions, batch normalisation, fixed scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backlight.engine.graph import Node, Ref
from backlight.engine.operators.activations import by_unit
from backlight.engine.operators.products import normalisation
from backlight.engine.operators.registry import Context, operator
from backlight.engine.operators.spellings import contracted, matrix_product, with_bias
from backlight.engine.operators.whole import whole
from backlight.engine.steps import LinearSite, Site
from backlight.rules import Convolution, Dense, Elementwise, LinearMap, Zero

__all__ = ["affine"]


def _site(node: Node, source: Any, layer: LinearMap, role: str = "linear") -> LinearSite:
    default = Zero() if role == "scale" else None
    return LinearSite(node, (source.index,), role, default, layer=layer)


@operator("linear")
def linear(node: Node, context: Context) -> Site | None:
    x, weight, *rest = node.args
    w, b = context.constant(weight), context.constant(rest[0]) if rest else None
    if w is None and context.carries(weight) and (not rest or rest[0] is None):
        return weighing(node, context)
    if w is None or w.dim() != 2 or (rest and isinstance(rest[0], Ref) and b is None):
        return None
    return _site(node, x, Dense(w, b))


def weighing(node: Node, context: Context) -> Site | None:
    """X @ W.T whose weights are a signal: of a constant x a layer on them, else a product of two signals."""
    from backlight.engine.operators.products import product

    x, weight = node.args[:2]
    if context.carries(x):
        return product(node, context)
    held, axes = context.constant(x), len(context.node(weight).shape or ())
    if held is None or axes != 1:
        return None
    lead = "abcdefgh"[: held.dim() - 1]
    return contracted(node, weight.index, "oi", f"{lead}i", f"{lead}o", held)


@operator("linalg_multi_dot")
def chain(node: Node, context: Context) -> Site | None:
    """A product of several matrices: of one signal in front of constants a layer with their product."""
    from backlight.engine.operators.functions import product_of_all

    first, *others = node.args[0]
    matrices = [value for argument in others if (value := context.constant(argument)) is not None]
    if context.carries(first) and len(matrices) == len(others) and matrices[-1].dim() == 2:
        weight = matrices[0] if len(matrices) == 1 else torch.linalg.multi_dot(matrices)
        return contracted(node, first.index, "ai", "ij", "aj", weight)
    return product_of_all(node, node.args[0], context)


@operator("addmm", "baddbmm", "addmv")
def addmm(node: Node, context: Context) -> Site | None:
    """β b + α x @ W: a layer with its bias where W and b are constants."""
    from backlight.engine.operators.products import product_and_sum

    b, x, weight = node.args[:3]
    beta, alpha = (float(node.kwargs.get(name, 1)) for name in ("beta", "alpha"))
    bias, site = context.constant(b), matrix_product(node, x, weight, context, alpha)
    if bias is not None and isinstance(site, LinearSite):
        layer = with_bias(site.layer, bias * beta if beta != 1 else bias, node)
        if layer is not None:
            return replace(site, layer=layer)
    return product_and_sum(node, context)


@operator("mm", "matmul")
def matmul(node: Node, context: Context) -> Site | None:
    from backlight.engine.operators.products import product

    return matrix_product(node, node.args[0], node.args[1], context) or product(node, context)


@operator("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(node: Node, context: Context) -> Site | None:
    transposed = "transpose" in node.op
    names = ["stride", "padding", "dilation", "groups"]
    if transposed:
        names = ["stride", "padding", "output_padding", "groups", "dilation"]
    if node.op == "convolution":
        names = ["stride", "padding", "dilation", "transposed", "output_padding", "groups"]
    x, weight, *rest = node.args
    given: dict[str, Any] = dict(zip(["bias", *names], rest, strict=False)) | dict(node.kwargs)
    w, bias = context.constant(weight), given.pop("bias", None)
    b = context.constant(bias)
    if w is None or (isinstance(bias, Ref) and b is None):
        return None
    spatial = w.dim() - 2
    uneven: tuple[int, ...] = ()
    padding = given.get("padding", 0)
    dilation = _per_axis(given.get("dilation", 1), spatial)
    if isinstance(padding, str):
        sums = [d * (k - 1) for d, k in zip(dilation, w.shape[2:], strict=True)]
        uneven = tuple(amount % 2 for amount in sums) if padding == "same" else ()
        padding = [amount // 2 for amount in sums] if padding == "same" else 0
    kind: Callable[..., Convolution] = partial(_Uneven, more=uneven) if any(uneven) else Convolution
    layer = kind(
        w, b,
        stride=_per_axis(given.get("stride", 1), spatial),
        padding=_per_axis(padding, spatial),
        dilation=dilation,
        transposed=transposed or bool(given.get("transposed", False)),
        output_padding=_per_axis(given.get("output_padding", 0), spatial),
        groups=int(given.get("groups", 1)),
    )  # fmt: skip
    return _site(node, x, layer)


@dataclass(frozen=True, eq=False)
class _Uneven(Convolution):
    """A convolution whose input is padded by more at the end of its axes than at their beginning.

    Attributes
    ----------
    more : tuple of int
        By how much, for each axis.
    """

    more: tuple[int, ...] = ()

    def apply(self, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        pads = [amount for extra in reversed(self.more) for amount in (0, extra)]
        return super().apply(torch.nn.functional.pad(a, pads), weight, bias)

    def adjoint(self, s: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        wide = torch.Size((*shape[:2], *(size + extra for size, extra in zip(shape[2:], self.more, strict=True))))
        down = super().adjoint(s, weight, wide)
        for axis, size in enumerate(shape[2:], start=3):
            down = down.narrow(axis, 0, size)
        return down

    def scaled(self, scale: Tensor, shift: Tensor) -> Convolution:
        made = super().scaled(scale, shift)
        return replace(self, weight=made.weight, bias=made.bias)

    def preceded(self, scale: Tensor, shift: Tensor) -> None:
        # padding puts in zeros, not shifts
        return None


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values * axes if len(values) == 1 else values


@operator(
    "batch_norm",
    "_native_batch_norm_legit_no_training",
    "native_batch_norm",
    "cudnn_batch_norm",
    "_batch_norm_no_update",
)
def batch_norm(node: Node, context: Context) -> Site | None:
    x, weight, bias, mean, var, *rest = node.args
    m, v = context.constant(mean), context.constant(var)
    shape = node.shape if node.shape is not None else context.node(x).shape
    training = (
        node.op != "_native_batch_norm_legit_no_training" and node.op != "_batch_norm_no_update" and bool(rest[0])
    )
    if m is None or v is None or training or shape is None:
        return None
    eps = rest[-2] if node.op == "batch_norm" else rest[-1]
    w, b = context.constant(weight), context.constant(bias)
    # in double precision, once: the folded weights then have one rounding
    scale = torch.rsqrt(v.double() + eps)
    if w is not None:
        scale = scale * w.double()
    shift = -m.double() * scale
    if b is not None:
        shift = shift + b.double()
    dtype = w.dtype if w is not None else v.dtype
    if node.dtype is not None and torch.finfo(node.dtype).eps > torch.finfo(dtype).eps:
        dtype = node.dtype  # under autocast, what comes out is less precise than the statistics
    columns = (-1, *(1,) * (len(shape) - 1))
    layer = Elementwise(scale.to(dtype).view(columns), shift.to(dtype).view(columns))
    return _site(node, x, layer, "scale")


@operator("instance_norm")
def instance_norm(node: Node, context: Context) -> Site | None:
    """With running statistics what a batch normalisation is."""
    x, weight, bias, mean, var, batch, momentum, eps, *rest = node.args
    if batch:
        return normalisation(node, context)
    given = (x, weight, bias, mean, var, False, momentum, eps, *rest)
    return batch_norm(replace(node, op="batch_norm", args=given), context)


@operator("mul", "div")
def mul(node: Node, context: Context) -> Site | None:
    """A product with a constant; of two signals, see ``products``."""
    from backlight.engine.operators.products import product

    if (found := whole(node, context)) is not None:
        return found
    x, y = node.args
    if context.carries(x) and context.carries(y):
        return product(node, context)
    signal, other = (x, y) if context.carries(x) else (y, x)
    if node.op == "div" and (signal is y or node.kwargs):
        return by_unit(node, signal, context, outright=signal is y and not node.kwargs)
    factor = context.constant(other) if isinstance(other, Ref) else other
    if factor is None:
        # depends on the shapes only
        return product(node, context)
    return affine(node, signal, factor, context, divide=node.op == "div") or product(node, context)


def affine(node: Node, signal: Any, factor: Tensor | float, context: Context, *, divide: bool) -> Site | None:
    source = context.node(signal)
    dtype = node.dtype or torch.get_default_dtype()
    weight = factor.double() if isinstance(factor, Tensor) else torch.tensor(factor, dtype=torch.float64)
    weight = (1 / weight if divide else weight).to(context.device, dtype)
    if weight.dim() and weight.numel() > 1 and (source.shape is None or weight.dim() > len(source.shape) + 1):
        return None
    if source.shape is not None and node.shape is not None and source.shape != node.shape:
        # the signal is repeated, and its copies' relevance is added up
        return None
    return _site(node, signal, Elementwise(weight, None), "scale")
