r"""The variance of angles to the nearest rows, as angle-based outlier detection has it.

With differences :math:`\delta_a = u_a - z` to the k nearest rows and :math:`w_{ab} = \langle\delta_a,\delta_b\rangle /
(\lVert\delta_a\rVert^2\lVert\delta_b\rVert^2)` of every pair, the score is :math:`y = -\operatorname{var} w`. It is
homogeneous of degree −4 in the differences, so that Euler's identity shares all of it:

.. math::  y = -\tfrac14\sum_a \delta_a\cdot\frac{\partial y}{\partial\delta_a}.

Which rows are near is a gate, as for all neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from backlight.classical.layers.base import EncodedRows, ForwardPass, Layer, Query
from backlight.classical.layers.neighbors import NearestRows
from backlight.classical.layers.pullback import Pullback

__all__ = ["AngleVariance"]


class AngleVariance(Layer):
    """Minus the variance of the weighted angles between a row and pairs of its k nearest rows.

    Parameters
    ----------
    nearest : NearestRows
    k : int
    pullback : Pullback
    """

    rules = {"euler": "euler"}  # noqa: RUF012 - as in the class above
    anchors: Tensor

    def __init__(self, nearest: NearestRows, k: int, pullback: Pullback) -> None:
        super().__init__()
        self.nearest, self.k, self.pullback = nearest, k, pullback
        self.register_buffer("anchors", nearest.rows)

    def _score(self, delta: Tensor) -> Tensor:
        """Differences (n, k, K) to scores (n,); a pair with a row that is the row itself has no angle."""
        a, b = torch.triu_indices(self.k, self.k, 1, device=delta.device)
        size = delta.square().sum(2)
        there = (size > 0)[:, a] & (size > 0)[:, b]
        safe = torch.where(size > 0, size, 1.0)
        w = (delta @ delta.transpose(1, 2))[:, a, b] / (safe[:, a] * safe[:, b])
        n = there.sum(1, keepdim=True)
        w = torch.where(there, w, 0.0)
        mean = w.sum(1, keepdim=True) / n
        return -(torch.where(there, w - mean, 0.0).square().sum(1, keepdim=True) / n)[:, 0]

    def _delta(self, z: Tensor) -> Tensor:
        return self.anchors[self.nearest.find(z, self.k, None)] - z[:, None, :]

    def _slopes(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Differences, and the score's slope along them, (n, k, K) each."""
        with torch.enable_grad():
            delta = self._delta(z).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self._score(delta).sum(), delta)
        return delta.detach(), gradient

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, 1)."""
        return self._score(self._delta(x.z))[:, None]

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        delta, gradient = self._slopes(x.z)
        output = self._score(delta)[:, None]

        def back(c: Tensor) -> Tensor:
            return self.pullback.sum_of_pairs(delta, gradient, (-0.25 * c).expand(-1, self.k))

        return ForwardPass(output, output, back, output, {"angles": output})

    @property
    def made_of(self) -> Mapping[str, int]:
        """The nearest rows, nearest first."""
        return {"neighbours": self.k}

    def inside(self, name: str, x: EncodedRows, ask: Query) -> Callable[[Tensor], Tensor]:
        """See `Layer.inside`."""
        delta, gradient = self._slopes(x.z)
        parts = -0.25 * (delta * gradient).sum(2)
        return lambda c: c * parts
