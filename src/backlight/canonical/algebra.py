"""Products and sums of linear maps, where these are again maps of the kinds that rules know.

What is left of weights that cancel is rounding: a number below 1e-12 of what it was summed from is zero.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backlight.rules import Convolution, Dense, Elementwise, LinearMap

__all__ = [
    "along", "compose", "is_zero", "pick_columns", "pick_rows", "plus", "rows", "scale_columns",
    "scale_rows", "settled", "simplest",
]  # fmt: skip

RESIDUE = 1e-12


def settled(value: Tensor, magnitude: Tensor) -> Tensor:
    """A sum with its rounding residues set to zero, where magnitude is the sum of the absolute values."""
    return torch.where(value.abs() <= RESIDUE * magnitude, torch.zeros_like(value), value)


def along(weight: Tensor, shape: tuple[int, ...], axis: int) -> Tensor | None:
    """A factor that broadcasts against (n, *shape) as a vector along one axis of a row; ``None`` if it has others."""
    if weight.dim() > len(shape) + 1:
        return None
    full = weight.expand(1, *shape)[0].movedim(axis, 0).reshape(shape[axis], -1)
    return full[:, 0].clone() if bool((full == full[:, :1]).all()) else None


def compose(outer: LinearMap, inner: LinearMap, between: tuple[int, ...]) -> LinearMap | None:
    """Outer ∘ inner, where a row of the value between them has this shape."""
    if isinstance(outer, Elementwise):
        return _scaled(outer, inner, between)
    if isinstance(inner, Elementwise):
        factor = along(inner.weight, between, -1 if isinstance(outer, Dense) else 0)
        return None if factor is None else scale_columns(outer, factor)
    if isinstance(outer, Dense) and isinstance(inner, Dense):
        weight = settled(outer.weight @ inner.weight, outer.weight.abs() @ inner.weight.abs())
        return Dense(weight, None)
    if isinstance(outer, Convolution) and isinstance(inner, Convolution):
        if outer.transposed or inner.transposed or outer.groups != 1 or inner.groups != 1:
            return None
        if _pointwise(outer):
            first, last, kept = outer.weight.flatten(1), inner.weight, inner
            return _with(kept, _settled_einsum("om,mi...->oi...", first, last))
        if _pointwise(inner):
            return _with(outer, _settled_einsum("om...,mi->oi...", outer.weight, inner.weight.flatten(1)))
    return None


def plus(x: LinearMap, y: LinearMap, shape: tuple[int, ...]) -> LinearMap | None:
    """X + y as one map, where a row of their value has this shape; ``None`` where no one map is that."""
    if isinstance(x, Elementwise) and isinstance(y, Elementwise):
        return Elementwise(settled(x.weight + y.weight, x.weight.abs() + y.weight.abs()), None)
    if isinstance(x, Elementwise):
        x, y = y, x
    if isinstance(y, Elementwise):
        widened = _widened(y, x, shape)
        return None if widened is None else plus(x, widened, shape)
    if isinstance(x, Dense) and isinstance(y, Dense):
        return Dense(settled(x.weight + y.weight, x.weight.abs() + y.weight.abs()), None)
    if isinstance(x, Convolution) and isinstance(y, Convolution):
        if _geometry(x) != _geometry(y):
            if x.weight[0, 0].numel() < y.weight[0, 0].numel():
                x, y = y, x
            padded = _embedded(y, x)
            return None if padded is None else plus(x, padded, shape)
        if x.weight.shape == y.weight.shape:
            return _with(x, settled(x.weight + y.weight, x.weight.abs() + y.weight.abs()))
    return None


def simplest(layer: LinearMap) -> LinearMap:
    """The same map written as simply as it can be: a diagonal as a scale, a kernel with only its centre as 1 × 1."""
    if isinstance(layer, Convolution) and not layer.transposed:
        layer = _trimmed(layer)
        if layer.groups == 1 and _pointwise(layer) and (diagonal := _diagonal(layer.weight.flatten(1))) is not None:
            return simplest(Elementwise(diagonal.view(-1, *(1,) * layer.spatial), None))
    if isinstance(layer, Dense) and (diagonal := _diagonal(layer.weight)) is not None:
        return simplest(Elementwise(diagonal, None))
    if isinstance(layer, Elementwise) and layer.weight.numel() > 1:
        first = layer.weight.flatten()[0]
        if bool((layer.weight - first).abs().max() <= RESIDUE * first.abs()):
            return Elementwise(first.clone(), None)
    return layer


def is_zero(layer: LinearMap) -> bool:
    """Whether a map sends everything to zero."""
    return not bool(layer.weight.any())


# -- units: rows are what a unit reads, columns what is read of it -----------------------------------------------------


def rows(layer: LinearMap) -> Tensor:
    """The weights of each output unit or channel, (out, …)."""
    if isinstance(layer, Convolution) and layer.transposed:
        weight: Tensor = layer.weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
        return weight.flatten(1)
    return layer.weight.flatten(1)


def scale_rows(layer: LinearMap, factor: Tensor) -> LinearMap:
    """Diag(factor) ∘ layer, one number an output channel."""
    if isinstance(layer, Convolution) and layer.transposed:
        scaled = layer.scaled(factor, torch.zeros_like(factor))
        return _with(layer, scaled.weight)
    return _with(layer, layer.weight * factor.view(-1, *(1,) * (layer.weight.dim() - 1)))


def scale_columns(layer: LinearMap, factor: Tensor) -> LinearMap:
    """Layer ∘ diag(factor), one number an input channel."""
    if isinstance(layer, Convolution):
        kernel = (1,) * layer.spatial
        if layer.transposed:
            return _with(layer, layer.weight * factor.view(-1, 1, *kernel))
        by_group = factor.view(layer.groups, -1, *kernel)
        return _with(layer, (layer.weight.unflatten(0, (layer.groups, -1)) * by_group.unsqueeze(1)).flatten(0, 1))
    return _with(layer, layer.weight * factor)


def pick_rows(layer: LinearMap, index: Tensor) -> LinearMap:
    """The map to some of the output units; of a convolution without groups that is not transposed."""
    return _with(layer, layer.weight[index])


def pick_columns(layer: LinearMap, index: Tensor) -> LinearMap:
    """The map from some of the input units; of a convolution without groups that is not transposed."""
    return _with(layer, layer.weight[:, index])


# -- helpers -----------------------------------------------------------------------------------------------------------


def _with(layer: LinearMap, weight: Tensor) -> LinearMap:
    if isinstance(layer, Convolution):
        return replace(layer, weight=weight, bias=None)
    return type(layer)(weight, None)


def _scaled(outer: Elementwise, inner: LinearMap, between: tuple[int, ...]) -> LinearMap | None:
    if isinstance(inner, Elementwise):
        return Elementwise(outer.weight * inner.weight, None)
    factor = along(outer.weight, between, -1 if isinstance(inner, Dense) else 0)
    return None if factor is None else scale_rows(inner, factor)


def _settled_einsum(equation: str, x: Tensor, y: Tensor) -> Tensor:
    return settled(torch.einsum(equation, x, y), torch.einsum(equation, x.abs(), y.abs()))


def _pointwise(layer: Convolution) -> bool:
    plain = all(s == 1 for s in layer.stride) and not any(layer.padding)
    return plain and all(k == 1 for k in layer.weight.shape[2:]) and not layer.transposed


def _geometry(layer: Convolution) -> tuple[object, ...]:
    return (
        layer.weight.shape[2:], layer.stride, layer.padding, layer.dilation, layer.transposed, layer.output_padding,
        layer.groups,
    )  # fmt: skip


def _centred(layer: Convolution) -> bool:
    """Whether the kernel's middle reads the input's own place: the output counts the strided places of the input."""
    return not layer.transposed and all(
        k % 2 == 1 and p == d * (k // 2)
        for k, p, d in zip(layer.weight.shape[2:], layer.padding, layer.dilation, strict=True)
    )


def _centre(layer: Convolution) -> Any:
    """The index of the middle of a kernel."""
    return (..., *(k // 2 for k in layer.weight.shape[2:]))


def _embedded(small: Convolution, large: Convolution) -> Convolution | None:
    """A centred kernel with zeros around it, in the geometry of a larger one."""
    same = small.stride == large.stride and small.groups == large.groups and _centred(small) and _centred(large)
    if not same or any(k != 1 for k in small.weight.shape[2:]):
        return None
    weight = small.weight.new_zeros(*small.weight.shape[:2], *large.weight.shape[2:])
    weight[_centre(large)] = small.weight.flatten(2)[..., 0]
    return replace(large, weight=weight)


def _widened(scale: Elementwise, like: LinearMap, shape: tuple[int, ...]) -> LinearMap | None:
    """A scale written as a layer of the other's kind."""
    factor = along(scale.weight, shape, -1 if isinstance(like, Dense) else 0)
    if factor is None:
        return None
    if isinstance(like, Dense):
        return Dense(torch.diag(factor), None)
    if isinstance(like, Convolution) and like.groups == 1 and _centred(like) and all(s == 1 for s in like.stride):
        weight = torch.diag(factor).view(*torch.diag(factor).shape, *(1,) * like.spatial)
        ones = (1,) * like.spatial
        return Convolution(weight, None, ones, (0,) * like.spatial, ones, False, (0,) * like.spatial, 1)
    return None


def _trimmed(layer: Convolution) -> Convolution:
    if not _centred(layer) or layer.weight[0, 0].numel() == 1:
        return layer
    centre = _centre(layer)
    around = layer.weight.clone()
    around[centre] = 0
    if bool(around.any()):
        return layer
    ones = (1,) * layer.spatial
    weight = layer.weight[centre].reshape(*layer.weight.shape[:2], *ones)
    return replace(layer, weight=weight.clone(), padding=(0,) * layer.spatial, dilation=ones)


def _diagonal(weight: Tensor) -> Tensor | None:
    if weight.shape[0] != weight.shape[1] or weight.shape[0] < 2:
        return None
    diagonal = torch.diagonal(weight)
    return diagonal.clone() if not bool((weight - torch.diag(diagonal)).any()) else None
