r"""What a network makes of a row: the error of its reconstruction, and how far its features are from a centre.

*Reconstruction.* With r(z) what an autoencoder gives for z, :math:`\lVert z - r(z)\rVert^2` is a sum over columns of
squares, each column's own: :math:`R_i = (z_i - r_i)^2`, and :math:`R_i/\lVert z - r\rVert` of the root. It says in
which columns a row is not as the network expects it from all the others.

*Centre.* :math:`\lVert\varphi(z) - c\rVert^2` counted from the score of a reference row :math:`\tilde z` is
:math:`g\cdot(\varphi(z) - \varphi(\tilde z))` with :math:`g = \varphi(z) + \varphi(\tilde z) - 2c`, carried back as
differences (`backlight.classical.paired`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from backlight.classical.layers.base import EncodedRows, ForwardPass, Layer, Query
from backlight.classical.layers.pullback import Pullback
from backlight.classical.paired import PairedModule

__all__ = ["FromCentre", "Reconstruction", "frozen"]

# LRP-γ of differences behind hidden units.
_GAMMA = 0.25


def frozen(module: nn.Module) -> nn.Module:
    """A copy in double precision and evaluation mode, whose parameters have no gradients."""
    import copy

    own = copy.deepcopy(module).cpu().double().eval()
    for parameter in own.parameters():
        parameter.requires_grad_(False)
    return own


class Reconstruction(Layer):
    """‖z − r(z)‖², or its root: each column's own error.

    Parameters
    ----------
    module : nn.Module
        From z (n, K) to r (n, K).
    pullback : Pullback
    root : bool
    """

    rules: Mapping[str, Any] = {"error": "error"}

    def __init__(self, module: nn.Module, pullback: Pullback, root: bool) -> None:
        super().__init__()
        self.module, self.pullback, self.root = module, pullback, root

    def _error(self, z: Tensor) -> Tensor:
        out: Tensor = z - self.module(z).reshape(z.shape)
        return out

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, 1)."""
        error = self._error(x.z)
        return torch.linalg.vector_norm(error, dim=1, keepdim=True) if self.root else error.square().sum(1, True)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        error = self._error(x.z)
        squares = error.square().sum(1, keepdim=True)
        output = squares.sqrt() if self.root else squares
        scale = torch.where(output > 0, 1 / torch.where(output > 0, output, 1.0), 0.0) if self.root else 1.0
        values = self.pullback.squares(error) * scale
        return ForwardPass(output, output, lambda c: c * values, output, {"error": output})


class _Embedded(nn.Module):
    """A module on elements."""

    def __init__(self, pullback: Pullback, module: nn.Module) -> None:
        super().__init__()
        self.pullback, self.module = pullback, module

    def forward(self, e: Tensor) -> Tensor:
        """Shape (n, E) to features."""
        out: Tensor = self.module(self.pullback.embed(e))
        return out


class FromCentre(Layer):
    """‖φ(z) − c‖², counted from the row of zeros, which is the mean behind a scaler, or from usual rows' mean.

    Parameters
    ----------
    module : nn.Module
        φ, from z (n, K) to features (n, F).
    centre : (F,)
    pullback : Pullback
    """

    rules: Mapping[str, Any] = {"paired": "paired"}
    reads = frozenset({"rows"})
    centre: Tensor

    def __init__(self, module: nn.Module, centre: Tensor, pullback: Pullback) -> None:
        super().__init__()
        self.pullback, self.paired = pullback, PairedModule(_Embedded(pullback, module))
        self.register_buffer("centre", centre)

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, 1)."""
        delta: Tensor = self.paired(x.e) - self.centre
        return delta.square().sum(1, keepdim=True)

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        zero = x.e.new_zeros(x.e.shape[1]) if self.pullback.center is None else self.pullback.center
        start = zero if ask.usual is None else ask.usual.e.mean(0)
        both = self.paired(torch.cat([x.e, start[None]]))
        slope = both[:-1] + both[-1:] - 2 * self.centre
        output = (both[:-1] - self.centre).square().sum(1, keepdim=True)
        carried = output - (both[-1:] - self.centre).square().sum(1, keepdim=True)

        def back(c: Tensor) -> Tensor:
            return self.pullback.columns(self.paired.back(x.e, start.expand_as(x.e), c * slope, _GAMMA))

        return ForwardPass(output, carried, back, output, {"distance to the centre": carried})

    @property
    def made_of(self) -> Mapping[str, int]:
        """The features φ."""
        return {"features": len(self.centre)}

    def inside(self, name: str, x: EncodedRows, ask: Query) -> Callable[[Tensor], Tensor]:
        """See `Layer.inside`."""
        zero = x.e.new_zeros(x.e.shape[1]) if self.pullback.center is None else self.pullback.center
        start = zero if ask.usual is None else ask.usual.e.mean(0)
        squares = (self.paired(torch.cat([x.e, start[None]])) - self.centre).square()
        return lambda c: c * (squares[:-1] - squares[-1:])
