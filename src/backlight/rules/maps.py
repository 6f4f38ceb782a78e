"""Linear layers as rules see them: z = W a + b, its transpose, and the sums over a unit's own inputs.

Relevance and everything that is propagated carries a leading axis for the targets, (targets, n, *units); activations
have (n, *units). A rule gets modified weights by passing them: the geometry stays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["FIRST", "Convolution", "Dense", "Elementwise", "LinearMap", "Rows", "by_row"]


class Rows(NamedTuple):
    """Where the rows of a value are: what is at position i of ``axis`` belongs to row (i // inner) mod n.

    The axis has outer · n · inner positions.
    """

    axis: int
    outer: int = 1
    inner: int = 1


FIRST = Rows(0)


def by_row(x: Tensor, rows: Rows) -> Tensor:
    """Σ over all that belongs to a row: (targets, *units) to (targets, n)."""
    x = x.unflatten(rows.axis + 1, (rows.outer, -1, rows.inner)).movedim(rows.axis + 2, 1)
    return x.flatten(2).sum(2)


@dataclass(frozen=True, eq=False)
class LinearMap(ABC):
    """A linear layer with constant weights.

    Attributes
    ----------
    weight : Tensor
    bias : Tensor or None
    rows : Rows
        Where the rows are in what comes out.
    """

    weight: Tensor
    bias: Tensor | None
    rows: Rows = field(default=FIRST, kw_only=True)

    @abstractmethod
    def apply(self, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """W a + b for any weights of this layer's shape, (n, *out)."""

    @abstractmethod
    def adjoint(self, s: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """Wᵀ s: (targets, n, *out) to (targets, *shape), where shape is that of the input, (n, *in)."""

    @abstractmethod
    def gather(self, a: Tensor) -> Tensor:
        """For each output unit the sum over its own inputs, all weights one; broadcasts against (n, *out)."""

    @abstractmethod
    def spread(self, s: Tensor, shape: torch.Size) -> Tensor:
        """The transpose of `gather`: each output unit hands s to each of its inputs."""

    @abstractmethod
    def per_unit(self, parameter: Tensor) -> Tensor:
        """A vector with one number an output channel, shaped to broadcast against (n, *out)."""

    @abstractmethod
    def squared_norm(self) -> Tensor:
        """Σ w² of each output unit, shaped to broadcast against (n, *out)."""

    def scaled(self, scale: Tensor, shift: Tensor) -> LinearMap | None:
        """The layer followed by scale · z + shift, one number an output channel; ``None`` where that is not folded."""
        return None

    def preceded(self, scale: Tensor, shift: Tensor) -> LinearMap | None:
        """The layer on scale · a + shift, one number of each an input channel; ``None`` where that is no such layer."""
        return None

    @property
    @abstractmethod
    def channels(self) -> int:
        """How many output channels there are: the length of a bias."""

    def bias_share(self, s: Tensor, bias: Tensor | None) -> Tensor | float:
        """Σ_k s_k b_k for each target and row: what a bias b takes of the relevance."""
        if bias is None:
            return 0.0
        return self.against_units(s, bias) if self.rows == FIRST else by_row(s * self.per_unit(bias), self.rows)

    @abstractmethod
    def against_units(self, s: Tensor, parameter: Tensor) -> Tensor:
        """Σ s_k p_k over all output units, p one number an output channel: (targets, n)."""


@dataclass(frozen=True, eq=False)
class Dense(LinearMap):
    """A fully connected layer on the last axis; weight (out, in), bias (out,)."""

    def apply(self, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.nn.functional.linear(a, weight, bias)

    def adjoint(self, s: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        return s @ weight

    def gather(self, a: Tensor) -> Tensor:
        return a.sum(-1, keepdim=True)

    def spread(self, s: Tensor, shape: torch.Size) -> Tensor:
        return s.sum(-1, keepdim=True).expand(s.shape[0], *shape)

    def per_unit(self, parameter: Tensor) -> Tensor:
        return parameter

    def against_units(self, s: Tensor, parameter: Tensor) -> Tensor:
        return (s @ parameter).flatten(2).sum(2) if s.dim() > 3 else s @ parameter

    def squared_norm(self) -> Tensor:
        return self.weight.square().sum(1)

    def scaled(self, scale: Tensor, shift: Tensor) -> Dense:
        bias = shift if self.bias is None else self.bias * scale + shift
        return Dense(self.weight * scale[:, None], bias)

    def preceded(self, scale: Tensor, shift: Tensor) -> Dense:
        bias = self.weight @ shift
        return Dense(self.weight * scale, bias if self.bias is None else self.bias + bias)

    @property
    def channels(self) -> int:
        return self.weight.shape[0]


@dataclass(frozen=True, eq=False)
class Convolution(LinearMap):
    """A convolution over one, two or three axes, or its transpose, with groups.

    Attributes
    ----------
    weight : Tensor of shape (out, in / groups, *kernel); transposed: (in, out / groups, *kernel)
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    groups: int = 1
    _ones: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape = (self.groups, 1, *self.weight.shape[2:])
        object.__setattr__(self, "_ones", torch.ones(shape, dtype=self.weight.dtype, device=self.weight.device))

    @property
    def spatial(self) -> int:
        """How many axes are convolved over."""
        return self.weight.dim() - 2

    def apply(self, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.convolution(
            a, weight, bias, self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups
        )

    def adjoint(self, s: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        lead = s.shape[:2]
        # Only the shape of the input enters; one number stands for all of them.
        like = s.new_empty(1).expand(lead.numel(), *shape[1:])
        result, _, _ = torch.ops.aten.convolution_backward(
            s.flatten(0, 1), like, weight, None, self.stride, self.padding, self.dilation, self.transposed,
            self.output_padding, self.groups, (True, False, False),
        )  # fmt: skip
        return result.unflatten(0, lead)  # type: ignore[no-any-return]

    def gather(self, a: Tensor) -> Tensor:
        sums = self._by_group(a)
        box = self.apply(sums, self._ones, None)
        if self.groups == 1:
            return box
        return box.repeat_interleave(self.channels // self.groups, dim=1)

    def spread(self, s: Tensor, shape: torch.Size) -> Tensor:
        sums = self._by_group(s.flatten(0, 1)).unflatten(0, s.shape[:2])
        box = self.adjoint(sums, self._ones, torch.Size((shape[0], self.groups, *shape[2:])))
        per_group = shape[1] // self.groups
        if self.groups == 1:
            return box.expand(s.shape[0], *shape)
        return box.repeat_interleave(per_group, dim=2)

    def _by_group(self, a: Tensor) -> Tensor:
        """Channels summed within their group, (n, groups, *spatial)."""
        if a.shape[1] == self.groups:
            return a
        sums: Tensor = a.unflatten(1, (self.groups, -1)).sum(2)
        return sums

    def per_unit(self, parameter: Tensor) -> Tensor:
        return parameter.view(-1, *(1,) * self.spatial)

    def against_units(self, s: Tensor, parameter: Tensor) -> Tensor:
        return s.flatten(3).sum(3) @ parameter

    def squared_norm(self) -> Tensor:
        squares = self.weight.square()
        if self.transposed:
            # (in, out / groups): the inputs of a group are consecutive.
            per_group = squares.unflatten(0, (self.groups, -1)).sum(1)
            return self.per_unit(per_group.flatten(2).sum(2).flatten())
        return self.per_unit(squares.flatten(1).sum(1))

    def scaled(self, scale: Tensor, shift: Tensor) -> Convolution:
        kernel = (1,) * self.spatial
        if self.transposed:
            weight = (self.weight.unflatten(0, (self.groups, -1)) * scale.view(self.groups, 1, -1, *kernel)).flatten(
                0, 1
            )
        else:
            weight = self.weight * scale.view(-1, 1, *kernel)
        bias = shift if self.bias is None else self.bias * scale + shift
        return Convolution(
            weight, bias, self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups
        )

    def preceded(self, scale: Tensor, shift: Tensor) -> Convolution | None:
        if self.transposed or any(self.padding):
            # padding puts in zeros, not shifts
            return None
        kernel = (1,) * self.spatial
        per_group = scale.view(self.groups, 1, -1, *kernel)
        weight = (self.weight.unflatten(0, (self.groups, -1)) * per_group.unsqueeze(1).flatten(1, 2)).flatten(0, 1)
        moved = (
            self.weight.flatten(2).sum(2).unflatten(0, (self.groups, -1)) @ shift.view(self.groups, -1, 1)
        ).flatten()
        bias = moved if self.bias is None else self.bias + moved
        return Convolution(
            weight, bias, self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups
        )

    @property
    def channels(self) -> int:
        return self.weight.shape[1] * self.groups if self.transposed else self.weight.shape[0]


@dataclass(frozen=True, eq=False)
class Elementwise(LinearMap):
    """z = w ⊙ a + b: a batch normalisation that has no neighbour to be folded into, a fixed scale of the inputs.

    Attributes
    ----------
    weight, bias : Tensors that broadcast against (n, *units)
    """

    def apply(self, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return a * weight if bias is None else torch.addcmul(bias, a, weight)

    def adjoint(self, s: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        return s * weight

    def gather(self, a: Tensor) -> Tensor:
        return a

    def spread(self, s: Tensor, shape: torch.Size) -> Tensor:
        return s

    def per_unit(self, parameter: Tensor) -> Tensor:
        return parameter

    def against_units(self, s: Tensor, parameter: Tensor) -> Tensor:
        product = s * parameter
        return product.flatten(2).sum(2) if product.dim() > 2 else product

    def squared_norm(self) -> Tensor:
        return self.weight.square()

    @property
    def channels(self) -> int:
        return self.weight.numel()
